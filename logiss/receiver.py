"""
Receives octet-counted syslog over TCP and hands on each frame.

The other end of `logiss.senders`, for trying logiss out and for tests; it keeps
nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

#: A longer frame is taken for a stream that is not octet-counted.
FRAME_BYTES_MAX = 1024 * 1024
_LENGTH_DIGITS_MAX = 7


#: So many senders may be connected.
CONNECTIONS_MAX = 1000
TOO_MANY = "too many connections: one more was closed"


#: Called with why a connection has ended and the bytes of a frame that it has begun.
OnLost = Callable[[Failure, int], None]


class NotTaken(Exception):
    """A frame is not where it was to go. Says why."""


class NotOctetCounted(Exception):
    """The stream is not ``MSG-LEN SP SYSLOG-MSG`` (RFC 6587 section 3.4.1)."""


class FrameDecoder:
    """Finds the frames in a stream that comes in pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._buffer)

    def feed(self, octets: bytes) -> Iterator[bytes]:
        """
        The SYSLOG-MSGs that `octets` complete.

        @raise NotOctetCounted: from here on there is nothing to be found.
        """
        self._buffer += octets
        start = 0
        try:
            while (bounds := self._next(start)) is not None:
                begin, start = bounds
                yield bytes(self._buffer[begin:start])
        finally:
            del self._buffer[:start]

    def _next(self, start: int) -> tuple[int, int] | None:
        space = self._buffer.find(b" ", start, start + _LENGTH_DIGITS_MAX + 1)
        digits = self._buffer[start : space if space >= 0 else None]
        if space < 0 and len(digits) <= _LENGTH_DIGITS_MAX:
            if digits and not _is_length(digits):
                raise NotOctetCounted(f"no length but {bytes(digits)!r}")
            return None
        if not _is_length(digits) or int(digits) > FRAME_BYTES_MAX:
            raise NotOctetCounted(f"no length but {bytes(digits[:20])!r}")
        begin, end = space + 1, space + 1 + int(digits)
        return (begin, end) if end <= len(self._buffer) else None


def _is_length(digits: bytearray) -> bool:
    return (
        0 < len(digits) <= _LENGTH_DIGITS_MAX
        and digits.isdigit()
        and not digits.startswith(b"0")
    )


class FrameReceiver(Protocol):
    """One connection of a sender."""

    factory: "ReceiverFactory"

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._is_over = False

    def connectionMade(self) -> None:
        self.factory.connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self._is_over:
            return
        try:
            for frame in self._decoder.feed(data):
                self.factory.on_frame(frame)
        except NotOctetCounted as e:
            self.factory.on_error(str(e))
            self.end()
        except NotTaken:
            # A reset: what the sender has been told by its kernel was too much.
            self._is_over = True
            cast(ITCPTransport, self.transport).abortConnection()

    def end(self) -> None:
        """Read nothing more."""
        self._is_over = True
        assert self.transport is not None
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.discard(self)
        self.factory.on_lost(reason, 0 if self._is_over else self._decoder.pending)


class ReceivingFactory(ServerFactory[Any]):
    """
    Connections of senders, a bounded number of them; what they speak is its subclass's.

    @param on_frame: called with each SYSLOG-MSG; raises `NotTaken` for one that was
        not taken.
    @param on_error: called with a sentence when a stream breaks the rules.
    @ivar on_lost: called with why a connection has ended, and with how many bytes of a
        frame had come that was not complete.
    """

    noisy = False

    def __init__(
        self,
        on_frame: Callable[[bytes], None],
        on_error: Callable[[str], None],
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self.on_frame = on_frame
        self.on_error = on_error
        self.on_lost: OnLost = lambda why, pending: None
        self._connections_max = connections_max
        self.connections: set[Any] = set()

    def make(self) -> Any:
        """A receiver, which keeps itself among `connections` and has an ``end``."""
        raise NotImplementedError

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self.connections) >= self._connections_max:
            self.on_error(TOO_MANY)
            return None
        receiver = self.make()
        receiver.factory = self
        return receiver

    def end(self) -> None:
        """End every connection."""
        for receiver in list(self.connections):
            receiver.end()


class ReceiverFactory(ReceivingFactory):
    """Octet-counted syslog; the connection of a frame that was not taken is reset."""

    def make(self) -> FrameReceiver:
        return FrameReceiver()


def printable(frame: bytes) -> str:
    """`frame` on one line that no terminal takes for commands."""
    text = frame.decode("utf-8", "backslashreplace")
    if text.endswith("\n"):
        text = text[:-1]
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
