"""
Turns an octet-counted logplex-1 body into a batch of corrected SYSLOG-MSGs,
framed again.

One pass over the body.  A frame is found by its MSG-LEN, its header is matched
inside that length and never beyond, and what is to be forwarded is collected as
slices that are joined once at the end: no object stands for a frame, and nothing
is allocated on the word of a MSG-LEN.

The grammar (RFC 6587 section 3.4.1, RFC 5424 section 6; logplex leaves
STRUCTURED-DATA out)::

    body        = *frame *white-space
    frame       = MSG-LEN SP SYSLOG-MSG            ; nothing between two frames
    MSG-LEN     = NONZERO-DIGIT *DIGIT             ; octets of SYSLOG-MSG
    SYSLOG-MSG  = PRI VERSION SP TIMESTAMP SP HOSTNAME SP APP-NAME SP PROCID
                  SP MSGID [SP [STRUCTURED-DATA SP] MSG]

What leaves::

    frame       = MSG-LEN SP PRI VERSION SP TIMESTAMP SP HOSTNAME SP APP-NAME SP
                  PROCID SP MSGID SP STRUCTURED-DATA [SP MSG]

where STRUCTURED-DATA is the stamp of the post (see `logiss.stamp`), or ``-``
when there is none.
"""

import re

from attrs import frozen

NILVALUE = b"-"

# RFC 5424 section 6, octets.
HOSTNAME_MAX = 255
APP_NAME_MAX = 48
PROCID_MAX = 128
MSGID_MAX = 32

#: The hostname that logplex writes where it means "the drain".
LOGPLEX_HOSTNAME = b"host"

# Nine digits: a MSG-LEN of 10**9 octets and more is beyond any body.
_MSG_LEN = re.compile(rb"([1-9][0-9]{0,8}) ")

# The usual header: all four fields present and within their lengths.
_HEADER = re.compile(
    rb"([^ ]* [^ ]* )"  # PRI VERSION SP TIMESTAMP SP
    rb"([^ ]{1,255})"  # HOSTNAME
    rb"( [^ ]{1,48} [^ ]{1,128} [^ ]{1,32})"  # SP APP-NAME SP PROCID SP MSGID
    rb"(?: (- )?|\Z)"  # SP and nil STRUCTURED-DATA, or the end
)
# Any header: fields may be empty or too long.
_ODD_HEADER = re.compile(rb"([^ ]* [^ ]* )([^ ]*) ([^ ]*) ([^ ]*) ([^ ]*)(?: (- )?|\Z)")

# RFC 5424 section 6.3: 1*SD-ELEMENT, each with at least one SD-PARAM, then SP or
# the end.  Only one octet decides at each place, so that going back finds nothing;
# possessive where that is a matter of single octets: with groups of more, Python
# before 3.11.5 matches too much.
_SD_NAME = rb"[!#-<>-\\^-~]{1,32}+"
_SD_VALUE = rb'"[^"\\\]]*+(?:\\.[^"\\\]]*+)*"'
_SD_ELEMENTS = re.compile(
    rb"(?:\[" + _SD_NAME + rb"(?: " + _SD_NAME + rb"=" + _SD_VALUE + rb")+\])+(?= |\Z)",
    re.DOTALL,
)
_PRINTABLE = re.compile(rb"[!-~]+")

#: The PROCIDs of senders that report losses in a frame of their own.
REPORTERS = (b"logplex", b"log-shuttle")
# What stands behind MSGID and a nil STRUCTURED-DATA: logplex names the error in
# brackets, log-shuttle does not.
_REPORT = re.compile(
    rb"Error L(?:10 \(output buffer overflow\): ([0-9]{1,9}) messages dropped"
    rb"|12: ([0-9]{1,9}) messages dropped|13: ([0-9]{1,9}) messages lost) since "
)
# What is in each of them: to look for it once costs less than a look at each PROCID.
_REPORT_MARK = b"Error L1"


