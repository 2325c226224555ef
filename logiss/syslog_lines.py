"""
Makes lines, or frames that are there already, into batches of octet-counted frames:
what a submitter posts.

A line ends with LF or CR LF, which is no part of it; what stands at the end of the
input without one is a line as well. Nothing else in a line is looked at: NULs and what
is no UTF-8 stay as they are. Of a line a frame is made as in RFC 5424 section 6,
counted as in RFC 6587 section 3.4.1::

    frame      = MSG-LEN SP SYSLOG-MSG
    SYSLOG-MSG = "<" PRI ">1 " TIMESTAMP SP HOSTNAME SP APP-NAME SP PROCID SP MSGID
                 " - " MSG
"""

import re
from collections.abc import Iterator

from attrs import frozen

#: RFC 5424 section 6.2.1.
PRI_MAX = 191
#: RFC 5424 section 6, in octets.
FIELD_BYTES_MAX = {"hostname": 255, "app-name": 48, "procid": 128, "msgid": 32}
#: No receiver of ours takes a longer frame.
FRAME_BYTES_MAX = 1024 * 1024
#: What is refused for its length alone (`logiss.frames`) is not to take others with it.
FRAME_BYTES_SAFE = 100_000
#: So much is shown of what has no length.
SHOWN_BYTES = 12

# RFC 5424 section 6: PRINTUSASCII is %d33-126.
_PRINTABLE = re.compile(r"[!-~]+")
_MSG_LEN = re.compile(rb"([1-9][0-9]{0,8}) ")
_MSG_LEN_BEGUN = re.compile(rb"[1-9][0-9]{0,8}")


class NotAField(Exception):
    """It cannot stand in the header of a frame. Says why."""


def header_field(name: str, text: str) -> bytes:
    """
    `text` as the field `name`, of `FIELD_BYTES_MAX`.

    @raise NotAField: RFC 5424 does not allow it.
    """
    most = FIELD_BYTES_MAX[name]
    if not _PRINTABLE.fullmatch(text):
        raise NotAField("must be printable ASCII without spaces; '-' says nothing")
    if len(text) > most:
        raise NotAField(f"is longer than {most} characters")
    return text.encode("ascii")


@frozen
class Origin:
    """Whose lines they are: what all of their frames begin with."""

    pri: int
    hostname: bytes
    app_name: bytes
    procid: bytes
    msgid: bytes

    def head(self, timestamp: bytes) -> bytes:
        """What stands in front of each MSG of that time."""
        fields = (self.hostname, self.app_name, self.procid, self.msgid)
        return b"<%d>1 %b %b - " % (self.pri, timestamp, b" ".join(fields))


def framed(head: bytes, line: bytes) -> bytes:
    """The frame of `line`."""
    return b"%d %b%b" % (len(head) + len(line), head, line)


# lines


