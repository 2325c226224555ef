"""``logiss replay``: posts captured bodies again, or shows what is wrong with them."""

import argparse
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from attrs import frozen

from logiss import captures, fault
from logiss.captures import BrokenCapture, Capture
from logiss.foreground import hold_descriptors, let_go, print_any, run, say
from logiss.l2met import bare_or_quoted
from logiss.logs_url import is_url
from logiss.submitter import DETAIL_MAX, Answer, Post, Submitter
from logiss.tally import Outcome
from logiss.target import NoTarget, Target, add_options, reaching, target_of
from logiss.words import text

#: A longer file is no body that a logiss would take.
FILE_BYTES_MAX = 64 * 1024 * 1024

_CAPTURE_BEGINS = b"Capture-Version: "
_GZIP_BEGINS = b"\x1f\x8b"
# What may stand in a query as it is (RFC 3986 section 3.4), and "%".
_QUERY_SAFE = "%/?:@!$&'()*+,;=-._~"


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "replay",
        help="post bodies again that logiss has kept, or show what is wrong with them",
        description="Posts captured bodies again, each as one post as it came: files"
        " that a logiss with CAPTURE_REFUSED has written, or any others that hold the"
        " body of a logplex-1 post. For each file it prints a line: the file, the"
        " status, and the first line of the answer.",
        epilog="The exit code is 0 when all were answered 200, 1 when any was not, and"
        " 130 or 143 after Ctrl-C or SIGTERM.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a file; or a folder, for all the captures in it, the oldest first",
    )
    add_options(parser)
    parser.add_argument(
        "--show",
        action="store_true",
        help="post nothing, but print what each is: when and why it was refused, its"
        " header fields, how many of its frames are good, and the octets around the"
        " first that is not",
    )
    parser.set_defaults(call=replay)


def replay(arguments: argparse.Namespace) -> int:
    hold_descriptors()
    print_any()
    if any(is_url(name) for name in arguments.files):
        # Its password is printed nowhere.
        _say("FILE: is a URL; give it behind --url, or set LOGS_URL")
        return 1
    try:
        return _show_all(arguments) if arguments.show else _post_all(arguments)
    except BrokenPipeError:
        # Who reads has read enough.
        let_go(sys.stdout)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as e:
        let_go(sys.stdout)
        _say(f"standard output: cannot be written to: {e.strerror}")
    except NoTarget as e:
        _say(str(e))
    return 1


def _say(why: str) -> None:
    say(f"logiss replay: {why}")


def _print(line: str) -> None:
    if sys.stdout is not None:
        print(line, flush=True)


# what is in the files


class Unreadable(Exception):
    """There is no body to be had. Says why."""


@frozen
class Kept:
    """
    @ivar capture: None where a file is only a body.
    """

    body: bytes
    fields: tuple[tuple[str, bytes], ...]
    capture: Capture | None = None

    @property
    def is_zipped(self) -> bool:
        codings = [v for name, v in self.fields if name == "Content-Encoding"]
        return bool(codings) and codings[0].strip().lower() == b"gzip"

    @property
    def query(self) -> str | None:
        """None where it is to be that of the URL."""
        if self.capture is None:
            return None
        query = self.capture.target.partition(b"?")[2]
        return quote(query, safe=_QUERY_SAFE)

    def post(self) -> Post:
        """The same post again, but for its request id."""
        request_id = ("X-Request-Id", str(uuid4()).encode("ascii"))
        return Post(self.body, 1, (*self.fields, request_id), self.query)


def _paths(names: list[str]) -> Iterator[str]:
    """Each file, those of a folder by their age."""
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        try:
            found = [path for path in Path(name).iterdir() if _age(path) is not None]
        except OSError:
            yield name  # Why it cannot be read is told when it is to be read.
            continue
        if not found:
            _say(f"FILE: {name!a} is a folder without a capture in it")
        yield from (str(path) for path in sorted(found, key=_age))


def _age(path: Path) -> Any:
    """To sort by; None when it has not the name of a capture."""
    named = captures.NAME.fullmatch(path.name)
    return named and (named[1], int(named[2]), int(named[3]))


def _kept(name: str) -> Kept:
    """
    @raise Unreadable: there is nothing to be posted.
    """
    try:
        with open(name, "rb", opener=_opened) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable(
                    "is no regular file; write what it gives to one, and name that"
                )
            octets = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else str(e)
        raise Unreadable(f"cannot be read: {why}") from None
    if len(octets) > FILE_BYTES_MAX:
        raise Unreadable(f"has more than {FILE_BYTES_MAX} bytes")
    if not octets.startswith(_CAPTURE_BEGINS):
        return _plain(octets)
    try:
        capture = captures.read(octets)
    except BrokenCapture as e:
        raise Unreadable(f"is no whole capture: {e}") from None
    return Kept(capture.body, capture.fields, capture)


