"""
Holds the process to so many bytes of bodies: a post waits here for room, first
come first served.
"""

from collections import deque

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime


class NoRoom(Exception):
    """No room was found in time."""


class Budget:
    """
    @param limit_bytes: of everything reserved and not released.
    """

    def __init__(self, clock: IReactorTime, limit_bytes: int) -> None:
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._reserved_bytes = 0
        self._waiting: deque[tuple[int, Deferred[None], IDelayedCall]] = deque()
        self._admitting = False

    @property
    def reserved_bytes(self) -> int:
        return self._reserved_bytes

    def try_reserve(self, size: int) -> bool:
        """Reserve `size` bytes if there is room now and nobody waits for it."""
        if self._waiting or not self._has_room(size):
            return False
        self._reserved_bytes += size
        return True

    def reserve(self, size: int, within_seconds: float) -> Deferred[None]:
        """
        Reserve `size` bytes as soon as there is room for them.

        @return: fires when they are reserved; fails with `NoRoom`. Cancelling it
            gives the place in the line up.
        """
        if self.try_reserve(size):
            return succeed(None)
        if size > self._limit_bytes:
            return fail(NoRoom(f"{size} bytes never fit in {self._limit_bytes}"))
        waiter: Deferred[None] = Deferred(self._given_up)
        timer = self._clock.callLater(within_seconds, self._too_late, waiter)
        self._waiting.append((size, waiter, timer))
        return waiter

    def release(self, size: int) -> None:
        """Give `size` reserved bytes back."""
        self._reserved_bytes -= size
        assert self._reserved_bytes >= 0, "more bytes released than reserved"
        if self._waiting:
            self._admit()

    def adjust(self, size: int, to: int) -> None:
        """What was reserved for `size` has become `to` bytes."""
        self._reserved_bytes += to - size
        if self._waiting:
            self._admit()

    def _has_room(self, size: int) -> bool:
        return self._reserved_bytes + size <= self._limit_bytes

    def _admit(self) -> None:
        # Who is admitted may release at once, which calls this again: as a loop,
        # not as deep as the line is long.
        if self._admitting:
            return
        self._admitting = True
        try:
            while self._waiting and self._has_room(self._waiting[0][0]):
                size, waiter, timer = self._waiting.popleft()
                timer.cancel()
                self._reserved_bytes += size
                waiter.callback(None)
        finally:
            self._admitting = False

    def _too_late(self, waiter: Deferred[None]) -> None:
        self._forget(waiter)
        waiter.errback(NoRoom("no room in the memory budget"))
        self._admit()

    def _given_up(self, waiter: Deferred[None]) -> None:
        self._forget(waiter)
        self._admit()

    def _forget(self, waiter: Deferred[None]) -> None:
        for entry in self._waiting:
            if entry[1] is waiter:
                self._waiting.remove(entry)
                if entry[2].active():
                    entry[2].cancel()
                break
