"""
Writes payloads to one connection and says when they have left.

A `SenderFactory` keeps one connection to the backend: it connects through an
`EndpointConnector`, loses, backs off and connects again, for ever. While a
connection is usable its `SyslogSender` is with the owner, who gives it something
to send whenever it is idle.

"Has left" means that the kernel of this machine has taken every byte, for TLS
every byte of ciphertext. Twisted tells this to a pull producer: it is asked to
produce as soon as the transport's buffer has run empty. The producer is
registered only while bytes are in flight, because one that stays keeps the
transport from closing, and on the TCP transport below TLS, because the TLS
transport would ask it in a loop.
"""

import random
import select
import socket
from collections.abc import Sequence
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    ConnectError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IHandshakeListener,
    IPullProducer,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import (
    Protocol,
    ReconnectingClientFactory,
    connectionDone,
)
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface, implementer

from logiss.l2met import EventLog
from logiss.metrics import Metrics

RECONNECT_SECONDS = 0.2
RECONNECT_SECONDS_MAX = 5.0
_BACKOFF_FACTOR = 1.6
_JITTER = 0.3

#: How long a backend may take to refuse us after a TLS 1.3 handshake, when it sends
#: no session ticket that would tell sooner.
CONFIRM_SECONDS = 0.25
#: How long a closing connection may take until it is aborted.
CLOSE_SECONDS = 1.0
# More chunks than this are small ones, and joined sooner than handed over one by one.
_CHUNKS_MAX = 64


class ConnectionBroken(Exception):
    """The connection ended before everything had left; says how."""


class NothingWritten(ConnectionBroken):
    """The connection had ended before anything was written to it; says how."""


class ConnectionRefusedByUs(Exception):
    """The backend is not whom we want to talk to; says why."""


class ISender(Interface):
    """One usable connection to the backend."""

    sender_id = Attribute("Number of the connection, from 0.")

    def send(chunks: Sequence[bytes]) -> Deferred[None]:
        """
        Write `chunks` behind each other. Only one `send` may be under way.

        @return: fires when every byte has left; fails with `ConnectionBroken`, or
            more exactly with `NothingWritten`.
        """

    def abort() -> None:
        """Give the connection up at once; what is under way fails soon after."""


class ISenderOwner(Interface):
    """Who gives the senders their work."""

    def sender_connected(sender: ISender) -> None:
        """`sender` is usable and idle."""

    def sender_lost(sender: ISender) -> None:
        """`sender` will never be usable again."""


def reconnect_seconds(failures: int, fraction: float) -> float:
    """
    How long to wait before the next attempt.

    @param failures: attempts that have failed since the last usable connection.
    @param fraction: a random number from 0 to 1.
    """
    if failures == 0:
        return RECONNECT_SECONDS
    # Ten attempts reach the limit; 1.6**2000 would not fit a float.
    delay = RECONNECT_SECONDS * _BACKOFF_FACTOR ** min(failures, 10)
    return min(delay, RECONNECT_SECONDS_MAX) * (1 - _JITTER * fraction)


