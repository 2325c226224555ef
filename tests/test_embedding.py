"""The worked examples of docs/embedding.rst, run in memory."""

import json
from typing import Any

from treq.testing import StubTreq
from twisted.application.service import MultiService
from twisted.internet.task import Clock
from twisted.internet.testing import (
    MemoryReactorClock,
    StringTransportWithDisconnection,
)
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docs.embedding_example import (
    Intake,
    Rotating,
    Spool,
    site_with_spool,
    whole_as_child,
)
from logiss import Destination, IDeliverer, Settings, SettingsError, logs_resource
from logiss.credentials import password_digest
from logiss.variables import RedisURL
from tests.fakes import Lines, outcome

HEADERS = {"Content-Type": "application/logplex-1"}
AUTH = ("app", "logthis")
FRAME = b"31 <190>1 - host app web.1 - - one"
FORWARDED = b'53 <190>1 - host app web.1 - [origin ip="192.0.2.4"] one'
POST = (
    b"POST /logs HTTP/1.1\r\n"
    b"Host: intake.example.com\r\n"
    b"Authorization: Basic YXBwOmxvZ3RoaXM=\r\n"
    b"Content-Type: application/logplex-1\r\n"
    b"X-Forwarded-For: 192.0.2.4\r\n"
    b"Content-Length: %d\r\n\r\n%b"
) % (len(FRAME), FRAME)


class BackendTransport(StringTransportWithDisconnection):
    """A backend that closes in the turn after it has read the end of the stream."""

    protocol: Any

    def __init__(self, reactor: MemoryReactorClock) -> None:
        super().__init__()
        self._reactor = reactor

    def end_turn(self) -> None:
        self._reactor.advance(0)

    def loseWriteConnection(self) -> None:  # noqa: N802, called by the sender
        self._reactor.callLater(0, self.loseConnection)


def accept_all(reactor: MemoryReactorClock) -> list[BackendTransport]:
    """Let every attempt to connect to the backend succeed."""
    transports = []
    for _, _, factory, _, _ in reactor.tcpClients:
        transport = BackendTransport(reactor)
        transport.protocol = factory.buildProtocol(None)
        transport.protocol.makeConnection(transport)
        transports.append(transport)
    return transports


def flush(transport: BackendTransport) -> None:
    """The turn ends and the kernel takes everything that was written."""
    transport.end_turn()
    producer: Any = transport.producer
    producer.resumeProducing()


class ClientTransport(StringTransportWithDisconnection):
    """A client that is connected to a site."""

    protocol: Any

    def __init__(self, site: Any) -> None:
        super().__init__()
        self.protocol = site.buildProtocol(self.getPeer())
        self.protocol.makeConnection(self)

    def send(self, octets: bytes) -> None:
        self.protocol.dataReceived(octets)

    @property
    def status(self) -> bytes:
        """The status of the first answer, or nothing."""
        octets: bytes = self.value()
        return octets.removeprefix(b"HTTP/1.1 ")[:3]


class SpoolTests(SynchronousTestCase):
    """A resource with a deliverer of one's own, in a site of one's own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = Spool(posts_max=1)
        self.lines = Lines()
        site = site_with_spool(self.clock, self.spool, self.lines.write)
        self.treq: Any = StubTreq(site.resource)

    def post(self, auth: tuple[str, str] = AUTH) -> int:
        headers = {**HEADERS, "X-Forwarded-For": "192.0.2.4"}
        response = self.successResultOf(
            self.treq.post(
                "http://shop.example.com/intake/logs",
                data=FRAME,
                headers=headers,
                auth=auth,
            )
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])
        code: int = response.code
        return code

    def test_interface(self) -> None:
        """The deliverer has what the interface asks for."""
        self.assertTrue(verifyObject(IDeliverer, self.spool))

    def test_delivered(self) -> None:
        """A post is 200, its frames are with the deliverer, and a line tells of it."""
        self.assertEqual(self.post(), 200)
        self.assertEqual(self.spool.posts, [FORWARDED])
        self.assertEqual(len(self.lines.having("source", "shop")), 1)
        self.assertEqual(
            len(self.lines.having("count#log-iss.http.logs.post.success")), 1
        )

    def test_not_delivered(self) -> None:
        """A deliverer that fails makes the post a 504."""
        self.post()
        self.assertEqual(self.post(), 504)
        self.assertEqual(self.spool.posts, [FORWARDED])

    def test_credentials(self) -> None:
        """The settings' credentials are asked for."""
        self.assertEqual(self.post(auth=("app", "wrong")), 401)
        self.assertEqual(self.spool.posts, [])


