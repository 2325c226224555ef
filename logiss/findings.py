"""
Says in words what is wrong, and what to do about it.

Each kind of finding has the name of the alert that tells the same to a pager
(``deploy/prometheus/alerts.yml``). All are about now or about the last minute; what is
over is no finding any more.
"""

from collections.abc import Callable, Iterator

from attrs import frozen

from logiss.facts import Facts, LinkFacts
from logiss.history import RECENT_SECONDS, History, Sample, difference, quantile
from logiss.metrics import SECONDS_BOUNDS
from logiss.words import duration, many, shown, size

#: What findings are about: the three questions.
INTAKE, BACKEND, LOSS = "intake", "backend", "loss"
CRITICAL, WARNING, INFO = "critical", "warning", "info"
#: A backend is slow when one of ten posts takes it so long, or a write so long already.
SLOW_SECONDS, SLOW_WRITE_SECONDS = 0.5, 1.0
#: The memory for bodies is full from this part of it on.
FULL = 0.9
#: Credentials are old when they should have been read so long ago.
OVERDUE_SECONDS = 300.0
#: At most so many users or destinations are named one by one.
NAMED_MAX = 10


@frozen
class Finding:
    """
    @ivar alert: the name of the alert.
    @ivar severity: `CRITICAL`: somebody has to get up; `WARNING`: somebody has to look;
        `INFO`: worth knowing.
    @ivar concerns: which of the questions.
    @ivar what: is wrong, on one line.
    @ivar do: what to do about it, on one line.
    """

    alert: str
    severity: str
    concerns: tuple[str, ...]
    what: str
    do: str


@frozen
class Case:
    """What findings are made of: now, and the two ends of the last minute."""

    facts: Facts
    before: Sample
    last: Sample

    def more(self, count: Callable[[Sample], int]) -> int:
        """How much was counted in the last minute."""
        return count(self.last) - count(self.before)

    @property
    def seconds(self) -> float:
        return self.last.at - self.before.at

    def recent(self, at: float | None) -> bool:
        """Whether something that happened last at `at` did in the last minute."""
        return at is not None and self.facts.at - at <= RECENT_SECONDS


def findings(facts: Facts, history: History) -> list[Finding]:
    """All there is to be said now, the worst first."""
    ends = history.since(RECENT_SECONDS)
    if ends is None:
        last = history.last() or Sample(facts.at)
        ends = last, last
    case = Case(facts, *ends)
    found = [finding for kind in _KINDS for finding in kind(case)]
    order = (CRITICAL, WARNING, INFO)
    return sorted(found, key=lambda finding: order.index(finding.severity))


def p90(case: Case, destination: str) -> float | None:
    """What one of ten posts took a destination in the last minute."""
    after = case.last.confirmation.get(destination, ())
    before = case.before.confirmation.get(destination, ())
    return quantile(0.9, difference(before, after), SECONDS_BOUNDS)


# life


def _draining(case: Case) -> Iterator[Finding]:
    if case.facts.is_draining:
        yield Finding(
            "LogissDraining",
            WARNING,
            (INTAKE,),
            f"This process is shutting down; {many(case.facts.posts_inside, 'post')}"
            " still without an answer.",
            "Nothing, if it was told to stop. New posts get 503 and go elsewhere.",
        )


# the backend


def _by_destination(facts: Facts) -> dict[str, list[LinkFacts]]:
    by: dict[str, list[LinkFacts]] = {}
    for link in facts.links:
        by.setdefault(link.link.destination, []).append(link)
    return by


def _down_since(case: Case, links: list[LinkFacts]) -> str:
    errors = [(f.link.last_error_at or 0.0, f.link.last_error) for f in links]
    since = [f.link.since for f in links if f.link.since is not None]
    ago = duration(case.facts.at - max(since)) if since else ""
    why = max(errors)[1] if errors else ""
    return (f" for {ago}" if ago else " since the start") + (f": {why}" if why else "")


def _backend_down(case: Case) -> Iterator[Finding]:
    by = _by_destination(case.facts)
    down = {
        destination: links
        for destination, links in by.items()
        if not any(f.link.is_usable for f in links)
    }
    timeout = duration(case.facts.delivery_timeout_seconds)
    for destination, links in list(down.items())[:NAMED_MAX]:
        if len(down) == len(by):
            yield Finding(
                "LogissBackendDown",
                CRITICAL,
                (INTAKE, BACKEND),
                f"The backend {destination} is down"
                f"{_down_since(case, links)}. Posts wait {timeout} and get 504.",
                "See whether the collector runs and can be reached from this machine;"
                " FORWARD_DEST says where it is. logiss connects again by itself.",
            )
        else:
            yield Finding(
                "LogissDestinationDown",
                WARNING,
                (BACKEND,),
                f"One of {len(by)} backends, {destination}, is down"
                f"{_down_since(case, links)}. The others carry its load.",
                "See whether that collector runs and can be reached from this machine.",
            )


