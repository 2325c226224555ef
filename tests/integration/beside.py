"""A healthy client beside hostile ones: what it notices, and what logiss holds."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.front import framed, message, request, stamped
from tests.integration.daemons import (
    PATIENCE_SECONDS,
    BlockingClient,
    Daemon,
    Receiver,
)

#: A logiss that holds more than this is ended before the machine is.
RESIDENT_MIB_MAX = 2048
_PAUSE_SECONDS = 0.004


class Healthy:
    """
    One that posts on one connection, a message at a time, at ease.

    @ivar codes: how often each status came; None where the connection ended.
    @ivar seconds: what each post took.
    @ivar delivered: the messages that were answered 200.
    """

    def __init__(self, port: int) -> None:
        self.codes: Counter[int | None] = Counter()
        self.seconds: list[float] = []
        self.delivered: list[bytes] = []
        self._client = BlockingClient(port)

    def post(self) -> None:
        text = b"healthy %d." % sum(self.codes.values())
        start = time.perf_counter()
        self._client.send(request(framed(message(text))))
        answer = self._client.answer()
        self.seconds.append(time.perf_counter() - start)
        self.codes[answer.code if answer else None] += 1
        if answer is not None and answer.code == 200:
            self.delivered.append(text)

    def post_for(self, seconds: float) -> list[float]:
        """Post for so long; what each post took."""
        first = len(self.seconds)
        end = time.monotonic() + seconds
        while time.monotonic() < end and None not in self.codes:
            self.post()
            time.sleep(_PAUSE_SECONDS)
        return self.seconds[first:]

    def post_until_refused(self) -> None:
        """Post until logiss drains."""
        try:
            while not {503, None} & set(self.codes):
                self.post()
                time.sleep(_PAUSE_SECONDS)
        except OSError:
            self.codes[None] += 1

    def missing(self, receiver: Receiver) -> int:
        """How many were answered 200 and have not arrived once."""
        arrived = Counter(receiver.frames)
        return sum(
            arrived[stamped(text, address="127.0.0.1")] != 1 for text in self.delivered
        )

    def close(self) -> None:
        self._client.close()


def percentile(seconds: list[float], which: float) -> float:
    """The smallest of `seconds` that `which` of 1 do not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * which))]


def _cpu_seconds(pid: int) -> float:
    """What a process has had of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def wait_until_idle(daemon: Daemon, files: int) -> None:
    """Wait until a logiss has only so many `files` open, and nothing more to do."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    used = 1.0
    while used > 0.05 or open_files(daemon) > files:
        assert time.monotonic() < deadline, "it does not come to rest"
        before = _cpu_seconds(daemon.process.pid)
        time.sleep(0.5)
        used = _cpu_seconds(daemon.process.pid) - before


def memory_mib(pid: int, key: str) -> float:
    """Of a process: ``VmRSS``, or ``VmHWM``, the most that it was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


class Watch:
    """
    Looks at the memory of a process.

    @ivar peak_mib: the most that it held.
    @ivar ended: whether it held so much that it was ended.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._stopping = threading.Event()
        self.peak_mib = 0.0
        self.ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pid = self._daemon.process.pid
        try:
            while not self._stopping.wait(0.05):
                self.peak_mib = memory_mib(pid, "VmHWM")
                if memory_mib(pid, "VmRSS") > RESIDENT_MIB_MAX:
                    self.ended = True
                    self._daemon.process.kill()
        except (FileNotFoundError, ProcessLookupError):
            return

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


@contextmanager
def watching(daemon: Daemon) -> Iterator[Watch]:
    watch = Watch(daemon)
    try:
        yield watch
    finally:
        watch.stop()
