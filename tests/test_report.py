"""The document: three answers, and the numbers behind them."""

import json
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from logiss.facts import Clients, EndedLinks, Facts, WorkerFacts
from logiss.history import History, Sample
from logiss.metrics import NAMES_MAX, Link, Metrics
from logiss.report import CREDENTIALS_MAX, report
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
    worker,
)
from tests.test_findings import FOUND, NOT_FOUND

GOOD, WARN, BAD = "good", "warn", "bad"
STATES = {"critical": BAD, "warning": WARN}
QUESTIONS = {
    "intake": "Is it taking logs?",
    "backend": "Is the backend there?",
    "loss": "Is anything being lost?",
}


def answers(case: Facts, history: History | None = None) -> list[tuple[str, str]]:
    """State and answer, of intake, backend and loss."""
    document = report(case, lately() if history is None else history)
    assert [a["question"] for a in document["answers"]] == list(QUESTIONS.values())
    return [(answer["state"], answer["answer"]) for answer in document["answers"]]


def details(case: Facts, **counted: Any) -> list[str]:
    return [a["detail"] for a in report(case, lately(**counted))["answers"]]


class AnswersTests(SynchronousTestCase):
    """Each answer is that of the worst finding which is about it."""

    def test_well(self) -> None:
        """Nothing is found: yes, yes and no."""
        well = [(GOOD, "Yes"), (GOOD, "Yes"), (GOOD, "No")]
        self.assertEqual(answers(facts()), well)
        self.assertEqual(answers(facts(), History()), well)
        for case, counted in NOT_FOUND:
            self.assertEqual(answers(facts(**case), lately(**counted)), well)

    def test_each_cause(self) -> None:
        """Each finding is an answer, unless it is only worth knowing."""
        well = [(GOOD, "Yes"), (GOOD, "Yes"), (GOOD, "No")]
        for case, counted, alert, severity, concerns in FOUND:
            expected = [
                (STATES[severity], concerns[about]) if about in concerns else good
                for about, good in zip(QUESTIONS, well, strict=True)
            ]
            got = answers(facts(**case), lately(**counted))
            self.assertEqual(got, expected, alert)

    def test_outage(self) -> None:
        """While nothing can be delivered a loss is bad, however well it went before."""
        got = answers(
            facts(links=(link(is_usable=False),)),
            lately(posts_failed=1, posts_delivered=1000),
        )
        self.assertEqual(got, [(BAD, "No"), (BAD, "No"), (BAD, "Yes")])

    def test_all_lost(self) -> None:
        """In the moment in which all connections have ended the backend is no Yes."""
        lost = link(is_usable=False, since=NOW - 0.1, last_error="Closed.")
        [document] = [report(facts(links=(lost,)), lately())]
        self.assertEqual(document["answers"][1]["answer"], "Yes, but")
        self.assertNotIn("..", document["answers"][1]["detail"])

    def test_losses_are_told(self) -> None:
        """Where something was lost, or may have been, nobody is told otherwise."""
        for counted in (
            {"posts_failed": 1},
            {"posts_refused": 1},
            {"posts_refused": 1, "posts_gone": 1},
            {"posts_refused": 1, "posts_unauthorized": 1, "unknown_refused": 1},
            {"requests_refused": 1},
            {"clients_cut": 1},
            {"proxy_headers_refused": 1},
            {"reported_lost": 1},
            {"reported_dropped": 1},
            {"counts_mismatched": 1},
            {"replays_given_up": 1},
            {"log_lines_dropped": 1},
            {"budget_refusals": 1},
        ):
            much = {"posts_delivered": 9999, "frames_delivered": 9999}
            loss = answers(facts(), lately(**much, **counted))[2]
            self.assertNotIn("No", loss, counted)
            self.assertNotIn(GOOD, loss, counted)

    def test_worst(self) -> None:
        """What is bad goes before a warning, what is certain before what may be."""
        loss = answers(facts(), lately(posts_failed=1, reported_lost=1))[2]
        self.assertEqual(loss, (BAD, "Yes"))
        case = facts(delivery_level="sent")
        counted = {"disconnects": 1, "frames_delivered": 1, "requests_refused": 1}
        self.assertEqual(answers(case, lately(**counted))[2], (WARN, "Maybe"))
        counted["log_lines_dropped"] = 1
        self.assertEqual(answers(case, lately(**counted))[2], (WARN, "Maybe"))
        counted["posts_refused"] = 1
        self.assertEqual(answers(case, lately(**counted))[2], (WARN, "Yes"))

    def test_worst_of_others(self) -> None:
        """No goes before yes, but; what is bad before either."""
        case = facts(is_draining=True)
        self.assertEqual(answers(case, lately(pauses=1))[0], (WARN, "No"))
        counted = lately(pauses=1, budget_refusals=1)
        self.assertEqual(answers(case, counted)[0], (BAD, "Not all"))

    def test_names_cause(self) -> None:
        """The words of an answer are those of its finding."""
        case = facts(links=(link(False, last_error="refused"),), is_draining=True)
        taking, there, _ = details(case)
        self.assertRegex(taking, "^The backend .* has been down for .*: refused")
        self.assertEqual(there, taking)
        [finding, *_] = report(case, lately())["findings"]
        self.assertEqual(finding["what"], taking)
        self.assertEqual(finding["alert"], "LogissBackendDown")
        self.assertEqual(finding["severity"], "critical")
        self.assertRegex(finding["do"], "^See whether")


