"""`logiss top` beside a real logiss: once, and live on a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.front import framed, message
from tests.integration.daemons import (
    PATIENCE_SECONDS,
    BlockingClient,
    Daemon,
    Receiver,
    receiving,
    running,
    wait_for,
)

COMMAND = (sys.executable, "-m", "logiss", "top")
GOOD, WARN, BAD, NO_ANSWER = 0, 1, 2, 3
ENTER, LEAVE, SHOW_CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


@contextmanager
def watched(tmp_path: Path, **variables: str) -> Iterator[tuple[Daemon, Receiver, str]]:
    """A logiss with a backend, and where its status page is."""
    with receiving() as receiver:
        dest = f"127.0.0.1:{receiver.port}"
        about = {"ADMIN_PORT": "0", "FORWARD_DEST": dest, **variables}
        with running("python", tmp_path, **about) as daemon:
            daemon.wait_until_usable()
            (line,) = daemon.logged(ns="admin", at="listen")
            yield daemon, receiver, f"http://127.0.0.1:{line['port']}/"


def post(daemon: Daemon, body: bytes, user: str = "user:a:token", **named: str) -> int:
    """The status that a post gets."""
    fields = {
        "Host": "a",
        "Content-Type": "application/logplex-1",
        "Authorization": f"Basic {b64encode(user.encode()).decode()}",
        "Content-Length": str(len(body)),
        **named,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    client = BlockingClient(daemon.port)
    client.send(b"POST /logs HTTP/1.1\r\n" + head.encode() + b"\r\n" + body)
    answer = client.answer()
    client.close()
    assert answer is not None
    return answer.code


def environ(**variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **variables}


def once(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environ(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )


def assert_one_line(ended: "subprocess.CompletedProcess[bytes]", words: str) -> None:
    """It has failed, and says why on one line."""
    said = ended.stderr.decode()
    assert (ended.returncode, ended.stdout) == (NO_ANSWER, b""), said
    assert said.count("\n") == 1, said
    assert said.startswith("logiss top: "), said
    assert words in said


def test_once(tmp_path: Path) -> None:
    """
    Plain text with the answers, whatever says that there are colours; the exit code is
    that of the worst answer, as it becomes worse.
    """
    with watched(tmp_path) as (daemon, receiver, url):
        assert post(daemon, framed(message(b"hello"))) == 200
        colours = {"TERM": "xterm-256color", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
        well = once(url, "--once", **colours)
        assert (well.returncode, well.stderr) == (GOOD, b"")
        assert b"\x1b" not in well.stdout
        assert well.stdout.isascii()
        said = well.stdout.decode()
        assert re.search(r"^GOOD +Is it taking logs\? Yes\. ", said, re.M)
        assert re.search(r"^GOOD +Is anything being lost\? No\. ", said, re.M)
        assert re.search(r"^0 127\.0\.0\.1:\d+ +up ", said, re.M)

        assert post(daemon, b"", user="user:wrong") == 401
        port = url.split(":")[2].strip("/")
        refused = once(ADMIN_PORT=port)
        assert refused.returncode == WARN
        assert b"WARN  Is anything being lost? Yes." in refused.stdout
        assert b'Posts of user "user" are refused with 401' in refused.stdout

        receiver.stop()
        wait_for(lambda: once(url).returncode == BAD)
        down = once(url).stdout.decode()
        assert re.search(r"^BAD +Is the backend there\? No\. ", down, re.M)
        assert re.search(r"^0 127\.0\.0\.1:\d+ +DOWN ", down, re.M)

        daemon.signal(signal.SIGTERM)
        daemon.wait()
        assert_one_line(once(url), "Connection refused")


@pytest.mark.parametrize("language", ["C", "C.UTF-8", "de_DE.ISO-8859-1"])
def test_hostile_posts(tmp_path: Path, language: str) -> None:
    """What clients send is text on one line in each locale."""
    request_ids = (
        b"[bold]b[/bold]",
        b"[link=http://x.example]l[/link]",
        b"\x1b]0;title\x07",
        "日本שלום\u202e".encode(),
        b"\xff\xfe\x9b31m",
    )
    with watched(tmp_path) as (daemon, _, url):
        for request_id in request_ids:
            client = BlockingClient(daemon.port)
            client.send(
                b"POST /logs HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Type:"
                b" application/logplex-1\r\nX-Request-Id: " + request_id + b"\r\n\r\n"
            )
            client.answer()
            client.close()
        # It is counted with the next sample.
        wait_for(lambda: once(url).returncode == WARN)
        shown = once(url, LANG=language)
        said = shown.stdout.decode()
        assert said.replace("\n", "").isprintable()
        assert "[bold]b[/bold]" in said
        assert "[link=http://x.example]l[/link]" in said
        assert "\\u05e9" in said
        assert ("日本" in said) == (language == "C.UTF-8")
        assert said.isascii() == (language != "C.UTF-8")


def test_reader_gone(tmp_path: Path) -> None:
    """Where nobody reads, the exit code is no answer's, and nothing is said."""
    with watched(tmp_path) as (_, _, url):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            ended = subprocess.run(
                [*COMMAND, url, "--once"],
                env=environ(),
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.PIPE,
                timeout=PATIENCE_SECONDS,
            )
        finally:
            os.close(writing)
        assert (ended.returncode, ended.stderr) == (NO_ANSWER, b"")


