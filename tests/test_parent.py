"""`logiss.parent` where it needs no process: what is done when, and what is refused."""

import errno
import os
import signal
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss import parent
from logiss.activation import NO_LISTENERS, Listeners
from logiss.env_file import Environment
from logiss.life import TwistedEvents
from logiss.parent import Configuration, Parent, Sockets
from logiss.processes import TRIAL_PASSED
from logiss.settings import Settings, SettingsError
from logiss.takeover import TAKEOVER
from logiss.variables import Destination
from logiss.workers import NotRenewed, Plan
from tests.fakes import Lines
from tests.test_service import settings

CONFIGURATION = Configuration(settings("sent"), {"DEPLOY": "test"})
HELD = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}


class FakeSocket:
    """
    A listening socket, or a duplicate of one.

    @ivar open: those that are open, of all.
    """

    def __init__(self, port: int, open_ones: "list[FakeSocket]") -> None:
        self.port = port
        self.descriptor = len(open_ones)
        self.open_ones = open_ones
        open_ones.append(self)

    def shared(self) -> "FakeSocket":
        return FakeSocket(self.port, self.open_ones)

    def close(self) -> None:
        self.open_ones.remove(self)


class FakeReactor(Clock):
    """
    @ivar callFromThread: calls at once, unless the test wants it otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.callFromThread: Callable[[Callable[[], None]], None] = lambda call: call()

    def stop(self) -> None:
        """The test ends it."""


class FakeSupervisor:
    def __init__(self) -> None:
        self.variables = {"NOTIFY_SOCKET": "@systemd"}
        self.said: list[str] = []

    def ready(self) -> None:
        self.said.append("ready")

    def reloading(self) -> None:
        self.said.append("reloading")

    def stopping(self) -> None:
        self.said.append("stopping")


class FakeTrial:
    """
    Whether the installed code starts.

    @ivar code: with which it ends; None while it has not.
    """

    def __init__(self) -> None:
        self.code: int | None = TRIAL_PASSED
        self.environs: list[dict[str, str]] = []
        self.kills = 0

    def start(
        self, command: Any, environ: dict[str, str], descriptor: int
    ) -> "FakeTrial":
        self.environs.append(environ)
        return self

    def exit_code(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.kills += 1
        self.code = -signal.SIGKILL


class FakeLogiss:
    """What the process serves by itself."""

    def __init__(self) -> None:
        self.has = (True, True)
        facts = SimpleNamespace(started_at=1.5)
        self.watch = SimpleNamespace(facts=lambda: facts, sample=lambda: None)
        self.left: Deferred[None] = Deferred()
        self.leave_seconds = 0.0
        self.drained: Deferred[None] = Deferred()
        self.stops = 0

    async def leave(self, within_seconds: float) -> None:
        self.leave_seconds = within_seconds
        await self.left

    async def end_admin(self) -> None:
        """There is none."""

    def stopService(self) -> Deferred[None]:
        self.stops += 1
        return self.drained


class FakeWorkers:
    """
    @ivar renewals: each an attempt, that ends when the test says so.
    """

    def __init__(self) -> None:
        self.generation = 1
        self.shares = 9
        self.started_at = 0.0
        self.renewals: list[Deferred[None]] = []
        self.plans: list[Plan] = []
        self.plan = Plan(1, 3, {}, 1.0, 1.0)
        self.falls: dict[int, int] = {}
        self.gone = None
        self.shares = 9
        self.started_at = 0.0
        self.own: Any = None
        self.own_has = (False, False)
        self.stopped = self.killed = 0
        self.gone_own = 0

    async def renew(self, plan: Plan) -> None:
        self.plans.append(plan)
        self.renewals.append(Deferred())
        await self.renewals[-1]

    def own_has_gone(self, facts: Any, sample: Any) -> None:
        self.gone_own += 1

    def watch(self) -> None:
        """Nobody is there."""

    def fill_up(self) -> None:
        """Nobody is to be there."""

    def living(self, *states: str) -> list[Any]:
        return []

    async def stop(self) -> bool:
        self.stopped += 1
        return True

    def kill(self) -> None:
        self.killed += 1


class ParentCase(SynchronousTestCase):
    """A parent whose sockets and workers are none."""

    may_execute = True

    def setUp(self) -> None:
        self.clock = clock = FakeReactor()
        self.addCleanup(lambda: self.assertEqual(clock.getDelayedCalls(), []))
        self.lines = Lines()
        self.supervisor: Any = FakeSupervisor()
        self.environ = {"HOME": "/"}
        self.environment = Environment(self.environ)
        self.next: Configuration | SettingsError = CONFIGURATION
        self.open: list[FakeSocket] = []
        self.patch(parent, "Workers", lambda *given: self.workers_given(*given))
        self.workers = FakeWorkers()
        self.made = 0
        self.plan_at_first: Plan | None = None
        self.executed: list[tuple[str, list[str], dict[str, str]]] = []
        self.masks: list[tuple[int, set[signal.Signals]]] = []
        self.raised: list[tuple[int, int]] = []
        self.patch(os, "execve", lambda *given: self.executed.append(given))
        self.patch(signal, "pthread_sigmask", lambda *how: self.masks.append(how))
        self.patch(signal, "pthread_kill", lambda *who: self.raised.append(who))
        self.patch(parent, "hand_over", lambda handed: 99)
        self.patch(parent, "write_down", lambda handed: os.dup(0))
        self.trial = FakeTrial()
        self.patch(parent, "start_trial", self.trial.start)
        self.make(NO_LISTENERS)

    def make(self, given: Listeners) -> None:
        self.parent = one = Parent(
            self.clock,
            CONFIGURATION,
            TwistedEvents(),
            1,
            given=given,
            read_again=self.read_again,
            supervisor=self.supervisor,
            environment=self.environment,
            may_execute=self.may_execute,
        )
        self.waits_for_reader(False)
        one._events = self.lines.events()
        one._sockets = self.sockets(5000)
        self.logiss: FakeLogiss | None = None

    def waits_for_reader(self, waits: bool) -> None:
        """Whether the log has lines that nobody has read."""
        journal: Any = SimpleNamespace(
            flush=lambda: None,
            share=lambda: None,
            write=lambda line: None,
            waiting=waits,
        )
        self.parent.journal = journal

    def workers_given(self, *given: Any) -> Any:
        self.plan_at_first = given[3]
        self.made += 1
        return self.workers

    def read_again(self) -> Configuration:
        if isinstance(self.next, SettingsError):
            raise self.next
        return self.next

    def sockets(self, port: int) -> Sockets:
        socket: Any = FakeSocket(port, self.open)
        return Sockets(socket, None)

    def be_parent(self) -> None:
        workers: Any = self.workers
        self.parent._workers = workers

    def serve(self) -> FakeLogiss:
        self.logiss = FakeLogiss()
        logiss: Any = self.logiss
        self.parent._logiss = logiss
        return self.logiss

    def renewed(self) -> None:
        self.workers.renewals[-1].callback(None)

    def refused(self) -> list[str]:
        return [
            line["message"] for line in self.lines.having("count#log-iss.reload.error")
        ]

    def done(self) -> int:
        return len(self.lines.having("count#log-iss.reload.success"))


class ReloadTests(ParentCase):
    """SIGHUP: everything new, or nothing."""

    def test_done(self) -> None:
        """New workers, then the parent itself."""
        self.be_parent()
        self.parent.reload()
        self.assertEqual((self.done(), self.executed), (0, []))
        self.renewed()
        self.assertEqual(self.done(), 1)
        self.assertEqual(len(self.executed), 1)
        self.assertEqual(self.supervisor.said, ["reloading", "ready"])

    def test_wrong(self) -> None:
        """Each mistake is a line; nobody is started, and nothing executed."""
        self.be_parent()
        self.next = SettingsError(["PORT: is wrong", "DEPLOY: as well"])
        self.parent.reload()
        self.assertEqual(self.refused(), ["PORT: is wrong", "DEPLOY: as well"])
        self.assertEqual((self.workers.plans, self.executed), ([], []))
        self.assertEqual(self.supervisor.said, ["reloading", "ready"])

    def test_not_renewed(self) -> None:
        """New workers that are no use are a line, and the old configuration stays."""
        self.be_parent()
        self.next = Configuration(settings("sent"), {"DEPLOY": "new"})
        self.parent.reload()
        self.workers.renewals[-1].errback(NotRenewed("no use"))
        self.assertEqual(self.refused(), ["no use"])
        self.assertEqual(self.parent._configuration, CONFIGURATION)
        self.assertEqual(self.executed, [])

    def test_unexpected(self) -> None:
        """So is whatever nobody has thought of; the next one is heard."""
        self.be_parent()
        self.parent.reload()
        self.workers.renewals[-1].errback(ZeroDivisionError())
        self.assertEqual(self.refused(), ["ZeroDivisionError()"])
        self.assertEqual(self.parent.reloads, {"done": 0, "refused": 1})
        self.assertEqual(self.supervisor.said, ["reloading", "ready"])
        self.parent.reload()
        self.assertEqual(len(self.workers.renewals), 2)
        self.workers.renewals[-1].errback(OSError(errno.EMFILE, "Too many open files"))
        self.assertEqual(self.refused()[1:], ["[Errno 24] Too many open files"])
        self.assertEqual(self.parent.reloads, {"done": 0, "refused": 2})

    def test_unexpected_behind(self) -> None:
        """The supervisor hears of the end even so."""
        self.be_parent()

        def fail(handed: Any) -> int:
            raise ZeroDivisionError

        self.patch(parent, "write_down", fail)
        self.parent.reload()
        self.renewed()
        self.assertEqual(self.refused(), ["ZeroDivisionError()"])
        self.assertEqual(self.supervisor.said, ["reloading", "ready"])

    def test_meanwhile(self) -> None:
        """However often it comes while one is under way, there is one more."""
        self.be_parent()
        for _ in range(4):
            self.parent.reload()
        self.assertEqual(len(self.workers.renewals), 1)
        self.workers.renewals[-1].errback(NotRenewed("no use"))
        self.assertEqual(len(self.workers.renewals), 2)
        self.renewed()
        self.assertEqual(len(self.workers.renewals), 2)

    def test_stopping(self) -> None:
        """Who stops does not begin with it, nor executes anything."""
        self.be_parent()
        self.parent.reload()
        self.parent.stop("SIGTERM")
        self.renewed()
        self.parent.reload()
        self.assertEqual((len(self.workers.renewals), self.executed), (1, []))
        self.assertEqual(self.supervisor.said, ["reloading", "stopping"])

    def test_stopped_behind(self) -> None:
        """SIGTERM while the last lines are written is not lost by an execution."""
        self.be_parent()
        self.waits_for_reader(True)
        self.parent.reload()
        self.renewed()
        self.parent.stop("SIGTERM")
        self.clock.pump([0.02] * 60)
        self.assertEqual(self.executed, [])


class OwnTests(ParentCase):
    """A process that serves by itself leaves its clients to its first workers."""

    def test_first(self) -> None:
        """It executes itself when the last of its clients has gone."""
        logiss = self.serve()
        self.parent.reload()
        self.assertEqual(self.workers.own_has, (True, True))
        assert self.plan_at_first is not None
        self.assertEqual(
            (self.plan_at_first.count, self.workers.plans[0].count), (0, 1)
        )
        self.renewed()
        self.assertIs(self.workers.own, logiss.watch)
        self.assertEqual(self.workers.started_at, 1.5)
        self.assertEqual((self.done(), logiss.stops, self.executed), (1, 0, []))
        logiss.left.callback(None)
        self.assertEqual((logiss.stops, self.executed), (1, []))
        logiss.drained.callback(None)
        self.assertEqual((self.workers.gone_own, len(self.executed)), (1, 1))
        # Nothing is measured by it any more.
        self.assertEqual(self.workers.own_has, (False, False))

    def test_refused(self) -> None:
        """One that is refused leaves it as it was."""
        logiss = self.serve()
        self.parent.reload()
        self.workers.renewals[-1].errback(NotRenewed("no use"))
        self.assertIsNone(self.parent._workers)
        self.assertEqual((logiss.stops, self.executed), (0, []))
        self.parent.reload()
        self.renewed()
        self.assertEqual(self.done(), 1)
        # Each has descriptors of its own.
        self.assertEqual(self.made, 1)

    def test_keepalive(self) -> None:
        """Its clients stay for as long as they were told, whatever counts from now."""
        logiss = self.serve()
        changed = evolve(settings("sent"), keepalive_timeout_seconds=1.0)
        self.next = Configuration(changed, {})
        self.parent.reload()
        self.renewed()
        self.assertEqual(self.workers.plans[0].leave_seconds, 1.0)
        self.assertEqual(
            logiss.leave_seconds, CONFIGURATION.settings.keepalive_timeout_seconds
        )

    def test_gone_meanwhile(self) -> None:
        """Nothing is executed in the middle of another renewal, but behind it."""
        logiss = self.serve()
        self.parent.reload()
        self.renewed()
        self.parent.reload()
        logiss.left.callback(None)
        logiss.drained.callback(None)
        self.assertEqual(self.executed, [])
        self.workers.renewals[-1].errback(NotRenewed("no use"))
        self.assertEqual(len(self.executed), 1)

    def test_stopped_while_leaving(self) -> None:
        """It drains once, whether the clients go then or have gone."""
        for has_left in (True, False):
            self.make(NO_LISTENERS)
            self.workers = FakeWorkers()
            logiss = self.serve()
            self.parent.reload()
            self.renewed()
            if has_left:
                logiss.left.callback(None)
            self.parent.stop("SIGTERM")
            ended = Deferred.fromCoroutine(self.parent.end())
            if not has_left:
                logiss.left.callback(None)
            self.assertNoResult(ended)
            logiss.drained.callback(None)
            self.assertEqual(self.successResultOf(ended), 0)
            self.assertEqual((logiss.stops, self.workers.stopped), (1, 1))
            self.assertEqual(self.executed, [])

    def test_stopped_at_first(self) -> None:
        """SIGTERM while the last lines of one process alone are written starts none."""
        logiss = self.serve()
        logiss.drained.callback(None)
        self.waits_for_reader(True)
        self.parent.reload()
        self.parent.stop("SIGTERM")
        ended = Deferred.fromCoroutine(self.parent.end())
        self.assertEqual(self.successResultOf(ended), 0)
        self.clock.pump([0.02] * 60)
        self.assertEqual(self.refused(), ["the process is told to stop"])
        self.assertEqual(self.made, 0)

    def test_stopped_before(self) -> None:
        """Workers that are on their way are stopped, or killed, as well."""
        logiss = self.serve()
        logiss.drained.callback(None)
        self.parent.reload()
        self.parent.give_up()
        self.assertEqual(self.workers.killed, 1)
        self.parent.stop("SIGTERM")
        ended = Deferred.fromCoroutine(self.parent.end())
        self.assertEqual(self.successResultOf(ended), 0)
        self.assertEqual(self.workers.stopped, 1)


class ExecuteTests(ParentCase):
    """The parent takes the code that is installed, and nothing is lost by that."""

    def setUp(self) -> None:
        super().setUp()
        self.be_parent()

    def execute(self) -> None:
        self.parent.reload()
        self.renewed()

    def test_itself(self) -> None:
        """The same program, told what it was, with signals held back."""
        self.execute()
        ((path, arguments, environ),) = self.executed
        self.assertEqual(arguments[0], path)
        self.assertEqual(environ[TAKEOVER], "99")
        self.assertEqual(environ["HOME"], "/")
        self.assertEqual(environ["NOTIFY_SOCKET"], "@systemd")
        self.assertEqual(self.masks[0], (signal.SIG_BLOCK, HELD))
        self.assertEqual(self.raised, [])

    def test_hung_up(self) -> None:
        """SIGHUP that has come and was not looked at waits for whoever comes then."""
        thread = threading.get_ident()
        for come in (
            lambda: self.parent.reload(),
            lambda: setattr(self.parent, "_is_hung_up", True),
        ):
            self.raised.clear()
            self.parent.reload()
            come()
            self.renewed()
            self.assertEqual(self.raised, [(thread, signal.SIGHUP)])

    def test_told_to_stop(self) -> None:
        """SIGTERM that has come and was not looked at is, and nothing is executed."""
        self.parent.reload()
        self.parent._signalled_at = 1.0
        self.renewed()
        self.assertEqual(self.executed, [])
        self.assertEqual(self.masks[-1], (signal.SIG_UNBLOCK, HELD))

    def test_impossible(self) -> None:
        """Where it cannot be executed it goes on, and all is as before."""
        kept: list[Any] = []

        def fail(*given: Any) -> None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

        self.patch(os, "execve", fail)
        self.patch(parent, "keep", lambda *given: kept.append(given))
        self.execute()
        (line,) = self.refused()
        self.assertIn("anew: No such file or directory; the workers are new", line)
        ((handed, descriptor),) = kept
        self.assertEqual((handed.listener, descriptor), (0, 99))
        self.assertEqual(self.masks[-1], (signal.SIG_UNBLOCK, HELD))
        self.parent.reload()
        self.assertEqual(len(self.workers.renewals), 2)


class TrialTests(ParentCase):
    """What is installed is tried in another process first: there is no way back."""

    WHY = (
        "the installed code could not be the parent; the lines above say why, and the"
        " parent stays what it was"
    )

    def setUp(self) -> None:
        super().setUp()
        self.be_parent()
        self.trial.code = None
        self.parent.reload()
        self.renewed()

    def test_waits(self) -> None:
        """Nothing is executed before it has said that it could."""
        self.clock.pump([0.05] * 3)
        self.assertEqual((self.done(), self.executed), (1, []))
        self.trial.code = TRIAL_PASSED
        self.clock.advance(0.05)
        self.assertEqual((len(self.executed), self.trial.kills), (1, 0))
        self.assertEqual(self.supervisor.said, ["reloading", "ready"])

    def test_could_not(self) -> None:
        """Else it is a line, and the next SIGHUP tries again; 0 says nothing."""
        for code in (1, 0):
            self.trial.code = code
            self.clock.advance(0.05)
            self.assertEqual(self.refused()[-1], self.WHY)
            self.trial.code = None
            self.parent.reload()
            self.workers.renewals[-1].errback(NotRenewed("no use"))
        self.assertEqual(self.executed, [])
        self.trial.code = TRIAL_PASSED
        self.clock.advance(0.05)
        self.assertEqual(len(self.executed), 1)

    def test_too_long(self) -> None:
        """It does not wait for ever."""
        self.clock.pump([0.05] * 420)
        self.assertEqual(self.refused(), [self.WHY])
        self.assertEqual((self.executed, self.trial.kills), ([], 1))

    def test_stopping(self) -> None:
        """SIGTERM ends it, and nothing is executed."""
        self.parent.stop("SIGTERM")
        Deferred.fromCoroutine(self.parent.end())
        self.clock.pump([0.05] * 2)
        self.assertEqual((self.executed, self.refused()), ([], []))
        self.assertEqual(self.trial.kills, 1)

    def test_impossible(self) -> None:
        """A system without room for another process is a line as well."""
        self.trial.code = 1
        self.clock.advance(0.05)

        def fail(*given: Any) -> None:
            raise OSError(errno.EAGAIN, "No room")

        self.patch(parent, "start_trial", fail)
        self.parent.reload()
        self.renewed()
        self.assertEqual(
            self.refused()[1:],
            ["the installed code cannot be tried as the parent: No room"],
        )
        self.assertEqual(self.executed, [])


class NeverTests(ParentCase):
    """Under twistd, and with an embedded receiver, it stays what it is."""

    may_execute = False

    def test_never(self) -> None:
        """Only workers become new."""
        self.be_parent()
        self.parent.reload()
        self.renewed()
        self.assertEqual((self.done(), self.executed), (1, []))


class SocketsTests(ParentCase):
    """Sockets stay, unless the configuration wants others."""

    def setUp(self) -> None:
        super().setUp()
        self.be_parent()
        self.patch(parent, "open_listener", self.open_listener)
        self.error: OSError | None = None

    def open_listener(self, host: str | None, port: int) -> FakeSocket:
        if self.error is not None:
            raise CannotListenError(host or "", port, self.error)
        return FakeSocket(port, self.open)

    def configure(self, **changes: Any) -> Settings:
        changed = evolve(settings("sent"), **changes)
        self.next = Configuration(changed, {})
        return changed

    def ports(self) -> list[int]:
        return [socket.port for socket in self.open]

    def test_same(self) -> None:
        """The new workers adopt the very same."""
        self.parent.reload()
        self.assertEqual((self.workers.plans[0].listener, self.ports()), (0, [5000]))
        self.renewed()
        self.assertEqual(self.ports(), [5000])

    def test_another_port(self) -> None:
        """The old one is closed as soon as the new workers are there."""
        for change in ({"port": 5001}, {"listen_host": "192.0.2.1"}):
            self.setUp()
            self.configure(**change)
            self.parent.reload()
            new = change.get("port", 5000)
            self.assertEqual(self.ports(), [5000, new])
            self.assertEqual(self.workers.plans[0].listener, 1)
            self.renewed()
            self.assertEqual(self.ports(), [new])
            self.assertEqual(self.parent.port, new)

    def test_not_renewed(self) -> None:
        """The new one is closed when nobody is to listen on it."""
        for error in (NotRenewed("no use"), ZeroDivisionError()):
            self.configure(port=5001)
            self.parent.reload()
            self.workers.renewals[-1].errback(error)
            self.assertEqual((self.ports(), self.parent.port), ([5000], 5000))

    def test_taken(self) -> None:
        """One that is not to be had is said as at the start, and leaves none open."""
        self.error = OSError(errno.EADDRINUSE, "Address already in use")
        self.configure(port=5001, listen_host="192.0.2.1")
        self.parent.reload()
        self.assertEqual(
            self.refused(),
            [
                "PORT: cannot listen on 192.0.2.1:5001: Address already in use; end the"
                " process that listens there or take another"
            ],
        )
        self.configure(admin_port=9000)
        self.parent.reload()
        self.assertEqual(
            self.refused()[1],
            "ADMIN_PORT: cannot listen on 127.0.0.1:9000: Address already in use; end"
            " the process that listens there or take another",
        )
        self.assertEqual(self.ports(), [5000])

    def test_taken_beside(self) -> None:
        """Nor is a duplicate left of the status page's, which was to be kept."""
        admin: Any = FakeSocket(9000, self.open)
        self.parent._sockets.admin = admin
        now = evolve(settings("sent"), admin_port=9000)
        self.parent._configuration = Configuration(now, {})
        self.error = OSError(errno.EADDRINUSE, "Address already in use")
        for _ in range(2):
            self.configure(admin_port=9000, port=5001)
            self.parent.reload()
        self.assertEqual(len(self.refused()), 2)
        self.assertEqual(self.ports(), [5000, 9000])

    def test_admin(self) -> None:
        """The port of the status page may come, move and go by itself."""
        opened: list[Any] = []
        self.patch(
            self.parent,
            "_open_admin",
            lambda: opened.append(self.parent._sockets.admin),
        )
        for admin_port, ports in (
            (9000, [5000, 9000]),
            (9001, [5000, 9001]),
            (None, [5000]),
        ):
            self.configure(admin_port=admin_port)
            self.parent.reload()
            self.renewed()
            self.assertEqual(sorted(self.ports()), ports)
            admin = opened[-1]
            self.assertEqual(admin and admin.port, admin_port)

    def test_given(self) -> None:
        """Sockets that were handed over stay, whatever the host is said to be."""
        listener: Any = FakeSocket(5000, [])
        self.make(Listeners(logs=listener))
        self.be_parent()
        socket = self.parent._sockets.logs
        for _ in range(2):
            self.configure(listen_host="192.0.2.9")
            self.parent.reload()
            self.renewed()
            self.assertEqual(self.parent._given_variables, {"PORT": "5000"})
            self.assertEqual(self.workers.plans[-1].listener, socket.descriptor)

    def test_given_before(self) -> None:
        """Whoever has executed itself still knows that they were."""
        before = SimpleNamespace(given={"PORT": "5000"})
        again = Parent(
            self.clock,
            CONFIGURATION,
            TwistedEvents(),
            1,
            given=NO_LISTENERS,
            read_again=self.read_again,
            supervisor=self.supervisor,
            environment=self.environment,
            before=before,  # type: ignore[arg-type]
        )
        self.assertEqual(again._given_variables, {"PORT": "5000"})


