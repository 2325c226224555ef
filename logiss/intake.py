"""
Takes a body as it arrives: counts it, inflates it, and has its reading wait for room.

What is there is counted at once, as it is: wire bytes of a plain body, what has come
out of a gzip one. When there is no room for more the channel stops reading, and a gzip
body is not inflated further, until there is.
"""

from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from logiss.budget import Budget
from logiss.frames import BodyTooLarge
from logiss.inflate import PIECE_BYTES, InflateLimits, Inflater


class Arriving(Protocol):
    """
    A post whose body is arriving.

    @ivar credit_bytes: reserved for what of it comes next.
    @ivar inflater: where it is gzip.
    @ivar is_complete: whether all of it has come.
    @ivar reserved_bytes: what is reserved for it.
    @ivar waiting: for room.
    @ivar waiting_since: when it began to wait the last time; None when it never did.
    @ivar waited_seconds: before that.
    """

    request: Any
    credit_bytes: int
    inflater: Inflater | None
    is_complete: bool
    reserved_bytes: int
    waited_seconds: float
    waiting: Deferred[None] | None
    waiting_since: float | None


class Intake:
    """
    @param max_body_bytes: on the wire.
    @param wait_seconds: how long a body may wait for room, all in all.
    @param on_read: called with a post whose body `end` had to wait for.
    @param on_failed: called with why a post that waited cannot go on.
    """

    def __init__(
        self,
        budget: Budget,
        seconds: Callable[[], float],
        max_body_bytes: int,
        limits: InflateLimits,
        wait_seconds: float,
        on_read: Callable[[Any], None],
        on_failed: Callable[[Failure, Any], None],
    ) -> None:
        self._budget = budget
        self._seconds = seconds
        self._max_body_bytes = max_body_bytes
        self._limits = limits
        self._wait_seconds = wait_seconds
        self._on_read = on_read
        self._on_failed = on_failed

    def inflater(self, length: int | None) -> Inflater:
        """
        For a gzip body.

        @param length: on the wire, if it is known.
        """
        return Inflater(self._limits, length)

    def take(self, post: Arriving, octets: bytes) -> None:
        """
        Take more of the body of `post`, that has come.

        @raise BodyTooLarge: on the wire.
        @raise InflatedTooLarge: size or ratio is over its limit.
        @raise BrokenGzip: says what is wrong with the body.
        """
        if post.request.size > self._max_body_bytes:
            raise BodyTooLarge(f"more than {self._max_body_bytes} bytes on the wire")
        if post.inflater is not None:
            post.inflater.feed(octets)
            self._inflate(post, post.inflater)
        else:
            post.request.add_chunk(octets)
            if post.credit_bytes:
                self._give_back_credit(post)
            post.reserved_bytes += len(octets)
            if not self._budget.hold(len(octets)):
                self._wait(post)

    def end(self, post: Arriving) -> bool:
        """
        All of the body has come.

        @return: whether it is inflated, too; else `on_read` is called when it is.
        @raise BrokenGzip: says what is wrong with the body.
        @raise InflatedTooLarge: its ratio is over its limit.
        """
        post.is_complete = True
        if post.waiting is None:
            if post.waiting_since is not None:
                self._leave(post)
            if post.inflater is not None and post.request.size:
                post.inflater.end()
            return True
        if post.inflater is not None:
            return False
        # What it has waited for it does not need any more.
        self.stop(post)
        return True

    def stop(self, post: Arriving) -> None:
        """`post` waits for room no longer, and gives back what it has not used."""
        waiting, post.waiting = post.waiting, None
        if waiting is not None:
            waiting.cancel()
        self._leave(post)

    def _leave(self, post: Arriving) -> None:
        if post.waiting_since is not None:
            self._budget.left(post)
            self._give_back_credit(post)

    def _inflate(self, post: Arriving, inflater: Inflater) -> None:
        while post.waiting is None:
            if not post.credit_bytes and not self._budget.hold(0):
                self._wait(post)
                continue
            piece = inflater.read()
            if not piece:
                return
            post.request.add_chunk(piece)
            self._give_back_credit(post)
            post.reserved_bytes += len(piece)
            self._budget.hold(len(piece))

    def _give_back_credit(self, post: Arriving) -> None:
        credit, post.credit_bytes = post.credit_bytes, 0
        if credit:
            self._budget.release(credit)

    def _wait(self, post: Arriving) -> None:
        post.waiting_since = self._seconds()
        may_wait_seconds = max(0.0, self._wait_seconds - post.waited_seconds)
        waiting = self._budget.reserve_next(
            post, PIECE_BYTES, may_wait_seconds, post.reserved_bytes
        )
        if waiting.called:
            post.credit_bytes = PIECE_BYTES
            return
        post.waiting = waiting
        post.request.pause_reading()
        waiting.addCallbacks(
            self._found_room, self._failed, (post,), errbackArgs=(post,)
        )

    def _found_room(self, _: None, post: Arriving) -> None:
        post.waiting = None
        post.credit_bytes = PIECE_BYTES
        assert post.waiting_since is not None
        post.waited_seconds += self._seconds() - post.waiting_since
        try:
            if post.inflater is not None:
                self._inflate(post, post.inflater)
            if post.waiting is not None:
                return
            if not post.is_complete:
                post.request.resume_reading()
                return
            self.end(post)
        except Exception:
            self._on_failed(Failure(), post)
            return
        self._on_read(post)

    def _failed(self, reason: Failure, post: Arriving) -> None:
        if post.waiting is not None:
            post.waiting = None
            self._leave(post)
            self._on_failed(reason, post)


class KeptArriving(Arriving, Protocol):
    """
    A post whose body is kept as it came.

    @ivar kept: what of it was taken, where that is not what `request` holds.
    """

    kept: bytes | bytearray | None


class KeepingIntake(Intake):
    """Keeps a gzip body as it came beside what it inflates to, and counts both."""

    def take(self, post: Arriving, octets: bytes) -> None:
        if post.inflater is not None:
            self._keep(cast(KeptArriving, post), octets)
        super().take(post, octets)

    def _keep(self, post: KeptArriving, octets: bytes) -> None:
        # One block: a byte in an object of its own would cost dozens.
        kept = post.kept if isinstance(post.kept, bytearray) else bytearray()
        kept += octets
        post.kept = kept
        post.reserved_bytes += len(octets)
        self._budget.hold(len(octets))
