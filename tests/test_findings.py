"""What is found, and what is not."""

from itertools import pairwise
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.facts import Clients, Facts, WorkerCounts
from logiss.findings import (
    BACKEND,
    CRITICAL,
    INFO,
    INTAKE,
    LOSS,
    MAYBE,
    NAMED_MAX,
    NO,
    NOT_ALL,
    WARNING,
    YES,
    YES_BUT,
    Finding,
    findings,
)
from logiss.history import History, Sample
from logiss.metrics import Metrics
from tests.cases import (
    BACKEND as DESTINATION,
)
from tests.cases import (
    NOW,
    credential,
    facts,
    failed,
    lately,
    link,
    of_workers,
    refusal,
    took,
)

ORDER = (CRITICAL, WARNING, INFO)


def found(case: Facts, history: History | None = None) -> list[Finding]:
    return findings(case, lately() if history is None else history)


def alerts(case: Facts, history: History | None = None) -> list[str]:
    return [finding.alert for finding in found(case, history)]


def losing(at: float, *users: bytes) -> Metrics:
    metrics = Metrics()
    for user in users:
        metrics.add_loss(at, user, 1, 0)
    return metrics


def unreadable(count: int) -> Metrics:
    return Metrics(entries_unreadable=count)


DOWN: dict[str, Any] = {"is_usable": False, "since": NOW - 5, "last_error": "refused"}
DRAINING, CLIENTS = "LogissDraining", "LogissClientsFull"
BUDGET, SLOW = "LogissBudgetFull", "LogissBackendSlow"
ALL_DOWN, ONE_DOWN = "LogissBackendDown", "LogissDestinationDown"
MISSING, BROKEN = "LogissConnectionsMissing", "LogissConnectionBroken"
NOT_LOADED, STALE = "LogissCredentialsNotLoaded", "LogissCredentialsStale"
FAILING, REPLAYING = "LogissPostsFailing", "LogissReplaying"
FALLEN, ABSENT = "LogissWorkerFallen", "LogissWorkersMissing"


def missing(*since: float | None) -> dict[str, Any]:
    """Workers that do not take posts since then."""
    counts = tuple(WorkerCounts(n, missing_since=at) for n, at in enumerate(since, 1))
    return {"workers_wanted": len(since), "worker_counts": counts}


