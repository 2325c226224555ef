"""A sender says that bytes have left when the kernel has them, and not before."""

import socket
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.interfaces import IHandshakeListener, IPullProducer
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from logiss.metrics import Metrics
from logiss.senders import (
    CLOSE_SECONDS,
    RECONNECT_SECONDS,
    RECONNECT_SECONDS_MAX,
    ConnectionBroken,
    ISender,
    NothingWritten,
    SenderFactory,
    SyslogSender,
    describe,
    reconnect_seconds,
)
from tests.fakes import FakeOwner, Lines, outcome
from tests.kernel import KernelTransport


class FakeConnector:
    """A connector whose network is the test."""

    def __init__(self, factory: SenderFactory) -> None:
        self.factory = factory
        self.attempts = 0
        self.active = False
        self.is_established = False
        self.disconnects = 0

    def connect(self) -> None:
        self.attempts += 1
        self.active = True
        self.is_established = False
        self.factory.startedConnecting(self)  # type: ignore[arg-type]

    def established(self) -> None:
        self.is_established = True

    def stopConnecting(self) -> None:
        from twisted.internet.error import NotConnectingError

        raise NotConnectingError

    def disconnect(self) -> None:
        self.disconnects += 1

    def fail(self, reason: Failure) -> None:
        self.active = False
        self.factory.clientConnectionFailed(self, reason)  # type: ignore[arg-type]

    def connection_lost(self, reason: Failure, was_usable: bool) -> None:
        self.active = False
        if was_usable:
            self.factory.clientConnectionLost(self, reason)  # type: ignore[arg-type]
        else:
            self.fail(reason)


class SenderTestCase(SynchronousTestCase):
    """A factory with everything around it, and time of its own."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.lines = Lines()
        self.metrics = Metrics()
        self.owner = FakeOwner()
        self.factory = SenderFactory(
            2,
            self.owner,
            self.reactor,
            self.lines.events(),
            self.metrics,
        )
        self.connector = FakeConnector(self.factory)
        self.connector.connect()

    def connect(self) -> tuple[SyslogSender, KernelTransport]:
        sender = self.factory.buildProtocol(None)
        transport = KernelTransport(self.reactor)
        transport.protocol = sender  # type: ignore[attr-defined]
        sender.makeConnection(transport)
        return sender, transport

    def lose(
        self, sender: SyslogSender, transport: KernelTransport, error: Exception
    ) -> None:
        transport.end(Failure(error))
        sender.connectionLost(Failure(error))


class SyslogSenderTests(SenderTestCase):
    """Bytes have left when the kernel has taken all of them."""

    def test_interfaces(self) -> None:
        """A sender is what the pool and Twisted take it for."""
        sender, _ = self.connect()
        verifyObject(ISender, sender)
        verifyObject(IPullProducer, sender)
        verifyObject(IHandshakeListener, sender)

    def test_left_when_taken(self) -> None:
        """The delivery ends when the kernel takes the last byte."""
        sender, transport = self.connect()
        transport.room = 7
        sent = outcome(sender.send([b"hello ", b"world"]))
        transport.run()
        self.assertEqual((transport.taken, sent()), (b"hello w", []))
        transport.room = 3
        transport.run()
        self.assertEqual((transport.taken, sent()), (b"hello worl", []))
        transport.room = 1
        transport.run()
        self.assertEqual((transport.taken, sent()), (b"hello world", [None]))

    def test_not_at_write(self) -> None:
        """Writing to the transport alone ends nothing."""
        sender, _ = self.connect()
        self.assertEqual(outcome(sender.send([b"x"]))(), [])

    def test_no_producer_when_idle(self) -> None:
        """An idle connection has no producer, so that it can close."""
        sender, transport = self.connect()
        self.assertIsNone(transport.producer)
        sender.send([b"x"])
        self.assertIs(transport.producer, sender)
        transport.run()
        self.assertIsNone(transport.producer)

    def test_again_from_the_callback(self) -> None:
        """Who hears that all has left may send at once."""
        sender, transport = self.connect()
        second: list[Deferred[None]] = []
        sender.send([b"one"]).addCallback(
            lambda _: second.append(sender.send([b"two"]))
        )
        transport.run()
        self.assertEqual(transport.taken, b"onetwo")
        self.assertEqual(self.successResultOf(second[0]), None)

    def test_broken(self) -> None:
        """A connection that ends with bytes in flight fails them and says how."""
        sender, transport = self.connect()
        transport.room = 1
        sent = sender.send([b"xyz"])
        transport.run()
        self.lose(sender, transport, ConnectionLost("reset"))
        failure = self.failureResultOf(sent, ConnectionBroken)
        self.assertIn("reset", str(failure.value))
        self.assertEqual(self.owner.lost, [sender])

    def test_lost_before_failed(self) -> None:
        """The owner knows of the loss before it can send again."""
        sender, transport = self.connect()
        sent = sender.send([b"xyz"])
        seen: list[list[Any]] = []
        sent.addErrback(lambda _: seen.append(list(self.owner.lost)))
        self.lose(sender, transport, ConnectionDone())
        self.assertEqual(seen, [[sender]])

    def test_abort(self) -> None:
        """Giving up aborts the transport and takes the producer away."""
        sender, transport = self.connect()
        transport.room = 0
        sent = sender.send([b"xyz"])
        sender.abort()
        self.assertTrue(transport.aborted)
        self.assertIsNone(transport.producer)
        self.assertNoResult(sent)
        self.lose(sender, transport, ConnectionAborted())
        self.failureResultOf(sent, ConnectionBroken)

    def test_socket_options(self) -> None:
        """Small writes go out at once; a silent peer is found out."""
        _, transport = self.connect()
        self.assertTrue(transport.no_delay)
        self.assertTrue(transport.keep_alive)


class _SocketTransport(KernelTransport):
    """A transport that has a socket, as the reactor's own have."""

    def __init__(self, reactor: MemoryReactorClock, ours: socket.socket) -> None:
        super().__init__(reactor)
        self._ours = ours

    def getHandle(self) -> socket.socket:  # noqa: N802
        return self._ours


