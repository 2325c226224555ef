"""The front door, in memory: every row of its table, and what no table can say."""

import gzip
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from logiss.answers import DUPLICATE, OK, Answer
from logiss.guards import Post, peer_address
from logiss.pool import NotDelivered, Payload
from logiss.settings import Settings
from logiss.site import LogsSite
from logiss.web import LogsResource, _Stamps, answer_of
from tests.front import (
    PEER,
    TIMEOUT_SECONDS,
    Connection,
    Front,
    basic,
    framed,
    message,
    request,
    stamped,
)
from tests.http_rows import BODY, FORWARDED, ROWS, SITES, Row


class RowTests(SynchronousTestCase):
    """Each row of the table is answered as it says."""

    def test_on_the_channel(self) -> None:
        """On the channel that the daemon has by default."""
        self.check_all("channel")

    def test_on_the_daemons_site(self) -> None:
        """On twisted.web's channel, as the daemon has it."""
        self.check_all("logs")

    def test_on_a_stock_site(self) -> None:
        """On a `Site` of an embedding application."""
        self.check_all("stock")

    def check_all(self, site: str) -> None:
        for row in ROWS:
            if site in row.on:
                self.check(row, site)

    def check(self, row: Row, site: str) -> None:
        clock = Clock()
        front = Front(clock, **row.settings)
        row.prepare(front)
        connection = Connection(front.site(site))
        connection.send(row.octets)
        if row.waits:
            self.assertEqual(connection.transport.value(), b"", row.name)
            clock.advance(TIMEOUT_SECONDS)
        *interim, answer = connection.answers(to_head=row.to_head)
        self.assertEqual(
            [a.code for a in interim],
            [100] if b"100-continue" in row.octets else [],
            row.name,
        )
        self.assertEqual(answer.code, row.code, (row.name, answer))
        self.assertEqual(answer.headers.get("logiss-delivery"), "sent", row.name)
        text = answer.body.decode()
        self.assertTrue(text.startswith(row.text), (row.name, text))
        if row.text:
            self.assertEqual(text.count("\n"), 1, row.name)
            self.assertTrue(text.endswith("\n"), row.name)
            self.assertTrue(answer.headers["content-type"].startswith("text/plain"))
        else:
            self.assertEqual(text, "", row.name)
        for name, value in row.headers.items():
            self.assertEqual(answer.headers.get(name), value, row.name)
        self.assertEqual(front.deliverer.octets, row.forwarded, row.name)
        if row.headers.get("connection") == "close":
            self.assertFalse(connection.transport.connected, row.name)
        self.check_log(row, front)

    def check_log(self, row: Row, front: Front) -> None:
        """Each post has one line, which says how it ended."""
        failed = front.lines.having("count#log-iss.http.logs.post.error", "1")
        succeeded = front.lines.having("count#log-iss.http.logs.post.success", "1")
        self.assertEqual(len(failed) + len(succeeded), int(row.is_post), row.name)
        if row.is_post and row.code != 200:
            self.assertEqual(failed[0]["post.code"], str(row.code))
            self.assertTrue(failed[0]["post.error"])
        self.assertEqual(front.metrics.posts_failed, len(failed), row.name)
        self.assertEqual(front.metrics.posts_succeeded, len(succeeded), row.name)
        self.assertEqual(front.drain.inside, 0, row.name)


class PostTestCase(SynchronousTestCase):
    """A front and a connection to it."""

    site = "channel"

    def setUp(self) -> None:
        self.clock = Clock()
        self.use(Front(self.clock))

    def use(self, front: Front) -> None:
        self.front = front
        self.connection = Connection(front.site(self.site))

    def code(self) -> int:
        (answer,) = self.connection.answers()
        return answer.code