def _opened(name: str, flags: int) -> int:
    """Not waiting for somebody to write to a named pipe."""
    return os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _plain(body: bytes) -> Kept:
    """A body without a head, as some other program may have written it."""
    fields = [("Content-Type", b"application/logplex-1")]
    if body.startswith(_GZIP_BEGINS):
        fields.append(("Content-Encoding", b"gzip"))
    return Kept(body, tuple(fields))


# posting


def _post_all(arguments: argparse.Namespace) -> int:
    target = target_of(arguments, os.environ)
    from twisted.internet import reactor

    return Replaying(reactor, target, arguments.files).run()


class Replaying:
    """
    One run of the command: one post after the other.

    @raise NoTarget: the target cannot be reached with what was given.
    """

    def __init__(self, reactor: Any, target: Target, names: list[str]) -> None:
        self._reactor = reactor
        self._timeout_seconds = target.timeout_seconds
        self._names = names
        self._poster = reaching(target, reactor, 1)
        self._submitter = Submitter(
            reactor,
            self._poster.post,
            1,
            target.retry_seconds,
            lambda why: _say(f"trying again: {why}"),
            self._ended,
            SystemRandom(),
        )
        self._ends: list[tuple[Outcome, Answer | None]] = []
        self._signals: list[signal.Signals] = []
        self._is_well = True
        self._is_doubted = False
        self._posted = 0

    def run(self) -> int:
        """The exit code."""
        run(self._reactor, self._work, self._signalled)
        return self._code()

    def _code(self) -> int:
        if self._signals:
            return 128 + self._signals[0]
        return 0 if self._is_well and self._posted else 1

    async def _work(self) -> None:
        for name in _paths(self._names):
            if self._signals:
                _say(f"not posted: {name!a} and what comes behind it")
                break
            await self._replay(name)
        if len(self._signals) < 2:
            await self._poster.close()

    async def _replay(self, name: str) -> None:
        try:
            kept = _kept(name)
            if kept.capture is not None and kept.capture.is_cut:
                raise Unreadable("was not posted, for only its beginning was kept")
        except Unreadable as e:
            self._told(name, "-", f'"{text(str(e), DETAIL_MAX)}"', False)
            return
        self._submitter.submit(kept.post())
        await self._submitter.idle()
        outcome, answer = self._ends.pop()
        self._posted += 1
        if answer is None:
            self._told(name, "-", f'"{outcome.kind}"', False)
        else:
            self._told(name, f"{answer.code}", answer.detail, answer.code == 200)

    def _told(self, name: str, status: str, detail: str, is_well: bool) -> None:
        self._is_well = self._is_well and is_well
        _print(" ".join(filter(None, (bare_or_quoted(name), status, detail))))

    def _ended(self, post: Post, outcome: Outcome, answer: Answer | None) -> None:
        self._ends.append((outcome, answer))
        if answer is not None and answer.doubt and not self._is_doubted:
            self._is_doubted = True
            _say(answer.doubt)

    def _signalled(self, number: signal.Signals) -> None:
        self._signals.append(number)
        why = f"stopped by {number.name}"
        if len(self._signals) > 1:
            self._submitter.abort(why)
        else:
            self._reactor.callLater(self._timeout_seconds, self._submitter.abort, why)
            _say(f"{why}: the post under way has {self._timeout_seconds:g} s")


# showing


def _show_all(arguments: argparse.Namespace) -> int:
    code, is_first = 0, True
    for name in _paths(arguments.files):
        if not is_first:
            _print("")
        is_first = False
        _print(bare_or_quoted(name))
        try:
            kept = _kept(name)
        except Unreadable as e:
            _print(f"  {text(str(e), DETAIL_MAX)}")
            code = 1
            continue
        for line in _shown(kept):
            _print(f"  {line}")
    return code


def _shown(kept: Kept) -> Iterator[str]:
    capture = kept.capture
    if capture is None:
        yield "a body only: when and why it was refused is not known"
    else:
        yield f"captured at {capture.captured_at}"
        yield f"refused with {capture.code}: {text(capture.because, DETAIL_MAX)}"
        if capture.remote_addr is not None:
            yield f"from {fault.escaped(capture.remote_addr)}"
        if capture.request_id is not None:
            yield f"X-Request-Id: {fault.escaped(capture.request_id)}"
        yield f"target: {fault.escaped(capture.target)}"
    for field, value in kept.fields:
        yield f"{field}: {fault.escaped(value)}"
    is_cut = capture is not None and capture.is_cut
    cut = "; only the beginning was kept" if is_cut else ""
    yield f"body: {len(kept.body):,} bytes{cut}"
    yield from _faulty(fault.find(kept.body, kept.is_zipped), kept.is_zipped)


def _faulty(found: fault.Fault, is_zipped: bool) -> Iterator[str]:
    if is_zipped:
        yield f"inflated: {len(found.octets):,} bytes"
    if found.frames is not None:
        yield f"good frames: {found.frames:,}"
    yield f"fault: {text(found.why, DETAIL_MAX)}" if found.why else "fault: none"
    if found.offset is not None:
        yield f"fault at byte {found.offset:,}"
        yield from fault.around(found.octets, found.offset)