def test_help() -> None:
    """A newcomer reads what it is, how it ends and what its exit codes are."""
    said = " ".join(once("--help").stdout.decode().split())
    for words in ("URL", "ADMIN_PORT", "--once", "q or Ctrl-C", "exit code", "backend"):
        assert words in said
    assert " top " in once("--help").stdout.decode()


def test_without_place() -> None:
    """Without a URL and without ADMIN_PORT it says what to do."""
    assert_one_line(once(), "ADMIN_PORT is not set; give the URL")
    assert_one_line(once("https://127.0.0.1:1/"), "is no http URL")
    assert_one_line(once("http://name.invalid:9/"), "no answer from")


def test_others_do_not_pay() -> None:
    """What draws on terminals is not loaded by the commands that do not."""
    code = "import sys, logiss.__main__; print([m for m in sys.modules if 'rich' in m])"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environ(), capture_output=True, timeout=60
    )
    assert ended.stdout == b"[]\n", ended


@contextmanager
def answering(octets: bytes, ends: bool = True) -> Iterator[str]:
    """A server of something else."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(PATIENCE_SECONDS)
            connection.recv(1 << 16)
            try:
                connection.sendall(octets)
            except OSError:
                pass  # It has read enough.
            if not ends:
                stopped.wait(PATIENCE_SECONDS)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        stopped.set()
        thread.join(PATIENCE_SECONDS)
        listener.close()


JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


@pytest.mark.parametrize(
    ("octets", "ends", "words"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", True, "it answered 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>", True, "not JSON"),
        (JSON + b"[" * (9 << 20), True, "larger than 8 MiB"),
        (JSON + b"{", True, "is not JSON"),
        (JSON + b"{}", True, "not of a logiss"),
        (b"220 mail.example ESMTP\r\n", True, "is not HTTP"),
        (b"", True, "no answer from"),
        (b"", False, "too long"),
        (b"HTTP/1.1 200 OK\r\n", False, "too long"),
        (JSON + b"{", False, "too long"),
    ],
)
def test_something_else(octets: bytes, ends: bool, words: str) -> None:
    """What is not logiss is said to be none, in time and without a traceback."""
    with answering(octets, ends) as url:
        assert_one_line(once(url), words)


class Terminal:
    """
    A pseudo-terminal on which `logiss top` runs.

    @ivar written: all that it has sent to the terminal.
    """

    def __init__(self, url: str, **about: str) -> None:
        self._ours, self.theirs = pty.openpty()
        self.resize(24, 80)
        self.modes = termios.tcgetattr(self.theirs)
        self.written = b""
        self._process = subprocess.Popen(
            [*COMMAND, url],
            env=environ(**{"TERM": "xterm-256color", **about}),
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            # It is the terminal of the new session: it sends signals.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
        )

    def resize(self, lines: int, columns: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def read(self) -> None:
        while select.select([self._ours], [], [], 0.02)[0]:
            self.written += os.read(self._ours, 1 << 16)

    @property
    def screen(self) -> list[str]:
        """The lines of the last screen that was drawn whole."""
        self.read()
        frames = self.written.split(b"\x1b[H")
        text = frames[-1].decode("utf-8", "replace")
        return re.sub(r"\x1b\[[0-9;?]*[a-z]", "", text, flags=re.I).split("\r\n")

    def wait_for(self, condition: Callable[[list[str]], Any]) -> list[str]:
        """The first screen of which `condition` is true."""
        found: list[list[str]] = []

        def look() -> bool:
            assert self._process.poll() is None, self.written
            screen = self.screen
            if condition(screen):
                found.append(screen)
            return bool(found)

        wait_for(look)
        return found[0]

    def shows(self, words: str) -> list[str]:
        return self.wait_for(lambda screen: words in "\n".join(screen))

    def wait(self) -> int:
        """Its exit code; what it has written until then is read."""

        def has_ended() -> bool:
            self.read()
            return self._process.poll() is not None

        wait_for(has_ended)
        self.read()
        return self._process.wait()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)
        os.close(self.theirs)


@contextmanager
def terminal(url: str, **about: str) -> Iterator[Terminal]:
    opened = Terminal(url, **about)
    try:
        yield opened
    finally:
        opened.close()


def assert_restored(used: Terminal) -> None:
    """The terminal is what it was."""
    assert termios.tcgetattr(used.theirs) == used.modes
    assert used.written.count(ENTER) == used.written.count(LEAVE) == 1
    assert used.written.rindex(LEAVE) > used.written.rindex(ENTER)
    assert used.written.rindex(SHOW_CURSOR) > used.written.rindex(b"\x1b[?25l")
    assert b"Traceback" not in used.written


def test_live(tmp_path: Path) -> None:
    """
    It fills the screen, follows what happens and what size the terminal has, tells of
    the backend's end and of logiss's own, and ends by q with the terminal as it was.
    """
    # What a shell once said of the size does not count.
    size = {"COLUMNS": "50", "LINES": "7"}
    with watched(tmp_path) as (daemon, receiver, url), terminal(url, **size) as shown:
        well = shown.shows("Is anything being lost? No.")
        assert len(well) == 24
        assert {len(line) for line in well} == {80}

        assert post(daemon, framed(message(b"hello"))) == 200
        shown.shows("1 post delivered")

        shown.resize(30, 100)
        wide = shown.wait_for(lambda screen: len(screen) == 30)
        assert {len(line) for line in wide} == {100}
        shown.resize(10, 40)
        small = shown.wait_for(lambda screen: len(screen) == 10)
        assert {len(line) for line in small} == {40}
        shown.resize(24, 80)

        receiver.stop()
        shown.shows("Is the backend there? No.")
        shown.shows("[LogissBackendDown]")

        daemon.signal(signal.SIGKILL)
        daemon.wait()
        gone = "\n".join(shown.shows("NO ANSWER FROM LOGISS"))
        assert "Connection refused" in gone
        assert "What is below is old" in gone
        assert "Is the backend there? No." in gone

        shown.type(b"xyq")
        assert shown.wait() == 0
        assert_restored(shown)


@pytest.mark.parametrize("how", ["ctrl-c", "ctrl-d", "Q", "SIGINT", "SIGTERM"])
def test_ends(how: str) -> None:
    """Each way to end it leaves the terminal as it was, and is no error."""
    with terminal("http://127.0.0.1:9/") as shown:
        shown.shows("NO ANSWER FROM LOGISS")
        keys = {"ctrl-c": b"\x03", "ctrl-d": b"\x04", "Q": b"Q"}
        if how in keys:
            shown.type(keys[how])
        else:
            shown.signal(signal.Signals[how])
        assert shown.wait() == 0
        assert_restored(shown)


def test_comes_back(tmp_path: Path) -> None:
    """When logiss is there again, so is what it says."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with terminal(f"http://127.0.0.1:{port}/") as shown:
        shown.shows("NO ANSWER FROM LOGISS")
        with watched(tmp_path, ADMIN_PORT=str(port)):
            screen = shown.shows("Is it taking logs? Yes.")
            assert "NO ANSWER" not in "\n".join(screen)


def test_colours(tmp_path: Path) -> None:
    """NO_COLOR is heeded, and every state is a word with it and without it."""
    colour = re.compile(rb"\x1b\[[0-9;]*\b[34][0-7]m")
    with watched(tmp_path) as (_, _, url):
        for variables, is_coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
            with terminal(url, **variables) as shown:
                shown.shows("GOOD  Is it taking logs?")
                assert bool(colour.search(shown.written)) == is_coloured
                shown.type(b"q")
                assert shown.wait() == 0


def test_dumb(tmp_path: Path) -> None:
    """A terminal that cannot move its cursor gets it once, and no escape sequence."""
    with watched(tmp_path) as (_, _, url), terminal(url, TERM="dumb") as shown:
        assert shown.wait() == GOOD
        assert b"\x1b" not in shown.written
        assert b"Is anything being lost? No." in shown.written
        lines = shown.written.decode().splitlines()
        assert max(map(len, lines)) <= 80
