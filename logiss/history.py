"""
Remembers each second of the last ten minutes.

A `Sample` is what the counters were at one moment; what happened in between is the
difference of two.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from attrs import Factory, evolve, frozen

#: How long it goes back, and how often there is a sample.
HISTORY_SECONDS, SAMPLE_SECONDS = 600.0, 1.0
#: What is said of "the last minute".
RECENT_SECONDS = 60.0


@frozen
class Sample:
    """
    What the counters were.

    @ivar at: in the clock's seconds.
    @ivar posts_refused: answered 4xx, or gone before their answer; of these
        `posts_unauthorized` were answered 401, `posts_gone` were gone and
        `posts_of_other_methods` were answered 405.
    @ivar posts_failed: answered 5xx.
    @ivar requests_refused: what was no request that could be served.
    @ivar delivery: counts of `logiss.metrics.Histogram`.
    @ivar confirmation: the same by destination.
    @ivar unknown_refused: posts of users who are not known, or of nobody.
    @ivar reported_dropped: by senders, as `reported_lost` is.
    @ivar disconnects: of connections to the backend.
    @ivar pauses: how often there was no room for another client.
    @ivar worker_falls: how often a worker has ended unasked.
    """

    at: float
    posts_delivered: int = 0
    posts_refused: int = 0
    posts_unauthorized: int = 0
    posts_gone: int = 0
    posts_of_other_methods: int = 0
    posts_failed: int = 0
    requests_refused: int = 0
    clients_cut: int = 0
    proxy_headers_refused: int = 0
    pauses: int = 0
    frames_delivered: int = 0
    frames_failed: int = 0
    delivery: tuple[int, ...] = ()
    confirmation: Mapping[str, tuple[int, ...]] = Factory(dict)
    queue_payloads: int = 0
    queue_bytes: int = 0
    inflight_bytes: int = 0
    budget_refusals: int = 0
    unknown_refused: int = 0
    reported_dropped: int = 0
    reported_lost: int = 0
    counts_mismatched: int = 0
    disconnects: int = 0
    payloads_replayed: int = 0
    replays_given_up: int = 0
    fields_cut: int = 0
    log_lines_dropped: int = 0
    worker_falls: int = 0


class History:
    """The samples of the last `HISTORY_SECONDS`, oldest first."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(
            maxlen=int(HISTORY_SECONDS / SAMPLE_SECONDS) + 1
        )

    def add(self, sample: Sample) -> None:
        """Remember `sample`, which is later than all others."""
        samples = self._samples
        if samples and sample.at < samples[-1].at:
            self._set_back(samples[-1].at - sample.at + SAMPLE_SECONDS)
        samples.append(sample)
        # One of before a gap stays, to tell what the gap has brought.
        while len(samples) > 2 and samples[1].at < sample.at - HISTORY_SECONDS:
            samples.popleft()

    def _set_back(self, seconds: float) -> None:
        """The clock was: what is remembered goes back with it."""
        moved = [evolve(sample, at=sample.at - seconds) for sample in self._samples]
        self._samples.clear()
        self._samples.extend(moved)

    def last(self) -> Sample | None:
        return self._samples[-1] if self._samples else None

    def since(self, seconds: float) -> tuple[Sample, Sample] | None:
        """
        The last sample and one of `seconds` before it, or the oldest there is; when
        there was none for so long, the one before it. None as long as there are not
        two.
        """
        if len(self._samples) < 2:
            return None
        samples = reversed(self._samples)
        last, before = next(samples), next(samples)
        # Half a second of slack: the samples come a little late.
        earliest = last.at - seconds - SAMPLE_SECONDS / 2
        for sample in samples:
            if sample.at < earliest:
                break
            before = sample
        return before, last

    def steps(self, seconds: float) -> Iterator[tuple[Sample, Sample]]:
        """Pairs of samples, each about `seconds` apart, oldest first."""
        if not self._samples:
            return
        before = self._samples[0]
        for sample in self._samples:
            # Steps end at whole multiples, so that a plot does not change its past.
            if sample.at // seconds != before.at // seconds:
                yield before, sample
                before = sample


def difference(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """
    What was counted between two samples of a histogram, of which the first may be from
    before there was anything to count.
    """
    if not before or not after:
        return list(after)
    return [b - a for a, b in zip(before, after, strict=True)]


def quantile(
    fraction: float, counts: Sequence[int], bounds: Sequence[float]
) -> float | None:
    """
    The duration that `fraction` of those counted are not above, interpolated as
    Prometheus does; None when there are none.

    @param counts: of each of `bounds`, and of those above all.
    """
    rank = fraction * sum(counts)
    if not rank:
        return None
    below, lower = 0, 0.0
    for count, bound in zip(counts, bounds, strict=False):
        if below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below, lower = below + count, bound
    return bounds[-1]
