"""
What is answered to which request: the table of the HTTP reference, row by row.

The rows are run in memory, on the daemon's site and on a stock one, and over
loopback.
"""

import gzip
from collections.abc import Callable

from attrs import Factory, frozen

from logiss.receiver import FrameDecoder
from tests.front import PEER, Front, basic, framed, message, request, stamped

#: The daemon's channel, its way back to twisted.web's, and an embedder's `Site`.
SITES = ("channel", "logs", "stock")

BODY = framed(message(b"one"), message(b"two"))
FORWARDED = framed(stamped(b"one"), stamped(b"two"))


def as_it_is(front: Front) -> None:
    """Nothing to prepare."""


def draining(front: Front) -> None:
    front.drain.begin(lambda: None)


def disconnected(front: Front) -> None:
    front.connected = 0


def unloaded(front: Front) -> None:
    front.credentials.is_loaded = False


def backend_stuck(front: Front) -> None:
    front.deliverer.at_once = False


def memory_full(front: Front) -> None:
    front.logs.budget.reserve(front.settings.max_inflight_bytes, 1.0)


@frozen
class Row:
    """
    @ivar name: what the row is about.
    @ivar octets: the request.
    @ivar code: the status of its answer.
    @ivar text: the line in its body; empty for no body.
    @ivar headers: some of the answer's headers.
    @ivar forwarded: what has gone to the backend, with the peer as origin.
    @ivar prepare: what to do with the front before the request.
    @ivar waits: the answer comes when the delivery timeout is over, not before.
    @ivar on: on which of `SITES` this is the answer.
    @ivar to_head: the answer has no body because the method was HEAD.
    """

    name: str
    octets: bytes
    code: int
    text: str = ""
    headers: dict[str, str] = Factory(dict)
    forwarded: bytes = b""
    prepare: Callable[[Front], None] = as_it_is
    settings: dict[str, object] = Factory(dict)
    waits: bool = False
    to_head: bool = False
    on: tuple[str, ...] = SITES

    def forwarded_from(self, address: str) -> bytes:
        """What goes to the backend when the peer is another."""
        frames = FrameDecoder().feed(self.forwarded)
        return framed(*[f.replace(PEER.encode(), address.encode()) for f in frames])

    @property
    def is_post(self) -> bool:
        """Whether it gets as far as the front door, and so into the log."""
        return self.octets.split()[1].partition(b"?")[0] in (b"/logs", b"/logs/")


def get(path: str, method: str = "GET") -> bytes:
    return request(
        method=method,
        path=path,
        headers={"Content-Type": None, "Authorization": None, "Content-Length": None},
    )


CLOSE = {"connection": "close"}
REALM = {"www-authenticate": 'Basic realm="logiss"'}
AGAIN = {"retry-after": "1"}
ALLOW = {"allow": "POST"}

UNAUTHORIZED = "Unable to authenticate request"
UNLOADED = "Credentials are not loaded yet"
ONLY_SSL = "Only SSL requests accepted"
SHUTTING_DOWN = "Shutting down"
WRONG_TYPE = "Content-Type must be application/logplex-1"
WRONG_ENCODING = "Content-Encoding must be gzip or identity"

SSL_ON: dict[str, object] = {"enforce_ssl": True}
TINY: dict[str, object] = {"max_body_bytes": 300}


def _refused_first(name: str, octets: bytes, **rest: object) -> Row:
    return Row(f"order: {name}", octets, **rest)  # type: ignore[arg-type]


WRONG_CREDENTIALS = {
    "none": None,
    "wrong token": basic(token="a:toke"),
    "token of another case": basic(token="A:TOKEN"),
    "unknown user": basic(user="nobody"),
    "empty token": basic(token=""),
    "no colon": "Basic dXNlcg==",
    "not base64": "Basic !!!!",
    "empty": "",
    "other scheme": "Digest " + basic().split()[1],
    "bearer": "Bearer a:token",
}

