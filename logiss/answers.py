"""
What is answered over HTTP, and how it is written to a request.

Every answer has a Content-Length and a reason phrase, because logplex reads neither
chunked answers nor bare statuses. A text is one line and names neither users nor
secrets.
"""

from attrs import frozen
from twisted.web import http
from twisted.web.server import Request


@frozen
class Answer:
    """
    @ivar text: one line of plain text, or nothing.
    @ivar error: what the log says; by default the text.
    """

    code: int
    text: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    closes: bool = False
    error: str = ""

    def write_to(self, request: Request) -> None:
        body = f"{self.text}\n".encode() if self.text else b""
        request.setResponseCode(self.code)
        request.setHeader(b"server", b"logiss")
        request.setHeader(b"content-length", b"%d" % len(body))
        if body:
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        for name, value in self.headers:
            request.setHeader(name, value)
        if self.closes:
            request.setHeader(b"connection", b"close")
            # twisted.web's HTTP/1 channel closes behind an answer when told so.
            request.channel.persistent = False
        request.write(body)
        request.finish()


OK = Answer(http.OK)
NOT_FOUND = Answer(http.NOT_FOUND, "Not found")
SHUTTING_DOWN = Answer(http.SERVICE_UNAVAILABLE, "Shutting down", closes=True)
ONLY_SSL = Answer(http.BAD_REQUEST, "Only SSL requests accepted")
ONLY_POST = Answer(http.NOT_ALLOWED, "Only POST is accepted", ((b"allow", b"POST"),))
WRONG_TYPE = Answer(
    http.UNSUPPORTED_MEDIA_TYPE,
    "Content-Type must be application/logplex-1",
)
UNAUTHORIZED = Answer(
    http.UNAUTHORIZED,
    "Unable to authenticate request",
    ((b"www-authenticate", b'Basic realm="logiss"'),),
)
WRONG_ENCODING = Answer(
    http.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding must be gzip or identity"
)
NO_BACKEND = Answer(
    http.SERVICE_UNAVAILABLE, "No backend connection is usable", closes=False
)
