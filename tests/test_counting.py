"""What is counted on the way of a post, for whoever looks later."""

from bisect import bisect_left
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from logiss.budget import Budget
from logiss.credentials import Credential, Credentials, password_digest
from logiss.metrics import (
    FAILURES_MAX,
    NAMES_MAX,
    SECONDS_BOUNDS,
    CountsByCode,
    Histogram,
    Link,
    Metrics,
)
from logiss.pool import NotDelivered, Payload
from logiss.service import LogissService, channel_limits
from logiss.settings import Settings
from logiss.site import ChannelSite
from logiss.variables import Destination
from tests.front import Connection, Front, basic, framed, message, request
from tests.sender_case import SenderTestCase
from tests.test_pool import TIMEOUT_SECONDS, PoolTestCase
from tests.test_web import PostTestCase

HOUSE = Settings(
    deploy="test",
    port=5000,
    forward_dest=Destination("192.0.2.1", 601),
    tokens=(("user", "a:token"),),
    delivery="sent",
    max_body_bytes=100,
)
BODY = framed(message(b"one"), message(b"two"))


def observed(*seconds: float) -> list[int]:
    """The counts of a histogram that has seen so much."""
    counts = [0] * (len(SECONDS_BOUNDS) + 1)
    for duration in seconds:
        counts[bisect_left(SECONDS_BOUNDS, duration)] += 1
    return counts


class HistogramTests(SynchronousTestCase):
    """Durations are counted up to and with each bound."""

    def test_bounds(self) -> None:
        """A bound is the largest of its own count; there is one above all."""
        histogram = Histogram()
        for seconds, index in [
            (-1.0, 0),
            (0.0, 0),
            (0.0001, 0),
            (0.00010001, 1),
            (0.001, 3),
            (1.0, 12),
            (10.0, 15),
            (10.0001, 16),
            (1e9, 16),
        ]:
            before = list(histogram.counts)
            histogram.observe(seconds)
            before[index] += 1
            self.assertEqual(histogram.counts, before, seconds)
        self.assertEqual(len(histogram.counts), 17)

    def test_many(self) -> None:
        """Several of a duration are added at once."""
        histogram = Histogram()
        histogram.observe(0.25, 4)
        self.assertEqual(histogram.counts, observed(*[0.25] * 4))
        self.assertEqual(histogram.sum_seconds, 1.0)

    def test_set_back(self) -> None:
        """A clock that was set back makes no sum smaller."""
        histogram, metrics = Histogram(), Metrics()
        histogram.observe(1.0)
        metrics.add_seconds(1.0, 1.0, 1.0)
        histogram.observe(-0.5)
        metrics.add_seconds(-0.5, -0.5, -0.5)
        self.assertEqual(histogram.sum_seconds, 1.0)
        self.assertEqual(sum(histogram.counts), 2)
        seconds = metrics.post_seconds, metrics.codec_seconds, metrics.send_seconds
        self.assertEqual(seconds, (1.0, 1.0, 1.0))

    def test_codes(self) -> None:
        """A count for each status; those that there were are given."""
        counts = CountsByCode()
        counts[504] += 2
        counts[400] += 1
        self.assertEqual(counts.given(), {400: 1, 504: 2})


