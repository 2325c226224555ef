"""Workers leave clients to whoever has fewer, and depend on nobody."""

import os

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss import shares
from logiss.listening import Accepting
from logiss.shares import YIELD_SECONDS, Shares, make_table, strike_out
from tests.fakes import Lines
from tests.test_listening import FakeReading


class SharesTests(SynchronousTestCase):
    """The table tells who has fewer."""

    def setUp(self) -> None:
        self.table = make_table(3)
        self.addCleanup(os.close, self.table)
        self.one, self.two = (Shares(os.dup(self.table), row) for row in (0, 1))

    def test_nobody_else(self) -> None:
        """Nothing is left to rows that nobody has taken."""
        self.one.has(5)
        self.assertFalse(self.one.is_anothers_turn(5))

    def test_turns(self) -> None:
        """It is the turn of whoever has fewer; of both when they have as many."""
        self.one.has(2)
        self.two.has(1)
        self.assertTrue(self.one.is_anothers_turn(2))
        self.assertFalse(self.two.is_anothers_turn(1))
        self.two.has(2)
        self.assertFalse(self.one.is_anothers_turn(2))

    def test_left(self) -> None:
        """Nothing is left to one that takes no further clients, or has gone."""
        for end in (self.two.leave, lambda: strike_out(self.table, 1)):
            self.two.has(0)
            self.assertTrue(self.one.is_anothers_turn(1))
            end()
            self.assertFalse(self.one.is_anothers_turn(1))

    def test_without_memfd(self) -> None:
        """Where there is no file in memory, it is one that is in no directory."""
        self.patch(shares, "os", _Without(os, "memfd_create"))
        table = make_table(1)
        self.addCleanup(os.close, table)
        self.assertEqual(os.fstat(table).st_nlink, 0)
        Shares(os.dup(table), 0).has(3)
        self.assertEqual(os.pread(table, 1, 0), b"\x03")


class _Without:
    """A module without one of its names."""

    def __init__(self, module: object, name: str) -> None:
        self._module, self._name = module, name

    def __getattr__(self, name: str) -> object:
        if name == self._name:
            raise AttributeError(name)
        return getattr(self._module, name)


class YieldingTests(SynchronousTestCase):
    """A port that shares its socket lets others go first, for a moment."""

    def setUp(self) -> None:
        self.table = make_table(2)
        self.addCleanup(os.close, self.table)
        self.other = Shares(os.dup(self.table), 1)
        self.clock = Clock()
        self.port = FakeReading()
        mine = Shares(os.dup(self.table), 0)
        self.accepting = Accepting(
            self.clock, self.port, 3, Lines().events(), shares=mine
        )

    def accept(self) -> None:
        self.assertTrue(self.accepting.has_room())
        self.accepting.client_made()

    def test_as_many(self) -> None:
        """It takes what comes while nobody has fewer."""
        self.other.has(1)
        self.accept()
        self.assertTrue(self.port.reading)

    def test_more(self) -> None:
        """It leaves a client to another that has fewer, and does not look again."""
        self.other.has(0)
        self.accept()
        self.assertFalse(self.accepting.has_room())
        self.assertFalse(self.port.reading)

    def test_nobody_takes_it(self) -> None:
        """One whom nobody takes it takes after all, and then yields again."""
        self.test_more()
        self.clock.advance(YIELD_SECONDS)
        self.assertTrue(self.port.reading)
        self.accept()
        self.assertFalse(self.accepting.has_room())

    def test_one_goes(self) -> None:
        """What it says of itself becomes less when a client goes."""
        self.accept()
        self.assertTrue(self.other.is_anothers_turn(2))
        self.accepting.client_lost()
        self.assertFalse(self.other.is_anothers_turn(0))
        self.assertTrue(self.other.is_anothers_turn(1))

    def test_full(self) -> None:
        """When it is full, the moment's end does not make it accept."""
        self.other.has(0)
        self.accept()
        self.assertFalse(self.accepting.has_room())
        self.accepting.client_made()
        self.accepting.client_made()
        self.assertFalse(self.accepting.has_room())
        self.clock.advance(YIELD_SECONDS)
        self.assertFalse(self.port.reading)
        self.accepting.stop()

    def test_stopped(self) -> None:
        """Once it is closed it is nobody's turn, and nothing is left behind."""
        self.test_more()
        self.accepting.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.other.leave()
        self.assertFalse(self.other.is_anothers_turn(9))
