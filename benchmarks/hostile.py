"""
What 1,000 bad clients of each kind do to a healthy one, to the memory, and to a drain.

    python -m benchmarks.hostile [--seconds 32] [--clients 1000] [--kind deaf ...]
        [--channel stock]

For each kind a fresh logiss with MAX_INFLIGHT_BYTES=64MiB. The healthy client posts on
one connection, first alone, then beside them. At the end logiss gets SIGTERM while they
are connected. The kinds are in tests/integration/hostile_clients.py. A logiss that
holds more than 2 GiB is ended: its row says so.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from attrs import define, field

from logiss.descriptors import raise_descriptors_max
from tests.integration.beside import Healthy, Watch, percentile, watching
from tests.integration.daemons import Daemon, receiving, running
from tests.integration.hostile_clients import KINDS, Happened, hostile

ALONE_SECONDS = 4.0
#: A drain that takes longer is ended.
DRAIN_SECONDS_MAX = 30.0


@define
class Row:
    """What there is to be said of one kind."""

    kind: str
    watch: Watch
    healthy: Healthy
    alone: list[float]
    beside: list[float] = field(factory=list)
    success: float = 0.0
    happened: Happened | None = None
    drain_seconds: float | None = None

    def __str__(self) -> str:
        beside = [
            f"{1000 * percentile(self.beside, part):9.1f}"
            if self.beside
            else "        -"
            for part in (0.5, 0.99)
        ]
        peak = f"{self.watch.peak_mib:8.0f}" if not self.watch.ended else " > 2 GiB"
        drain = "-" if self.drain_seconds is None else f"{self.drain_seconds:.2f}"
        if self.drain_seconds and self.drain_seconds >= DRAIN_SECONDS_MAX:
            drain = f"> {DRAIN_SECONDS_MAX:.0f}"
        return (
            f"{self.kind:17} {self.happened.connects if self.happened else '-':>8}"
            f" {self.happened.cuts if self.happened else '-':>8}"
            f" {100 * self.success:8.1f} {len(self.beside):7}"
            f" {1000 * percentile(self.alone, 0.99):9.1f} {' '.join(beside)}"
            f" {peak} {drain:>8}"
        )


HEAD = (
    "kind              connects     cuts  success   posts  p99alone       p50"
    "       p99     peak    drain\n"
    "                                           %                ms        ms"
    "        ms      MiB        s"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=32.0)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--channel", choices=["fast", "stock"], default="fast")
    options = parser.parse_args()
    raise_descriptors_max(options.clients + 100)
    print(HEAD, flush=True)
    for kind in options.kind or KINDS:
        print(measured(kind, options), flush=True)


def measured(kind: str, options: argparse.Namespace) -> Row:
    with (
        tempfile.TemporaryDirectory() as workdir,
        receiving() as receiver,
        running(
            "twist",
            Path(workdir),
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            MAX_INFLIGHT_BYTES="64MiB",
            REQUEST_LOG="errors",
            HTTP_CHANNEL=options.channel,
        ) as daemon,
        watching(daemon) as watch,
    ):
        daemon.wait_until_usable()
        healthy = Healthy(daemon.port)
        row = Row(kind, watch, healthy, healthy.post_for(ALONE_SECONDS))
        try:
            _beside(row, daemon, options)
        except (AssertionError, OSError) as e:
            print(f"{kind}: {e!r}", file=sys.stderr)
        healthy.close()
        return row


def _beside(row: Row, daemon: Daemon, options: argparse.Namespace) -> None:
    healthy = row.healthy
    first, before = len(healthy.seconds), Counter(healthy.codes)
    posting = threading.Thread(target=healthy.post_until_refused, daemon=True)
    with hostile(row.kind, daemon.port, options.clients) as crowd:
        posting.start()
        time.sleep(options.seconds)
        start = time.monotonic()
        row.beside = healthy.seconds[first:]
        codes = healthy.codes - before
        row.success = codes[200] / max(1, sum(codes.values()))
        daemon.signal(signal.SIGTERM)
        if not row.watch.ended:
            try:
                daemon.wait(DRAIN_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                daemon.process.kill()
            row.drain_seconds = time.monotonic() - start
        row.happened = crowd.stop()
    posting.join(10)


if __name__ == "__main__":
    main()
