"""
Shows on a terminal how far sending is: a bar where the size is known, else what has
been sent; with rate, retries and losses.
"""

import sys
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from logiss.foreground import let_go
from logiss.tally import Tally

#: Over how long the rate is taken.
RATE_SECONDS = 5.0


class Rate:
    """How much faster a number has grown of late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, count: int) -> float:
        """A second, when it is `count` now."""
        self._seen.append((now, count))
        while now - self._seen[0][0] > RATE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        since, was = self._seen[0]
        return (count - was) / (now - since) if now > since else 0.0


class Bar:
    """
    @param total_bytes: how much there is to be read; None when nobody knows.
    @param now: in seconds.
    """

    def __init__(
        self, tally: Tally, total_bytes: int | None, now: Callable[[], float]
    ) -> None:
        self._tally = tally
        self._now = now
        self._rate = Rate()
        self._is_gone = False
        console = Console(file=sys.stderr, highlight=False)
        self._progress = Progress(
            *_columns(total_bytes),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(
            "sending", total=total_bytes, told=self._told()
        )

    def start(self) -> None:
        self._try(self._progress.start)

    def show(self) -> None:
        """Draw what is the case now."""
        self._progress.update(
            self._task, completed=self._tally.bytes_read, told=self._told()
        )
        self._try(self._progress.refresh)

    def say(self, line: str) -> None:
        """Print a line above it."""
        print_line = self._progress.console.print
        self._try(lambda: print_line(line, markup=False, soft_wrap=True))

    def stop(self) -> None:
        """Draw it a last time, and leave it there."""
        self.show()
        self._try(self._progress.stop)

    def _told(self) -> str:
        tally = self._tally
        rate = self._rate.at(self._now(), tally.delivered)
        told = f"{tally.delivered:,} delivered  {rate:,.0f}/s"
        told += f"  {tally.retries:,} retries  {tally.lost:,} lost"
        return told + (f"  {tally.unknown:,} not known" if tally.unknown else "")

    def _try(self, draw: Callable[[], object]) -> None:
        """The terminal may be closed while lines are still to be sent."""
        if self._is_gone:
            return
        try:
            draw()
        except OSError:
            self._is_gone = True
            let_go(sys.stderr)


def _columns(total_bytes: int | None) -> list[str | ProgressColumn]:
    told = TextColumn("{task.fields[told]}", markup=False)
    if total_bytes is None:
        return [SpinnerColumn(), "sending", told, TimeElapsedColumn()]
    bar = [BarColumn(20), TaskProgressColumn()]
    return ["sending", *bar, told, TimeRemainingColumn()]
