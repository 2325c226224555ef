"""
Speaks RELP as a client: bytes in, bytes out.

What comes from the server becomes events; what has to go to it is handed out to be
written. The connection and the clock are the owner's. A `Client` is one session: a
broken one is replaced by another, never mended.

The usual answers are foreseen. When frames are sent, the very octets are made with
which a server takes them all in order (``2 rsp 6 200 OK`` and so on), and what comes
is compared with them: no answer is parsed. Whatever else comes is read frame by
frame, and makes the same events.

The grammar, as librelp 1.11 has it::

    frame    = txnr SP command SP datalen [SP data] LF ; SP data only if datalen > 0
    txnr     = 1*9DIGIT      ; the client counts 1, 2, 3 ..., 0 is a server's hint
    command  = 1*32ALPHA     ; client: open, syslog, close; server: rsp, serverclose
    datalen  = 1*9DIGIT      ; octets of data, which may be any
    rsp-data = [code SP [text] [LF offers]]            ; empty in the answer to close
    code     = 3DIGIT        ; 200 is success, everything else failure
    offers   = *(offer LF)   ; the last LF may be missing
    offer    = name "=" [value *("," value)]
"""

import re
from collections.abc import Callable
from enum import Enum
from typing import TypeAlias

from attrs import frozen

#: The one version that there is.
VERSION = b"0"
#: librelp stops at 999,999,999 and takes the next frame for a broken session. Long
#: before that a session has lived for days.
TXNR_MAX = 900_000_000
#: What imrelp is told to take (``maxDataSize``); by default it cuts at 8 KiB.
MESSAGE_BYTES_MAX = 131_072
#: What a server may answer to open, and to anything else.
OPEN_RSP_BYTES_MAX = 128 * 1024
RSP_BYTES_MAX = 8 * 1024

_OPEN_TXNR = 1
_TEXT_BYTES_MAX = 200
_HEADER = re.compile(rb"([0-9]{1,9}) ([A-Za-z]{1,32}) ([0-9]{1,9})([ \n])")
# What may yet become a header.
_HEADER_BEGUN = re.compile(
    rb"(?:[0-9]{1,9}(?: (?:[A-Za-z]{1,32}(?: (?:[0-9]{1,9})?)?)?)?)?"
)
_RSP_DATA = re.compile(rb"([0-9]{3}) ([^\n]*)(?:\n(.*))?", re.DOTALL)


class State(Enum):
    """What a session is at."""

    NEW = "new"
    OPENING = "opening"
    READY = "ready"
    CLOSING = "closing"
    CLOSED = "closed"
    BROKEN = "broken"


_NEXT = {
    State.NEW: {State.OPENING, State.BROKEN},
    State.OPENING: {State.READY, State.BROKEN},
    State.READY: {State.CLOSING, State.BROKEN},
    State.CLOSING: {State.CLOSED, State.BROKEN},
    State.CLOSED: set(),
    State.BROKEN: set(),
}


@frozen
class Opened:
    """
    The server takes syslog frames.

    @ivar software: what it calls itself, on one line.
    """

    software: str


@frozen
class Confirmed:
    """The frames `first` to `last`, both included, were answered 200."""

    first: int
    last: int


@frozen
class Refused:
    """
    A frame was answered with something else.

    @ivar text: the server's, on one line.
    """

    txnr: int
    code: int
    text: str


@frozen
class Closed:
    """The session is over, and each of its frames was answered."""


@frozen
class Broken:
    """
    The session cannot go on, and its unanswered frames will not be answered.

    @ivar why: on one line.
    """

    why: str


Event: TypeAlias = Opened | Confirmed | Refused | Closed | Broken


class _SessionBroken(Exception):
    """Says why."""


#: `syslog_frames`, and what does the same.
SyslogFrames: TypeAlias = Callable[[bytes, int, int, int], tuple[bytes, int, int]]

_OCTET_COUNTED = re.compile(rb"([0-9]{1,6}) ")


