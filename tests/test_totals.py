"""What several workers know together."""

import random
from typing import Any

from attrs import evolve, fields
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.facts import Clients, Facts, LinkFacts
from logiss.history import Sample
from logiss.metrics import NAMES_MAX, Histogram, Link, Metrics
from logiss.totals import (
    Gone,
    Living,
    cpu_by_worker,
    posts_by_worker,
    sum_facts,
    sum_metrics,
    sum_samples,
)
from tests import cases
from tests.test_exposition import read

#: Of `Facts`, what is the parent's own to say.
OF_THE_PARENT = {
    *("at", "started_at", "instance", "version", "delivery_level", "is_draining"),
    *("delivery_timeout_seconds", "workers", "workers_wanted", "worker_counts"),
    *("reloads", "cpu_seconds"),
}
ADDED = {
    *("posts_inside", "queue_payloads", "queue_bytes", "replay_bytes"),
    *("inflight_bytes", "inflight_limit_bytes", "waiting_for_room"),
}
OTHERS = {
    *("are_credentials_loaded", "refresh_overdue_seconds", "clients", "metrics"),
    *("budget_refusals", "links", "ended_links", "credentials", "refusals"),
    *("unknown_last_refused_at", "users_more"),
}
BASE = cases.facts(links=(), credentials=(), clients=Clients())

NUMBERS = [
    field.name
    for field in fields(Metrics)
    if field.type in (int, float) and field.name not in ("refreshed_at",)
    if field.name != "entries_unreadable"
]
KINDS = (
    *(
        "code",
        "other",
        "failed",
        "stage",
        "refused",
        "loss",
        "took",
        "refreshed",
        "unasked",
    ),
)
#: What happens to a process: to be counted, at a time, of a user.
events = st.lists(
    st.tuples(
        st.sampled_from((*NUMBERS, *KINDS)),
        st.integers(0, 2),
        st.integers(1, 900),
        st.sampled_from([b"app", b"web", b"cron"]),
    ),
    max_size=60,
)


def happen(metrics: Metrics, at: float, kind: str, count: int, user: bytes) -> None:
    """Count what a process would."""
    match kind:
        case "code":
            metrics.posts_failed_by_code[400 + count % 105] += 1
        case "other":
            metrics.requests_refused_by_code[400 + count % 32] += 1
        case "failed":
            metrics.failures.append(cases.failed(500, str(count), at))
        case "stage":
            metrics.accepted_by_stage.add((user, "current"), count)
        case "refused":
            metrics.refused_by_user.add((user,), count)
        case "loss":
            metrics.add_loss(at, user, count, 2 * count)
        case "took":
            metrics.delivery.observe(count / 64)
        case "unasked":
            metrics.dedupe_unasked.add(("slow",), count)
        case "refreshed":
            metrics.refreshed_at, metrics.entries_unreadable = at, count
        case _:
            setattr(metrics, kind, getattr(metrics, kind) + count)


def plain(metrics: Metrics) -> dict[str, Any]:
    """What can be compared."""
    found = {field.name: getattr(metrics, field.name) for field in fields(Metrics)}
    found["delivery"] = metrics.delivery.counts, metrics.delivery.sum_seconds
    return found


def living(*each: Facts) -> list[Living]:
    return [Living(n, True, facts) for n, facts in enumerate(each, 1)]


def counters(facts: Facts) -> dict[Any, float]:
    """All that is exposed and must never become smaller."""
    return {
        name: value
        for name, value in read(facts).items()
        if name[0].endswith(("_total", "_count", "_sum", "_bucket"))
    }


