"""``logiss send``: posts lines to a logiss, as log-shuttle does."""

import argparse
import os
import secrets
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from random import SystemRandom
from typing import Any
from uuid import uuid4

from attrs import frozen

from logiss import probes
from logiss.feeding import Feeder, Making
from logiss.foreground import hold_descriptors, run, say
from logiss.logs_url import is_url
from logiss.sources import source_of
from logiss.submitter import Answer, Post, Submitter
from logiss.syslog_lines import (
    BrokenFrame,
    FrameCutter,
    LineCutter,
    NotAField,
    Origin,
    header_field,
)
from logiss.tally import Fate, Outcome, Tally, summary
from logiss.target import NoTarget, Target, add_options, reaching, seconds, target_of

#: log-shuttle's.
BATCH_LINES = 500
BATCH_SECONDS = 0.25
LINE_BYTES = 10_000
CONNECTIONS = 4
#: local7.info, as log-shuttle has it.
PRI = 190
#: Not more, and gzip is never refused for its ratio (`logiss.inflate`).
BATCH_BYTES = 1024 * 1024
BATCH_BYTES_MAX = 16 * 1024 * 1024
#: A frame stays below what logiss forwards, whatever is added to it.
LINE_BYTES_MAX = 65_536

#: How often the bar is drawn.
_SHOW_SECONDS = 0.2
_STDIN = "-"
_PROBES_AT_ONCE = 100


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "send",
        help="post lines of files or standard input to a logiss",
        description="Posts lines to a logiss, in batches of octet-counted syslog frames"
        " (logplex-1), over several connections, and tries again what was not taken. At"
        " the end it says what was delivered, what was lost and of what that is not"
        " known.",
        epilog="Examples: 'logiss send --url http://user:password@127.0.0.1:5000"
        " app.log' posts a file; 'tail -F app.log | logiss send' posts what is added to"
        " it, to LOGS_URL. The exit code is 0 when everything was delivered, 1 when"
        " anything was not, and 130 or 143 after Ctrl-C or SIGTERM. The first of these"
        " ends the reading, the second all.",
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="what to read, one after the other; '-' is standard input, which is also"
        " the default",
    )
    add_options(parser)
    _add_form(parser)
    _add_batches(parser)
    _add_probes(parser)
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="say nothing but what is wrong: no progress bar, and no summary when"
        " everything was delivered",
    )
    parser.set_defaults(call=send)


def _add_form(parser: argparse.ArgumentParser) -> None:
    form = parser.add_argument_group("what is in the frames")
    form.add_argument(
        "--hostname", type=_field("hostname"), help="default: this machine's name"
    )
    form.add_argument(
        "--app-name",
        type=_field("app-name"),
        default=b"logiss",
        help="the program whose lines they are; default: logiss",
    )
    form.add_argument(
        "--procid",
        type=_field("procid"),
        default=b"-",
        help="which of its processes; default: '-', which says nothing",
    )
    form.add_argument(
        "--msgid",
        type=_field("msgid"),
        default=b"-",
        help="the kind of message; default: '-', which says nothing",
    )
    form.add_argument(
        "--pri",
        type=_number(0, 191),
        default=PRI,
        metavar="N",
        help="8 times the facility, plus the severity, 0 to 191; default: %(default)d,"
        " local7.info",
    )
    form.add_argument(
        "--line-bytes",
        type=_number(64, LINE_BYTES_MAX),
        default=LINE_BYTES,
        metavar="N",
        help="a line that has more bytes becomes several messages; default:"
        " %(default)d",
    )
    form.add_argument(
        "--framed",
        action="store_true",
        help="the input has octet-counted frames already, which are passed on as they"
        " are; the options above do not apply",
    )


