"""A table of credentials follows its hash, and survives what is wrong with it."""

import json
from typing import Any

from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from logiss import refresh
from logiss.credentials import Table
from logiss.metrics import Metrics
from logiss.redis import RedisFailed
from logiss.refresh import ENTRIES_AT_ONCE, LINES_MAX, Refresher, retry_seconds
from tests.fakes import FakeHash, Lines

SUCCESS = "count#log-iss.credentials.refresh.success"
ERROR = "count#log-iss.credentials.refresh.error"
SKIPPED = "count#log-iss.credentials.entry.error"
INTERVAL_SECONDS = 60.0


def entry(*digits: str) -> bytes:
    """Credentials that are called by the digits of which their digests consist."""
    return json.dumps([{"name": d, "hmac": d * 128} for d in digits]).encode()


class RefresherTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.hash = FakeHash()
        self.applied: list[Table] = []
        self.lines = Lines()
        self.metrics = Metrics()
        self.use()

    def use(self, **more: Any) -> None:
        self.refresher = Refresher(
            self.clock,
            self.hash,
            self.applied.append,
            self.lines.events(),
            self.metrics,
            INTERVAL_SECONDS,
            jittered=lambda seconds: seconds,
            **more,
        )

    def tearDown(self) -> None:
        self.refresher.stopService()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def reading(self) -> Any:
        """The one that is under way."""
        self.assertFalse(self.hash.readings[-1].called)
        return self.hash.readings[-1]

    def find(self, **entries: bytes) -> None:
        """The reading under way ends with these entries."""
        self.reading().callback({u.encode(): e for u, e in entries.items()})

    def break_off(self, why: str = "why") -> None:
        """The reading under way fails."""
        self.reading().errback(Failure(RedisFailed(why)))

    def next(self) -> None:
        """The next reading is due."""
        before = len(self.hash.readings)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(len(self.hash.readings), before + 1)

    def start(self, **entries: bytes) -> None:
        self.refresher.startService()
        self.find(**entries)

    @property
    def names(self) -> dict[str, str]:
        """Who holds what, by the last table that was applied."""
        return {
            user.decode(): "".join(credential.name for credential in held)
            for user, held in self.applied[-1].items()
        }


