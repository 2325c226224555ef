"""
Finds where a body stops being octet-counted frames, and shows the octets around it.
"""

import re
from collections.abc import Iterator

from attrs import frozen

from logiss.frames import RefusedBody, rewrite
from logiss.inflate import BrokenGzip, InflatedTooLarge, Inflater

#: So many octets are shown on either side.
AROUND_BYTES = 40

_PLACE = re.compile(r"frame ([0-9]+) at byte ([0-9]+)\b")


@frozen
class Fault:
    """
    @ivar why: in one line, what is wrong; nothing when nothing is.
    @ivar frames: how many are good in front of it; None when they were not counted.
    @ivar offset: in `octets`, of the frame that is not good; None when none is.
    @ivar octets: the body, inflated as far as that goes.
    """

    why: str
    frames: int | None
    offset: int | None
    octets: bytes


def find(body: bytes, is_zipped: bool) -> Fault:
    """What a logiss with the default limits would say of `body`."""
    octets, broken = _inflated(body) if is_zipped else (body, "")
    try:
        frames = rewrite(octets, b"").frames
    except RefusedBody as e:
        return _placed(broken or str(e), str(e), octets)
    return Fault(broken, frames, len(octets) if broken else None, octets)


def _inflated(body: bytes) -> tuple[bytes, str]:
    """What comes out of it, and why no more does."""
    inflater, pieces = Inflater(length=len(body)), []
    inflater.feed(body)
    try:
        while piece := inflater.read():
            pieces.append(piece)
        inflater.end()
    except (BrokenGzip, InflatedTooLarge) as e:
        return b"".join(pieces), str(e)
    return b"".join(pieces), ""


def _placed(why: str, place: str, octets: bytes) -> Fault:
    found = _PLACE.match(place)
    if found is None or found[1] is None:
        return Fault(why, None, None, octets)
    return Fault(why, int(found[1]) - 1, int(found[2]), octets)


def around(octets: bytes, offset: int) -> Iterator[str]:
    """What stands in front of `offset` and behind it, as text that does no harm."""
    begin = max(offset - AROUND_BYTES, 0)
    end = offset + AROUND_BYTES
    yield f"before: {'...' if begin else ''}{escaped(octets[begin:offset])}"
    more = "..." if end < len(octets) else ""
    yield f"at:     {escaped(octets[offset:end])}{more}"


def escaped(octets: bytes) -> str:
    """As a literal of Python has them."""
    return str(octets)[1:]
