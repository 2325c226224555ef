"""
Posts over HTTP by treq, over connections that are kept, and says in few words why there
was no answer.
"""

from collections.abc import Iterable
from typing import Any

from OpenSSL import SSL, crypto
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
    UserError,
)
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from logiss._version import __version__
from logiss.logs_url import LogsURL
from logiss.submitter import Answer, NoAnswer, Post

#: So much of an answer's body is kept.
ANSWER_BYTES_MAX = 4096
#: How long connections may take to be closed.
CLOSE_SECONDS = 1.0

_USER_AGENT = f"logiss-send/{__version__}".encode("ascii")


class BadAuthorities(Exception):
    """Not certificates. Says what is wrong with them."""


def policy(authorities: bytes | None) -> IPolicyForHTTPS:
    """
    Whose certificates are good: those of the system's authorities, or of these.

    @param authorities: in PEM.
    @raise BadAuthorities: they are none.
    """
    if authorities is None:
        return BrowserLikePolicyForHTTPS()
    try:
        found = [ssl.Certificate.loadPEM(block) for block in _blocks(authorities)]
    except (crypto.Error, ValueError):
        raise BadAuthorities("has a certificate that cannot be read") from None
    if not found:
        raise BadAuthorities("has no certificate in PEM ('BEGIN CERTIFICATE')")
    return BrowserLikePolicyForHTTPS(trustRoot=ssl.trustRootFromCertificates(found))


def _blocks(pem: bytes) -> Iterable[bytes]:
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    for piece in pem.split(begin)[1:]:
        yield begin + piece.partition(end)[0] + end + b"\n"


@implementer(IBodyProducer)
class _Body:
    """@ivar is_begun: whether any of it may have left."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.length = len(octets)
        self.is_begun = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802
        self.is_begun = True
        consumer.write(self._octets)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It has been written as a whole."""

    def resumeProducing(self) -> None:
        """It has been written as a whole."""

    def stopProducing(self) -> None:
        """It has been written as a whole."""


class _Collecting(Protocol):
    """Takes the beginning of a body; `done` fires at its end, however it comes."""

    def __init__(self) -> None:
        self.octets = b""
        self.done: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        if len(self.octets) < ANSWER_BYTES_MAX:
            self.octets = (self.octets + data)[:ANSWER_BYTES_MAX]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.callback(self.octets)


