"""
Writes log lines to a file descriptor and never waits for who reads it.

The lines of one reactor turn are one write. A descriptor that takes no more for
now keeps its lines waiting here, up to a bound; beyond it new lines are dropped,
and their number is written when there is room again.
"""

import errno
import os
import select
import socket
import stat
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Takes bytes, returns how many it took; raises BlockingIOError when none.
Sink = Callable[[bytes], int]

_RETRY_SECONDS = 0.05


def open_sink(fd: int) -> Sink:
    """
    A sink for `fd` that does not block, whatever it is.

    A pipe or terminal is opened anew, because O_NONBLOCK on the descriptor itself
    would hold for every process that shares it.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        peer = socket.socket(fileno=os.dup(fd))
        return lambda octets: peer.send(octets, socket.MSG_DONTWAIT)
    if not stat.S_ISREG(mode):
        try:
            fd = os.open(
                f"/proc/self/fd/{fd}",
                os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
            )
        except OSError:
            os.set_blocking(fd, False)
    return lambda octets: os.write(fd, octets)


class Journal:
    """
    @param clock: for the end of the reactor turn and for trying again.
    @param limit_bytes: of lines that wait; ours are ASCII, others may count less
        than their bytes.
    @param atomic_bytes: write no more than that at once, and only whole lines, for
        other processes write there too; see `share`. A longer line is cut.
    @ivar on_dropped: told how many lines were dropped, once there is room; it may
        write a line about that.
    """

    def __init__(
        self,
        clock: IReactorTime,
        sink: Sink,
        limit_bytes: int = 8 * 1024 * 1024,
        atomic_bytes: int | None = None,
    ) -> None:
        self._clock = clock
        self._sink = sink
        self._limit_bytes = limit_bytes
        self._atomic_bytes = atomic_bytes
        self._lines: list[str] = []
        self._lines_bytes = 0
        self._rest = b""
        self._dropped = 0
        self._scheduled: IDelayedCall | None = None
        self.on_dropped: Callable[[int], None] = lambda count: None

    @property
    def waiting(self) -> bool:
        """Whether there are lines that nobody has taken yet."""
        return bool(self._lines or self._rest)

    def share(self) -> None:
        """
        From now on other processes write there too: a pipe takes PIPE_BUF bytes whole
        or not at all (pipe(7)), and so does a socket, so that lines do not mix.
        """
        self._atomic_bytes = select.PIPE_BUF

    def write(self, line: str) -> None:
        """Write a line, without its line feed, at the end of this reactor turn."""
        if self._lines_bytes + len(self._rest) > self._limit_bytes:
            self._dropped += 1
            return
        self._lines.append(line)
        self._lines_bytes += len(line) + 1
        if self._scheduled is None:
            self._scheduled = self._clock.callLater(0, self._turn_ended)

    def flush(self) -> None:
        """Write what waits, as far as it is taken now."""
        if not self.waiting:
            return
        octets = self._rest
        if self._lines:
            octets += ("\n".join(self._lines) + "\n").encode("utf-8", "replace")
            self._lines.clear()
            self._lines_bytes = 0
        self._rest = octets[self._taken(octets) :]
        if self._dropped and not self._rest:
            dropped, self._dropped = self._dropped, 0
            self.on_dropped(dropped)

    def _taken(self, octets: bytes) -> int:
        """How many of `octets` are done with."""
        at, end = 0, len(octets)
        try:
            while at < end:
                piece, behind = _piece(octets, at, self._atomic_bytes or end)
                took = self._sink(piece)
                at = behind if took == len(piece) else at + took
        except BlockingIOError:
            pass
        except OSError as e:
            # Nobody is left to tell: the reader is gone or the disk is full. Only
            # a full disk may come back.
            return at if e.errno == errno.ENOSPC else end
        return at

    def _turn_ended(self) -> None:
        self._scheduled = None
        self.flush()
        if self._rest and self._scheduled is None:
            self._scheduled = self._clock.callLater(_RETRY_SECONDS, self._turn_ended)


def _piece(octets: bytes, at: int, most: int) -> tuple[bytes, int]:
    """
    The lines from `at` on that are `most` bytes at most, one at least, and where the
    next one begins.
    """
    if len(octets) - at <= most:
        return octets[at:], len(octets)
    end = octets.rfind(b"\n", at, at + most) + 1
    if end:
        return octets[at:end], end
    # Not inside of a character.
    start = octets[at : at + most - 1].decode("utf-8", "ignore")
    return start.encode() + b"\n", octets.index(b"\n", at) + 1
