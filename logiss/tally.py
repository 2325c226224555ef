"""
Counts what became of each message that was submitted, and sums it up honestly.

A message is delivered, lost or not known, or it is still on its way: nothing else, and
never two of them. Not known is what was written to a connection that gave no answer, or
one that may have been given too late: it may have arrived.
"""

from collections.abc import Iterator
from enum import Enum

from attrs import define, field, frozen

#: Kinds of causes are few; more are summed up as one.
KINDS_MAX = 20


class Fate(Enum):
    """What became of a batch."""

    DELIVERED = "delivered"
    LOST = "lost"
    UNKNOWN = "not known"


@frozen
class Outcome:
    """
    What became of a batch, and why.

    @ivar kind: why it was not delivered, in words that are the same each time.
    @ivar detail: what stood in the answer, fit to be printed.
    """

    fate: Fate
    kind: str = ""
    detail: str = ""
    is_duplicate: bool = False


@define
class Cause:
    """So many messages, in so many batches, had no better fate for one reason."""

    messages: int = 0
    batches: int = 0
    detail: str = ""


@define
class Tally:
    """
    @ivar messages: those that were made to be submitted.
    @ivar lines: of how many lines they were made.
    @ivar lines_cut: how many lines became several messages.
    @ivar duplicates: batches that were answered as there already.
    """

    lines: int = 0
    lines_cut: int = 0
    messages: int = 0
    bytes_read: int = 0
    delivered: int = 0
    lost: int = 0
    unknown: int = 0
    batches: int = 0
    retries: int = 0
    duplicates: int = 0
    causes: dict[tuple[Fate, str], Cause] = field(factory=dict)

    @property
    def waiting(self) -> int:
        """Messages of which it has not been said what became of them."""
        return self.messages - self.delivered - self.lost - self.unknown

    @property
    def is_whole(self) -> bool:
        """Whether everything was delivered."""
        return self.delivered == self.messages

    def ended(self, messages: int, outcome: Outcome) -> None:
        """A batch of so many has come to its end."""
        self.batches += 1
        self.duplicates += outcome.is_duplicate
        if outcome.fate is Fate.DELIVERED:
            self.delivered += messages
            return
        if outcome.fate is Fate.LOST:
            self.lost += messages
        else:
            self.unknown += messages
        cause = self._cause(outcome)
        cause.messages += messages
        cause.batches += 1
        cause.detail = cause.detail or outcome.detail

    def _cause(self, outcome: Outcome) -> Cause:
        key = (outcome.fate, outcome.kind)
        if key not in self.causes and len(self.causes) >= KINDS_MAX:
            key = (outcome.fate, "other causes")
        return self.causes.setdefault(key, Cause())


def summary(tally: Tally, seconds: float) -> Iterator[str]:
    """What is to be said at the end, a line each."""
    rate = tally.delivered / seconds if seconds > 0 else 0
    yield (
        f"read {_read(tally)}: {tally.delivered:,} delivered, {tally.lost:,} lost,"
        f" {tally.unknown:,} not known; {seconds:.1f} s, {rate:,.0f} a second"
    )
    if tally.lines_cut:
        yield (
            f"{_many(tally.lines_cut, 'line')} longer than --line-bytes became several"
            " messages"
        )
    if tally.retries or tally.duplicates:
        yield (
            f"{_many(tally.retries, 'retry', 'retries')};"
            f" {_many(tally.duplicates, 'batch', 'batches')} answered as delivered"
            " before"
        )
    for (fate, kind), cause in tally.causes.items():
        yield told(fate, kind, cause)


def _read(tally: Tally) -> str:
    if tally.lines == tally.messages:
        return _many(tally.messages, "line")
    if not tally.lines:
        return _many(tally.messages, "message")
    return f"{_many(tally.lines, 'line')} as {_many(tally.messages, 'message')}"


def told(fate: Fate, kind: str, cause: Cause) -> str:
    """A cause, on one line."""
    detail = f", first with {cause.detail}" if cause.detail else ""
    whether = "" if fate is Fate.LOST else " and may have arrived or not"
    return (
        f"{fate.value}: {_many(cause.messages, 'message')} in"
        f" {_many(cause.batches, 'batch', 'batches')}{whether}: {kind}{detail}"
    )


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"
