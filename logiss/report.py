"""
Puts everything that an operator wants to know into one document: the three answers,
what is wrong, and the numbers.

The page, ``/status.json`` and ``logiss top`` all show this document. Times are seconds
since the epoch, durations are seconds, sizes are bytes; what a client has supplied is
text, cut, without anything that does not print.
"""

from collections.abc import Iterable
from typing import Any

from logiss.facts import (
    CredentialFacts,
    Facts,
    LinkFacts,
    RefusalFacts,
    WorkerFacts,
)
from logiss.findings import (
    BACKEND,
    CRITICAL,
    INTAKE,
    LOSS,
    MAYBE,
    NO,
    NOT_ALL,
    YES,
    YES_BUT,
    Finding,
    findings,
)
from logiss.history import RECENT_SECONDS, History, difference, quantile
from logiss.metrics import SECONDS_BOUNDS, FailedPost
from logiss.words import duration, many, text

#: Rows of the table of credentials; `/metrics` has all.
CREDENTIALS_MAX = 100
#: The states of an answer.
GOOD, WARN, BAD = "good", "warn", "bad"

_TEXT_MAX = 256


def report(facts: Facts, history: History) -> dict[str, Any]:
    """The document, made of what `json.dumps` takes."""
    found = findings(facts, history)
    recent = _recent(history)
    credentials = _credentials(facts)
    return {
        "instance": facts.instance,
        "version": facts.version,
        "at": facts.at,
        "started_at": facts.started_at,
        "delivery_level": facts.delivery_level,
        "is_draining": facts.is_draining,
        "answers": [
            _answer("Is it taking logs?", found, INTAKE, _taking(facts, recent)),
            _answer("Is the backend there?", found, BACKEND, _there(facts, recent)),
            _answer("Is anything being lost?", found, LOSS, _lost(recent)),
        ],
        "findings": [
            {
                "alert": finding.alert,
                "severity": finding.severity,
                "what": finding.what,
                "do": finding.do,
            }
            for finding in found
        ],
        "last_minute": recent,
        "totals": _totals(facts),
        "queue": {
            "payloads": facts.queue_payloads,
            "bytes": facts.queue_bytes,
            "replay_bytes": facts.replay_bytes,
        },
        "inflight": {
            "posts": facts.posts_inside,
            "bytes": facts.inflight_bytes,
            "limit_bytes": facts.inflight_limit_bytes,
            "waiting": facts.waiting_for_room,
        },
        "clients": {
            "connected": facts.clients.connected,
            "limit": facts.clients.most,
            "pauses": facts.clients.pauses,
        },
        "workers_wanted": facts.workers_wanted,
        "workers": [_worker(worker) for worker in facts.workers],
        "connections": [_connection(link) for link in facts.links],
        "credentials": credentials[:CREDENTIALS_MAX],
        "credentials_more": facts.users_more + len(credentials[CREDENTIALS_MAX:]),
        "failures": [_failure(post) for post in reversed(facts.metrics.failures)],
    }


# the three answers


# Of findings that are as bad the answer is the first of these.
_ANSWERS = (NO, YES, NOT_ALL, YES_BUT, MAYBE)


def _answer(
    question: str, found: Iterable[Finding], about: str, when_good: str
) -> dict[str, str]:
    """The worst finding is the answer; without one `when_good` is."""
    mine = [finding for finding in found if about in finding.concerns]
    answer = {"question": question}
    if not mine:
        good = NO if about == LOSS else YES
        return {**answer, "state": GOOD, "answer": good, "detail": when_good}

    def rank(finding: Finding) -> tuple[bool, int]:
        said = finding.concerns[about]
        place = _ANSWERS.index(said) if said in _ANSWERS else len(_ANSWERS)
        return finding.severity != CRITICAL, place

    worst = min(mine, key=rank)
    state = BAD if worst.severity == CRITICAL else WARN
    return {
        **answer,
        "state": state,
        "answer": worst.concerns[about],
        "detail": worst.what,
    }


def _taking(facts: Facts, recent: dict[str, Any]) -> str:
    clients = f"{many(facts.clients.connected, 'client is', 'clients are')} connected."
    if not recent["posts_delivered"]:
        others = recent["posts_refused"] + recent["posts_failed"]
        came = f"None of {many(others, 'post')}" if others else "No post"
        became = "was delivered" if others else "came"
        return f"It is ready. {came} {became} in the last minute; {clients}"
    rate = recent["posts_delivered"] / max(recent["seconds"], 1.0)
    return f"{rate:,.1f} posts a second were delivered in the last minute; {clients}"


def _there(facts: Facts, recent: dict[str, Any]) -> str:
    links = facts.serving_links
    usable = sum(f.link.is_usable for f in links)
    is_one = len(links) == 1
    said = (
        f"{usable} of {many(len(links), 'connection')}"
        f" {'is' if is_one else 'are'} usable"
    )
    p99 = recent["delivery_p99_seconds"]
    if p99 is None:
        return f"{said}."
    # Nothing is known of those above the last bound but that they are.
    most = f"{duration(p99)} at most" if p99 < SECONDS_BOUNDS[-1] else "10 s or more"
    return f"{said}; 99 % of the posts of the last minute took {most}."


