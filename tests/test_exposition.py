"""What is said of the counters, in both of Prometheus's formats."""

import os
from collections.abc import Iterable
from pathlib import Path
from resource import getpagesize
from typing import Any

from attrs import fields
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from twisted.trial.unittest import SynchronousTestCase

from logiss.exposition import (
    LABEL_MAX,
    OPENMETRICS,
    TEXT,
    Exposition,
    accepts_openmetrics,
)
from logiss.facts import (
    CredentialFacts,
    EndedLinks,
    Facts,
    LinkFacts,
    WorkerCounts,
    WorkerFacts,
)
from logiss.metrics import NAMES_MAX, SECONDS_BOUNDS, Histogram, Link, Metrics
from tests import cases

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,"
    "application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)

#: What is not exposed, and why.
NOT_EXPOSED = {
    "failures": "posts one by one: their ids and causes are no labels",
    "credentials_accepted": "the sum of accepted_by_stage, less what is not yet there",
    "credentials_refused": "the same of refused_by_user",
    "refreshed_at": "the clock's seconds; how long it is overdue is exposed",
}
NOT_EXPOSED_OF_LINKS = {
    "link_id": "a label",
    "destination": "a label",
    "since": "changes in connected and connects tell it",
    "last_error": "text is no label",
    "last_error_at": "the same",
}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def exposed(facts: Facts, accept: str = "") -> str:
    return Exposition(lambda: facts).octets(accept)[0].decode()


def samples(families: Iterable[Metric]) -> Samples:
    """Each by its name and labels."""
    found: Samples = {}
    for family in families:
        for sample in family.samples:
            name = sample.name, tuple(sorted(sample.labels.items()))
            if name in found:
                raise AssertionError(f"{name} is there twice")
            found[name] = sample.value
    return found


def read(facts: Facts) -> Samples:
    """What both formats say, which is the same."""
    ours = samples(parse_text(exposed(facts)))
    theirs = samples(parse_openmetrics(exposed(facts, PROMETHEUS)))

    def of_facts(all_: Samples) -> Samples:
        return {name: v for name, v in all_.items() if name[0].startswith("logiss")}

    if of_facts(ours) != of_facts(theirs):
        raise AssertionError("the formats differ")
    return of_facts(ours)


def primes() -> Iterable[int]:
    n = 1000
    while True:
        n += 1
        if all(n % d for d in range(2, 60)):
            yield n


def numbered(thing: Any, left_out: Iterable[str]) -> dict[str, int]:
    """Set each counter of `thing` to a prime of its own."""
    given: dict[str, int] = {}
    prime = iter(primes())
    for field in fields(type(thing)):
        value = getattr(thing, field.name)
        if field.name in left_out or not isinstance(value, int | float):
            continue
        if not isinstance(value, bool):
            given[field.name] = next(prime)
            setattr(thing, field.name, given[field.name])
    return given


