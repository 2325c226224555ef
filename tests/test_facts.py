"""What is taken down of counters and of those who know."""

from base64 import b64encode
from collections.abc import Mapping

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.credentials import Credential, Credentials, password_digest
from logiss.drain import Drain
from logiss.facts import Clients, Facts, RefusalFacts, Watch
from logiss.metrics import NAMES_MAX, Link, Metrics
from logiss.uses import UseSums
from tests.cases import took
from tests.fakes import Lines

KEY = b"key"


class FakePool:
    """What is asked of a pool."""

    delivery_level = "acked"
    queue_payloads, queue_bytes, replay_bytes = 2, 300, 40

    def __init__(self) -> None:
        self.oldest: dict[Link, float] = {}

    def oldest_sent_at(self) -> Mapping[Link, float]:
        return self.oldest


class FakeBudget:
    """What is asked of a budget."""

    refusals, limit_bytes, reserved_bytes, waiting = 5, 1000, 600, 7


def held(
    user: bytes, password: bytes, stage: str = "current", deprecated: bool = False
) -> Credential:
    digest = password_digest(KEY, password)
    return Credential("v1", stage, deprecated, digest, user)


class WatchCase(SynchronousTestCase):
    """A watch on `app`, whose password is `pw`."""

    refresh_seconds: float | None = 60.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.metrics = Metrics()
        self.pool = FakePool()
        self.drain = Drain()
        self.credentials = Credentials(KEY, {b"app": [held(b"app", b"pw")]})
        self.sums = UseSums(self.credentials, Lines().events(), self.metrics)
        self.clients = Clients(3, 10, 1)
        self.watch = Watch(
            self.clock,
            self.metrics,
            self.pool,
            FakeBudget(),
            self.credentials,
            self.drain,
            self.sums.collect,
            lambda: self.clients,
            instance="eu-1",
            delivery_timeout_seconds=4.5,
            refresh_seconds=self.refresh_seconds,
        )

    def offer(self, user: bytes, password: bytes) -> None:
        pair = b64encode(user + b":" + password)
        if not self.credentials.authorize(b"Basic " + pair, self.clock.seconds()):
            self.metrics.posts_failed_by_code[401] += 1

    def replace(self, table: dict[bytes, list[Credential]]) -> None:
        """As a refresh does."""
        self.sums.collect()
        self.credentials.replace(table)

    def refusals(self) -> dict[bytes, RefusalFacts]:
        return {r.user: r for r in self.watch.facts().refusals}


