"""One hash, read and changed over a connection that ends, whatever comes of it."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from logiss.credentials import NotChanged
from logiss.redis import (
    REDIS_SECONDS,
    REPLY_BYTES_MAX,
    USERS_MAX,
    IHash,
    RedisFailed,
    RedisHash,
)
from logiss.variables import MASK, RedisURL
from tests.fakes import outcome


@implementer(IStreamClientEndpoint)
class FakeEndpoint:
    """
    Connects when the test says so.

    @ivar cancelled: whether an attempt was given up.
    """

    def __init__(self) -> None:
        self.attempts: list[tuple[Any, Deferred[Any]]] = []
        self.cancelled = False

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803
        attempt: Deferred[Any] = Deferred(self._cancel)
        self.attempts.append((protocolFactory, attempt))
        return attempt

    def _cancel(self, attempt: Deferred[Any]) -> None:
        self.cancelled = True
        # As Twisted's endpoint does while it looks the name up.
        attempt.errback(DNSLookupError("Couldn't find the hostname"))

    def succeed(self) -> "Server":
        factory, attempt = self.attempts.pop()
        server = Server(factory.buildProtocol(None))
        attempt.callback(server.protocol)
        return server


class _Transport(StringTransportWithDisconnection):
    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802
        pass


class Server:
    """Redis's end of a connection: the test reads commands and writes replies."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.transport = _Transport()
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)

    def asked(self) -> list[list[bytes]]:
        """The commands that have come since the last call."""
        octets = self.transport.value()
        self.transport.clear()
        return commands_in(octets)

    def reply(self, octets: bytes) -> None:
        self.protocol.dataReceived(octets)

    @property
    def is_connected(self) -> bool:
        return bool(self.transport.connected)


def commands_in(octets: bytes) -> list[list[bytes]]:
    """The commands that `octets` are, each as its words."""
    commands = []
    while octets:
        count, octets = _number(b"*", octets)
        words = []
        for _ in range(count):
            size, octets = _number(b"$", octets)
            words.append(octets[:size])
            octets = octets[size + 2 :]
        commands.append(words)
    return commands


def _number(mark: bytes, octets: bytes) -> tuple[int, bytes]:
    line, _, rest = octets.partition(b"\r\n")
    assert line.startswith(mark), line
    return int(line[1:]), rest


def bulks(*values: bytes) -> bytes:
    """A reply that is a list of strings (RESP2)."""
    return b"*%d\r\n" % len(values) + b"".join(
        b"$%d\r\n%b\r\n" % (len(value), value) for value in values
    )


class RedisTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        self.use()

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def use(self, **url: Any) -> None:
        self.hash = RedisHash(
            self.clock, self.endpoint, RedisURL("192.0.2.1", **url), "users"
        )

    def read(self) -> tuple[Callable[[], list[Any]], Server]:
        """A reading under way, on its connection."""
        result = outcome(self.hash.read())
        return result, self.endpoint.succeed()

    def assert_failed(self, result: Callable[[], list[Any]], why: str) -> None:
        (failure,) = result()
        self.assertIsInstance(failure, Failure)
        failure.trap(RedisFailed)
        self.assertEqual(str(failure.value), why)


class ReadTests(RedisTestCase):
    """The hash is read as it is, in order, and the connection ends."""

    def test_interfaces(self) -> None:
        """It is a hash of entries, and its fake endpoint is one."""
        verifyObject(IHash, self.hash)
        verifyObject(IStreamClientEndpoint, self.endpoint)

    def test_entries(self) -> None:
        """Users and entries are bytes, whatever they look like."""
        result, server = self.read()
        self.assertEqual(server.asked(), [[b"HLEN", b"users"]])
        server.reply(b":3\r\n")
        self.assertEqual(server.asked(), [[b"HGETALL", b"users"]])
        reply = bulks(b"ada", b"[]", b"12.5", b"7", b"\xff\r\n", b"QUEUED")
        for octet in reply:
            self.assertEqual(result(), [])
            self.assertTrue(server.is_connected)
            server.reply(bytes([octet]))
        self.assertEqual(
            result(), [{b"ada": b"[]", b"12.5": b"7", b"\xff\r\n": b"QUEUED"}]
        )
        self.assertFalse(server.is_connected)

    def test_empty(self) -> None:
        """A key that is not there is a hash without entries."""
        result, server = self.read()
        server.reply(b":0\r\n")
        server.reply(b"*0\r\n")
        self.assertEqual(result(), [{}])
        self.assertFalse(server.is_connected)

    def test_logs_in(self) -> None:
        """Password, user and database come first, and only where they are set."""
        table: list[tuple[dict[str, Any], list[list[bytes]]]] = [
            ({}, []),
            ({"password": "p"}, [[b"AUTH", b"p"]]),
            ({"password": "pä", "user": "u"}, [[b"AUTH", b"u", "pä".encode()]]),
            ({"database": 7}, [[b"SELECT", b"7"]]),
            ({"password": "p", "database": 7}, [[b"AUTH", b"p"], [b"SELECT", b"7"]]),
        ]
        for url, expected in table:
            with self.subTest(url):
                self.use(**url)
                result, server = self.read()
                for command in expected:
                    self.assertEqual(server.asked(), [command])
                    server.reply(b"+OK\r\n")
                self.assertEqual(server.asked(), [[b"HLEN", b"users"]])
                server.reply(b":0\r\n*0\r\n")
                self.assertEqual(result(), [{}])