class StraightToTheKernelTests(SenderTestCase):
    """What the kernel takes at once does not go through the transport."""

    def setUp(self) -> None:
        super().setUp()
        self.ours, self.theirs = socket.socketpair()
        self.addCleanup(self.ours.close)
        self.addCleanup(self.theirs.close)
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.sender = self.factory.buildProtocol(None)
        self.socket_transport = _SocketTransport(self.reactor, self.ours)
        self.sender.makeConnection(self.socket_transport)

    def test_all(self) -> None:
        """When it takes everything the delivery ends there and then."""
        sent = self.sender.send([b"hello ", b"world"])
        self.assertIsNone(self.successResultOf(sent))
        self.assertEqual(self.theirs.recv(100), b"hello world")
        self.assertIsNone(self.socket_transport.producer)
        self.socket_transport.run()
        self.assertEqual(self.socket_transport.taken, b"")

    def test_many_chunks(self) -> None:
        """More chunks than one call takes arrive all the same."""
        chunks = [b"%d," % i for i in range(3_000)]
        self.successResultOf(self.sender.send(chunks))
        self.assertEqual(self.theirs.recv(1 << 20), b"".join(chunks))

    def test_a_part(self) -> None:
        """What it does not take goes through the transport, in order."""
        octets = bytes(range(256)) * 8_192
        sent = self.sender.send([octets[:100], octets[100:]])
        self.assertNoResult(sent)
        arrived = b""
        try:
            while True:
                arrived += self.theirs.recv(1 << 20)
        except BlockingIOError:
            pass
        self.assertTrue(0 < len(arrived) < len(octets))
        self.socket_transport.run()
        self.assertEqual(arrived + self.socket_transport.taken, octets)
        self.successResultOf(sent)

    def test_none(self) -> None:
        """A kernel that takes nothing leaves all to the transport."""
        try:
            while True:
                self.ours.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        sent = self.sender.send([b"later"])
        self.assertNoResult(sent)
        self.socket_transport.run()
        self.assertEqual(self.socket_transport.taken, b"later")
        self.successResultOf(sent)

    def test_end_of_file(self) -> None:
        """Where the backend has closed, nothing is written at once."""
        for octets in (b"", b"unread bytes in front"):
            self.theirs.send(octets)
            self.theirs.shutdown(socket.SHUT_WR)
            sent = self.sender.send([b"lost?"])
            self.failureResultOf(sent, NothingWritten)
            self.assertRaises(BlockingIOError, self.theirs.recv, 100)
            self.setUp()

    def test_unread_bytes(self) -> None:
        """A backend that talks is written to all the same."""
        self.theirs.send(b"hello?")
        self.successResultOf(self.sender.send([b"yes"]))
        self.assertEqual(self.theirs.recv(100), b"yes")

    def test_broken(self) -> None:
        """A reset connection takes nothing."""
        self.theirs.close()
        self.failureResultOf(self.sender.send([b"x"]), ConnectionBroken)