def _add_batches(parser: argparse.ArgumentParser) -> None:
    batches = parser.add_argument_group("how they are posted")
    batches.add_argument(
        "--batch-lines",
        type=_number(1, 10_000),
        default=BATCH_LINES,
        metavar="N",
        help="a post has so many messages at most; default: %(default)d",
    )
    batches.add_argument(
        "--batch-seconds",
        type=seconds(0, 60),
        default=BATCH_SECONDS,
        metavar="SECONDS",
        help="how long a message waits for others to travel with, in seconds; default:"
        " %(default)g",
    )
    batches.add_argument(
        "--batch-bytes",
        type=_number(1, BATCH_BYTES_MAX),
        default=BATCH_BYTES,
        metavar="N",
        help="a post has so many bytes at most, before gzip, unless a single message"
        " has more; keep it below MAX_BODY_BYTES of logiss; default: %(default)d",
    )
    batches.add_argument(
        "--gzip",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether posts are compressed; default: they are",
    )
    batches.add_argument(
        "--connections",
        type=_number(1, 64),
        default=CONNECTIONS,
        metavar="N",
        help="how many posts are under way at once; with 1 all lines stay in their"
        " order, with more those of a post do. Default: %(default)d",
    )


def _add_probes(parser: argparse.ArgumentParser) -> None:
    test = parser.add_argument_group("trying it out")
    test.add_argument(
        "--test",
        type=_number(1, 9_999_999_999),
        metavar="N",
        help="send so many test messages instead of lines; 'logiss receive --verify'"
        " tells whether they have arrived whole and all",
    )
    test.add_argument(
        "--run",
        type=_run_name,
        metavar="NAME",
        help="what these test messages are told apart by: 1 to 32 letters, digits and"
        " '-'; default: a random one",
    )


def _field(name: str) -> Callable[[str], bytes]:
    def read(text: str) -> bytes:
        try:
            return header_field(name, text)
        except NotAField as e:
            raise argparse.ArgumentTypeError(str(e)) from None

    return read


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        is_number = text.isascii() and text.isdigit() and len(text) < 20
        if not is_number or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no whole number from {least} to {most}"
            )
        return int(text)

    return read


def _run_name(text: str) -> str:
    plain = text.replace("-", "")
    if not 1 <= len(text) <= 32 or not (plain or "0").isalnum() or not text.isascii():
        raise argparse.ArgumentTypeError("is not 1 to 32 letters, digits and '-'")
    return text


class Unusable(Exception):
    """It cannot begin. One line: what is wrong, and what to do."""


def send(arguments: argparse.Namespace) -> int:
    is_stdin_open = sys.stdin is not None
    hold_descriptors()
    try:
        target = target_of(arguments, os.environ)
        inputs = _inputs(arguments, is_stdin_open)
        from twisted.internet import reactor

        return Sending(reactor, arguments, target, inputs).run()
    except (NoTarget, Unusable) as e:
        return _say(str(e))
    except KeyboardInterrupt:
        # Nothing had begun: later it is `_signalled` that hears of it.
        return 128 + signal.SIGINT


def _say(why: str) -> int:
    say(f"logiss send: {why}")
    return 1


# what is read


@frozen
class Input:
    """
    @ivar size: how many bytes it has; None when that is not known.
    """

    name: str
    size: int | None

    def open(self) -> int:
        """
        A descriptor of its own.

        @raise OSError: it cannot be opened.
        """
        if self.name == _STDIN:
            return os.dup(0)
        # A named pipe that nobody writes to yet is not to stop everything.
        return os.open(self.name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)

    @property
    def shown(self) -> str:
        return "standard input" if self.name == _STDIN else f"{self.name!a}"


def _inputs(arguments: argparse.Namespace, is_stdin_open: bool) -> list[Input]:
    """
    @raise Unusable: one of them cannot be read, or they are not to be.
    """
    names = arguments.files
    if arguments.test is not None:
        if names or arguments.framed:
            raise Unusable(
                "--test: sends its own messages; leave out FILE and --framed"
            )
        return []
    if arguments.run is not None:
        raise Unusable("--run: is the name of test messages; give --test N as well")
    names = names or [_STDIN]
    if names.count(_STDIN) > 1:
        raise Unusable("FILE: '-' stands there twice; standard input is read once")
    return [_input(name, is_stdin_open) for name in names]


