"""What has arrived is known exactly, in memory that does not grow with it."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.arrivals import NAMED_MAX, RUNS_MAX, Arrivals, Numbers
from logiss.probes import Altered, Probe, text

_HEADER = b"<190>1 2013-06-07T13:17:49.468822+00:00 host app web.1 - - "


def frame(number: int, run: str = "r") -> bytes:
    return _HEADER + text(Probe(run, number))


def numbers_of(*numbers: int, ranges_max: int = 100) -> Numbers:
    numbers_ = Numbers(ranges_max)
    for number in numbers:
        numbers_.add(number)
    return numbers_


class NumbersTests(SynchronousTestCase):
    """Numbers in any order are ranges."""

    @given(st.lists(st.integers(1, 40)), st.integers(1, 45))
    def test_any_order(self, given_: list[int], expected: int) -> None:
        """They are what a set would say."""
        numbers, kept = numbers_of(*given_), set(given_)
        self.assertEqual(numbers.received, len(kept))
        self.assertEqual(numbers.duplicates, len(given_) - len(kept))
        for end in (None, expected):
            found = [
                n
                for first, last in numbers.missing(end)
                for n in range(first, last + 1)
            ]
            up_to = numbers.highest if end is None else end
            self.assertEqual(found, sorted(set(range(1, up_to + 1)) - kept))
        self.assertEqual(numbers.beyond(expected), sum(n > expected for n in kept))
        self.assertEqual(numbers.are_all(expected), kept == set(range(1, expected + 1)))
        covered = [n for a, b in numbers.ranges for n in range(a, b + 1)]
        self.assertEqual(covered, sorted(kept))
        for (_, last), (first, _) in zip(
            numbers.ranges, numbers.ranges[1:], strict=False
        ):
            self.assertGreater(first, last + 1)

    def test_one_range(self) -> None:
        """However many there are without gaps, it is one range."""
        numbers = numbers_of(*range(1, 10_001))
        self.assertEqual(numbers.ranges, [(1, 10_000)])

    def test_too_many_gaps(self) -> None:
        """Beyond so many ranges nothing is kept, nor called complete."""
        numbers = numbers_of(*range(1, 100, 2), ranges_max=10)
        self.assertEqual(len(numbers.ranges), 10)
        self.assertEqual(numbers.not_kept, 40)
        for number in range(2, 20, 2):
            numbers.add(number)
        self.assertEqual(numbers.ranges, [(1, 19)])
        self.assertFalse(numbers.are_all(19))


class ArrivalsTests(SynchronousTestCase):
    """What is said of it all."""

    def check(
        self, arrivals: Arrivals, frames: list[bytes], good: bool, *lines: str
    ) -> None:
        for octets in frames:
            try:
                arrivals.take(octets)
            except Altered:
                pass
        self.assertEqual(list(arrivals.summary()), list(lines))
        self.assertEqual(arrivals.is_good, good)

    def test_all(self) -> None:
        """Each run has a line; others are no fault."""
        self.check(
            Arrivals(),
            [frame(2), frame(1), frame(1, "other"), _HEADER + b"hello"],
            True,
            "run r: 2 received, 0 duplicates, 0 missing",
            "run other: 1 received, 0 duplicates, 0 missing",
            "1 other message",
        )

    def test_missing(self) -> None:
        """What is missing is named."""
        self.check(
            Arrivals(),
            [frame(n) for n in (2, 5, 6, 9)],
            False,
            "run r: 4 received, 0 duplicates, 5 missing: 1 3-4 7-8",
        )

    def test_many_missing(self) -> None:
        """Of many gaps the first are."""
        arrivals = Arrivals()
        for n in range(2, 100, 2):
            arrivals.take(frame(n))
        (line,) = arrivals.summary()
        self.assertTrue(line.endswith(f" 39 and {49 - NAMED_MAX} more gaps"), line)

    def test_expected(self) -> None:
        """With a number that is expected what comes behind the last is missing, too."""
        self.check(
            Arrivals(4),
            [frame(1), frame(2)],
            False,
            "run r: 2 received, 0 duplicates, 2 missing: 3-4",
        )

    def test_beyond(self) -> None:
        """And what is above is too much."""
        self.check(
            Arrivals(2),
            [frame(1), frame(2), frame(3)],
            False,
            "run r: 3 received, 0 duplicates, 0 missing, 1 above 2",
        )

    def test_duplicates(self) -> None:
        """Duplicates are counted, and an error only where they are to be."""
        line = "run r: 1 received, 1 duplicate, 0 missing"
        self.check(Arrivals(), [frame(1)] * 2, True, line)
        self.check(Arrivals(allows_duplicates=False), [frame(1)] * 2, False, line)

    def test_altered(self) -> None:
        """One that was changed is not received."""
        self.check(
            Arrivals(),
            [frame(1), frame(2).replace(b"abc", b"abd", 1)],
            False,
            "run r: 1 received, 0 duplicates, 0 missing",
            "1 altered test message",
        )

    def test_none(self) -> None:
        """That nothing has come is not good."""
        self.check(Arrivals(), [], False, "no test message has come")
        self.check(Arrivals(1), [], False, "no test message has come")

    def test_complete(self) -> None:
        """It is told when everything that is expected has come, of all runs."""
        arrivals = Arrivals(2)
        frames = [frame(1), frame(1, "s"), frame(2), frame(2, "s")]
        self.assertEqual([arrivals.take(f) for f in frames], [False] * 3 + [True])
        self.assertFalse(Arrivals().take(frame(1)))

    def test_too_many_runs(self) -> None:
        """Runs beyond a number are not kept, nor called complete."""
        arrivals = Arrivals(1)
        for n in range(RUNS_MAX + 5):
            arrivals.take(frame(1, f"run-{n}"))
        self.assertEqual(len(arrivals.runs), RUNS_MAX)
        self.assertFalse(arrivals.is_good)
        self.assertIn("5 messages of more than 100 runs", list(arrivals.summary())[-1])
