"""
Delivers posts, several at once, each with retries until it is answered for good.

A retry is the same post: body, frame id, request id. So a receiver that has got the
first is able to tell (``Logplex-Frame-Id``).
"""

from collections import deque
from collections.abc import Callable
from random import Random

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from logiss.tally import Fate, Outcome
from logiss.words import text

#: The pause before the first retry, in seconds; each further one is twice as long.
PAUSE_SECONDS = 0.2
PAUSE_SECONDS_MAX = 5.0
#: A server that wants to be left alone for longer is asked again nevertheless.
RETRY_AFTER_SECONDS_MAX = 30.0
#: So many wait behind those that are under way.
WAITING_MAX = 2
#: So much of an answer is told.
DETAIL_MAX = 200


@frozen
class Post:
    """
    @ivar fields: header fields of its own.
    @ivar query: in place of that of the URL, if it has its own.
    """

    body: bytes
    messages: int
    fields: tuple[tuple[str, bytes], ...] = ()
    query: str | None = None


@frozen
class Answer:
    """
    @ivar line: the first of its body.
    @ivar retry_after_seconds: what it asks for.
    @ivar is_logiss: whether it says that it is from one.
    """

    code: int
    line: bytes = b""
    retry_after_seconds: float | None = None
    is_duplicate: bool = False
    is_logiss: bool = False

    @property
    def is_delivered(self) -> bool:
        return 200 <= self.code <= 299

    @property
    def is_retried(self) -> bool:
        return self.code == 429 or 500 <= self.code <= 599

    @property
    def may_have_arrived(self) -> bool:
        """
        A logiss says with 503 that nothing was begun, with another 5xx it does not
        (504). Others, such as a router before it, say it with none.
        """
        is_begun = self.code != 503 or not self.is_logiss
        return 500 <= self.code <= 599 and is_begun

    @property
    def kind(self) -> str:
        return f"answered {self.code}"

    @property
    def doubt(self) -> str:
        """
        What to say of a success that may be none; nothing where there is no doubt.
        log-iss does not say what it is either.
        """
        if self.is_logiss or not self.is_delivered:
            return ""
        return (
            f"answered {self.code} without Logiss-Delivery: it may be no logiss"
            " that takes this, and delivers nothing; see that the URL is right"
        )

    @property
    def detail(self) -> str:
        """Its line between quotation marks, without anything that does not print."""
        told = text(self.line, DETAIL_MAX).replace('"', "'").strip()
        return f'"{told}"' if told else ""


class NoAnswer(Exception):
    """
    There was none. Its text says why, in the same words each time.

    @ivar may_have_arrived: the post, or some of it, had been written.
    @ivar is_retried: it may be better the next time.
    """

    def __init__(
        self, why: str, may_have_arrived: bool, is_retried: bool = True
    ) -> None:
        super().__init__(why)
        self.may_have_arrived = may_have_arrived
        self.is_retried = is_retried
        self.retry_after_seconds: float | None = None
        self.is_delivered = False
        self.kind = why
        self.detail = ""


def pause_seconds(retry: int, asked_seconds: float | None, jitter: float) -> float:
    """
    How long to wait before the retry of that number, from 0 on.

    @param asked_seconds: what the server has asked for, if it did.
    @param jitter: from 0 to 1; many senders do not come back at the same moment.
    """
    longest = min(PAUSE_SECONDS * 2.0 ** min(retry, 30), PAUSE_SECONDS_MAX)
    pause = longest * (0.5 + 0.5 * jitter)
    asked = min(asked_seconds or 0.0, RETRY_AFTER_SECONDS_MAX)
    return max(pause, asked)


