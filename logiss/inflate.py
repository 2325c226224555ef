"""
Inflates a gzip body within bounds, as it arrives.

A body may be several gzip members one behind the other (RFC 1952 section 2.2).
It is inflated in pieces that are asked for, so that no more comes out than there is
room for.
"""

import zlib
from typing import Any

from attrs import frozen

_GZIP_WBITS = 31
#: At most so much comes out at once.
PIECE_BYTES = 64 * 1024


class BrokenGzip(Exception):
    """The body is not gzip, is cut off, or has more members than allowed."""


class InflatedTooLarge(Exception):
    """The inflated body is over its limit."""


@frozen
class InflateLimits:
    """
    @ivar inflated_bytes: most that may come out.
    @ivar ratio: most that may come out of a byte, once `ratio_free_bytes` did.
    """

    inflated_bytes: int = 16 * 1024 * 1024
    ratio: int = 200
    ratio_free_bytes: int = 1024 * 1024
    members: int = 16


DEFAULT_LIMITS = InflateLimits()


class Inflater:
    """
    One body.

    @param length: how long the body will be, if that is known: its ratio is looked
        at as it comes. Else at its end, so that the same body is judged the same
        however it comes.
    """

    def __init__(
        self, limits: InflateLimits = DEFAULT_LIMITS, length: int | None = None
    ) -> None:
        self._limits = limits
        self._most = limits.inflated_bytes
        if length is not None:
            self._most = min(self._most, self._most_of(length))
        self._rest = b""
        self._member: Any = None
        self._members = 0
        self._fed_bytes = 0
        self._inflated_bytes = 0

    def _most_of(self, length: int) -> int:
        return max(self._limits.ratio_free_bytes, self._limits.ratio * length)

    def feed(self, octets: bytes) -> None:
        """Take more of the body, to be inflated when it is asked for."""
        self._fed_bytes += len(octets)
        self._rest = self._rest + octets if self._rest else octets

    def read(self, most: int = PIECE_BYTES) -> bytes:
        """
        The next piece, of at most `most` bytes; nothing when there has to be fed
        more first.

        @raise BrokenGzip: says what is wrong with the body.
        @raise InflatedTooLarge: size or ratio is over its limit.
        """
        while True:
            if self._member is None:
                if self._members:
                    # RFC 1952 has no padding, but senders that write whole blocks
                    # add NULs.
                    self._rest = self._rest.lstrip(b"\0")
                if not self._rest:
                    return b""
                self._begin_member()
            try:
                piece: bytes = self._member.decompress(self._rest, most)
            except zlib.error as e:
                raise BrokenGzip(f"not valid gzip: {e}") from None
            if self._member.eof:
                self._rest = self._member.unused_data
                self._member = None
            else:
                self._rest = self._member.unconsumed_tail
            if piece:
                self._inflated_bytes += len(piece)
                self._check_size(self._most)
                return piece
            if self._member is not None and not self._rest:
                return b""

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > self._limits.members:
            raise BrokenGzip(f"more than {self._limits.members} gzip members")
        self._member = zlib.decompressobj(_GZIP_WBITS)

    def _check_size(self, most: int) -> None:
        if self._inflated_bytes > most:
            raise InflatedTooLarge(f"the body inflates to more than {most} bytes")

    def end(self) -> None:
        """
        Nothing more will be fed, and everything has been read.

        @raise BrokenGzip: it is cut off, or there was nothing.
        @raise InflatedTooLarge: its ratio is over its limit.
        """
        if self._member is not None:
            raise BrokenGzip("the gzip data ends too early")
        if not self._members:
            raise BrokenGzip("the gzip data is empty")
        self._check_size(self._most_of(self._fed_bytes))


def inflate(body: bytes, limits: InflateLimits = DEFAULT_LIMITS) -> bytes:
    """
    The whole of a body that is there whole.

    @raise BrokenGzip: says what is wrong with the body.
    @raise InflatedTooLarge: size or ratio is over its limit.
    """
    inflater = Inflater(limits, len(body))
    inflater.feed(body)
    pieces = []
    while piece := inflater.read():
        pieces.append(piece)
    inflater.end()
    return b"".join(pieces)
