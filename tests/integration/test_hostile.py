"""
A thousand bad clients at once, and what one healthy client, the memory and the drain
notice of them.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest

from tests.front import framed, message, request
from tests.integration.beside import (
    Healthy,
    open_files,
    percentile,
    wait_until_idle,
    watching,
)
from tests.integration.daemons import (
    PATIENCE_SECONDS,
    BlockingClient,
    Daemon,
    Receiver,
    receiving,
    running,
    wait_for,
)
from tests.integration.hostile_clients import MIB, hostile

INFLIGHT_MIB = 64
#: What there may be above ``MAX_INFLIGHT_BYTES``.
MORE_MIB = 100
#: What two p99 may differ by whatever they are: the reactor's other work, the machine.
GRAIN_SECONDS = 0.005
ROUND_SECONDS = 3.0
MEMORY_SECONDS = 4.0
BUSY_SECONDS = 6.0
#: Kinds that have logiss do as much as it can.
BUSY = ["deaf", "pipelined", "gzip-bombs", "large-bodies", "held-bodies"]
#: What a drain may take above ``DELIVERY_TIMEOUT``: the second in which clients read
#: their last answers, and one more.
DRAIN_SECONDS_MORE = 2.0
DELIVERY_SECONDS = 3.0
#: What a busy machine may add to that.
NOISE_SECONDS = 5.0


@contextmanager
def house(workdir: Path, **variables: str) -> Iterator[tuple[Daemon, Receiver]]:
    """A logiss with little room for bodies, and its backend."""
    with (
        receiving() as receiver,
        running(
            "twist",
            workdir,
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            MAX_INFLIGHT_BYTES=f"{INFLIGHT_MIB}MiB",
            DELIVERY_TIMEOUT=f"{DELIVERY_SECONDS}",
            REQUEST_LOG="errors",
            **variables,
        ) as daemon,
    ):
        daemon.wait_until_usable()
        yield daemon, receiver


def test_slow_senders(tmp_path: Path) -> None:
    """
    Beside 1,000 clients that dribble their headers or bodies, or do not read their
    answers, each post of a healthy one succeeds, and its p99 is no worse than twice
    what it is without them.
    """
    alone, beside = [], []
    with house(tmp_path) as (daemon, receiver):
        healthy = Healthy(daemon.port)
        healthy.post_for(1.0)
        files = open_files(daemon)
        for _ in range(3):
            # What the last ones have left behind is not there without them.
            wait_until_idle(daemon, files)
            alone.append(percentile(healthy.post_for(ROUND_SECONDS), 0.99))
            with hostile("slow", daemon.port) as crowd:
                # Until those that do not read have got what they asked for at first.
                healthy.post_for(2.0)
                beside.append(percentile(healthy.post_for(ROUND_SECONDS), 0.99))
                happened = crowd.stop()
                assert happened.connects >= 1000
        assert set(healthy.codes) == {200}
        wait_for(lambda: healthy.missing(receiver) == 0)
        healthy.close()
    assert median(beside) <= 2 * median(alone) + GRAIN_SECONDS, (alone, beside)


@pytest.mark.parametrize("kind", ["slow", "silent", "storm", "many-fields"])
def test_memory(kind: str, tmp_path: Path) -> None:
    """The process holds no more than MAX_INFLIGHT_BYTES and 100 MiB."""
    with house(tmp_path) as (daemon, _), watching(daemon) as watch:
        with hostile(kind, daemon.port) as crowd:
            time.sleep(MEMORY_SECONDS)
            happened = crowd.stop()
        assert daemon.process.poll() is None
        assert happened.connects >= 1000
        assert watch.peak_mib < INFLIGHT_MIB + MORE_MIB


@pytest.mark.parametrize("kind", BUSY)
def test_memory_when_busy(kind: str, tmp_path: Path) -> None:
    """Nor does it when they send as much as they can."""
    with (
        house(tmp_path) as (daemon, _),
        watching(daemon) as watch,
        hostile(kind, daemon.port, connected=False),
    ):
        deadline = time.monotonic() + BUSY_SECONDS
        while time.monotonic() < deadline and not watch.ended:
            time.sleep(0.1)
        assert watch.peak_mib < INFLIGHT_MIB + MORE_MIB
        assert daemon.process.poll() is None


def drained(daemon: Daemon) -> float:
    """Have it drain; the seconds that it took."""
    start = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("channel", "kind", "connections"),
    [
        ("fast", "slow", 10_000),
        ("fast", "storm", 10_000),
        ("fast", "dribbled-bodies", 10_000),
        ("fast", "silent", 600),
        ("stock", "dribbled-bodies", 600),
    ],
)
def test_drain(channel: str, kind: str, connections: int, tmp_path: Path) -> None:
    """
    With 1,000 of them connected, or with no room for all of them, the drain ends on
    time, with exit code 0, and what was answered 200 has arrived.
    """
    variables = {"HTTP_CHANNEL": channel, "MAX_CONNECTIONS": f"{connections}"}
    with house(tmp_path, **variables) as (daemon, receiver):
        healthy = Healthy(daemon.port)
        with hostile(kind, daemon.port):
            posting = threading.Thread(target=healthy.post_until_refused, daemon=True)
            posting.start()
            wait_for(lambda: len(healthy.delivered) > 50)
            took = drained(daemon)
        posting.join(PATIENCE_SECONDS)
        assert set(healthy.codes) <= {200, 503, None}
        wait_for(lambda: healthy.missing(receiver) == 0)
        healthy.close()
    # No post waits for its delivery, so that there is time to spare.
    assert took < DELIVERY_SECONDS + DRAIN_SECONDS_MORE


@pytest.mark.parametrize("kind", BUSY)
def test_drain_when_busy(kind: str, tmp_path: Path) -> None:
    """Nor does the drain take longer when they send as much as they can."""
    with (
        house(tmp_path) as (daemon, _),
        watching(daemon) as watch,
        hostile(kind, daemon.port, connected=False),
    ):
        time.sleep(BUSY_SECONDS)
        assert not watch.ended
        took = drained(daemon)
    assert took < DELIVERY_SECONDS + DRAIN_SECONDS_MORE


@pytest.mark.parametrize("channel", ["fast", "stock"])
def test_slow_upload(channel: str, tmp_path: Path) -> None:
    """
    A body that goes on coming while the drain waits for other posts is cut off at its
    deadline, without an answer, and nothing of it is forwarded.
    """
    with (
        receiving(receive_buffer_bytes=4096) as receiver,
        running(
            "twist",
            tmp_path,
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            DELIVERY_TIMEOUT=f"{DELIVERY_SECONDS}",
            HTTP_CHANNEL=channel,
        ) as daemon,
    ):
        daemon.wait_until_usable()
        receiver.reading.clear()
        pending, upload = BlockingClient(daemon.port), BlockingClient(daemon.port)
        # More than the kernels of both ends take: it cannot be delivered.
        pending.send(request(framed(*[message(b"x" * 100_000)] * 120)))
        octets = request(framed(message(b"uploaded")), headers={"Content-Length": None})
        head = octets.partition(b"\r\n\r\n")[0] + b"\r\n"
        upload.send(head + b"Content-Length: %d\r\n\r\n" % MIB)
        piece = framed(message(b"uploaded".ljust(2000)))
        time.sleep(0.5)
        start = time.monotonic()
        daemon.signal(signal.SIGTERM)
        while not upload.is_cut_off():
            try:
                upload.send(piece)
            except OSError:
                break
            time.sleep(0.05)
        assert daemon.wait() == 0
        took = time.monotonic() - start
        answer = pending.answer()
        assert answer is not None
        assert answer.code == 504
        pending.close()
        upload.close()
        receiver.reading.set()
        assert not any(b"uploaded" in frame for frame in receiver.frames)
    # It has 30 s of its own.
    assert took < DELIVERY_SECONDS + DRAIN_SECONDS_MORE + NOISE_SECONDS