class FailureTests(RedisTestCase):
    """Each failure is a sentence, and the connection ends."""

    def test_refused(self) -> None:
        """Nobody listens."""
        result = outcome(self.hash.read())
        _, attempt = self.endpoint.attempts.pop()
        attempt.errback(Failure(ConnectionRefusedError()))
        self.assert_failed(result, "Connection was refused by other side.")

    def test_errors(self) -> None:
        """What Redis says is wrong is told."""
        wrong_type = (
            b"WRONGTYPE Operation against a key holding the wrong kind of value"
        )
        for replies in (
            [b"-" + wrong_type + b"\r\n"],
            [b":1\r\n", b"-" + wrong_type + b"\r\n"],
        ):
            result, server = self.read()
            for reply in replies:
                server.reply(reply)
            self.assert_failed(result, wrong_type.decode())
            self.assertFalse(server.is_connected)

    def test_wrong_password(self) -> None:
        """A password that is refused is told, and nothing is asked for."""
        self.use(password="hunter2")
        result, server = self.read()
        server.asked()
        server.reply(b"-WRONGPASS invalid username-password pair\r\n")
        self.assert_failed(result, "WRONGPASS invalid username-password pair")
        self.assertEqual(server.asked(), [])

    def test_password_repeated(self) -> None:
        """A server that repeats the password does not get it into the log."""
        self.use(password="hunter2")
        result, server = self.read()
        server.reply(b"-ERR unknown command 'AUTH', with args: 'hunter2'\r\n")
        self.assert_failed(result, f"ERR unknown command 'AUTH', with args: '{MASK}'")

    def test_never_connects(self) -> None:
        """Without a connection it is over in time."""
        result = outcome(self.hash.read())
        self.clock.advance(REDIS_SECONDS - 0.01)
        self.assertEqual(result(), [])
        self.clock.advance(0.02)
        self.assert_failed(result, f"no answer within {REDIS_SECONDS:g} s")
        self.assertTrue(self.endpoint.cancelled)

    def test_never_answers(self) -> None:
        """All replies together have one time."""
        result, server = self.read()
        self.clock.advance(REDIS_SECONDS - 0.01)
        server.reply(b":1\r\n")
        self.clock.advance(0.02)
        self.assert_failed(result, f"no answer within {REDIS_SECONDS:g} s")
        self.assertFalse(server.is_connected)

    def test_given_up(self) -> None:
        """Whoever gives it up leaves no connection."""
        reading = self.hash.read()
        server = self.endpoint.succeed()
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.assertFalse(server.is_connected)

    def test_given_up_early(self) -> None:
        """Nor an attempt at one, and it is no failure of Redis's."""
        reading = self.hash.read()
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.assertTrue(self.endpoint.cancelled)

    def test_connection_lost(self) -> None:
        """A connection that ends before the answer has failed."""
        for replies in ([], [b":1\r\n"], [b":1\r\n", b"*2\r\n$3\r\nad"]):
            result, server = self.read()
            for reply in replies:
                server.reply(reply)
            server.transport.loseConnection()
            self.assert_failed(
                result, "connection lost: Connection was closed cleanly: Bye.."
            )

    def test_not_redis(self) -> None:
        """What does not speak Redis is told from what does."""
        result, server = self.read()
        server.reply(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        (failure,) = result()
        self.assertIn("what it sends is not Redis's protocol", str(failure.value))
        self.assertFalse(server.is_connected)

    def test_odd_replies(self) -> None:
        """Replies of another kind than was asked for are failures too."""
        for replies in (
            [b"+OK\r\n"],
            [b"$-1\r\n"],
            [b"*1\r\n:1\r\n"],
            [b":1\r\n", b":1\r\n"],
            [b":1\r\n", b"*-1\r\n"],
            [b":1\r\n", b"*1\r\n$1\r\na\r\n"],
            [b":1\r\n", b"*2\r\n$1\r\na\r\n:1\r\n"],
        ):
            with self.subTest(replies):
                result, server = self.read()
                for reply in replies:
                    server.reply(reply)
                self.assert_failed(result, "its replies are not those of Redis")
                self.assertFalse(server.is_connected)

    def test_too_many_users(self) -> None:
        """A hash with too many users is not asked for."""
        result, server = self.read()
        server.asked()
        server.reply(b":%d\r\n" % (USERS_MAX + 1))
        self.assert_failed(
            result, f"the hash has {USERS_MAX + 1} users, more than {USERS_MAX}"
        )
        self.assertEqual(server.asked(), [])

    def test_too_many_bytes(self) -> None:
        """However large an entry is, no more is taken than fits."""
        result, server = self.read()
        server.reply(b":1\r\n*2\r\n$3\r\nada\r\n$%d\r\n" % (10 * REPLY_BYTES_MAX))
        piece = b"x" * (1 << 20)
        for _ in range(REPLY_BYTES_MAX // len(piece) - 1):
            server.reply(piece)
            self.assertTrue(server.is_connected)
        server.reply(piece)
        self.assert_failed(result, f"it sends more than {REPLY_BYTES_MAX} bytes")
        self.assertFalse(server.is_connected)


class EditTests(RedisTestCase):
    """An entry is changed as it is at that moment, or not at all."""

    def edit(
        self, change: Callable[[bytes | None], bytes]
    ) -> tuple[Callable[[], list[Any]], Server]:
        result = outcome(self.hash.edit(b"ada", change))
        return result, self.endpoint.succeed()

    def begin(self, server: Server, found: bytes) -> None:
        """As far as to the change."""
        self.assertEqual(server.asked(), [[b"WATCH", b"users"]])
        server.reply(b"+OK\r\n")
        self.assertEqual(server.asked(), [[b"HGET", b"users", b"ada"]])
        server.reply(found)

    def commit(self, server: Server, changed: bytes, reply: bytes) -> None:
        self.assertEqual(server.asked(), [[b"MULTI"]])
        server.reply(b"+OK\r\n")
        self.assertEqual(server.asked(), [[b"HSET", b"users", b"ada", changed]])
        server.reply(b"+QUEUED\r\n")
        self.assertEqual(server.asked(), [[b"EXEC"]])
        server.reply(reply)

    def test_changed(self) -> None:
        """What was found is changed, and nothing else."""
        result, server = self.edit(lambda found: found + b"!" if found else b"?")
        self.begin(server, b"$3\r\none\r\n")
        self.commit(server, b"one!", b"*1\r\n:0\r\n")
        self.assertEqual(result(), [None])
        self.assertFalse(server.is_connected)

    def test_first(self) -> None:
        """A user who is not there yet has no entry."""
        found: list[bytes | None] = []
        result, server = self.edit(lambda octets: found.append(octets) or b"new")  # type: ignore[func-returns-value]
        self.begin(server, b"$-1\r\n")
        self.commit(server, b"new", b"*1\r\n:1\r\n")
        self.assertEqual((found, result()), ([None], [None]))

    def test_others_meanwhile(self) -> None:
        """A change of somebody else's is not lost: ours is made anew, upon theirs."""
        result, server = self.edit(lambda found: (found or b"") + b"!")
        self.begin(server, b"$3\r\none\r\n")
        self.commit(server, b"one!", b"*-1\r\n")
        self.begin(server, b"$3\r\ntwo\r\n")
        self.commit(server, b"two!", b"*1\r\n:0\r\n")
        self.assertEqual(result(), [None])

    def test_others_always(self) -> None:
        """It does not try for ever."""
        result, server = self.edit(lambda found: b"x")
        for _ in range(10):
            self.assertEqual(result(), [])
            self.begin(server, b"$-1\r\n")
            self.commit(server, b"x", b"*-1\r\n")
        (failure,) = result()
        failure.trap(NotChanged)
        self.assertEqual(
            str(failure.value), "others change the hash all the time; try again"
        )

    def test_not_changed(self) -> None:
        """A change that does not want to be made is not."""

        def change(found: bytes | None) -> bytes:
            raise NotChanged("why")

        result, server = self.edit(change)
        self.begin(server, b"$-1\r\n")
        (failure,) = result()
        failure.trap(NotChanged)
        self.assertEqual(server.asked(), [])
        self.assertFalse(server.is_connected)

    def test_refused(self) -> None:
        """What Redis does not carry out is told, wherever it says so."""
        result, server = self.edit(lambda found: b"x")
        self.begin(server, b"$-1\r\n")
        self.commit(server, b"x", b"*1\r\n-MISCONF no writes\r\n")
        self.assert_failed(result, "MISCONF no writes")
