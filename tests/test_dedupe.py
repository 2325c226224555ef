"""The table of retried posts that a fleet shares: what it says, and what it may not."""

import gzip
from functools import partial
from typing import Any

from hiredis import ReplyError
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.dedupe import (
    GRACE_SECONDS,
    PATIENCE,
    POLL_SECONDS,
    Claim,
    Commands,
)
from logiss.pipeline import LOST, SLOW
from logiss.pool import NotDelivered
from logiss.redis import NOT_REDIS
from tests.fakes import outcome
from tests.front import Connection, Front, request
from tests.http_rows import BODY, FORWARDED
from tests.tables import (
    DELIVERY_SECONDS,
    REMEMBERED_SECONDS,
    TIMEOUT_SECONDS,
    FakeRedis,
    Process,
)
from tests.test_redis import commands_in

KEY = b"user", b"d.1", b"%032x" % 1


def key(number: int) -> tuple[bytes, bytes | None, bytes]:
    return b"user", b"d.1", b"%032x" % number


class DedupeTestCase(SynchronousTestCase):
    """Two processes and their Redis."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.redis = FakeRedis(self.clock)
        self.a, self.b = (
            Process(self.clock, self.redis, owner) for owner in (b"a", b"b")
        )
        self.name = self.a.shared.commands.name(KEY)
        self.confirmed = self.a.shared.commands.confirmed(self.name)

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def begun_by(self, process: Process) -> bytes:
        return process.shared.commands.begun(self.name)

    def ask(self, process: Process) -> Deferred[Claim | None]:
        asked = process.shared.claim(KEY, self.clock.seconds())
        process.pipeline.turn()
        return asked

    def claim(self, process: Process) -> Claim:
        claim = self.successResultOf(self.ask(process))
        assert claim is not None
        return claim

    def wait(self, *processes: Process, seconds: float = POLL_SECONDS) -> None:
        self.clock.advance(seconds)
        for process in processes:
            process.pipeline.turn()

    def unasked(self, process: Process) -> dict[str, int]:
        return {str(k[0]): n for k, n in process.metrics.dedupe_unasked.items()}


class NameTests(SynchronousTestCase):
    """Keys are short, of one length, and say nothing of a client."""

    def test_form(self) -> None:
        """The prefix and 128 bits in hex, whatever the parts are."""
        commands = Commands("fleet", b"a", 1, 1)
        for parts in (KEY, (b"", None, b""), (b"u" * 999, b"d" * 255, b"f" * 32)):
            name = commands.name(parts)
            self.assertRegex(name, b"^fleet:[0-9a-f]{32}$")
        self.assertNotIn(b"user", commands.begin(commands.name(KEY)))

    def test_different(self) -> None:
        """Another user, drain or id has another; so has one without a drain."""
        commands = Commands("fleet", b"a", 1, 1)
        parts: list[tuple[bytes, bytes | None, bytes]] = [
            (b"user", b"d.1", b"f"),
            (b"userd", b".1", b"f"),
            (b"user", b"d.2", b"f"),
            (b"user", b"d.1", b"e"),
            (b"userd.1", b"", b"f"),
            (b"userd.1", None, b"f"),
            (b"user", None, b"d.1f"),
        ]
        self.assertEqual(len({commands.name(each) for each in parts}), len(parts))

    def test_commands(self) -> None:
        """What is sent is what is meant, as Redis reads it."""
        commands = Commands("fleet", b"me", 6.0, 120.0)
        name = commands.name(KEY)
        digits = name.removeprefix(b"fleet:")
        self.assertEqual(
            commands_in(commands.begin(name) + commands.confirm(name)),
            [
                [b"SET", name, b"begun:%b:me" % digits, b"NX", b"PX", b"6000"],
                [b"SET", name, b"confirmed:%b" % digits, b"PX", b"120000"],
            ],
        )
        self.assertEqual(commands_in(commands.look(name)), [[b"GET", name]])
        ((word, _, keys, *rest),) = commands_in(commands.release(name))
        self.assertEqual(
            (word, keys, rest), (b"EVAL", b"1", [name, b"begun:%b:me" % digits])
        )

    def test_trials_leave_nothing(self) -> None:
        """What a connection is tried out with is gone when it is over."""
        redis = FakeRedis(Clock())
        Process(Clock(), redis, b"a")
        self.assertEqual(redis.values, {})

    def test_owners_differ(self) -> None:
        """Each process has a name of its own."""
        clock = Clock()
        owners = {
            Process(clock, FakeRedis(clock), b"").shared.commands.begun(b"")
            for _ in range(10)
        }
        self.assertEqual(len(owners), 10)


class ClaimTests(DedupeTestCase):
    """Only what was confirmed is a duplicate."""

    def test_confirmed(self) -> None:
        """What one process has delivered the other knows for 120 s."""
        self.claim(self.a).confirm()
        self.clock.advance(REMEMBERED_SECONDS - 0.01)
        self.assertIsNone(self.successResultOf(self.ask(self.b)))
        self.clock.advance(0.01)
        self.claim(self.b)

    def test_failed(self) -> None:
        """What one could not deliver the other forwards at once."""
        self.claim(self.a).release()
        self.claim(self.b)
        self.assertEqual(self.redis.value(self.name), self.begun_by(self.b))

    def test_under_way(self) -> None:
        """Who finds it under way waits, and shares the 200."""
        claim = self.claim(self.a)
        result = outcome(self.ask(self.b))
        self.wait(self.b, seconds=1)
        self.assertEqual(result(), [])
        claim.confirm()
        self.wait(self.b)
        self.assertEqual(result(), [None])

    def test_fails_meanwhile(self) -> None:
        """Who waits for one that fails forwards."""
        claim = self.claim(self.a)
        asked = self.ask(self.b)
        claim.release()
        self.wait(self.b)
        self.assertIsInstance(self.successResultOf(asked), Claim)
        self.assertEqual(self.redis.value(self.name), self.begun_by(self.b))

    def test_dies(self) -> None:
        """
        Who waits for one that says nothing any more forwards while there is time, and
        tells of it.
        """
        self.claim(self.a)
        result = outcome(self.ask(self.b))
        while not result():
            self.assertLess(self.clock.seconds(), PATIENCE * DELIVERY_SECONDS)
            self.wait(self.b)
        (claim,) = result()
        self.assertGreater(self.clock.seconds(), 2)
        self.assertEqual(self.b.metrics.dedupe_overtaken, 1)
        self.assertEqual(self.redis.value(self.name), self.begun_by(self.a))
        # What is not its own it does not take out.
        claim.release()
        self.assertEqual(self.redis.value(self.name), self.begun_by(self.a))
        claim.confirm()
        self.assertEqual(self.redis.value(self.name), self.confirmed)

    def test_name_goes(self) -> None:
        """What a dead process has begun is anybody's soon after it must have ended."""
        self.claim(self.a)
        self.clock.advance(DELIVERY_SECONDS + GRACE_SECONDS - 0.01)
        self.assertIsNotNone(self.redis.value(self.name))
        self.clock.advance(0.01)
        self.claim(self.b)

    def test_overtaken(self) -> None:
        """One that comes to its end late does not take the next one's name out."""
        late = self.claim(self.a)
        self.clock.advance(DELIVERY_SECONDS + GRACE_SECONDS)
        self.claim(self.b)
        late.release()
        self.assertEqual(self.redis.value(self.name), self.begun_by(self.b))
        late.confirm()
        self.assertIsNone(self.successResultOf(self.ask(self.b)))

    def test_ours(self) -> None:
        """Its own name, of which a process knows nothing any more, is its own again."""
        self.claim(self.a)
        claim = self.claim(self.a)
        claim.release()
        self.assertIsNone(self.redis.value(self.name))

    def test_gone_between(self) -> None:
        """What goes between two looks is begun."""
        self.claim(self.a)
        asked = self.b.shared.claim(KEY, 0.0)
        self.redis.values.clear()
        self.b.pipeline.turn()
        self.wait(self.b)
        self.assertIsInstance(self.successResultOf(asked), Claim)

    def test_cancelled(self) -> None:
        """Who does not wait any more leaves no name, whenever the reply comes."""
        asked = self.a.shared.claim(KEY, 0.0)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.redis.value(self.name), self.begun_by(self.a))
        self.a.pipeline.turn()
        self.assertIsNone(self.redis.value(self.name))
        self.claim(self.a)
        asked = self.ask(self.b)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        asked = self.b.shared.claim(KEY, 0.0)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.b.pipeline.turn()
        self.assertEqual(self.redis.value(self.name), self.begun_by(self.a))