class RefreshTests(RefresherTestCase):
    """What the hash holds is what is in force."""

    def test_at_start(self) -> None:
        """The hash is read when it is started, not before."""
        self.assertEqual(self.hash.readings, [])
        self.refresher.startService()
        self.assertEqual(self.applied, [])
        self.find(ada=entry("1", "2"), bob=entry())
        self.assertEqual(self.names, {"ada": "12", "bob": ""})
        (line,) = self.lines.pairs
        self.assertEqual((line[SUCCESS], line["users"]), ("1", "2"))
        self.assertEqual(self.metrics.refreshes_succeeded, 1)
        self.assertEqual(self.applied[-1][b"ada"][0].user, b"ada")

    def test_each_interval(self) -> None:
        """Then once an interval, from begin to begin."""
        self.refresher.startService()
        self.clock.advance(4.0)
        self.find(ada=entry("1"))
        self.clock.advance(INTERVAL_SECONDS - 4.001)
        self.assertEqual(len(self.hash.readings), 1)
        self.clock.advance(0.002)
        self.assertEqual(len(self.hash.readings), 2)
        (line,) = self.lines.pairs
        name = "measure#log-iss.credentials.refresh.duration"
        self.assertEqual(line[name], "4.000000s")

    def test_slow(self) -> None:
        """A reading that takes longer is followed by the next; there are never two."""
        self.refresher.startService()
        self.clock.advance(3 * INTERVAL_SECONDS)
        self.assertEqual(len(self.hash.readings), 1)
        self.find(ada=entry("1"))
        self.clock.advance(0)
        self.assertEqual(len(self.hash.readings), 2)

    def test_clock_set_back(self) -> None:
        """However the clock is set, the next one is not later than that."""
        self.refresher.startService()
        self.clock.rightNow -= 3600.0
        self.find(ada=entry("1"))
        self.next()

    def test_rotation(self) -> None:
        """Users and credentials come, change and go."""
        self.start(ada=entry("1"), bob=entry("2"))
        for entries, expected in [
            ({"ada": entry("1", "3"), "bob": entry("2")}, {"ada": "13", "bob": "2"}),
            ({"ada": entry("3"), "bob": entry("2")}, {"ada": "3", "bob": "2"}),
            ({"ada": entry("3")}, {"ada": "3"}),
            ({"eve": entry("4")}, {"eve": "4"}),
        ]:
            self.next()
            self.find(**entries)
            self.assertEqual(self.names, expected)

    def test_unchanged(self) -> None:
        """What has not changed is not read again: credentials keep their counts."""
        self.start(ada=entry("1"), bob=entry("2"))
        self.next()
        self.find(ada=entry("1"), bob=entry("3"))
        first, second = self.applied
        self.assertIs(first[b"ada"][0], second[b"ada"][0])
        self.assertIsNot(first[b"bob"][0], second[b"bob"][0])

    def test_nothing_changed(self) -> None:
        """Nobody is told of a table that is the same, but for the first."""
        self.use(allows_empty=True)
        self.start()
        self.next()
        self.find()
        self.assertEqual(self.applied, [{}])
        for entries, count in [
            ({"ada": entry("1"), "bob": entry("2")}, 2),
            ({"bob": entry("2"), "ada": entry("1")}, 2),
            ({"ada": entry("1")}, 3),
            ({"ada": entry("3")}, 4),
            ({"ada": entry("3")}, 4),
            ({"ada": b"[", "bob": entry("1")}, 5),
            ({"ada": b"{", "bob": entry("1")}, 5),
            ({"ada": entry("3"), "bob": entry("1")}, 5),
        ]:
            self.next()
            self.find(**entries)
            self.assertEqual(len(self.applied), count, entries)
            self.assertEqual(self.metrics.refreshes_changed, count, entries)
        self.assertEqual(self.names, {"ada": "3", "bob": "1"})

    def test_many(self) -> None:
        """Many entries are read in several turns; all are in force at once."""
        turns = 0

        def turn(_: object) -> None:
            nonlocal turns
            turns += 1
            self.assertEqual(self.applied, [])

        self.patch(refresh, "deferLater", lambda *a: deferLater(*a).addCallback(turn))
        self.refresher.startService()
        self.find(**{f"u{i}": entry("1") for i in range(3 * ENTRIES_AT_ONCE)})
        self.clock.advance(0)
        self.assertEqual(turns, 3)
        self.assertEqual(len(self.names), 3 * ENTRIES_AT_ONCE)


