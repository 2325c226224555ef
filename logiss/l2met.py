"""
Formats events as l2met lines.

A line is logfmt: pairs of ``key=value`` with a space between, one event a line.
Names of metrics are ``count#NAME`` and ``measure#NAME``; their values start with a
digit and end with their unit. A value is bare or quoted as in JSON, and l2met
skips a line with any other escape. Whatever a client has supplied is quoted, so
that it can neither end its value nor start a metric.
"""

import re
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Protocol

#: Most characters of a client's value that a line repeats, ...
VALUE_MAX = 256
#: ... and most bytes that they may become, escaped. No line has more than five values,
#: with which it is within PIPE_BUF (4096), up to which lines of several processes do
#: not mix.
ESCAPED_MAX = 768

_BARE = re.compile(r"[A-Za-z0-9_./:@+-]+")
# What may not be cut in two: a character beyond the first 65536 is two escapes.
_WHOLE = re.compile(r"(?:[^\\]|\\[^u]|\\ud[89ab]..\\ud[c-f]..|\\u(?!d[89ab])....)*")
_PAIRS_MAX = 4096


def quoted(value: str | bytes) -> str:
    """
    `value` between quotation marks, cut at `VALUE_MAX` characters, or where it would
    be longer than `ESCAPED_MAX`.
    """
    if isinstance(value, bytes):
        value = value[: 4 * VALUE_MAX].decode("utf-8", "replace")
    if len(value) > VALUE_MAX:
        value = value[:VALUE_MAX]
    text = encode_basestring_ascii(value)
    if len(text) > ESCAPED_MAX + 2:
        return f'"{_cut(text)}"'
    return text


def _cut(text: str) -> str:
    """The start of what is between the quotation marks, without half an escape."""
    whole = _WHOLE.match(text, 1, 1 + ESCAPED_MAX)
    assert whole is not None
    return whole[0]


def seconds(duration: float) -> str:
    """A metric value; a clock that was set back does not make it negative."""
    return f"{max(duration, 0.0):.6f}s"


def bare_or_quoted(value: str) -> str:
    is_bare = len(value) <= VALUE_MAX and _BARE.fullmatch(value)
    return value if is_bare else quoted(value)


class PostFacts(Protocol):
    """What a line about a post says of its client; what was not sent is None."""

    @property
    def drain_token(self) -> bytes | None: ...

    @property
    def remote_addr(self) -> bytes | None: ...

    @property
    def request_id(self) -> bytes | None: ...


class _Pairs(dict[bytes | None, str]):
    """Pairs of one key by value: those of few clients, quoted once."""

    def __init__(self, key: str) -> None:
        super().__init__({None: ""})
        self._key = key

    def __missing__(self, value: bytes) -> str:
        if len(value) > VALUE_MAX:
            return _pair(self._key, value)
        if len(self) >= _PAIRS_MAX:
            self.clear()
            self[None] = ""
        pair = self[value] = _pair(self._key, value)
        return pair


def _pair(key: str, value: bytes | None) -> str:
    return "" if value is None else f" {key}={quoted(value)}"


