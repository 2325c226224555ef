"""
twisted.web Resources: posts in, deliveries out, outcomes to statuses.

A post passes the guards, each a function from request to refusal or nothing, in
the order of the table in the docs. Then its body is read, inflated, rewritten and
delivered, and what has become of it is its answer. Every answer is an `Answer`;
one table turns errors into them.

twisted.web reads a body to its end before it asks a Resource, so that a refusal
that needs only the headers still waits for the body here. `logiss.site` bounds
what is kept of a body meanwhile, in memory; an embedder's own `Site` keeps all of
it in a temporary file.
"""

from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO, cast

from attrs import define
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from logiss import frames, inflate, stamp
from logiss.answers import (
    NOT_FOUND,
    OK,
    ONLY_POST,
    ONLY_SSL,
    SHUTTING_DOWN,
    UNAUTHORIZED,
    WRONG_ENCODING,
    WRONG_TYPE,
    Answer,
)
from logiss.budget import Budget, NoRoom
from logiss.credentials import Credential, Credentials, parse_basic
from logiss.drain import Drain
from logiss.l2met import EventLog, PostFacts
from logiss.metrics import Metrics
from logiss.pool import IDeliverer, NotDelivered, Payload
from logiss.settings import Settings

CONTENT_TYPES = frozenset((b"application/logplex-1", b"application/x-logplex-1"))

# 499 is nginx's code for a client that went away; it is logged, never sent.
GONE = Answer(499, error="client gone before the answer")


_RETRY = ((b"retry-after", b"1"),)

# Every error that a post can end in, and its status.
_ERRORS: tuple[tuple[type[Exception], Callable[[str], Answer]], ...] = (
    (
        frames.BodyTooLarge,
        lambda why: Answer(
            http.REQUEST_ENTITY_TOO_LARGE, f"Body too large: {why}", closes=True
        ),
    ),
    (
        inflate.InflatedTooLarge,
        lambda why: Answer(
            http.REQUEST_ENTITY_TOO_LARGE, f"Body too large: {why}", closes=True
        ),
    ),
    (
        NoRoom,
        lambda why: Answer(
            http.SERVICE_UNAVAILABLE, "Too busy, try again", _RETRY, error=why
        ),
    ),
    (
        inflate.BrokenGzip,
        lambda why: Answer(http.BAD_REQUEST, f"Could not inflate body: {why}"),
    ),
    (
        frames.MalformedFrame,
        lambda why: Answer(http.BAD_REQUEST, f"Problem with body: {why}"),
    ),
    (
        NotDelivered,
        lambda why: Answer(http.GATEWAY_TIMEOUT, f"Problem delivering body: {why}"),
    ),
)


def answer_of(reason: Failure) -> Answer:
    """What to answer to a post that has failed."""
    for error, answer in _ERRORS:
        if reason.check(error):
            return answer(str(reason.value))
    where = reason.getTracebackObject()
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = (
        f" at {where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
    )
    return Answer(
        http.INTERNAL_SERVER_ERROR,
        "Internal error",
        error=f"internal error: {type(reason.value).__name__}: {reason.value}{place}",
    )


@define(eq=False)
class _Post:
    """What is known of one post while it is served."""

    request: Request
    facts: PostFacts
    address: bytes
    started_at: float
    credential: Credential | None = None
    reserved_bytes: int = 0
    batch: frames.Batch = frames.EMPTY_BATCH
    fixer_seconds: float = 0.0
    payload: Payload | None = None
    delivery_started_at: float = 0.0
    client_gone: bool = False


