"""
What a row has to show, as predicates: each says what is wrong, or nothing.
"""

from collections.abc import Callable

from attrs import Factory, define

from tests.faults.ledger import Counts

#: REPLAY_BYTES by default, the largest write of joined payloads, and a payload more,
#: as payloads are replayed whole.
DUPLICATE_BYTES_PER_BREAK = 262_144 + 524_288 + 65_536
#: Frames that are on their way in a RELP session.
WINDOW = 128
#: What an answer may take beyond the delivery timeout.
GRACE_SECONDS = 1.0


@define
class Row:
    """
    What became of one scenario at one level.

    @ivar breaks: backend connections that were lost.
    @ivar early: messages answered 200 while a silence lasted in which they had not
        arrived.
    @ivar notice_seconds: from the fault to the first connection lost by it; of
        several faults the longest.
    @ivar recover_seconds: from the end of the fault to the answer to the first POST
        sent after it; of several faults the longest.
    @ivar slowest_seconds: the longest that an answer took.
    @ivar breaches: what the scenario itself has found wrong.
    @ivar facts: what else is worth printing.
    """

    scenario: str
    level: str
    counts: Counts = Factory(Counts)
    messages_min: int = 0
    delivery_timeout_seconds: float = 0.0
    breaks: int = 0
    duplicate_bytes: int = 0
    early: int = 0
    notice_seconds: float | None = None
    recover_seconds: float | None = None
    slowest_seconds: float = 0.0
    breaches: list[str] = Factory(list)
    facts: list[str] = Factory(list)


Requirement = Callable[[Row], str]


def enough_sent(row: Row) -> str:
    sent, least = row.counts.sent, row.messages_min
    return "" if sent >= least else f"only {sent} of {least} messages were sent"


def none_lost(row: Row) -> str:
    lost = row.counts.lost
    return f"{lost} messages answered 200 have not arrived" if lost else ""


def none_duplicated(row: Row) -> str:
    duplicated = row.counts.duplicated
    return f"{duplicated} messages arrived again" if duplicated else ""


def duplicates_bounded(row: Row) -> str:
    most = row.breaks * DUPLICATE_BYTES_PER_BREAK
    if row.duplicate_bytes <= most:
        return ""
    return (
        f"{row.duplicate_bytes} bytes arrived again, more than {most} of"
        f" {row.breaks} broken connections"
    )


def duplicates_within_window(row: Row) -> str:
    most = row.breaks * WINDOW
    if row.counts.duplicated <= most:
        return ""
    return (
        f"{row.counts.duplicated} messages arrived again, more than {most} of"
        f" {row.breaks} broken sessions"
    )


def none_altered(row: Row) -> str:
    altered = row.counts.altered
    return f"{altered} frames are not as they were posted" if altered else ""


def none_unknown(row: Row) -> str:
    unknown = row.counts.unknown
    return f"{unknown} messages arrived that were never sent" if unknown else ""


def none_withdrawn_arrived(row: Row) -> str:
    arrived = row.counts.withdrawn_arrived
    return f"{arrived} messages arrived after they were withdrawn" if arrived else ""


def all_answered(row: Row) -> str:
    unanswered = row.counts.unanswered
    return f"{unanswered} messages' POSTs were not answered" if unanswered else ""


def answered_in_time(row: Row) -> str:
    most = row.delivery_timeout_seconds + GRACE_SECONDS
    if row.slowest_seconds <= most:
        return ""
    return f"an answer took {row.slowest_seconds:.1f} s, more than {most:g} s"


def none_early(row: Row) -> str:
    if not row.early:
        return ""
    return f"{row.early} messages were answered 200 before they had arrived"


def none_accepted(row: Row) -> str:
    accepted = row.counts.accepted
    return f"{accepted} messages were answered 200" if accepted else ""


def noticed_within(seconds: float) -> Requirement:
    def noticed(row: Row) -> str:
        if row.notice_seconds is None:
            return "no connection was lost: the fault was not noticed"
        if row.notice_seconds <= seconds:
            return ""
        return f"noticed after {row.notice_seconds:.1f} s, more than {seconds:g} s"

    return noticed


def recovered_within(seconds: float) -> Requirement:
    def recovered(row: Row) -> str:
        if row.recover_seconds is None:
            return "no POST was answered 200 after the fault"
        if row.recover_seconds <= seconds:
            return ""
        return f"recovered after {row.recover_seconds:.1f} s, more than {seconds:g} s"

    return recovered


#: At every level, whatever happens.
ALWAYS: tuple[Requirement, ...] = (
    enough_sent,
    none_altered,
    none_unknown,
    none_withdrawn_arrived,
    answered_in_time,
)
