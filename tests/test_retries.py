"""Retries: what joins, what is remembered, and that nothing stays."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from logiss.retries import (
    DRAIN_TOKEN_BYTES_MAX,
    REMEMBERED_SECONDS,
    Attempt,
    Key,
    Retries,
    key_of,
)
from tests.fakes import outcome

ID = b"0123456789abcdefABCDEF9876543210"


def key(number: int = 0) -> Key:
    return b"user", b"d.1", b"%032x" % number


class NotThisTime(Exception):
    """What an attempt fails with."""


class KeyTests(SynchronousTestCase):
    """A post is known by its user, its drain token and its frame id."""

    def test_parts(self) -> None:
        """All three count; without a token the others do."""
        self.assertEqual(key_of(b"user", b"d.1", [ID]), (b"user", b"d.1", ID))
        self.assertEqual(key_of(b"user", None, [ID]), (b"user", None, ID))

    def test_ignored(self) -> None:
        """An id that is not 32 hex digits, or not the only one, is none."""
        for frame_ids in (
            [],
            [b""],
            [ID[:-1]],
            [ID + b"0"],
            [ID + b"\n"],
            [ID[:-1] + b"g"],
            [ID[:-1] + b" "],
            [b" " + ID[1:]],
            [b"0x" + ID[2:]],
            [b"-" + ID[1:]],
            ["٣".encode() * 16],
            [ID, ID],
        ):
            with self.subTest(frame_ids):
                self.assertIsNone(key_of(b"user", b"d.1", frame_ids))

    def test_long_token(self) -> None:
        """With a token of any length each post could be kept at that length."""
        most = b"d" * DRAIN_TOKEN_BYTES_MAX
        self.assertIsNotNone(key_of(b"user", most, [ID]))
        self.assertIsNone(key_of(b"user", most + b"d", [ID]))


class RetriesTestCase(SynchronousTestCase):
    """A table, and attempts that note when they are abandoned."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.retries = Retries(self.clock.seconds, keys_max=4)
        self.abandoned: list[Key] = []

    def begin(self, number: int = 0) -> Attempt:
        return self.retries.begin(
            key(number), lambda: self.abandoned.append(key(number))
        )

    def confirm(self, number: int = 0) -> None:
        self.begin(number).confirm()


class OutcomeTests(RetriesTestCase):
    """Whoever joins an attempt shares its outcome."""

    def test_unknown(self) -> None:
        """What has never come is neither under way nor remembered."""
        self.assertIsNone(self.retries.under_way(key()))
        self.assertFalse(self.retries.remembers(key()))

    def test_under_way(self) -> None:
        """Until its end an attempt is found, and not remembered."""
        attempt = self.begin()
        self.assertIs(self.retries.under_way(key()), attempt)
        self.assertIsNone(self.retries.under_way(key(1)))
        self.assertFalse(self.retries.remembers(key()))

    def test_confirmed(self) -> None:
        """Those who have joined hear of it, in their order, and it is remembered."""
        attempt = self.begin()
        told: list[int] = []
        for i in range(3):
            attempt.join().addCallback(lambda _, i: told.append(i), i)
        attempt.confirm()
        self.assertEqual(told, [0, 1, 2])
        self.assertIsNone(self.retries.under_way(key()))
        self.assertTrue(self.retries.remembers(key()))

    def test_failed(self) -> None:
        """Those who have joined fail with it, and it is forgotten."""
        attempt = self.begin()
        joined = [attempt.join(), attempt.join()]
        attempt.fail(Failure(NotThisTime()))
        for deferred in joined:
            self.failureResultOf(deferred, NotThisTime)
        self.assertEqual(len(self.retries), 0)

    def test_ended_before_they_are_told(self) -> None:
        """Who is told of an end, and looks, finds it ended."""
        found: list[Any] = []

        def look(_: object) -> None:
            found.append((self.retries.under_way(key()), self.retries.remembers(key())))

        attempt = self.begin()
        attempt.join().addCallback(look)
        attempt.confirm()
        self.assertEqual(found, [(None, True)])
        attempt = self.begin(1)
        attempt.join().addErrback(lambda _: self.begin(1))
        attempt.fail(Failure(NotThisTime()))
        self.assertIsNot(self.retries.under_way(key(1)), None)

    def test_one_takes_the_next_away(self) -> None:
        """One who leaves while the others are told is not told twice."""
        attempt = self.begin()
        first, second = attempt.join(), attempt.join()
        first.addCallback(lambda _: second.cancel())
        attempt.first_left()
        attempt.confirm()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.abandoned, [])