class PostTests(PostTestCase):
    """From the request to the deliverer and back."""

    def test_answer_after_delivery(self) -> None:
        """No byte of an answer before the delivery has ended."""
        self.front.deliverer.at_once = False
        self.connection.send(request(BODY))
        self.assertEqual(self.front.deliverer.octets, FORWARDED)
        self.assertEqual(self.connection.transport.value(), b"")
        self.front.deliverer.waiters[0].callback(None)
        self.assertEqual(self.code(), 200)

    def test_not_delivered(self) -> None:
        """A delivery that fails is a 504 that says why."""
        self.front.deliverer.at_once = False
        self.connection.send(request(BODY))
        self.front.deliverer.waiters[0].errback(NotDelivered("too slow"))
        (answer,) = self.connection.answers()
        self.assertEqual(answer.code, 504)
        self.assertEqual(answer.reason, "Gateway Time-out")
        self.assertEqual(answer.body, b"Problem delivering body: too slow\n")

    def test_bug(self) -> None:
        """An unexpected error is a 500, and one line in the log that finds it."""
        self.front.deliverer.at_once = False
        self.connection.send(request(BODY))
        self.front.deliverer.waiters[0].errback(ZeroDivisionError("oh"))
        (answer,) = self.connection.answers()
        self.assertEqual((answer.code, answer.body), (500, b"Internal error\n"))
        (line,) = self.front.lines.having("post.code", "500")
        self.assertIn("ZeroDivisionError: oh", line["post.error"])

    def test_received_at(self) -> None:
        """The deadline runs from the complete body."""
        self.clock.advance(100)
        octets = request(BODY)
        self.connection.send(octets[:-1])
        self.clock.advance(1.5)
        self.connection.send(octets[-1:])
        (payload,) = self.front.deliverer.payloads
        self.assertEqual(payload.received_at, 101.5)

    def test_byte_by_byte(self) -> None:
        """How a request is cut into reads does not matter."""
        for octets in (request(BODY), request(chunks=[BODY[:50], BODY[50:]])):
            self.use(Front(self.clock))
            for i in range(len(octets)):
                self.connection.send(octets[i : i + 1])
            self.assertEqual(self.code(), 200)
            self.assertEqual(self.front.deliverer.octets, FORWARDED)

    def test_pipelined(self) -> None:
        """Pipelined posts are answered in order."""
        self.front.deliverer.at_once = False
        self.connection.send(request(BODY) + request(b"x") + request(BODY))
        self.front.deliverer.waiters[0].callback(None)
        self.assertEqual([a.code for a in self.connection.answers()], [200, 400])
        self.front.deliverer.waiters[1].callback(None)
        self.assertEqual([a.code for a in self.connection.answers()], [200])

    def test_keep_alive(self) -> None:
        """A refusal does not end the connection."""
        self.connection.send(request(BODY, headers={"Authorization": None}))
        self.assertEqual(self.code(), 401)
        self.connection.send(request(BODY))
        self.assertEqual(self.code(), 200)

    def test_idle(self) -> None:
        """A connection may be idle for the five minutes that a drain sits still."""
        self.connection.send(request(BODY))
        self.assertEqual(self.code(), 200)
        self.clock.advance(301)
        self.assertTrue(self.connection.transport.connected)
        self.connection.send(request(BODY))
        self.assertEqual(self.code(), 200)
        self.clock.advance(331)
        self.assertFalse(self.connection.transport.connected)

    def test_nothing_kept(self) -> None:
        """When a post is answered nothing of it is reserved or inside."""
        self.front.deliverer.at_once = False
        self.connection.send(request(BODY))
        self.assertEqual(self.front.logs.budget.reserved_bytes, len(FORWARDED))
        self.assertEqual(self.front.drain.inside, 1)
        self.front.deliverer.waiters[0].callback(None)
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)
        self.assertEqual(self.front.drain.inside, 0)

    def test_leaves_after_the_answer(self) -> None:
        """A post is inside the drain until its answer is written."""
        self.front.deliverer.at_once = False
        self.connection.send(request(BODY))
        written: list[bytes] = []
        self.front.drain.begin(
            lambda: written.append(self.connection.transport.value())
        )
        self.assertEqual(written, [])
        self.front.deliverer.waiters[0].callback(None)
        (octets,) = written
        self.assertTrue(octets.startswith(b"HTTP/1.1 200 OK\r\n"))

    def test_waits_for_room(self) -> None:
        """A post that finds no room waits for it."""
        self.front.logs.budget.reserve(self.front.settings.max_inflight_bytes, 1)
        self.connection.send(request(BODY))
        self.clock.advance(1)
        self.assertEqual(self.front.deliverer.payloads, [])
        self.front.logs.budget.release(self.front.settings.max_inflight_bytes)
        self.assertEqual(self.code(), 200)
        self.assertEqual(self.front.deliverer.octets, FORWARDED)

    def test_many_wait_for_room(self) -> None:
        """However many wait for room and end at once, each is answered."""
        most = self.front.settings.max_inflight_bytes
        self.front.logs.budget.reserve(most, 1)
        connections = [Connection(self.front.site(self.site)) for _ in range(500)]
        for connection in connections:
            connection.send(request(b"malformed"))
        self.front.logs.budget.release(most)
        codes = [answer.code for c in connections for answer in c.answers()]
        self.assertEqual(codes, [400] * 500)
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)
        self.assertEqual(self.front.drain.inside, 0)

    def test_respond(self) -> None:
        """Behind `render` stands a method whose outcome can be waited for."""
        answers: list[Answer] = []

        watching = _Watching(self.front.logs, answers)
        connection = Connection(LogsSite(watching, self.clock, 1000))
        connection.send(request(BODY))
        self.assertEqual(answers, [OK])
        (answer,) = connection.answers()
        self.assertEqual(answer.code, 200)


class _Watching(Resource):
    """An embedder's resource that wants to know how posts end."""

    isLeaf = True

    def __init__(self, logs: LogsResource, answers: list[Answer]) -> None:
        super().__init__()
        self._logs = logs
        self._answers = answers

    def render(self, request: IRequest) -> int:
        assert isinstance(request, Request)
        self._logs.respond(request).addCallback(self._answered, request)
        return NOT_DONE_YET

    def _answered(self, answer: Answer, request: Request) -> None:
        self._answers.append(answer)
        answer.write_to(request)


class GoneTests(PostTestCase):
    """A client that goes away takes its post with it, as far as that is possible."""

    def test_in_mid_body(self) -> None:
        """Half a body is not forwarded, and no room is kept for it."""
        for octets in (request(BODY), request(chunks=[BODY])):
            self.use(Front(self.clock))
            self.connection.send(octets[:-10])
            self.connection.hang_up()
            self.assertEqual(self.front.deliverer.payloads, [])
            self.assertEqual(self.front.logs.budget.reserved_bytes, 0)
            self.assertEqual(self.front.drain.inside, 0)

    def test_while_delivering(self) -> None:
        """The delivery is cancelled and the log says so."""
        self.front.deliverer.at_once = False
        self.connection.send(request(BODY, headers={"X-Request-ID": "gone"}))
        self.connection.hang_up()
        self.assertEqual(len(self.front.deliverer.cancelled), 1)
        (line,) = self.front.lines.having("post.code", "499")
        self.assertEqual(line["request_id"], "gone")
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)
        self.assertEqual(self.front.drain.inside, 0)

    def test_delivered_all_the_same(self) -> None:
        """A deliverer may finish what was cancelled; nobody is left to answer."""

        def finish(waiter: Deferred[None]) -> None:
            waiter.callback(None)

        deliverer = self.front.deliverer
        deliverer.at_once = False
        deliverer.new_waiter = lambda payload: Deferred(finish)
        self.connection.send(request(BODY))
        self.connection.hang_up()
        self.assertEqual(self.front.metrics.posts_succeeded, 1)
        self.assertEqual(self.front.drain.inside, 0)
        self.assertEqual(self.connection.transport.value(), b"")

    def test_while_waiting_for_room(self) -> None:
        """Its place in the line is free, and it is not forwarded."""
        self.front.logs.budget.reserve(self.front.settings.max_inflight_bytes, 1)
        self.connection.send(request(BODY))
        self.connection.hang_up()
        self.front.logs.budget.release(self.front.settings.max_inflight_bytes)
        self.assertEqual(self.front.deliverer.payloads, [])
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)
        self.assertEqual(self.front.drain.inside, 0)
        self.connection.channel.factory = None
        self.assertEqual(
            [
                call
                for call in self.clock.getDelayedCalls()
                if call.getTime() < 100 and "_too_late" in repr(call)
            ],
            [],
        )


