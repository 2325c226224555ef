"""
Counts what senders say of their frames: how many a body has, and how many never came.

The first is a header. What was dropped and lost before a body stands in headers and in
frames of its own (logplex's L10, L12 and L13). All of it is summed in the metrics and
has a line in the log, as have the fields that had to be cut.
"""

from typing import Protocol

from logiss.frames import Batch
from logiss.l2met import EventLog, PostFacts
from logiss.metrics import Metrics
from logiss.settings import Settings

#: How many frames the body has.
MSG_COUNT = b"logplex-msg-count"
# The names that versions of senders have for the same number: the largest counts.
_DROPPED = (b"logplex-drop-count", b"logshuttle-drops", b"logplex-drops")
_LOST = (b"logplex-lost-count", b"logshuttle-lost", b"logplex-lost")
#: What the sender has dropped and lost.
LOSS_HEADERS = _DROPPED + _LOST
#: What the frames of a body say was dropped and lost, when they say nothing.
NOTHING_LOST = (0, 0)

_COUNT_DIGITS_MAX = 9


class WrongCount(Exception):
    """The body does not have the number of frames that its sender says."""


class _Post(PostFacts, Protocol):
    def values(self, name: bytes) -> list[bytes] | None: ...


class Counts:
    """
    @param settings: whether a wrong number of frames is an error.
    @param events: what the operator is told.
    """

    def __init__(self, settings: Settings, events: EventLog, metrics: Metrics) -> None:
        self._require_msg_count = settings.require_msg_count
        self._events = events
        self._metrics = metrics

    def check_count(self, post: _Post, found: int) -> None:
        """
        Compare the frames that were found with what the sender says they are.

        @raise WrongCount: they are others, and that is not to be forwarded.
        """
        stated = _largest(post.values(MSG_COUNT))
        if stated is None or stated == found:
            return
        self._metrics.counts_mismatched += 1
        self._events.count_mismatched(post, stated, found)
        if self._require_msg_count:
            raise WrongCount(
                f"Logplex-Msg-Count is {stated}, the body has {found} frames"
            )

    def count_losses(
        self, post: _Post, reported: tuple[int, int], user: bytes, at: float
    ) -> None:
        """
        Count what the sender has dropped and lost before, as it reports it. Not until
        the post is delivered: a sender that reads no 200 reports the same again, and
        logplex all of it in each post until one is answered so.

        @param reported: what its frames say was dropped and lost.
        @param user: whose post it is.
        @param at: in the clock's seconds.
        """
        dropped, lost = (
            max(_largest(post.values(name)) or 0 for name in names)
            for names in (_DROPPED, _LOST)
        )
        if not (dropped or lost) and reported is NOTHING_LOST:
            return
        metrics = self._metrics
        metrics.dropped_by_headers += dropped
        metrics.lost_by_headers += lost
        metrics.dropped_by_frames += reported[0]
        metrics.lost_by_frames += reported[1]
        # What both say may be the same.
        dropped_in_all, lost_in_all = map(max, (dropped, lost), reported)
        metrics.add_loss(at, user, dropped_in_all, lost_in_all)
        self._events.losses_reported(post, (dropped, lost), reported)

    def count_cuts(self, post: _Post, batch: Batch) -> None:
        """Count the fields that were longer than RFC 5424 lets them be."""
        metrics = self._metrics
        metrics.hostnames_cut += batch.hostnames_cut
        metrics.app_names_cut += batch.app_names_cut
        metrics.procids_cut += batch.procids_cut
        metrics.msgids_cut += batch.msgids_cut
        self._events.fields_cut(
            post,
            {
                "hostname": batch.hostnames_cut,
                "app_name": batch.app_names_cut,
                "procid": batch.procids_cut,
                "msgid": batch.msgids_cut,
            },
        )


def _largest(values: list[bytes] | None) -> int | None:
    """The largest of `values` that is a number of few digits."""
    if values is None:
        return None
    return max(
        (int(v) for v in values if v.isdigit() and len(v) <= _COUNT_DIGITS_MAX),
        default=None,
    )
