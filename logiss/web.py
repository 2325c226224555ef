"""
twisted.web Resources: posts in, deliveries out, outcomes to statuses.

A post passes the guards, each a function from request to refusal or nothing, in
the order of the table in the docs. Then its body is read, inflated, rewritten and
delivered, and what has become of it is its answer. Every answer is an `Answer`;
one table turns errors into them.

`logiss.channel` asks for a refusal before it reads the body, and gives the body as it
arrives (`logiss.intake`). twisted.web reads a body to its end before it asks a
Resource: there a refusal that needs only the headers waits for the body. `logiss.site`
bounds what is kept of it meanwhile, in memory; an embedder's own `Site` keeps all of it
in a temporary file.
"""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO, cast

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from logiss import captures, frames, inflate, stamp
from logiss.answers import (
    DUPLICATE,
    NOT_FOUND,
    OK,
    Answer,
    IReadsEarly,
    name_level,
)
from logiss.budget import Budget, NoRoom
from logiss.captures import Capture
from logiss.codec import rewrite
from logiss.counts import LOSS_HEADERS, MSG_COUNT, NOTHING_LOST, Counts, WrongCount
from logiss.credentials import Credentials
from logiss.dedupe import Claim, SharedRetries
from logiss.drain import Drain
from logiss.guards import Guards, Post
from logiss.inflate import InflateLimits, Inflater
from logiss.intake import Intake, KeepingIntake
from logiss.l2met import VALUE_MAX, EventLog
from logiss.metrics import FailedPost, Metrics
from logiss.pool import IDeliverer, NotDelivered, Payload
from logiss.refused import RefusedBodies, time_of
from logiss.requests import path_in
from logiss.retries import FRAME_ID, Attempt, Key, Retries, key_of
from logiss.settings import Settings

# 499 is nginx's code for a client that went away; it is logged, never sent.
GONE = Answer(499, error="client gone before the answer")


# What a hang-up may take the place of.
_TRY_AGAIN = (http.SERVICE_UNAVAILABLE, http.GATEWAY_TIMEOUT)
_RETRY = ((b"retry-after", b"1"),)

_Kinds = type[Exception] | tuple[type[Exception], ...]
# Every error that a post can end in, and its status.
_ERRORS: tuple[tuple[_Kinds, Callable[[str], Answer]], ...] = (
    (
        (frames.BodyTooLarge, inflate.InflatedTooLarge),
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
        WrongCount,
        lambda why: Answer(http.BAD_REQUEST, f"Problem with body: {why}"),
    ),
    (
        NotDelivered,
        lambda why: Answer(http.GATEWAY_TIMEOUT, f"Problem delivering body: {why}"),
    ),
)


def answer_to(error: BaseException | None) -> Answer | None:
    """What to answer when `error` is one that a post may end in."""
    for kinds, answer in _ERRORS:
        if isinstance(error, kinds):
            return answer(str(error))
    return None


def answer_of(reason: Failure) -> Answer:
    """What to answer to a post that has failed."""
    answer = answer_to(reason.value)
    if answer is not None:
        return answer
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


