"""Workers behind one socket: started, replaced, watched, ended."""

import errno
from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss import workers
from logiss.facts import Clients, Facts
from logiss.history import Sample
from logiss.intercom import DIALECT, written
from logiss.metrics import Metrics
from logiss.takeover import VERSION
from logiss.workers import (
    ACCEPT_SECONDS,
    FALLS_MAX,
    GRACE_SECONDS,
    LEAVING,
    PREPARE_SECONDS,
    PROVEN_SECONDS,
    SERVING,
    SILENT_SECONDS,
    SILENT_SECONDS_AT_START,
    START_SECONDS,
    STARTING,
    STOPPING,
    NotRenewed,
    Plan,
    Worker,
    Workers,
    pause_seconds,
)
from tests.fakes import Lines, outcome

PLAN = Plan(2, 7, {"A": "1"}, drain_seconds=6.0, leave_seconds=330.0)
FACTS = Facts(
    at=0.0,
    started_at=0.0,
    instance="test",
    version="1",
    delivery_level="sent",
    delivery_timeout_seconds=5.0,
    is_draining=False,
    are_credentials_loaded=True,
    refresh_overdue_seconds=0.0,
    posts_inside=0,
    clients=Clients(),
    queue_payloads=0,
    queue_bytes=0,
    replay_bytes=0,
    inflight_bytes=0,
    inflight_limit_bytes=0,
    waiting_for_room=0,
    budget_refusals=0,
    links=(),
    credentials=(),
    refusals=(),
    unknown_last_refused_at=None,
    users_more=0,
    metrics=Metrics(),
)


class FakeIntercom:
    """Keeps what the parent says."""

    unread = b""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def say(self, *message: Any) -> None:
        self.said.append(message)


