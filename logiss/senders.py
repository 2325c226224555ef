"""
Keeps a connection to the backend, whatever it speaks, and says when it is usable.

A `SenderFactory` keeps one connection: it connects through an `EndpointConnector`,
loses, backs off and connects again, for ever. While a connection is usable its
`Sender` is with the owner, who gives it deliveries whenever it is ready for more.
What it speaks, and when a delivery has reached its level, is its subclass's: see
`logiss.syslog_sender` and `logiss.relp_sender`.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from attrs import frozen
from OpenSSL import SSL
from twisted.internet import protocol
from twisted.internet.defer import Deferred
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
    IHalfCloseableProtocol,
    IHandshakeListener,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import ReconnectingClientFactory, connectionDone
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface, implementer

from logiss.l2met import EventLog
from logiss.metrics import Link
from logiss.wire import Wire

RECONNECT_SECONDS = 0.2
RECONNECT_SECONDS_MAX = 5.0
_BACKOFF_FACTOR = 1.6
_JITTER = 0.3
#: An attempt that took so long was a pause of its own.
LONG_ATTEMPT_SECONDS = 2.0

#: How long a backend may take to refuse us after a TLS 1.3 handshake, when it sends
#: no session ticket that would tell sooner.
CONFIRM_SECONDS = 0.25
#: How long a closing connection may take: for the backend to take what the kernel
#: still has for it, and to close.
CLOSE_SECONDS = 2.0
#: How long of it once the kernel's queue is empty.
CLOSE_EMPTY_SECONDS = 1.0


class ConnectionRefusedByUs(Exception):
    """The backend is not whom we want to talk to; says why."""


class Delivery(Protocol):
    """
    A payload on its way.

    @ivar octets: what of it is not confirmed: whole octet-counted frames; nothing
        when nobody waits for it any more.
    @ivar blamed_at: when a session has last ended with its first frame unanswered,
        in the clock's seconds; None when none has since a frame of it was answered.
        For a while it waits for a connection that became usable later.
    """

    octets: bytes
    blamed_at: float | None


@frozen
class Loss:
    """
    What the end of a connection leaves.

    @ivar why: on one line.
    @ivar unconfirmed: given to it and without outcome, oldest first.
    @ivar replay: frames that were confirmed, but that the backend may have lost.
    """

    why: str
    unconfirmed: Sequence[Delivery] = ()
    replay: Sequence[bytes] = ()


class ISender(Interface):
    """One usable connection to the backend."""

    sender_id = Attribute("Number of the connection, from 0.")
    link = Attribute("What is counted of the connection, and of those before it.")
    usable_since = Attribute("When it became usable, in the clock's seconds.")
    unconfirmed_bytes = Attribute("How much it was given that has no outcome yet.")
    joined_bytes_max = Attribute(
        "Payloads are joined up to this size for one `send`; a larger one goes alone."
    )

    def send(deliveries: Sequence[Delivery]) -> bool:
        """
        Send `deliveries` in order; only when ready for it.

        @return: whether it took them; if not, nothing was written and the
            connection is about to be lost.
        """

    def look() -> None:
        """
        See what has reached its level; to be called soon behind `send`. What has not
        by then is told later, unasked.
        """

    def unconfirmed() -> Sequence[Delivery]:
        """What it was given that has no outcome yet, oldest first."""

    def abort(why: str) -> None:
        """
        Give the connection up. The owner is told of the loss before this returns.
        """


class ISenderOwner(Interface):
    """Who gives the senders their work."""

    def sender_ready(sender: ISender) -> None:
        """`sender` takes one `send` now; the first time, it has become usable."""

    def delivered(sender: ISender, deliveries: Sequence[Delivery]) -> None:
        """`deliveries` have reached their level."""

    def refused(sender: ISender, delivery: Delivery, why: str) -> None:
        """The backend will not take `delivery`; it is not to be sent again."""

    def sender_lost(sender: ISender, loss: Loss) -> None:
        """`sender` will never be usable again."""


def reconnect_seconds(
    failures: int, fraction: float, attempt_seconds: float = 0.0
) -> float:
    """
    How long to wait before the next attempt.

    @param failures: attempts that have failed since the last usable connection.
    @param fraction: a random number from 0 to 1.
    @param attempt_seconds: how long the last attempt took.
    """
    if failures == 0 or attempt_seconds >= LONG_ATTEMPT_SECONDS:
        return RECONNECT_SECONDS
    # Ten attempts reach the limit; 1.6**2000 would not fit a float.
    delay = RECONNECT_SECONDS * _BACKOFF_FACTOR ** min(failures, 10)
    return min(delay, RECONNECT_SECONDS_MAX) * (1 - _JITTER * fraction)


@implementer(ISender, IHandshakeListener, IHalfCloseableProtocol)
class Sender(protocol.Protocol):
    """
    A connection and whether it is usable; what it speaks is its subclass's.

    @ivar hastens: whether the backend is to acknowledge soon what is written.
    @ivar usable: whether it is with its owner.
    @ivar was_usable: whether it ever was.
    """

    factory: "SenderFactory"
    link: Link
    # TCP's or TLS's; what is asked of either has no common interface.
    transport: Any
    hastens = False

    def __init__(self, sender_id: int, owner: ISenderOwner) -> None:
        self.sender_id = sender_id
        self.owner = owner
        self.unconfirmed_bytes = 0
        self.usable = False
        self.usable_since = 0.0
        self.was_usable = False
        self._over = False
        self._confirmed = False
        self._confirming: IDelayedCall | None = None

    # what a subclass says

    @property
    def joined_bytes_max(self) -> int:
        raise NotImplementedError

    def send(self, deliveries: Sequence[Delivery]) -> bool:
        raise NotImplementedError

    def unconfirmed(self) -> Sequence[Delivery]:
        raise NotImplementedError

    def accepted(self) -> None:
        """The backend has accepted the connection: begin to speak."""
        self.has_become_usable()

    def written(self) -> None:
        """All that was written has left."""

    def look(self) -> None:
        """See what has reached its level, where that is not told unasked."""

    def loss(self, why: str, in_order: bool) -> Loss:
        """
        What the end of the connection leaves.

        @param in_order: whether the backend has read all that it acknowledged.
        """
        raise NotImplementedError

    def say_goodbye(self) -> None:
        """Nothing more is to be sent: end the connection in order."""
        self.wire.close()

    # what it may use

    def has_become_usable(self) -> None:
        self.usable = self.was_usable = True
        self.usable_since = self.factory.seconds()
        self.factory.sender_usable(self)
        self.owner.sender_ready(self)

    # the transport's side

    def connectionMade(self) -> None:
        self.wire = Wire(self.transport, self.written, self.hastens)
        if not ISSLTransport.providedBy(self.transport):
            self.accepted()

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
        self.accepted()

    def readConnectionLost(self) -> None:
        self.stream_ended()
        self.transport.connectionLost(Failure(ConnectionDone()))

    def stream_ended(self) -> None:
        """The backend has ended its side of TCP; the socket can still be asked."""
        if not self._over:
            self.look()

    def writeConnectionLost(self) -> None:
        """Our side has ended, as we wanted it to."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.wire.lost()
        if self._confirming is not None:
            _stop(self._confirming)
        # TLS may have a reason of its own; how TCP ended says what was read.
        how = getattr(self.transport, "tcp_end", None) or reason
        self._end(describe(reason), how.check(ConnectionDone) is not None)
        self.factory.sender_lost(self, reason)

    @property
    def refusal(self) -> str:
        """Why the backend's certificate was refused, if it was."""
        return getattr(self.transport, "refusal", "")

    # the end

    def abort(self, why: str = "the connection was given up") -> None:
        self.wire.abort()
        self._end(why, False)

    def _end(self, why: str, in_order: bool) -> None:
        if self._over:
            return
        self._over = True
        if self.usable:
            self.usable = False
            self.factory.sender_unusable(self, why)
            self.owner.sender_lost(self, self.loss(why, in_order))


