"""
Each limit of the HTTP reference is a setting: it is breached, and a healthy client
beside it notices nothing.

How many connections there may be is in `tests.integration.test_listening`.
"""

import gzip
from typing import Any

from attrs import Factory, fields, frozen
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.settings import Settings
from logiss.site import READ_BYTES
from tests.front import Connection, Front, framed, message, request, stamped

HEALTHY = request(framed(message(b"healthy")))
FORWARDED = framed(stamped(b"healthy"))
GZIP: dict[str, str | None] = {"Content-Encoding": "gzip"}
CUT = 0
LINES = framed(*[message(b"x" * 500)] * 10)


@frozen
class Breach:
    """
    @ivar limit: the setting, and what it is set to.
    @ivar octets: what is sent, a step each second.
    @ivar code: of the answer; `CUT` when the connection ends without one.
    @ivar within: what passes just within the limit.
    @ivar on_stock: whether twisted.web's own channel does the same.
    @ivar more: other settings.
    @ivar seconds: until then it has happened.
    """

    limit: dict[str, Any]
    octets: list[bytes]
    code: int
    within: bytes = b""
    on_stock: bool = False
    more: dict[str, Any] = Factory(dict)
    seconds: float = 0.0


def with_fields(count: int) -> bytes:
    """A post with `count` fields, of which five are of a usual one."""
    assert request(b"").count(b"\r\n") == 6
    more = [(f"X-{i}", "y") for i in range(count - 4)]
    return request(framed(message()), more=more)


def with_headers(size: int) -> bytes:
    """A post with `size` octets of header fields."""
    head, end, body = request(framed(message()), more=[("X", "")]).partition(
        b"\r\n\r\n"
    )
    line = len(head.partition(b"\r\n")[0]) + 2
    return head + b"y" * (size - (len(head) + 2 - line)) + end + body


def with_line(size: int) -> bytes:
    """A post with `size` octets of request line."""
    line = len(b"POST /logs? HTTP/1.1\r\n")
    return request(framed(message()), path="/logs?" + "q" * (size - line))


def gzipped(body: bytes, members: int = 1) -> bytes:
    pieces = [body[i::members] for i in range(members)] if members > 1 else [body]
    return request(b"".join(map(gzip.compress, pieces)), headers=GZIP)


def of_members(count: int) -> bytes:
    one = gzip.compress(framed(message()))
    return request(one * count, headers=GZIP)


BOMB = framed(message(b"x" * 100_000)) * 12
MIB = 1024 * 1024