class SenderFactoryTests(SenderTestCase):
    """One connection: kept, counted, logged, reconnected."""

    def test_connected(self) -> None:
        """A connection is handed to the owner and told to the log."""
        self.reactor.advance(0.25)
        sender, _ = self.connect()
        self.assertEqual(self.owner.connected, [sender])
        self.assertTrue(self.connector.is_established)
        (line,) = self.lines.having("count#log-iss.forwarder.connect.success")
        self.assertEqual(line["id"], "2")
        self.assertEqual(line["remote_addr"], "192.0.2.1:601")
        self.assertEqual(
            line["measure#log-iss.forwarder.connect.duration"], "0.250000s"
        )

    def test_attempt_logged(self) -> None:
        """Each attempt is a line."""
        (line,) = self.lines.having("count#log-iss.forwarder.connect.attempt", "1")
        self.assertEqual(line["id"], "2")

    def test_failure_logged(self) -> None:
        """A failed attempt is a line that names the cause."""
        self.connector.fail(Failure(ConnectionRefusedError("refused")))
        (line,) = self.lines.having("count#log-iss.forwarder.connect.error", "1")
        self.assertIn("refused", line["message"])

    def test_reconnects_after_200_ms(self) -> None:
        """A lost connection is made anew after 200 ms."""
        sender, transport = self.connect()
        self.lose(sender, transport, ConnectionDone())
        (line,) = self.lines.having("count#log-iss.forwarder.disconnect.success")
        self.assertEqual(line["id"], "2")
        self.reactor.advance(RECONNECT_SECONDS - 0.001)
        self.assertEqual(self.connector.attempts, 1)
        self.reactor.advance(0.001)
        self.assertEqual(self.connector.attempts, 2)

    def test_backs_off(self) -> None:
        """Failure after failure the pauses grow, to at most five seconds."""
        pauses = []
        for _ in range(30):
            self.connector.fail(Failure(ConnectionRefusedError()))
            (call,) = self.reactor.getDelayedCalls()
            pauses.append(call.getTime() - self.reactor.seconds())
            self.reactor.advance(pauses[-1])
        self.assertEqual(self.connector.attempts, 31)
        self.assertAlmostEqual(pauses[0], RECONNECT_SECONDS)
        self.assertGreater(min(pauses[10:]), RECONNECT_SECONDS_MAX * 0.6)
        self.assertLessEqual(max(pauses), RECONNECT_SECONDS_MAX)

    def test_success_resets(self) -> None:
        """A usable connection makes the next pause short again."""
        for _ in range(5):
            self.connector.fail(Failure(ConnectionRefusedError()))
            self.reactor.advance(RECONNECT_SECONDS_MAX)
        sender, transport = self.connect()
        self.lose(sender, transport, ConnectionDone())
        (call,) = self.reactor.getDelayedCalls()
        self.assertAlmostEqual(
            call.getTime() - self.reactor.seconds(), RECONNECT_SECONDS
        )

    def test_close(self) -> None:
        """Closing ends the stream in order and waits for the other end."""
        sender, transport = self.connect()
        closed = outcome(self.factory.close())
        transport.run()
        self.assertTrue(transport._writeDisconnected)
        self.assertEqual(closed(), [])
        self.lose(sender, transport, ConnectionDone())
        self.assertEqual(closed(), [None])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_close_does_not_wait(self) -> None:
        """
        A backend that does not close is not waited for, and keeps what the kernel
        still has for it: a reset would throw that away.
        """
        sender, transport = self.connect()
        closed = outcome(self.factory.close())
        self.reactor.advance(CLOSE_SECONDS)
        self.assertTrue(transport.disconnecting)
        self.assertFalse(transport.aborted)
        self.lose(sender, transport, ConnectionDone())
        self.assertEqual(closed(), [None])

    def test_close_in_flight(self) -> None:
        """A connection with bytes of ours in flight is given up instead."""
        sender, transport = self.connect()
        transport.room = 0
        sent = outcome(sender.send([b"stuck"]))
        closed = outcome(self.factory.close())
        self.reactor.advance(CLOSE_SECONDS)
        self.assertTrue(transport.aborted)
        self.lose(sender, transport, ConnectionAborted())
        self.assertEqual(closed(), [None])
        self.assertIsInstance(sent()[0].value, ConnectionBroken)

    def test_close_twice(self) -> None:
        """Whoever closes hears of the end, also the first of two."""
        sender, transport = self.connect()
        first, second = outcome(self.factory.close()), outcome(self.factory.close())
        self.lose(sender, transport, ConnectionDone())
        self.assertEqual((first(), second()), ([None], [None]))

    def test_close_while_waiting(self) -> None:
        """Closing between two attempts calls the next one off."""
        self.connector.fail(Failure(ConnectionRefusedError()))
        self.assertEqual(outcome(self.factory.close())(), [None])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_close_while_connecting(self) -> None:
        """Closing ends an attempt that is under way."""
        closed = outcome(self.factory.close())
        self.assertEqual(self.connector.disconnects, 1)
        self.connector.fail(Failure(ConnectionAborted()))
        self.assertEqual(closed(), [None])
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.lines.having("count#log-iss.forwarder.connect.error"), [])