# What is the case, what was counted, what is found, how bad it is and which answers it
# gives; of what is not found its name only.
FOUND: tuple[tuple[dict[str, Any], dict[str, Any], str, str, dict[str, str]], ...] = (
    ({"is_draining": True}, {}, DRAINING, WARNING, {INTAKE: NO}),
    ({"links": (link(**DOWN),)}, {}, ALL_DOWN, CRITICAL, {INTAKE: NO, BACKEND: NO}),
    (
        {"links": (link(), link(destination="b:1", **DOWN))},
        {},
        ONE_DOWN,
        WARNING,
        {BACKEND: YES_BUT},
    ),
    ({"links": (link(), link(**DOWN))}, {}, MISSING, INFO, {}),
    ({"links": (link(waited_seconds=1.1),)}, {}, SLOW, WARNING, {BACKEND: YES_BUT}),
    ({}, {"confirmation": {DESTINATION: took(0.7)}}, SLOW, WARNING, {BACKEND: YES_BUT}),
    ({}, {"payloads_replayed": 1}, REPLAYING, INFO, {}),
    ({}, {"replays_given_up": 1}, REPLAYING, WARNING, {LOSS: MAYBE}),
    (
        {"delivery_level": "sent"},
        {"disconnects": 1, "frames_delivered": 1},
        BROKEN,
        WARNING,
        {LOSS: MAYBE},
    ),
    (
        {"refusals": (refusal(b"app"),)},
        {"posts_refused": 1, "posts_unauthorized": 1},
        "LogissCredentialsRefused",
        WARNING,
        {LOSS: YES},
    ),
    (
        {},
        {"posts_refused": 1, "posts_unauthorized": 1, "unknown_refused": 1},
        "LogissUnknownRefused",
        WARNING,
        {LOSS: MAYBE},
    ),
    ({"are_credentials_loaded": False}, {}, NOT_LOADED, CRITICAL, {INTAKE: NOT_ALL}),
    (
        {"are_credentials_loaded": False, "credentials": ()},
        {},
        NOT_LOADED,
        CRITICAL,
        {INTAKE: NO},
    ),
    ({"refresh_overdue_seconds": 301.0}, {}, STALE, WARNING, {INTAKE: YES_BUT}),
    (
        {"metrics": unreadable(1)},
        {},
        "LogissEntriesSkipped",
        WARNING,
        {INTAKE: YES_BUT},
    ),
    ({}, {"reported_dropped": 1}, "LogissSendersLosing", WARNING, {LOSS: YES}),
    ({}, {"reported_lost": 1}, "LogissSendersLosing", WARNING, {LOSS: YES}),
    ({"inflight_bytes": 900}, {}, BUDGET, WARNING, {INTAKE: YES_BUT}),
    ({"waiting_for_room": 1}, {}, BUDGET, WARNING, {INTAKE: YES_BUT}),
    ({}, {"budget_refusals": 1}, BUDGET, CRITICAL, {INTAKE: NOT_ALL, LOSS: YES}),
    ({"inflight_limit_bytes": 0}, {}, BUDGET, WARNING, {INTAKE: YES_BUT}),
    ({}, {"posts_failed": 1, "posts_delivered": 19}, FAILING, CRITICAL, {LOSS: YES}),
    ({}, {"posts_failed": 1, "posts_delivered": 20}, FAILING, WARNING, {LOSS: YES}),
    ({}, {"posts_refused": 1}, "LogissPostsRefused", WARNING, {LOSS: YES}),
    (
        {},
        {"posts_refused": 1, "posts_gone": 1},
        "LogissClientsGone",
        WARNING,
        {LOSS: MAYBE},
    ),
    ({}, {"worker_falls": 1}, FALLEN, WARNING, {LOSS: MAYBE}),
    ({}, {"worker_falls": 3}, FALLEN, CRITICAL, {INTAKE: NOT_ALL, LOSS: MAYBE}),
    (missing(None, NOW - 6), {}, ABSENT, WARNING, {INTAKE: YES_BUT}),
    (
        missing(NOW - 6, NOW - 9),
        {},
        ABSENT,
        CRITICAL,
        {INTAKE: NO, BACKEND: "Unknown"},
    ),
    ({}, {"requests_refused": 1}, "LogissRequestsRefused", WARNING, {LOSS: MAYBE}),
    ({}, {"clients_cut": 1}, "LogissRequestsRefused", WARNING, {LOSS: MAYBE}),
    ({}, {"proxy_headers_refused": 1}, "LogissRequestsRefused", WARNING, {LOSS: MAYBE}),
    ({}, {"counts_mismatched": 1}, "LogissCountsMismatched", WARNING, {LOSS: MAYBE}),
    ({}, {"fields_cut": 1}, "LogissFieldsCut", INFO, {}),
    (
        {},
        {"log_lines_dropped": 1},
        "LogissLogLinesDropped",
        WARNING,
        {LOSS: "Only of our own log"},
    ),
    ({"clients": Clients(10, 10, 1)}, {}, CLIENTS, CRITICAL, {INTAKE: NOT_ALL}),
    (
        {"clients": Clients(9, 10, 1)},
        {"pauses": 1},
        CLIENTS,
        WARNING,
        {INTAKE: YES_BUT},
    ),
)

