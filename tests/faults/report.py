"""
The rows as reStructuredText: what was measured, and on what.
"""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

import twisted
from logiss._version import __version__
from tests.faults.required import Row
from tests.faults.stage import Size

_COLUMNS = (
    "scenario",
    "level",
    "sent",
    "200",
    "refused",
    "unanswered",
    "arrived",
    "lost",
    "twice",
    "altered",
    "unknown",
    "broken",
    "notice s",
    "recover s",
    "",
)
_WIDTHS = (18, 15, 7, 7, 7, 10, 7, 6, 6, 7, 7, 6, 8, 9, 0)


@frozen
class Verdict:
    """
    A row, or why there is none.

    @ivar problems: what is wrong with it.
    @ivar missing: what the scenario needs and has not got.
    """

    row: Row
    problems: Sequence[str] = ()
    missing: str = ""

    @property
    def word(self) -> str:
        if self.missing:
            return "not run"
        return "FAILED" if self.problems else "ok"


def cells(verdict: Verdict) -> list[str]:
    row, counts = verdict.row, verdict.row.counts
    if verdict.missing:
        numbers = ["-"] * (len(_COLUMNS) - 3)
    else:
        numbers = [
            *(str(n) for n in (counts.sent, counts.accepted, counts.refused)),
            *(str(n) for n in (counts.unanswered, counts.delivered, counts.lost)),
            *(str(n) for n in (counts.duplicated, counts.altered, counts.unknown)),
            str(row.breaks),
            _seconds(row.notice_seconds),
            _seconds(row.recover_seconds),
        ]
    return [row.scenario, row.level, *numbers, verdict.word]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def line(verdict: Verdict) -> str:
    """A row for a terminal, with what there is to say behind it."""
    texts = [
        text.ljust(width) for text, width in zip(cells(verdict), _WIDTHS, strict=True)
    ]
    return "\n    ".join([" ".join(texts).rstrip(), *_remarks(verdict)])


def heading() -> str:
    return " ".join(
        text.ljust(width) for text, width in zip(_COLUMNS, _WIDTHS, strict=True)
    ).rstrip()


def _remarks(verdict: Verdict) -> list[str]:
    early = verdict.row.early
    return [
        *([verdict.missing] if verdict.missing else []),
        *verdict.problems,
        *verdict.row.facts,
        *([f"{early} answered 200 before they had arrived"] if early else []),
    ]


def document(verdicts: Sequence[Verdict], size: Size) -> str:
    """To be included in a document."""
    table = [".. list-table::", "   :header-rows: 1", ""]
    for entries in (list(_COLUMNS), *map(cells, verdicts)):
        bullets = ["   * -", *["     -"] * (len(entries) - 1)]
        table += [f"{b} {e}".rstrip() for b, e in zip(bullets, entries, strict=True)]
    remarks = [
        f"- {v.row.scenario}, {v.row.level}: {'; '.join(_remarks(v))}"
        for v in verdicts
        if _remarks(v)
    ]
    measured = [f"{name}: {value}" for name, value in machine().items()]
    return "\n".join(
        [
            f"Measured with at least {size.messages} messages in each row;"
            f" {', '.join(measured)}.",
            "",
            *table,
            "",
            *remarks,
            "",
        ]
    )


def machine() -> dict[str, str]:
    """What the rows were measured on."""
    cpus = re.findall(r"model name\s*: (.*)", _text("/proc/cpuinfo"))
    return {
        "processor": f"{len(cpus)} x {cpus[0] if cpus else 'unknown'}",
        "kernel": platform.release(),
        "Python": sys.version.split()[0],
        "Twisted": twisted.__version__,
        "logiss": __version__,
        "rsyslogd": _rsyslogd(),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _rsyslogd() -> str:
    program = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin")
    if program is None:
        return "none"
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"rsyslogd\s+(\S+)", said.stdout)
    return found[1] if found else "unknown"
