"""Processes of workers, with no logiss in them."""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from logiss.processes import (
    LOGISS_RUN,
    WORKER,
    Place,
    Process,
    Processes,
    place_of,
    this_command,
)
from logiss.shares import make_table


class PlaceTests(SynchronousTestCase):
    """What a worker is told of its place is a variable."""

    def test_round(self) -> None:
        """What the parent says is understood."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            place = Place(2, ours.fileno(), 8, theirs.fileno())
            self.assertEqual(place_of(place.text), place)

    def test_not_there(self) -> None:
        """What names descriptors that are none, or no sockets, is not."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for listener, intercom in [
                (reading, theirs.fileno()),
                (ours.fileno(), writing),
                (ours.fileno(), 10**6),
                (10**30, theirs.fileno()),
            ]:
                with self.subTest((listener, intercom)):
                    self.assertIsNone(place_of(Place(1, listener, 8, intercom).text))

    def test_strange(self) -> None:
        """What no parent says is not."""
        for text in (
            *("1", "1:2:3", "1:2:3:4:5", "a:2:3:4", "1::3:4", "-1:2:3:4"),
            "\u0661:2:3:4",
        ):
            with self.subTest(text):
                self.assertIsNone(place_of(text))


class FakeReactor:
    """Adopts connections, and does nothing with them."""

    def __init__(self) -> None:
        self.adopted: list[int] = []

    def adoptStreamConnection(self, descriptor: int, *_: Any) -> None:  # noqa: N802
        self.adopted.append(descriptor)


def passed_on() -> set[int]:
    """What each child of this process has, for whoever started it wants it so."""
    return {n for n in map(int, os.listdir("/proc/self/fd")) if _is_inheritable(n)}


def _is_inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


class ProcessesTests(SynchronousTestCase):
    """`Processes` starts what it is told to, and knows of its end."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.listener = socket.socket()
        self.addCleanup(self.listener.close)
        self.shares = make_table(3)
        self.addCleanup(os.close, self.shares)

    def start(self, code: str, command: Sequence[str] = ()) -> Process:
        """A process that runs `code`."""
        processes = Processes(
            self.reactor, command or [sys.executable, "-c", f"import os\n{code}"]
        )
        number, shares = self.listener.fileno(), self.shares
        process = processes.start(
            3, number, shares, {"A": "1"}, lambda message: None, lambda: None
        )
        self.addCleanup(process.let_go)
        self.addCleanup(self.end, process)
        return process

    def end(self, process: Process) -> None:
        process.kill()
        self.code(process)

    def code(self, process: Process) -> int:
        deadline = time.monotonic() + 30
        while (code := process.exit_code()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return code

    def test_exit_code(self) -> None:
        """Its exit code is known once it has ended, and stays known."""
        process = self.start("os._exit(7)")
        self.assertEqual(self.code(process), 7)
        self.assertEqual(process.exit_code(), 7)
        process.kill()

    def test_signal(self) -> None:
        """A signal that ends it is a number below zero."""
        process = self.start("import time; time.sleep(60)")
        self.assertIsNone(process.exit_code())
        process.kill()
        self.assertEqual(self.code(process), -signal.SIGKILL)

    def test_hangup(self) -> None:
        """SIGHUP to all processes at once does not end one that has just begun."""
        process = self.start("import time; time.sleep(0.2); os._exit(3)")
        os.kill(process.pid, signal.SIGHUP)
        self.assertEqual(self.code(process), 3)

    def test_waited_for(self) -> None:
        """One whose end somebody else has seen has ended, somehow."""
        process = self.start("os._exit(0)")
        os.waitpid(process.pid, 0)
        self.assertEqual(process.exit_code(), 255)

    def test_what_it_has(self) -> None:
        """It has the variables, socket, table, its end of the intercom, and no more."""
        code = f"""
number, listener, shares, intercom = os.environ.pop({WORKER!r}).split(":")
assert dict(os.environ).get("A") == "1" and "HOME" not in os.environ, os.environ
import signal
assert number == "3"
there = set()
for n in range(3, 200):
    try:
        os.fstat(n)
    except OSError:
        continue
    there.add(n)
assert there - {passed_on()!r} == {{int(listener), int(shares), int(intercom)}}, there
assert os.getpgrp() == os.getpid()
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {{signal.SIGHUP}}
os.write(int(intercom), b"here")
os._exit(0)
"""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self.addCleanup(signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGTERM})
        process = self.start(code)
        self.assertEqual(self.code(process), 0)
        self.assertEqual(os.read(process.descriptor, 100), b"here")
        self.assertEqual(os.read(process.descriptor, 100), b"")
        for descriptor in (process.descriptor, self.listener.fileno(), self.shares):
            self.assertFalse(os.get_inheritable(descriptor))
        self.assertEqual(self.reactor.adopted, [process.descriptor])

    def test_cannot_start(self) -> None:
        """When there is no such command, that is said, and nothing is left open."""
        before = len(os.listdir("/proc/self/fd"))
        with self.assertRaises(OSError):
            self.start("", ["/nowhere/python"])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertFalse(os.get_inheritable(self.listener.fileno()))

    def test_too_long(self) -> None:
        """A variable that no process can be started with is named, its value not."""
        processes = Processes(self.reactor, [sys.executable, "-c", ""])
        environ = {"SHORT": "1", "TOKEN_MAP": "hunter2" * 20_000}
        number, shares = self.listener.fileno(), self.shares
        with self.assertRaises(OSError) as caught:
            processes.start(1, number, shares, environ, lambda _: None, lambda: None)
        why = str(caught.exception)
        self.assertIn(" TOKEN_MAP: too long for a process to be started with;", why)
        self.assertNotIn("hunter2", why)

    def test_let_go(self) -> None:
        """Its end of the intercom is closed once."""
        process = self.start("os._exit(0)")
        descriptor = process.descriptor
        process.let_go()
        process.let_go()
        with self.assertRaises(OSError):
            os.fstat(descriptor)


class CommandTests(SynchronousTestCase):
    """What a worker is started with."""

    def test_this(self) -> None:
        """The command of this process, with its options."""
        self.assertEqual(this_command(), (sys.executable, *sys.orig_argv[1:]))

    def test_run(self) -> None:
        """Else ``logiss run``, with modules only from where they are installed."""
        self.assertEqual(LOGISS_RUN[1:], ("-P", "-m", "logiss", "run"))
        self.assertTrue(Path(LOGISS_RUN[0]).is_absolute())
