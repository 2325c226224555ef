"""
What a process of its own has: a journal, signals, an end in order and an exit code.
"""

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.components import Componentized
from zope.interface import implementer

from logiss import memory
from logiss.journal import Journal, open_sink
from logiss.l2met import EventLog

#: How long the reader of the log may take for the last lines.
LAST_LINES_SECONDS = 1.0
#: A signal so soon after the first is the same one: timeout(1) and terminals send
#: theirs to the process and to its group.
SAME_SIGNAL_SECONDS = 0.2
_POLL_SECONDS = 0.02


@implementer(ILogObserver)
class TwistedEvents:
    """Turns what Twisted logs into lines of ours, once there is a log."""

    def __init__(self) -> None:
        self._early: list[LogEvent] = []
        self._events: EventLog | None = None

    def attach(self, events: EventLog) -> None:
        self._events = events
        early, self._early = self._early, []
        for event in early:
            self(event)

    def __call__(self, event: LogEvent) -> None:
        if self._events is None:
            self._early.append(event)
            return
        level = event.get("log_level", LogLevel.info)
        if level < LogLevel.warn:
            return
        message = formatEvent(event)
        if "log_failure" in event:
            message = f"{message}: {event['log_failure'].value!r}"
        self._events.twisted_event(
            level.name, str(event.get("log_namespace", "-")), message
        )


def to_stderr(text: str) -> None:
    # Twisted puts its log in the place of sys.stderr once it runs.
    print(text, file=sys.__stderr__, flush=True)


def exit_with(problems: list[str]) -> NoReturn:
    """End a process that has not begun."""
    for problem in problems:
        to_stderr(f"logiss: {problem}")
    sys.exit(1)


class Life(Service):
    """
    The service of a process. What it does is up to those who derive from it.

    @ivar journal: once it is started.
    """

    name = "logiss-daemon"

    def __init__(
        self,
        reactor: Any,
        twisted_events: TwistedEvents,
        log_fd: int,
        atomic_bytes: int | None = None,
    ) -> None:
        self.reactor = reactor
        self._twisted_events = twisted_events
        self._log_fd = log_fd
        self._atomic_bytes = atomic_bytes
        self._signalled_at: float | None = None
        self._is_hung_up = False
        self._is_stopping = False

    # what it does

    def begin(self) -> EventLog:
        """
        Do what the process is there for.

        @return: where events of Twisted go to.
        """
        raise NotImplementedError

    async def end(self) -> int:
        """
        Drain.

        @return: the exit code.
        """
        raise NotImplementedError

    def stopping(self, why: str) -> None:
        """It is told to stop, and is about to."""

    def reload(self) -> None:
        """SIGHUP has come; several at once are one."""

    def give_up(self) -> None:
        """It ends now, whatever is under way."""

    def lines_dropped(self, count: int) -> None:
        """So many lines of the log nobody has read in time."""

    # how it does it

    def setServiceParent(self, parent: Any) -> None:
        # The application, where twistd looks for who is to be told its events.
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._twisted_events)
        super().setServiceParent(parent)

    def startService(self) -> None:
        super().startService()
        memory.keep_freed()
        sink = open_sink(self._log_fd)
        self.journal = Journal(self.reactor, sink, atomic_bytes=self._atomic_bytes)
        events = self.begin()
        self.journal.on_dropped = self.lines_dropped
        self._twisted_events.attach(events)
        # Twisted installs its handlers when it runs; ours come after them.
        self.reactor.callWhenRunning(self._catch_signals)
        self.reactor.callWhenRunning(memory.set_aside_started)

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signal_received)
        signal.signal(signal.SIGHUP, self._hangup_received)
        # Held back until now in one that has replaced itself, and in a worker.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _hangup_received(self, number: int, frame: FrameType | None) -> None:
        self._is_hung_up = True
        self.reactor.callFromThread(self._hung_up)

    def _hung_up(self) -> None:
        if self.take_hangup():
            self.reload()

    def take_hangup(self) -> bool:
        """Whether SIGHUP has come, and `reload` not been called for it; forgets it."""
        came, self._is_hung_up = self._is_hung_up, False
        return came

    @property
    def is_signalled_to_stop(self) -> bool:
        return self._signalled_at is not None

    def _signal_received(self, number: int, frame: FrameType | None) -> None:
        now = self.reactor.seconds()
        if self._signalled_at is None:
            self._signalled_at = now
        elif now - self._signalled_at > SAME_SIGNAL_SECONDS:
            # The operator does not want to wait for the drain.
            self.give_up()
            os._exit(128 + number)
        else:
            return
        self.reactor.callFromThread(self.stop, signal.Signals(number).name)

    def stop(self, why: str) -> None:
        """Drain and end the process, once."""
        if not self._is_stopping:
            self._is_stopping = True
            self.stopping(why)
            # Not the reactor's own way with signals, which ends the process by the
            # signal instead of with exit code 0.
            self.reactor.stop()

    async def lines_written(self) -> None:
        """Wait until somebody has read the log, for a while."""
        deadline = self.reactor.seconds() + LAST_LINES_SECONDS
        self.journal.flush()
        while self.journal.waiting and self.reactor.seconds() < deadline:
            await deferLater(self.reactor, _POLL_SECONDS)
            self.journal.flush()

    async def _stop(self) -> None:
        code = await self.end()
        await self.lines_written()
        if code:
            # What runs us ends with 0 whenever the reactor has stopped.
            self.reactor.addSystemEventTrigger("after", "shutdown", os._exit, code)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._is_stopping = True
        return Deferred.fromCoroutine(self._stop())
