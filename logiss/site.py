"""
Serves Resources on twisted.web's own HTTP/1.1 channel, with bodies bounded in
memory.

twisted.web by itself writes large and all chunked bodies to temporary files of any
size.
"""

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.resource import IResource
from twisted.web.server import Site

#: A keep-alive connection may be idle so long: logplex drains sit for 5 minutes.
IDLE_SECONDS = 330
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

    async def say_goodbye(self, within_seconds: float) -> None:
        """Close each when its answer is written; abort those that do not read."""
        for client in list(self.protocols):
            client.loseConnection()
        deadline = self._clock.seconds() + within_seconds
        while self.protocols and self._clock.seconds() < deadline:
            await deferLater(self._clock, _POLL_SECONDS)
        for client in list(self.protocols):
            client.abortConnection()


class LogsSite(Site):
    """A `Site` that keeps bodies in memory, bounded, and writes no access log."""

    displayTracebacks = False

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
