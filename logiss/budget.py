"""
Holds the process to so many bytes of bodies: what a post needs waits here for room,
first come first served.

Bodies that are still being read are stopped a little earlier than those that are
complete: however much of bodies without an end there is, posts that only have to be
delivered find room.
"""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

# Of the limit, what is kept free of bodies that are still being read.
_KEPT_FREE = 1 / 8
# Of the limit, from where on it is tight, and until when it is so.
_TIGHT_FROM, _TIGHT_UNTIL = 1 / 2, 3 / 8


class NoRoom(Exception):
    """No room was found in time."""


class _Line:
    """
    @ivar most_bytes: up to which there is room for those who wait in it.
    @ivar waiters: first come, first served. What each has to have, what it has, and
        when it will be too late.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.waiters: dict[Deferred[None], tuple[int, int, IDelayedCall]] = {}


class Budget:
    """
    @param limit_bytes: of everything reserved and not released.
    @ivar on_tight: called with True when half of it is taken, with False when it is
        well below that again: time to read less at once.
    """

    def __init__(self, clock: IReactorTime, limit_bytes: int) -> None:
        self._clock = clock
        self.limit_bytes = limit_bytes
        self._tight_from_bytes = int(limit_bytes * _TIGHT_FROM)
        self._tight_until_bytes = int(limit_bytes * _TIGHT_UNTIL)
        self._is_tight = False
        self._reserved_bytes = 0
        self._complete = _Line(self.limit_bytes)
        self._reading = _Line(int(self.limit_bytes * (1 - _KEPT_FREE)))
        self._admitting = False
        self.on_tight: Callable[[bool], None] = lambda is_tight: None

    @property
    def reserved_bytes(self) -> int:
        return self._reserved_bytes

    @property
    def is_tight(self) -> bool:
        """Whether to read less at once."""
        return self._is_tight

    def try_reserve(self, size: int) -> bool:
        """Reserve `size` bytes if there is room now and nobody waits for it."""
        if self._complete.waiters or self._reserved_bytes + size > self.limit_bytes:
            return False
        self._add(size)
        return True

    def hold(self, size: int) -> bool:
        """
        Count `size` bytes of a body being read that are there already.

        @return: whether there is room to read more of it; else `reserve` it first.
        """
        self._add(size)
        return (
            self._reserved_bytes <= self._reading.most_bytes
            and not self._complete.waiters
            and not self._reading.waiters
        )

    def reserve(
        self,
        size: int,
        within_seconds: float,
        held_bytes: int = 0,
        is_reading: bool = False,
    ) -> Deferred[None]:
        """
        Reserve `size` bytes as soon as there is room for them, or nobody else has
        any: whoever is alone is never kept waiting.

        @param held_bytes: what is reserved already by who asks.
        @param is_reading: they are for a body that is still being read, and come
            behind those of bodies that are complete.
        @return: fires when they are reserved; fails with `NoRoom`. Cancelling it
            gives the place in the line up.
        """
        line = self._reading if is_reading else self._complete
        waiter: Deferred[None] = Deferred(self._given_up)
        timer = self._clock.callLater(within_seconds, self._too_late, waiter)
        line.waiters[waiter] = size, held_bytes, timer
        self._admit()
        return waiter

    def release(self, size: int) -> None:
        """Give `size` reserved bytes back."""
        self._reserved_bytes -= size
        assert self._reserved_bytes >= 0, "more bytes released than reserved"
        if self._is_tight and self._reserved_bytes <= self._tight_until_bytes:
            self._is_tight = False
            self.on_tight(False)
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
            self._is_tight = True
            self.on_tight(True)

    def _admit(self) -> None:
        # Who is admitted may release at once, which calls this again: as a loop,
        # not as deep as the line is long.
        if self._admitting:
            return
        self._admitting = True
        try:
            while (
                self._admit_first(self._complete)
                or (not self._complete.waiters and self._admit_first(self._reading))
                or self._admit_who_is_alone()
            ):
                pass
        finally:
            self._admitting = False

    def _admit_first(self, line: _Line) -> bool:
        """Admit who is first in `line`, if anybody is and there is room."""
        for waiter, (size, _, _) in line.waiters.items():
            if self._reserved_bytes + size > line.most_bytes:
                return False
            self._admit_one(line, waiter)
            return True
        return False

    def _admit_who_is_alone(self) -> bool:
        """Admit who has all that is reserved: the others wait for him."""
        for line in (self._complete, self._reading):
            for waiter, (_, held_bytes, _) in line.waiters.items():
                if held_bytes == self._reserved_bytes:
                    self._admit_one(line, waiter)
                    return True
        return False

    def _admit_one(self, line: _Line, waiter: Deferred[None]) -> None:
        size, _, timer = line.waiters.pop(waiter)
        timer.cancel()
        self._add(size)
        waiter.callback(None)

    def _too_late(self, waiter: Deferred[None]) -> None:
        self._forget(waiter)
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
