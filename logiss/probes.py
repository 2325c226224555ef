"""
Test messages that tell whether they have arrived whole, once and all.

`logiss send --test` makes them, ``logiss receive --verify`` reads them. The text of
one names its run and its number in the run, and has a checksum over these and its
padding (CRC-32, as zlib has it)::

    probe = "logiss-probe" SP run SP number SP crc SP padding
    run = 1*32(ALPHA / DIGIT / "-")
    number = 1*10DIGIT        ; from 1 on, without gaps
    crc = 8HEXDIG             ; lower case, over "run number padding"
    padding = *%d97-122
"""

import re
import zlib

from attrs import frozen

_MARK = b"logiss-probe "
_PROBE = re.compile(rb"([A-Za-z0-9-]{1,32}) ([0-9]{1,10}) ([0-9a-f]{8}) ([a-z]*)\n?")
_PADDING = b"abcdefghijklmnopqrstuvwxyz" * 10


class Altered(Exception):
    """It was a test message once. Says what is wrong with it."""


@frozen
class Probe:
    """
    Which test message it is.

    @ivar number: in its run, from 1 on.
    """

    run: str
    number: int


def text(probe: Probe) -> bytes:
    """The MSG of `probe`: what stands behind the header of a frame."""
    # Lengths differ, so that a frame rarely ends where a read or a segment does.
    padding = _PADDING[: 20 + probe.number * 37 % 230]
    run, number = probe.run.encode(), b"%d" % probe.number
    return _MARK + b" ".join((run, number, _checksum(run, number, padding), padding))


def read(syslog_msg: bytes) -> Probe | None:
    """
    The test message in a frame, whatever its header; None when there is none.

    @raise Altered: it is not as it was made.
    """
    begin = syslog_msg.find(_MARK)
    if begin < 0:
        return None
    found = _PROBE.fullmatch(syslog_msg, begin + len(_MARK))
    if found is None:
        raise Altered("not of the form 'logiss-probe RUN NUMBER CRC PADDING'")
    run, number, checksum, padding = found.groups()
    if checksum != _checksum(run, number, padding):
        raise Altered("another checksum")
    return Probe(run.decode(), int(number))


def _checksum(run: bytes, number: bytes, padding: bytes) -> bytes:
    return b"%08x" % zlib.crc32(b" ".join((run, number, padding)))