def _connections_missing(case: Case) -> Iterator[Finding]:
    for destination, links in _by_destination(case.facts).items():
        usable = sum(f.link.is_usable for f in links)
        if 0 < usable < len(links):
            lost = [f for f in links if not f.link.is_usable]
            yield Finding(
                "LogissConnectionsMissing",
                INFO,
                (BACKEND,),
                f"{usable} of {len(links)} connections to {destination} are usable;"
                f" one is down{_down_since(case, lost)}.",
                "Nothing, if it does not stay so: each is made anew within 5 s.",
            )


def _backend_slow(case: Case) -> Iterator[Finding]:
    by = _by_destination(case.facts)
    for destination, links in by.items():
        if not any(f.link.is_usable for f in links):
            continue
        took = p90(case, destination) or 0.0
        waits = max(f.waited_seconds for f in links)
        if took <= SLOW_SECONDS and waits <= SLOW_WRITE_SECONDS:
            continue
        which = "The backend" if len(by) == 1 else f"One of {len(by)} backends,"
        comma = "" if len(by) == 1 else ","
        how = (
            f"one of ten posts of the last minute took it {duration(took)} and more"
            if took > SLOW_SECONDS
            else f"a write has waited {duration(waits)} for it"
        )
        yield Finding(
            "LogissBackendSlow",
            WARNING,
            (BACKEND,),
            f"{which} {destination}{comma} is slow: {how}.",
            "See what that collector or the network to it is busy with: its disk, its"
            " CPU, its own outputs.",
        )


# who may post


def _credentials_refused(case: Case) -> Iterator[Finding]:
    recent = [r for r in case.facts.refusals if case.recent(r.last_refused_at)]
    recent.sort(key=lambda r: -(r.last_refused_at or 0.0))
    for refusals in recent[:NAMED_MAX]:
        used = [
            c.last_used_at
            for c in case.facts.credentials
            if c.user == refusals.user and c.last_used_at is not None
        ]
        accepted = "Never accepted by this process"
        if used:
            ago = duration(max(0.0, case.facts.at - max(used)))
            accepted = f"Last accepted {ago} ago"
        cause = "wrong or expired" if refusals.is_held else "expired: there are none"
        yield Finding(
            "LogissCredentialsRefused",
            WARNING,
            (LOSS,),
            f"Posts of user {shown(refusals.user)} are refused with 401: the"
            f" credentials are {cause}. {many(refusals.refused, 'post')} so far."
            f" {accepted}.",
            "Give the senders of this user credentials that are in force, or put theirs"
            " in force again (logiss credentials). What they post is lost until then.",
        )
    if len(recent) > NAMED_MAX:
        yield Finding(
            "LogissCredentialsRefused",
            WARNING,
            (LOSS,),
            f"Posts of {len(recent) - NAMED_MAX} more users are refused with 401.",
            "See /metrics: logiss_credentials_refused_total.",
        )


def _unknown_refused(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.unknown_refused)
    if count:
        yield Finding(
            "LogissUnknownRefused",
            INFO,
            (),
            f"{many(count, 'post')} of unknown users refused with 401 in the last"
            " minute.",
            "Nothing, if they are not yours; else give the senders a user that is"
            " known.",
        )


def _credentials_not_loaded(case: Case) -> Iterator[Finding]:
    if not case.facts.are_credentials_loaded:
        yield Finding(
            "LogissCredentialsNotLoaded",
            CRITICAL,
            (INTAKE,),
            "The credentials in Redis could not be read yet: their users get 503.",
            "See whether the Redis of REDIS_URL answers; the log has the error.",
        )


def _credentials_stale(case: Case) -> Iterator[Finding]:
    overdue = case.facts.refresh_overdue_seconds
    if case.facts.are_credentials_loaded and overdue > OVERDUE_SECONDS:
        yield Finding(
            "LogissCredentialsStale",
            WARNING,
            (INTAKE,),
            f"The credentials should have been read from Redis {duration(overdue)} ago;"
            " those of then are still in force.",
            "See whether the Redis of REDIS_URL answers; the log has the error.",
        )


def _entries_skipped(case: Case) -> Iterator[Finding]:
    if case.more(lambda s: s.entries_skipped):
        yield Finding(
            "LogissEntriesSkipped",
            WARNING,
            (INTAKE,),
            "Credentials in Redis cannot be read; their users keep what they had.",
            "See the log for the entry and what is wrong with it, and correct it.",
        )


# losses