@implementer(ISender, IHandshakeListener, IPullProducer)
class SyslogSender(Protocol):
    """Writes octet-counted frames (RFC 6587 section 3.4.1), reads nothing."""

    factory: "SenderFactory"
    # TCP's or TLS's; what is asked of either has no common interface.
    transport: Any

    def __init__(self, sender_id: int) -> None:
        self.sender_id = sender_id
        self._sent: Deferred[None] | None = None
        self._registering = False
        self._is_tls = False
        self._socket: socket.socket | None = None
        # Says that the backend has ended its side, even behind unread bytes.
        self._ended: Any = None
        self._confirmed = False
        self._confirming: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._is_tls = ISSLTransport.providedBy(self.transport)
        self._tcp = self.transport.transport if self._is_tls else self.transport
        if ITCPTransport.providedBy(self._tcp):
            self._tcp.setTcpNoDelay(True)
            self._tcp.setTcpKeepAlive(True)
            if hasattr(self._tcp, "getHandle") and hasattr(select, "POLLRDHUP"):
                self._socket = self._tcp.getHandle()
                self._ended = select.poll()
                self._ended.register(self._socket, select.POLLRDHUP)
        if not self._is_tls:
            self.factory.sender_connected(self)

    def handshakeCompleted(self) -> None:
        if self.transport.is_confirmed_by_handshake:
            self.session_confirmed()
        else:
            self._confirming = self.factory.call_later(
                CONFIRM_SECONDS, self.session_confirmed
            )

    def session_confirmed(self) -> None:
        """The backend has accepted the TLS session, as far as can be known."""
        # Twisted says that a handshake is completed even when it has just refused
        # the certificate.
        if self._confirmed or self.transport.is_over or self.transport.disconnecting:
            return
        self._confirmed = True
        self.factory.sender_connected(self)

    def send(self, chunks: Sequence[bytes]) -> Deferred[None]:
        assert self._sent is None, "one send at a time"
        if self._is_tls and self.transport.is_over:
            return fail(NothingWritten("the backend ended the TLS session"))
        if self._ended is not None and self._ended.poll(0):
            # The reactor will find that out by reading; connectionLost follows.
            return fail(NothingWritten("the backend closed the connection"))
        if self._is_tls:
            has_left = self.transport.write_through(b"".join(chunks), self._send_now)
        else:
            has_left = self._write_through(chunks)
        if has_left:
            return succeed(None)
        sent = self._sent = Deferred()
        self._registering = True
        self._tcp.registerProducer(self, streaming=False)
        self._registering = False
        return sent

    def _write_through(self, chunks: Sequence[bytes]) -> bool:
        """Write, at once as far as that goes; whether everything has left."""
        if len(chunks) > _CHUNKS_MAX:
            chunks = [b"".join(chunks)]
        taken = self._send_now(chunks)
        if taken == sum(map(len, chunks)):
            return True
        self.transport.write(b"".join(chunks)[taken:])
        return False

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
        if self._registering or self._sent is None:
            return
        if self._is_tls and self.transport.holds_cleartext():
            return
        self._tcp.unregisterProducer()
        if self._is_tls and self.transport.is_over:
            # What was written last may have been dropped; connectionLost follows.
            return
        sent, self._sent = self._sent, None
        sent.callback(None)

    def stopProducing(self) -> None:
        """The connection has ended; connectionLost follows."""

    def abort(self) -> None:
        if self._sent is not None:
            self._tcp.unregisterProducer()
        self.transport.abortConnection()

    def close(self) -> None:
        """End the stream in order: the backend is to read all of it, then close."""
        if self._is_tls:
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def end(self) -> None:
        """
        Wait no longer for the backend to close. What the kernel has it goes on
        sending; an abort would throw that away, answered as it is.
        """
        if self._sent is not None:
            self.abort()
        else:
            self._tcp.loseConnection()

    @property
    def refusal(self) -> str:
        """Why the backend's certificate was refused, if it was."""
        return getattr(self.transport, "refusal", "")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._socket = self._ended = None
        if self._confirming is not None:
            _stop(self._confirming)
        self.factory.sender_lost(self, reason)
        if self._sent is not None:
            sent, self._sent = self._sent, None
            sent.errback(ConnectionBroken(describe(reason)))


