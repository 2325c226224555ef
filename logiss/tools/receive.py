"""
``logiss receive``: takes the frames that a logiss forwards, and shows that it does.

One thread does everything, and writing waits for who takes what is written: while a
pager or a disk takes nothing, nothing is read from the senders either, so that nothing
is lost and nothing grows.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import define
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from logiss._version import __version__
from logiss.arrivals import Arrivals
from logiss.foreground import say as _say
from logiss.outlets import Descriptor, Outlet, RotatedFile
from logiss.probes import Altered
from logiss.receiver import NotTaken, ReceiverFactory, printable
from logiss.relp_receiver import RELPReceiverFactory
from logiss.variables import (
    parse_count,
    parse_pem_file,
    parse_port,
    parse_seconds,
    parse_size_or_nothing,
)
from logiss.words import many, size

#: How long it waits for what should not come, once everything has that should.
LINGER_SECONDS = 0.5
#: How long senders may take to end their connections.
GOODBYE_SECONDS = 0.5
#: So many lines a second on what is wrong; the others are counted.
COMPLAINTS_MAX = 10

_TICK_SECONDS = 1.0
_POLL_SECONDS = 0.02
_SHOWN_MAX = 200

T = TypeVar("T")

_DESCRIPTION = """\
Takes the syslog frames that a logiss forwards, and shows them: it is the other end for
trying logiss out, and for finding out whether everything arrives. Give logiss
FORWARD_DEST=127.0.0.1:PORT, or relp://127.0.0.1:PORT with --relp. It ends with Ctrl-C.

Each frame is printed on a line of its own, with what a terminal would take for
commands written as \\n or \\x1b. While nobody takes the output, nothing is read from
the senders.
"""
_EPILOG = """\
examples:
  logiss receive --port 5514
      print each frame
  logiss receive --port 5514 --count
      print how many there are
  logiss receive --port 5514 --relp --output logs
      keep them in a file, and answer each when it is there
  logiss receive --port 5514 --verify --expect 1000
      check that what 'logiss send --test 1000' sends arrives

