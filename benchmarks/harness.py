"""
Starts servers, loads them in turn and reads from /proc what it cost them.

What counts is the ratio of CPU time between servers that took the same load in the
same run: a drift of the machine hits all of them. Requests per second say little on
a machine that runs the load beside the server.
"""

import base64
import os
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
USER, TOKEN = "test", "token"
MESSAGE_BYTES = 150
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0


class Missing(Exception):
    """A tool that the benchmark needs is not installed."""


def need(*tools: str) -> None:
    """
    @raise Missing: names the tools and where to get them.
    """
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        names = " ".join(missing)
        raise Missing(f"not installed: {names}. On Debian: apt-get install {names}")


@frozen
class Usage:
    """What a process and its children have used so far."""

    cpu_seconds: float
    resident_kib: int


def usage(pid: int) -> Usage:
    """Of the tree of processes below `pid`; one that has just ended counts nothing."""
    ticks = resident = 0
    for member in _tree(pid):
        try:
            stat = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{member}/status").read_text()
        except OSError:
            continue
        ticks += int(stat[11]) + int(stat[12])
        found = re.search(r"VmRSS:\s+(\d+)", status)
        resident += int(found[1]) if found else 0
    return Usage(ticks / _TICKS_PER_SECOND, resident)


def _tree(root: int) -> set[int]:
    pids = {root}
    for pid in list(pids):
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                pids |= _tree(int(child))
    return pids


@frozen
class Load:
    """What wrk says of a load."""

    posts: int
    posts_per_second: float
    p50_ms: float
    p99_ms: float
    trouble: str


def load(port: int, script: Path, connections: int, seconds: float) -> Load:
    """Post as often as the server at `port` takes it."""
    printed = subprocess.run(
        [
            *("wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"),
            *("-s", str(script), f"http://127.0.0.1:{port}/logs"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    trouble = re.findall(r"(?:Non-2xx|Socket errors).*", printed)
    return Load(
        int(_found(r"(\d+) requests in", printed)),
        float(_found(r"Requests/sec:\s+([\d.]+)", printed)),
        _milliseconds(_found(r"(?m)^\s+50%\s+(\S+)", printed)),
        _milliseconds(_found(r"(?m)^\s+99%\s+(\S+)", printed)),
        "; ".join(trouble),
    )


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def post_body(frames: int) -> bytes:
    """`frames` octet-counted frames as log-shuttle sends them."""
    out = []
    for i in range(frames):
        text = (
            f"at=info method=GET path=/v1/things/{i * 7919 % 1000003} status=200"
            f" bytes={i * 104729 % 99991} "
        ) * 10
        frame = (
            "<190>1 2013-06-07T13:17:49.468822+00:00 host app"
            f" web.{i % 9 + 1} - - {text[:MESSAGE_BYTES]}\n"
        )
        out.append(f"{len(frame)} {frame}")
    return "".join(out).encode()


#: Another Logplex-Frame-Id for each request of each thread and run.
_FRAME_IDS = """
math.randomseed(os.time() + tonumber(tostring({}):match("0x(%x+)"), 16) % 2^31)
local run, n = math.random(0, 2^31 - 1), 0
local head, tail = nil, nil
request = function()
  if head == nil then
    wrk.headers["Logplex-Frame-Id"] = string.rep("f", 32)
    local whole = wrk.format()
    local from, to = whole:find(string.rep("f", 32), 1, true)
    head, tail = whole:sub(1, from - 1), whole:sub(to + 1)
  end
  n = n + 1
  return head .. string.format("%016x%016x", run, n) .. tail
end
"""


def wrk_script(directory: Path, frames: int, frame_ids: bool = False) -> Path:
    """
    A script for wrk that posts `frames` frames again and again.

    @param frame_ids: each post has one of its own.
    """
    body = directory / f"{frames}.body"
    body.write_bytes(post_body(frames))
    uuid = "34bc219c-983b-463e-a17d-3d34ee7db812"
    headers = {
        "Content-Type": "application/logplex-1",
        "Authorization": "Basic "
        + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode(),
        "Logplex-Drain-Token": f"d.{uuid}",
        "X-Request-ID": uuid,
    }
    lines = ['wrk.method = "POST"']
    lines += [f'wrk.headers["{k}"] = "{v}"' for k, v in headers.items()]
    lines += [f'local f = io.open("{body}", "rb")', 'wrk.body = f:read("*a")']
    script = directory / f"{frames}.lua"
    script.write_text("\n".join(lines) + "\n" + _FRAME_IDS * frame_ids)
    return script


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextmanager
def process(
    command: Sequence[str], port: int, log: Path, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that listens on `port`; its output goes to `log`."""
    with open(log, "wb") as out:
        started = subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=out, stderr=out
        )
    try:
        _wait_for(port, started, log)
        yield started
    finally:
        started.terminate()
        try:
            started.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _wait_for(port: int, started: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if started.poll() is not None:
            sys.exit(f"{started.args!r} ended before it listened:\n{log.read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{started.args!r}: nothing listens on port {port}")


def compiled(directory: Path, name: str) -> str:
    """The path of a C program of this folder."""
    binary = directory / name
    source = HERE / f"{name}.c"
    subprocess.run(["gcc", "-O2", "-pthread", "-w", "-o", binary, source], check=True)
    return str(binary)


def environment(
    port: int, forward_port: int, host: str = "127.0.0.1"
) -> dict[str, str]:
    """The variables of a log-iss, for ours and for peers."""
    return {
        "PORT": str(port),
        "LISTEN_HOST": "127.0.0.1",
        "FORWARD_DEST": f"{host}:{forward_port}",
        "TOKEN_MAP": f"{USER}:{TOKEN}",
        "DEPLOY": "bench",
        "HMAC_KEY": "bench",
    }


@contextmanager
def tls_sink(directory: Path) -> Iterator[tuple[int, Path]]:
    """A receiver over TLS that forgets what it reads; its port and a CA bundle."""
    import trustme

    authority = trustme.CA()
    pem = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def swallow(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as stream:
                while stream.recv(1 << 18):
                    pass
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=swallow, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], pem
    finally:
        listener.close()


def median(rows: Sequence[float]) -> float:
    return statistics.median(rows)


def machine() -> Mapping[str, str]:
    """What the figures were measured on."""
    cpus = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": f"{len(cpus)} x {cpus[0] if cpus else 'unknown'}",
        "kernel": os.uname().release,
        "Python": sys.version.split()[0],
    }
