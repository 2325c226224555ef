"""
The requests of the two submitters, byte for byte as they send them.

log-shuttle is a Go program: a chunked body written in pieces of the size of its
buffers, Go's order of headers. logplex is an Erlang program: Content-Length, one
write, frames without STRUCTURED-DATA.
"""

import gzip
import uuid
from collections.abc import Sequence

from tests.front import basic, framed

_NAMESPACE = uuid.UUID("34bc219c-983b-463e-a17d-3d34ee7db812")


def log_shuttle_frames(texts: Sequence[bytes]) -> list[bytes]:
    """log-shuttle writes nil STRUCTURED-DATA and ends each message with LF."""
    return [
        b"<190>1 2013-06-07T13:17:49.468822+00:00 host app shuttle - - " + text + b"\n"
        for text in texts
    ]


def log_shuttle_post(
    texts: Sequence[bytes], zipped: bool = False, batch: int = 0
) -> bytes:
    """A batch of log-shuttle; its request id is the same on each retry of it."""
    body = framed(*log_shuttle_frames(texts))
    if zipped:
        body = gzip.compress(body, mtime=0)
    head = [
        "POST /logs HTTP/1.1",
        "Host: logs.example.com",
        "User-Agent: log-shuttle/0.18.0 (go1.10; linux; amd64; gc)",
        "Transfer-Encoding: chunked",
        f"Authorization: {basic()}",
    ]
    if zipped:
        head.append("Content-Encoding: gzip")
    head += [
        "Content-Type: application/logplex-1",
        "Logplex-Drop-Count: 0",
        "Logplex-Lost-Count: 0",
        f"Logplex-Msg-Count: {len(texts)}",
        f"X-Request-Id: {uuid.uuid5(_NAMESPACE, str(batch))}",
        "Accept-Encoding: gzip",
    ]
    pieces = [body[i : i + 32_768] for i in range(0, len(body), 32_768)]
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    return "\r\n".join(head).encode() + b"\r\n\r\n" + chunked


DRAIN_TOKEN = "d.34bc219c-983b-463e-a17d-3d34ee7db812"
L10_FRAME = (
    b"<172>1 2013-06-07T13:17:49+00:00 host heroku logplex - Error L10 (output"
    b" buffer overflow): 7 messages dropped since 2013-06-07T13:16:49+00:00.\n"
)


def logplex_frames(texts: Sequence[bytes]) -> list[bytes]:
    """logplex leaves STRUCTURED-DATA out; a report of losses stands in front."""
    return [
        L10_FRAME,
        *(
            b"<40>1 2013-06-07T13:17:49.468822+00:00 host app web.3 - " + text + b"\n"
            for text in texts
        ),
    ]


def logplex_post(texts: Sequence[bytes]) -> bytes:
    """A drain's POST."""
    frames = logplex_frames(texts)
    body = framed(*frames)
    head = [
        "POST /logs HTTP/1.1",
        f"Content-Length: {len(body)}",
        "Host: logs.example.com",
        f"Authorization: {basic()}",
        "Content-Type: application/logplex-1",
        f"Logplex-Drain-Token: {DRAIN_TOKEN}",
        "Logplex-Frame-Id: 3AD83A4D5B7C4B6F8E2C3E0A1B2C3D4E",
        f"Logplex-Msg-Count: {len(frames)}",
        "User-Agent: Logplex/v72",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
