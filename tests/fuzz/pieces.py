"""
Cuts octets into pieces, as the octets themselves decide.

The corpus stays free of control bytes, and the same octets are always cut at the same
places.
"""

from collections.abc import Iterable, Iterator
from random import Random
from zlib import crc32

CUTS_MAX = 5


def chance_of(octets: bytes) -> Random:
    """Chance, but the same for the same octets."""
    return Random(crc32(octets))


def singly(octets: bytes) -> Iterator[bytes]:
    """Octet by octet."""
    return (octets[i : i + 1] for i in range(len(octets)))


def cut(octets: bytes, chance: Random) -> Iterator[bytes]:
    """
    In up to `CUTS_MAX` + 1 pieces, none of them empty; half of them are cut where a
    line ends, for that is where something begins.
    """
    size = len(octets)
    ends = [i for i, octet in enumerate(octets) if octet in b"\r\n" and i]
    places = {
        chance.choice(ends)
        if ends and chance.random() < 0.5
        else chance.randrange(1, size)
        for _ in range(CUTS_MAX if size > 1 else 0)
    }
    return _cut_at(octets, sorted(places))


def _cut_at(octets: bytes, places: Iterable[int]) -> Iterator[bytes]:
    begin = 0
    for end in (*places, len(octets)):
        if end > begin:
            yield octets[begin:end]
            begin = end
