"""What systemd is told of the service."""

import os
import re
import socket
import tempfile
import time
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.notify import Supervisor


class SupervisorTests(SynchronousTestCase):
    """`Supervisor` speaks the protocol of sd_notify(3)."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name) / "notify")
        self.ear = self.listen(self.path)

    def listen(self, address: str) -> socket.socket:
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(ear.close)
        ear.bind(address)
        ear.setblocking(False)
        return ear

    def heard(self, ear: socket.socket | None = None) -> list[str]:
        found = []
        while True:
            try:
                found.append((ear or self.ear).recv(4096).decode())
            except BlockingIOError:
                return found

    def supervisor(self, pid: int = 5, **variables: str) -> Supervisor:
        return Supervisor({"NOTIFY_SOCKET": self.path, **variables}, pid)

    def test_words(self) -> None:
        """Ready, reloading, stopping: each is a datagram."""
        supervisor = self.supervisor()
        supervisor.ready()
        supervisor.stopping()
        self.assertEqual(self.heard(), ["READY=1", "STOPPING=1"])

    def test_reloading(self) -> None:
        """A reload says when it began, on the clock that systemd compares it with."""
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.supervisor().reloading()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        (said,) = self.heard()
        found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=([0-9]+)", said)
        assert found is not None
        self.assertTrue(before <= int(found[1]) <= after)

    def test_abstract(self) -> None:
        """The address may be in the abstract namespace."""
        name = f"logiss-test-{os.getpid()}"
        ear = self.listen("\0" + name)
        self.supervisor(NOTIFY_SOCKET=f"@{name}").ready()
        self.assertEqual(self.heard(ear), ["READY=1"])

    def test_not_inherited(self) -> None:
        """No child is told where to speak; the process itself, executed anew, is."""
        said = {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "5"}
        environ = {**said, "A": "1"}
        self.assertEqual(Supervisor(environ, 5).variables, said)
        self.assertEqual(environ, {"A": "1"})

    def test_nobody(self) -> None:
        """Without one nothing is said; one that is gone, or is none, is no error."""
        for address in ("", self.path + "-gone", "x" * 300, "vsock:2:1", "@"):
            with self.subTest(address):
                self.supervisor(NOTIFY_SOCKET=address).ready()
        Supervisor({}, 5).ready()
        self.assertEqual(self.heard(), [])

    def test_deaf(self) -> None:
        """One that does not listen is not waited for."""
        supervisor = self.supervisor()
        for _ in range(10_000):
            supervisor.ready()

    def test_watchdog(self) -> None:
        """It says that it is alive twice in the time that it has."""
        supervisor, clock = self.supervisor(WATCHDOG_USEC="30000000"), Clock()
        self.assertTrue(supervisor.keeps_watch)
        supervisor.watch(clock)
        supervisor.watch(clock)
        self.assertEqual(self.heard(), ["WATCHDOG=1"])
        clock.advance(14.9)
        self.assertEqual(self.heard(), [])
        clock.advance(0.2)
        self.assertEqual(self.heard(), ["WATCHDOG=1"])
        clock.pump([15.0] * 3)
        self.assertEqual(self.heard(), ["WATCHDOG=1"] * 3)

    def test_no_watchdog(self) -> None:
        """It does not where nobody wants it, or it is meant for another process."""
        none: dict[str, str] = {}
        for variables in (
            none,
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": ""},
            {"WATCHDOG_USEC": "-5"},
            {"WATCHDOG_USEC": "\u00b2"},
            {"WATCHDOG_USEC": "soon"},
            {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "6"},
        ):
            with self.subTest(variables):
                supervisor = Supervisor({"NOTIFY_SOCKET": self.path, **variables}, 5)
                clock = Clock()
                supervisor.watch(clock)
                self.assertFalse(supervisor.keeps_watch)
                self.assertEqual(clock.getDelayedCalls(), [])
        self.assertEqual(self.heard(), [])

    def test_own_watchdog(self) -> None:
        """It does where it is meant for this one."""
        supervisor = self.supervisor(WATCHDOG_USEC="1000", WATCHDOG_PID="5")
        self.assertTrue(supervisor.keeps_watch)
