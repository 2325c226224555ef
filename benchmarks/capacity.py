"""
What a load takes, by a small model, and whether it is so.

    python benchmarks/capacity.py [--seconds 5] [--rounds 3]

The model has four numbers, all measured in this run on this machine with one worker:
the CPU time of a POST among many (a busy worker has many in one turn) and of each
frame; the memory of a worker that has been busy, and that of a connection. It is then
held against two loads at a given pace, of another size each: what they take is printed
beside what the model says. docs/capacity.rst has both. A POST that comes alone costs
more; that is printed, and matters to nobody who plans.

Needs gcc and wrk. Installs nothing.
"""

import argparse
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import harness
from attrs import frozen

LOGISS = [str(harness.BIN / "twist"), "logiss"]
_FEW, _MANY = 1, 500
_IDLE_CONNECTIONS = 2_000
#: A model that is further off is none.
WRONG = 1.5
# As many as a worker has in earnest: what it knows of each is in no cache of the CPU.
_BUSY_CONNECTIONS = 500
_DESCRIPTORS = 20_000


@frozen
class Model:
    """
    @ivar alone_us, busy_us: CPU time of a POST when the worker has nothing else to do,
        and when it is busy, and @ivar frame_us: of each of its frames.
    @ivar worker_mib: memory of a worker without clients.
    @ivar connection_kib: what each connection of a client adds.
    """

    alone_us: float
    busy_us: float
    frame_us: float
    worker_mib: float
    connection_kib: float

    def cores(self, posts_per_second: float, frames: int) -> float:
        """How many cores are busy, where no worker has little to do."""
        return posts_per_second * (self.busy_us + self.frame_us * frames) / 1e6

    def memory_mib(self, workers: int, connections: int) -> float:
        return workers * self.worker_mib + connections * self.connection_kib / 1024


@frozen
class Size:
    """A load at a pace: each client waits between its posts."""

    workers: int
    connections: int
    frames: int
    pause_ms: int


SIZES = (Size(1, 100, 20, 6), Size(2, 1_000, 100, 45))


@frozen
class Taken:
    """What a load has taken."""

    posts_per_second: float
    cores: float
    memory_mib: float


def paced_script(directory: Path, size: Size) -> Path:
    script = harness.wrk_script(directory, size.frames)
    paced = directory / f"{size.frames}-paced.lua"
    pace = f"function delay() return {size.pause_ms} end\n"
    paced.write_text(script.read_text() + pace)
    return paced


def take(pid: int, port: int, script: Path, connections: int, seconds: float) -> Taken:
    before, started_at = harness.usage(pid), time.monotonic()
    load = harness.load(port, script, connections, seconds)
    wall = time.monotonic() - started_at
    after = harness.usage(pid)
    if load.trouble:
        print(f"   ! {load.trouble}", file=sys.stderr)
    cores = (after.cpu_seconds - before.cpu_seconds) / wall
    return Taken(load.posts / wall, cores, after.resident_kib / 1024)


def calibrate(
    pid: int, port: int, directory: Path, seconds: float, rounds: int
) -> Model:
    scripts = [harness.wrk_script(directory, n) for n in (_FEW, _MANY)]
    for script in scripts:
        harness.load(port, script, 32, 1)
    # Before the bodies of many clients have been in memory at once.
    without = harness.usage(pid).resident_kib
    clients = [
        socket.create_connection(("127.0.0.1", port)) for _ in range(_IDLE_CONNECTIONS)
    ]
    time.sleep(1)
    each = (harness.usage(pid).resident_kib - without) / len(clients)
    for client in clients:
        client.close()
    costs: list[list[float]] = [[], []]
    for _ in range(rounds):
        for found, script in zip(costs, scripts, strict=True):
            taken = take(pid, port, script, _BUSY_CONNECTIONS, seconds)
            found.append(taken.cores * 1e6 / taken.posts_per_second)
    few, many = map(harness.median, costs)
    frame_us = (many - few) / (_MANY - _FEW)
    alone = take(pid, port, scripts[0], 1, seconds)
    alone_us = alone.cores * 1e6 / alone.posts_per_second
    first_us = frame_us * _FEW
    return Model(alone_us - first_us, few - first_us, frame_us, without / 1024, each)


def start(
    stack: ExitStack, directory: Path, workers: int, sink_port: int
) -> tuple[int, int]:
    """The process of a logiss, and its port."""
    port = harness.free_port()
    variables = harness.environment(port, sink_port)
    started = stack.enter_context(
        harness.process(
            LOGISS,
            port,
            directory / f"{workers}.log",
            **variables,
            WEB_CONCURRENCY=str(workers),
        )
    )
    time.sleep(2)
    return started.pid, port


def check(size: Size, model: Model, taken: Sequence[Taken]) -> bool:
    """Print it, and say whether the model is right within a half."""
    rate = harness.median([each.posts_per_second for each in taken])
    cores = harness.median([each.cores for each in taken])
    memory = max(each.memory_mib for each in taken)
    said_cores = model.cores(rate, size.frames)
    # With workers there is a parent, which is about as large.
    processes = size.workers + (size.workers > 1)
    said_mib = model.memory_mib(processes, size.connections)
    print(
        f"{size.workers:7} {size.connections:11} {size.frames:6} {rate:7.0f}"
        f" {said_cores:9.2f} {cores:8.2f} {cores / said_cores:9.2f}"
        f" {said_mib:9.0f} {memory:8.0f} {memory / said_mib:9.2f}"
    )
    quotients = cores / said_cores, memory / said_mib
    return all(1 / WRONG < quotient < WRONG for quotient in quotients)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    try:
        harness.need("gcc", "wrk")
    except harness.Missing as e:
        print(f"benchmark: {e}", file=sys.stderr)
        return 1
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_DESCRIPTORS, hard), hard))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sink_port = harness.free_port()
        sink = [harness.compiled(directory, "sink"), str(sink_port)]
        stack.enter_context(harness.process(sink, sink_port, directory / "sink.log"))
        with ExitStack() as first:
            pid, port = start(first, directory, 1, sink_port)
            model = calibrate(pid, port, directory, arguments.seconds, arguments.rounds)
        for key, value in harness.machine().items():
            print(f"{key}: {value}")
        print(
            f"a POST {model.alone_us:.1f} us, among many {model.busy_us:.1f} us,"
            f" a frame {model.frame_us:.3f} us,"
            f" a worker {model.worker_mib:.0f} MiB,"
            f" a connection {model.connection_kib:.1f} KiB"
        )
        print(
            "workers connections frames  POST/s     cores of which   measured/"
            "       MiB of which   measured/\n"
            "                                    by model measured     model"
            "  by model measured     model"
        )
        for size in SIZES:
            with ExitStack() as one:
                pid, port = start(one, directory, size.workers, sink_port)
                script = paced_script(directory, size)
                harness.load(port, script, size.connections, 2)
                taken = [
                    take(pid, port, script, size.connections, arguments.seconds)
                    for _ in range(arguments.rounds)
                ]
                if not check(size, model, taken):
                    print("benchmark: the model is wrong here", file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