class TakeOverTests(ParentCase):
    """What it is after it has executed itself."""

    def test_problems(self) -> None:
        """What is not right any more is a line each, and no reason to end."""
        self.be_parent()
        self.parent._problems = ["PEMFILE: has gone"]
        before: Any = SimpleNamespace(workers=(), falls={1: 2})
        self.parent._take_over(before)
        self.assertEqual(self.workers.falls, {1: 2})
        self.assertEqual(self.refused(), ["PEMFILE: has gone"])


class SecretsTests(SynchronousTestCase):
    """Whoever prints a configuration or a plan prints no secret."""

    def test_none(self) -> None:
        """Variables are not shown."""
        environ = {"TOKEN_MAP": "user:hunter2"}
        for shown in (
            Configuration(settings("sent"), environ),
            Plan(1, 3, environ, 1.0, 1.0),
        ):
            self.assertNotIn("hunter2", repr(shown))


class EnvironmentTests(ParentCase):
    """Libraries find what stands for them in the file, in this process too."""

    def test_changed(self) -> None:
        """From SIGHUP on, until the file has it no more; who executes has it anew."""
        self.be_parent()
        self.next = Configuration(
            settings("sent"), {"HOME": "/", "DEPLOY": "a", "SSL_CERT_FILE": "b"}
        )
        self.parent.reload()
        self.assertEqual(self.environ, {"HOME": "/"})
        self.renewed()
        self.assertEqual(self.environ, {"HOME": "/", "SSL_CERT_FILE": "b"})
        self.assertNotIn("SSL_CERT_FILE", self.executed[-1][2])
        self.next = Configuration(settings("sent"), {"HOME": "/"})
        self.parent.reload()
        self.renewed()
        self.assertEqual(self.environ, {"HOME": "/"})


