"""
Lays the document that an operator reads out for a terminal of any size.

What a client has supplied takes up the place that it is given and does nothing: it is
never markup, and a character that a terminal may turn around, or put elsewhere than
where it belongs, is written as its number.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import localtime, strftime
from typing import Any
from unicodedata import bidirectional, combining

from attrs import frozen
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from logiss.words import duration, many, size, text

#: The states of an answer, each with how it is written.
STATES = {
    "good": ("GOOD", "bold green"),
    "warn": ("WARN", "bold yellow"),
    "bad": ("BAD", "bold white on red"),
}

_UNKNOWN = ("????", "bold")
_SEVERITIES = {"critical": "bold white on red", "warning": "bold yellow"}
_LINE_MAX, _NAME_MAX = 1000, 128
_FROM_RIGHT = ("R", "AL", "AN")
# A part that has no room for more is not begun.
_PART_MIN = 2
# So many lines are enough for three findings on a small terminal.
_FOUND_LEAST = 12

Document = Mapping[str, Any]
Rows = list[list[Segment]]


def inert(given: object, most: int, ascii_only: bool) -> Text:
    """Text as it is shown, whatever it is."""
    cut = text(given if isinstance(given, str) else "", most)
    return Text("".join(_standing(c, ascii_only) for c in cut))


def _standing(c: str, ascii_only: bool) -> str:
    if c.isascii():
        return c
    moves = bidirectional(c) in _FROM_RIGHT or combining(c) or not cell_len(c)
    if moves or ascii_only:
        return c.encode("ascii", "backslashreplace").decode()
    return c


# what a document may lack, or have as something else


def _mapping(document: Document, name: str) -> Document:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _rows(document: Document, name: str) -> list[Document]:
    found = document.get(name)
    rows = found if isinstance(found, list) else []
    return [row for row in rows if isinstance(row, dict)]


def _number(document: Document, name: str) -> float | None:
    found = document.get(name)
    is_number = isinstance(found, int | float) and abs(found) < 1e18
    return found if is_number else None


def _count(document: Document, name: str) -> str:
    found = _number(document, name)
    return "?" if found is None else f"{found:,.0f}"


def _said(
    document: Document, name: str, say: Callable[[float], str], otherwise: str
) -> str:
    found = _number(document, name)
    return otherwise if found is None else say(found)


def _posts(document: Document, name: str) -> str:
    return _said(document, name, lambda n: many(int(n), "post"), "? posts")


def _clock_time(at: float | None) -> str:
    try:
        return "" if at is None else strftime("%H:%M:%S", localtime(at))
    except (OverflowError, ValueError, OSError):
        return ""


# the parts


@frozen
class Part:
    """
    Lines that belong together.

    @ivar least: so many are shown before another part gets more than its own.
    """

    rows: Rows
    least: int


def lines_of_each(parts: Sequence[tuple[int, int]], height: int) -> list[int]:
    """
    How many lines of each part are shown.

    @param parts: how many each has, and how many at least it should have; those that
        stand first go first.
    """
    shown = [0] * len(parts)
    for wants in ([min(part) for part in parts], [whole for whole, _ in parts]):
        for i, want in enumerate(wants):
            more = min(want - shown[i], height - sum(shown))
            if shown[i] + more >= min(_PART_MIN, parts[i][0]):
                shown[i] += more
    return shown


@frozen
class Sheet:
    """
    Everything, as much of it as there is room for.

    @ivar document: the last that there was.
    @ivar trouble: why there is no newer one; nothing when there is.
    @ivar height: so many lines there is room for; None for as many as there are.
    """

    document: Document
    trouble: str = ""
    height: int | None = None

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        drawing = _Drawing(console, options.reset_height())
        parts = drawing.parts(self.document, self.trouble)
        shown = [len(part.rows) for part in parts]
        if self.height is not None:
            wants = [(len(part.rows), part.least) for part in parts]
            shown = lines_of_each(wants, self.height)
        lines = [
            row
            for part, count in zip(parts, shown, strict=True)
            for row in _cut(part.rows, count)
        ]
        for line in lines:
            yield from line
            yield Segment.line()


def _cut(rows: Rows, count: int) -> Rows:
    if count >= len(rows) or not count:
        return rows[:count]
    more = many(len(rows) - count + 1, "more line")
    return [*rows[: count - 1], [Segment(f"  ... {more}")]]


@frozen
class _Drawing:
    console: Console
    options: ConsoleOptions

    def parts(self, document: Document, trouble: str) -> list[Part]:
        drawn = [self._trouble(document, trouble)] if trouble else []
        if not document:
            return drawn
        answers = self._lines(self._answers(document))
        found = [
            line
            for row in _rows(document, "findings")
            for line in self._lines(self._finding(row))
        ]
        tables = (self._workers, self._connections, self._credentials, self._failures)
        return [
            *drawn,
            Part(self._lines(self._head(document)), 1),
            Part(answers, len(answers)),
            Part(found, _FOUND_LEAST),
            Part(self._lines(self._numbers(document)), 5),
            *(Part(self._lines(table(document)), 3) for table in tables),
            Part(self._lines(self._plots(document)), 0),
        ]

    def _lines(self, renderable: RenderableType | None) -> Rows:
        if renderable is None:
            return []
        lines = self.console.render_lines(renderable, self.options, pad=False)
        return [_without_trailing_spaces(line) for line in lines]

    def _inert(self, given: object, most: int = _NAME_MAX) -> Text:
        return inert(given, most, self.options.ascii_only)

    def _trouble(self, document: Document, trouble: str) -> Part:
        said = Text("NO ANSWER FROM LOGISS\n", "bold")
        said.append_text(self._inert(trouble, _LINE_MAX))
        if document:
            at = _clock_time(_number(document, "at"))
            said.append(f"\nWhat is below is old: of {at}.")
        panel = Panel(said, box=box.ASCII2, style="bold white on red", padding=(0, 2))
        lines = self._lines(panel)
        return Part(lines, len(lines))

    def _head(self, document: Document) -> Text:
        at, started_at = _number(document, "at"), _number(document, "started_at")
        said = Text("logiss ", "bold")
        said.append_text(self._inert(document.get("instance")))
        said.append_text(Text(" ") + self._inert(document.get("version"), 32))
        if at is not None and started_at is not None:
            said.append(f", up {duration(at - started_at)}")
        level = self._inert(document.get("delivery_level"), 16)
        said.append_text(Text(", delivery ") + level)
        said.append(f", {_clock_time(at)}")
        return said

    def _answers(self, document: Document) -> Table:
        table = _grid()
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for row in _rows(document, "answers"):
            word, style = STATES.get(str(row.get("state")), _UNKNOWN)
            answer = self._inert(row.get("answer"), 32).plain
            question = self._inert(row.get("question"), 64).plain
            detail = self._inert(row.get("detail"), _LINE_MAX)
            if word != "GOOD" and self.options.max_width < _WIDE:
                # It stands below, whole.
                detail.truncate(max(10, self.options.max_width - 46))
            asked = Text(f"{question} ").append(f"{answer}.", "bold")
            table.add_row(Text(word, style), asked, detail)
        return table

    def _finding(self, row: Document) -> Table:
        severity = str(row.get("severity"))
        style = _SEVERITIES.get(severity, "bold")
        word = self._inert(severity.upper(), 8)
        word.stylize(style)
        what = self._inert(row.get("what"), _LINE_MAX)
        alert = Text(" [") + self._inert(row.get("alert"), 64) + Text("]")
        table = _grid()
        table.add_column(no_wrap=True, min_width=8)
        table.add_column(ratio=1)
        table.add_row(word, what + alert)
        table.add_row(Text("-> do", "bold"), self._inert(row.get("do"), _LINE_MAX))
        return table

    def _numbers(self, document: Document) -> Table:
        recent = _mapping(document, "last_minute")
        queue, inflight = _mapping(document, "queue"), _mapping(document, "inflight")
        clients = _mapping(document, "clients")
        table = _grid()
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for title, said in (
            (
                "Last minute",
                f"{_posts(recent, 'posts_delivered')} delivered,"
                f" {_count(recent, 'posts_refused')} refused,"
                f" {_count(recent, 'posts_failed')} failed;"
                f" p50 {_said(recent, 'delivery_p50_seconds', duration, '-')},"
                f" p99 {_said(recent, 'delivery_p99_seconds', duration, '-')}",
            ),
            (
                "Frames",
                f"{_count(recent, 'frames_delivered')} delivered,"
                f" {_count(recent, 'frames_failed')} failed; senders report"
                f" {_count(recent, 'reported_dropped')} dropped,"
                f" {_count(recent, 'reported_lost')} lost",
            ),
            (
                "Queue",
                f"{_posts(queue, 'payloads')},"
                f" {_said(queue, 'bytes', size, '?')};"
                f" {_said(queue, 'replay_bytes', size, '?')} to be sent again",
            ),
            (
                "Memory",
                f"{_said(inflight, 'bytes', size, '?')} of"
                f" {_said(inflight, 'limit_bytes', size, '?')};"
                f" {_posts(inflight, 'posts')} inside,"
                f" {_count(inflight, 'waiting')} waiting for room",
            ),
            (
                "Clients",
                f"{_count(clients, 'connected')} of {_count(clients, 'limit')};"
                f" {_count(recent, 'requests_refused')} requests refused before they"
                " were posts",
            ),
        ):
            table.add_row(Text(title, "bold"), Text(said))
        return table

    def _table(self, title: str, *columns: str) -> Table:
        """Its first column is named by the title, its last takes what is left."""
        table = _grid(show_header=True)
        for name in (title, *columns[:-1]):
            table.add_column(Text(name), no_wrap=True, overflow="crop")
        table.add_column(Text(columns[-1]), no_wrap=True, overflow="crop", ratio=1)
        return table

    def _workers(self, document: Document) -> Table | None:
        rows = _rows(document, "workers")
        if not rows:
            return None
        table = self._table("Worker", "state", "for", "pid", "clients", "posts", "fell")
        for row in rows:
            state = self._inert(row.get("state"), 8)
            if state.plain == "fallen":
                state = Text("FALLEN", "bold red")
            falls = _number(row, "falls")
            table.add_row(
                _count(row, "number"),
                state,
                _age(document, row, "since"),
                _said(row, "pid", lambda pid: f"{pid:.0f}", ""),
                _count(row, "clients"),
                _count(row, "posts"),
                f"{falls:,.0f} x" if falls else "",
            )
        return table

    def _connections(self, document: Document) -> Table | None:
        rows = _rows(document, "connections")
        if not rows:
            return None
        table = self._table("Backend", "state", "for", "sent", "waits", "last error")
        for row in sorted(rows, key=lambda row: row.get("state") == "up"):
            state = self._inert(row.get("state"), 8)
            if state.plain != "up":
                state = Text(state.plain.upper(), "bold red")
            waits = _number(row, "waited_seconds") or 0.0
            table.add_row(
                self._inert(f"{_which(row)} {row.get('destination')}", 40),
                state,
                _age(document, row, "since"),
                _said(row, "delivered_bytes", size, "?"),
                duration(waits) if waits else "",
                self._with_age(document, row, "last_error"),
            )
        return table

    def _with_age(self, document: Document, row: Document, name: str) -> Text:
        said = self._inert(row.get(name), _LINE_MAX)
        age = _age(document, row, f"{name}_at")
        return Text(f"{age} ago: ") + said if said and age else said

    def _credentials(self, document: Document) -> Table | None:
        rows = _rows(document, "credentials")
        if not rows:
            return None
        table = self._table(
            "Credentials", "stage", "accepted", "last", "refused", "last refused"
        )
        for row in rows:
            stage = self._inert(row.get("stage"), 24)
            if row.get("is_deprecated") is True:
                stage.append(" (deprecated)")
            refused = _age(document, row, "last_refused_at")
            table.add_row(
                self._inert(row.get("user"), 32),
                stage,
                _count(row, "accepted"),
                _age(document, row, "last_used_at") or "never",
                _count(row, "refused"),
                f"{refused} ago" if refused else "",
            )
        more = _number(document, "credentials_more")
        if more:
            table.add_row(f"... and {more:,.0f} more")
        return table

    def _failures(self, document: Document) -> Table | None:
        rows = _rows(document, "failures")
        if not rows:
            return None
        is_wide = self.options.max_width >= _WIDE
        others = ["drain token", "address"] if is_wide else []
        table = self._table("Failed", "code", "user", "request id", *others, "cause")
        for row in rows:
            named = [("user", 16), ("request_id", 36 if is_wide else 16)]
            named += [("drain_token", 38), ("remote_addr", 39)] if is_wide else []
            table.add_row(
                _clock_time(_number(row, "at")),
                _count(row, "code"),
                *(self._inert(row.get(name), most) for name, most in named),
                self._inert(row.get("cause"), _LINE_MAX),
            )
        return table

    def _plots(self, document: Document) -> Table | None:
        said = _mapping(document, "plots").values()
        table = _grid()
        table.add_column(ratio=1)
        for words in said:
            table.add_row(self._inert(words, _LINE_MAX))
        return table if said else None


# From so many columns on there is room for everything.
_WIDE = 140


def _grid(show_header: bool = False) -> Table:
    return Table(
        box=None,
        expand=True,
        show_header=show_header,
        header_style="bold underline",
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )


def _which(connection: Document) -> str:
    """The number of a connection, behind that of its worker if it has one."""
    number = _count(connection, "id")
    worker = _said(connection, "worker", lambda n: f"{n:.0f}/", "")
    also = " (not serving)" if connection.get("is_serving") is False else ""
    return f"{worker}{number}{also}"


def _age(document: Document, row: Document, name: str) -> str:
    at, then = _number(document, "at"), _number(row, name)
    return "" if at is None or then is None else duration(at - then)


def _without_trailing_spaces(line: Iterable[Segment]) -> list[Segment]:
    kept = list(line)
    while kept and not kept[-1].text.rstrip(" "):
        kept.pop()
    if kept:
        last = kept.pop()
        kept.append(Segment(last.text.rstrip(" "), last.style))
    return kept
