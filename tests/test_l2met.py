"""Log lines are what l2met reads, whatever clients have sent."""

import inspect
import json
import select
from collections.abc import Callable
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.l2met import ESCAPED_MAX, EventLog, PostFacts, quoted, seconds
from tests.fakes import Facts
from tests.l2met_grammar import parse

POST = Facts(b"d.1", b"1.2.3.4", b"abc")
NOTHING_KNOWN = Facts(None, None, None)


def written(call: Callable[[EventLog], None], source: str = "local") -> str:
    """The one line that `call` writes."""
    lines: list[str] = []
    call(EventLog(source, lines.append))
    (line,) = lines
    return line


def succeed(events: EventLog, post: PostFacts = POST) -> None:
    events.post_succeeded(
        post,
        fixer_seconds=0.000041,
        post_seconds=0.003,
        send_seconds=0.000006,
        wait_seconds=0.002,
    )


class EventLogTests(SynchronousTestCase):
    """Each event has its line."""

    table: list[tuple[Callable[[EventLog], None], str]] = [
        (
            lambda log: log.started("compiled", "fast"),
            "ns=main at=start codec=compiled http=fast",
        ),
        (lambda log: log.phase_reached("main", "exit"), "ns=main at=exit"),
        (
            lambda log: log.phase_reached("main", "shutdown-signal", signal="SIGTERM"),
            'ns=main at=shutdown-signal signal="SIGTERM"',
        ),
        (
            lambda log: log.phase_reached("http", "listen", port=5000, host="a"),
            'ns=http at=listen port=5000 host="a"',
        ),
        (
            lambda log: log.twisted_event("warn", "twisted.web", 'a "b"\nc'),
            r'ns=twisted level=warn logger=twisted.web message="a \"b\"\nc"',
        ),
        (
            lambda log: log.twisted_event("warn", "a b", ""),
            'ns=twisted level=warn logger="a b" message=""',
        ),
        (lambda log: log.lines_dropped(7), "count#log-iss.log.dropped=7"),
        (lambda log: log.health_checked(), "count#log-iss.http.health.get=1"),
        (
            succeed,
            # Word for word as specified, but for the number of decimals.
            'count#log-iss.http.logs.post.success=1 logdrain_token="d.1"'
            " measure#log-iss.http.logs.fixer-func.duration=0.000041s"
            " measure#log-iss.http.logs.post.duration=0.003000s"
            " measure#log-iss.http.logs.send.duration=0.000006s"
            " measure#log-iss.http.logs.wait.duration=0.002000s"
            ' remote_addr="1.2.3.4" request_id="abc"',
        ),
        (
            lambda log: succeed(log, NOTHING_KNOWN),
            "count#log-iss.http.logs.post.success=1"
            " measure#log-iss.http.logs.fixer-func.duration=0.000041s"
            " measure#log-iss.http.logs.post.duration=0.003000s"
            " measure#log-iss.http.logs.send.duration=0.000006s"
            " measure#log-iss.http.logs.wait.duration=0.002000s",
        ),
        (
            lambda log: log.post_succeeded(POST, 0.0, 0.5, 0.0, 0.25, True),
            'count#log-iss.http.logs.post.success=1 logdrain_token="d.1"'
            " measure#log-iss.http.logs.fixer-func.duration=0.000000s"
            " measure#log-iss.http.logs.post.duration=0.500000s"
            " measure#log-iss.http.logs.send.duration=0.000000s"
            " measure#log-iss.http.logs.wait.duration=0.250000s"
            ' remote_addr="1.2.3.4" request_id="abc" duplicate=1',
        ),
        (
            lambda log: log.count_mismatched(POST, 3, 2),
            'count#log-iss.http.logs.msg-count.mismatch=1 logdrain_token="d.1"'
            ' stated=3 found=2 remote_addr="1.2.3.4" request_id="abc"',
        ),
        (
            lambda log: log.losses_reported(POST, (7, 0), (6, 5)),
            "count#log-iss.http.logs.headers.dropped=7"
            " count#log-iss.http.logs.frames.dropped=6"
            ' count#log-iss.http.logs.frames.lost=5 logdrain_token="d.1"'
            ' remote_addr="1.2.3.4" request_id="abc"',
        ),
        (
            lambda log: log.post_failed(POST, 504, "Not delivered", 5.0),
            'count#log-iss.http.logs.post.error=1 logdrain_token="d.1"'
            " measure#log-iss.http.logs.post.duration=5.000000s"
            ' post.code=504 post.error="Not delivered"'
            ' remote_addr="1.2.3.4" request_id="abc"',
        ),
        (
            lambda log: log.post_failed(NOTHING_KNOWN, 401, 'say "who"', 0.0),
            "count#log-iss.http.logs.post.error=1"
            " measure#log-iss.http.logs.post.duration=0.000000s"
            r' post.code=401 post.error="say \"who\""',
        ),
        (
            lambda log: log.fields_cut(POST, {"hostname": 0, "procid": 2, "msgid": 1}),
            "count#log-iss.http.logs.procid.truncated=2"
            " count#log-iss.http.logs.msgid.truncated=1"
            ' logdrain_token="d.1" remote_addr="1.2.3.4" request_id="abc"',
        ),
        (
            lambda log: log.posts_summed(12, 345),
            "count#log-iss.http.logs.frames.delivered=345"
            " count#log-iss.http.logs.post.success=12",
        ),
        (
            lambda log: log.captures_lost(3, 'no "room"'),
            r'count#log-iss.http.logs.capture.error=3 message="no \"room\""',
        ),
        (
            lambda log: log.clients_cut(3, "::1", 'a "b"'),
            'count#log-iss.http.clients.cut=3 remote_addr="::1" message="a \\"b\\""',
        ),
        (
            lambda log: log.worker_not_started(2, "no room"),
            'count#log-iss.workers.start.error=1 number=2 message="no room"',
        ),
        (
            lambda log: log.worker_fallen(2, 0.5),
            "count#log-iss.workers.fallen=1 number=2"
            " measure#log-iss.workers.pause.duration=0.500000s",
        ),
        (
            lambda log: log.worker_fallen(2, None),
            "count#log-iss.workers.fallen=1 number=2",
        ),
        (
            lambda log: log.worker_silent(2, 4711),
            "count#log-iss.workers.silent=1 number=2 pid=4711"
            ' message="it does not say anything any more and is killed"',
        ),
        (
            lambda log: log.workers_given_up(5),
            "count#log-iss.workers.given-up=1"
            ' message="5 workers in a row have ended right behind their start, and'
            ' none serves: the process ends"',
        ),
        (
            lambda log: log.reload_done(3, 0.5),
            "count#log-iss.reload.success=1 generation=3"
            " measure#log-iss.reload.duration=0.500000s",
        ),
        (
            lambda log: log.reload_refused('PORT: "x"'),
            r'count#log-iss.reload.error=1 message="PORT: \"x\""',
        ),
        (
            lambda log: log.connections_limited(900, 10_000, 10_072),
            "ns=http connections_max=900"
            ' message="too few files and sockets may be open for'
            ' MAX_CONNECTIONS=10000: raise the limit (ulimit -n) to 10072"',
        ),
        (
            lambda log: log.accepting_paused(10_000, 'no "room"'),
            "count#log-iss.http.accept.pause=1 connections=10000"
            r' message="no \"room\""',
        ),
        (
            lambda log: log.accepting_resumed(9_999, 2.5),
            "count#log-iss.http.accept.resume=1"
            " measure#log-iss.http.accept.pause.duration=2.500000s connections=9999",
        ),
        (
            lambda log: log.proxy_headers_refused(2, "::1", 'a "b"'),
            'count#log-iss.http.proxy-headers.refused=2 remote_addr="::1"'
            ' message="a \\"b\\""',
        ),
        (
            lambda log: log.credentials_accepted(3, b'a"b', "c d"),
            r'count#log-iss.credentials.success=3 user="a\"b" stage="c d"',
        ),
        (
            lambda log: log.credentials_accepted(3),
            "count#log-iss.credentials.success=3",
        ),
        (
            lambda log: log.credentials_refused(3, b"a\n"),
            r'count#log-iss.credentials.failure=3 user="a\n"',
        ),
        (
            lambda log: log.credentials_refused(3),
            "count#log-iss.credentials.failure=3",
        ),
        (
            lambda log: log.deprecated_used(3, b"a", "b", "c"),
            'count#log-iss.credentials.deprecated=3 user="a" stage="b" name="c"',
        ),
        (
            lambda log: log.deprecated_used(3),
            "count#log-iss.credentials.deprecated=3",
        ),
        (
            lambda log: log.credentials_refreshed(12, 0.002),
            "count#log-iss.credentials.refresh.success=1"
            " measure#log-iss.credentials.refresh.duration=0.002000s users=12",
        ),
        (
            lambda log: log.credentials_not_refreshed(12, 'say "why"'),
            "count#log-iss.credentials.refresh.error=1 users=12"
            r' message="say \"why\""',
        ),
        (
            lambda log: log.credential_skipped(b"\xff", "why", True),
            r'count#log-iss.credentials.entry.error=1 user="\ufffd" kept=1'
            ' message="why"',
        ),
        (
            lambda log: log.credentials_skipped(90),
            "count#log-iss.credentials.entry.error=90"
            ' message="more entries that cannot be read"',
        ),
        (
            lambda log: log.dedupe_usable(1.5, 7),
            "count#log-iss.dedupe.usable=1"
            " measure#log-iss.dedupe.outage.duration=1.500000s posts=7",
        ),
        (
            lambda log: log.dedupe_lost("a b"),
            'count#log-iss.dedupe.outage=1 message="a b"',
        ),
        (
            lambda log: log.connect_attempted(0),
            "count#log-iss.forwarder.connect.attempt=1 id=0",
        ),
        (
            lambda log: log.connect_succeeded(3, 0.001, "::1:5"),
            "count#log-iss.forwarder.connect.success=1"
            " measure#log-iss.forwarder.connect.duration=0.001000s"
            ' id=3 remote_addr="::1:5"',
        ),
        (
            lambda log: log.connect_failed(1, 'no "route"'),
            r'count#log-iss.forwarder.connect.error=1 id=1 message="no \"route\""',
        ),
        (
            lambda log: log.connect_attempted(0, "a:1"),
            'count#log-iss.forwarder.connect.attempt=1 id=0 destination="a:1"',
        ),
        (
            lambda log: log.connect_failed(1, "refused", "a:1"),
            "count#log-iss.forwarder.connect.error=1 id=1"
            ' destination="a:1" message="refused"',
        ),
        (
            lambda log: log.replaying(1, 3, 450, "reset"),
            "count#log-iss.forwarder.replay.payloads=3"
            ' count#log-iss.forwarder.replay.bytes=450 id=1 message="reset"',
        ),
        (
            lambda log: log.replays_given_up(3, 450),
            "count#log-iss.forwarder.replay.lost=3 bytes=450"
            ' message="answered 200, not sent again before the end"',
        ),
        (
            lambda log: log.disconnected(2),
            "count#log-iss.forwarder.disconnect.success=1 id=2",
        ),
        (
            lambda log: log.write_failed(2, b"abc", "reset"),
            "count#log-iss.forwarder.write.error=1 id=2"
            ' request_id="abc" message="reset"',
        ),
        (
            lambda log: log.write_failed(2, None, "reset"),
            'count#log-iss.forwarder.write.error=1 id=2 message="reset"',
        ),
    ]

    def test_lines(self) -> None:
        """Each line is the one documented, and l2met reads it."""
        for call, expected in self.table:
            with self.subTest(expected):
                line = written(call)
                self.assertEqual(line, f"app=log-iss source=local {expected}")
                parse(line)

    def test_all_events(self) -> None:
        """An event that is not in the table is noticed here."""
        code = "".join(inspect.getsource(call) for call, _ in self.table)
        for name in vars(EventLog):
            if not name.startswith("_"):
                self.assertIn(f".{name}(", code + inspect.getsource(succeed))

    def test_source(self) -> None:
        """A label is bare when it can be and quoted when it must."""
        for source, shown in [
            ("local", "local"),
            ("eu-1.example.com:5/a_b+c@d", "eu-1.example.com:5/a_b+c@d"),
            ("a b", '"a b"'),
            ("a=b", '"a=b"'),
            ("x count#y=1", '"x count#y=1"'),
            ("é", r'"\u00e9"'),
            ("", '""'),
        ]:
            with self.subTest(source):
                line = written(lambda log: log.health_checked(), source)
                self.assertTrue(line.startswith(f"app=log-iss source={shown} count#"))
                self.assertEqual(parse(line)["source"], source)


