"""
The daemon as a process of its own, and a receiver and clients in threads beside it.

Nothing here uses the reactor: what is tested runs in another process.
"""

import os
import select
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from logiss.receiver import FrameDecoder
from tests import l2met_grammar
from tests.front import HTTPAnswer, parse_answers

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 30


class Receiver:
    """
    Receives octet-counted frames on a port of its own.

    @ivar frames: those of each connection, in the order of their arrival.
    """

    def __init__(self, receive_buffer_bytes: int | None = None, port: int = 0) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer_bytes is not None:
            self._listener.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes
            )
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(64)
        self.port: int = self._listener.getsockname()[1]
        self.reading = threading.Event()
        self.reading.set()
        self._lock = threading.Lock()
        self._frames: list[bytes] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def frames(self) -> list[bytes]:
        with self._lock:
            return list(self._frames)

    def stop(self) -> None:
        self._stopping = True
        self.reading.set()
        self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._stopping:
                self.reading.wait()
                for key, _ in selector.select(0.05):
                    if key.fileobj is self._listener:
                        connection, _ = self._listener.accept()
                        selector.register(
                            connection, selectors.EVENT_READ, FrameDecoder()
                        )
                    else:
                        self._read(selector, key)
            for key in list(selector.get_map().values()):
                if key.fileobj is not self._listener:
                    key.fileobj.close()  # type: ignore[union-attr]

    def _read(self, selector: selectors.BaseSelector, key: Any) -> None:
        try:
            octets = key.fileobj.recv(1 << 16)
        except ConnectionResetError:
            octets = b""
        if not octets:
            selector.unregister(key.fileobj)
            key.fileobj.close()
            return
        with self._lock:
            self._frames.extend(key.data.feed(octets))


class Daemon:
    """
    A logiss process.

    @param command: ``twist``, ``twistd`` or ``python``, and options behind it.
    @param launcher: what runs it, as a shell would read it.
    @param passed: the descriptors that the launcher inherits.
    @param descriptors: options of ``ulimit``, where it is not to have the limit on
        open files that the test has.
    """

    def __init__(
        self,
        command: str,
        workdir: Path,
        *,
        launcher: str = "",
        passed: str = "",
        descriptors: str = "",
        **variables: str,
    ) -> None:
        name, *options = command.split()
        arguments = {
            "twist": [str(BIN / "twist"), "logiss"],
            "twistd": [str(BIN / "twistd"), "-n", "--pidfile=", "logiss"],
            "python": [sys.executable, "-m", "logiss", "run"],
        }[name] + options
        if descriptors:
            limited = f'ulimit {descriptors} && exec "$@"'
            arguments = ["/bin/sh", "-c", limited, "sh", *arguments]
        environ = {
            "PATH": os.environ["PATH"],
            "DEPLOY": "test",
            "PORT": "0",
            "LISTEN_HOST": "127.0.0.1",
            "TOKEN_MAP": "user:a:token",
            **variables,
        }
        self.process = subprocess.Popen(
            [*shlex.split(launcher), *arguments],
            cwd=workdir,
            env=environ,
            pass_fds=[int(number) for number in passed.split()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._out: list[bytes] = []
        self.read_stdout = threading.Event()
        self.read_stdout.set()
        self._pump = threading.Thread(target=self._read, daemon=True)
        self._pump.start()
        self.port = 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        while octets := os.read(self.process.stdout.fileno(), 4096):
            self._out.append(octets)
            self.read_stdout.wait()

    @property
    def lines(self) -> list[dict[str, str]]:
        """What it has logged so far; each whole line has to be l2met."""
        text = b"".join(self._out).decode()
        return [l2met_grammar.parse(line) for line in text.split("\n")[:-1]]

    def logged(self, **pairs: str) -> list[dict[str, str]]:
        return [
            line
            for line in self.lines
            if all(line.get(key) == value for key, value in pairs.items())
        ]

    def wait_until_listening(self) -> None:
        """Wait until somebody takes posts, it or workers of it."""
        wait_for(lambda: self.logged(ns="http", at="listen") or self._dead())
        self.port = int(self.logged(ns="http", at="listen")[0]["port"])
        success = {"count#log-iss.forwarder.connect.success": "1"}
        wait_for(lambda: self.logged(**success))

    def wait_until_usable(self, connections: int = 4) -> None:
        """Wait for the port, and for the backend connections."""
        wait_for(lambda: self.logged(ns="http", at="listen") or self._dead())
        (line,) = self.logged(ns="http", at="listen")
        self.port = int(line["port"])
        success = {"count#log-iss.forwarder.connect.success": "1"}
        wait_for(lambda: len(self.logged(**success)) >= connections)

    def _dead(self) -> bool:
        if self.process.poll() is not None:
            assert self.process.stderr is not None
            raise AssertionError(self.process.stderr.read().decode())
        return False

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Its exit code."""
        code = self.process.wait(timeout)
        self.read_stdout.set()
        self._pump.join(PATIENCE_SECONDS)
        return code

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.read_stdout.set()
        self._pump.join(PATIENCE_SECONDS)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def receiving(receive_buffer_bytes: int | None = None) -> Iterator[Receiver]:
    receiver = Receiver(receive_buffer_bytes)
    try:
        yield receiver
    finally:
        receiver.stop()


@contextmanager
def running(command: str, workdir: Path, **variables: str) -> Iterator[Daemon]:
    daemon = Daemon(command, workdir, **variables)
    try:
        yield daemon
    finally:
        daemon.stop()


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class BlockingClient:
    """One connection that sends and waits."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)

    def send(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def answer(self) -> HTTPAnswer | None:
        """The next answer; None when the connection ends without one."""
        octets = b""
        while True:
            head, end, body = octets.partition(b"\r\n\r\n")
            if end:
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                if len(body) >= length:
                    return parse_answers(octets)[0]
            try:
                more = self._socket.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                assert not octets, f"half an answer: {octets!r}"
                return None
            octets += more

    def is_closed(self) -> bool:
        """Whether the other end has closed, waiting for it."""
        return self._socket.recv(1) == b""

    def is_readable(self) -> bool:
        """Whether there is an answer, or the end of the connection, to be read."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def is_cut_off(self) -> bool:
        """Whether the other end has ended the connection by now, without an answer."""
        if not self.is_readable():
            return False
        try:
            octets = self._socket.recv(1)
        except ConnectionResetError:
            return True
        assert not octets, "an answer"
        return True

    def close(self) -> None:
        self._socket.close()
