"""
Decides on the headers alone whether a post may go on.

Each guard is a function from post to refusal or nothing; they are asked in the order
of the table in the HTTP reference, and the first refusal is the answer.
"""

from collections.abc import Callable
from typing import Any

from twisted.web.server import Request

from logiss.answers import (
    CREDENTIALS_UNKNOWN,
    LENGTH_REQUIRED,
    ONLY_POST,
    ONLY_SSL,
    SHUTTING_DOWN,
    UNAUTHORIZED,
    WRONG_ENCODING,
    WRONG_TYPE,
    Answer,
)
from logiss.credentials import Credential, Credentials, parse_authorization
from logiss.drain import Drain
from logiss.metrics import Metrics
from logiss.settings import Settings
from logiss.trust import TrustedProxies
from logiss.variables import EVERYBODY

CONTENT_TYPES = frozenset((b"application/logplex-1", b"application/x-logplex-1"))

Guard = Callable[["Post"], Answer | None]


class Post:
    """
    What is known of one post.

    @ivar values: the values of a header by its name in lower case, or None.
    @ivar credential: the one it was admitted by.
    """

    __slots__ = (
        "content_encoding",
        "credential",
        "drain_token",
        "remote_addr",
        "request",
        "request_id",
        "started_at",
        "values",
    )

    def __init__(self, request: Request, started_at: float) -> None:
        values: Any = getattr(request, "header_values", None)
        if values is None:
            values = request.requestHeaders.getRawHeaders
        self.request = request
        self.values: Callable[[bytes], list[bytes] | None] = values
        self.started_at = started_at
        self.drain_token = _first(values(b"logplex-drain-token"))
        self.request_id = _first(values(b"x-request-id"))
        self.remote_addr = _address(request, values(b"x-forwarded-for")) or None
        self.content_encoding = b""
        self.credential: Credential | None = None


def _first(values: list[bytes] | None) -> bytes | None:
    return values[0] if values else None


def _address(request: Request, forwarded: list[bytes] | None) -> bytes:
    """Where the post came from, for the origin and the log."""
    if forwarded and any(forwarded):
        return forwarded[0] if len(forwarded) == 1 else b", ".join(forwarded)
    return peer_address(getattr(request.getClientAddress(), "host", "")).encode()


def _peer(request: Request) -> str:
    return peer_address(getattr(request.getClientAddress(), "host", ""))


def peer_address(host: str) -> str:
    """A peer's address without zone; one that is IPv4 mapped to IPv6 as IPv4."""
    if ":" not in host:
        return host
    host = host.partition("%")[0]
    if host.startswith("::ffff:") and "." in host:
        return host[len("::ffff:") :]
    return host


class Guards:
    """The guards of one front door."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        drain: Drain,
        metrics: Metrics,
        too_large: Answer,
    ) -> None:
        self._max_body_bytes = settings.max_body_bytes
        self._credentials = credentials
        self._drain = drain
        self._metrics = metrics
        self._too_large = too_large
        self._trusted = TrustedProxies(settings.trusted_proxies)
        # Nobody is looked up where everybody is trusted.
        trusts_all = settings.trusted_proxies == EVERYBODY
        trust: tuple[Guard, ...] = () if trusts_all else (self._trust,)
        ssl: tuple[Guard, ...] = ()
        if settings.enforce_ssl:
            ssl = (self._ssl if trusts_all else self._ssl_of_trusted,)
        self._guards: tuple[Guard, ...] = (
            *trust,
            *ssl,
            self.draining,
            self._method,
            self._content_type,
            self._credential,
            self._content_encoding,
            self._content_length,
        )

    def refusal(self, post: Post) -> Answer | None:
        """The first refusal; None when the post may go on."""
        for guard in self._guards:
            refusal = guard(post)
            if refusal is not None:
                return refusal
        return None

    def _trust(self, post: Post) -> None:
        """Refuses none, but takes nobody's word on an address who is not trusted."""
        peer = _peer(post.request)
        if peer not in self._trusted:
            post.remote_addr = peer.encode() or None

    def _ssl_of_trusted(self, post: Post) -> Answer | None:
        return self._ssl(post) if _peer(post.request) in self._trusted else ONLY_SSL

    def _ssl(self, post: Post) -> Answer | None:
        proto = _first(post.values(b"x-forwarded-proto")) or b""
        if proto.partition(b",")[0].strip().lower() == b"https":
            return None
        return ONLY_SSL

    def user_of(self, post: Post) -> bytes | None:
        """Who has posted it, or says so and is known."""
        if post.credential is not None:
            return post.credential.user
        offered = post.values(b"authorization")
        return self._credentials.claimed_user(offered[0]) if offered else None

    def draining(self, post: Post) -> Answer | None:
        return SHUTTING_DOWN if self._drain.draining else None

    def _method(self, post: Post) -> Answer | None:
        return None if post.request.method == b"POST" else ONLY_POST

    def _content_type(self, post: Post) -> Answer | None:
        media_type = _first(post.values(b"content-type")) or b""
        if media_type in CONTENT_TYPES:
            return None
        if media_type.partition(b";")[0].strip().lower() in CONTENT_TYPES:
            return None
        return WRONG_TYPE

    def _credential(self, post: Post) -> Answer | None:
        offered = post.values(b"authorization")
        if offered is not None and len(offered) == 1:
            credential = post.credential = self._credentials.authorize(
                offered[0], post.started_at
            )
            if credential is not None:
                self._metrics.credentials_accepted += 1
                if credential.deprecated:
                    self._metrics.credentials_deprecated += 1
                return None
            if self._may_be_known_soon(offered[0]):
                self._metrics.credentials_awaited += 1
                return CREDENTIALS_UNKNOWN
        self._metrics.credentials_refused += 1
        return UNAUTHORIZED

    def _may_be_known_soon(self, authorization: bytes) -> bool:
        if self._credentials.is_loaded:
            return False
        return parse_authorization(authorization) is not None

    def _content_encoding(self, post: Post) -> Answer | None:
        encodings = post.values(b"content-encoding")
        if encodings is None:
            return None
        encoding = post.content_encoding = b",".join(encodings).strip().lower()
        return None if encoding in (b"", b"identity", b"gzip") else WRONG_ENCODING

    def _content_length(self, post: Post) -> Answer | None:
        # The channel has made sure that it is one number.
        lengths = post.values(b"content-length")
        if lengths is None:
            # On HTTP/1.0 a body without one cannot be told from none (RFC 1945
            # section 7.2.2): 200 might be said to logs that nobody has read.
            is_old = post.request.clientproto == b"HTTP/1.0"
            return LENGTH_REQUIRED if is_old else None
        return self._too_large if int(lengths[0]) > self._max_body_bytes else None