def shown(value: bytes | str) -> str:
    """What a line says of `value`."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    text = text[:256]
    while len(json.dumps(text)) > 768 + 2:
        text = text[:-1]
    return text


_hostile = st.one_of(
    st.binary(max_size=30),
    st.lists(
        st.sampled_from(
            [
                b'"',
                b"\\",
                b"\n",
                b"\r",
                b" ",
                b"=",
                b" count#x=1 ",
                b'" count#x=1 y="',
                b"\x00",
                b"\x1b[2J",
                b"\x7f",
                b"\xed\xa0\x80",  # a lone surrogate
                b"\xff",
                b"\xc3",
                "\u2028é😀\x85".encode(),
                b"\\u0022",
            ]
        ),
        max_size=8,
    ).map(b"".join),
    st.builds(
        lambda before, piece, count: before + piece * count,
        st.binary(max_size=4),
        st.sampled_from([b"x", b"\xff", b'"', "😀".encode(), "é".encode()]),
        st.integers(200, 1200),
    ),
)
_values = st.one_of(st.none(), _hostile)


class HostileValuesTests(SynchronousTestCase):
    """Nothing that a client supplies ends its value or starts a metric."""

    def assert_inert(self, line: str, expected: dict[str, str]) -> None:
        """`line` has what is expected behind app and source, in that order."""
        self.assertTrue(line.isascii() and line.isprintable(), line)
        # l2met skips a line with any other escape.
        escapes = iter(line)
        for character in escapes:
            if character == "\\":
                self.assertIn(next(escapes), '"\\/bfnrtu')
        pairs = list(parse(line).items())
        self.assertEqual(
            pairs, [("app", "log-iss"), ("source", "local"), *expected.items()]
        )

    @settings(deadline=None, max_examples=200)
    @given(_values, _values, _values)
    @example(b"", b"", b"")
    def test_posts(
        self, token: bytes | None, address: bytes | None, request_id: bytes | None
    ) -> None:
        """Token, address and request id are values, in each line of a post."""
        post = Facts(token, address, request_id)
        start = {} if token is None else {"logdrain_token": shown(token)}
        end = {} if address is None else {"remote_addr": shown(address)}
        if request_id is not None:
            end["request_id"] = shown(request_id)

        logs = "log-iss.http.logs"
        self.assert_inert(
            written(lambda log: succeed(log, post)),
            {
                f"count#{logs}.post.success": "1",
                **start,
                f"measure#{logs}.fixer-func.duration": "0.000041s",
                f"measure#{logs}.post.duration": "0.003000s",
                f"measure#{logs}.send.duration": "0.000006s",
                f"measure#{logs}.wait.duration": "0.002000s",
                **end,
            },
        )
        self.assert_inert(
            written(lambda log: log.post_failed(post, 400, "why", 1.5)),
            {
                f"count#{logs}.post.error": "1",
                **start,
                f"measure#{logs}.post.duration": "1.500000s",
                "post.code": "400",
                "post.error": "why",
                **end,
            },
        )
        self.assert_inert(
            written(lambda log: log.fields_cut(post, {"procid": 3})),
            {f"count#{logs}.procid.truncated": "3", **start, **end},
        )

    @settings(deadline=None)
    @given(_hostile, st.text(max_size=300))
    @example(b"x", "\ud800 \udcff")
    def test_messages(self, request_id: bytes, message: str) -> None:
        """What a backend's error or a library says is a value."""
        forwarder = "log-iss.forwarder"
        self.assert_inert(
            written(lambda log: log.write_failed(0, request_id, message)),
            {
                f"count#{forwarder}.write.error": "1",
                "id": "0",
                "request_id": shown(request_id),
                "message": shown(message),
            },
        )
        self.assert_inert(
            written(lambda log: log.connect_failed(0, message)),
            {
                f"count#{forwarder}.connect.error": "1",
                "id": "0",
                "message": shown(message),
            },
        )
        self.assert_inert(
            written(lambda log: log.twisted_event(message, message, message)),
            {
                "ns": "twisted",
                "level": shown(message),
                "logger": shown(message),
                "message": shown(message),
            },
        )
        self.assert_inert(
            written(lambda log: log.post_failed(NOTHING_KNOWN, 400, message, 0)),
            {
                "count#log-iss.http.logs.post.error": "1",
                "measure#log-iss.http.logs.post.duration": "0.000000s",
                "post.code": "400",
                "post.error": shown(message),
            },
        )

    def test_very_long(self) -> None:
        """However much a client sends, a line stays short."""
        for piece in (b"x", b"\xff", b"\x00", "😀".encode()):
            value = piece * 1_000_000
            line = written(lambda log: succeed(log, Facts(value, value, value)))  # noqa: B023
            self.assertLess(len(line), 3 * 768 + 500)
            self.assertEqual(parse(line)["request_id"], shown(value[:2000]))


