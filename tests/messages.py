"""
Finds what logiss may say to a person when something is wrong, in its code.

Everything that reads like words is found, wherever it stands: two words in a row in any
literal, and a single one where errors are made (`ERROR_CALLS`, `ERROR_NAMES`, and
whatever is raised somewhere). What is not looked at is left out for its place, as help
texts, annotations and asserts are, or by name and with a reason (`EXCUSED_ROOMS`,
`EXCUSED`). So a new message cannot be overlooked, only excused.

What varies in a message is a hole. A line that somebody reads is often made of
several: ``Problem with body: …`` and what is wrong with it. So a text is held against
all of them by `Composer`, which fills holes with other messages, and with CAPITALS for
what nobody can know beforehand.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path

from attrs import define, field, frozen

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "logiss"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"

# Of the private use area: they stand in no source.
HOLE = "\ue000"
_EITHER, _OR, _END = "\ue001", "\ue002", "\ue003"
_MARKS = {HOLE: "(.*?)", _EITHER: "(?:", _OR: "|", _END: ")"}

#: Whose arguments somebody reads although they are no exceptions.
ERROR_CALLS = frozenset(
    {"Answer", "_say", "to_stderr", "exit_with", "_give_up", "_end", "_pause"}
    | {"fail", "refused", "refuse"}
)
#: Variables and keywords that have what somebody reads.
ERROR_NAMES = frozenset({"why", "reason", "cause", "error", "problem", "message"})
#: Events whose words are names of fields and phases; the reasons of others are read.
_NAMING_EVENTS = frozenset({"phase_reached", "fields_cut"})
#: Keywords whose values are help, style or names of things.
_NO_MESSAGES = frozenset(
    {"help", "description", "epilog", "metavar", "usage", "action", "repr", "title"}
    | {"style", "header_style", "border_style", "title_style"}
)
#: Methods that ask whether something is there.
_ASKING = (".get", ".startswith", ".endswith")
#: Constants with such values.
_HELP = frozenset({"_DESCRIPTION", "_EPILOG"})
#: Functions that take patterns, types and names of things.
_NO_MESSAGES_IN = frozenset(
    {"re.compile", "re.fullmatch", "re.match", "re.split", "re.sub", "re.findall"}
    | {"re.finditer", "cast", "getattr", "hasattr", "Attribute", "TypeVar"}
    | {"parser.add_argument_group"}
)

#: Rooms with words for other occasions. Errors that are made there are found all the
#: same.
EXCUSED_ROOMS = {
    "exposition": "what metrics are; docs/monitoring.rst has them",
    "plots": "titles of plots",
    "reference": "what variables are; docs/configuration.rst has it",
    "report": "the answers of the page when all is good; else findings are the answer",
    "screen": "headings of the page in a terminal",
    "words": "units",
}
#: What is no message, by the reason why.
EXCUSED: dict[str, tuple[tuple[str, str], ...]] = {
    "a header or its value, or a line of a protocol": (
        ("answers", 'Basic realm="logiss"'),
        ("logs_url", "Basic …"),
        ("posting", "-----BEGIN CERTIFICATE-----"),
        ("posting", "-----END CERTIFICATE-----"),
        ("answers", "HTTP/1.1 … …"),
        ("answers", "text/plain; charset=utf-8"),
        ("channel", "Connection: close"),
        (
            "dedupe",
            "if redis.call('get',KEYS[1])==ARGV[1] then return"
            " redis.call('del',KEYS[1]) else return 0 end",
        ),
        ("channel", "HTTP/1.1 … …"),
        ("channel", "… … HTTP/…"),
        ("relp", "… close 0"),
        ("relp", "… open … …"),
        ("relp", "… syslog …"),
        ("relp_receiver", "… rsp 0"),
        ("relp_receiver", "… rsp … …"),
        ("stamp", '[origin ip="…"]'),
        ("status", "GET, HEAD"),
        ("status", "data: …"),
        (
            "status",
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src"
            " 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none';"
            " frame-ancestors 'none'",
        ),
        ("status", "event: …"),
        ("status", "retry: …"),
        ("status", "text/css; charset=utf-8"),
        ("status", "text/event-stream; charset=utf-8"),
        ("status", "text/html; charset=utf-8"),
        ("status", "text/javascript; charset=utf-8"),
        ("status", "text/plain; charset=utf-8"),
        ("tools.receive", "logiss receive,…"),
    ),
    "a reason phrase, with a text behind it": (
        ("answers", "Request Header Fields Too Large"),
        ("answers", "Unknown Status"),
    ),
    "said to a programmer who calls it wrongly": (
        ("captures", "… cannot be …"),
        ("captures", "… is no field to be kept"),
        ("frames", "no frame at byte … of a batch"),
        ("relp", "a window of … frames lets nothing through"),
        ("relp", "a … session is never …"),
        (
            "relp",
            "no octet-counted frame with a message of 1 to … bytes begins at …",
        ),
        ("relp", "software is one line, not …"),
        ("relp", "… is too near to the end of all txnrs"),
        ("relp_sender", "nothing was sent as …"),
        ("service", "settings.forward_dest is needed to forward"),
        ("service", "settings.redis_url needs the credentials of an Admission"),
    ),
    "always caught, and said in other words": (
        ("connector", "not trying to connect"),
        ("listening", "no room"),
        ("listening", "nothing left"),
    ),
    "help, or what a newcomer is to paste": (
        ("daemon", "--data-binary '…' \\"),
        ("daemon", "<190>1 2013-06-07T13:17:49.468822+00:00 host app web.1 - - hello"),
        (
            "daemon",
            "For trying it out: when FORWARD_DEST is not set, forward to an embedded"
            " receiver that prints each frame, with DEPLOY=local, PORT=5000 and"
            " TOKEN_MAP=test:token unless they are set.",
        ),
        (
            "daemon",
            "HTTP channel, 'fast' or 'stock' (twisted.web's); default: HTTP_CHANNEL,"
            " else fast.",
        ),
        ("daemon", "curl -i -u '…:…' -H 'Content-Type: application/logplex-1' \\"),
        ("daemon", "http://127.0.0.1:…/logs"),
        ("tools.check", "… # not set"),
    ),
    "what systemd reads": (
        ("notify", "READY=1"),
        ("notify", "RELOADING=1"),
        ("notify", "MONOTONIC_USEC=…"),
        ("notify", "STOPPING=1"),
    ),
    "what a worker says that is not understood, and not taken": (
        ("intercom", "….… is part of no message"),
        ("intercom", "it is no tuple"),
    ),
    "the signal that the process gives itself": (("parent", "workers have fallen"),),
    "the page's answer, with the sentence of a finding beside it": (
        ("findings", "Not all"),
        ("findings", "Yes, but"),
    ),
    "what to do; the guide says it in its own words": (
        (
            "findings",
            "Raise MAX_CONNECTIONS and the limit on open files, or put another logiss"
            " beside this one.",
        ),
    ),
    "what logiss replay --show prints of a body": (
        ("fault", "at: ……"),
        ("fault", "before: ...…"),
        ("tools.replay", "; only the beginning was kept"),
        ("tools.replay", "X-Request-Id: …"),
        (
            "tools.replay",
            "a body only: when and why it was refused is not known",
        ),
        ("tools.replay", "body: … bytes…"),
        ("tools.replay", "captured at …"),
        ("tools.replay", "fault at byte …"),
        ("tools.replay", "fault: none"),
        ("tools.replay", "fault: …"),
        ("tools.replay", "from …"),
        ("tools.replay", "good frames: …"),
        ("tools.replay", "inflated: … bytes"),
        ("tools.replay", "refused with …: …"),
        ("tools.replay", "target: …"),
    ),
    "the page when all is well": (
        ("status.js", "There are none."),
        ("status.js", "No post was refused or has failed since the start."),
        ("status.js", "… more are not shown; /metrics has all."),
    ),
}


@frozen(slots=False)
class Message:
    """
    Words that somebody may read.

    @ivar room: where they stand.
    @ivar line: of its file, from 1.
    @ivar template: the words, with a `HOLE` for each thing that varies.
    """

    room: str
    line: int
    template: str

    @property
    def shown(self) -> str:
        """The words, with ``…`` in the holes."""
        said = re.sub(f"{_EITHER}(.*?){_OR}.*?{_END}", r"\1", self.template)
        return said.replace(HOLE, "…")

    @property
    def says_something(self) -> bool:
        """Whether there is more to it than what varies."""
        return re.search("[A-Za-z]{2}", self.template) is not None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What it may be a part of; holes take anything."""
        pieces = re.split(f"([{''.join(_MARKS)}])", self.template)
        return re.compile("".join(_MARKS.get(p) or re.escape(p) for p in pieces))

    @cached_property
    def gist(self) -> str:
        """The longest part that it always has."""
        either = f"{_EITHER}[^{_END}]*{_END}+"
        return max(re.sub(either, HOLE, self.template).split(HOLE), key=len)

    @cached_property
    def spellings(self) -> list[list[str]]:
        """What is fixed, with a hole between each two, for each of the alternatives."""
        return [spelling.split(HOLE) for spelling in _spelled_out(self.template)]