class CompletenessTests(SynchronousTestCase):
    """Whatever is counted is said."""

    def test_metrics(self) -> None:
        """Each counter is a sample, or there is a reason."""
        metrics = Metrics()
        given = numbered(metrics, NOT_EXPOSED)
        values = set(read(cases.facts(metrics=metrics)).values())
        missing = [name for name, prime in given.items() if prime not in values]
        self.assertEqual(missing, [])
        self.assertGreater(len(given), 30)

    def test_collections(self) -> None:
        """So is each that is counted by a name."""
        metrics = Metrics()
        metrics.posts_failed_by_code[418] = 1009
        metrics.requests_refused_by_code[431] = 1013
        metrics.accepted_by_stage.add((b"app", "current"), 1019)
        metrics.refused_by_user.add((b"dan",), 1021)
        metrics.add_loss(1.0, b"eve", 1031, 1033)
        metrics.delivery.observe(0.001, 1039)
        metrics.dedupe_unasked.add(("slow",), 1049)
        values = set(read(cases.facts(metrics=metrics)).values())
        self.assertEqual(
            {1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049} - values,
            set(),
        )
        counted = set(numbered(metrics, NOT_EXPOSED)) | {
            *("posts_failed_by_code", "requests_refused_by_code", "accepted_by_stage"),
            *("refused_by_user", "losses_by_user", "delivery", "links"),
            "dedupe_unasked",
        }
        known = counted | set(NOT_EXPOSED)
        self.assertEqual({f.name for f in fields(Metrics)} - known, set())

    def test_links(self) -> None:
        """Each counter of a connection is a sample, or there is a reason."""
        link = Link(7, "a:1")
        given = numbered(link, NOT_EXPOSED_OF_LINKS)
        link.confirmation.observe(0.001, 1999)
        found = read(cases.facts(links=(LinkFacts(link, 4.5),)))
        of_link = {
            value
            for (name, labels), value in found.items()
            if ("destination", "a:1") in labels
        }
        self.assertEqual({*given.values(), 1999, 4.5} - of_link, set())
        known = {*given, *NOT_EXPOSED_OF_LINKS, "confirmation", "is_usable"}
        self.assertEqual({f.name for f in fields(Link)} - known, set())

    def test_facts(self) -> None:
        """So is what is the case now."""
        gauges = {
            "posts_inside": "logiss_posts_inflight",
            "queue_payloads": "logiss_queue_payloads",
            "queue_bytes": "logiss_queue_bytes",
            "replay_bytes": "logiss_replay_bytes",
            "inflight_bytes": "logiss_inflight_bytes",
            "inflight_limit_bytes": "logiss_inflight_limit_bytes",
            "waiting_for_room": "logiss_inflight_waiting",
            "budget_refusals": "logiss_inflight_refusals_total",
            "refresh_overdue_seconds": "logiss_credentials_refresh_overdue_seconds",
            "is_draining": "logiss_draining",
        }
        for n, (field, name) in enumerate(gauges.items(), 1):
            with self.subTest(field):
                found = read(cases.facts(**{field: n}))
                self.assertEqual(found[name, ()], n)
        found = read(cases.facts(are_credentials_loaded=False))
        self.assertEqual(found["logiss_credentials_loaded", ()], 0)
        self.assertEqual(found["logiss_clients", ()], 3)
        self.assertEqual(found["logiss_clients_limit", ()], 100)


