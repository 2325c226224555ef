"""
Compares what was answered with what has arrived.

A POST answered 200 is an obligation: each of its messages has to arrive. One that was
refused before any of it was begun is another: none may arrive, ever.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from attrs import define, field, frozen

from tests.faults import messages
from tests.faults.messages import Altered, Name


@define(eq=False)
class Post:
    """
    One POST, sent once.

    @ivar code: the status of its answer; None without one.
    @ivar answered_at: when the answer came, or the connection ended.
    @ivar whole: whether the body was sent to its end.
    @ivar why_unanswered: how the connection ended instead.
    """

    request_id: str
    names: list[Name]
    sent_at: float
    code: int | None = None
    answered_at: float | None = None
    whole: bool = True
    why_unanswered: str = ""


@define
class Arrivals:
    """What has arrived, in the course of one run."""

    run: str
    times: Counter[Name] = field(factory=Counter)
    duplicate_bytes: int = 0
    altered: int = 0
    foreign: int = 0

    def take(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            try:
                run, name = messages.read(frame)
            except Altered:
                self.altered += 1
                continue
            if run != self.run:
                self.foreign += 1
                continue
            self.times[name] += 1
            if self.times[name] > 1:
                self.duplicate_bytes += len(frame)


@frozen
class Counts:
    """Messages, by what became of them."""

    sent: int = 0
    accepted: int = 0
    refused: int = 0
    unanswered: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    altered: int = 0
    unknown: int = 0
    withdrawn: int = 0
    withdrawn_arrived: int = 0


@define
class Ledger:
    """All POSTs of a run."""

    posts: list[Post] = field(factory=list)

    def sent(self) -> int:
        return sum(len(post.names) for post in list(self.posts))

    def answered(self, code: int) -> Iterator[Post]:
        return (post for post in list(self.posts) if post.code == code)

    def missing(self, arrivals: Arrivals) -> int:
        """How many messages were answered 200 and have not arrived."""
        times = arrivals.times
        owed = {name for post in self.answered(200) for name in post.names}
        return sum(name not in times for name in owed)

    def recovered_at(self, since: float) -> float | None:
        """When the first POST sent after `since` was answered 200."""
        answers = [
            post.answered_at
            for post in self.answered(200)
            if post.sent_at >= since and post.answered_at is not None
        ]
        return min(answers, default=None)

    def slowest_seconds(self) -> float:
        """The longest that an answer has taken."""
        waits = [
            post.answered_at - post.sent_at
            for post in list(self.posts)
            if post.code is not None and post.answered_at is not None
        ]
        return max(waits, default=0.0)

    def counts(self, arrivals: Arrivals, begun: Collection[str]) -> Counts:
        """
        @param begun: the request ids of POSTs that failed after something of them
            had been written.
        """
        times = arrivals.times
        known: set[Name] = set()
        by_outcome: Counter[str] = Counter()
        withdrawn: set[Name] = set()
        for post in self.posts:
            known.update(post.names)
            by_outcome[_outcome(post)] += len(post.names)
            if _is_withdrawn(post, begun):
                withdrawn.update(post.names)
        # A retry may have been delivered in place of the first try.
        withdrawn.difference_update(
            name
            for post in self.posts
            if not _is_withdrawn(post, begun)
            for name in post.names
        )
        return Counts(
            sent=sum(by_outcome.values()),
            accepted=by_outcome["accepted"],
            refused=by_outcome["refused"],
            unanswered=by_outcome["unanswered"],
            delivered=sum(name in known for name in times),
            lost=self.missing(arrivals),
            duplicated=sum(count - 1 for name, count in times.items()),
            altered=arrivals.altered,
            unknown=arrivals.foreign + sum(name not in known for name in times),
            withdrawn=len(withdrawn),
            withdrawn_arrived=sum(name in times for name in withdrawn),
        )


def _outcome(post: Post) -> str:
    if post.code is None:
        return "unanswered"
    return "accepted" if post.code == 200 else "refused"


def _is_withdrawn(post: Post, begun: Collection[str]) -> bool:
    """Whether nothing of it may ever arrive."""
    if not post.whole:
        return True
    return post.code not in (None, 200) and post.request_id not in begun