class CredentialsTests(WatchCase):
    """Who was let in and who was not."""

    def test_used(self) -> None:
        """How often and when credentials were last used."""
        [facts] = self.watch.facts().credentials
        self.assertEqual((facts.accepted, facts.last_used_at), (0, None))
        self.offer(b"app", b"pw")
        self.clock.advance(5)
        self.offer(b"app", b"pw")
        self.clock.advance(5)
        [facts] = self.watch.facts().credentials
        self.assertEqual((facts.user, facts.stage), (b"app", "current"))
        self.assertEqual((facts.accepted, facts.last_used_at), (2, 1005))

    def test_stages(self) -> None:
        """Those of a user in one stage are together, the last use is that of any."""
        self.replace(
            {
                b"app": [
                    held(b"app", b"1", "previous", True),
                    held(b"app", b"2"),
                    held(b"app", b"3"),
                ]
            }
        )
        self.offer(b"app", b"3")
        self.clock.advance(1)
        self.offer(b"app", b"2")
        rows = {c.stage: c for c in self.watch.facts().credentials}
        self.assertEqual(set(rows), {"previous", "current"})
        self.assertTrue(rows["previous"].is_deprecated)
        self.assertFalse(rows["current"].is_deprecated)
        self.assertEqual(rows["current"].accepted, 2)
        self.assertEqual(rows["current"].last_used_at, 1001)

    def test_refreshed(self) -> None:
        """One that is read anew with the same password was used when it was used."""
        self.offer(b"app", b"pw")
        self.clock.advance(60)
        self.replace({b"app": [held(b"app", b"pw")]})
        [facts] = self.watch.facts().credentials
        self.assertEqual((facts.accepted, facts.last_used_at), (1, 1000))
        self.replace({b"app": [held(b"app", b"other")]})
        [facts] = self.watch.facts().credentials
        self.assertEqual((facts.accepted, facts.last_used_at), (1, None))

    def test_refused(self) -> None:
        """Of a user who is known: how often and when."""
        self.offer(b"app", b"wrong")
        self.clock.advance(1)
        self.assertEqual(self.refusals(), {b"app": RefusalFacts(b"app", 1, 1000, True)})

    def test_removed(self) -> None:
        """Who has no credentials any more, and goes on posting, is known by name."""
        self.replace({b"dan": [held(b"dan", b"pw")]})
        self.assertTrue(self.refusals()[b"app"].is_held, "TOKEN_MAP stays")
        self.replace({b"app": [], b"dan": [held(b"dan", b"pw")]})
        self.offer(b"app", b"pw")
        refusal = self.refusals()[b"app"]
        self.assertEqual((refusal.refused, refusal.last_refused_at), (1, 1000))
        self.assertFalse(refusal.is_held)
        self.assertEqual(self.watch.sample().unknown_refused, 0)

    def test_unknown(self) -> None:
        """A user who is not known is counted and not named, as is who names nobody."""
        self.offer(b"eve", b"pw")
        self.metrics.posts_failed_by_code[401] += 1
        self.offer(b"app", b"wrong")
        self.assertEqual(self.watch.sample().unknown_refused, 2)
        self.assertEqual(self.watch.sample().posts_unauthorized, 3)
        self.watch.facts()
        self.assertEqual(self.watch.sample().unknown_refused, 2, "when summed up too")
        self.assertNotIn(b"eve", self.refusals())
        self.assertEqual(self.watch.facts().unknown_last_refused_at, 1000)

    def test_many_users(self) -> None:
        """Of too many users those are named who were refused last."""
        users = [b"u%d" % n for n in range(NAMES_MAX + 100)]
        self.replace({user: [held(user, b"pw")] for user in users})
        self.clock.advance(1)
        self.offer(users[-1], b"wrong")
        facts = self.watch.facts()
        self.assertEqual(len(facts.credentials), NAMES_MAX)
        self.assertEqual(len(facts.refusals), NAMES_MAX)
        self.assertEqual(facts.refusals[0].user, users[-1])
        self.assertTrue(facts.refusals[0].is_held)
        # app is the first of all; u999 to u1098 have neither a row, and one has.
        self.assertEqual(facts.users_more, 100)


class NowTests(WatchCase):
    """What is the case."""

    def test_pool_and_budget(self) -> None:
        """Queue and memory are as those say who hold them."""
        facts = self.watch.facts()
        self.assertEqual(
            (facts.queue_payloads, facts.queue_bytes, facts.replay_bytes), (2, 300, 40)
        )
        self.assertEqual(
            (facts.inflight_bytes, facts.inflight_limit_bytes, facts.waiting_for_room),
            (600, 1000, 7),
        )
        self.assertEqual(facts.budget_refusals, 5)
        self.assertEqual(facts.clients, Clients(3, 10, 1))
        sample = self.watch.sample()
        self.assertEqual((sample.queue_payloads, sample.queue_bytes), (2, 300))
        self.assertEqual((sample.inflight_bytes, sample.budget_refusals), (600, 5))
        self.assertEqual(sample.pauses, 1)

    def test_drain(self) -> None:
        """Posts inside, and whether there will be others."""
        self.drain.enter()
        self.assertFalse(self.watch.facts().is_draining)
        self.drain.begin(lambda: None)
        facts = self.watch.facts()
        self.assertEqual((facts.is_draining, facts.posts_inside), (True, 1))

    def test_waits(self) -> None:
        """A connection waits since the oldest that it has not confirmed."""
        one, two = Link(0, "a:1"), Link(1, "a:1")
        self.metrics.links += [one, two]
        self.pool.oldest[two] = 990.0
        self.assertEqual([f.waited_seconds for f in self.watch.facts().links], [0, 10])
        self.pool.oldest[two] = 1010.0
        waited = [f.waited_seconds for f in self.watch.facts().links]
        self.assertEqual(waited, [0, 0], "the clock was set back")

    def test_overdue(self) -> None:
        """Credentials are to be read again so long after they were, or the start."""
        self.clock.advance(59)
        self.assertEqual(self.watch.facts().refresh_overdue_seconds, 0)
        self.clock.advance(2)
        self.assertEqual(self.watch.facts().refresh_overdue_seconds, 1)
        self.metrics.refreshed_at = self.clock.seconds()
        self.assertEqual(self.watch.facts().refresh_overdue_seconds, 0)
        self.clock.advance(70)
        self.assertEqual(self.watch.facts().refresh_overdue_seconds, 10)

    def test_recent(self) -> None:
        """A minute is recent to both sides: the clock may have been set back."""
        facts: Facts = self.watch.facts()
        self.assertEqual(
            [facts.is_recent(at) for at in (None, 0.0, 939.9, 940.0, 1060.0, 1060.1)],
            [False, False, False, True, True, False],
        )


