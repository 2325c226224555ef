"""
Takes down what is the case now, from the counters and from those who know.

Nothing here is on the way of a post: a reader asks, and it is looked up then.
"""

import time
from collections.abc import Callable, Mapping
from heapq import nlargest
from typing import Protocol

from attrs import Factory, frozen
from twisted.internet.interfaces import IReactorTime

from logiss._version import __version__
from logiss.credentials import Credentials, Uses
from logiss.drain import Drain
from logiss.history import RECENT_SECONDS, Sample
from logiss.metrics import NAMES_MAX, Link, Metrics

_UNAUTHORIZED, _NOT_ALLOWED, _GONE = 401, 405, 499
_FAILED_FROM = 500


class IWatchedPool(Protocol):
    """What is asked of the pool."""

    delivery_level: str

    @property
    def queue_payloads(self) -> int: ...

    @property
    def queue_bytes(self) -> int: ...

    @property
    def replay_bytes(self) -> int: ...

    def oldest_sent_at(self) -> Mapping[Link, float]: ...


class IWatchedBudget(Protocol):
    """What is asked of the budget."""

    refusals: int

    @property
    def limit_bytes(self) -> int: ...

    @property
    def reserved_bytes(self) -> int: ...

    @property
    def waiting(self) -> int: ...


@frozen
class LinkFacts:
    """
    A connection to the backend now.

    @ivar waited_seconds: since when the oldest of what it was given is unconfirmed; 0
        when nothing is.
    @ivar worker: whose it is, where there are several.
    @ivar is_serving: whether its process takes posts; one that leaves closes it soon.
    """

    link: Link
    waited_seconds: float
    worker: int | None = None
    is_serving: bool = True


@frozen
class EndedLinks:
    """
    What the connections of workers that are gone have counted, of those with the same
    number, destination and id together.

    @ivar reconnects: how often they became usable again; `link` cannot tell that.
    """

    worker: int
    link: Link
    reconnects: int


@frozen
class WorkerFacts:
    """
    A worker, as its parent knows it.

    @ivar pid: 0 of one that has fallen and is to be started again.
    @ivar state: ``starting``, ``serving``, ``leaving``, ``stopping`` or ``fallen``.
    @ivar since: in the clock's seconds.
    @ivar falls: how often one of this number has ended unasked.
    @ivar posts: how many this one has answered.
    """

    number: int
    pid: int
    state: str
    since: float
    falls: int
    clients: int = 0
    posts: int = 0


@frozen
class WorkerCounts:
    """
    What all workers of one number have done, those that are gone too.

    @ivar number: 0 is what the parent served by itself, before it was one.
    @ivar last_fall_at: in the clock's seconds.
    @ivar missing_since: since when none of them takes posts, though one should; None
        while one does.
    """

    number: int
    falls: int = 0
    posts: int = 0
    cpu_seconds: float = 0.0
    last_fall_at: float | None = None
    missing_since: float | None = None


@frozen
class CredentialFacts:
    """
    The credentials of a user that are in one stage.

    @ivar accepted: how many posts were let in with them.
    @ivar last_used_at: in the clock's seconds; None when they never were.
    """

    user: bytes
    stage: str
    is_deprecated: bool
    accepted: int
    last_used_at: float | None


@frozen
class RefusalFacts:
    """
    The posts of a known user that were refused.

    @ivar is_held: whether the user has credentials now.
    """

    user: bytes
    refused: int
    last_refused_at: float | None
    is_held: bool


@frozen
class Clients:
    """
    @ivar connected: how many there are, @ivar most: how many there may be.
    @ivar pauses: how often there was no room for another.
    """

    connected: int = 0
    most: int = 0
    pauses: int = 0