NOT_FOUND: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({}, {}),
    ({}, {"posts_delivered": 9, "frames_delivered": 99, "delivery": took(0.001)}),
    ({"posts_inside": 5, "queue_payloads": 5, "queue_bytes": 100}, {}),
    ({"links": (link(waited_seconds=1.0),)}, {}),
    ({}, {"confirmation": {DESTINATION: took(0.4)}}),
    # One of a hundred is slow.
    (
        {},
        {
            "confirmation": {
                DESTINATION: tuple(map(sum, zip(took(0.1, 99), took(9), strict=True)))
            }
        },
    ),
    # At the level acked what was lost with a connection is sent again.
    ({}, {"disconnects": 1, "frames_delivered": 1}),
    # A worker is started, or another in its place.
    (missing(None, NOW - 4), {}),
    (missing(NOW - 4, NOW - 4), {}),
    # Nothing was in its buffers.
    ({"delivery_level": "sent"}, {"disconnects": 1}),
    ({"refusals": (refusal(b"app", None, 0),)}, {}),
    ({"refusals": (refusal(b"app", NOW - 61),)}, {}),
    # A refusal of a known user is none of an unknown one, nor for another reason.
    ({}, {"posts_refused": 1, "posts_unauthorized": 1}),
    # A browser has asked: that is no post.
    ({}, {"posts_refused": 1, "posts_of_other_methods": 1}),
    ({"refresh_overdue_seconds": 300.0}, {}),
    ({"metrics": Metrics(entries_skipped=9)}, {}),
    ({"metrics": losing(NOW - 1, b"app")}, {}),
    ({"inflight_bytes": 899}, {}),
    ({"budget_refusals": 3}, {}),
    ({"clients": Clients(9, 10, 1)}, {}),
    # There is no port that counts them.
    ({"clients": Clients()}, {}),
)


class KindsTests(SynchronousTestCase):
    """Each kind is there when it should be, and only then."""

    def test_found(self) -> None:
        """Each as bad as it is, and with the answers that are true."""
        for case, counted, alert, severity, concerns in FOUND:
            [finding] = found(facts(**case), lately(**counted))
            self.assertEqual(
                (finding.alert, finding.severity, finding.concerns),
                (alert, severity, concerns),
                (case, counted),
            )

    def test_not_found(self) -> None:
        """Nothing is said of what is as it should be."""
        for case, counted in NOT_FOUND:
            self.assertEqual(alerts(facts(**case), lately(**counted)), [], counted)

    def test_over(self) -> None:
        """What was counted before the last minute is no finding any more."""
        for case, counted, *_ in FOUND:
            if case or not counted:
                continue
            history = History()
            history.add(Sample(NOW - 90))
            history.add(Sample(NOW - 61, **counted))
            history.add(Sample(NOW - 60, **counted))
            history.add(Sample(NOW, **counted))
            self.assertEqual(alerts(facts(), history), [], counted)

    def test_no_samples(self) -> None:
        """Before there is anything to compare, only what is now is found."""
        self.assertEqual(alerts(facts(), History()), [])
        one = History()
        one.add(Sample(NOW, posts_failed=5, delivery=took(1)))
        self.assertEqual(alerts(facts(), one), [])
        self.assertEqual(alerts(facts(is_draining=True), History()), [DRAINING])

    def test_sentences(self) -> None:
        """Each is one line of sentences that says what to do, and where it is."""
        for case, counted, alert, *_ in FOUND:
            [finding] = found(facts(**case), lately(**counted))
            for said in (finding.what, finding.do):
                self.assertTrue(said.isprintable(), alert)
                self.assertRegex(said, r"^[A-Z0-9logis].*\.$", alert)
                self.assertNotRegex(
                    said, r"  |\.\.|\b1 \w+s\b|below|above|\(s\)", alert
                )

    def test_many(self) -> None:
        """So it is when there are two of everything."""
        for case, counted, alert, *_ in FOUND:
            twice = {k: 2 * v for k, v in counted.items() if isinstance(v, int)}
            for finding in found(facts(**case), lately(**{**counted, **twice})):
                self.assertNotRegex(
                    finding.what, r"\b2 (post|line|client|entry)\b", alert
                )
                self.assertNotRegex(
                    finding.what, r"\b2 \w+s (is|was|has|waits)\b", alert
                )


