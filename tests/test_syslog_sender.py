"""A sender confirms when its level is reached, and hands back what is not."""

from collections.abc import Callable

from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from logiss.senders import ISender
from logiss.syslog_sender import (
    LOOK_SECONDS,
    UNCONFIRMED_MAX,
    WRITE_BYTES_MAX,
    Acknowledgements,
    SyslogSender,
)
from tests.fakes import FakeDelivery, deliveries
from tests.kernel import KernelTransport
from tests.sender_case import SenderTestCase


class SentTests(SenderTestCase):
    """At the level ``sent`` bytes are delivered when the kernel has all of them."""

    def test_interfaces(self) -> None:
        """A sender is what the pool and Twisted take it for."""
        sender, _ = self.connect()
        verifyObject(ISender, sender)
        verifyObject(IHandshakeListener, sender)
        verifyObject(IHalfCloseableProtocol, sender)

    def test_left_when_taken(self) -> None:
        """The delivery ends when the kernel takes the last byte."""
        sender, transport = self.connect()
        given = deliveries(b"hello ", b"world")
        transport.room = 7
        self.assertTrue(sender.send(given))
        transport.run()
        self.assertEqual((transport.taken, self.owner.confirmed), (b"hello w", []))
        transport.room = 3
        transport.run()
        self.assertEqual((transport.taken, self.owner.confirmed), (b"hello worl", []))
        transport.room = 1
        transport.run()
        self.assertEqual(
            (transport.taken, self.owner.confirmed), (b"hello world", given)
        )
        self.assertEqual(sender.unconfirmed_bytes, 0)

    def test_not_at_write(self) -> None:
        """Writing to the transport alone ends nothing, and makes nothing ready."""
        sender, _ = self.connect()
        given = deliveries(b"x")
        sender.send(given)
        self.assertEqual(self.owner.confirmed, [])
        self.assertEqual(self.owner.ready, [sender])
        self.assertEqual(sender.unconfirmed(), given)
        self.assertEqual(sender.unconfirmed_bytes, 1)

    def test_ready_again(self) -> None:
        """When all has left it takes the next."""
        sender, transport = self.connect()
        sender.send(deliveries(b"one"))
        transport.run()
        self.assertEqual(self.owner.ready, [sender, sender])
        sender.send(deliveries(b"two"))
        transport.run()
        self.assertEqual(transport.taken, b"onetwo")

    def test_no_producer_when_idle(self) -> None:
        """An idle connection has no producer, so that it can close."""
        sender, transport = self.connect()
        self.assertIsNone(transport.producer)
        sender.send(deliveries(b"x"))
        self.assertIs(transport.producer, sender.wire)
        transport.run()
        self.assertIsNone(transport.producer)

    def test_broken(self) -> None:
        """A connection that ends with bytes in flight hands them back and says how."""
        sender, transport = self.connect()
        transport.room = 1
        given = deliveries(b"xyz")
        sender.send(given)
        transport.run()
        self.lose(sender, transport, ConnectionLost("reset"))
        (lost,) = self.owner.lost
        self.assertIs(lost.sender, sender)
        self.assertIn("reset", lost.loss.why)
        self.assertEqual(list(lost.loss.unconfirmed), given)
        self.assertEqual(list(lost.loss.replay), [])

    def test_abort(self) -> None:
        """Giving up aborts the transport; the owner is told once, and at once."""
        sender, transport = self.connect()
        transport.room = 0
        given = deliveries(b"xyz")
        sender.send(given)
        sender.abort("too slow")
        self.assertTrue(transport.aborted)
        self.assertIsNone(transport.producer)
        (lost,) = self.owner.lost
        self.assertEqual(
            (lost.loss.why, list(lost.loss.unconfirmed)), ("too slow", given)
        )
        self.lose(sender, transport, ConnectionAborted())
        self.assertEqual(len(self.owner.lost), 1)
        self.assertEqual(len(self.owner.ready), 1)