class MetricsTests(SynchronousTestCase):
    """Whatever is counted is in the sum."""

    @given(events)
    def test_as_one(self, happened: list[tuple[str, int, int, bytes]]) -> None:
        """The sum of three is what one would have counted who saw all of it."""
        each, whole = [Metrics(), Metrics(), Metrics()], Metrics()
        for at, (kind, which, count, user) in enumerate(happened, 1):
            happen(each[which], float(at), kind, count, user)
            happen(whole, float(at), kind, count, user)
        self.assertEqual(plain(sum_metrics(each)), plain(whole))

    @given(events, st.integers(0, 60))
    def test_gone(self, happened: list[tuple[str, int, int, bytes]], end: int) -> None:
        """So it is when some of them ended in between."""
        each, whole, gone = [Metrics(), Metrics(), Metrics()], Metrics(), Gone()
        for at, (kind, which, count, user) in enumerate(happened, 1):
            if at == end:
                facts = cases.facts(metrics=each[which])
                gone = gone.with_one_more(which, facts, Sample(0.0))
                each[which] = Metrics()
            happen(each[which], float(at), kind, count, user)
            happen(whole, float(at), kind, count, user)
        # What is read of credentials is that of the living.
        whole.refreshed_at, whole.entries_unreadable = 0.0, 0
        total = sum_metrics([gone.metrics, *each])
        total.refreshed_at, total.entries_unreadable = 0.0, 0
        self.assertEqual(plain(total), plain(whole))

    def test_all_are_happened(self) -> None:
        """The cases above count everything that there is."""
        other = {
            *("posts_failed_by_code", "requests_refused_by_code", "failures"),
            *("accepted_by_stage", "refused_by_user", "losses_by_user", "delivery"),
            *("links", "refreshed_at", "entries_unreadable", "dedupe_unasked"),
        }
        self.assertEqual({f.name for f in fields(Metrics)} - set(NUMBERS), other)

    def test_nothing_is_changed(self) -> None:
        """Who is added up stays what it is, and what is gone as well."""
        one, two = Metrics(), Metrics()
        for metrics in (one, two):
            for kind in ("code", "failed", "stage", "refused", "loss", "took"):
                happen(metrics, 1.0, kind, 3, b"app")
        before = plain(sum_metrics([one]))
        gone = Gone().with_one_more(1, cases.facts(metrics=one), Sample(0.0))
        for _ in range(2):
            sum_facts(BASE, living(cases.facts(metrics=two)), gone)
        self.assertEqual(plain(sum_metrics([one])), before)
        self.assertEqual(plain(gone.metrics), before)

    def test_entries_unreadable(self) -> None:
        """It is that of the last reading, and not what somebody found who is gone."""
        before = Metrics(refreshed_at=5.0, entries_unreadable=3)
        gone = Gone().with_one_more(1, cases.facts(metrics=before), Sample(0.0))
        stale = cases.facts(metrics=Metrics(refreshed_at=6.0, entries_unreadable=2))
        fresh = cases.facts(metrics=Metrics(refreshed_at=7.0, entries_unreadable=0))
        for each, expected in (([], 0), ([stale], 2), ([fresh, stale], 0)):
            facts = sum_facts(BASE, living(*each), gone)
            self.assertEqual(facts.metrics.entries_unreadable, expected)

    def test_many_names(self) -> None:
        """Of more names than are counted no count falls when one worker is gone."""

        def named(start: int) -> Metrics:
            metrics = Metrics()
            for n in range(start, start + NAMES_MAX - 300):
                metrics.accepted_by_stage.add((b"u%d" % n, "current"), 1 + n)
                metrics.refused_by_user.add((b"u%d" % n,), 1 + n)
                metrics.add_loss(1.0, b"u%d" % n, 1 + n, 0)
            return metrics

        one, two = (cases.facts(metrics=named(start)) for start in (0, 600))
        gone = Gone()
        before = sum_facts(BASE, living(one, two), gone)
        gone.name(before.metrics)
        after = sum_facts(BASE, living(one), gone.with_one_more(2, two, Sample(0.0)))
        self.assertEqual(counters(after), counters(before))
        self.assertEqual(len(after.metrics.losses_by_user), NAMES_MAX)


