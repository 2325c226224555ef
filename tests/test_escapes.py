"""
Whatever is in a post, nothing of it leaves its place: its frame, its SD-PARAM, its pair
in a log line.

Posts of arbitrary bytes go through the front door on the daemon's channel. What comes
out is read by grammars that share nothing with what writes it: `tests.rfc5424` and
`tests.l2met_grammar`.
"""

import base64
import re
from typing import Any

from attrs import evolve, frozen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.credentials import Credential, Credentials, password_digest
from logiss.health import RootResource
from logiss.l2met import EventLog
from logiss.limits import ChannelLimits
from logiss.settings import Settings
from logiss.site import ChannelSite, LogsSite
from logiss.web import LogsResource
from tests import l2met_grammar, rfc5424
from tests.fakes import FakeDeliverer
from tests.front import PEER, Connection, HTTPAnswer, framed

KEY = b"key"
PASSWORD = b"pass:word"
SD_ID = b"meta@1"
QUERY_PARAMS = (b"a", b"b.c")
FIELD_PARAMS = (b"x", b"a", b"y")

_MOST = 10_000_000
#: A PARAM-VALUE has at most so many bytes before it is escaped.
VALUE_MAX = 255

Field = tuple[bytes, bytes]

_CREDENTIAL = Credential("name", "current", False, b"")


@frozen
class Frame:
    """One frame of a body, as its client means it."""

    pri_version: bytes
    timestamp: bytes
    hostname: bytes
    app_name: bytes
    procid: bytes
    msgid: bytes
    #: Everything behind MSGID and its space; None when the frame ends with MSGID.
    rest: bytes | None

    @property
    def octets(self) -> bytes:
        header = (
            self.pri_version,
            self.timestamp,
            self.hostname,
            self.app_name,
            self.procid,
            self.msgid,
        )
        return b" ".join(header if self.rest is None else (*header, self.rest))

    def msg(self, keeps: bool) -> tuple[tuple[rfc5424.Element, ...], bytes | None]:
        """The structured data that it may keep, and the message that it has."""
        if self.rest is None:
            return (), None
        if self.rest.startswith(b"- "):
            return (), self.rest[2:]
        kept = rfc5424.leading_elements(self.rest) if keeps else None
        if kept is not None:
            return kept
        return (), self.rest or None


