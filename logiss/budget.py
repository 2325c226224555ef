"""
Holds the process to so many bytes of bodies: what a post needs waits here for room.

Posts that are complete are served first come, first served. A part of the limit is kept
free for them, and for what they become when they are rewritten: however much of bodies
without an end there is, those that only have to be delivered find room.

Of bodies that are still being read those that began to wait first are ahead. Each has
headroom for a whole body above all that came behind it, so that some come to their end
instead of all getting halfway: a line in which everybody is given a bit would fill
everything with beginnings.
"""

import heapq
from collections.abc import Callable
from itertools import count, islice

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

# Of the limit, what is kept free of bodies that are being read: at least this, and two
# of the largest bodies, but no more than half.
_KEPT_FREE_MIN, _KEPT_FREE_BODIES, _KEPT_FREE_MAX = 1 / 8, 2, 1 / 2
# Of what they may have, where it becomes tight, until when it is so, and from where on
# no body is begun.
_TIGHT_UNTIL, _TIGHT_FROM, _BEGUN_UNTIL = 1 / 4, 3 / 8, 1 / 2
#: So much has been given back since `Budget.on_given_back` was called.
GIVEN_BACK_BYTES = 8 * 1024 * 1024


class NoRoom(Exception):
    """No room was found in time."""


class Budget:
    """
    @param limit_bytes: of everything reserved and not released.
    @param body_bytes: how large a body may be.
    @ivar refusals: how often no room was found in time.
    @ivar on_tight: called with True when it becomes tight, with False when it is so no
        longer: time to read less at once, or more again.
    @ivar on_given_back: called when much was given back while it was tight.
    """

    def __init__(
        self, clock: IReactorTime, limit_bytes: int, body_bytes: int = 0
    ) -> None:
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._body_bytes = body_bytes
        kept_free = max(limit_bytes * _KEPT_FREE_MIN, _KEPT_FREE_BODIES * body_bytes)
        kept_free = min(kept_free, limit_bytes * _KEPT_FREE_MAX)
        self._reading_bytes = int(limit_bytes - kept_free)
        self._tight_until_bytes = int(self._reading_bytes * _TIGHT_UNTIL)
        self._tight_from_bytes = int(self._reading_bytes * _TIGHT_FROM)
        self._begun_bytes = int(self._reading_bytes * _BEGUN_UNTIL)
        self._is_tight = False
        self._reserved_bytes = 0
        self._given_back_bytes = 0
        self.refusals = 0
        self._complete = _Line()
        self._reading = _ReadingLine()
        self._admitting = False
        self.on_tight: Callable[[bool], None] = lambda is_tight: None
        self.on_given_back: Callable[[], None] = lambda: None

    @property
    def reserved_bytes(self) -> int:
        return self._reserved_bytes

    @property
    def limit_bytes(self) -> int:
        return self._limit_bytes

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._complete.waiters) + len(self._reading.waiters)

    @property
    def is_tight(self) -> bool:
        """Whether to read less at once."""
        return self._is_tight

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes could be reserved now, without a wait."""
        return (
            not self._complete.waiters
            and self._reserved_bytes + size <= self._limit_bytes
        )

    def try_reserve(self, size: int) -> bool:
        """Reserve `size` bytes if there is room now and nobody waits for it."""
        if self._complete.waiters or self._reserved_bytes + size > self._limit_bytes:
            return False
        self._add(size)
        return True

    def reserve(
        self, size: int, within_seconds: float, held_bytes: int = 0
    ) -> Deferred[None]:
        """
        Reserve `size` bytes for a complete body as soon as there is room for them, or
        nobody else has any: whoever is alone is never kept waiting.

        @param held_bytes: what is reserved already by who asks.
        @return: fires when they are reserved; fails with `NoRoom`. Cancelling it
            gives the place in the line up.
        """
        waiter: Deferred[None] = Deferred(self._given_up)
        timer = self._clock.callLater(within_seconds, self._too_late, waiter)
        self._complete.waiters[waiter] = size, held_bytes, timer
        self._admit()
        return waiter

    # bodies that are being read

    def hold(self, size: int) -> bool:
        """
        Count `size` bytes of a body being read that are there already.

        @return: whether there is room to read more of it; else `reserve_next` first.
        """
        reserved = self._reserved_bytes = self._reserved_bytes + size
        if reserved > self._tight_from_bytes and not self._is_tight:
            self._tighten()
        return reserved <= self._begun_bytes and not self._reading.waiters

    def reserve_next(
        self, body: object, size: int, within_seconds: float, held_bytes: int
    ) -> Deferred[None]:
        """
        Reserve the next `size` bytes of `body`, as `reserve` does. It has its place
        ahead of those that come later until it has `left`.
        """
        waiter: Deferred[None] = Deferred(self._given_up)
        timer = self._clock.callLater(within_seconds, self._too_late, waiter)
        self._reading.add(body, waiter, (size, held_bytes, timer))
        self._admit()
        return waiter

    def left(self, body: object) -> None:
        """`body` is complete, or will never be."""
        self._reading.places.pop(body, None)

    def release(self, size: int) -> None:
        """Give `size` reserved bytes back."""
        self._reserved_bytes -= size
        assert self._reserved_bytes >= 0, "more bytes released than reserved"
        if self._is_tight:
            self._given_back(size)
        if self._complete.waiters or self._reading.waiters:
            self._admit()

    def adjust(self, size: int, to: int) -> None:
        """What was reserved for `size` has become `to` bytes."""
        if to > size:
            self._add(to - size)
        elif to < size:
            self.release(size - to)

    def _add(self, size: int) -> None:
        self._reserved_bytes += size
        if self._reserved_bytes > self._tight_from_bytes and not self._is_tight:
            self._tighten()

    def _tighten(self) -> None:
        self._is_tight = True
        self.on_tight(True)

    def _given_back(self, size: int) -> None:
        self._given_back_bytes += size
        is_over = self._reserved_bytes <= self._tight_until_bytes
        if is_over or self._given_back_bytes >= GIVEN_BACK_BYTES:
            self._given_back_bytes = 0
            self.on_given_back()
        if is_over:
            self._is_tight = False
            self.on_tight(False)

    # who waits

    def _admit(self) -> None:
        # Who is admitted may release at once, which calls this again: as a loop,
        # not as deep as the line is long.
        if self._admitting:
            return
        self._admitting = True
        try:
            while self._admit_complete() or (
                not self._complete.waiters and self._admit_reading()
            ):
                pass
        finally:
            self._admitting = False

    def _admit_complete(self) -> bool:
        """Admit the first that is complete, or who is alone, if there is room."""
        waiters = self._complete.waiters
        for waiter, (size, _, _) in waiters.items():
            if self._reserved_bytes + size <= self._limit_bytes:
                self._admit_one(self._complete, waiter)
                return True
            break
        for waiter, (_, held_bytes, _) in waiters.items():
            if held_bytes == self._reserved_bytes:
                self._admit_one(self._complete, waiter)
                return True
        return False

    def _admit_reading(self) -> bool:
        """Admit the body that is ahead of the others, if there is room for it."""
        waiter = self._reading.first()
        if waiter is None:
            return False
        size, held_bytes, _ = self._reading.waiters[waiter]
        is_alone = held_bytes == self._reserved_bytes
        if self._reserved_bytes + size > self._most_for(waiter) and not is_alone:
            return False
        self._admit_one(self._reading, waiter)
        return True

    def _most_for(self, waiter: Deferred[None]) -> int:
        """Up to where there is room for a body: less with each that is ahead of it."""
        steps = self._reading_bytes // 2 // max(self._body_bytes, 1)
        rank = self._reading.rank(waiter, steps)
        return max(self._begun_bytes, self._reading_bytes - rank * self._body_bytes)

    def _admit_one(self, line: "_Line", waiter: Deferred[None]) -> None:
        size, _, timer = line.waiters.pop(waiter)
        timer.cancel()
        self._add(size)
        waiter.callback(None)

    def _too_late(self, waiter: Deferred[None]) -> None:
        self._forget(waiter)
        self.refusals += 1
        waiter.errback(NoRoom("no room in the memory budget"))
        self._admit()

    def _given_up(self, waiter: Deferred[None]) -> None:
        self._forget(waiter)
        self._admit()

    def _forget(self, waiter: Deferred[None]) -> None:
        for line in (self._complete, self._reading):
            entry = line.waiters.pop(waiter, None)
            if entry is not None and entry[-1].active():
                entry[-1].cancel()


class _Line:
    """
    @ivar waiters: what each has to have, what it has, and when it will be too late.
    """

    def __init__(self) -> None:
        self.waiters: dict[Deferred[None], tuple[int, int, IDelayedCall]] = {}


class _ReadingLine(_Line):
    """
    @ivar places: of all that have had to wait and have not left, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[object, int] = {}
        self._numbers = count()
        # Place, a number that no other entry has, and who waits; also who did.
        self._ahead: list[tuple[int, int, Deferred[None]]] = []

    def add(
        self,
        body: object,
        waiter: Deferred[None],
        entry: tuple[int, int, IDelayedCall],
    ) -> None:
        place = self.places.get(body)
        if place is None:
            place = self.places[body] = next(self._numbers)
        self.waiters[waiter] = entry
        heapq.heappush(self._ahead, (place, next(self._numbers), waiter))

    def first(self) -> Deferred[None] | None:
        """Who is ahead of all that wait."""
        while self._ahead:
            waiter = self._ahead[0][-1]
            if waiter in self.waiters:
                return waiter
            heapq.heappop(self._ahead)
        return None

    def rank(self, waiter: Deferred[None], most: int) -> int:
        """How many are ahead of `waiter`, who is `first`; `most` if there are more."""
        place = self._ahead[0][0]
        for rank, other in enumerate(islice(self.places.values(), most)):
            if other >= place:
                return rank
        return most