class SentReplayTests(SenderTestCase):
    """Only ``acked`` replays."""

    def make_sender(self, sender_id: int) -> SyslogSender:
        return SyslogSender(sender_id, self.owner, None, 1000)

    def test_nothing_to_replay(self) -> None:
        """What the kernel has taken is forgotten, whatever REPLAY_BYTES says."""
        sender, transport = self.connect()
        sender.send(deliveries(b"xyz"))
        transport.run()
        self.lose(sender, transport, ConnectionLost())
        self.assertEqual(list(self.owner.lost[0].loss.replay), [])


class AckedTestCase(SenderTestCase):
    """
    Senders whose backend is the test.

    @ivar queue: bytes that the backend's kernel has not acknowledged.
    """

    replay_bytes = 0

    def setUp(self) -> None:
        self.queue = 0
        self.acknowledgements: Acknowledgements | None = None
        super().setUp()

    def make_sender(self, sender_id: int) -> SyslogSender:
        if self.acknowledgements is None:
            self.acknowledgements = Acknowledgements(self.reactor)
        return SyslogSender(
            sender_id, self.owner, self.acknowledgements, self.replay_bytes
        )

    def connect(self) -> tuple[SyslogSender, KernelTransport]:
        sender, transport = super().connect()
        sender.wire.unacknowledged = lambda: self.queue  # type: ignore[method-assign]
        return sender, transport

    def send(
        self, sender: SyslogSender, transport: KernelTransport, *octets: bytes
    ) -> list[FakeDelivery]:
        """Write `octets` so that they have left."""
        given = deliveries(*octets)
        self.assertTrue(sender.send(given))
        transport.run()
        return given


