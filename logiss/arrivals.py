"""
Knows which test messages have arrived, and which are missing, in bounded memory.

The numbers of a run are kept as ranges: one for a run without gaps, however long it is.
A message that is under way longer than others makes a gap, and closes it when it comes.
"""

from bisect import bisect_right
from collections.abc import Iterator

from logiss.probes import Altered, read
from logiss.words import many

#: So many ranges of a run are kept apart.
RANGES_MAX = 10_000
#: So many runs are.
RUNS_MAX = 100
#: So many ranges of missing numbers are named.
NAMED_MAX = 20

Range = tuple[int, int]


class Numbers:
    """
    The numbers of one run, from 1 on.

    @ivar received: different ones.
    @ivar duplicates: those that had come before.
    @ivar not_kept: those that would have made a range too many; nothing can be said of
        their neighbours.
    """

    def __init__(self, ranges_max: int = RANGES_MAX) -> None:
        self._ranges_max = ranges_max
        # Both of the same length and ascending; no two ranges touch.
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self.received = 0
        self.duplicates = 0
        self.not_kept = 0

    @property
    def ranges(self) -> list[Range]:
        return list(zip(self._firsts, self._lasts, strict=True))

    @property
    def highest(self) -> int:
        return self._lasts[-1] if self._lasts else 0

    def add(self, number: int) -> None:
        firsts, lasts = self._firsts, self._lasts
        # The range behind which it would stand is the one before `at`.
        at = bisect_right(firsts, number)
        if at and number <= lasts[at - 1]:
            self.duplicates += 1
            return
        continues = at > 0 and lasts[at - 1] == number - 1
        precedes = at < len(firsts) and firsts[at] == number + 1
        if continues and precedes:
            lasts[at - 1] = lasts.pop(at)
            del firsts[at]
        elif continues:
            lasts[at - 1] = number
        elif precedes:
            firsts[at] = number
        elif len(firsts) >= self._ranges_max:
            self.not_kept += 1
            return
        else:
            firsts.insert(at, number)
            lasts.insert(at, number)
        self.received += 1

    def are_all(self, expected: int) -> bool:
        """Whether they are exactly 1 to `expected`."""
        return self._firsts == [1] and self._lasts == [expected] and self.not_kept == 0

    def missing(self, expected: int | None) -> Iterator[Range]:
        """
        The ranges that have not come.

        @param expected: up to where; None is up to the highest that has come.
        """
        end = self.highest if expected is None else expected
        last = 0
        for first, next_last in zip(self._firsts, self._lasts, strict=True):
            if first > end:
                break
            if first > last + 1:
                yield last + 1, first - 1
            last = next_last
        if last < end:
            yield last + 1, end

    def beyond(self, expected: int) -> int:
        """How many numbers above `expected` have come."""
        return sum(
            last - max(first, expected + 1) + 1
            for first, last in self.ranges
            if last > expected
        )


class Arrivals:
    """
    All that has arrived.

    @param expected: how many messages each run has, if that is known.
    @param allows_duplicates: whether a message may come more than once.
    @ivar altered: test messages that are not as they were made.
    @ivar others: messages that are none.
    @ivar runs_not_kept: test messages of runs that were too many.
    """

    def __init__(
        self, expected: int | None = None, allows_duplicates: bool = True
    ) -> None:
        self._expected = expected
        self._allows_duplicates = allows_duplicates
        self.runs: dict[str, Numbers] = {}
        self.altered = 0
        self.others = 0
        self.runs_not_kept = 0

    def take(self, syslog_msg: bytes) -> bool:
        """
        @return: whether it has made everything complete that is expected.
        @raise Altered: says what is wrong with it.
        """
        try:
            probe = read(syslog_msg)
        except Altered:
            self.altered += 1
            raise
        if probe is None:
            self.others += 1
            return False
        numbers = self.runs.get(probe.run)
        if numbers is None:
            if len(self.runs) >= RUNS_MAX:
                self.runs_not_kept += 1
                return False
            numbers = self.runs[probe.run] = Numbers()
        numbers.add(probe.number)
        # Only who has just come can have been the last.
        expected = self._expected
        if expected is None or not numbers.are_all(expected):
            return False
        return all(other.are_all(expected) for other in self.runs.values())

    @property
    def is_good(self) -> bool:
        """Whether all has come that should have, as it was sent."""
        return (
            bool(self.runs)
            and not self.altered
            and not self.runs_not_kept
            and all(self._is_good(numbers) for numbers in self.runs.values())
        )

    def _is_good(self, numbers: Numbers) -> bool:
        if numbers.duplicates and not self._allows_duplicates:
            return False
        expected = numbers.highest if self._expected is None else self._expected
        return numbers.are_all(expected)

    def summary(self) -> Iterator[str]:
        """A line for each run, and for what else there is to be said."""
        for run, numbers in self.runs.items():
            yield f"run {run}: {self._about(numbers)}"
        if not self.runs:
            yield "no test message has come"
        if self.altered:
            yield f"{many(self.altered, 'altered test message')}"
        if self.runs_not_kept:
            count = many(self.runs_not_kept, "message")
            yield f"{count} of more than {RUNS_MAX} runs: not looked at"
        if self.others:
            yield f"{many(self.others, 'other message')}"

    def _about(self, numbers: Numbers) -> str:
        missing = list(numbers.missing(self._expected))
        count = sum(last - first + 1 for first, last in missing)
        parts = [
            f"{numbers.received:,} received",
            many(numbers.duplicates, "duplicate"),
            f"{count:,} missing" + (f": {_named(missing)}" if missing else ""),
        ]
        if self._expected is not None and (beyond := numbers.beyond(self._expected)):
            parts.append(f"{beyond:,} above {self._expected}")
        if numbers.not_kept:
            parts.append(
                f"{numbers.not_kept:,} not looked at, for there are too many gaps"
            )
        return ", ".join(parts)


def _named(ranges: list[Range]) -> str:
    named = [
        f"{first}" if first == last else f"{first}-{last}"
        for first, last in ranges[:NAMED_MAX]
    ]
    if len(ranges) > NAMED_MAX:
        named.append(f"and {many(len(ranges) - NAMED_MAX, 'more gap')}")
    return " ".join(named)
