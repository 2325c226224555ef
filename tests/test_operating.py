"""docs/operating.rst, the guide for the night, held against the code."""

import ast
import re
import signal
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from logiss import frames, proxy_header, settings
from logiss.__main__ import TOOLS
from tests import messages
from tests.messages import HOLE, Composer, Message

ROOT = messages.ROOT
GUIDE = ROOT / "docs" / "operating.rst"

#: Variables of the system, of OpenSSL and of commands.
OF_OTHERS = {"CAP_NET_BIND_SERVICE", "SSL_CERT_FILE"}
#: Lines that tell of nothing that is wrong.
GOOD_METRICS = {
    "count#log-iss.credentials.refresh.success",
    "count#log-iss.credentials.success",
    "count#log-iss.forwarder.connect.attempt",
    "count#log-iss.forwarder.connect.success",
    "count#log-iss.forwarder.replay.bytes",  # stands beside replay.payloads
    "count#log-iss.http.accept.resume",
    "count#log-iss.http.health.get",
    "count#log-iss.http.logs.frames.delivered",
    "count#log-iss.http.logs.post.success",
    "count#log-iss.reload.success",
}


def terms(guide: str) -> list[str]:
    """The lines that the guide explains, each as it is written."""
    return re.findall(r"^\| ``(.+)``$", guide, re.MULTILINE)


def blocks(guide: str) -> list[tuple[list[str], str]]:
    """Lines that are explained together, and the explanation."""
    found = re.findall(r"((?:^\| .*\n)+)\n?((?:(?:    .*)?\n)*)", guide, re.MULTILINE)
    return [(terms(lines), " ".join(text.split())) for lines, text in found]


def own_messages() -> list[Message]:
    """What the guide has to explain: all that is not excused."""
    excused = messages.excused()
    return [
        message
        for message in messages.all_messages()
        if (message.room, message.shown) not in excused
    ]


def is_a_name(term: str) -> bool:
    """Whether it is the name of an alert, or a line of the log by its keys."""
    return re.match(r"count#|ns=|Logiss[A-Z]\w+$", term) is not None


def unexplained(found: list[Message], guide: str) -> tuple[list[Message], list[str]]:
    """The messages that `guide` does not have, and its lines that nobody says."""
    composer = Composer(found, messages.literals())
    said: set[Message] = set()
    stale = []
    for term in terms(guide):
        if not is_a_name(term):
            made_of = composer.made_of(term)
            said |= made_of or set()
            stale += [term] if made_of is None else []
    missing = [m for m in found if m.says_something and m not in said]
    return missing, stale


def exit_codes() -> set[int]:
    """Those with which logiss and its commands say that they end."""
    found = {0, 128 + signal.SIGINT, 128 + signal.SIGTERM}
    doors = {"daemon", "__main__"}
    for room, source in messages.sources().items():
        if room not in doors and not room.startswith("tools."):
            continue
        tree = ast.parse(source)
        for node in ast.walk(tree):
            match node:
                case ast.Call(args=[ast.Constant(value=int(code))]):
                    if ast.unparse(node.func) in ("sys.exit", "os._exit"):
                        found.add(code)
                case ast.FunctionDef(returns=ast.Name(id="int")):
                    found |= _codes_returned(node)
                case ast.Assign(targets=[ast.Name(id="CODES" | "NO_ANSWER")]):
                    found |= _numbers(node.value)
    return found


def _codes_returned(function: ast.FunctionDef) -> set[int]:
    returns = [n for n in ast.walk(function) if isinstance(n, ast.Return) and n.value]
    return {code for node in returns if node.value for code in _own_numbers(node.value)}


def _own_numbers(node: ast.expr) -> set[int]:
    """Of a number, or of either side of ``a if b else c``."""
    match node:
        case ast.Constant(value=int(code)) if not isinstance(code, bool):
            return {code}
        case ast.IfExp():
            return _own_numbers(node.body) | _own_numbers(node.orelse)
    return set()


def _numbers(node: ast.expr) -> set[int]:
    constants = (n for n in ast.walk(node) if isinstance(n, ast.Constant))
    return {n.value for n in constants if type(n.value) is int}


