"""What a parent and its workers say to each other."""

import pickle
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from logiss.intercom import Intercom, NotUnderstood, read, written
from logiss.metrics import Metrics
from tests.test_workers import FACTS


class Stranger:
    """Of no message."""


class MessageTests(SynchronousTestCase):
    """Messages are tuples of what is known, and nothing else is made of them."""

    def test_round(self) -> None:
        """What is written is read."""
        for message in [("stop",), ("leave", 1.5), ("told", 1, b"x", None)]:
            self.assertEqual(read(written(message)), message)
        (facts,) = read(written((FACTS,)))
        self.assertEqual(facts.instance, "test")
        self.assertEqual(type(facts.metrics), Metrics)

    def test_not_understood(self) -> None:
        """Other classes, functions, octets and things are refused."""
        for octets in [
            b"",
            b"junk",
            pickle.dumps((Stranger(),)),
            pickle.dumps((print,)),
            pickle.dumps("stop"),
            pickle.dumps(()),
            written(("told", FACTS))[:-5],
        ]:
            with self.subTest(octets), self.assertRaises(NotUnderstood):
                read(octets)

    def test_other_fields(self) -> None:
        """A class that has other fields by now is refused, and nothing is half made."""
        octets = written((Metrics(),)).replace(b"posts_succeeded", b"posts_succeedee")
        try:
            (metrics,) = read(octets)
        except NotUnderstood:
            return
        self.assertFalse(hasattr(metrics, "posts_succeedee"))

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_garbage(self, octets: bytes) -> None:
        """Whatever comes, it is a message or refused."""
        try:
            self.assertIsInstance(read(octets), tuple)
        except NotUnderstood:
            pass


class IntercomTests(SynchronousTestCase):
    """`Intercom` is one end of a pair."""

    def setUp(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.ended: list[None] = []
        self.intercom = self.make()

    def make(self, octets: bytes = b"") -> Intercom:
        return Intercom(self.heard.append, lambda: self.ended.append(None), octets)

    def octets(self, *messages: tuple[Any, ...]) -> bytes:
        transport = StringTransport()
        other = Intercom(lambda message: None, lambda: None)
        other.makeConnection(transport)
        for message in messages:
            other.say(*message)
        octets: bytes = transport.value()
        return octets

    @given(st.lists(st.integers(1, 40)))
    def test_pieces(self, sizes: list[int]) -> None:
        """However it is cut, each message is heard once, in order."""
        self.setUp()
        octets = self.octets(("stop",), ("leave", 1.5), ("stop",))
        for size in sizes:
            piece, octets = octets[:size], octets[size:]
            self.intercom.dataReceived(piece)
        self.intercom.dataReceived(octets)
        self.assertEqual(self.heard, [("stop",), ("leave", 1.5), ("stop",)])
        self.assertEqual(self.intercom.unread, b"")

    def test_goes_on(self) -> None:
        """A message that has come in part is heard whole by who goes on behind it."""
        octets = self.octets(("stop",))
        self.intercom.dataReceived(octets[:7])
        self.assertEqual(self.intercom.unread, octets[:7])
        self.make(self.intercom.unread).dataReceived(octets[7:])
        self.assertEqual(self.heard, [("stop",)])

    def test_mumbled(self) -> None:
        """What is not understood is heard as that, and what follows is heard."""
        strange = written(("x", FACTS)).replace(b"logiss.facts", b"logiss.flats")
        octets = len(strange).to_bytes(4, "big") + strange + self.octets(("stop",))
        self.intercom.dataReceived(octets)
        self.assertEqual(self.heard, [("mumbled",), ("stop",)])

    def test_behind(self) -> None:
        """It knows whether the other end reads."""
        self.intercom.makeConnection(StringTransport())
        self.assertFalse(self.intercom.is_behind)
        self.intercom.pauseProducing()
        self.assertTrue(self.intercom.is_behind)
        self.intercom.resumeProducing()
        self.assertFalse(self.intercom.is_behind)

    def test_hang_up(self) -> None:
        """It can be ended, and its end is told."""
        transport = StringTransport()
        self.intercom.makeConnection(transport)
        self.intercom.hang_up()
        self.assertTrue(transport.disconnecting)
        self.intercom.connectionLost()
        self.assertEqual(len(self.ended), 1)
