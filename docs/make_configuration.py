"""
Writes docs/configuration.rst from the settings and what the reference says of them.

``make reference`` runs it, and a test compares. Defaults and errors are not written
down anywhere: they are what `logiss.settings` makes of nothing, and of a mistake.
"""

import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from logiss.reference import ENTRIES, Entry
from logiss.settings import VARIABLES, SettingsError, Variable, read

PAGE = Path(__file__).with_name("configuration.rst")

#: A configuration with nothing wrong in it, for one mistake at a time.
RIGHT = {
    "DEPLOY": "local",
    "PORT": "5000",
    "FORWARD_DEST": "127.0.0.1:601",
    "TOKEN_MAP": "app:logthis",
}

_COLUMNS = 88
_NAME, _DEFAULT = 32, 13

_HEAD = """\
.. ``make reference`` makes it from logiss/settings.py and logiss/reference.py.

=============
Configuration
=============

Everything is configured by environment variables; ``logiss run`` has no options but
``--with-receiver``, for trying it out, and ``--http``. White space around a value is
ignored, and a variable that is set to nothing counts as not set. Variables that are
not on this page are not read by it. ``logiss check`` shows what each of them is in an
environment, and tries it out. Not among them are ``LISTEN_FDS`` and what belongs to it
(`Deploying <deploying.rst#systemd>`__), ``LOGISS_PURE`` (`Commands
<commands.rst#the-daemon-by-other-names>`__), and what the commands that send read
(`Sending <sending.rst>`__).

Mistakes are reported at start, all at once, on stderr, one line each after ``logiss:``;
the exit code is 1. No line repeats a token.

The types:

flag
    ``1``, ``true``, ``yes``, ``on`` or ``0``, ``false``, ``no``, ``off``, in any case;
    ``t`` and ``f`` too, as for log-iss.
duration
    Seconds (``10``, ``2.5``) or a number with a unit, or several of these: ``10s``,
    ``500ms``, ``1m30s``; units are ``h``, ``m``, ``s``, ``ms``, ``us``. From 1 ms to
    24 h.
size
    Bytes (``1048576``), or a whole number of ``KiB``, ``MiB`` or ``GiB``, in any case.
name
    1 to 32 printable ASCII characters without ``=``, ``]``, ``"`` and space (RFC 5424
    SD-NAME).

"""


def page() -> str:
    """The whole page."""
    variables = {variable.name: variable for variable in VARIABLES.values()}
    sections = [
        f"\n{_under(group, '=')}\n"
        + "\n".join(_section(entry, variables[entry.name]) for entry in entries)
        for group, entries in groupby(ENTRIES, lambda entry: entry.group)
    ]
    table = "\n".join(_table(variables))
    return f"{_HEAD}{table}\n" + "".join(f"\n{section}" for section in sections)


def _under(title: str, line: str) -> str:
    return f"{title}\n{line * len(title)}\n"


def _table(variables: dict[str, Variable]) -> Iterator[str]:
    """All of them at a glance."""
    meaning = _COLUMNS - _NAME - _DEFAULT - 4
    rule = "  ".join("=" * width for width in (_NAME, _DEFAULT, meaning))
    yield from (rule, _row("Variable", "Default", "Meaning"), rule)
    for entry in ENTRIES:
        shown, default = entry.summary, default_of(variables[entry.name])
        first, *more = textwrap.wrap(
            shown, meaning, break_long_words=False, break_on_hyphens=False
        )
        yield _row(f"``{entry.name}``", default, first)
        yield from (_row("", "", line) for line in more)
    yield rule


def _row(name: str, default: str, meaning: str) -> str:
    return f"{name:{_NAME}}  {default:{_DEFAULT}}  {meaning}".rstrip()


def default_of(variable: Variable) -> str:
    """As the reference has it: a literal, ``required`` or ``none``."""
    if variable.default:
        return f"``{variable.default}``"
    is_required = variable.missing and not variable.needed_with
    return "required" if is_required else "none"


def _section(entry: Entry, variable: Variable) -> str:
    facts = [
        _field("Type", entry.type),
        _field("Default", default_of(variable)),
        _field("Examples", ", ".join(f"``{value}``" for value in entry.examples)),
        *(_field("Error", _error(entry.name, value)) for value in entry.mistakes),
    ]
    if variable.needed_with:
        facts.append(_field("Error", _error_without(entry.name, variable.needed_with)))
    paragraphs = [entry.meaning.strip(), "\n".join(facts)]
    if entry.more:
        paragraphs.append(entry.more.strip())
    return _under(entry.name, "-") + "\n" + "\n\n".join(paragraphs) + "\n"


def _field(name: str, text: str) -> str:
    return textwrap.fill(
        f":{name}: {text}",
        _COLUMNS,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _error(name: str, value: str) -> str:
    """What somebody reads who sets `name` to `value`."""
    return f"``{name}={value}`` gives ``{_problem({**RIGHT, name: value}, name)}``"


def _error_without(name: str, other: str) -> str:
    """What somebody reads who sets `other` and not `name`."""
    (entry,) = (entry for entry in ENTRIES if entry.name == other)
    problem = _problem({**RIGHT, other: entry.examples[0]}, name)
    return f"missing with ``{other}`` gives ``{problem}``"


def _problem(environ: dict[str, str], name: str) -> str:
    try:
        read(environ)
    except SettingsError as e:
        (problem,) = (p for p in e.problems if p.startswith(f"{name}:"))
        return problem
    raise AssertionError(f"{name}={environ[name]} is no mistake")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
