"""
Sees whether what a target leaves behind grows.

Counted are the blocks that Python has given out, which know nothing of what an engine
keeps for itself. What is made once, and caches that have their bound, are there after
the first thousand runs.
"""

import gc
import sys

from tests.fuzz.targets import Check

RUNS = 1000
#: A block for each run of a thousand; without a leak it is a handful.
BLOCKS_MAX = 1000


class Grown(Exception):
    """Says by how much."""


class Watched:
    """`check`, with a look at the blocks after each `RUNS` runs."""

    def __init__(self, check: Check, blocks_max: int = BLOCKS_MAX) -> None:
        self._check = check
        self._blocks_max = blocks_max
        self._blocks = 0
        self.runs = 0

    def __call__(self, octets: bytes) -> None:
        """
        @raise Grown: more blocks are there than after the first runs, and than may be.
        """
        self._check(octets)
        self.runs += 1
        if self.runs % RUNS == 0:
            self._look()

    def _look(self) -> None:
        gc.collect()
        blocks = sys.getallocatedblocks()
        if not self._blocks:
            self._blocks = blocks
        grown = blocks - self._blocks
        if grown > self._blocks_max:
            raise Grown(f"{grown} blocks more after {self.runs} runs than after {RUNS}")
