"""Room for bodies, first come first served."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.budget import GIVEN_BACK_BYTES, Budget, NoRoom


class BudgetTests(SynchronousTestCase):
    """`Budget` never admits more than its limit, and admits in order."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.budget = Budget(self.clock, 100)
        self.admitted: list[str] = []

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def reserve(self, name: str, size: int, within: float = 5.0) -> Deferred[None]:
        """`name` is in `admitted` once it has its room."""
        waiter = self.budget.reserve(size, within)
        waiter.addCallback(lambda _: self.admitted.append(name))
        return waiter

    def test_room(self) -> None:
        """While there is room it is had at once, to the last byte."""
        self.reserve("a", 60)
        self.reserve("b", 40)
        self.reserve("c", 0)
        self.assertEqual(self.admitted, ["a", "b", "c"])
        self.assertEqual(self.budget.reserved_bytes, 100)

    def test_release_admits(self) -> None:
        """Who waits is admitted as soon as enough has been released."""
        self.reserve("a", 60)
        self.reserve("b", 40)
        self.reserve("c", 50)
        self.budget.release(40)
        self.assertEqual(self.admitted, ["a", "b"])
        self.budget.release(60)
        self.assertEqual(self.admitted, ["a", "b", "c"])
        self.assertEqual(self.budget.reserved_bytes, 50)

    def test_first_come_first_served(self) -> None:
        """A small one does not pass a large one that came before."""
        self.reserve("a", 90)
        self.reserve("large", 50)
        self.reserve("small", 10)
        self.assertEqual(self.admitted, ["a"])
        self.budget.release(90)
        self.assertEqual(self.admitted, ["a", "large", "small"])
        self.assertEqual(self.budget.reserved_bytes, 60)

    def test_release_admits_many(self) -> None:
        """One release admits as many as there is room for, in order."""
        self.reserve("a", 100)
        waiters = [self.reserve(name, 30) for name in "bcde"]
        self.budget.release(100)
        self.assertEqual(self.admitted, ["a", "b", "c", "d"])
        self.assertEqual(self.budget.reserved_bytes, 90)
        self.assertNoResult(waiters[-1])
        self.budget.release(30)
        self.assertEqual(self.admitted, ["a", "b", "c", "d", "e"])

    def test_too_late(self) -> None:
        """Who has waited long enough fails and takes no room."""
        self.reserve("a", 100)
        waiter = self.reserve("b", 10, within=5)
        self.clock.advance(4.9)
        self.assertNoResult(waiter)
        self.clock.advance(0.1)
        self.failureResultOf(waiter, NoRoom)
        self.budget.release(100)
        self.assertEqual(self.admitted, ["a"])
        self.assertEqual(self.budget.reserved_bytes, 0)

    def test_too_late_makes_way(self) -> None:
        """Behind one that fails, those are admitted for whom there is room."""
        self.reserve("a", 60)
        large = self.reserve("large", 50, within=1)
        self.reserve("small", 40, within=5)
        self.assertEqual(self.admitted, ["a"])
        self.clock.advance(1)
        self.failureResultOf(large, NoRoom)
        self.assertEqual(self.admitted, ["a", "small"])

    def test_cancel(self) -> None:
        """Who does not want to wait any longer takes no room."""
        self.reserve("a", 100)
        waiter = self.reserve("b", 10)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.budget.release(100)
        self.assertEqual(self.admitted, ["a"])
        self.assertEqual(self.budget.reserved_bytes, 0)

    def test_cancel_makes_way(self) -> None:
        """Behind one that gives up, those are admitted for whom there is room."""
        self.reserve("a", 60)
        large = self.reserve("large", 50)
        small = self.reserve("small", 40)
        self.assertEqual(self.admitted, ["a"])
        large.cancel()
        self.failureResultOf(large, CancelledError)
        admitted = list(self.admitted)
        # Or a timer would be left.
        small.addErrback(lambda reason: reason.trap(CancelledError))
        small.cancel()
        self.assertEqual(admitted, ["a", "small"])

    def test_cancel_in_the_middle(self) -> None:
        """One that gives up leaves the others in order."""
        self.reserve("a", 100)
        self.reserve("b", 10)
        waiter = self.reserve("c", 10)
        self.reserve("d", 10)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        self.budget.release(100)
        self.assertEqual(self.admitted, ["a", "b", "d"])
        self.assertEqual(self.budget.reserved_bytes, 20)

    def test_alone(self) -> None:
        """Who is alone has what he asks for, however much: nobody waits for himself."""
        self.successResultOf(self.budget.reserve(101, 5))
        waiter = self.budget.reserve(1, 5)
        self.assertNoResult(waiter)
        self.successResultOf(self.budget.reserve(50, 5, held_bytes=101))
        self.budget.release(151)
        self.successResultOf(waiter)

    def test_release_too_much(self) -> None:
        """Giving back what was not had is a mistake."""
        self.reserve("a", 10)
        with self.assertRaises(AssertionError):
            self.budget.release(11)

    def test_adjust(self) -> None:
        """What becomes smaller admits others, what becomes larger keeps them out."""
        self.reserve("a", 100)
        self.reserve("b", 30)
        self.budget.adjust(100, 71)
        self.assertEqual(self.admitted, ["a"])
        self.budget.adjust(71, 70)
        self.assertEqual(self.admitted, ["a", "b"])
        self.budget.adjust(70, 90)
        self.assertEqual(self.budget.reserved_bytes, 120)
        waiter = self.reserve("c", 1)
        self.assertNoResult(waiter)
        self.budget.release(30)
        self.assertEqual(self.admitted, ["a", "b", "c"])

    def test_reserve_when_admitted(self) -> None:
        """Who is admitted may reserve and release on the spot."""
        self.reserve("a", 100)
        waiter = self.reserve("b", 10)
        waiter.addCallback(lambda _: self.reserve("d", 10))
        waiter.addCallback(lambda _: self.budget.release(10))
        self.reserve("c", 10)
        self.budget.release(100)
        self.assertEqual(sorted(self.admitted), ["a", "b", "c", "d"])
        self.assertEqual(self.budget.reserved_bytes, 20)


