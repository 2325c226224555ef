"""One connection to a Redis: commands in one write, replies in order, no long wait."""

from typing import Any

import hiredis
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.pipeline import (
    LOST,
    NONSENSE,
    REFUSED,
    REPLY_BYTES_MAX,
    RETRY_SECONDS_MAX,
    SLOW,
    NoReply,
    RedisPipeline,
    Trial,
    encode,
    retry_seconds,
)
from logiss.redis import NOT_REDIS, REDIS_SECONDS
from logiss.variables import MASK, RedisURL
from tests.fakes import outcome
from tests.test_redis import FakeEndpoint, Server

TIMEOUT_SECONDS = 0.05
TRIALS = (Trial(encode(b"TRY", b"1"), (b"OK",)), Trial(encode(b"TRY", b"2"), (1, 0)))
GET = encode(b"GET", b"a")


class Turns(Clock):
    """As a reactor: what is called for at once comes in the next turn."""

    def advance(self, amount: float) -> None:
        self.rightNow += amount
        self._sortCalls()
        for call in [call for call in self.calls if call.getTime() <= self.rightNow]:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


class PipelineTestCase(SynchronousTestCase):
    """A pipeline, who owns it, and Redis's end of it."""

    def setUp(self) -> None:
        self.clock = Turns()
        self.endpoint = FakeEndpoint()
        self.said: list[str] = []
        self.replies: list[Any] = []
        self.use(RedisURL("a"))

    def tearDown(self) -> None:
        self.pipeline.stop()
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def use(self, url: RedisURL) -> None:
        self.pipeline = RedisPipeline(
            self.clock, self.endpoint, url, TIMEOUT_SECONDS, lambda seconds: seconds
        )
        self.pipeline.start(self, TRIALS)

    # IPipelineOwner

    def pipeline_usable(self) -> None:
        self.assertTrue(self.pipeline.is_usable)
        self.said.append("usable")

    def pipeline_lost(self, why: str) -> None:
        self.assertFalse(self.pipeline.is_usable)
        self.said.append(why)

    def turn(self) -> None:
        """The end of a turn of the reactor."""
        self.clock.advance(0)

    def connected(self) -> Server:
        server = self.endpoint.succeed()
        self.turn()
        return server

    def usable(self) -> Server:
        server = self.connected()
        self.assertEqual(server.asked()[-1], [b"PING"])
        server.reply(b"+PONG\r\n")
        self.turn()
        self.assertEqual(server.asked(), [[b"TRY", b"1"], [b"TRY", b"2"]])
        server.reply(b"+OK\r\n:0\r\n")
        self.assertEqual(self.said.pop(), "usable")
        return server

    def send(self, command: bytes = GET) -> None:
        self.pipeline.send(command, self.replies.append)

    def reasons(self) -> list[str]:
        """Of those that have no reply."""
        replies, self.replies = self.replies, []
        return [
            reply.reason if isinstance(reply, NoReply) else reply for reply in replies
        ]