class LogsResource(Resource):
    """
    The front door: takes ``POST``, answers when the frames are delivered.

    @param settings: what to accept and how to stamp it.
    @param deliverer: where the frames go.
    @param clock: for the deadline and for durations.
    @param events: what the operator is told.
    """

    isLeaf = True

    def __init__(
        self,
        settings: Settings,
        deliverer: IDeliverer,
        clock: IReactorTime,
        events: EventLog,
        *,
        credentials: Credentials,
        drain: Drain | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._deliverer = deliverer
        self._clock = clock
        self._events = events
        self._credentials = credentials
        self.drain = drain or Drain()
        self.metrics = metrics or Metrics()
        self.budget = Budget(clock, settings.max_inflight_bytes)
        self._frame_limits = frames.FrameLimits(
            batch_bytes=_BATCH_GROWTH_MAX * settings.max_body_bytes
        )
        self._inflate_limits = inflate.InflateLimits(
            inflated_bytes=settings.max_body_bytes
        )
        self._guards: tuple[Callable[[_Post], Answer | None], ...] = (
            self._guard_ssl,
            self._guard_drain,
            self._guard_method,
            self._guard_content_type,
            self._guard_credentials,
            self._guard_content_encoding,
            self._guard_content_length,
        )

    def render(self, request: IRequest) -> int:
        """Answer `request`, in time."""
        request = cast(Request, request)
        if request.postpath not in ([], [b""]):
            NOT_FOUND.write_to(request)
            return NOT_DONE_YET
        self.respond(request).addCallback(_write_unless_gone, request)
        return NOT_DONE_YET

    def respond(self, request: Request) -> Deferred[Answer]:
        """
        Serve `request`.

        @return: fires with what to answer, never fails. The caller writes the
            answer, unless it is `GONE`; until it is written the post
            counts as inside the drain.
        """
        post = self._post(request)
        for guard in self._guards:
            refusal = guard(post)
            if refusal is not None:
                self._failed(post, refusal)
                return succeed(refusal)

        self.drain.enter()
        serving = maybeDeferred(self._serve, post).addCallbacks(
            self._served, self._not_served, callbackArgs=(post,), errbackArgs=(post,)
        )
        finished = request.notifyFinish()
        finished.addErrback(lambda _: self._client_gone(post, serving))
        finished.addCallback(lambda _: self.drain.leave())
        return serving

    def _client_gone(self, post: _Post, serving: Deferred[Answer]) -> None:
        post.client_gone = True
        serving.cancel()

    def _post(self, request: Request) -> _Post:
        headers = request.requestHeaders
        address = _address(request)
        return _Post(
            request,
            PostFacts(
                _first(headers.getRawHeaders(b"logplex-drain-token")),
                address or None,
                _first(headers.getRawHeaders(b"x-request-id")),
            ),
            address,
            self._clock.seconds(),
        )

    # the guards, in order

    def _guard_ssl(self, post: _Post) -> Answer | None:
        if not self._settings.enforce_ssl:
            return None
        forwarded = post.request.requestHeaders.getRawHeaders(b"x-forwarded-proto")
        proto = (_first(forwarded) or b"").partition(b",")[0].strip().lower()
        return None if proto == b"https" else ONLY_SSL

    def _guard_drain(self, post: _Post) -> Answer | None:
        return SHUTTING_DOWN if self.drain.draining else None

    def _guard_method(self, post: _Post) -> Answer | None:
        return None if post.request.method == b"POST" else ONLY_POST

    def _guard_content_type(self, post: _Post) -> Answer | None:
        headers = post.request.requestHeaders.getRawHeaders(b"content-type")
        media_type = (_first(headers) or b"").partition(b";")[0].strip().lower()
        return None if media_type in CONTENT_TYPES else WRONG_TYPE

    def _guard_credentials(self, post: _Post) -> Answer | None:
        headers = post.request.requestHeaders.getRawHeaders(b"authorization") or ()
        offered = parse_basic(headers[0]) if len(headers) == 1 else None
        if offered is not None:
            post.credential = self._credentials.check(*offered)
        if post.credential is None:
            self.metrics.credentials_refused += 1
            return UNAUTHORIZED
        self.metrics.credentials_accepted += 1
        return None

    def _guard_content_encoding(self, post: _Post) -> Answer | None:
        encoding = _content_encoding(post.request)
        return None if encoding in (b"", b"identity", b"gzip") else WRONG_ENCODING

    def _guard_content_length(self, post: _Post) -> Answer | None:
        # The channel has made sure that it is one number.
        headers = post.request.requestHeaders.getRawHeaders(b"content-length")
        if headers and int(headers[0]) > self._settings.max_body_bytes:
            return answer_of(Failure(self._body_too_large()))
        return None

    # the way of an admitted post

    def _serve(self, post: _Post) -> Deferred[None] | None:
        body = self._take_body(post.request)
        if not body or body.isspace():
            return None
        admitted = self.budget.reserve(
            len(body), self._settings.delivery_timeout_seconds
        )
        admitted.addCallback(lambda _: self._deliver(post, body))
        return admitted

    def _take_body(self, request: Request) -> bytes:
        """The body as it came; the request does not hold it any longer."""
        content, request.content = cast(BinaryIO, request.content), BytesIO()
        content.seek(0, 2)
        if content.tell() > self._settings.max_body_bytes:
            content.close()
            raise self._body_too_large()
        content.seek(0)
        body: bytes = content.read()
        content.close()
        return body

    def _body_too_large(self) -> frames.BodyTooLarge:
        most = self._settings.max_body_bytes
        return frames.BodyTooLarge(f"more than {most} bytes on the wire")

    def _deliver(self, post: _Post, body: bytes) -> Deferred[None] | None:
        post.reserved_bytes = len(body)
        started_at = self._clock.seconds()
        if _content_encoding(post.request) == b"gzip":
            body = inflate.inflate(body, self._inflate_limits)
            self._hold(post, len(body))
        batch = post.batch = self._rewrite(post, body)
        self._hold(post, len(batch.octets))
        self._count(post, batch)
        post.delivery_started_at = now = self._clock.seconds()
        post.fixer_seconds = now - started_at
        if not batch.frames:
            return None
        payload = post.payload = Payload(
            batch.octets, post.started_at, post.facts.request_id
        )
        post.batch = frames.Batch(b"", batch.frames)
        return self._deliverer.deliver(payload)

    def _rewrite(self, post: _Post, body: bytes) -> frames.Batch:
        settings = self._settings
        structured_data = stamp.origin(post.address)
        if settings.metadata_id is not None:
            assert post.credential is not None
            structured_data += stamp.metadata(
                settings.metadata_id,
                post.request.args or {},
                settings.query_params,
                settings.field_params,
                post.credential.name.encode() if post.credential.deprecated else None,
            )
        return frames.rewrite(
            body,
            structured_data,
            post.facts.drain_token or b"",
            settings.keep_structured_data,
            self._frame_limits,
        )

    def _hold(self, post: _Post, size: int) -> None:
        self.budget.adjust(post.reserved_bytes, size)
        post.reserved_bytes = size

    def _count(self, post: _Post, batch: frames.Batch) -> None:
        metrics = self.metrics
        metrics.frames_received += batch.frames
        metrics.hostnames_cut += batch.hostnames_cut
        metrics.app_names_cut += batch.app_names_cut
        metrics.procids_cut += batch.procids_cut
        metrics.msgids_cut += batch.msgids_cut
        cuts = {
            "hostname": batch.hostnames_cut,
            "app_name": batch.app_names_cut,
            "procid": batch.procids_cut,
            "msgid": batch.msgids_cut,
        }
        if any(cuts.values()):
            self._events.fields_cut(post.facts, cuts)

    # the end of it

    def _served(self, _: None, post: _Post) -> Answer:
        self._let_go(post)
        self.metrics.posts_succeeded += 1
        self.metrics.frames_delivered += post.batch.frames
        if self._settings.log_successes:
            now = self._clock.seconds()
            payload = post.payload
            begun_at = payload.begun_at if payload is not None else None
            self._events.post_succeeded(
                post.facts,
                fixer_seconds=post.fixer_seconds,
                post_seconds=now - post.started_at,
                send_seconds=now - begun_at if begun_at is not None else 0.0,
                wait_seconds=now - post.delivery_started_at if payload else 0.0,
            )
        return GONE if post.client_gone else OK

    def _not_served(self, reason: Failure, post: _Post) -> Answer:
        self._let_go(post)
        answer = GONE if post.client_gone else answer_of(reason)
        self._failed(post, answer)
        return answer

    def _let_go(self, post: _Post) -> None:
        if post.reserved_bytes:
            self.budget.release(post.reserved_bytes)
            post.reserved_bytes = 0

    def _failed(self, post: _Post, answer: Answer) -> None:
        self.metrics.posts_failed += 1
        self._events.post_failed(
            post.facts,
            answer.code,
            answer.error or answer.text,
            self._clock.seconds() - post.started_at,
        )


# A batch may be so many times as large as the largest body: each frame grows by
# the stamp, and small frames with a large stamp would grow without bound.
_BATCH_GROWTH_MAX = 4


def _write_unless_gone(answer: Answer, request: Request) -> None:
    if answer is not GONE:
        answer.write_to(request)


def _first(values: object) -> bytes | None:
    return cast(list[bytes], values)[0] if values else None


def _content_encoding(request: Request) -> bytes:
    headers = request.requestHeaders.getRawHeaders(b"content-encoding")
    return b",".join(headers).strip().lower() if headers else b""


def _address(request: Request) -> bytes:
    """Where the post came from, for the origin and the log."""
    forwarded = request.requestHeaders.getRawHeaders(b"x-forwarded-for")
    if forwarded and any(forwarded):
        return b", ".join(forwarded)
    return peer_address(getattr(request.getClientAddress(), "host", "")).encode()


def peer_address(host: str) -> str:
    """A peer's address without zone; one that is IPv4 mapped to IPv6 as IPv4."""
    host = host.partition("%")[0]
    if host.startswith("::ffff:") and "." in host:
        return host[len("::ffff:") :]
    return host