class EventLog:
    """
    Writes a line for each event that an operator is told of.

    @param write: takes a line without its line feed.
    @param worker: which of several processes writes; None of one alone.
    """

    def __init__(
        self, source: str, write: Callable[[str], None], worker: int | None = None
    ) -> None:
        self._prefix = f"app=log-iss source={bare_or_quoted(source)} "
        if worker is not None:
            self._prefix += f"worker={worker} "
        self._write = write
        self._token_pairs = _Pairs("logdrain_token")
        self._address_pairs = _Pairs("remote_addr")

    def _line(self, pairs: str) -> None:
        self._write(self._prefix + pairs)

    # life

    def started(self, codec: str, http: str) -> None:
        """
        @param codec: which twin of the codec serves.
        @param http: which HTTP channel does.
        """
        self._line(
            f"ns=main at=start codec={bare_or_quoted(codec)}"
            f" http={bare_or_quoted(http)}"
        )

    def phase_reached(self, ns: str, at: str, **facts: str | int) -> None:
        more = "".join(
            f" {k}={v if isinstance(v, int) else quoted(v)}" for k, v in facts.items()
        )
        self._line(f"ns={ns} at={at}{more}")

    def twisted_event(self, level: str, namespace: str, message: str) -> None:
        """Something that Twisted or another library has logged."""
        self._line(
            f"ns=twisted level={bare_or_quoted(level)}"
            f" logger={bare_or_quoted(namespace)} message={quoted(message)}"
        )

    def lines_dropped(self, count: int) -> None:
        self._line(f"count#log-iss.log.dropped={count}")

    # workers, as their parent tells of them

    def worker_not_started(self, number: int, why: str) -> None:
        self._line(
            f"count#log-iss.workers.start.error=1 number={number} message={quoted(why)}"
        )

    def worker_fallen(self, number: int, pause_seconds: float | None) -> None:
        """
        It has ended without having been told to, or not well.

        @param pause_seconds: until another is started in its place; None when none is.
        """
        pause = ""
        if pause_seconds is not None:
            pause = f" measure#log-iss.workers.pause.duration={seconds(pause_seconds)}"
        self._line(f"count#log-iss.workers.fallen=1 number={number}{pause}")

    def worker_silent(self, number: int, pid: int, is_late: bool = False) -> None:
        """
        @param is_late: it was told to end and has not, for too long.
        """
        why = "it does not say anything any more and is killed"
        if is_late:
            why = "it has not ended in time and is killed"
        self._line(
            f"count#log-iss.workers.silent=1 number={number} pid={pid}"
            f" message={quoted(why)}"
        )

    def workers_given_up(self, falls: int) -> None:
        why = (
            f"{falls} workers in a row have ended right behind their start, and none"
            " serves: the process ends"
        )
        self._line(f"count#log-iss.workers.given-up=1 message={quoted(why)}")

    def reload_done(self, generation: int, reload_seconds: float) -> None:
        self._line(
            f"count#log-iss.reload.success=1 generation={generation}"
            f" measure#log-iss.reload.duration={seconds(reload_seconds)}"
        )

    def reload_refused(self, why: str) -> None:
        """All stays as it was."""
        self._line(f"count#log-iss.reload.error=1 message={quoted(why)}")

    # posts

    def health_checked(self) -> None:
        self._line("count#log-iss.http.health.get=1")

    def post_succeeded(
        self,
        post: PostFacts,
        fixer_seconds: float,
        post_seconds: float,
        send_seconds: float,
        wait_seconds: float,
        is_duplicate: bool = False,
    ) -> None:
        """
        @param fixer_seconds: in the codec.
        @param post_seconds: the whole.
        @param send_seconds: from the first write to the end of the delivery.
        @param wait_seconds: from the start of the delivery to its end.
        @param is_duplicate: it was a retry that was not forwarded again.
        """
        token, client = self._client(post)
        if (
            fixer_seconds < 0
            or post_seconds < 0
            or send_seconds < 0
            or wait_seconds < 0
        ):
            # The clock was set back: a value has to start with a digit.
            fixer_seconds, post_seconds = max(fixer_seconds, 0), max(post_seconds, 0)
            send_seconds, wait_seconds = max(send_seconds, 0), max(wait_seconds, 0)
        self._line(
            f"count#log-iss.http.logs.post.success=1{token}"
            f" measure#log-iss.http.logs.fixer-func.duration={fixer_seconds:.6f}s"
            f" measure#log-iss.http.logs.post.duration={post_seconds:.6f}s"
            f" measure#log-iss.http.logs.send.duration={send_seconds:.6f}s"
            f" measure#log-iss.http.logs.wait.duration={wait_seconds:.6f}s{client}"
            f"{' duplicate=1' if is_duplicate else ''}"
        )

    def post_failed(
        self, post: PostFacts, code: int, error: str, post_seconds: float
    ) -> None:
        token, client = self._client(post)
        self._line(
            f"count#log-iss.http.logs.post.error=1{token}"
            f" measure#log-iss.http.logs.post.duration={seconds(post_seconds)}"
            f" post.code={code} post.error={quoted(error)}{client}"
        )

    def fields_cut(self, post: PostFacts, cuts: dict[str, int]) -> None:
        """Header fields of the post's frames were too long."""
        token, client = self._client(post)
        pairs = " ".join(
            f"count#log-iss.http.logs.{name}.truncated={n}"
            for name, n in cuts.items()
            if n
        )
        self._line(pairs + token + client)

    def count_mismatched(self, post: PostFacts, stated: int, found: int) -> None:
        """The post's body has another number of frames than its header says."""
        token, client = self._client(post)
        self._line(
            f"count#log-iss.http.logs.msg-count.mismatch=1{token}"
            f" stated={stated} found={found}{client}"
        )

    def losses_reported(
        self, post: PostFacts, headers: tuple[int, int], frames: tuple[int, int]
    ) -> None:
        """
        The post says that its sender has dropped messages, or lost them.

        @param headers: how many by its headers, dropped and lost.
        @param frames: the same by frames of its body.
        """
        token, client = self._client(post)
        pairs = " ".join(
            f"count#log-iss.http.logs.{where}.{what}={count}"
            for where, counts in (("headers", headers), ("frames", frames))
            for what, count in zip(("dropped", "lost"), counts, strict=True)
            if count
        )
        self._line(pairs + token + client)

    def _client(self, post: PostFacts) -> tuple[str, str]:
        """The pair of the drain token, and those of address and request id."""
        return (
            self._token_pairs[post.drain_token],
            self._address_pairs[post.remote_addr]
            + _pair("request_id", post.request_id),
        )

    def posts_summed(self, succeeded: int, frames: int) -> None:
        """In place of a line for each post that succeeded."""
        self._line(
            f"count#log-iss.http.logs.frames.delivered={frames}"
            f" count#log-iss.http.logs.post.success={succeeded}"
        )

    def captures_lost(self, count: int, why: str) -> None:
        """
        Bodies that were refused could not be kept.

        @param why: it was so with the last of them, or with what was there before.
        """
        self._line(
            f"count#log-iss.http.logs.capture.error={count} message={quoted(why)}"
        )

    def clients_cut(self, count: int, remote_addr: str, why: str) -> None:
        """
        Clients were cut off within a second, for they took too long.

        @param remote_addr: of one of them, as is `why`.
        """
        self._line(
            f"count#log-iss.http.clients.cut={count} remote_addr={quoted(remote_addr)}"
            f" message={quoted(why)}"
        )

    def connections_limited(self, connections: int, wanted: int, limit: int) -> None:
        """
        The process may open too few descriptors for as many clients as were wanted.

        @param connections: how many there may be.
        @param limit: how many descriptors it would need.
        """
        why = (
            f"too few files and sockets may be open for MAX_CONNECTIONS={wanted}:"
            f" raise the limit (ulimit -n) to {limit}"
        )
        self._line(f"ns=http connections_max={connections} message={quoted(why)}")

    def accepting_paused(self, connections: int, why: str) -> None:
        """
        No further clients are accepted for now.

        @param connections: how many are connected.
        """
        self._line(
            f"count#log-iss.http.accept.pause=1 connections={connections}"
            f" message={quoted(why)}"
        )

    def accepting_resumed(self, connections: int, pause_seconds: float) -> None:
        """
        @param pause_seconds: from `accepting_paused` on; accepting may have gone on and
            paused again meanwhile.
        """
        self._line(
            f"count#log-iss.http.accept.resume=1"
            f" measure#log-iss.http.accept.pause.duration={seconds(pause_seconds)}"
            f" connections={connections}"
        )

    def proxy_headers_refused(self, count: int, remote_addr: str, why: str) -> None:
        """
        Connections did not begin with a PROXY header.

        @param remote_addr: who opened one of them, as is `why`.
        """
        self._line(
            f"count#log-iss.http.proxy-headers.refused={count}"
            f" remote_addr={quoted(remote_addr)} message={quoted(why)}"
        )

    # credentials

    def credentials_accepted(
        self, count: int, user: str | bytes | None = None, stage: str | bytes = ""
    ) -> None:
        """Posts were let in; without a user it is those of one too many to name."""
        whose = "" if user is None else f" user={quoted(user)} stage={quoted(stage)}"
        self._line(f"count#log-iss.credentials.success={count}{whose}")

    def credentials_refused(self, count: int, user: str | bytes | None = None) -> None:
        """Posts were refused; without a user it is those whose user is not known."""
        whose = "" if user is None else f" user={quoted(user)}"
        self._line(f"count#log-iss.credentials.failure={count}{whose}")

    def deprecated_used(
        self,
        count: int,
        user: str | bytes | None = None,
        stage: str | bytes = "",
        name: str | bytes = "",
    ) -> None:
        """A credential was used that is to be replaced by its user."""
        whose = ""
        if user is not None:
            whose = f" user={quoted(user)} stage={quoted(stage)} name={quoted(name)}"
        self._line(f"count#log-iss.credentials.deprecated={count}{whose}")

    def credentials_refreshed(self, users: int, refresh_seconds: float) -> None:
        self._line(
            f"count#log-iss.credentials.refresh.success=1"
            f" measure#log-iss.credentials.refresh.duration={seconds(refresh_seconds)}"
            f" users={users}"
        )

    def credentials_not_refreshed(self, users: int, message: str) -> None:
        """
        @param users: so many of an earlier refresh stay in force.
        """
        self._line(
            f"count#log-iss.credentials.refresh.error=1 users={users}"
            f" message={quoted(message)}"
        )

    def credential_skipped(self, user: bytes, message: str, has_last: bool) -> None:
        """
        An entry cannot be read.

        @param has_last: the last one of the user that could be stays in force.
        """
        self._line(
            f"count#log-iss.credentials.entry.error=1 user={quoted(user)}"
            f" kept={int(has_last)} message={quoted(message)}"
        )

    def credentials_skipped(self, count: int) -> None:
        """So many more entries cannot be read."""
        self._line(
            f"count#log-iss.credentials.entry.error={count}"
            f" message={quoted('more entries that cannot be read')}"
        )

    # the table of retried posts that a fleet shares

    def dedupe_usable(self, seconds_without: float, posts: int) -> None:
        """
        The table in Redis can be used: for the first time, or again.

        @param seconds_without: since the start, or since it was lost.
        @param posts: so many with a frame id went without it meanwhile.
        """
        self._line(
            f"count#log-iss.dedupe.usable=1"
            f" measure#log-iss.dedupe.outage.duration={seconds(seconds_without)}"
            f" posts={posts}"
        )

    def dedupe_lost(self, message: str) -> None:
        """It cannot be used: until it can, posts do not ask it."""
        self._line(f"count#log-iss.dedupe.outage=1 message={quoted(message)}")

    # connections to the backend

    def connect_attempted(self, sender_id: int, destination: str = "") -> None:
        """
        @param destination: where there are several.
        """
        where = f" destination={quoted(destination)}" if destination else ""
        self._line(f"count#log-iss.forwarder.connect.attempt=1 id={sender_id}{where}")

    def connect_succeeded(
        self, sender_id: int, connect_seconds: float, remote_addr: str
    ) -> None:
        self._line(
            f"count#log-iss.forwarder.connect.success=1"
            f" measure#log-iss.forwarder.connect.duration={seconds(connect_seconds)}"
            f" id={sender_id} remote_addr={quoted(remote_addr)}"
        )

    def connect_failed(
        self, sender_id: int, message: str, destination: str = ""
    ) -> None:
        where = f" destination={quoted(destination)}" if destination else ""
        self._line(
            f"count#log-iss.forwarder.connect.error=1 id={sender_id}{where}"
            f" message={quoted(message)}"
        )

    def disconnected(self, sender_id: int) -> None:
        self._line(f"count#log-iss.forwarder.disconnect.success=1 id={sender_id}")

    def write_failed(
        self, sender_id: int, request_id: bytes | None, message: str
    ) -> None:
        self._line(
            f"count#log-iss.forwarder.write.error=1 id={sender_id}"
            f"{_pair('request_id', request_id)} message={quoted(message)}"
        )

    def replaying(self, sender_id: int, payloads: int, size: int, message: str) -> None:
        """
        Payloads that were answered 200 are sent again, for the backend may have lost
        them with the connection.

        @param size: in bytes.
        """
        self._line(
            f"count#log-iss.forwarder.replay.payloads={payloads}"
            f" count#log-iss.forwarder.replay.bytes={size} id={sender_id}"
            f" message={quoted(message)}"
        )

    def replays_given_up(self, payloads: int, size: int) -> None:
        """The process ends before they could be sent again: they may be lost."""
        self._line(
            f"count#log-iss.forwarder.replay.lost={payloads} bytes={size}"
            f" message={quoted('answered 200, not sent again before the end')}"
        )