@frozen
class Facts:
    """
    What is the case at one moment. Times are in the clock's seconds.

    @ivar refusals: those of the users who were refused last, and of others.
    @ivar users_more: so many users who have credentials are not in `credentials`, and
        neither in `refusals`.
    @ivar refresh_overdue_seconds: how long the credentials should have been read anew.
    @ivar cpu_seconds: what the process has had of the machine.
    @ivar workers_wanted: how many workers there are to be; 0 where a process is alone.
    @ivar reloads: how often the configuration was read anew, by what came of it.
    @ivar ended_links: the same as `links`, of workers that are gone.
    """

    at: float
    started_at: float
    instance: str
    version: str
    delivery_level: str
    delivery_timeout_seconds: float
    is_draining: bool
    are_credentials_loaded: bool
    refresh_overdue_seconds: float
    posts_inside: int
    clients: Clients
    queue_payloads: int
    queue_bytes: int
    replay_bytes: int
    inflight_bytes: int
    inflight_limit_bytes: int
    waiting_for_room: int
    budget_refusals: int
    links: tuple[LinkFacts, ...]
    credentials: tuple[CredentialFacts, ...]
    refusals: tuple[RefusalFacts, ...]
    unknown_last_refused_at: float | None
    users_more: int
    metrics: Metrics
    cpu_seconds: float = 0.0
    workers: tuple[WorkerFacts, ...] = ()
    workers_wanted: int = 0
    worker_counts: tuple[WorkerCounts, ...] = ()
    reloads: Mapping[str, int] = Factory(dict)
    ended_links: tuple[EndedLinks, ...] = ()

    @property
    def serving_links(self) -> tuple[LinkFacts, ...]:
        """Those on which posts depend that come now; all where nobody takes any."""
        return tuple(f for f in self.links if f.is_serving) or self.links

    def is_recent(self, at: float | None) -> bool:
        """Whether what happened last at `at` did in the last minute."""
        # It may seem to come when the clock was set back.
        return at is not None and abs(self.at - at) <= RECENT_SECONDS


class IWatch(Protocol):
    """Knows what is the case."""

    def sample(self) -> Sample: ...

    def facts(self) -> Facts: ...