class SenderFactory(ReconnectingClientFactory):
    """
    Keeps one connection to the backend, with its lines and counts.

    @ivar sender: the usable connection, while there is one.
    """

    noisy = False

    def __init__(
        self,
        sender_id: int,
        owner: ISenderOwner,
        clock: IReactorTime,
        events: EventLog,
        metrics: Metrics,
    ) -> None:
        self._clock = clock
        self.clock = cast(Any, clock)
        # The policy is `reconnect_seconds`, not the base class's own.
        self.jitter = cast(Any, None)
        self.call_later = clock.callLater
        self.connector: Any = None
        self._sender_id = sender_id
        self._owner = owner
        self._events = events
        self._metrics = metrics
        self._started_at = 0.0
        self.sender: SyslogSender | None = None
        self._closed: Deferred[None] | None = None

    def startedConnecting(self, connector: IConnector) -> None:
        self.connector = connector
        self._started_at = self._clock.seconds()
        self._metrics.connects_attempted += 1
        self._events.connect_attempted(self._sender_id)

    def buildProtocol(self, addr: IAddress | None) -> SyslogSender:  # type: ignore[override]
        sender = SyslogSender(self._sender_id)
        sender.factory = self
        return sender

    def sender_connected(self, sender: SyslogSender) -> None:
        self.connector.established()
        self.resetDelay()
        self.sender = sender
        self._metrics.connects_succeeded += 1
        self._events.connect_succeeded(
            self._sender_id,
            self._clock.seconds() - self._started_at,
            _host_and_port(sender.transport.getPeer()),
        )
        self._owner.sender_connected(sender)

    def sender_lost(self, sender: SyslogSender, reason: Failure) -> None:
        was_usable = self.sender is sender
        if was_usable:
            self.sender = None
            self._metrics.disconnects += 1
            self._events.disconnected(self._sender_id)
            self._owner.sender_lost(sender)
        elif sender.refusal:
            reason = Failure(ConnectionRefusedByUs(sender.refusal))
        self.connector.connection_lost(reason, was_usable)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self.continueTrying:
            self._tell_closed()
            return
        self._metrics.connects_failed += 1
        self._events.connect_failed(self._sender_id, describe(reason))
        self.retry()

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self._tell_closed()
        super().clientConnectionLost(connector, reason)

    def retry(self, connector: IConnector | None = None) -> None:
        self.delay = reconnect_seconds(self.retries, random.random())
        super().retry(connector)

    def close(self) -> Deferred[None]:
        """
        Stop connecting; let a connection end in order, abort it after
        `CLOSE_SECONDS`.

        @return: fires when there is no connection any more.
        """
        self.stopTrying()
        closed: Deferred[None] = Deferred()
        if self._closed is not None:
            self._closed.addCallback(closed.callback)
            return closed
        if self.connector is None or not self.connector.active:
            closed.callback(None)
            return closed
        self._closed = closed
        sender = self.sender
        if sender is None:
            self.connector.disconnect()
        else:
            timer = self._clock.callLater(CLOSE_SECONDS, sender.end)
            closed.addCallback(lambda _: _stop(timer))
            sender.close()
        return closed

    def _tell_closed(self) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)


def describe(reason: Failure) -> str:
    """Why a connection failed or ended, on one line."""
    error = reason.value
    if isinstance(error, SSL.Error):
        # A queue of (library, function, reason), or a system call's (number, name).
        queue = error.args[0] if error.args else ()
        if isinstance(queue, int):
            queue = [error.args]
        why = [entry[-1] for entry in queue or () if entry[-1]]
        return "TLS: " + (", ".join(why) or "the backend broke the handshake off")
    if isinstance(error, ConnectionDone):
        return "the backend closed the connection"
    if isinstance(error, ConnectionAborted):
        return "the connection was given up"
    if isinstance(error, ConnectionRefusedByUs):
        return str(error)
    if isinstance(error, (ConnectionLost, ConnectError, DNSLookupError, TimeoutError)):
        return " ".join(str(error).split())
    return " ".join(f"{type(error).__name__}: {error}".split())


def _stop(timer: IDelayedCall) -> None:
    if timer.active():
        timer.cancel()


def _host_and_port(address: IAddress) -> str:
    host = getattr(address, "host", "")
    return f"{host}:{getattr(address, 'port', '')}" if host else ""