@frozen
class Attack:
    """
    A post.

    @ivar fields: headers besides the mandatory ones.
    @ivar query: names and values, decoded.
    """

    fields: tuple[Field, ...] = ()
    query: tuple[Field, ...] = ()
    frames: tuple[Frame, ...] = ()
    user: bytes = b"user"
    credential: Credential = _CREDENTIAL
    keeps: bool = False

    def values(self, name: bytes) -> list[bytes]:
        # White space around a value is not of it (RFC 9110 section 5.5).
        return [value.strip(b" \t") for n, value in self.fields if n == name]

    def value(self, name: bytes) -> bytes | None:
        return next(iter(self.values(name)), None)

    @property
    def uri(self) -> bytes:
        encoded = b"&".join(_encoded(n) + b"=" + _encoded(v) for n, v in self.query)
        return b"/logs?" + encoded if self.query else b"/logs"

    @property
    def body(self) -> bytes:
        return framed(*[frame.octets for frame in self.frames])

    def octets(self, *fields: Field, body: bytes | None = None) -> bytes:
        body = self.body if body is None else body
        authorization = base64.b64encode(self.user + b":" + PASSWORD)
        lines = [b"POST " + self.uri + b" HTTP/1.1"]
        lines += [
            name + b": " + value
            for name, value in (
                (b"Host", b"h"),
                (b"Content-Type", b"application/logplex-1"),
                (b"Authorization", b"Basic " + authorization),
                (b"Content-Length", b"%d" % len(body)),
                *self.fields,
                *fields,
            )
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _encoded(value: bytes) -> bytes:
    """`value` for a query, mostly as it is."""
    return b"".join(
        bytes([b]) if 33 <= b <= 126 and b not in b'"#%&+;=<>' else b"%%%02X" % b
        for b in value
    )


class Door:
    """A front door of its own for each post."""

    def __init__(self, attack: Attack, on: str = "channel") -> None:
        self.clock = Clock()
        self.lines: list[str] = []
        self.deliverer = FakeDeliverer()
        events = EventLog("test", self.lines.append)
        held = Credential(
            attack.credential.name,
            attack.credential.stage,
            attack.credential.deprecated,
            password_digest(KEY, PASSWORD),
        )
        logs = LogsResource(
            Settings(
                deploy="test",
                metadata_id=SD_ID,
                query_params=QUERY_PARAMS,
                field_params=FIELD_PARAMS,
                keep_structured_data=attack.keeps,
            ),
            self.deliverer,
            self.clock,
            events,
            credentials=Credentials(KEY, {attack.user: [held]}),
        )
        root = RootResource(logs, logs.drain, events, logs.metrics, lambda: 1, "sent")
        fixed = {b"/logs": logs, b"/logs/": logs}
        self.site: ChannelSite | LogsSite = LogsSite(root, self.clock, _MOST)
        if on == "channel":
            self.site = ChannelSite(root, self.clock, ChannelLimits(_MOST), fixed)

    def answers(self, *reads: bytes) -> list[HTTPAnswer]:
        connection = Connection(self.site)
        for read in reads:
            if connection.transport.connected:
                connection.send(read)
        answers = connection.answers()
        if connection.transport.connected:
            connection.hang_up()
        if isinstance(self.site, ChannelSite):
            self.site.doStop()
        return answers


# what attacks are made of

_PIECES = [
    b'"', b"]", b"\\", b"[", b"=", b" ", b",", b"'", b"#", b"%", b"&", b";", b"\t",
    b'"]', b'" x="', b'\\"', b"\\]", b"\\\\", b'"][origin ip="6.6.6.6', b"] forged ",
    b"count#log-iss.http.logs.post.success=1", b'" count#forged=1 "', b" measure#m=1s",
    b"\\u0022", b"\\x22", b"\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"\xff",
    b"\xc0\xaf", b"\xe2\x80\xa8", b"\xc2\x85", b"\xed\xa0\x80", b"\xc3",
    b"12 <13>1 - - - - -", b"a", b"d.1", b"192.0.2.1", b"::1",
]  # fmt: skip
_CONTROL = [bytes([byte]) for byte in (*range(32), 127)]

# So that headers and queries stay within their limits.
_LONGEST = 500
#: What a header's value may be (RFC 9110 section 5.5).
_VISIBLE = bytes([9, *range(32, 127), *range(128, 256)])

_values = st.one_of(
    st.lists(st.sampled_from(_PIECES), max_size=8).map(b"".join),
    st.lists(st.sampled_from(_VISIBLE), max_size=30).map(bytes),
    st.builds(
        lambda before, piece, times: (b"x" * before + piece * times)[:_LONGEST],
        st.integers(0, 5),
        st.sampled_from(_PIECES),
        st.integers(60, 300),
    ),
)
_any_values = st.one_of(
    _values,
    st.binary(max_size=40),
    st.lists(st.sampled_from(_PIECES + _CONTROL), max_size=8).map(b"".join),
    st.lists(st.sampled_from(_CONTROL), max_size=3).map(b"".join),
)
_numbers = st.sampled_from(
    [b"0", b"1", b"2", b"999999999", b"1000000000", b"-1", b"+1"]
)
_frame_ids = st.sampled_from([b"0" * 32, b"a1" * 16, b"A" * 32, b"g" * 32, b""])

_fields = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(
                [
                    b"x-forwarded-for",
                    b"x-request-id",
                    b"logplex-drain-token",
                    b"user-agent",
                    b"x-forwarded-proto",
                    b"logplex-frame-id",
                    b"logplex-msg-count",
                    b"logplex-drop-count",
                    b"logshuttle-lost",
                    b"x-anything",
                ]
            ),
            _values,
        ),
        st.tuples(
            st.sampled_from(
                [b"logplex-msg-count", b"logplex-drop-count", b"logplex-lost-count"]
            ),
            _numbers,
        ),
        st.tuples(st.just(b"logplex-frame-id"), _frame_ids),
        st.tuples(
            st.just(b"logplex-drain-token"),
            st.one_of(st.just(b"d.1"), st.integers(200, 300).map(lambda n: b"d" * n)),
        ),
    ),
    max_size=6,
).map(tuple)