class Watch:
    """
    Knows where to look in a process.

    @param collect_uses: brings the counts of credentials to `metrics`.
    @param clients: tells of the connections of clients.
    @param refresh_seconds: how often credentials are read anew; None when they are
        not.
    @param cpu_seconds: what the process has had of the machine.
    """

    def __init__(
        self,
        clock: IReactorTime,
        metrics: Metrics,
        pool: IWatchedPool,
        budget: IWatchedBudget,
        credentials: Credentials,
        drain: Drain,
        collect_uses: Callable[[], None],
        clients: Callable[[], Clients],
        *,
        instance: str,
        delivery_timeout_seconds: float,
        refresh_seconds: float | None,
        cpu_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._pool = pool
        self._budget = budget
        self._credentials = credentials
        self._drain = drain
        self._collect_uses = collect_uses
        self._clients = clients
        self._instance = instance
        self._delivery_timeout_seconds = delivery_timeout_seconds
        self._refresh_seconds = refresh_seconds
        self._cpu_seconds = cpu_seconds
        self._started_at = clock.seconds()

    def sample(self) -> Sample:
        """What the counters are."""
        metrics, budget, pool = self._metrics, self._budget, self._pool
        failed = metrics.posts_failed_by_code
        confirmation: dict[str, tuple[int, ...]] = {}
        for link in metrics.links:
            counts = confirmation.get(link.destination, ())
            more = link.confirmation.counts
            confirmation[link.destination] = (
                tuple(map(sum, zip(counts, more, strict=True)))
                if counts
                else tuple(more)
            )
        return Sample(
            at=self._clock.seconds(),
            posts_delivered=metrics.posts_succeeded,
            posts_refused=sum(failed[:_FAILED_FROM]),
            posts_unauthorized=failed[_UNAUTHORIZED],
            posts_gone=failed[_GONE],
            posts_of_other_methods=failed[_NOT_ALLOWED],
            posts_failed=sum(failed[_FAILED_FROM:]),
            requests_refused=sum(metrics.requests_refused_by_code),
            clients_cut=metrics.clients_cut,
            proxy_headers_refused=metrics.proxy_headers_refused,
            pauses=self._clients().pauses,
            frames_delivered=metrics.frames_delivered,
            frames_failed=metrics.frames_failed,
            delivery=tuple(metrics.delivery.counts),
            confirmation=confirmation,
            queue_payloads=pool.queue_payloads,
            queue_bytes=pool.queue_bytes,
            inflight_bytes=budget.reserved_bytes,
            budget_refusals=budget.refusals,
            unknown_refused=failed[_UNAUTHORIZED] - self._credentials.refused_known,
            reported_dropped=metrics.losses_dropped,
            reported_lost=metrics.losses_lost,
            counts_mismatched=metrics.counts_mismatched,
            disconnects=sum(link.disconnects for link in metrics.links),
            payloads_replayed=metrics.payloads_replayed,
            replays_given_up=metrics.replays_given_up,
            fields_cut=metrics.hostnames_cut
            + metrics.app_names_cut
            + metrics.procids_cut
            + metrics.msgids_cut,
            log_lines_dropped=metrics.log_lines_dropped,
        )

    def facts(self) -> Facts:
        """What is the case."""
        self._collect_uses()
        now = self._clock.seconds()
        metrics, pool, budget = self._metrics, self._pool, self._budget
        oldest = pool.oldest_sent_at()
        credentials, refusals, users_more = self._uses()
        return Facts(
            at=now,
            started_at=self._started_at,
            instance=self._instance,
            version=__version__,
            delivery_level=pool.delivery_level,
            delivery_timeout_seconds=self._delivery_timeout_seconds,
            is_draining=self._drain.announced,
            are_credentials_loaded=self._credentials.is_loaded,
            refresh_overdue_seconds=self._refresh_overdue(now),
            posts_inside=self._drain.inside,
            clients=self._clients(),
            queue_payloads=pool.queue_payloads,
            queue_bytes=pool.queue_bytes,
            replay_bytes=pool.replay_bytes,
            inflight_bytes=budget.reserved_bytes,
            inflight_limit_bytes=budget.limit_bytes,
            waiting_for_room=budget.waiting,
            budget_refusals=budget.refusals,
            links=tuple(
                LinkFacts(link, max(0.0, now - oldest[link]) if link in oldest else 0.0)
                for link in metrics.links
            ),
            credentials=credentials,
            refusals=refusals,
            unknown_last_refused_at=self._credentials.refused_unknown.last_at or None,
            users_more=users_more,
            metrics=metrics,
            cpu_seconds=self._cpu_seconds(),
        )

    def _refresh_overdue(self, now: float) -> float:
        if self._refresh_seconds is None:
            return 0.0
        due_at = (self._metrics.refreshed_at or self._started_at) + (
            self._refresh_seconds
        )
        return max(0.0, now - due_at)

    def _uses(
        self,
    ) -> tuple[tuple[CredentialFacts, ...], tuple[RefusalFacts, ...], int]:
        held: dict[tuple[bytes, str], tuple[bool, float]] = {}
        users: set[bytes] = set()
        for credential in self._credentials.held():
            users.add(credential.user)
            name = credential.user, credential.stage
            if name in held or len(held) < NAMES_MAX:
                is_deprecated, last_at = held.get(name, (False, 0.0))
                held[name] = (
                    is_deprecated or credential.deprecated,
                    max(last_at, credential.uses.last_at),
                )
        refusals = self._refusals(users)
        named = {user for user, _ in held} | {r.user for r in refusals}
        accepted = self._metrics.accepted_by_stage
        credentials = (
            CredentialFacts(
                user, stage, is_deprecated, accepted.get((user, stage), 0), at or None
            )
            for (user, stage), (is_deprecated, at) in held.items()
        )
        return tuple(credentials), refusals, len(users - named)

    def _refusals(self, users: set[bytes]) -> tuple[RefusalFacts, ...]:
        """Of as many as are named those that were refused last."""

        def last_at(refused: tuple[bytes, Uses]) -> float:
            return refused[1].last_at

        counts = self._metrics.refused_by_user
        latest = nlargest(NAMES_MAX, self._credentials.refused(), key=last_at)
        return tuple(
            RefusalFacts(
                user, counts.get((user,), 0), uses.last_at or None, user in users
            )
            for user, uses in latest
        )
