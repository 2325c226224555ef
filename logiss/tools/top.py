"""``logiss top``: the status page in a terminal."""

import argparse
import json
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from io import TextIOWrapper
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from logiss.foreground import let_go
from logiss.words import duration, shown, text

#: What the exit code of one look says, by the worst answer; as Nagios has it.
CODES = {"good": 0, "warn": 1, "bad": 2}
NO_ANSWER = 3
#: An answer is a hundred KiB at most; more is no answer of logiss.
ANSWER_BYTES_MAX = 8 * 1024 * 1024
#: How long an answer may take.
ANSWER_SECONDS = 3.0
#: How often it looks.
LOOK_SECONDS = 1.0

_CHUNK_BYTES = 64 * 1024
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104
_WHERE = (
    "give the URL of its status page, as in 'logiss top http://127.0.0.1:9514/', or set"
    " ADMIN_PORT as it is set for logiss"
)


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "top",
        help="show in the terminal what a running logiss is doing, and what is wrong",
        description="Shows the status page of a running logiss in the terminal, anew"
        " each second: whether it takes logs, whether the backend is there, whether"
        " anything is being lost, what is wrong and what to do about it. Ends with q"
        " or Ctrl-C. logiss has a status page when it runs with ADMIN_PORT.",
        epilog="The exit code of --once is 0 when all answers are good, 1 when one is a"
        " warning, 2 when one is bad and 3 when there is no answer.",
    )
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="of the status page; default: http://ADMIN_HOST:ADMIN_PORT/ of the"
        " environment",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="print it once, as plain text, and end; so it does where the output is no"
        " terminal",
    )
    parser.set_defaults(call=top)


def top(arguments: argparse.Namespace) -> int:
    try:
        place = place_of(arguments.url, os.environ)
    except NoPlace as e:
        return _say(str(e))
    sys.stdout = _writing(sys.stdout, os.environ)
    try:
        if arguments.once or not _is_screen(os.environ):
            return once(place)
        return live(place)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        let_go(sys.stdout)  # Who reads has read enough.
        return NO_ANSWER


def _say(why: str) -> int:
    print(f"logiss top: {why}", file=sys.stderr)
    return NO_ANSWER


def _is_screen(environ: Mapping[str, str]) -> bool:
    is_dumb = environ.get("TERM", "dumb") in ("dumb", "unknown", "")
    return sys.stdout.isatty() and not is_dumb