class PostsTests(PostTestCase):
    """Each post is counted once, by how it ended."""

    def post(self, body: bytes = BODY, **headers: str | None) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.send(request(body, headers=named))

    @property
    def metrics(self) -> Metrics:
        return self.front.metrics

    def test_delivered(self) -> None:
        """Its frames and its time are counted, and no failure."""
        self.front.deliverer.at_once = False
        self.post()
        self.clock.advance(0.5)
        [payload] = self.front.deliverer.payloads
        payload.begun_at = 0.25
        self.front.deliverer.waiters[0].callback(None)
        metrics = self.metrics
        self.assertEqual((metrics.posts_succeeded, metrics.frames_delivered), (1, 2))
        self.assertEqual(metrics.delivery.counts, observed(0.5))
        self.assertEqual(metrics.delivery.sum_seconds, 0.5)
        self.assertEqual((metrics.send_seconds, metrics.post_seconds), (0.25, 0.5))
        self.assertEqual((metrics.posts_failed, list(metrics.failures)), (0, []))

    def test_without_lines(self) -> None:
        """The same when successes have no line of their own."""
        self.use(Front(self.clock, log_successes=False))
        self.test_delivered()

    def test_empty(self) -> None:
        """One with nothing to deliver is no delivery."""
        self.post(b" ")
        self.assertEqual(self.metrics.posts_succeeded, 1)
        self.assertEqual(self.metrics.delivery.counts, observed())

    def test_not_delivered(self) -> None:
        """Its frames have failed, and the time until then counts."""
        self.front.deliverer.at_once = False
        self.post()
        self.clock.advance(5)
        self.front.deliverer.waiters[0].errback(NotDelivered("too slow"))
        metrics = self.metrics
        self.assertEqual(metrics.posts_failed_by_code.given(), {504: 1})
        self.assertEqual((metrics.frames_received, metrics.frames_failed), (2, 2))
        self.assertEqual(metrics.frames_delivered, 0)
        self.assertEqual(metrics.delivery.counts, observed(5))
        self.assertEqual(metrics.post_seconds, 5)

    def test_refused(self) -> None:
        """By code, whatever it was refused for."""
        self.post(Authorization=None)
        self.post(Authorization=basic("user", "no"))
        self.post(Content_Type="text/plain")
        self.post(b"1 x")
        self.connection.send(request(method="GET"))
        self.assertEqual(
            self.metrics.posts_failed_by_code.given(), {400: 1, 401: 2, 405: 1, 415: 1}
        )
        self.assertEqual(self.metrics.frames_failed, 0)
        self.assertEqual(self.metrics.delivery.counts, observed())

    def test_gone(self) -> None:
        """A client that went away is 499; how long it waited is no delivery."""
        self.front.deliverer.at_once = False
        self.post()
        self.connection.hang_up()
        self.assertEqual(self.metrics.posts_failed_by_code.given(), {499: 1})
        self.assertEqual(self.metrics.delivery.counts, observed())

    def test_remembered(self) -> None:
        """What was said of the last is kept: cause, request id, whose it was."""
        self.clock.advance(7)
        self.post(
            Authorization=basic("user", "no"),
            X_Request_ID="r-1",
            Logplex_Drain_Token="d.1",
        )
        self.post(b"1 x", X_Request_ID="r-2")
        self.post(Authorization=basic("who", "no"))
        first, second, third = self.metrics.failures
        self.assertEqual(
            (first.at, first.code, first.cause),
            (7, 401, "Unable to authenticate request"),
        )
        self.assertEqual((first.request_id, first.drain_token), (b"r-1", b"d.1"))
        self.assertEqual((first.remote_addr, first.user), (b"192.0.2.7", b"user"))
        self.assertEqual((second.request_id, second.user), (b"r-2", b"user"))
        self.assertTrue(second.cause.startswith("Problem with body: frame 1 "))
        # Whoever is not known may have typed a password there.
        self.assertEqual((third.request_id, third.user), (None, None))

    def test_bounded(self) -> None:
        """So many are kept, and of what a client sends only a part."""
        for i in range(FAILURES_MAX + 5):
            self.post(b"1 x", X_Request_ID=f"{i} {'x' * 5000}")
        self.assertEqual(len(self.metrics.failures), FAILURES_MAX)
        for i, failure in enumerate(self.metrics.failures):
            assert failure.request_id is not None
            self.assertTrue(failure.request_id.startswith(b"%d " % (i + 5)))
            self.assertEqual(len(failure.request_id), 256)

    def test_losses(self) -> None:
        """Who reports losses is remembered; what is reported twice counts once."""
        self.clock.advance(3)
        self.post(Logplex_Drop_Count="5")
        self.clock.advance(3)
        self.post(Logshuttle_Lost="2")
        [(user, loss)] = self.metrics.losses_by_user.items()
        self.assertEqual((user, loss.at, loss.dropped, loss.lost), (b"user", 6, 5, 2))

    def test_losses_bounded(self) -> None:
        """Not more users are remembered than have a name elsewhere."""
        metrics = Metrics()
        for i in range(NAMES_MAX + 1):
            metrics.add_loss(1.0, b"%d" % i, 1, 0)
        self.assertEqual(len(metrics.losses_by_user), NAMES_MAX)
        metrics.add_loss(2.0, b"7", 1, 0)
        self.assertEqual(metrics.losses_by_user[b"7"].dropped, 2)


class StockPostsTests(PostsTests):
    """The same on twisted.web's own channel."""

    site = "logs"