class SampleTests(SynchronousTestCase):
    """The samples of all, from which the last minute is told."""

    def sample(self, n: int) -> Sample:
        numbers = [f.name for f in fields(Sample) if f.type is int]
        given: dict[str, Any] = {name: n * i for i, name in enumerate(numbers, 1)}
        return Sample(
            99.0, delivery=(n, 1), confirmation={"a:1": (n,), f"b:{n}": (1,)}, **given
        )

    def test_sum(self) -> None:
        """Each number is added, and each of a histogram."""
        total = sum_samples(5.0, [self.sample(1), self.sample(2)], Gone())
        expected = evolve(
            self.sample(3),
            at=5.0,
            delivery=(3, 2),
            confirmation={"a:1": (3,), "b:1": (1,), "b:2": (1,)},
        )
        self.assertEqual(total, expected)

    def test_gone(self) -> None:
        """Of those that are gone the counts stay, and nothing of what was then."""
        gone = Gone().with_one_more(1, cases.facts(), self.sample(2))
        now: dict[str, Any] = {
            "queue_payloads": 0,
            "queue_bytes": 0,
            "inflight_bytes": 0,
        }
        total = sum_samples(5.0, [], gone)
        self.assertEqual(total, evolve(self.sample(2), at=5.0, **now))


class FactsTests(SynchronousTestCase):
    """What is the case with all."""

    def test_all_fields(self) -> None:
        """Each fact is of the parent, or made of what the workers tell."""
        named = OF_THE_PARENT | ADDED | OTHERS
        self.assertEqual({field.name for field in fields(Facts)}, named)
        about: dict[str, Any] = dict.fromkeys(ADDED, 2)
        total = sum_facts(
            BASE, living(cases.facts(**about), cases.facts(**about)), _GONE
        )
        self.assertEqual({name: getattr(total, name) for name in ADDED}, _FOURS)
        for name in OF_THE_PARENT:
            self.assertEqual(getattr(total, name), getattr(BASE, name), name)

    def test_of_one(self) -> None:
        """One worker alone is no other than a process alone, but for its label."""
        one = cases.facts(
            links=(cases.link(connects=3), cases.link(link_id=1)),
            metrics=Metrics(posts_succeeded=5),
            refusals=(cases.refusal(b"dan", refused=0),),
            unknown_last_refused_at=7.0,
            users_more=4,
        )
        total = sum_facts(evolve(BASE, at=one.at), living(one), Gone())
        self.assertEqual([f.worker for f in total.links], [1, 1])
        self.assertEqual([f.link.connects for f in total.links], [3, 1])
        held = tuple(evolve(c, accepted=0) for c in one.credentials)
        metrics = evolve(one.metrics, links=[f.link for f in one.links])
        expected = evolve(one, credentials=held, metrics=metrics)
        self.assertEqual(
            evolve(total, links=(), metrics=metrics, refusals=()),
            evolve(expected, links=(), refusals=()),
        )
        self.assertEqual([r.user for r in total.refusals], [b"dan"])

    def test_nobody(self) -> None:
        """Without any worker counts stay, and nothing else is there or wrong."""
        one = cases.facts(
            posts_inside=3, metrics=Metrics(posts_succeeded=5), queue_bytes=9
        )
        gone = Gone().with_one_more(1, one, Sample(0.0, pauses=4, budget_refusals=6))
        total = sum_facts(BASE, [], gone)
        self.assertEqual(total.metrics.posts_succeeded, 5)
        self.assertEqual((total.clients, total.budget_refusals), (Clients(0, 0, 4), 6))
        self.assertEqual((total.posts_inside, total.queue_bytes), (0, 0))
        self.assertEqual((total.links, total.credentials), ((), ()))
        self.assertTrue(total.are_credentials_loaded)
        self.assertEqual(total.inflight_limit_bytes, BASE.inflight_limit_bytes)

    def test_credentials_loaded(self) -> None:
        """A worker that only starts does not make them missing."""
        serving = cases.facts()
        starting = cases.facts(are_credentials_loaded=False)
        told = [Living(1, True, serving), Living(1, False, starting)]
        self.assertTrue(sum_facts(BASE, told, Gone()).are_credentials_loaded)
        self.assertFalse(sum_facts(BASE, told[1:], Gone()).are_credentials_loaded)
        told[1] = Living(2, True, starting)
        self.assertFalse(sum_facts(BASE, told, Gone()).are_credentials_loaded)

    def test_last_used(self) -> None:
        """A credential is not unused because who has seen it is gone."""
        seen = cases.facts(
            credentials=(cases.credential(b"app", 50.0),),
            refusals=(cases.refusal(b"dan", 60.0),),
            unknown_last_refused_at=70.0,
        )
        gone = Gone().with_one_more(1, seen, Sample(0.0))
        now = cases.facts(credentials=(cases.credential(b"app"),), refusals=())
        total = sum_facts(BASE, living(now), gone)
        self.assertEqual([c.last_used_at for c in total.credentials], [50.0])
        self.assertEqual(
            [(r.user, r.last_refused_at, r.is_held) for r in total.refusals],
            [(b"dan", 60.0, False)],
        )
        self.assertEqual(total.unknown_last_refused_at, 70.0)
        # Who has no credentials any more does not get them back.
        none = sum_facts(BASE, living(evolve(now, credentials=())), gone)
        self.assertEqual(none.credentials, ())

    def test_users_more(self) -> None:
        """Who is named by one worker is not one of the unnamed of another."""
        one, two = (
            cases.facts(credentials=(cases.credential(user),), users_more=2)
            for user in (b"app", b"web")
        )
        self.assertEqual(sum_facts(BASE, living(one, two), Gone()).users_more, 1)

    def test_refusals_are_bounded(self) -> None:
        """No more are named than of one worker, and those refused last."""
        one, two = (
            cases.facts(
                refusals=tuple(
                    cases.refusal(b"u%d" % n, float(n))
                    for n in range(start, start + 800)
                )
            )
            for start in (0, 800)
        )
        refusals = sum_facts(BASE, living(one, two), Gone()).refusals
        self.assertEqual(len(refusals), NAMES_MAX)
        self.assertEqual(refusals[0].user, b"u1599")


