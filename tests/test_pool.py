"""Payloads wait in order, leave joined, end once, and never after their deadline."""

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from logiss.metrics import Metrics
from logiss.pool import (
    BLAMED_SECONDS,
    IDeliverer,
    NotDelivered,
    Payload,
    Pool,
)
from logiss.senders import Delivery, ISenderOwner
from tests.fakes import FakeSender, Lines, outcome

TIMEOUT_SECONDS = 5.0
JOINED_BYTES_MAX = FakeSender().joined_bytes_max


class PoolTestCase(SynchronousTestCase):
    """A pool on a clock of its own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.lines = Lines()
        self.metrics = Metrics()
        self.pool = Pool(self.clock, TIMEOUT_SECONDS, self.lines.events(), self.metrics)

    def deliver(self, octets: bytes) -> Callable[[], list[Any]]:
        payload = Payload(octets, self.clock.seconds(), b"id-" + octets[:10])
        result = outcome(self.pool.deliver(payload))
        self.clock.advance(0)
        return result

    def connect(self, count: int = 1) -> list[FakeSender]:
        senders = [FakeSender(i) for i in range(count)]
        for sender in senders:
            sender.connect(self.pool)
        return senders

    def assert_not_delivered(self, result: list[Any]) -> None:
        self.assertEqual(len(result), 1)
        self.assertIsInstance(result[0].value, NotDelivered)


class DeliveryTests(PoolTestCase):
    """A payload is delivered when a sender says that it has left."""

    def test_interfaces(self) -> None:
        """The pool is both a deliverer and the owner of senders."""
        verifyObject(IDeliverer, self.pool)
        verifyObject(ISenderOwner, self.pool)

    def test_not_before_flush(self) -> None:
        """A delivery has no outcome until its bytes have left."""
        (sender,) = self.connect()
        result = self.deliver(b"5 hello")
        self.assertEqual(sender.writes, [b"5 hello"])
        self.assertEqual(result(), [])
        sender.flush()
        self.assertEqual(result(), [None])

    def test_waits_for_connection(self) -> None:
        """What comes before a connection waits for it."""
        result = self.deliver(b"early")
        (sender,) = self.connect()
        self.assertEqual(sender.writes, [b"early"])
        sender.flush()
        self.assertEqual(result(), [None])

    def test_idle_sender_is_used(self) -> None:
        """While one sender is busy another takes the next payload."""
        first, second = self.connect(2)
        self.deliver(b"a")
        self.deliver(b"b")
        self.assertEqual((first.writes, second.writes), ([b"a"], [b"b"]))

    def test_begun_at(self) -> None:
        """A payload remembers when it was first written."""
        payload = Payload(b"a", self.clock.seconds())
        self.pool.deliver(payload)
        self.clock.advance(1)
        self.assertIsNone(payload.begun_at)
        self.connect()
        self.assertEqual(payload.begun_at, 1)

    def test_connected(self) -> None:
        """The pool knows how many connections are usable, busy or idle."""
        first, _ = self.connect(2)
        self.deliver(b"a")
        self.assertEqual(self.pool.connected, 2)
        first.break_off()
        self.assertEqual(self.pool.connected, 1)

    def test_stop(self) -> None:
        """Stopping fails what waits and what is under way, and leaves no timer."""
        self.connect()
        begun, queued = self.deliver(b"a"), self.deliver(b"b")
        self.pool.stop()
        self.assert_not_delivered(begun())
        self.assert_not_delivered(queued())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class JoinTests(PoolTestCase):
    """An idle sender takes what waits, in order, up to the size of one write."""

    def test_joined_in_order(self) -> None:
        """What has gathered behind a busy sender is its next write."""
        (sender,) = self.connect()
        results = [self.deliver(b"%d" % i) for i in range(4)]
        sender.flush()
        self.assertEqual(sender.writes, [b"0", b"123"])
        self.assertEqual([r() for r in results], [[None], [], [], []])
        sender.flush()
        self.assertEqual([r() for r in results], [[None]] * 4)
        self.assertEqual(self.metrics.writes, 2)

    def test_bounded(self) -> None:
        """A write ends before the payload that would exceed it."""
        (sender,) = self.connect()
        self.deliver(b"first")
        half = JOINED_BYTES_MAX // 2
        for octets in (b"a" * half, b"b" * half, b"c"):
            self.deliver(octets)
        sender.flush()
        self.assertEqual(sender.writes[1], b"a" * half + b"b" * half)
        sender.flush()
        self.assertEqual(sender.writes[2], b"c")

    def test_larger_than_a_write(self) -> None:
        """A payload larger than a write is written alone and whole."""
        (sender,) = self.connect()
        for octets in (b"first", b"x" * (JOINED_BYTES_MAX + 1), b"last"):
            self.deliver(octets)
        sender.flush()
        sender.flush()
        self.assertEqual([len(w) for w in sender.writes], [5, JOINED_BYTES_MAX + 1, 4])


class _InstantSender(FakeSender):
    """A connection whose kernel and backend take everything at once."""

    def send(self, deliveries: Sequence[Delivery]) -> bool:
        super().send(deliveries)
        self.flush()
        return True


class InstantTests(PoolTestCase):
    """A send may end at once."""

    def test_long_queue(self) -> None:
        """However long the queue is, every payload in it ends."""
        results = [self.deliver(b"x" * JOINED_BYTES_MAX) for _ in range(2_000)]
        sender = _InstantSender()
        sender.connect(self.pool)
        self.assertEqual([r() for r in results], [[None]] * 2_000)
        self.assertEqual(len(sender.writes), 2_000)
        last = self.deliver(b"still usable")
        self.assertEqual(last(), [None])


class DeadlineTests(PoolTestCase):
    """At its deadline a payload fails: withdrawn, or its connection given up."""

    def test_withdrawn(self) -> None:
        """A payload that was not begun in time is never sent later."""
        result = self.deliver(b"late")
        self.clock.advance(TIMEOUT_SECONDS - 0.001)
        self.assertEqual(result(), [])
        self.clock.advance(0.001)
        self.assert_not_delivered(result())
        (sender,) = self.connect()
        self.assertEqual(sender.writes, [])
        self.assertEqual(self.metrics.payloads_withdrawn, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_says_why(self) -> None:
        """No connection and busy connections are told apart."""
        lonely = self.deliver(b"a")
        self.clock.advance(TIMEOUT_SECONDS)
        self.assertIn("no backend connection", str(lonely()[0].value))
        self.connect()
        self.deliver(b"b")
        behind = self.deliver(b"c")
        self.clock.advance(TIMEOUT_SECONDS)
        self.assertIn("busy", str(behind()[0].value))

    def test_deadline_from_reception(self) -> None:
        """Time that passed before the delivery counts."""
        self.clock.advance(10)
        payload = Payload(b"a", self.clock.seconds() - 4)
        result = outcome(self.pool.deliver(payload))
        self.clock.advance(1)
        self.assert_not_delivered(result())

    def test_no_time_left(self) -> None:
        """A payload whose time is over is not even queued."""
        self.connect()
        payload = Payload(b"a", self.clock.seconds() - TIMEOUT_SECONDS)
        self.assert_not_delivered(outcome(self.pool.deliver(payload))())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_begun_is_aborted(self) -> None:
        """A connection that does not take a begun payload in time is given up."""
        (sender,) = self.connect()
        result = self.deliver(b"stuck")
        self.clock.advance(TIMEOUT_SECONDS)
        self.assert_not_delivered(result())
        self.assertTrue(sender.aborted)
        (line,) = self.lines.having("count#log-iss.forwarder.write.error")
        self.assertEqual((line["id"], line["request_id"]), ("0", "id-stuck"))
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [])

    def test_younger_in_the_same_write(self) -> None:
        """Those behind it in the write, with time left, are sent again."""
        (sender,) = self.connect()
        self.deliver(b"0")
        old = self.deliver(b"a")
        self.clock.advance(1)
        young = self.deliver(b"b")
        sender.flush()
        self.assertEqual(sender.writes[-1], b"ab")
        self.clock.advance(TIMEOUT_SECONDS - 1)
        self.assert_not_delivered(old())
        self.assertTrue(sender.aborted)
        self.assertEqual(young(), [])
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [b"b"])
        healed.flush()
        self.assertEqual(young(), [None])

    def test_one_timer(self) -> None:
        """However many payloads wait, one timer watches them."""
        for i in range(100):
            self.deliver(b"%d" % i)
            self.clock.advance(0.01)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_each_at_its_own_time(self) -> None:
        """Each payload fails at its own deadline, not at another's."""
        results = []
        for i in range(3):
            results.append(self.deliver(b"%d" % i))
            self.clock.advance(1)
        self.clock.advance(TIMEOUT_SECONDS - 3)
        self.assertEqual([len(r()) for r in results], [1, 0, 0])
        self.clock.advance(1)
        self.assertEqual([len(r()) for r in results], [1, 1, 0])
        self.clock.advance(1)
        self.assertEqual([len(r()) for r in results], [1, 1, 1])

    def test_deliver_from_a_failure(self) -> None:
        """Who hears of a failure may deliver again; older deadlines still hold."""
        again: list[Callable[[], list[Any]]] = []
        first = self.pool.deliver(Payload(b"a", self.clock.seconds()))
        first.addErrback(lambda _: again.append(self.deliver(b"again")))
        self.clock.advance(1)
        second = self.deliver(b"b")
        self.clock.advance(TIMEOUT_SECONDS - 1)
        self.assertEqual(len(again), 1)
        self.clock.advance(1)
        self.assert_not_delivered(second())
        self.assertEqual(again[0](), [])
        self.clock.advance(TIMEOUT_SECONDS - 1)
        self.assert_not_delivered(again[0]())

    def test_no_timer_when_idle(self) -> None:
        """When all is delivered the last timer runs out and is not set again."""
        (sender,) = self.connect()
        self.deliver(b"a")
        sender.flush()
        self.clock.advance(TIMEOUT_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class BrokenTests(PoolTestCase):
    """Payloads of a lost connection go back to the head of the queue."""

    def test_sent_again_first(self) -> None:
        """They are sent again, before what came later, and the log says so."""
        (sender,) = self.connect()
        self.deliver(b"a")
        self.deliver(b"b")
        sender.break_off("reset by peer")
        (line,) = self.lines.having("count#log-iss.forwarder.write.error")
        self.assertEqual(line["request_id"], "id-a")
        self.assertIn("reset by peer", line["message"])
        self.assertIn("may arrive twice", line["message"])
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [b"ab"])
        self.assertEqual(self.metrics.payloads_requeued, 1)

    def test_nothing_written(self) -> None:
        """What was never written goes to the next connection without a word."""
        first, second = self.connect(2)
        first.refuses = True
        payload = Payload(b"a", self.clock.seconds())
        result = outcome(self.pool.deliver(payload))
        second.refuses = True
        self.clock.advance(0)
        self.assertIsNone(payload.begun_at)
        first.break_off()
        second.break_off()
        self.assertEqual(self.lines.pairs, [])
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [b"a"])
        healed.flush()
        self.assertEqual(result(), [None])

    def test_nothing_written_in_order(self) -> None:
        """What a connection did not take keeps its place."""
        first, second = self.connect(2)
        first.refuses = True
        for octets in (b"a", b"b"):
            self.pool.deliver(Payload(octets, self.clock.seconds()))
        self.clock.advance(0)
        self.assertEqual(second.writes, [b"ab"])

    def test_two_connections(self) -> None:
        """The older payload goes first, whichever connection broke first."""
        first, second = self.connect(2)
        self.deliver(b"a")
        self.clock.advance(0.1)
        self.deliver(b"b")
        self.clock.advance(0.1)
        self.deliver(b"c")
        first.break_off()
        second.break_off()
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [b"abc"])

    def test_other_connection_takes_over(self) -> None:
        """An idle connection sends them at once."""
        first, second = self.connect(2)
        result = self.deliver(b"a")
        first.break_off()
        self.assertEqual(second.writes, [b"a"])
        second.flush()
        self.assertEqual(result(), [None])

    def test_keeps_deadline(self) -> None:
        """Being sent again does not win time."""
        (sender,) = self.connect()
        result = self.deliver(b"a")
        self.clock.advance(3)
        sender.break_off()
        self.clock.advance(2)
        self.assert_not_delivered(result())
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [])

    def test_keeps_deadline_behind_another(self) -> None:
        """A payload that was given up together with an older one ends in time."""
        (sender,) = self.connect()
        self.deliver(b"0")
        self.deliver(b"a")
        self.clock.advance(1)
        young = self.deliver(b"b")
        sender.flush()
        self.clock.advance(TIMEOUT_SECONDS - 1)
        self.assertTrue(sender.aborted)
        self.clock.advance(0.999)
        self.assertEqual(young(), [])
        self.clock.advance(0.001)
        self.assert_not_delivered(young())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_idle_connection(self) -> None:
        """A connection that breaks while idle is used no more."""
        (sender,) = self.connect()
        sender.break_off()
        self.deliver(b"a")
        self.assertEqual(sender.writes, [])


