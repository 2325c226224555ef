"""
The walls of the house: a room imports only from floors below its own.

Read from the imports as they are written, those inside functions too.
"""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import logiss

PAPER = 0
FLOORS = (
    # 0 paper: no Twisted, no zope, no clock, no environment, nothing from logiss
    "_version frames _frames stamp inflate chunked heads limits variables metrics l2met"
    " words history probes shares reference captures"
    " syslog_lines logs_url tally"
    " credentials drain relp trust proxy_header",
    # 1 wires
    "journal connector tls wire receiver answers codec budget memory proxied redis uses"
    " passwords listening activation descriptors refused arrivals settings facts plots"
    " screen foreground sources submitter fault cpus env_file notify",
    # 2 connections
    "senders requests refresh exposition findings feeding posting progress"
    " relp_receiver outlets totals intercom pipeline",
    # 3 queue and gate
    "syslog_sender relp_sender pool guards counts retries admission intake channel"
    " report target processes takeover dedupe",
    # 4 faces
    "web site health status preflight workers",
    # 5 builder, and what a process has
    "service life",
    # 6 processes
    "parent worker",
    # 7 doors
    "daemon __init__ __main__ tools plugin",
)
FLOOR_OF = {room: n for n, rooms in enumerate(FLOORS) for room in rooms.split()}

#: On another floor for what it is made of, but made of nothing else.
AS_PAPER = {"settings"}
#: What paper does not import, whatever it is part of.
NOT_ON_PAPER = {"twisted", "zope", "time", "datetime", "sched", "asyncio"}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"}
REACTOR = "twisted.internet.reactor"


def wing(room: str) -> str:
    """Where `room` is looked up: the rooms of tools are one wing."""
    return "tools" if room.startswith("tools.") else room


def breaches(room: str, source: str) -> list[str]:
    """The walls that `source`, the code of `room`, goes through."""
    found = []
    for name, function in sorted(_names_used(ast.parse(source))):
        parts = name.split(".")
        if parts[0] == "":
            found.append(f"{room} imports {name} relative to itself")
        elif parts[0] == "logiss":
            other = _room_named(parts[1:])
            if not _may_import(room, other):
                found.append(f"{room} imports {other}")
        elif (FLOOR_OF[wing(room)] == PAPER or room in AS_PAPER) and (
            parts[0] in NOT_ON_PAPER or ".".join(parts[:2]) in ENVIRONMENT
        ):
            found.append(f"{room} is paper and uses {name}")
        if name == REACTOR or name.startswith(f"{REACTOR}."):
            in_tools = wing(room) == "tools"
            if not in_tools and (room, function) != ("daemon", "makeService"):
                found.append(
                    f"{room} uses the global reactor in {function or 'itself'}"
                )
    return found


def _room_named(parts: list[str]) -> str:
    """The room of logiss that an import of ``logiss.parts`` is about."""
    if not parts or parts[0] not in FLOOR_OF:
        # A name that the package itself exports.
        return "__init__"
    if parts[0] == "tools" and len(parts) > 1:
        return f"tools.{parts[1]}"
    return parts[0]


def _may_import(room: str, other: str) -> bool:
    if other == "__main__":
        return False
    if wing(other) == "tools":
        return room == "__main__"
    if wing(room) == "tools" or room == "__main__":
        return True
    return FLOOR_OF[other] < FLOOR_OF[room]


def _names_used(tree: ast.Module) -> set[tuple[str, str]]:
    """
    Dotted names that are imported, or reached through what is, each with the
    outermost function that it happens in.
    """
    nodes = list(_with_function(tree, ""))
    used = set()
    # What a local name stands for in a function, or outside of all: ``o`` for
    # ``os`` after ``import os as o``. A function may use what is imported below it.
    stands_for: dict[tuple[str, str], str] = {}
    for node, function in nodes:
        for name, local, meaning in _imported(node):
            used.add((name, function))
            stands_for[function, local] = meaning

    def dotted(node: ast.expr, function: str) -> str:
        if isinstance(node, ast.Name):
            meaning = stands_for.get((function, node.id))
            return meaning or stands_for.get(("", node.id), "")
        if isinstance(node, ast.Attribute):
            value = dotted(node.value, function)
            return value and f"{value}.{node.attr}"
        return ""

    for node, function in nodes:
        if isinstance(node, ast.Attribute) and (name := dotted(node, function)):
            used.add((name, function))
    return used


