"""
A POST leaves nothing to the garbage collector.

What is in a cycle of references stays until the collector runs, and the collector
stops everything while it does.
"""

import gc

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.metrics import Metrics
from logiss.pool import Pool
from tests.fakes import FakeSender, Lines
from tests.front import TIMEOUT_SECONDS, Connection, Front, framed, message, request

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
        self.post(octets, code)
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for _ in range(POSTS):
            self.post(octets, code)
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

    def test_chunked(self) -> None:
        """Nor does a chunked one."""
        octets = request(chunks=[framed(message()), framed(message())])
        self.assertEqual(self.left_over(octets, 200), 0)

    def test_refused_on_headers(self) -> None:
        """Nor one that is refused on its headers."""
        octets = request(framed(message()), headers={"Authorization": None})
        self.assertEqual(self.left_over(octets, 401), 0)

    def test_malformed(self) -> None:
        """A malformed one leaves little: its exception and where that was raised."""
        self.assertEqual(self.left_over(request(b"x"), 400), 0)
