"""
Servers that take posts and answer what they are told to, each in threads of its own;
and `logiss send` and `logiss replay` as processes beside them.
"""

import gzip
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.integration.daemons import PATIENCE_SECONDS

#: More are not kept.
POSTS_MAX = 100


@frozen
class Posted:
    """
    @ivar fields: by name in lower case.
    @ivar connection: over which it came, a number for each.
    """

    path: str
    fields: dict[str, str]
    body: bytes
    connection: int

    @property
    def octets(self) -> bytes:
        """The body without its coding."""
        is_zipped = self.fields.get("content-encoding") == "gzip"
        return gzip.decompress(self.body) if is_zipped else self.body

    @property
    def count(self) -> int:
        return int(self.fields["logplex-msg-count"])


@frozen
class Said:
    """
    What to answer; with `code` 0 the connection is closed instead.

    @ivar is_logiss: whether it says that it is.
    """

    code: int = 200
    body: bytes = b""
    fields: tuple[tuple[str, str], ...] = ()
    is_logiss: bool = True


class _Session(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    intake: "Intake"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fields = {name.lower(): value for name, value in self.headers.items()}
        connection = hash(self.client_address)
        said = self.intake.take(Posted(self.path, fields, body, connection))
        if not said.code:
            self.close_connection = True
            return
        try:
            self._say(said)
        except OSError:
            self.close_connection = True  # Nobody waits for it any more.

    def _say(self, said: Said) -> None:
        self.send_response(said.code)
        if said.is_logiss:
            self.send_header("Logiss-Delivery", "sent")
        for name, value in said.fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(said.body)))
        self.end_headers()
        self.wfile.write(said.body)

    def log_message(self, *_: Any) -> None: ...


class Intake:
    """
    @param answer: called with each post, in the thread of its connection.
    @ivar posts: those that have come, the last `POSTS_MAX` of them.
    """

    def __init__(
        self, answer: Callable[[Posted], Said], tls: ssl.SSLContext | None = None
    ) -> None:
        session = type("Session", (_Session,), {"intake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), session)
        self._server.daemon_threads = True
        # A client that refuses our certificate is no error of the test.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._answer = answer
        self._lock = threading.Lock()
        self.posts: list[Posted] = []
        self.port: int = self._server.server_address[1]
        self.thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.thread.start()

    def take(self, post: Posted) -> Said:
        with self._lock:
            self.posts.append(post)
            del self.posts[:-POSTS_MAX]
        return self._answer(post)

    @property
    def url(self) -> str:
        return f"http://user:hunter2@127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.thread.join(PATIENCE_SECONDS)


@contextmanager
def answering(
    answer: Callable[[Posted], Said], tls: ssl.SSLContext | None = None
) -> Iterator[Intake]:
    intake = Intake(answer, tls)
    try:
        yield intake
    finally:
        intake.stop()


def in_turn(*said: Said) -> Callable[[Posted], Said]:
    """Answers of which each comes once, and 200 behind them."""
    left = list(said)
    return lambda _: left.pop(0) if left else Said()


# the commands


def environ(**variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **variables}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "logiss", *arguments]


@frozen
class Ended:
    """@ivar said: on standard error."""

    code: int
    out: str
    said: str


def sent(
    *arguments: str, given: bytes = b"", url: str = "", tool: str = "send"
) -> Ended:
    """`logiss send` or `logiss replay`, when it has ended."""
    done = subprocess.run(
        command(tool, *arguments),
        env=environ(LOGS_URL=url),
        input=given,
        capture_output=True,
        timeout=2 * PATIENCE_SECONDS,
    )
    said = done.stderr.decode()
    assert "Traceback" not in said, said
    assert "hunter2" not in said, said
    return Ended(done.returncode, done.stdout.decode(), said)


@contextmanager
def sending(url: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`logiss send`, as long as its input does not end."""
    process = subprocess.Popen(
        command("send", *arguments),
        env=environ(LOGS_URL=url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def without_names(folder: Path) -> dict[str, str]:
    """
    Variables for a command that never hears from its name service. There is a file
    `asked` in `folder` when it has asked.
    """
    (folder / "sitecustomize.py").write_text(
        "import pathlib, socket, time\n"
        "def ask(*_, **__):\n"
        f"    pathlib.Path({str(folder / 'asked')!r}).touch()\n"
        "    time.sleep(3600)\n"
        "socket.getaddrinfo = ask\n"
    )
    return {"PYTHONPATH": str(folder)}
