"""
Keeps the connections of a listening port to a number, and accepts none for which
there is no descriptor.

There is no room for another client when as many are connected as there may be, or
when the kernel has no descriptor or memory left. The port stops reading then: who
connects waits in the kernel's backlog, and is neither refused nor accepted and thrown
away, as Twisted by itself does without descriptors. It reads again as soon as a client
has gone, or a second after the kernel had nothing left.

Nothing here is on the way of a request. A connection is counted when its transport is
made (``Port.transport``, which Twisted lets others replace) and when that has closed
its socket.
"""

import errno
import socket
from typing import Any, Protocol, cast

from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IProtocol,
    IReactorFDSet,
    IReactorTime,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from logiss.l2met import EventLog
from logiss.shares import YIELD_SECONDS, Shares

#: How long accepting pauses when the kernel has nothing left, and how often it is
#: looked whether a pause is over for good. So there are at most two lines a second.
PAUSE_SECONDS = 1.0

#: What accept(2) says when the process, or the whole system, has nothing left.
_NOTHING_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Reading(Protocol):
    """What can stop reading: a `tcp.Port`."""

    def startReading(self) -> None: ...  # noqa: N802

    def stopReading(self) -> None: ...  # noqa: N802


class Accepting:
    """
    Decides whether the next client is accepted.

    A pause is a line in the log when it begins, and one when a second has gone by
    without it; how often it comes and goes meanwhile is not said.

    @param connections_max: how many there may be at once.
    @param shares: of several workers that accept on the port's socket.
    @ivar connections: how many there are.
    @ivar pauses: how many pauses there were that the log tells of.
    """

    def __init__(
        self,
        clock: IReactorTime,
        port: Reading,
        connections_max: int,
        events: EventLog,
        shares: Shares | None = None,
    ) -> None:
        self._clock = clock
        self._port = port
        self._connections_max = connections_max
        self._events = events
        self._shares = shares
        # Whether others have had the time to take the client that waits.
        self._has_yielded = False
        self._yielding: IDelayedCall | None = None
        self.connections = self.pauses = 0
        self._paused = False
        # Whether only time ends the pause, and whether there was one since the last
        # look.
        self._nothing_left = False
        self._paused_lately = False
        self._paused_at = self._resumed_at = 0.0
        self._look: IDelayedCall | None = None

    def has_room(self) -> bool:
        """Whether one more may be accepted; pauses if not."""
        if self.connections < self._connections_max:
            return self._shares is None or self._is_my_turn(self._shares)
        self._pause(f"{self._connections_max} clients, as many as there may be")
        return False

    def nothing_left(self, why: str) -> None:
        """The kernel could not give out another connection; try again later."""
        self._nothing_left = True
        self._pause(why)

    def _is_my_turn(self, shares: Shares) -> bool:
        if self._has_yielded or not shares.is_anothers_turn(self.connections):
            self._has_yielded = False
            return True
        self._port.stopReading()
        if self._yielding is None:
            self._yielding = self._clock.callLater(YIELD_SECONDS, self._yielded)
        return False

    def _yielded(self) -> None:
        self._yielding = None
        self._has_yielded = True
        if not self._paused:
            self._port.startReading()

    def client_made(self) -> None:
        self.connections += 1
        self._tell_shares()

    def client_lost(self) -> None:
        self.connections -= 1
        self._tell_shares()
        if not self._nothing_left:
            self._go_on()

    def stop(self) -> None:
        """The port is about to be closed, and is not to be touched any more."""
        self._paused = False
        if self._shares is not None:
            self._shares.leave()
            self._shares = None
        if self._yielding is not None:
            self._yielding.cancel()
            self._yielding = None
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _tell_shares(self) -> None:
        if self._shares is not None:
            self._shares.has(self.connections)

    def _pause(self, why: str) -> None:
        self._paused = self._paused_lately = True
        self._port.stopReading()
        if self._look is None:
            self.pauses += 1
            self._paused_at = self._clock.seconds()
            self._events.accepting_paused(self.connections, why)
            self._look_later()

    def _go_on(self) -> None:
        if self._paused and self.connections < self._connections_max:
            self._paused = False
            self._resumed_at = self._clock.seconds()
            self._port.startReading()

    def _look_later(self) -> None:
        self._paused_lately = self._paused
        self._look = self._clock.callLater(PAUSE_SECONDS, self._looked)

    def _looked(self) -> None:
        self._look = None
        if self._nothing_left:
            self._nothing_left = False
            self._go_on()
            self._look_later()
        elif self._paused_lately:
            self._look_later()
        else:
            pause_seconds = self._resumed_at - self._paused_at
            self._events.accepting_resumed(self.connections, pause_seconds)