#: Values that become as long as any can.
_longest = st.one_of(
    st.sampled_from(["x", '"', "\n", "\x00", "é", "😀"]).map(lambda c: c * 300),
    st.text(min_size=200, max_size=300),
)
#: What an event may be told, by the annotation of its parameter.
_ARGUMENTS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.just(True),
    int: st.just(10**12),
    float: st.just(1e9),
    float | None: st.just(1e9),
    str: _longest,
    bytes: _longest.map(str.encode),
    bytes | None: _longest.map(str.encode),
    str | bytes: _longest,
    str | bytes | None: _longest,
    dict[str, int]: st.just(
        dict.fromkeys(("hostname", "app_name", "procid", "msgid"), 10**9)
    ),
    tuple[int, int]: st.just((10**12, 10**12)),
    PostFacts: st.builds(Facts, *[_longest.map(str.encode)] * 3),
}
_METHODS = [name for name in vars(EventLog) if not name.startswith("_")]


class LongestLineTests(SynchronousTestCase):
    """Lines of several processes can share a pipe."""

    @settings(deadline=None, max_examples=400)
    @given(st.data(), st.sampled_from(_METHODS), _longest)
    def test_atomic(self, data: st.DataObject, name: str, source: str) -> None:
        """The longest line that each event can have is one that a pipe takes whole."""
        lines: list[str] = []
        events = EventLog(source, lines.append, 256)
        signature = inspect.signature(getattr(events, name))
        given = {
            parameter.name: data.draw(_ARGUMENTS[parameter.annotation], parameter.name)
            for parameter in signature.parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        }
        if name == "phase_reached":
            # Words of ours, but for one.
            given = {"ns": "main", "at": "shutdown-signal", "signal": given["ns"]}
        getattr(events, name)(**given)
        (line,) = lines
        self.assertLessEqual(len(line) + 1, select.PIPE_BUF)
        parse(line)

    def test_bare(self) -> None:
        """A label that needs no quotation marks is bounded too."""
        line = written(lambda log: log.health_checked(), "x" * 5000)
        self.assertEqual(parse(line)["source"], "x" * 256)