BREACHES = {
    "header deadline": Breach(
        {"header_timeout_seconds": 3.0}, [HEALTHY[:20]], CUT, seconds=5
    ),
    "body deadline": Breach(
        {"body_timeout_seconds": 4.0}, [request(LINES)[:-10]], CUT, seconds=6
    ),
    "slowest rate": Breach(
        {"body_rate": 2000},
        [request(LINES)[:-5000], *[b"x" * 500] * 5],
        CUT,
        seconds=6,
    ),
    "keep-alive": Breach(
        {"keepalive_timeout_seconds": 3.0}, [HEALTHY], CUT, on_stock=True, seconds=5
    ),
    "header bytes": Breach(
        {"max_header_bytes": 2048}, [with_headers(2049)], 431, with_headers(2048)
    ),
    "header fields": Breach(
        {"max_header_fields": 20}, [with_fields(21)], 431, with_fields(20)
    ),
    "request line": Breach(
        {"max_request_line_bytes": 1024}, [with_line(1025)], 414, with_line(1024)
    ),
    "body": Breach(
        {"max_body_bytes": len(LINES) - 1},
        [request(LINES)],
        413,
        request(LINES[: len(LINES) // 10]),
        on_stock=True,
    ),
    "body, chunked": Breach(
        {"max_body_bytes": len(LINES) - 1},
        [request(chunks=[LINES])],
        413,
        request(chunks=[LINES[: len(LINES) // 10]]),
        on_stock=True,
    ),
    "inflated": Breach(
        {"max_body_bytes": len(LINES) - 1}, [gzipped(LINES)], 413, on_stock=True
    ),
    "ratio": Breach(
        {"max_gzip_ratio": 100}, [gzipped(BOMB)], 413, gzipped(LINES), on_stock=True
    ),
    "gzip members": Breach(
        {"max_gzip_members": 3}, [of_members(4)], 400, of_members(3), on_stock=True
    ),
    "frames": Breach(
        {"max_frames": 9},
        [request(LINES)],
        413,
        request(LINES[: len(LINES) // 10 * 9]),
        on_stock=True,
    ),
    "frame bytes": Breach(
        {"max_frame_bytes": 500}, [request(LINES)], 413, HEALTHY, on_stock=True
    ),
    "read ahead": Breach(
        {"read_ahead_bytes": 100}, [HEALTHY, b"G" * 101], CUT, more={}, seconds=0
    ),
    "in flight": Breach(
        {"max_inflight_bytes": 4 * MIB},
        [request(LINES * 180)],
        503,
        more={"max_body_bytes": MIB},
    ),
}


class BreachTests(SynchronousTestCase):
    """Every row, beside a client that posts once a second."""

    def setUp(self) -> None:
        self.clock = Clock()

    def begin(self, breach: Breach, site: str) -> Any:
        self.front = Front(self.clock, **breach.limit, **breach.more)
        served = self.front.site(site)
        self.healthy = Connection(served)
        return served

    def post_healthily(self) -> None:
        before = len(self.front.deliverer.payloads)
        self.healthy.send(HEALTHY)
        (answer,) = self.healthy.answers()
        self.assertEqual(answer.code, 200)
        posted = self.front.deliverer.payloads[before:]
        self.assertEqual([payload.octets for payload in posted], [FORWARDED])

    def check(self, name: str, breach: Breach, site: str) -> None:
        served = self.begin(breach, site)
        if breach.within:
            within = Connection(served)
            within.send(breach.within)
            self.assertEqual([a.code for a in within.answers()], [200], (name, site))
            within.hang_up()
        bad = Connection(served)
        codes: list[int] = []
        steps = list(breach.octets)
        for _ in range(max(len(steps), int(breach.seconds)) + 1):
            self.post_healthily()
            if steps and bad.transport.connected:
                bad.send(steps.pop(0))
            self.post_healthily()
            codes += [answer.code for answer in bad.answers()]
            self.clock.advance(1)
        if site == "channel" or breach.code == CUT:
            self.assertFalse(bad.transport.connected, (name, site))
        served_first = [200] if breach.octets[0] == HEALTHY else []
        expected = [breach.code] if breach.code != CUT else []
        self.assertEqual(codes, served_first + expected, (name, site))
        self.assertTrue(self.healthy.transport.connected)
        self.healthy.hang_up()
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)
        self.assertEqual(self.front.drain.inside, 0)
        while served.numPorts:
            served.doStop()

    def test_on_the_channel(self) -> None:
        """On the daemon's channel."""
        for name, breach in BREACHES.items():
            if name not in ("read ahead", "in flight"):
                self.check(name, breach, "channel")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_on_stock(self) -> None:
        """On twisted.web's own, those that it allows."""
        for name, breach in BREACHES.items():
            if breach.on_stock:
                self.check(name, breach, "logs")

    def test_read_ahead(self) -> None:
        """Reading pauses, and goes on when the post in front is answered."""
        breach = BREACHES["read ahead"]
        served = self.begin(breach, "channel")
        bad = Connection(served)
        self.front.deliverer.at_once = False
        for octets in breach.octets:
            self.assertEqual(bad.transport.producerState, "producing")
            bad.send(octets)
        self.assertEqual(bad.transport.producerState, "paused")
        self.front.deliverer.at_once = True
        self.post_healthily()
        self.front.deliverer.waiters[0].callback(None)
        self.assertEqual(bad.transport.producerState, "producing")
        self.post_healthily()

    def test_in_flight(self) -> None:
        """Large bodies wait for room and are 503; small posts find room."""
        breach = BREACHES["in flight"]
        served = self.begin(breach, "channel")
        crowd = {Connection(served): breach.octets[0][:-10] for _ in range(50)}
        codes: list[int] = []
        for _ in range(7):
            for _ in range(20):
                for connection, octets in crowd.items():
                    transport: Any = connection.transport
                    size = getattr(transport, "bufferSize", READ_BYTES)
                    if transport.producerState == "producing" and transport.connected:
                        connection.send(octets[:size])
                        crowd[connection] = octets[size:]
            self.post_healthily()
            codes += [a.code for c in crowd for a in c.answers()]
            self.clock.advance(1)
        self.assertEqual(set(codes), {breach.code})
        self.assertGreater(len(codes), 30)
        self.post_healthily()

    def test_each_is_a_setting(self) -> None:
        """The rows are those of all settings that limit, but for connections."""
        named = {name for breach in BREACHES.values() for name in breach.limit}
        settings = {
            f.name
            for f in fields(Settings)
            if f.name.startswith(("max_", "header_", "body_", "keepalive_", "read_"))
        }
        self.assertEqual(named, settings - {"max_connections"})