class ReadyTests(ParentCase):
    """With workers the supervisor hears that it is ready when one of them serves."""

    def test_begin(self) -> None:
        """Not before, for the process itself takes no posts."""
        workers: Any = self.workers
        workers.start = lambda: None
        several = Configuration(evolve(settings("sent"), workers=2), {})
        self.parent._configuration = several
        self.patch(self.parent, "_open", lambda *_: self.sockets(5000))
        self.patch(self.parent, "_be_parent", lambda: workers)
        self.supervisor.watch = lambda reactor: None
        self.parent.begin()
        self.assertEqual(self.supervisor.said, [])
        workers.on_serving()
        self.assertEqual(self.supervisor.said, ["ready"])

    def test_not_now(self) -> None:
        """In the middle of a reload its end says so, and who stops does not."""
        self.be_parent()
        self.parent.reload()
        self.parent.first_serves()
        self.assertEqual(self.supervisor.said, ["reloading"])
        self.renewed()
        self.assertEqual(self.supervisor.said, ["reloading", "ready"])
        self.parent.stop("SIGTERM")
        self.parent.first_serves()
        self.assertEqual(self.supervisor.said, ["reloading", "ready", "stopping"])


class DestinationTests(ParentCase):
    """A destination that the process has set up itself counts, now and later."""

    def test_changed(self) -> None:
        """Whatever the configuration says at SIGHUP."""
        receiver = Destination("127.0.0.1", 4711)
        self.parent.change_destination(receiver)
        self.be_parent()
        for _ in range(2):
            self.assertEqual(self.parent.settings.forward_dest, (receiver,))
            self.next = Configuration(
                settings("sent"), {"DEPLOY": "new", "FORWARD_DEST": "192.0.2.1:601"}
            )
            self.parent.reload()
            self.renewed()
            self.assertEqual(
                self.workers.plans[-1].environ,
                {"DEPLOY": "new", "FORWARD_DEST": "127.0.0.1:4711"},
            )


class HangupTests(ParentCase):
    """SIGHUP reaches `reload` in the reactor's own turn."""

    def test_several(self) -> None:
        """Those that come before anybody looks are one."""
        waiting: list[Callable[[], None]] = []
        self.clock.callFromThread = waiting.append
        reloads: list[None] = []
        self.parent.reload = lambda: reloads.append(None)  # type: ignore[method-assign]
        for _ in range(3):
            self.parent._hangup_received(1, None)
        for call in waiting:
            call()
        self.assertEqual(reloads, [None])
        self.parent._hangup_received(1, None)
        waiting[-1]()
        self.assertEqual(reloads, [None, None])