_GONE = Gone()
_FOURS = dict.fromkeys(ADDED, 4)


class LinksTests(SynchronousTestCase):
    """Connections of workers that come and go."""

    def link(self, link_id: int = 0, **counted: Any) -> LinkFacts:
        found = cases.link(link_id=link_id, **counted)
        found.link.confirmation.observe(0.001, 3)
        return found

    def test_ended(self) -> None:
        """What they have counted is added up by worker, destination and id."""
        gone = Gone()
        for number, link_id, connects in ((1, 0, 3), (1, 0, 2), (1, 1, 1), (2, 0, 0)):
            one = cases.facts(links=(self.link(link_id, connects=connects, stalls=2),))
            gone = gone.with_one_more(number, one, Sample(0.0))
        self.assertEqual(
            [
                (e.worker, e.link.link_id, e.link.connects, e.reconnects, e.link.stalls)
                for e in gone.links
            ],
            [(1, 0, 5, 3, 4), (1, 1, 1, 0, 2), (2, 0, 0, 0, 2)],
        )
        self.assertEqual(sum(gone.links[0].link.confirmation.counts), 6)
        self.assertFalse(gone.links[0].link.is_usable)

    def test_all_counts(self) -> None:
        """None of the counts of a connection is forgotten."""
        link = Link(0, "a:1")
        names: list[str] = [
            field.name
            for field in fields(Link)
            if field.type in (int, float) and field.name != "link_id"
        ]
        for n, name in enumerate(names, 1):
            setattr(link, name, n)
        one = cases.facts(links=(LinkFacts(link, 0.0),))
        (ended,) = Gone().with_one_more(1, one, Sample(0.0)).links
        for name in names:
            self.assertEqual(getattr(ended.link, name), getattr(link, name), name)
        self.assertGreater(len(names), 7)
        self.assertIsInstance(ended.link.confirmation, Histogram)

    def test_serving(self) -> None:
        """Posts that come now depend on those of workers that take them."""
        old, new = (cases.facts(links=(cases.link(up),)) for up in (False, True))
        told = [Living(1, False, old), Living(1, True, new)]
        total = sum_facts(BASE, told, Gone())
        self.assertEqual([f.link.is_usable for f in total.serving_links], [True])
        self.assertEqual(len(total.links), 2)
        total = sum_facts(BASE, told[:1], Gone())
        self.assertEqual([f.link.is_usable for f in total.serving_links], [False])


