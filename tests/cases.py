"""Cases made by hand: what is, and what was counted in the last minute."""

from typing import Any

from attrs import evolve

from logiss.facts import (
    Clients,
    CredentialFacts,
    Facts,
    LinkFacts,
    RefusalFacts,
    WorkerCounts,
    WorkerFacts,
)
from logiss.history import History, Sample
from logiss.metrics import SECONDS_BOUNDS, FailedPost, Link, Metrics

NOW = 10_000.0
BACKEND = "logs.example:601"


def link(
    is_usable: bool = True,
    destination: str = BACKEND,
    waited_seconds: float = 0.0,
    link_id: int = 0,
    **changed: Any,
) -> LinkFacts:
    about = {"since": NOW - 600, "connects": 1, **changed}
    return LinkFacts(Link(link_id, destination, is_usable, **about), waited_seconds)


def credential(
    user: bytes, last_used_at: float | None = None, stage: str = "current"
) -> CredentialFacts:
    return CredentialFacts(user, stage, False, 1, last_used_at)


def refusal(
    user: bytes,
    last_refused_at: float | None = NOW - 1,
    refused: int = 3,
    is_held: bool = True,
) -> RefusalFacts:
    return RefusalFacts(user, refused, last_refused_at, is_held)


def failed(code: int, cause: str, at: float = NOW - 1, **named: bytes) -> FailedPost:
    about: dict[str, Any] = {
        **dict.fromkeys(("request_id", "drain_token", "remote_addr", "user")),
        **named,
    }
    return FailedPost(at, code, cause, **about)


_WELL = Facts(
    at=NOW,
    started_at=NOW - 3600,
    instance="eu-1",
    version="1.0",
    delivery_level="acked",
    delivery_timeout_seconds=4.5,
    is_draining=False,
    are_credentials_loaded=True,
    refresh_overdue_seconds=0.0,
    posts_inside=0,
    clients=Clients(3, 100, 0),
    queue_payloads=0,
    queue_bytes=0,
    replay_bytes=0,
    inflight_bytes=0,
    inflight_limit_bytes=1000,
    waiting_for_room=0,
    budget_refusals=0,
    links=(),
    credentials=(credential(b"app", NOW - 1),),
    refusals=(),
    unknown_last_refused_at=None,
    users_more=0,
    metrics=Metrics(),
)


def facts(**changed: Any) -> Facts:
    """All is well, but for what is changed."""
    about: dict[str, Any] = {"links": (link(), link(link_id=1)), "metrics": Metrics()}
    return evolve(_WELL, **{**about, **changed})


def of_workers(count: int = 2, **changed: Any) -> Facts:
    """All is well with `count` workers, but for what is changed."""
    numbers = range(1, count + 1)
    about: dict[str, Any] = {
        "links": tuple(
            evolve(link(link_id=i), worker=n) for n in numbers for i in range(2)
        ),
        "workers": tuple(worker(n) for n in numbers),
        "workers_wanted": count,
        "worker_counts": tuple(WorkerCounts(n, posts=7 * n) for n in numbers),
        "reloads": {"done": 0, "refused": 0},
    }
    return facts(**{**about, **changed})


def worker(number: int, state: str = "serving", pid: int = 0) -> WorkerFacts:
    return WorkerFacts(number, pid or 1_000 + number, state, NOW - 60, 0, 3, 7)


def lately(seconds: float = 60.0, **counted: Any) -> History:
    """A history in whose last `seconds` so much was counted."""
    history = History()
    history.add(Sample(NOW - seconds))
    history.add(Sample(NOW, **counted))
    return history


def took(seconds: float, count: int = 1) -> tuple[int, ...]:
    """The counts of a histogram of so many that took just so long."""
    counts = [0] * (len(SECONDS_BOUNDS) + 1)
    counts[sum(bound < seconds for bound in SECONDS_BOUNDS)] = count
    return tuple(counts)
