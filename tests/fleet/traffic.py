"""
Drains that post through the HAProxy, and what became of it.

Most keep their connection, some make one for each post. A post that is answered 5xx or
not at all is posted again, with the same frame id, three times in all; only then it is
given up.
"""

import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable

from attrs import Factory, define, frozen

from tests.faults.ledger import Arrivals, Ledger, Post
from tests.faults.load import PATIENCE_SECONDS, Client, Poster, request

TRIES = 3
#: Every so many posts one does not fit into a buffer of HAProxy.
LARGE_EVERY = 5
MESSAGES, MESSAGES_LARGE = 20, 300
#: What a client says of itself must not arrive.
_FORGED = "203.0.113.66"
_AGAIN_SECONDS = 0.1
_QUIET_SECONDS = 0.6
_SETTLE_SECONDS = 20.0


@frozen
class Shape:
    """
    @ivar keeping: drains that keep their connection.
    @ivar connecting: those that make one for each post.
    @ivar pause_seconds: of each drain between two posts.
    """

    keeping: int = 8
    connecting: int = 2
    pause_seconds: float = 0.04

    @property
    def drains(self) -> int:
        """How many post at the same time."""
        return self.keeping + self.connecting


@define
class Outcome:
    """
    What became of the posts of a round.

    @ivar answers: tries by their status; None is no answer.
    @ivar refused: connections that were refused.
    @ivar broken: connections that HAProxy has ended and a drain had to make anew.
    @ivar given_up: batches that were not answered 200 in three tries.
    @ivar tried_again: tries that HAProxy made again at another server.
    @ivar lost: messages that were answered 200 and have not arrived.
    @ivar again: messages that have arrived more than once, each time behind the first.
    """

    name: str
    messages: int = 0
    answers: Counter[int | None] = Factory(Counter)
    refused: int = 0
    broken: int = 0
    given_up: int = 0
    tried_again: int = 0
    lost: int = 0
    again: int = 0
    altered: int = 0
    slowest_seconds: float = 0.0
    why_unanswered: list[str] = Factory(list)

    @property
    def tries(self) -> int:
        return self.answers.total()

    @property
    def failed(self) -> int:
        return sum(n for code, n in self.answers.items() if code and code >= 500)

    def problems(self, is_quiet: bool) -> list[str]:
        """
        What must not be, whatever was done.

        @param is_quiet: nobody may have noticed it: each post was answered 200 at its
            first try, over connections that have stayed, and has arrived once.
        """
        never = {
            "no post was answered 200": int(not self.answers[200]),
            "messages answered 200 and lost": self.lost,
            "messages altered": self.altered,
        }
        if is_quiet:
            never |= {
                "posts not answered 200": self.tries - self.answers[200],
                "connections refused": self.refused,
                "connections broken": self.broken,
                "posts that HAProxy tried again": self.tried_again,
                "messages arrived again": self.again,
            }
        return [f"{count} {what}" for what, count in never.items() if count]


class _Drain:
    """One drain, in a thread of its own."""

    def __init__(
        self,
        port: int,
        poster: Poster,
        shape: Shape,
        keeps: bool,
        stop: threading.Event,
    ) -> None:
        self._client = Client(port)
        self._poster = poster
        self._shape = shape
        self._keeps = keeps
        self._stop = stop
        self._numbers = itertools.count()
        self.made = self.refused = self.given_up = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def broken(self) -> int:
        """How many connections it has had to make, beyond the one that it keeps."""
        return max(0, self.made - 1) if self._keeps else 0

    def _run(self) -> None:
        while not self._stop.wait(self._shape.pause_seconds):
            is_large = next(self._numbers) % LARGE_EVERY == 0
            self._deliver(MESSAGES_LARGE if is_large else MESSAGES)
        self._client.close()

    def _deliver(self, count: int) -> None:
        post, body = self._poster.new(count)
        for _ in range(TRIES):
            if self._try(post, body) == 200:
                return
            post = Post(post.request_id, post.names, 0.0)
            time.sleep(_AGAIN_SECONDS)
        self.given_up += 1

    def _try(self, post: Post, body: bytes) -> int | None:
        frame_id = hashlib.md5(post.request_id.encode(), usedforsecurity=False)
        octets = request(
            post,
            body,
            Logplex_Frame_Id=frame_id.hexdigest(),
            X_Forwarded_For=_FORGED,
        )
        try:
            self.made += self._client.connect()
        except OSError:
            self.refused += 1
            return None
        self._poster.post(self._client, post, octets)
        if not self._keeps:
            self._client.close()
        return post.code


class Traffic:
    """
    Posts from when it is made until it is stopped.

    @param poster: makes one for each drain.
    """

    def __init__(
        self, port: int, shape: Shape, ledger: Ledger, poster: Callable[[], Poster]
    ) -> None:
        self.ledger = ledger
        self._stop = threading.Event()
        self._drains = [
            _Drain(port, poster(), shape, number < shape.keeping, self._stop)
            for number in range(shape.drains)
        ]

    def stop(self) -> None:
        self._stop.set()
        for drain in self._drains:
            drain.thread.join(TRIES * (PATIENCE_SECONDS + 1))
            assert not drain.thread.is_alive(), "a drain does not end"

    def fill_in(self, outcome: Outcome, arrivals: Arrivals) -> None:
        """What became of it, once it is stopped and everything has arrived."""
        posts, drains = self.ledger.posts, self._drains
        names = {name for post in posts for name in post.names}
        outcome.messages = len(names)
        outcome.answers = Counter(post.code for post in posts)
        outcome.refused = sum(drain.refused for drain in drains)
        outcome.broken = sum(drain.broken for drain in drains)
        outcome.given_up = sum(drain.given_up for drain in drains)
        outcome.lost = self.ledger.missing(arrivals)
        outcome.again = sum(max(0, arrivals.times[one] - 1) for one in names)
        outcome.altered = arrivals.altered + arrivals.foreign
        outcome.slowest_seconds = self.ledger.slowest_seconds()
        outcome.why_unanswered = [p.why_unanswered for p in posts if p.code is None]


def settle(arrivals: Arrivals, read: Callable[[], None]) -> None:
    """Wait until all that is owed has arrived, and nothing arrives any more."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    total, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        read()
        now = arrivals.times.total()
        if now != total:
            total, since = now, time.monotonic()
        elif time.monotonic() - since > _QUIET_SECONDS:
            return
        time.sleep(0.05)
