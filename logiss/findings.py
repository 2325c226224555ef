"""
Says in words what is wrong, and what to do about it.

Each kind of finding has the name of the alert that tells the same to a pager
(``deploy/prometheus/alerts.yml``). All are about now or about the last minute; what is
over is no finding any more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from attrs import frozen

from logiss.facts import Facts, LinkFacts, RefusalFacts, WorkerCounts
from logiss.history import RECENT_SECONDS, History, Sample, difference, quantile
from logiss.metrics import SECONDS_BOUNDS
from logiss.words import duration, many, shown, size, text

#: What findings are about: the three questions.
INTAKE, BACKEND, LOSS = "intake", "backend", "loss"
CRITICAL, WARNING, INFO = "critical", "warning", "info"
#: What findings make of the answers. `MAYBE` is for what may be lost, or be none of
#: ours: nobody here can know.
YES, NO, YES_BUT, NOT_ALL, MAYBE = "Yes", "No", "Yes, but", "Not all", "Maybe"
#: A backend is slow when one of ten posts takes it so long, or a write so long already.
SLOW_SECONDS, SLOW_WRITE_SECONDS = 0.5, 1.0
#: One that has become slow is given few posts: those of the rest of the minute, when it
#: was not, would hide them. So these are looked at by themselves, too.
LATELY_SECONDS = 10.0
#: A backend is down when it stays so for longer than a connection that was given up
#: takes to be made anew.
DOWN_SECONDS = 0.5
#: The memory for bodies is full from this part of it on.
FULL = 0.9
#: Credentials are old when they should have been read so long ago.
OVERDUE_SECONDS = 300.0
#: Workers that fall so often in a minute will not come to rest by themselves.
FALLS_MANY = 3
#: A worker is missing when it stays so for longer than the next takes to start.
MISSING_SECONDS = 5.0
#: At most so many users, destinations or workers are named one by one.
NAMED_MAX = 10

_CAUSE_MAX = 120


@frozen
class Finding:
    """
    @ivar alert: the name of the alert.
    @ivar severity: `CRITICAL`: somebody has to get up; `WARNING`: somebody has to look;
        `INFO`: worth knowing.
    @ivar concerns: the answer that it gives to each of the questions it is about.
    @ivar what: is wrong, on one line.
    @ivar do: what to do about it, on one line.
    """

    alert: str
    severity: str
    concerns: Mapping[str, str]
    what: str
    do: str


@frozen
class Case:
    """
    What findings are made of: now, and the two ends of the last minute.

    @ivar lately: `LATELY_SECONDS` before the last.
    """

    facts: Facts
    before: Sample
    lately: Sample
    last: Sample

    def more(self, count: Callable[[Sample], int]) -> int:
        """How much was counted in the last minute."""
        return count(self.last) - count(self.before)

    def recent(self, at: float | None) -> bool:
        """Whether something that happened last at `at` did in the last minute."""
        return self.facts.is_recent(at)

    def last_cause(self, codes: Sequence[int]) -> str:
        """Why the last post failed that was answered one of `codes` in that minute."""
        for post in reversed(self.facts.metrics.failures):
            if post.code in codes and self.recent(post.at):
                return f" The last: {post.code}, {text(post.cause, _CAUSE_MAX)}."
        return ""


def findings(facts: Facts, history: History) -> list[Finding]:
    """All there is to be said now, the worst first."""
    last = history.last() or Sample(facts.at)
    before, _ = history.since(RECENT_SECONDS) or (last, last)
    lately, _ = history.since(LATELY_SECONDS) or (last, last)
    case = Case(facts, before, lately, last)
    found = [finding for kind in _KINDS for finding in kind(case)]
    order = (CRITICAL, WARNING, INFO)
    return sorted(found, key=lambda finding: order.index(finding.severity))


def p90(since: Sample, last: Sample, destination: str) -> float:
    """What one of ten posts took a destination; 0 when there were none."""
    before = since.confirmation.get(destination, ())
    after = last.confirmation.get(destination, ())
    return quantile(0.9, difference(before, after), SECONDS_BOUNDS) or 0.0


def lately(history: History) -> dict[str, float]:
    """The `p90` of each destination in the last `LATELY_SECONDS`."""
    ends = history.since(LATELY_SECONDS)
    if ends is None:
        return {}
    return {
        destination: p90(*ends, destination) for destination in ends[1].confirmation
    }


# life


def _draining(case: Case) -> Iterator[Finding]:
    if case.facts.is_draining:
        yield Finding(
            "LogissDraining",
            WARNING,
            {INTAKE: NO},
            "This process is shutting down; it still has"
            f" {many(case.facts.posts_inside, 'post')} to answer.",
            "Nothing, if it was told to stop: new posts get 503, and load balancers"
            " that ask /health send them elsewhere.",
        )


# the workers


def _workers_missing(case: Case) -> Iterator[Finding]:
    missing = [
        (counts.missing_since, counts)
        for counts in case.facts.worker_counts
        if counts.missing_since is not None
        and case.facts.at - counts.missing_since > MISSING_SECONDS
    ]
    if not missing or case.facts.is_draining:
        return
    since = duration(case.facts.at - min(since for since, _ in missing))
    wanted = case.facts.workers_wanted
    is_all = len(missing) == wanted
    which = "None" if is_all else f"{wanted - len(missing)}"
    verb = "take" if wanted - len(missing) > 1 else "takes"
    yield Finding(
        "LogissWorkersMissing",
        CRITICAL if is_all else WARNING,
        {INTAKE: NO, BACKEND: "Unknown"} if is_all else {INTAKE: YES_BUT},
        f"{which} of {many(wanted, 'worker')} {verb} posts. For {since} these have not"
        f" come up: {_numbers(missing)}.",
        "See in the log what they said last, and with which code they ended (ns=workers"
        " at=exit). logiss starts them again by itself, after pauses of up to 30 s.",
    )


def _numbers(of: Sequence[tuple[object, WorkerCounts]]) -> str:
    named = ", ".join(str(counts.number) for _, counts in of[:NAMED_MAX])
    if len(of) > NAMED_MAX:
        named += f" and {len(of) - NAMED_MAX} more"
    return named or "?"


def _worker_fallen(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.worker_falls)
    if not count:
        return
    is_often = count >= FALLS_MANY
    recent = [
        (counts.last_fall_at, counts)
        for counts in case.facts.worker_counts
        if case.recent(counts.last_fall_at)
    ]
    yield Finding(
        "LogissWorkerFallen",
        CRITICAL if is_often else WARNING,
        {INTAKE: NOT_ALL, LOSS: MAYBE} if is_often else {LOSS: MAYBE},
        f"{many(count, 'worker has', 'workers have')} fallen in the last minute (number"
        f" {_numbers(recent)}). Posts that such a worker had not answered were broken"
        " off: what is not sent again is lost.",
        "See in the log what it said last, and with which code it ended (ns=workers"
        " at=exit): -9 is SIGKILL, mostly of the kernel for want of memory. logiss"
        " starts another in its place.",
    )


# the backend


def _by_destination(facts: Facts) -> dict[str, list[LinkFacts]]:
    by: dict[str, list[LinkFacts]] = {}
    for link in facts.serving_links:
        by.setdefault(link.link.destination, []).append(link)
    return by


def _down_since(case: Case, links: list[LinkFacts]) -> str:
    errors = [(f.link.last_error_at or 0.0, f.link.last_error) for f in links]
    since = [f.link.since for f in links if f.link.since is not None]
    ago = f"for {duration(case.facts.at - max(since))}" if since else "since the start"
    # Some of Twisted's end with a full stop, and so does the sentence.
    why = text(max(errors)[1], _CAUSE_MAX).rstrip(".")
    return f"{ago}: {why}" if why else ago


def _is_down(case: Case, links: list[LinkFacts]) -> bool:
    if any(f.link.is_usable for f in links):
        return False
    since = max(f.link.since or 0.0 for f in links)
    return case.facts.at - since >= DOWN_SECONDS


def _backend_down(case: Case) -> Iterator[Finding]:
    by = _by_destination(case.facts)
    down = {
        destination: links for destination, links in by.items() if _is_down(case, links)
    }
    kind = _all_down if len(down) == len(by) else _one_down
    for destination, links in list(down.items())[:NAMED_MAX]:
        yield kind(case, destination, _down_since(case, links), len(by))


def _all_down(case: Case, destination: str, since: str, of: int) -> Finding:
    timeout = duration(case.facts.delivery_timeout_seconds)
    which = "The backend" if of == 1 else f"All {of} backends are down:"
    return Finding(
        "LogissBackendDown",
        CRITICAL,
        {INTAKE: NO, BACKEND: NO},
        f"{which} {destination} has been down {since}. Posts wait {timeout} for it,"
        " then get 504.",
        "See whether the collector runs and can be reached from this machine;"
        " FORWARD_DEST says where it is. logiss connects again by itself.",
    )


def _one_down(case: Case, destination: str, since: str, of: int) -> Finding:
    return Finding(
        "LogissDestinationDown",
        WARNING,
        {BACKEND: YES_BUT},
        f"One of {of} backends, {destination}, has been down {since}. The others carry"
        " its load.",
        "See whether that collector runs and can be reached from this machine. logiss"
        " connects again by itself.",
    )


def _connections_missing(case: Case) -> Iterator[Finding]:
    for destination, links in _by_destination(case.facts).items():
        lost = [f for f in links if not f.link.is_usable]
        if lost and not _is_down(case, links):
            have = "has" if len(lost) == 1 else "have"
            yield Finding(
                "LogissConnectionsMissing",
                INFO,
                {} if len(lost) < len(links) else {BACKEND: YES_BUT},
                f"{len(lost)} of {many(len(links), 'connection')} to {destination}"
                f"{_places(lost)} {have} been down {_down_since(case, lost)}.",
                "Nothing, unless it stays so: logiss connects again by itself, within"
                " seconds.",
            )


def _places(links: Sequence[LinkFacts]) -> str:
    """Which they are, by worker and id; nothing where a process is alone."""
    named = [f"{f.worker}/{f.link.link_id}" for f in links if f.worker is not None]
    if not named:
        return ""
    if len(named) > NAMED_MAX:
        named[NAMED_MAX:] = [f"{len(named) - NAMED_MAX} more"]
    return f" ({', '.join(named)})"


def _backend_slow(case: Case) -> Iterator[Finding]:
    by = _by_destination(case.facts)
    for destination, links in by.items():
        if _is_down(case, links):
            continue
        how = _how_slow(case, destination, links)
        if how:
            alone = len(by) == 1
            which = (
                f"The backend {destination}"
                if alone
                else f"One of {len(by)} backends, {destination},"
            )
            yield Finding(
                "LogissBackendSlow",
                WARNING,
                {BACKEND: YES_BUT},
                f"{which} is slow: {how}.",
                "See what that collector or the network to it is busy with: its disk,"
                " its CPU, its own outputs.",
            )


def _how_slow(case: Case, destination: str, links: list[LinkFacts]) -> str:
    slowest = max(links, key=lambda f: f.waited_seconds)
    waits = slowest.waited_seconds
    if waits > SLOW_WRITE_SECONDS:
        where = _places([slowest])
        return f"it has not confirmed a write for {duration(waits)}{where}"
    for since, when in (
        (case.before, "minute"),
        (case.lately, f"{LATELY_SECONDS:.0f} seconds"),
    ):
        took = p90(since, case.last, destination)
        if took > SLOW_SECONDS:
            return (
                f"one of ten posts of the last {when} took it {duration(took)} or more"
            )
    return ""


def _replaying(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.payloads_replayed)
    given_up = case.more(lambda s: s.replays_given_up)
    if given_up:
        yield Finding(
            "LogissReplaying",
            WARNING,
            {LOSS: MAYBE},
            f"{many(given_up, 'delivered post was', 'delivered posts were')} to be sent"
            " again in the last minute, because the backend broke a connection, and"
            " could not be.",
            "Look in the log for the connection and why it broke; the collector may not"
            " have stored what it had last.",
        )
    elif count:
        yield Finding(
            "LogissReplaying",
            INFO,
            {},
            f"{many(count, 'delivered post was', 'delivered posts were')} sent again in"
            " the last minute, because the backend broke a connection: some lines may"
            " be there twice.",
            "Nothing, if the backend was restarted.",
        )


def _connection_broken(case: Case) -> Iterator[Finding]:
    """At this level what a connection had in kernel buffers goes with it."""
    count = case.more(lambda s: s.disconnects)
    had_any = case.more(lambda s: s.frames_delivered)
    if count and had_any and case.facts.delivery_level == "sent":
        yield Finding(
            "LogissConnectionBroken",
            WARNING,
            {LOSS: MAYBE},
            f"{many(count, 'connection')} to the backend ended in the last minute. With"
            " DELIVERY=sent, lines that were answered 200 may not have arrived.",
            "Nothing can bring them back. DELIVERY=acked answers 200 only when the"
            " backend's machine has them.",
        )


# who may post


def _credentials_refused(case: Case) -> Iterator[Finding]:
    recent = [r for r in case.facts.refusals if case.recent(r.last_refused_at)]
    recent.sort(key=lambda r: -(r.last_refused_at or 0.0))
    for refusals in recent[:NAMED_MAX]:
        yield _user_refused(case, refusals)
    if len(recent) > NAMED_MAX:
        others = many(len(recent) - NAMED_MAX, "more user")
        yield Finding(
            "LogissCredentialsRefused",
            WARNING,
            {LOSS: YES},
            f"Posts of {others} are refused with 401.",
            "See /metrics for all of them: logiss_credentials_refused_total.",
        )


def _user_refused(case: Case, refusals: RefusalFacts) -> Finding:
    cause = (
        "their credentials are wrong, or have expired"
        if refusals.is_held
        else "the user has no credentials in force"
    )
    count = many(refusals.refused, "post") + " since the start."
    said = (
        f"Posts of user {shown(refusals.user)} are refused with 401: {cause}.",
        count if refusals.refused else "",
        _last_accepted(case, refusals),
    )
    return Finding(
        "LogissCredentialsRefused",
        WARNING,
        {LOSS: YES},
        " ".join(filter(None, said)),
        "Give the senders of this user credentials that are in force, or put theirs in"
        " force again (logiss credentials, or TOKEN_MAP). What they post is lost until"
        " then.",
    )


def _last_accepted(case: Case, refusals: RefusalFacts) -> str:
    if not refusals.is_held:
        return ""
    used = [
        held.last_used_at
        for held in case.facts.credentials
        if held.user == refusals.user and held.last_used_at is not None
    ]
    if not used:
        return "None was accepted with the credentials that are in force now."
    return f"Others of the same user were last accepted {_ago(case, max(used))}."


def _ago(case: Case, at: float) -> str:
    return f"{duration(case.facts.at - at)} ago"


def _unknown_refused(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.unknown_refused)
    if count > 0:
        yield Finding(
            "LogissUnknownRefused",
            WARNING,
            {LOSS: MAYBE},
            f"{many(count, 'post')} of unknown users, or without credentials, got 401"
            " in the last minute. If the senders are yours, what they sent is lost.",
            "See the addresses and drain tokens of the last failed posts. Give senders"
            " of yours a user that is known; stop others from posting here.",
        )


def _credentials_not_loaded(case: Case) -> Iterator[Finding]:
    if not case.facts.are_credentials_loaded:
        yield Finding(
            "LogissCredentialsNotLoaded",
            CRITICAL,
            {INTAKE: NOT_ALL if case.facts.credentials else NO},
            "The credentials in Redis could not be read yet: posts of users who are not"
            " in TOKEN_MAP get 503.",
            "See whether the Redis of REDIS_URL answers; the log has the error.",
        )


def _credentials_stale(case: Case) -> Iterator[Finding]:
    overdue = case.facts.refresh_overdue_seconds
    if case.facts.are_credentials_loaded and overdue > OVERDUE_SECONDS:
        yield Finding(
            "LogissCredentialsStale",
            WARNING,
            {INTAKE: YES_BUT},
            "The credentials in Redis cannot be read; they should have been"
            f" {duration(overdue)} ago. Those read before are still in force.",
            "See whether the Redis of REDIS_URL answers; the log has the error.",
        )


def _entries_skipped(case: Case) -> Iterator[Finding]:
    count = case.facts.metrics.entries_unreadable
    if count:
        whose = "its user keeps" if count == 1 else "their users keep"
        yield Finding(
            "LogissEntriesSkipped",
            WARNING,
            {INTAKE: YES_BUT},
            f"{many(count, 'entry', 'entries')} in Redis cannot be read; {whose} the"
            " credentials of before, or none.",
            "See the log for each entry and what is wrong with it, and correct it.",
        )


# losses


def _senders_losing(case: Case) -> Iterator[Finding]:
    dropped = case.more(lambda s: s.reported_dropped)
    lost = case.more(lambda s: s.reported_lost)
    if dropped or lost:
        yield Finding(
            "LogissSendersLosing",
            WARNING,
            {LOSS: YES},
            "Senders lose lines before they reach us: in the last minute they reported"
            f" {dropped:,} dropped and {lost:,} lost{_of_losing_users(case)}.",
            "Look at those senders: they make more lines than they can send, or could"
            " not reach us for a while. More of them, larger batches or a larger queue"
            " there help.",
        )


def _of_losing_users(case: Case) -> str:
    by = case.facts.metrics.losses_by_user
    recent = [user for user, loss in by.items() if case.recent(loss.at)]
    if not recent:
        return ""
    named = ", ".join(map(shown, recent[:NAMED_MAX]))
    if len(recent) > NAMED_MAX:
        named += f" and {len(recent) - NAMED_MAX} more"
    return f", of {'user' if len(recent) == 1 else 'users'} {named}"


def _budget_full(case: Case) -> Iterator[Finding]:
    facts = case.facts
    taken, limit = facts.inflight_bytes, facts.inflight_limit_bytes
    refused = case.more(lambda s: s.budget_refusals)
    is_full = taken >= FULL * limit
    if not is_full and not facts.waiting_for_room and not refused:
        return
    is_now = is_full or facts.waiting_for_room
    kept = "" if is_full else "; some is kept free for what has come whole"
    waiting = many(facts.waiting_for_room, "post waits", "posts wait")
    yield Finding(
        "LogissBudgetFull",
        CRITICAL if refused else WARNING,
        {INTAKE: NOT_ALL, LOSS: YES} if refused else {INTAKE: YES_BUT},
        f"The memory for bodies {'is' if is_now else 'was'} full: {size(taken)} of"
        f" {size(limit)} are taken now{kept if is_now else ''}. {waiting} for room,"
        f" and {many(refused, 'post')} got 503 in the last minute.",
        "See first whether the backend is down or slow: what waits for it is in memory."
        " Else raise MAX_INFLIGHT_BYTES, or put another logiss beside this one.",
    )


def _posts_failing(case: Case) -> Iterator[Finding]:
    failed = case.more(lambda s: s.posts_failed)
    if failed:
        every = failed + case.more(lambda s: s.posts_delivered)
        # Those that were well before an outage are none of its excuse.
        is_outage = not any(f.link.is_usable for f in case.facts.serving_links)
        yield Finding(
            "LogissPostsFailing",
            CRITICAL if is_outage or failed * 20 >= every else WARNING,
            {LOSS: YES},
            f"{failed:,} of {many(every, 'post')} in the last minute got 5xx. logplex"
            " tries again twice, log-shuttle does not: what it sent is lost."
            f"{case.last_cause(range(500, 600))}",
            "Read the causes of the last failed posts; another finding may say what is"
            " behind them.",
        )


def _posts_refused(case: Case) -> Iterator[Finding]:
    refused = case.more(_otherwise_refused)
    if refused > 0:
        yield Finding(
            "LogissPostsRefused",
            WARNING,
            {LOSS: YES},
            f"{many(refused, 'post')} got 4xx in the last minute, for other reasons"
            " than credentials. Senders do not send them again."
            f"{case.last_cause(_OTHER_REFUSALS)}",
            "Read the causes of the last failed posts: their sender does what logiss"
            " cannot read, or sends too much at once.",
        )


# What is not a post, or has a finding of its own, is not counted here.
_OTHER_REFUSALS = [code for code in range(400, 499) if code not in (401, 405)]


def _otherwise_refused(sample: Sample) -> int:
    return (
        sample.posts_refused
        - sample.posts_unauthorized
        - sample.posts_of_other_methods
        - sample.posts_gone
    )


def _clients_gone(case: Case) -> Iterator[Finding]:
    gone = case.more(lambda s: s.posts_gone)
    if gone:
        yield Finding(
            "LogissClientsGone",
            WARNING,
            {LOSS: MAYBE},
            f"{many(gone, 'post')} had no answer yet in the last minute when"
            f" {'its sender' if gone == 1 else 'their senders'} hung up. What had not"
            " been delivered, and is not sent again, is lost.",
            "See whether the backend is slow. Senders give up after 5 s:"
            " DELIVERY_TIMEOUT is best a little less.",
        )


def _requests_refused(case: Case) -> Iterator[Finding]:
    counts = (
        (case.more(lambda s: s.requests_refused), "not HTTP as it should be"),
        (case.more(lambda s: s.clients_cut), "cut off, as they came too slowly"),
        (case.more(lambda s: s.proxy_headers_refused), "without a good PROXY header"),
    )
    if any(count for count, _ in counts):
        every = many(sum(count for count, _ in counts), "request")
        which = ", ".join(f"{count:,} {why}" for count, why in counts if count)
        yield Finding(
            "LogissRequestsRefused",
            WARNING,
            {LOSS: MAYBE},
            f"{every} of the last minute became no post: {which}. What your senders"
            " sent so is lost.",
            "See what connects to PORT besides your senders, and whether a proxy before"
            " logiss changes or delays what they send.",
        )


def _counts_mismatched(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.counts_mismatched)
    if count:
        yield Finding(
            "LogissCountsMismatched",
            WARNING,
            {LOSS: MAYBE},
            f"{many(count, 'post')} in the last minute had another number of frames"
            " than their sender said.",
            "See the log for which: something between sender and logiss may change"
            " bodies.",
        )


def _fields_cut(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.fields_cut)
    if count:
        yield Finding(
            "LogissFieldsCut",
            INFO,
            {},
            f"{many(count, 'header field was', 'header fields were')} cut in the last"
            " minute, for being longer than RFC 5424 allows.",
            "Nothing, or shorten the names that senders give; messages are whole.",
        )


def _log_lines_dropped(case: Case) -> Iterator[Finding]:
    count = case.more(lambda s: s.log_lines_dropped)
    if count:
        yield Finding(
            "LogissLogLinesDropped",
            WARNING,
            {LOSS: "Only of our own log"},
            f"{many(count, 'line was', 'lines were')} dropped of logiss's own log in"
            " the last minute, as it was not read in time.",
            "See what reads the standard output; REQUEST_LOG=errors writes less.",
        )


def _clients_full(case: Case) -> Iterator[Finding]:
    clients = case.facts.clients
    if clients.most and clients.connected >= clients.most:
        yield Finding(
            "LogissClientsFull",
            CRITICAL,
            {INTAKE: NOT_ALL},
            f"{many(clients.connected, 'client is', 'clients are')} connected, as many"
            " as there may be; others wait.",
            _MORE_CLIENTS,
        )
    elif case.more(lambda s: s.pauses):
        yield Finding(
            "LogissClientsFull",
            WARNING,
            {INTAKE: YES_BUT},
            "There was no room for more clients in the last minute; some had to wait."
            f" Now {many(clients.connected, 'is', 'are')} connected.",
            _MORE_CLIENTS,
        )


_MORE_CLIENTS = (
    "Raise MAX_CONNECTIONS and the limit on open files, or put another logiss beside"
    " this one."
)


_KINDS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    _workers_missing,
    _backend_down,
    _worker_fallen,
    _credentials_not_loaded,
    _budget_full,
    _clients_full,
    _draining,
    _backend_slow,
    _credentials_refused,
    _senders_losing,
    _posts_failing,
    _posts_refused,
    _clients_gone,
    _connection_broken,
    _credentials_stale,
    _entries_skipped,
    _counts_mismatched,
    _requests_refused,
    _unknown_refused,
    _log_lines_dropped,
    _connections_missing,
    _replaying,
    _fields_cut,
)