class LineCutter:
    """
    Cuts the lines out of octets that come in pieces, whatever the pieces are.

    @ivar offset: where the first line begins that has not been given out.
    @ivar lines: how many have ended.
    @ivar lines_cut: how many of them were longer than `line_bytes`, and are several.
    """

    def __init__(self, line_bytes: int) -> None:
        self._line_bytes = line_bytes
        self._rest = b""
        self._is_in_parts = False
        self.offset = 0
        self.lines = 0
        self.lines_cut = 0

    def feed(self, octets: bytes) -> Iterator[bytes]:
        """What `octets` complete; it has to be read to its end."""
        held = len(self._rest) + len(octets)
        *whole, self._rest = (self._rest + octets).split(b"\n")
        for line in whole:
            yield from self._ended(line.removesuffix(b"\r"))
        # More than one octet over: the last may be the CR of an end.
        over = len(self._rest) - self._line_bytes - 1
        if over > 0:
            count = -(-over // self._line_bytes)
            yield from self._parts(self._rest, count)
            self._rest = self._rest[count * self._line_bytes :]
            self._is_in_parts = True
        self.offset += held - len(self._rest)

    def end(self) -> Iterator[bytes]:
        """The last line, where it has no end."""
        rest, self._rest = self._rest, b""
        self.offset += len(rest)
        if rest:
            yield from self._ended(rest)

    def _ended(self, line: bytes) -> Iterator[bytes]:
        most = self._line_bytes
        is_in_parts, self._is_in_parts = self._is_in_parts, False
        self.lines += 1
        if len(line) <= most:
            self.lines_cut += is_in_parts
            yield line
            return
        self.lines_cut += 1
        yield from self._parts(line, -(-len(line) // most))

    def _parts(self, line: bytes, count: int) -> Iterator[bytes]:
        most = self._line_bytes
        for start in range(0, count * most, most):
            yield line[start : start + most]


# frames that are there already


class BrokenFrame(Exception):
    """The input is not octet-counted. Names the frame, from 1 on, and its offset."""


class FrameCutter:
    """
    Cuts the frames out of octets that come in pieces; each stays as it is, with its
    MSG-LEN. White space behind the last is let go.

    @ivar offset: where the first frame begins that has not been given out.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.offset = 0
        self._number = 1

    def feed(self, octets: bytes) -> Iterator[bytes]:
        """
        What `octets` complete; it has to be read to its end.

        @raise BrokenFrame: from here on nothing is found.
        """
        held, position = self._rest + octets, 0
        while (end := self._end_of_next(held, position)) is not None:
            yield held[position:end]
            self.offset += end - position
            self._number += 1
            position = end
        rest = held[position:]
        # Of white space without end as much is kept as an error shows.
        self._rest = rest[:SHOWN_BYTES] if rest.isspace() else rest

    def _end_of_next(self, held: bytes, position: int) -> int | None:
        """Where the next frame ends; None when it is not there whole."""
        counted = _MSG_LEN.match(held, position)
        if counted is None:
            if _may_go_on(held[position:]):
                return None
            raise BrokenFrame(self._no_length(held[position : position + SHOWN_BYTES]))
        size = int(counted[1])
        if size > FRAME_BYTES_MAX:
            raise BrokenFrame(
                f"frame {self._number} at byte {self.offset}: its length is {size},"
                f" and none may have more than {FRAME_BYTES_MAX} bytes"
            )
        end = counted.end() + size
        return end if end <= len(held) else None

    def _no_length(self, found: bytes) -> str:
        return (
            f"frame {self._number} at byte {self.offset}: no length (digits without a"
            f" leading zero, then a space) but {found.decode('ascii', 'replace')!a}"
        )

    def end(self) -> Iterator[bytes]:
        """
        Nothing more comes.

        @raise BrokenFrame: the last frame is not whole.
        """
        rest, self._rest = self._rest, b""
        if rest.isspace() or not rest:
            return iter(())
        counted = _MSG_LEN.match(rest)
        if counted is None:
            raise BrokenFrame(self._no_length(rest[:SHOWN_BYTES]))
        raise BrokenFrame(
            f"frame {self._number} at byte {self.offset}: its length is"
            f" {int(counted[1])} but only {len(rest) - counted.end()} bytes follow"
        )


def _may_go_on(rest: bytes) -> bool:
    """Whether `rest` may become a frame, or is the white space at the end."""
    return not rest or rest.isspace() or bool(_MSG_LEN_BEGUN.fullmatch(rest))


# batches


@frozen
class Batch:
    """@ivar octets: so many `messages`, each with its MSG-LEN."""

    octets: bytes
    messages: int


class Batcher:
    """
    Gathers frames.

    @param messages_max: a batch is full with so many.
    @param bytes_max: or with so many bytes, of which it has more only when a single
        frame has.
    """

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._frames: list[bytes] = []
        self._size = 0

    @property
    def is_empty(self) -> bool:
        return not self._frames

    @property
    def is_full(self) -> bool:
        return (
            len(self._frames) >= self._messages_max
            or self._size >= self._bytes_max
            or (len(self._frames) == 1 and self._size > FRAME_BYTES_SAFE)
        )

    def fits(self, frame: bytes) -> bool:
        """Whether there is room for it; an empty batch has room for any."""
        size = len(frame)
        has_room = self._size + size <= self._bytes_max and size <= FRAME_BYTES_SAFE
        return self.is_empty or (has_room and not self.is_full)

    def add(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._size += len(frame)

    def take(self) -> Batch:
        """What has been gathered; it is empty afterwards."""
        batch = Batch(b"".join(self._frames), len(self._frames))
        self._frames, self._size = [], 0
        return batch
