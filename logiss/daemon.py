"""
What ``twist logiss`` and ``twistd -n logiss`` run: the service of a process of its
own, with its journal, its signals and its exit code.
"""

import errno
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.components import Componentized
from twisted.python.usage import Options as UsageOptions
from zope.interface import implementer

from logiss import memory
from logiss import settings as settings_room
from logiss.activation import (
    ActivationError,
    Listeners,
    environ_at_start,
    take_over,
)
from logiss.descriptors import raise_descriptors_max
from logiss.journal import Journal, open_sink
from logiss.l2met import EventLog
from logiss.receiver import ReceiverFactory, printable
from logiss.service import (
    LogissService,
    descriptor_problems,
    descriptors_wanted,
    platform_problems,
)
from logiss.settings import Settings, SettingsError
from logiss.variables import Destination

#: How long the reader of the log may take for the last lines.
LAST_LINES_SECONDS = 1.0
#: A signal so soon after the first is the same one: timeout(1) and terminals send
#: theirs to the process and to its group.
SAME_SIGNAL_SECONDS = 0.2
_POLL_SECONDS = 0.02

_TRY_MSG = "<190>1 2013-06-07T13:17:49.468822+00:00 host app web.1 - - hello"
TRY_CREDENTIALS = ("test", "token")
#: A frame to paste into a terminal; it has no line feed at its end.
TRY_FRAME = f"{len(_TRY_MSG)} {_TRY_MSG}"


@implementer(ILogObserver)
class _TwistedEvents:
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