class ReconnectSecondsTests(SynchronousTestCase):
    """The pause before an attempt is a function of the failures before it."""

    def test_table(self) -> None:
        """It starts at 200 ms, never falls below, and never passes 5 s."""
        for fraction in (0.0, 0.5, 1.0):
            self.assertEqual(reconnect_seconds(0, fraction), RECONNECT_SECONDS)
            for failures in (1, 2, 5, 10, 100, 10**6):
                pause = reconnect_seconds(failures, fraction)
                self.assertGreaterEqual(pause, RECONNECT_SECONDS)
                self.assertLessEqual(pause, RECONNECT_SECONDS_MAX)
        self.assertEqual(reconnect_seconds(100, 0.0), RECONNECT_SECONDS_MAX)


class DescribeTests(SynchronousTestCase):
    """Each end of a connection has one line that says why."""

    def test_table(self) -> None:
        """Known errors are told in words; none spans lines."""
        for error, words in (
            (ConnectionDone(), "the backend closed the connection"),
            (ConnectionAborted(), "given up"),
            (ConnectionLost("x\ny"), "x y"),
            (DNSLookupError("no such name"), "no such name"),
            (TimeoutError("within 10 s"), "within 10 s"),
            (SSL.Error([("SSL routines", "", "unknown ca")]), "TLS: unknown ca"),
            (SSL.Error(), "TLS: the backend broke"),
            (SSL.Error([]), "TLS: the backend broke"),
            (SSL.SysCallError(-1, "Unexpected EOF"), "TLS: Unexpected EOF"),
            (ValueError("odd\nthing"), "ValueError: odd thing"),
        ):
            said = describe(Failure(error))
            self.assertIn(words, said)
            self.assertNotIn("\n", said)
