"""
Connects a client factory through an endpoint, as often as it is told to.

Twisted's `ReconnectingClientFactory` wants an `IConnector`, which only the old
``connectTCP`` makes; endpoints know IPv6, happy eyeballs and fresh name look-ups.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.error import NotConnectingError
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import ClientFactory
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from zope.interface import implementer

from logiss.variables import Destination, RedisURL

#: How long an address may take for TCP's handshake. The kernel's pauses between two
#: attempts grow, so that a long wait would find a healed path late.
HANDSHAKE_SECONDS = 3.0


class IReactor(IReactorTime, IReactorTCP, IReactorPluggableNameResolver):
    """What the house asks of a reactor."""


def endpoint_to(
    reactor: IReactor, destination: Destination, timeout_seconds: float
) -> IStreamClientEndpoint:
    """What connects to `destination`, its name looked up anew each time."""
    # HostnameEndpoint refuses a name with an underscore, which no host has but
    # many a container.
    endpoint = TCP4ClientEndpoint if "_" in destination.host else HostnameEndpoint
    return endpoint(
        reactor,
        destination.host,
        destination.port,
        timeout=min(timeout_seconds, HANDSHAKE_SECONDS),
    )


def redis_endpoint(
    reactor: IReactor, url: RedisURL, timeout_seconds: float
) -> IStreamClientEndpoint:
    """What connects to the Redis at `url`, over TLS with its certificate checked."""
    destination = Destination(url.host, url.port)
    endpoint = endpoint_to(reactor, destination, timeout_seconds)
    if not url.tls:
        return endpoint
    # Against the authorities of the system, or of SSL_CERT_FILE.
    options = optionsForClientTLS(url.host.rstrip("."))
    secured: IStreamClientEndpoint = wrapClientTLS(options, endpoint)
    return secured


@implementer(IConnector)
class EndpointConnector:
    """
    Connects a `ClientFactory` through an endpoint, as often as it is told to.

    DNS, TCP and TLS together have `timeout_seconds`: whoever uses the connection
    says with `established` that they are done.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        factory: ClientFactory[Any],
        wrap: Callable[[ClientFactory[Any]], IProtocolFactory],
        timeout_seconds: float,
        destination: IAddress | None = None,
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._factory = factory
        self._wrapped = wrap(factory)
        self._timeout_seconds = timeout_seconds
        self._destination = destination
        self._attempt: Deferred[IProtocol] | None = None
        self._protocol: Any = None
        self._timer: IDelayedCall | None = None
        self._too_late = False

    def connect(self) -> None:
        self._too_late = False
        self._timer = self._clock.callLater(self._timeout_seconds, self._timed_out)
        self._factory.startedConnecting(self)
        self._attempt = self._endpoint.connect(self._wrapped)
        self._attempt.addCallbacks(self._connected, self._failed)

    def established(self) -> None:
        """The connection is usable: the time for connecting does not matter now."""
        self._stop_timer()

    def stopConnecting(self) -> None:
        if self._attempt is None:
            raise NotConnectingError("not trying to connect")
        self._attempt.cancel()

    def disconnect(self) -> None:
        if self._attempt is not None:
            self.stopConnecting()
        elif self._protocol is not None:
            self._protocol.transport.abortConnection()

    def getDestination(self) -> IAddress:
        assert self._destination is not None
        return self._destination

    def connection_lost(self, reason: Failure, was_usable: bool) -> None:
        """The connection that this made has ended, if it ever was one to use."""
        self._stop_timer()
        self._protocol = None
        if was_usable:
            self._factory.clientConnectionLost(self, reason)
        else:
            self._factory.clientConnectionFailed(self, self._cause(reason))

    @property
    def active(self) -> bool:
        """Whether there is a connection or an attempt at one."""
        return self._attempt is not None or self._protocol is not None

    def _connected(self, protocol: IProtocol) -> None:
        self._attempt = None
        self._protocol = protocol

    def _failed(self, reason: Failure) -> None:
        self._attempt = None
        self._stop_timer()
        self._factory.clientConnectionFailed(self, self._cause(reason))

    def _cause(self, reason: Failure) -> Failure:
        if not self._too_late:
            return reason
        return Failure(
            TimeoutError(f"no usable connection within {self._timeout_seconds:g} s")
        )

    def _timed_out(self) -> None:
        self._timer = None
        self._too_late = True
        self.disconnect()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
