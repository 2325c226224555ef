"""
Takes octet-counted frames out of what a receiver has left behind.

A region is the file into which a sink has received one connection: octets as they
came, then NUL to its end. The decoder (RFC 6587 section 3.4.1) is not the product's.
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

_MSG_LEN = re.compile(rb"([1-9][0-9]{0,8}) ")
_MSG_LEN_BEGUN = re.compile(rb"(?:[1-9][0-9]{0,8})?")
_MSG_LEN_OCTETS = 10


class Unparsable(Exception):
    """What follows is no octet-counted frame; nothing behind it can be read."""


class Region:
    """
    Decodes one region as it grows; a frame that is cut at its end is left for later.

    @ivar position: behind the last whole frame.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._broken = False
        self.position = 0

    def frames(self) -> Iterator[bytes]:
        """
        Those that have come since the last call.

        @raise Unparsable: once for a region.
        """
        if self._broken or not self._path.stat().st_size:
            return
        with (
            self._path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets,
        ):
            end = octets.find(b"\0", self.position)
            end = len(octets) if end < 0 else end
            while frame := self._next(octets, end):
                yield frame

    def _next(self, octets: mmap.mmap, end: int) -> bytes:
        """The next whole frame, nothing when it has not ended yet."""
        head = octets[self.position : min(end, self.position + _MSG_LEN_OCTETS)]
        found = _MSG_LEN.match(head)
        if found is None:
            if _MSG_LEN_BEGUN.fullmatch(head):
                return b""
            self._broken = True
            raise Unparsable(f"{self._path.name} at {self.position}: {head!r}")
        start = self.position + found.end()
        stop = start + int(found[1])
        if stop > end:
            return b""
        self.position = stop
        return octets[start:stop]


class Lines:
    """
    Reads a file of messages, one a line, as it grows; a line without its end is
    left for later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def frames(self) -> Iterator[bytes]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            octets = file.read()
        whole, end, _ = octets.rpartition(b"\n")
        self._position += len(whole) + len(end)
        if end:
            yield from whole.split(b"\n")