class FakeProcess:
    """
    A process that does what the test says.

    @ivar is_killed: whether it was, and @ivar survives: whether that does nothing.
    """

    descriptor = 9

    def __init__(self, pid: int, start: "Started") -> None:
        self.pid = pid
        self.start = start
        self.intercom: Any = FakeIntercom()
        self.code: int | None = None
        self.is_killed = self.survives = self.is_let_go = False

    @property
    def said(self) -> list[str]:
        return [words[0] for words in self.intercom.said]

    def exit_code(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.is_killed = True
        if not self.survives and self.code is None:
            self.end(-9)

    def let_go(self) -> None:
        assert not self.is_let_go, "let go twice"
        self.is_let_go = True

    def end(self, code: int = 0) -> None:
        self.code = code
        self.start.on_end()

    def say(self, *message: Any) -> None:
        self.start.on_message(message)

    def prepare(self, is_prepared: bool = True) -> None:
        self.say("understands", VERSION)
        self.say("prepared", is_prepared)

    def has(self, connection: bool, credentials: bool) -> None:
        self.say("understands", VERSION)
        self.say("has", connection, credentials)
        self.say("prepared", connection and credentials)

    def tell(self, posts: int, dialect: str = DIALECT) -> None:
        facts = evolve(FACTS, metrics=Metrics(posts_succeeded=posts))
        more = written((facts, Sample(0.0, posts_delivered=posts)))
        self.say("told", dialect, 1, posts, more)


class Started:
    """What a process was started with."""

    def __init__(
        self,
        number: int,
        listener: int,
        shares: int,
        environ: Mapping[str, str],
        on_message: Callable[[tuple[Any, ...]], None],
        on_end: Callable[[], None],
    ) -> None:
        self.number = number
        self.listener = listener
        self.shares = shares
        self.environ = environ
        self.on_message = on_message
        self.on_end = on_end


class FakeProcesses:
    """
    @ivar all: the processes that were started, in that order.
    @ivar error: raised instead of starting one.
    @ivar on_start: told of each.
    """

    def __init__(self) -> None:
        self.all: list[FakeProcess] = []
        self.error: OSError | None = None
        self.on_start: Callable[[FakeProcess], None] = lambda process: None

    def start(self, *given: Any) -> FakeProcess:
        if self.error is not None:
            raise self.error
        process = FakeProcess(100 + len(self.all), Started(*given))
        self.all.append(process)
        self.on_start(process)
        return process


class WorkersCase(SynchronousTestCase):
    """A parent of two workers, whose processes are the test."""

    plan = PLAN

    def setUp(self) -> None:
        self.clock = Clock()
        self.lines = Lines()
        self.processes = FakeProcesses()
        self.given_up: list[None] = []
        self.workers = self.make(self.plan)

    def make(self, plan: Plan) -> Workers:
        return Workers(
            self.clock,
            self.processes,
            self.lines.events(),
            plan,
            lambda: self.given_up.append(None),
        )

    @property
    def all(self) -> list[FakeProcess]:
        return self.processes.all

    def states(self) -> list[tuple[int, str]]:
        return [(w.number, w.state) for w in self.workers.workers]

    def later(self, seconds: float, step: float = 0.05) -> None:
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def beat(self, count: int = 1) -> None:
        """So many seconds pass in which all that live say something."""
        for _ in range(count):
            for process in self.all:
                if process.code is None:
                    process.say("alive")
            self.later(1.0)

    def serve(self) -> None:
        """The first two serve, and have proven themselves."""
        self.workers.start()
        for process in self.all:
            process.prepare()
            process.say("accepts")
        self.beat(round(PROVEN_SECONDS) + 1)

    def take_over(self, processes: list[FakeProcess]) -> None:
        """They could deliver, and take posts when they are told to."""
        for process in processes:
            process.prepare()
        self.later(0.1)
        for process in processes:
            process.say("accepts")
        self.later(0.1)

    def count(self, name: str) -> int:
        return len(self.lines.having(f"count#log-iss.workers.{name}"))


class StartTests(WorkersCase):
    """`Workers.start` starts as many as there are to be."""

    def test_serving(self) -> None:
        """Whoever wants to know hears when the first of them takes posts, once."""
        calls: list[None] = []
        self.workers.on_serving = lambda: calls.append(None)
        self.workers.start()
        self.all[0].prepare()
        self.assertEqual(calls, [])
        for process in self.all:
            process.say("accepts")
        self.assertEqual(calls, [None])

    def test_start(self) -> None:
        """Each is started with the plan, is told to accept, and serves when it does."""
        self.workers.start()
        started = [process.start for process in self.all]
        self.assertEqual([s.number for s in started], [1, 2])
        self.assertEqual([s.listener for s in started], [7, 7])
        self.assertEqual([s.environ for s in started], [{"A": "1"}] * 2)
        self.assertEqual([p.said for p in self.all], [["accept"]] * 2)
        self.assertEqual(self.states(), [(1, STARTING), (2, STARTING)])
        self.all[1].say("accepts")
        self.assertEqual(self.states(), [(1, STARTING), (2, SERVING)])
        self.assertEqual(
            [
                (line["number"], line["pid"])
                for line in self.lines.having("at", "start")
            ],
            [("1", "100"), ("2", "101")],
        )

    def test_no_room(self) -> None:
        """One that cannot be started is a fall, and is tried again."""
        self.processes.error = OSError(errno.EAGAIN, "no room")
        self.workers.start()
        self.assertEqual(self.count("start.error"), 2)
        self.assertEqual(self.workers.falls, {1: 1, 2: 1})
        self.processes.error = None
        self.later(1.0)
        self.assertEqual(self.states(), [(1, STARTING), (2, STARTING)])

    def test_never_room(self) -> None:
        """When none can be started ever, it is given up, once."""
        self.processes.error = OSError(errno.EAGAIN, "no room")
        self.workers.start()
        self.later(60, 0.5)
        self.assertEqual(len(self.given_up), 1)
        self.assertEqual(self.count("start.error"), 2 * FALLS_MAX)


class FallTests(WorkersCase):
    """Whoever ends without having been told to is replaced."""

    def test_replaced(self) -> None:
        """Another of the same number takes its place, after a pause; others stay."""
        self.serve()
        self.all[0].end(-9)
        self.later(0.1)
        (line,) = self.lines.having("at", "exit")
        self.assertEqual(
            (line["number"], line["pid"], line["code"]), ("1", "100", "-9")
        )
        self.assertEqual(self.states(), [(2, SERVING)])
        self.assertTrue(self.all[0].is_let_go)
        self.assertEqual(self.workers.falls, {1: 1})
        self.later(0.3)
        self.assertEqual(len(self.all), 2)
        self.later(0.2)
        self.assertEqual(self.states(), [(2, SERVING), (1, STARTING)])
        self.all[2].prepare()
        self.assertEqual(self.all[2].said, ["accept"])

    def test_not_prepared(self) -> None:
        """While another can deliver, the new one takes no posts until it can, too."""
        self.serve()
        self.all[0].end(-9)
        self.later(0.6)
        self.all[2].prepare(False)
        self.beat(3)
        self.assertEqual(self.all[2].said, [])
        self.assertIsNotNone(self.workers.facts(FACTS).worker_counts[0].missing_since)
        self.all[2].say("prepared", True)
        self.assertEqual(self.all[2].said, ["accept"])
        self.all[2].say("prepared", True)
        self.assertEqual(self.all[2].said, ["accept"])

    def test_nobody_prepared(self) -> None:
        """It takes them as well as the others when these cannot deliver any more."""
        self.serve()
        self.all[0].end(-9)
        self.later(0.6)
        self.all[2].prepare(False)
        self.all[1].say("prepared", False)
        self.assertEqual(self.all[2].said, ["accept"])

    def test_others_gone(self) -> None:
        """It takes them when there is no other any more."""
        self.serve()
        self.all[0].end(-9)
        self.later(0.6)
        self.all[1].end(-9)
        self.later(0.1)
        self.assertEqual(self.all[2].said, ["accept"])

    def test_held_falls(self) -> None:
        """One that ends before it was let in has fallen, and is replaced."""
        self.serve()
        self.all[0].end(-9)
        self.later(0.6)
        self.all[2].end(1)
        self.later(1.1)
        self.assertEqual(self.workers.falls, {1: 2})
        self.assertEqual([p.start.number for p in self.all], [1, 2, 1, 1])

    def test_end_in_order(self) -> None:
        """So is one that somebody else has told to stop, and has ended well."""
        self.serve()
        self.all[0].end(0)
        self.later(1.0)
        self.assertEqual(len(self.all), 3)

    def test_pauses(self) -> None:
        """The pause doubles while one does not last, up to a bound."""
        self.assertEqual(
            [pause_seconds(n) for n in (1, 2, 3, 6, 7, 8, 1000)],
            [0.5, 1.0, 2.0, 16.0, 30.0, 30.0, 30.0],
        )
        self.serve()
        self.processes.on_start = lambda p: p.end(1) if p.start.number == 1 else None
        self.all[0].end(1)
        for _ in range(200):
            self.beat()
        pauses = [
            float(line["measure#log-iss.workers.pause.duration"].rstrip("s"))
            for line in self.lines.having("count#log-iss.workers.fallen")
        ]
        # The one that fell first had lasted.
        self.assertEqual(pauses[:8], [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0])
        self.assertEqual(self.given_up, [], "the other one serves")

    def test_lasting(self) -> None:
        """Who has lasted for a while begins with the shortest pause again."""
        self.serve()
        for i in (0, 2, 3):
            self.all[i].end(1)
            self.later(0.6)
            self.all[-1].say("accepts")
            self.beat(round(PROVEN_SECONDS) + 1)
        self.assertEqual(self.workers.falls, {1: 3})
        pauses = self.lines.having(
            "measure#log-iss.workers.pause.duration", "0.500000s"
        )
        self.assertEqual(len(pauses), 3)

    def test_given_up(self) -> None:
        """When each falls again and again, and none lasts, that is the end."""
        self.processes.on_start = lambda process: process.end(1)
        self.workers.start()
        self.later(60, 0.25)
        self.assertEqual(len(self.given_up), 1)
        self.assertEqual(len(self.all), 2 * FALLS_MAX)
        self.assertEqual(self.count("given-up"), 1)

    def test_never_served(self) -> None:
        """However long they took for it: when none takes posts, that is the end."""
        self.workers.start()
        for _ in range(3 * FALLS_MAX):
            self.beat(round(PROVEN_SECONDS) + 1)
            for process in self.all:
                if process.code is None:
                    process.end(1)
            self.later(0.1)
            for _ in range(16):
                self.beat(0 if self.workers.workers else 1)
        self.assertEqual((len(self.given_up), len(self.all)), (1, 2 * FALLS_MAX))

    def test_not_given_up_at_once(self) -> None:
        """Many that fall once are not yet the end."""
        self.workers = self.make(evolve_plan(count=3 * FALLS_MAX))
        self.processes.on_start = lambda process: process.end(1)
        self.workers.start()
        self.later(0.2)
        self.processes.on_start = lambda process: None
        self.later(1.0)
        self.assertEqual(self.given_up, [])
        self.assertEqual(len(self.states()), 3 * FALLS_MAX)

    def test_one_that_never_lasts(self) -> None:
        """One that falls for ever beside one that lasts is not added up to the end."""
        self.serve()
        self.processes.on_start = lambda p: p.end(1) if p.start.number == 1 else None
        self.all[0].end(1)
        for _ in range(300):
            self.beat()
        self.assertGreater(self.workers.falls[1], FALLS_MAX * 2)
        self.all[1].end(-9)
        self.later(5.0)
        self.assertEqual(self.given_up, [])

    def test_last_words(self) -> None:
        """What it says last counts, though its end is seen before it is heard."""
        self.serve()
        self.all[0].tell(5)
        self.all[0].code = 0
        self.later(1.0)
        self.assertFalse(self.lines.having("at", "exit"))
        self.all[0].tell(7)
        self.all[0].start.on_end()
        self.later(0.1)
        self.assertEqual(self.workers.gone.metrics.posts_succeeded, 7)

    def test_end_unheard(self) -> None:
        """Its end is seen even when somebody else keeps its intercom open."""
        self.serve()
        self.all[0].code = -11
        self.later(2.1)
        (line,) = self.lines.having("at", "exit")
        self.assertEqual(line["code"], "-11")
        self.all[0].start.on_end()
        self.later(0.1)
        self.assertEqual(len(self.lines.having("at", "exit")), 1)

    def test_end_takes_time(self) -> None:
        """Between the end of its intercom and its own it is waited for."""
        self.serve()
        self.all[0].start.on_end()
        self.later(0.5)
        self.assertFalse(self.lines.having("at", "exit"))
        self.all[0].code = 0
        self.later(0.1)
        self.assertEqual(len(self.lines.having("at", "exit")), 1)


class SilenceTests(WorkersCase):
    """Who says nothing any more is ended."""

    def test_silent(self) -> None:
        """It is killed after a while, with a line, and replaced."""
        self.serve()
        for _ in range(SILENT_SECONDS - 2):
            self.all[1].say("alive")
            self.later(1.0)
        self.assertFalse(self.all[0].is_killed)
        for _ in range(4):
            self.all[1].say("alive")
            self.later(1.0)
        self.assertTrue(self.all[0].is_killed)
        self.assertFalse(self.all[1].is_killed)
        (line,) = self.lines.having("count#log-iss.workers.silent")
        self.assertEqual((line["number"], line["pid"]), ("1", "100"))
        self.assertEqual(len(self.all), 3)

    def test_slow_start(self) -> None:
        """One that has said nothing yet, for it starts, has longer; then as others."""
        self.workers.start()
        for _ in range(SILENT_SECONDS_AT_START - 10):
            self.later(1.0)
        self.all[0].say("understands", VERSION)
        for _ in range(SILENT_SECONDS - 1):
            self.later(1.0)
        self.assertEqual([p.is_killed for p in self.all[:2]], [False, True])
        self.later(2.0)
        self.assertTrue(self.all[0].is_killed)

    def test_another_version(self) -> None:
        """Who is not understood is not silent, and its counts are told still."""
        self.serve()
        for i in range(2 * SILENT_SECONDS):
            self.all[0].say("mumbled")
            self.all[1].tell(i, "another dialect")
            self.later(1.0)
        self.assertFalse(any(p.is_killed for p in self.all))
        self.assertEqual(self.workers.facts(FACTS).metrics.posts_succeeded, 0)
        self.assertEqual([row.posts for row in self.workers.rows()], [0, i])


class RenewTests(WorkersCase):
    """`Workers.renew` replaces all by new ones, or changes nothing."""

    new = Plan(3, 8, {"A": "2"}, drain_seconds=6.0, leave_seconds=5.0)

    def renew(self) -> Callable[[], list[Any]]:
        return outcome(Deferred.fromCoroutine(self.workers.renew(self.new)))

    def assert_not_renewed(self, results: list[Any], why: str) -> None:
        (failure,) = results
        failure.trap(NotRenewed)
        self.assertIn(why, str(failure.value))
        self.assertEqual(self.workers.generation, 0)
        self.assertIs(self.workers.plan, PLAN)
        self.assertEqual(self.given_up, [])
        self.assertEqual([p.said for p in self.all[:2]], [["accept"]] * 2)
        self.assertEqual(self.states(), [(1, SERVING), (2, SERVING)])
        for process in self.all[2:]:
            self.assertIsNotNone(process.code)

    def test_renewed(self) -> None:
        """When all could deliver they take posts, and only then the old ones leave."""
        self.serve()
        renewed = self.renew()
        self.assertEqual([p.start.environ for p in self.all[2:]], [{"A": "2"}] * 3)
        for process in self.all[2:4]:
            process.prepare()
        self.later(5.0)
        self.assertEqual([p.said for p in self.all[2:]], [[]] * 3)
        self.assertEqual(renewed(), [])
        self.all[4].prepare()
        self.later(0.1)
        self.assertEqual([p.said for p in self.all[2:]], [["accept"]] * 3)
        for process in self.all[2:4]:
            process.say("accepts")
        self.later(1.0)
        self.assertEqual([p.said for p in self.all[:2]], [["accept"]] * 2)
        self.assertEqual(renewed(), [])
        self.all[4].say("accepts")
        self.later(0.1)
        self.assertEqual(renewed(), [None])
        # The old ones are left as long as their own configuration says.
        self.assertEqual(self.all[0].intercom.said[-1], ("leave", 330.0))
        self.assertEqual(self.workers.generation, 1)
        self.assertEqual(self.workers.living(LEAVING), self.workers.workers[:2])
        for process in self.all[:2]:
            process.end(0)
        self.beat(3)
        self.assertEqual(len(self.all), 5, "who has left is not replaced")
        self.assertEqual(self.workers.falls, {})

    def test_crash_while_leaving(self) -> None:
        """One that leaves and does not end well is counted, but not replaced."""
        self.serve()
        self.renew()
        self.take_over(self.all[2:])
        self.all[0].end(-11)
        self.all[1].end(0)
        self.beat(3)
        self.assertEqual((self.workers.falls, len(self.all)), ({1: 1}, 5))
        (line,) = self.lines.having("count#log-iss.workers.fallen")
        self.assertEqual(line["number"], "1")
        self.assertNotIn("measure#log-iss.workers.pause.duration", line)
        first, *_ = self.workers.facts(FACTS).worker_counts
        self.assertIsNone(first.missing_since)

    def test_one_ends(self) -> None:
        """When a new one ends before it could, the old ones stay."""
        self.serve()
        renewed = self.renew()
        self.all[2].prepare()
        self.all[3].end(1)
        self.later(1.0)
        self.assert_not_renewed(renewed(), "has ended before it could deliver")

    def test_all_end(self) -> None:
        """So it is with many that end: they are no falls of those that serve."""
        self.workers = self.make(PLAN)
        self.serve()
        self.new = evolve_plan(count=4 * FALLS_MAX)
        renewed = self.renew()
        for process in self.all[2:]:
            process.end(1)
        self.later(1.0)
        self.assert_not_renewed(renewed(), "has ended before it could deliver")
        self.assertEqual(self.workers.falls, {})
        self.beat(40)
        self.assertEqual(len(self.all), 2 + 4 * FALLS_MAX)

    def test_first_of_all(self) -> None:
        """So it is where the parent still serves by itself, and has none."""
        self.new = evolve_plan(count=4 * FALLS_MAX)
        self.workers = self.make(evolve_plan(count=0))
        self.workers.own_has = (True, True)
        renewed = self.renew()
        for process in self.all:
            process.end(1)
        self.later(1.0)
        (failure,) = renewed()
        failure.trap(NotRenewed)
        self.later(40, 0.5)
        self.assertEqual((self.given_up, self.workers.workers), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_room(self) -> None:
        """When there is no room for new ones, those that were started go again."""
        self.serve()
        seen: list[FakeProcess] = []

        def full(process: FakeProcess) -> None:
            seen.append(process)
            self.processes.error = OSError(errno.EAGAIN, "no room")

        self.processes.on_start = full
        renewed = self.renew()
        self.later(1.0)
        self.assertEqual(len(seen), 1)
        self.assert_not_renewed(renewed(), "no room")

    def test_never_prepared(self) -> None:
        """When they could not deliver in time, though the old ones can, these stay."""
        self.serve()
        renewed = self.renew()
        for process in self.all[2:]:
            process.prepare(False)
        for _ in range(round(PREPARE_SECONDS) - 1):
            self.beat()
        self.assertEqual(renewed(), [])
        self.beat(2)
        self.assert_not_renewed(renewed(), "could not deliver within 20 s")

    def test_slow_start(self) -> None:
        """From the start of the last one they have time to become able to deliver."""
        self.serve()
        renewed = self.renew()
        for process in self.all[2:4]:
            process.prepare()
        for _ in range(round(START_SECONDS) - 2):
            for process in self.all[:4]:
                process.say("alive")
            self.later(1.0)
        self.assertEqual(renewed(), [])
        self.beat(round(PREPARE_SECONDS) - 1)
        self.assertEqual(renewed(), [])
        self.all[4].prepare()
        self.take_over(self.all[2:])
        self.assertEqual(renewed(), [None])

    def test_never_started(self) -> None:
        """When one of them has not even started for long, the old ones stay."""
        self.serve()
        renewed = self.renew()
        for _ in range(round(START_SECONDS) + 1):
            for process in self.all[:4]:
                process.say("alive")
            self.later(1.0)
        self.assert_not_renewed(renewed(), "have not started within 60 s")

    def test_no_worse(self) -> None:
        """When the old ones cannot deliver either, the new ones need not."""
        self.serve()
        for process in self.all:
            process.prepare(False)
        renewed = self.renew()
        for process in self.all[2:]:
            process.prepare(False)
        self.later(0.1)
        for process in self.all[2:]:
            process.say("accepts")
        self.later(0.1)
        self.assertEqual(renewed(), [None])

    def test_no_worse_in_anything(self) -> None:
        """What one of the old ones has each new one is to have, and no more."""
        for connection, credentials in ((False, True), (True, False)):
            self.workers, self.processes.all = self.make(PLAN), []
            self.serve()
            self.all[0].has(connection, credentials)
            self.all[1].has(False, False)
            renewed = self.renew()
            for process in self.all[2:4]:
                process.has(connection, credentials)
            self.all[4].has(not connection, not credentials)
            self.beat(2)
            self.assertEqual([p.said for p in self.all[2:]], [[]] * 3)
            self.all[4].has(connection, credentials)
            self.later(0.1)
            self.assertEqual([p.said for p in self.all[2:]], [["accept"]] * 3)
            self.assertEqual(renewed(), [])

    def test_no_worse_than_the_parent(self) -> None:
        """So it is where the parent still serves by itself."""
        self.workers = self.make(evolve_plan(count=0))
        self.workers.own_has = (False, True)
        self.renew()
        for process in self.all:
            process.has(True, False)
        self.beat(2)
        self.assertEqual([p.said for p in self.all], [[]] * 3)
        for process in self.all:
            process.has(False, True)
        self.later(0.1)
        self.assertEqual([p.said for p in self.all], [["accept"]] * 3)

    def prepare_new(self) -> Callable[[], list[Any]]:
        """All of the new ones are prepared, and told to take posts."""
        self.serve()
        renewed = self.renew()
        for process in self.all[2:]:
            process.prepare()
        self.later(0.1)
        return renewed

    def test_one_accepts(self) -> None:
        """When one of them takes posts, the others are not waited for for long."""
        renewed = self.prepare_new()
        self.all[3].say("accepts")
        self.beat(round(ACCEPT_SECONDS) - 1)
        self.assertEqual(renewed(), [])
        self.beat(2)
        self.assertEqual(renewed(), [None])
        self.assertEqual([p.said[-1] for p in self.all[:2]], ["leave"] * 2)
        since = [c.missing_since for c in self.workers.facts(FACTS).worker_counts]
        self.assertEqual([at is None for at in since], [False, True, False])

    def test_none_accepts(self) -> None:
        """When none of them does, the old ones stay."""
        renewed = self.prepare_new()
        self.beat(round(ACCEPT_SECONDS) + 1)
        self.assert_not_renewed(renewed(), "no new worker has begun to take posts")
        since = [c.missing_since for c in self.workers.facts(FACTS).worker_counts]
        self.assertEqual(since, [None, None])

    def test_none_survives(self) -> None:
        """So they do when all end meanwhile: they are no falls of those that serve."""
        renewed = self.prepare_new()
        for process in self.all[2:]:
            process.end(1)
        self.later(0.2)
        self.assert_not_renewed(renewed(), "no new worker has begun to take posts")
        self.beat(3)
        self.assertEqual((self.workers.falls, len(self.all)), ({}, 5))

    def test_one_falls_at_once(self) -> None:
        """One that ends when it is told to take posts is started again, and counted."""
        renewed = self.prepare_new()
        self.all[2].end(1)
        self.later(0.7)
        self.assertEqual(len(self.all), 5, "nothing is renewed yet")
        self.all[3].say("accepts")
        self.all[4].say("accepts")
        self.later(0.1)
        self.assertEqual(renewed(), [None])
        self.assertEqual([p.said[-1] for p in self.all[:2]], ["leave"] * 2)
        self.later(0.7)
        self.assertEqual(self.workers.falls, {1: 1})
        self.assertEqual(self.all[-1].start.environ, {"A": "2"})
        self.assertEqual((len(self.all), self.all[-1].start.number), (6, 1))

    def test_stopped_while_they_begin(self) -> None:
        """Told to stop, new ones that may have taken posts drain like the others."""
        renewed = self.prepare_new()
        self.all[2].say("accepts")
        outcome(Deferred.fromCoroutine(self.workers.stop()))
        self.later(0.2)
        self.assertFalse(any(p.is_killed for p in self.all))
        self.assertEqual([p.said[-1] for p in self.all], ["stop"] * 5)
        (failure,) = renewed()
        self.assertEqual(str(failure.value), "the process is told to stop")

    def test_cannot_take_over(self) -> None:
        """A version that could not be the parent of those that run is refused."""
        self.serve()
        renewed = self.renew()
        for process in self.all[2:]:
            process.say("understands", VERSION + 1)
            process.say("prepared", True)
        self.later(1.0)
        self.assert_not_renewed(renewed(), "cannot take over")

    def test_old_falls_meanwhile(self) -> None:
        """An old one that falls meanwhile is replaced, and leaves like the others."""
        self.serve()
        renewed = self.renew()
        self.all[0].end(-9)
        self.later(0.7)
        replacement = self.all[-1]
        self.assertEqual(replacement.start.environ, {"A": "1"})
        replacement.prepare()
        self.assertEqual(replacement.said, ["accept"])
        self.take_over(self.all[2:5])
        self.assertEqual(renewed(), [None])
        self.assertEqual(replacement.said, ["accept", "leave"])

    def test_remedy(self) -> None:
        """While new ones are on trial it is not given up, nor at once behind it."""
        self.processes.on_start = lambda p: (
            p.end(1) if p.start.environ == {"A": "1"} else None
        )
        self.workers.start()
        self.later(3.0)
        renewed = self.renew()
        new = [p for p in self.all if p.code is None]
        for _ in range(18):
            for process in new:
                process.say("alive")
            self.later(1.0)
        self.assertGreater(sum(self.workers.falls.values()), 2 * FALLS_MAX - 1)
        self.assertEqual(self.given_up, [])
        self.take_over(new)
        self.assertEqual(renewed(), [None])
        new[0].end(1)
        self.later(0.6)
        self.assertEqual(self.given_up, [])
        self.assertEqual(self.all[-1].start.environ, {"A": "2"})

    def test_no_remedy(self) -> None:
        """When the new ones were none, it is given up at the next false start."""
        self.processes.on_start = lambda p: (
            p.end(1) if p.start.environ == {"A": "1"} else None
        )
        self.workers.start()
        self.later(3.0)
        renewed = self.renew()
        self.later(18.0)
        self.assertEqual(self.given_up, [])
        for process in self.all:
            if process.code is None:
                process.end(1)
        self.later(0.2)
        (failure,) = renewed()
        failure.trap(NotRenewed)
        self.later(20.0)
        self.assertEqual(len(self.given_up), 1)

    def test_fallen_before(self) -> None:
        """One that waits to be started again is not, when new ones are there."""
        self.serve()
        self.all[0].end(-9)
        self.later(0.1)
        renewed = self.renew()
        self.take_over(self.all[2:])
        self.assertEqual(renewed(), [None])
        self.beat(3)
        self.assertEqual(len(self.all), 5)

    def test_new_falls_later(self) -> None:
        """A new one that falls once it was let in is replaced by another new one."""
        self.serve()
        self.renew()
        self.take_over(self.all[2:])
        self.all[3].end(1)
        self.later(0.7)
        self.assertEqual(self.all[-1].start.environ, {"A": "2"})
        self.assertEqual(self.all[-1].start.number, 2)

    def test_stopped_meanwhile(self) -> None:
        """Told to stop, nothing is renewed; it ends well: the new ones had nothing."""
        self.serve()
        renewed = self.renew()
        self.all[2].prepare()
        stopped = outcome(Deferred.fromCoroutine(self.workers.stop()))
        self.later(0.2)
        self.assertTrue(all(p.is_killed for p in self.all[2:]))
        for process in self.all[:2]:
            process.end(0)
        self.later(0.2)
        self.assertEqual(stopped(), [True])
        (failure,) = renewed()
        self.assertEqual(str(failure.value), "the process is told to stop")


class StopTests(WorkersCase):
    """`Workers.stop` has all drain."""

    def stop(self) -> Callable[[], list[Any]]:
        return outcome(Deferred.fromCoroutine(self.workers.stop()))

    def test_stop(self) -> None:
        """Each is told, all are waited for, none is replaced; nothing is left to do."""
        self.serve()
        stopped = self.stop()
        self.assertEqual([p.said[-1] for p in self.all], ["stop"] * 2)
        self.assertEqual(self.states(), [(1, STOPPING), (2, STOPPING)])
        self.all[0].end(0)
        self.later(1.0)
        self.assertEqual(stopped(), [])
        self.all[1].end(0)
        self.later(0.2)
        self.assertEqual(stopped(), [True])
        self.assertEqual(len(self.all), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_crash(self) -> None:
        """One that does not end well makes the end no good one."""
        self.serve()
        stopped = self.stop()
        self.all[0].end(0)
        self.all[1].end(-11)
        self.later(0.2)
        self.assertEqual(stopped(), [False])

    def test_never_served(self) -> None:
        """One that was still starting had nothing to lose, however it ends."""
        self.serve()
        self.all[0].end(-9)
        self.later(0.6)
        stopped = self.stop()
        # The signal was for the whole group, and reached it before it could catch it.
        self.all[2].end(-15)
        self.all[1].end(0)
        self.later(0.2)
        self.assertEqual(stopped(), [True])

    def test_does_not_end(self) -> None:
        """One that takes longer than a drain may is killed, with a line."""
        self.serve()
        stopped = self.stop()
        self.all[0].end(0)
        for _ in range(round(PLAN.drain_seconds + GRACE_SECONDS) - 1):
            self.beat()
        self.assertFalse(self.all[1].is_killed)
        self.beat(2)
        self.assertTrue(self.all[1].is_killed)
        (line,) = self.lines.having("count#log-iss.workers.silent")
        self.assertEqual(line["message"], "it has not ended in time and is killed")
        self.assertEqual(stopped(), [False])

    def test_cannot_be_killed(self) -> None:
        """One that even survives that, as the kernel may want, is not waited for."""
        self.serve()
        self.all[1].survives = True
        stopped = self.stop()
        self.all[0].end(0)
        self.beat(round(PLAN.drain_seconds + 2 * GRACE_SECONDS) + 2)
        self.assertEqual(stopped(), [False])

    def test_no_restart(self) -> None:
        """One that waits to be started again is not any more."""
        self.serve()
        self.all[0].end(-9)
        self.later(0.1)
        stopped = self.stop()
        self.all[1].end(0)
        self.later(2.0)
        self.assertEqual((len(self.all), stopped()), (2, [True]))

    def test_fallen_first(self) -> None:
        """One that fell before is no reason for a bad end."""
        self.serve()
        self.all[0].end(-9)
        self.later(0.6)
        self.all[2].say("accepts")
        stopped = self.stop()
        for process in self.all[1:]:
            process.end(0)
        self.later(0.2)
        self.assertEqual(stopped(), [True])

    def test_leaving(self) -> None:
        """Those that leave stop too."""
        self.serve()
        outcome(Deferred.fromCoroutine(self.workers.renew(PLAN)))
        self.take_over(self.all[2:])
        self.stop()
        self.assertEqual([p.said[-1] for p in self.all], ["stop"] * 4)

    def test_longer_drain(self) -> None:
        """One that leaves has the time that it was started with, not the new one's."""
        self.serve()
        brief = evolve(PLAN, drain_seconds=1.0)
        outcome(Deferred.fromCoroutine(self.workers.renew(brief)))
        self.take_over(self.all[2:])
        self.stop()
        for process in self.all[1:]:
            process.end(0)
        self.beat(round(PLAN.drain_seconds + GRACE_SECONDS) - 1)
        self.assertFalse(self.all[0].is_killed)
        self.beat(2)
        self.assertTrue(self.all[0].is_killed)

    def test_kill(self) -> None:
        """All can be ended at once."""
        self.serve()
        self.workers.kill()
        self.assertTrue(all(p.is_killed for p in self.all))


class AdoptTests(WorkersCase):
    """A parent that has executed itself anew keeps its workers."""

    def adopt(
        self, number: int, state: str, drain_seconds: float | None = None
    ) -> FakeProcess:
        worker = Worker(number, 0, 0.0, 0.0, state, is_on_trial=False)
        worker.drain_seconds = drain_seconds
        started: list[FakeProcess] = []

        def take_over(*told: Any) -> FakeProcess:
            started.append(FakeProcess(50 + number, Started(number, 7, 8, {}, *told)))
            return started[-1]

        self.workers.adopt(worker, take_over)
        return started[0]

    def test_adopted(self) -> None:
        """They are told again what they are there for."""
        self.assertEqual(self.adopt(1, SERVING).said, ["accept"])
        self.assertEqual(self.adopt(2, STARTING).said, ["accept"])
        leaving = self.adopt(1, LEAVING)
        self.assertEqual(leaving.intercom.said, [("leave", 330.0)])
        self.assertEqual(self.states(), [(1, SERVING), (2, STARTING), (1, LEAVING)])

    def test_drain(self) -> None:
        """They have the time to drain that they were started with."""
        process = self.adopt(1, LEAVING, drain_seconds=20.0)
        self.adopt(2, SERVING).end(0)
        outcome(Deferred.fromCoroutine(self.workers.stop()))
        self.later(20 + GRACE_SECONDS - 1)
        self.assertFalse(process.is_killed)
        self.later(2)
        self.assertTrue(process.is_killed)

    def test_filled_up(self) -> None:
        """Those that had fallen before are started; those that leave do not count."""
        self.adopt(2, SERVING)
        self.adopt(1, LEAVING)
        self.workers.fill_up()
        self.assertEqual([p.start.number for p in self.all], [1])
        self.workers.fill_up()
        self.assertEqual(len(self.all), 1)

    def test_falls(self) -> None:
        """They are replaced like others, and their end counts at the stop."""
        self.workers.watch()
        process = self.adopt(1, SERVING)
        process.end(-9)
        self.later(0.7)
        self.assertEqual(len(self.all), 1)


class SumTests(WorkersCase):
    """What the workers have counted is added up."""

    def posts(self) -> int:
        return self.workers.facts(FACTS).metrics.posts_succeeded

    def sampled(self) -> int:
        return self.workers.sample().posts_delivered

    def test_sums(self) -> None:
        """The sum never becomes smaller when one goes."""
        self.assertEqual((self.posts(), self.sampled()), (0, 0))
        self.serve()
        self.all[0].tell(5)
        self.all[1].tell(7)
        self.assertEqual((self.posts(), self.sampled()), (12, 12))
        self.all[0].end(-9)
        self.later(0.7)
        self.assertEqual((self.posts(), self.sampled()), (12, 12))
        self.all[2].tell(1)
        self.assertEqual(self.posts(), 13)

    def test_rows(self) -> None:
        """Each has a row, with its state and how often those of its number fell."""
        self.serve()
        self.all[0].end(-9)
        self.later(0.7)
        self.all[1].tell(7)
        rows = self.workers.rows()
        self.assertEqual(
            [(r.number, r.pid, r.state, r.falls, r.clients, r.posts) for r in rows],
            [(1, 102, STARTING, 1, 0, 0), (2, 101, SERVING, 0, 1, 7)],
        )

    def test_fallen(self) -> None:
        """Who has fallen has a row, and is missed until another takes posts."""
        self.serve()
        self.assertEqual(self.missing(), [None, None])
        self.later(3.0)
        fell_at = self.clock.seconds()
        self.all[0].end(-9)
        self.later(0.1)
        row, _ = self.workers.rows()
        self.assertEqual((row.number, row.pid, row.state), (1, 0, "fallen"))
        self.assertApproximates(row.since, fell_at, 0.1)
        self.later(0.7)
        since, none = self.missing()
        self.assertApproximates(since or 0.0, fell_at, 0.1)
        self.assertIsNone(none)
        self.all[2].say("accepts")
        self.assertEqual(self.missing(), [None, None])
        (fallen, _) = self.workers.facts(FACTS).worker_counts
        self.assertEqual(fallen.falls, 1)
        self.assertApproximates(fallen.last_fall_at or 0.0, fell_at, 0.1)
        self.assertEqual(self.workers.sample().worker_falls, 1)

    def missing(self) -> list[float | None]:
        counts = self.workers.facts(FACTS).worker_counts
        return [each.missing_since for each in counts]

    def test_missing_from_the_start(self) -> None:
        """Who has never come up is missed since the start."""
        self.later(1.0)
        self.workers.start()
        since = self.clock.seconds()
        self.later(2.0)
        self.assertEqual(self.missing(), [since, since])

    def test_by_number(self) -> None:
        """Posts go on with the number of a worker; what all want is said."""
        self.serve()
        self.all[0].tell(5)
        self.all[0].end(-9)
        self.later(0.7)
        self.all[2].tell(2)
        facts = self.workers.facts(FACTS)
        counts = [(each.number, each.posts) for each in facts.worker_counts]
        self.assertEqual(counts, [(1, 7), (2, 0)])
        self.assertEqual(facts.workers_wanted, 2)
        self.assertEqual(facts.started_at, self.workers.started_at)

    def test_lines_of_the_parent(self) -> None:
        """Lines that the parent itself could not write are among those dropped."""
        self.workers.lines_dropped(3)
        self.assertEqual(self.workers.facts(FACTS).metrics.log_lines_dropped, 3)


def evolve_plan(count: int) -> Plan:
    return evolve(PLAN, count=count)


class ConstantsTests(SynchronousTestCase):
    """The bounds make sense together."""

    def test_bounds(self) -> None:
        """A worker that starts slowly is neither silent nor proven by that."""
        self.assertLess(PREPARE_SECONDS, SILENT_SECONDS)
        self.assertLess(START_SECONDS, SILENT_SECONDS_AT_START)
        self.assertLess(workers.PAUSE_SECONDS, workers.PAUSE_SECONDS_MAX)
        self.assertLess(PROVEN_SECONDS, SILENT_SECONDS)