class NoRefreshTests(WatchCase):
    """Credentials that are not read anew."""

    refresh_seconds = None

    def test_never_overdue(self) -> None:
        """They are never old."""
        self.clock.advance(1e6)
        self.assertEqual(self.watch.facts().refresh_overdue_seconds, 0)


class SampleTests(WatchCase):
    """What the counters were."""

    def test_by_code(self) -> None:
        """Posts that were refused and posts that have failed, by their codes."""
        codes = self.metrics.posts_failed_by_code
        for code, count in (
            (400, 1),
            (401, 2),
            (405, 4),
            (499, 8),
            (500, 16),
            (504, 32),
        ):
            codes[code] = count
        sample = self.watch.sample()
        self.assertEqual(sample.posts_refused, 15)
        self.assertEqual(sample.posts_unauthorized, 2)
        self.assertEqual(sample.posts_of_other_methods, 4)
        self.assertEqual(sample.posts_gone, 8)
        self.assertEqual(sample.posts_failed, 48)

    def test_confirmation(self) -> None:
        """By destination, of all of its connections."""
        for n, destination in enumerate(("a:1", "b:1", "a:1")):
            link = Link(n, destination)
            link.confirmation.observe(0.3, n + 1)
            self.metrics.links.append(link)
        self.assertEqual(
            self.watch.sample().confirmation,
            {"a:1": took(0.3, 4), "b:1": took(0.3, 2)},
        )

    def test_is_of_its_moment(self) -> None:
        """What is counted later changes no sample."""
        self.metrics.links.append(Link(0, "a:1"))
        sample = self.watch.sample()
        self.metrics.delivery.observe(1.0)
        self.metrics.links[0].confirmation.observe(1.0)
        self.assertEqual(sum(sample.delivery), 0)
        self.assertEqual(sum(sample.confirmation["a:1"]), 0)

    def test_losses(self) -> None:
        """Losses are summed up post by post: none is behind another's."""
        self.metrics.add_loss(1000, b"app", 7, 0)
        self.metrics.dropped_by_headers = 7
        before = self.watch.sample()
        self.metrics.add_loss(1000, b"dan", 5, 2)
        self.metrics.dropped_by_frames, self.metrics.lost_by_frames = 5, 2
        after = self.watch.sample()
        self.assertEqual(after.reported_dropped - before.reported_dropped, 5)
        self.assertEqual(after.reported_lost - before.reported_lost, 2)

    def test_sums(self) -> None:
        """Of what is counted apart and said together."""
        metrics = self.metrics
        metrics.requests_refused_by_code[400] = 1
        metrics.requests_refused_by_code[431] = 2
        metrics.hostnames_cut, metrics.app_names_cut = 1, 2
        metrics.procids_cut, metrics.msgids_cut = 4, 8
        for disconnects in (1, 2):
            metrics.links.append(Link(0, "a:1", disconnects=disconnects))
        metrics.clients_cut, metrics.proxy_headers_refused = 5, 6
        metrics.payloads_replayed, metrics.replays_given_up = 7, 8
        sample = self.watch.sample()
        self.assertEqual(sample.requests_refused, 3)
        self.assertEqual(sample.fields_cut, 15)
        self.assertEqual(sample.disconnects, 3)
        self.assertEqual((sample.clients_cut, sample.proxy_headers_refused), (5, 6))
        self.assertEqual((sample.payloads_replayed, sample.replays_given_up), (7, 8))
