"""
Plays scenarios and says what became of every message.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.faults import report
from tests.faults.levels import BUILT, LEVELS, Level
from tests.faults.receivers import Missing
from tests.faults.report import Verdict
from tests.faults.required import Row
from tests.faults.scenarios import BY_NAME, SCENARIOS, Scenario, play
from tests.faults.stage import FULL, SHORT, Size


def verdict(scenario: Scenario, level: Level, size: Size) -> Verdict:
    try:
        row = play(scenario, level, size)
    except Missing as e:
        return Verdict(Row(scenario.name, level.name), missing=str(e))
    except AssertionError as e:
        return Verdict(Row(scenario.name, level.name), [f"stopped: {e}"])
    return Verdict(row, scenario.problems(row))


def chosen(names: list[str], levels: list[str]) -> Iterator[tuple[Scenario, Level]]:
    """Each scenario with each of its levels that this version knows."""
    for scenario in SCENARIOS:
        if names and scenario.name not in names:
            continue
        for level in LEVELS.values():
            asked = level.name in levels if levels else level in BUILT
            if asked and (level.name in scenario.required or level.name == "lying"):
                yield scenario, level


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__.strip()
    )
    parser.add_argument("--full", action="store_true", help="as many as for a report")
    parser.add_argument("--only", action="append", default=[], choices=list(BY_NAME))
    parser.add_argument("--level", action="append", default=[], choices=list(LEVELS))
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a table")
    options = parser.parse_args()
    # Told to end, it ends what it has started, like after an interrupt.
    signal.signal(signal.SIGTERM, _interrupted)
    size = FULL if options.full else SHORT
    verdicts = []
    print(report.heading(), flush=True)
    for scenario, level in chosen(options.only, options.level):
        verdicts.append(verdict(scenario, level, size))
        print(report.line(verdicts[-1]), flush=True)
    if options.report:
        options.report.write_text(report.document(verdicts, size))
    return int(any(v.problems for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
