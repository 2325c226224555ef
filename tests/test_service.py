"""What is built of the settings, and what a platform has against them."""

import errno
import os
import sys
from typing import Any

from attrs import evolve
from twisted.internet.address import IPv6Address
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from logiss import descriptors, service, wire
from logiss.admission import Admission
from logiss.dedupe import SharedRetries
from logiss.metrics import Metrics
from logiss.proxied import ProxiedFactory
from logiss.service import (
    Forwarder,
    LogissService,
    platform_problems,
    shared_retries,
)
from logiss.settings import Settings, SettingsError
from logiss.variables import Destination, RedisURL
from logiss.wire import why_no_acknowledgements
from tests.fakes import Lines
from tests.front import Front

SYSLOG = Destination("192.0.2.1", 601)
RELP = (Destination("192.0.2.1", 2514, "relp"),)
RELP_TLS = (Destination("192.0.2.1", 2514, "relp+tls"),)

#: Level and destinations for which nobody asks the kernel.
UNASKING = [
    ("sent", (SYSLOG,)),
    ("sent", RELP),
    ("acked", RELP),
    ("acked", RELP_TLS),
]


def settings(delivery: str = "acked", forward_dest: Any = SYSLOG) -> Settings:
    return Settings(
        deploy="test",
        port=5000,
        forward_dest=forward_dest,
        tokens=(("user", "token"),),
        delivery=delivery,
    )


class ReasonTests(SynchronousTestCase):
    """`why_no_acknowledgements` says what is missing."""

    def setUp(self) -> None:
        # As if on Linux, wherever this runs.
        self.patch(sys, "platform", "linux")
        self.patch(wire, "_SIOCOUTQ", 0x5411)
        self.patch(wire, "ioctl", self.ioctl)
        self.asked: list[int] = []

    def ioctl(self, fd: int, request: int, octets: bytes) -> bytes:
        self.asked.append(request)
        return octets

    def test_nothing(self) -> None:
        """Where the kernel answers, nothing is missing."""
        self.assertEqual(why_no_acknowledgements(), "")
        self.assertEqual(self.asked, [0x5411])

    def test_no_such_number(self) -> None:
        """A Python that does not know the ioctl's number cannot ask."""
        self.patch(wire, "_SIOCOUTQ", 0)
        self.assertEqual(
            why_no_acknowledgements(),
            "needs Linux's SIOCOUTQ, which linux does not have",
        )
        self.assertEqual(self.asked, [])

    def test_other_platforms(self) -> None:
        """
        Elsewhere the platform is named, and not asked: the number means something
        else there.
        """
        for platform in ("darwin", "freebsd14", "win32"):
            self.patch(sys, "platform", platform)
            self.assertEqual(
                why_no_acknowledgements(),
                f"needs Linux's SIOCOUTQ, which {platform} does not have",
            )
        self.assertEqual(self.asked, [])

    def test_refused(self) -> None:
        """A system that refuses the ioctl, as a sandbox may, is quoted."""

        def refuse(fd: int, request: int, octets: bytes) -> bytes:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

        self.patch(wire, "ioctl", refuse)
        self.assertEqual(
            why_no_acknowledgements(),
            "needs the ioctl SIOCOUTQ, which this system refuses: "
            + os.strerror(errno.ENOTTY),
        )