class OutageTests(DedupeTestCase):
    """Without Redis a post goes on, is counted, and is no duplicate."""

    def test_lost_while_asked(self) -> None:
        """Who waits for a reply that does not come goes on at once."""
        asked = self.a.shared.claim(KEY, 0.0)
        self.a.pipeline.lose(SLOW)
        self.assertIsInstance(self.successResultOf(asked), Claim)
        self.assertEqual(self.unasked(self.a), {"slow": 1})

    def test_lost_while_waiting(self) -> None:
        """Who waits for another process goes on when Redis does not answer."""
        self.claim(self.b)
        asked = self.ask(self.a)
        self.a.pipeline.lose()
        self.clock.advance(POLL_SECONDS)
        self.assertIsInstance(self.successResultOf(asked), Claim)
        self.assertEqual(self.unasked(self.a), {LOST: 1})

    def test_down(self) -> None:
        """While it is known to be gone nobody asks it."""
        self.a.pipeline.lose()
        before = self.a.pipeline.commands
        claim = self.successResultOf(self.a.shared.claim(KEY, 0.0))
        assert claim is not None
        claim.confirm()
        claim.release()
        self.assertEqual(self.a.pipeline.commands, before)
        self.assertEqual(self.unasked(self.a), {"down": 1})
        self.assertEqual(self.a.metrics.dedupe_unrecorded, 1)

    def test_back_in_time(self) -> None:
        """What went without is recorded when Redis is back by its end."""
        self.a.pipeline.lose()
        claim = self.claim(self.a)
        self.a.pipeline.come_back()
        claim.confirm()
        self.assertIsNone(self.successResultOf(self.ask(self.b)))

    def test_refused(self) -> None:
        """An error gives the connection up: full, read-only, no permission."""
        self.redis.refusal = "OOM no room"
        self.claim(self.a)
        self.assertEqual(self.a.pipeline.given_up, ["OOM no room"])
        self.assertEqual(self.unasked(self.a), {"refused": 1})

    def test_not_recorded(self) -> None:
        """A delivery that Redis does not take down is counted, and so is no error."""
        claim = self.claim(self.a)
        self.redis.refusal = "READONLY"
        claim.confirm()
        self.a.pipeline.turn()
        self.assertEqual(self.a.metrics.dedupe_unrecorded, 1)
        self.assertEqual(self.a.pipeline.given_up, ["READONLY"])
        self.redis.refusal = ""
        self.redis.values.clear()
        claim = self.claim(self.b)
        claim.confirm()
        self.b.pipeline.lose()
        self.assertEqual(self.b.metrics.dedupe_unrecorded, 1)

    def test_not_released(self) -> None:
        """One who may not take a name out gives up; the name goes by itself."""
        claim = self.claim(self.a)
        self.redis.refusal = "NOPERM"
        claim.release()
        self.a.pipeline.turn()
        self.assertEqual(self.a.pipeline.given_up, ["NOPERM"])

    def test_of_one_key(self) -> None:
        """A key that is something else, such as a list, costs that post only."""
        look = self.a.shared.commands.look(self.name)
        self.redis.values[self.name] = (b"", 1e9)
        asked = self.a.shared.claim(KEY, self.clock.seconds())
        plain = self.redis.reply

        def wrong(command: bytes) -> Any:
            is_look = command == look
            return ReplyError("WRONGTYPE no string") if is_look else plain(command)

        self.patch(self.redis, "reply", wrong)
        self.a.pipeline.turn()
        claim = self.successResultOf(asked)
        assert claim is not None
        self.assertEqual(self.unasked(self.a), {"refused": 1})
        self.assertEqual(self.a.pipeline.given_up, [])
        claim.confirm()
        self.assertEqual(self.redis.value(self.name), self.confirmed)

    def test_of_another_key(self) -> None:
        """
        A value that belongs to another key, or to none, is no duplicate and nobody to
        wait for: who reads it trusts nothing of that connection any more.
        """
        commands = self.a.shared.commands
        other = commands.name(key(2))
        for value in (
            commands.confirmed(other),
            commands.begun(other),
            self.b.shared.commands.begun(other),
            b"confirmed",
            b"confirmed:",
            self.confirmed + b"0",
            b"begun:a",
            b"hello",
            b"",
        ):
            self.redis.values[self.name] = (value, 1e9)
            asked = self.ask(self.a)
            self.assertIsInstance(self.successResultOf(asked), Claim, value)
            self.assertEqual(self.a.pipeline.given_up.pop(), NOT_REDIS, value)
            self.a.pipeline.come_back()
        self.assertEqual(self.unasked(self.a), {"nonsense": 9})

    def test_stray(self) -> None:
        """
        After a reply too many a post that is only under way elsewhere reads that of one
        that was delivered: it is forwarded, and is no duplicate.
        """
        name = self.a.shared.commands.name(key(2))
        self.redis.values[name] = (self.a.shared.commands.confirmed(name), 1e9)
        self.redis.values[self.name] = (self.begun_by(self.b), 1e9)
        posts = [self.a.shared.claim(key(n), 0.0) for n in (2, 1)]
        self.a.pipeline.insert(None)
        self.a.pipeline.turn()
        self.assertIsInstance(self.successResultOf(posts[1]), Claim)
        self.assertEqual(self.a.pipeline.given_up, [NOT_REDIS])
        self.wait(self.a)
        self.assertIsInstance(self.successResultOf(posts[0]), Claim)

    def test_impossible(self) -> None:
        """
        A reply that its command cannot have gives the connection up, whichever command
        it is and whether anybody still waits.
        """

        def asked_and_left() -> None:
            asked = self.a.shared.claim(KEY, self.clock.seconds())
            asked.cancel()
            self.failureResultOf(asked, CancelledError)

        def looked_and_left() -> None:
            self.redis.values[self.name] = (self.begun_by(self.b), 1e9)
            asked = self.a.shared.claim(KEY, self.clock.seconds())
            self.a.pipeline.turn_once()
            asked.cancel()
            self.failureResultOf(asked, CancelledError)

        def ended(end: str) -> None:
            getattr(self.claim(self.a), end)()

        for begin, possible in (
            (asked_and_left, (b"OK", None)),
            (looked_and_left, (None,)),
            (partial(ended, "confirm"), (b"OK",)),
            (partial(ended, "release"), (0, 1)),
        ):
            for reply in (b"OK", b"QUEUED", None, 0, 1, 2, [], [b"OK"]):
                begin()
                self.a.pipeline.swallow()
                self.a.pipeline.insert(reply)
                self.a.pipeline.turn()
                expected = [] if reply in possible else [NOT_REDIS]
                self.assertEqual(self.a.pipeline.given_up, expected, (begin, reply))
                self.a.pipeline.given_up.clear()
                self.a.pipeline.lose()
                self.a.pipeline.come_back()
                self.redis.values.clear()

    def test_unrecorded_does_not_disturb(self) -> None:
        """What cannot be told while Redis is away ends no attempt to come back."""
        claim = self.claim(self.a)
        self.a.pipeline.lose()
        self.a.pipeline.is_trying = True
        claim.confirm()
        self.assertEqual(self.a.metrics.dedupe_unrecorded, 1)
        self.assertEqual(self.a.pipeline.given_up, [])

    def test_nonsense(self) -> None:
        """A reply that is none of Redis's gives the connection up."""
        self.patch(self.redis, "reply", lambda command: 7)
        self.claim(self.a)
        self.assertEqual(self.unasked(self.a), {"nonsense": 1})
        self.assertEqual(self.a.pipeline.given_up, [NOT_REDIS])

    def test_lines(self) -> None:
        """One line when it begins and one when it ends, not one for each post."""
        (line,) = self.a.lines.having("count#log-iss.dedupe.usable", "1")
        self.assertEqual(line["posts"], "0")
        self.clock.advance(10)
        asked = self.a.shared.claim(KEY, 0.0)
        self.a.pipeline.lose(SLOW)
        self.assertIsInstance(self.successResultOf(asked), Claim)
        for _ in range(20):
            self.claim(self.a)
        self.a.shared.pipeline_lost("again")
        (line,) = self.a.lines.having("count#log-iss.dedupe.outage", "1")
        self.assertEqual(line["message"], SLOW)
        self.clock.advance(1.5)
        self.a.pipeline.come_back()
        _, line = self.a.lines.having("count#log-iss.dedupe.usable", "1")
        self.assertEqual(line["posts"], "21")
        duration = line["measure#log-iss.dedupe.outage.duration"]
        self.assertEqual(duration, "1.500000s")
        self.assertEqual(self.a.metrics.dedupe_outages, 1)
        self.assertEqual(self.a.metrics.dedupe_connects, 2)

    def test_stop(self) -> None:
        """The end lets what was said arrive."""
        self.claim(self.a).confirm()
        self.successResultOf(self.a.shared.stop())
        self.assertEqual(self.a.metrics.dedupe_unrecorded, 0)