def _lost(recent: dict[str, Any]) -> str:
    frames = recent["frames_delivered"]
    if not frames:
        return "Nothing came in the last minute, and nothing was lost."
    if frames == 1:
        return "The one frame of the last minute was delivered."
    return f"All {frames:,} frames of the last minute were delivered."


# the numbers


def _recent(history: History) -> dict[str, Any]:
    """What happened in the last minute."""
    ends = history.since(RECENT_SECONDS)
    if ends is None:
        last = history.last()
        if last is None:
            return _NOTHING
        ends = last, last
    before, last = ends
    delivery = difference(before.delivery, last.delivery)
    return {
        "seconds": last.at - before.at,
        "posts_delivered": last.posts_delivered - before.posts_delivered,
        "posts_refused": last.posts_refused - before.posts_refused,
        "posts_failed": last.posts_failed - before.posts_failed,
        "requests_refused": last.requests_refused - before.requests_refused,
        "frames_delivered": last.frames_delivered - before.frames_delivered,
        "frames_failed": last.frames_failed - before.frames_failed,
        "delivery_p50_seconds": quantile(0.5, delivery, SECONDS_BOUNDS),
        "delivery_p99_seconds": quantile(0.99, delivery, SECONDS_BOUNDS),
        "reported_dropped": last.reported_dropped - before.reported_dropped,
        "reported_lost": last.reported_lost - before.reported_lost,
    }


_NOTHING: dict[str, Any] = {
    "seconds": 0.0,
    "posts_delivered": 0,
    "posts_refused": 0,
    "posts_failed": 0,
    "requests_refused": 0,
    "frames_delivered": 0,
    "frames_failed": 0,
    "delivery_p50_seconds": None,
    "delivery_p99_seconds": None,
    "reported_dropped": 0,
    "reported_lost": 0,
}


def _totals(facts: Facts) -> dict[str, Any]:
    metrics = facts.metrics
    codes = {200: metrics.posts_succeeded, **metrics.posts_failed_by_code.given()}
    return {
        "posts_by_code": {str(code): count for code, count in sorted(codes.items())},
        "frames_received": metrics.frames_received,
        "frames_delivered": metrics.frames_delivered,
        "frames_failed": metrics.frames_failed,
        "duplicates": metrics.posts_joined
        + metrics.posts_remembered
        + metrics.posts_known_elsewhere,
        "reconnects": sum(max(0, f.link.connects - 1) for f in facts.links)
        + sum(f.reconnects for f in facts.ended_links),
        "payloads_replayed": metrics.payloads_replayed,
        "log_lines_dropped": metrics.log_lines_dropped,
    }


def _worker(worker: WorkerFacts) -> dict[str, Any]:
    return {
        "number": worker.number,
        "pid": worker.pid or None,
        "state": worker.state,
        "since": worker.since,
        "clients": worker.clients,
        "posts": worker.posts,
        "falls": worker.falls,
    }


def _connection(facts: LinkFacts) -> dict[str, Any]:
    link = facts.link
    if not link.is_usable:
        state = "down"
    else:
        state = "waiting" if facts.waited_seconds > 1.0 else "up"
    return {
        "id": link.link_id,
        "destination": link.destination,
        "worker": facts.worker,
        "is_serving": facts.is_serving,
        "state": state,
        "since": link.since,
        "delivered_bytes": link.bytes_delivered,
        "waited_seconds": facts.waited_seconds,
        "connects": link.connects,
        "last_error": text(link.last_error, _TEXT_MAX),
        "last_error_at": link.last_error_at,
    }


def _credentials(facts: Facts) -> list[dict[str, Any]]:
    """Those that are refused now, then those used last, of as many as there are."""
    refusals = {r.user: r for r in facts.refusals}
    held = sorted(facts.credentials, key=lambda c: -(c.last_used_at or 0.0))
    users = {c.user for c in held}
    # Of users who have no credentials any more only those who still post.
    gone = [
        CredentialFacts(r.user, "", False, 0, None)
        for r in facts.refusals
        if not r.is_held and r.last_refused_at is not None and r.user not in users
    ]

    def refused_lately(credential: CredentialFacts) -> bool:
        refusal = refusals.get(credential.user)
        return refusal is not None and facts.is_recent(refusal.last_refused_at)

    rows = sorted([*gone, *held], key=lambda c: not refused_lately(c))
    return [_credential(row, refusals.get(row.user)) for row in rows]


def _credential(held: CredentialFacts, refusals: RefusalFacts | None) -> dict[str, Any]:
    return {
        "user": text(held.user, _TEXT_MAX),
        "stage": text(held.stage, _TEXT_MAX),
        "is_deprecated": held.is_deprecated,
        "accepted": held.accepted,
        "last_used_at": held.last_used_at,
        "refused": refusals.refused if refusals else 0,
        "last_refused_at": refusals.last_refused_at if refusals else None,
    }


def _failure(post: FailedPost) -> dict[str, Any]:
    def shown(value: bytes | None) -> str | None:
        return None if value is None else text(value, _TEXT_MAX)

    return {
        "at": post.at,
        "code": post.code,
        "cause": text(post.cause, _TEXT_MAX),
        "request_id": shown(post.request_id),
        "user": shown(post.user),
        "drain_token": shown(post.drain_token),
        "remote_addr": shown(post.remote_addr),
    }