def _with_function(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    """Everything in `node`, with the name of the outermost function around it."""
    yield node, function
    if not function and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node.name
    for child in ast.iter_child_nodes(node):
        yield from _with_function(child, function)


def _imported(node: ast.AST) -> Iterator[tuple[str, str, str]]:
    """What is imported, its local name, and what the local name stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.asname:
                yield alias.name, alias.asname, alias.name
            else:
                top = alias.name.split(".")[0]
                yield alias.name, top, top
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            name = f"{module}.{alias.name}"
            yield name, alias.asname or alias.name, name


def rooms() -> dict[str, Path]:
    """The files of the house by room."""
    assert logiss.__file__ is not None
    house = Path(logiss.__file__).parent
    found = {
        ".".join(path.relative_to(house).with_suffix("").parts): path
        for path in house.rglob("*.py")
    }
    plugin = find_spec("twisted.plugins.logiss_plugin")
    assert plugin is not None
    assert plugin.origin is not None
    return {**found, "plugin": Path(plugin.origin)}


class FloorsTests(SynchronousTestCase):
    """The house is built as it is drawn."""

    def test_each_room_has_a_floor(self) -> None:
        """No module is without a floor, and none that is drawn is missing."""
        # The compiled twin is no Python, and not there without a compiler.
        self.assertEqual({wing(room) for room in rooms()}, set(FLOOR_OF) - {"_frames"})

    def test_no_wall_is_broken(self) -> None:
        """No room imports from its own floor or above, or what its floor forbids."""
        found = []
        for room, path in sorted(rooms().items()):
            found += breaches(room, path.read_text(encoding="utf-8"))
        self.assertEqual(found, [])


class BreachesTests(SynchronousTestCase):
    """The checker itself sees through walls."""

    def test_caught(self) -> None:
        """Each kind of breach is found."""
        for room, source in [
            # the same floor, above, the package itself
            ("pool", "from logiss.retries import Retries"),
            ("pool", "from logiss import retries"),
            ("pool", "import logiss.retries"),
            ("pool", "import logiss.web as w"),
            ("senders", "from logiss.pool import Pool"),
            ("web", "from logiss.service import LogissService"),
            ("web", "from logiss import Settings"),
            ("web", "import logiss"),
            ("service", "from logiss.daemon import makeService"),
            ("service", "import logiss.tools"),
            ("service", "from logiss.tools.run import run"),
            ("service", "from logiss import tools"),
            ("__init__", "from logiss.daemon import makeService"),
            ("__init__", "from logiss.tools import run"),
            ("daemon", "from logiss import LogissService"),
            ("daemon", "from logiss.tools.run import run"),
            ("plugin", "from logiss.daemon import makeService"),
            ("tools.run", "from logiss.tools import receive"),
            ("tools.run", "from logiss.tools.receive import receive"),
            ("tools.run", "import logiss.__main__"),
            # hidden somewhere
            ("pool", "def f():\n    from logiss.web import LogsResource"),
            ("pool", "if TYPE_CHECKING:\n    from logiss.web import LogsResource"),
            ("pool", "try:\n    import logiss.web\nexcept ImportError:\n    pass"),
            ("pool", "class A:\n    async def f(self):\n        import logiss.web"),
            ("pool", "from .budget import Budget"),
            ("pool", "from . import budget"),
            ("tools.run", "from ..service import LogissService"),
            # paper
            ("frames", "from logiss.stamp import origin"),
            ("frames", "from logiss._version import __version__"),
            ("frames", "from twisted.internet.defer import Deferred"),
            ("frames", "import twisted"),
            ("frames", "from zope.interface import Interface"),
            ("frames", "import time"),
            ("frames", "from time import monotonic"),
            ("frames", "def f():\n    import time as t"),
            ("settings", "import os\nos.environ['A']"),
            ("settings", "import os\nx = os.getenv('A')"),
            ("settings", "import os as o\ndef f():\n    return o.environ.get('A')"),
            ("settings", "def f():\n    return os.environ\nimport os"),
            ("settings", "from os import environ"),
            ("settings", "from os import getenv as g"),
            # the global reactor
            ("pool", "from twisted.internet import reactor"),
            ("pool", "from twisted.internet import reactor as _reactor"),
            ("pool", "import twisted.internet.reactor"),
            ("pool", "from twisted.internet.reactor import callLater"),
            ("pool", "def f():\n    from twisted.internet import reactor"),
            ("pool", "from twisted import internet\ninternet.reactor.callLater(0)"),
            ("pool", "import twisted.internet as i\ndef f():\n    i.reactor.run()"),
            ("pool", "import twisted.internet\ntwisted.internet.reactor.run()"),
            ("service", "def makeService():\n    from twisted.internet import reactor"),
            ("daemon", "from twisted.internet import reactor"),
            ("daemon", "def other():\n    from twisted.internet import reactor"),
            ("__main__", "from twisted.internet import reactor"),
        ]:
            with self.subTest((room, source)):
                self.assertNotEqual(breaches(room, source), [], (room, source))

    def test_allowed(self) -> None:
        """What is below may be imported, and doors have their liberties."""
        for room, source in [
            ("frames", "import re\nfrom attrs import frozen"),
            ("settings", "import os\nos.path.join('a', 'b')"),
            ("settings", "def f(environ):\n    return environ.get('A')"),
            ("journal", "import os, time\nfrom logiss.l2met import EventLog"),
            ("pool", "from logiss.senders import ISender\nfrom logiss import metrics"),
            ("web", "from logiss import frames, inflate, stamp"),
            ("pool", "class A:\n    def f(self):\n        self.reactor.run()"),
            ("service", "from logiss.web import LogsResource"),
            ("__init__", "from logiss.service import LogissService"),
            ("daemon", "from logiss import settings as s\nimport logiss.service"),
            ("daemon", "def makeService():\n    from twisted.internet import reactor"),
            ("tools.run", "from logiss.daemon import makeService\nimport logiss"),
            ("tools.run", "def f():\n    from twisted.internet import reactor"),
            (
                "daemon",
                "def makeService():\n    from twisted.internet import reactor\n"
                "def f(reactor):\n    reactor.run()",
            ),
            ("__main__", "from logiss.tools import receive, run"),
            ("__main__", "from logiss._version import __version__"),
        ]:
            with self.subTest((room, source)):
                self.assertEqual(breaches(room, source), [])

    def test_says_which(self) -> None:
        """A breach is named by the room and by what it reaches."""
        self.assertEqual(
            breaches("pool", "from logiss.web import LogsResource"),
            ["pool imports web"],
        )