def speaks_unicode(environ: Mapping[str, str]) -> bool:
    """Whether the terminal is said to; where nothing is said it most likely does."""
    names = [environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if names[1] == "C.UTF-8" and names[2]:
        # Python itself sets it where it finds "C", or what is not there (PEP 538).
        names[1] = None
    said = next((name for name in names if name), "utf-8").lower()
    return "utf-8" in said or "utf8" in said


def _writing(stream: Any, environ: Mapping[str, str]) -> Any:
    """`stream`, which never fails for what cannot be written."""
    if isinstance(stream, TextIOWrapper):
        encoding = None if speaks_unicode(environ) else "ascii"
        stream.reconfigure(encoding=encoding, errors="replace")
    return stream


# where to ask


class NoPlace(Exception):
    """There is nothing to ask. Says what to do, on one line."""


@frozen
class Place:
    """@ivar url: as it is shown."""

    host: str
    port: int
    path: str
    url: str


def place_of(url: str | None, environ: Mapping[str, str]) -> Place:
    """
    Where the document is.

    @raise NoPlace: it cannot be known.
    """
    return _place_at(url) if url is not None else _place_in(environ)


def _place_in(environ: Mapping[str, str]) -> Place:
    port = environ.get("ADMIN_PORT", "")
    if not port:
        raise NoPlace(f"ADMIN_PORT is not set; {_WHERE}")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise NoPlace(f"ADMIN_PORT is {shown(port)}, not a port; {_WHERE}")
    host = environ.get("ADMIN_HOST", "")
    host = _EVERYWHERE.get(host, host)
    return _place_at(f"http://[{host}]:{port}/" if ":" in host else f"{host}:{port}")


def _place_at(url: str) -> Place:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        raise NoPlace(f"{shown(url)} is no URL; {_WHERE}") from None
    if parts.scheme != "http" or not host or not (url.isascii() and url.isprintable()):
        raise NoPlace(f"{shown(url)} is no http URL; {_WHERE}")
    if parts.username is not None or parts.password is not None:
        raise NoPlace("the URL has a user, and nobody asks for one there; leave it out")
    path = parts.path.removesuffix("/status.json").rstrip("/")
    if " " in path:
        raise NoPlace(f"{shown(url)} is no URL; {_WHERE}")
    where = f"[{host}]" if ":" in host else host
    return Place(
        host, port, f"{path}/status.json", f"http://{where}:{port}{path or '/'}"
    )


# asking


class NoDocument(Exception):
    """There is none. Says why, on one line."""


def ask(place: Place) -> dict[str, Any]:
    """
    The document that is there now.

    @raise NoDocument: there is none.
    """
    connection = HTTPConnection(place.host, place.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", place.path, headers={"Accept": "application/json"})
        return document_of(connection.getresponse())
    except (OSError, HTTPException, ValueError) as e:
        raise NoDocument(_why(e)) from None
    finally:
        connection.close()


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return text(error.strerror, 200)
    if isinstance(error, OSError):
        return text(str(error), 200) or type(error).__name__
    return f"what came is not HTTP ({type(error).__name__})"


def document_of(response: HTTPResponse) -> dict[str, Any]:
    """
    What `response` says.

    @raise NoDocument: it is not what logiss answers.
    """
    if response.status != 200:
        raise NoDocument(
            f"it answered {response.status}; is that the ADMIN_PORT of a logiss?"
        )
    kind = response.headers.get_content_type()
    if kind != "application/json":
        raise NoDocument(
            f"it answered {shown(kind)}, not JSON; is that the ADMIN_PORT of a logiss?"
        )
    octets = _read(response)
    try:
        document = json.loads(octets)
    except (ValueError, RecursionError):
        raise NoDocument("what came is not JSON, though it is called so") from None
    if not isinstance(document, dict) or not isinstance(document.get("answers"), list):
        raise NoDocument("what came is JSON, but not of a logiss")
    return document


def _read(response: HTTPResponse) -> bytes:
    octets = bytearray()
    while more := response.read1(_CHUNK_BYTES):
        octets += more
        if len(octets) > ANSWER_BYTES_MAX:
            raise NoDocument("what came is larger than 8 MiB, and not of a logiss")
    return bytes(octets)


Answer = dict[str, Any] | NoDocument


def _answer(place: Place) -> Answer:
    try:
        return ask(place)
    except NoDocument as e:
        return e


class Asker:
    """
    Asks in a thread of its own: nobody waits for who sends a byte now and then.

    @param told: called in that thread when there is something to `take`.
    """

    def __init__(self, place: Place, told: Callable[[], object]) -> None:
        self._place, self._told = place, told
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._stopped = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            started_at = time.monotonic()
            self._answers.put(_answer(self._place))
            self._told()
            passed = time.monotonic() - started_at
            self._stopped.wait(max(0.0, LOOK_SECONDS - passed))

    def take(self, within_seconds: float = 0.0) -> Answer | None:
        """The next answer, if there is one by then."""
        try:
            return self._answers.get(within_seconds > 0, within_seconds or None)
        except Empty:
            return None


def code_of(document: Mapping[str, Any]) -> int:
    """The exit code for the worst of its answers."""
    states = [
        str(answer.get("state")) if isinstance(answer, dict) else ""
        for answer in document["answers"]
    ]
    # Of a state that is not known nothing good can be said.
    return max((CODES.get(state, NO_ANSWER) for state in states), default=NO_ANSWER)


def once(place: Place) -> int:
    """Print it, as plain text."""
    from rich.console import Console

    from logiss.screen import Sheet

    asker = Asker(place, lambda: None)
    asker.start()
    answer = asker.take(2 * ANSWER_SECONDS) or NoDocument("it took too long")
    asker.stop()
    if isinstance(answer, NoDocument):
        return _say(f"no answer from {place.url}: {answer}")
    # Where nobody looks at it the lines are left as long as they are.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(
        force_terminal=False, color_system=None, width=width, highlight=False
    )
    try:
        console.print(Sheet(answer))
        sys.stdout.flush()
    except SystemExit:
        # rich ends the process where nobody reads, with a code that means a warning.
        raise BrokenPipeError from None
    return code_of(answer)


# on a screen


@frozen
class Seen:
    """
    What is to be shown.

    @ivar document: the last that came.
    @ivar failing_since: since when nothing came, by the machine's clock.
    @ivar why: nothing came.
    """

    document: Mapping[str, Any]
    failing_since: float | None = None
    why: str = ""

    def after(self, answer: Answer | None, now: float, silent: float) -> "Seen":
        """What is to be shown when `answer` has come, or nothing for so long."""
        if isinstance(answer, dict):
            return Seen(answer)
        if answer is None and silent <= ANSWER_SECONDS:
            return self
        why = str(answer) if answer is not None else self.why or "it takes too long"
        since = self.failing_since
        return Seen(self.document, now - silent if since is None else since, why)

    def trouble(self, place: Place, now: float) -> str:
        """What to say, large."""
        if self.failing_since is None:
            return ""
        at = time.strftime("%H:%M:%S", time.localtime(self.failing_since))
        ago = duration(now - self.failing_since)
        return (
            f"{place.url} has not answered since {at}, for {ago}: {self.why}."
            " It is asked again each second; q ends this."
        )


def live(place: Place) -> int:
    """Show it until there is a q, an interrupt or the end of the terminal."""
    with _wakes() as (woken, wake), _keys() as keys, _screen() as draw:
        asker = Asker(place, wake)
        asker.start()
        try:
            _look(place, asker, woken, keys, draw)
        finally:
            asker.stop()
    return 0


def _look(
    place: Place,
    asker: Asker,
    woken: int,
    keys: int | None,
    draw: Callable[[Mapping[str, Any], str], None],
) -> None:
    seen, heard_at = Seen({}), time.monotonic()
    while True:
        fds = [woken] if keys is None else [woken, keys]
        ready, _, _ = select.select(fds, [], [], LOOK_SECONDS)
        if woken in ready:
            os.read(woken, 4096)
        if keys in ready:
            typed = os.read(keys or 0, 4096)
            if b"q" in typed.lower() or b"\x04" in typed:
                return
            keys = keys if typed else None
        answer, now = asker.take(), time.time()
        silent = time.monotonic() - heard_at
        if answer is not None:
            heard_at, silent = time.monotonic(), 0.0
        seen = seen.after(answer, now, silent)
        if seen.document or seen.why:
            draw(seen.document, seen.trouble(place, now))


@contextmanager
def _wakes() -> Iterator[tuple[int, Callable[[], object]]]:
    """A descriptor that is readable when somebody has called, or the size changed."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)

    def wake(*_: object) -> None:
        try:
            os.write(writing, b".")
        except OSError:
            pass  # It is full, and awake then; or closed, and nobody sleeps there.

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = {
        signal.SIGWINCH: signal.signal(signal.SIGWINCH, wake),
        signal.SIGTERM: signal.signal(signal.SIGTERM, end),
        # Stopped, it would leave its screen to the shell.
        signal.SIGTSTP: signal.signal(signal.SIGTSTP, signal.SIG_IGN),
    }
    try:
        yield reading, wake
    finally:
        for number, was in before.items():
            signal.signal(number, was)
        # The thread that asks may still wake: `writing` stays open for it.
        os.close(reading)


@contextmanager
def _keys() -> Iterator[int | None]:
    """Where single keys can be read; nowhere without a terminal."""
    if not sys.stdin.isatty():
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)


@contextmanager
def _screen() -> Iterator[Callable[[Mapping[str, Any], str], None]]:
    """Draws; the terminal is afterwards what it was before."""
    from rich.console import Console, ConsoleDimensions
    from rich.live import Live

    from logiss.screen import Sheet

    console = Console(force_terminal=True, highlight=False)

    def draw(document: Mapping[str, Any], trouble: str) -> None:
        width, height = os.get_terminal_size(sys.stdout.fileno())
        console.size = ConsoleDimensions(width, height)
        drawn.update(Sheet(document, trouble, height), refresh=True)

    with Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as drawn:
        yield draw