class ProblemTests(SynchronousTestCase):
    """Who asks for `acked` is told what this platform has against it."""

    LINE = "DELIVERY: 'acked' needs what is not here; set DELIVERY=sent"

    def setUp(self) -> None:
        self.patch(service, "why_no_acknowledgements", lambda: "needs what is not here")
        self.reactor: Any = MemoryReactorClock()
        self.lines = Lines()

    def forwarder(self, settings: Settings) -> Forwarder:
        return Forwarder(self.reactor, settings, self.lines.events())

    def test_acked(self) -> None:
        """It is one line that begins with the variable and says what to do."""
        self.assertEqual(platform_problems(settings()), [self.LINE])

    def test_unasking(self) -> None:
        """`sent` needs no acknowledgements of TCP's, and RELP has its own."""
        for delivery, forward_dest in UNASKING:
            self.assertEqual(platform_problems(settings(delivery, forward_dest)), [])

    def test_able(self) -> None:
        """A platform that can say what was acknowledged has nothing against it."""
        self.patch(service, "why_no_acknowledgements", lambda: "")
        self.assertEqual(platform_problems(settings()), [])
        self.forwarder(settings())

    def test_embedded(self) -> None:
        """Another application is told when it builds, before anything is started."""
        with self.assertRaises(SettingsError) as raised:
            self.forwarder(settings())
        self.assertEqual(raised.exception.problems, [self.LINE])
        with self.assertRaises(SettingsError) as raised:
            LogissService(self.reactor, settings(), self.lines.write)
        self.assertEqual(raised.exception.problems, [self.LINE])
        self.assertEqual(self.lines.raw, [])

    def test_embedded_unasking(self) -> None:
        """One that does not ask for it is built."""
        for delivery, forward_dest in UNASKING:
            forwarder = self.forwarder(settings(delivery, forward_dest))
            level = "relp" if forward_dest != (SYSLOG,) else delivery
            self.assertEqual(forwarder.pool.delivery_level, level)


class ProxiedTests(SynchronousTestCase):
    """With PROXY_PROTOCOL each connection is asked for its header first."""

    def setUp(self) -> None:
        self.patch(service, "why_no_acknowledgements", lambda: "")

    def listening(self, **changes: Any) -> tuple[LogissService, Any, Lines]:
        """A service, the factory that it listens with, and its lines."""
        reactor: Any = MemoryReactorClock()
        lines = Lines()
        house = LogissService(reactor, evolve(settings(), **changes), lines.write)
        house.startService()
        return house, reactor.tcpServers[0][1], lines

    def test_wrapped(self) -> None:
        """On both channels, and without it on none."""
        for channel in ("fast", "stock"):
            _, factory, _ = self.listening(http_channel=channel, proxy_protocol=True)
            self.assertIsInstance(factory, ProxiedFactory)
            _, factory, _ = self.listening(http_channel=channel)
            self.assertNotIsInstance(factory, ProxiedFactory)

    def test_refused(self) -> None:
        """What is refused is counted, and a second's refusals are one line."""
        house, factory, lines = self.listening(
            proxy_protocol=True, header_timeout_seconds=3.0
        )
        reactor: Any = house._reactor
        for octets in (b"GET / HTTP/1.1\r\n", b""):
            protocol = factory.buildProtocol(None)
            peer = IPv6Address("TCP", "::ffff:192.0.2.7", 1)
            transport = StringTransport(peerAddress=peer)
            protocol.makeConnection(transport)
            protocol.dataReceived(octets)
            reactor.advance(3.0)
            reactor.advance(1.0)
            self.assertTrue(transport.disconnecting)
        self.assertEqual(house.metrics.proxy_headers_refused, 2)
        key = "count#log-iss.http.proxy-headers.refused"
        self.assertEqual(
            [(said["remote_addr"], said["message"]) for said in lines.having(key, "1")],
            [
                ("192.0.2.7", "no PROXY header"),
                ("192.0.2.7", "no whole PROXY header within 3 s"),
            ],
        )


