"""
Reads descriptors of any kind without making the reactor wait: pipes and terminals when
there is something to be read, files in a thread.

A descriptor is read only when somebody asks, so that what is not wanted yet stays where
it is. Its flags are left alone: other processes may have the same open file.
"""

import os
import select
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import connectionDone
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from zope.interface import implementer

#: At most so much is read at once.
READ_BYTES = 64 * 1024


class ISource(Protocol):
    """Something to be read."""

    def read(self) -> Deferred[bytes]:
        """
        What is there next, nothing at the end; one asks at a time.

        @raise OSError: it cannot be read.
        """

    def close(self) -> None:
        """It will not be read any more."""


def source_of(reactor: Any, fd: int) -> ISource:
    """What reads `fd`, by what it is."""
    return PolledSource(reactor, fd) if _is_pollable(fd) else FileSource(reactor, fd)


def _is_pollable(fd: int) -> bool:
    """Whether there is something that says when it can be read."""
    with select.epoll() as poll:
        try:
            poll.register(fd, select.EPOLLIN)
        except PermissionError:
            # epoll_ctl(2): EPERM for files, folders and such devices as /dev/null.
            return False
    return True


@implementer(IReadDescriptor)
class PolledSource:
    """A pipe, a terminal, a socket."""

    def __init__(self, reactor: Any, fd: int) -> None:
        self._reactor = reactor
        self._fd = fd
        self._waiter: Deferred[bytes] | None = None

    def read(self) -> Deferred[bytes]:
        self._waiter = Deferred(lambda _: self._forget())
        self._reactor.addReader(self)
        return self._waiter

    def _forget(self) -> None:
        self._waiter = None
        self._reactor.removeReader(self)

    def close(self) -> None:
        if self._waiter is not None:
            self._forget()
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:  # noqa: N802
        return "source"

    def doRead(self) -> None:  # noqa: N802
        try:
            octets = os.read(self._fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return  # Somebody else who has the same open file was faster.
        except OSError:
            self._take_waiter().errback(Failure())
            return
        self._take_waiter().callback(octets)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # The writers of a pipe have gone: what is left of it ends with nothing.
        if self._waiter is not None:
            self.doRead()

    def _take_waiter(self) -> Deferred[bytes]:
        waiter = self._waiter
        assert waiter is not None
        self._forget()
        return waiter


class FileSource:
    """A file on a disk, or a device of which nothing tells when it can be read."""

    def __init__(self, reactor: Any, fd: int) -> None:
        self._reactor = reactor
        self._fd = fd

    def read(self) -> Deferred[bytes]:
        pool = self._reactor.getThreadPool()
        return deferToThreadPool(self._reactor, pool, os.read, self._fd, READ_BYTES)

    def close(self) -> None:
        os.close(self._fd)
