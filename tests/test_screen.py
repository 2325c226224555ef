"""The document as it stands in a terminal."""

import re
from copy import deepcopy
from io import StringIO
from typing import Any, cast
from unicodedata import bidirectional

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from logiss.metrics import Metrics
from logiss.report import report
from logiss.screen import STATES, Sheet, inert, lines_of_each
from tests import cases
from tests.cases import NOW, credential, facts, failed, lately, link, refusal, took

HOSTILE = (
    "[bold]b[/bold]",
    "[link=http://x.example]l[/link]",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "two\nlines\r\n",
    "\u202ereversed",
    "\x9b31m",
    "[/]",
    ":smile:",
)


def busy(**named: Any) -> dict[str, Any]:
    """A document that has something in each of its parts."""
    metrics = Metrics()
    for n in range(9):
        metrics.failures.append(failed(504, f"cause {n}", NOW - n, **named))
    case = facts(
        metrics=metrics,
        links=(
            link(bytes_delivered=2048),
            link(waited_seconds=2.0, link_id=1),
            link(False, link_id=2, last_error="was refused", last_error_at=NOW - 5),
        ),
        credentials=tuple(credential(b"user%d" % n, NOW - n) for n in range(9)),
        refusals=(refusal(b"user3"),),
        users_more=5,
        queue_bytes=4096,
        inflight_bytes=100,
    )
    counted: dict[str, Any] = {"posts_delivered": 1200, "delivery": took(0.3, 99)}
    plots = {"posts": "Posts a second, last 10 minutes. delivered: 7/s now."}
    return {**report(case, lately(posts_failed=90, **counted)), "plots": plots}


def printed(
    document: Any,
    width: int = 80,
    height: int | None = None,
    trouble: str = "",
    **about: Any,
) -> str:
    """What a terminal would be sent."""
    about = {"color_system": None, "force_terminal": False, **about}
    console = Console(
        file=StringIO(), width=width, height=height or 50, highlight=False, **about
    )
    console.print(Sheet(document, trouble, height))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(written, str)
    return written