class WordsTests(SynchronousTestCase):
    """What is said when all is well is true."""

    def test_idle(self) -> None:
        """Nothing came."""
        taking, there, lost = details(facts(clients=Clients(1, 9)))
        self.assertEqual(
            taking,
            "It is ready. No post came in the last minute; 1 client is connected.",
        )
        self.assertEqual(there, "2 of 2 connections are usable.")
        self.assertEqual(lost, "Nothing came in the last minute, and nothing was lost.")

    def test_busy(self) -> None:
        """So much a second, and so fast."""
        taking, there, lost = details(
            facts(),
            posts_delivered=90,
            frames_delivered=12_345,
            delivery=took(0.001, 90),
        )
        self.assertRegex(taking, r"^1\.5 posts a second .*; 3 clients are connected\.$")
        self.assertRegex(
            there, r"; 99 % of the posts of the last minute took 1\.0 ms at"
        )
        self.assertEqual(lost, "All 12,345 frames of the last minute were delivered.")
        self.assertEqual(
            details(facts(), frames_delivered=1)[2],
            "The one frame of the last minute was delivered.",
        )

    def test_refused_only(self) -> None:
        """Posts that came and were not delivered are not said not to have come."""
        taking = details(facts(), posts_refused=2, posts_unauthorized=2)[0]
        self.assertIn("None of 2 posts was delivered", taking)

    def test_slowest(self) -> None:
        """Of what took longer than the last bound nothing else is known."""
        self.assertIn("took 10 s or more.", details(facts(), delivery=took(99))[1])

    def test_one_connection(self) -> None:
        """In the singular."""
        self.assertEqual(
            details(facts(links=(link(),)))[1], "1 of 1 connection is usable."
        )


