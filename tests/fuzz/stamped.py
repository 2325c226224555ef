"""
Target: what goes into structured data and into log lines.

The octets are whatever a client can name: its address, a query's values, its drain
token and its request's id. They cannot get out of the place that they are put in.
"""

from twisted.web.http import parse_qs

from logiss import stamp
from logiss.l2met import EventLog
from tests import l2met_grammar
from tests.fakes import Facts
from tests.frames_oracle import _elements_end

_NAMES = (b"a", b"b", b"request_id")


def check(octets: bytes) -> None:
    """
    @raise Exception: the stamp is not one SD-ELEMENT for each that was made, a value is
        not the client's, or a log line is read otherwise than it was meant.
    """
    _check_value(octets)
    _check_elements(octets)
    _check_line(octets)


def _check_value(octets: bytes) -> None:
    escaped = stamp.escaped(octets)
    plain = bytes(byte for byte in octets if byte >= 32 and byte != 127)
    value = _unescaped(escaped)
    assert plain.startswith(value), f"{value!r} of {plain!r}"
    assert len(value) <= stamp.VALUE_MAX
    # What was cut was too long, by no more than half a character.
    assert value == plain or len(value) >= stamp.VALUE_MAX - 3


def _unescaped(escaped: bytes) -> bytes:
    """
    @raise AssertionError: a PARAM-VALUE ends before its end (RFC 5424 section 6.3.3).
    """
    value, octets = bytearray(), iter(escaped)
    for octet in octets:
        if octet == ord("\\"):
            octet = next(octets, 0)
            assert octet in b'"\\]', f"not to be escaped: {octet}"
        else:
            assert octet not in b'"\\]', f"not escaped: {octet}"
        value.append(octet)
    return bytes(value)


def _check_elements(octets: bytes) -> None:
    origin = stamp.origin(octets)
    metadata = stamp.metadata(
        b"meta@1",
        parse_qs(octets, True),
        _NAMES[:2],
        _NAMES[1:],
        octets if octets[:1] == b"d" else None,
    )
    for element in (origin, metadata):
        assert element.count(b"[") >= bool(element)
        assert _elements_end(element) == len(element), element
    assert _elements_end(origin + metadata) == len(origin + metadata)


def _check_line(octets: bytes) -> None:
    lines: list[str] = []
    events = EventLog("test", lines.append)
    events.post_failed(Facts(octets, octets[:40], octets), 400, str(octets), 0.1)
    events.write_failed(0, octets, str(octets))
    for line in lines:
        assert line.isascii(), line
        assert line.isprintable(), line
    pairs = l2met_grammar.parse(lines[0])
    for key in ("logdrain_token", "request_id"):
        assert pairs[key] == _shown(octets), (key, pairs[key])
    metrics = [key for key in pairs if "#" in key]
    assert len(metrics) <= 2, f"a metric too many: {metrics}"


def _shown(octets: bytes) -> str:
    text = octets[: 4 * l2met_grammar.SHOWN_MAX].decode("utf-8", "replace")
    return l2met_grammar.cut(text)