class SheetTests(SynchronousTestCase):
    """Everything is there, in words."""

    def test_whole(self) -> None:
        """Answers, findings, numbers, connections, credentials, failures, plots."""
        said = printed(busy(), 200)
        for words in (
            "logiss eu-1 ",
            "up 60 min",
            "delivery acked",
            "BAD   Is anything being lost? Yes.",
            "WARN  Is the backend there? Yes, but.",
            "CRITICAL  90 of 1,290 posts in the last minute got 5xx.",
            "[LogissPostsFailing]",
            "-> do     See what that collector",
            "1,200 posts delivered, 0 refused, 90 failed; p50 ",
            "0 B to be sent again",
            "100 B of 1000 B; 0 posts inside",
            "3 of 100; 0 requests refused",
            "0 logs.example:601  up       10 min  2.0 KiB",
            "1 logs.example:601  WAITING  10 min  0 B      2.0 s",
            "2 logs.example:601  DOWN     10 min  0 B             5.0 s ago: was r",
            "current  1         3.0 s  3        1.0 s ago",
            "... and 5 more",
            "cause 8",
            "delivered: 7/s now.",
        ):
            self.assertIn(words, said)

    def test_workers(self) -> None:
        """Workers have a table, and connections the number of theirs."""
        rows = (cases.worker(1), evolve(cases.worker(2, "fallen"), pid=0, falls=3))
        links = tuple(
            evolve(cases.link(link_id=1), worker=2, is_serving=is_serving)
            for is_serving in (True, False)
        )
        case = cases.of_workers(workers=rows, links=links)
        said = printed(report(case, lately()), 200)
        for words in (
            "Worker  state    for   pid   clients  posts  fell",
            "1       serving  60 s  1001  3        7",
            "2       FALLEN   60 s        3        7      3 x",
            "2/1 logs.example:601 ",
            "2/1 (not serving) logs.example:601",
        ):
            self.assertIn(words, said)
        self.assertNotIn("Worker", printed(busy(), 200))

    def test_order(self) -> None:
        """The answers stand first, what is wrong next; who is down, refused or last."""
        said = printed(busy(), 200)
        words = (
            *("Is it taking", "Is the backend", "Is anything", "LogissPostsFailing"),
            *("Last minute", "WAITING", "DOWN", "0 logs", "\nuser3", "\nuser0"),
            *("504    ", "cause 7", "cause 6"),
        )
        places = [said.index(word) for word in words]
        self.assertEqual(places, sorted(places))

    def test_states(self) -> None:
        """Each state is a word: without colours it is the same text."""
        for state, (word, _) in STATES.items():
            answer = {"question": "Q?", "answer": "A", "state": state, "detail": "d"}
            self.assertIn(f"{word}  Q? A.", printed({"answers": [answer]}))
        answer["state"] = "excellent"
        self.assertIn("????  Q? A.", printed({"answers": [answer]}))

    def test_plain(self) -> None:
        """Where there are no colours there is no escape sequence."""
        self.assertNotIn("\x1b", printed(busy()))

    def test_no_color(self) -> None:
        """Nor is there a colour on a terminal with NO_COLOR."""
        coloured: dict[str, Any] = {"force_terminal": True, "color_system": "standard"}
        both = [
            printed(busy(), no_color=no_color, **coloured) for no_color in (False, True)
        ]
        found = [re.findall(r"\x1b\[[0-9;]*\b[34][0-7]m", said) for said in both]
        self.assertTrue(found[0])
        self.assertEqual(found[1], [])

    def test_trouble(self) -> None:
        """No answer stands above all, and says that what is below is old."""
        said = printed(busy(), 80, 24, "http://a.example/ is [bold]gone[/bold]")
        self.assertRegex(said, r"^\+-+\+\n\|  NO ANSWER FROM LOGISS +\|\n")
        self.assertIn("is [bold]gone[/bold]", said)
        self.assertRegex(said, r"What is below is old: of \d\d:\d\d:\d\d\.")
        self.assertIn("Is it taking logs?", said)

    def test_trouble_from_the_start(self) -> None:
        """When there never was an answer, there is nothing below."""
        said = printed({}, trouble="nobody there")
        self.assertIn("NO ANSWER FROM LOGISS", said)
        self.assertNotIn("below", said)
        self.assertNotIn("Is it", said)


class SizesTests(SynchronousTestCase):
    """It fits where it is."""

    def test_any_size(self) -> None:
        """No line is too long, and there are not too many of them."""
        for width in (20, 40, 80, 132, 300):
            for height in (1, 2, 5, 10, 24, 60):
                for trouble in ("", "gone"):
                    lines = printed(busy(), width, height, trouble).splitlines()
                    self.assertLessEqual(len(lines), height)
                    self.assertLessEqual(max(map(cell_len, lines), default=0), width)

    def test_80x24(self) -> None:
        """A small terminal has the answers, the worst finding and the numbers."""
        said = printed(busy(), 80, 24)
        for words in ("Is it taking", "LogissPostsFailing", "Last minute"):
            self.assertIn(words, said)
        well = printed(report(facts(), lately()), 80, 24)
        for words in ("Is anything being lost? No.", "0 logs.example", "app "):
            self.assertIn(words, well)
        self.assertNotIn("more line", well)

    def test_cut(self) -> None:
        """What has no room is counted."""
        whole = len(printed(busy(), 80).splitlines())
        said = printed(busy(), 80, whole - 3)
        self.assertRegex(said, r"\.\.\. \d+ more lines?\n")

    def test_shares(self) -> None:
        """Each has its least, those in front first; then each may have more."""
        for parts, height, shown in (
            ([(3, 3), (9, 2)], 20, [3, 9]),
            ([(3, 3), (9, 2)], 8, [3, 5]),
            ([(9, 2), (9, 2)], 9, [7, 2]),
            ([(3, 3), (9, 2)], 4, [4 - 1, 0]),
            ([(3, 3), (1, 1)], 4, [3, 1]),
            ([(5, 0)], 9, [5]),
            ([(5, 5)], 0, [0]),
            ([], 5, []),
        ):
            self.assertEqual(lines_of_each(parts, height), shown, (parts, height))

    @given(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8),
        st.integers(0, 60),
    )
    def test_any_shares(self, parts: list[tuple[int, int]], height: int) -> None:
        """Never more than there is room for, nor than there are."""
        shown = lines_of_each(parts, height)
        self.assertLessEqual(sum(shown), height)
        for count, (whole, _) in zip(shown, parts, strict=True):
            self.assertTrue(0 <= count <= whole)


