"""
Puts octets where they are to go, all of them or none: a descriptor, or a file that is
rotated.

Both wait for who takes them: whoever writes here stands still meanwhile, and reads
nothing more. A rotating log file of `logging` or Twisted takes what the disk did not
take for written; here nothing is called written that is not.
"""

import fcntl
import os
import select
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from logiss.journal import open_sink

#: How often who waits looks whether it is to end.
_LOOK_MILLISECONDS = 200


class Outlet(Protocol):
    """Where octets can be put."""

    def write(self, octets: bytes) -> None:
        """@raise OSError: they are not there, nor is a part of them if that can be."""


class Ended(OSError):
    """The process is to end, and nobody takes what is to be written."""


class Descriptor:
    """
    A pipe, a terminal or what else stdout may be.

    @param is_ending: whether not to wait any longer for who reads.
    """

    def __init__(self, fd: int, is_ending: Callable[[], bool]) -> None:
        self._fd = fd
        self._sink = open_sink(fd)
        self._is_ending = is_ending

    def write(self, octets: bytes) -> None:
        """
        @raise BrokenPipeError: nobody reads any more.
        @raise Ended: it is to end while it waits.
        """
        while octets:
            try:
                octets = octets[self._sink(octets) :]
            except BlockingIOError:
                _wait(self._fd, self._is_ending)

    @property
    def is_broken(self) -> bool:
        """Whether nobody reads any more, as far as that can be seen."""
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            return False
        poll = select.poll()
        poll.register(self._fd, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))


def _wait(fd: int, is_ending: Callable[[], bool]) -> None:
    """
    Wait until `fd` takes something.

    @raise Ended: it is to end while it waits.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    while not poll.poll(_LOOK_MILLISECONDS):
        if is_ending():
            raise Ended("nobody reads the output")


class RotatedFile:
    """
    A file that is appended to; when it is large it becomes ``PATH.1``, what that was
    becomes ``PATH.2``, and so on.

    @param rotate_bytes: how large it may become; 0 is without end.
    @param keep: how many old ones are kept.
    @param is_ending: whether not to wait any longer for who reads, should it be a pipe.
    @raise OSError: it cannot be opened, or another process writes to it so.
    """

    def __init__(
        self,
        path: str,
        rotate_bytes: int,
        keep: int,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._is_ending = is_ending
        self._fd = -1
        self._size = 0
        self._is_regular = False
        self.reopen()

    def reopen(self) -> None:
        """
        Go on in the file that is called so now: the old one may have been moved.

        @raise OSError: it cannot be opened; the old one stays open.
        """
        # Not to wait for who reads, should it be a pipe: not now, and not in a write
        # that no signal ends.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o640)
        try:
            status = os.fstat(fd)
            is_regular = stat.S_ISREG(status.st_mode)
            if is_regular and not self._is_same(status):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif is_regular:
                # It is locked already, by the descriptor that stays.
                os.close(fd)
                return
            os.set_blocking(fd, is_regular)
        except BlockingIOError:
            os.close(fd)
            raise OSError("another process writes to it") from None
        except OSError:
            os.close(fd)
            raise
        self.close()
        self._fd, self._size, self._is_regular = fd, status.st_size, is_regular

    def _is_same(self, status: os.stat_result) -> bool:
        return self._fd >= 0 and os.path.samestat(os.fstat(self._fd), status)

    def write(self, octets: bytes) -> None:
        if self._is_regular:
            # Others may have cut it, as logrotate does with copytruncate.
            self._size = os.fstat(self._fd).st_size
        is_full = self._size + len(octets) > self._rotate_bytes > 0
        if is_full and self._size and self._is_regular:
            self._rotate()
        try:
            self._write_whole(octets)
        except OSError:
            if self._is_regular:
                # Half a frame would be taken for one.
                with suppress(OSError):
                    os.ftruncate(self._fd, self._size)
            raise

    def _write_whole(self, octets: bytes) -> None:
        view = memoryview(octets)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                _wait(self._fd, self._is_ending)

    def _rotate(self) -> None:
        # If it has been moved already, the old ones are where they belong.
        if os.path.lexists(self._path):
            names = [f"{self._path}.{n}" for n in range(1, self._keep + 1)]
            # Up to where a name is free, so that none is lost to one that could not
            # be rotated.
            free = next((n for n, p in enumerate(names) if not os.path.exists(p)), None)
            for n in reversed(range(len(names) - 1 if free is None else free)):
                os.replace(names[n], names[n + 1])
            os.replace(self._path, names[0])
        self.reopen()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