class AdmissionTests(SynchronousTestCase):
    """Who may post is known while it runs, and said once a minute."""

    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.lines = Lines()

    def admission(self, **more: Any) -> Admission:
        admission = Admission(
            self.reactor, evolve(settings(), **more), self.lines.events()
        )
        admission.startService()
        self.addCleanup(lambda: self.assertEqual(self.reactor.getDelayedCalls(), []))
        self.addCleanup(admission.stopService)
        return admission

    def test_without_redis(self) -> None:
        """Those of TOKEN_MAP are all there are, and nobody is asked for more."""
        admission = self.admission()
        self.assertTrue(admission.credentials.is_loaded)
        self.assertIsNotNone(admission.credentials.check(b"user", b"token"))
        self.assertEqual(self.reactor.tcpClients, [])

    def test_with_redis(self) -> None:
        """With Redis more is to come, and the key of the digests is the given one."""
        admission = self.admission(
            redis_url=RedisURL("192.0.2.9", 7000), redis_key="users", hmac_key=b"key"
        )
        self.assertFalse(admission.credentials.is_loaded)
        self.assertIsNotNone(admission.credentials.check(b"user", b"token"))
        self.assertEqual([client[1] for client in self.reactor.tcpClients], [7000])

    def test_for_dedupe_alone(self) -> None:
        """A Redis that has the table of retried posts only is not asked for users."""
        admission = self.admission(redis_url=RedisURL("192.0.2.9"), dedupe_redis=True)
        self.assertTrue(admission.credentials.is_loaded)
        self.assertEqual(self.reactor.tcpClients, [])

    def test_sums(self) -> None:
        """Once a minute, and when it is stopped."""
        admission = self.admission()
        for seconds, lines in ((59, 0), (1, 1), (59, 1), (1, 2), (1, 2)):
            admission.credentials.authorize(b"Basic dXNlcjp0b2tlbg==")
            self.reactor.advance(seconds)
            self.assertEqual(len(self.lines.raw), lines)
        admission.stopService()
        admission.stopService()
        self.assertEqual(len(self.lines.raw), 3)
        name = "count#log-iss.credentials.success"
        self.assertEqual([p[name] for p in self.lines.pairs], ["2", "2", "1"])


class SharedRetriesTests(SynchronousTestCase):
    """The table in Redis is there when it is asked for."""

    def made(self, **more: Any) -> SharedRetries | None:
        reactor: Any = MemoryReactorClock()
        self.reactor = reactor
        return shared_retries(
            reactor, evolve(settings(), **more), Lines().events(), Metrics()
        )

    def test_off(self) -> None:
        """Not by default, nor for credentials in Redis alone."""
        for more in ({}, {"redis_url": RedisURL("192.0.2.9"), "redis_key": "users"}):
            self.assertIsNone(self.made(**more))

    def test_on(self) -> None:
        """With DEDUPE_REDIS it connects to REDIS_URL."""
        shared = self.made(redis_url=RedisURL("192.0.2.9", 7000), dedupe_redis=True)
        assert shared is not None
        shared.start()
        self.assertEqual([client[1] for client in self.reactor.tcpClients], [7000])
        self.successResultOf(shared.stop())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_keeping(self) -> None:
        """Who keeps refused bodies shares the table, too."""
        shared = self.made(redis_url=RedisURL("192.0.2.9"), dedupe_redis=True)
        for refused in (None, object()):
            front = Front(self.reactor, refused=refused, shared=shared)
            self.assertIs(front.logs._shared, shared)


class DescriptorTests(SynchronousTestCase):
    """How many descriptors there are decides how many clients there may be."""

    def setUp(self) -> None:
        self.lines = Lines()

    def started(self, descriptors_max: int) -> None:
        """Start a whole logiss in a process that may open so many files."""
        self.patch(descriptors, "descriptors_max", lambda: descriptors_max)
        reactor: Any = MemoryReactorClock()
        LogissService(reactor, settings("sent"), self.lines.write).startService()

    def test_none_for_clients(self) -> None:
        """Another application is told when it builds that nobody could be served."""
        with self.assertRaises(SettingsError) as raised:
            self.started(80)
        self.assertEqual(
            raised.exception.problems,
            [
                "MAX_CONNECTIONS: the process may open 80 files and sockets, and keeps"
                " 72 for itself; raise its limit (ulimit -n) to 10072"
            ],
        )
        self.assertEqual(self.lines.raw, [])

    def test_fewer_clients(self) -> None:
        """With room for fewer than were asked for, a line says for how many."""
        self.started(1024)
        (line,) = self.lines.having("connections_max")
        self.assertEqual(line["connections_max"], "952")
        self.assertIn("MAX_CONNECTIONS=10000", line["message"])
        self.assertIn("to 10072", line["message"])

    def test_enough(self) -> None:
        """With enough, nothing is said."""
        self.started(10_072)
        self.assertEqual(self.lines.having("connections_max"), [])