class CancelTests(PoolTestCase):
    """Who waits may go away."""

    def test_withdraws(self) -> None:
        """A payload that was not begun is not sent."""
        waiter = self.pool.deliver(Payload(b"a", self.clock.seconds()))
        self.clock.advance(0)
        kept = self.deliver(b"b")
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        (sender,) = self.connect()
        self.assertEqual(sender.writes, [b"b"])
        sender.flush()
        self.assertEqual(kept(), [None])

    def test_begun_goes_its_way(self) -> None:
        """A begun payload is finished, but not sent a second time."""
        (sender,) = self.connect()
        waiter = self.pool.deliver(Payload(b"a", self.clock.seconds()))
        self.clock.advance(0)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        sender.break_off()
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [])

    def test_stalled_all_the_same(self) -> None:
        """A connection that stalls on it is given up at its deadline."""
        (sender,) = self.connect()
        waiter = self.pool.deliver(Payload(b"a", self.clock.seconds()))
        self.clock.advance(0)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        self.clock.advance(TIMEOUT_SECONDS)
        self.assertTrue(sender.aborted)

    def test_dropped_from_memory(self) -> None:
        """What was withdrawn does not hold its octets until its turn comes."""
        payload = Payload(b"a", self.clock.seconds())
        waiter = self.pool.deliver(payload)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        (delivery,) = self.pool._queue
        self.assertIsNone(delivery.payload)
        self.assertEqual(delivery.octets, b"")