ROWS = [
    # any other path
    *(
        Row(f"404 {path}", get(path), 404, "Not found")
        for path in ("/", "/nope", "/logs/x", "/logsx", "/health/x", "/ready/", "/LOGS")
    ),
    Row(
        "404 before everything else",
        request(path="/x", headers={"Authorization": None}),
        404,
        "Not found",
        settings=SSL_ON,
    ),
    # health and readiness
    *(
        Row(f"health {method}", get("/health", method), 200)
        for method in ("GET", "POST", "PUT", "DELETE")
    ),
    # llhttp knows the methods there are, and no other.
    Row("health BREW", get("/health", "BREW"), 200, on=("logs", "stock")),
    Row(
        "unknown method",
        get("/health", "BREW"),
        501,
        "Unknown method",
        CLOSE,
        on=("channel",),
    ),
    Row("health HEAD", get("/health", "HEAD"), 200, to_head=True),
    Row("health without SSL", get("/health"), 200, settings=SSL_ON),
    Row("health draining", get("/health"), 503, SHUTTING_DOWN, prepare=draining),
    Row("ready", get("/ready"), 200),
    Row(
        "not ready",
        get("/ready"),
        503,
        "No backend connection is usable",
        prepare=disconnected,
    ),
    Row(
        "ready but for credentials",
        get("/ready"),
        503,
        UNLOADED,
        AGAIN,
        prepare=unloaded,
    ),
    Row("ready draining", get("/ready"), 503, SHUTTING_DOWN, prepare=draining),
    # SSL
    Row("SSL missing", request(BODY), 400, ONLY_SSL, settings=SSL_ON),
    Row(
        "SSL plain",
        request(BODY, headers={"X-Forwarded-Proto": "http"}),
        400,
        ONLY_SSL,
        settings=SSL_ON,
    ),
    Row(
        "SSL second item",
        request(BODY, headers={"X-Forwarded-Proto": "http, https"}),
        400,
        ONLY_SSL,
        settings=SSL_ON,
    ),
    *(
        Row(
            f"SSL {proto}",
            request(BODY, headers={"X-Forwarded-Proto": proto}),
            200,
            forwarded=FORWARDED,
            settings=SSL_ON,
        )
        for proto in ("https", "HTTPS", "https,http", " https , http")
    ),
    # draining
    Row("draining", request(BODY), 503, SHUTTING_DOWN, CLOSE, prepare=draining),
    # the method
    *(
        Row(
            f"method {method}",
            request(BODY, method=method),
            405,
            "Only POST is accepted",
            ALLOW,
        )
        for method in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH")
    ),
    *(
        Row(
            f"method {method}",
            request(BODY, method=method),
            405,
            "Only POST is accepted",
            ALLOW,
            on=("logs", "stock"),
        )
        for method in ("BREW", "post")
    ),
    Row("method HEAD", get("/logs", "HEAD"), 405, headers=ALLOW, to_head=True),
    # Content-Type
    *(
        Row(
            f"type {kind}",
            request(BODY, headers={"Content-Type": kind}),
            415,
            WRONG_TYPE,
        )
        for kind in (
            None,
            "",
            "text/plain",
            "application/logplex-2",
            "application/msgpack",
            "application/x-www-form-urlencoded",
        )
    ),
    *(
        Row(
            f"type {kind}",
            request(BODY, headers={"Content-Type": kind}),
            200,
            forwarded=FORWARDED,
        )
        for kind in (
            "application/x-logplex-1",
            "Application/LogPlex-1",
            "application/logplex-1; charset=utf-8",
            "application/logplex-1 ;x",
        )
    ),
    # twisted.web reads forms by itself unless its site is told otherwise.
    Row(
        "type of a form",
        request(BODY, headers={"Content-Type": "multipart/form-data; boundary=x"}),
        415,
        WRONG_TYPE,
        on=("channel", "logs"),
    ),
    # credentials
    *(
        Row(
            f"credentials {name}",
            request(BODY, headers={"Authorization": value}),
            401,
            UNAUTHORIZED,
            REALM,
        )
        for name, value in WRONG_CREDENTIALS.items()
    ),
    # Whatever may yet turn out to be right, before Redis has been read.
    *(
        Row(
            f"credentials {name}, not loaded",
            request(BODY, headers={"Authorization": WRONG_CREDENTIALS[name]}),
            503,
            UNLOADED,
            AGAIN,
            prepare=unloaded,
        )
        for name in ("wrong token", "unknown user", "empty token", "bearer")
    ),
    *(
        Row(
            f"credentials {name}, not loaded",
            request(BODY, headers={"Authorization": WRONG_CREDENTIALS[name]}),
            401,
            UNAUTHORIZED,
            REALM,
            prepare=unloaded,
        )
        for name in ("none", "no colon", "not base64", "empty", "other scheme")
    ),
    Row(
        "credentials of TOKEN_MAP, not loaded",
        request(BODY),
        200,
        forwarded=FORWARDED,
        prepare=unloaded,
    ),
    Row(
        "credentials of bearer",
        request(BODY, headers={"Authorization": "Bearer a:token"}),
        200,
        forwarded=FORWARDED,
        settings={"tokens": (("bearer", "a:token"),)},
    ),
    Row(
        "credentials twice",
        request(BODY, more=[("Authorization", basic())]),
        401,
        UNAUTHORIZED,
        REALM,
    ),
    Row(
        "credentials scheme in another case",
        request(BODY, headers={"Authorization": basic().replace("Basic", "bAsIc")}),
        200,
        forwarded=FORWARDED,
    ),
    # Content-Encoding
    *(
        Row(
            f"encoding {encoding}",
            request(BODY, headers={"Content-Encoding": encoding}),
            415,
            WRONG_ENCODING,
        )
        for encoding in ("br", "deflate", "gzip, gzip", "x")
    ),
    Row(
        "encoding identity",
        request(BODY, headers={"Content-Encoding": "identity"}),
        200,
        forwarded=FORWARDED,
    ),
    *(
        Row(
            f"encoding {encoding}",
            request(gzip.compress(BODY), headers={"Content-Encoding": encoding}),
            200,
            forwarded=FORWARDED,
        )
        for encoding in ("gzip", "GZIP")
    ),
    # limits
    Row(
        "body too large",
        request(b"x" * 301),
        413,
        "Body too large: more than 300 bytes on the wire",
        CLOSE,
        settings=TINY,
    ),
    Row(
        "body of the largest size",
        request(framed(message(b"x" * 229))),
        200,
        forwarded=framed(stamped(b"x" * 229)),
        settings=TINY,
    ),
    Row(
        "chunked body too large",
        request(chunks=[b"x" * 200, b"x" * 101]),
        413,
        "Body too large: more than 300 bytes on the wire",
        CLOSE,
        settings=TINY,
    ),
    Row(
        "inflated body too large",
        request(gzip.compress(b" " * 301), headers={"Content-Encoding": "gzip"}),
        413,
        "Body too large: the body inflates to more than 300 bytes",
        CLOSE,
        settings=TINY,
    ),
    Row(
        "frame too large",
        request(framed(message(b"x"), message(b"x" * 131_072))),
        413,
        "Body too large: frame 2 at byte 65 is or becomes larger than 131072 bytes",
        CLOSE,
    ),
    Row(
        "frame becomes too large",
        request(framed(message(b"x" * (131_072 - len(message(b"")))))),
        413,
        "Body too large: frame 1 at byte 0 is or becomes larger than 131072 bytes",
        CLOSE,
    ),
    Row(
        "too many frames",
        request(b"11 a b c d e f" * 100_001),
        413,
        "Body too large: more than 100000 frames in one post",
        CLOSE,
    ),
    Row(
        "memory full",
        request(BODY),
        503,
        "Too busy, try again",
        AGAIN,
        prepare=memory_full,
        waits=True,
    ),
    # bodies
    Row(
        "gzip broken",
        request(b"not gzip", headers={"Content-Encoding": "gzip"}),
        400,
        "Could not inflate body: not valid gzip",
    ),
    Row(
        "gzip cut off",
        request(gzip.compress(BODY)[:-9], headers={"Content-Encoding": "gzip"}),
        400,
        "Could not inflate body: the gzip data ends too early",
    ),
    Row(
        "second frame malformed",
        request(framed(message(b"one")) + b"x"),
        400,
        "Problem with body: frame 2 at byte 67: no length",
    ),
    Row(
        "frame too long for the body",
        request(b"100 short"),
        400,
        "Problem with body: frame 1 at byte 0: its length is 100 but only 5 bytes",
    ),
    *(
        Row(f"white space {space!r}", request(space), 200)
        for space in (b"", b"\n", b" \r\n\t ")
    ),
    Row("white space chunked", request(chunks=[b"\n"]), 200),
    Row("nothing chunked", request(chunks=[]), 200),
    Row(
        "white space gzipped",
        request(gzip.compress(b"\n"), headers={"Content-Encoding": "gzip"}),
        200,
    ),
    Row(
        "nothing, said to be gzip",
        request(b"", headers={"Content-Encoding": "gzip"}),
        200,
    ),
    # deliveries
    Row("delivered", request(BODY), 200, forwarded=FORWARDED),
    Row(
        "delivered with a slash", request(BODY, path="/logs/"), 200, forwarded=FORWARDED
    ),
    Row(
        "delivered chunked",
        request(chunks=[BODY[:5], BODY[5:60], BODY[60:]]),
        200,
        forwarded=FORWARDED,
    ),
    Row(
        "delivered for the asking",
        request(BODY, headers={"Expect": "100-continue"}),
        200,
        forwarded=FORWARDED,
    ),
    # the order of the checks
    _refused_first(
        "SSL before draining",
        request(BODY),
        code=400,
        text=ONLY_SSL,
        prepare=draining,
        settings=SSL_ON,
    ),
    _refused_first(
        "draining before the method",
        request(BODY, method="PUT"),
        code=503,
        text=SHUTTING_DOWN,
        prepare=draining,
    ),
    _refused_first(
        "method before Content-Type",
        request(BODY, method="PUT", headers={"Content-Type": "x/y"}),
        code=405,
        text="Only POST is accepted",
    ),
    _refused_first(
        "Content-Type before credentials",
        request(BODY, headers={"Content-Type": "x/y", "Authorization": None}),
        code=415,
        text=WRONG_TYPE,
    ),
    _refused_first(
        "Content-Type before credentials that are not loaded",
        request(BODY, headers={"Content-Type": "x/y", "Authorization": basic("x")}),
        code=415,
        text=WRONG_TYPE,
        prepare=unloaded,
    ),
    _refused_first(
        "credentials that are not loaded before Content-Encoding",
        request(BODY, headers={"Content-Encoding": "br", "Authorization": basic("x")}),
        code=503,
        text=UNLOADED,
        prepare=unloaded,
    ),
    _refused_first(
        "credentials before Content-Encoding",
        request(BODY, headers={"Content-Encoding": "br", "Authorization": None}),
        code=401,
        text=UNAUTHORIZED,
    ),
    _refused_first(
        "Content-Encoding before the body's size",
        request(b"x" * 301, headers={"Content-Encoding": "br"}),
        code=415,
        text=WRONG_ENCODING,
        settings=TINY,
    ),
    _refused_first(
        "credentials before the body's size",
        request(b"x" * 301, headers={"Authorization": None}),
        code=401,
        text=UNAUTHORIZED,
        settings=TINY,
    ),
    _refused_first(
        "size before gzip",
        request(b"x" * 301, headers={"Content-Encoding": "gzip"}),
        code=413,
        text="Body too large",
        settings=TINY,
    ),
    _refused_first(
        "memory before gzip",
        request(b"x", headers={"Content-Encoding": "gzip"}),
        code=503,
        text="Too busy",
        prepare=memory_full,
        waits=True,
    ),
]
