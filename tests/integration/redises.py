"""A real redis-server on a port of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from logiss.credentials import password_digest

HMAC_KEY = "a key for tests"
KEY = "logiss:users"
_PATIENCE_SECONDS = 30


def credential(
    password: str,
    name: str = "v1",
    stage: str = "current",
    deprecated: bool = False,
) -> dict[str, Any]:
    """One as it stands in the list of a user's entry."""
    digest = password_digest(HMAC_KEY.encode(), password.encode()).hex()
    return {"name": name, "stage": stage, "deprecated": deprecated, "hmac": digest}


class RedisServer:
    """
    A redis-server that keeps nothing on disk.

    @param options: more of its options, as on its command line.
    """

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        program = shutil.which("redis-server")
        if program is None:
            reason = "redis-server is not installed (Debian: apt-get install"
            reason += " redis-server)"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        self.port = port or unused_port()
        self._folder = folder
        self._arguments = [
            program,
            *("--port", str(self.port)),
            *("--bind", "127.0.0.1"),
            *("--save", ""),
            *("--appendonly", "no"),
            *("--dir", str(folder)),
            *options,
        ]
        self.start()

    def start(self) -> None:
        said = (self._folder / "redis.said").open("ab")
        with said:
            self.process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return

    @property
    def said(self) -> str:
        return (self._folder / "redis.said").read_text()

    def command(self, *words: str | bytes) -> bytes:
        """Its reply, which is one line or one string, and no error."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            octets = b"*%d\r\n" % len(words)
            for word in words:
                word = word.encode() if isinstance(word, str) else word
                octets += b"$%d\r\n%b\r\n" % (len(word), word)
            connection.sendall(octets)
            reply = b""
            while b"\r\n" not in reply:
                more = connection.recv(1 << 16)
                assert more, reply
                reply += more
            head, _, rest = reply.partition(b"\r\n")
            while head.startswith(b"$") and len(rest) < int(head[1:]):
                rest += connection.recv(1 << 16)
        assert not head.startswith(b"-"), head
        return rest if head.startswith(b"$") else head

    def keys(self) -> list[bytes]:
        """All that it has."""
        said = self.command(
            "EVAL", "return table.concat(redis.call('keys','*'),' ')", "0"
        )
        return said.split()

    def hold(self, user: str, *credentials: dict[str, Any]) -> None:
        """Have `user` hold exactly these."""
        self.command("HSET", KEY, user, json.dumps(credentials))

    def stop_answering(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(_PATIENCE_SECONDS)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.kill()