def _spelled_out(template: str) -> list[str]:
    innermost = f"{_EITHER}([^{_EITHER}{_END}]*){_END}"
    found = re.search(innermost, template)
    if found is None:
        return [template]
    before, after = template[: found.start()], template[found.end() :]
    return [
        spelling
        for one in found[1].split(_OR)
        for spelling in _spelled_out(before + one + after)
    ]


# what is written


def template_of(node: ast.expr) -> str | None:
    """What `node` makes, if that is a literal or has one in it."""
    match node:
        case ast.Constant(value=str(said)):
            return said
        case ast.Constant(value=bytes(octets)):
            return octets.decode("latin-1")
        case ast.JoinedStr():
            return "".join(map(_piece, node.values))
        case ast.BinOp(op=ast.Add()):
            sides = [template_of(side) for side in (node.left, node.right)]
            if any(side is not None for side in sides):
                return "".join(HOLE if side is None else side for side in sides)
        case ast.BinOp(op=ast.Mod()):
            left = template_of(node.left)
            return None if left is None else _filled(r"%[-0-9.]*[a-z]", left)
        case ast.Call(func=ast.Attribute(value=value, attr="format")):
            left = template_of(value)
            return None if left is None else _filled(r"\{.*?\}", left)
        case ast.Call():
            return _either(alternatives(node)) or None
    return None