class Poster:
    """
    @param timeout_seconds: from the beginning of a post to the end of its answer.
    """

    def __init__(
        self,
        reactor: Any,
        url: LogsURL,
        tls: IPolicyForHTTPS,
        connections: int,
        timeout_seconds: float,
    ) -> None:
        self._reactor = reactor
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = connections
        # Each retry is to be counted, and to wait its time.
        self._pool.retryAutomatically = False
        agent = Agent(reactor, tls, timeout_seconds, pool=self._pool)
        self._client = HTTPClient(agent)

    def close(self) -> Deferred[None]:
        """Close what is kept open; whom TLS waits for is not waited for long."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        closed.addTimeout(CLOSE_SECONDS, self._reactor)
        return closed.addErrback(lambda _: None)

    def post(self, post: Post) -> Deferred[Answer]:
        """
        @raise NoAnswer: there was none in time.
        """
        return Deferred.fromCoroutine(self._post(post))

    async def _post(self, post: Post) -> Answer:
        body = _Body(post.body)
        late = _Late()
        timer = self._reactor.callLater(self._timeout_seconds, late.come)
        try:
            late.asked = self._ask(post, body)
            return await self._answer(await late.asked, timer)
        except Exception as e:
            raise self._no_answer(e, body.is_begun, late.has_come) from e
        finally:
            if timer.active():
                timer.cancel()

    def _ask(self, post: Post, body: _Body) -> Deferred[Any]:
        url = self._url if post.query is None else self._url.with_query(post.query)
        return self._client.post(
            url.origin + url.target,
            data=body,
            headers=self._headers(url, post),
            allow_redirects=False,
            unbuffered=True,
        )

    def _headers(self, url: LogsURL, post: Post) -> Headers:
        headers = Headers({b"User-Agent": [_USER_AGENT]})
        if url.authorization is not None:
            headers.setRawHeaders(b"Authorization", [url.authorization])
        for name, value in post.fields:
            headers.addRawHeader(name.encode("ascii"), value)
        return headers

    async def _answer(self, response: IResponse, timer: Any) -> Answer:
        body = _Collecting()
        response.deliverBody(body)
        left = timer.getTime() - self._reactor.seconds()
        # What the status says counts, even when the rest does not come.
        body.done.addTimeout(max(left, 0.0), self._reactor)
        try:
            octets = await body.done
        except Exception:
            octets = body.octets
            _drop(body.transport)
        return Answer(
            code=response.code,
            line=octets.strip().partition(b"\n")[0],
            retry_after_seconds=_seconds(response.headers),
            is_duplicate=response.headers.getRawHeaders(b"Logiss-Duplicate") == [b"1"],
            is_logiss=_is_logiss(response.headers),
        )

    def _no_answer(self, error: Exception, is_begun: bool, is_late: bool) -> NoAnswer:
        where = f"{self._url.host}:{self._url.port}"
        if is_late:
            return NoAnswer(
                f"no answer from {where} within {self._timeout_seconds:g} s", is_begun
            )
        reasons = list(_reasons(error))
        for reason in reasons:
            refused = _refused_certificate(reason)
            if refused:
                return NoAnswer(f"{where}: {refused}", False, is_retried=False)
        return NoAnswer(f"{_why(reasons[-1])} {where}", is_begun)


class _Late:
    """Ends what takes too long, and knows that it did."""

    has_come = False
    asked: Deferred[Any]

    def come(self) -> None:
        self.has_come = True
        self.asked.cancel()


def _drop(transport: Any) -> None:
    """
    Close the connection of an answer whose end does not come, at once.

    What Twisted hands out stands before the real transport and knows loseConnection()
    only, with which the other side of TLS can keep it open.
    """
    if transport is None:
        return
    real = getattr(transport, "_producer", None)
    getattr(real, "abortConnection", transport.loseConnection)()


def _is_logiss(headers: Headers) -> bool:
    """A proxy may replace Server, and a logiss that is embedded have no level."""
    is_server = b"logiss" in headers.getRawHeaders(b"Server", [])
    return is_server or headers.hasHeader(b"Logiss-Delivery")


def _seconds(headers: Headers) -> float | None:
    """RFC 9110 section 10.2.3; a date is not looked at."""
    for value in headers.getRawHeaders(b"Retry-After", []):
        if value.isdigit() and len(value) < 10:
            return float(value)
    return None


def _reasons(error: BaseException) -> Iterable[BaseException]:
    """`error`, and what Twisted has wrapped into it, outermost first."""
    yield error
    for failure in getattr(error, "reasons", None) or ():
        yield from _reasons(failure.value)


def _refused_certificate(error: BaseException) -> str:
    """What to say of a certificate that was refused; nothing when none was."""
    if isinstance(error, VerificationError):
        return "its certificate is for another name"
    if isinstance(error, SSL.Error) and "certificate verify failed" in str(error):
        return "its certificate is not from an authority that is known; see --ca"
    return ""


def _why(error: BaseException) -> str:
    """To stand in front of a host and port."""
    match error:
        case ConnectionRefusedError():
            return "connection refused by"
        case DNSLookupError():
            return "no address found for"
        case CancelledError() | ConnectingCancelledError():
            return "stopped before an answer from"
        case TimeoutError() | UserError():
            return "no connection in time to"
        case ConnectError():
            return "no connection to"
        case SSL.Error():
            return "no TLS with"
        case ConnectionLost():
            return "connection broken by"
        case _:
            return "connection closed by"