class RepliesTests(PipelineTestCase):
    """Commands of a turn are one write; each has its own reply."""

    def test_one_write(self) -> None:
        """Nothing is written before the turn has ended, then all at once."""
        server = self.usable()
        writes: list[bytes] = []
        self.patch(server.transport, "write", writes.append)
        for word in (b"a", b"b", b"c"):
            self.send(encode(b"GET", word))
        self.assertEqual(writes, [])
        self.turn()
        self.assertEqual(
            writes, [b"".join(encode(b"GET", word) for word in (b"a", b"b", b"c"))]
        )
        server.reply(b"+OK\r\n" * 3)

    def test_in_order(self) -> None:
        """Replies are handed on in the order of the commands, as they come."""
        server = self.usable()
        for _ in range(3):
            self.send()
        octets = b"$3\r\none\r\n$-1\r\n:3\r\n"
        for i in range(len(octets)):
            server.reply(octets[i : i + 1])
        self.assertEqual(self.replies, [b"one", None, 3])

    def test_errors_are_replies(self) -> None:
        """An error is the reply of its command alone."""
        server = self.usable()
        self.send()
        self.send()
        server.reply(b"-WRONGTYPE no\r\n+OK\r\n")
        error, fine = self.replies
        self.assertIsInstance(error, hiredis.ReplyError)
        self.assertEqual((str(error), fine), ("WRONGTYPE no", b"OK"))
        self.assertTrue(self.pipeline.is_usable)

    def test_asked_by_a_reply(self) -> None:
        """Who has a reply may ask again at once."""
        server = self.usable()
        self.pipeline.send(GET, lambda _: self.send())
        self.turn()
        server.asked()
        server.reply(b"+OK\r\n")
        self.turn()
        self.assertEqual(server.asked(), [[b"GET", b"a"]])
        server.reply(b"+OK\r\n")
        self.assertEqual(self.replies, [b"OK"])

    def test_not_usable(self) -> None:
        """Before and after there is a connection, a command has no reply at once."""
        self.send()
        self.assertEqual(self.reasons(), [LOST])
        server = self.connected()
        self.send()
        self.assertEqual(self.reasons(), [LOST])
        server.reply(b"+PONG\r\n+OK\r\n:1\r\n")
        self.said.clear()
        server.transport.loseConnection()
        self.send()
        self.assertEqual(self.reasons(), [LOST])


class GivenUpTests(PipelineTestCase):
    """What is late or wrong once is given up, with all that wait."""

    def test_slow(self) -> None:
        """A command without a reply in its time."""
        server = self.usable()
        self.send()
        self.clock.advance(TIMEOUT_SECONDS / 2)
        self.send()
        self.clock.advance(TIMEOUT_SECONDS / 2)
        self.assertEqual(self.replies, [])
        self.turn()
        self.assertEqual(self.reasons(), [SLOW, SLOW])
        self.assertEqual(self.said, ["no answer within 0.05 s"])
        self.assertFalse(server.is_connected)

    def test_we_were_slow(self) -> None:
        """What came while the reactor was busy is read before it counts as late."""
        server = self.usable()
        self.send()
        self.clock.advance(10)
        server.reply(b"+OK\r\n")
        self.turn()
        self.assertEqual(self.replies, [b"OK"])
        self.assertTrue(self.pipeline.is_usable)

    def test_each_has_its_time(self) -> None:
        """A steady stream is not late for having begun long ago."""
        server = self.usable()
        self.send()
        for _ in range(10):
            self.clock.advance(TIMEOUT_SECONDS * 0.8)
            self.send()
            server.reply(b"+OK\r\n")
        self.assertEqual(len(self.replies), 10)
        self.assertTrue(self.pipeline.is_usable)
        server.reply(b"+OK\r\n")

    def test_many_replies(self) -> None:
        """It is the length of one reply that is bounded, not of all."""
        server = self.usable()
        for _ in range(100):
            self.send()
            server.reply(b"$1000\r\n" + b"x" * 1000 + b"\r\n")
        self.assertGreater(100 * 1000, REPLY_BYTES_MAX)
        self.assertEqual(len(self.reasons()), 100)
        self.assertTrue(self.pipeline.is_usable)

    def test_lost(self) -> None:
        """The connection ends."""
        server = self.usable()
        self.send()
        server.transport.loseConnection()
        self.assertEqual(self.reasons(), [LOST])
        (why,) = self.said
        self.assertIn("connection lost: ", why)

    def test_nonsense(self) -> None:
        """What comes is no reply, or one that nobody has asked for, or too long."""
        for octets, why in [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not Redis's protocol"),
            (b"+OK\r\n+OK\r\n", "not those of Redis"),
            (b"$100000\r\n" + b"x" * (REPLY_BYTES_MAX + 1), "not those of Redis"),
        ]:
            with self.subTest(octets[:20]):
                server = self.usable()
                self.send()
                server.reply(octets)
                self.assertIn(self.reasons(), ([NONSENSE], [b"OK"]))
                self.assertIn(why, self.said.pop())
                self.assertFalse(server.is_connected)
                self.clock.advance(RETRY_SECONDS_MAX)

    def test_unreadable(self) -> None:
        """What hiredis can make no object of is nonsense, and nothing else breaks."""
        server = self.usable()
        self.send()
        self.send()
        self.turn()
        server.reply(b"%1\r\n*0\r\n:1\r\n+OK\r\n")
        self.assertEqual(self.reasons(), ["nonsense"] * 2)
        self.assertEqual(self.said.pop(), NOT_REDIS)
        self.assertFalse(self.pipeline.is_usable)

    def test_errors_of_owners(self) -> None:
        """What breaks in who has a reply is not called nonsense."""
        server = self.usable()

        def broken(reply: Any) -> None:
            raise ZeroDivisionError

        self.pipeline.send(GET, broken)
        self.turn()
        with self.assertRaises(ZeroDivisionError):
            server.reply(b"+OK\r\n")
        self.assertTrue(self.pipeline.is_usable)

    def test_by_its_owner(self) -> None:
        """Whoever has read a reply says that it is of no use."""
        server = self.usable()
        self.send()
        self.send()
        server.reply(b"-OOM no\r\n")
        self.pipeline.give_up(REFUSED, "OOM no")
        self.assertEqual(self.reasons()[1:], [REFUSED])
        self.assertEqual(self.said, ["OOM no"])
        self.pipeline.give_up(REFUSED, "OOM no")
        self.assertEqual(len(self.said), 1)
        self.turn()
        self.assertEqual(self.endpoint.attempts, [])


