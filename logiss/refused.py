"""
Keeps the last bodies that were refused, in files of a directory, within bounds.

A thread writes them one by one, so that no disk holds up the posts. Whoever can post
can fill neither disk nor memory: so many a second are kept, so many bytes a second, so
many wait to be written, and what is not kept is counted. Once a minute a line says so.

Only files whose names are ours are ever deleted. Several processes may share the
directory: each looks before it writes at what is there, also at what another has begun.
"""

import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from threading import Thread
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from logiss import captures
from logiss.captures import NAME, Capture
from logiss.l2met import EventLog
from logiss.metrics import Metrics

#: At most so many are kept in a second.
RATE = 10
#: And so many bytes, on average; one body may be larger than that.
BYTES_RATE = 8 * 1024 * 1024
#: When so many bytes wait to be written, or so many bodies, no more are taken.
WAITING_BYTES_MAX = 16 * 1024 * 1024
WAITING_MAX = 2 * RATE
#: How often a line says what was not kept.
SAY_SECONDS = 60.0
#: How long the end waits for the disk. A healthy one has taken all that can wait by
#: then, without being asked to sync it; one that hangs must not hold up a drain.
STOP_SECONDS = 1.0
#: A file that was begun so long ago will not be finished.
STALE_SECONDS = 3600.0

_PART = re.compile(rf"\.{NAME.pattern}\.part")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TOO_SLOW = "the disk is too slow"
# What it takes to say that a body is cut.
_CUT_BYTES = len("Body-Cut: 1\n")

#: Calls a function in a thread; fires with its result.
InThread = Callable[[Callable[[], Any]], Deferred[Any]]


def in_daemon_thread(
    reactor: IReactorFromThreads, work: Callable[[], Any]
) -> Deferred[Any]:
    """
    Call `work` in a thread of its own, which no end of the process waits for: those of
    the reactor's pool are joined, and a disk may hang.
    """
    done: Deferred[Any] = Deferred()

    def call() -> None:
        try:
            result = work()
        except BaseException:
            reactor.callFromThread(done.errback, Failure())
        else:
            reactor.callFromThread(done.callback, result)

    try:
        Thread(target=call, name="captures", daemon=True).start()
    except RuntimeError:
        # There may be no more threads.
        done.errback(Failure())
    return done


class _TooLarge(Exception):
    """The bounds leave no room for it."""


@frozen
class Bounds:
    """
    @ivar count: so many files are kept.
    @ivar bytes: so large are they together.
    """

    count: int
    bytes: int


class Folder:
    """
    The captures in a directory. Whatever is done here may take long, as disks do.

    @param seconds: of a clock that shows the time of day.
    """

    def __init__(
        self, path: str, bounds: Bounds, pid: int, seconds: Callable[[], float]
    ) -> None:
        self._path = path
        self._bounds = bounds
        self._pid = pid
        self._seconds = seconds
        self._number = 0

    def trim(self) -> None:
        """Delete what is more than it may be."""
        self._make_room(0, 0)

    def write(self, capture: Capture) -> None:
        """
        Write a capture; the oldest ones make room for it.

        @raise OSError: it could not be written. Nothing of it is left.
        """
        octets = _within(capture, self._bounds.bytes)
        now = self._seconds()
        self._make_room(1, len(octets))
        fd, part, name = self._begin(now)
        try:
            _write_whole(fd, octets)
            os.rename(part, os.path.join(self._path, name))
        except OSError:
            with suppress(OSError):
                os.unlink(part)
            raise

    def _begin(self, now: float) -> tuple[int, str, str]:
        """
        A descriptor of an empty file that is only ours, its path, and what it is to be
        called. It is never opened by its name: that may be another's link by then.
        """
        time = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        while True:
            self._number += 1
            name = f"{time}-{self._pid}-{self._number:06}.capture"
            part = os.path.join(self._path, f".{name}.part")
            try:
                fd = os.open(part, _NEW, 0o600)
            except FileExistsError:
                continue
            # Of a container that has the same number, and the same second.
            if not os.path.lexists(os.path.join(self._path, name)):
                return fd, part, name
            os.close(fd)
            os.unlink(part)

    def _make_room(self, count: int, size: int) -> None:
        """Delete the oldest, until there is room for so many more."""
        sizes, begun = self._look()
        files, total = len(sizes) + len(begun), sum(sizes.values()) + sum(begun)
        for name in sorted(sizes):
            if (
                files + count <= self._bounds.count
                and total + size <= self._bounds.bytes
            ):
                return
            try:
                os.unlink(os.path.join(self._path, name))
            except FileNotFoundError:
                pass
            except OSError:
                # It stays, and counts: the others make room for it.
                continue
            files, total = files - 1, total - sizes[name]

    def _look(self) -> tuple[dict[str, int], list[int]]:
        """
        The sizes of what is there, by name, and of what is being written.

        What was begun and will not be finished is deleted.
        """
        sizes, begun = {}, []
        with os.scandir(self._path) as entries:
            for entry in entries:
                is_ours = NAME.fullmatch(entry.name)
                if not is_ours and not _PART.fullmatch(entry.name):
                    continue
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if not _is_written_by_us(status):
                        continue
                    if is_ours:
                        sizes[entry.name] = status.st_size
                    elif self._seconds() - status.st_mtime > STALE_SECONDS:
                        os.unlink(entry.path)
                    else:
                        begun.append(status.st_size)
        return sizes, begun


