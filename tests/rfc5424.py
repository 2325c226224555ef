"""
Reads syslog messages as RFC 5424 section 6 and RFC 6587 section 3.4.1 write them,
independently of what makes them: byte by byte along the grammar, without a regular
expression. What is not of the grammar is an error.

One thing may be told to be less strict: logiss passes on the header fields of its
clients as they are, and so a header field may be any bytes but spaces.
"""

from datetime import datetime

from attrs import define, frozen

_DIGITS = b"0123456789"
_PRINTABLE = bytes(range(33, 127))
_SD_NAME = bytes(byte for byte in _PRINTABLE if byte not in b'=]"')
_FIELD_MAX = {"HOSTNAME": 255, "APP-NAME": 48, "PROCID": 128, "MSGID": 32}

#: An SD-ID, and its PARAM-NAMEs with their PARAM-VALUEs, unescaped.
Element = tuple[bytes, tuple[tuple[bytes, bytes], ...]]


class NotSyslog(Exception):
    """It is not of the grammar."""


@frozen
class Message:
    """
    @ivar elements: the SD-ELEMENTs; none for a nil STRUCTURED-DATA.
    @ivar msg: None when the message ends with its structured data.
    """

    pri_version: bytes
    timestamp: bytes
    hostname: bytes
    app_name: bytes
    procid: bytes
    msgid: bytes
    elements: tuple[Element, ...]
    msg: bytes | None


@define
class _Reader:
    """Bytes that are taken one behind the other."""

    octets: bytes
    at: int = 0

    @property
    def is_at_end(self) -> bool:
        return self.at == len(self.octets)

    def next_is(self, expected: bytes) -> bool:
        return self.octets[self.at : self.at + 1] == expected

    def take(self, expected: bytes) -> None:
        if not self.next_is(expected):
            raise NotSyslog(f"no {expected!r} at {self.at} of {self.octets!r}")
        self.at += 1

    def take_all_of(self, alphabet: bytes) -> bytes:
        start = self.at
        while not self.is_at_end and self.octets[self.at] in alphabet:
            self.at += 1
        return self.octets[start : self.at]

    def take_until_space(self) -> bytes:
        start = self.at
        while not self.is_at_end and not self.next_is(b" "):
            self.at += 1
        return self.octets[start : self.at]


def split(octets: bytes) -> list[bytes]:
    """The SYSLOG-MSGs of octet-counted frames, with nothing between or behind them."""
    messages = []
    reader = _Reader(octets)
    while not reader.is_at_end:
        msg_len = reader.take_all_of(_DIGITS)
        if not msg_len or msg_len.startswith(b"0"):
            raise NotSyslog(f"no MSG-LEN at {reader.at}")
        reader.take(b" ")
        end = reader.at + int(msg_len)
        if end > len(octets):
            raise NotSyslog(f"{end - len(octets)} bytes are missing")
        messages.append(octets[reader.at : end])
        reader.at = end
    return messages


def parse(octets: bytes, any_header: bool = False) -> Message:
    """
    Read one SYSLOG-MSG.

    @param any_header: a header field may be any bytes but spaces, and PRI, VERSION and
        TIMESTAMP may be empty.
    """
    reader = _Reader(octets)
    fields = []
    for check in (_check_pri_version, _check_timestamp):
        field = reader.take_until_space()
        if not any_header:
            check(field)
        fields.append(field)
        reader.take(b" ")
    for name, most in _FIELD_MAX.items():
        field = reader.take_until_space()
        if not 1 <= len(field) <= most:
            raise NotSyslog(f"{name} has {len(field)} bytes: {octets!r}")
        if not any_header and any(byte not in _PRINTABLE for byte in field):
            raise NotSyslog(f"{name} is not printable: {octets!r}")
        fields.append(field)
        reader.take(b" ")
    elements = _structured_data(reader)
    msg = None
    if not reader.is_at_end:
        reader.take(b" ")
        msg = octets[reader.at :]
    pri_version, timestamp, hostname, app_name, procid, msgid = fields
    return Message(
        pri_version, timestamp, hostname, app_name, procid, msgid, elements, msg
    )


def leading_elements(msg: bytes) -> tuple[tuple[Element, ...], bytes | None] | None:
    """
    The SD-ELEMENTs, each with a param, that `msg` begins with and what follows behind
    a space; None when it does not begin so.
    """
    reader = _Reader(msg)
    try:
        elements = _elements(reader)
        if not all(params for _, params in elements):
            return None
        if reader.is_at_end:
            return elements, None
        reader.take(b" ")
    except NotSyslog:
        return None
    return elements, msg[reader.at :]


def _check_pri_version(field: bytes) -> None:
    reader = _Reader(field)
    reader.take(b"<")
    prival = reader.take_all_of(_DIGITS)
    reader.take(b">")
    version = reader.take_all_of(_DIGITS)
    if not 1 <= len(prival) <= 3 or int(prival) > 191:
        raise NotSyslog(f"no PRI: {field!r}")
    if not 1 <= len(version) <= 3 or version.startswith(b"0") or not reader.is_at_end:
        raise NotSyslog(f"no VERSION: {field!r}")


def _check_timestamp(field: bytes) -> None:
    if field == b"-":
        return
    try:
        text = field.decode("ascii")
        # Of what is ISO 8601, RFC 5424 takes one form.
        if text[10] != "T" or text[13] != ":" or not ("Z" in text or text[-3] == ":"):
            raise NotSyslog(f"no TIMESTAMP: {field!r}")
        if datetime.fromisoformat(text).tzinfo is None:
            raise NotSyslog(f"no TIME-OFFSET: {field!r}")
    except (ValueError, IndexError):
        raise NotSyslog(f"no TIMESTAMP: {field!r}") from None


def _structured_data(reader: _Reader) -> tuple[Element, ...]:
    if reader.next_is(b"-"):
        reader.take(b"-")
        return ()
    return _elements(reader)


def _elements(reader: _Reader) -> tuple[Element, ...]:
    elements = [_element(reader)]
    while reader.next_is(b"["):
        elements.append(_element(reader))
    return tuple(elements)


def _element(reader: _Reader) -> Element:
    reader.take(b"[")
    sd_id = _name(reader)
    params = []
    while reader.next_is(b" "):
        reader.take(b" ")
        name = _name(reader)
        reader.take(b"=")
        params.append((name, _value(reader)))
    reader.take(b"]")
    return sd_id, tuple(params)


def _name(reader: _Reader) -> bytes:
    name = reader.take_all_of(_SD_NAME)
    if not 1 <= len(name) <= 32:
        raise NotSyslog(f"no SD-NAME at {reader.at} of {reader.octets!r}")
    return name


def _value(reader: _Reader) -> bytes:
    """
    A PARAM-VALUE: a backslash in front of another byte than the three that have to be
    escaped is a backslash (section 6.3.3).
    """
    reader.take(b'"')
    value = bytearray()
    while not reader.next_is(b'"'):
        if reader.is_at_end or reader.next_is(b"]"):
            raise NotSyslog(f"no end of a value at {reader.at} of {reader.octets!r}")
        byte = reader.octets[reader.at]
        reader.at += 1
        if byte == ord("\\") and reader.octets[reader.at : reader.at + 1] in (
            b'"',
            b"\\",
            b"]",
        ):
            byte = reader.octets[reader.at]
            reader.at += 1
        value.append(byte)
    reader.take(b'"')
    return bytes(value)
