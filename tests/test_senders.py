"""A factory keeps one connection: made, counted, logged, made again, closed."""

from OpenSSL import SSL
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from logiss.senders import (
    CLOSE_EMPTY_SECONDS,
    CLOSE_SECONDS,
    LONG_ATTEMPT_SECONDS,
    RECONNECT_SECONDS,
    RECONNECT_SECONDS_MAX,
    describe,
    reconnect_seconds,
)
from tests.fakes import deliveries, outcome
from tests.sender_case import SenderTestCase


class SenderFactoryTests(SenderTestCase):
    """One connection: kept, counted, logged, reconnected."""

    def test_connected(self) -> None:
        """A connection is handed to the owner and told to the log."""
        self.reactor.advance(0.25)
        sender, _ = self.connect()
        self.assertEqual(self.owner.ready, [sender])
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
        sender.wire.unacknowledged = lambda: 0  # type: ignore[method-assign]
        self.reactor.advance(CLOSE_EMPTY_SECONDS)
        self.assertTrue(transport.disconnecting)
        self.assertFalse(transport.aborted)
        self.lose(sender, transport, ConnectionDone())
        self.assertEqual(closed(), [None])

    def test_close_waits_for_the_queue(self) -> None:
        """While the kernel still has bytes for it, a backend is given more time."""
        sender, transport = self.connect()
        sender.wire.unacknowledged = lambda: 1  # type: ignore[method-assign]
        self.factory.close()
        self.reactor.advance(CLOSE_EMPTY_SECONDS)
        self.assertFalse(transport.disconnecting)
        self.reactor.advance(CLOSE_SECONDS - CLOSE_EMPTY_SECONDS)
        self.assertTrue(transport.disconnecting)
        self.assertFalse(transport.aborted)

    def test_close_in_flight(self) -> None:
        """A connection with bytes of ours in flight is given up instead."""
        sender, transport = self.connect()
        transport.room = 0
        given = deliveries(b"stuck")
        sender.send(given)
        closed = outcome(self.factory.close())
        self.reactor.advance(CLOSE_EMPTY_SECONDS)
        self.reactor.advance(CLOSE_SECONDS - CLOSE_EMPTY_SECONDS)
        self.assertTrue(transport.aborted)
        self.lose(sender, transport, ConnectionAborted())
        self.assertEqual(closed(), [None])
        self.assertEqual(list(self.owner.lost[0].loss.unconfirmed), given)

    def test_close_twice(self) -> None:
        """Whoever closes hears of the end, also the first of two."""
        sender, transport = self.connect()
        first, second = outcome(self.factory.close()), outcome(self.factory.close())
        self.lose(sender, transport, ConnectionDone())
        self.assertEqual((first(), second()), ([None], [None]))

    def test_close_is_no_loss(self) -> None:
        """Of connections that ended those are counted that we had not done with."""
        sender, transport = self.connect()
        self.factory.close()
        self.lose(sender, transport, ConnectionDone())
        self.assertEqual(self.link.disconnects, 0)

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

    def test_long_attempt(self) -> None:
        """An attempt that had no answer for long was a pause of its own."""
        for failures in (1, 10, 100):
            self.assertEqual(
                reconnect_seconds(failures, 0.5, LONG_ATTEMPT_SECONDS),
                RECONNECT_SECONDS,
            )


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
