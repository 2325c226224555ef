"""
Target: gzip bodies, against the standard library's reader.

The octets are a body. What is inflated is what `gzip` reads, whatever the limits; and
what `gzip` reads, and is within them, is inflated.

`gzip` is looser in what it passes over unread: the flags that RFC 1952 section 2.3.1.2
has readers refuse, and a header's own checksum. zlib looks at both.
"""

import gzip
import re
import zlib

from attrs import evolve

from logiss.inflate import (
    DEFAULT_LIMITS,
    BrokenGzip,
    InflatedTooLarge,
    InflateLimits,
    inflate,
)

_FHCRC_OR_RESERVED = 0b1110_0010
#: Met by small bodies.
SMALL = InflateLimits(inflated_bytes=1000, ratio=3, ratio_free_bytes=100, members=3)
LIMITS = (
    DEFAULT_LIMITS,
    SMALL,
    evolve(SMALL, ratio=1000),
    evolve(SMALL, inflated_bytes=10**6),
)


def check(octets: bytes) -> None:
    """
    @raise Exception: what comes out is something else than `gzip` reads or more than a
        limit allows, or is refused without a reason.
    """
    expected = _read_by_gzip(octets)
    for limits in LIMITS:
        found = _outcome(octets, limits)
        if isinstance(found, bytes):
            assert found == expected, f"{limits}: {found!r}, not {expected!r}"
            assert len(found) <= _most(octets, limits), limits
        else:
            assert str(found).isprintable(), f"not fit for a line: {found}"
            assert _is_right(found, octets, expected, limits), f"{limits}: {found}"


def _outcome(octets: bytes, limits: InflateLimits) -> bytes | Exception:
    """The one place that knows how `inflate` is called."""
    try:
        return inflate(octets, limits)
    except (BrokenGzip, InflatedTooLarge) as refusal:
        return refusal


def _is_right(
    refusal: Exception, octets: bytes, expected: bytes | None, limits: InflateLimits
) -> bool:
    # Of what is broken, and where its limit is met, `gzip` tells nothing.
    if expected is None:
        return True
    if isinstance(refusal, InflatedTooLarge):
        return len(expected) > _most(octets, limits)
    return _members(octets) > limits.members or _has_unread_flags(octets)


def _most(octets: bytes, limits: InflateLimits) -> int:
    free = max(limits.ratio_free_bytes, limits.ratio * len(octets))
    return min(limits.inflated_bytes, free)


def _read_by_gzip(octets: bytes) -> bytes | None:
    """None when `gzip` finds it broken, or not even begun."""
    if not octets:
        return None
    try:
        return gzip.decompress(octets)
    except (OSError, EOFError, zlib.error):
        return None


def _members(octets: bytes) -> int:
    members = 0
    while octets := octets.lstrip(b"\0"):
        member = zlib.decompressobj(31)
        try:
            member.decompress(octets)
        except zlib.error:
            break
        octets = member.unused_data
        members += 1
    return members


def _has_unread_flags(octets: bytes) -> bool:
    """Whether any member may have them, wherever it begins."""
    flags = re.findall(rb"(?=\x1f\x8b\x08(.))", octets, re.DOTALL)
    return any(flag[0] & _FHCRC_OR_RESERVED for flag in flags)