def _input(name: str, is_stdin_open: bool) -> Input:
    if is_url(name):
        raise Unusable("FILE: is a URL; give it behind --url, or set LOGS_URL")
    if name == _STDIN:
        if not is_stdin_open:
            raise Unusable("standard input: is closed; name a FILE, or '< FILE'")
        return Input(name, _size(os.fstat(0), os.lseek))
    try:
        status = os.stat(name)
        is_readable = os.access(name, os.R_OK)
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else str(e)
        raise Unusable(f"FILE: cannot read {name!a}: {why}; nothing was sent") from None
    if stat.S_ISDIR(status.st_mode) or not is_readable:
        why = "it is a folder" if is_readable else "you may not"
        raise Unusable(f"FILE: cannot read {name!a}: {why}; nothing was sent")
    return Input(name, _size(status))


def _size(
    status: os.stat_result, seek: Callable[[int, int, int], int] | None = None
) -> int | None:
    """How much of a file is left to be read."""
    if not stat.S_ISREG(status.st_mode):
        return None
    at = seek(0, 0, os.SEEK_CUR) if seek is not None else 0
    return max(status.st_size - at, 0)


# what is sent


class Sending:
    """
    One run of the command.

    @raise NoTarget: the target cannot be reached with what was given.
    """

    def __init__(
        self,
        reactor: Any,
        arguments: argparse.Namespace,
        target: Target,
        inputs: list[Input],
    ) -> None:
        self._reactor = reactor
        self._arguments = arguments
        self._target = target
        self._inputs = inputs
        self._began = time.monotonic()
        self._tally = Tally()
        self._kinds: set[str] = set()
        self._signals: list[signal.Signals] = []
        self._is_broken = False
        self._is_doubted = False
        self._poster = reaching(target, reactor, arguments.connections)
        self._submitter = Submitter(
            reactor,
            self._poster.post,
            arguments.connections,
            target.retry_seconds,
            self._retried,
            self._ended,
            SystemRandom(),
        )
        self._feeder = Feeder(
            reactor,
            time.time,
            self._submitter,
            self._tally,
            _making(arguments),
            uuid4,
        )
        self._bar = self._make_bar()

    def _make_bar(self) -> Any:
        """Where there is a terminal to show it."""
        is_dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown", "")
        if self._arguments.quiet or is_dumb or not _is_terminal(sys.stderr):
            return None
        # rich is loaded where it draws.
        from logiss.progress import Bar

        sizes = [found.size for found in self._inputs]
        known = [size for size in sizes if size is not None]
        total = sum(known) if known and len(known) == len(sizes) else None
        return Bar(self._tally, total, self._reactor.seconds)

    def run(self) -> int:
        """The exit code."""
        self._begin_showing()
        try:
            run(self._reactor, self._work, self._signalled)
        finally:
            self._end_showing()
        return self._sum_up()

    def _sum_up(self) -> int:
        code = self._code()
        if code or not self._arguments.quiet:
            for line in summary(self._tally, time.monotonic() - self._began):
                _say(line)
        return code

    def _code(self) -> int:
        if self._signals:
            return 128 + self._signals[0]
        return 0 if self._tally.is_whole and not self._is_broken else 1

    def _begin_showing(self) -> None:
        reads_stdin = _STDIN in [found.name for found in self._inputs]
        if reads_stdin and _is_terminal(sys.stdin) and not self._arguments.quiet:
            _say("reading lines from this terminal; Ctrl-D ends them")
        if self._bar is not None:
            self._bar.start()
            self._reactor.callWhenRunning(self._show)

    def _end_showing(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.show()
            self._reactor.callLater(_SHOW_SECONDS, self._show)

    def _tell(self, line: str) -> None:
        """A line in the middle of the work."""
        told = f"logiss send: {line}"
        if self._bar is not None:
            self._bar.say(told)
        else:
            say(told)

    async def _work(self) -> None:
        if self._arguments.test is not None:
            await self._probe()
        for found in self._inputs:
            if not self._signals:
                await self._feed(found)
        self._feeder.flush()
        await self._submitter.idle()
        if len(self._signals) < 2:
            await self._poster.close()

    async def _probe(self) -> None:
        name = self._arguments.run or secrets.token_hex(8)
        if not self._arguments.quiet:
            self._tell(f"the test messages are of the run {name}")
        messages = _probes(name, self._arguments.test)
        while some := list(islice(messages, _PROBES_AT_ONCE)):
            if self._feeder.is_stopped:
                return
            await self._feeder.add(some)

    async def _feed(self, found: Input) -> None:
        is_framed = self._arguments.framed
        cutter = FrameCutter() if is_framed else LineCutter(self._arguments.line_bytes)
        try:
            source = source_of(self._reactor, found.open())
            try:
                await self._feeder.feed(source, cutter)
            finally:
                source.close()
        except OSError as e:
            self._broken(f"{found.shown}: cannot be read any further: {e.strerror}")
        except BrokenFrame as e:
            self._broken(f"{found.shown}: {e}; nothing behind it was sent")
        if isinstance(cutter, LineCutter):
            self._tally.lines += cutter.lines
            self._tally.lines_cut += cutter.lines_cut
        if self._signals:
            self._tell(f"stopped reading {found.shown} at byte {cutter.offset}")

    def _broken(self, why: str) -> None:
        self._is_broken = True
        self._tell(why)

    # what happens

    def _retried(self, why: str) -> None:
        self._tally.retries += 1
        self._tell_once(f"trying again: {why}", why.partition(' "')[0])

    def _ended(self, post: Post, outcome: Outcome, answer: Answer | None) -> None:
        self._tally.ended(post.messages, outcome)
        if answer is not None and answer.doubt and not self._is_doubted:
            self._is_doubted = True
            self._tell(answer.doubt)
        if outcome.fate is not Fate.DELIVERED:
            why = " ".join(filter(None, (outcome.kind, outcome.detail)))
            self._tell_once(f"{outcome.fate.value}: {why}", outcome.kind, "lost")

    def _tell_once(self, line: str, *kind: str) -> None:
        """The next of that kind is in the summary only."""
        key = " ".join(kind)
        if key not in self._kinds and len(self._kinds) < 20:
            self._kinds.add(key)
            if not self._arguments.quiet:
                self._tell(line)

    def _signalled(self, number: signal.Signals) -> None:
        self._signals.append(number)
        why = f"stopped by {number.name}"
        if len(self._signals) > 1:
            self._submitter.abort(why)
            return
        seconds = self._target.timeout_seconds
        self._tell(
            f"{why}: what is under way has {seconds:g} s; Ctrl-C again ends it at once"
        )
        self._reactor.callLater(seconds, self._submitter.abort, why)
        self._feeder.stop()


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _probes(name: str, count: int) -> Iterator[bytes]:
    for number in range(1, count + 1):
        yield probes.text(probes.Probe(name, number))


def _making(arguments: argparse.Namespace) -> Making:
    origin = None
    if not arguments.framed:
        origin = Origin(
            arguments.pri,
            arguments.hostname or _machine(),
            arguments.app_name,
            arguments.procid,
            arguments.msgid,
        )
    return Making(
        origin,
        arguments.batch_lines,
        arguments.batch_bytes,
        arguments.batch_seconds,
        arguments.gzip,
    )


def _machine() -> bytes:
    """The name of this machine, where it can stand in a frame."""
    try:
        return header_field("hostname", socket.gethostname())
    except NotAField:
        return b"-"