The exit code is 0, or 1 when a frame could not be written, or when --verify has found
something missing or altered.
"""


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "receive",
        help="receive syslog over TCP, TLS or RELP; print, count, keep or verify it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_where(parser.add_argument_group("where and how to listen"))
    _add_what(parser.add_argument_group("what to do with the frames"))
    _add_verify(parser.add_argument_group("test messages"))
    parser.set_defaults(call=receive)


def _add_where(group: Any) -> None:
    group.add_argument(
        "--port", type=_typed(parse_port), required=True, help="TCP port; 0 is any"
    )
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; default: %(default)s, which only this machine"
        " reaches",
    )
    group.add_argument(
        "--relp",
        action="store_true",
        help="speak RELP, and answer each frame when it is written; without it the"
        " frames are octet-counted (RFC 6587)",
    )
    group.add_argument(
        "--tls-cert",
        metavar="FILE",
        help="speak TLS, with the certificate and the private key in this PEM file",
    )
    group.add_argument(
        "--tls-ca",
        metavar="FILE",
        help="let only senders in that have a certificate of an authority in this PEM"
        " file; with --tls-cert",
    )


def _add_what(group: Any) -> None:
    group.add_argument(
        "--count",
        action="store_true",
        help="print no frames but how many have come, each second in which some have",
    )
    group.add_argument(
        "--output",
        metavar="FILE",
        help="append the frames to this file, each on a line, line feeds in it as \\n."
        " SIGHUP opens it anew",
    )
    group.add_argument(
        "--rotate-bytes",
        type=_typed(parse_size_or_nothing),
        metavar="SIZE",
        help="how large the file may become before it is called FILE.1 and a new one is"
        " begun: bytes, or KiB, MiB or GiB; 0 is without end; default: 64MiB",
    )
    group.add_argument(
        "--rotate-keep",
        type=_typed(parse_count),
        metavar="N",
        help="how many old files are kept, FILE.1 to FILE.N; default: 5",
    )
    group.add_argument(
        "--framed",
        action="store_true",
        help="write the frames octet-counted, without line feeds, so that each octet"
        " is kept; 'logiss send --framed' sends them again",
    )


def _add_verify(group: Any) -> None:
    group.add_argument(
        "--verify",
        action="store_true",
        help="print no frames but at the end which test messages of 'logiss send"
        " --test' have come, twice, changed or not at all",
    )
    group.add_argument(
        "--expect",
        type=_typed(_parse_number),
        metavar="N",
        help="each run has the messages 1 to N; end when they have come. Without it"
        " what is behind the last that has come is not missed",
    )
    group.add_argument(
        "--no-duplicates",
        action="store_true",
        help="a message that comes twice is an error; a retry may well send one twice",
    )
    group.add_argument(
        "--seconds",
        type=_typed(parse_seconds),
        metavar="S",
        help="end after so long, as 30 or 5m; default: when it is told to",
    )


def _typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as e:
            raise argparse.ArgumentTypeError(str(e)) from None

    return convert


def _parse_number(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 9 and int(text):
        return int(text)
    raise ValueError(f"must be a whole number from 1 to 999999999, not {text!r}")


class Unusable(Exception):
    """What was asked for cannot be done. Says why, on one line."""


def receive(arguments: argparse.Namespace) -> int:
    try:
        _check(arguments)
        return _run(arguments)
    except Unusable as e:
        _say(f"logiss receive: {e}")
    except KeyboardInterrupt:
        _say("logiss receive: given up")
    return 1


def _check(arguments: argparse.Namespace) -> None:
    """@raise Unusable: options that do not fit together."""
    for name, needed in (
        ("rotate_bytes", "output"),
        ("rotate_keep", "output"),
        ("tls_ca", "tls_cert"),
        ("expect", "verify"),
        ("no_duplicates", "verify"),
    ):
        is_given = getattr(arguments, name) not in (None, False)
        if is_given and not getattr(arguments, needed):
            raise Unusable(f"{_option(name)}: needs {_option(needed)} beside it")
    is_written = arguments.output or not (arguments.count or arguments.verify)
    if arguments.framed and not is_written:
        raise Unusable("--framed: no frames are written; give --output, too")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _run(arguments: argparse.Namespace) -> int:
    from twisted.internet import reactor as _reactor

    receiving = Receiving(_reactor, arguments)
    receiving.listen()
    receiving.catch_signals()
    # Its own way with signals ends the process by them.
    receiving.reactor.run(installSignalHandlers=False)
    return receiving.result()


@define
class _Counts:
    """What has come; what could not be written has not."""

    frames: int = 0
    octets: int = 0
    not_written: int = 0

    def __str__(self) -> str:
        return f"{many(self.frames, 'frame')}, {size(self.octets)}"


class Receiving:
    """
    One listening port, and what becomes of what comes there.

    @raise Unusable: a file cannot be used.
    """

    def __init__(self, reactor: Any, arguments: argparse.Namespace) -> None:
        self.reactor = reactor
        self._arguments = arguments
        self._is_ending = False
        self._is_quiet = False
        self._is_complete = False
        if sys.stdout is None:
            # Its number may be that of something else by now.
            raise Unusable("standard output is closed; send it somewhere")
        self._stdout = Descriptor(1, lambda: self._is_ending)
        self._file = self._opened()
        self._is_printing = not (arguments.count or arguments.verify or self._file)
        self._outlet: Outlet | None = self._file
        if self._is_printing:
            self._outlet = self._stdout
        self._form = self._form_of()
        self._arrivals: Arrivals | None = None
        if arguments.verify:
            self._arrivals = Arrivals(arguments.expect, not arguments.no_duplicates)
        self._counts = _Counts()
        self._counted = 0
        self._complained = self._unsaid = 0
        self._factory = self._made()
        self._port: Any = None

    def _opened(self) -> RotatedFile | None:
        arguments = self._arguments
        if arguments.output is None:
            return None
        rotate_bytes, keep = arguments.rotate_bytes, arguments.rotate_keep
        try:
            return RotatedFile(
                arguments.output,
                64 * 1024 * 1024 if rotate_bytes is None else rotate_bytes,
                keep or 5,
                lambda: self._is_ending,
            )
        except OSError as e:
            raise Unusable(
                f"--output: cannot write to {arguments.output!r}: {_why(e)}"
            ) from None

    def _form_of(self) -> Callable[[bytes], bytes]:
        if self._arguments.framed:
            return lambda frame: b"%d %b" % (len(frame), frame)
        if self._file is not None:
            return _line
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        return lambda frame: f"{printable(frame)}\n".encode(
            encoding, "backslashreplace"
        )

    def _made(self) -> Any:
        factory: Any
        if self._arguments.relp:
            software = b"logiss receive,%b" % __version__.encode()
            factory = RELPReceiverFactory(self._take, self._complain)
            factory.software = software
        else:
            factory = ReceiverFactory(self._take, self._complain)
        factory.on_lost = self._lost
        return factory

    # its life

    def listen(self) -> None:
        """@raise Unusable: the port or a file for TLS."""
        arguments, host = self._arguments, self._arguments.host
        if host.startswith("[") and host.endswith("]"):
            # As it is written ahead of a port, and said below.
            host = host[1:-1]
        shown = f"[{host}]" if ":" in host else host
        try:
            if arguments.tls_cert:
                context = _tls_context(arguments.tls_cert, arguments.tls_ca)
                self._port = self.reactor.listenSSL(
                    arguments.port, self._factory, context, interface=host
                )
            else:
                self._port = self.reactor.listenTCP(
                    arguments.port, self._factory, interface=host
                )
        except CannotListenError as e:
            why = _why(e.socketError)
            raise Unusable(
                f"--port: cannot listen on {shown}:{arguments.port}: {why}; take"
                " another port or --host"
            ) from None
        spoken = " RELP" if arguments.relp else ""
        spoken += " over TLS" if arguments.tls_cert else ""
        _say(f"receiving{spoken} on {shown}:{self._port.getHost().port}")
        if arguments.seconds is not None:
            self.reactor.callLater(arguments.seconds, self.end)
        ticks = LoopingCall(self._tick)
        ticks.clock = self.reactor
        ticks.start(_TICK_SECONDS, now=False)

    def catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        if self._file is not None:
            # What logrotate sends; without a file it is the terminal that has gone.
            signal.signal(
                signal.SIGHUP, lambda *_: self.reactor.callFromThread(self._reopen)
            )

    def _signalled(self, number: int, frame: object) -> None:
        # Also seen by who waits for somebody to take the output.
        self._is_ending = True
        self.reactor.callFromThread(self.end)

    def end(self) -> None:
        """Take nothing more, say goodbye to the senders and stop."""
        self._is_ending = True
        if self._port is None:
            return
        port, self._port = self._port, None
        port.stopListening()
        self._factory.end()
        self._stop_when_gone(self.reactor.seconds() + GOODBYE_SECONDS)

    def _stop_when_gone(self, deadline: float) -> None:
        if self._factory.connections and self.reactor.seconds() < deadline:
            self.reactor.callLater(_POLL_SECONDS, self._stop_when_gone, deadline)
        else:
            self.reactor.stop()

    def _reopen(self) -> None:
        if self._file is None:
            return
        try:
            self._file.reopen()
        except OSError as e:
            path = self._arguments.output
            self._complain(f"cannot open {path!r} anew, goes on in the old: {_why(e)}")

    def _tick(self) -> None:
        self._say_unsaid()
        if not self._file and self._is_printing and self._stdout.is_broken:
            self._nobody_reads()
        if self._arguments.count and self._counts.frames != self._counted:
            more = self._counts.frames - self._counted
            self._counted = self._counts.frames
            self._print(f"+{more:,}: {self._counts}")

    # frames

    def _take(self, frame: bytes) -> None:
        """@raise NotTaken: it is not written."""
        counts = self._counts
        if self._outlet is not None:
            try:
                self._outlet.write(self._form(frame))
            except OSError as e:
                self._not_written(e)
                raise NotTaken(f"not written: {_why(e)}") from None
        counts.frames += 1
        counts.octets += len(frame)
        if self._arrivals is not None:
            self._verify(self._arrivals, frame)

    def _verify(self, arrivals: Arrivals, frame: bytes) -> None:
        try:
            is_complete = arrivals.take(frame)
        except Altered as e:
            shown = printable(frame[:_SHOWN_MAX])
            self._complain(f"an altered test message: {e}: {shown}")
            return
        if is_complete and not self._is_complete:
            self._is_complete = True
            self.reactor.callLater(LINGER_SECONDS, self.end)

    def _not_written(self, error: OSError) -> None:
        if self._is_printing and isinstance(error, BrokenPipeError):
            # Who goes has seen what it wanted; that is no frame lost.
            self._nobody_reads()
            return
        self._counts.not_written += 1
        if not self._is_ending:
            where = self._arguments.output if self._file else "standard output"
            self._complain(f"cannot write to {where}: {_why(error)}")

    def _nobody_reads(self) -> None:
        """As behind ``| head``: that is all that was wanted."""
        self._is_quiet = True
        # Not now: the frame that was not taken is yet to be answered.
        self.reactor.callLater(0, self.end)

    def _lost(self, reason: Failure, pending: int) -> None:
        why = _tls_error(reason)
        if why:
            self._complain(f"TLS: {why}")
        elif pending and not self._is_ending:
            self._complain(
                f"a connection has ended inside a frame; {pending} bytes of it were"
                " not taken"
            )

    def _complain(self, why: str) -> None:
        if why.startswith("no length but b'\\x16\\x03"):
            why += "; that is TLS, which takes --tls-cert"
        self._complained += 1
        if self._complained <= COMPLAINTS_MAX:
            _say(f"logiss receive: {why}")
        else:
            self._unsaid += 1

    def _say_unsaid(self) -> None:
        self._complained = 0
        if self._unsaid:
            count, self._unsaid = self._unsaid, 0
            _say(f"logiss receive: {many(count, 'more line')} like these left out")

    # what it has come to

    def result(self) -> int:
        """Say what has come; the exit code."""
        counts = self._counts
        if self._is_quiet and self._arrivals is None and not counts.not_written:
            return 0
        self._say_unsaid()
        is_good = not counts.not_written
        lines = []
        if self._arrivals is not None:
            lines = list(self._arrivals.summary())
            is_good = is_good and self._arrivals.is_good
            lines.append("all there" if self._arrivals.is_good else "NOT ALL THERE")
        lines.append(f"received {counts}")
        if counts.not_written:
            lines.append(f"{many(counts.not_written, 'frame')} could not be written")
        is_said = self._is_printing or (self._file and not self._arguments.verify)
        for line in lines:
            if is_said or self._is_quiet:
                _say(line)
            elif not self._print(line):
                # The verdict is for whoever is left.
                _say(line)
                is_good = is_good and self._is_quiet
        return 0 if is_good else 1

    def _print(self, line: str) -> bool:
        """Whether `line` could be written to stdout."""
        try:
            self._stdout.write(f"{line}\n".encode())
        except BrokenPipeError:
            self._nobody_reads()
            return False
        except OSError as e:
            _say(f"logiss receive: cannot write to standard output: {_why(e)}")
            return False
        return True


def _why(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


def _line(frame: bytes) -> bytes:
    """`frame` on one line, as it is but for line feeds."""
    return frame.removesuffix(b"\n").replace(b"\n", b"\\n") + b"\n"


def _tls_context(certificate_path: str, authorities_path: str | None) -> Any:
    """
    What a listener shows to senders, and asks of them.

    @raise Unusable: one of the files.
    """
    from OpenSSL.crypto import FILETYPE_PEM
    from twisted.internet import ssl

    ours = _pem("--tls-cert", certificate_path)
    if ours.certificate is None:
        raise Unusable(f"--tls-cert: {certificate_path!r} has no private key; add it")
    trusted = None
    if authorities_path is not None:
        blocks = _pem("--tls-ca", authorities_path).authorities
        trusted = ssl.trustRootFromCertificates(
            [ssl.Certificate.loadPEM(block) for block in blocks]
        )
    return ssl.CertificateOptions(
        privateKey=ssl.KeyPair.load(ours.private_key, FILETYPE_PEM).original,
        certificate=ssl.Certificate.loadPEM(ours.certificate).original,
        extraCertChain=[
            ssl.Certificate.loadPEM(block).original for block in ours.chain
        ],
        trustRoot=trusted,
    )


def _pem(option: str, path: str) -> Any:
    try:
        return parse_pem_file(path)
    except ValueError as e:
        raise Unusable(f"{option}: {e}") from None


def _tls_error(reason: Failure) -> str:
    """What OpenSSL says is wrong with a connection; nothing when it is not at fault."""
    error: Any = reason.value
    if not type(error).__module__.startswith("OpenSSL"):
        return ""
    entries = error.args[0] if error.args else ()
    if not isinstance(entries, list) or not entries:
        return (
            "" if "ZeroReturn" in type(error).__name__ else "the connection broke off"
        )
    return str(entries[-1][-1]) or "the handshake has failed"
