"""
Who leaves lets nobody else in, answers whatever was begun, and ends each connection
behind an answer.
"""

from types import SimpleNamespace
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from logiss import service
from logiss.drain import Drain
from logiss.facts import Clients as ConnectedClients
from logiss.proxied import ProxiedFactory
from logiss.service import LEFT_POLL_SECONDS, TABLE_SECONDS, LogissService
from logiss.site import ChannelSite, Clients, LogsSite
from logiss.variables import RedisURL
from tests.fakes import Lines, outcome
from tests.front import Front, HTTPAnswer, parse_answers, request
from tests.http_rows import BODY
from tests.test_channel import Wire as ChannelWire
from tests.test_malformed import StockWire
from tests.test_service import settings

SITES = ("channel", "logs")
POST = request(BODY)
HEALTH = request(method="GET", path="/health")


class Wire(StockWire):
    """
    A connection on whose way here there may be more.

    @ivar coming: what has not been read yet.
    """

    coming: bytes | None = None

    def recv(self, size: int, flags: int) -> bytes:
        if self.coming is None:
            raise BlockingIOError
        return self.coming[:size]


class LeavingTestCase(SynchronousTestCase):
    """A front door, on either site; each test ends on an empty clock."""

    site_name = "channel"

    def setUp(self) -> None:
        self.clock = Clock()
        self.front = Front(self.clock)
        self.wires: list[Wire] = []
        site: Any = self.front.site(self.site_name)
        if isinstance(site, LogsSite):
            site = Clients(site, self.clock)
        self.clients: Clients | ChannelSite = site
        site.doStart()

    def tearDown(self) -> None:
        for wire in self.wires:
            wire.lose()
        self.clients.doStop()
        goodbye = outcome(Deferred.fromCoroutine(self.clients.say_goodbye(1.0)))
        self.assertEqual(goodbye(), [None])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def leave(self) -> None:
        """Nobody else is let in, and each answer is the last."""
        self.clients.doStop()
        self.clients.announce_end()

    def connect(self, octets: bytes = b"") -> Wire:
        wire = Wire()
        protocol: Any = self.clients.buildProtocol(None)
        wire.protocol = protocol
        protocol.makeConnection(wire)
        self.wires.append(wire)
        self.send(wire, octets)
        return wire

    def send(self, wire: ChannelWire, octets: bytes) -> None:
        assert wire.protocol is not None
        if octets:
            wire.protocol.dataReceived(octets)

    def answers(self, wire: ChannelWire) -> list[HTTPAnswer]:
        """What has been answered since the last call."""
        wire.flush_all()
        octets, wire.sent = wire.sent, b""
        return parse_answers(octets)

    def ends(self, wire: ChannelWire) -> list[tuple[int, bool]]:
        """Of each answer the status, and whether it says to be the last."""
        return [
            (answer.code, answer.headers.get("connection") == "close")
            for answer in self.answers(wire)
        ]


class LastAnswerTests(LeavingTestCase):
    """From `announce_end` on, the next answer of each connection is its last."""

    def test_before(self) -> None:
        """Until then none is."""
        wire = self.connect(POST)
        self.send(wire, HEALTH)
        self.assertEqual(self.ends(wire), [(200, False), (200, False)])
        self.assertFalse(wire.is_closed)

    def test_next(self) -> None:
        """Whoever had an answer that was not gets one more."""
        wires = [self.connect(POST), self.connect(HEALTH), self.connect()]
        for wire in wires:
            self.ends(wire)
        self.leave()
        for wire, octets, code in zip(
            wires, (POST, HEALTH, request(path="/nope")), (200, 200, 404), strict=True
        ):
            self.assertFalse(wire.is_closed)
            self.send(wire, octets)
            self.assertEqual(self.ends(wire), [(code, True)])
            self.assertTrue(wire.is_closed)

    def test_under_way(self) -> None:
        """An answer that is waited for is the last, too."""
        self.front.deliverer.at_once = False
        wire = self.connect(POST)
        self.leave()
        self.front.deliverer.waiters[0].callback(None)
        self.assertEqual(self.ends(wire), [(200, True)])

    def test_begun(self) -> None:
        """So is that to a request of which a part was there."""
        for size in (1, 20, len(POST) - 1):
            self.setUp()
            wire = self.connect(POST[:size])
            self.leave()
            self.send(wire, POST[size:])
            self.assertEqual(self.ends(wire), [(200, True)])
            self.tearDown()

    def test_several(self) -> None:
        """What the client has sent behind it is answered before."""
        for at_once in (True, False):
            self.setUp()
            self.front.deliverer.at_once = at_once
            wire = self.connect()
            self.leave()
            self.send(wire, POST * 3)
            if not at_once:
                for i in range(3):
                    self.front.deliverer.waiters[i].callback(None)
            self.assertEqual(self.ends(wire), [(200, False), (200, False), (200, True)])
            self.tearDown()

    def test_announced_meanwhile(self) -> None:
        """Requests that were read before and wait for their turn are as well."""
        self.front.deliverer.at_once = False
        wire = self.connect(POST * 2)
        self.leave()
        for i in range(2):
            self.front.deliverer.waiters[i].callback(None)
        self.assertEqual(self.ends(wire), [(200, False), (200, True)])