def syslog_frames(
    octets: bytes, at: int, count_max: int, first_txnr: int
) -> tuple[bytes, int, int]:
    """
    RELP frames of octet-counted ones (RFC 6587 section 3.4.1), whose MSG-LEN and
    message are a RELP frame's datalen and data.

    @param at: where in `octets` the first one begins.
    @param first_txnr: its txnr; the next has one more.
    @return: the frames, how many they are, and where in `octets` the next begins.
    @raise ValueError: one of them is not whole, or has no message or one of more than
        `MESSAGE_BYTES_MAX` bytes.
    """
    frames: list[bytes] = []
    if not 0 <= at <= len(octets):
        raise _no_frame_at(at)
    while at < len(octets) and len(frames) < count_max:
        counted = _OCTET_COUNTED.match(octets, at)
        if counted is None:
            raise _no_frame_at(at)
        size, end = int(counted[1]), counted.end() + int(counted[1])
        if not 0 < size <= MESSAGE_BYTES_MAX or end > len(octets):
            raise _no_frame_at(at)
        frames.append(b"%d syslog %b\n" % (first_txnr + len(frames), octets[at:end]))
        at = end
    return b"".join(frames), len(frames), at


def _no_frame_at(at: int) -> ValueError:
    return ValueError(
        f"no octet-counted frame with a message of 1 to {MESSAGE_BYTES_MAX} bytes"
        f" begins at {at}"
    )


def answers(first_txnr: int, end_txnr: int) -> bytes:
    """How a server takes the frames from `first_txnr` to before `end_txnr`."""
    txnrs = range(first_txnr, end_txnr)
    return b"%d rsp 6 200 OK\n" * len(txnrs) % tuple(txnrs)