class RequestsTests(SynchronousTestCase):
    """What is no request that could be served is counted by what was answered."""

    def codes(self, *octets: bytes) -> dict[int, int]:
        clock = Clock()
        front = Front(clock)
        site: Any = front.site("channel")
        counted = site._refused_by_code = front.metrics.requests_refused_by_code
        for sent in octets:
            Connection(site).send(sent)
        self.assertEqual(front.metrics.posts_failed, 0)
        given: dict[int, int] = counted.given()
        return given

    def test_refused(self) -> None:
        """Each once, also those whose headers were whole."""
        long = "x" * 9000
        self.assertEqual(
            self.codes(
                b"POST /logs RTSP/1.0\r\n\r\n",
                b"BREW /logs HTTP/1.1\r\n\r\n",
                request(BODY, path=f"/logs?{long}"),
                request(BODY, headers={"A": long, "B": long}),
                request(BODY, headers={"Host": None}),
            ),
            {400: 2, 414: 1, 431: 1, 501: 1},
        )

    def test_house(self) -> None:
        """A whole logiss counts them too."""
        reactor: Any = MemoryReactorClock()
        house = LogissService(reactor, HOUSE, lambda line: None)
        house.startService()
        [server] = reactor.tcpServers
        Connection(server[1]).send(b"POST /logs RTSP/1.0\r\n\r\n")
        self.assertEqual(house.metrics.requests_refused_by_code.given(), {400: 1})

    def test_too_large(self) -> None:
        """So is a body that is too large for a Resource that reads none early."""
        counted = CountsByCode()
        limits = channel_limits(HOUSE)
        site = ChannelSite(
            Resource(), Clock(), limits, fixed={}, refused_by_code=counted
        )
        Connection(site).send(request(chunks=[b"x" * 200]))
        self.assertEqual(counted.given(), {413: 1})

    def test_served(self) -> None:
        """What was served is not among them."""
        self.assertEqual(self.codes(request(BODY), request(path="/nothing")), {})


class LinksTests(PoolTestCase):
    """What a connection has carried, and how long it took."""

    def test_delivered(self) -> None:
        """Bytes and time count for the connection that has delivered them."""
        first, second = self.connect(2)
        self.deliver(b"12345")
        self.clock.advance(0.5)
        self.deliver(b"123")
        self.clock.advance(0.5)
        first.flush()
        second.flush()
        self.assertEqual(first.link.bytes_delivered, 5)
        self.assertEqual(second.link.bytes_delivered, 3)
        self.assertEqual(first.link.confirmation.counts, observed(1.0))
        self.assertEqual(second.link.confirmation.counts, observed(0.5))

    def test_sent_again(self) -> None:
        """The time on a connection that was lost is not that of the next."""
        (first,) = self.connect()
        self.clock.advance(1)
        self.deliver(b"a")
        self.clock.advance(3)
        first.break_off()
        (second,) = self.connect()
        self.clock.advance(0.5)
        second.flush()
        self.assertEqual(first.link.confirmation.counts, observed())
        self.assertEqual(first.link.write_errors, 1)
        self.assertEqual(second.link.confirmation.counts, observed(0.5))

    def test_stalled(self) -> None:
        """One that makes no progress is a stall, and has taken that long."""
        (sender,) = self.connect()
        result = self.deliver(b"a")
        self.clock.advance(TIMEOUT_SECONDS)
        self.assert_not_delivered(result())
        self.assertEqual((sender.link.stalls, sender.link.write_errors), (1, 1))
        self.assertEqual(
            sender.link.confirmation.counts, observed(float(TIMEOUT_SECONDS))
        )

    def test_waiting(self) -> None:
        """What waits is counted as long as it waits."""
        for octets in (b"1234", b"56"):
            self.deliver(octets)
        self.assertEqual((self.pool.queue_payloads, self.pool.queue_bytes), (2, 6))
        (sender,) = self.connect()
        self.assertEqual((self.pool.queue_payloads, self.pool.queue_bytes), (0, 0))
        sender.flush()

    def test_withdrawn(self) -> None:
        """What nobody waits for any more does not count."""
        waiter = self.pool.deliver(Payload(b"1234", self.clock.seconds()))
        waiter.cancel()
        self.failureResultOf(waiter)
        self.assertEqual((self.pool.queue_payloads, self.pool.queue_bytes), (0, 0))

    def test_replays(self) -> None:
        """What waits to be sent again is told apart."""
        (sender,) = self.connect()
        sender.break_off(replay=[b"123", b"45"])
        self.assertEqual(self.pool.replay_bytes, 5)
        self.assertEqual(self.pool.queue_bytes, 0)

    def test_oldest(self) -> None:
        """Since when a connection has not answered is known, while it has not."""
        first, _ = self.connect(2)
        self.assertEqual(self.pool.oldest_sent_at(), {})
        self.clock.advance(2)
        self.deliver(b"a")
        self.clock.advance(1)
        self.assertEqual(self.pool.oldest_sent_at(), {first.link: 2})
        first.flush()
        self.assertEqual(self.pool.oldest_sent_at(), {})


