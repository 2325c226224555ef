"""Listening sockets are taken over only as they were meant."""

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import evolve
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from logiss import activation
from logiss.activation import (
    NO_LISTENERS,
    ActivationError,
    Inherited,
    Listeners,
    take_over,
)
from logiss.service import LogissService
from tests.fakes import Lines
from tests.test_service import settings

PID = 4711


def said(count: object, names: str = "", pid: object = PID) -> dict[str, str]:
    """What systemd says of so many sockets."""
    return {
        "PATH": "/bin",
        "LISTEN_FDS": str(count),
        "LISTEN_PID": str(pid),
        "LISTEN_FDNAMES": names,
    }


@contextmanager
def closed(*sockets: socket.socket) -> Iterator[None]:
    try:
        yield
    finally:
        for each in sockets:
            each.close()


class TakeOverTests(SynchronousTestCase):
    """`take_over` believes nothing that it has not looked at."""

    def setUp(self) -> None:
        self.patch(activation, "inherited", self.inherited)

    def inherited(self, descriptor: int, name: str) -> Inherited:
        return Inherited(descriptor, socket.AF_INET, 8000 + descriptor)

    def problem(self, environ: dict[str, str]) -> str:
        with self.assertRaises(ActivationError) as raised:
            take_over(environ, PID, {})
        self.assertEqual(environ, {"PATH": "/bin"})
        return str(raised.exception)

    def test_nothing(self) -> None:
        """Where nothing is said, nothing is taken."""
        for environ in ({}, said(0), said("")):
            self.assertEqual(take_over(environ, PID, {}), NO_LISTENERS)
        self.assertEqual(NO_LISTENERS.variables, {})

    def test_names(self) -> None:
        """The one called admin is for the status page, wherever it stands."""
        for names, logs, admin in [
            ("", 3, None),
            ("logiss.socket", 3, None),
            ("http", 3, None),
            ("logs:admin", 3, 4),
            ("admin:logs", 4, 3),
            ("admin:logiss.socket", 4, 3),
            ("admin", None, 3),
        ]:
            count = names.count(":") + 1
            found = take_over(said(count, names), PID, {})
            descriptors = [
                each.descriptor if each else None for each in (found.logs, found.admin)
            ]
            self.assertEqual(descriptors, [logs, admin], names)

    def test_variables(self) -> None:
        """The ports of the sockets stand for those of the variables."""
        found = take_over(said(2, "logs:admin"), PID, {})
        self.assertEqual(found.variables, {"PORT": "8003", "ADMIN_PORT": "8004"})

    def test_forgotten(self) -> None:
        """No child takes what was ours for its own; other variables stay."""
        environ = {**said(1, "logs"), "LISTEN_PIDFDID": "7", "LISTEN_HOST": "::1"}
        take_over(environ, PID, {})
        self.assertEqual(environ, {"PATH": "/bin", "LISTEN_HOST": "::1"})

    def test_at_start(self) -> None:
        """What Twisted has forgotten for us counts; what was another's does not."""
        at_start = said(1)
        for environ in ({}, {"LISTEN_FDNAMES": ""}):
            found = take_over(environ, PID, at_start)
            self.assertEqual(found.variables, {"PORT": "8003"})
            self.assertEqual(environ, {})
        self.assertEqual(take_over({}, PID, said(1, pid=4710)), NO_LISTENERS)
        named = take_over({}, PID, said(1, "admin"))
        self.assertEqual(named.variables, {"ADMIN_PORT": "8003"})

    def test_environ_at_start(self) -> None:
        """It is that of the process, whatever has changed since."""
        self.patch(os, "environ", {"PATH": "/elsewhere"})
        found = activation.environ_at_start()
        if sys.platform == "linux":
            self.assertNotEqual(found["PATH"], "/elsewhere")

    def test_somebody_elses(self) -> None:
        """What another process was given is not ours."""
        self.assertEqual(
            self.problem(said(1, pid=4710)),
            'LISTEN_FDS: the sockets are for process "4710", and this is 4711; let'
            " systemd start logiss without a shell around it (or with exec), or unset"
            " LISTEN_FDS",
        )
        self.assertIn('process ""', self.problem(said(1, pid="")))

    def test_no_number(self) -> None:
        """What is no number, or no sane one, is quoted."""
        for count in ("two", "-1", "65", "1" + "0" * 5000, "²"):
            self.assertRegex(
                self.problem(said(count)),
                r'^LISTEN_FDS: is ".+", not a number of sockets from 0 to 64; ',
            )

    def test_too_many(self) -> None:
        """What nobody would accept on is refused, or its clients would hang."""
        for names, surplus in [
            ("logs:other", 4),
            ("other:logs", 3),
            ("logs:http", 4),
            ("admin:admin:logs", 4),
            ("a:b", 4),
        ]:
            count = names.count(":") + 1
            self.assertEqual(
                self.problem(said(count, names)),
                f"LISTEN_FDS: descriptor {surplus} is one socket too many; hand over"
                " one for posts and at most one besides, with"
                " FileDescriptorName=admin, for the status page",
            )

    def test_fewer_names(self) -> None:
        """A name that is missing is none."""
        self.assertIn("descriptor 4", self.problem(said(2, "logs")))


