"""What a supervisor such as systemd is told, over a socket of its own."""

import os
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.integration.daemons import receiving, running, wait_for
from tests.integration.test_daemon import is_listening
from tests.integration.workers import Crew, ending

_CREDENTIALS = struct.Struct("3i")


class Ear:
    """
    Hears what processes say, and which of them.

    @ivar said: each with the process that said it and when.
    """

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.setblocking(False)
        self.said: list[tuple[str, int, float]] = []

    def listen(self) -> None:
        room = socket.CMSG_SPACE(_CREDENTIALS.size)
        while True:
            try:
                octets, told, _, _ = self._socket.recvmsg(4096, room)
            except BlockingIOError:
                return
            ((_, _, credentials),) = told
            pid, _, _ = _CREDENTIALS.unpack(credentials)
            self.said.append((octets.decode(), pid, time.monotonic()))

    def words(self) -> list[str]:
        """What was said but for signs of life, without times."""
        self.listen()
        words = [said for said, _, _ in self.said if said != "WATCHDOG=1"]
        return [re.sub(r"\nMONOTONIC_USEC=[0-9]+$", " at", each) for each in words]

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening(address: str) -> Iterator[Ear]:
    with closing(Ear(address)) as ear:
        yield ear


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_told(kind: str, tmp_path: Path) -> None:
    """
    Ready when it listens, reloading and ready again with another parent in the same
    process, stopping; alive all the time; and nobody speaks but the main process.
    """
    address = str(tmp_path / "notify")
    if kind == "abstract":
        address = f"@logiss-test-{os.getpid()}"
    with (
        listening(address) as ear,
        receiving() as receiver,
        running(
            "python",
            tmp_path,
            WEB_CONCURRENCY="2" if kind == "path" else "1",
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            NOTIFY_SOCKET=address,
            WATCHDOG_USEC="1000000",
        ) as daemon,
        ending(daemon),
    ):
        wait_for(ear.words)
        assert ear.words() == ["READY=1"]
        where = {"ns": "workers" if kind == "path" else "http", "at": "listen"}
        wait_for(lambda: daemon.logged(**where))
        port = int(daemon.logged(**where)[0]["port"])
        assert is_listening(port)
        if kind == "path":
            Crew(daemon)
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: daemon.logged(ns="main", at="executed"))
        assert daemon.logged(**{"count#log-iss.reload.success": "1"})
        # One that serves by itself may be ready before it is anew, and behind that.
        said = ear.words()
        assert said in [["READY=1", "RELOADING=1 at", *["READY=1"] * n] for n in (1, 2)]
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert ear.words()[len(said) :] == ["STOPPING=1"]
        assert {pid for _, pid, _ in ear.said} == {daemon.process.pid}
        alive = [at for said, _, at in ear.said if said == "WATCHDOG=1"]
        assert len(alive) > 2
