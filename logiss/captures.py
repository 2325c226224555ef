"""
The form of a refused body that was kept: what was wrong with it, and its octets.

The daemon writes such files, ``logiss replay`` reads them. The head is lines as in
HTTP, without CR; a blank line ends it, and behind it is the body as it came::

    capture = head LF body
    head    = "Capture-Version: 1" LF *(name ": " value LF)
    name    = "Captured-At" / "Refused-With" / "Refused-Because" / "Remote-Addr"
            / "Request-Id" / "Target" / "Body-Bytes" / "Body-Cut" ; once each
            / "Content-Type" / "Content-Encoding" / "Logplex-" 1*(ALPHA / DIGIT / "-")
    value   = time / 1*DIGIT / string
    time    = <RFC 3339 section 5.6, in UTC> ; Captured-At
    string  = <RFC 8259 section 7, in ASCII> ; all else but the numbers: U+0000 to
                                             ; U+00FF stand for octets

So nothing that a client has sent can end a line. What proves who somebody is does not
stand in a capture: neither ``Authorization`` nor ``Cookie`` is among its names.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from attrs import field, frozen

VERSION = 1
#: How a file with a capture is called: time, number of the process, number there.
NAME = re.compile(r"([0-9]{8}T[0-9]{6}Z)-([0-9]{1,10})-([0-9]{6,10})\.capture")
#: A longer head is none of ours.
HEAD_BYTES_MAX = 256 * 1024

_FIELD = re.compile(r"Content-Type|Content-Encoding|Logplex-[A-Za-z0-9-]+")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII)
_LINE = re.compile(r"([A-Za-z0-9-]+): (.*)")
_NUMBER = re.compile(r"[0-9]{1,12}")
_REQUIRED = ("Captured-At", "Refused-With", "Refused-Because", "Target", "Body-Bytes")


class BrokenCapture(Exception):
    """It is no capture, or not whole. Says what is wrong with it."""


def _matches(pattern: re.Pattern[str]) -> Callable[[Any, Any, str], None]:
    def check(capture: Any, attribute: Any, value: str) -> None:
        if not pattern.fullmatch(value):
            raise ValueError(f"{attribute.name} cannot be {value!r}")

    return check


def _are_fields(capture: Any, attribute: Any, value: Any) -> None:
    for name, _ in value:
        if not is_kept(name):
            raise ValueError(f"{name!r} is no field to be kept")


def is_kept(name: str) -> bool:
    """Whether the field `name` of a request is part of a capture."""
    return _FIELD.fullmatch(name) is not None


@frozen
class Capture:
    """
    A body that was refused. What a client has sent is as it came.

    @ivar captured_at: in UTC, as in RFC 3339.
    @ivar code: what it was answered.
    @ivar because: what was wrong with it.
    @ivar target: path and query.
    @ivar fields: ``Content-Type``, ``Content-Encoding`` and ``Logplex-*``, as often as
        they were sent.
    @ivar body: in its coding.
    @ivar is_cut: there was more, or there would have been.
    """

    captured_at: str = field(validator=_matches(_TIME))
    code: int
    because: str
    target: bytes
    fields: tuple[tuple[str, bytes], ...] = field(validator=_are_fields)
    body: bytes
    is_cut: bool = False
    remote_addr: bytes | None = None
    request_id: bytes | None = None


def octets(capture: Capture) -> bytes:
    """What to write to a file."""
    lines = [
        ("Capture-Version", f"{VERSION}"),
        ("Captured-At", capture.captured_at),
        ("Refused-With", f"{capture.code}"),
        ("Refused-Because", json.dumps(capture.because)),
    ]
    if capture.remote_addr is not None:
        lines.append(("Remote-Addr", _quoted(capture.remote_addr)))
    if capture.request_id is not None:
        lines.append(("Request-Id", _quoted(capture.request_id)))
    lines.append(("Target", _quoted(capture.target)))
    lines += [(name, _quoted(value)) for name, value in capture.fields]
    lines.append(("Body-Bytes", f"{len(capture.body)}"))
    if capture.is_cut:
        lines.append(("Body-Cut", "1"))
    head = "".join(f"{name}: {value}\n" for name, value in lines)
    return head.encode("ascii") + b"\n" + capture.body


def read(octets: bytes) -> Capture:
    """
    The capture that a file has.

    @raise BrokenCapture: it has none, or not all of one.
    """
    head, blank, body = octets.partition(b"\n\n")
    if not octets.startswith(b"Capture-Version: "):
        raise BrokenCapture("it does not begin with 'Capture-Version: '")
    if not blank or len(head) > HEAD_BYTES_MAX:
        raise BrokenCapture("no blank line ends its head")
    once, fields = _head(head)
    size = _number("Body-Bytes", once)
    if size != len(body):
        raise BrokenCapture(f"Body-Bytes is {size}, but its body has {len(body)} bytes")
    if not _TIME.fullmatch(once["Captured-At"]):
        raise BrokenCapture("Captured-At is no time like 2026-01-31T12:00:00.000Z")
    return Capture(
        captured_at=once["Captured-At"],
        code=_number("Refused-With", once),
        because=_text("Refused-Because", once["Refused-Because"]),
        target=_unquoted("Target", once["Target"]),
        fields=fields,
        body=body,
        is_cut="Body-Cut" in once and _number("Body-Cut", once) > 0,
        remote_addr=_given("Remote-Addr", once),
        request_id=_given("Request-Id", once),
    )


def _head(head: bytes) -> tuple[dict[str, str], tuple[tuple[str, bytes], ...]]:
    """The lines that stand once, and those of the request."""
    once: dict[str, str] = {}
    fields = []
    # Not splitlines(), which knows ends of lines that are none here.
    for line in head.decode("ascii", "replace").split("\n"):
        found = _LINE.fullmatch(line)
        if found is None:
            raise BrokenCapture(f"no 'Name: value' but {line[:80]!r} in its head")
        name, value = found.groups()
        if _FIELD.fullmatch(name):
            fields.append((name, _unquoted(name, value)))
        elif name in once:
            raise BrokenCapture(f"{name} stands twice in its head")
        else:
            once[name] = value
    if once["Capture-Version"] != f"{VERSION}":
        raise BrokenCapture(
            f"Capture-Version is not {VERSION}: it is of another logiss"
        )
    for name in _REQUIRED:
        if name not in once:
            raise BrokenCapture(f"{name} is missing in its head")
    return once, tuple(fields)


def _number(name: str, once: dict[str, str]) -> int:
    if not _NUMBER.fullmatch(once[name]):
        raise BrokenCapture(f"{name} is no number")
    return int(once[name])


def _given(name: str, once: dict[str, str]) -> bytes | None:
    return _unquoted(name, once[name]) if name in once else None


def _quoted(octets: bytes) -> str:
    return json.dumps(octets.decode("latin-1"))


def _unquoted(name: str, value: str) -> bytes:
    try:
        return _text(name, value).encode("latin-1")
    except UnicodeEncodeError:
        raise BrokenCapture(f"{name} has characters that are no octets") from None


def _text(name: str, value: str) -> str:
    try:
        text = json.loads(value)
    except (ValueError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise BrokenCapture(f"{name} is not quoted as in JSON")
    return text
