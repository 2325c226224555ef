"""
What several workers on several cores deliver, beside one worker.

    python benchmarks/workers.py [--seconds 4] [--rounds 3] [--connections 64]
        [--frames 1 --frames 50 ...]

wrk and the receiver run on the same cores and take their share of them. So what counts
is not POST/s as such, but what the workers deliver with the CPU time that is left to
them: POST/s, times the CPU time that there is, over the CPU time that wrk and the
receiver do not take. Of one worker, which can be busy on one core at most, it is POST/s
over the part of a core that it had. What is printed last is the quotient of the two,
and how much of so many times one worker that is.

Both take turns in the same run; the figures are medians over the rounds. Needs gcc and
wrk. Installs nothing.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import harness
from attrs import frozen

LOGISS = [str(harness.BIN / "twist"), "logiss"]


@frozen
class Server:
    """A running logiss."""

    workers: int
    port: int
    pid: int


@frozen
class Row:
    """
    One round of a load.

    @ivar busy_cores: what the workers had of the cores.
    @ivar other_cores: what wrk and the receiver had of them.
    """

    posts_per_second: float
    busy_cores: float
    other_cores: float

    def alone(self, cores: int) -> float:
        """POST/s if the workers had had all of the cores to themselves."""
        return self.posts_per_second * cores / (cores - self.other_cores)

    @property
    def on_one_core(self) -> float:
        """POST/s if one worker had had the whole of a core."""
        return self.posts_per_second / min(1.0, self.busy_cores)


def measure(
    server: Server, sink_pid: int, script: Path, connections: int, seconds: float
) -> Row:
    before, sink_before = harness.usage(server.pid), harness.usage(sink_pid)
    wrk_before, started_at = _children_seconds(), time.monotonic()
    load = harness.load(server.port, script, connections, seconds)
    wall = time.monotonic() - started_at
    others = _children_seconds() - wrk_before
    others += harness.usage(sink_pid).cpu_seconds - sink_before.cpu_seconds
    busy = harness.usage(server.pid).cpu_seconds - before.cpu_seconds
    if load.trouble:
        print(f"   ! {server.workers} workers: {load.trouble}", file=sys.stderr)
    return Row(load.posts / wall, busy / wall, others / wall)


def _children_seconds() -> float:
    """CPU time of children that have ended: of wrk."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(arguments: argparse.Namespace) -> dict[tuple[int, int], list[Row]]:
    rows: dict[tuple[int, int], list[Row]] = defaultdict(list)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sink_port = harness.free_port()
        sink = stack.enter_context(
            harness.process(
                [harness.compiled(directory, "sink"), str(sink_port)],
                sink_port,
                directory / "sink.log",
            )
        )
        servers = []
        for workers in (1, arguments.workers):
            port = harness.free_port()
            variables = harness.environment(port, sink_port)
            log = directory / f"{workers}.log"
            started = stack.enter_context(
                harness.process(
                    LOGISS, port, log, **variables, WEB_CONCURRENCY=str(workers)
                )
            )
            servers.append(Server(workers, port, started.pid))
        scripts = {n: harness.wrk_script(directory, n) for n in arguments.frames}
        time.sleep(2)
        for server in servers:
            for script in scripts.values():
                harness.load(server.port, script, arguments.connections, 1)
        for _ in range(arguments.rounds):
            for frames, script in scripts.items():
                for server in servers:
                    rows[frames, server.workers].append(
                        measure(
                            server,
                            sink.pid,
                            script,
                            arguments.connections,
                            arguments.seconds,
                        )
                    )
    return rows


def print_table(rows: dict[tuple[int, int], list[Row]], workers: int) -> None:
    for key, value in harness.machine().items():
        print(f"{key}: {value}")
    print(
        f"{'frames':>6} {'workers':>8} {'POST/s':>8} {'busy cores':>11}"
        f" {'wrk, sink':>10} {'alone':>8} {'x one':>6} {'of N x one':>11}"
    )
    for frames in dict.fromkeys(frames for frames, _ in rows):
        one = harness.median([row.on_one_core for row in rows[frames, 1]])
        for n in (1, workers):
            each = rows[frames, n]
            alone = one
            if n > 1:
                alone = harness.median([row.alone(n) for row in each])
            print(
                f"{frames:6} {n:8}"
                f" {harness.median([row.posts_per_second for row in each]):8.0f}"
                f" {harness.median([row.busy_cores for row in each]):11.2f}"
                f" {harness.median([row.other_cores for row in each]):10.2f}"
                f" {alone:8.0f} {alone / one:6.2f} {alone / one / n:11.2f}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--frames", type=int, action="append")
    arguments = parser.parse_args()
    arguments.workers = len(os.sched_getaffinity(0))
    arguments.frames = arguments.frames or [1, 50, 500]
    if arguments.workers < 2:
        print("benchmark: it takes two cores", file=sys.stderr)
        return 1
    try:
        harness.need("gcc", "wrk")
        rows = run(arguments)
    except harness.Missing as e:
        print(f"benchmark: {e}", file=sys.stderr)
        return 1
    print_table(rows, arguments.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