class Options(UsageOptions):
    """Options of ``twist logiss``; what there is to configure is in the environment."""

    optFlags = [
        (
            "with-receiver",
            None,
            "For trying it out: when FORWARD_DEST is not set, forward to an embedded"
            " receiver that prints each frame, with DEPLOY=local, PORT=5000 and"
            " TOKEN_MAP=test:token unless they are set.",
        ),
    ]

    optParameters = [
        (
            "http",
            None,
            None,
            "HTTP channel, 'fast' or 'stock' (twisted.web's); default: HTTP_CHANNEL,"
            " else fast.",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.twisted_events = _TwistedEvents()

    def postOptions(self) -> None:
        # One grammar on stdout: under twist, Twisted's own events become lines of
        # ours here; for twistd see `_Daemon.setServiceParent`.
        parent = getattr(self, "parent", None)
        if parent is not None and "fileLogObserverFactory" in parent:
            parent["fileLogObserverFactory"] = lambda _: self.twisted_events

    def log_fd(self) -> int:
        """Where the log goes: stdout, or what ``twist --log-file`` names."""
        try:
            return int(self.parent["logFile"].fileno())  # type: ignore[index]
        except (AttributeError, KeyError, OSError, TypeError):
            return 1


def makeService(options: Options) -> Service:
    """
    The daemon of ``twist logiss`` and ``twistd -n logiss``, configured by the
    environment. Mistakes in it end the process with exit code 1.
    """
    from twisted.internet import reactor

    try:
        listeners = take_over(os.environ, os.getpid(), environ_at_start())
    except ActivationError as e:
        _exit_with([str(e)])
    environ = {**os.environ, **listeners.variables}
    if options["http"] is not None:
        environ["HTTP_CHANNEL"] = options["http"]
    trying = bool(options["with-receiver"]) and not environ.get("FORWARD_DEST")
    if trying:
        environ = {
            "DEPLOY": "local",
            "PORT": "5000",
            "TOKEN_MAP": ":".join(TRY_CREDENTIALS),
            **{name: value for name, value in environ.items() if value},
            "FORWARD_DEST": "127.0.0.1:1",
        }
    try:
        settings = settings_room.read(environ)
    except SettingsError as e:
        _exit_with(e.problems)
    raise_descriptors_max(descriptors_wanted(settings))
    problems = platform_problems(settings) + descriptor_problems(settings)
    if problems:
        _exit_with(problems)
    return _Daemon(
        reactor,
        settings,
        listeners,
        options.twisted_events,
        options.log_fd(),
        trying,
    )


def _exit_with(problems: list[str]) -> NoReturn:
    for problem in problems:
        _to_stderr(f"logiss: {problem}")
    sys.exit(1)


def _why_not_listening(error: CannotListenError, settings: Settings) -> str:
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


def _to_stderr(text: str) -> None:
    # Twisted puts its log in the place of sys.stderr once it runs.
    print(text, file=sys.__stderr__, flush=True)


class _Daemon(Service):
    """The service of a process of its own: its journal, signals and exit code."""

    name = "logiss-daemon"

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        listeners: Listeners,
        twisted_events: _TwistedEvents,
        log_fd: int,
        trying: bool,
    ) -> None:
        self._log_fd = log_fd
        self._reactor = reactor
        self._settings = settings
        self._listeners = listeners
        self._twisted_events = twisted_events
        self._trying = trying
        self._signalled_at: float | None = None

    def setServiceParent(self, parent: Any) -> None:
        # The application, where twistd looks for who is to be told its events.
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._twisted_events)
        super().setServiceParent(parent)

    def startService(self) -> None:
        super().startService()
        memory.keep_freed()
        reactor = self._reactor
        self._journal = Journal(reactor, open_sink(self._log_fd))
        try:
            if self._trying:
                self._settings = evolve(
                    self._settings, forward_dest=self._embed_receiver()
                )
            self._logiss = LogissService(
                reactor, self._settings, self._journal.write, self._listeners
            )
            self._logiss.logs.budget.on_given_back = memory.give_back_freed
            self._logiss.startService()
        except CannotListenError as e:
            _exit_with([_why_not_listening(e, self._settings)])
        self._journal.on_dropped = self._lines_dropped
        self._twisted_events.attach(self._logiss.events)
        if self._trying:
            self._say_how_to_try()
        # Twisted installs its handlers when it runs; ours come after them.
        reactor.callWhenRunning(self._catch_signals)

    def _lines_dropped(self, count: int) -> None:
        self._logiss.metrics.log_lines_dropped += count
        self._logiss.events.lines_dropped(count)

    def _embed_receiver(self) -> Destination:
        factory = ReceiverFactory(
            lambda frame: self._journal.write(printable(frame)),
            lambda error: self._journal.write(f"receiver: {error}"),
        )
        port = self._reactor.listenTCP(0, factory, interface="127.0.0.1")
        return Destination("127.0.0.1", port.getHost().port)

    def _say_how_to_try(self) -> None:
        # The one that everybody knows may be printed, an operator's may not.
        known = self._settings.tokens[0] == TRY_CREDENTIALS
        user, token = TRY_CREDENTIALS if known else ("USER", "TOKEN")
        _to_stderr(
            f"""
logiss: FORWARD_DEST IS NOT SET. Frames go to an embedded receiver on
logiss: {self._settings.forward_dest[0]}, which prints each on a line of its own
logiss: and KEEPS NOTHING. To try it, paste:

curl -i -u '{user}:{token}' -H 'Content-Type: application/logplex-1' \\
  --data-binary '{TRY_FRAME}' \\
  http://127.0.0.1:{self._logiss.address.port}/logs
"""
        )

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signal_received)

    def _signal_received(self, number: int, frame: FrameType | None) -> None:
        now = self._reactor.seconds()
        if self._signalled_at is None:
            self._signalled_at = now
        elif now - self._signalled_at > SAME_SIGNAL_SECONDS:
            # The operator does not want to wait for the drain.
            os._exit(128 + number)
        else:
            return
        self._reactor.callFromThread(self._shut_down, signal.Signals(number).name)

    def _shut_down(self, name: str) -> None:
        self._logiss.events.phase_reached("main", "shutdown-signal", signal=name)
        # Not the reactor's own way with signals, which ends the process by the
        # signal instead of with exit code 0.
        self._reactor.stop()

    async def _stop(self) -> None:
        await self._logiss.stopService()
        deadline = self._reactor.seconds() + LAST_LINES_SECONDS
        self._journal.flush()
        while self._journal.waiting and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, _POLL_SECONDS)
            self._journal.flush()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())