class WorkersTests(SynchronousTestCase):
    """What is said of several workers."""

    def link(self, worker: int, is_serving: bool = True, **about: Any) -> LinkFacts:
        return LinkFacts(Link(0, "a:1", **about), 0.0, worker, is_serving)

    def of(self, found: Samples, name: str, **labels: str) -> dict[str, float]:
        """By worker, of those samples that have the labels."""
        return {
            dict(given)["worker"]: value
            for (known, given), value in found.items()
            if known == name and labels.items() <= dict(given).items()
        }

    def test_alone(self) -> None:
        """A process that is alone has no workers, and no label of one."""
        text = exposed(cases.facts())
        self.assertNotIn("worker", text)
        self.assertNotIn("logiss_reloads", text)

    def test_connections(self) -> None:
        """Each has the number of its worker; a backend is the sum of them."""
        links = (self.link(1, connects=2), self.link(2, connects=3, is_usable=True))
        found = read(cases.of_workers(links=links))
        of_links = self.of(found, "logiss_backend_connects_total", destination="a:1")
        self.assertEqual(of_links, {"1": 2, "2": 3})
        self.assertEqual(self.of(found, "logiss_backend_connected"), {"1": 0, "2": 1})

    def test_one_number(self) -> None:
        """
        While an old worker leaves a new one of its number there is one series: of what
        is counted both, and what is the case of the one that takes posts.
        """
        old = self.link(1, False, connects=2, connect_seconds=0.5, is_usable=True)
        new = self.link(1, connects=1, connect_seconds=0.25)
        ended = EndedLinks(1, Link(0, "a:1", connects=4, connect_seconds=1.0), 3)
        rows = (
            WorkerFacts(1, 0, "leaving", 0.0, 0, clients=3),
            WorkerFacts(1, 0, "serving", 0.0, 0, clients=4),
        )
        case = cases.of_workers(links=(old, new), ended_links=(ended,), workers=rows)
        found = read(case)
        for name, expected in (
            ("logiss_backend_connects_total", 7),
            ("logiss_backend_reconnects_total", 4),
            ("logiss_backend_connect_seconds_sum", 1.75),
            ("logiss_backend_connect_seconds_count", 7),
            ("logiss_backend_connected", 0),
        ):
            self.assertEqual(self.of(found, name), {"1": expected}, name)
        self.assertEqual(self.of(found, "logiss_worker_clients"), {"1": 7, "2": 0})
        self.assertEqual(self.of(found, "logiss_worker_up"), {"1": 1, "2": 0})

    def test_ended(self) -> None:
        """Connections of workers that are gone count, but are not there any more."""
        link = Link(0, "b:1", stalls=2)
        link.confirmation.observe(0.001, 3)
        found = read(cases.of_workers(links=(), ended_links=(EndedLinks(1, link, 0),)))
        self.assertEqual(self.of(found, "logiss_backend_stalls_total"), {"1": 2})
        self.assertEqual(self.of(found, "logiss_backend_connected"), {})
        name = "logiss_backend_confirmation_seconds_count"
        self.assertEqual(found[name, (("destination", "b:1"),)], 3)

    def test_counts(self) -> None:
        """Counts by number, those of workers that are not wanted any more too."""
        counts = (
            WorkerCounts(0, 0, 5, 0.5),
            WorkerCounts(1, 1, 7, 1.5),
            WorkerCounts(2),
            WorkerCounts(9, 2, 3, 2.5),
        )
        reloads = {"done": 4, "refused": 1}
        found = read(cases.of_workers(worker_counts=counts, reloads=reloads))
        falls = {"0": 0, "1": 1, "2": 0, "9": 2}
        self.assertEqual(self.of(found, "logiss_worker_falls_total"), falls)
        posts = {"0": 5, "1": 7, "2": 0, "9": 3}
        self.assertEqual(self.of(found, "logiss_worker_posts_total"), posts)
        seconds = {"0": 0.5, "1": 1.5, "2": 0, "9": 2.5}
        self.assertEqual(self.of(found, "logiss_worker_cpu_seconds_total"), seconds)
        self.assertEqual(found["logiss_workers", ()], 2)
        self.assertEqual(set(self.of(found, "logiss_worker_up")), {"1", "2"})
        self.assertEqual(found["logiss_reloads_total", (("result", "done"),)], 4)
        self.assertEqual(found["logiss_reloads_total", (("result", "refused"),)], 1)

    def test_processes(self) -> None:
        """Memory and files of those that are there, of one number together."""
        proc = Path(self.mktemp())
        for pid, pages in ((8, 30), (9, 4)):
            (proc / f"{pid}/fd/0").mkdir(parents=True)
            (proc / f"{pid}/statm").write_text(f"99 {pages} 1 1 0 1 0\n")
        rows = tuple(
            WorkerFacts(number, pid, "serving", 0.0, 0)
            for number, pid in ((1, 8), (1, 9), (2, 0), (3, 7))
        )
        exposition = Exposition(lambda: cases.of_workers(workers=rows), proc=str(proc))
        found = samples(parse_text(exposition.octets("")[0].decode()))
        resident = self.of(found, "logiss_worker_resident_memory_bytes")
        self.assertEqual(resident, {"1": 34 * getpagesize()})
        self.assertEqual(self.of(found, "logiss_worker_open_fds"), {"1": 2})

    def test_this_process(self) -> None:
        """The kernel tells so of a process that is there."""
        rows = (WorkerFacts(1, os.getpid(), "serving", 0.0, 0),)
        found = samples(parse_text(exposed(cases.of_workers(workers=rows))))
        (resident,) = self.of(found, "logiss_worker_resident_memory_bytes").values()
        self.assertGreater(resident, 10_000_000)
        self.assertGreater(self.of(found, "logiss_worker_open_fds")["1"], 2)