class FailureTests(RefresherTestCase):
    """What fails changes nothing, is told, and is tried again."""

    def test_unreadable(self) -> None:
        """What was read last stays in force."""
        self.start(ada=entry("1"))
        self.next()
        self.break_off('say "why"')
        self.assertEqual(len(self.applied), 1)
        line = self.lines.pairs[-1]
        self.assertEqual(
            (line[ERROR], line["users"], line["message"]), ("1", "1", 'say "why"')
        )
        self.assertEqual(self.metrics.refreshes_failed, 1)

    def test_first_unreadable(self) -> None:
        """Nothing is applied before something was read."""
        self.refresher.startService()
        self.break_off()
        self.assertEqual(self.applied, [])
        self.assertEqual(self.lines.pairs[-1]["users"], "0")
        self.clock.advance(1.0)
        self.find(ada=entry("1"))
        self.assertEqual(self.names, {"ada": "1"})

    def test_retried(self) -> None:
        """It is tried again after 1 s, then later and later, from its end on."""
        self.refresher.startService()
        for pause in (1, 2, 4, 8, 16, 30, 30):
            count = len(self.hash.readings)
            self.clock.advance(100)
            self.break_off()
            self.clock.advance(pause - 0.001)
            self.assertEqual(len(self.hash.readings), count)
            self.clock.advance(0.002)
            self.assertEqual(len(self.hash.readings), count + 1)

    def test_recovered(self) -> None:
        """After a success the pauses are those of the start."""
        self.refresher.startService()
        self.break_off()
        self.clock.advance(1)
        self.break_off()
        self.clock.advance(2)
        self.find(ada=entry("1"))
        self.next()
        self.break_off()
        self.clock.advance(1)
        self.find(ada=entry("1"))

    def test_empty(self) -> None:
        """An empty hash revokes nobody."""
        self.start(ada=entry("1"))
        self.next()
        self.find()
        self.assertEqual(self.names, {"ada": "1"})
        self.assertEqual(len(self.applied), 1)
        self.assertIn("ALLOW_EMPTY_CREDENTIALS=1", self.lines.pairs[-1]["message"])
        self.assertEqual(self.metrics.refreshes_failed, 1)

    def test_first_empty(self) -> None:
        """An empty hash loads nothing."""
        self.start()
        self.assertEqual(self.applied, [])

    def test_empty_allowed(self) -> None:
        """An empty hash revokes everyone in it where that is said to be meant."""
        self.use(allows_empty=True)
        self.start()
        self.assertEqual(self.applied, [{}])
        self.next()
        self.find(ada=entry("1"))
        self.next()
        self.find()
        self.assertEqual(self.names, {})
        self.assertEqual(self.metrics.refreshes_failed, 0)

    def test_partly_broken(self) -> None:
        """Whose entry is broken keeps the last good one; the others have theirs."""
        self.start(ada=entry("1"), bob=entry("2"), zoe=entry("3"))
        self.next()
        self.find(ada=b"{}", bob=entry("4"), eve=b"[")
        self.assertEqual(self.names, {"ada": "1", "bob": "4"})
        told = [
            (p["user"], p["kept"], p["message"]) for p in self.lines.having(SKIPPED)
        ]
        self.assertEqual(
            told,
            [
                ("ada", "1", "it is not a list of credentials"),
                ("eve", "0", "it is not JSON"),
            ],
        )
        self.assertEqual(self.metrics.entries_skipped, 2)
        self.assertEqual(self.metrics.refreshes_succeeded, 2)
        # It is as good as its next reading.
        self.next()
        self.find(ada=b"{}", eve=entry("5"))
        self.assertEqual(self.names, {"ada": "1", "eve": "5"})
        self.next()
        self.find(ada=entry("6"))
        self.assertEqual(self.names, {"ada": "6"})

    def test_all_broken(self) -> None:
        """A hash without a good entry is a failure, also for those who are gone."""
        self.start(ada=entry("1"), bob=entry("2"))
        self.next()
        self.find(ada=b"{}")
        self.assertEqual(len(self.applied), 1)
        self.assertEqual(
            self.lines.pairs[-1]["message"], "none of the 1 entries can be read"
        )
        self.assertEqual(len(self.lines.having(SKIPPED)), 1)

    def test_first_all_broken(self) -> None:
        """A hash without a good entry loads nothing."""
        self.start(ada=b"{}")
        self.assertEqual(self.applied, [])

    def test_many_broken(self) -> None:
        """However many are broken, the lines are few and the sum is right."""
        broken = {f"u{i}": b"" for i in range(LINES_MAX + 5)}
        self.start(ada=entry("1"), **broken)
        lines = self.lines.having(SKIPPED)
        self.assertEqual(len(lines), LINES_MAX + 1)
        self.assertEqual(sum(int(p[SKIPPED]) for p in lines), LINES_MAX + 5)

    def test_error_of_our_own(self) -> None:
        """An error that nobody has thought of does not end the refreshing."""
        self.refresher.startService()
        self.reading().errback(Failure(KeyError("x")))
        self.assertIn("internal error: KeyError", self.lines.pairs[-1]["message"])
        self.clock.advance(1)
        self.find(ada=entry("1"))
        self.assertEqual(self.names, {"ada": "1"})


class StopTests(RefresherTestCase):
    """When it is stopped nothing is left."""

    def test_between(self) -> None:
        """Between two readings there is not another."""
        self.start(ada=entry("1"))
        self.refresher.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_while_reading(self) -> None:
        """A reading under way is given up, and no failure."""
        self.refresher.startService()
        self.refresher.stopService()
        self.assertEqual(self.hash.cancelled, 1)
        self.assertEqual(self.lines.pairs, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_while_sorting(self) -> None:
        """So is one whose entries are being read."""
        self.refresher.startService()
        self.find(**{f"u{i}": entry("1") for i in range(2 * ENTRIES_AT_ONCE)})
        self.refresher.stopService()
        self.clock.advance(0)
        self.assertEqual(self.applied, [])
        self.assertEqual(self.lines.pairs, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RetrySecondsTests(SynchronousTestCase):
    """The pause behind a failure is a function of how many there were."""

    def test_bounded(self) -> None:
        """It grows to half a minute, or to the interval."""
        table = [(1, 60, 1), (2, 60, 2), (6, 60, 30), (10_000, 3600, 30), (5, 3, 3)]
        for failures, interval, expected in table:
            self.assertEqual(retry_seconds(failures, interval), expected)
