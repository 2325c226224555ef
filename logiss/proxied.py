"""
Takes the address of a client from the PROXY header in front of its connection.

The protocol of a connection is not made before its header is there: whoever asks for
the peer then gets the client. A connection whose header is wrong or does not come in
time is closed without a word.
"""

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

from logiss import proxy_header
from logiss.proxy_header import BadHeader, Header

#: Refused headers are told of once in so many seconds.
TOLD_SECONDS = 1.0


class IClients(Protocol):
    """What is behind: a factory that can say goodbye to its connections."""

    def announce_end(self) -> None: ...

    def dismiss_idle(self) -> None: ...

    async def say_goodbye(self, within_seconds: float) -> None: ...


class ProxiedConnection(ProtocolWrapper):
    """
    One connection, and the transport of the protocol behind it.

    `wrappedProtocol` is None until the header is there.
    """

    factory: "ProxiedFactory"
    transport: Any
    wrappedProtocol: Any  # noqa: N815

    def __init__(self, factory: "ProxiedFactory") -> None:
        super().__init__(factory, None)  # type: ignore[arg-type]
        self._octets = b""
        self._client: IAddress | None = None
        self._deadline: IDelayedCall | None = None

    def makeConnection(self, transport: ITransport) -> None:  # noqa: N802
        # Not the base class's, which would connect the protocol behind at once.
        directlyProvides(self, providedBy(transport))
        self.factory.registerProtocol(self)
        self._deadline = self.factory.call_later(self._late)
        TwistedProtocol.makeConnection(self, transport)

    def dataReceived(self, data: bytes) -> None:
        if self.wrappedProtocol is not None:
            self.wrappedProtocol.dataReceived(data)
        elif self._deadline is not None:
            self._octets += data
            self._read_header()

    def _read_header(self) -> None:
        try:
            header = proxy_header.read(self._octets)
        except BadHeader as e:
            self.refuse(str(e))
        else:
            if header is not None:
                self._begin(header)

    def _begin(self, header: Header) -> None:
        """The header is there: what follows is the client's."""
        self._stop_waiting()
        rest, self._octets = self._octets[header.size :], b""
        if header.host is not None:
            kind = IPv6Address if ":" in header.host else IPv4Address
            self._client = kind("TCP", header.host, header.port)
        self.wrappedProtocol = self.factory.build_wrapped(self.getPeer())
        self.wrappedProtocol.makeConnection(self)
        if rest:
            self.wrappedProtocol.dataReceived(rest)

    def _late(self) -> None:
        self._deadline = None
        self.refuse(f"no whole PROXY header within {self.factory.header_seconds:g} s")

    def refuse(self, why: str) -> None:
        self.hang_up()
        self.factory.refused(self.transport.getPeer(), why)

    def hang_up(self) -> None:
        """Close a connection on which nothing has begun."""
        self._stop_waiting()
        self.loseConnection()

    def _stop_waiting(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_waiting()
        if self.wrappedProtocol is not None:
            super().connectionLost(reason)
        else:
            self.factory.unregisterProtocol(self)

    def getPeer(self) -> IAddress:  # noqa: N802
        """The client, or the proxy when that speaks for itself."""
        if self._client is not None:
            return self._client
        peer: IAddress = self.transport.getPeer()
        return peer


class ProxiedFactory(WrappingFactory[ProxiedConnection]):
    """
    Reads the PROXY header of each connection, and gives what follows to another
    factory.

    @param header_seconds: how long a header may take.
    @param on_refused: told how many headers were refused, the address of one who sent
        such and why it was; at most once in `TOLD_SECONDS`.
    """

    noisy = False

    def __init__(
        self,
        clients: IClients,
        clock: IReactorTime,
        header_seconds: float,
        on_refused: Callable[[int, IAddress, str], None],
    ) -> None:
        super().__init__(clients)
        self.header_seconds = header_seconds
        self._clients = clients
        self._clock = clock
        self._on_refused = on_refused
        self._refused: list[tuple[IAddress, str]] = []
        self._refused_count = 0
        self._telling: IDelayedCall | None = None

    def buildProtocol(self, addr: IAddress | None) -> ProxiedConnection:
        return ProxiedConnection(self)

    def build_wrapped(self, addr: IAddress) -> Any:
        factory: IProtocolFactory = self.wrappedFactory
        return factory.buildProtocol(addr)

    def call_later(self, late: Callable[[], None]) -> IDelayedCall:
        return self._clock.callLater(self.header_seconds, late)

    def refused(self, address: IAddress, why: str) -> None:
        self._refused_count += 1
        self._refused = [(address, why)]
        if self._telling is None:
            self._telling = self._clock.callLater(TOLD_SECONDS, self._tell)

    def _tell(self) -> None:
        self._telling = None
        ((address, why),) = self._refused
        count, self._refused_count = self._refused_count, 0
        self._on_refused(count, address, why)

    def stopFactory(self) -> None:  # noqa: N802
        self._tell_now()

    def _tell_now(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._tell()

    def announce_end(self) -> None:
        """From now on each answer is the last of its connection."""
        self._clients.announce_end()

    @property
    def connected(self) -> int:
        """How many connections there are."""
        return len(self.protocols)

    def dismiss_idle(self) -> None:
        """Close those of which no request is under way."""
        self._clients.dismiss_idle()

    async def say_goodbye(self, within_seconds: float) -> None:
        """Close each connection behind its answer, at once where nothing has begun."""
        for connection in list(self.protocols):
            if connection.wrappedProtocol is None:
                connection.hang_up()
        await self._clients.say_goodbye(within_seconds)
        self._tell_now()