class BoundedSocket:
    """A listening socket that has no more clients when there is no room for them."""

    def __init__(self, listener: socket.socket, accepting: Accepting) -> None:
        self._listener = listener
        self._accepting = accepting

    def accept(self) -> tuple[socket.socket, Any]:
        """
        @raise BlockingIOError: there is nobody, or no room; Twisted's accept loop ends
            there until the port is readable.
        """
        if not self._accepting.has_room():
            raise BlockingIOError(errno.EAGAIN, "no room")
        try:
            return self._listener.accept()
        except OSError as e:
            if e.errno not in _NOTHING_LEFT:
                raise
            self._accepting.nothing_left(f"accept: {e.strerror}")
            raise BlockingIOError(errno.EAGAIN, "nothing left") from e

    def __getattr__(self, name: str) -> Any:
        # All the rest that a `tcp.Port` does with its socket.
        return getattr(self._listener, name)


class CountedServer(tcp.Server):
    """
    The transport of one client.

    @ivar accepting: set once it is made.
    """

    accepting: Accepting

    def connectionLost(self, reason: Failure) -> None:
        # Twisted may call this again when all is over.
        is_open = hasattr(self, "socket")
        try:
            super().connectionLost(reason)
        finally:
            if is_open:
                self.accepting.client_lost()


@implementer(IListeningPort)
class BoundedPort:
    """
    A port that listens already, from now on bounded.

    @param clock: for the pauses.
    @param connections_max: how many clients may be connected at once.
    @param shares: where several workers accept on the same socket.
    """

    def __init__(
        self,
        clock: IReactorTime,
        port: IListeningPort,
        connections_max: int,
        events: EventLog,
        shares: Shares | None = None,
    ) -> None:
        # A `tcp.Port` in all but its interface.
        self._port = cast(Any, port)
        # Another reactor's port, as one in memory, is left as it is.
        self._is_bounded = isinstance(port, tcp.Port)
        self._accepting = Accepting(clock, self._port, connections_max, events, shares)
        if shares is not None:
            shares.has(0)
        self._bound()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._accepting.connections

    @property
    def pauses(self) -> int:
        """How often accepting has paused."""
        return self._accepting.pauses

    def _bound(self) -> None:
        if self._is_bounded:
            self._port.socket = BoundedSocket(self._port.socket, self._accepting)
            self._port.transport = self._make_transport

    def _make_transport(
        self,
        client: socket.socket,
        protocol: IProtocol,
        address: tuple[object, ...],
        port: tcp.Port,
        number: int,
        reactor: IReactorFDSet,
    ) -> CountedServer:
        transport = CountedServer(client, protocol, address, port, number, reactor)
        transport.accepting = self._accepting
        self._accepting.client_made()
        return transport

    def getHost(self) -> IAddress:  # noqa: N802
        address: IAddress = self._port.getHost()
        return address

    def startListening(self) -> None:  # noqa: N802
        self._port.startListening()
        self._bound()

    def stopListening(self) -> Deferred[None] | None:  # noqa: N802
        self._accepting.stop()
        stopped: Deferred[None] | None = self._port.stopListening()
        return stopped