class GuideTests(SynchronousTestCase):
    """Whoever searches the guide for the words of a line finds them."""

    def setUp(self) -> None:
        self.guide = GUIDE.read_text()

    def test_messages(self) -> None:
        """It has each message in its own words, and none that logiss does not say."""
        found = own_messages()
        self.assertGreater(len(found), 300)
        missing, stale = unexplained(found, self.guide)
        self.assertEqual([f"{m.room}:{m.line}: {m.shown}" for m in missing], [])
        self.assertEqual(stale, [])

    def test_alerts(self) -> None:
        """It has each alert by its name, and no other."""
        alerts = set(re.findall(r"- alert: (\w+)", messages.ALERTS.read_text()))
        self.assertGreater(len(alerts), 15)
        told = [term for term in terms(self.guide) if re.match(r"Logiss\w+$", term)]
        self.assertEqual(sorted(told), sorted(alerts))

    def test_log_lines(self) -> None:
        """It has each count of the log that tells of trouble, and no other."""
        # tests/test_docs.py shows that these are those which are written.
        lines = (ROOT / "docs" / "log-lines.rst").read_text()
        counts = set(re.findall(r"count#[a-z._-]*[a-z]", lines))
        self.assertEqual(GOOD_METRICS - counts, set())
        told = [term for term in terms(self.guide) if term.startswith("count#")]
        self.assertEqual(sorted(told), sorted(counts - GOOD_METRICS))

    def test_exit_codes(self) -> None:
        """It has each exit code."""
        section = self.guide.partition("\nExit codes\n==")[2].partition("\n\n\n")[0]
        told = {int(code) for code in re.findall(r"^(\d+) ", section, re.MULTILINE)}
        self.assertEqual(exit_codes() - told, set())

    def test_explained(self) -> None:
        """Each says what it means, then what to do."""
        found = blocks(self.guide)
        self.assertEqual([t for ts, _ in found for t in ts], terms(self.guide))
        for lines, text in found:
            with self.subTest(lines[0]):
                meaning, _, remedy = text.partition("*What to do:*")
                self.assertGreater(len(meaning.split()), 1, lines)
                self.assertGreater(len(remedy.split()), 0, lines)

    def test_sections(self) -> None:
        """What it says is to be seen elsewhere on the page is there."""
        titles = set(re.findall(r"^(.+)\n[=-]{3,}$", self.guide, re.MULTILINE))
        for target in re.findall(r"`([^`<>]+)`_\b", " ".join(self.guide.split())):
            self.assertIn(target, titles)


class CommandsTests(SynchronousTestCase):
    """What the guide tells to type is there."""

    def setUp(self) -> None:
        text = " ".join(GUIDE.read_text().split())
        self.literals = re.findall(r"``(.+?)``", text)

    def test_tools(self) -> None:
        """Each command of logiss is one, with the options that it has."""
        tools = {tool.__name__.rpartition(".")[2] for tool in TOOLS}
        typed = [t for t in self.literals if re.match(r"logiss [a-z]+\b(?!:)", t)]
        typed = [t for t in typed if "INSTANCE" not in t]
        self.assertGreater(len(typed), 5)
        for command in typed:
            self.assertIn(command.split()[1], tools, command)

    def test_searches(self) -> None:
        """What is to be searched for in the log stands there."""
        lines = (ROOT / "docs" / "log-lines.rst").read_text()
        patterns = [t.split()[-1] for t in self.literals if t.startswith("grep ")]
        self.assertGreater(len(patterns), 5)
        for pattern in patterns:
            self.assertRegex(lines, pattern.strip("'"))

    def test_variables(self) -> None:
        """What is to be set is read by logiss."""
        named = {
            name
            for text in self.literals
            for name in re.findall(r"^([A-Z]+_[A-Z_]+)(?:=\S*)?$", text)
        }
        self.assertGreater(len(named), 20)
        self.assertEqual(named - messages.literals() - OF_OTHERS, set())


