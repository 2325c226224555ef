"""Clients behind PROXY headers, in memory, on both channels."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.proxied import TOLD_SECONDS, ProxiedFactory
from logiss.proxy_header import HEADER_BYTES_MAX
from logiss.site import ChannelSite, Clients, LogsSite
from tests.fakes import outcome
from tests.front import PEER, Front, framed, parse_answers, request, stamped
from tests.http_rows import BODY
from tests.proxy_headers import SIGNATURE, binary, line
from tests.test_channel import Wire
from tests.test_malformed import StockWire

HEADER_SECONDS = 10.0
SITES = ("channel", "logs")

#: Headers, and the address of whoever posts behind them; the proxy's is `PEER`.
HEADERS = [
    (line("203.0.113.9", "192.0.2.80", 40000, 443), "203.0.113.9"),
    (line("2001:db8::1", "2001:db8::80", 40000, 443), "2001:db8::1"),
    (line("::ffff:203.0.113.9", "::1", 40000, 443), "203.0.113.9"),
    (binary("203.0.113.9", "192.0.2.80", 40000, 443), "203.0.113.9"),
    (binary("2001:db8::1", "2001:db8::80", 40000, 443, b"\x04\0\1x"), "2001:db8::1"),
    (b"PROXY UNKNOWN\r\n", PEER),
    (SIGNATURE + b"\x20\x00\0\0", PEER),
    (SIGNATURE + b"\x21\x00\0\0", PEER),
]
FORGED = request(BODY, headers={"X-Forwarded-For": "198.51.100.66"})


def from_address(address: str) -> bytes:
    """What is forwarded of `BODY` from there."""
    return framed(stamped(b"one", address), stamped(b"two", address))


class ProxiedTestCase(SynchronousTestCase):
    """A front door that expects PROXY headers; each test ends on an empty clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wires: list[Wire] = []
        self.refused: list[tuple[int, str, str]] = []
        self.site = "channel"
        self.start()

    def start(self, **settings: Any) -> None:
        self.front = Front(self.clock, proxy_protocol=True, **settings)
        site: Any = self.front.site(self.site)
        if isinstance(site, LogsSite):
            site = Clients(site, self.clock)
        self.behind = site
        self.factory = ProxiedFactory(
            site,
            self.clock,
            HEADER_SECONDS,
            lambda count, address, why: self.refused.append(
                (count, address.host, why)  # type: ignore[attr-defined]
            ),
        )
        self.factory.doStart()

    def on_each_site(self, test: Callable[[], None]) -> None:
        for site in SITES:
            self.end()
            self.site = site
            self.start()
            test()

    def end(self) -> None:
        for wire in self.wires:
            wire.lose()
        self.wires.clear()
        self.factory.doStop()
        self.assertEqual(self.factory.protocols, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def tearDown(self) -> None:
        self.end()

    def connect(self, *reads: bytes) -> Wire:
        wire = StockWire()
        protocol: Any = self.factory.buildProtocol(None)
        wire.protocol = protocol
        protocol.makeConnection(wire)
        self.wires.append(wire)
        for read in reads:
            self.send(wire, read)
        return wire

    def send(self, wire: Wire, octets: bytes) -> None:
        assert wire.protocol is not None
        if wire.connected and not wire.disconnecting:
            wire.protocol.dataReceived(octets)

    def codes(self, wire: Wire) -> list[int]:
        wire.flush_all()
        octets, wire.sent = wire.sent, b""
        return [answer.code for answer in parse_answers(octets)]


class AddressTests(ProxiedTestCase):
    """Whoever is named in the header is the peer."""

    def check(self, octets: bytes, address: str, *reads: bytes) -> None:
        self.front.deliverer.payloads.clear()
        wire = self.connect(*reads)
        self.assertEqual(self.codes(wire), [200], octets)
        self.assertEqual(self.front.deliverer.octets, from_address(address), octets)
        (said,) = self.front.lines.having("remote_addr")[-1:]
        self.assertEqual(said["remote_addr"], address)

    def test_together(self) -> None:
        """With the request in the same read; nobody is believed another address."""

        def test() -> None:
            for octets, address in HEADERS:
                self.check(octets, address, octets + request(BODY))
                self.check(octets, address, octets + FORGED)

        self.on_each_site(test)

    def test_pieces(self) -> None:
        """Byte by byte, and cut anywhere."""

        def test() -> None:
            for octets, address in HEADERS:
                whole = octets + FORGED
                reads = [whole[i : i + 1] for i in range(len(whole))]
                self.check(octets, address, *reads)
                for cut in range(1, len(octets) + 5):
                    self.check(octets, address, whole[:cut], whole[cut:])

        self.on_each_site(test)

    def test_each_connection(self) -> None:
        """Each connection has its own, for all of its posts."""

        def test() -> None:
            wires = [self.connect(octets) for octets, _ in HEADERS]
            for _ in range(2):
                for wire, (_, address) in zip(wires, HEADERS, strict=True):
                    self.front.deliverer.payloads.clear()
                    self.send(wire, request(BODY))
                    self.assertEqual(self.codes(wire), [200])
                    self.assertEqual(self.front.deliverer.octets, from_address(address))

        self.on_each_site(test)

    def test_second_header(self) -> None:
        """A header behind the header is no HTTP."""
        for octets, _ in HEADERS[:5]:
            wire = self.connect(octets + octets + request(BODY))
            wire.flush_all()
            self.assertRegex(wire.sent, rb"^HTTP/1\.1 (400|501) ")
        self.assertEqual(self.front.deliverer.payloads, [])

    def test_trusted(self) -> None:
        """Who is trusted is compared with the address in the header."""

        def test() -> None:
            self.end()
            (octets, address), (other, other_address) = HEADERS[0], HEADERS[1]
            self.start(trusted_proxies=(ip_network(address),))
            self.check(octets, "198.51.100.66", octets + FORGED)
            self.check(other, other_address, other + FORGED)
            # Not with that of who opened the connection.
            self.end()
            self.start(trusted_proxies=(ip_network(PEER),))
            self.check(octets, address, octets + FORGED)

        self.on_each_site(test)

    def test_straight_to_the_socket(self) -> None:
        """The fast channel's answers go straight to the kernel here, too."""
        wire = self.connect(HEADERS[0][0] + request(BODY))
        self.assertIn(b"200 OK", wire.sent)
        self.assertEqual(wire.buffered, b"")

    def test_cut_off(self) -> None:
        """A client that is cut off for its slowness is named by its own address."""
        cut: list[Any] = []
        assert isinstance(self.behind, ChannelSite)
        self.behind._on_cut = lambda count, address, why: cut.append(address)
        self.connect(HEADERS[0][0] + b"POST /logs")
        self.clock.pump([1.0] * 12)
        self.assertEqual([address.host for address in cut], ["203.0.113.9"])


class RefusedTests(ProxiedTestCase):
    """What does not begin with a header is closed without an answer."""

    bad = (
        FORGED,
        b"\0",
        b"PROXY TCP4 x y 1 2\r\n" + FORGED,
        b'PROXY TCP4 "] [forged] 1 2\r\n' + FORGED,
        b"PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n" + FORGED,
        b"PROXY TCP4 192.0.2.1 192.0.2.1 1 2\n" + FORGED,
        SIGNATURE + b"\x21\x11\0\x04abcd" + FORGED,
        SIGNATURE + b"\x11\x11\0\x0c" + b"x" * 12 + FORGED,
        # The good one behind it is not looked for.
        b"x" + HEADERS[0][0] + FORGED,
    )

    def test_wrong(self) -> None:
        """Whole or byte by byte; nothing behind it is served."""

        def test() -> None:
            for octets in self.bad:
                pieces = [octets[i : i + 1] for i in range(len(octets))]
                for reads in ([octets], pieces, [octets, HEADERS[0][0] + FORGED]):
                    wire = self.connect(*reads)
                    wire.flush_all()
                    self.assertEqual(wire.sent, b"", octets)
                    self.assertTrue(wire.is_ended, octets)
                    wire.lose()
            self.assertEqual(self.front.deliverer.payloads, [])
            self.assertEqual(self.front.lines.raw, [])

        self.on_each_site(test)

    def test_endless(self) -> None:
        """One that never ends is refused while it comes."""
        for start in (b"PROXY UNKNOWN ", SIGNATURE + b"\x20\x00\xff\xff"):
            wire = self.connect(start)
            sent = 0
            while not wire.is_ended:
                self.assertLessEqual(sent, HEADER_BYTES_MAX)
                self.send(wire, b"x" * 100)
                sent += 100

    def test_late(self) -> None:
        """One that is not whole in time is closed, whatever has come of it."""

        def test() -> None:
            for octets, _ in HEADERS:
                for start in (b"", octets[:1], octets[:-1]):
                    wire = self.connect(start)
                    self.clock.advance(HEADER_SECONDS / 2)
                    self.send(wire, b"")
                    self.clock.advance(HEADER_SECONDS / 2 - 0.1)
                    self.assertFalse(wire.is_closed)
                    self.clock.advance(0.2)
                    self.assertTrue(wire.is_ended, start)
                    self.assertEqual(wire.sent, b"")
                    wire.lose()
            self.clock.advance(TOLD_SECONDS)
            self.assertIn((1, PEER, "no whole PROXY header within 10 s"), self.refused)

        self.on_each_site(test)

    def test_in_time(self) -> None:
        """A header that is there has no deadline any more."""
        wire = self.connect(HEADERS[0][0])
        self.clock.advance(HEADER_SECONDS + 1)
        self.send(wire, request(BODY))
        self.assertEqual(self.codes(wire), [200])
        self.assertEqual(self.refused, [])

    def test_gone(self) -> None:
        """One that goes before its header is there leaves nothing and is not told."""
        for start in (b"", b"PROXY ", HEADERS[0][0]):
            self.connect(start).lose()
        self.clock.advance(HEADER_SECONDS + TOLD_SECONDS)
        self.assertEqual(self.refused, [])

    def test_told_once_a_second(self) -> None:
        """However many are refused, it is told once a second, with their number."""
        for _ in range(50):
            self.connect(b"x").lose()
        self.assertEqual(self.refused, [])
        self.clock.advance(TOLD_SECONDS)
        self.assertEqual(self.refused, [(50, PEER, "no PROXY header")])
        self.clock.advance(10 * TOLD_SECONDS)
        self.assertEqual(len(self.refused), 1)
        self.connect(b"PROXY \r\n").lose()
        self.clock.advance(TOLD_SECONDS)
        self.assertEqual(self.refused[1:], [(1, PEER, "PROXY header malformed")])

    def test_told_at_the_end(self) -> None:
        """Who stops the factory is told before."""
        self.connect(b"x").lose()
        self.factory.doStop()
        self.assertEqual(self.refused, [(1, PEER, "no PROXY header")])
        self.factory.doStart()


class GoodbyeTests(ProxiedTestCase):
    """All connections are closed, whatever has come of them."""

    def test_goodbye(self) -> None:
        """Those without a header at once, the others behind their answers."""

        def test() -> None:
            self.front.deliverer.at_once = False
            mute, half = self.connect(), self.connect(b"PROXY TCP4")
            idle = self.connect(HEADERS[0][0])
            busy = self.connect(HEADERS[0][0] + request(BODY))
            said = outcome(Deferred.fromCoroutine(self.factory.say_goodbye(5.0)))
            for wire in (mute, half, idle):
                wire.flush_all()
                self.assertTrue(wire.is_closed)
                self.assertEqual(wire.sent, b"")
                wire.lose()
            self.assertEqual(said(), [])
            if self.site == "channel":
                self.front.deliverer.waiters[-1].callback(None)
                self.assertEqual(self.codes(busy), [200])
            busy.flush_all()
            self.assertTrue(busy.is_closed)
            busy.lose()
            self.clock.pump([0.1] * 3)
            self.assertEqual(said(), [None])
            self.clock.advance(HEADER_SECONDS + TOLD_SECONDS)
            self.assertEqual(self.refused, [])

        self.on_each_site(test)

    def test_too_late_for_a_header(self) -> None:
        """A header that comes behind the goodbye begins nothing."""
        wire = self.connect(b"PROXY ")
        said = outcome(Deferred.fromCoroutine(self.factory.say_goodbye(1.0)))
        assert wire.protocol is not None
        wire.protocol.dataReceived(HEADERS[0][0][6:] + request(BODY))
        wire.flush_all()
        self.assertEqual(wire.sent, b"")
        self.assertEqual(self.front.deliverer.payloads, [])
        self.assertEqual(said(), [None])