class BehindTests(PoolTestCase):
    """A sender may take more while its backend has not confirmed."""

    def test_idle_first(self) -> None:
        """Who has nothing unconfirmed goes before who waits for confirmation."""
        first, second = self.connect(2)
        self.deliver(b"a")
        first.leave()
        self.deliver(b"b")
        self.assertEqual((first.writes, second.writes), ([b"a"], [b"b"]))
        self.deliver(b"c")
        self.assertEqual(first.writes, [b"a", b"c"])

    def test_idle_when_confirmed(self) -> None:
        """Confirmation makes it idle again."""
        first, second = self.connect(2)
        self.deliver(b"a")
        first.leave()
        first.confirm()
        second.leave()
        self.deliver(b"b")
        self.deliver(b"c")
        self.assertEqual((first.writes, second.writes), ([b"a", b"c"], [b"b"]))

    def test_bounded(self) -> None:
        """How much is joined is the sender's to say, each time."""
        (sender,) = self.connect()
        self.deliver(b"first")
        for octets in (b"aa", b"b"):
            self.deliver(octets)
        sender.joined_bytes_max = 2
        sender.leave()
        self.assertEqual(sender.writes[1:], [b"aa"])

    def test_all_of_them_again(self) -> None:
        """When it breaks, all that is unconfirmed is sent again, in order."""
        (sender,) = self.connect()
        results = []
        for octets in (b"a", b"b", b"c"):
            results.append(self.deliver(octets))
            sender.leave()
        sender.confirm()
        sender.break_off()
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [b"bc"])
        healed.flush()
        self.assertEqual([r() for r in results], [[None]] * 3)

    def test_deadline_of_a_later_write(self) -> None:
        """Each unconfirmed payload has its deadline, whichever write it is in."""
        (sender,) = self.connect()
        self.deliver(b"a")
        sender.leave()
        self.clock.advance(1)
        late = self.deliver(b"b")
        sender.confirm()
        self.clock.advance(TIMEOUT_SECONDS - 1)
        self.assertFalse(sender.aborted)
        self.clock.advance(1)
        self.assertTrue(sender.aborted)
        self.assert_not_delivered(late())