class StockLastAnswerTests(LastAnswerTests):
    """The same on twisted.web's own channel."""

    site_name = "logs"


class KernelTests(LeavingTestCase):
    """What nobody has read yet, but is there, is answered before as well."""

    def test_coming(self) -> None:
        """Only an end that is there means that nothing comes."""
        for coming, is_last in ((b"P", False), (b"", True), (None, True)):
            wire = self.connect()
            wire.coming = coming
            self.leave()
            self.send(wire, POST)
            self.assertEqual(self.ends(wire), [(200, is_last)])

    def test_not_asked(self) -> None:
        """As long as nobody leaves the kernel is not asked."""
        wire = self.connect()
        wire.recv = None  # type: ignore[assignment, method-assign]
        self.send(wire, POST)
        self.assertEqual(self.ends(wire), [(200, False)])

    def test_slow_body(self) -> None:
        """Who is refused in the middle of a body may go on sending it, for long."""
        head = request(
            headers={"Authorization": "Basic eDp5", "Content-Length": "100000"}
        )
        self.leave()
        wire = self.connect(head)
        self.assertEqual(self.ends(wire), [(401, True)])
        self.clock.pump([1.0] * 20)
        self.send(wire, b"x" * 1000)
        self.assertFalse(wire.is_aborted)
        self.clock.pump([1.0] * 11)
        self.assertTrue(wire.is_aborted)


class IdleTests(LeavingTestCase):
    """`dismiss_idle` ends the connections on which nothing is under way."""

    def test_idle(self) -> None:
        """With or without a request before."""
        wires = [self.connect(POST), self.connect()]
        self.ends(wires[0])
        self.leave()
        self.assertEqual(self.clients.connected, 2)
        self.clients.dismiss_idle()
        for wire in wires:
            self.assertEqual(self.ends(wire), [])
            self.assertTrue(wire.is_closed)
            wire.lose()
        self.assertEqual(self.clients.connected, 0)

    def test_busy(self) -> None:
        """Whoever has begun has his answer."""
        self.front.deliverer.at_once = False
        sizes = (1, 20, len(POST) - 1, len(POST))
        wires = [self.connect(POST[:size]) for size in sizes]
        self.leave()
        self.clients.dismiss_idle()
        for wire, size in zip(wires, sizes, strict=True):
            self.send(wire, POST[size:])
        for waiter in self.front.deliverer.waiters:
            waiter.callback(None)
        self.assertEqual(len(self.front.deliverer.waiters), 4)
        for wire in wires:
            self.assertEqual(self.ends(wire), [(200, True)])


class StockIdleTests(IdleTests):
    """The same on twisted.web's own channel."""

    site_name = "logs"


class BeatTests(LeavingTestCase):
    """Those who are there have their deadlines, and answers their date."""

    def test_date(self) -> None:
        """An answer has the date of now."""
        wire = self.connect()
        self.leave()
        self.clock.pump([1.0] * 5)
        self.send(wire, POST)
        (answer,) = self.answers(wire)
        self.assertEqual(answer.headers["date"], "Thu, 01 Jan 1970 00:00:05 GMT")

    def test_late(self) -> None:
        """Who is too slow with a head is cut off."""
        wire = self.connect(b"POST /logs")
        self.leave()
        self.clock.pump([1.0] * 12)
        self.assertTrue(wire.is_aborted)

    def test_again(self) -> None:
        """It may be announced before the listening ends, as well as behind that."""
        self.clients.announce_end()
        self.leave()
        self.clients.announce_end()


class ProxiedLeavingTests(LeavingTestCase):
    """Behind PROXY headers it is the same."""

    HEADER = b"PROXY TCP4 192.0.2.1 192.0.2.2 5555 80\r\n"

    def setUp(self) -> None:
        super().setUp()
        self.clients.doStop()
        self.clients = ProxiedFactory(  # type: ignore[assignment]
            self.clients, self.clock, 10.0, lambda count, address, why: None
        )
        self.clients.doStart()

    def test_proxied(self) -> None:
        """The header may come before or behind, and does not make a client busy."""
        wires = [self.connect(self.HEADER), self.connect(), self.connect(self.HEADER)]
        self.leave()
        self.assertEqual(self.clients.connected, 3)
        self.send(wires[0], POST)
        self.send(wires[1], self.HEADER + POST)
        for wire in wires[:2]:
            self.assertEqual(self.ends(wire), [(200, True)])
        self.clients.dismiss_idle()
        self.assertTrue(wires[2].is_closed)