class SenderCountsTests(PostTestCase):
    """What a sender says of its frames and its losses is compared and counted."""

    MISMATCH = "count#log-iss.http.logs.msg-count.mismatch"
    REPORT = (
        b"<172>1 2013-06-07T13:17:49+00:00 host heroku logplex - Error L10 "
        b"(output buffer overflow): 7 messages dropped since 2013-06-07T13:17:49"
    )

    def post(self, body: bytes = BODY, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.send(request(body, headers={"X-Request-ID": "abc", **named}))

    def losses(self) -> tuple[int, int, int, int]:
        metrics = self.front.metrics
        return (
            metrics.dropped_by_headers,
            metrics.lost_by_headers,
            metrics.dropped_by_frames,
            metrics.lost_by_frames,
        )

    def test_mismatch(self) -> None:
        """Another number is logged and counted, and forwarded all the same."""
        self.post(Logplex_Msg_Count="3")
        self.assertEqual(self.code(), 200)
        (line,) = self.front.lines.having(self.MISMATCH)
        self.assertEqual(
            (line["stated"], line["found"], line["request_id"]), ("3", "2", "abc")
        )
        self.assertEqual(self.front.metrics.counts_mismatched, 1)
        self.assertEqual(self.front.deliverer.octets, FORWARDED)

    def test_required(self) -> None:
        """Where it is required the post is refused, and nothing forwarded."""
        self.use(Front(self.clock, require_msg_count=True))
        self.post(Logplex_Msg_Count="3")
        (answer,) = self.connection.answers()
        self.assertEqual(answer.code, 400)
        self.assertEqual(
            answer.body,
            b"Problem with body: Logplex-Msg-Count is 3, the body has 2 frames\n",
        )
        self.assertEqual(self.front.deliverer.payloads, [])
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)
        for count in ("2", "02"):
            self.post(Logplex_Msg_Count=count)
            self.assertEqual(self.code(), 200)

    def test_no_frames(self) -> None:
        """A body of which nothing was left does not fit a number either."""
        for body in (b"", b"\n"):
            self.post(body, Logplex_Msg_Count="0")
            self.assertEqual(self.code(), 200)
        self.assertEqual(self.front.lines.having(self.MISMATCH), [])
        self.post(b"", Logplex_Msg_Count="3")
        self.assertEqual(self.code(), 200)
        (line,) = self.front.lines.having(self.MISMATCH)
        self.assertEqual((line["stated"], line["found"]), ("3", "0"))
        self.use(Front(self.clock, require_msg_count=True))
        self.post(b"", Logplex_Msg_Count="3")
        self.assertEqual(self.code(), 400)

    def test_no_number(self) -> None:
        """What is not one to nine digits is as none."""
        self.use(Front(self.clock, require_msg_count=True))
        for count in ("", "x", "-2", "+3", "0x3", "3_0", "3 0", "1" * 10):
            self.post(Logplex_Msg_Count=count, Logplex_Drop_Count=count)
            self.assertEqual(self.code(), 200, count)
        self.assertEqual(self.front.metrics.counts_mismatched, 0)
        self.assertEqual(self.losses(), (0, 0, 0, 0))

    def test_headers(self) -> None:
        """Each name counts; several names are one number."""
        for name in ("Logplex-Drop-Count", "Logshuttle-Drops", "Logplex-Drops"):
            self.post(BODY, **{name: "5"})
        for name in ("Logplex-Lost-Count", "Logshuttle-Lost", "Logplex-Lost"):
            self.post(BODY, **{name: "4"})
        self.assertEqual(self.losses(), (15, 12, 0, 0))
        self.post(Logplex_Drop_Count="2", Logplex_Drops="2")
        self.assertEqual(self.losses(), (17, 12, 0, 0))
        lines = self.front.lines.having("count#log-iss.http.logs.headers.dropped", "2")
        self.assertEqual([line["request_id"] for line in lines], ["abc"])

    def test_frames(self) -> None:
        """Frames count apart from headers; a duplicate does not count again."""
        for _ in range(2):
            self.post(
                framed(self.REPORT),
                Logplex_Drop_Count="7",
                Logplex_Frame_Id=FRAME_ID,
            )
        self.assertEqual(self.losses(), (7, 0, 7, 0))
        (line,) = self.front.lines.having("count#log-iss.http.logs.frames.dropped")
        self.assertEqual(line["count#log-iss.http.logs.headers.dropped"], "7")
        self.assertIn(b"] Error L10 ", self.front.deliverer.octets)

    def test_frames_alone(self) -> None:
        """They count without a header, too."""
        self.post(framed(self.REPORT, self.REPORT))
        self.assertEqual(self.losses(), (0, 0, 14, 0))
        (line,) = self.front.lines.having("count#log-iss.http.logs.frames.dropped")
        self.assertNotIn("count#log-iss.http.logs.headers.dropped", line)

    def test_once_delivered(self) -> None:
        """
        What is reported again because the post was not delivered counts once: logplex
        reports all of it until a post is.
        """
        self.front.deliverer.at_once = False
        for i in range(3):
            self.post(framed(self.REPORT), Logplex_Lost_Count="5")
            self.assertEqual(self.losses(), (0, 0, 0, 0))
            if i < 2:
                self.front.deliverer.waiters[i].errback(NotDelivered("too slow"))
                self.assertEqual(self.code(), 504)
        self.front.deliverer.waiters[2].callback(None)
        self.assertEqual(self.losses(), (0, 5, 7, 0))
        self.assertEqual(
            len(self.front.lines.having("count#log-iss.http.logs.frames.dropped")), 1
        )

    def test_refused(self) -> None:
        """Nor does it count in a post that is refused."""
        self.post(framed(self.REPORT) + b"x", Logplex_Lost_Count="5")
        self.assertEqual(self.code(), 400)
        self.assertEqual(self.losses(), (0, 0, 0, 0))

    def test_empty(self) -> None:
        """Headers count in a post of no frames as well."""
        self.post(b"", Logplex_Lost_Count="5")
        self.assertEqual(self.losses(), (0, 5, 0, 0))

    def test_none(self) -> None:
        """A post that reports no loss has one line."""
        self.post(Logplex_Drop_Count="0")
        self.assertEqual(len(self.front.lines.pairs), 1)