class Client:
    """
    One session.

    Frames are known by their txnr: `send` gives them consecutive ones, from `next_txnr`
    on. At most `window` of them are on their way: from the oldest one
    without an answer on, so that answers in any order take bounded memory.

    @ivar state: where the session is.
    @ivar window: how many frames may be on their way.
    @ivar next_txnr: what the next frame will be known by.
    """

    def __init__(
        self,
        software: bytes = b"logiss",
        window: int = 128,
        txnr_max: int = TXNR_MAX,
        syslog_frames: SyslogFrames = syslog_frames,
        answers: Callable[[int, int], bytes] = answers,
    ) -> None:
        """
        @param software: name, version and address, separated by commas.
        @param txnr_max: the last one that a frame may have.
        @param syslog_frames: does the same as the one of this module.
        @param answers: as well.
        """
        if b"\n" in software:
            raise ValueError(f"software is one line, not {software!r}")
        if window < 1:
            raise ValueError(f"a window of {window} frames lets nothing through")
        if txnr_max > TXNR_MAX:
            raise ValueError(f"{txnr_max} is too near to the end of all txnrs")
        self.state = State.NEW
        self.next_txnr = _OPEN_TXNR + 1
        self._software = software
        self.window = window
        self._txnr_max = txnr_max
        self._syslog_frames = syslog_frames
        self._answers = answers
        # The oldest frame without an answer, and those behind it that have one.
        self._oldest = self.next_txnr
        self._early: set[int] = set()
        # What will come if all goes well, and how much of it has come already...
        self._foreseen = b""
        self._seen = 0
        # ...or else the beginning of a frame that is read as it comes. Never both.
        self._buffer = bytearray()

    @property
    def unanswered(self) -> int:
        """How many frames were sent and not answered."""
        return self.next_txnr - self._oldest - len(self._early)

    def unanswered_txnrs(self) -> list[int]:
        """Theirs, in order; also when the session is broken."""
        sent = range(self._oldest, self.next_txnr)
        return [txnr for txnr in sent if txnr not in self._early]

    @property
    def room(self) -> int:
        """How many frames may be sent now."""
        if self.state is not State.READY:
            return 0
        end = min(self._oldest + self.window, self._txnr_max + 1)
        return end - self.next_txnr

    @property
    def worn_out(self) -> bool:
        """Whether the session is to be closed, since it has no txnr left."""
        return self.next_txnr > self._txnr_max

    @property
    def _is_over(self) -> bool:
        return not _NEXT[self.state]

    def open(self) -> bytes:
        """What has to be written first."""
        self._become(State.OPENING)
        offers = b"relp_version=%b\nrelp_software=%b\ncommands=syslog" % (
            VERSION,
            self._software,
        )
        return b"%d open %d %b\n" % (_OPEN_TXNR, len(offers), offers)

    def send(self, frames: bytes, at: int = 0) -> tuple[bytes, int, int]:
        """
        Send octet-counted `frames` from `at` on, as many as there is room for. They are
        known by `next_txnr` and so on.

        @return: what has to be written, how many frames it is, and where in `frames`
            the next one begins.
        @raise ValueError: one of them is not whole, or has no message or one of more
            than `MESSAGE_BYTES_MAX` bytes; then none is sent.
        """
        first = self.next_txnr
        octets, count, end = self._syslog_frames(frames, at, self.room, first)
        self.next_txnr += count
        if not self._early and not self._buffer:
            begun = self._answer_begun()
            self._foreseen = self._foreseen[begun:] + self._answers(
                first, self.next_txnr
            )
            self._seen -= begun
        return octets, count, end

    def close(self) -> bytes:
        """
        What has to be written last. The server answers it behind all else; what is
        unanswered when it has ended the session makes it a broken one.
        """
        self._become(State.CLOSING)
        return b"%d close 0\n" % self.next_txnr

    def receive(self, octets: bytes) -> list[Event]:
        """
        What `octets` of the server's say, in their order; nothing when they end in
        the middle of something, or come after the end. `Broken` and `Closed` are the
        last events of a session.
        """
        if not self._foreseen.startswith(octets, self._seen):
            return self._ending_broken(lambda events: self._read(octets, events))
        self._seen += len(octets)
        answers = octets.count(b"\n")
        if not answers:
            return []
        first = self._oldest
        self._oldest += answers
        return [Confirmed(first, self._oldest - 1)]

    def end_of_stream(self) -> list[Event]:
        """What it means that the server has closed the connection."""
        return self._ending_broken(self._end)

    def _ending_broken(self, take: Callable[[list[Event]], None]) -> list[Event]:
        """The events of `take`, and `Broken` behind them when it breaks off."""
        events: list[Event] = []
        if self._is_over:
            return events
        try:
            take(events)
        except _SessionBroken as e:
            self._become(State.BROKEN)
            events.append(Broken(str(e)))
        return events

    def _read(self, octets: bytes, events: list[Event]) -> None:
        """Read frame by frame, and foresee the rest when that has become possible."""
        if self.state is State.NEW:
            raise _SessionBroken("the server has spoken first")
        self._buffer += self._foreseen[self._answer_begun() : self._seen]
        self._foreseen, self._seen = b"", 0
        self._buffer += octets
        while (frame := self._next_frame()) is not None:
            self._take(*frame, events)
        if not self._early:
            foreseen = self._answers(self._oldest, self.next_txnr)
            if foreseen.startswith(bytes(self._buffer[: len(foreseen) + 1])):
                self._foreseen, self._seen = foreseen, len(self._buffer)
                self._buffer.clear()

    def _answer_begun(self) -> int:
        """Where in `_foreseen` the answer begins of which only a part has come."""
        return self._foreseen.rfind(b"\n", 0, self._seen) + 1

    def _next_frame(self) -> tuple[int, bytes, bytes] | None:
        """Take a frame off the buffer: its txnr, command and data."""
        header = _HEADER.match(self._buffer)
        if header is None:
            if _HEADER_BEGUN.fullmatch(self._buffer):
                return None
            raise _SessionBroken(
                f"no RELP frame but '{_shown(bytes(self._buffer[:40]))}'"
            )
        txnr, command, datalen, separator = header.groups()
        opening = self.state is State.OPENING
        if int(datalen) > (OPEN_RSP_BYTES_MAX if opening else RSP_BYTES_MAX):
            raise _SessionBroken(f"an answer of {int(datalen)} bytes")
        if (separator == b" ") != (int(datalen) > 0):
            raise _SessionBroken("a frame whose datalen is not followed by its data")
        # The LF behind a header without data was matched as its separator.
        end = header.end() + int(datalen) - (separator == b"\n")
        if len(self._buffer) <= end:
            return None
        if self._buffer[end] != 0x0A:
            raise _SessionBroken("a frame that does not end where its datalen says")
        data = bytes(self._buffer[header.end() : end])
        del self._buffer[: end + 1]
        return int(txnr), bytes(command), data

    def _take(
        self, txnr: int, command: bytes, data: bytes, events: list[Event]
    ) -> None:
        if command == b"serverclose":
            self._end(events)
        elif command != b"rsp":
            raise _SessionBroken(f"a server does not say '{_shown(command)}'")
        elif self.state is State.OPENING and txnr == _OPEN_TXNR:
            events.append(_opened(data))
            self._become(State.READY)
        elif self.state is State.CLOSING and txnr == self.next_txnr:
            self._end(events)
        else:
            self._take_answer(txnr, data, events)

    def _take_answer(self, txnr: int, data: bytes, events: list[Event]) -> None:
        if not self._oldest <= txnr < self.next_txnr or txnr in self._early:
            raise _SessionBroken(f"an answer to {txnr}, which has none to come")
        code, text, _ = _parsed(data)
        self._early.add(txnr)
        while self._oldest in self._early:
            self._early.remove(self._oldest)
            self._oldest += 1
        if code != 200:
            events.append(Refused(txnr, code, _shown(text)))
            return
        before = events[-1] if events else None
        if isinstance(before, Confirmed) and before.last == txnr - 1:
            events[-1] = Confirmed(before.first, txnr)
        else:
            events.append(Confirmed(txnr, txnr))

    def _end(self, events: list[Event]) -> None:
        if self.state is not State.CLOSING:
            raise _SessionBroken("the server has ended the session")
        if self.unanswered:
            raise _SessionBroken("the server has ended the session before its answers")
        self._become(State.CLOSED)
        events.append(Closed())

    def _become(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"a {self.state.value} session is never {state.value}")
        self.state = state
        if self._is_over:
            self._foreseen = b""
            self._buffer.clear()