#: Octets that each frame has at least, with its MSG-LEN.
BYTES_MIN = len(b"5      ")
#: Spaces that each frame has at least, with the one behind its MSG-LEN.
SPACES_MIN = 6
#: How much longer than stamp and drain token a frame may make its frame: MSG-LEN, a
#: space, and ``-`` for fields that are empty.
GROWTH_MAX = 16


class RefusedBody(Exception):
    """The body cannot be forwarded: nothing of it may be."""


class MalformedFrame(RefusedBody):
    """A frame breaks the grammar."""


class BodyTooLarge(RefusedBody):
    """The body, one of its frames or their number is over its limit."""


@frozen
class FrameLimits:
    """
    What a batch may come to.

    The receivers set `frame_bytes`: rsyslog's imtcp and imptcp fall back to line
    framing inside a frame of more than 200,000 octets, so that a client could
    forge records with a longer one.
    """

    frame_bytes: int = 131_072
    frames: int = 100_000
    batch_bytes: int = 64 * 1024 * 1024


DEFAULT_LIMITS = FrameLimits()


@frozen
class Batch:
    """
    The frames of one post, ready to be forwarded, and what was cut in them.

    @ivar dropped: messages that frames of the sender report as dropped.
    @ivar lost: those that they report as lost.
    """

    octets: bytes
    frames: int
    hostnames_cut: int = 0
    app_names_cut: int = 0
    procids_cut: int = 0
    msgids_cut: int = 0
    dropped: int = 0
    lost: int = 0

    @property
    def was_cut(self) -> bool:
        return bool(
            self.hostnames_cut
            or self.app_names_cut
            or self.procids_cut
            or self.msgids_cut
        )


EMPTY_BATCH = Batch(b"", 0)


def rewrite(
    body: bytes,
    structured_data: bytes,
    drain_token: bytes = b"",
    keep_structured_data: bool = False,
    limits: FrameLimits = DEFAULT_LIMITS,
) -> Batch:
    """
    Correct every frame of `body` and stamp it with `structured_data`.

    @param structured_data: complete SD-ELEMENTs, or nothing.
    @param drain_token: takes the place of a HOSTNAME that is exactly ``host``;
        ignored unless it is printable ASCII without spaces.
    @param keep_structured_data: SD-ELEMENTs at the start of a message are kept as
        structured data behind ours instead of becoming message text.
    @raise MalformedFrame: names the frame, counted from 1, and the fault.
    @raise BodyTooLarge: a limit is passed.
    """
    if not _PRINTABLE.fullmatch(drain_token):
        drain_token = LOGPLEX_HOSTNAME
    stamp = structured_data or NILVALUE
    frame_bytes_max = limits.frame_bytes
    out: list[bytes] = []
    cuts = [0, 0, 0, 0]
    losses = [0, 0]
    may_report = _REPORT_MARK in body
    position, size, frames, batch_bytes = 0, len(body), 0, 0

    while position < size:
        counted = _MSG_LEN.match(body, position)
        if counted is None:
            if body[position:].isspace():
                break
            raise _no_length(body, position, frames + 1)
        start = counted.end()
        stop = start + int(counted[1])
        frames += 1
        if stop > size:
            raise MalformedFrame(
                f"frame {frames} at byte {position}: its length is"
                f" {stop - start} but only {size - start} bytes follow"
            )
        if stop - start > frame_bytes_max:
            raise _frame_too_large(frames, position, limits)
        if frames > limits.frames:
            raise BodyTooLarge(f"more than {limits.frames} frames in one post")

        header = _HEADER.match(body, start, stop)
        if header is not None:
            leading, hostname, trailing, nil = header.groups()
            if hostname == LOGPLEX_HOSTNAME:
                hostname = drain_token[:HOSTNAME_MAX]
                cuts[0] += len(drain_token) > HOSTNAME_MAX
        else:
            header = _ODD_HEADER.match(body, start, stop)
            if header is None:
                raise MalformedFrame(
                    f"frame {frames} at byte {position}: its {stop - start} bytes"
                    " end before MSGID"
                )
            leading, hostname, trailing, nil = _mend(header, drain_token, cuts)

        message_start = header.end()
        if may_report and trailing.split(b" ", 3)[2] in REPORTERS:
            end = min(stop, message_start + REPORT_BYTES_MAX)
            for i, count in enumerate(losses_in(body[message_start:end])):
                losses[i] += count
        sd = stamp
        if keep_structured_data and nil is None:
            kept = _SD_ELEMENTS.match(body, message_start, stop)
            if kept is not None:
                sd = structured_data + kept[0]
                message_start = min(kept.end() + 1, stop)
                # The space after kept elements stays, as it does after a nil.
                nil = b"" if kept.end() < stop else None
        msg = body[message_start:stop]
        space = b" " if msg or nil is not None else b""

        msg_len = (
            len(leading)
            + len(hostname)
            + len(trailing)
            + 1
            + len(sd)
            + len(space)
            + len(msg)
        )
        if msg_len > frame_bytes_max:
            raise _frame_too_large(frames, position, limits)
        batch_bytes += msg_len
        if batch_bytes > limits.batch_bytes:
            raise BodyTooLarge(
                f"the rewritten frames come to more than {limits.batch_bytes} bytes"
            )
        out += (
            b"%d " % msg_len,
            leading,
            hostname,
            trailing,
            b" ",
            sd,
            space,
            msg,
        )
        position = stop

    if not frames:
        return EMPTY_BATCH
    return Batch(b"".join(out), frames, *cuts, *losses)