class _Serving(Post):
    """
    A post that is on its way.

    @ivar is_arriving: its body is given piece by piece, and taken by `Intake`.
    @ivar waiting: what it waits for: room, or its delivery.
    @ivar answered: fires with the answer, for a caller of `respond` who writes it.
    @ivar attempt: what a retry of it joins, when it has a frame id.
    @ivar reported: what its frames say was dropped and lost before it.
    @ivar kept: its body as it came, for a `KeepingLogsResource`; nobody else sets it.
    """

    __slots__ = (
        "answered",
        "attempt",
        "client_gone",
        "credit_bytes",
        "delivery_started_at",
        "fixer_seconds",
        "frames",
        "inflater",
        "is_arriving",
        "is_complete",
        "kept",
        "payload",
        "received_at",
        "reported",
        "reserved_bytes",
        "waited_seconds",
        "waiting",
        "waiting_since",
    )

    kept: bytes | bytearray | None

    def __init__(self, request: Request, started_at: float) -> None:
        super().__init__(request, started_at)
        self.answered: Deferred[Answer] | None = None
        self.attempt: Attempt | None = None
        self.client_gone = False
        self.credit_bytes = 0
        self.delivery_started_at: float | None = None
        self.fixer_seconds = 0.0
        self.frames = 0
        self.inflater: Inflater | None = None
        self.is_arriving = self.is_complete = False
        self.payload: Payload | None = None
        self.received_at = started_at
        self.reported = NOTHING_LOST
        self.reserved_bytes = 0
        self.waited_seconds = 0.0
        self.waiting: Deferred[None] | None = None
        self.waiting_since: float | None = None

    def answer(self, answer: Answer) -> None:
        if self.answered is not None:
            self.answered.callback(answer)
        elif not self.client_gone:
            answer.write_to(self.request)