class StockProxiedLeavingTests(ProxiedLeavingTests):
    """The same on twisted.web's own channel."""

    site_name = "logs"


class AnnouncedTests(LeavingTestCase):
    """A drain that is announced is told to load balancers, and to nobody else."""

    def test_drain(self) -> None:
        """Posts may enter until it begins."""
        drain = Drain()
        self.assertFalse(drain.announced)
        drain.announce()
        self.assertTrue(drain.announced)
        self.assertFalse(drain.draining)
        self.assertTrue(drain.enter())
        drain.leave()
        drain.begin(lambda: None)
        self.assertFalse(drain.enter())

    def test_begun(self) -> None:
        """One that has begun is as good as announced."""
        drain = Drain()
        drain.begin(lambda: None)
        self.assertTrue(drain.announced)

    def test_answers(self) -> None:
        """/health and /ready say 503, a post is answered 200."""
        self.front.drain.announce()
        for path, code in (("/health", 503), ("/ready", 503)):
            wire = self.connect(request(method="GET", path=path))
            (answer,) = self.answers(wire)
            self.assertEqual((answer.code, answer.body), (code, b"Shutting down\n"))
        self.assertEqual(self.ends(self.connect(POST)), [(200, False)])


class StockAnnouncedTests(AnnouncedTests):
    """The same on twisted.web's own channel."""

    site_name = "logs"


class FakeClients:
    """
    Some of whom one never goes.

    @ivar told: what they were told, and when.
    """

    connected = 1

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.told: list[tuple[str, float]] = []

    def _tell(self, what: str) -> None:
        self.told.append((what, self._clock.seconds()))

    def announce_end(self) -> None:
        self._tell("announce")

    def dismiss_idle(self) -> None:
        self._tell("dismiss")

    async def say_goodbye(self, within_seconds: float) -> None:
        self._tell("goodbye")