def _opened(data: bytes) -> Opened:
    """
    @raise _SessionBroken: the server does not want what we have.
    """
    code, text, offers = _parsed(data)
    if code != 200:
        raise _SessionBroken(f"open was answered {code} '{_shown(text)}'")
    offered = _parsed_offers(offers)
    for name, needed in ((b"relp_version", VERSION), (b"commands", b"syslog")):
        values = offered.get(name, b"")
        if needed not in values.split(b","):
            raise _SessionBroken(
                f"{name.decode()} {needed.decode()} is not offered but"
                f" '{_shown(values)}'"
            )
    return Opened(_shown(offered.get(b"relp_software", b"")))


def _parsed(data: bytes) -> tuple[int, bytes, bytes]:
    """The code, the text and the offers of an answer."""
    match = _RSP_DATA.fullmatch(data)
    if match is None:
        raise _SessionBroken(f"no code in the answer '{_shown(data)}'")
    code, text, offers = match.groups(b"")
    return int(code), text, offers


def _parsed_offers(offers: bytes) -> dict[bytes, bytes]:
    """The values of each offer as they stand; of two by one name, the last."""
    parsed = {}
    for offer in offers.removesuffix(b"\n").split(b"\n") if offers else []:
        name, equals, values = offer.partition(b"=")
        if not name or not equals:
            raise _SessionBroken(f"no offer but '{_shown(offer)}'")
        parsed[name] = values
    return parsed


def _shown(octets: bytes) -> str:
    """`octets` on one line, cut where they are long."""
    text = octets[:_TEXT_BYTES_MAX].decode("utf-8", "backslashreplace")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