class ValuesTests(SynchronousTestCase):
    """Values are written as l2met reads them."""

    def test_quoted(self) -> None:
        """Only the escapes of JSON, and only ASCII."""
        table: list[tuple[str | bytes, str]] = [
            ("", '""'),
            ("a", '"a"'),
            (b"a", '"a"'),
            ('"\\/', r'"\"\\/"'),
            ("\b\f\n\r\t", r'"\b\f\n\r\t"'),
            ("\x00\x1b\x7f", r'"\u0000\u001b\u007f"'),
            ("é😀", r'"\u00e9\ud83d\ude00"'),
            (b"\xff", r'"\ufffd"'),
            (b"\xed\xa0\x80", r'"\ufffd\ufffd\ufffd"'),
            ("\ud800", r'"\ud800"'),
        ]
        for value, expected in table:
            with self.subTest(value):
                self.assertEqual(quoted(value), expected)

    def test_cut(self) -> None:
        """A value is cut at 256 characters, not inside one."""
        self.assertEqual(quoted("x" * 256), '"' + "x" * 256 + '"')
        self.assertEqual(quoted("x" * 257), '"' + "x" * 256 + '"')

    def test_cut_escaped(self) -> None:
        """Nor is it longer than 768 bytes when it is escaped, or cut in an escape."""
        self.assertEqual(ESCAPED_MAX, 768)
        table: list[tuple[str | bytes, str]] = [
            ('"' * 300, r"\"" * 256),
            ("é" * 128, r"\u00e9" * 128),
            ("é" * 129, r"\u00e9" * 128),
            ("x" + "é" * 200, "x" + r"\u00e9" * 127),
            ("\\" * 3 + "é" * 200, r"\\" * 3 + r"\u00e9" * 127),
            ("😀".encode() * 300, r"\ud83d\ude00" * 64),
            ("é" + "😀" * 200, r"\u00e9" + r"\ud83d\ude00" * 63),
        ]
        for value, expected in table:
            with self.subTest(value):
                self.assertEqual(quoted(value), f'"{expected}"')

    def test_seconds(self) -> None:
        """A duration starts with a digit and ends with its unit, always."""
        for duration, expected in [
            (0.0, "0.000000s"),
            (1e-7, "0.000000s"),
            (0.000041, "0.000041s"),
            (5, "5.000000s"),
            (123456.75, "123456.750000s"),
            (-0.5, "0.000000s"),
        ]:
            with self.subTest(duration):
                self.assertEqual(seconds(duration), expected)
