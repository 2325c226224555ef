"""
A POST leaves nothing to the garbage collector.

What is in a cycle of references stays until the collector runs, and the collector
stops everything while it does.
"""

import gc
from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.metrics import Metrics
from logiss.pool import Pool
from tests.fakes import FakeSender, Lines
from tests.front import TIMEOUT_SECONDS, Connection, Front, framed, message, request
from tests.tables import FakeRedis, Process

POSTS = 20


class GarbageTests(SynchronousTestCase):
    """From the socket to the kernel and back, on a real pool."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.front = Front(self.clock)
        self.pool = Pool(self.clock, TIMEOUT_SECONDS, Lines().events(), Metrics())
        self.front.logs._deliverer = self.pool
        self.sender = FakeSender()
        self.sender.connect(self.pool)
        self.connection = Connection(self.front.site("channel"))

    def left_over(self, octets: bytes, code: int) -> int:
        """How many objects `POSTS` posts have left in cycles."""
        return self.left_by(lambda _: self.post(octets, code))

    def left_by(self, run: Callable[[int], None]) -> int:
        """How many objects `POSTS` runs have left in cycles."""
        run(0)
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for i in range(POSTS):
            run(1 + i)
        return gc.collect()

    def post(self, octets: bytes, code: int) -> None:
        self.connection.send(octets)
        self.clock.advance(0)
        if self.sender.in_flight:
            self.sender.flush()
        (answer,) = self.connection.answers()
        self.assertEqual(answer.code, code)

    def test_delivered(self) -> None:
        """A delivered post leaves nothing."""
        self.assertEqual(self.left_over(request(framed(message())), 200), 0)

    def test_retried(self) -> None:
        """Nor does one with a frame id, and one that is answered from memory."""

        def run(number: int) -> None:
            octets = request(
                framed(message()), headers={"Logplex-Frame-Id": f"{number:032x}"}
            )
            self.post(octets, 200)
            self.post(octets, 200)

        self.assertEqual(self.left_by(run), 0)
        self.assertEqual(self.front.metrics.posts_remembered, POSTS + 1)

    def test_claimed(self) -> None:
        """Nor does one that a table beyond this process was asked about."""
        process = Process(self.clock, FakeRedis(self.clock), b"a")
        self.front.logs._shared = process.shared
        other = Process(self.clock, process.pipeline.redis, b"b").shared

        def run(number: int) -> None:
            frame_id = b"%032x" % (number // 2)
            octets = request(
                framed(message()), headers={"Logplex-Frame-Id": frame_id.decode()}
            )
            if number % 2:
                # As if another process had it delivered.
                name = other.commands.name((b"user", None, frame_id))
                process.pipeline.redis.reply(other.commands.confirm(name))
                self.front.logs.retries._known.clear()
            self.connection.send(octets)
            process.pipeline.turn()
            self.post(b"", 200)
            process.pipeline.turn()

        self.assertEqual(self.left_by(run), 0)
        self.assertGreater(self.front.metrics.posts_known_elsewhere, POSTS // 3)

    def gone(self, header: str, number: int) -> None:
        """A post whose client goes away before its answer."""
        gone = Connection(self.front.site("channel"))
        gone.send(request(framed(message()), headers={header: f"{number:032x}"}))
        gone.hang_up()

    def test_abandoned(self) -> None:
        """
        Nor does one that is withdrawn because its client has gone: no more than one
        without an id, of which the connection in memory is left.
        """
        without = self.left_by(lambda number: self.gone("X-Frame-Id", number))
        left = self.left_by(lambda number: self.gone("Logplex-Frame-Id", number))
        self.assertEqual(left, without)
        self.assertEqual(len(self.front.logs.retries), 0)

    def test_joined(self) -> None:
        """Nor does one whose client goes away when another has joined it."""

        def run(number: int) -> None:
            headers: dict[str, str | None] = {"Logplex-Frame-Id": f"{number:032x}"}
            octets = request(framed(message()), headers=headers)
            first = Connection(self.front.site("channel"))
            first.send(octets)
            self.connection.send(octets)
            first.hang_up()
            self.post(b"", 200)

        without = self.left_by(lambda number: self.gone("X-Frame-Id", number))
        self.assertEqual(self.left_by(run), without)
        self.assertEqual(self.front.metrics.posts_joined, POSTS + 1)

    def test_chunked(self) -> None:
        """Nor does a chunked one."""
        octets = request(chunks=[framed(message()), framed(message())])
        self.assertEqual(self.left_over(octets, 200), 0)

    def test_refused_on_headers(self) -> None:
        """Nor one that is refused on its headers."""
        octets = request(framed(message()), headers={"Authorization": None})
        self.assertEqual(self.left_over(octets, 401), 0)

    def test_hung_up(self) -> None:
        """Nor does one that is hung up on: no more than one that is answered so."""
        self.front = Front(self.clock, on_timeout="hangup")
        self.front.drain.begin(lambda: None)

        def run(agent: str) -> None:
            connection = Connection(self.front.site("channel"))
            headers: dict[str, str | None] = {"User-Agent": agent}
            connection.send(request(framed(message()), headers=headers))
            self.assertFalse(connection.transport.connected)

        answered = self.left_by(lambda _: run("another/1"))
        self.assertLessEqual(self.left_by(lambda _: run("log-shuttle/1")), answered)
        self.assertEqual(self.front.drain.inside, 0)

    def test_malformed(self) -> None:
        """A malformed one leaves little: its exception and where that was raised."""
        self.assertEqual(self.left_over(request(b"x"), 400), 0)
