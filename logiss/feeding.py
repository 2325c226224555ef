"""
Feeds a submitter with what sources say: batches that are full, or whose first message
has waited for long enough.

It reads no further while enough is on its way, so that it needs the same memory for an
input of any size.
"""

import gzip
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from logiss.sources import ISource
from logiss.submitter import Post, Submitter
from logiss.syslog_lines import Batch, Batcher, Origin, framed
from logiss.tally import Tally

#: Logs become hardly smaller at higher ones, which take thrice the time.
_GZIP_LEVEL = 3
#: logiss refuses what inflates to more than 200 times its size, if it is large.
_GZIP_RATIO_MAX = 100


class ICutter(Protocol):
    """`logiss.syslog_lines.LineCutter` or ``FrameCutter``."""

    def feed(self, octets: bytes) -> Iterator[bytes]: ...

    def end(self) -> Iterator[bytes]: ...


def timestamp(seconds: float) -> bytes:
    """RFC 5424 section 6.2.3, in UTC with microseconds."""
    at = datetime.fromtimestamp(seconds, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode("ascii")


def post_of(batch: Batch, uuid: UUID, is_zipped: bool) -> Post:
    """`batch` with the fields that logplex's and log-shuttle's posts have."""
    fields = [
        ("Content-Type", b"application/logplex-1"),
        ("Logplex-Msg-Count", b"%d" % batch.messages),
        ("Logplex-Frame-Id", uuid.hex.encode("ascii")),
        ("X-Request-Id", str(uuid).encode("ascii")),
    ]
    body = batch.octets
    if is_zipped:
        packed = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        if len(packed) * _GZIP_RATIO_MAX > len(body):
            body = packed
            fields.append(("Content-Encoding", b"gzip"))
    return Post(body, batch.messages, tuple(fields))


@frozen
class Making:
    """
    How posts are made.

    @ivar origin: of the lines that become frames; None where they are frames.
    """

    origin: Origin | None
    batch_lines: int
    batch_bytes: int
    batch_seconds: float
    is_zipped: bool


class Feeder:
    """
    @param wall_clock: the time that is in the frames, in seconds.
    @param make_uuid: for each post another.
    """

    def __init__(
        self,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        submitter: Submitter,
        tally: Tally,
        making: Making,
        make_uuid: Callable[[], UUID],
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._submitter = submitter
        self._tally = tally
        self._making = making
        self._make_uuid = make_uuid
        self._batcher = Batcher(making.batch_lines, making.batch_bytes)
        self._timer: IDelayedCall | None = None
        self._reading: Deferred[bytes] | None = None
        self.is_stopped = False

    def stop(self) -> None:
        """Read no more; what has been read is still submitted."""
        self.is_stopped = True
        self._submitter.release()
        if self._reading is not None:
            self._reading.cancel()

    async def feed(self, source: ISource, cutter: ICutter) -> None:
        """
        Submit all of `source`.

        @raise OSError: it cannot be read.
        @raise BrokenFrame: there are no frames in it, or not up to its end.
        """
        while octets := await self._read(source):
            self._tally.bytes_read += len(octets)
            await self.add(cutter.feed(octets))
        if not self.is_stopped:
            # What has no end yet may go on, but where there is nothing more.
            await self.add(cutter.end())

    async def _read(self, source: ISource) -> bytes:
        if self.is_stopped:
            return b""
        self._reading = source.read()
        try:
            return await self._reading
        except CancelledError:
            return b""
        finally:
            self._reading = None

    async def add(self, messages: Iterable[bytes]) -> None:
        """Submit them, with the time that it is now."""
        origin = self._making.origin
        head = origin.head(timestamp(self._wall_clock())) if origin else b""
        for message in messages:
            await self._gather(framed(head, message) if head else message)

    async def _gather(self, frame: bytes) -> None:
        self._tally.messages += 1
        if not self._batcher.fits(frame):
            await self._make_room()
            self.flush()
        if self._batcher.is_empty:
            self._await_time()
        self._batcher.add(frame)
        if self._batcher.is_full:
            await self._make_room()
            self.flush()

    async def _make_room(self) -> None:
        if not self._submitter.has_room and not self.is_stopped:
            await self._submitter.room()

    def _await_time(self) -> None:
        seconds = self._making.batch_seconds
        self._timer = self._clock.callLater(seconds, self._time_is_over)

    def _time_is_over(self) -> None:
        self._timer = None
        if self._submitter.has_room:
            self.flush()
        else:
            # More of them travel together then.
            self._await_time()

    def flush(self) -> None:
        """Submit what has been gathered."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if not self._batcher.is_empty:
            batch = self._batcher.take()
            post = post_of(batch, self._make_uuid(), self._making.is_zipped)
            self._submitter.submit(post)