@implementer(IReadsEarly)
class LogsResource(Resource):
    """
    The front door: takes ``POST``, answers when the frames are delivered.

    @param settings: what to accept and how to stamp it.
    @param deliverer: where the frames go.
    @param clock: for the deadline and for durations.
    @param events: what the operator is told.
    @param shared: knows of retried posts beyond this process.
    """

    isLeaf = True
    _make_intake = Intake

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
        shared: SharedRetries | None = None,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._deliverer = deliverer
        self._seconds = clock.seconds
        self._events = events
        self.drain = drain or Drain()
        self.metrics = metrics or Metrics()
        self.budget = Budget(
            clock, settings.max_inflight_bytes, settings.max_body_bytes
        )
        self.retries = Retries(clock.seconds)
        self._shared = shared
        self._too_large = answer_of(Failure(_too_many_bytes(settings)))
        self._guards = Guards(
            settings, credentials, self.drain, self.metrics, self._too_large
        )
        # Only the deliverer knows what becomes of a payload: one that says nothing
        # of it has nothing said in its name.
        self._level: str | None = getattr(deliverer, "delivery_level", None)
        self._counts = Counts(settings, events, self.metrics)
        self._stamps = _Stamps(settings)
        self._frame_limits = frames.FrameLimits(
            settings.max_frame_bytes,
            settings.max_frames,
            _BATCH_GROWTH_MAX * settings.max_body_bytes,
        )
        self._inflate_limits = InflateLimits(
            inflated_bytes=settings.max_body_bytes,
            ratio=settings.max_gzip_ratio,
            members=settings.max_gzip_members,
        )
        self._intake = self._make_intake(
            self.budget,
            clock.seconds,
            settings.max_body_bytes,
            self._inflate_limits,
            settings.delivery_timeout_seconds,
            self._read,
            self._arrival_failed,
        )

    # for a channel that reads a request in steps

    def refusal(self, request: Request) -> Answer | None:
        """What its headers say. Logs a refusal."""
        if request.postpath not in _HERE:
            return NOT_FOUND
        refusal = self._judge(request)
        if refusal is None:
            post: _Serving = cast(Any, request).about
            post.is_arriving = True
            if post.content_encoding == b"gzip" and not self._may_be_retry(post):
                post.inflater = self._intake.inflater(_length_of(post))
        return refusal

    def take(self, request: Request, octets: bytes) -> Answer | None:
        """More of its body. Logs a refusal."""
        post: _Serving = cast(Any, request).about
        try:
            self._intake.take(post, octets)
        except Exception:
            return self._refused(Failure(), post)
        return None

    def abandoned(self, request: Request) -> None:
        """Its body will not be read to its end."""
        post: _Serving | None = cast(Any, request).about
        if post is not None:
            cast(Any, request).about = None
            self._intake.stop(post)
            self._let_go(post)

    def _arrival_failed(self, reason: Failure, post: _Serving) -> None:
        """`reason` came up while `post` waited for room for more of its body."""
        if post.is_complete:
            self._failed(reason, post)
        else:
            cast(Any, post.request).refuse(self._refused(reason, post))

    def _refused(self, reason: Failure, post: _Serving) -> Answer:
        """What to answer to `post` while its body is still arriving."""
        self._intake.stop(post)
        self._let_go(post)
        cast(Any, post.request).about = None
        answer = evolve(self._fit_for(post, answer_of(reason)), closes=True)
        self._log_failure(post, answer)
        return answer

    # for any channel

    def _judge(self, request: Request) -> Answer | None:
        post = _Serving(request, self._seconds())
        refusal = self._guards.refusal(post)
        if refusal is None:
            cast(Any, request).about = post
            return None
        refusal = self._fit_for(post, refusal)
        self._log_failure(post, refusal)
        return refusal

    def render(self, request: IRequest) -> int:
        """Answer `request`, in time."""
        request = cast(Request, request)
        if request.postpath not in _HERE:
            name_level(request, self._level)
            NOT_FOUND.write_to(request)
            return NOT_DONE_YET
        post = self._admitted(request)
        if isinstance(post, Answer):
            post.write_to(request)
        else:
            self._serve(post)
        return NOT_DONE_YET

    def respond(self, request: Request) -> Deferred[Answer]:
        """
        Serve `request`.

        @return: fires with what to answer, never fails. The caller writes the
            answer, unless it is `GONE`; until it is written the post
            counts as inside the drain.
        """
        post = self._admitted(request)
        if isinstance(post, Answer):
            return succeed(post)
        answered: Deferred[Answer] = Deferred()
        post.answered = answered
        self._serve(post)
        return answered

    def _admitted(self, request: Request) -> "_Serving | Answer":
        """The post of `request`, inside the drain from here on, or a refusal."""
        post: _Serving | None = getattr(request, "about", None)
        if post is None:
            name_level(request, self._level)
            refusal = self._judge(request)
            if refusal is not None:
                return refusal
            post = cast(_Serving, cast(Any, request).about)
        else:
            # Draining may have begun since its headers came.
            refusal = self._guards.draining(post)
            if refusal is not None:
                self._intake.stop(post)
                self._let_go(post)
                refusal = self._fit_for(post, refusal)
                self._log_failure(post, refusal)
                return refusal
        self.drain.enter()
        if hasattr(request, "on_end"):
            request.on_end = partial(self._ended, post)
        else:
            request.notifyFinish().addCallbacks(
                lambda _: self._ended(post, True), lambda _: self._ended(post, False)
            )
        return post

    def _ended(self, post: _Serving, is_answered: bool) -> None:
        """The answer is written, or the client has gone before it was."""
        if not is_answered:
            post.client_gone = True
            if post.attempt is not None:
                post.attempt.first_left()
            elif post.waiting is not None:
                post.waiting.cancel()
        # Request and post hold each other: left so, each would wait for the
        # garbage collector.
        cast(Any, post.request).about = None
        self.drain.leave()

    # the way of an admitted post

    def _serve(self, post: _Serving) -> None:
        post.received_at = self._seconds()
        try:
            if not post.is_arriving or self._intake.end(post):
                self._read(post)
        except Exception:
            self._failed(Failure(), post)

    def _read(self, post: _Serving) -> None:
        """All of the body of `post` is there; inflated, if it has arrived in steps."""
        try:
            body = self._take_body(post.request)
            if not body or body.isspace():
                if post.values(MSG_COUNT) is not None:
                    self._counts.check_count(post, 0)
                self._delivered(None, post)
                return
            if post.values(FRAME_ID) is not None:
                if self._is_retry(post):
                    self._hold(post, 0)
                    return
                if self._shared is not None and post.attempt is not None:
                    self._claim(self._shared, post.attempt, post, body)
                    return
            self._take_in(post, body)
        except Exception:
            self._failed(Failure(), post)

    def _take_in(self, post: _Serving, body: bytes) -> None:
        """`post` is to be forwarded."""
        if post.inflater is not None:
            self._rewrite(post, body)
        elif post.is_arriving or post.reserved_bytes:
            self._inflate(post, body)
        elif self.budget.try_reserve(len(body)):
            post.reserved_bytes = len(body)
            self._inflate(post, body)
        else:
            self._wait_for_room(post, len(body), partial(self._inflate, post, body))

    def _claim(
        self, shared: SharedRetries, attempt: Attempt, post: _Serving, body: bytes
    ) -> None:
        """
        Go on once it is known whether another process has delivered `post`. Its body
        stays in memory for so long, and has to have its room for that.
        """
        ask = partial(self._ask, shared, attempt, post, body)
        if post.is_arriving or post.reserved_bytes:
            ask()
        elif self.budget.try_reserve(len(body)):
            post.reserved_bytes = len(body)
            ask()
        else:
            self._wait_for_room(post, len(body), ask)

    def _ask(
        self, shared: SharedRetries, attempt: Attempt, post: _Serving, body: bytes
    ) -> None:
        def answered(claim: Claim | None) -> None:
            post.waiting = None
            attempt.claim = claim
            if claim is None:
                self.metrics.posts_known_elsewhere += 1
                self._duplicated(None, post)
            else:
                self._take_in(post, body)

        waiting = shared.claim(attempt.key, post.received_at)
        post.waiting = cast("Deferred[None]", waiting)
        waiting.addCallback(answered).addErrback(self._failed, post)

    def _may_be_retry(self, post: _Serving) -> bool:
        """Whether the body of `post` will not be looked at, as far as is known yet."""
        key = self._key_of(post)
        return key is not None and (
            self.retries.under_way(key) is not None or self.retries.remembers(key)
        )

    def _key_of(self, post: _Serving) -> Key | None:
        frame_ids = post.values(FRAME_ID) or []
        return key_of(_user_of(post), post.drain_token, frame_ids)

    def _is_retry(self, post: _Serving) -> bool:
        """
        Whether `post` retries one that is not to be forwarded again, whose outcome
        is then its own. If it does not, its own retries will be known by it.
        """
        key = self._key_of(post)
        if key is None:
            return False
        attempt = self.retries.under_way(key)
        if attempt is not None:
            self.metrics.posts_joined += 1
            self._join(post, attempt)
            return True
        if self.retries.remembers(key):
            self.metrics.posts_remembered += 1
            self._duplicated(None, post)
            return True
        post.attempt = self.retries.begin(key, partial(self._abandoned, post))
        return False

    def _join(self, post: _Serving, attempt: Attempt) -> None:
        post.delivery_started_at = post.received_at
        post.waiting = attempt.join()
        post.waiting.addCallbacks(
            self._duplicated, self._failed, (post,), errbackArgs=(post,)
        )

    def _abandoned(self, post: _Serving) -> None:
        """
        Nobody waits for `post` or its retries any more. What has been begun goes on:
        a retry may still join it, or is not forwarded again once it is confirmed.
        """
        is_begun = post.payload is not None and post.payload.begun_at is not None
        if not is_begun and post.waiting is not None:
            post.waiting.cancel()

    def _wait_for_room(
        self, post: _Serving, size: int, go_on: Callable[[], None]
    ) -> None:
        """Call `go_on` once `size` more bytes are reserved for `post`."""

        def found(_: None) -> None:
            post.waiting = None
            post.reserved_bytes += size
            go_on()

        until = post.received_at + self._settings.delivery_timeout_seconds
        post.waiting = self.budget.reserve(
            size, max(0.0, until - self._seconds()), post.reserved_bytes
        )
        post.waiting.addCallback(found).addErrback(self._failed, post)

    def _take_body(self, request: Request) -> bytes:
        """The body as it came; the request does not hold it any longer."""
        take_body = getattr(request, "body", None)
        if take_body is not None:
            return cast(bytes, take_body())
        content, request.content = cast(BinaryIO, request.content), BytesIO()
        content.seek(0, 2)
        if content.tell() > self._settings.max_body_bytes:
            content.close()
            raise _too_many_bytes(self._settings)
        content.seek(0)
        body: bytes = content.read()
        content.close()
        return body

    def _inflate(self, post: _Serving, body: bytes) -> None:
        if post.content_encoding == b"gzip":
            body = inflate.inflate(body, self._inflate_limits)
            self._hold(post, len(body))
        self._rewrite(post, body)

    def _rewrite(self, post: _Serving, body: bytes) -> None:
        stamp = self._stamps.stamp(post)
        growth = len(stamp) + len(post.drain_token or b"") + frames.GROWTH_MAX
        # The batch will stand beside the body for a while. Mostly it is no matter
        # how many frames there are.
        frames_max = len(body) // frames.BYTES_MIN
        if not self.budget.has_room(len(body) + frames_max * growth):
            size = self._batch_bytes_max(body, growth)
            if not self.budget.try_reserve(size):
                go_on = partial(self._deliver, post, body, stamp)
                self._wait_for_room(post, size, go_on)
                return
            post.reserved_bytes += size
        self._deliver(post, body, stamp)

    def _batch_bytes_max(self, body: bytes, growth: int) -> int:
        """
        How long the batch of `body` may be.

        @param growth: of each of its frames.
        """
        limits = self._frame_limits
        frames_max = min(
            body.count(b" ") // frames.SPACES_MIN,
            len(body) // frames.BYTES_MIN,
            limits.frames,
        )
        return min(len(body) + frames_max * growth, limits.batch_bytes)

    def _deliver(self, post: _Serving, body: bytes, stamp: bytes) -> None:
        started_at = self._seconds()
        batch = rewrite(
            body,
            stamp,
            post.drain_token or b"",
            self._settings.keep_structured_data,
            self._frame_limits,
        )
        self._hold(post, len(batch.octets))
        post.frames = batch.frames
        self.metrics.frames_received += batch.frames
        if batch.was_cut:
            self._counts.count_cuts(post, batch)
        if post.values(MSG_COUNT) is not None:
            self._counts.check_count(post, batch.frames)
        if batch.dropped or batch.lost:
            post.reported = batch.dropped, batch.lost
        post.delivery_started_at = now = self._seconds()
        post.fixer_seconds = now - started_at
        if not batch.frames:
            self._delivered(None, post)
            return
        post.payload = Payload(batch.octets, post.received_at, post.request_id)
        post.waiting = self._deliverer.deliver(post.payload)
        post.waiting.addCallbacks(
            self._delivered, self._failed, (post,), errbackArgs=(post,)
        )

    def _hold(self, post: _Serving, size: int) -> None:
        self.budget.adjust(post.reserved_bytes, size)
        post.reserved_bytes = size

    # the end of it

    def _delivered(self, _: None, post: _Serving) -> None:
        self._let_go(post)
        if post.reported is not NOTHING_LOST or any(map(post.values, LOSS_HEADERS)):
            user, now = _user_of(post), self._seconds()
            self._counts.count_losses(post, post.reported, user, now)
        self.metrics.frames_delivered += post.frames
        self._succeed(post, OK)

    def _duplicated(self, _: None, post: _Serving) -> None:
        """The post that `post` retries was delivered."""
        self._let_go(post)
        self._succeed(post, DUPLICATE)

    def _succeed(self, post: _Serving, answer: Answer) -> None:
        now = self._seconds()
        payload, started_at = post.payload, post.delivery_started_at
        send_seconds = wait_seconds = 0.0
        metrics = self.metrics
        if started_at is not None:
            wait_seconds = now - started_at
            if payload is not None:
                send_seconds = now - (payload.begun_at or now)
                metrics.delivery.observe(wait_seconds)
        metrics.posts_succeeded += 1
        metrics.add_seconds(now - post.started_at, post.fixer_seconds, send_seconds)
        if self._settings.log_successes:
            self._events.post_succeeded(
                post,
                post.fixer_seconds,
                now - post.started_at,
                send_seconds,
                wait_seconds,
                answer is DUPLICATE,
            )
        post.answer(GONE if post.client_gone else answer)

    def _failed(self, reason: Failure, post: _Serving) -> None:
        self._let_go(post, reason)
        if post.delivery_started_at is not None and post.payload is not None:
            self.metrics.frames_failed += post.frames
            if reason.check(NotDelivered):
                took_seconds = self._seconds() - post.delivery_started_at
                self.metrics.delivery.observe(took_seconds)
        answer = GONE
        if not post.client_gone:
            answer = self._fit_for(post, answer_of(reason))
        self._log_failure(post, answer)
        post.answer(answer)

    def _fit_for(self, post: Post, answer: Answer) -> Answer:
        """
        What `post` gets in place of `answer`: a client that tries again when its
        connection breaks, but not on any status, may be hung up on.
        """
        if answer.code not in _TRY_AGAIN or self._settings.on_timeout != "hangup":
            return answer
        agents = post.values(b"user-agent")
        is_post = post.request.method == b"POST"
        if not is_post or not agents or not agents[0].startswith(b"log-shuttle"):
            return answer
        error = f"{answer.error or answer.text}; hung up without an answer"
        return evolve(answer, hangs_up=True, error=error)

    def _let_go(self, post: _Serving, reason: Failure | None = None) -> None:
        post.waiting = None
        if post.reserved_bytes:
            self.budget.release(post.reserved_bytes)
            post.reserved_bytes = 0
        if post.attempt is not None:
            if reason is None:
                post.attempt.confirm()
            else:
                post.attempt.fail(reason)

    def _log_failure(self, post: Post, answer: Answer) -> None:
        now, cause = self._seconds(), answer.error or answer.text
        metrics = self.metrics
        metrics.posts_failed_by_code[answer.code] += 1
        metrics.add_seconds(now - post.started_at)
        metrics.failures.append(
            FailedPost(
                now,
                answer.code,
                cause[:VALUE_MAX],
                _cut(post.request_id),
                _cut(post.drain_token),
                _cut(post.remote_addr),
                self._guards.user_of(post),
            )
        )
        self._events.post_failed(post, answer.code, cause, now - post.started_at)


