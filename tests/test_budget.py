"""Room for bodies, first come first served."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.budget import Budget, NoRoom


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

    def test_never_fits(self) -> None:
        """What is larger than everything fails at once, waited for or not."""
        self.failureResultOf(self.budget.reserve(101, 5), NoRoom)
        self.reserve("a", 100)
        self.reserve("b", 1)
        self.failureResultOf(self.budget.reserve(101, 5), NoRoom)
        self.budget.release(100)
        self.assertEqual(self.admitted, ["a", "b"])

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

    def test_release_too_much(self) -> None:
        """Giving back what was not had is a mistake."""
        self.reserve("a", 10)
        with self.assertRaises(AssertionError):
            self.budget.release(11)

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