#: A report has told its number by then.
REPORT_BYTES_MAX = 80


def losses_in(message: bytes) -> tuple[int, int]:
    """
    How many messages the start of a reporter's `message` says were dropped, and
    lost.
    """
    report = _REPORT.match(message)
    if report is None:
        return 0, 0
    overflown, dropped, lost = report.groups(b"0")
    return int(overflown) + int(dropped), int(lost)


def split(octets: bytes) -> list[bytes]:
    """
    The SYSLOG-MSGs of a batch's `octets`, without their MSG-LENs.

    @raise ValueError: this is not what `rewrite` returns.
    """
    messages: list[bytes] = []
    position, size = 0, len(octets)
    while position < size:
        counted = _MSG_LEN.match(octets, position)
        if counted is None or counted.end() + int(counted[1]) > size:
            raise ValueError(f"no frame at byte {position} of a batch")
        start = counted.end()
        position = start + int(counted[1])
        messages.append(octets[start:position])
    return messages


def tail(octets: bytes, size: int) -> bytes:
    """
    The last frames of a batch's `octets` that come to at least `size` octets; all of
    it where it has no more, or is none.
    """
    start, position, end = 0, 0, len(octets)
    while end - position >= size:
        start = position
        counted = _MSG_LEN.match(octets, position)
        if counted is None or counted.end() + int(counted[1]) > end:
            return octets if position < end else b""
        position = counted.end() + int(counted[1])
    return octets[start:]


def _mend(
    header: re.Match[bytes], drain_token: bytes, cuts: list[int]
) -> tuple[bytes, bytes, bytes, bytes | None]:
    """Put ``-`` for empty fields, cut the long ones and count what was cut."""
    leading, hostname, app_name, procid, msgid, nil = header.groups()
    if hostname == LOGPLEX_HOSTNAME:
        hostname = drain_token
    fields = [hostname, app_name, procid, msgid]
    for i, most in enumerate((HOSTNAME_MAX, APP_NAME_MAX, PROCID_MAX, MSGID_MAX)):
        if len(fields[i]) > most:
            fields[i] = fields[i][:most]
            cuts[i] += 1
        elif not fields[i]:
            fields[i] = NILVALUE
    return leading, fields[0], b" " + b" ".join(fields[1:]), nil


def _no_length(body: bytes, position: int, frame: int) -> MalformedFrame:
    found = body[position : position + 12].decode("ascii", "backslashreplace")
    return MalformedFrame(
        f"frame {frame} at byte {position}: no length (digits without a leading"
        f" zero, then a space) but {found!r}"
    )


def _frame_too_large(frame: int, position: int, limits: FrameLimits) -> BodyTooLarge:
    return BodyTooLarge(
        f"frame {frame} at byte {position} is or becomes larger than"
        f" {limits.frame_bytes} bytes"
    )