class BackendTests(SynchronousTestCase):
    """Which backend it is, since when and why."""

    def one(self, *links: Any, **counted: Any) -> str:
        [finding] = found(facts(links=links), lately(**counted))
        return finding.what

    def test_down(self) -> None:
        """The last error of all its connections is the reason."""
        said = self.one(
            link(**{**DOWN, "last_error": "first", "last_error_at": NOW - 9}),
            link(**{**DOWN, "since": NOW - 7, "last_error_at": NOW - 3}),
        )
        self.assertEqual(
            said,
            f"The backend {DESTINATION} has been down for 5.0 s: refused. Posts wait"
            " 4.5 s for it, then get 504.",
        )

    def test_never_up(self) -> None:
        """One that never was there has been down since the start."""
        said = self.one(link(False, since=None))
        self.assertIn(f"{DESTINATION} has been down since the start. Posts", said)

    def test_all_down(self) -> None:
        """Each is named."""
        links = [link(destination=f"{name}:1", **DOWN) for name in "ab"]
        both = found(facts(links=tuple(links)))
        self.assertEqual([f.alert for f in both], [ALL_DOWN] * 2)
        for name, finding in zip("ab", both, strict=True):
            self.assertIn(f"All 2 backends are down: {name}:1 has been", finding.what)

    def test_some_down(self) -> None:
        """Those that are down are named, and no others."""
        names = [f"backend-{n}:1" for n in range(5)]
        links = [link(n not in (1, 3), name) for n, name in enumerate(names)]
        case = facts(links=tuple(links))
        self.assertEqual(alerts(case), [ONE_DOWN] * 2)
        said = " ".join(f.what for f in found(case))
        self.assertEqual([name in said for name in names], [False, True] * 2 + [False])

    def test_many_down(self) -> None:
        """A hundred are not a hundred findings."""
        links = [link(False, f"b{n}:1") for n in range(100)]
        self.assertEqual(len(found(facts(links=tuple(links)))), NAMED_MAX)

    def test_slow_one(self) -> None:
        """Of two, the one that is slow is named."""
        well, slow = link(destination="a:1"), link(destination="b:1")
        said = self.one(well, slow, confirmation={"a:1": took(0.01), "b:1": took(3)})
        self.assertRegex(said, r"^One of 2 backends, b:1, is slow: one of ten posts")
        said = self.one(well, evolve(slow, waited_seconds=7.0))
        self.assertRegex(said, r"^One of 2 backends, b:1, is slow: .* for 7\.0 s\.$")

    def test_slow_and_down(self) -> None:
        """One that is down is not called slow as well."""
        case = facts(links=(link(**DOWN),))
        slow = lately(confirmation={DESTINATION: took(3)})
        self.assertEqual(alerts(case, slow), [ALL_DOWN])

    def test_slow_since_a_moment(self) -> None:
        """
        One that has become slow is so, however many were fast in the minute before; it
        is given few then.
        """
        history = History()
        for ago, fast, slow in ((60, 0, 0), (16, 9000, 0), (15, 9000, 0), (0, 9000, 3)):
            counts = tuple(map(sum, zip(took(0.001, fast), took(3, slow), strict=True)))
            history.add(Sample(NOW - ago, confirmation={DESTINATION: counts}))
        (finding,) = findings(facts(), history)
        self.assertEqual(finding.alert, SLOW)
        self.assertIn("one of ten posts of the last 10 seconds took it", finding.what)

    def test_given_up(self) -> None:
        """
        One all of whose connections were given up this moment is not called down: they
        are made anew. It goes on being slow.
        """
        slow = lately(confirmation={DESTINATION: took(3)})
        for ago, expected in ((0.4, [SLOW, MISSING]), (0.5, [ALL_DOWN])):
            case = facts(
                links=(link(False, since=NOW - ago), link(False, since=NOW - 9))
            )
            self.assertEqual(alerts(case, slow), expected)

    def test_hostile_error(self) -> None:
        """What a backend made of an error stays on one line, and is cut."""
        said = self.one(link(False, last_error="\x1b]0;a\x07\nb" + "x" * 9999))
        self.assertTrue(said.isprintable())
        self.assertLess(len(said), 400)

    def test_some_missing(self) -> None:
        """So many of so many, in the singular and the plural."""
        up, down = link(), link(**DOWN)
        self.assertIn("1 of 2 connections to", self.one(up, down))
        self.assertIn(" has been down for 5.0 s: refused.", self.one(up, down))
        self.assertIn(" have been down ", self.one(up, down, down))