def _is_written_by_us(status: os.stat_result) -> bool:
    """Not so what only has a name like ours: it may not be deleted, or cannot be."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _within(capture: Capture, bytes_max: int) -> bytes:
    """The octets of `capture`, cut where they are too many."""
    octets = captures.octets(capture)
    over = len(octets) - bytes_max
    if over > 0:
        kept = len(capture.body) - over - _CUT_BYTES
        octets = captures.octets(
            evolve(capture, body=capture.body[: max(0, kept)], is_cut=True)
        )
    head_bytes = len(octets) - len(octets.partition(b"\n\n")[2])
    if len(octets) > bytes_max or head_bytes > captures.HEAD_BYTES_MAX:
        raise _TooLarge(f"its head alone has {head_bytes} bytes")
    return octets


def _write_whole(fd: int, octets: bytes) -> None:
    """Write `octets` to `fd` and close it."""
    try:
        view = memoryview(octets)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


class RefusedBodies:
    """
    Has captures written, as many as there may be.

    @param clock: shows the time of day.
    @param events: told once a minute at most what was not kept.
    """

    def __init__(
        self,
        clock: IReactorTime,
        folder: Folder,
        events: EventLog,
        metrics: Metrics,
        in_thread: InThread,
    ) -> None:
        self._clock = clock
        self._seconds = clock.seconds
        self._folder = folder
        self._events = events
        self._metrics = metrics
        self._in_thread = in_thread
        self._waiting: list[Capture] = []
        self._waiting_bytes = 0
        self._is_writing = False
        self._idle: list[Deferred[None]] = []
        # How much more may be kept now, and of when that is.
        self._bodies, self._bytes = float(RATE), float(BYTES_RATE)
        self._at = clock.seconds()
        self._lost, self._why = 0, ""
        self._says = LoopingCall(self._say)
        self._says.clock = clock

    def start(self) -> None:
        """Begin to say what is not kept; make what is there already fit the bounds."""
        self._says.start(SAY_SECONDS, now=False)
        self._is_writing = True
        self._in_thread(self._folder.trim).addErrback(self._trouble).addBoth(
            self._write_next
        )

    def stop(self) -> Deferred[None]:
        """Fires once all is written, or given up, after `STOP_SECONDS` at most."""
        if self._says.running:
            self._says.stop()
        idle: Deferred[None] = Deferred()
        idle.addTimeout(STOP_SECONDS, self._clock)
        idle.addErrback(self._give_up)
        idle.addCallback(lambda _: self._say())
        self._idle.append(idle)
        if not self._is_writing:
            self._write_next(None)
        return idle

    def _give_up(self, reason: Failure) -> None:
        reason.trap(TimeoutError)
        for _ in self._waiting:
            self._lose(_TOO_SLOW)
        # The first is in the thread, and stays there.
        del self._waiting[1:]

    def takes_one(self) -> bool:
        """Whether one may be kept now; one that may not is counted as lost."""
        why = self._why_not()
        if why:
            self._lose(why)
        return not why

    def keep(self, capture: Capture) -> None:
        """Keep `capture`, unless there are too many."""
        if not self.takes_one():
            return
        self._bodies -= 1
        self._bytes -= len(capture.body)
        self._waiting.append(capture)
        self._waiting_bytes += len(capture.body)
        if not self._is_writing:
            self._is_writing = True
            self._write_next(None)

    def _why_not(self) -> str:
        now = self._seconds()
        # A clock that was set back gives nothing.
        passed, self._at = max(0.0, now - self._at), now
        self._bodies = min(RATE, self._bodies + passed * RATE)
        self._bytes = min(BYTES_RATE, self._bytes + passed * BYTES_RATE)
        if self._bodies < 1 or self._bytes <= 0:
            return f"more than {RATE} in a second, or {BYTES_RATE} bytes"
        if (
            len(self._waiting) >= WAITING_MAX
            or self._waiting_bytes >= WAITING_BYTES_MAX
        ):
            return _TOO_SLOW
        return ""

    def _write_next(self, _: object) -> None:
        if not self._waiting:
            self._is_writing = False
            idle, self._idle = self._idle, []
            for waiting in idle:
                waiting.callback(None)
            return
        capture = self._waiting[0]
        written = self._in_thread(lambda: self._folder.write(capture))
        written.addCallbacks(self._written, self._not_written)
        written.addBoth(self._taken)

    def _written(self, _: None) -> None:
        self._metrics.refused_captured += 1

    def _not_written(self, reason: Failure) -> None:
        self._lose(_why(reason))

    def _taken(self, _: object) -> None:
        # What waits is counted until it is on the disk.
        self._waiting_bytes -= len(self._waiting.pop(0).body)
        self._write_next(None)

    def _trouble(self, reason: Failure) -> None:
        self._why = _why(reason)

    def _lose(self, why: str) -> None:
        self._metrics.refused_not_captured += 1
        self._lost += 1
        self._why = why

    def _say(self) -> None:
        if self._lost or self._why:
            self._events.captures_lost(self._lost, self._why)
            self._lost, self._why = 0, ""


def _why(reason: Failure) -> str:
    error = reason.value
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def time_of(seconds: float) -> str:
    """When a body was refused, as a capture says it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