class LivesTests(SynchronousTestCase):
    """Whatever becomes of workers, no counter falls."""

    def test_monotonous(self) -> None:
        """Workers count, fall, are replaced and leave, in any order."""
        for seed in range(8):
            with self.subTest(seed):
                self._live(random.Random(seed))

    def _live(self, chance: random.Random) -> None:
        there = [self._new(1), self._new(2)]
        gone = Gone()
        before: dict[Any, float] = {}
        for at in range(1, 60):
            which = chance.randrange(len(there))
            kind = chance.choice(["count", "count", "count", "fall", "renew"])
            if kind == "count":
                self._count(there[which].facts, at, chance)
            else:
                number = there[which].number
                if kind == "fall" or len(there) > 3:
                    old = there.pop(which)
                    gone = gone.with_one_more(number, old.facts, Sample(float(at)))
                else:
                    there[which] = evolve(there[which], is_serving=False)
                there.append(self._new(number))
            now = counters(self._sum(there, gone))
            fallen = {
                n: (v, now.get(n)) for n, v in before.items() if now.get(n, -1) < v
            }
            self.assertEqual(fallen, {})
            before = now

    def _new(self, number: int) -> Living:
        links = (cases.link(connects=0), cases.link(link_id=1, connects=0))
        return Living(number, True, cases.facts(links=links))

    def _count(self, facts: Facts, at: int, chance: random.Random) -> None:
        for kind in ("posts_succeeded", "code", "stage", "refused", "loss", "took"):
            user = chance.choice([b"app", b"web"])
            happen(facts.metrics, float(at), kind, chance.randrange(1, 9), user)
        link = chance.choice(facts.links).link
        link.connects += 1
        link.connect_seconds += chance.random()
        link.bytes_delivered += 100
        link.confirmation.observe(chance.random())
        facts.metrics.delivery.observe(chance.random())
        facts.metrics.add_seconds(chance.random(), chance.random(), chance.random())

    def _sum(self, there: list[Living], gone: Gone) -> Facts:
        total = sum_facts(BASE, there, gone)
        return evolve(total, workers_wanted=2)

    def test_by_worker(self) -> None:
        """Posts and CPU go on with the number of a worker."""
        one = cases.facts(metrics=Metrics(posts_succeeded=5), cpu_seconds=1.5)
        one.metrics.posts_failed_by_code[503] = 2
        gone = (
            Gone().with_one_more(1, one, Sample(0.0)).with_one_more(1, one, Sample(0.0))
        )
        told = [Living(1, True, one), Living(2, True, one)]
        self.assertEqual(posts_by_worker(told, gone), {1: 21, 2: 7})
        self.assertEqual(cpu_by_worker(told, gone), {1: 4.5, 2: 1.5})

    def test_lines_of_the_parent(self) -> None:
        """Lines that the parent itself could not write are counted as well."""
        gone = Gone().with_lines_dropped(3).with_lines_dropped(2)
        self.assertEqual(sum_facts(BASE, [], gone).metrics.log_lines_dropped, 5)
        self.assertEqual(sum_samples(0.0, [], gone).log_lines_dropped, 5)
