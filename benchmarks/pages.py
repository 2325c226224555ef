"""
What open status pages cost the posts of a logiss.

    python benchmarks/pages.py [--pages 100] [--seconds 8] [--rounds 6]
        [--connections 32] [--frames 50] [--idle 15]

Two logiss in one run: one without ADMIN_PORT, and one with it, which takes the same
load from wrk with no page and with many, in turn; the order of a round is turned
around from one to the next. The pages are read by a process of its own. Then all are
left idle, and their CPU time is read.

Needs gcc and wrk. Installs nothing.
"""

import argparse
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import harness
from attrs import frozen

LOGISS = [str(harness.BIN / "twist"), "logiss"]
OFF, NONE, MANY = "ADMIN_PORT off", "no page", "pages"
#: An event ends like this; the first of them has come when it has.
_EVENT_END = b"\n\n"
_SETTLE_SECONDS = 1.0


@frozen
class Row:
    """What one round has cost."""

    cpu_us_per_post: float
    load: harness.Load


@frozen
class Servers:
    """
    @ivar pids, ports: with the operators' port off and on.
    @ivar admin_port: of the one that has it.
    """

    pids: dict[bool, int]
    ports: dict[bool, int]
    admin_port: int


# the pages


def read_pages(port: int, count: int) -> None:
    """
    Open `count` pages and read what they are sent until standard input ends. Says on
    standard output when all have begun, and at the end how many events came to the
    page that had the fewest.
    """
    events: dict[socket.socket, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        for _ in range(count):
            page = socket.create_connection(("127.0.0.1", port))
            page.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            selector.register(page, selectors.EVENT_READ)
            events[page] = 0
        begun = 0
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    print(min(events.values()), flush=True)
                    return
                assert isinstance(key.fileobj, socket.socket)
                octets = key.fileobj.recv(1 << 18)
                if not octets:
                    sys.exit("logiss has closed a page")
                begun += not events[key.fileobj]
                events[key.fileobj] += octets.count(_EVENT_END)
                if not events[key.fileobj]:
                    begun -= 1
                elif begun == count:
                    print("begun", flush=True)
                    begun += 1


@contextmanager
def pages(port: int, count: int) -> Iterator[None]:
    """`count` open pages, that are sent something each second."""
    if not count:
        yield
        return
    reader = subprocess.Popen(
        [sys.executable, __file__, "--read", str(port), "--pages", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    try:
        assert reader.stdout.readline() == "begun\n", "the pages did not open"
        begin = time.monotonic()
        yield
        passed = time.monotonic() - begin
        reader.stdin.close()
        events = int(reader.stdout.readline())
        if events < passed - 2:
            print(f"   ! a page had {events} events in {passed:.0f} s", file=sys.stderr)
    finally:
        reader.kill()
        reader.wait()


# the servers


def start_servers(stack: ExitStack, directory: Path) -> Servers:
    sink_port = harness.free_port()
    sink = harness.compiled(directory, "sink")
    log = directory / "sink.log"
    stack.enter_context(harness.process([sink, str(sink_port)], sink_port, log))
    admin_port = harness.free_port()
    pids, ports = {}, {}
    for has_admin in (False, True):
        ports[has_admin] = port = harness.free_port()
        variables = harness.environment(port, sink_port)
        if has_admin:
            variables["ADMIN_PORT"] = str(admin_port)
        log = directory / f"logiss-{has_admin}.log"
        started = harness.process(LOGISS, port, log, **variables)
        pids[has_admin] = stack.enter_context(started).pid
    return Servers(pids, ports, admin_port)


def variants(arguments: argparse.Namespace) -> dict[str, tuple[bool, int]]:
    """What is compared: whether there is ADMIN_PORT, and how many pages."""
    return {
        OFF: (False, 0),
        NONE: (True, 0),
        f"{arguments.pages} {MANY}": (True, arguments.pages),
    }


def measure(
    servers: Servers,
    has_admin: bool,
    count: int,
    script: Path,
    arguments: argparse.Namespace,
) -> Row:
    pid, port = servers.pids[has_admin], servers.ports[has_admin]
    with pages(servers.admin_port, count):
        time.sleep(_SETTLE_SECONDS)
        before = harness.usage(pid)
        load = harness.load(port, script, arguments.connections, arguments.seconds)
        after = harness.usage(pid)
    if load.trouble:
        print(f"   ! {load.trouble}", file=sys.stderr)
    return Row((after.cpu_seconds - before.cpu_seconds) * 1e6 / load.posts, load)


def idle(servers: Servers, has_admin: bool, count: int, seconds: float) -> float:
    """Of one processor, what a logiss uses that nobody posts to, in percent."""
    pid = servers.pids[has_admin]
    with pages(servers.admin_port, count):
        time.sleep(_SETTLE_SECONDS)
        before, begin = harness.usage(pid), time.monotonic()
        time.sleep(seconds)
        used = harness.usage(pid).cpu_seconds - before.cpu_seconds
        return 100 * used / (time.monotonic() - begin)


def run(arguments: argparse.Namespace) -> None:
    for key, value in harness.machine().items():
        print(f"{key}: {value}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = start_servers(stack, directory)
        script = harness.wrk_script(directory, arguments.frames)
        compared = variants(arguments)
        for port in servers.ports.values():
            harness.load(port, script, arguments.connections, 2)
        rows: dict[str, list[Row]] = {name: [] for name in compared}
        for i in range(arguments.rounds):
            order = list(compared.items())[:: -1 if i % 2 else 1]
            for name, (has_admin, count) in order:
                row = measure(servers, has_admin, count, script, arguments)
                rows[name].append(row)
        print_loads(rows)
        print()
        print(f"{'idle':14} {'CPU %':>6}")
        for name, (has_admin, count) in {**compared, "1 page": (True, 1)}.items():
            used = idle(servers, has_admin, count, arguments.idle)
            print(f"{name:14} {used:6.2f}")


def print_loads(rows: dict[str, list[Row]]) -> None:
    print(
        f"{'':14} {'POST/s':>8} {'us CPU/POST':>12} {'p50 ms':>8} {'p99 ms':>8}"
        f"   x of no page: {'POST/s':>7} {'CPU':>7} {'p50':>7} {'p99':>7}"
    )
    for name, own in rows.items():
        figures = [_figures(row) for row in own]
        # Of each round by itself: whatever slows the machine slows both.
        ratios = [
            [mine / base for mine, base in zip(f, _figures(none), strict=True)]
            for f, none in zip(figures, rows[NONE], strict=True)
        ]
        rate, cpu, p50, p99 = _medians(figures)
        print(
            f"{name:14} {rate:8.0f} {cpu:12.1f} {p50:8.2f} {p99:8.2f}"
            + " " * 17
            + " ".join(f"{ratio:7.3f}" for ratio in _medians(ratios))
        )


def _figures(row: Row) -> list[float]:
    load = row.load
    return [load.posts_per_second, row.cpu_us_per_post, load.p50_ms, load.p99_ms]


def _medians(lines: list[list[float]]) -> list[float]:
    return [harness.median(column) for column in zip(*lines, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--idle", type=float, default=15)
    parser.add_argument("--read", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read_pages(arguments.read, arguments.pages)
        return 0
    try:
        harness.need("gcc", "wrk")
        run(arguments)
    except harness.Missing as e:
        print(f"benchmark: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