class ConventionsTests(SynchronousTestCase):
    """What Prometheus wants of names and types."""

    def test_names(self) -> None:
        """Counters end in _total, nothing else does; each has a type and a help."""
        for family in parse_openmetrics(exposed(cases.facts(), PROMETHEUS)):
            self.assertNotEqual(family.documentation, "", family.name)
            self.assertNotEqual(family.type, "unknown", family.name)
            for sample in family.samples:
                is_counter = family.type == "counter"
                self.assertEqual(
                    sample.name.endswith("_total"), is_counter, sample.name
                )
                self.assertNotRegex(sample.name, "_(ms|milliseconds|kb|percent)$")

    def test_zeros(self) -> None:
        """What can be counted is there from the start, so that its first is seen."""
        found = read(cases.facts(refusals=(cases.refusal(b"dan", None, 0),)))
        for name, labels in (
            ("logiss_posts_total", (("code", "504"),)),
            ("logiss_requests_refused_total", (("code", "400"),)),
            ("logiss_credentials_refused_total", (("user", ""),)),
            ("logiss_credentials_refused_total", (("user", "dan"),)),
            (
                "logiss_credentials_accepted_total",
                (("stage", "current"), ("user", "app")),
            ),
            ("logiss_user_losses_total", (("user", ""), ("what", "lost"))),
        ):
            self.assertIn((name, labels), found)

    def test_histograms(self) -> None:
        """Buckets count all that took so long or less; the last of them is all."""
        metrics, link = Metrics(), Link(0, "a:1")
        for histogram in (metrics.delivery, link.confirmation):
            for seconds in (0.0001, 0.3, 0.3, 99.0):
                histogram.observe(seconds)
        found = read(cases.facts(metrics=metrics, links=(LinkFacts(link, 0.0),)))
        for name, labels in (
            ("logiss_delivery_seconds", ()),
            ("logiss_backend_confirmation_seconds", (("destination", "a:1"),)),
        ):
            bounds = [*map(str, SECONDS_BOUNDS), "+Inf"]
            buckets = [
                found[f"{name}_bucket", (*labels, ("le", bound))] for bound in bounds
            ]
            self.assertEqual(buckets, sorted(buckets))
            self.assertEqual(buckets[0], 1)
            self.assertEqual(buckets[bounds.index("0.25")], 1)
            self.assertEqual(buckets[bounds.index("0.5")], 3)
            self.assertEqual(buckets[-2:], [3, 4])
            self.assertEqual(found[f"{name}_count", labels], 4)
            self.assertAlmostEqual(found[f"{name}_sum", labels], 99.6001)

    def test_destinations(self) -> None:
        """Connections to one destination are one histogram."""
        links = [Link(n, d) for n, d in enumerate(("a:1", "b:1", "a:1"))]
        for n, link in enumerate(links):
            link.confirmation.observe(0.3, n + 1)
        found = read(cases.facts(links=tuple(LinkFacts(x, 0.0) for x in links)))
        name = "logiss_backend_confirmation_seconds_count"
        self.assertEqual(found[name, (("destination", "a:1"),)], 4)
        self.assertEqual(found[name, (("destination", "b:1"),)], 2)

    def test_reconnects(self) -> None:
        """The first connection is none; one that never was is not less than none."""
        for connects, reconnects in ((0, 0), (1, 0), (4, 3)):
            facts = cases.facts(links=(cases.link(connects=connects),))
            name = "logiss_backend_reconnects_total"
            [value] = [v for (n, _), v in read(facts).items() if n == name]
            self.assertEqual(value, reconnects)


class NamesTests(SynchronousTestCase):
    """Names of users, whatever they are, stay values of labels."""

    hostile = (
        b'"} 1\nlogiss_forged_total 99\n',
        b'a\\"b\\n',
        b"\xff\xfe",
        b"\xff\xfd",
        b"\x00\x1b[31m",
        "\N{RIGHT-TO-LEFT OVERRIDE}\N{LINE SEPARATOR}\N{SNOWMAN}".encode(),
        b"x" * (LABEL_MAX + 1),
        b"x" * (LABEL_MAX + 2),
        b"",
        b"# HELP x",
    )

    def facts(self) -> Facts:
        metrics = Metrics()
        for n, user in enumerate(self.hostile, 1):
            metrics.accepted_by_stage.add((user, "current"), n)
            metrics.refused_by_user.add((user,), n)
            metrics.add_loss(1.0, user, n, n)
        metrics.refused_by_user.add((), 100)
        return cases.facts(
            metrics=metrics,
            credentials=tuple(cases.credential(u, 5.0) for u in self.hostile),
            refusals=tuple(cases.refusal(u) for u in self.hostile),
        )

    def test_hostile(self) -> None:
        """Nothing that one holds is read as anything else, and none is there twice."""
        found = read(self.facts())
        self.assertEqual([n for n, _ in found if "forged" in n], [])
        users = {dict(labels).get("user", "") for _, labels in found}
        self.assertIn("\ufffd\ufffd[31m", users)
        self.assertTrue(all(u.isprintable() or not u for u in users), users)
        self.assertTrue(all(len(u) <= LABEL_MAX for u in users))

    def test_same(self) -> None:
        """Those that are the same when cut or decoded are counted together."""
        found = read(self.facts())
        cut = "x" * LABEL_MAX
        name = "logiss_credentials_refused_total"
        self.assertEqual(found[name, (("user", cut),)], 7 + 8)
        self.assertEqual(found[name, (("user", "\ufffd\ufffd"),)], 3 + 4)
        name = "logiss_user_losses_total"
        self.assertEqual(found[name, (("user", cut), ("what", "lost"))], 7 + 8)
        name = "logiss_credentials_accepted_total"
        self.assertEqual(found[name, (("stage", "current"), ("user", cut))], 7 + 8)

    def test_too_many(self) -> None:
        """
        There is a bounded number of series, however many users there are; nothing that
        was counted is missing from the sums.
        """
        metrics = Metrics()
        held, refused = [], []
        for n in range(3 * NAMES_MAX):
            user = b"user%d" % n
            metrics.accepted_by_stage.add((user, "current"), 1)
            metrics.refused_by_user.add((user,), 1)
            metrics.add_loss(1.0, user, 1, 2)
            if n >= 2 * NAMES_MAX:
                held.append(CredentialFacts(user, "current", False, 0, 1.0))
                refused.append(cases.refusal(user, 1.0))
        found = read(
            cases.facts(
                metrics=metrics, credentials=tuple(held), refusals=tuple(refused)
            )
        )
        self.assertLess(len(found), 8 * NAMES_MAX)
        for name, every in (
            ("logiss_credentials_accepted_total", 3 * NAMES_MAX),
            ("logiss_credentials_refused_total", 3 * NAMES_MAX),
            ("logiss_user_losses_total", 9 * NAMES_MAX),
        ):
            self.assertEqual(sum(v for (n, _), v in found.items() if n == name), every)
        others = "logiss_user_losses_total", (("user", ""), ("what", "lost"))
        self.assertEqual(found[others], 4 * NAMES_MAX)

    def test_instance(self) -> None:
        """The label of this instance is a label."""
        found = read(cases.facts(instance='eu"1\n', version="1.2"))
        [labels] = [dict(labels) for name, labels in found if name == "logiss_info"]
        self.assertEqual(labels["instance_name"], 'eu"1\ufffd')
        self.assertEqual((labels["version"], labels["delivery"]), ("1.2", "acked"))


