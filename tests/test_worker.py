"""A worker does what its parent says, and tells it what it knows."""

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from logiss.facts import IWatch
from logiss.history import Sample
from logiss.intercom import DIALECT, Intercom, read, written
from logiss.worker import LAST_WORDS_SECONDS, Obedience
from tests.fakes import outcome
from tests.test_workers import FACTS


class FakeLogiss:
    """Serves nobody. @ivar done: what it was told."""

    def __init__(self) -> None:
        self.has = (False, False)
        self.counts = (3, 50)
        self.done: list[Any] = []
        self.left: Deferred[None] = Deferred()

    def accept(self) -> None:
        self.done.append("accept")

    async def leave(self, within_seconds: float) -> None:
        self.done.append(("leave", within_seconds))
        await self.left


class FakeWatch:
    def facts(self) -> Any:
        return FACTS

    def sample(self) -> Sample:
        return Sample(1.0)


class ObedienceCase(SynchronousTestCase):
    watch: Any = None

    def setUp(self) -> None:
        self.clock = Clock()
        self.logiss = FakeLogiss()
        self.stopped: list[str] = []
        self.obedience = Obedience(
            self.clock,
            self.logiss,
            cast("IWatch | None", self.watch),
            self.stopped.append,
        )
        self.transport = StringTransport()
        self.obedience.intercom.makeConnection(self.transport)
        self.heard: list[tuple[Any, ...]] = []
        self.parent = Intercom(self.heard.append, lambda: None)

    def said(self) -> list[tuple[Any, ...]]:
        """What the parent has heard since the last time."""
        self.parent.dataReceived(self.transport.value())
        self.transport.clear()
        heard = list(self.heard)
        self.heard.clear()
        return heard

    def names(self) -> list[str]:
        return [message[0] for message in self.said()]

    def tell(self, *message: Any) -> None:
        octets = written(message)
        size = len(octets).to_bytes(4, "big")
        self.obedience.intercom.dataReceived(size + octets)

    def later(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)

    def lose(self) -> None:
        self.obedience.intercom.connectionLost(Failure(ConnectionDone()))


class ObedienceTests(ObedienceCase):
    """`Obedience` between a logiss and its parent."""

    def test_tells(self) -> None:
        """Once a second it tells how many clients and posts there are."""
        self.obedience.start()
        self.assertIn(("told", DIALECT, 3, 50, b""), self.said())
        self.later(0.8)
        self.assertEqual(self.names(), [])
        self.logiss.counts = (4, 60)
        self.later(0.3)
        self.assertEqual(self.said(), [("told", DIALECT, 4, 60, b"")])

    def test_prepared(self) -> None:
        """It says at once whether it could deliver, and soon when that changes."""
        self.obedience.start()
        self.assertIn(("prepared", False), self.said())
        self.later(0.5)
        self.assertNotIn("prepared", self.names())
        self.logiss.has = (True, False)
        self.later(0.1)
        self.assertEqual(self.said(), [("has", True, False), ("prepared", False)])
        self.logiss.has = (True, True)
        self.later(0.1)
        self.assertEqual(self.said(), [("has", True, True), ("prepared", True)])
        self.logiss.has = (False, True)
        self.later(1.1)
        said = self.said()
        self.assertIn(("has", False, True), said)
        self.assertIn(("prepared", False), said)

    def test_accept(self) -> None:
        """Told to accept it does, and says so."""
        self.tell("accept")
        self.assertEqual(self.logiss.done, ["accept"])
        self.assertEqual(self.said(), [("accepts",)])

    def test_accept_again(self) -> None:
        """Told again, by a parent that is new, it says all anew, and does nothing."""
        self.obedience.start()
        self.logiss.has = (True, True)
        self.tell("accept")
        self.later(0.1)
        self.said()
        self.tell("accept")
        self.later(1.1)
        self.assertEqual(self.logiss.done, ["accept"])
        said = self.said()
        self.assertIn(("accepts",), said)
        self.assertIn(("prepared", True), said)

    def test_leave(self) -> None:
        """Told to leave it does so once, and ends when all clients have gone."""
        self.tell("accept")
        self.tell("leave", 330.0)
        self.tell("leave", 330.0)
        self.assertEqual(self.logiss.done, ["accept", ("leave", 330.0)])
        self.assertEqual(self.stopped, [])
        self.logiss.left.callback(None)
        self.assertEqual(self.stopped, ["leave"])

    def test_leave_first(self) -> None:
        """Who leaves does not accept any more, whatever is said late."""
        self.tell("leave", 330.0)
        self.tell("accept")
        self.assertEqual(self.logiss.done, [("leave", 330.0)])

    def test_cannot_leave(self) -> None:
        """When leaving goes wrong it ends all the same, and the error is logged."""
        self.tell("leave", 330.0)
        self.logiss.left.errback(ValueError("why"))
        self.assertEqual(self.stopped, ["leave"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_stop(self) -> None:
        """Told to stop it does."""
        self.tell("stop")
        self.assertEqual(self.stopped, ["stop"])

    def test_unknown(self) -> None:
        """What it does not know it does not do."""
        for message in [("dance",), ("leave",), ("leave", "soon"), ("accept", 1)]:
            self.tell(*message)
        self.assertEqual((self.logiss.done, self.stopped), ([], []))

    def test_orphaned(self) -> None:
        """Without a parent it drains and ends."""
        self.obedience.start()
        self.lose()
        self.assertEqual(self.stopped, ["orphaned"])
        self.said()
        self.later(2.0)
        self.assertEqual(self.names(), [])

    def test_parent_does_not_listen(self) -> None:
        """What a parent that is stopped does not read is not kept for it."""
        self.obedience.start()
        self.said()
        self.obedience.intercom.pauseProducing()
        self.later(5.0)
        self.assertEqual(self.names(), [])
        self.obedience.intercom.resumeProducing()
        self.later(1.1)
        self.assertIn("told", self.names())

    def test_end(self) -> None:
        """At the end it tells for the last time, and waits until that is taken."""
        self.obedience.start()
        self.said()
        self.logiss.counts = (0, 99)
        ended = outcome(Deferred.fromCoroutine(self.obedience.end()))
        self.assertEqual(self.said(), [("told", DIALECT, 0, 99, b"")])
        self.assertTrue(self.transport.disconnecting)
        self.later(0.2)
        self.assertEqual(ended(), [])
        self.lose()
        self.later(0.1)
        self.assertEqual(ended(), [None])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_end_unheard(self) -> None:
        """A parent that does not take it is not waited for long."""
        ended = outcome(Deferred.fromCoroutine(self.obedience.end()))
        self.later(LAST_WORDS_SECONDS + 0.1)
        self.assertEqual(ended(), [None])

    def test_end_without_parent(self) -> None:
        """Nor is one that is gone."""
        self.lose()
        ended = outcome(Deferred.fromCoroutine(self.obedience.end()))
        self.assertEqual(ended(), [None])


class WatchedTests(ObedienceCase):
    """Where there is a status page it tells all that it knows."""

    watch = FakeWatch()

    def test_facts(self) -> None:
        """They are for a parent of the same version, inside of what any understands."""
        self.obedience.tell()
        ((name, dialect, clients, posts, more),) = self.said()
        self.assertEqual((name, dialect, clients, posts), ("told", DIALECT, 3, 50))
        facts, sample = read(more)
        self.assertEqual(facts.instance, "test")
        self.assertEqual(sample, Sample(1.0))
