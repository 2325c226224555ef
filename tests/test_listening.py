"""A port keeps to its number of clients, and leaves the others to the kernel."""

import errno
import os
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from logiss.listening import Accepting, BoundedPort, BoundedSocket, CountedServer
from tests.fakes import Lines

PAUSED = "count#log-iss.http.accept.pause"
RESUMED = "count#log-iss.http.accept.resume"
PAUSE_SECONDS = "measure#log-iss.http.accept.pause.duration"


class FakeReading:
    """Something that reads, or not."""

    def __init__(self) -> None:
        self.reading = True
        self.changes = 0

    def startReading(self) -> None:  # noqa: N802
        self.reading = True
        self.changes += 1

    def stopReading(self) -> None:  # noqa: N802
        self.reading = False
        self.changes += 1


class FakeListener:
    """
    A listening socket.

    @ivar backlog: who waits: a client, or the number of an error.
    """

    def __init__(self) -> None:
        self.backlog: list[Any] = []

    def accept(self) -> tuple[Any, Any]:
        if not self.backlog:
            raise BlockingIOError(errno.EAGAIN, "nobody")
        first = self.backlog.pop(0)
        if isinstance(first, int):
            raise OSError(first, os.strerror(first))
        return first, ("192.0.2.7", 50000)

    def fileno(self) -> int:
        return 7


class AcceptingTests(SynchronousTestCase):
    """`Accepting` pauses and goes on, and says so now and then."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.port = FakeReading()
        self.lines = Lines()
        self.accepting = Accepting(self.clock, self.port, 3, self.lines.events())

    def fill(self) -> None:
        """Accept until there is no room."""
        while self.accepting.has_room():
            self.accepting.client_made()

    def said(self) -> list[str]:
        """Which lines there are."""
        return [PAUSED if PAUSED in pairs else RESUMED for pairs in self.lines.pairs]

    def test_room(self) -> None:
        """There is room up to the number, and nothing is said meanwhile."""
        for _ in range(3):
            self.assertTrue(self.accepting.has_room())
            self.accepting.client_made()
        self.assertEqual(self.accepting.connections, 3)
        self.assertTrue(self.port.reading)
        self.assertEqual(self.lines.raw, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_full(self) -> None:
        """Beyond the number the port stops reading, and a line says why."""
        self.fill()
        self.assertFalse(self.port.reading)
        (line,) = self.lines.having(PAUSED, "1")
        self.assertEqual(self.accepting.pauses, 1)
        self.assertEqual(line["connections"], "3")
        self.assertEqual(line["message"], "3 clients, as many as there may be")
        self.clock.pump([1.0] * 5)
        self.assertFalse(self.port.reading)
        self.assertEqual(self.said(), [PAUSED])

    def test_one_has_gone(self) -> None:
        """It goes on in the moment in which a client has gone."""
        self.fill()
        self.clock.advance(0.25)
        self.accepting.client_lost()
        self.assertTrue(self.port.reading)
        self.assertEqual(self.accepting.connections, 2)
        self.assertTrue(self.accepting.has_room())

    def test_resumed(self) -> None:
        """That it goes on is said once it has for a second, with the time it took."""
        self.fill()
        self.clock.pump([0.5] * 5)
        self.accepting.client_lost()
        self.clock.pump([0.5] * 2)
        self.assertEqual(self.said(), [PAUSED])
        self.clock.pump([0.5])
        self.assertEqual(self.said(), [PAUSED, RESUMED])
        self.assertEqual(self.lines.pairs[1]["connections"], "2")
        self.assertEqual(self.lines.pairs[1][PAUSE_SECONDS], "2.500000s")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_coming_and_going(self) -> None:
        """However often it pauses, there is no more than one pair of lines a second."""
        self.fill()
        for _ in range(1000):
            self.clock.advance(0.01)
            self.accepting.client_lost()
            self.fill()
        self.assertGreater(self.port.changes, 2000)
        self.assertEqual(self.said(), [PAUSED])
        self.accepting.client_lost()
        self.clock.advance(1)
        self.assertEqual(self.said(), [PAUSED])
        self.clock.advance(1)
        self.assertEqual(self.said(), [PAUSED, RESUMED])
        self.fill()
        self.assertEqual(self.said(), [PAUSED, RESUMED, PAUSED])

    def test_short_pauses(self) -> None:
        """Pauses too short to be seen from second to second are not forgotten."""
        self.fill()
        for _ in range(10):
            self.accepting.client_lost()
            self.clock.advance(0.9)
            self.fill()
            self.clock.advance(0.05)
            self.accepting.client_lost()
            self.clock.advance(0.05)
            self.accepting.client_made()
            self.fill()
        self.assertEqual(self.said(), [PAUSED])

    def test_nothing_left(self) -> None:
        """Without descriptors it tries again after a second, whoever goes meanwhile."""
        self.accepting.client_made()
        self.accepting.client_made()
        self.accepting.nothing_left("accept: Too many open files")
        self.assertFalse(self.port.reading)
        self.assertEqual(self.lines.pairs[0]["message"], "accept: Too many open files")
        self.accepting.client_lost()
        self.clock.advance(0.9)
        self.assertFalse(self.port.reading)
        self.clock.advance(0.1)
        self.assertTrue(self.port.reading)

    def test_nothing_left_for_long(self) -> None:
        """It tries once a second, and all of that is one line, and one at its end."""
        self.accepting.nothing_left("accept: Too many open files")
        for _ in range(10):
            self.clock.advance(1)
            self.assertTrue(self.port.reading)
            self.accepting.nothing_left("accept: Too many open files")
            self.assertFalse(self.port.reading)
        self.assertEqual(self.said(), [PAUSED])
        self.clock.advance(1)
        self.assertTrue(self.port.reading)
        self.assertEqual(self.said(), [PAUSED])
        self.clock.advance(1)
        self.assertEqual(self.said(), [PAUSED, RESUMED])
        self.assertEqual(self.lines.pairs[1][PAUSE_SECONDS], "11.000000s")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_left_while_full(self) -> None:
        """A second over does not open a port that is full meanwhile."""
        self.accepting.nothing_left("accept: Too many open files")
        for _ in range(3):
            self.accepting.client_made()
        self.clock.advance(1)
        self.assertFalse(self.port.reading)
        self.accepting.client_lost()
        self.assertTrue(self.port.reading)

    def test_stopped(self) -> None:
        """Behind the end of a paused port its clients go, and nothing touches it."""
        self.fill()
        self.accepting.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        changes = self.port.changes
        for _ in range(3):
            self.accepting.client_lost()
        self.assertEqual(self.port.changes, changes)


class BoundedSocketTests(SynchronousTestCase):
    """What Twisted's accept loop finds in place of its socket."""

    def setUp(self) -> None:
        self.port = FakeReading()
        self.lines = Lines()
        self.clock = Clock()
        self.accepting = Accepting(self.clock, self.port, 2, self.lines.events())
        self.listener = FakeListener()
        self.socket = BoundedSocket(cast(Any, self.listener), self.accepting)

    def refused(self) -> Any:
        """The error of an accept."""
        with self.assertRaises(OSError) as raised:
            self.socket.accept()
        return raised.exception.errno

    def test_accepts(self) -> None:
        """While there is room it is the socket that it stands for."""
        self.listener.backlog = ["a client"]
        self.assertEqual(self.socket.accept()[0], "a client")
        self.assertEqual(self.socket.fileno(), 7)
        self.assertEqual(self.refused(), errno.EAGAIN)
        self.assertTrue(self.port.reading)

    def test_full(self) -> None:
        """Without room there is nobody, and whoever is there is left in the backlog."""
        self.listener.backlog = ["a client"]
        self.accepting.client_made()
        self.accepting.client_made()
        self.assertEqual(self.refused(), errno.EAGAIN)
        self.assertEqual(self.listener.backlog, ["a client"])
        self.assertFalse(self.port.reading)

    def test_nothing_left(self) -> None:
        """
        Without descriptors, too: Twisted would accept who is there and throw them away.
        """
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            with self.subTest(number):
                self.listener.backlog = [number, "a client"]
                self.assertEqual(self.refused(), errno.EAGAIN)
                self.assertFalse(self.port.reading)
                self.assertEqual(
                    self.lines.pairs[-1]["message"], f"accept: {os.strerror(number)}"
                )
                self.clock.pump([1.0, 1.0])
                self.assertTrue(self.port.reading)
                self.assertEqual(self.socket.accept()[0], "a client")

    def test_others(self) -> None:
        """Any other error is Twisted's to judge."""
        for number in (errno.ECONNABORTED, errno.EPERM, errno.EBADF):
            self.listener.backlog = [number]
            self.assertEqual(self.refused(), number)
            self.assertTrue(self.port.reading)
        self.assertEqual(self.lines.raw, [])


