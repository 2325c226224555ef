"""
Knows whether posts may enter, whether that will end soon, and when the last one has
left.
"""

from collections.abc import Callable


class Drain:
    """Counts the posts inside; once it has begun, none may enter."""

    def __init__(self) -> None:
        self._inside = 0
        self._announced = False
        self._begun = False
        self._waiting: list[Callable[[], None]] = []

    @property
    def draining(self) -> bool:
        return self._begun

    @property
    def announced(self) -> bool:
        """Whether nobody is to be sent here any more; posts may still enter."""
        return self._announced or self._begun

    def announce(self) -> None:
        """Say that draining is about to begin."""
        self._announced = True

    @property
    def inside(self) -> int:
        """How many posts have entered and not left."""
        return self._inside

    def enter(self) -> bool:
        """Let a post in, unless draining has begun."""
        if self._begun:
            return False
        self._inside += 1
        return True

    def leave(self) -> None:
        """A post that entered has had its answer."""
        assert self._inside > 0, "more posts left than entered"
        self._inside -= 1
        self._tell_if_empty()

    def begin(self, emptied: Callable[[], None]) -> None:
        """Let no further post in; call `emptied` when the last has left."""
        self._begun = True
        self._waiting.append(emptied)
        self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        if self._begun and not self._inside:
            waiting, self._waiting = self._waiting, []
            for emptied in waiting:
                emptied()
