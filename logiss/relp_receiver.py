"""
Receives syslog over RELP and hands on each frame; answers when it was taken.

The other end of `logiss.relp`, whose docstring has the grammar. It does what rsyslog's
imrelp does: it offers ``syslog``, answers 200 to each frame that was taken and 500 to
one that was not, in order, and ends a session that breaks the rules. There is no window
here: the sender's bounds what is on its way. A sender that does not read its answers is
not read from.
"""

import re
from collections.abc import Callable
from typing import cast

from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from logiss.receiver import FRAME_BYTES_MAX, NotTaken, ReceivingFactory
from logiss.relp import VERSION

_HEADER = re.compile(rb"([0-9]{1,9}) ([A-Za-z]{1,32}) ([0-9]{1,9})([ \n])")
# What may yet become a header.
_HEADER_BEGUN = re.compile(
    rb"(?:[0-9]{1,9}(?: (?:[A-Za-z]{1,32}(?: (?:[0-9]{1,9})?)?)?)?)?"
)
#: The last txnr that fits.
TXNR_MAX = 999_999_999
#: Nobody has so many offers.
_OFFERS_BYTES_MAX = 16 * 1024
_WHY_BYTES_MAX = 200


class NotRELP(Exception):
    """The stream breaks the rules. Says how."""


class Session:
    """
    One session: bytes in, bytes out.

    @param on_frame: called with each SYSLOG-MSG; raises `NotTaken`.
    @ivar answers: what is to be written.
    @ivar is_over: the sender has ended it, or must not go on.
    """

    def __init__(self, on_frame: Callable[[bytes], None], software: bytes) -> None:
        self._on_frame = on_frame
        self._software = software
        self._buffer = bytearray()
        self._next_txnr = 1
        self._is_open = False
        self.answers = bytearray()
        self.is_over = False

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._buffer)

    def receive(self, octets: bytes) -> None:
        """
        Take what has come.

        @raise NotRELP: from here on there is nothing to be found; what is in `answers`
            is still to be written.
        """
        self._buffer += octets
        at = 0
        try:
            while not self.is_over and (found := self._next(at)) is not None:
                command, data, at = found
                self._take(command, data)
        finally:
            del self._buffer[:at]

    def _next(self, at: int) -> tuple[bytes, bytes, int] | None:
        """The frame that begins at `at`: its command and data, and where it ends."""
        header = _HEADER.match(self._buffer, at)
        if header is None:
            if _HEADER_BEGUN.fullmatch(self._buffer, at):
                return None
            raise NotRELP(f"no RELP frame but {bytes(self._buffer[at : at + 40])!r}")
        txnr, command, datalen, separator = header.groups()
        size = int(datalen)
        if size > (_OFFERS_BYTES_MAX if command == b"open" else FRAME_BYTES_MAX):
            raise NotRELP(f"a RELP frame of {size} bytes")
        if (separator == b" ") != (size > 0):
            raise NotRELP("a RELP frame whose datalen is not followed by its data")
        # The LF behind a header without data was matched as its separator.
        end = header.end() + size - (separator == b"\n")
        if len(self._buffer) <= end:
            return None
        if self._buffer[end] != 0x0A:
            raise NotRELP("a RELP frame that does not end where its datalen says")
        if int(txnr) != self._next_txnr:
            raise NotRELP(f"txnr {int(txnr)} in the place of {self._next_txnr}")
        return bytes(command), bytes(self._buffer[header.end() : end]), end + 1

    def _take(self, command: bytes, data: bytes) -> None:
        if self._is_open == (command == b"open"):
            raise NotRELP(
                "a second 'open'"
                if self._is_open
                else "the first RELP frame is not 'open'"
            )
        if command == b"open":
            self._open(data)
        elif command == b"syslog":
            self._take_frame(data)
        elif command == b"close":
            self.answers += b"%d rsp 0\n" % self._next_txnr
            self.end()
        else:
            raise NotRELP(f"the RELP command {command[:40]!r} was never offered")
        # librelp begins again behind its last one.
        self._next_txnr = self._next_txnr % TXNR_MAX + 1

    def _open(self, data: bytes) -> None:
        offered = dict(line.partition(b"=")[::2] for line in data.split(b"\n"))
        wanted = ((b"relp_version", VERSION), (b"commands", b"syslog"))
        for name, value in wanted:
            if value not in offered.get(name, b"").split(b","):
                self._answer(b"500 %b=%b is required" % (name, value))
                raise NotRELP(
                    f"a sender that does not offer {name.decode()}={value.decode()}"
                )
        self._is_open = True
        self._answer(
            b"200 OK\nrelp_version=%b\nrelp_software=%b\ncommands=syslog"
            % (VERSION, self._software)
        )

    def _take_frame(self, data: bytes) -> None:
        try:
            self._on_frame(data)
        except NotTaken as e:
            why = " ".join(str(e).split()).encode()[:_WHY_BYTES_MAX]
            self._answer(b"500 " + why)
        else:
            self._answer(b"200 OK")

    def _answer(self, data: bytes) -> None:
        self.answers += b"%d rsp %d %b\n" % (self._next_txnr, len(data), data)

    def end(self) -> None:
        """Nothing more will be taken."""
        if not self.is_over:
            self.is_over = True
            self.answers += b"0 serverclose 0\n"


@implementer(IPushProducer)
class RELPReceiver(Protocol):
    """One connection of a sender."""

    factory: "RELPReceiverFactory"

    def __init__(self, session: Session) -> None:
        self._session = session

    def connectionMade(self) -> None:
        self.factory.connections.add(self)
        # So that a sender is not read from that does not read its answers.
        cast(IConsumer, self.transport).registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        session = self._session
        if session.is_over:
            return
        try:
            session.receive(data)
        except NotRELP as e:
            session.is_over = True
            self.factory.on_error(str(e))
        self._flush()

    def _flush(self) -> None:
        transport, answers = self.transport, bytes(self._session.answers)
        assert transport is not None
        self._session.answers.clear()
        if answers:
            transport.write(answers)
        if self._session.is_over:
            cast(IConsumer, transport).unregisterProducer()
            transport.loseConnection()

    def end(self) -> None:
        """Say goodbye, once all that was taken has its answer."""
        if not self._session.is_over:
            self._session.end()
            self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.discard(self)
        session = self._session
        self.factory.on_lost(reason, 0 if session.is_over else session.pending)

    # of what is answered

    def pauseProducing(self) -> None:
        cast(IPushProducer, self.transport).pauseProducing()

    def resumeProducing(self) -> None:
        cast(IPushProducer, self.transport).resumeProducing()

    def stopProducing(self) -> None:
        """The connection ends, which `connectionLost` says, too."""


class RELPReceiverFactory(ReceivingFactory):
    """
    RELP; a frame that was not taken is answered 500.

    @ivar software: name, version and address, separated by commas.
    """

    software = b"logiss"

    def make(self) -> RELPReceiver:
        return RELPReceiver(Session(self.on_frame, self.software))