class ReadingTests(SynchronousTestCase):
    """Bodies that are being read, beside those that are complete."""

    def setUp(self) -> None:
        self.clock = Clock()
        # 64 for bodies that are being read; none is begun beyond 32.
        self.budget = Budget(self.clock, 100, 18)
        self.admitted: list[str] = []
        self.held = dict.fromkeys("abcdef", 0)

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def next(self, body: str, size: int, held: int = 1) -> Deferred[None]:
        waiter = self.budget.reserve_next(body, size, 5, held)
        waiter.addCallback(lambda _: self.admitted.append(body))
        return waiter

    def give_up(self, *waiters: Deferred[None]) -> None:
        for waiter in waiters:
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)

    def test_hold(self) -> None:
        """What is there counts at once; half of the room is for beginnings."""
        self.assertTrue(self.budget.hold(32))
        self.assertFalse(self.budget.hold(1))
        self.assertFalse(self.budget.hold(200))
        self.assertEqual(self.budget.reserved_bytes, 233)

    def test_kept_free(self) -> None:
        """However much of them there is, complete ones find room."""
        self.budget.hold(64)
        waiter = self.next("a", 1)
        self.assertTrue(self.budget.try_reserve(36))
        self.assertFalse(self.budget.try_reserve(1))
        self.give_up(waiter)

    def test_kept_free_bounds(self) -> None:
        """An eighth at least, half at most, and else room for two of the largest."""
        for limit, body, room in ((800, 10, 700), (800, 100, 600), (800, 900, 400)):
            budget = Budget(self.clock, limit, body)
            budget.hold(room - 1)
            self.successResultOf(budget.reserve_next("a", 1, 5, 1))
            waiter = budget.reserve_next("a", 1, 5, 2)
            self.assertNoResult(waiter)
            self.give_up(waiter)

    def test_headroom(self) -> None:
        """Each has room for a body above those that came behind it."""
        self.budget.hold(50)
        second = self.next("a", 14), self.next("b", 1)
        self.assertEqual(self.admitted, ["a"])
        self.budget.release(18)
        self.assertEqual(self.admitted, ["a"])
        self.budget.release(1)
        self.assertEqual(self.admitted, ["a", "b"])
        waiter = self.next("b", 1)
        self.budget.left("a")
        self.budget.release(1)
        self.assertEqual(self.admitted, ["a", "b", "b"])
        del second, waiter

    def test_oldest_first(self) -> None:
        """Who began to wait first goes first, also when it waits again."""
        self.budget.hold(64)
        waiters = [self.next("a", 10), self.next("b", 10)]
        self.budget.release(10)
        self.assertEqual(self.admitted, ["a"])
        waiters.append(self.next("a", 10))
        self.budget.release(10)
        self.assertEqual(self.admitted, ["a", "a"])
        self.give_up(waiters[1])

    def test_last_place(self) -> None:
        """One that has left and comes again is behind the others."""
        self.budget.hold(64)
        waiters = [self.next("a", 10), self.next("b", 10)]
        self.give_up(waiters[0])
        self.budget.left("a")
        waiters.append(self.next("a", 10))
        self.budget.release(10)
        self.assertEqual(self.admitted, ["b"])
        self.give_up(waiters[2])

    def test_behind_others(self) -> None:
        """Nobody reads on past those that wait for room."""
        self.budget.hold(64)
        waiter = self.next("a", 1)
        self.budget.release(40)
        self.successResultOf(waiter)
        self.assertTrue(self.budget.hold(1))
        self.budget.hold(60)
        waiter = self.next("b", 1)
        self.budget.release(1)
        self.assertFalse(self.budget.hold(0))
        self.give_up(waiter)

    def test_alone(self) -> None:
        """One that has all there is goes on: it would wait for itself."""
        self.budget.hold(90)
        self.successResultOf(self.next("a", 10, held=90))
        waiter = self.next("a", 10, held=90)
        self.assertNoResult(waiter)
        self.budget.release(10)
        self.successResultOf(waiter)

    def test_too_late(self) -> None:
        """Who waits too long is told so, and makes way."""
        self.budget.hold(64)
        waiter = self.next("a", 1)
        self.clock.advance(4)
        other = self.next("b", 0)
        self.budget.left("a")
        self.clock.advance(1)
        self.failureResultOf(waiter, NoRoom)
        self.successResultOf(other)

    def test_complete_first(self) -> None:
        """What is released goes to those that are complete."""
        self.budget.hold(100)
        reading = self.next("a", 1)
        complete = self.budget.reserve(40, 5)
        self.budget.release(39)
        self.assertNoResult(complete)
        self.budget.release(1)
        self.successResultOf(complete)
        self.assertNoResult(reading)
        self.budget.release(37)
        self.successResultOf(reading)

    def test_tight(self) -> None:
        """From three eighths of the room on it is tight, until a quarter."""
        told: list[bool] = []
        self.budget.on_tight = told.append
        self.budget.hold(24)
        self.assertEqual((told, self.budget.is_tight), ([], False))
        self.budget.hold(1)
        self.budget.hold(40)
        self.assertEqual((told, self.budget.is_tight), ([True], True))
        self.budget.release(48)
        self.assertEqual((told, self.budget.is_tight), ([True], True))
        self.budget.release(1)
        self.assertEqual((told, self.budget.is_tight), ([True, False], False))

    def test_given_back(self) -> None:
        """While it is tight it says when much was given back."""
        told: list[int] = []
        budget = Budget(self.clock, 80 * GIVEN_BACK_BYTES)
        budget.on_given_back = lambda: told.append(budget.reserved_bytes)
        budget.hold(20 * GIVEN_BACK_BYTES)
        budget.release(2 * GIVEN_BACK_BYTES)
        self.assertEqual(told, [])
        budget.hold(60 * GIVEN_BACK_BYTES)
        budget.release(GIVEN_BACK_BYTES - 1)
        self.assertEqual(told, [])
        budget.release(1)
        self.assertEqual(told, [77 * GIVEN_BACK_BYTES])
        budget.release(77 * GIVEN_BACK_BYTES)
        self.assertEqual(told[1:], [0])
