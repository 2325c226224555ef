"""
One connection to the backend, TCP or TLS: writes at once, and knows what has left
and what the backend's kernel has acknowledged.

"Has left" means that the kernel of this machine has taken every byte, for TLS every
byte of ciphertext. What it does not take at once Twisted's transport keeps and tells
a pull producer when its buffer has run empty. The producer is registered only while
bytes are in flight, because one that stays keeps the transport from closing, and on
the TCP transport below TLS, because the TLS transport would ask it in a loop.

"Acknowledged" is what has left without what still stands in the kernel's send queue
(``SIOCOUTQ``, tcp(7)). That queue tells the truth after a reset, too.
"""

import select
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IPullProducer, ISSLTransport, ITCPTransport
from zope.interface import implementer

try:
    import termios
    from fcntl import ioctl
except ImportError:
    _SIOCOUTQ = 0
else:
    # It has the number of the terminals' TIOCOUTQ.
    _SIOCOUTQ = getattr(termios, "TIOCOUTQ", 0)

#: Written bytes that nobody acknowledges end the connection after this: a black hole
#: or a closed window would otherwise take a quarter of an hour.
USER_TIMEOUT_SECONDS = 3.0
#: When an idle connection is asked for a sign of life, how often then, and until when.
KEEPALIVE_IDLE_SECONDS = 15
KEEPALIVE_INTERVAL_SECONDS = 2
KEEPALIVE_PROBES = 3

# A receiver acknowledges a write of one segment only when its timer for delayed
# acknowledgements fires, 40 ms later, and on loopback a segment is 64 KiB. A short
# segment behind it is acknowledged as soon as it has been read; and so is a write that
# is longer than a segment, which needs none.
_TAIL_BYTES = 64
_TAILED_BYTES_MAX = 64 * 1024
# What the transport is given at once: it copies, and encrypts, what it is given.
_PIECE_BYTES = 256 * 1024
_NOTHING = memoryview(b"")
# More chunks than this are small ones, and joined sooner than handed over one by one.
_CHUNKS_MAX = 64

_unpack_int = struct.Struct("i").unpack


def why_no_acknowledgements() -> str:
    """Why this platform cannot say what was acknowledged; nothing when it can."""
    if not sys.platform.startswith("linux") or not _SIOCOUTQ:
        return f"needs Linux's SIOCOUTQ, which {sys.platform} does not have"
    with socket.socket() as probe:
        try:
            _send_queue(probe.fileno())
        except OSError as e:
            return f"needs the ioctl SIOCOUTQ, which this system refuses: {e.strerror}"
    return ""


def _send_queue(fd: int) -> int:
    size: int = _unpack_int(ioctl(fd, _SIOCOUTQ, b"\0\0\0\0"))[0]
    return size