class UnexplainedTests(SynchronousTestCase):
    """The test of the guide itself notices what is new and what is gone."""

    GUIDE = "| ``Problem with body: frame N is odd``\n| ``it was lost``\n\n    Text.\n"
    SOURCE = (
        'def f(why):\n    return Answer(400, f"Problem with body: {why}")\n'
        'def g(n):\n    raise Odd(f"frame {n} is odd")\n'
        'LOST = "it was lost"\n'
    )

    def missing(self, source: str, guide: str) -> tuple[list[str], list[str]]:
        missing, stale = unexplained(messages.read({"room": source}), guide)
        return [m.shown for m in missing], stale

    def test_complete(self) -> None:
        """A guide that has all has nothing missing and nothing stale."""
        self.assertEqual(self.missing(self.SOURCE, self.GUIDE), ([], []))

    def test_new(self) -> None:
        """A new message is missing, wherever it is made."""
        for more in (
            'def h():\n    raise Odd("late")\n',
            'def h(name):\n    raise Odd(f"no {name} here")\n',
            'TOO_LATE = {1: "came too late"}\n',
        ):
            with self.subTest(more):
                missing, stale = self.missing(self.SOURCE + more, self.GUIDE)
                self.assertEqual(len(missing), 1)
                self.assertEqual(stale, [])

    def test_stale(self) -> None:
        """A line with a word that nobody says is stale, whatever else is in it."""
        for line in (
            "Problem with body: frame N is strange",
            "Problem with a body: frame N is odd",
            "frame N is odd, really",
            "it was lost again",
            "a frame N is odd",
        ):
            with self.subTest(line):
                guide = f"{self.GUIDE}\n| ``{line}``\n\n    Text.\n"
                self.assertEqual(self.missing(self.SOURCE, guide), ([], [line]))

    def test_changed(self) -> None:
        """Words that are changed are missing, and the old ones stale."""
        source = self.SOURCE.replace("is odd", "is strange")
        self.assertEqual(
            self.missing(source, self.GUIDE),
            (
                ["Problem with body: …", "frame … is strange"],
                ["Problem with body: frame N is odd"],
            ),
        )


def real_words() -> Iterator[str]:
    """What some rooms say, asked for it."""
    for environ in (
        {},
        {"REDIS_URL": "redis://cache.example.com"},
        {"PORT": "x", "FORWARD_DEST": "a", "TOKEN_MAP": "a", "DELIVERY": "relp"},
        {"FORWARD_DEST": "relp://a:1,b:2", "FORWARD_COUNT": "1"},
        {"MAX_FRAME_BYTES": "1MiB", "PEMFILE": "/nowhere", "METADATA_ID": "origin"},
    ):
        try:
            settings.read(environ)
        except settings.SettingsError as e:
            yield from e.problems
    for body in (b"x", b"99 <1>", b"4 <1>1", b"10 " + b"<1>1 2 3 4"):
        try:
            frames.rewrite(body, b"")
        except frames.MalformedFrame as e:
            yield str(e)
    for header in (b"GET / HTTP/1.1\r\n", b"PROXY TCP4 a b 1 2\r\n"):
        try:
            proxy_header.read(header)
        except proxy_header.BadHeader as e:
            yield str(e)