class RotatingTests(SynchronousTestCase):
    """A resource whose credentials are in Redis."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.lines = Lines()
        digest = password_digest(b"key", AUTH[1].encode()).hex()
        self.entry = json.dumps([{"name": "v1", "hmac": digest}]).encode()
        self.settings = Settings(
            deploy="shop",
            hmac_key=b"key",
            redis_url=RedisURL("192.0.2.9"),
            redis_key="users",
            credential_refresh_interval_seconds=10.0,
        )

    def answer(self, **entries: bytes) -> None:
        """Redis answers to the reading under way."""
        [redis] = accept_all(self.reactor)
        self.reactor.tcpClients.clear()
        redis.protocol.dataReceived(b":%d\r\n" % len(entries))
        words = [w for user, entry in entries.items() for w in (user.encode(), entry)]
        redis.protocol.dataReceived(
            b"*%d\r\n" % len(words)
            + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)
        )

    def test_rotating(self) -> None:
        """
        Before Redis has answered posts are 503, then who is in it is served, until
        they are not in it. Nothing of what they have posted goes uncounted.
        """
        spool = Spool(posts_max=9)
        rotating = Rotating(self.reactor, self.settings, spool, self.lines.write)
        rotating.startService()
        client = ClientTransport(rotating.site)
        self.assertEqual([client[1] for client in self.reactor.tcpClients], [6379])
        for entries, status in [
            ({}, b"503"),
            ({"app": self.entry}, b"200"),
            ({"other": self.entry}, b"401"),
        ]:
            if entries:
                self.answer(**entries)
            client.send(POST)
            self.assertEqual(client.status, status)
            client.clear()
            if entries:
                self.reactor.advance(10)
        client.loseConnection()
        rotating.stopService()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        accepted, refused = self.lines.having("user", "app")
        self.assertEqual(accepted["count#log-iss.credentials.success"], "1")
        # Who is gone is still called by the name.
        self.assertEqual(refused["count#log-iss.credentials.failure"], "1")

    def test_needs_admission(self) -> None:
        """Redis without an `Admission` is a mistake that is told at once."""
        with self.assertRaises(ValueError):
            logs_resource(
                self.reactor, self.settings, Spool(1), self.lines.events("shop")
            )


class IntakeTests(SynchronousTestCase):
    """A resource with logiss's own connections, in a site of one's own."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.lines = Lines()
        settings = Settings(
            deploy="shop",
            tokens=(AUTH,),
            forward_dest=Destination("192.0.2.7", 601),
            forward_count=1,
            # In memory there is no kernel that could be asked.
            delivery="sent",
        )
        self.intake = Intake(self.reactor, settings, self.lines.write)
        self.intake.startService()
        [self.backend] = accept_all(self.reactor)

    def stop(self) -> None:
        stopped = outcome(self.intake.stopService())
        self.reactor.advance(0)
        self.assertEqual(stopped(), [None])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_delivered(self) -> None:
        """A post is 200 when the kernel has taken its frames, and not before."""
        client = ClientTransport(self.intake.site)
        client.send(POST)
        self.reactor.advance(0)
        self.assertEqual(self.backend.value(), FORWARDED)
        self.assertEqual(client.status, b"")
        flush(self.backend)
        self.assertEqual(client.status, b"200")
        client.loseConnection()
        self.stop()

    def test_deadline(self) -> None:
        """A post that is not delivered in time is 504."""
        client = ClientTransport(self.intake.site)
        client.send(POST)
        self.reactor.advance(5)
        self.assertEqual(client.status, b"504")
        self.assertFalse(self.backend.connected)
        client.loseConnection()
        self.stop()

    def test_drains(self) -> None:
        """Stopping refuses posts, waits for those inside, then closes."""
        client, late = (
            ClientTransport(self.intake.site),
            ClientTransport(self.intake.site),
        )
        client.send(POST)
        stopped = outcome(self.intake.stopService())
        late.send(POST)
        self.assertEqual(late.status, b"503")
        self.assertEqual(stopped(), [])
        flush(self.backend)
        self.assertEqual(client.status, b"200")
        self.reactor.advance(0)
        self.assertEqual(stopped(), [None])
        self.assertEqual(self.backend.value(), FORWARDED)
        client.loseConnection()
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class WholeTests(SynchronousTestCase):
    """A whole logiss as a child of a service of one's own."""

    ENVIRON = {
        "DEPLOY": "shop",
        "DELIVERY": "sent",
        "PORT": "5000",
        "LISTEN_HOST": "127.0.0.1",
        "TOKEN_MAP": "app:logthis",
        "FORWARD_DEST": "192.0.2.7:601",
        "FORWARD_COUNT": "1",
    }

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.lines = Lines()
        self.parent = MultiService()

    def test_child(self) -> None:
        """It listens, delivers and drains with its parent."""
        logiss = whole_as_child(
            self.parent, self.reactor, self.ENVIRON, self.lines.write
        )
        self.assertEqual(self.reactor.tcpServers, [])
        self.parent.startService()
        [(port, site, _, interface)] = self.reactor.tcpServers
        self.assertEqual((port, interface), (5000, "127.0.0.1"))
        self.assertEqual(logiss.address.port, 5000)
        [backend] = accept_all(self.reactor)
        client = ClientTransport(site)
        client.send(POST)
        stopped = outcome(self.parent.stopService())
        self.assertEqual(stopped(), [])
        flush(backend)
        self.assertEqual(client.status, b"200")
        # One look whether the clients have gone, one turn until the backend has.
        self.reactor.pump([0.25, 0.02, 0])
        self.assertEqual(len(stopped()), 1)
        self.assertEqual(backend.value(), FORWARDED)
        self.assertFalse(client.connected or backend.connected)
        self.assertEqual(self.lines.pairs[-1]["at"], "exit")
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_mistakes(self) -> None:
        """Mistakes in the environment are known before anything is started."""
        environ = {**self.ENVIRON, "PORT": "many", "DEPLOY": ""}
        with self.assertRaises(SettingsError) as raised:
            whole_as_child(self.parent, self.reactor, environ, self.lines.write)
        self.assertEqual(
            [problem.partition(":")[0] for problem in raised.exception.problems],
            ["DEPLOY", "PORT"],
        )
        self.assertEqual(list(self.parent), [])