@implementer(IPullProducer)
class Wire:
    """
    @param transport: a connected TCP transport, or `logiss.tls.ClientTLS` over one.
    @param left: called when all that was written has left, unless `write` has
        already said so.
    @param hastens: whether the backend is to acknowledge soon what is written.
    @ivar writing: whether something that was written has not left.
    """

    def __init__(
        self, transport: Any, left: Callable[[], None], hastens: bool = False
    ) -> None:
        self._transport = transport
        self._left = left
        self._hastens = hastens
        self._is_tls = ISSLTransport.providedBy(transport)
        self._tcp = transport.transport if self._is_tls else transport
        self._socket: socket.socket | None = None
        # Says that the backend has ended its side, even behind unread bytes.
        self._ended: Any = None
        self.writing = False
        self._registering = False
        # What the transport has not been given yet.
        self._rest = _NOTHING
        self._tail = b""
        if ITCPTransport.providedBy(self._tcp):
            self._tcp.setTcpNoDelay(True)
            self._tcp.setTcpKeepAlive(True)
            if hasattr(self._tcp, "getHandle"):
                self._take_socket(self._tcp.getHandle())

    def _take_socket(self, connection: socket.socket) -> None:
        self._socket = connection
        self._fd = connection.fileno()
        if hasattr(select, "POLLRDHUP"):
            self._ended = select.poll()
            self._ended.register(connection, select.POLLRDHUP)
        for name, value in (
            ("TCP_USER_TIMEOUT", int(USER_TIMEOUT_SECONDS * 1000)),
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
            ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ):
            option = getattr(socket, name, None)
            if option is not None and connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def why_ended(self) -> str:
        """Why nothing must be written any more, as far as is known by now."""
        if self._is_tls and self._transport.is_over:
            return "the backend ended the TLS session"
        if self._ended is not None and self._ended.poll(0):
            # The reactor will find that out by reading; connectionLost follows.
            return "the backend closed the connection"
        return ""

    def unacknowledged(self) -> int:
        """
        Bytes that have left and that the backend's kernel has not acknowledged; for
        TLS of ciphertext. All there ever were, where there is no socket to ask.
        """
        return sys.maxsize if self._socket is None else _send_queue(self._fd)

    def write(self, chunks: Sequence[bytes]) -> bool:
        """
        Write `chunks` behind each other; not while `writing`.

        @return: whether everything has left already.
        """
        assert not self.writing, "one write at a time"
        if self._is_tls:
            self._rest = memoryview(b"".join(chunks))
            has_left = self._encrypt_rest()
        else:
            has_left = self._write_through(chunks)
        if has_left:
            return True
        self.writing = True
        self._registering = True
        self._tcp.registerProducer(self, streaming=False)
        self._registering = False
        return False

    def _write_through(self, chunks: Sequence[bytes]) -> bool:
        if len(chunks) > _CHUNKS_MAX:
            chunks = [b"".join(chunks)]
        taken = self._send_now(chunks)
        if taken == sum(map(len, chunks)):
            return True
        self._rest = memoryview(b"".join(chunks))[taken:]
        self._write_rest()
        return False

    def _write_rest(self) -> None:
        """Give the transport the next piece; the last without its short end."""
        piece = self._next_piece()
        if not self._rest and self._hastens and len(piece) > _TAIL_BYTES:
            piece, self._tail = piece[:-_TAIL_BYTES], piece[-_TAIL_BYTES:]
        self._transport.write(piece)

    def _encrypt_rest(self) -> bool:
        """
        @return: whether everything has left.
        """
        while self._rest:
            if not self._transport.write_through(self._next_piece(), self._send_now):
                return False
        return True

    def _next_piece(self) -> bytes:
        piece = bytes(self._rest[:_PIECE_BYTES])
        # An empty view of them would keep all octets.
        rest = len(self._rest) > _PIECE_BYTES
        self._rest = self._rest[_PIECE_BYTES:] if rest else _NOTHING
        return piece

    def _send_now(self, chunks: Sequence[bytes]) -> int:
        """
        Give the kernel what it takes at once; the reactor would make it two more
        system calls and a turn.

        @return: how many bytes it took. None within TLS when there are bytes to be
            read, for they may be the end of the session: the reactor reads before
            it writes.
        """
        connection = self._socket
        if connection is None:
            return 0
        try:
            if self._is_tls and self._has_unread(connection):
                return 0
            if self._hastens and sum(map(len, chunks)) <= _TAILED_BYTES_MAX:
                return _send_with_tail(connection, chunks)
            return connection.sendmsg(chunks)
        except OSError:
            return 0

    @staticmethod
    def _has_unread(connection: socket.socket) -> bool:
        try:
            connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def resumeProducing(self) -> None:
        # The first call comes from registerProducer, the next when the kernel has
        # taken everything, unless TLS still holds bytes back.
        if self._registering or not self.writing:
            return
        if self._tail:
            tail, self._tail = self._tail, b""
            self._transport.write(tail)
            return
        if self._is_tls:
            if self._transport.holds_cleartext() or not self._encrypt_rest():
                return
        elif self._rest:
            self._write_rest()
            return
        self._tcp.unregisterProducer()
        if self._is_tls and self._transport.is_over:
            # What was written last may have been dropped; connectionLost follows.
            return
        self.writing = False
        self._left()

    def stopProducing(self) -> None:
        """The connection has ended; connectionLost follows."""

    def abort(self) -> None:
        """Give the connection up; what the kernel still has is thrown away."""
        if self.writing:
            self.writing = False
            self._tcp.unregisterProducer()
        self._rest, self._tail = _NOTHING, b""
        self._transport.abortConnection()

    def close(self) -> None:
        """End the stream in order: the backend is to read all of it, then close."""
        if self._is_tls:
            self._transport.loseConnection()
        else:
            self._transport.loseWriteConnection()

    def end(self) -> None:
        """
        Wait no longer for the backend to close. What the kernel has it goes on
        sending; an abort would throw that away, answered as it is.
        """
        if self.writing:
            self.abort()
        else:
            self._tcp.loseConnection()

    def lost(self) -> None:
        """The connection has ended: there is no socket to ask any more."""
        self._socket = self._ended = None
        self._rest, self._tail = _NOTHING, b""


def _send_with_tail(connection: socket.socket, chunks: Sequence[bytes]) -> int:
    """Send `chunks`, the end of them in a segment of its own."""
    head: list[bytes | memoryview] = [*chunks]
    last = chunks[-1]
    head.pop()
    if len(last) > _TAIL_BYTES:
        head.append(memoryview(last)[:-_TAIL_BYTES])
        last = last[-_TAIL_BYTES:]
    if not head:
        return connection.send(last)
    taken = connection.sendmsg(head)
    if taken == sum(map(len, head)):
        try:
            taken += connection.send(last)
        except OSError:
            pass
    return taken