class KeepingLogsResource(LogsResource):
    """
    A `LogsResource` that has the bodies kept that it answers 400: what is not gzip, not
    frames, or not as many as there should be.

    Each body stays as it came until it is known to be good, and counts in the budget: a
    gzip one beside what it inflates to.

    @param refused: takes them.
    """

    _make_intake = KeepingIntake

    def __init__(
        self,
        settings: Settings,
        deliverer: IDeliverer,
        clock: IReactorTime,
        events: EventLog,
        *,
        refused: RefusedBodies,
        credentials: Credentials,
        drain: Drain | None = None,
        metrics: Metrics | None = None,
        shared: SharedRetries | None = None,
    ) -> None:
        super().__init__(
            settings,
            deliverer,
            clock,
            events,
            credentials=credentials,
            drain=drain,
            metrics=metrics,
            shared=shared,
        )
        self._refused_bodies = refused

    def _judge(self, request: Request) -> Answer | None:
        refusal = super()._judge(request)
        if refusal is None:
            cast(Any, request).about.kept = None
        return refusal

    def _take_body(self, request: Request) -> bytes:
        body = super()._take_body(request)
        post: _Serving | None = cast(Any, request).about
        if post is not None and post.kept is None:
            post.kept = body
        return body

    def _is_retry(self, post: _Serving) -> bool:
        is_retry = super()._is_retry(post)
        if is_retry:
            # Its outcome is that of another.
            self._forget(post)
        return is_retry

    def _deliver(self, post: _Serving, body: bytes, stamp: bytes) -> None:
        super()._deliver(post, body, stamp)
        self._forget(post)

    def _hold(self, post: _Serving, size: int) -> None:
        super()._hold(post, size + len(post.kept or b""))

    def _forget(self, post: _Serving) -> None:
        """The body of `post` is good."""
        kept, post.kept = post.kept, None
        if kept and post.reserved_bytes:
            self._hold(post, max(0, post.reserved_bytes - len(kept)))

    def _log_failure(self, post: Post, answer: Answer) -> None:
        super()._log_failure(post, answer)
        # None has been kept of a post that is refused on its headers.
        kept = getattr(post, "kept", None)
        if kept is None or answer.code != http.BAD_REQUEST:
            return
        # Asked first, so that nothing is copied that is not kept.
        if self._refused_bodies.takes_one():
            capture = self._capture(cast(_Serving, post), bytes(kept), answer)
            self._refused_bodies.keep(capture)

    def _capture(self, post: _Serving, body: bytes, answer: Answer) -> Capture:
        is_whole = post.is_complete or _length_of(post) == len(body)
        return Capture(
            captured_at=time_of(self._seconds()),
            code=answer.code,
            because=answer.error or answer.text,
            # Without what an absolute form may have ahead of it: a password.
            target=path_in(post.request.uri),
            fields=_kept_fields(post.request),
            body=body,
            is_cut=post.is_arriving and not is_whole,
            remote_addr=post.remote_addr,
            request_id=post.request_id,
        )


