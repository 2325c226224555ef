"""
Adds up what several workers know.

Counters of a worker that is gone stay in the sum, so that no sum ever becomes smaller;
what is the case now is only that of the living. When something happened last is
remembered too: a credential is not unused because who has seen it is gone.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from math import floor
from typing import Any

from attrs import Factory, evolve, fields, frozen

from logiss.facts import (
    Clients,
    CredentialFacts,
    EndedLinks,
    Facts,
    LinkFacts,
    RefusalFacts,
)
from logiss.history import Sample
from logiss.metrics import (
    FAILURES_MAX,
    NAMES_MAX,
    CountsByCode,
    CountsByName,
    Histogram,
    Link,
    Metrics,
    ReportedLoss,
)

# Each worker reads the same credentials: what the last of them has read is so for all.
_OF_THE_LATEST = ("refreshed_at", "entries_unreadable")
_IN_NO_SUM = ("links", *_OF_THE_LATEST)
#: About a microsecond; 2 ** 33 s are still exact.
_PARTS = 2.0**20
#: Of a sample, what is no count.
_NOW: dict[str, Any] = dict.fromkeys(
    ("at", "queue_payloads", "queue_bytes", "inflight_bytes"), 0
)
#: Of facts, what is so much more with each worker.
_ADDED = (
    *("posts_inside", "queue_payloads", "queue_bytes", "replay_bytes"),
    *("inflight_bytes", "inflight_limit_bytes", "waiting_for_room"),
)


def sum_metrics(each: Iterable[Metrics]) -> Metrics:
    """All that has happened, without the connections, which are nobody's sum."""
    total = Metrics()
    for metrics in each:
        for field in fields(Metrics):
            name = field.name
            if name not in _IN_NO_SUM:
                added = _sum(getattr(total, name), getattr(metrics, name))
                setattr(total, name, added)
        if metrics.refreshed_at > total.refreshed_at:
            for name in _OF_THE_LATEST:
                setattr(total, name, getattr(metrics, name))
    return total


def _sum(was: Any, more: Any) -> Any:
    if isinstance(was, Histogram):
        return _sum_histograms(was, more)
    if isinstance(was, CountsByCode):
        for code, count in more.given().items():
            was[code] += count
    elif isinstance(was, CountsByName):
        _add_names(was, more)
    elif isinstance(was, deque):
        return deque(sorted([*was, *more], key=lambda post: post.at), FAILURES_MAX)
    elif isinstance(was, dict):
        _add_losses(was, more)
    elif isinstance(was, float):
        return was + _exact(more)
    else:
        return was + more
    return was


def _exact(seconds: float) -> float:
    """
    In parts of which every sum is exact: to what is added in another order, when a
    worker has gone, nothing may be missing, not even the last bit. A counter that is
    smaller than it was is taken for one that has begun anew.
    """
    return floor(seconds * _PARTS) / _PARTS


def _add_names(was: CountsByName, more: CountsByName) -> None:
    for name, count in more.items():
        is_room = name in was or len(was) - (() in was) < NAMES_MAX
        name = name if is_room else ()
        was[name] = was.get(name, 0) + count


def _sum_histograms(was: Histogram, more: Histogram) -> Histogram:
    total = Histogram()
    total.counts = [a + b for a, b in zip(was.counts, more.counts, strict=True)]
    total.sum_seconds = was.sum_seconds + _exact(more.sum_seconds)
    return total


def _add_losses(
    was: dict[bytes, ReportedLoss], more: Mapping[bytes, ReportedLoss]
) -> None:
    for user, loss in more.items():
        before = was.get(user, ReportedLoss(loss.at, 0, 0))
        if user in was or len(was) < NAMES_MAX:
            at = max(before.at, loss.at)
            dropped, lost = before.dropped + loss.dropped, before.lost + loss.lost
            was[user] = ReportedLoss(at, dropped, lost)


def sum_samples(at: float, living: Iterable[Sample], gone: "Gone") -> Sample:
    """What the counters of all were."""
    total = gone.sample
    for sample in living:
        total = _add_samples(total, sample)
    return evolve(total, at=at)


def _add_samples(one: Sample, other: Sample) -> Sample:
    sums: dict[str, Any] = {}
    for field in fields(Sample):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, tuple):
            sums[field.name] = _sum_counts(a, b)
        elif isinstance(a, Mapping):
            names = [*a, *(name for name in b if name not in a)]
            sums[field.name] = {
                name: _sum_counts(a.get(name, ()), b.get(name, ())) for name in names
            }
        else:
            sums[field.name] = a + b
    return Sample(**sums)