def _senders_losing(case: Case) -> Iterator[Finding]:
    dropped = case.more(lambda s: s.reported_dropped)
    lost = case.more(lambda s: s.reported_lost)
    if not dropped and not lost:
        return
    by = case.facts.metrics.losses_by_user
    recent = [user for user, loss in by.items() if case.recent(loss.at)]
    whose = ", ".join(shown(user) for user in recent[:NAMED_MAX])
    if len(recent) > NAMED_MAX:
        whose += f" and {len(recent) - NAMED_MAX} more"
    yield Finding(
        "LogissSendersLosing",
        WARNING,
        (LOSS,),
        f"Senders lose lines before they reach us: {dropped:,} dropped, {lost:,} lost"
        f" as reported in the last minute, by user {whose}.",
        "Look at those senders: they make more lines than they can send, or could not"
        " reach us for a while. More of them, larger batches or a larger queue there"
        " help.",
    )


def _budget_full(case: Case) -> Iterator[Finding]:
    facts = case.facts
    refused = case.more(lambda s: s.budget_refusals)
    part = facts.inflight_bytes / facts.inflight_limit_bytes
    if part < FULL and not facts.waiting_for_room and not refused:
        return
    yield Finding(
        "LogissBudgetFull",
        CRITICAL if refused else WARNING,
        (INTAKE, LOSS) if refused else (INTAKE,),
        f"The memory for bodies is full: {size(facts.inflight_bytes)} of"
        f" {size(facts.inflight_limit_bytes)} taken,"
        f" {many(facts.waiting_for_room, 'post')} wait for room; {refused:,} got 503 in"
        " the last minute.",
        "See first whether the backend is slow: what waits for it is in memory. Else"
        " raise MAX_INFLIGHT_BYTES, or put another logiss beside this one.",
    )


def _posts_failing(case: Case) -> Iterator[Finding]:
    failed = case.more(lambda s: s.posts_failed)
    if failed:
        every = failed + case.more(lambda s: s.posts_delivered)
        yield Finding(
            "LogissPostsFailing",
            CRITICAL if failed * 20 >= every else WARNING,
            (LOSS,),
            f"{many(failed, 'post')} of {every:,} in the last minute got 5xx. logplex"
            " tries again, log-shuttle does not: what it sent is lost.",
            "Read the causes in the table of failed posts below, and the findings above"
            " this one.",
        )


def _posts_refused(case: Case) -> Iterator[Finding]:
    refused = case.more(lambda s: s.posts_refused - s.posts_unauthorized)
    if refused:
        yield Finding(
            "LogissPostsRefused",
            WARNING,
            (LOSS,),
            f"{many(refused, 'post')} in the last minute got 4xx for other reasons than"
            " credentials. Senders do not send them again.",
            "Read the causes in the table of failed posts below: a sender is"
            " misconfigured or too large in its ways.",
        )


def _counts_mismatched(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.counts_mismatched)
    if count:
        yield Finding(
            "LogissCountsMismatched",
            WARNING,
            (LOSS,),
            f"{many(count, 'post')} in the last minute had another number of frames"
            " than their sender said.",
            "See the log for which: something between sender and here may change"
            " bodies.",
        )


def _replaying(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.payloads_replayed)
    if count:
        yield Finding(
            "LogissReplaying",
            INFO,
            (BACKEND,),
            f"{many(count, 'delivered post')} sent again in the last minute, because"
            " the backend broke a connection: some lines may be there twice.",
            "Nothing, if the backend was restarted.",
        )


def _fields_cut(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.fields_cut)
    if count:
        yield Finding(
            "LogissFieldsCut",
            INFO,
            (),
            f"{many(count, 'header field')} of frames cut in the last minute, as they"
            " were longer than RFC 5424 allows.",
            "Nothing, or shorten the names of the senders; messages are whole.",
        )


def _log_lines_dropped(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.log_lines_dropped)
    if count:
        yield Finding(
            "LogissLogLinesDropped",
            WARNING,
            (),
            f"{many(count, 'line')} of logiss's own log dropped in the last minute, as"
            " nobody read them in time.",
            "See what reads the standard output; REQUEST_LOG=errors writes less.",
        )


def _clients_full(case: Case) -> Iterator[Finding]:
    clients = case.facts.clients
    if clients.most and clients.connected >= clients.most:
        yield Finding(
            "LogissClientsFull",
            CRITICAL,
            (INTAKE,),
            f"{many(clients.connected, 'client')} connected, as many as there may be;"
            " others wait.",
            "Raise MAX_CONNECTIONS and the limit on open files, or put another logiss"
            " beside this one.",
        )


_KINDS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    _backend_down,
    _credentials_not_loaded,
    _budget_full,
    _clients_full,
    _draining,
    _backend_slow,
    _credentials_refused,
    _senders_losing,
    _posts_failing,
    _posts_refused,
    _credentials_stale,
    _entries_skipped,
    _counts_mismatched,
    _connections_missing,
    _log_lines_dropped,
    _replaying,
    _unknown_refused,
    _fields_cut,
)
