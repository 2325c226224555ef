"""What the documents say is what the code does, where a machine can tell."""

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import skipIf

from twisted.trial.unittest import SynchronousTestCase

from docs import make_configuration
from docs.make_configuration import RIGHT
from logiss import answers, counts, frames, settings, stamp
from logiss.__main__ import TOOLS
from logiss.daemon import TRY_CREDENTIALS
from logiss.l2met import EventLog
from logiss.settings import VARIABLES
from logiss.tools import check
from tests.fakes import Facts
from tests.test_floors import FLOOR_OF

ROOT = Path(__file__).parent.parent
README = ROOT / "README.rst"
DOCUMENTS = [
    README,
    ROOT / "CHANGELOG.rst",
    ROOT / "SECURITY.rst",
    *sorted((ROOT / "docs").glob("*.rst")),
    *sorted((ROOT / "newsfragments").glob("*.rst")),
]


def one_line(text: str) -> str:
    return " ".join(text.split())


def docs(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


class Recording(Mapping[str, str]):
    """An environment with nothing in it that records what it is asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("settings must be asked for by name")

    def __len__(self) -> int:
        return 0


def variables_read() -> set[str]:
    environ = Recording()
    try:
        settings.read(environ)
    except settings.SettingsError:
        pass
    return environ.asked


#: What has to be set beside a variable.
BESIDE = {"DEDUPE_REDIS": {"REDIS_URL": "redis://cache.example.com"}}


def problems_of(name: str, value: str) -> list[str]:
    """What is wrong with `name` when it has `value` and all else is right."""
    try:
        settings.read({**RIGHT, **BESIDE.get(name, {}), name: value})
    except settings.SettingsError as e:
        return [p for p in e.problems if p.startswith(f"{name}:")]
    return []


def defaults() -> dict[str, str]:
    """The table of variables in docs/configuration.rst."""
    rows = re.findall(
        r"^``([A-Z_]+)``  +(\S+)  ", docs("configuration.rst"), re.MULTILINE
    )
    return {name: default.strip("`") for name, default in rows}


def configuration_sections() -> dict[str, str]:
    """The text on each variable in docs/configuration.rst."""
    pieces = re.split(r"^([A-Z_]+)\n-+\n", docs("configuration.rst"), flags=re.M)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def fields(section: str, name: str) -> list[str]:
    """The field `name` of a section, each on one line."""
    found = re.findall(rf"^:{name}: (.*(?:\n    .*)*)", section, re.MULTILINE)
    return [one_line(text) for text in found]


class VariablesTests(SynchronousTestCase):
    """The documents tell of the variables that are read, as they are read."""

    def test_generated(self) -> None:
        """docs/configuration.rst is what ``make reference`` makes."""
        self.assertEqual(
            docs("configuration.rst").splitlines(),
            make_configuration.page().splitlines(),
        )

    def test_has_all(self) -> None:
        """It has the variables that are read and no others."""
        self.assertEqual(set(configuration_sections()), variables_read())
        self.assertEqual(set(defaults()), variables_read())

    def test_defaults_are_true(self) -> None:
        """A variable set to its default gives what it gives when it is not set."""
        unset = settings.read(RIGHT)
        stated = {
            name: default
            for name, default in defaults().items()
            if default not in ("required", "none")
        }
        self.assertEqual(settings.read({**RIGHT, **stated}), unset)

    def test_required_are_true(self) -> None:
        """Exactly the variables that are called required cannot be left out."""
        with self.assertRaises(settings.SettingsError) as raised:
            settings.read({})
        missed = {problem.partition(":")[0] for problem in raised.exception.problems}
        required = {n for n, d in defaults().items() if d == "required"}
        self.assertEqual(required, missed)

    def test_examples_are_accepted(self) -> None:
        """Each example is good, but for files that are not here."""
        examples = [
            (name, value)
            for name, text in configuration_sections().items()
            for line in fields(text, "Examples")
            for value in re.findall(r"``(.+?)``", line)
            if name not in ("PEMFILE", "CAPTURE_REFUSED")
        ]
        self.assertGreater(len(examples), len(variables_read()))
        wrong = [problems_of(*example) for example in examples]
        self.assertEqual([found for found in wrong if found], [])

    def test_errors(self) -> None:
        """Each variable whose text can be wrong has an error as an example."""
        texts = {v.name for v in VARIABLES.values() if v.parse not in (str, str.encode)}
        shown = {
            name for name, text in configuration_sections().items() if ":Error:" in text
        }
        self.assertEqual(texts - shown, set())


_POSTED = r"--data-binary '([^']*)'"
_PATH = r"``((?:benchmarks|deploy|docs|logiss|tests|twisted)/[a-z0-9_./-]+[a-z0-9_])"
_MADE = r"(?:``make ([a-z-]+)|^ +make ([a-z-]+)(?=$|  | [A-Z_]+=))"


def _section(page: str, title: str) -> str:
    """What stands under `title`, up to the next one."""
    return page.partition(f"\n{title}\n===")[2].partition("\n\n\n")[0]


class ReadmeTests(SynchronousTestCase):
    """What the README tells a newcomer to do works."""

    def test_one_screen(self) -> None:
        """It is read at a glance: the rest is in docs, the tutorial first."""
        text = README.read_text()
        self.assertLessEqual(len(text.splitlines()), 50)
        links = re.findall(r"<(docs/[\w-]+\.rst)>`_", text)
        self.assertEqual(links[:2], ["docs/index.rst", "docs/tutorial.rst"])

    def test_commands_first(self) -> None:
        """The two commands stand near the top."""
        top = "\n".join(README.read_text().splitlines()[:30])
        self.assertRegex(top, r"\bmake run\b")
        self.assertRegex(top, r"\bmake test\b")

    def test_frame(self) -> None:
        """curl sends one whole frame, and what is printed for it is what is shown."""
        text = README.read_text()
        frame = re.search(_POSTED, text)
        assert frame is not None
        batch = frames.rewrite(frame[1].encode(), stamp.origin(b"127.0.0.1"))
        self.assertEqual(batch.frames, 1)
        shown = re.search(r"^ +(<190>.*)$", text, re.MULTILINE)
        assert shown is not None
        self.assertEqual(batch.octets.partition(b" ")[2].decode(), shown[1])

    def test_frames(self) -> None:
        """Whatever else is posted by curl anywhere is one whole frame, too."""
        found = 0
        for document in DOCUMENTS:
            for body in re.findall(_POSTED, document.read_text()):
                found += 1
                batch = frames.rewrite(body.encode(), stamp.origin(b"127.0.0.1"))
                self.assertEqual(batch.frames, 1, document.name)
        self.assertGreater(found, 4)

    def test_credentials(self) -> None:
        """curl's user and the port are those of ``--with-receiver``."""
        text, source = README.read_text(), (ROOT / "logiss/daemon.py").read_text()
        self.assertIn(f"curl -i -u '{':'.join(TRY_CREDENTIALS)}'", text)
        self.assertIn("http://127.0.0.1:5000/logs", text)
        self.assertIn('"PORT": "5000"', source)


class CommandsTests(SynchronousTestCase):
    """docs/commands.rst has every command."""

    def test_all(self) -> None:
        """Its table has each, in the order of the help."""
        rows = re.findall(r"^``([a-z]+)``  ", docs("commands.rst"), re.M)
        self.assertEqual(rows, [tool.__name__.rpartition(".")[2] for tool in TOOLS])


class MigrationTests(SynchronousTestCase):
    """docs/migration.rst leaves nobody from log-iss in doubt."""

    def test_variables(self) -> None:
        """Each variable that is read stands there, and each that is no longer read."""
        variables = _section(docs("migration.rst"), "Variables")
        read = [variable.name for variable in VARIABLES.values()]
        for name in (*read, *check.NOT_READ):
            self.assertIn(f"``{name}``", variables)

    def test_answers(self) -> None:
        """What it says that logiss answers is what logiss answers."""
        told = one_line(_section(docs("migration.rst"), "Answers"))
        for answer in (answers.ONLY_POST, answers.WRONG_TYPE, answers.ONLY_SSL):
            self.assertIn(str(answer.code), told)
            for words in answer.text.split():
                self.assertIn(words, told)


class AnswersTests(SynchronousTestCase):
    """docs/http.rst knows every answer."""

    def test_constants(self) -> None:
        """Each constant answer stands in docs/http.rst with code and text."""
        # Word by word, since the cells of a table wrap the texts.
        page = one_line(docs("http.rst"))
        for answer in vars(answers).values():
            if isinstance(answer, answers.Answer):
                self.assertRegex(page, rf"\b{answer.code}\b")
                for words in answer.text.split():
                    self.assertIn(words, page)

    def test_codes(self) -> None:
        """Each status that the code can answer stands in both of its tables."""
        source = "".join(
            (ROOT / "logiss" / name).read_text() for name in ("answers.py", "web.py")
        )
        http = import_module("twisted.web.http")
        codes = {
            getattr(http, name)
            for name in re.findall(r"http\.(?!RESPONSES)([A-Z_]{2,})", source)
        }
        self.assertTrue(codes >= {200, 400, 401, 413, 504})
        requests, _, statuses = docs("http.rst").partition("\nStatuses\n===")
        for code in codes:
            self.assertRegex(requests, rf"\b{code}\b")
            self.assertRegex(statuses, rf"(?m)^{code} ")

    def test_headers_read(self) -> None:
        """It has the headers that are asked for, and else only those of HTTP itself."""
        source = "".join(
            (ROOT / "logiss" / f"{name}.py").read_text()
            for name in ("counts", "guards", "retries", "web")
        )
        asked = re.findall(r'(?:values\(|^\w+ = )b"([a-z-]+)"', source, re.M)
        said = _section(docs("http.rst"), "Headers of requests")
        rows = re.findall(r"^``([\w-]+)``  ", said, re.M)
        self.assertEqual(
            {name.lower() for name in rows},
            {
                *asked,
                *("logplex-drop-count", "logplex-lost-count"),
                *("authorization", "connection", "expect", "host", "transfer-encoding"),
            },
        )
        for name in counts.LOSS_HEADERS:
            self.assertIn(f"``{name.decode()}``", said.lower())

    def test_headers_written(self) -> None:
        """It has the headers of each answer, and no others."""
        written = {b"date", b"connection", answers.DELIVERY.lower()}
        for answer in vars(answers).values():
            if isinstance(answer, answers.Answer):
                written |= {name.lower() for name, _ in answer.fields()}
        said = _section(docs("http.rst"), "Headers of answers")
        rows = re.findall(r"^``([\w-]+)``  ", said, re.M)
        self.assertEqual({name.lower().encode() for name in rows}, written)


class LogLinesTests(SynchronousTestCase):
    """docs/log-lines.rst knows every line."""

    def test_metrics(self) -> None:
        """It has the names of metrics that are written and no others."""
        post = Facts(b"d.1", b"192.0.2.4", b"abc")
        calls: dict[str, tuple[Any, ...]] = {
            "started": ("compiled", "fast"),
            "phase_reached": ("main", "drain"),
            "twisted_event": ("error", "twisted", "why"),
            "lines_dropped": (1,),
            "health_checked": (),
            "post_succeeded": (post, 0.1, 0.1, 0.1, 0.1),
            "post_failed": (post, 504, "why", 0.1),
            "fields_cut": (
                post,
                {"hostname": 1, "app_name": 1, "procid": 1, "msgid": 1},
            ),
            "count_mismatched": (post, 2, 1),
            "losses_reported": (post, (1, 1), (1, 1)),
            "posts_summed": (1, 1),
            "credentials_accepted": (1, b"app", "current"),
            "credentials_refused": (1, b"app"),
            "deprecated_used": (1, b"app", "previous", "v1"),
            "credentials_refreshed": (1, 0.1),
            "credentials_not_refreshed": (1, "why"),
            "credential_skipped": (b"app", "why", True),
            "credentials_skipped": (1,),
            "dedupe_usable": (1.0, 2),
            "dedupe_lost": ("why",),
            "captures_lost": (1, "why"),
            "clients_cut": (1, "192.0.2.7", "why"),
            "proxy_headers_refused": (1, "192.0.2.7", "why"),
            "worker_not_started": (2, "why"),
            "worker_fallen": (2, 0.5),
            "worker_silent": (2, 4711),
            "workers_given_up": (5,),
            "reload_done": (3, 0.5),
            "reload_refused": ("why",),
            "connections_limited": (900, 10_000, 10_072),
            "accepting_paused": (900, "why"),
            "accepting_resumed": (899, 1.0),
            "connect_attempted": (0,),
            "connect_succeeded": (0, 0.1, "192.0.2.7:601"),
            "connect_failed": (0, "why"),
            "disconnected": (0,),
            "write_failed": (0, b"abc", "why"),
            "replaying": (0, 2, 300, "why"),
            "replays_given_up": (1, 100),
        }
        methods = {name for name in vars(EventLog) if not name.startswith("_")}
        self.assertEqual(set(calls), methods)
        lines: list[str] = []
        events = EventLog("local", lines.append)
        for name, arguments in calls.items():
            getattr(events, name)(*arguments)
        metric = re.compile(r"(?:count|measure)#[a-z._-]*[a-z]")
        self.assertEqual(
            set(metric.findall(docs("log-lines.rst"))),
            set(metric.findall(" ".join(lines))),
        )

    def test_phases(self) -> None:
        """It has the phases that are reached and no others."""
        source = "".join(path.read_text() for path in (ROOT / "logiss").glob("*.py"))
        reached = re.findall(r'phase_reached\(\s*"([a-z]+)", "([a-z-]+)"', source)
        told = re.findall(r"^``ns=([a-z]+) at=([a-z-]+)", docs("log-lines.rst"), re.M)
        self.assertEqual(sorted(told), sorted({*reached, ("main", "start")}))


class DesignTests(SynchronousTestCase):
    """docs/design.rst has every room."""

    def test_rooms(self) -> None:
        """Its table has each module once, with the module's own sentence."""
        rows = re.findall(
            r"^([0-7])      ``(\w+)`` +(.*(?:\n {26}.*)*)", docs("design.rst"), re.M
        )
        rooms = {path.stem for path in (ROOT / "logiss").glob("*.py")} - {"_version"}
        self.assertEqual(sorted(name for _, name, _ in rows), sorted(rooms))
        for floor, name, sentence in rows:
            self.assertEqual(int(floor), FLOOR_OF[name], name)
            if floor < "7":
                doc = one_line(import_module(f"logiss.{name}").__doc__ or "")
                self.assertIn(plain(one_line(sentence)), plain(doc))


class SecurityTests(SynchronousTestCase):
    """SECURITY.rst names tests that there are."""

    def test_named(self) -> None:
        """Each method and each function that it names is there."""
        text = (ROOT / "SECURITY.rst").read_text()
        methods = re.findall(r"``(test_\w+)\.(\w+)\.(\w+)``", text)
        self.assertGreater(len(methods), 40)
        for module, case, method in methods:
            found = getattr(import_module(f"tests.{module}"), case, None)
            self.assertTrue(hasattr(found, method), f"{module}.{case}.{method}")
        functions = re.findall(r"``(integration/\w+\.py)::(\w+)``", text)
        self.assertGreater(len(functions), 2)
        for path, function in functions:
            source = (ROOT / "tests" / path).read_text()
            self.assertRegex(source, rf"(?m)^(?:async )?def {function}\b")

    def test_all_named(self) -> None:
        """Each row says what shows it; make's targets are there too."""
        table = (ROOT / "SECURITY.rst").read_text().partition(":header-rows:")[2]
        table = table.partition("\n\n\n")[0]
        rows = table.split("\n   * - ")[2:]
        self.assertGreater(len(rows), 20)
        for row in rows:
            shown = row.rpartition("\n     - ")[2]
            self.assertIn("``", shown, row)
            for target in re.findall(r"``make (\w+)``", shown):
                self.assertRegex((ROOT / "Makefile").read_text(), rf"(?m)^{target}:")


def plain(text: str) -> str:
    return text.replace("`", "")


class LinksTests(SynchronousTestCase):
    """No document points to what is not there."""

    def test_targets(self) -> None:
        """Each relative link and include is a file."""
        found = 0
        for document in DOCUMENTS:
            text = document.read_text()
            targets = re.findall(r"<([^<>\s`]+)>`_", text)
            targets += re.findall(r"^\.\. (?:literal)?include:: (\S+)", text, re.M)
            for target in targets:
                path = target.partition("#")[0]
                if not target.startswith("http"):
                    found += 1
                    self.assertTrue(
                        (document.parent / path).is_file(), (document.name, target)
                    )
        self.assertGreater(found, 10)

    def test_paths(self) -> None:
        """Each path of the tree that is named is there."""
        found = 0
        for document in DOCUMENTS:
            for path in re.findall(_PATH, document.read_text()):
                found += 1
                self.assertTrue((ROOT / path).exists(), (document.name, path))
        self.assertGreater(found, 20)

    def test_make(self) -> None:
        """Each target of make that is named is there."""
        targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
        found = 0
        for document in DOCUMENTS:
            named = re.findall(_MADE, document.read_text(), re.M)
            found += len(named)
            for one, other in named:
                self.assertIn(one or other, targets, document.name)
        self.assertGreater(found, 10)

    def test_index(self) -> None:
        """
        Every page is in the table of contents, or part of one that is; the list, for
        who reads plain files, and Sphinx's own have the same in the same order.
        """
        index = docs("index.rst")
        pages = {path.stem for path in (ROOT / "docs").glob("*.rst")} - {"index"}
        parts = {
            included: page
            for page in pages
            for included in re.findall(
                r"^\.\. include:: (\S+)", docs(f"{page}.rst"), re.M
            )
        }
        own = [
            name
            for tree in re.findall(r"^\.\. toctree::\n((?:\n|   .*\n)+)", index, re.M)
            for name in re.findall(r"^   ([\w-]+)$", tree, re.M)
        ]
        listed = [
            parts.get(target, target.removesuffix(".rst"))
            for target in re.findall(r"^- `.*?<(\S+\.rst)>`_", index, re.M)
        ]
        self.assertEqual(listed, own)
        included = {name.removesuffix(".rst") for name in parts}
        self.assertEqual(sorted(own), sorted(pages - included))

    def test_examples_run(self) -> None:
        """Each example of docs/embedding.rst is one that the tests run."""
        tests = "".join(
            (ROOT / "tests" / f"test_{name}.py").read_text()
            for name in ("embedding", "status")
        )
        shown = re.findall(r"^   :pyobject: (\w+)", docs("embedding.rst"), re.M)
        self.assertGreater(len(shown), 4)
        for name in shown:
            self.assertRegex(tests, rf"\b{name}\(")

    def test_included_objects(self) -> None:
        """Each object that is included is in the included file."""
        for document in DOCUMENTS:
            for target, name in re.findall(
                r"^\.\. literalinclude:: (\S+)\n   :pyobject: (\w+)",
                document.read_text(),
                re.MULTILINE,
            ):
                included = (document.parent / target).read_text()
                self.assertRegex(included, rf"(?m)^(?:class|def) {name}\b")


class SyntaxTests(SynchronousTestCase):
    """Every document is reStructuredText."""

    @skipIf(find_spec("docutils") is None, "docutils is not installed")
    def test_valid(self) -> None:
        """docutils has nothing to say about any of them."""
        core = import_module("docutils.core")
        rst = import_module("docutils.parsers.rst")

        class Unknown(rst.Directive):  # type: ignore[misc, name-defined]
            """Sphinx has it, docutils does not; test_pages reads it."""

            optional_arguments = 1
            has_content = True
            option_spec = dict.fromkeys(
                ("caption", "func", "hidden", "module", "prog", "pyobject"),
                rst.directives.unchanged,
            )

            def run(self) -> list[Any]:
                return []

        for name in ("argparse", "literalinclude", "toctree"):
            rst.directives.register_directive(name, Unknown)
        for document in DOCUMENTS:
            core.publish_doctree(
                document.read_text(),
                source_path=str(document),
                settings_overrides={"halt_level": 1, "report_level": 5},
            )


class CapacityTests(SynchronousTestCase):
    """docs/capacity.rst does its sums right."""

    def setUp(self) -> None:
        self.page = docs("capacity.rst")

    def test_millions(self) -> None:
        """What four million posts a minute take follows from the model."""
        found = re.search(r"among many ([\d.]+) us, a frame ([\d.]+) us", self.page)
        assert found is not None
        a_us, b_us = map(float, found.groups())
        table = self.page.partition("frames   us a POST")[2].partition("\n\n")[0]
        rows = [[float(x) for x in row.split()] for row in table.splitlines()[1:]]
        self.assertEqual([row[0] for row in rows], [1, 20, 50, 150, 500])
        rate = 4e6 / 60
        for number_of_frames, *told in rows:
            post_us = a_us + b_us * number_of_frames
            busy = rate * post_us / 1e6 * 1.25
            gigabits = rate * number_of_frames * 215 * 8 / 1e9
            expected = [post_us, busy, busy / (2 / 3), gigabits]
            for number, right in zip(told, expected, strict=True):
                self.assertLess(abs(number - right), 0.0501 + 0.01 * right)

    def test_check(self) -> None:
        """The check's quotients are those of its figures."""
        sizes = re.findall(r"^ {4,} +(\d+) +(1?\d{2,3}) +(\d+) +(.*)$", self.page, re.M)
        rows = [row[3].split() for row in sizes if len(row[3].split()) == 7]
        self.assertEqual(len(rows), 2)
        for _, said, measured, quotient, said_mib, mib, quotient_mib in rows:
            self.assertLess(abs(float(measured) / float(said) - float(quotient)), 0.02)
            whole = float(mib) / float(said_mib)
            self.assertLess(abs(whole - float(quotient_mib)), 0.02)
