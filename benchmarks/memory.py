"""
What logiss holds in memory: idle, under load, after a million posts, and for ten
thousand idle connections; and what its start costs.

    python benchmarks/memory.py [--posts 1000000] [--connections 10000]
"""

import argparse
import os
import resource
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import harness
import posts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=10_000)
    arguments = parser.parse_args()
    try:
        harness.need("gcc", "wrk")
    except harness.Missing as e:
        print(f"benchmark: {e}", file=sys.stderr)
        return 1
    wanted = arguments.connections + 1_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, _hard_limit())))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        *_, fresh, server = posts.start_servers(
            stack, directory, ["logiss", "logiss"], []
        )
        print(f"CPU from start to listening: {_cpu(server.pid):.2f} s")
        time.sleep(1)
        print(f"idle: {_mib(server.pid):.1f} MiB")
        _under_load(server, directory)
        _after_many(server, directory, arguments.posts)
        # Not on the one that has free memory left from the load.
        _idle_connections(fresh, arguments.connections)
    return 0


def _hard_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _cpu(pid: int) -> float:
    return harness.usage(pid).cpu_seconds


def _mib(pid: int) -> float:
    return harness.usage(pid).resident_kib / 1024


def _under_load(server: posts.Server, directory: Path) -> None:
    harness.load(server.port, harness.wrk_script(directory, 500), 32, 10)
    print(f"after 500 frames a post, 32 connections: {_mib(server.pid):.1f} MiB")


def _after_many(server: posts.Server, directory: Path, count: int) -> None:
    script = harness.wrk_script(directory, 1)
    harness.load(server.port, script, 32, 2)
    done, start = 0, _mib(server.pid)
    least = most = start
    while done < count:
        done += harness.load(server.port, script, 32, 5).posts
        now = _mib(server.pid)
        least, most = min(least, now), max(most, now)
    print(f"over {done} posts: from {start:.1f}, {least:.1f} to {most:.1f} MiB")


def _idle_connections(server: posts.Server, count: int) -> None:
    before = harness.usage(server.pid).resident_kib
    request = b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n"
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", server.port), 10)
        client.sendall(request)
        client.recv(1 << 12)
        clients.append(client)
    grown = harness.usage(server.pid).resident_kib - before
    print(f"{count} idle connections: {grown / count:.1f} KiB each")
    for client in clients:
        client.close()


if __name__ == "__main__":
    os.environ.setdefault("REQUEST_LOG", "all")
    sys.exit(main())
