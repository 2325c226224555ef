"""
RELP servers on the real reactor that take frames, or misbehave.

They read RELP with a parser of their own, which shares nothing with `logiss.relp`.
What they do with a frame is a function of the session, its txnr and its message;
`on_frame` makes one that misbehaves once.
"""

import re
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias

from attrs import evolve

from logiss.variables import Destination
from tests.integration.backends import Backend, Connection, TLSBackend, TLSConnection

OFFERS = b"200 OK\nrelp_version=0\nrelp_software=tests,1\ncommands=syslog"
#: As many frames may be without an answer.
WINDOW = 128

_FRAME = re.compile(rb"(\d{1,9}) ([a-z]{1,32}) (\d{1,9})([ \n])", re.ASCII)


class RELPConnection(Connection):
    """
    One session.

    @ivar commands: txnr and command of every whole frame, in order.
    @ivar txnrs: of the syslog frames, in order.
    @ivar reads: how many reads had syslog frames in them.
    @ivar held: txnrs that are to be answered later.
    @ivar mute: whether nothing is answered any more, however good.
    """

    backend: "RELPBackend"

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.commands: list[tuple[int, bytes]] = []
        self.txnrs: list[int] = []
        self.reads = 0
        self.held: list[int] = []
        self.mute = False
        self._buffer = b""
        self._said = b""

    def take(self, octets: bytes) -> None:
        self._buffer += octets
        before = len(self.txnrs)
        while self._take_frame():
            pass
        self.reads += len(self.txnrs) > before
        self.backend.on_octets(self)
        self.flush()

    def _take_frame(self) -> bool:
        header = _FRAME.match(self._buffer)
        if header is None:
            return False
        txnr, command, size = int(header[1]), header[2], int(header[3])
        if size > self.backend.message_bytes_max:
            self.backend.too_long += 1
            self.backend.on_too_long(self, txnr, b"")
            self._buffer = b""
            return False
        start = header.end() if size else header.end() - 1
        if len(self._buffer) <= start + size:
            return False
        data = self._buffer[start : start + size]
        assert self._buffer[start + size : start + size + 1] == b"\n"
        self._buffer = self._buffer[start + size + 1 :]
        # They start at 1, and a gap would end a session of librelp's.
        assert txnr == len(self.commands) + 1
        self.commands.append((txnr, command))
        self._take_command(txnr, command, data)
        return True

    def _take_command(self, txnr: int, command: bytes, data: bytes) -> None:
        if command == b"open":
            self.offers = data
            self.backend.on_open(self)
        elif command == b"close":
            self.say(b"%d rsp 0\n0 serverclose 0\n" % txnr)
            self.flush()
            self.transport.loseConnection()
        else:
            assert command == b"syslog"
            self.txnrs.append(txnr)
            self.frames.append(data)
            self.backend.frames.append(data)
            self.backend.on_syslog(self, txnr, data)

    def answer(self, txnr: int, data: bytes = b"200 OK") -> None:
        self.say(b"%d rsp %d %b\n" % (txnr, len(data), data))

    def say(self, octets: bytes) -> None:
        """With all else that is said behind this read, in one write."""
        if not self.mute:
            self._said += octets

    def flush(self) -> None:
        """Now, not at the end of the reactor's turn: a reset may come before that."""
        octets, self._said = self._said, b""
        if octets:
            self.send(octets)

    def send(self, octets: bytes) -> None:
        assert self.transport.getHandle().send(octets) == len(octets)

    def answer_held(self) -> None:
        """Answer what has waited for it, in order."""
        held, self.held = self.held, []
        for txnr in held:
            self.answer(txnr)
        self.flush()

    def end(self) -> None:
        """Say what there is to be said, then the end of the stream."""
        self.flush()
        self.mute = True
        self.send_eof()


class RELPTLSConnection(RELPConnection, TLSConnection):
    """One session within TLS."""

    backend: "RELPTLSBackend"

    def send(self, octets: bytes) -> None:
        # What is left of the handshake may be waiting in the transport.
        self.tls.write(octets)
        self._flush()


Answering: TypeAlias = Callable[[Any, int, bytes], None]


class RELPBackend(Backend):
    """
    @ivar on_open: what to do when a session is opened.
    @ivar on_syslog: what to do with each syslog frame.
    @ivar message_bytes_max: how long a message may be.
    @ivar on_too_long: what to do with a longer one.
    @ivar too_long: how many there were.
    """

    def __init__(self) -> None:
        super().__init__(make_connection=RELPConnection)
        self._behave()

    def _behave(self) -> None:
        self.on_open: Callable[[Any], None] = accept
        self.on_syslog: Answering = confirm
        self.message_bytes_max = 131_072
        self.on_too_long: Answering = eof
        self.too_long = 0

    @property
    def destination(self) -> Destination:
        return evolve(super().destination, scheme="relp")

    @property
    def sessions(self) -> list[RELPConnection]:
        """All that have been opened, in order."""
        return [
            c for c in self.connections if isinstance(c, RELPConnection) and c.commands
        ]

    @property
    def used(self) -> list[RELPConnection]:
        """Those that have had syslog frames."""
        return [session for session in self.sessions if session.txnrs]


class RELPTLSBackend(RELPBackend, TLSBackend):
    """The same within TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        TLSBackend.__init__(self, context)
        self.make_connection = RELPTLSConnection
        self._behave()

    @property
    def destination(self) -> Destination:
        return evolve(super().destination, scheme="relp+tls")


# what to do when a session is opened


def opening(octets: bytes) -> Callable[[RELPConnection], None]:
    """Answer `octets`."""
    return lambda session: session.say(octets)


def accept(session: RELPConnection) -> None:
    session.answer(1, OFFERS)


def never_open(session: RELPConnection) -> None:
    """Answer nothing."""


# what to do with a syslog frame


def confirm(session: RELPConnection, txnr: int, message: bytes) -> None:
    session.answer(txnr)


def ignore(session: RELPConnection, txnr: int, message: bytes) -> None:
    """Never answer."""


def hold(session: RELPConnection, txnr: int, message: bytes) -> None:
    """Answer when the test says so."""
    session.held.append(txnr)


def refuse(session: RELPConnection, txnr: int, message: bytes) -> None:
    session.answer(txnr, b"500 cannot store it")


def serverclose(session: RELPConnection, txnr: int, message: bytes) -> None:
    session.say(b"0 serverclose 0\n")
    session.end()


def eof(session: RELPConnection, txnr: int, message: bytes) -> None:
    session.end()


def reset(session: RELPConnection, txnr: int, message: bytes) -> None:
    session.flush()
    session.mute = True
    session.transport.abortConnection()


def garbage(session: RELPConnection, txnr: int, message: bytes) -> None:
    session.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    session.flush()
    session.mute = True


def unknown_txnr(session: RELPConnection, txnr: int, message: bytes) -> None:
    session.answer(999_999)
    session.flush()
    session.mute = True


def on_frame(n: int, misbehave: Answering, sessions: int = 1) -> Answering:
    """Confirm all but frame `n`, from 1, of each of the first `sessions` used."""
    misbehaved: list[RELPConnection] = []

    def answering(session: RELPConnection, txnr: int, message: bytes) -> None:
        if len(session.txnrs) == n and len(misbehaved) < sessions:
            misbehaved.append(session)
            misbehave(session, txnr, message)
        else:
            confirm(session, txnr, message)

    return answering