class RefusedTests(PoolTestCase):
    """The backend may say no."""

    def test_fails(self) -> None:
        """A refused payload fails, is told to the log, and is not sent again."""
        (sender,) = self.connect()
        result = self.deliver(b"a")
        (delivery,) = sender.unconfirmed()
        self.pool.refused(sender, delivery, "the backend answered 500 no room")
        self.assert_not_delivered(result())
        self.assertIn("500 no room", str(result()[0].value))
        (line,) = self.lines.having("count#log-iss.forwarder.write.error")
        self.assertIn("500 no room", line["message"])
        sender.break_off()
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [])
        self.assertEqual(self.metrics.payloads_refused, 1)


class _Impatient(FakeSender):
    """Learns only when it looks that everything was acknowledged."""

    def look(self) -> None:
        if self.in_flight:
            self.flush()


class LookTests(PoolTestCase):
    """Senders look as soon as the pool has given out what it could."""

    def test_behind_all(self) -> None:
        """Not behind each write, but then until nothing waits; in the same turn."""
        senders = [_Impatient(i) for i in range(2)]
        for sender in senders:
            sender.connect(self.pool)
        results = []
        for size in (900, 800, 700):
            payload = Payload(b"x" * size, self.clock.seconds())
            results.append(outcome(self.pool.deliver(payload)))
        self.assertEqual([[], []], [sender.writes for sender in senders])
        self.clock.advance(0)
        self.assertEqual([[None]] * 3, [result() for result in results])
        written = [[len(write) for write in sender.writes] for sender in senders]
        self.assertEqual([[900, 700], [800]], written)

    def test_lost_while_looking(self) -> None:
        """A sender that is found to be lost gives back what it had."""
        first, second = (FakeSender(i) for i in range(2))
        first.look = lambda: first.break_off()  # type: ignore[method-assign]
        first.connect(self.pool)
        result = self.deliver(b"a")
        self.assertEqual([b"a"], first.writes)
        second.connect(self.pool)
        second.flush()
        self.assertEqual([None], result())