class HouseTests(SynchronousTestCase):
    """`LogissService`: prepared, accepting, leaving, draining."""

    channel = "fast"

    def setUp(self) -> None:
        self.patch(service, "why_no_acknowledgements", lambda: "")
        self.reactor: Any = MemoryReactorClock()
        self.lines = Lines()

    def house(self, **changes: Any) -> LogissService:
        changes = {"http_channel": self.channel, **changes}
        house = LogissService(
            self.reactor,
            evolve(settings("sent"), **changes),
            self.lines.write,
            worker=3,
        )
        house.prepare()
        self.stopped: list[str] = []
        return house

    def accept(self, house: LogissService) -> None:
        house.accept()
        port: Any = house._port
        port._port.stopListening = lambda: self.stopped.append("listening")

    def connect(self, octets: bytes = b"") -> Wire:
        wire = Wire()
        wire.protocol = protocol = self.reactor.tcpServers[0][1].buildProtocol(None)
        protocol.makeConnection(wire)
        if octets:
            protocol.dataReceived(octets)
        return wire

    def phases(self) -> list[str]:
        return [line["at"] for line in self.lines.pairs if "at" in line]

    def test_prepared(self) -> None:
        """It connects to the backend at once, and listens when it is told to."""
        house = self.house(forward_count=2)
        self.assertEqual(len(self.reactor.tcpClients), 2)
        self.assertEqual(self.reactor.tcpServers, [])
        self.assertEqual(self.phases(), ["start"])
        self.accept(house)
        self.assertEqual([s[0] for s in self.reactor.tcpServers], [5000])
        self.assertEqual(self.phases(), ["start", "listen"])
        self.assertEqual({line["worker"] for line in self.lines.pairs}, {"3"})

    def test_has(self) -> None:
        """It says whether it has a backend connection, and whether credentials."""
        house = self.house()
        self.assertEqual(house.has, (False, True))
        pool: Any = SimpleNamespace(connected=1)
        house.forwarder.pool = pool
        self.assertEqual(house.has, (True, True))
        house.admission.credentials.is_loaded = False
        self.assertEqual(house.has, (True, False))

    def test_awaits_table(self) -> None:
        """With the table of retried posts, unless that takes too long."""
        for is_soon in (True, False):
            house = self.house(dedupe_redis=True, redis_url=RedisURL("127.0.0.1"))
            pool: Any = SimpleNamespace(connected=1)
            house.forwarder.pool = pool
            shared: Any = SimpleNamespace(is_usable=False)
            house._shared = shared
            self.assertFalse(house.has[1])
            self.reactor.advance(TABLE_SECONDS - 0.01)
            self.assertFalse(house.has[1])
            if is_soon:
                shared.is_usable = True
            else:
                self.reactor.advance(0.02)
            self.assertTrue(house.has[1])

    def leave(self, house: LogissService, within_seconds: float = 60.0) -> Any:
        return outcome(Deferred.fromCoroutine(house.leave(within_seconds)))

    def test_leave_alone(self) -> None:
        """With nobody connected it has left at once; posts could still be answered."""
        house = self.house()
        self.accept(house)
        left = self.leave(house)
        self.assertEqual((self.stopped, left()), (["listening"], [None]))
        self.assertFalse(house.drain.announced)

    def test_leave(self) -> None:
        """It waits for the last client, however busy, and turns the idle ones out."""
        house = self.house(header_timeout_seconds=20.0)
        self.accept(house)
        idle, gone, busy = self.connect(), self.connect(), self.connect(POST[:20])
        left = self.leave(house, 10.0)
        self.assertEqual(self.lines.having("at", "leave")[0]["clients"], "3")
        gone.lose()
        self.reactor.advance(9.0)
        self.assertFalse(idle.is_closed)
        self.reactor.advance(1.0)
        self.assertTrue(idle.is_closed)
        self.assertFalse(busy.is_closed)
        idle.lose()
        self.reactor.advance(5.0)
        self.assertEqual(left(), [])
        busy.lose()
        self.reactor.advance(LEFT_POLL_SECONDS)
        self.assertEqual(left(), [None])

    def test_counted(self) -> None:
        """Those who are there still count, and that is as many as there may be."""
        house = self.house()
        self.accept(house)
        wire = self.connect()
        port: Any = house._port
        port._accepting.pauses = 3
        self.leave(house)
        self.assertEqual(house.watch.facts().clients, ConnectedClients(1, 1, 3))
        self.assertEqual(house.counts, (1, 0))
        wire.lose()
        self.assertEqual(house.watch.facts().clients, ConnectedClients(0, 0, 3))

    def test_leave_never(self) -> None:
        """Who neither ends nor goes is turned out when all deadlines are over."""
        house = self.house()
        self.accept(house)
        clients: Any = FakeClients(self.reactor)
        house._clients = clients
        left = self.leave(house, 10.0)
        for _ in range(60):
            self.reactor.advance(1.0)
        # Those of a head, of a body and of a delivery.
        deadlines = 10.0 + 30.0 + 5.0
        self.assertEqual(
            clients.told,
            [("announce", 0.0), ("dismiss", 10.0), ("goodbye", 10.0 + deadlines)],
        )
        self.assertEqual(left(), [None])

    def test_drained_meanwhile(self) -> None:
        """A drain puts an end to it, and to the clients."""
        house = self.house()
        self.accept(house)
        wire = self.connect()
        left = self.leave(house)
        house.stopService()
        self.assertTrue(house.drain.draining)
        self.reactor.advance(LEFT_POLL_SECONDS)
        self.assertEqual(left(), [None])
        self.assertFalse(wire.is_closed)
        self.reactor.advance(1.0)
        self.assertTrue(wire.is_closed)

    def test_delay(self) -> None:
        """With DRAIN_DELAY posts enter so long, and it listens until the drain."""
        house = self.house(drain_delay_seconds=2.0)
        self.accept(house)
        house.stopService()
        self.assertTrue(house.drain.announced)
        self.reactor.advance(1.9)
        self.assertFalse(house.drain.draining)
        self.assertEqual(self.stopped, [])
        self.assertEqual(self.phases(), ["start", "listen", "drain-delay"])
        wire = self.connect(HEALTH)
        self.assertIn(b"\r\nConnection: close\r\n", wire.sent + wire.buffered)
        self.reactor.advance(0.2)
        self.assertTrue(house.drain.draining)

    def test_delay_while_leaving(self) -> None:
        """Those who are still there have DRAIN_DELAY too, and nobody waits for none."""
        house = self.house(drain_delay_seconds=2.0)
        self.accept(house)
        wire = self.connect()
        self.leave(house)
        house.stopService()
        self.reactor.pump([LEFT_POLL_SECONDS] * 20)
        self.assertTrue(house.drain.announced)
        self.assertFalse(house.drain.draining)
        wire.lose()
        self.reactor.advance(LEFT_POLL_SECONDS)
        self.assertTrue(house.drain.draining)

    def test_no_delay(self) -> None:
        """Without it the drain begins at once."""
        house = self.house()
        self.accept(house)
        house.stopService()
        self.assertTrue(house.drain.draining)
        self.assertNotIn("drain-delay", self.phases())


class StockHouseTests(HouseTests):
    """The same on twisted.web's own channel."""

    channel = "stock"
