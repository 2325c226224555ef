"""
The process that operators see: one logiss, or the parent of several workers.

With one worker, and as long as nothing has been replaced, it serves by itself. At
SIGHUP it starts new workers, leaves the clients to them, and is their parent from then
on.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from attrs import define, evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from logiss import cpus, memory
from logiss._version import __version__
from logiss.activation import Inherited, Listeners, inherited, open_listener
from logiss.facts import Clients, Facts
from logiss.history import Sample
from logiss.l2met import EventLog
from logiss.life import Life, TwistedEvents, to_stderr
from logiss.metrics import Metrics
from logiss.notify import Supervisor
from logiss.processes import Processes
from logiss.service import Admin, LogissService, drain_seconds
from logiss.settings import Settings, SettingsError
from logiss.takeover import TAKEOVER, Handed, Takeover, hand_over
from logiss.variables import AUTO, Destination
from logiss.workers import LEAVING, SERVING, STARTING, NotRenewed, Plan, Worker, Workers

RELOAD_DONE, RELOAD_REFUSED = "done", "refused"


@frozen
class Configuration:
    """
    @ivar environ: all variables, from wherever they come; has secrets.
    """

    settings: Settings
    environ: Mapping[str, str]


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
    @param before: what this process was before it executed itself anew.
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
        before: Takeover | None = None,
        may_execute: bool = True,
    ) -> None:
        super().__init__(reactor, twisted_events, log_fd)
        self._configuration = configuration
        self._given = given
        self._read_again = read_again
        self._supervisor = supervisor
        self._before = before
        self._may_execute = may_execute
        self._logiss: LogissService | None = None
        self._workers: Workers | None = None
        self._admin: Admin | None = None
        self._is_reloading = False
        self._is_to_reload = False
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
        """Forward to `destination` whatever the configuration says; before `begin`."""
        was = self._configuration
        self._configuration = Configuration(
            evolve(was.settings, forward_dest=destination),
            {**was.environ, "FORWARD_DEST": str(destination)},
        )

    # the beginning

    def begin(self) -> EventLog:
        self._events = EventLog(self.settings.deploy, self.journal.write)
        before = self._before
        if before is not None:
            admin = None if before.admin is None else inherited(before.admin)
            self._sockets = Sockets(inherited(before.listener), admin)
            self._be_parent()
            self._take_over(before)
        else:
            self._sockets = self._open(self.settings, self._given)
            if count_of(self.settings) > 1:
                self._be_parent().start()
            else:
                self._serve()
        self._supervisor.ready()
        self._supervisor.watch(self.reactor)
        return self._events

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
        self._workers = workers = Workers(
            self.reactor,
            Processes(self.reactor),
            self._events,
            self._plan(self._configuration, self._sockets),
            self._given_up,
            generation=before.generation if before else 0,
            gone=before.gone if before else None,
        )
        if before is not None:
            workers.started_at = before.started_at
            self.reloads.update(before.reloads)
        self._open_admin()
        workers.watch()
        port = self._sockets.logs.port
        self._events.phase_reached("workers", "listen", port=port)
        return workers

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
        processes = Processes(self.reactor)
        for each in before.workers:
            worker = Worker(
                each.number,
                each.generation,
                each.started_at,
                each.started_at,
                each.state,
                is_prepared=True,
                clients=each.facts.clients.connected if each.facts else 0,
                facts=each.facts,
                sample=each.sample,
            )
            start = partial(
                processes.take_over, each.pid, each.descriptor, octets=each.unread
            )
            self._workers.adopt(worker, start)
        self._workers.falls.update(before.falls)
        self._events.phase_reached("main", "executed")

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
        if self._is_reloading or self._is_stopping:
            self._is_to_reload = True
            return
        self._is_reloading = True
        done = Deferred.fromCoroutine(self._reload())
        done.addErrback(lambda reason: self._refuse([repr(reason.value)]))
        done.addCallback(lambda _: self._reloaded())

    def _reloaded(self) -> None:
        self._is_reloading = False
        if self._is_to_reload:
            self._is_to_reload = False
            self.reload()

    async def _reload(self) -> None:
        started_at = self.reactor.seconds()
        self._supervisor.reloading()
        self._events.phase_reached("main", "reload")
        try:
            await self._renew()
        except SettingsError as e:
            self.reloads[RELOAD_REFUSED] += 1
            self._refuse(e.problems)
        except (CannotListenError, NotRenewed) as e:
            self.reloads[RELOAD_REFUSED] += 1
            self._refuse([str(e)])
        else:
            self.reloads[RELOAD_DONE] += 1
            took = self.reactor.seconds() - started_at
            assert self._workers is not None
            self._events.reload_done(self._workers.generation, took)
            await self._execute_when_alone()
        self._supervisor.ready()

    def _refuse(self, problems: list[str]) -> None:
        for problem in problems:
            self._events.reload_refused(problem)

    async def _renew(self) -> None:
        """
        @raise SettingsError: the configuration is wrong.
        @raise CannotListenError: it has another port, which is not to be had.
        @raise NotRenewed: what is new does not work.
        """
        configuration = self._read_again()
        sockets = self._sockets_for(configuration.settings)
        workers = self._workers
        if workers is None:
            assert self._logiss is not None
            workers = Workers(
                self.reactor,
                Processes(self.reactor),
                self._events,
                self._plan(configuration, sockets),
                self._given_up,
            )
        if self._logiss is not None:
            workers.own_could = self._logiss.is_prepared
        try:
            await workers.renew(self._plan(configuration, sockets))
        except NotRenewed:
            if sockets is not self._sockets:
                sockets.close()
            raise
        await self._go_over_to(workers, configuration, sockets)

    def _sockets_for(self, settings: Settings) -> Sockets:
        """Those that there are, unless `settings` want others."""
        now = self.settings
        is_logs = self._given.logs is not None or (
            (settings.port, settings.listen_host) == (now.port, now.listen_host)
        )
        is_admin = self._given.admin is not None or (
            (settings.admin_port, settings.admin_host)
            == (now.admin_port, now.admin_host)
        )
        if is_logs and is_admin:
            return self._sockets
        shared = self._sockets.shared()
        kept = Listeners(
            shared.logs if is_logs else None, shared.admin if is_admin else None
        )
        return self._open(settings, kept)

    async def _go_over_to(
        self, workers: Workers, configuration: Configuration, sockets: Sockets
    ) -> None:
        is_first = self._workers is None
        self._workers, self._configuration = workers, configuration
        if sockets is not self._sockets:
            before, self._sockets = self._sockets, sockets
            before.close()
        if not is_first:
            return
        workers.watch()
        logiss = self._logiss
        assert logiss is not None
        workers.own = logiss.watch
        workers.started_at = logiss.watch.facts().started_at
        await logiss.end_admin()
        self._open_admin()
        left = Deferred.fromCoroutine(self._leave(logiss, workers))
        left.addErrback(lambda reason: self._refuse([repr(reason.value)]))

    async def _leave(self, logiss: LogissService, workers: Workers) -> None:
        """What this process has served itself leaves, as an old worker does."""
        await logiss.leave(workers.plan.leave_seconds)
        if self._is_stopping:
            return
        await logiss.stopService()
        workers.own_has_gone(logiss.watch.facts(), logiss.watch.sample())
        self._logiss = None
        if not self._is_reloading:
            await self._execute_when_alone()

    async def _execute_when_alone(self) -> None:
        """Take the code that is installed now, unless clients are still served here."""
        if self._logiss is None and self._may_execute and not self._is_stopping:
            await self.lines_written()
            self._execute()

    def _execute(self) -> None:
        workers = self._workers
        assert workers is not None
        admin = self._sockets.admin
        takeover = Takeover(
            self._sockets.logs.descriptor,
            None if admin is None else admin.descriptor,
            workers.generation,
            self._configuration.environ,
            self._given.variables,
            tuple(
                Handed(
                    w.number,
                    w.generation,
                    w.process.pid,
                    w.process.descriptor,
                    w.state,
                    w.started_at,
                    w.process.intercom.unread,
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
        # What comes meanwhile waits until somebody listens again.
        held = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        environ = {
            **os.environ,
            **self._supervisor.variables,
            TAKEOVER: str(hand_over(takeover)),
        }
        try:
            os.execve(  # noqa: S606, it is this very program
                sys.executable, [sys.executable, *sys.orig_argv[1:]], environ
            )
        except OSError as e:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
            self._refuse(
                [
                    f"cannot execute {sys.executable!r} anew: {e.strerror}; the workers"
                    " are new, their parent is what it was"
                ]
            )

    def stopping(self, why: str) -> None:
        self._supervisor.stopping()
        self._events.phase_reached("main", "shutdown-signal", signal=why)

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def give_up(self) -> None:
        if self._workers is not None:
            self._workers.kill()

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
        self._sockets.close()
        code = int(self._has_given_up)
        own = None if self._logiss is None else self._logiss.stopService()
        if self._workers is not None and not await self._workers.stop():
            code = 1
        if own is not None:
            await own
        if self._admin is not None:
            await self._admin.stop()
        if self._workers is not None and own is None:
            self._events.phase_reached("main", "exit")
        return code


def count_of(settings: Settings) -> int:
    """How many workers there are to be."""
    return cpus.usable() if settings.workers == AUTO else settings.workers