class Submitter:
    """
    @param send: posts once.
    @param connections: how many posts are under way at once.
    @param retry_seconds: how long after its beginning a post is tried again.
    @param on_retry: called with the reason for it.
    @param on_end: called with each post and what became of it, once.
    """

    def __init__(
        self,
        clock: IReactorTime,
        send: Callable[[Post], Deferred[Answer]],
        connections: int,
        retry_seconds: float,
        on_retry: Callable[[str], object],
        on_end: Callable[[Post, Outcome, Answer | None], object],
        random: Random,
    ) -> None:
        self._clock = clock
        self._send = send
        self._connections = connections
        self._retry_seconds = retry_seconds
        self._on_retry = on_retry
        self._on_end = on_end
        self._random = random
        self._waiting: deque[Post] = deque()
        self._under_way: set[Deferred[None]] = set()
        self._room: Deferred[None] | None = None
        self._idle: Deferred[None] | None = None
        self._aborted = ""

    # what is to be sent

    def submit(self, post: Post) -> None:
        """Send it when there is a connection for it."""
        if self._aborted:
            self._end(post, Outcome(Fate.LOST, self._aborted))
            return
        self._waiting.append(post)
        self._begin()

    @property
    def has_room(self) -> bool:
        """Whether to submit more, or to wait with it."""
        return len(self._waiting) < WAITING_MAX or bool(self._aborted)

    def room(self) -> Deferred[None]:
        """Fires when there is room; one waits at a time."""
        waiter = self._room = Deferred()
        self._wake()
        return waiter

    def idle(self) -> Deferred[None]:
        """Fires when nothing is under way."""
        waiter = self._idle = Deferred()
        self._wake()
        return waiter

    def release(self) -> None:
        """Whoever waits for room has to wait no longer."""
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def abort(self, why: str) -> None:
        """Begin nothing more, and wait for no answer."""
        self._aborted = why
        while self._waiting:
            self._end(self._waiting.popleft(), Outcome(Fate.LOST, why))
        for running in list(self._under_way):
            running.cancel()
        self._wake()

    # one post

    def _begin(self) -> None:
        while self._waiting and len(self._under_way) < self._connections:
            self._run(self._waiting.popleft())

    def _run(self, post: Post) -> None:
        running = Deferred.fromCoroutine(self._deliver(post))
        self._under_way.add(running)

        def ended(result: object) -> object:
            self._under_way.discard(running)
            self._begin()
            self._wake()
            return result

        running.addBoth(ended)

    def _wake(self) -> None:
        if self.has_room:
            self.release()
        if not self._under_way and not self._waiting and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    async def _deliver(self, post: Post) -> None:
        began, retry, may_have_arrived = self._clock.seconds(), 0, False
        while True:
            tried = await self._try(post)
            if isinstance(tried, Answer) and tried.is_delivered:
                outcome = Outcome(Fate.DELIVERED, is_duplicate=tried.is_duplicate)
                break
            may_have_arrived |= tried.may_have_arrived
            fate = Fate.UNKNOWN if may_have_arrived else Fate.LOST
            outcome = Outcome(fate, tried.kind, tried.detail)
            pause = pause_seconds(
                retry, tried.retry_after_seconds, self._random.random()
            )
            until = self._clock.seconds() + pause - began
            if not tried.is_retried or until > self._retry_seconds or self._aborted:
                break
            self._on_retry(" ".join(filter(None, (tried.kind, tried.detail))))
            if not await self._pause(pause):
                break
            retry += 1
        self._end(post, outcome, tried if isinstance(tried, Answer) else None)

    async def _try(self, post: Post) -> Answer | NoAnswer:
        try:
            return await self._send(post)
        except NoAnswer as e:
            return e
        except CancelledError:
            return NoAnswer(self._aborted, may_have_arrived=True, is_retried=False)

    async def _pause(self, seconds: float) -> bool:
        """Whether it has not been cut short."""
        waiting: Deferred[None] = Deferred()
        call = self._clock.callLater(seconds, waiting.callback, None)
        try:
            await waiting
        except CancelledError:
            call.cancel()
            return False
        return True

    def _end(self, post: Post, outcome: Outcome, answer: Answer | None = None) -> None:
        self._on_end(post, outcome, answer)