class HangupTests(PostTestCase):
    """A log-shuttle is hung up on in place of what it would take for a loss."""

    def setUp(self) -> None:
        super().setUp()
        self.use(Front(self.clock, on_timeout="hangup"))
        self.front.deliverer.at_once = False

    def post(self, body: bytes = BODY, agent: str = "log-shuttle/0.18 (go1)") -> None:
        self.connection.send(request(body, headers={"User-Agent": agent}))

    def check_hung_up(self, code: int, text: str) -> None:
        self.assertEqual(self.connection.transport.value(), b"")
        self.assertFalse(self.connection.transport.connected)
        (line,) = self.front.lines.having("post.code", str(code))
        self.assertTrue(line["post.error"].startswith(text), line)
        self.assertTrue(line["post.error"].endswith("; hung up without an answer"))
        self.assertEqual(self.front.drain.inside, 0)

    def test_not_delivered(self) -> None:
        """In place of a 504."""
        self.post()
        self.front.deliverer.waiters[0].errback(NotDelivered("too slow"))
        self.check_hung_up(504, "Problem delivering body: too slow")
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)

    def test_draining(self) -> None:
        """In place of a 503, on the headers or when the body is there."""
        self.front.drain.begin(lambda: None)
        self.post()
        self.check_hung_up(503, "Shutting down")

    def test_draining_since(self) -> None:
        """Also where draining has begun behind the headers."""
        octets = request(BODY, headers={"User-Agent": "log-shuttle/1"})
        self.connection.send(octets[:-1])
        self.front.drain.begin(lambda: None)
        self.connection.send(octets[-1:])
        self.check_hung_up(503, "Shutting down")

    def test_too_busy(self) -> None:
        """In place of a 503 for want of room."""
        most = self.front.settings.max_inflight_bytes
        self.front.logs.budget.reserve(most, 1)
        self.post()
        self.clock.advance(TIMEOUT_SECONDS)
        self.check_hung_up(503, "")
        self.assertEqual(self.front.logs.budget.reserved_bytes, most)

    def test_behind_an_answer(self) -> None:
        """A pipelined answer before it is written, one behind it is not."""
        octets = request(BODY, headers={"User-Agent": "log-shuttle/1"})
        self.connection.send(octets * 3)
        self.front.deliverer.waiters[0].callback(None)
        self.front.deliverer.waiters[1].errback(NotDelivered("too slow"))
        self.assertEqual(self.code(), 200)
        self.assertFalse(self.connection.transport.connected)
        self.assertEqual(self.front.drain.inside, 0)

    def test_not_reading(self) -> None:
        """Of a client that has not read what was before, nothing is inside either."""
        closing: list[bool] = []
        transport: Any = self.connection.transport
        lose, transport.loseConnection = (
            transport.loseConnection,
            lambda: closing.append(True),
        )
        self.post()
        self.front.deliverer.waiters[0].errback(NotDelivered("too slow"))
        self.assertEqual(closing, [True])
        self.assertEqual(self.front.drain.inside, 0)
        lose()
        self.assertEqual(self.front.drain.inside, 0)

    def test_others(self) -> None:
        """
        Other clients, statuses and methods are answered; so is all by default.
        """
        self.post(agent="Logplex/1 log-shuttle")
        self.front.deliverer.waiters[0].errback(NotDelivered("too slow"))
        self.assertEqual(self.code(), 504)
        self.post(b"x")
        self.assertEqual(self.code(), 400)
        self.front.drain.begin(lambda: None)
        agent: dict[str, str | None] = {"User-Agent": "log-shuttle/1"}
        self.connection.send(request(BODY, method="PUT", headers=agent))
        self.assertEqual(self.code(), 503)
        self.use(Front(self.clock))
        self.front.drain.begin(lambda: None)
        self.post()
        self.assertEqual(self.code(), 503)


FRAME_ID = "0123456789abcdef0123456789ABCDEF"


