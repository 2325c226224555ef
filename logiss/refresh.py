"""
Keeps a table of credentials as fresh as the hash of their entries.

A refresh that fails changes nothing, and is tried again sooner than the next would be.
Of one that succeeds, an entry that cannot be read leaves its user what they had; one
that is gone is revoked. An empty hash is a failure, unless it is said to be meant: it
is what an operator gets who has the wrong key, or a Redis that was restarted without
its data.
"""

import random
from collections.abc import Callable, Mapping

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from logiss.credentials import BrokenEntry, Credential, Table, parse_entry
from logiss.l2met import EventLog
from logiss.metrics import Metrics
from logiss.redis import IHash, RedisFailed

#: The pause behind a failed refresh grows from here, doubling, ...
RETRY_SECONDS = 1.0
#: ... to here, or to the interval when that is shorter.
RETRY_SECONDS_MAX = 30.0
#: So many entries are read in one turn of the reactor.
ENTRIES_AT_ONCE = 200
#: So many broken entries of a refresh have a line of their own.
LINES_MAX = 10


@frozen(eq=False)
class _Entry:
    """An entry as it was read last, and what it was found to be."""

    octets: bytes
    held: tuple[Credential, ...]


def retry_seconds(failures: int, interval_seconds: float) -> float:
    """The longest pause behind so many failures in a row."""
    pause = RETRY_SECONDS * 2.0 ** min(failures - 1, 10)
    return min(pause, RETRY_SECONDS_MAX, interval_seconds)


def _jittered(seconds: float) -> float:
    """Many processes that have failed together do not come back together."""
    return random.uniform(0.5, 1.0) * seconds  # noqa: S311, nobody gains by guessing it


class Refresher(Service):
    """
    Refreshes at start, then every `interval_seconds` from begin to begin.

    @param apply: takes the table of all users in the hash, the first time and whenever
        it is another.
    @param allows_empty: whether a hash without entries is meant to be.
    """

    name = "refresher"

    def __init__(
        self,
        clock: IReactorTime,
        entries: IHash,
        apply: Callable[[Table], None],
        events: EventLog,
        metrics: Metrics,
        interval_seconds: float,
        allows_empty: bool = False,
        jittered: Callable[[float], float] = _jittered,
    ) -> None:
        self._clock = clock
        self._hash = entries
        self._apply = apply
        self._events = events
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._allows_empty = allows_empty
        self._jittered = jittered
        self._good: dict[bytes, _Entry] = {}
        self._is_applied = False
        self._failures = 0
        self._next: IDelayedCall | None = None
        self._under_way: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._begin()

    def stopService(self) -> None:
        super().stopService()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._under_way is not None:
            self._under_way.cancel()

    def _begin(self) -> None:
        self._next = None
        started_at = self._clock.seconds()
        self._under_way = Deferred.fromCoroutine(self._refresh(started_at))
        self._under_way.addErrback(self._failed)
        self._under_way.addCallback(lambda _: self._schedule(started_at))

    def _schedule(self, started_at: float) -> None:
        self._under_way = None
        if not self.running:
            return
        if self._failures:
            pause = retry_seconds(self._failures, self._interval_seconds)
            pause = self._jittered(pause)
        else:
            # The clock may have been set back.
            passed = max(0.0, self._clock.seconds() - started_at)
            pause = max(0.0, self._interval_seconds - passed)
        self._next = self._clock.callLater(pause, self._begin)

    async def _refresh(self, started_at: float) -> None:
        entries = await self._hash.read()
        if not entries and not self._allows_empty:
            raise RedisFailed(
                "the hash is empty or not there; set ALLOW_EMPTY_CREDENTIALS=1 if that"
                " is meant"
            )
        good, broken = await self._sort(entries)
        if entries and len(broken) == len(entries):
            self._skip(broken)
            raise RedisFailed(f"none of the {len(entries)} entries can be read")
        if good != self._good or not self._is_applied:
            self._apply({user: entry.held for user, entry in good.items()})
            self._is_applied = True
            self._metrics.refreshes_changed += 1
        self._good = good
        self._failures = 0
        self._metrics.refreshes_succeeded += 1
        self._metrics.refreshed_at = self._clock.seconds()
        self._events.credentials_refreshed(
            len(good), self._clock.seconds() - started_at
        )
        self._skip(broken)

    async def _sort(
        self, entries: Mapping[bytes, bytes]
    ) -> tuple[dict[bytes, _Entry], dict[bytes, str]]:
        """The entries to go by from now on, and what is wrong with others."""
        good, broken = {}, {}
        for i, (user, octets) in enumerate(entries.items(), 1):
            before = self._good.get(user)
            if before is not None and before.octets == octets:
                good[user] = before
            else:
                try:
                    good[user] = _Entry(octets, parse_entry(user, octets))
                except BrokenEntry as e:
                    broken[user] = str(e)
                    if before is not None:
                        good[user] = before
            if i % ENTRIES_AT_ONCE == 0:
                # Posts have their turn.
                await deferLater(self._clock, 0)
        return good, broken

    def _skip(self, broken: Mapping[bytes, str]) -> None:
        self._metrics.entries_skipped += len(broken)
        self._metrics.entries_unreadable = len(broken)
        for user, why in list(broken.items())[:LINES_MAX]:
            self._events.credential_skipped(user, why, user in self._good)
        if len(broken) > LINES_MAX:
            self._events.credentials_skipped(len(broken) - LINES_MAX)

    def _failed(self, reason: Failure) -> None:
        if reason.check(CancelledError):
            return
        why = str(reason.value)
        if not reason.check(RedisFailed):
            why = f"internal error: {type(reason.value).__name__}: {why}"
        self._failures += 1
        self._metrics.refreshes_failed += 1
        self._events.credentials_not_refreshed(len(self._good), why)