class CollectorTests(SynchronousTestCase):
    """Every way to say something is seen through."""

    def found(self, source: str) -> list[str]:
        return [m.shown for m in messages.read({"room": source}) if m.says_something]

    def test_found(self) -> None:
        """Each form of a message is found, with its holes."""
        for source, words in (
            # anywhere, when it is two words
            ('X = "gone away"', ["gone away"]),
            ('X = {1: "gone away", 2: "come back"}', ["gone away", "come back"]),
            ('def f(x="gone away"): pass', ["gone away"]),
            ('def f():\n    return "gone away"', ["gone away"]),
            ('f(g(h("gone away")))', ["gone away"]),
            ('f(why="gone away")', ["gone away"]),
            ('X = ("gone" " away")', ["gone away"]),
            ('X = b"gone away"', ["gone away"]),
            ('X = lambda why: f"gone: {why}"', ["gone: …"]),
            ('X = f"{a} gone"', ["… gone"]),
            ('X = "gone " + where', ["gone …"]),
            ('X = many(n, "post") + " since then"', ["… post since then"]),
            ('X = "gone to %s, %d times" % (a, b)', ["gone to …, … times"]),
            ('X = "gone to {} today".format(a)', ["gone to … today"]),
            ("X = f\"gone {'away' if a else 'home'}\"", ["gone away"]),
            ("X = f\"gone {b if a else 'far away'}\"", ["gone …", "far away"]),
            ("X = f\"{many(n, 'post waits', 'posts wait')}\"", ["… post waits"]),
            ('X = "gone away" if a else "come back"', ["gone away", "come back"]),
            ('X = """\ngone away\ncome back\n"""', ["gone away", "come back"]),
            ('print("gone away")', ["gone away"]),
            ("class A:\n    why = 'gone away'", ["gone away"]),
            ("match a:\n    case 1:\n        x = 'gone away'", ["gone away"]),
            # where errors are made a single one will do
            ('raise Odd("late")', ["late"]),
            ('raise Odd(f"{a}late")', ["…late"]),
            ('raise Odd("late") from None', ["late"]),
            ('x.errback(Odd("late"))\nraise Odd(a)', ["late"]),
            ('def f():\n    return Odd("late")\nraise Odd(a)', ["late"]),
            ('X = Answer(404, "Lost")', ["Lost"]),
            ('X = Answer(404, f"{a}Lost", error="lost")', ["…Lost", "lost"]),
            ('print("late", file=sys.stderr)', ["late"]),
            ('print(f"tool: {e}", file=sys.stderr)', ["tool: …"]),
            ('sys.exit("late")', ["late"]),
            ('exit_with(["late"])', ["late"]),
            ('_say("late")', ["late"]),
            ('self._say("late" if a else "early")', ["late", "early"]),
            ('problems.append("late")', ["late"]),
            ('self.problems.append(f"{name}: late")', ["…: late"]),
            ('self._events.connect_failed(1, "late")', ["late"]),
            ('events.clients_cut(1, a, why="late")', ["late"]),
            ('why = "late"', ["late"]),
            ('why = "late" if a else b', ["late"]),
            ('Loss(why="late")', ["late"]),
            ('delivery.fail("late")', ["late"]),
            # what is the case; not what to do, which the guide says in its own words
            (
                'Finding("LogissX", BAD, {A: "Not all"}, f"{n} late", "Do it now.")',
                ["Not all", "… late"],
            ),
        ):
            with self.subTest(source):
                self.assertEqual(self.found(source), words, source)

    def test_said(self) -> None:
        """What is really said is among what was found."""
        found = [m for m in own_messages() if m.says_something]
        for words in real_words():
            with self.subTest(words):
                after_name = words.partition(": ")[2]
                fitting = [
                    message
                    for message in found
                    if message.pattern.fullmatch(words)
                    or message.pattern.fullmatch(after_name)
                ]
                self.assertNotEqual(fitting, [], words)

    def test_left_out(self) -> None:
        """What nobody reads, or not when something is wrong, is not found."""
        for source in (
            '"""A docstring."""',
            'def f():\n    """A docstring."""',
            'class A:\n    x: "A or None"\n    """What it is."""',
            'def f(a: "A or None") -> "A or None": pass',
            'assert a, "not that"',
            'parser.add_argument("--x", help="how many of them", metavar="AS MANY")',
            'X = re.compile("gone away")',
            'X = cast("A or None", x)',
            'self._line(f"count#a.b=1 id={n} message={quoted(why)}")',
            'raise KeyError(names.get("late"))',
            'X = f"{a} {b}"',
            'X = "word"',
            '_DESCRIPTION = "What it does."',
            'why = said["late"] if a == "early" else b',
            'why = b if a.startswith("gone away") else c',
            'X = "an-identifier_too"',
        ):
            with self.subTest(source):
                self.assertEqual(self.found(source), [], source)

    def test_other_languages(self) -> None:
        """So are those of Cython, and the page's sentences."""
        source = '"""A docstring,\nlong."""\nraise Odd(f"frame {n} is odd")\n'
        self.assertEqual(
            [(m.line, m.shown) for m in messages.read_other("_x.pyx", source)],
            [(3, "frame … is odd")],
        )
        page = 'label("Last error");\nsay(`No answer since ${at}.`);\n'
        self.assertEqual(
            [m.shown for m in messages.read_other("status.js", page)],
            ["No answer since …."],
        )

    def test_summaries(self) -> None:
        """So are those of alerts, either way they may be."""
        (found,) = messages.read_summaries(
            '  summary: "{{ if $l.u }}user {{ $l.u }}{{ else }}others{{ end }} lose"'
        )
        composer = Composer([found])
        self.assertIsNotNone(composer.made_of("user USER lose"))
        self.assertIsNotNone(composer.made_of("others lose"))
        self.assertIsNone(composer.made_of("USER lose others"))

    def test_excuses(self) -> None:
        """Nothing is excused that is not there, and no room that is not."""
        there = {(m.room, m.shown) for m in messages.all_messages()}
        self.assertEqual(messages.excused() - there, set())
        self.assertEqual(set(messages.EXCUSED_ROOMS) - set(messages.sources()), set())

    def test_errors_of_excused_rooms(self) -> None:
        """What is raised in a room that is excused is found nevertheless."""
        source = 'raise Odd("late")\nTITLE = "Posts a second"\n'
        found = messages.read({"plots": source})
        self.assertEqual([m.shown for m in found], ["late"])
        self.assertEqual(found[0].template.count(HOLE), 0)