class UsersTests(SynchronousTestCase):
    """Whose posts are refused, and who loses lines."""

    def refused(self, *refusals: Any, **changed: Any) -> list[str]:
        case = facts(refusals=refusals, **changed)
        return [finding.what for finding in found(case)]

    def test_wrong(self) -> None:
        """Of a user who has credentials: wrong or expired; when they last were good."""
        [said] = self.refused(
            refusal(b"app", refused=1),
            credentials=(
                credential(b"app", NOW - 300),
                credential(b"app", NOW - 180, "next"),
                credential(b"dan", NOW),
            ),
        )
        self.assertEqual(
            said,
            'Posts of user "app" are refused with 401: their credentials are wrong, or'
            " have expired. 1 post since the start. Others of the same user were last"
            " accepted 3 min ago.",
        )

    def test_gone(self) -> None:
        """Of a user who has none: that there are none, and nothing else."""
        [said] = self.refused(refusal(b"old", is_held=False))
        self.assertEqual(
            said,
            'Posts of user "old" are refused with 401: the user has no credentials in'
            " force. 3 posts since the start.",
        )

    def test_uncounted(self) -> None:
        """One too many to be counted is not said to have been refused never."""
        [said] = self.refused(refusal(b"app", refused=0))
        self.assertNotIn("0 posts", said)

    def test_hundred(self) -> None:
        """Those refused last are named; the others are a number."""
        users = [refusal(b"u%d" % n, NOW - n / 10) for n in range(100)]
        said = self.refused(*users)
        self.assertEqual(len(said), NAMED_MAX + 1)
        self.assertIn('"u0"', said[0])
        self.assertIn('"u9"', said[9])
        self.assertIn(" of 90 more users ", said[10])
        self.assertIn(" of 1 more user ", self.refused(*users[: NAMED_MAX + 1])[10])

    def test_hostile(self) -> None:
        """A user's name is text between quotation marks, and no longer than is read."""
        for user in (
            b'x" is fine. "',
            b"\x1b]0;a\x07\n",
            b"\xff" * 999,
            b"",
            b"[bold]",
        ):
            [said] = self.refused(refusal(user))
            self.assertTrue(said.isprintable())
            self.assertRegex(said, r'^Posts of user "[^"]*" are refused with 401: ')
            self.assertLess(len(said), 400)

    def test_losing(self) -> None:
        """The users who have reported in the last minute, and no others."""
        metrics = losing(NOW - 1, b"app")
        metrics.add_loss(NOW - 61, b"dan", 5, 5)
        counted = lately(reported_dropped=1200, reported_lost=1)
        [finding] = found(facts(metrics=metrics), counted)
        self.assertIn('1,200 dropped and 1 lost, of user "app".', finding.what)
        [finding] = found(facts(metrics=losing(NOW, b"a", b"b")), counted)
        self.assertIn('lost, of users "a", "b".', finding.what)
        [finding] = found(facts(), counted)
        self.assertTrue(finding.what.endswith("1 lost."), finding.what)
        many = [b"u%d" % n for n in range(100)]
        [finding] = found(facts(metrics=losing(NOW, *many)), counted)
        self.assertTrue(finding.what.endswith('"u9" and 90 more.'), finding.what)


