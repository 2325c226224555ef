"""
What a message looks like, when it is posted and when it arrives.

A message names its run, its drain and its number, and has a checksum over these and
its padding. No octet of it is NUL or a line feed: both mark ends elsewhere.
"""

import zlib

from attrs import frozen

_HEADER = b"<190>1 2020-01-01T00:00:00.000000+00:00 host faults web.1 - "
#: The header as it arrives, with the origin of a client on the loopback interface.
STAMPED = _HEADER + b'[origin ip="127.0.0.1"] '
_PADDING = b"abcdefghijklmnopqrstuvwxyz" * 40
#: Lengths differ, so that a frame rarely ends where a read or a segment does.
_PADDING_MIN, _PADDING_SPREAD = 40, 240


class Altered(Exception):
    """A frame is not as any message was posted."""


@frozen
class Name:
    """Which message it is."""

    drain: int
    sequence: int


def frame(run: str, name: Name, padding_bytes: int | None = None) -> bytes:
    """The message as it is posted, octet-counted."""
    if padding_bytes is None:
        padding_bytes = _PADDING_MIN + name.sequence * 37 % _PADDING_SPREAD
    padding = (_PADDING * (padding_bytes // len(_PADDING) + 1))[:padding_bytes]
    text = b"%b %d %d" % (run.encode(), name.drain, name.sequence)
    msg = b"%b- %b %08x %b" % (_HEADER, text, _checksum(text, padding), padding)
    return b"%d %b" % (len(msg), msg)


def read(syslog_msg: bytes) -> tuple[str, Name]:
    """
    The run and the name of a message that has arrived.

    @raise Altered: it is not as it was posted.
    """
    if not syslog_msg.startswith(STAMPED):
        raise Altered("another header")
    parts = syslog_msg[len(STAMPED) :].split(b" ")
    if len(parts) != 5:
        raise Altered("other fields")
    run, drain, sequence, checksum, padding = parts
    text = b" ".join((run, drain, sequence))
    if checksum != b"%08x" % _checksum(text, padding):
        raise Altered("another checksum")
    return run.decode(), Name(int(drain), int(sequence))


def _checksum(text: bytes, padding: bytes) -> int:
    return zlib.crc32(padding, zlib.crc32(text))