class BlamedTests(PoolTestCase):
    """What a connection has ended on goes only to one that became usable later."""

    def setUp(self) -> None:
        super().setUp()
        self.clock.advance(1)
        self.first, self.second = self.connect(2)
        self.result = self.deliver(b"a")
        (delivery,) = self.first.unconfirmed()
        self.clock.advance(1)
        delivery.blamed_at = self.clock.seconds()
        self.first.break_off()

    def _connect_later(self) -> FakeSender:
        later = FakeSender(2)
        self.clock.advance(0.1)
        later.usable_since = self.clock.seconds()
        later.connect(self.pool)
        return later

    def test_later_connection(self) -> None:
        """It waits for that, though another connection is idle."""
        self.assertEqual([], self.second.writes)
        later = self._connect_later()
        self.assertEqual([b"a"], later.writes)
        later.flush()
        self.assertEqual([None], self.result())

    def test_others_go_on(self) -> None:
        """What stands behind it does not wait, and it keeps its place."""
        self.deliver(b"b")
        self.assertEqual([b"b"], self.second.writes)
        self.deliver(b"c")
        self.assertEqual([b"ac"], self._connect_later().writes)

    def test_not_for_ever(self) -> None:
        """When none comes within a second, any connection takes it."""
        self.clock.advance(BLAMED_SECONDS - 0.1)
        self.assertEqual([], self.second.writes)
        self.clock.advance(0.1)
        self.assertEqual([b"a"], self.second.writes)
        self.second.flush()
        self.assertEqual([None], self.result())

    def test_deadline(self) -> None:
        """When there is none at all it fails in time, like any other."""
        self.second.break_off()
        self.clock.advance(TIMEOUT_SECONDS)
        self.assert_not_delivered(self.result())
        self.assertEqual([], self._connect_later().writes)

    def test_order(self) -> None:
        """It keeps its place before what a dead connection gives back."""
        self.second.refuses = True
        self.clock.advance(0.5)
        later = self.deliver(b"b")
        self.assertEqual([], self.second.writes)
        self.second.break_off()
        self.clock.advance(TIMEOUT_SECONDS - 1.5)
        self.assert_not_delivered(self.result())
        self.assertEqual([], later())
        self.clock.advance(1.5)
        self.assert_not_delivered(later())

    def test_stop(self) -> None:
        """It leaves no timer."""
        self.deliver(b"b")
        self.pool.stop()
        self.assert_not_delivered(self.result())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ReplayTests(PoolTestCase):
    """What a broken connection leaves for replay is sent again."""

    def test_first_and_in_order(self) -> None:
        """Before what was unconfirmed, and before what waits."""
        (sender,) = self.connect()
        self.deliver(b"c")
        self.deliver(b"d")
        sender.break_off("reset", [b"a", b"b"])
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [b"abcd"])
        (line,) = self.lines.having("count#log-iss.forwarder.replay.payloads")
        self.assertEqual(line["count#log-iss.forwarder.replay.payloads"], "2")
        self.assertEqual(line["count#log-iss.forwarder.replay.bytes"], "2")
        self.assertEqual(self.metrics.payloads_replayed, 2)

    def test_no_deadline(self) -> None:
        """A replay waits for a connection however long that takes."""
        (sender,) = self.connect()
        sender.break_off("reset", [b"a"])
        self.clock.advance(100 * TIMEOUT_SECONDS)
        (healed,) = self.connect()
        self.assertEqual(healed.writes, [b"a"])
        self.clock.advance(100 * TIMEOUT_SECONDS)
        self.assertFalse(healed.aborted)

    def test_replayed_again(self) -> None:
        """One that breaks off on its way goes again, as often as it takes."""
        (sender,) = self.connect()
        sender.break_off("reset", [b"a"])
        for _ in range(3):
            (sender,) = self.connect()
            self.assertEqual(sender.writes, [b"a"])
            sender.break_off()
        ended = outcome(self.pool.replays_ended())
        self.assertEqual(ended(), [])
        (sender,) = self.connect()
        sender.flush()
        self.assertEqual(ended(), [None])

    def test_nothing_to_wait_for(self) -> None:
        """Without replays their end is now."""
        self.assertEqual(outcome(self.pool.replays_ended())(), [None])

    def test_given_up(self) -> None:
        """A pool that is stopped says what may be lost."""
        (sender,) = self.connect()
        sender.break_off("reset", [b"abc", b"d"])
        ended = outcome(self.pool.replays_ended())
        self.pool.stop()
        self.assertEqual(ended(), [None])
        (line,) = self.lines.having("count#log-iss.forwarder.replay.lost", "2")
        self.assertEqual(line["bytes"], "4")
        self.assertEqual(self.metrics.replays_given_up, 2)

    def test_on_its_way(self) -> None:
        """A replay that is on its way holds nobody up when the pool is stopped."""
        (sender,) = self.connect()
        sender.break_off("reset", [b"abc"])
        (healed,) = self.connect()
        ended = outcome(self.pool.replays_ended())
        self.pool.stop()
        self.assertEqual(ended(), [None])
        healed.confirm()
        self.assertEqual(self.lines.having("count#log-iss.forwarder.replay.lost"), [])

    def test_lost_after_stop(self) -> None:
        """So does one whose connection breaks at the very end."""
        (sender,) = self.connect()
        self.pool.stop()
        sender.break_off("reset", [b"abc"])
        self.assertEqual(
            len(self.lines.having("count#log-iss.forwarder.replay.lost", "1")), 1
        )