class InheritedTests(SynchronousTestCase):
    """A descriptor has to be what it is said to be."""

    def problem(self, descriptor: int) -> str:
        with self.assertRaises(ActivationError) as raised:
            activation.inherited(descriptor, "logs")
        return str(raised.exception)

    def test_listening(self) -> None:
        """A listening socket is taken, made ready for the reactor, and stays open."""
        for family, host in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]:
            listener = socket.socket(family)
            with closed(listener):
                try:
                    listener.bind((host, 0))
                except OSError:
                    continue  # no IPv6 here
                listener.listen()
                listener.setblocking(True)
                listener.set_inheritable(True)
                descriptor = listener.fileno()
                found = activation.inherited(descriptor, "logs")
                port = listener.getsockname()[1]
                self.assertEqual(found, Inherited(descriptor, family, port))
                self.assertFalse(os.get_blocking(descriptor))
                self.assertTrue(
                    fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
                )

    def test_not_listening(self) -> None:
        """A socket that is bound, or a connection (Accept=yes), is none."""
        one, other = socket.socket(), socket.socket()
        with closed(one, other):
            one.bind(("127.0.0.1", 0))
            for each in (one, other):
                self.assertEqual(
                    self.problem(each.fileno()),
                    f'LISTEN_FDS: descriptor {each.fileno()} ("logs") is no listening'
                    " TCP socket: it does not listen; give its socket unit"
                    " ListenStream= with a TCP port, and Accept=no",
                )

    def test_no_tcp(self) -> None:
        """Nor is one of another kind."""
        datagrams, local = (
            socket.socket(type=socket.SOCK_DGRAM),
            socket.socket(socket.AF_UNIX),
        )
        with closed(datagrams, local):
            for each in (datagrams, local):
                self.assertIn(": it is no TCP socket; ", self.problem(each.fileno()))

    def test_no_socket(self) -> None:
        """Nor is a pipe, or nothing at all."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.assertIn("Socket operation on non-socket", self.problem(reading))
        os.close(writing)
        self.assertIn("Bad file descriptor", self.problem(writing))


class AdoptTests(SynchronousTestCase):
    """What is inherited is accepted on in place of a port of our own."""

    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()

    def inherited(self) -> Inherited:
        # Any descriptor will do: the reactor in memory does not look.
        reading, writing = os.pipe()
        os.close(writing)
        return Inherited(reading, socket.AF_INET, 5000)

    def test_adopt(self) -> None:
        """The reactor gets the descriptor, and ours is closed afterwards."""
        inherited, factory = self.inherited(), Factory()
        inherited.adopt(self.reactor, factory)
        self.assertEqual(
            self.reactor.adoptedPorts,
            [(inherited.descriptor, socket.AF_INET, factory)],
        )
        with self.assertRaises(OSError):
            os.fstat(inherited.descriptor)

    def test_service(self) -> None:
        """A service listens on those that it is handed, and on no others."""
        for logs, admin, ports in [
            (True, True, []),
            (True, False, [9514]),
            (False, True, [5000]),
            (False, False, [5000, 9514]),
        ]:
            reactor: Any = MemoryReactorClock()
            listeners = Listeners(
                self.inherited() if logs else None,
                self.inherited() if admin else None,
            )
            asked = evolve(settings("sent"), admin_port=9514)
            LogissService(reactor, asked, Lines().write, listeners).startService()
            self.assertEqual([server[0] for server in reactor.tcpServers], ports)
            adopted = [descriptor for descriptor, _, _ in reactor.adoptedPorts]
            handed = [each for each in (listeners.logs, listeners.admin) if each]
            self.assertEqual(adopted, [each.descriptor for each in handed])