def _filled(mark: str, said: str) -> str:
    return re.sub(mark, HOLE, said)


def _piece(node: ast.expr) -> str:
    if isinstance(node, ast.FormattedValue):
        return _either(alternatives(node.value)) or HOLE
    return template_of(node) or HOLE


def _either(templates: list[str]) -> str:
    return f"{_EITHER}{_OR.join(templates)}{_END}" if templates else ""


def alternatives(node: ast.expr) -> list[str]:
    """What `node` may become, if that is one of few texts that are written there."""
    if isinstance(node, ast.IfExp):
        sides = [template_of(side) for side in (node.body, node.orelse)]
        return [side or "" for side in sides] if None not in sides else []
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("many", "_many"):
        given = [template_of(word) or "" for word in node.args[1:]]
        one, more = given if len(given) > 1 else (given[0], f"{given[0]}s")
        return [f"{HOLE} {one}", f"{HOLE} {more}"] if one else []
    return []


def reads_like_words(template: str) -> bool:
    """Two words in a row, or one and what varies; no pairs of a log line."""
    pieces = [p for p in template.split() if not set(p) <= set(_MARKS)]
    if all("=" in piece for piece in pieces):
        return False
    said = re.sub(f"[{''.join(_MARKS)}]", "XX", template)
    pair = r"[A-Za-z]{2,}[.,;:!?)'\"]* +['\"(]?[A-Za-z]{2,}"
    return re.search(pair, said) is not None


def _has_a_word(template: str) -> bool:
    return re.search("[A-Za-z]{3}", template) is not None


# where it is written


