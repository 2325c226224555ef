"""The last ten minutes, second by second."""

from itertools import pairwise
from math import isclose

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.history import (
    HISTORY_SECONDS,
    SAMPLE_SECONDS,
    History,
    Sample,
    difference,
    quantile,
)

# What is compared where there is nothing.
NOTHING = Sample(-1.0), Sample(-1.0)
GAPS = st.lists(st.floats(0.01, 200.0), max_size=40)


def filled(*times: float) -> History:
    """A history whose samples have counted the one before them."""
    history = History()
    for i, at in enumerate(times):
        history.add(Sample(at, posts_delivered=i))
    return history


def times_of(gaps: list[float], start: float = 1000.0) -> list[float]:
    times = [start]
    for gap in gaps:
        times.append(times[-1] + gap)
    return times


class SinceTests(SynchronousTestCase):
    """The two ends of the last while."""

    def test_none(self) -> None:
        """There is nothing between fewer than two."""
        self.assertIsNone(filled().since(60))
        self.assertIsNone(filled(1).since(60))
        self.assertIsNone(filled().last())

    def test_young(self) -> None:
        """What is younger than the while is all of it."""
        before, last = filled(0, 1, 2).since(60) or NOTHING
        self.assertEqual((before.at, last.at), (0, 2))

    def test_late(self) -> None:
        """Samples that come a little late do not make it shorter."""
        before, last = filled(*(n * 1.004 for n in range(300))).since(60) or NOTHING
        self.assertTrue(isclose(last.at - before.at, 60 * 1.004))

    def test_gap(self) -> None:
        """After a gap it reaches back to before it: nothing is left out."""
        before, last = filled(0, 1, 2, 500).since(60) or NOTHING
        self.assertEqual((before.at, last.at), (2, 500))

    @given(GAPS, st.floats(1.0, 400.0))
    def test_oracle(self, gaps: list[float], seconds: float) -> None:
        """It is the earliest that is not too old, or else the one before the last."""
        times = times_of(gaps)
        ends = filled(*times).since(seconds)
        if len(times) < 2:
            self.assertIsNone(ends)
            return
        last = times[-1]
        near = [t for t in times[:-1] if t >= last - seconds - SAMPLE_SECONDS / 2]
        before, after = ends or NOTHING
        self.assertEqual((before.at, after.at), ((near or [times[-2]])[0], last))


class MemoryTests(SynchronousTestCase):
    """It goes back ten minutes and no further."""

    def test_bounded(self) -> None:
        """Each day has as many samples as ten minutes have."""
        history = filled(*range(86_400))
        self.assertEqual(len(list(history.steps(1))), HISTORY_SECONDS)
        before, last = history.since(1e9) or NOTHING
        self.assertEqual(last.at - before.at, HISTORY_SECONDS)

    def test_bounded_in_time(self) -> None:
        """Samples that came rarely are forgotten as early as others."""
        before, last = filled(*range(0, 6000, 10)).since(1e9) or NOTHING
        self.assertEqual(last.at - before.at, HISTORY_SECONDS + 10)

    def test_set_back(self) -> None:
        """When the clock is set back, what was counted is still there."""
        history = filled(5000, 5001, 5002, 3, 4)
        before, last = history.since(60) or NOTHING
        self.assertEqual((before.at, last.at), (0, 4))
        self.assertEqual(last.posts_delivered - before.posts_delivered, 4)

    @given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
    def test_any_clock(self, times: list[float]) -> None:
        """Whatever the clock does, the past is in order, and the last is the last."""
        history = filled(*times)
        before, last = history.since(60) or NOTHING
        self.assertEqual(last.at, times[-1])
        self.assertEqual(last.posts_delivered, len(times) - 1)
        self.assertLess(before.posts_delivered, last.posts_delivered)
        self.assertLessEqual(before.at, last.at)


class StepsTests(SynchronousTestCase):
    """Pairs of samples, for plots."""

    def test_steps(self) -> None:
        """They end at multiples, so that a step that was drawn stays what it is."""
        history = filled(*range(13))
        pairs = [(before.at, after.at) for before, after in history.steps(5)]
        self.assertEqual(pairs, [(0, 5), (5, 10)])
        history.add(Sample(13))
        self.assertEqual([(b.at, a.at) for b, a in history.steps(5)], pairs)

    def test_none(self) -> None:
        """There is no step between fewer than two."""
        self.assertEqual(list(filled().steps(5)), [])
        self.assertEqual(list(filled(1).steps(5)), [])

    @given(GAPS, st.floats(1.0, 60.0))
    def test_oracle(self, gaps: list[float], seconds: float) -> None:
        """Each begins where the one before has ended, where a multiple was passed."""
        times = times_of(gaps)
        # As many as are remembered.
        while len(times) > 2 and times[1] < times[-1] - HISTORY_SECONDS:
            times.pop(0)
        pairs = [(b.at, a.at) for b, a in filled(*times).steps(seconds)]
        ends = [
            after
            for before, after in pairwise(times)
            if after // seconds != before // seconds
        ]
        starts = [times[0], *ends]
        self.assertEqual(pairs, list(zip(starts, ends, strict=False)))


BOUNDS = (1.0, 2.0, 5.0)


class QuantileTests(SynchronousTestCase):
    """How long most have taken."""

    def test_interpolated(self) -> None:
        """Between two bounds as if they were spread evenly, as Prometheus does."""
        self.assertEqual(quantile(0.5, [0, 10, 0, 0], BOUNDS), 1.5)
        self.assertEqual(quantile(0.9, [10, 0, 0, 0], BOUNDS), 0.9)
        self.assertEqual(quantile(0.75, [2, 0, 2, 0], BOUNDS), 3.5)

    def test_above_all(self) -> None:
        """Nothing more is known of those than that they are above the last bound."""
        self.assertEqual(quantile(0.99, [1, 0, 0, 99], BOUNDS), 5.0)

    def test_none(self) -> None:
        """Nothing is said where nothing was counted."""
        self.assertIsNone(quantile(0.5, [0, 0, 0, 0], BOUNDS))
        self.assertIsNone(quantile(0.5, [], BOUNDS))

    @given(
        st.lists(st.floats(0.0, 4.999), min_size=1, max_size=60),
        st.sampled_from((0.01, 0.5, 0.9, 0.99, 1.0)),
    )
    def test_oracle(self, taken: list[float], fraction: float) -> None:
        """It is in the bucket that the one of that rank is in."""
        counts = [0] * 4
        for seconds in taken:
            counts[sum(bound < seconds for bound in BOUNDS)] += 1
        rank = fraction * len(taken)
        at_rank = next(s for i, s in enumerate(sorted(taken), 1) if i >= rank)
        upper = next(bound for bound in BOUNDS if at_rank <= bound)
        lower = max((bound for bound in BOUNDS if bound < upper), default=0.0)
        found = quantile(fraction, counts, BOUNDS)
        assert found is not None
        self.assertTrue(lower <= found <= upper, (lower, found, upper))

    def test_difference(self) -> None:
        """What was counted between two; a first one may be from before all counting."""
        self.assertEqual(difference((1, 2), (1, 5)), [0, 3])
        self.assertEqual(difference((), (1, 5)), [1, 5])
        self.assertEqual(difference((1, 5), ()), [])