class TriedOutTests(PipelineTestCase):
    """A connection is usable once it has done what it is for, in time."""

    def test_order(self) -> None:
        """First who we are and which database, then the trials; then it is usable."""
        self.pipeline.stop()
        self.endpoint.attempts.clear()
        self.use(RedisURL("a", 6379, 7, "u", "hunter2"))
        server = self.connected()
        self.assertEqual(
            server.asked(),
            [[b"AUTH", b"u", b"hunter2"], [b"SELECT", b"7"], [b"PING"]],
        )
        server.reply(b"+OK\r\n+OK\r\n+PONG\r\n")
        self.turn()
        self.assertEqual(len(server.asked()), 2)
        self.assertEqual(self.said, [])
        server.reply(b"+OK\r\n")
        self.assertEqual(self.said, [])
        server.reply(b":1\r\n")
        self.assertEqual(self.said, ["usable"])

    def test_refused(self) -> None:
        """An error ends it, whatever of; the password is not repeated."""
        self.pipeline.stop()
        self.endpoint.attempts.clear()
        self.use(RedisURL("a", password="hunter2"))
        for octets, why in [
            (
                b"-WRONGPASS hunter2 is wrong\r\n-NOAUTH\r\n",
                f"WRONGPASS {MASK} is wrong",
            ),
            (b"+OK\r\n-NOPERM ping\r\n", "NOPERM ping"),
            (b"+OK\r\n+PONG\r\n-READONLY replica\r\n:1\r\n", "READONLY replica"),
            (b"+OK\r\n+PONG\r\n+OK\r\n-NOPERM eval\r\n", "NOPERM eval"),
            (b"+OK\r\n:7\r\n", "its replies are not those of Redis"),
            (b"+OK\r\n+PONG\r\n+OK\r\n:2\r\n", "its replies are not those of Redis"),
        ]:
            with self.subTest(octets):
                server = self.connected()
                for line in octets.splitlines(keepends=True):
                    server.reply(line)
                    self.turn()
                self.assertEqual(self.said.pop(), why)
                self.assertFalse(server.is_connected)
                self.clock.advance(RETRY_SECONDS_MAX)

    def test_slow_to_try_out(self) -> None:
        """A Redis that takes connections, and takes its time for the trials."""
        server = self.connected()
        self.clock.advance(1)
        server.reply(b"+PONG\r\n")
        self.clock.advance(TIMEOUT_SECONDS)
        self.turn()
        self.assertEqual(self.said, ["no answer within 0.05 s"])

    def test_too_late(self) -> None:
        """A name that is not found in time, and a Redis that says nothing."""
        self.clock.advance(REDIS_SECONDS)
        self.assertTrue(self.endpoint.cancelled)
        self.assertEqual(self.said, ["no answer within 5 s"])
        self.endpoint.attempts.clear()
        self.clock.advance(1)
        self.connected()
        self.clock.advance(REDIS_SECONDS)
        self.turn()
        self.assertEqual(self.said, ["no answer within 5 s"] * 2)


