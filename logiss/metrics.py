"""
Counts in plain attributes of one object.

Whoever counts adds to an attribute; whoever reports reads them. Nothing locks and
nothing is looked up by name.
"""

from bisect import bisect_left
from collections import deque

from attrs import Factory, define, frozen

#: So many names are counted by themselves.
NAMES_MAX = 1000
#: So many of the last posts that were refused or have failed are remembered.
FAILURES_MAX = 50
#: Up to these seconds: from a near backend that answers to `DELIVERY_TIMEOUT`.
SECONDS_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0),
)

#: Why a post went without a table that is shared: Redis was known to be gone, or went
#: meanwhile; said what it cannot; said no; took too long.
UNASKED = ("down", "lost", "nonsense", "refused", "slow")

_CODES_MAX = 600


Name = tuple[str | bytes, ...]


class Histogram:
    """
    Durations by how long they were.

    @ivar counts: those up to each of `SECONDS_BOUNDS` that are above the one before;
        the last are those above all.
    @ivar sum_seconds: all together.
    """

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS_BOUNDS) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        """Add a duration, `count` times."""
        self.counts[bisect_left(SECONDS_BOUNDS, seconds)] += count
        # A clock that was set back does not make a sum smaller.
        if seconds > 0.0:
            self.sum_seconds += seconds * count


class CountsByCode(list[int]):
    """A count for each HTTP status: found by its index, not by its name."""

    def __init__(self) -> None:
        super().__init__([0] * _CODES_MAX)

    def given(self) -> dict[int, int]:
        """The statuses that there were, with their counts."""
        return {code: count for code, count in enumerate(self) if count}


@frozen
class FailedPost:
    """
    A post that was refused or has failed. Values of a client are as it sent them, cut.

    @ivar at: when, in the clock's seconds.
    @ivar code: what was answered; 499 of a client that had gone before that.
    @ivar user: a known one; nothing for all others.
    """

    at: float
    code: int
    cause: str
    request_id: bytes | None
    drain_token: bytes | None
    remote_addr: bytes | None
    user: bytes | None


@define
class ReportedLoss:
    """What a sender has said of messages that never came."""

    at: float
    dropped: int
    lost: int


@define(eq=False)
class Link:
    """
    A connection to the backend, over all the times that it was made anew.

    @ivar since: when it became usable, or when it ended, in the clock's seconds; None
        when it never was usable.
    @ivar confirmation: from a write to the delivery level, or until that was given up.
    @ivar connect_seconds: of all that succeeded.
    @ivar stalls: how often it was given up because it made no progress.
    """

    link_id: int
    destination: str
    is_usable: bool = False
    since: float | None = None
    bytes_delivered: int = 0
    attempts: int = 0
    connects: int = 0
    failures: int = 0
    disconnects: int = 0
    stalls: int = 0
    write_errors: int = 0
    connect_seconds: float = 0.0
    last_error: str = ""
    last_error_at: float | None = None
    confirmation: Histogram = Factory(Histogram)

    def failed(self, at: float, why: str) -> None:
        """The last that was wrong with it."""
        self.last_error, self.last_error_at = why, at


class CountsByName(dict[Name, int]):
    """Counts of the first `NAMES_MAX` names; those of all others are under ``()``."""

    def add(self, name: Name, count: int) -> None:
        if name not in self and len(self) >= NAMES_MAX:
            name = ()
        self[name] = self.get(name, 0) + count


@define
class Metrics:
    """What has happened since the process started."""

    posts_succeeded: int = 0
    # By what was answered instead.
    posts_failed_by_code: CountsByCode = Factory(CountsByCode)
    # What was no request that could be served; such have no line in the log.
    requests_refused_by_code: CountsByCode = Factory(CountsByCode)
    failures: deque[FailedPost] = Factory(lambda: deque(maxlen=FAILURES_MAX))
    # Sums; of as many as there were posts, deliveries or connections.
    codec_seconds: float = 0.0
    post_seconds: float = 0.0
    send_seconds: float = 0.0
    # Of posts that had something to deliver, from there to its end.
    delivery: Histogram = Factory(Histogram)
    credentials_accepted: int = 0
    credentials_refused: int = 0
    health_checks: int = 0
    frames_received: int = 0
    frames_delivered: int = 0
    frames_failed: int = 0
    hostnames_cut: int = 0
    app_names_cut: int = 0
    procids_cut: int = 0
    msgids_cut: int = 0
    payloads_withdrawn: int = 0
    payloads_requeued: int = 0
    payloads_refused: int = 0
    payloads_replayed: int = 0
    bytes_replayed: int = 0
    replays_given_up: int = 0
    writes: int = 0
    links: list[Link] = Factory(list)
    log_lines_dropped: int = 0
    clients_cut: int = 0
    posts_joined: int = 0
    posts_remembered: int = 0
    counts_mismatched: int = 0
    # Headers and frames may tell of the same loss: never to be added together.
    dropped_by_headers: int = 0
    lost_by_headers: int = 0
    dropped_by_frames: int = 0
    lost_by_frames: int = 0
    # What is told by either, summed up post by post.
    losses_dropped: int = 0
    losses_lost: int = 0
    proxy_headers_refused: int = 0
    # Of those accepted, and those that could not be decided on yet.
    credentials_deprecated: int = 0
    credentials_awaited: int = 0
    refreshes_succeeded: int = 0
    # The last that succeeded, in the clock's seconds; 0 when none has.
    refreshed_at: float = 0.0
    refreshes_failed: int = 0
    # Of those that succeeded, those that put other credentials in force.
    refreshes_changed: int = 0
    entries_skipped: int = 0
    # Those of the last reading that succeeded.
    entries_unreadable: int = 0
    # By user and stage, and by user: () is whoever is not known, or one too many.
    accepted_by_stage: CountsByName = Factory(CountsByName)
    refused_by_user: CountsByName = Factory(CountsByName)
    # By user, the last each has reported; not of more than `NAMES_MAX`.
    losses_by_user: dict[bytes, ReportedLoss] = Factory(dict)

    # Bodies that were refused: those in files, and those that could not be.
    refused_captured: int = 0
    refused_not_captured: int = 0

    # With a table of posts that is shared: those it knew, those that went without it,
    # those that did not wait any longer for another process, and deliveries it was not
    # told of.
    posts_known_elsewhere: int = 0
    dedupe_unasked: CountsByName = Factory(CountsByName)
    dedupe_overtaken: int = 0
    dedupe_unrecorded: int = 0
    dedupe_connects: int = 0
    dedupe_outages: int = 0

    @property
    def posts_failed(self) -> int:
        """All that were refused or have failed."""
        return sum(self.posts_failed_by_code)

    def add_seconds(self, post: float, codec: float = 0.0, send: float = 0.0) -> None:
        """What a post has taken; a clock that was set back makes no sum smaller."""
        if post > 0.0:
            self.post_seconds += post
        if codec > 0.0:
            self.codec_seconds += codec
        if send > 0.0:
            self.send_seconds += send

    def add_loss(self, at: float, user: bytes, dropped: int, lost: int) -> None:
        """A sender has reported so much more that never came."""
        self.losses_dropped += dropped
        self.losses_lost += lost
        loss = self.losses_by_user.get(user)
        if loss is None and len(self.losses_by_user) < NAMES_MAX:
            loss = self.losses_by_user[user] = ReportedLoss(at, 0, 0)
        if loss is not None:
            loss.at = at
            loss.dropped += dropped
            loss.lost += lost
