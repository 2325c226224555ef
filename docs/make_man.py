"""
Writes docs/logiss.1, the man page, from the command line and the reference.

``make man`` runs it, and a test compares. What it says of commands and options is what
``--help`` says of them.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from argparse_manpage.manpage import Manpage

from logiss import __version__
from logiss.__main__ import command_line
from logiss.reference import ENTRIES, plain
from logiss.settings import VARIABLES

PAGE = Path(__file__).with_name("logiss.1")
CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.rst"

_HEAD = """\
.\\" `make man` makes it from the commands' own help and logiss/reference.py.
"""
_ONE_LINE = "takes log lines over HTTP and forwards them to a syslog receiver"
_BY_NAME = {variable.name: variable for variable in VARIABLES.values()}
#: So wide, whatever terminal it is made on.
_COLUMNS = 78

_ENVIRONMENT = """\
What there is to configure is in environment variables. A variable that is set to
nothing counts as not set. `logiss check` shows what each of them comes to, and the
configuration reference tells each in full."""

_EXIT_STATUS = {
    "0": "All is well: what was asked for was done, or the daemon has drained.",
    "1": "It was not; a line on standard error says why and what to do. Some commands"
    " use further numbers, and say so above.",
    "2": "The command line was not understood.",
}

_SIGNALS = {
    "SIGTERM, SIGINT": "`logiss run` drains: new posts are answered 503, pending ones"
    " end within DELIVERY_TIMEOUT, and the process exits with 0. A second signal ends"
    " it at once.",
}

_SEE_ALSO = ((r"twist", "1"), ("rsyslogd", "8"), ("systemd.socket", "5"), ("curl", "1"))


def page() -> str:
    """The man page of the commands as they are now."""
    parser = command_line()
    for each in _parsers(parser):
        each.formatter_class = partial(argparse.HelpFormatter, width=_COLUMNS)
        # argparse-manpage leaves out what stands at the end of a command's help.
        each.description = "\n".join(filter(None, (each.description, each.epilog)))
        each.epilog = None
    made = Manpage(
        parser,
        format="single-commands-section",
        _data={
            "version": __version__,
            "description": _ONE_LINE,
            "manual_title": "logiss",
            "date": released_on(__version__),
        },
    )
    made.add_section("environment", ">", _environment())
    made.add_section("exit status", ">", _list(_EXIT_STATUS.items()))
    made.add_section("signals", ">", _list(_SIGNALS.items()))
    made.add_section("see also", ">", _see_also())
    # Its name for the group of subcommands is empty, and so is the heading.
    text = re.sub(r"(?m)^\.SH\n(.+)$", r".SH \1", str(made))
    # An empty line is a paragraph, where no macro follows that makes one.
    return _HEAD + re.sub(r"\n{2,}", "\n", re.sub(r"\n{2,}(?!\.)", "\n.PP\n", text))


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _parsers(below)


def released_on(version: str) -> str:
    """The day that the changelog has for `version`: not today's, to be stable."""
    heading = rf"(?m)^logiss {re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)$"
    found = re.search(heading, CHANGELOG.read_text(encoding="utf-8"))
    return found[1] if found else "unreleased"


def _environment() -> str:
    rows = (
        (entry.name, f"{plain(entry.summary)}. {_rule(entry.name)}".strip())
        for entry in ENTRIES
    )
    return f"{_roff(_ENVIRONMENT)}\n{_list(rows)}"


def _rule(name: str) -> str:
    variable = _BY_NAME[name]
    if variable.default:
        return f"Default: {variable.default}."
    if variable.spared_by:
        return f"Required without {variable.spared_by}."
    is_required = variable.missing and not variable.needed_with
    return "Required." if is_required else ""


def _list(rows: Iterable[tuple[str, str]]) -> str:
    lines = []
    for name, text in rows:
        lines += [".TP", rf"\fB{_roff(name)}\fR", _roff(text)]
    return "\n".join(lines)


def _see_also() -> str:
    return ",\n".join(rf"\fB{_roff(name)}\fR({part})" for name, part in _SEE_ALSO)


def _roff(text: str) -> str:
    """`text` as roff reads it as text."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("`", "")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