_query = st.lists(
    st.tuples(
        st.sampled_from([*QUERY_PARAMS, *FIELD_PARAMS, b"z", b'"', b"a ", b"ip"]),
        _any_values,
    ),
    max_size=5,
).map(tuple)


def _words(most: int) -> st.SearchStrategy[bytes]:
    """Header fields of a frame: any bytes but spaces."""
    return st.one_of(
        st.sampled_from([b"host", b"-", b"app", b"web.1", b""]),
        _any_values.map(lambda value: value.replace(b" ", b"")),
        st.integers(most - 1, most + 2).map(lambda size: b"x" * size),
    )


_sd = st.lists(
    st.tuples(
        st.sampled_from([b"origin", SD_ID, b"x", b"x]"]),
        st.lists(
            st.tuples(st.sampled_from([b"ip", b"y", b'"']), _any_values), max_size=2
        ),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


def _written(elements: list[Any]) -> bytes:
    """Elements of a client's, well escaped or not."""
    written = b""
    for sd_id, params, is_escaped in elements:
        written += b"[" + sd_id
        for name, value in params:
            if is_escaped:
                value = re.sub(rb'(["\\\]])', rb"\\\1", value)
            written += b" " + name + b'="' + value + b'"'
        written += b"]"
    return written


_rests = st.one_of(
    st.none(),
    _any_values,
    _any_values.map(lambda value: b"- " + value),
    st.builds(
        lambda elements, behind: _written(elements) + behind,
        _sd,
        st.one_of(
            st.just(b""), _any_values.map(lambda value: b" " + value), _any_values
        ),
    ),
    st.binary(max_size=2000),
)

_frames = st.lists(
    st.builds(
        Frame,
        st.one_of(st.just(b"<13>1"), _words(5)),
        st.one_of(st.just(b"2013-06-07T13:17:49.468822+00:00"), _words(30)),
        _words(255),
        _words(48),
        _words(128),
        _words(32),
        _rests,
    ),
    min_size=1,
    max_size=4,
).map(tuple)

_attacks = st.builds(
    Attack,
    _fields,
    _query,
    _frames,
    _any_values.map(lambda value: value.replace(b":", b"")),
    st.builds(
        Credential,
        st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
        st.just("current"),
        st.booleans(),
        st.just(b""),
    ),
    st.booleans(),
)

_SETTINGS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# what is to be of them


def without_control(value: bytes) -> bytes:
    return bytes(byte for byte in value if 32 <= byte != 127)


def is_value_of(found: bytes, value: bytes) -> bool:
    """
    Whether `found` is what stands for `value` in structured data: it without control
    bytes, of a long one the first 255 bytes but for half of a character.
    """
    value = without_control(value)
    if len(value) <= VALUE_MAX:
        return found == value
    if not value.startswith(found) or not VALUE_MAX - 3 <= len(found) <= VALUE_MAX:
        return False
    if len(found) == VALUE_MAX:
        return True
    return all(byte & 0xC0 == 0x80 for byte in value[len(found) + 1 : VALUE_MAX + 1])


def address_of(attack: Attack) -> bytes:
    addresses = attack.values(b"x-forwarded-for")
    return b", ".join(addresses) if any(addresses) else PEER.encode()


_DURATION = r"[0-9]+\.[0-9]{6}s"
_CLIENT = r'( remote_addr="")?( request_id="")?'
_TOKEN = r'( logdrain_token="")?'
_LOGS = "log-iss.http.logs"
#: Each line that a post can cause, its quoted values emptied.
LINES = [
    re.compile(r"app=log-iss source=test " + pattern)
    for pattern in (
        rf"count#{_LOGS}\.post\.success=1{_TOKEN}"
        + "".join(
            rf" measure#{_LOGS}\.{name}\.duration={_DURATION}"
            for name in ("fixer-func", "post", "send", "wait")
        )
        + _CLIENT,
        rf"count#{_LOGS}\.post\.error=1{_TOKEN}"
        rf" measure#{_LOGS}\.post\.duration={_DURATION}"
        rf' post\.code=4[0-9][0-9] post\.error=""{_CLIENT}',
        rf"(count#{_LOGS}\.(hostname|app_name|procid|msgid)\.truncated=[0-9]+"
        rf"( (?=count))?)+{_TOKEN}{_CLIENT}",
        rf"count#{_LOGS}\.msg-count\.mismatch=1{_TOKEN}"
        rf" stated=[0-9]+ found=[0-9]+{_CLIENT}",
        rf"(count#{_LOGS}\.(headers|frames)\.(dropped|lost)=[0-9]+"
        rf"( (?=count))?)+{_TOKEN}{_CLIENT}",
    )
]


def bare(line: str) -> str:
    """`line` without what is between quotation marks."""
    out, is_quoted, is_escaped = "", False, False
    for character in line:
        if not is_quoted:
            out += character
            is_quoted = character == '"'
        elif is_escaped:
            is_escaped = False
        elif character == '"':
            out += character
            is_quoted = False
        else:
            is_escaped = character == "\\"
    return out


class EscapesTestCase(SynchronousTestCase):
    """Posts through a front door."""

    def check_lines(self, attack: Attack, lines: list[str]) -> None:
        """The lines are known ones, and say of the client what it has sent."""
        said = {
            "remote_addr": address_of(attack),
            "request_id": attack.value(b"x-request-id"),
            "logdrain_token": attack.value(b"logplex-drain-token"),
        }
        for line in lines:
            self.assertTrue(line.isascii() and line.isprintable(), line)
            found = [p for p in LINES if p.fullmatch(bare(line))]
            self.assertEqual(len(found), 1, line)
            pairs = l2met_grammar.parse(line)
            for key, value in said.items():
                text = None if value is None else value.decode("utf-8", "replace")
                self.assertEqual(pairs.get(key), text and l2met_grammar.cut(text), line)

    def check_elements(
        self, attack: Attack, elements: tuple[rfc5424.Element, ...]
    ) -> None:
        """Ours are the origin and the metadata, each with what the post has for it."""
        expected: list[tuple[bytes, list[Field]]] = []
        address = address_of(attack)
        if without_control(address):
            expected.append((b"origin", [(b"ip", address)]))
        first = dict(reversed(attack.query))
        params = [
            (name, first[name])
            for name in QUERY_PARAMS
            if without_control(first.get(name, b""))
        ]
        fields = [
            (name, first[name])
            for name in FIELD_PARAMS
            if without_control(first.get(name, b""))
        ]
        if attack.credential.deprecated:
            fields.append((b"credential_deprecated", b"true"))
            fields.append((b"credential_name", attack.credential.name.encode()))
        names = [name for name, _ in params]
        if fields:
            names.append(b"fields")
        sd_ids = [sd_id for sd_id, _ in expected] + [SD_ID] * bool(names)
        self.assertEqual([sd_id for sd_id, _ in elements], sd_ids)
        if expected:
            ((name, found),) = elements[0][1]
            self.assertEqual(name, b"ip")
            self.assertTrue(is_value_of(found, address), (found, address))
        if names:
            self.assertEqual([name for name, _ in elements[-1][1]], names)
            found_values = [value for _, value in elements[-1][1]]
            for found, (_, value) in zip(found_values, params, strict=False):
                self.assertTrue(is_value_of(found, value), (found, value))
        if fields:
            self.check_fields(elements[-1][1][-1][1], fields)

    def check_fields(self, found: bytes, fields: list[Field]) -> None:
        """``fields`` is each name and value, with a comma between."""
        for i, (name, value) in enumerate(fields):
            start = (b"," if i else b"") + name + b"="
            self.assertTrue(found.startswith(start), (found, fields))
            found = found[len(start) :]
            most = min(len(found), VALUE_MAX)
            taken = [n for n in range(most, -1, -1) if is_value_of(found[:n], value)]
            self.assertNotEqual(taken, [], (found, value))
            found = found[taken[0] :]
        self.assertEqual(found, b"")

    def check_frame(self, attack: Attack, frame: Frame, octets: bytes) -> None:
        """One frame has come out as it was meant."""
        is_plain = all(
            field.isascii() and field.decode().isprintable()
            for field in (frame.hostname, frame.app_name, frame.procid, frame.msgid)
        )
        found = rfc5424.parse(
            octets,
            not is_plain
            or frame.pri_version != b"<13>1"
            or not frame.timestamp.startswith(b"2013-06-07T"),
        )
        self.assertEqual(found.pri_version, frame.pri_version)
        self.assertEqual(found.timestamp, frame.timestamp)
        self.assertEqual(found.hostname, self.hostname(attack, frame)[:255])
        self.assertEqual(found.app_name, frame.app_name[:48] or b"-")
        self.assertEqual(found.procid, frame.procid[:128] or b"-")
        self.assertEqual(found.msgid, frame.msgid[:32] or b"-")
        kept, msg = frame.msg(attack.keeps)
        self.assertEqual(found.msg, msg)
        ours = len(found.elements) - len(kept)
        self.assertEqual(found.elements[ours:], kept)
        self.check_elements(attack, found.elements[:ours])

    def hostname(self, attack: Attack, frame: Frame) -> bytes:
        token = attack.value(b"logplex-drain-token") or b""
        is_name = bool(token) and all(33 <= byte <= 126 for byte in token)
        if frame.hostname == b"host" and is_name:
            return token
        return frame.hostname or b"-"


class ArbitraryTests(EscapesTestCase):
    """Whatever is in a post stays in its place."""

    @settings(_SETTINGS, max_examples=300)
    @given(_attacks)
    def test_legal(self, attack: Attack) -> None:
        """
        What HTTP allows is forwarded: as many frames, each with its message, with our
        elements and no others, and the values in them are those that were sent.
        """
        self.check(attack, Door(attack))

    @_SETTINGS
    @given(
        _attacks,
        st.sampled_from([b"x-forwarded-for", b"x-request-id", b"logplex-drain-token"]),
        _any_values,
    )
    def test_stock(self, attack: Attack, name: bytes, value: bytes) -> None:
        """
        So it is on twisted.web's own channel, which lets more control bytes pass.
        """
        value = re.sub(rb"[\r\n\0]", b"", value)
        attack = evolve(attack, fields=((name, value), *attack.fields))
        self.check(attack, Door(attack, "logs"))

    def check(self, attack: Attack, door: Door) -> None:
        (answer,) = door.answers(attack.octets())
        self.assertEqual(answer.code, 200, answer.body)
        messages = rfc5424.split(door.deliverer.octets)
        self.assertEqual(len(messages), len(attack.frames))
        for frame, octets in zip(attack.frames, messages, strict=True):
            self.check_frame(attack, frame, octets)
        self.check_lines(attack, door.lines)
        successes = [line for line in door.lines if "post.success=1" in bare(line)]
        self.assertEqual(len(successes), 1)

    @_SETTINGS
    @given(
        _attacks,
        st.sampled_from(
            [b"x-forwarded-for", b"x-request-id", b"logplex-drain-token", b"user-agent"]
        ),
        _values,
        st.sampled_from([byte for byte in _CONTROL if byte != b"\t"]),
        _values,
    )
    def test_illegal(
        self, attack: Attack, name: bytes, before: bytes, byte: bytes, after: bytes
    ) -> None:
        """A control byte in a header is 400: nothing is forwarded, nothing logged."""
        door = Door(attack)
        value = before + byte + after + b"."
        (answer,) = door.answers(attack.octets((name, value)))
        self.assertEqual(answer.code, 400)
        self.assertEqual(door.deliverer.payloads, [])
        self.assertEqual(door.lines, [])

    @_SETTINGS
    @given(_attacks, st.one_of(st.binary(max_size=60), _any_values), st.booleans())
    @example(Attack(), b'3 "\n] count#forged=1', False)
    def test_body(self, attack: Attack, body: bytes, behind: bool) -> None:
        """
        Of a body that is no frames nothing is forwarded, and what is said of it in the
        answer and in the log is one line.
        """
        if behind:
            body = attack.body + body
        door = Door(attack)
        (answer,) = door.answers(attack.octets(body=body))
        text = answer.body.decode("ascii")
        if answer.code == 200:
            self.assertEqual(text, "")
            for octets in rfc5424.split(door.deliverer.octets):
                rfc5424.parse(octets, any_header=True)
        else:
            self.assertEqual(answer.code, 400)
            self.assertEqual(door.deliverer.payloads, [])
            self.assertTrue(text.endswith("\n") and text[:-1].isprintable(), text)
            self.assertEqual(len(door.lines), 1)
        self.check_lines(attack, door.lines)

    @_SETTINGS
    @given(_attacks, st.one_of(st.binary(max_size=60), _any_values))
    def test_credentials(self, attack: Attack, authorization: bytes) -> None:
        """Of credentials nothing is logged, and of wrong ones nothing answered."""
        legal = bytes(byte for byte in authorization if byte in _VISIBLE)
        octets = attack.octets().replace(
            b"\r\nAuthorization: ", b"\r\nAuthorization: Basic " + legal + b"x", 1
        )
        door = Door(attack)
        (answer,) = door.answers(octets)
        self.assertEqual(answer.code, 401)
        self.assertEqual(answer.body, b"Unable to authenticate request\n")
        self.assertEqual(door.deliverer.payloads, [])
        self.check_lines(attack, door.lines)
        self.assertEqual(len(door.lines), 1)
        self.assertIn('post.error="Unable to authenticate request"', door.lines[0])

    @_SETTINGS
    @given(_attacks, _any_values)
    def test_path(self, attack: Attack, path: bytes) -> None:
        """A path is in no answer, no frame and no line of the log."""
        door = Door(attack)
        octets = attack.octets().replace(b"/logs", b"/" + path, 1)
        answers = door.answers(octets)
        lines = [line for line in door.lines if "health.get=1" not in bare(line)]
        self.assertEqual(door.deliverer.payloads, [])
        self.assertEqual(lines, [])
        for answer in answers:
            self.assertIn(
                answer.body,
                (b"", b"Not found\n", b"Malformed HTTP request\n", b"Unknown method\n"),
            )

    @_SETTINGS
    @given(
        _attacks, st.lists(st.sampled_from(_VISIBLE.replace(b" ", b"")), max_size=60)
    )
    def test_raw_query(self, attack: Attack, raw: list[int]) -> None:
        """Nor can a query leave its place by how it is written."""
        door = Door(attack)
        query = bytes(byte for byte in raw if 33 <= byte <= 126 and byte != ord("#"))
        octets = attack.octets().replace(attack.uri, b"/logs?a=" + query, 1)
        (answer,) = door.answers(octets)
        self.assertEqual(answer.code, 200)
        for octets in rfc5424.split(door.deliverer.octets):
            elements = rfc5424.parse(octets, any_header=True).elements
            ours = [e for e in elements if e[0] == SD_ID][:1]
            for _, params in ours:
                names = [name for name, _ in params]
                allowed = {*QUERY_PARAMS, b"fields"}
                if not attack.keeps:
                    self.assertLessEqual(set(names), allowed)
                    self.assertEqual(len(set(names)), len(names))
        self.check_lines(attack, door.lines)


class TableTests(EscapesTestCase):
    """The table of escapes, value by value."""

    def param(self, attack: Attack) -> bytes:
        """What stands between the quotation marks of our first param."""
        door = Door(attack)
        (answer,) = door.answers(attack.octets())
        self.assertEqual(answer.code, 200)
        (octets,) = rfc5424.split(door.deliverer.octets)
        self.check_frame(attack, attack.frames[0], octets)
        self.check_lines(attack, door.lines)
        found = re.search(rb'="((?:[^"\\\]]|\\.)*)"', octets, re.DOTALL)
        assert found is not None
        return found[1]

    def test_address(self) -> None:
        """``X-Forwarded-For`` as it came, with three bytes escaped, of 255."""
        frames = (Frame(b"<13>1", b"-", b"host", b"a", b"p", b"-", b"- hi"),)
        for value, written in (
            (b"192.0.2.1", b"192.0.2.1"),
            (b"192.0.2.1, 192.0.2.2", b"192.0.2.1, 192.0.2.2"),
            (b"2001:db8::1", b"2001:db8::1"),
            (b'"', rb"\""),
            (b"\\", rb"\\"),
            (b"]", rb"\]"),
            (b'\\"]', rb"\\\"\]"),
            (b'"][forged x="y', rb"\"\][forged x=\"y"),
            (b"[", b"["),
            (b"a\tb", b"ab"),
            (b"\xc3\xa9\xff", b"\xc3\xa9\xff"),
            (b"", PEER.encode()),
            (b" \t ", PEER.encode()),
            (b"x" * 255, b"x" * 255),
            (b"x" * 256, b"x" * 255),
            (b"]" * 256, rb"\]" * 255),
            (b"x" * 254 + b"\xc3\xa9", b"x" * 254),
            (b"x" * 253 + b"\xf0\x9f\x98\x80", b"x" * 253),
            (b"\xf0\x9f\x98\x80" * 64, b"\xf0\x9f\x98\x80" * 63),
        ):
            attack = Attack(fields=((b"x-forwarded-for", value),), frames=frames)
            self.assertEqual(self.param(attack), written, value)

    def test_query(self) -> None:
        """So the values of a query, in which control bytes can be."""
        frames = (Frame(b"<13>1", b"-", b"host", b"a", b"p", b"-", b"- hi"),)
        for value, written in (
            (b'a"\\]b', rb"a\"\\\]b"),
            (b"a\r\nb\0c\x7fd\te", b"abcde"),
            (b"12 <13>1 - - - - - -", b"12 <13>1 - - - - - -"),
            (b'\n"\n', rb"\""),
            (b"\x00" * 300 + b"y", b"y"),
            (b"x\x00" * 256, b"x" * 255),
            (b"count#a=1", b"count#a=1"),
        ):
            door = Door(attack := Attack(query=((b"a", value),), frames=frames))
            (answer,) = door.answers(attack.octets())
            self.assertEqual(answer.code, 200)
            self.assertIn(
                b'[meta@1 a="' + written + b'" fields="a=' + written + b'"] hi',
                door.deliverer.octets,
            )
            (octets,) = rfc5424.split(door.deliverer.octets)
            self.check_frame(attack, frames[0], octets)

    def test_log(self) -> None:
        """What a client has said stands in a log line as JSON has it."""
        for value, written in (
            (b"a", '"a"'),
            (b'"', r'"\""'),
            (b"\\", r'"\\"'),
            (b'" count#forged=1 x="', r'"\" count#forged=1 x=\""'),
            (b"a\tb", r'"a\tb"'),
            (b"=", '"="'),
            (b"\xc3\xa9", r'"\u00e9"'),
            (b"\xf0\x9f\x98\x80", r'"\ud83d\ude00"'),
            (b"\xff", r'"\ufffd"'),
            (b"\xc2\x85", r'"\u0085"'),
            (b"\xe2\x80\xa8", r'"\u2028"'),
            (b"x" * 300, '"' + "x" * 256 + '"'),
        ):
            names = (b"x-request-id", b"x-forwarded-for", b"logplex-drain-token")
            attack = Attack(
                fields=tuple((name, value) for name in names),
                frames=(Frame(b"<13>1", b"-", b"h", b"a", b"p", b"-", b"hi"),),
            )
            door = Door(attack)
            door.answers(attack.octets())
            (line,) = door.lines
            self.check_lines(attack, door.lines)
            for key in ("request_id", "remote_addr", "logdrain_token"):
                self.assertIn(f" {key}={written}", line)
