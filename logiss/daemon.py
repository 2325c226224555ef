"""
What ``twist logiss`` and ``twistd -n logiss`` run: the service of a process of its
own, with its journal, its signals and its exit code.
"""

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from twisted.application.service import Service
from twisted.internet.error import CannotListenError
from twisted.python.usage import Options as UsageOptions

from logiss import activation, env_file, takeover
from logiss import settings as settings_room
from logiss.activation import ActivationError, environ_at_start
from logiss.descriptors import raise_descriptors_max
from logiss.env_file import ENV_FILE, EnvFileError, Environment
from logiss.intercom import NotUnderstood
from logiss.l2met import EventLog
from logiss.life import TwistedEvents, exit_with, to_stderr
from logiss.notify import Supervisor
from logiss.parent import Configuration, Parent, why_not_listening
from logiss.processes import TRIAL, TRIAL_PASSED, WORKER, place_of
from logiss.receiver import ReceiverFactory, printable
from logiss.service import (
    descriptor_problems,
    descriptors_wanted,
    platform_problems,
)
from logiss.settings import SettingsError
from logiss.variables import Destination
from logiss.worker import WorkerProcess

_TRY_MSG = "<190>1 2013-06-07T13:17:49.468822+00:00 host app web.1 - - hello"
TRY_CREDENTIALS = ("test", "token")
#: Stands for the embedded receiver until that is there.
_NOWHERE = "127.0.0.1:1"
#: A frame to paste into a terminal; it has no line feed at its end.
TRY_FRAME = f"{len(_TRY_MSG)} {_TRY_MSG}"


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
        self.twisted_events = TwistedEvents()

    def postOptions(self) -> None:
        # One grammar on stdout: under twist, Twisted's own events become lines of
        # ours here; for twistd see `_Daemon.setServiceParent`.
        parent = getattr(self, "parent", None)
        if parent is not None and "fileLogObserverFactory" in parent:
            parent["fileLogObserverFactory"] = lambda _: self.twisted_events

    def is_twistd(self) -> bool:
        """Whether it runs as twistd does, with a file of its process number."""
        return "pidfile" in (getattr(self, "parent", None) or {})

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

    worker = os.environ.pop(WORKER, "")
    if worker == TRIAL:
        _try_out()
    if worker:
        return _worker(reactor, worker, options)
    supervisor = Supervisor(os.environ, os.getpid())
    try:
        before = takeover.take_over(os.environ)
        listeners = activation.take_over(os.environ, os.getpid(), environ_at_start())
    except (ActivationError, NotUnderstood) as e:
        exit_with([str(e)])
    environment = Environment(os.environ)
    given = before.given if before else listeners.variables

    def read_again() -> Configuration:
        return _configuration(complete(environment.at_start, options, given))

    problems: list[str] = []
    try:
        if before is None:
            configuration = read_again()
        else:
            configuration, problems = taken_over(before)
    except SettingsError as e:
        exit_with(e.problems)
    is_trying = configuration.environ.get("FORWARD_DEST") == _NOWHERE
    kind = _Trying if is_trying else _Daemon
    return kind(
        reactor,
        configuration,
        options.twisted_events,
        options.log_fd(),
        given=listeners,
        read_again=read_again,
        environment=environment,
        supervisor=supervisor,
        before=before,
        problems=problems,
        may_execute=not is_trying and not options.is_twistd(),
    )


def _try_out() -> NoReturn:
    """Begin as the parent would that takes over, and say whether that is possible."""
    # Only then is it needed, and would be missed too late.
    import logiss.status  # noqa: F401

    try:
        before = takeover.take_over(os.environ)
        if before is None:
            exit_with([f"{WORKER}: is not for you to set; unset it"])
        _, problems = taken_over(before)
    except NotUnderstood as e:
        exit_with([str(e)])
    if problems:
        exit_with(problems)
    sys.exit(TRIAL_PASSED)


def taken_over(before: takeover.Takeover) -> tuple[Configuration, list[str]]:
    """
    The configuration of the parent that this process was, and what is not right any
    more, such as a file that has gone: without a parent there would be no workers.
    """
    environ = dict(before.environ)
    settings, problems = settings_room.read_what_is_right(environ)
    return Configuration(settings, environ), problems


def _worker(reactor: Any, text: str, options: Options) -> Service:
    place = place_of(text)
    if place is None:
        exit_with(["LOGISS_WORKER: is not for you to set; unset it"])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = settings_room.read(os.environ)
    except SettingsError as e:
        exit_with(e.problems)
    raise_descriptors_max(descriptors_wanted(settings))
    return WorkerProcess(
        reactor, settings, place, options.twisted_events, options.log_fd()
    )


def complete(
    environ: Mapping[str, str], options: Mapping[str, Any], given: Mapping[str, str]
) -> dict[str, str]:
    """
    `environ` with what stands in its file and on the command line.

    @param given: of sockets that were handed over, whatever else is said.
    @raise SettingsError: the file cannot be read.
    """
    try:
        variables = {**env_file.merged(environ), **given}
    except EnvFileError as e:
        raise SettingsError([str(e)]) from None
    if options["http"] is not None:
        variables["HTTP_CHANNEL"] = options["http"]
    if options["with-receiver"] and not variables.get("FORWARD_DEST"):
        return {
            "DEPLOY": "local",
            "PORT": "5000",
            "TOKEN_MAP": ":".join(TRY_CREDENTIALS),
            **{name: value for name, value in variables.items() if value},
            "FORWARD_DEST": _NOWHERE,
        }
    return variables


def _configuration(environ: dict[str, str]) -> Configuration:
    """
    @raise SettingsError: with all that is wrong.
    """
    settings = settings_room.read(environ)
    raise_descriptors_max(descriptors_wanted(settings))
    problems = platform_problems(settings) + descriptor_problems(settings)
    if problems:
        raise SettingsError(problems)
    # Workers get what was read, and do not read the file again.
    return Configuration(settings, {n: v for n, v in environ.items() if n != ENV_FILE})


class _Daemon(Parent):
    """A logiss that says what it cannot listen on."""

    def begin(self) -> EventLog:
        try:
            return super().begin()
        except CannotListenError as e:
            exit_with([why_not_listening(e, self.settings)])


class _Trying(_Daemon):
    """One that forwards to an embedded receiver, which prints what it gets."""

    def begin(self) -> EventLog:
        self.change_destination(self._embed_receiver())
        events = super().begin()
        self._say_how_to_try()
        return events

    def _embed_receiver(self) -> Destination:
        factory = ReceiverFactory(
            lambda frame: self.journal.write(printable(frame)),
            lambda error: self.journal.write(f"receiver: {error}"),
        )
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        return Destination("127.0.0.1", port.getHost().port)

    def _say_how_to_try(self) -> None:
        # The one that everybody knows may be printed, an operator's may not.
        known = self.settings.tokens[0] == TRY_CREDENTIALS
        user, token = TRY_CREDENTIALS if known else ("USER", "TOKEN")
        to_stderr(
            f"""
logiss: FORWARD_DEST IS NOT SET. Frames go to an embedded receiver on
logiss: {self.settings.forward_dest[0]}, which prints each on a line of its own
logiss: and KEEPS NOTHING. To try it, paste:

curl -i -u '{user}:{token}' -H 'Content-Type: application/logplex-1' \\
  --data-binary '{TRY_FRAME}' \\
  http://127.0.0.1:{self.port}/logs
"""
        )
