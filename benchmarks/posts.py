"""
CPU time per POST of logiss, beside a floor that only moves the bytes.

    python benchmarks/posts.py [--seconds 4] [--rounds 3] [--connections 32]
        [--frames 1 --frames 50 ...] [--variant stock] [--variant pure]
        [--variant tls] [--variant sent] [--variant relp]
        [--variant relp-256] [--variant relp-512]
        [--variant dedupe] [--frame-ids]
        [--peer NAME=COMMAND] [--plot FILE.svg]

Each server in turn takes the same load from wrk, round after round; the figures are
medians over the rounds. A peer is any command that starts a log-iss in the
foreground: it gets PORT, FORWARD_DEST, TOKEN_MAP, DEPLOY and HMAC_KEY.

With `--frame-ids` each post has a Logplex-Frame-Id of its own; the variant `dedupe`
keeps them in a redis-server that is started for it.

Needs gcc and wrk, `dedupe` also redis-server. Installs nothing.
"""

import argparse
import importlib.util
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import harness
from attrs import frozen

LOGISS = [str(harness.BIN / "twist"), "logiss"]
VARIANTS = {
    "logiss": {},
    "stock": {"HTTP_CHANNEL": "stock"},
    "pure": {"LOGISS_PURE": "1"},
    "tls": {},
    "sent": {"DELIVERY": "sent"},
    "relp": {},
    "relp-256": {"RELP_WINDOW": "256"},
    "relp-512": {"RELP_WINDOW": "512"},
    "dedupe": {"DEDUPE_REDIS": "1"},
}


class Server(NamedTuple):
    """A running server."""

    name: str
    port: int
    pid: int


@frozen
class Row:
    """What one round of a load has cost a server."""

    cpu_us_per_post: float
    load: harness.Load
    resident_mib: float


Results = dict[tuple[int, str], list[Row]]


def start_servers(
    stack: ExitStack, directory: Path, variants: list[str], peers: list[str]
) -> list[Server]:
    """The floor, the peers, and logiss in each variant; all end with `stack`."""
    sink_port = harness.free_port()
    sink = harness.compiled(directory, "sink")
    stack.enter_context(
        harness.process([sink, str(sink_port)], sink_port, directory / "sink.log")
    )
    servers = []

    def start(name: str, command: list[str], port: int, **variables: str) -> None:
        started = stack.enter_context(
            harness.process(command, port, directory / f"{name}.log", **variables)
        )
        servers.append(Server(name, port, started.pid))

    port = harness.free_port()
    floor = harness.compiled(directory, "floor")
    start("floor", [floor, str(port), str(sink_port)], port)
    for peer in peers:
        name, _, command = peer.partition("=")
        port = harness.free_port()
        start(name, shlex.split(command), port, **harness.environment(port, sink_port))
    for name in variants:
        port = harness.free_port()
        variables = harness.environment(port, sink_port) | VARIANTS[name]
        if name == "tls":
            tls_port, pem = stack.enter_context(harness.tls_sink(directory))
            variables |= harness.environment(port, tls_port, "localhost")
            variables["PEMFILE"] = str(pem)
        elif name.startswith("relp"):
            relp_port = harness.free_port()
            relp_sink = [harness.compiled(directory, "relp_sink"), str(relp_port)]
            log = directory / "relp_sink.log"
            stack.enter_context(harness.process(relp_sink, relp_port, log))
            variables |= harness.environment(port, relp_port, "relp://127.0.0.1")
        elif name == "dedupe":
            redis_port = harness.free_port()
            variables["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}"
            redis = ["redis-server", "--port", str(redis_port), "--save", ""]
            log = directory / "redis.log"
            stack.enter_context(harness.process(redis, redis_port, log))
        start(name, LOGISS, port, **variables)
    return servers


def measure(server: Server, script: Path, connections: int, seconds: float) -> Row:
    before = harness.usage(server.pid)
    load = harness.load(server.port, script, connections, seconds)
    after = harness.usage(server.pid)
    if load.trouble:
        print(f"   ! {server.name}: {load.trouble}", file=sys.stderr)
    cpu_us = (after.cpu_seconds - before.cpu_seconds) * 1e6
    return Row(cpu_us / load.posts, load, after.resident_kib / 1024)


def run(arguments: argparse.Namespace) -> Results:
    results: Results = defaultdict(list)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        variants = ["logiss", *arguments.variant]
        servers = start_servers(stack, directory, variants, arguments.peer)
        scripts = {
            n: harness.wrk_script(directory, n, arguments.frame_ids)
            for n in arguments.frames
        }
        time.sleep(1)
        for server in servers:
            for script in scripts.values():
                harness.load(server.port, script, arguments.connections, 1)
        for _ in range(arguments.rounds):
            for frames, script in scripts.items():
                for server in servers:
                    results[frames, server.name].append(
                        measure(
                            server, script, arguments.connections, arguments.seconds
                        )
                    )
    return results


def cpu_us(rows: list[Row]) -> float:
    return harness.median([row.cpu_us_per_post for row in rows])


def print_table(results: Results) -> None:
    for key, value in harness.machine().items():
        print(f"{key}: {value}")
    print(
        f"{'frames':>6} {'server':10} {'us CPU/POST':>12} {'x floor':>8}"
        f" {'POST/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'RSS MiB':>8}"
    )
    for (frames, name), rows in results.items():
        floor = cpu_us(results[frames, "floor"])
        loads = [row.load for row in rows]
        print(
            f"{frames:6} {name:10} {cpu_us(rows):12.1f} {cpu_us(rows) / floor:8.2f}"
            f" {harness.median([x.posts_per_second for x in loads]):9.0f}"
            f" {harness.median([x.p50_ms for x in loads]):8.2f}"
            f" {harness.median([x.p99_ms for x in loads]):8.2f}"
            f" {rows[-1].resident_mib:8.1f}"
        )


def plot(results: Results, path: str) -> None:
    """CPU time per POST over frames per POST, a line for each server."""
    import pygal

    chart = pygal.XY(
        title="CPU time per POST",
        x_title="frames per POST",
        y_title="microseconds",
        logarithmic=True,
        x_labels=sorted({frames for frames, _ in results}),
        js=[],
        disable_xml_declaration=False,
        style=pygal.style.CleanStyle,
        width=720,
        height=480,
    )
    for name in dict.fromkeys(name for _, name in results):
        points = [
            (frames, round(cpu_us(rows), 1))
            for (frames, server), rows in results.items()
            if server == name
        ]
        chart.add(name, points)
    chart.render_to_file(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--frames", type=int, action="append")
    parser.add_argument(
        "--variant", action="append", default=[], choices=[*VARIANTS][1:]
    )
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--frame-ids", action="store_true")
    parser.add_argument("--plot", metavar="FILE.svg")
    arguments = parser.parse_args()
    arguments.frames = arguments.frames or [1, 50, 500]
    try:
        harness.need("gcc", "wrk")
        if "tls" in arguments.variant:
            _need_package("trustme", "--variant tls")
        if "dedupe" in arguments.variant:
            harness.need("redis-server")
        if arguments.plot:
            _need_package("pygal", "--plot")
        results = run(arguments)
    except harness.Missing as e:
        print(f"benchmark: {e}", file=sys.stderr)
        return 1
    print_table(results)
    if arguments.plot:
        plot(results, arguments.plot)
    return 0


def _need_package(name: str, what_for: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise harness.Missing(
            f"not installed: {name}, for {what_for}. pip install -e '.[bench]'"
        )


if __name__ == "__main__":
    sys.exit(main())