class NumbersTests(SynchronousTestCase):
    """The numbers are those of the facts."""

    def test_json(self) -> None:
        """Whatever there is can be written as JSON, with finite numbers only."""
        metrics = Metrics()
        metrics.failures.append(failed(504, "\ud800", user=b"\xff"))
        case = facts(metrics=metrics, refusals=(refusal(b"\xff"),))
        text = json.dumps(report(case, lately(posts_failed=1)), allow_nan=False)
        self.assertTrue(text.isascii())

    def test_last_minute(self) -> None:
        """What happened in it, not what was counted before it."""
        history = History()
        history.add(Sample(NOW - 60, posts_delivered=5, delivery=took(9, 5)))
        history.add(Sample(NOW, posts_delivered=8, delivery=took(9, 8)))
        recent = report(facts(), history)["last_minute"]
        self.assertEqual(recent["posts_delivered"], 3)
        self.assertEqual(recent["seconds"], 60)
        self.assertGreater(recent["delivery_p50_seconds"], 5)

    def test_no_samples(self) -> None:
        """The document has the same members before the first sample."""
        none = report(facts(), History())
        one = History()
        one.add(Sample(NOW))
        self.assertEqual(
            none["last_minute"].keys(), report(facts(), lately())["last_minute"].keys()
        )
        self.assertEqual(report(facts(), one)["last_minute"]["posts_delivered"], 0)

    def test_totals(self) -> None:
        """By code, those delivered too; duplicates however they were known."""
        metrics = Metrics(
            posts_succeeded=7,
            posts_joined=1,
            posts_remembered=2,
            posts_known_elsewhere=4,
        )
        metrics.posts_failed_by_code[504] = 3
        case = facts(
            metrics=metrics,
            links=(link(connects=0), link(connects=1), link(connects=4)),
        )
        totals = report(case, lately())["totals"]
        self.assertEqual(totals["posts_by_code"], {"200": 7, "504": 3})
        self.assertEqual(totals["duplicates"], 7)
        self.assertEqual(totals["reconnects"], 3)

    def test_connections(self) -> None:
        """Up, waiting for the backend, or down, with the last error as text."""
        case = facts(
            links=(
                link(),
                link(waited_seconds=1.5),
                link(False, waited_seconds=1.5, last_error="a\nb", last_error_at=NOW),
            )
        )
        rows = report(case, lately())["connections"]
        self.assertEqual([r["state"] for r in rows], ["up", "waiting", "down"])
        self.assertEqual(rows[2]["last_error"], "a\N{REPLACEMENT CHARACTER}b")

    def test_workers(self) -> None:
        """A row for each worker, and its number on its connections."""
        rows = (
            worker(1, "leaving"),
            worker(1, pid=77),
            WorkerFacts(2, 0, "fallen", 5.0, 3),
        )
        links = (evolve(link(), worker=1), evolve(link(), worker=1, is_serving=False))
        document = report(of_workers(workers=rows, links=links), lately())
        self.assertEqual(document["workers_wanted"], 2)
        self.assertEqual(
            [(row["number"], row["pid"], row["state"]) for row in document["workers"]],
            [(1, 1001, "leaving"), (1, 77, "serving"), (2, None, "fallen")],
        )
        last = {"clients": 0, "posts": 0, "falls": 3, "since": 5.0}
        self.assertLessEqual(last.items(), document["workers"][2].items())
        about = [(row["worker"], row["is_serving"]) for row in document["connections"]]
        self.assertEqual(about, [(1, True), (1, False)])
        # The one that leaves counts for nothing.
        self.assertIn("1 of 1 connection is usable", document["answers"][1]["detail"])

    def test_no_workers(self) -> None:
        """A process that is alone has none."""
        document = report(facts(), lately())
        self.assertEqual((document["workers"], document["workers_wanted"]), ([], 0))
        self.assertEqual({row["worker"] for row in document["connections"]}, {None})

    def test_ended_reconnects(self) -> None:
        """Reconnects of workers that are gone stay among the totals."""
        ended = (EndedLinks(1, Link(0, "a:1", connects=9), 4),)
        case = of_workers(links=(link(connects=3),), ended_links=ended)
        self.assertEqual(report(case, lately())["totals"]["reconnects"], 6)

    def test_failures(self) -> None:
        """The last first; what a client did not send is null."""
        metrics = Metrics()
        metrics.failures.append(failed(400, "first"))
        metrics.failures.append(failed(504, "x" * 999, request_id=b"\x1b[0m"))
        last, first = report(facts(metrics=metrics), lately())["failures"]
        self.assertEqual((first["cause"], first["request_id"]), ("first", None))
        self.assertEqual(last["request_id"], "\N{REPLACEMENT CHARACTER}[0m")
        self.assertLess(len(last["cause"]), 999)


class CredentialRowsTests(SynchronousTestCase):
    """Who is refused stands first, then who was here last."""

    def users(self, **changed: Any) -> list[str]:
        rows = report(facts(**changed), lately())["credentials"]
        return [row["user"] for row in rows]

    def test_order(self) -> None:
        """Refused lately, used lately, never used."""
        users = self.users(
            credentials=(
                credential(b"never"),
                credential(b"used", NOW - 1),
                credential(b"before", NOW - 100),
                credential(b"refused", NOW - 200),
                credential(b"was-refused", NOW - 300),
            ),
            refusals=(
                refusal(b"refused"),
                refusal(b"was-refused", NOW - 100),
                refusal(b"never", None, 0),
            ),
        )
        self.assertEqual(users, ["refused", "used", "before", "was-refused", "never"])

    def test_gone(self) -> None:
        """A user without credentials has a row when posts of theirs still come."""
        users = self.users(
            refusals=(
                refusal(b"gone", is_held=False),
                refusal(b"quiet", None, 0, is_held=False),
            )
        )
        self.assertEqual(users, ["gone", "app"])

    def test_refusals(self) -> None:
        """How often and when are in the row of the user."""
        case = facts(refusals=(refusal(b"app", NOW - 5, 9),))
        [row] = report(case, lately())["credentials"]
        self.assertEqual((row["refused"], row["last_refused_at"]), (9, NOW - 5))

    def test_many(self) -> None:
        """Only so many rows; how many more there are is said."""
        credentials = tuple(credential(b"u%d" % n) for n in range(NAMES_MAX))
        gone = refusal(b"gone", is_held=False)
        document = report(
            facts(credentials=credentials, users_more=7, refusals=(gone,)), lately()
        )
        self.assertEqual(len(document["credentials"]), CREDENTIALS_MAX)
        self.assertEqual(document["credentials"][0]["user"], "gone")
        self.assertEqual(
            document["credentials_more"], NAMES_MAX + 1 - CREDENTIALS_MAX + 7
        )