@define
class _Reader:
    """
    Goes through the source of a room.

    @ivar raised: names of what is raised in any of them.
    """

    room: str
    raised: frozenset[str]

    def read(self, node: ast.AST, is_error: bool = False) -> Iterator[Message]:
        """
        Everything in `node`.

        @param is_error: whether it is part of what somebody reads for sure.
        """
        children: Iterator[ast.AST]
        if isinstance(node, ast.expr) and template_of(node) is not None:
            yield from self._lines(node, is_error)
            children = _in_holes(node)
        else:
            children = _spoken(node)
            is_error = is_error or self._makes_error(node)
        for child in children:
            yield from self.read(child, is_error)

    def _lines(self, node: ast.expr, is_error: bool) -> Iterator[Message]:
        template = template_of(node) or ""
        if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            is_error = False  # One word in bytes is the name of a header.
        has_words = self.room not in EXCUSED_ROOMS
        for line in template.splitlines():
            said = " ".join(line.split())
            is_read = has_words and reads_like_words(said)
            if is_read or (is_error and _has_a_word(said)):
                yield Message(self.room, node.lineno, said)

    def _makes_error(self, node: ast.AST) -> bool:
        match node:
            case ast.keyword(arg=str(name)) | ast.Assign(targets=[ast.Name(id=name)]):
                return name in ERROR_NAMES
            case ast.Call():
                return self._calls_error(node)
        return False

    def _calls_error(self, node: ast.Call) -> bool:
        name = ast.unparse(node.func)
        *_, owner, last = ["", *name.split(".")]
        if name == "print":
            return "stderr" in ast.unparse(node)
        if owner in ("events", "_events"):
            return last not in _NAMING_EVENTS
        is_known = last in ERROR_CALLS or last in self.raised
        return is_known or name == "sys.exit" or name.endswith("problems.append")


def _in_holes(node: ast.expr) -> Iterator[ast.expr]:
    """What stands in the holes of a text, and is none of its alternatives."""
    match node:
        case ast.JoinedStr():
            for piece in node.values:
                match piece:
                    case ast.FormattedValue(value=value) if not alternatives(value):
                        yield value
        case ast.BinOp(op=ast.Add()):
            for side in (node.left, node.right):
                if template_of(side) is None:
                    yield side
                else:
                    yield from _in_holes(side)
        case ast.BinOp():
            yield node.right
        case ast.Call():
            yield from node.args[:1]


def _spoken(node: ast.AST) -> Iterator[ast.AST]:
    """What is in `node` that somebody may read."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Assert):
        yield node.test
    elif isinstance(node, ast.Assign) and _is_help(node.targets[0]):
        return
    elif isinstance(node, ast.Subscript):
        yield node.value
    elif isinstance(node, ast.Compare):
        sides = (node.left, *node.comparators)
        yield from (side for side in sides if not isinstance(side, ast.Constant))
    elif isinstance(node, ast.Call):
        yield from _spoken_in_call(node)
    else:
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns"):
                children = value if isinstance(value, list) else [value]
                yield from (c for c in children if isinstance(c, ast.AST))


def _is_help(target: ast.expr) -> bool:
    """Whether it is a constant with a text for the command line's help."""
    return isinstance(target, ast.Name) and target.id in _HELP


def _spoken_in_call(node: ast.Call) -> Iterator[ast.AST]:
    name = ast.unparse(node.func)
    if name in _NO_MESSAGES_IN:
        return
    if name == "Finding":
        # Alert, severity, what it concerns, what is the case, what to do.
        yield from node.args[2:4]
        return
    yield node.func
    # What is looked up or compared with is said elsewhere, or not at all.
    yield from node.args[name.endswith(_ASKING) :]
    yield from (word for word in node.keywords if word.arg not in _NO_MESSAGES)


def _raised_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield ast.unparse(node.exc.func).rpartition(".")[2]


def read(sources: Mapping[str, str]) -> list[Message]:
    """The messages in `sources`, which are Python's, by room."""
    trees = {room: ast.parse(source) for room, source in sorted(sources.items())}
    raised = frozenset(name for tree in trees.values() for name in _raised_in(tree))
    return [m for room, tree in trees.items() for m in _Reader(room, raised).read(tree)]


def read_other(room: str, source: str) -> list[Message]:
    """Whole sentences of a source in another language."""
    # Docstrings go, their lines stay.
    source = re.sub(
        '"""(.*?)"""', lambda m: "\n" * m[1].count("\n"), source, flags=re.S
    )
    quoted = r'"([^"\n]*)"|`([^`\n]*)`|\'([^\'\n]*)\''
    found = []
    for number, line in enumerate(source.splitlines(), 1):
        for groups in re.findall(quoted, line):
            said = re.sub(r"\$?\{[^{}]*\}", HOLE, "".join(groups))
            if reads_like_words(said) and (room != "status.js" or said.endswith(".")):
                found.append(Message(room, number, said))
    return found