class FakeSocket:
    """A client's socket, as far as it takes to make and close a transport."""

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def fileno(self) -> int:
        return 8

    def shutdown(self, how: int) -> None:
        """In order."""

    def close(self) -> None:
        """For good."""


class Stubborn(Protocol):
    """Fails when its connection is lost."""

    def connectionLost(self, reason: Any = None) -> None:
        raise ZeroDivisionError


class BoundedPortTests(SynchronousTestCase):
    """A `tcp.Port` counts its clients, and another port is left alone."""

    def setUp(self) -> None:
        self.lines = Lines()
        self.reactor: Any = MemoryReactorClock()
        factory = Factory.forProtocol(Protocol)
        self.port: Any = Port(0, factory, reactor=self.reactor)
        self.port.socket = FakeListener()
        self.bounded = BoundedPort(self.reactor, self.port, 2, self.lines.events())

    def connect(self, protocol: Protocol) -> CountedServer:
        """A client, as the accept loop makes it."""
        skt: Any = FakeSocket()
        peer = ("192.0.2.7", 50000)
        client: CountedServer = self.port.transport(
            skt, protocol, peer, self.port, 0, self.reactor
        )
        protocol.makeConnection(client)
        return client

    def test_interface(self) -> None:
        """It is a listening port itself."""
        verifyObject(IListeningPort, self.bounded)

    def test_counted(self) -> None:
        """A connection counts from its transport to its end, which comes once."""
        first, second = self.connect(Protocol()), self.connect(Protocol())
        self.assertEqual(self.bounded.connections, 2)
        self.assertEqual(
            first.getPeer(), IPv4Address("TCP", "192.0.2.7", 50000), "as ever"
        )
        for _ in range(2):
            first.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.bounded.connections, 1)
        second.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.bounded.connections, 0)

    def test_failing_protocol(self) -> None:
        """A protocol that fails at its end has ended all the same."""
        client = self.connect(Stubborn())
        with self.assertRaises(ZeroDivisionError):
            client.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.bounded.connections, 0)

    def test_other_ports(self) -> None:
        """The port of another kind of reactor serves without bounds."""
        port = self.reactor.listenTCP(5000, Factory.forProtocol(Protocol))
        bounded = BoundedPort(self.reactor, port, 2, self.lines.events())
        self.assertEqual(bounded.getHost(), port.getHost())
        self.assertFalse(hasattr(port, "transport"))
        bounded.startListening()
        bounded.stopListening()