class AbandonedTests(RetriesTestCase):
    """An attempt that nobody waits for is abandoned."""

    def test_alone(self) -> None:
        """When the first leaves and nobody has joined."""
        self.begin().first_left()
        self.assertEqual(self.abandoned, [key()])

    def test_joined(self) -> None:
        """Not while anybody waits, whoever it is; with the last of them."""
        attempt = self.begin()
        second, third = attempt.join(), attempt.join()
        attempt.first_left()
        second.cancel()
        self.assertEqual(self.abandoned, [])
        third.cancel()
        self.assertEqual(self.abandoned, [key()])
        for joined in (second, third):
            self.failureResultOf(joined, CancelledError)

    def test_joined_for_a_while(self) -> None:
        """Not by those who leave while the first waits."""
        attempt = self.begin()
        joined = attempt.join()
        joined.cancel()
        self.failureResultOf(joined, CancelledError)
        self.assertEqual(self.abandoned, [])
        attempt.first_left()
        self.assertEqual(self.abandoned, [key()])

    def test_goes_on(self) -> None:
        """One that goes on may be joined again, and abandoned again."""
        attempt = self.begin()
        attempt.first_left()
        joined = attempt.join()
        joined.cancel()
        self.failureResultOf(joined, CancelledError)
        self.assertEqual(self.abandoned, [key()] * 2)
        again = attempt.join()
        attempt.confirm()
        self.assertIsNone(self.successResultOf(again))

    def test_ended(self) -> None:
        """Not once it has ended."""
        attempt = self.begin()
        attempt.confirm()
        attempt.first_left()
        self.assertEqual(self.abandoned, [])


class BoundsTests(RetriesTestCase):
    """Neither time nor number lets the table grow."""

    def test_remembered_so_long(self) -> None:
        """A confirmed post is known for 120 s from its confirmation."""
        attempt = self.begin()
        self.clock.advance(100)
        attempt.confirm()
        self.clock.advance(REMEMBERED_SECONDS - 0.001)
        self.assertTrue(self.retries.remembers(key()))
        self.clock.advance(0.001)
        self.assertFalse(self.retries.remembers(key()))
        self.assertEqual(REMEMBERED_SECONDS, 120)

    def test_begun_again(self) -> None:
        """One that is known no more begins anew, and counts as new."""
        self.confirm(0)
        self.clock.advance(REMEMBERED_SECONDS)
        self.confirm(0)
        self.clock.advance(REMEMBERED_SECONDS - 1)
        self.assertTrue(self.retries.remembers(key()))
        self.assertEqual(len(self.retries), 1)

    def test_expired_go(self) -> None:
        """What is too old goes as others come; no timer is needed."""
        self.retries = Retries(self.clock.seconds)
        for i in range(100):
            self.confirm(i)
        self.clock.advance(REMEMBERED_SECONDS)
        for i in range(100, 120):
            self.confirm(i)
        self.assertEqual(len(self.retries), 20)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_oldest_out_first(self) -> None:
        """Beyond the number the oldest go."""
        for i in range(6):
            self.confirm(i)
        known = [self.retries.remembers(key(i)) for i in range(6)]
        self.assertEqual(known, [False, False, True, True, True, True])

    def test_begun_again_is_young(self) -> None:
        """One that begins anew is not as old as its first."""
        self.begin(9)
        self.confirm(0)
        self.confirm(5)
        self.clock.advance(REMEMBERED_SECONDS)
        for number in (0, 1, 2, 3):
            self.begin(number)
        self.assertIsNotNone(self.retries.under_way(key(0)))

    def test_oldest_is_under_way(self) -> None:
        """One under way that goes ends as any other, and nothing is made of it."""
        old = self.begin(0)
        joined = old.join()
        for i in range(1, 5):
            self.confirm(i)
        self.assertIsNone(self.retries.under_way(key(0)))
        young = self.begin(0)
        old.confirm()
        self.assertIsNone(self.successResultOf(joined))
        self.assertIs(self.retries.under_way(key(0)), young)
        young.fail(Failure(NotThisTime()))
        self.assertFalse(self.retries.remembers(key(0)))

    def test_many(self) -> None:
        """A hundred thousand are kept."""
        retries = Retries(self.clock.seconds)
        for i in range(100_010):
            retries.begin(key(i), lambda: None).confirm()
        self.assertEqual(len(retries), 100_000)
        self.assertFalse(retries.remembers(key(9)))
        self.assertTrue(retries.remembers(key(10)))


