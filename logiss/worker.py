"""
A worker: a whole logiss that does what its parent says, and tells it once a second what
it knows.
"""

import os
import select
from collections.abc import Callable
from typing import Any, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.python import log

from logiss import memory
from logiss.activation import Listeners, inherited
from logiss.facts import IWatch
from logiss.intercom import DIALECT, Intercom, connect, written
from logiss.l2met import EventLog
from logiss.life import Life, TwistedEvents
from logiss.processes import Place
from logiss.service import LogissService
from logiss.settings import Settings
from logiss.shares import Shares
from logiss.takeover import VERSION

#: How long the parent may take to hear the end of it.
LAST_WORDS_SECONDS = 1.0
#: How long the parent may take to say what a signal means that both of them got.
PARENT_SECONDS = 0.5
#: Why a worker ends whose parent is gone.
ORPHANED = "orphaned"

_BEAT_SECONDS = 1.0
_LOOK_SECONDS = 0.05


class IServes(Protocol):
    """What a worker does with its logiss."""

    @property
    def has(self) -> tuple[bool, bool]: ...

    @property
    def counts(self) -> tuple[int, int]: ...

    def accept(self) -> None: ...

    async def leave(self, within_seconds: float) -> None: ...


class Obedience:
    """
    @param watch: what is told; None when nobody wants to know.
    @param stop: has the process drain and end.
    @ivar intercom: to be connected.
    """

    def __init__(
        self,
        clock: IReactorTime,
        logiss: IServes,
        watch: IWatch | None,
        stop: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._logiss = logiss
        self._watch = watch
        self._stop = stop
        self._is_connected = True
        self._accepts = self._leaves = False
        self._had: tuple[bool, bool] | None = None
        self.intercom = Intercom(self._told, self._orphaned)
        self._telling = LoopingCall(self.tell)
        self._looking = LoopingCall(self._look)
        self._telling.clock = self._looking.clock = clock

    def start(self) -> None:
        self._telling.start(_BEAT_SECONDS)
        self._looking.start(_LOOK_SECONDS)

    async def end(self) -> None:
        """Tell for the last time, and wait for a while until it is taken."""
        for call in (self._telling, self._looking):
            if call.running:
                call.stop()
        self.tell()
        if self._is_connected:
            self.intercom.hang_up()
        deadline = self._clock.seconds() + LAST_WORDS_SECONDS
        while self._is_connected and self._clock.seconds() < deadline:
            await deferLater(self._clock, _LOOK_SECONDS)

    def tell(self) -> None:
        # Who does not listen does not get it later.
        if not self._is_connected or self.intercom.is_behind:
            return
        # A parent of another version is to understand all but this.
        more = b""
        if self._watch is not None:
            more = written((self._watch.facts(), self._watch.sample()))
        self.intercom.say("told", DIALECT, *self._logiss.counts, more)

    def _look(self) -> None:
        has = self._logiss.has
        if all(has):
            # Nobody waits for it any more.
            self._looking.interval = _BEAT_SECONDS
        if has != self._had and self._is_connected:
            self._had = has
            self.intercom.say("has", *has)
            # This alone is understood by parents of older versions.
            self.intercom.say("prepared", all(has))

    def _told(self, message: tuple[Any, ...]) -> None:
        match message:
            # Each may be said twice, for the parent may have executed itself anew.
            case ("accept",):
                self._accept()
            case ("leave", float(within_seconds)) if not self._leaves:
                self._leaves = True
                left = Deferred.fromCoroutine(self._logiss.leave(within_seconds))
                left.addErrback(lambda reason: log.err(reason))
                left.addCallback(lambda _: self._stop("leave"))
            case ("stop",):
                self._stop("stop")

    def _accept(self) -> None:
        if self._leaves:
            return
        if not self._accepts:
            self._accepts = True
            self._logiss.accept()
        # Who says it again may not have heard whether posts can be delivered.
        self._had = None
        self.intercom.say("accepts")

    def _orphaned(self) -> None:
        """The parent is gone: without it nobody could end us, or start another."""
        self._is_connected = False
        self._stop(ORPHANED)


class WorkerProcess(Life):
    """
    The process of a worker.

    @param place: what its parent has given it.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        place: Place,
        twisted_events: TwistedEvents,
        log_fd: int,
    ) -> None:
        super().__init__(reactor, twisted_events, log_fd, select.PIPE_BUF)
        self._settings = settings
        self._place = place

    def begin(self) -> EventLog:
        place = self._place
        self._logiss = LogissService(
            self.reactor,
            evolve(self._settings, admin_port=None),
            self.journal.write,
            Listeners(inherited(place.listener)),
            place.number,
            Shares(place.shares, place.number - 1),
        )
        self._logiss.logs.budget.on_given_back = memory.give_back_freed
        self._logiss.prepare()
        is_watched = self._settings.admin_port is not None
        if is_watched:
            # The parent, about to take the same code, would find out too late that
            # this is missing or broken.
            import logiss.status  # noqa: F401
        watch = self._logiss.watch if is_watched else None
        self._obedience = Obedience(self.reactor, self._logiss, watch, self._told)
        connect(self.reactor, place.intercom, self._obedience.intercom)
        os.close(place.intercom)
        self._obedience.intercom.say("understands", VERSION)
        self._obedience.start()
        return self._logiss.events

    def _told(self, why: str) -> None:
        if why == ORPHANED:
            self._leave(why)
        else:
            super().stop(why)

    def stop(self, why: str) -> None:
        """A signal has come. If the parent got it as well, it says what to do."""
        self.reactor.callLater(PARENT_SECONDS, self._leave, why)

    def _leave(self, why: str) -> None:
        """End without posts answered 503: others have the port."""
        if self._is_stopping:
            return
        within_seconds = self._settings.delivery_timeout_seconds
        left = Deferred.fromCoroutine(self._logiss.leave(within_seconds))
        left.addErrback(lambda reason: log.err(reason))
        left.addCallback(lambda _: super(WorkerProcess, self).stop(why))

    def lines_dropped(self, count: int) -> None:
        self._logiss.metrics.log_lines_dropped += count
        self._logiss.events.lines_dropped(count)

    def stopping(self, why: str) -> None:
        self._logiss.events.phase_reached("main", "shutdown-signal", signal=why)

    async def end(self) -> int:
        await self._logiss.stopService()
        await self._obedience.end()
        return 0