def _kept_fields(request: Request) -> tuple[tuple[str, bytes], ...]:
    """What of the head of `request` is part of a capture."""
    fields = getattr(request, "fields", None)
    if fields is None:
        fields = dict(request.requestHeaders.getAllRawHeaders())
    return tuple(
        (name, value)
        for raw, values in fields.items()
        if captures.is_kept(name := raw.decode("latin-1").title())
        for value in values
    )


# A batch may be so many times as large as the largest body: each frame grows by
# the stamp, and small frames with a large stamp would grow without bound.
_BATCH_GROWTH_MAX = 4
_STAMPS_MAX = 4096
# The paths below the front door that are the front door: none, and a slash.
_HERE: tuple[list[bytes], ...] = ([], [b""])


def _cut(value: bytes | None) -> bytes | None:
    """As much of a client's value as is kept of it."""
    return None if value is None else value[:VALUE_MAX]


def _user_of(post: Post) -> bytes:
    """Who has posted an admitted post."""
    assert post.credential is not None
    return post.credential.user


def _length_of(post: Post) -> int | None:
    """How long the body of `post` will be on the wire, as far as it says."""
    lengths = post.values(b"content-length")
    return None if lengths is None else int(lengths[0])


def _too_many_bytes(settings: Settings) -> frames.BodyTooLarge:
    return frames.BodyTooLarge(f"more than {settings.max_body_bytes} bytes on the wire")


class _Stamps:
    """The structured data of posts; that of few addresses is made once."""

    def __init__(self, settings: Settings) -> None:
        self._metadata_id = settings.metadata_id
        self._query_params = settings.query_params
        self._field_params = settings.field_params
        self._origins: dict[bytes, bytes] = {}

    def stamp(self, post: Post) -> bytes:
        address = post.remote_addr or b""
        origin = self._origins.get(address)
        if origin is None:
            origin = self._origin(address)
        if self._metadata_id is None:
            return origin
        credential = post.credential
        assert credential is not None
        return origin + stamp.metadata(
            self._metadata_id,
            post.request.args or {},
            self._query_params,
            self._field_params,
            credential.name.encode() if credential.deprecated else None,
        )

    def _origin(self, address: bytes) -> bytes:
        origin = stamp.origin(address)
        if len(address) <= stamp.VALUE_MAX:
            if len(self._origins) >= _STAMPS_MAX:
                self._origins.clear()
            self._origins[address] = origin
        return origin