class RetriesMachine(RuleBasedStateMachine):
    """
    Against a model of plain lists: attempts of few keys begin, are joined, left,
    abandoned and ended in any order, while time passes.
    """

    KEYS_MAX = 4

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.retries = Retries(self.clock.seconds, 10.0, self.KEYS_MAX)
        # Each attempt that has not ended: its key, whether its first waits, who
        # has joined.
        self.open: list[tuple[Attempt, int, list[Deferred[None]]]] = []
        self.first_waits: dict[int, bool] = {}
        self.abandoned: list[int] = []
        # In the order of the table: number, attempt or time of its confirmation.
        self.model: list[tuple[int, Attempt | float]] = []
        self.results: list[tuple[Any, type[BaseException] | None]] = []

    def known(self, number: int) -> Attempt | float | None:
        found = [what for n, what in self.model if n == number]
        return found[0] if found else None

    @rule(number=st.integers(0, 6))
    def post(self, number: int) -> None:
        """A post comes, which is a first one or a retry."""
        known = self.known(number)
        fresh = isinstance(known, float) and self.clock.seconds() - known < 10
        assert self.retries.remembers(key(number)) == fresh
        attempt = self.retries.under_way(key(number))
        if isinstance(known, Attempt):
            assert attempt is known
            self.join(known)
        else:
            assert attempt is None
            if not fresh:
                self.begin(number)

    def join(self, attempt: Attempt) -> None:
        joined = next(joined for a, _, joined in self.open if a is attempt)
        joined.append(attempt.join())

    def begin(self, number: int) -> None:
        attempt = self.retries.begin(
            key(number), lambda: self.abandoned.append(id(attempt))
        )
        self.open.append((attempt, number, []))
        self.first_waits[id(attempt)] = True
        self.model = [(n, what) for n, what in self.model if n != number]
        self.model.append((number, attempt))
        while (
            isinstance(oldest := self.model[0][1], float)
            and self.clock.seconds() - oldest >= 10
        ):
            self.model.pop(0)
        self.model = self.model[-self.KEYS_MAX :]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), confirmed=st.booleans())
    def end(self, data: st.DataObject, confirmed: bool) -> None:
        """An attempt ends; everybody who waits hears how."""
        entry = data.draw(st.sampled_from(self.open))
        self.open.remove(entry)
        attempt, number, joined = entry
        if confirmed:
            attempt.confirm()
        else:
            attempt.fail(Failure(NotThisTime()))
        for deferred in joined:
            (result,) = outcome(deferred)()
            if confirmed:
                assert result is None
            else:
                assert result.check(NotThisTime)
        if (number, attempt) in self.model:
            self.model.remove((number, attempt))
            if confirmed:
                self.model.append((number, self.clock.seconds()))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """One who waits goes, the first or another."""
        attempt, _, joined = data.draw(st.sampled_from(self.open))
        choices = list(range(len(joined)))
        if self.first_waits[id(attempt)]:
            choices.append(-1)
        if not choices:
            return
        chosen = data.draw(st.sampled_from(choices))
        before = len(self.abandoned)
        if chosen == -1:
            self.first_waits[id(attempt)] = False
            attempt.first_left()
        else:
            left = joined.pop(chosen)
            left.cancel()
            (result,) = outcome(left)()
            assert result.check(CancelledError)
        nobody_waits = not joined and not self.first_waits[id(attempt)]
        assert self.abandoned[before:] == [id(attempt)] * nobody_waits

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @invariant()
    def bounded(self) -> None:
        """The table has what the model has, and no timer."""
        assert len(self.retries) == len(self.model) <= self.KEYS_MAX
        assert self.clock.getDelayedCalls() == []


class MachineTests(SynchronousTestCase):
    """`RetriesMachine` finds nothing."""

    def test_any_order(self) -> None:
        """In whatever order things happen."""
        case = RetriesMachine.TestCase
        case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
        case("runTest").debug()