class CausesTests(SynchronousTestCase):
    """Why posts fail."""

    def said(self, metrics: Metrics, **counted: Any) -> str:
        [finding] = found(facts(metrics=metrics), lately(**counted))
        return finding.what

    def test_failed(self) -> None:
        """The last cause of those that are meant is told, on one line."""
        metrics = Metrics()
        for post in (
            failed(504, "late\n\x1b[31m" + "x" * 999),
            failed(400, "malformed"),
            failed(401, "unknown"),
            failed(405, "GET"),
            failed(499, "gone"),
        ):
            metrics.failures.append(post)
        self.assertIn("The last: 504, late", self.said(metrics, posts_failed=1))
        self.assertTrue(self.said(metrics, posts_failed=1).isprintable())
        self.assertLess(len(self.said(metrics, posts_failed=1)), 400)
        said = self.said(metrics, posts_refused=1)
        self.assertIn("The last: 400, malformed.", said)

    def test_old(self) -> None:
        """One of before is not told."""
        metrics = Metrics()
        metrics.failures.append(failed(504, "late", NOW - 61))
        self.assertNotIn("The last", self.said(metrics, posts_failed=1))

    def test_part(self) -> None:
        """Of how many posts, refused ones left out."""
        said = self.said(Metrics(), posts_failed=1, posts_delivered=1999)
        self.assertIn("1 of 2,000 posts in the last minute got 5xx.", said)
        self.assertIn("1 of 1 post in", self.said(Metrics(), posts_failed=1))

    def test_requests(self) -> None:
        """Why each was no post."""
        counted = {"requests_refused": 2, "clients_cut": 1}
        said = self.said(Metrics(), **counted)
        self.assertRegex(said, "^3 requests .* no post: 2 not HTTP .*, 1 cut off")
        self.assertNotIn("PROXY", said)


class OrderTests(SynchronousTestCase):
    """What stands first."""

    def test_worst_first(self) -> None:
        """By severity; of one severity the cause before what comes of it."""
        case = facts(
            links=(link(**DOWN),),
            is_draining=True,
            refusals=(refusal(b"app"),),
            clients=Clients(10, 10),
        )
        counted = lately(
            posts_failed=9, fields_cut=1, budget_refusals=1, requests_refused=1
        )
        all_found = found(case, counted)
        self.assertEqual(all_found[0].alert, ALL_DOWN)
        self.assertEqual(all_found[-1].alert, "LogissFieldsCut")
        severities = [ORDER.index(finding.severity) for finding in all_found]
        self.assertEqual(severities, sorted(severities))
        names = [finding.alert for finding in all_found]
        for cause, effect in pairwise((ALL_DOWN, BUDGET, FAILING, DRAINING)):
            self.assertLess(names.index(cause), names.index(effect))


ODD = st.one_of(st.none(), st.floats(-1e9, 1e9))
COUNTS = st.integers(0, 10**12)