class HostileTests(SynchronousTestCase):
    """What comes from elsewhere is text."""

    def test_inert(self) -> None:
        """No markup, no escape sequence, no line break of anyone's in any place."""
        lines = len(printed(busy(), 300).splitlines())
        for bad in HOSTILE:
            document = _with_text(busy(), bad)
            said = printed(document, 300, force_terminal=True, color_system="truecolor")
            plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
            self.assertTrue(plain.replace("\n", "").isprintable(), ascii(bad))
            self.assertNotIn("\x1b]", said)
            self.assertLessEqual(len(plain.splitlines()), lines)
            if bad.isprintable():
                self.assertIn(bad, plain)

    def test_from_the_right(self) -> None:
        """What a terminal may turn around is written as numbers."""
        for c in "שع\u0661":
            self.assertEqual(inert(f"a{c}b", 9, False).plain, f"a\\u{ord(c):04x}b")
        self.assertFalse(
            {bidirectional(c) for c in printed(_with_text(busy(), "שלום"))} & {"R"}
        )

    def test_places(self) -> None:
        """Wide characters stay in their columns, those of no width are numbers."""
        self.assertEqual(inert("e\u0301", 9, False).plain, "e\\u0301")
        document = busy()
        document["failures"][0]["request_id"] = "日本語" * 9
        lines = printed(document, 80).splitlines()
        at = {
            cell_len(line[: line.index("cause ")]) for line in lines if " 504 " in line
        }
        self.assertEqual(len(at), 1)

    def test_ascii(self) -> None:
        """A terminal that is not known to read UTF-8 gets ASCII."""
        self.assertEqual(inert("é日", 9, True).plain, "\\xe9\\u65e5")
        said = StringIO()
        console = Console(file=said, width=80, color_system=None)
        console.file = cast(Any, _Latin(said))
        console.print(Sheet(_with_text(busy(), "é日ש"), "é"))
        self.assertTrue(said.getvalue().isascii())

    def test_own_words_are_ascii(self) -> None:
        """Whatever the terminal reads, our own part of it can be written."""
        for trouble in ("", "gone"):
            for height in (None, 24):
                self.assertTrue(printed(busy(), 80, height, trouble).isascii())


class _Latin:
    """A stream of another encoding."""

    encoding = "iso-8859-1"

    def __init__(self, to: StringIO) -> None:
        self.write, self.flush = to.write, to.flush


def _with_text(document: Any, said: str, depth: int = 0) -> Any:
    """The document with `said` in the place of each text."""
    if isinstance(document, dict):
        return {k: _with_text(v, said, depth + 1) for k, v in document.items()}
    if isinstance(document, list):
        return [_with_text(v, said, depth + 1) for v in document]
    return said if isinstance(document, str) else document


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just([1, "a", None]),
    st.just(10**4000),
)


def _places(document: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each member, however deep."""
    members = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    found = []
    for name, member in members:
        found += [(*way, name), *_places(member, (*way, name))]
    return found


class VersionsTests(SynchronousTestCase):
    """An older or a newer logiss may leave things out, or call them something else."""

    def test_missing(self) -> None:
        """Without any one of its members the rest is shown."""
        document = busy()
        for *way, name in _places(document):
            other = deepcopy(document)
            where = other
            for step in way:
                where = where[step]
            del where[name]
            self.assertIn("logiss", printed(other, 80, 24))

    def test_nothing(self) -> None:
        """Nothing but the answers is needed."""
        self.assertIn(
            "Last minute  ? posts delivered, ? refused", printed({"answers": []})
        )

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_anything(self, data: st.DataObject) -> None:
        """Nothing in the place of anything is an error."""
        document = busy()
        *way, name = data.draw(st.sampled_from(_places(document)))
        where = document
        for step in way:
            where = where[step]
        where[name] = data.draw(ANYTHING)
        printed(document, 80, 24)