class FrontTestCase(DedupeTestCase):
    """The front doors of two processes."""

    site = "channel"

    def setUp(self) -> None:
        super().setUp()
        self.fronts = {
            process: Front(
                self.clock,
                shared=process.shared,
                delivery_timeout_seconds=DELIVERY_SECONDS,
            )
            for process in (self.a, self.b)
        }
        for front in self.fronts.values():
            front.deliverer.at_once = False

    def tearDown(self) -> None:
        for front in self.fronts.values():
            self.assertEqual(front.logs.budget.reserved_bytes, 0)
            self.assertEqual(front.drain.inside, 0)

    def post(
        self, process: Process, body: bytes = BODY, **headers: str | None
    ) -> Connection:
        connection = Connection(self.fronts[process].site(self.site))
        fields: dict[str, str | None] = {
            "Logplex-Frame-Id": "0123456789abcdef" * 2,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        connection.send(request(body, headers=fields))
        return connection

    def deliver(self, process: Process) -> None:
        self.fronts[process].deliverer.waiters[-1].callback(None)
        process.pipeline.turn()

    def forwarded(self, process: Process) -> int:
        return len(self.fronts[process].deliverer.payloads)

    def check(self, connection: Connection, code: int, duplicate: bool = False) -> None:
        (answer,) = connection.answers()
        self.assertEqual(answer.code, code)
        said = answer.headers.get("logiss-duplicate")
        self.assertEqual(said, "1" if duplicate else None)


class FrontTests(FrontTestCase):
    """From the request to Redis, the deliverer and back."""

    def test_first(self) -> None:
        """It is forwarded once Redis has said that it is the first."""
        first = self.post(self.a)
        self.assertEqual(self.forwarded(self.a), 0)
        self.a.pipeline.turn()
        self.assertEqual(self.forwarded(self.a), 1)
        self.deliver(self.a)
        self.check(first, 200)
        ((name, (value, _)),) = self.redis.values.items()
        self.assertEqual(value, self.a.shared.commands.confirmed(name))

    def test_elsewhere(self) -> None:
        """A retry to the other process is a duplicate there, and not forwarded."""
        self.post(self.a)
        self.a.pipeline.turn()
        self.deliver(self.a)
        retry = self.post(self.b)
        joined = self.post(self.b)
        self.b.pipeline.turn()
        self.check(retry, 200, duplicate=True)
        self.check(joined, 200, duplicate=True)
        self.assertEqual(self.forwarded(self.b), 0)
        metrics = self.fronts[self.b].metrics
        self.assertEqual(metrics.posts_known_elsewhere, 1)
        # From now on it is known there.
        commands = self.b.pipeline.commands
        self.check(self.post(self.b), 200, duplicate=True)
        self.assertEqual(self.b.pipeline.commands, commands)
        # What was not delivered here is not confirmed from here.
        self.assertEqual(commands, 2)

    def test_own_retry(self) -> None:
        """The own table stays in front: a retry to the same process asks nobody."""
        first, second = self.post(self.a), self.post(self.a)
        self.a.pipeline.turn()
        third = self.post(self.a)
        self.assertEqual(self.a.pipeline.commands, 1)
        self.deliver(self.a)
        self.check(first, 200)
        self.check(second, 200, duplicate=True)
        self.check(third, 200, duplicate=True)
        self.check(self.post(self.a), 200, duplicate=True)
        self.assertEqual(self.a.pipeline.commands, 2)

    def test_without_id(self) -> None:
        """A post without an id that counts never touches Redis."""
        for frame_id in (None, "abc"):
            connection = self.post(self.a, Logplex_Frame_Id=frame_id)
            self.deliver(self.a)
            self.check(connection, 200)
        self.assertEqual(self.a.pipeline.commands, 0)

    def test_not_delivered(self) -> None:
        """What fails, or is malformed, is let go of: its retry is forwarded."""
        first = self.post(self.a)
        self.a.pipeline.turn()
        self.fronts[self.a].deliverer.waiters[-1].errback(NotDelivered("too slow"))
        self.check(first, 504)
        broken = self.post(self.b, b"no frames")
        self.b.pipeline.turn()
        self.check(broken, 400)
        self.assertEqual(self.redis.values, {})
        retry = self.post(self.b)
        self.b.pipeline.turn()
        self.deliver(self.b)
        self.check(retry, 200)

    def test_answer_waits_for_nobody(self) -> None:
        """The 200 is written before Redis has taken down that it was delivered."""
        first = self.post(self.a)
        self.a.pipeline.turn()
        self.fronts[self.a].deliverer.waiters[-1].callback(None)
        self.check(first, 200)
        self.a.pipeline.lose()
        self.assertEqual(self.a.metrics.dedupe_unrecorded, 1)

    def test_gone(self) -> None:
        """Without Redis all is as without the table."""
        asking = self.post(self.a)
        self.a.pipeline.lose()
        self.assertEqual(self.forwarded(self.a), 1)
        other = self.post(self.a, Logplex_Frame_Id="f" * 32)
        self.assertEqual(self.forwarded(self.a), 2)
        for waiter in self.fronts[self.a].deliverer.waiters:
            waiter.callback(None)
        self.check(asking, 200)
        self.check(other, 200)

    def test_client_leaves(self) -> None:
        """While Redis is asked, or another process waited for: nothing stays."""
        connection = self.post(self.a)
        connection.transport.loseConnection()
        self.a.pipeline.turn()
        self.assertEqual(self.forwarded(self.a), 0)
        self.assertEqual(self.redis.values, {})
        self.assertEqual(len(self.fronts[self.a].logs.retries), 0)
        self.post(self.a)
        self.a.pipeline.turn()
        waiting = self.post(self.b)
        self.b.pipeline.turn()
        waiting.transport.loseConnection()
        self.wait(self.b)
        self.assertEqual(self.forwarded(self.b), 0)
        self.deliver(self.a)

    def test_its_time(self) -> None:
        """Waiting for another process is part of the time for the delivery."""
        self.post(self.a)
        self.a.pipeline.turn()
        waiting = self.post(self.b)
        self.b.pipeline.turn()
        while not self.forwarded(self.b):
            self.wait(self.b)
        (payload,) = self.fronts[self.b].deliverer.payloads
        self.assertEqual(payload.received_at, 0.0)
        self.assertLess(self.clock.seconds(), DELIVERY_SECONDS * PATIENCE)
        self.deliver(self.b)
        self.check(waiting, 200)
        self.deliver(self.a)

    def test_gzip(self) -> None:
        """A body that has been inflated as it came, or is to be, is forwarded whole."""
        body = gzip.compress(BODY)
        connection = self.post(self.a, body, Content_Encoding="gzip")
        self.assertGreater(self.fronts[self.a].logs.budget.reserved_bytes, 0)
        self.a.pipeline.turn()
        self.assertEqual(self.fronts[self.a].deliverer.octets, FORWARDED)
        self.deliver(self.a)
        self.check(connection, 200)


class StockFrontTests(FrontTests):
    """The same on twisted.web's channel."""

    site = "stock"

    def test_room(self) -> None:
        """Only a body that has room is held while Redis is asked; others wait first."""
        front = self.fronts[self.a]
        budget, most = front.logs.budget, front.settings.max_inflight_bytes
        taken = most - len(BODY)
        self.successResultOf(budget.reserve(taken, 1))
        connections = [
            self.post(self.a, Logplex_Frame_Id=f"{n:032x}") for n in range(3)
        ]
        self.assertEqual(self.a.pipeline.commands, 1)
        self.assertEqual(budget.reserved_bytes, most)
        budget.release(taken)
        self.assertEqual(self.a.pipeline.commands, 3)
        self.a.pipeline.turn()
        for waiter in front.deliverer.waiters:
            waiter.callback(None)
        self.a.pipeline.turn()
        for connection in connections:
            self.check(connection, 200)

    def test_no_room(self) -> None:
        """Without room in its time a post asks nobody, and leaves no name."""
        front = self.fronts[self.a]
        most = front.settings.max_inflight_bytes
        self.successResultOf(front.logs.budget.reserve(most, 1))
        late, gone = (
            self.post(self.a, Logplex_Frame_Id=digit * 32) for digit in ("a", "b")
        )
        gone.hang_up()
        self.clock.advance(DELIVERY_SECONDS)
        self.check(late, 503)
        front.logs.budget.release(most)
        self.assertEqual(self.a.pipeline.commands, 0)
        self.assertEqual(len(front.logs.retries), 0)


class StrayTests(SynchronousTestCase):
    """Replies too many or too few, in the middle of posts of all kinds."""

    @hypothesis_settings(max_examples=300, deadline=None)
    @given(
        kinds=st.lists(
            st.sampled_from(["new", "under way", "delivered"]), min_size=2, max_size=6
        ),
        turns=st.lists(
            st.sampled_from(["reply", "swallow", "repeat", "OK", "nothing"]),
            max_size=12,
        ),
    )
    def test_no_duplicate(self, kinds: list[str], turns: list[str]) -> None:
        """Whichever they are: who is called a duplicate was delivered."""
        clock = Clock()
        redis = FakeRedis(clock)
        process, other = (Process(clock, redis, owner) for owner in (b"a", b"b"))
        commands, pipeline = other.shared.commands, process.pipeline
        for number, kind in enumerate(kinds):
            name = commands.name(key(number))
            if kind != "new":
                is_delivered = kind == "delivered"
                value = (commands.confirmed if is_delivered else commands.begun)(name)
                redis.values[name] = (value, 1e9)
        asked = [process.shared.claim(key(n), 0.0) for n in range(len(kinds))]
        for turn in turns:
            match turn:
                case "reply" if pipeline.has_reply:
                    pipeline.turn_once()
                case "swallow":
                    pipeline.swallow()
                case "repeat":
                    pipeline.insert(pipeline.last)
                case "OK" | "nothing":
                    pipeline.insert(b"OK" if turn == "OK" else None)
        while clock.seconds() < PATIENCE * DELIVERY_SECONDS:
            pipeline.turn()
            clock.advance(TIMEOUT_SECONDS)
        for kind, post in zip(kinds, asked, strict=True):
            if self.successResultOf(post) is None:
                self.assertEqual(kind, "delivered")


class FleetMachine(RuleBasedStateMachine):
    """
    Three processes and a Redis that forgets, refuses, hangs, says one thing too many or
    too few and comes back, while processes die and time passes: whatever is called a
    duplicate was delivered, and nobody waits for longer than they may.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.redis = FakeRedis(self.clock)
        self.born = 0
        self.processes = [self.made() for _ in range(3)]
        # When a post was delivered last, by key.
        self.delivered: dict[int, float] = {}
        self.asked: list[tuple[Process, int, float, Deferred[Claim | None]]] = []
        self.open: list[tuple[Process, int, Claim]] = []

    def made(self) -> Process:
        self.born += 1
        self.redis.refusal = ""
        return Process(self.clock, self.redis, b"%d" % self.born)

    @rule(number=st.integers(0, 2), which=st.integers(0, 2))
    def post(self, number: int, which: int) -> None:
        """A post comes; the own table has nothing of it, or was forgotten."""
        process, now = self.processes[which], self.clock.seconds()
        asked = process.shared.claim(key(number), now)
        self.asked.append((process, number, now, asked))

    @rule(which=st.integers(0, 2))
    def replies(self, which: int) -> None:
        self.processes[which].pipeline.turn()

    @rule(which=st.integers(0, 2))
    def hangs(self, which: int) -> None:
        self.processes[which].pipeline.lose()

    @rule(which=st.integers(0, 2))
    def comes_back(self, which: int) -> None:
        pipeline = self.processes[which].pipeline
        if not pipeline.is_usable:
            self.redis.refusal = ""
            pipeline.come_back()

    @rule(refusal=st.sampled_from(["", "OOM", "READONLY", "WRONGTYPE"]))
    def refuses(self, refusal: str) -> None:
        self.redis.refusal = refusal

    @rule(which=st.integers(0, 2))
    def swallows(self, which: int) -> None:
        """One reply does not come: from here on each is that of the next command."""
        self.processes[which].pipeline.swallow()

    @rule(
        which=st.integers(0, 2),
        reply=st.sampled_from([b"OK", None, 0, 1, 7, b"", b"confirmed", [], "no"]),
    )
    def inserts(self, which: int, reply: Any) -> None:
        """One is too many: from here on each is that of the command before."""
        self.processes[which].pipeline.insert(reply)

    @rule(which=st.integers(0, 2), number=st.integers(0, 2))
    def repeats(self, which: int, number: int) -> None:
        """The one too many is what is true of some post."""
        process = self.processes[which]
        name = process.shared.commands.name(key(number))
        process.pipeline.insert(self.redis.value(name))

    @rule()
    def forgets(self) -> None:
        self.redis.values.clear()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), is_delivered=st.booleans())
    def end(self, data: st.DataObject, is_delivered: bool) -> None:
        """A delivery ends; its process may have died, and says nothing then."""
        entry = data.draw(st.sampled_from(self.open))
        self.open.remove(entry)
        process, number, claim = entry
        if process not in self.processes:
            return
        if is_delivered:
            self.delivered[number] = self.clock.seconds()
            claim.confirm()
        else:
            claim.release()

    @rule(which=st.integers(0, 2))
    def dies(self, which: int) -> None:
        dead = self.processes[which]
        # Nothing of it happens any more: not what it waits for, either.
        for entry in [entry for entry in self.asked if entry[0] is dead]:
            self.asked.remove(entry)
            entry[3].cancel()
            outcome(entry[3])
        dead.pipeline.is_usable = False
        self.processes[which] = self.made()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.asked))
        self.asked.remove(entry)
        entry[3].cancel()
        outcome(entry[3])

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 2.0, 7.0, 119.0]))
    def wait(self, seconds: float) -> None:
        """Time passes in small steps; a command has its reply or its end in time."""
        until = self.clock.seconds() + min(seconds, 7.0)
        while self.clock.seconds() < until:
            self.clock.advance(TIMEOUT_SECONDS)
            for process in self.processes:
                process.pipeline.turn()
            self.collect()
        if seconds > 7.0 and not self.asked:
            self.clock.advance(seconds)

    @invariant()
    def collect(self) -> None:
        """Each that was asked for has come by its time, and is right."""
        for entry in list(self.asked):
            process, number, since, asked = entry
            waited = self.clock.seconds() - since
            if not asked.called:
                assert waited <= PATIENCE * DELIVERY_SECONDS, waited
                continue
            self.asked.remove(entry)
            (claim,) = outcome(asked)()
            if claim is None:
                assert number in self.delivered
                age = self.clock.seconds() - self.delivered[number]
                # What is said too late was true when it was said.
                assert age <= REMEMBERED_SECONDS + TIMEOUT_SECONDS, age
            else:
                assert isinstance(claim, Claim), claim
                self.open.append((process, number, claim))


class FleetTests(SynchronousTestCase):
    """`FleetMachine` finds nothing."""

    def test_any_order(self) -> None:
        """In whatever order things happen."""
        case = FleetMachine.TestCase
        case.settings = hypothesis_settings(
            max_examples=80, stateful_step_count=40, deadline=None
        )
        case("runTest").debug()
