"""
Restarts, kills, halts and renews instances behind a HAProxy under load, and says what
became of every message. It takes some eight minutes.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import NoReturn

from attrs import frozen

from tests.fleet import rounds
from tests.fleet.balancer import (
    NO_SECOND_DELIVERY,
    SERVERS,
    Missing,
    deployed,
    unseen_seconds,
)
from tests.fleet.rounds import Fleet, running
from tests.fleet.traffic import Outcome, Shape

#: As haproxy.cfg says.
VARIABLES = {"DRAIN_DELAY": "7", "DELIVERY_TIMEOUT": "4.5"}
_SHAPE = Shape(keeping=24, connecting=4, pause_seconds=0.1)
#: Hardly a pause between posts, so that an instance has some when it is killed.
_BUSY = Shape(keeping=24, connecting=4, pause_seconds=0.02)


@frozen
class Round:
    """
    @ivar is_quiet: whether nobody may notice it.
    @ivar changes: of haproxy.cfg.
    @ivar variables: in place of those that it asks for.
    @ivar has_redis: whether they share a table of the posts that they know.
    @ivar hits: how many instances are killed or halted, where nothing else may cost
        posts. Each has at most one of every drain.
    @ivar without_table: the name of the same round without a table, which has to have
        more messages that came twice.
    """

    name: str
    play: Callable[[Fleet], Outcome]
    is_quiet: bool
    shape: Shape = _SHAPE
    changes: Mapping[str, str] = {}
    variables: Mapping[str, str] = VARIABLES
    has_redis: bool = False
    hits: int | None = None
    without_table: str = ""

    def problems(self, outcome: Outcome) -> list[str]:
        """What must not be in it by itself."""
        found = outcome.problems(self.is_quiet)
        unanswered = outcome.tries - outcome.answers[200]
        if self.hits is not None and unanswered > self.hits * self.shape.drains:
            found.append(
                f"{unanswered} posts not answered 200, with {self.shape.drains} drains"
                f" and {self.hits} hits"
            )
        return found


_KILLED = "SIGKILL of each, 3 times"
_HALTED = "SIGSTOP of one, then SIGCONT"
ROUNDS = (
    Round("rolling restart, 3 times", lambda f: rounds.rolling(f, 3), True),
    Round(
        "the same without ``DRAIN_DELAY``",
        lambda f: rounds.rolling_unannounced(f, 3),
        False,
        variables={"DRAIN_DELAY": "0"},
    ),
    Round("SIGHUP to all at once, 5 times", lambda f: rounds.renew(f, 5), True),
    Round(
        _KILLED,
        lambda f: rounds.kill(f, servers=SERVERS * 3),
        False,
        _BUSY,
        hits=len(SERVERS) * 3,
    ),
    Round(
        "the same without ``empty-response``",
        lambda f: rounds.kill(f, servers=SERVERS * 3),
        False,
        _BUSY,
        NO_SECOND_DELIVERY,
        hits=len(SERVERS) * 3,
    ),
    Round(
        "SIGKILL with ``DEDUPE_REDIS=1``",
        lambda f: rounds.kill(f, servers=SERVERS * 3),
        False,
        _BUSY,
        has_redis=True,
        hits=len(SERVERS) * 3,
        without_table=_KILLED,
    ),
    Round(_HALTED, rounds.halt, False, _BUSY, hits=1),
    Round(
        "the same with ``DEDUPE_REDIS=1``",
        rounds.halt,
        False,
        _BUSY,
        has_redis=True,
        hits=1,
        without_table=_HALTED,
    ),
)

_COLUMNS: tuple[tuple[str, Callable[[Outcome], object]], ...] = (
    ("posts", lambda o: o.tries),
    ("200", lambda o: o.answers[200]),
    ("5xx", lambda o: o.failed),
    ("no answer", lambda o: o.answers[None]),
    ("refused", lambda o: o.refused),
    ("tried again", lambda o: o.tried_again),
    ("given up", lambda o: o.given_up),
    ("messages", lambda o: o.messages),
    ("lost", lambda o: o.lost),
    ("twice", lambda o: o.again),
    ("slowest", lambda o: f"{o.slowest_seconds:.2f} s"),
)
_NAME_WIDTH = 36


def heading() -> str:
    rule = "  ".join(["=" * _NAME_WIDTH, *("=" * 11 for _ in _COLUMNS)])
    names = [f"{name:11}" for name, _ in _COLUMNS]
    return "\n".join([rule, "  ".join(["round".ljust(_NAME_WIDTH), *names]), rule])


def line(name: str, outcome: Outcome) -> str:
    cells = [f"{value(outcome)!s:11}" for _, value in _COLUMNS]
    return "  ".join([name.ljust(_NAME_WIDTH), *cells])


def not_fewer(outcomes: Mapping[str, Outcome]) -> list[str]:
    """
    The rounds in which a table has not made less of what came twice.

    @param outcomes: of the rounds that were played, by their names.
    """
    return [
        f"{one.name}: {outcomes[one.name].again} messages arrived again, and"
        f" {outcomes[one.without_table].again} without a table"
        for one in ROUNDS
        if one.name in outcomes
        and one.without_table in outcomes
        and outcomes[one.name].again >= outcomes[one.without_table].again
    ]


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fleet", description=__doc__.strip()
    )
    parser.add_argument("--only", metavar="WORD", default="", help="in a round's name")
    options = parser.parse_args()
    # Told to end, it ends what it has started, like after an interrupt.
    signal.signal(signal.SIGTERM, _interrupted)
    needed = unseen_seconds(deployed())
    assert float(VARIABLES["DRAIN_DELAY"]) > needed, needed
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores")
    print(heading(), flush=True)
    problems = []
    outcomes: dict[str, Outcome] = {}
    for one in ROUNDS:
        if options.only not in one.name:
            continue
        if one.has_redis and not shutil.which("redis-server"):
            print(f"{one.name}: not played, for there is no redis-server", flush=True)
            continue
        with running(one.variables, one.changes, one.shape, one.has_redis) as fleet:
            outcome = one.play(fleet)
        print(line(one.name, outcome), flush=True)
        outcomes[one.name] = outcome
        problems += [f"{one.name}: {why}" for why in one.problems(outcome)]
    problems += not_fewer(outcomes)
    for problem in problems:
        print(f"fleet: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Missing as e:
        sys.exit(f"fleet: {e}")
