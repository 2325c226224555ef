"""
Runs a target on new octets: with atheris, or with hypothesis.

Each is a function that runs in a process of its own, until the time is over, and ends
that process with another code than 0 when the target has raised, has taken too long or
too much memory. The octets are then in the folder of findings.
"""

import faulthandler
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from attrs import define, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.growth import RUNS, Watched
from tests.fuzz.targets import Check, Target

BYTES_MAX = 4096
#: Of one input, on a machine that others use too. The slowest takes a fiftieth.
HANG_SECONDS = 10
MEMORY_MIB = 1024
FOUND = 77
_EXAMPLES = 500


@frozen
class Assignment:
    """
    @ivar kept: where inputs that have reached something new are kept from run to run.
    @ivar findings: where octets go that have shown a defect.
    """

    target: Target
    seconds: float
    kept: Path
    findings: Path


def with_atheris(assignment: Assignment) -> None:
    """libFuzzer: what reaches new lines of logiss or h11 is changed further."""
    import atheris

    with atheris.instrument_imports(include=["logiss", "h11"]):
        check = Watched(assignment.target.load())
    target = assignment.target
    options = {
        "max_total_time": int(assignment.seconds),
        "max_len": BYTES_MAX,
        "timeout": HANG_SECONDS,
        "rss_limit_mb": MEMORY_MIB,
        "artifact_prefix": f"{assignment.findings}/{target.name}-",
        "dict": target.words,
    }
    arguments = [f"-{name}={value}" for name, value in options.items()]
    # It leaves by os._exit.
    sys.argv = ["fuzz", *arguments, str(assignment.kept), str(target.corpus)]
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


def with_hypothesis(assignment: Assignment) -> None:
    """Seeds with changes anywhere, and octets made of words."""
    target = assignment.target
    runs = _Runs(assignment, target.load())
    limit = MEMORY_MIB * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    signal.signal(signal.SIGALRM, runs.hung)
    seeds = [seed for _, seed in target.seeds()]
    search = _search(_changed(seeds), runs)
    end = time.monotonic() + assignment.seconds
    try:
        while time.monotonic() < end:
            search()
        _watch(runs, seeds)
    except Exception:
        runs.keep("crash")
        raise
    signal.alarm(0)
    print(f"{runs.count} runs", flush=True)


@define
class _Runs:
    """
    A target that is told of hangs.

    @ivar tried: the octets that it is at.
    @ivar count: how many it was given.
    """

    assignment: Assignment
    check: Check
    tried: bytes = b""
    count: int = 0

    def __call__(self, octets: bytes) -> None:
        self.tried = octets
        self.count += 1
        signal.alarm(HANG_SECONDS)
        self.check(octets)

    def keep(self, kind: str) -> None:
        name = f"{self.assignment.target.name}-{kind}"
        digest = sha256(self.tried).hexdigest()[:16]
        (self.assignment.findings / f"{name}-{digest}").write_bytes(self.tried)

    def hung(self, number: int, frame: Any) -> None:
        """For SIGALRM."""
        self.keep("timeout")
        faulthandler.dump_traceback()
        os._exit(FOUND)


def _watch(check: Check, seeds: list[bytes]) -> None:
    """Whether it grows with the corpus alone: hypothesis grows itself."""
    watched = Watched(check)
    for octets in islice(cycle(seeds), 3 * RUNS):
        watched(octets)


def _search(inputs: st.SearchStrategy[bytes], check: Check) -> Callable[[], None]:
    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def search(octets: bytes) -> None:
        check(octets)

    made: Any = search
    return lambda: made()


@st.composite
def _changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One or two seeds, with up to five changes."""
    octets = b"".join(draw(st.lists(st.sampled_from(seeds), min_size=1, max_size=2)))
    pieces = st.one_of(st.binary(max_size=4), st.sampled_from(seeds).map(_line_of))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(octets)))
        dropped = draw(st.integers(0, 8))
        octets = octets[:at] + draw(pieces) + octets[at + dropped :]
    return octets[:BYTES_MAX]


def _line_of(seed: bytes) -> bytes:
    return seed.partition(b"\n")[0][-20:] + b"\n"


ENGINES = {"atheris": with_atheris, "hypothesis": with_hypothesis}
