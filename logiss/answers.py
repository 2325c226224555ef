"""
What is answered over HTTP, and how it is written to a request.

Every answer has a Content-Length and a reason phrase, because logplex reads neither
chunked answers nor bare statuses. A text is one line and names neither users nor
secrets.
"""

from attrs import frozen
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.server import Request
from zope.interface import Interface

#: The field of every answer that names the delivery level of this process.
DELIVERY = b"Logiss-Delivery"

_REASONS = {431: b"Request Header Fields Too Large", **http.RESPONSES}


@frozen
class Answer:
    """
    @ivar text: one line of plain text, or nothing.
    @ivar error: what the log says; by default the text.
    @ivar hangs_up: it is not written: the connection is closed in its place.
    """

    code: int
    text: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    closes: bool = False
    error: str = ""
    hangs_up: bool = False

    def write_to(self, request: Request) -> None:
        """Answer `request` with this, and finish it."""
        write_answer = getattr(request, "write_answer", None)
        if write_answer is not None:
            write_answer(self)
            return
        if self.hangs_up:
            request.loseConnection()
            # The client may take long to read what was answered before, or for ever.
            request.connectionLost(Failure(ConnectionDone()))
            return
        body = self.body()
        request.setResponseCode(self.code)
        for name, value in self.fields():
            request.setHeader(name, value)
        if self.closes or _is_last(request):
            request.setHeader(b"connection", b"close")
            # twisted.web's HTTP/1 channel closes behind an answer when told so.
            request.channel.persistent = False
        request.write(body)
        request.finish()

    def body(self) -> bytes:
        return f"{self.text}\n".encode() if self.text else b""

    def fields(self) -> list[tuple[bytes, bytes]]:
        fields = [
            (b"Server", b"logiss"),
            (b"Content-Length", b"%d" % len(self.body())),
        ]
        if self.text:
            fields.append((b"Content-Type", b"text/plain; charset=utf-8"))
        return [*fields, *self.headers]

    def octets(
        self, date: bytes, level: str | None, closes: bool, to_head: bool = False
    ) -> bytes:
        """
        This answer in HTTP/1.1, head and body.

        @param level: the delivery level, if it is known.
        """
        fields = [(b"Date", date), *self.fields()]
        if level is not None:
            fields.append((DELIVERY, level.encode()))
        if closes:
            fields.append((b"Connection", b"close"))
        reason = _REASONS.get(self.code, b"Unknown Status")
        lines = [b"HTTP/1.1 %d %b" % (self.code, reason)]
        lines += [b"%b: %b" % field for field in fields]
        return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if to_head else self.body())


def _is_last(request: Request) -> bool:
    """
    Whether no more is to come from the client, on twisted.web's own channel: what it
    has sent behind `request` already gets its answer too.
    """
    is_leaving = getattr(request.site, "is_leaving", False)
    return is_leaving and not any(getattr(request.channel, "_dataBuffer", ()))


def name_level(request: Request, level: str | None) -> None:
    """
    Have the answer to `request` name the delivery level, if it is known, on
    twisted.web's own channel; `logiss.channel` does so by itself.
    """
    if level is not None:
        request.setHeader(DELIVERY, level.encode())


class IReadsEarly(Interface):
    """
    A Resource that may know what to answer before a request is read to its end, and
    reads the body as it arrives.

    A channel that can asks it; it is not asked to render what it has refused.
    """

    def refusal(request: Request) -> Answer | None:
        """
        What to answer to `request` on its headers alone, or None to be given its
        body, and to be asked to render it.
        """

    def take(request: Request, octets: bytes) -> Answer | None:
        """
        Take more of the body of `request`: ``add_chunk`` keeps it for ``body``. When
        there is no room for more, `request` is told to ``pause_reading``.

        @return: what to answer now; nothing more of it will be given.
        """

    def abandoned(request: Request) -> None:
        """Of the body of `request` nothing more will come."""


OK = Answer(http.OK)
DUPLICATE = Answer(http.OK, headers=((b"Logiss-Duplicate", b"1"),))
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
CREDENTIALS_UNKNOWN = Answer(
    http.SERVICE_UNAVAILABLE,
    "Credentials are not loaded yet",
    ((b"retry-after", b"1"),),
)
WRONG_ENCODING = Answer(
    http.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding must be gzip or identity"
)
NO_BACKEND = Answer(http.SERVICE_UNAVAILABLE, "No backend connection is usable")
BAD_REQUEST = Answer(http.BAD_REQUEST, "Malformed HTTP request", closes=True)
INTERNAL_ERROR = Answer(http.INTERNAL_SERVER_ERROR, "Internal error", closes=True)
LENGTH_REQUIRED = Answer(
    http.LENGTH_REQUIRED, "Content-Length is required on HTTP/1.0", closes=True
)
METHOD_UNKNOWN = Answer(http.NOT_IMPLEMENTED, "Unknown method", closes=True)
BODY_TOO_LARGE = Answer(http.REQUEST_ENTITY_TOO_LARGE, "Body too large", closes=True)
URI_TOO_LONG = Answer(http.REQUEST_URI_TOO_LONG, "Request line too long", closes=True)
HEADERS_TOO_LARGE = Answer(431, "Request headers too large", closes=True)