def read_summaries(source: str) -> list[Message]:
    """What alerts say first, of a file of rules for Prometheus."""
    found = []
    for number, line in enumerate(source.splitlines(), 1):
        if summary := re.fullmatch(r' +summary: "(.*)"', line):
            said = re.sub(r"\{\{ if .*?\}\}", _EITHER, summary[1])
            said = said.replace("{{ else }}", _OR).replace("{{ end }}", _END)
            found.append(Message("alerts", number, re.sub(r"\{\{.*?\}\}", HOLE, said)))
    return found


# the house


@cache
def sources() -> dict[str, str]:
    """Those of logiss in Python, by room."""
    return {
        ".".join(path.relative_to(HOUSE).with_suffix("").parts): path.read_text()
        for path in HOUSE.rglob("*.py")
    }


@cache
def all_messages() -> list[Message]:
    """Everything that logiss and its alerts may say, with what is excused."""
    return [
        *read(sources()),
        *read_other("_frames.pyx", (HOUSE / "_frames.pyx").read_text()),
        *read_other("status.js", (HOUSE / "page" / "status.js").read_text()),
        *read_summaries(ALERTS.read_text()),
    ]


def excused() -> set[tuple[str, str]]:
    return {what for found in EXCUSED.values() for what in found}


@cache
def literals() -> frozenset[str]:
    """Every text that is written somewhere."""
    nodes = (n for source in sources().values() for n in ast.walk(ast.parse(source)))
    constants = (node.value for node in nodes if isinstance(node, ast.Constant))
    return frozenset(text for text in constants if isinstance(text, str))


#: What a guide writes for what nobody can know.
_UNKNOWN = re.compile(r"['\"(]?[A-Z][A-Z0-9_./:-]*['\")]?|[0-9]*|…")
_Made = frozenset[Message]


@define
class Composer:
    """
    Says which messages a text is made of.

    @ivar words: texts that may stand in a hole, besides messages and CAPITALS.
    """

    messages: Iterable[Message]
    words: frozenset[str] = frozenset()
    _made: dict[str, _Made | None] = field(factory=dict, init=False)
    _filled: dict[str, _Made | None] = field(factory=dict, init=False)

    def made_of(self, text: str) -> _Made | None:
        """The messages in `text`, in any way to make it; None when there is no way."""
        if text not in self._made:
            self._made[text] = _joined(self._ways(text))
        return self._made[text]

    def _ways(self, text: str) -> Iterator[_Made]:
        for message in self.messages:
            if message.gist in text and message.pattern.fullmatch(text):
                for fixed in message.spellings:
                    for parts in self._holes(fixed, text):
                        yield parts | {message}

    def _holes(self, fixed: list[str], text: str) -> Iterator[_Made]:
        """What is in the holes of `text`, which is `fixed` with a hole between each."""
        if not text.startswith(fixed[0]):
            return
        text, rest = text[len(fixed[0]) :], fixed[1:]
        if not rest:
            if not text:
                yield frozenset()
            return
        for found in re.finditer(re.escape(rest[0]), text):
            hole = self._in_hole(text[: found.start()].strip())
            if hole is not None:
                for more in self._holes(rest, text[found.start() :]):
                    yield hole | more

    def _in_hole(self, text: str) -> _Made | None:
        """What fills a hole: one thing, or several one behind the other."""
        if text not in self._filled:
            ways = [self._one(text), *self._several(text)]
            self._filled[text] = _joined(way for way in ways if way is not None)
        return self._filled[text]

    def _one(self, text: str) -> _Made | None:
        is_leaf = _UNKNOWN.fullmatch(text) is not None or text in self.words
        return self.made_of(text) or (frozenset() if is_leaf else None)

    def _several(self, text: str) -> Iterator[_Made]:
        for found in re.finditer(r"(?<=.)(?=[,;] )|,? ", text):
            first, rest = text[: found.start()], text[found.end() :]
            is_known = _UNKNOWN.fullmatch(first) is not None
            head = self.made_of(first) or (frozenset() if is_known else None)
            tail = self._in_hole(rest) if head is not None else None
            if head is not None and tail is not None:
                yield head | tail


def _joined(ways: Iterable[_Made]) -> _Made | None:
    found = list(ways)
    return frozenset().union(*found) if found else None


if __name__ == "__main__":
    left_out = excused()
    for message in all_messages():
        if (message.room, message.shown) not in left_out:
            print(f"{message.room}:{message.line}\t{message.shown}")
