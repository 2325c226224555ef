"""
The process that operators see: one logiss, or the parent of several workers.

With one worker, and as long as nothing has been replaced, it serves by itself. At
SIGHUP it starts new workers, leaves the clients to them, and is their parent from then
on.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater

from logiss import cpus, memory, takeover
from logiss._version import __version__
from logiss.activation import Inherited, Listeners, inherited, open_listener
from logiss.env_file import Environment
from logiss.facts import Clients, Facts
from logiss.history import Sample
from logiss.l2met import EventLog
from logiss.life import Life, TwistedEvents, to_stderr
from logiss.metrics import Metrics
from logiss.notify import Supervisor
from logiss.processes import (
    LOGISS_RUN,
    TRIAL_PASSED,
    Child,
    Processes,
    start_trial,
    this_command,
)
from logiss.service import Admin, LogissService, drain_seconds
from logiss.settings import VARIABLES, Settings, SettingsError
from logiss.takeover import (
    TAKEOVER,
    Handed,
    Takeover,
    hand_over,
    hold,
    keep,
    write_down,
)
from logiss.variables import AUTO, Destination
from logiss.workers import LEAVING, SERVING, STARTING, NotRenewed, Plan, Worker, Workers

#: How long the installed code may take to say that it could be the parent.
TRIAL_SECONDS = 20.0
_POLL_SECONDS = 0.05

RELOAD_DONE, RELOAD_REFUSED = "done", "refused"
_OURS = {variable.name for variable in VARIABLES.values()}
_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}


@frozen
class Configuration:
    """
    @ivar environ: all variables, from wherever they come; has secrets.
    """

    settings: Settings
    environ: Mapping[str, str] = field(repr=False)


@define(eq=False)
class Sockets:
    """The listening sockets of the process, which it never accepts on itself."""

    logs: Inherited
    admin: Inherited | None

    def shared(self) -> Listeners:
        admin = None if self.admin is None else self.admin.shared()
        return Listeners(self.logs.shared(), admin)

    def close(self) -> None:
        for each in (self.logs, self.admin):
            if each is not None:
                each.close()


class _All:
    """Knows what is the case with all workers."""

    def __init__(self, parent: "Parent", workers: Workers) -> None:
        self._parent = parent
        self._workers = workers

    def sample(self) -> Sample:
        return self._workers.sample()

    def facts(self) -> Facts:
        return evolve(
            self._workers.facts(self._of_none()),
            is_draining=self._parent.is_stopping,
            reloads=dict(self._parent.reloads),
        )

    def _of_none(self) -> Facts:
        """What is the case as long as no worker has told anything."""
        settings, now = self._parent.settings, self._parent.reactor.seconds()
        return Facts(
            at=now,
            started_at=now,
            instance=settings.deploy,
            version=__version__,
            delivery_level=settings.delivery_level,
            delivery_timeout_seconds=settings.delivery_timeout_seconds,
            is_draining=False,
            are_credentials_loaded=True,
            refresh_overdue_seconds=0.0,
            posts_inside=0,
            clients=Clients(),
            queue_payloads=0,
            queue_bytes=0,
            replay_bytes=0,
            inflight_bytes=0,
            inflight_limit_bytes=settings.max_inflight_bytes,
            waiting_for_room=0,
            budget_refusals=0,
            links=(),
            credentials=(),
            refusals=(),
            unknown_last_refused_at=None,
            users_more=0,
            metrics=Metrics(),
        )


class Parent(Life):
    """
    @param given: sockets that listen already, in place of what the settings name.
    @param read_again: reads the configuration as it is now.
    @param environment: where libraries look for their variables.
    @param before: what this process was before it executed itself anew.
    @param problems: what was right then and is not any more.
    @param may_execute: whether it may do that.
    """

    def __init__(
        self,
        reactor: Any,
        configuration: Configuration,
        twisted_events: TwistedEvents,
        log_fd: int,
        *,
        given: Listeners,
        read_again: Callable[[], Configuration],
        supervisor: Supervisor,
        environment: Environment,
        before: Takeover | None = None,
        problems: Sequence[str] = (),
        may_execute: bool = True,
    ) -> None:
        super().__init__(reactor, twisted_events, log_fd)
        self._configuration = configuration
        self._given = given
        self._given_variables = before.given if before else given.variables
        self._read_again = read_again
        self._supervisor = supervisor
        self._environment = environment
        self._before = before
        self._problems = problems
        self._may_execute = may_execute
        self._logiss: LogissService | None = None
        self._workers: Workers | None = None
        self._coming: Workers | None = None
        self._admin: Admin | None = None
        self._own_end: Deferred[None] | None = None
        self._trial: Child | None = None
        self._is_busy = False
        self._is_to_reload = False
        self._is_outdated = False
        self._has_given_up = False
        #: How often the configuration was read anew, by what came of it.
        self.reloads = {RELOAD_DONE: 0, RELOAD_REFUSED: 0}

    @property
    def settings(self) -> Settings:
        return self._configuration.settings

    @property
    def port(self) -> int:
        """Where posts are taken."""
        return self._sockets.logs.port

    def change_destination(self, destination: Destination) -> None:
        """
        Forward to `destination`, whatever the configuration says or will say; before
        `begin`.
        """
        read_again = self._read_again

        def changed(was: Configuration) -> Configuration:
            return Configuration(
                evolve(was.settings, forward_dest=(destination,)),
                {**was.environ, "FORWARD_DEST": str(destination)},
            )

        self._configuration = changed(self._configuration)
        self._read_again = lambda: changed(read_again())

    # the beginning

    def begin(self) -> EventLog:
        self._events = EventLog(self.settings.deploy, self.journal.write)
        self._environment.become(self._configuration.environ, _OURS)
        before = self._before
        if before is not None:
            hold(before)
            admin = None if before.admin is None else inherited(before.admin)
            self._sockets = Sockets(inherited(before.listener), admin)
            self._be_parent()
            self._take_over(before)
        else:
            self._sockets = self._open(self.settings, self._given)
            if count_of(self.settings) > 1:
                workers = self._be_parent()
                workers.on_serving = self.first_serves
                workers.start()
                self._supervisor.watch(self.reactor)
                return self._events
            self._serve()
        self._supervisor.ready()
        self._supervisor.watch(self.reactor)
        return self._events

    def first_serves(self) -> None:
        """One of the first workers takes posts."""
        # A reload says it at its end.
        if not self._is_busy:
            self._ready()

    def _ready(self) -> None:
        if not self._is_stopping:
            self._supervisor.ready()

    def _open(self, settings: Settings, given: Listeners) -> Sockets:
        """
        @raise CannotListenError: a port is taken or not allowed.
        """
        logs = given.logs or open_listener(settings.listen_host, settings.port)
        admin = given.admin
        if admin is None and settings.admin_port is not None:
            try:
                admin = open_listener(settings.admin_host, settings.admin_port)
            except CannotListenError:
                logs.close()
                raise
        return Sockets(logs, admin)

    def _serve(self) -> None:
        """Be all there is."""
        self._logiss = logiss = LogissService(
            self.reactor, self.settings, self.journal.write, self._sockets.shared()
        )
        self._events = logiss.events
        logiss.logs.budget.on_given_back = memory.give_back_freed
        logiss.startService()

    def _be_parent(self) -> Workers:
        before = self._before
        self.journal.share()
        self._workers = workers = Workers(
            self.reactor,
            self._processes(),
            self._events,
            self._plan(self._configuration, self._sockets),
            self._given_up,
            generation=before.generation if before else 0,
            gone=before.gone if before else None,
            shares=before.shares if before else None,
        )
        if before is not None:
            workers.started_at = before.started_at
            self.reloads.update(before.reloads)
        self._open_admin()
        workers.watch()
        port = self._sockets.logs.port
        self._events.phase_reached("workers", "listen", port=port)
        return workers

    def _processes(self) -> Processes:
        # The same goes for a worker as for this process.
        command = this_command() if self._may_execute else LOGISS_RUN
        return Processes(self.reactor, command)

    def _open_admin(self) -> None:
        socket = self._sockets.admin
        if socket is None or self._workers is None:
            return
        looks = _All(self, self._workers)
        self._admin = Admin(self.reactor, self.settings, looks, socket.shared())
        self._admin.startService()
        self._events.phase_reached("admin", "listen", port=socket.port)

    def _take_over(self, before: Takeover) -> None:
        assert self._workers is not None
        processes = self._processes()
        for each in before.workers:
            worker = Worker(
                each.number,
                each.generation,
                each.started_at,
                each.started_at,
                each.state,
                clients=each.facts.clients.connected if each.facts else 0,
                facts=each.facts,
                sample=each.sample,
                has_spoken=True,
                is_prepared=each.is_prepared,
                understands=takeover.VERSION,
                drain_seconds=each.drain_seconds,
                is_on_trial=False,
            )
            start = partial(
                processes.take_over, each.pid, each.descriptor, octets=each.unread
            )
            self._workers.adopt(worker, start)
        self._workers.falls.update(before.falls)
        # Who had fallen was to be started again by the one before.
        self._workers.fill_up()
        self._events.phase_reached("main", "executed")
        self._refuse(self._problems)

    def _plan(self, configuration: Configuration, sockets: Sockets) -> Plan:
        settings = configuration.settings
        return Plan(
            count_of(settings),
            sockets.logs.descriptor,
            configuration.environ,
            drain_seconds(settings),
            settings.keepalive_timeout_seconds,
        )

    # signals

    def reload(self) -> None:
        if self._is_busy or self._is_stopping:
            self._is_to_reload = True
            return
        self._do(self._reload())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Nothing that replaces something is done beside something else."""
        self._is_busy = True
        done = Deferred.fromCoroutine(work)
        done.addErrback(lambda reason: self._refuse([repr(reason.value)]))
        done.addCallback(lambda _: self._done())

    def _done(self) -> None:
        self._is_busy = False
        if self._is_to_reload:
            self._is_to_reload = False
            self.reload()

    async def _reload(self) -> None:
        self._supervisor.reloading()
        self._events.phase_reached("main", "reload")
        try:
            await self._renew_or_refuse()
            await self._execute_when_alone()
        finally:
            # Whatever has become of it, it is over.
            self._ready()

    async def _renew_or_refuse(self) -> None:
        started_at = self.reactor.seconds()
        try:
            await self._renew()
        except Exception as e:
            self.reloads[RELOAD_REFUSED] += 1
            match e:
                case SettingsError():
                    self._refuse(e.problems)
                case NotRenewed() | OSError():
                    self._refuse([str(e)])
                case _:
                    # Nobody has thought of it.
                    self._refuse([repr(e)])
        else:
            self.reloads[RELOAD_DONE] += 1
            took = self.reactor.seconds() - started_at
            assert self._workers is not None
            self._events.reload_done(self._workers.generation, took)
            self._is_outdated = True

    def _refuse(self, problems: Sequence[str]) -> None:
        for problem in problems:
            self._events.reload_refused(problem)

    async def _renew(self) -> None:
        """
        @raise SettingsError: the configuration is wrong, or names a port that is not to
            be had.
        @raise NotRenewed: what is new does not work.
        """
        configuration = self._read_again()
        if self._workers is None:
            # From now on others write to the same log.
            self.journal.share()
            await self.lines_written()
            if self._is_stopping:
                raise NotRenewed("the process is told to stop")
        sockets = self._sockets_for(configuration.settings)
        plan = self._plan(configuration, sockets)
        workers = self._workers or self._coming
        if workers is None:
            # Until these serve there is nobody but this process.
            workers = self._coming = Workers(
                self.reactor,
                self._processes(),
                self._events,
                evolve(plan, count=0),
                self._given_up,
            )
        if self._logiss is not None:
            workers.own_has = self._logiss.has
        try:
            await workers.renew(plan)
        except BaseException:
            if sockets is not self._sockets:
                sockets.close()
            raise
        await self._go_over_to(workers, configuration, sockets)

    def _sockets_for(self, settings: Settings) -> Sockets:
        """
        Those that there are, unless `settings` want others.

        @raise SettingsError: another is not to be had.
        """
        now, given, sockets = self.settings, self._given_variables, self._sockets
        is_logs = "PORT" in given or (
            (settings.port, settings.listen_host) == (now.port, now.listen_host)
        )
        is_admin = "ADMIN_PORT" in given or (
            (settings.admin_port, settings.admin_host)
            == (now.admin_port, now.admin_host)
        )
        if is_logs and is_admin:
            return sockets
        admin = sockets.admin
        kept = Listeners(
            sockets.logs.shared() if is_logs else None,
            admin.shared() if is_admin and admin is not None else None,
        )
        try:
            return self._open(settings, kept)
        except CannotListenError as e:
            if kept.admin is not None:
                kept.admin.close()
            raise SettingsError([why_not_listening(e, settings)]) from None

    async def _go_over_to(
        self, workers: Workers, configuration: Configuration, sockets: Sockets
    ) -> None:
        is_first, has_moved = self._workers is None, sockets is not self._sockets
        # What is served here was promised its time by the configuration of before.
        leave_seconds = self.settings.keepalive_timeout_seconds
        if has_moved:
            self._sockets.close()
        self._workers, self._configuration = workers, configuration
        self._environment.become(configuration.environ, _OURS)
        self._sockets, logiss = sockets, self._logiss
        if is_first:
            assert logiss is not None
            workers.watch()
            workers.own = logiss.watch
            workers.started_at = logiss.watch.facts().started_at
            await logiss.end_admin()
        if has_moved:
            await self._close_admin()
        if self._admin is None and not self._is_stopping:
            self._open_admin()
        if is_first and logiss is not None:
            left = Deferred.fromCoroutine(self._leave(logiss, workers, leave_seconds))
            left.addErrback(lambda reason: self._refuse([repr(reason.value)]))

    async def _leave(
        self, logiss: LogissService, workers: Workers, within_seconds: float
    ) -> None:
        """What this process has served itself leaves, as an old worker does."""
        await logiss.leave(within_seconds)
        if self._is_stopping:
            return
        await self._end_own()
        workers.own_has = (False, False)
        workers.own_has_gone(logiss.watch.facts(), logiss.watch.sample())
        self._logiss = None
        if not self._is_busy:
            self._do(self._execute_when_alone())

    def _end_own(self) -> Deferred[None]:
        """Have what is served here drain, once, whoever asks for it."""
        if self._logiss is None:
            return succeed(None)
        if self._own_end is None:
            self._own_end = self._logiss.stopService()
        asked: Deferred[None] = Deferred()
        self._own_end.chainDeferred(asked)
        return asked

    async def _execute_when_alone(self) -> None:
        """Take the code that is installed now, unless clients are still served here."""
        if not self._is_outdated or self._logiss is not None or not self._may_execute:
            return
        # It may have been changed, or broken, since the workers were started.
        why = await self._why_not_executable()
        if why or self._is_stopping:
            self._refuse([why] if why else [])
            return
        await self._close_admin()
        await self.lines_written()
        if not self._is_stopping:
            self._execute()
        if self._admin is None and not self._is_stopping:
            self._open_admin()

    async def _why_not_executable(self) -> str:
        """
        Why the code that is installed now could not be this process; nothing if it
        could. Another process finds that out, since this one could not go back.
        """
        descriptor = write_down(self._takeover())
        environ = self._environ(descriptor)
        try:
            self._trial = trial = start_trial(this_command(), environ, descriptor)
        except OSError as e:
            return f"the installed code cannot be tried as the parent: {e.strerror}"
        finally:
            os.close(descriptor)
        deadline = self.reactor.seconds() + TRIAL_SECONDS
        while (code := trial.exit_code()) is None:
            if self._is_stopping or self.reactor.seconds() >= deadline:
                trial.kill()
            await deferLater(self.reactor, _POLL_SECONDS)
        self._trial = None
        if code == TRIAL_PASSED or self._is_stopping:
            return ""
        return (
            "the installed code could not be the parent; the lines above say why, and"
            " the parent stays what it was"
        )

    def _environ(self, takeover: int) -> dict[str, str]:
        """With which this process is executed."""
        at_start = self._environment.at_start
        return {**at_start, **self._supervisor.variables, TAKEOVER: str(takeover)}

    def _execute(self) -> None:
        """Become the parent of the same workers, with the code of now."""
        # What comes meanwhile waits until somebody listens again.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if self.is_signalled_to_stop:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        if self._is_to_reload or self.take_hangup():
            # And what has come before.
            self._is_to_reload = False
            signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
        handed = self._takeover()
        descriptor = hand_over(handed)
        command = this_command()
        try:
            os.execve(  # noqa: S606, it is this very program
                command[0], list(command), self._environ(descriptor)
            )
        except OSError as e:
            keep(handed, descriptor)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._refuse(
                [
                    f"cannot execute {sys.executable!r} anew: {e.strerror}; the workers"
                    " are new, their parent is what it was"
                ]
            )

    def _takeover(self) -> Takeover:
        workers = self._workers
        assert workers is not None
        admin = self._sockets.admin
        return Takeover(
            self._sockets.logs.descriptor,
            None if admin is None else admin.descriptor,
            workers.shares,
            workers.generation,
            self._configuration.environ,
            self._given_variables,
            tuple(
                Handed(
                    w.number,
                    w.generation,
                    w.process.pid,
                    w.process.descriptor,
                    w.state,
                    w.started_at,
                    w.is_prepared,
                    w.process.intercom.unread,
                    w.drain_seconds,
                    w.facts,
                    w.sample,
                )
                for w in workers.living(STARTING, SERVING, LEAVING)
            ),
            workers.falls,
            workers.gone,
            workers.started_at,
            self.reloads,
        )

    def stopping(self, why: str) -> None:
        self._supervisor.stopping()
        self._events.phase_reached("main", "shutdown-signal", signal=why)

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def give_up(self) -> None:
        for workers in (self._workers, self._coming):
            if workers is not None:
                workers.kill()
        self._end_trial()

    def _end_trial(self) -> None:
        if self._trial is not None:
            self._trial.kill()

    def _given_up(self) -> None:
        self._has_given_up = True
        to_stderr("logiss: no worker can be started; the log says why each has ended")
        self.stop("workers have fallen")

    # the end

    def lines_dropped(self, count: int) -> None:
        if self._logiss is not None:
            self._logiss.metrics.log_lines_dropped += count
        elif self._workers is not None:
            self._workers.lines_dropped(count)
        self._events.lines_dropped(count)

    async def end(self) -> int:
        self._end_trial()
        self._sockets.close()
        code = int(self._has_given_up)
        own = self._end_own()
        workers = self._workers or self._coming
        if workers is not None and not await workers.stop():
            code = 1
        await own
        await self._close_admin()
        if self._workers is not None:
            self._events.phase_reached("main", "exit")
        return code

    async def _close_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.stop()


def count_of(settings: Settings) -> int:
    """How many workers there are to be."""
    return cpus.usable() if settings.workers == AUTO else settings.workers


def why_not_listening(error: CannotListenError, settings: Settings) -> str:
    is_admin = settings.admin_port is not None and error.port == settings.admin_port
    of_port, of_host = ("PORT", "LISTEN_HOST")
    if is_admin and error.port != settings.port:
        of_port, of_host = ("ADMIN_PORT", "ADMIN_HOST")
    cause = error.socketError
    why = getattr(cause, "strerror", None) or str(cause)
    where = f"cannot listen on {error.interface or '*'}:{error.port}: {why}"
    number = getattr(cause, "errno", None)
    if number == errno.EADDRINUSE:
        return f"{of_port}: {where}; end the process that listens there or take another"
    if number == errno.EACCES:
        return f"{of_port}: {where}; take one from 1024 on"
    return f"{of_host}: {where}; set it to an address of this machine"
