"""
Serves Resources to clients: on `logiss.channel`, or on twisted.web's own channel with
bodies bounded in memory.

twisted.web by itself writes large and all chunked bodies to temporary files of any
size.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import LoopingCall, deferLater
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.http import datetimeToString
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import Site

from logiss.answers import OK, Answer, IReadsEarly
from logiss.budget import Budget
from logiss.channel import Channel
from logiss.limits import IDLE_SECONDS, ChannelLimits
from logiss.metrics import CountsByCode
from logiss.requests import LeanRequest

#: What the reactor reads at once from a client, and when memory is tight.
READ_BYTES, READ_BYTES_TIGHT = 64 * 1024, 8 * 1024

_BEAT_SECONDS = 1.0
_POLL_SECONDS = 0.02


class BoundedBody:
    """
    Keeps a body in memory up to `limit_bytes`, and of a larger one nothing.

    Takes the place of the file that twisted.web writes a body to.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._chunks: list[bytes] = []
        self._size = 0

    def write(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self._limit_bytes:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    def tell(self) -> int:
        """How large the body is, kept or not."""
        return self._size

    def seek(self, offset: int, whence: int = 0) -> None:
        """A body is only ever read whole."""

    def read(self) -> bytes:
        return b"".join(self._chunks)

    def close(self) -> None:
        self._chunks.clear()


class Clients(WrappingFactory[ProtocolWrapper]):
    """Knows the connections of a `Site`, so that they can be closed in order."""

    noisy = False

    def __init__(self, site: Site, clock: IReactorTime) -> None:
        super().__init__(site)
        self._clock = clock

    def announce_end(self) -> None:
        """From now on each answer is the last of its connection."""
        cast(Any, self.wrappedFactory).is_leaving = True

    @property
    def connected(self) -> int:
        """How many there are."""
        return len(self.protocols)

    def dismiss_idle(self) -> None:
        """Close those of which no request is under way."""
        for client in list(self.protocols):
            if _is_idle(cast(Any, client.wrappedProtocol)):
                client.loseConnection()

    async def say_goodbye(self, within_seconds: float) -> None:
        """Close each when its answer is written; abort those that do not read."""
        for client in list(self.protocols):
            client.loseConnection()
        deadline = self._clock.seconds() + within_seconds
        while self.protocols and self._clock.seconds() < deadline:
            await deferLater(self._clock, _POLL_SECONDS)
        for client in list(self.protocols):
            client.abortConnection()


def _is_idle(channel: Any) -> bool:
    """Whether a channel of twisted.web has nothing of a request."""
    # It makes the request when the first line is there.
    channel = getattr(channel, "_channel", channel)
    return not channel.requests and not channel._buffer


class LogsSite(Site):
    """A `Site` that keeps bodies in memory, bounded, and writes no access log."""

    displayTracebacks = False
    is_leaving = False

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        max_body_bytes: int,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        super().__init__(
            resource,
            parsePOSTFormSubmission=False,
            timeout=idle_seconds,
            reactor=reactor,
        )
        self.noisy = False
        self._max_body_bytes = max_body_bytes

    def getContentFile(self, length: int | None) -> BoundedBody:
        """Called by twisted.web for each request, before its body."""
        return BoundedBody(self._max_body_bytes)

    def log(self, request: object) -> None:
        """What is to be said of a request is in the l2met lines."""


class ChannelSite(ServerFactory[Channel]):
    """
    Serves a tree of Resources over `Channel`.

    @param root: the tree.
    @param fixed: Resources that need not be looked for in the tree, by path.
    @param limits: how much and how long clients may send.
    @param delivery_level: what each answer says a 200 to a post means, if it is
        known.
    @param budget: where what is read ahead counts.
    @param on_cut: told how many clients were cut off, the address of one and why it
        was.
    @param refused_by_code: counts requests that are none that could be served.
    @ivar channels: the connections there are.
    """

    noisy = False
    displayTracebacks = False
    is_leaving = False
    _parsePOSTFormSubmission = False  # noqa: N815, twisted.web asks its site

    def __init__(
        self,
        root: IResource,
        clock: IReactorTime,
        limits: ChannelLimits,
        fixed: Mapping[bytes, IResource],
        delivery_level: str | None = None,
        budget: Budget | None = None,
        on_cut: Callable[[int, IAddress, str], None] = lambda *cut: None,
        refused_by_code: CountsByCode | None = None,
    ) -> None:
        self.clock = clock
        self._refused_by_code = refused_by_code or CountsByCode()
        self.limits = limits
        self.budget = budget or Budget(clock, sys.maxsize)
        self.budget.on_tight = self._tightened
        self._on_cut = on_cut
        self.level = delivery_level
        self.channels: set[Channel] = set()
        self._root = root
        self._fixed = fixed
        # Sessions, for a Resource that wants one, are twisted.web's.
        sessions = Site(root, reactor=clock)
        self.makeSession, self.getSession = sessions.makeSession, sessions.getSession
        self._beat = LoopingCall(self._beaten)
        self._beat.clock = clock
        self._early = {r: IReadsEarly.providedBy(r) for r in fixed.values()}
        self._tick()

    def startFactory(self) -> None:  # noqa: N802
        self._beat.start(_BEAT_SECONDS)

    def stopFactory(self) -> None:  # noqa: N802
        self._beat.stop()

    def _beaten(self) -> None:
        # A date and an idle timeout for each connection would be timers per POST.
        self._tick()
        now = self.clock.seconds()
        since = now - self.limits.deadlines.idle_seconds
        for channel in [c for c in self.channels if c.last_active <= since]:
            channel.close_if_idle(since)
        late = [(c, why) for c in self.channels if (why := c.why_late(now))]
        for channel, _ in late:
            channel.abort()
        if late:
            channel, why = late[0]
            self._on_cut(len(late), cast(IAddress, channel.peer), why)

    def _tick(self) -> None:
        self.date = datetimeToString(self.clock.seconds())
        self.ok = OK.octets(self.date, self.level, False)

    def refused(self, answer: Answer) -> None:
        """A client has sent something that is no request, or too much of one."""
        self._refused_by_code[answer.code] += 1

    def joined(self, channel: Channel) -> None:
        """A client has connected."""
        self.channels.add(channel)
        if self.budget.is_tight:
            channel.read_at_most(READ_BYTES_TIGHT)

    def _tightened(self, is_tight: bool) -> None:
        # What all of them read at once may be more than the room that is left.
        size = READ_BYTES_TIGHT if is_tight else READ_BYTES
        for channel in self.channels:
            channel.read_at_most(size)

    def reads_early(self, resource: IResource) -> bool:
        # To ask an object for its interfaces costs more than all of the headers.
        known = self._early.get(resource)
        return IReadsEarly.providedBy(resource) if known is None else known

    def buildProtocol(self, addr: IAddress | None) -> Channel:
        channel = Channel(self)
        channel.factory = self
        return channel

    def resource_for(self, request: LeanRequest) -> IResource:
        resource = self._fixed.get(request.path)
        if resource is not None:
            request.prepath, request.postpath = [request.path[1:]], []
            return resource
        return cast(IResource, getChildForRequest(self._root, request))

    def log(self, request: object) -> None:
        """What is to be said of a request is in the l2met lines."""

    def announce_end(self) -> None:
        """From now on each answer is the last of its connection."""
        self.is_leaving = True
        if not self._beat.running:
            # Nobody is let in any more, but those who are there have their deadlines,
            # and answers have their date, until `say_goodbye`.
            self._beat.start(_BEAT_SECONDS)

    @property
    def connected(self) -> int:
        """How many connections there are."""
        return len(self.channels)

    def dismiss_idle(self) -> None:
        """Close those of which no request is under way."""
        for channel in list(self.channels):
            if channel.is_between_requests():
                channel.close_when_done()

    async def say_goodbye(self, within_seconds: float) -> None:
        """Close each connection behind its answer; abort those that do not read."""
        for channel in list(self.channels):
            channel.close_when_done()
        deadline = self.clock.seconds() + within_seconds
        while self.channels and self.clock.seconds() < deadline:
            await deferLater(self.clock, _POLL_SECONDS)
        for channel in list(self.channels):
            channel.abort()
        if self._beat.running and self.is_leaving:
            self._beat.stop()