class WorkersTests(SynchronousTestCase):
    """Workers that fall, do not come up, or leave."""

    def test_names(self) -> None:
        """Who has fallen, and who does not come up, is said by its number."""
        counts = (
            WorkerCounts(1, falls=9, last_fall_at=NOW - 100),
            WorkerCounts(2, falls=1, last_fall_at=NOW - 1, missing_since=NOW - 10),
            WorkerCounts(3, falls=1, last_fall_at=NOW - 2, missing_since=NOW - 60),
        )
        case = of_workers(3, worker_counts=counts)
        absent, fallen = found(case, lately(worker_falls=2))
        self.assertIn("2 workers have fallen in the last minute", fallen.what)
        self.assertIn("in the last minute (number 2, 3).", fallen.what)
        self.assertIn("1 of 3 workers takes posts. For 60 s these", absent.what)
        self.assertIn("have not come up: 2, 3.", absent.what)

    def test_one(self) -> None:
        """One is one."""
        counts = (WorkerCounts(1), WorkerCounts(2, 1, 0, 0.0, NOW, NOW - 10))
        absent, fallen = found(of_workers(worker_counts=counts), lately(worker_falls=1))
        self.assertIn("1 worker has fallen in the last minute", fallen.what)
        self.assertIn(
            "1 of 2 workers takes posts. For 10 s these have not come up: 2.",
            absent.what,
        )
        none = tuple(WorkerCounts(n, missing_since=NOW - 10) for n in (1, 2))
        (absent,) = found(of_workers(worker_counts=none))
        self.assertIn("None of 2 workers takes posts. For 10 s these have", absent.what)

    def test_many(self) -> None:
        """Of many not all are named."""
        counts = tuple(WorkerCounts(n, missing_since=NOW - 10) for n in range(1, 65))
        (absent,) = found(of_workers(64, worker_counts=counts))
        self.assertIn(f"and {64 - NAMED_MAX} more", absent.what)

    def test_end(self) -> None:
        """Nobody has to take posts when all are told to stop."""
        case = of_workers(is_draining=True, **missing(NOW - 10, NOW - 10))
        self.assertEqual(alerts(case), [DRAINING])

    def test_connection_is_named(self) -> None:
        """A connection is found by the number of its worker."""
        links = tuple(
            evolve(link(up, link_id=i), worker=n)
            for n, i, up in ((1, 0, True), (1, 1, False), (2, 0, False))
        )
        (finding,) = found(of_workers(links=links))
        self.assertEqual(finding.alert, MISSING)
        self.assertIn("(1/1, 2/0) have been down", finding.what)
        slow = evolve(link(waited_seconds=2.0, link_id=3), worker=2)
        (finding,) = found(of_workers(links=(*links[:1], slow)))
        self.assertIn("a write for 2.0 s (2/3).", finding.what)
        links = tuple(evolve(link(False, link_id=i), worker=1) for i in range(20))
        (finding,) = found(of_workers(links=(evolve(link(), worker=2), *links)))
        self.assertIn(f", {20 - NAMED_MAX} more) have been down", finding.what)

    def test_leaving(self) -> None:
        """What a worker that leaves has closed is missed by nobody."""
        up, down = (evolve(link(is_up), worker=1) for is_up in (True, False))
        left = evolve(down, is_serving=False, waited_seconds=9.0)
        self.assertEqual(alerts(of_workers(links=(up, left))), [])
        self.assertEqual(alerts(of_workers(links=(up, down))), [MISSING])
        self.assertEqual(alerts(of_workers(links=(left,))), [ALL_DOWN])


class BudgetTests(SynchronousTestCase):
    def test_half(self) -> None:
        """Memory of which only half is taken, and is full: the rest is kept free."""
        half = {"inflight_bytes": 500, "waiting_for_room": 1}
        for changed, is_said in (
            (half, True),
            ({**half, "inflight_bytes": 950}, False),
            ({}, False),
        ):
            (finding,) = found(facts(**changed), lately(budget_refusals=1))
            self.assertEqual("some is kept free" in finding.what, is_said)
            self.assertIn("1 post got 503", finding.what)


class OddTests(SynchronousTestCase):
    """Nothing that could be the case is an error."""

    @given(
        ODD, ODD, st.floats(-1e9, 1e9), st.binary(max_size=99), COUNTS, COUNTS, COUNTS
    )
    def test_any(
        self,
        since: float | None,
        at: float | None,
        waited: float,
        name: bytes,
        taken: int,
        limit: int,
        counted: int,
    ) -> None:
        """Clocks that went anywhere, limits of nothing, counts of everything."""
        metrics = losing(at or 0.0, name)
        metrics.failures.append(failed(504, name.decode("latin-1"), at or 0.0))
        case = facts(
            links=(link(False, since=since), link(waited_seconds=waited)),
            refusals=(refusal(name, at, counted),),
            credentials=(credential(name, at),),
            inflight_bytes=taken,
            inflight_limit_bytes=limit,
            refresh_overdue_seconds=waited,
            metrics=metrics,
        )
        fields = ("posts_failed", "reported_lost", "budget_refusals", "posts_refused")
        for finding in found(case, lately(**dict.fromkeys(fields, counted))):
            self.assertTrue((finding.what + finding.do).isprintable())

    def test_nothing(self) -> None:
        """There may be no connection and nobody who may post."""
        self.assertEqual(alerts(facts(links=(), credentials=())), [])