class FormatTests(SynchronousTestCase):
    """Which of the two formats it is."""

    def test_chosen(self) -> None:
        """OpenMetrics for who asks for it, whatever else the header says."""
        for accept, is_openmetrics in (
            ("", False),
            ("*/*", False),
            ("text/plain", False),
            ("text/plain; version=1.0.0", False),
            ("text/html, */*;q=0.1", False),
            (PROMETHEUS, True),
            ("application/openmetrics-text", True),
            ("APPLICATION/OpenMetrics-Text ; Version=1.0.0 ; charset=utf-8", True),
            ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8", True),
            ("application/openmetrics-text; version=0.0.1", False),
            ("application/openmetrics-text; version=9.0.0", False),
            ("application/openmetrics-text; version=x", False),
            ("application/openmetrics-text; version", False),
            ("application/openmetrics-text; q=0", False),
            ("application/openmetrics-text2", False),
            (";;,,=;q", False),
        ):
            with self.subTest(accept):
                self.assertEqual(accepts_openmetrics(accept), is_openmetrics)
                octets, media_type = Exposition(cases.facts).octets(accept)
                self.assertEqual(media_type, OPENMETRICS if is_openmetrics else TEXT)
                self.assertEqual(octets.endswith(b"# EOF\n"), is_openmetrics)

    def test_process(self) -> None:
        """What is known of the process is there too."""
        text = exposed(cases.facts())
        self.assertIn("process_resident_memory_bytes", text)
        self.assertIn("process_open_fds", text)
        self.assertIn("process_start_time_seconds", text)

    def test_asked_each_time(self) -> None:
        """The facts are those of the moment."""
        metrics = Metrics()
        exposition = Exposition(lambda: cases.facts(metrics=metrics))
        exposition.octets("")
        metrics.writes = 4711
        self.assertIn(b"logiss_writes_total 4711.0\n", exposition.octets("")[0])


class EmptyTests(SynchronousTestCase):
    """A logiss that has done nothing yet."""

    def test_no_links(self) -> None:
        """Without connections there are families without samples."""
        found = read(cases.facts(links=()))
        self.assertEqual([n for n, _ in found if n.startswith("logiss_backend")], [])

    def test_empty_histogram(self) -> None:
        """Its buckets are all nothing."""
        found = read(cases.facts())
        count = len(Histogram().counts)
        name = "logiss_delivery_seconds_bucket"
        buckets = [v for (n, _), v in found.items() if n == name]
        self.assertEqual(buckets, [0] * count)