class AckedTests(AckedTestCase):
    """At the level ``acked`` they are when the backend's kernel has acknowledged."""

    def test_not_when_left(self) -> None:
        """Having left is not enough, and further writes do not wait."""
        sender, transport = self.connect()
        self.queue = 5
        given = self.send(sender, transport, b"hello")
        self.reactor.advance(1)
        self.assertEqual(self.owner.confirmed, [])
        self.assertEqual(self.owner.ready, [sender, sender])
        self.queue = 0
        self.reactor.advance(1)
        self.assertEqual(self.owner.confirmed, given)

    def test_by_offset(self) -> None:
        """Each write is confirmed when the backend has come to its end."""
        sender, transport = self.connect()
        self.queue = 6
        first = self.send(sender, transport, b"abc")
        second = self.send(sender, transport, b"def")
        self.reactor.advance(1)
        self.queue = 4
        self.reactor.advance(1)
        self.assertEqual(self.owner.confirmed, [])
        self.queue = 3
        self.reactor.advance(1)
        self.assertEqual(self.owner.confirmed, first)
        self.assertEqual(sender.unconfirmed(), second)
        self.assertEqual(sender.unconfirmed_bytes, 3)
        self.queue = 0
        self.reactor.advance(1)
        self.assertEqual(self.owner.confirmed, first + second)

    def test_not_what_has_not_left(self) -> None:
        """An empty queue confirms nothing that has not come to it."""
        sender, transport = self.connect()
        transport.room = 2
        sender.send(deliveries(b"abc"))
        transport.run()
        sender.look()
        self.assertEqual(self.owner.confirmed, [])

    def test_looks_less_and_less(self) -> None:
        """It looks at once, in the next turn, in growing pauses, and every 20 ms."""
        sender, transport = self.connect()
        looked: list[float] = []

        def unacknowledged() -> int:
            looked.append(self.reactor.seconds())
            return 3

        sender.wire.unacknowledged = unacknowledged  # type: ignore[method-assign]
        self.send(sender, transport, b"abc")
        for _ in range(20):
            (call,) = self.reactor.getDelayedCalls()
            self.reactor.advance(call.getTime() - self.reactor.seconds())
        pauses = [b - a for a, b in zip([0.0, *looked], looked, strict=False)]
        for pause, expected in zip(pauses, (0.0, *LOOK_SECONDS), strict=False):
            self.assertAlmostEqual(pause, expected)
        self.assertAlmostEqual(pauses[-1], LOOK_SECONDS[-1])

    def test_looks_again_at_once(self) -> None:
        """A new write makes the pauses short again."""
        sender, transport = self.connect()
        self.queue = 9
        self.send(sender, transport, b"abc")
        for _ in range(10):
            self.reactor.advance(LOOK_SECONDS[-1])
        self.send(sender, transport, b"def")
        (call,) = self.reactor.getDelayedCalls()
        self.assertAlmostEqual(call.getTime(), self.reactor.seconds())

    def test_no_timer_when_confirmed(self) -> None:
        """With everything confirmed nobody looks."""
        sender, transport = self.connect()
        self.send(sender, transport, b"abc")
        self.reactor.advance(0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_joins(self) -> None:
        """Behind what is unconfirmed goes less than a whole write."""
        sender, transport = self.connect()
        self.assertEqual(sender.joined_bytes_max, WRITE_BYTES_MAX)
        self.queue = 1
        self.send(sender, transport, b"x")
        self.assertEqual(sender.joined_bytes_max, UNCONFIRMED_MAX)

    def test_bounded(self) -> None:
        """With too much unconfirmed it is not ready until the backend catches up."""
        sender, transport = self.connect()
        self.queue = UNCONFIRMED_MAX + 1
        self.send(sender, transport, b"x" * (UNCONFIRMED_MAX + 1))
        self.reactor.advance(1)
        self.assertEqual(len(self.owner.ready), 1)
        self.queue = 0
        self.reactor.advance(1)
        self.assertEqual(len(self.owner.ready), 2)

    def test_broken(self) -> None:
        """What is unconfirmed at the end is handed back, and nobody looks."""
        sender, transport = self.connect()
        self.queue = 6
        given = [
            *self.send(sender, transport, b"abc"),
            *self.send(sender, transport, b"def"),
        ]
        self.lose(sender, transport, ConnectionLost())
        self.assertEqual(list(self.owner.lost[0].loss.unconfirmed), given)
        self.factory.stopTrying()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_looks_at_the_end(self) -> None:
        """What was acknowledged by the time the stream ends is not sent again."""
        sender, transport = self.connect()
        self.queue = 3
        first = self.send(sender, transport, b"abc")
        second = self.send(sender, transport, b"def")
        sender.stream_ended()
        self.lose(sender, transport, ConnectionDone())
        self.assertEqual(self.owner.confirmed, first)
        self.assertEqual(list(self.owner.lost[0].loss.unconfirmed), second)

    def test_no_socket(self) -> None:
        """Where nobody can be asked nothing is taken for acknowledged."""
        sender, transport = super().connect()
        del sender.wire.unacknowledged
        self.send(sender, transport, b"abc")
        self.reactor.advance(1)
        self.assertEqual(self.owner.confirmed, [])


class ReplayTests(AckedTestCase):
    """What may have been lost unread is handed back when the connection breaks."""

    replay_bytes = 10

    def broken(
        self, sender: SyslogSender, transport: KernelTransport, error: Exception
    ) -> list[bytes]:
        self.reactor.advance(1)
        self.lose(sender, transport, error)
        return list(self.owner.lost[-1].loss.replay)

    def test_reset(self) -> None:
        """After a reset, what was confirmed comes back in order."""
        sender, transport = self.connect()
        self.send(sender, transport, b"abc", b"de")
        self.send(sender, transport, b"f")
        self.assertEqual(
            self.broken(sender, transport, ConnectionLost()), [b"abc", b"de", b"f"]
        )

    def test_time_out_and_abort(self) -> None:
        """So it does after a time-out, and when we have given the connection up."""
        for error in (TimeoutError(), ConnectionAborted()):
            sender, transport = self.connect()
            self.send(sender, transport, b"abc")
            self.assertEqual(self.broken(sender, transport, error), [b"abc"])

    def test_end_in_order(self) -> None:
        """A backend that ends the stream has read all that it acknowledged."""
        sender, transport = self.connect()
        self.send(sender, transport, b"abc")
        self.assertEqual(self.broken(sender, transport, ConnectionDone()), [])

    def test_end_with_something_unconfirmed(self) -> None:
        """Unless something has not been acknowledged."""
        sender, transport = self.connect()
        self.send(sender, transport, b"abc")
        self.reactor.advance(1)
        self.queue = 1
        self.send(sender, transport, b"d")
        self.assertEqual(self.broken(sender, transport, ConnectionDone()), [b"abc"])

    def test_whole_payloads(self) -> None:
        """A payload is forgotten when so many newer bytes are confirmed behind it."""
        sender, transport = self.connect()
        self.send(sender, transport, b"aaaa", b"bbbb", b"cccc")
        self.send(sender, transport, b"dddd")
        self.send(sender, transport, b"ee")
        # Behind b stand 10 bytes, behind c 6.
        self.assertEqual(
            self.broken(sender, transport, ConnectionLost()),
            [b"cccc", b"dddd", b"ee"],
        )

    def test_one_byte_less(self) -> None:
        """One byte less, and it is replayed, whole."""
        sender, transport = self.connect()
        self.send(sender, transport, b"aaaa", b"bbbb", b"cccc")
        self.send(sender, transport, b"dddd")
        self.send(sender, transport, b"e")
        self.assertEqual(
            self.broken(sender, transport, ConnectionLost()),
            [b"bbbb", b"cccc", b"dddd", b"e"],
        )

    def test_large_payload(self) -> None:
        """Of one that is larger than a write only the last frames are kept."""
        sender, transport = self.connect()
        frame = b"5 abcde"
        self.send(sender, transport, frame * (WRITE_BYTES_MAX // len(frame) + 1))
        self.assertEqual(
            self.broken(sender, transport, ConnectionLost()), [frame + frame]
        )

    def test_bounded(self) -> None:
        """However much is delivered, what is kept stays small."""
        sender, transport = self.connect()
        for i in range(1_000):
            self.send(sender, transport, b"%03d" % i)
            self.reactor.advance(0)
        self.assertLess(len(sender._answered), 6)
        self.assertEqual(
            self.broken(sender, transport, ConnectionLost()),
            [b"996", b"997", b"998", b"999"],
        )

    def test_nobody_waits(self) -> None:
        """One whose client has gone is not sent again."""
        sender, transport = self.connect()
        self.queue = 9
        (_, gone, _) = self.send(sender, transport, b"abc", b"def", b"ghi")
        gone.octets = b""
        self.queue = 0
        self.assertEqual(
            self.broken(sender, transport, ConnectionLost()), [b"abc", b"ghi"]
        )


class NoReplayTests(AckedTestCase):
    """``REPLAY_BYTES=0`` is off."""

    def test_off(self) -> None:
        """Nothing is kept and nothing comes back."""
        sender, transport = self.connect()
        self.send(sender, transport, b"abc")
        self.reactor.advance(1)
        self.assertEqual(len(sender._answered), 0)
        self.lose(sender, transport, ConnectionLost())
        self.assertEqual(list(self.owner.lost[0].loss.replay), [])


class _Looker:
    """Stands for a sender that is watched."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look
        self.unconfirmed_bytes = 1


class AcknowledgementsTests(SynchronousTestCase):
    """One timer looks for all senders."""

    def test_ends_while_looking(self) -> None:
        """A look may end another connection, which is not looked at any more."""
        clock = Clock()
        acknowledgements = Acknowledgements(clock)
        looked: list[str] = []
        second = _Looker(lambda: looked.append("second"))

        def look() -> None:
            looked.append("first")
            acknowledgements.forget(second)  # type: ignore[arg-type]

        first = _Looker(look)
        acknowledgements.watch(first)  # type: ignore[arg-type]
        acknowledgements.watch(second)  # type: ignore[arg-type]
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        clock.advance(0)
        self.assertEqual(looked, ["first"])
        acknowledgements.forget(first)  # type: ignore[arg-type]
        self.assertEqual(clock.getDelayedCalls(), [])