class LinkStateTests(SenderTestCase):
    """What is known of a connection, over all that it was."""

    def test_life(self) -> None:
        """Attempts, failures, connections and ends, with the last error."""
        link = self.link
        self.assertEqual((link.is_usable, link.since, link.attempts), (False, None, 1))
        self.reactor.advance(0.25)
        sender, transport = self.connect()
        self.assertEqual((link.is_usable, link.since), (True, 0.25))
        self.assertEqual((link.connects, link.connect_seconds), (1, 0.25))
        self.reactor.advance(1)
        self.lose(sender, transport, ConnectionDone())
        self.assertEqual((link.is_usable, link.since), (False, 1.25))
        self.assertEqual((link.disconnects, link.last_error_at), (1, 1.25))
        self.assertEqual(link.last_error, "the backend closed the connection")
        self.reactor.advance(1)
        self.connector.fail(Failure(ConnectionRefusedError("refused")))
        self.assertEqual((link.failures, link.last_error_at), (1, 2.25))
        self.assertIn("refused", link.last_error)

    def test_hashable(self) -> None:
        """Two connections are never the same, whatever they have counted."""
        self.assertNotEqual(Link(1, "a:1"), Link(1, "a:1"))
        self.assertEqual(len({Link(1, "a:1"), Link(1, "a:1")}), 2)


class RoomTests(SynchronousTestCase):
    """How full the memory for bodies is."""

    def test_refusals(self) -> None:
        """Who waits is counted, and who has waited for nothing."""
        clock = Clock()
        budget = Budget(clock, 100)
        self.assertEqual((budget.limit_bytes, budget.waiting), (100, 0))
        budget.reserve(100, 1)
        waiters: list[Deferred[None]] = [
            budget.reserve(10, 1),
            budget.reserve_next(object(), 10, 2, 0),
        ]
        self.assertEqual(budget.waiting, 2)
        clock.advance(1)
        self.assertEqual((budget.waiting, budget.refusals), (1, 1))
        clock.advance(1)
        self.assertEqual((budget.waiting, budget.refusals), (0, 2))
        for waiter in waiters:
            self.failureResultOf(waiter)


KEY = b"key"


def held(user: bytes, password: bytes, stage: str = "current") -> Credential:
    return Credential("v1", stage, False, password_digest(KEY, password), user)


class LastUseTests(SynchronousTestCase):
    """When credentials were last used, and who was refused last."""

    def setUp(self) -> None:
        self.credentials = Credentials(KEY, {b"ada": (held(b"ada", b"1"),)})

    def authorize(self, pair: str, at: float) -> None:
        self.credentials.authorize(basic(*pair.split(":")).encode(), at)

    def last_used(self) -> dict[bytes, float]:
        return {c.user: c.uses.last_at for c in self.credentials.held()}

    def last_refused(self) -> dict[bytes, float]:
        return {user: uses.last_at for user, uses in self.credentials.refused()}

    def test_used(self) -> None:
        """Each use is one, also of a header that is known."""
        self.assertEqual(self.last_used(), {b"ada": 0})
        for at in (5.0, 6.0):
            self.authorize("ada:1", at)
            self.assertEqual(self.last_used(), {b"ada": at})
        self.assertEqual(self.last_refused(), {b"ada": 0})

    def test_refused(self) -> None:
        """A known user is refused under its name, everybody else together."""
        self.authorize("ada:2", 5.0)
        self.authorize("eve:1", 6.0)
        self.assertEqual(self.last_refused(), {b"ada": 5})
        self.assertEqual(self.credentials.refused_unknown.last_at, 6)
        self.credentials.authorize(b"nonsense", 7.0)
        self.assertEqual(self.credentials.refused_unknown.last_at, 7)

    def test_read_anew(self) -> None:
        """The same password is the same credential, another is not."""
        self.authorize("ada:1", 5.0)
        self.credentials.replace({b"ada": (held(b"ada", b"1", "previous"),)})
        self.assertEqual(self.last_used(), {b"ada": 5})
        self.credentials.replace({b"ada": (held(b"ada", b"2"),)})
        self.assertEqual(self.last_used(), {b"ada": 0})

    def test_gone(self) -> None:
        """Who is gone is still known by name, but not let in."""
        credentials = Credentials(KEY, {})
        self.credentials = credentials
        credentials.replace({b"bob": (held(b"bob", b"1"),)})
        credentials.replace({})
        self.authorize("bob:1", 5.0)
        self.assertEqual(self.last_refused(), {b"bob": 5})
        self.assertEqual(credentials.claimed_user(basic("bob", "x").encode()), b"bob")
        self.assertIsNone(credentials.claimed_user(basic("eve", "x").encode()))
        self.assertIsNone(credentials.claimed_user(b"nonsense"))

    def test_gone_bounded(self) -> None:
        """Of those who are gone no more are known than fit beside the others."""
        for i in range(3):
            users = [b"%d-%d" % (i, n) for n in range(600)]
            self.credentials.replace({u: (held(u, b"1"),) for u in users})
        known = dict(self.credentials.refused())
        self.assertEqual(len(known), 1000)
        self.assertTrue(set(users) < set(known))