def _sum_counts(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    if not one or not other:
        return one or other
    return tuple(a + b for a, b in zip(one, other, strict=True))


@frozen
class Living:
    """
    What a worker has told of itself.

    @ivar is_serving: whether it takes posts.
    """

    number: int
    is_serving: bool
    facts: Facts


@frozen
class Gone:
    """
    What stays of the workers that are not there any more.

    @ivar posts: that they have answered, by the number of the worker, and @ivar
        cpu_seconds: what they had of the machine, likewise.
    @ivar credentials: when they were last used; no more is meant by them.
    @ivar refusals: likewise.
    """

    metrics: Metrics = Factory(Metrics)
    sample: Sample = Factory(lambda: Sample(0.0))
    links: tuple[EndedLinks, ...] = ()
    posts: Mapping[int, int] = Factory(dict)
    cpu_seconds: Mapping[int, float] = Factory(dict)
    credentials: tuple[CredentialFacts, ...] = ()
    refusals: tuple[RefusalFacts, ...] = ()
    unknown_last_refused_at: float | None = None

    def with_one_more(self, number: int, facts: Facts, sample: Sample) -> "Gone":
        """A worker has ended that has told this last."""
        metrics = sum_metrics([self.metrics, facts.metrics])
        metrics.refreshed_at, metrics.entries_unreadable = 0.0, 0
        links = _sum_links([*self.links, *(_ended(number, f) for f in facts.links)])
        cpu_seconds = self.cpu_seconds.get(number, 0.0) + _exact(facts.cpu_seconds)
        return Gone(
            metrics,
            evolve(_add_samples(self.sample, sample), **_NOW),
            links,
            {**self.posts, number: self.posts.get(number, 0) + _answered(facts)},
            {**self.cpu_seconds, number: cpu_seconds},
            _last_used(self.credentials, facts.credentials),
            _last_refused(self.refusals, facts.refusals),
            _later(self.unknown_last_refused_at, facts.unknown_last_refused_at),
        )

    def with_lines_dropped(self, count: int) -> "Gone":
        """So many lines of the log of the parent itself were not read in time."""
        metrics = sum_metrics([self.metrics])
        metrics.log_lines_dropped += count
        dropped = self.sample.log_lines_dropped + count
        sample = evolve(self.sample, log_lines_dropped=dropped)
        return evolve(self, metrics=metrics, sample=sample)

    def name(self, metrics: Metrics) -> None:
        """
        Remember who is counted by name, as long as anything is: of more than are named
        it may not depend on who is living, or their counts became smaller.
        """
        mine = self.metrics
        for named, known in (
            (metrics.accepted_by_stage, mine.accepted_by_stage),
            (metrics.refused_by_user, mine.refused_by_user),
        ):
            for name in named.keys() - known.keys() - {()}:
                known[name] = 0
        for user in metrics.losses_by_user.keys() - mine.losses_by_user.keys():
            mine.losses_by_user[user] = ReportedLoss(0.0, 0, 0)


def _answered(facts: Facts) -> int:
    return facts.metrics.posts_succeeded + facts.metrics.posts_failed


def _ended(number: int, facts: LinkFacts) -> EndedLinks:
    return EndedLinks(number, facts.link, max(0, facts.link.connects - 1))


_COUNTS_OF_LINK = (
    *("bytes_delivered", "attempts", "connects", "failures", "disconnects", "stalls"),
    *("write_errors", "connect_seconds", "confirmation"),
)


def _sum_links(each: Iterable[EndedLinks]) -> tuple[EndedLinks, ...]:
    sums: dict[tuple[int, str, int], EndedLinks] = {}
    for more in each:
        link = more.link
        name = more.worker, link.destination, link.link_id
        was = sums.get(name)
        total = Link(link.link_id, link.destination)
        for count in _COUNTS_OF_LINK:
            before = getattr(total if was is None else was.link, count)
            setattr(total, count, _sum(before, getattr(link, count)))
        reconnects = more.reconnects + (was.reconnects if was else 0)
        sums[name] = EndedLinks(more.worker, total, reconnects)
    return tuple(sums.values())


def sum_facts(base: Facts, living: Sequence[Living], gone: Gone) -> Facts:
    """
    What is the case with all.

    @param base: what is the case without any worker.
    """
    each = [one.facts for one in living]
    # Those that only start or leave are not asked for what is so for all.
    serving = [one.facts for one in living if one.is_serving] or each
    metrics = sum_metrics([gone.metrics, *(facts.metrics for facts in each)])
    links = _links(living)
    metrics.links = [link.link for link in links]
    credentials = _credentials(serving, each, metrics, gone)
    refusals = _refusals(serving, each, metrics, gone)
    overdue = max((facts.refresh_overdue_seconds for facts in serving), default=0.0)
    added = {name: sum(getattr(facts, name) for facts in each) for name in _ADDED}
    unknown = gone.unknown_last_refused_at
    for facts in each:
        unknown = _later(unknown, facts.unknown_last_refused_at)
    return evolve(
        base,
        **{**added, "inflight_limit_bytes": _limit(base, added)},
        are_credentials_loaded=all(facts.are_credentials_loaded for facts in serving),
        refresh_overdue_seconds=overdue,
        clients=_clients(each, gone.sample.pauses),
        budget_refusals=gone.sample.budget_refusals
        + sum(facts.budget_refusals for facts in each),
        links=links,
        ended_links=gone.links,
        credentials=credentials,
        refusals=refusals,
        unknown_last_refused_at=unknown,
        users_more=_users_more(serving, credentials, refusals),
        metrics=metrics,
    )


def _limit(base: Facts, added: Mapping[str, int]) -> int:
    return added["inflight_limit_bytes"] or base.inflight_limit_bytes


def posts_by_worker(living: Sequence[Living], gone: Gone) -> dict[int, int]:
    """How many posts the workers of each number have answered."""
    posts = dict(gone.posts)
    for one in living:
        posts[one.number] = posts.get(one.number, 0) + _answered(one.facts)
    return posts


def cpu_by_worker(living: Sequence[Living], gone: Gone) -> dict[int, float]:
    """What the workers of each number had of the machine, in seconds."""
    seconds = dict(gone.cpu_seconds)
    for one in living:
        seconds[one.number] = seconds.get(one.number, 0.0) + _exact(
            one.facts.cpu_seconds
        )
    return seconds


def _links(living: Sequence[Living]) -> tuple[LinkFacts, ...]:
    in_order = sorted(living, key=lambda one: (one.number, not one.is_serving))
    return tuple(
        LinkFacts(
            _exact_link(link.link), link.waited_seconds, one.number, one.is_serving
        )
        for one in in_order
        for link in one.facts.links
    )


def _exact_link(link: Link) -> Link:
    return evolve(
        link,
        connect_seconds=_exact(link.connect_seconds),
        confirmation=_sum_histograms(Histogram(), link.confirmation),
    )


def _clients(each: Iterable[Facts], pauses: int) -> Clients:
    all_of_them = [facts.clients for facts in each]
    return Clients(
        sum(clients.connected for clients in all_of_them),
        sum(clients.most for clients in all_of_them),
        pauses + sum(clients.pauses for clients in all_of_them),
    )


def _credentials(
    serving: Iterable[Facts], each: Iterable[Facts], metrics: Metrics, gone: Gone
) -> tuple[CredentialFacts, ...]:
    used = _last_used(gone.credentials, *(facts.credentials for facts in each))
    used_at = {(c.user, c.stage): c.last_used_at for c in used}
    held: dict[tuple[bytes, str], CredentialFacts] = {}
    for facts in serving:
        for more in facts.credentials:
            name = more.user, more.stage
            was = held.get(name, more)
            held[name] = evolve(
                more,
                accepted=metrics.accepted_by_stage.get(name, 0),
                is_deprecated=was.is_deprecated or more.is_deprecated,
                last_used_at=used_at.get(name),
            )
    return tuple(held.values())


def _last_used(*each: Iterable[CredentialFacts]) -> tuple[CredentialFacts, ...]:
    """The last use of each, of as many as are named."""
    latest: dict[tuple[bytes, str], CredentialFacts] = {}
    for credential in (credential for some in each for credential in some):
        if credential.last_used_at is not None:
            name = credential.user, credential.stage
            was = latest.get(name, credential)
            at = _later(was.last_used_at, credential.last_used_at)
            latest[name] = evolve(credential, last_used_at=at)
    return tuple(nlargest(NAMES_MAX, latest.values(), lambda c: c.last_used_at or 0.0))


def _refusals(
    serving: Iterable[Facts], each: Iterable[Facts], metrics: Metrics, gone: Gone
) -> tuple[RefusalFacts, ...]:
    users = {held.user for facts in serving for held in facts.credentials}
    users |= {r.user for facts in serving for r in facts.refusals if r.is_held}
    return tuple(
        evolve(
            refusal,
            refused=metrics.refused_by_user.get((refusal.user,), 0),
            is_held=refusal.user in users,
        )
        for refusal in _last_refused(gone.refusals, *(facts.refusals for facts in each))
    )


def _last_refused(*each: Iterable[RefusalFacts]) -> tuple[RefusalFacts, ...]:
    """The last refusal of each, of as many as are named."""
    latest: dict[bytes, RefusalFacts] = {}
    for refusal in (refusal for some in each for refusal in some):
        was = latest.get(refusal.user, refusal)
        at = _later(was.last_refused_at, refusal.last_refused_at)
        latest[refusal.user] = evolve(refusal, last_refused_at=at)
    return tuple(
        nlargest(NAMES_MAX, latest.values(), lambda r: r.last_refused_at or 0.0)
    )


def _users_more(
    serving: Iterable[Facts],
    credentials: Iterable[CredentialFacts],
    refusals: Iterable[RefusalFacts],
) -> int:
    """How many have credentials and are not named, as who knows most of them says."""
    every = max(
        (
            facts.users_more + len(_named(facts.credentials, facts.refusals))
            for facts in serving
        ),
        default=0,
    )
    return max(0, every - len(_named(credentials, refusals)))


def _named(
    credentials: Iterable[CredentialFacts], refusals: Iterable[RefusalFacts]
) -> set[bytes]:
    return {c.user for c in credentials} | {r.user for r in refusals if r.is_held}


def _later(one: float | None, other: float | None) -> float | None:
    return max(one or 0.0, other or 0.0) or None
