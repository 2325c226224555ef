"""
Every scenario in short, at the levels that promise something in it, and the proof
that the scenarios can fail.

It is for pytest alone: logiss is a process of its own here, and so is what it
speaks to.
"""

import os

import pytest

from tests.faults import report
from tests.faults.levels import ACKED, LYING, RELP, SENT, UNREPLAYED, Level
from tests.faults.receivers import Missing, MissingNamespace
from tests.faults.report import Verdict
from tests.faults.required import Row
from tests.faults.scenarios import BY_NAME, SCENARIOS, Scenario, play
from tests.faults.stage import SHORT

#: Of the levels that promise less only the figures are of interest, and in these.
_COMPARED = {"kill"}
_CAUGHT = ("kill", "black-hole-out", "black-hole-back")


def _cells() -> list[tuple[Scenario, Level]]:
    return [
        (scenario, level)
        for scenario in SCENARIOS
        for level in (ACKED, RELP, SENT, UNREPLAYED)
        if level.name in scenario.required
        and (level in (ACKED, RELP) or scenario.name in _COMPARED)
    ]


def _played(scenario: Scenario, level: Level) -> Row:
    """Its row; without what it needs the test is skipped, in CI it fails."""
    try:
        return play(scenario, level, SHORT)
    except Missing as e:
        allowed = (
            isinstance(e, MissingNamespace)
            and os.environ.get("LOGISS_ALLOW_MISSING_NETNS") == "1"
        )
        if os.environ.get("CI") and not allowed:
            pytest.fail(str(e))
        pytest.skip(str(e))


@pytest.mark.parametrize(
    ("scenario", "level"),
    [
        pytest.param(scenario, level, id=f"{scenario.name}-{level.name}")
        for scenario, level in _cells()
    ],
)
def test_fault(scenario: Scenario, level: Level) -> None:
    """What the level promises holds while the fault lasts and after it."""
    row = _played(scenario, level)
    verdict = Verdict(row, scenario.problems(row))
    print(report.heading(), report.line(verdict), sep="\n")
    assert not verdict.problems, report.line(verdict)


@pytest.mark.parametrize("name", _CAUGHT)
def test_lie_is_caught(name: str) -> None:
    """A logiss that answers 200 when it has written loses, and is seen to lose."""
    scenario = BY_NAME[name]
    row = _played(scenario, LYING)
    print(report.heading(), report.line(Verdict(row)), sep="\n")
    assert row.counts.lost, "it has lost nothing: the scenario proves nothing"
    assert scenario.problems(row)