def retried(
    body: bytes = BODY, frame_id: str = FRAME_ID, **headers: str | None
) -> bytes:
    """A post of a drain, the same on each of its retries."""
    return request(
        body,
        headers={
            "Logplex-Frame-Id": frame_id,
            "Logplex-Drain-Token": "d.1",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


class RetriedTestCase(PostTestCase):
    """A front whose deliveries end when the test says so."""

    def use(self, front: Front) -> None:
        super().use(front)
        self.front.deliverer.at_once = False

    def post(self, octets: bytes) -> Connection:
        """Send a post on a connection of its own."""
        connection = Connection(self.front.site(self.site))
        connection.send(octets)
        return connection

    def check(self, connection: Connection, code: int, duplicate: bool = False) -> None:
        (answer,) = connection.answers()
        self.assertEqual(answer.code, code)
        self.assertEqual(
            answer.headers.get("logiss-duplicate"), "1" if duplicate else None
        )

    def deliver(self, number: int = -1) -> None:
        self.front.deliverer.waiters[number].callback(None)

    def check_forwarded(self, times: int) -> None:
        self.assertEqual(len(self.front.deliverer.payloads), times)

    def check_nothing_kept(self, keys: int = 0) -> None:
        self.assertEqual(len(self.front.logs.retries), keys)
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)
        self.assertEqual(self.front.drain.inside, 0)


class RetriedTests(RetriedTestCase):
    """A retry of a post is not forwarded while its first is, or was lately."""

    def test_joins(self) -> None:
        """While the first is in flight its retries share its 200."""
        first, second, third = (self.post(retried()) for _ in range(3))
        self.check_forwarded(1)
        self.assertEqual(self.front.drain.inside, 3)
        self.assertEqual(second.transport.value(), b"")
        self.deliver()
        self.check(first, 200)
        self.check(second, 200, duplicate=True)
        self.check(third, 200, duplicate=True)
        self.check_nothing_kept(keys=1)
        metrics = self.front.metrics
        self.assertEqual(metrics.posts_joined, 2)
        self.assertEqual(metrics.posts_remembered, 0)
        self.assertEqual(metrics.posts_succeeded, 3)
        self.assertEqual((metrics.frames_received, metrics.frames_delivered), (2, 2))

    def test_joins_a_failure(self) -> None:
        """They share its failure, too, and the next is a first one again."""
        first, second = self.post(retried()), self.post(retried())
        self.front.deliverer.waiters[0].errback(NotDelivered("too slow"))
        self.check(first, 504)
        self.check(second, 504)
        self.check_nothing_kept()
        third = self.post(retried())
        self.check_forwarded(2)
        self.deliver()
        self.check(third, 200)

    def test_remembered(self) -> None:
        """For 120 s from its delivery a retry is answered, and not forwarded."""
        self.post(retried())
        self.deliver()
        self.clock.advance(119.9)
        self.check(self.post(retried()), 200, duplicate=True)
        self.check_forwarded(1)
        self.assertEqual(self.front.metrics.posts_remembered, 1)
        self.clock.advance(0.1)
        late = self.post(retried())
        self.check_forwarded(2)
        self.deliver()
        self.check(late, 200)

    def test_another(self) -> None:
        """Another id, drain or user is another post; without a drain as well."""
        tokens = (("user", "a:token"), ("ada", "a:token"))
        self.use(Front(self.clock, tokens=tokens))
        posts = [
            retried(),
            retried(frame_id=FRAME_ID[:-1] + "0"),
            retried(Logplex_Drain_Token="d.2"),
            retried(Logplex_Drain_Token=None),
            retried(Authorization=basic(user="ada")),
        ]
        connections = [self.post(octets) for octets in posts]
        self.check_forwarded(len(posts))
        for i, connection in enumerate(connections):
            self.deliver(i)
            self.check(connection, 200)
        for octets in posts:
            self.check(self.post(octets), 200, duplicate=True)

    def test_ids_that_are_none(self) -> None:
        """What is not 32 hex digits is no id."""
        for frame_id in ("", "abc", FRAME_ID + "0", "x" * 32):
            for _ in range(2):
                connection = self.post(retried(frame_id=frame_id))
                self.deliver()
                self.check(connection, 200)
        self.check_forwarded(8)
        self.check_nothing_kept()

    def test_body_may_differ(self) -> None:
        """A retry is known before its body is looked at."""
        self.post(retried())
        self.deliver()
        self.check(self.post(retried(b"not frames")), 200, duplicate=True)
        gzipped = retried(b"not gzip", Content_Encoding="gzip")
        self.check(self.post(gzipped), 200, duplicate=True)
        self.assertEqual(self.front.metrics.frames_received, 2)

    def test_behind_the_guards(self) -> None:
        """What its headers refuse is refused, delivered or not."""
        self.post(retried())
        self.deliver()
        self.check(self.post(retried(Authorization=None)), 401)
        self.check(self.post(retried(Content_Encoding="br")), 415)
        self.front.drain.begin(lambda: None)
        self.check(self.post(retried()), 503)

    def test_empty(self) -> None:
        """An empty body is 200 as it is, and kept by no id."""
        for _ in range(2):
            self.check(self.post(retried(b"\n")), 200)
        self.check_nothing_kept()

    def test_refused_body(self) -> None:
        """A post that is refused for its body is forgotten."""
        self.check(self.post(retried(b"x")), 400)
        self.check(self.post(retried(b"x", Content_Encoding="gzip")), 400)
        self.check_nothing_kept()
        self.post(retried())
        self.check_forwarded(1)

    def test_bug(self) -> None:
        """So is one that an error in our own code has ended, wherever it is."""

        def fail(payload: Payload) -> Deferred[None]:
            raise ZeroDivisionError("oh")

        deliverer = self.front.deliverer
        waiter, deliverer.new_waiter = deliverer.new_waiter, fail
        self.check(self.post(retried()), 500)
        self.check_nothing_kept()
        deliverer.new_waiter = waiter
        stamps, self.front.logs._stamps = self.front.logs._stamps, _NoStamps()
        self.check(self.post(retried()), 500)
        self.check_nothing_kept()
        self.front.logs._stamps = stamps
        connection = self.post(retried())
        self.deliver()
        self.check(connection, 200)

    def test_log(self) -> None:
        """The line of a duplicate is that of a success, and says what it is."""
        self.post(retried(X_Request_ID="abc"))
        self.clock.advance(1)
        self.post(retried(X_Request_ID="abc"))
        self.clock.advance(1)
        self.deliver()
        self.post(retried(X_Request_ID="abc"))
        success = "count#log-iss.http.logs.post.success"
        wait = "measure#log-iss.http.logs.wait.duration"
        told = [
            (line.get("duplicate"), line[success], line[wait], line["request_id"])
            for line in self.front.lines.pairs
        ]
        self.assertCountEqual(
            told,
            [
                (None, "1", "2.000000s", "abc"),
                ("1", "1", "1.000000s", "abc"),
                ("1", "1", "0.000000s", "abc"),
            ],
        )

    def test_of_its_own_connection(self) -> None:
        """A retry pipelined behind its first is its duplicate."""
        self.connection.send(retried() + retried())
        self.deliver()
        first, second = self.connection.answers()
        self.assertEqual((first.code, second.code), (200, 200))
        self.assertEqual(second.headers["logiss-duplicate"], "1")

    def test_respond(self) -> None:
        """Whoever waits for the outcome of a retry is given it."""
        answers: list[Answer] = []
        site = LogsSite(_Watching(self.front.logs, answers), self.clock, 1000)
        connections = [Connection(site) for _ in range(2)]
        for connection in connections:
            connection.send(retried())
        self.deliver()
        self.assertCountEqual(answers, [OK, DUPLICATE])


class _NoStamps(_Stamps):
    """Fails just before the codec."""

    def __init__(self) -> None:
        super().__init__(Settings(deploy="test"))

    def stamp(self, post: Post) -> bytes:
        raise ZeroDivisionError("oh")


class RetriedGoneTests(RetriedTestCase):
    """What becomes of a post with a frame id when its clients go away."""

    def test_alone(self) -> None:
        """One that is not begun is withdrawn and forgotten."""
        self.post(retried()).hang_up()
        self.assertEqual(len(self.front.deliverer.cancelled), 1)
        self.check_nothing_kept()
        retry = self.post(retried())
        self.check_forwarded(2)
        self.deliver()
        self.check(retry, 200)
        self.assertEqual(len(self.front.lines.having("post.code", "499")), 1)

    def test_begun(self) -> None:
        """One that was begun goes on, and is joined by its retry."""
        first = self.post(retried())
        self.front.deliverer.payloads[0].begun_at = self.clock.seconds()
        first.hang_up()
        self.assertEqual(self.front.deliverer.cancelled, [])
        self.assertEqual(self.front.drain.inside, 0)
        self.assertGreater(self.front.logs.budget.reserved_bytes, 0)
        retry = self.post(retried())
        self.deliver()
        self.check(retry, 200, duplicate=True)
        self.check_forwarded(1)
        self.check_nothing_kept(keys=1)

    def test_begun_and_confirmed(self) -> None:
        """Its retry after that is answered from memory."""
        first = self.post(retried())
        self.front.deliverer.payloads[0].begun_at = self.clock.seconds()
        first.hang_up()
        self.deliver()
        self.check_nothing_kept(keys=1)
        self.assertEqual(self.front.metrics.frames_delivered, 2)
        self.check(self.post(retried()), 200, duplicate=True)
        self.check_forwarded(1)
        self.assertEqual(first.transport.value(), b"")

    def test_begun_and_failed(self) -> None:
        """Its retry after a failure is forwarded."""
        first = self.post(retried())
        self.front.deliverer.payloads[0].begun_at = self.clock.seconds()
        first.hang_up()
        self.front.deliverer.waiters[0].errback(NotDelivered("too slow"))
        self.check_nothing_kept()
        self.assertEqual(len(self.front.lines.having("post.code", "499")), 1)
        self.post(retried())
        self.check_forwarded(2)

    def test_joined(self) -> None:
        """As long as a retry waits for it, it goes on."""
        first, second = self.post(retried()), self.post(retried())
        first.hang_up()
        self.assertEqual(self.front.deliverer.cancelled, [])
        self.deliver()
        self.check(second, 200, duplicate=True)
        self.check_nothing_kept(keys=1)

    def test_all(self) -> None:
        """When the last goes it is withdrawn."""
        first, second = self.post(retried()), self.post(retried())
        first.hang_up()
        second.hang_up()
        self.assertEqual(len(self.front.deliverer.cancelled), 1)
        self.check_nothing_kept()
        self.assertEqual(len(self.front.lines.having("post.code", "499")), 2)

    def test_joiner(self) -> None:
        """A retry that goes changes nothing for the first."""
        first, second = self.post(retried()), self.post(retried())
        second.hang_up()
        self.assertEqual(self.front.drain.inside, 1)
        self.deliver()
        self.check(first, 200)
        self.check_nothing_kept(keys=1)

    def test_in_mid_body(self) -> None:
        """A post whose body never came to its end is no attempt."""
        connection = self.post(retried()[:-1])
        self.assertEqual(len(self.front.logs.retries), 0)
        connection.hang_up()
        self.check_nothing_kept()

    def test_waiting_for_room(self) -> None:
        """The same before there is room for it: joined it goes on, alone not."""
        most = self.front.settings.max_inflight_bytes
        self.front.logs.budget.reserve(most, 1)
        alone = self.post(retried(frame_id="a" * 32))
        first, second = self.post(retried()), self.post(retried())
        alone.hang_up()
        first.hang_up()
        self.assertEqual(len(self.front.logs.retries), 1)
        self.front.logs.budget.release(most)
        self.check_forwarded(1)
        self.deliver()
        self.check(second, 200, duplicate=True)
        self.check_nothing_kept(keys=1)

    def test_no_room(self) -> None:
        """All are told when there never is any."""
        self.front.logs.budget.reserve(self.front.settings.max_inflight_bytes, 1)
        first, second = self.post(retried()), self.post(retried())
        first.hang_up()
        self.clock.advance(TIMEOUT_SECONDS)
        self.check(second, 503)
        self.assertEqual(len(self.front.logs.retries), 0)
        self.assertEqual(self.front.drain.inside, 0)

    def test_while_draining(self) -> None:
        """Who has joined is inside the drain, until it has its answer."""
        first, second = self.post(retried()), self.post(retried())
        emptied: list[bool] = []
        self.front.drain.begin(lambda: emptied.append(True))
        first.hang_up()
        self.assertEqual(emptied, [])
        self.deliver()
        self.check(second, 200, duplicate=True)
        self.assertEqual(emptied, [True])


class StampTests(PostTestCase):
    """Headers and query decide what the frames are stamped with."""

    def forwarded(self, **changes: object) -> bytes:
        self.use(Front(self.clock, **self.settings))
        self.connection.send(request(framed(message()), **changes))  # type: ignore[arg-type]
        self.assertEqual(self.code(), 200)
        return self.front.deliverer.octets

    settings: dict[str, object] = {}

    def test_forwarded_for(self) -> None:
        """X-Forwarded-For is the origin, as it came; several lines are joined."""
        self.assertEqual(
            self.forwarded(headers={"X-Forwarded-For": "1.1.1.1, 2.2.2.2"}),
            framed(stamped(address="1.1.1.1, 2.2.2.2")),
        )
        self.assertEqual(
            self.forwarded(
                more=[("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "2.2.2.2")]
            ),
            framed(stamped(address="1.1.1.1, 2.2.2.2")),
        )

    def test_peer(self) -> None:
        """Without it, or with an empty one, the origin is the peer."""
        self.assertEqual(self.forwarded(), framed(stamped(address=PEER)))
        self.assertEqual(
            self.forwarded(headers={"X-Forwarded-For": ""}),
            framed(stamped(address=PEER)),
        )

    def test_drain_token(self) -> None:
        """The drain token takes the place of ``host``."""
        self.assertEqual(
            self.forwarded(headers={"Logplex-Drain-Token": "d.1"}),
            framed(stamped().replace(b" host ", b" d.1 ")),
        )

    def test_metadata(self) -> None:
        """Query parameters become metadata when there is an id for it."""
        path = "/logs?index=i&c=1&index=j&other=x&empty="
        self.assertEqual(self.forwarded(path=path), framed(stamped()))
        self.settings = {
            "metadata_id": b"meta@1",
            "query_params": (b"index", b"empty"),
            "field_params": (b"c",),
        }
        self.assertEqual(
            self.forwarded(path=path),
            framed(stamped().replace(b"] hi", b'][meta@1 index="i" fields="c=1"] hi')),
        )

    def test_keep_structured_data(self) -> None:
        """Structured data of the message is kept when that is configured."""
        self.settings = {"keep_structured_data": True}
        self.use(Front(self.clock, **self.settings))
        frame = message(b'[a b="c"] hi').replace(b"- - ", b"- ")
        self.connection.send(request(framed(frame)))
        self.assertEqual(self.code(), 200)
        self.assertIn(b'"][a b="c"] hi', self.front.deliverer.octets)


class LogTests(PostTestCase):
    """What the log says of a post."""

    def test_success(self) -> None:
        """The line of SPEC's example: its keys, its order, its durations."""
        self.front.deliverer.at_once = False
        self.connection.send(
            request(
                BODY,
                headers={
                    "X-Request-ID": "abc",
                    "Logplex-Drain-Token": "d.1",
                    "X-Forwarded-For": "1.2.3.4",
                },
            )
        )
        (payload,) = self.front.deliverer.payloads
        self.clock.advance(1)
        payload.begun_at = self.clock.seconds()
        self.clock.advance(0.5)
        self.front.deliverer.waiters[0].callback(None)
        self.assertEqual(
            self.front.lines.raw,
            [
                "app=log-iss source=test count#log-iss.http.logs.post.success=1"
                ' logdrain_token="d.1"'
                " measure#log-iss.http.logs.fixer-func.duration=0.000000s"
                " measure#log-iss.http.logs.post.duration=1.500000s"
                " measure#log-iss.http.logs.send.duration=0.500000s"
                " measure#log-iss.http.logs.wait.duration=1.500000s"
                ' remote_addr="1.2.3.4" request_id="abc"'
            ],
        )

    def test_errors_only(self) -> None:
        """REQUEST_LOG=errors keeps the failures only."""
        self.use(Front(self.clock, log_successes=False))
        self.connection.send(request(BODY))
        self.assertEqual(self.front.lines.raw, [])
        self.connection.send(request(b"x"))
        self.assertEqual(len(self.front.lines.raw), 1)

    def test_request_id_everywhere(self) -> None:
        """Every line that a post causes has its request id."""
        for row in ROWS:
            if not row.is_post or row.on != SITES:
                continue
            front = Front(self.clock, **row.settings)
            row.prepare(front)
            connection = Connection(front.site(self.site))
            connection.send(
                row.octets.replace(b"\r\n", b"\r\nX-Request-ID: the-id\r\n", 1)
            )
            self.clock.advance(TIMEOUT_SECONDS)
            self.assertTrue(front.lines.pairs, row.name)
            for pairs in front.lines.pairs:
                self.assertEqual(pairs.get("request_id"), "the-id", row.name)

    def test_hostile(self) -> None:
        """Nothing that a client sends ends its value or starts a metric."""
        hostile = 'x" count#log-iss.forged=1 measure#a=1s y="\\'
        self.connection.send(
            request(
                BODY,
                headers={
                    "X-Request-ID": hostile,
                    "Logplex-Drain-Token": hostile,
                    "X-Forwarded-For": hostile,
                    "User-Agent": hostile,
                },
            )
        )
        (pairs,) = self.front.lines.pairs
        self.assertNotIn("count#log-iss.forged", pairs)
        self.assertEqual(pairs["request_id"], hostile)
        self.assertEqual(pairs["remote_addr"], hostile)
        self.assertEqual(pairs["logdrain_token"], hostile)

    def test_cut_fields(self) -> None:
        """Fields that were cut are counted."""
        self.connection.send(request(framed(message(hostname=b"h" * 256))))
        self.assertEqual(self.front.metrics.hostnames_cut, 1)
        (line,) = self.front.lines.having(
            "count#log-iss.http.logs.hostname.truncated", "1"
        )
        self.assertEqual(line["remote_addr"], PEER)

    def test_frames_counted(self) -> None:
        """Frames are counted when received, and again when delivered."""
        self.front.deliverer.at_once = False
        self.connection.send(request(BODY))
        self.assertEqual(self.front.metrics.frames_received, 2)
        self.assertEqual(self.front.metrics.frames_delivered, 0)
        self.front.deliverer.waiters[0].callback(None)
        self.assertEqual(self.front.metrics.frames_delivered, 2)

    def test_secrets(self) -> None:
        """Neither users nor tokens stand in answers or lines."""
        for row in ROWS:
            if not row.name.startswith("credentials"):
                continue
            self.use(Front(self.clock))
            self.connection.send(row.octets)
            said = self.connection.transport.value().decode() + "".join(
                self.front.lines.raw
            )
            for secret in ("a:tok", "A:TOK", "nobody", "dXNlc"):
                self.assertNotIn(secret, said, row.name)


class MemoryTests(PostTestCase):
    """Of a body over its limit nothing is kept."""

    def test_not_buffered(self) -> None:
        """A body that passes its limit is dropped as it comes."""
        self.use(Front(self.clock, max_body_bytes=1000))
        octets = request(chunks=[b"x" * 600] * 100)
        self.connection.send(octets[:50_000])
        # The channel has answered already, and reads past what still comes.
        self.assertEqual(self.code(), 413)
        self.assertIsNone(self.connection.channel._incoming)
        self.connection = Connection(self.front.site("logs"))
        self.connection.send(octets[:50_000])
        (unfinished,) = self.connection.channel._channel.requests
        self.assertEqual(unfinished.content.read(), b"")
        self.assertGreater(unfinished.content.tell(), 1000)

    def test_batch_growth(self) -> None:
        """A stamp cannot make a small body grow without bound."""
        self.use(Front(self.clock, max_body_bytes=10_000))
        body = framed(*[b"a b c d e f"] * 700)
        self.connection.send(request(body, headers={"X-Forwarded-For": "9" * 255}))
        (answer,) = self.connection.answers()
        self.assertEqual(answer.code, 413)
        self.assertIn(b"rewritten frames", answer.body)

    def test_gzip_accounted(self) -> None:
        """What is held of a gzip body is its frames, not its size on the wire."""
        self.front.deliverer.at_once = False
        self.connection.send(
            request(gzip.compress(BODY), headers={"Content-Encoding": "gzip"})
        )
        self.assertEqual(self.front.logs.budget.reserved_bytes, len(FORWARDED))


class EarlyTests(PostTestCase):
    """What the headers decide is answered before the body is read."""

    def test_table(self) -> None:
        """No byte of the body is waited for or kept, and no 100 is sent."""
        for octets, code in (
            (request(path="/nope"), 404),
            (request(path="/health"), 200),
            (request(path="/ready"), 200),
            (request(path="/logs/x"), 404),
            (request(headers={"Authorization": None}), 401),
            (request(headers={"Content-Type": "x/y"}), 415),
            (request(headers={"Content-Encoding": "br"}), 415),
            (request(method="PUT"), 405),
        ):
            for expects in ("", "Expect: 100-continue\r\n"):
                self.use(Front(self.clock))
                head = octets.replace(
                    b"Content-Length: 0\r\n",
                    b"Content-Length: 10000000\r\n" + expects.encode(),
                )
                self.connection.send(head)
                self.assertEqual(self.code(), code)
                self.connection.send(b"x" * 100_000)
                unfinished = self.connection.channel._incoming
                self.assertEqual(unfinished and unfinished.chunks, unfinished and [])

    def test_too_long(self) -> None:
        """Nor of one that says of itself that it is too large."""
        octets = request(headers={"Content-Length": str(17 << 20)})
        self.connection.send(octets)
        self.assertEqual(self.code(), 413)
        self.assertFalse(self.connection.transport.connected)


class LevelTests(SynchronousTestCase):
    """Each answer says what a 200 means; that it does is in `RowTests`."""

    def levels(
        self, site: str, *posts: bytes, level: str | None = "relp"
    ) -> list[tuple[int, str | None]]:
        """The code and level of the answer to each post, on its own connection."""
        front = Front(Clock(), level)
        answers = []
        for octets in posts:
            connection = Connection(front.site(site))
            connection.send(octets)
            answers += connection.answers()
        return [(a.code, a.headers.get("logiss-delivery")) for a in answers]

    def test_of_the_deliverer(self) -> None:
        """It is the deliverer's, on whatever channel, under whatever path."""
        posts = [
            request(BODY),
            request(b"x"),
            request(headers={"Authorization": None}),
            request(path="/logs/x"),
            request(path="/nope"),
            request(path="/health"),
            request(path="/ready"),
        ]
        codes = (200, 400, 401, 404, 404, 200, 200)
        for site in SITES:
            self.assertEqual(
                self.levels(site, *posts), [(code, "relp") for code in codes], site
            )
            self.assertEqual(
                self.levels(site, *posts, level=None),
                [(code, None) for code in codes],
                site,
            )

    def test_of_the_channel(self) -> None:
        """What the channel answers by itself says so as well."""
        posts = [
            request(BODY, method="BREW"),
            request(BODY, path="/" + "x" * 8192),
            request(BODY, headers={"X": "x" * 16_384}),
            request(BODY, headers={"Host": None}),
            b"GET /\r\n\r\n",
        ]
        codes = (501, 414, 431, 400, 400)
        self.assertEqual(
            self.levels("channel", *posts), [(code, "relp") for code in codes]
        )

    def test_respond(self) -> None:
        """So does one that an embedder writes."""
        front = Front(Clock(), "acked")
        connection = Connection(LogsSite(_Watching(front.logs, []), Clock(), 1000))
        connection.send(request(BODY))
        (answer,) = connection.answers()
        self.assertEqual(answer.headers.get("logiss-delivery"), "acked")


class AnswerOfTests(SynchronousTestCase):
    """One table turns errors into statuses."""

    def test_unknown(self) -> None:
        """What is not in the table is a bug, and its place is named."""
        try:
            raise LookupError("what?")
        except LookupError:
            answer = answer_of(Failure())
        self.assertEqual(answer.code, 500)
        self.assertIn("LookupError: what? at ", answer.error)
        self.assertIn("test_web.py:", answer.error)
        self.assertNotIn("what?", answer.text)


class PeerAddressTests(SynchronousTestCase):
    """A peer's address is written as operators know it."""

    def test_table(self) -> None:
        """Zones go, mapped addresses are IPv4."""
        for given, expected in (
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:c000:201", "::ffff:c000:201"),
            ("", ""),
        ):
            self.assertEqual(peer_address(given), expected)


class StockHangupTests(HangupTests):
    """The same on twisted.web's channel."""

    site = "logs"


class PlainHangupTests(HangupTests):
    """The same on an embedder's own `Site`."""

    site = "stock"


class StockPostTests(PostTests):
    """The same on twisted.web's channel."""

    site = "logs"


class StockGoneTests(GoneTests):
    """The same on twisted.web's channel."""

    site = "logs"


class StockRetriedTests(RetriedTests):
    """The same on twisted.web's channel."""

    site = "logs"


class StockRetriedGoneTests(RetriedGoneTests):
    """The same on twisted.web's channel."""

    site = "logs"


class StockSenderCountsTests(SenderCountsTests):
    """The same on twisted.web's channel."""

    site = "logs"


class StockStampTests(StampTests):
    """The same on twisted.web's channel."""

    site = "logs"


class StockLogTests(LogTests):
    """The same on twisted.web's channel."""

    site = "logs"
