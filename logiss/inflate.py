"""
Inflates a gzip body within bounds.

A body may be several gzip members one behind the other (RFC 1952 section 2.2).
It is inflated piece by piece, so that no more than the limit is ever held.
"""

import zlib

from attrs import frozen

_GZIP_WBITS = 31
_PIECE_BYTES = 64 * 1024


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


def inflate(body: bytes, limits: InflateLimits = DEFAULT_LIMITS) -> bytes:
    """
    @raise BrokenGzip: says what is wrong with the body.
    @raise InflatedTooLarge: size or ratio is over its limit.
    """
    most = min(
        limits.inflated_bytes,
        max(limits.ratio_free_bytes, limits.ratio * len(body)),
    )
    out: list[bytes] = []
    total, members, rest = 0, 0, body
    while rest:
        members += 1
        if members > limits.members:
            raise BrokenGzip(f"more than {limits.members} gzip members")
        member = zlib.decompressobj(_GZIP_WBITS)
        while not member.eof:
            try:
                piece = member.decompress(rest, _PIECE_BYTES)
            except zlib.error as e:
                raise BrokenGzip(f"not valid gzip: {e}") from None
            rest = member.unconsumed_tail
            total += len(piece)
            if total > most:
                raise InflatedTooLarge(f"the body inflates to more than {most} bytes")
            out.append(piece)
            if not piece and not rest and not member.eof:
                raise BrokenGzip("the gzip data ends too early")
        # RFC 1952 has no padding, but senders that write whole blocks add NULs.
        rest = member.unused_data.lstrip(b"\0")
    if not members:
        raise BrokenGzip("the gzip data is empty")
    return b"".join(out)
