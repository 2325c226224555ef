"""
Adds up what several workers know.

Counters of a worker that is gone stay in the sum, so that no sum ever becomes smaller;
what is the case now is only that of the living.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import Factory, evolve, fields, frozen

from logiss.facts import (
    Clients,
    CredentialFacts,
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
    Metrics,
    ReportedLoss,
)

# Each worker reads the same credentials: what is so for one is so for all.
_LATEST = ("refreshed_at", "entries_unreadable")


def sum_metrics(each: Iterable[Metrics]) -> Metrics:
    """All that has happened, without the connections, which are nobody's sum."""
    total = Metrics()
    for metrics in each:
        for field in fields(Metrics):
            name = field.name
            was, more = getattr(total, name), getattr(metrics, name)
            if name in _LATEST:
                setattr(total, name, max(was, more))
            elif name != "links":
                setattr(total, name, _sum(was, more))
    return total


def _sum(was: Any, more: Any) -> Any:
    if isinstance(was, Histogram):
        return _sum_histograms(was, more)
    if isinstance(was, CountsByCode):
        for code, count in more.given().items():
            was[code] += count
    elif isinstance(was, CountsByName):
        for name, count in more.items():
            was.add(name, count)
    elif isinstance(was, deque):
        return deque(sorted([*was, *more], key=lambda post: post.at), FAILURES_MAX)
    elif isinstance(was, dict):
        _add_losses(was, more)
    else:
        return was + more
    return was


def _sum_histograms(was: Histogram, more: Histogram) -> Histogram:
    total = Histogram()
    total.counts = [a + b for a, b in zip(was.counts, more.counts, strict=True)]
    total.sum_seconds = was.sum_seconds + more.sum_seconds
    return total


def _add_losses(
    was: dict[bytes, ReportedLoss], more: Mapping[bytes, ReportedLoss]
) -> None:
    for user, loss in more.items():
        before = was.get(user)
        if before is not None:
            at = max(before.at, loss.at)
            dropped, lost = before.dropped + loss.dropped, before.lost + loss.lost
            was[user] = ReportedLoss(at, dropped, lost)
        elif len(was) < NAMES_MAX:
            was[user] = loss


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
class Gone:
    """What stays of the workers that are not there any more."""

    metrics: Metrics = Factory(Metrics)
    sample: Sample = Factory(lambda: Sample(0.0))

    def with_one_more(self, facts: Facts, sample: Sample) -> "Gone":
        return Gone(
            sum_metrics([self.metrics, facts.metrics]),
            evolve(
                _add_samples(self.sample, sample),
                at=0.0,
                queue_payloads=0,
                queue_bytes=0,
                inflight_bytes=0,
            ),
        )


def sum_facts(at: float, living: Sequence[tuple[int, Facts]], gone: Gone) -> Facts:
    """
    What is the case with all.

    @param living: with the numbers of workers; one at least.
    """
    each = [facts for _, facts in living]
    metrics = sum_metrics([gone.metrics, *(facts.metrics for facts in each)])
    links = _links(living)
    metrics.links = [link.link for link in links]
    overdue = max(facts.refresh_overdue_seconds for facts in each)
    unknown = [f.unknown_last_refused_at or 0.0 for f in each]
    return evolve(
        each[0],
        at=at,
        started_at=min(facts.started_at for facts in each),
        is_draining=all(facts.is_draining for facts in each),
        are_credentials_loaded=all(facts.are_credentials_loaded for facts in each),
        refresh_overdue_seconds=overdue,
        posts_inside=sum(facts.posts_inside for facts in each),
        clients=_clients(each, gone.sample.pauses),
        queue_payloads=sum(facts.queue_payloads for facts in each),
        queue_bytes=sum(facts.queue_bytes for facts in each),
        replay_bytes=sum(facts.replay_bytes for facts in each),
        inflight_bytes=sum(facts.inflight_bytes for facts in each),
        inflight_limit_bytes=sum(facts.inflight_limit_bytes for facts in each),
        waiting_for_room=sum(facts.waiting_for_room for facts in each),
        budget_refusals=gone.sample.budget_refusals
        + sum(facts.budget_refusals for facts in each),
        links=links,
        credentials=_credentials(each, metrics),
        refusals=_refusals(each, metrics),
        unknown_last_refused_at=max(unknown) or None,
        users_more=max(facts.users_more for facts in each),
        metrics=metrics,
    )


def _links(living: Sequence[tuple[int, Facts]]) -> tuple[LinkFacts, ...]:
    return tuple(
        evolve(link, worker=number) for number, facts in living for link in facts.links
    )


def _clients(each: Iterable[Facts], pauses: int) -> Clients:
    all_of_them = [facts.clients for facts in each]
    return Clients(
        sum(clients.connected for clients in all_of_them),
        sum(clients.most for clients in all_of_them),
        pauses + sum(clients.pauses for clients in all_of_them),
    )


def _credentials(
    each: Iterable[Facts], metrics: Metrics
) -> tuple[CredentialFacts, ...]:
    held: dict[tuple[bytes, str], CredentialFacts] = {}
    for facts in each:
        for more in facts.credentials:
            name = more.user, more.stage
            was = held.get(name)
            if was is None:
                accepted = metrics.accepted_by_stage.get(name, 0)
                held[name] = evolve(more, accepted=accepted)
                continue
            held[name] = evolve(
                was,
                is_deprecated=was.is_deprecated or more.is_deprecated,
                last_used_at=_later(was.last_used_at, more.last_used_at),
            )
    return tuple(held.values())


def _refusals(each: Iterable[Facts], metrics: Metrics) -> tuple[RefusalFacts, ...]:
    found: dict[bytes, RefusalFacts] = {}
    for facts in each:
        for more in facts.refusals:
            was = found.get(more.user)
            if was is None:
                refused = metrics.refused_by_user.get((more.user,), 0)
                found[more.user] = evolve(more, refused=refused)
                continue
            found[more.user] = evolve(
                was,
                last_refused_at=_later(was.last_refused_at, more.last_refused_at),
                is_held=was.is_held or more.is_held,
            )
    return tuple(found.values())


def _later(one: float | None, other: float | None) -> float | None:
    return max(one or 0.0, other or 0.0) or None