class SenderFactory(ReconnectingClientFactory):
    """
    Keeps one connection to the backend, with its lines and counts.

    @param make_sender: from the number of the connection.
    @param link: where it is counted.
    @param destination: where to, for the log; nothing where there is only one.
    @ivar sender: the usable connection, while there is one.
    """

    noisy = False

    def __init__(
        self,
        link: Link,
        make_sender: Callable[[int], Sender],
        clock: IReactorTime,
        events: EventLog,
        destination: str = "",
    ) -> None:
        self._clock = clock
        self.clock = cast(Any, clock)
        # The policy is `reconnect_seconds`, not the base class's own.
        self.jitter = cast(Any, None)
        self.call_later = clock.callLater
        self.seconds = clock.seconds
        self.connector: Any = None
        self.link = link
        self._sender_id = link.link_id
        self._make_sender = make_sender
        self._events = events
        self._destination = destination
        self._started_at = 0.0
        self.sender: Sender | None = None
        self._closed: Deferred[None] | None = None
        self._closing: IDelayedCall | None = None

    def startedConnecting(self, connector: IConnector) -> None:
        self.connector = connector
        self._started_at = self._clock.seconds()
        self.link.attempts += 1
        self._events.connect_attempted(self._sender_id, self._destination)

    def buildProtocol(self, addr: IAddress | None) -> Sender:  # type: ignore[override]
        sender = self._make_sender(self._sender_id)
        sender.factory = self
        sender.link = self.link
        return sender

    def sender_usable(self, sender: Sender) -> None:
        self.connector.established()
        self.resetDelay()
        self.sender = sender
        now = self._clock.seconds()
        link = self.link
        link.is_usable, link.since = True, now
        link.connects += 1
        link.connect_seconds += max(0.0, now - self._started_at)
        self._events.connect_succeeded(
            self._sender_id,
            now - self._started_at,
            _host_and_port(sender.transport.getPeer()),
        )

    def sender_unusable(self, sender: Sender, why: str) -> None:
        self.sender = None
        self.link.failed(self._clock.seconds(), why)
        self.link.is_usable, self.link.since = False, self._clock.seconds()
        if self.continueTrying:
            # What we end ourselves is none that was lost.
            self.link.disconnects += 1
        self._events.disconnected(self._sender_id)

    def sender_lost(self, sender: Sender, reason: Failure) -> None:
        """The connection has ended, which may never have been usable."""
        if sender.refusal and not sender.was_usable:
            reason = Failure(ConnectionRefusedByUs(sender.refusal))
        self.connector.connection_lost(reason, sender.was_usable)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self.continueTrying:
            self._tell_closed()
            return
        why = describe(reason)
        self.link.failures += 1
        self.link.failed(self._clock.seconds(), why)
        self._events.connect_failed(self._sender_id, why, self._destination)
        self.retry()

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self._tell_closed()
        super().clientConnectionLost(connector, reason)

    def retry(self, connector: IConnector | None = None) -> None:
        chance = random.random()  # noqa: S311, it spreads attempts and hides nothing
        self.delay = reconnect_seconds(
            self.retries, chance, self._clock.seconds() - self._started_at
        )
        super().retry(connector)

    def close(self) -> Deferred[None]:
        """
        Stop connecting; let a connection end in order, within `CLOSE_SECONDS`.

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
            self._closing = self._clock.callLater(
                CLOSE_EMPTY_SECONDS, self._hasten_end, sender
            )
            sender.say_goodbye()
        return closed

    def _hasten_end(self, sender: Sender) -> None:
        if sender.wire.writing or sender.wire.unacknowledged():
            more = CLOSE_SECONDS - CLOSE_EMPTY_SECONDS
            self._closing = self._clock.callLater(more, sender.wire.end)
        else:
            sender.wire.end()

    def _tell_closed(self) -> None:
        if self._closing is not None:
            _stop(self._closing)
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