class AgainTests(PipelineTestCase):
    """The connection is made anew, not too often."""

    def refuse(self) -> None:
        _, attempt = self.endpoint.attempts.pop()
        attempt.errback(ConnectionRefusedError())

    def test_pauses(self) -> None:
        """They double up to a bound, and start anew after one that was usable."""
        for pause in (1.0, 2.0, 2.0, 2.0):
            self.refuse()
            self.assertIn("refused", self.said.pop())
            self.clock.advance(pause - 0.01)
            self.assertEqual(self.endpoint.attempts, [])
            self.clock.advance(0.01)
        server = self.usable()
        self.clock.advance(RETRY_SECONDS_MAX + 0.01)
        server.transport.loseConnection()
        self.clock.advance(0.99)
        self.assertEqual(self.endpoint.attempts, [])
        self.clock.advance(0.01)
        self.usable()
        self.assertEqual([retry_seconds(n) for n in (1, 2, 3, 10**6)], [1, 2, 2, 2])

    def test_comes_and_goes(self) -> None:
        """One that is usable only for a moment does not shorten them."""
        for pause in (1.0, 2.0, 2.0):
            self.usable().transport.loseConnection()
            self.said.clear()
            self.clock.advance(pause - 0.01)
            self.assertEqual(self.endpoint.attempts, [])
            self.clock.advance(0.01)

    def test_jitter(self) -> None:
        """Many who have lost it together come back one by one."""
        pipeline = RedisPipeline(self.clock, self.endpoint, RedisURL("a"), 1.0)
        pauses = {pipeline._jittered(1.0) for _ in range(100)}
        self.assertGreater(len(pauses), 50)
        self.assertTrue(all(0.5 <= pause <= 1.0 for pause in pauses))


class StopTests(PipelineTestCase):
    """The end waits for replies, and for nobody for long."""

    def test_waits_for_replies(self) -> None:
        """What was sent in the last turn is answered before the connection ends."""
        server = self.usable()
        self.send()
        self.send()
        result = outcome(self.pipeline.stop())
        self.turn()
        self.assertEqual(len(server.asked()), 2)
        server.reply(b"+OK\r\n")
        self.assertEqual(result(), [])
        server.reply(b"+OK\r\n")
        self.assertEqual(result(), [None])
        self.assertEqual(self.replies, [b"OK"] * 2)
        self.assertFalse(server.is_connected)

    def test_not_for_long(self) -> None:
        """A Redis that hangs holds up no end."""
        self.usable()
        self.send()
        result = outcome(self.pipeline.stop())
        self.clock.advance(TIMEOUT_SECONDS)
        self.turn()
        self.assertEqual(result(), [None])
        self.assertEqual(self.reasons(), [SLOW])
        self.assertEqual(self.said, [])

    def test_any_time(self) -> None:
        """While it connects, is tried out, or pauses."""
        for prepare in (
            lambda: None,
            self.connected,
            lambda: self.endpoint.attempts.pop()[1].errback(ConnectionRefusedError()),
            self.usable,
        ):
            self.pipeline.stop()
            self.turn()
            self.endpoint.attempts.clear()
            self.use(RedisURL("a"))
            prepare()
            self.said.clear()
            self.successResultOf(self.pipeline.stop())
            self.turn()
            self.assertEqual(self.said, [])
            self.endpoint.attempts.clear()
            self.clock.advance(60)
            self.assertEqual(self.endpoint.attempts, [])
