"""
What h11 makes of a client's octets, and of our answers.

The rule goes one way: what is served must be read by h11 as the same request. h11 may
read what `logiss.channel` refuses, for it is looser: folded headers, a bare LF for a
line's end, a Content-Length that is repeated with the same value, white space behind a
chunk's size, a Content-Length beside a chunked body, and as many requests behind each
other as there are.

It is stricter in one thing: empty lines in front of a request, which RFC 9112 section
2.2 has servers ignore. It is given requests without them.
"""

from collections.abc import Iterator

import h11
from attrs import frozen

#: h11 writes these its own way: a list of equal lengths as one, codings in lower case.
REWRITTEN = (b"content-length", b"transfer-encoding")


@frozen
class Request:
    """
    @ivar fields: the values of each header, by its name in lower case.
    @ivar body: None when it has not come to its end.
    @ivar is_followed: whether another one may follow it.
    """

    method: bytes
    target: bytes
    fields: dict[bytes, list[bytes]]
    body: bytes | None
    is_followed: bool


@frozen
class Answer:
    """What h11 reads as a client."""

    code: int
    fields: dict[bytes, bytes]
    body: bytes


def requests(octets: bytes) -> Iterator[Request]:
    """The requests in `octets`, until h11 refuses one or it is not whole."""
    while octets:
        connection = h11.Connection(h11.SERVER)
        while octets.startswith(b"\r\n"):
            octets = octets[2:]
        connection.receive_data(octets)
        try:
            request = _request(connection)
        except h11.RemoteProtocolError:
            return
        if request is None:
            return
        yield request
        if not request.is_followed:
            return
        octets = connection.trailing_data[0]


def _request(connection: h11.Connection) -> Request | None:
    head = connection.next_event()
    if not isinstance(head, h11.Request):
        return None
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            event = h11.NEED_DATA
        if isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return _made(head, body)
        else:
            return _made(head, None)


def _made(head: h11.Request, body: bytes | None) -> Request:
    fields: dict[bytes, list[bytes]] = {}
    for name, value in head.headers:
        fields.setdefault(name, []).append(value)
    options = b",".join(fields.get(b"connection", ())).lower().split(b",")
    is_followed = (
        body is not None
        and head.http_version == b"1.1"
        and head.method != b"CONNECT"
        and b"close" not in [option.strip(b" \t") for option in options]
    )
    return Request(head.method, head.target, fields, body, is_followed)


def answers(octets: bytes, methods: list[bytes]) -> Iterator[Answer]:
    """
    The answers in `octets`, each to the next of `methods`; behind those, to what was
    no request, and may have had any method.

    @raise h11.RemoteProtocolError: they are no HTTP.
    @raise AssertionError: one has no length, is cut off, or something follows it though
        it says that nothing does.
    """
    turn = 0
    while octets:
        is_known = turn < len(methods)
        may_be_head = not is_known and octets.endswith(b"\r\n\r\n")
        method = methods[turn] if is_known else b"HEAD" if may_be_head else b"GET"
        answer, rest = _answer(octets, method)
        if _is_known(answer, method, rest):
            answer, rest = _answer(octets, b"GET")
        octets = rest
        yield answer
        turn += answer.code != 100
        if answer.fields.get(b"connection") == b"close":
            assert not octets, f"behind the last answer: {octets[:80]!r}"


def _is_known(answer: Answer, method: bytes, rest: bytes) -> bool:
    """
    What turns out to be malformed behind its headers is answered 400 with a text, also
    to HEAD. It is the last that the connection has.
    """
    closes = answer.fields.get(b"connection") == b"close"
    return method == b"HEAD" and answer.code == 400 and closes and bool(rest)


def _answer(octets: bytes, method: bytes) -> tuple[Answer, bytes]:
    connection = h11.Connection(h11.CLIENT)
    if method == b"CONNECT":
        # h11 takes 200, which /health answers to any method, for a tunnel's beginning
        # (RFC 9110 section 9.3.6). There is none: behind it the connection is closed.
        method = b"GET"
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(octets)
    head = connection.next_event()
    assert isinstance(head, h11.Response | h11.InformationalResponse), head
    assert head.http_version == b"1.1"
    assert head.reason, f"no reason phrase: {octets[:80]!r}"
    fields = dict(head.headers)
    assert len(fields) == len(list(head.headers)), f"twice: {fields}"
    if isinstance(head, h11.InformationalResponse):
        assert head.status_code == 100, head
        return Answer(100, fields, b""), connection.trailing_data[0]
    assert b"content-length" in fields, f"no length: {fields}"
    assert b"transfer-encoding" not in fields, fields
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage), f"cut off: {octets[:80]!r}"
    rest = connection.trailing_data[0]
    return Answer(head.status_code, fields, bytes(body)), rest
