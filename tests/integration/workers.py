"""A logiss of several workers, as its log and its clients see it."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.front import framed, message, request
from tests.integration.daemons import BlockingClient, Daemon, wait_for
from tests.l2met_grammar import parse

#: Runs `logiss run` with other bounds of the room `workers`.
_PATIENT_NO_MORE = """
from logiss import workers
workers.SILENT_SECONDS, workers.PAUSE_SECONDS = 4, 0.05
from logiss.__main__ import main
main(["run"])
"""
SHORTER = shlex.join([sys.executable, "-c", _PATIENT_NO_MORE])


class Crew:
    """
    The workers of a daemon.

    @ivar port: where they take posts.
    """

    def __init__(self, daemon: Daemon, count: int = 2) -> None:
        self.daemon = daemon
        self.wait_for_prepared(count)
        line = daemon.logged(ns="workers", at="listen")[0]
        self.port = int(line["port"])

    def wait_for_prepared(self, count: int) -> None:
        """Wait until so many have ever taken posts, and connected to the backend."""
        wait_for(lambda: self._dead() or len(self.accepting()) >= count)
        wait_for(lambda: len(self.connected()) >= 4 * count)

    def _dead(self) -> bool:
        if self.daemon.process.poll() is not None:
            assert self.daemon.process.stderr is not None
            raise AssertionError(self.daemon.process.stderr.read().decode())
        return False

    def accepting(self) -> list[str]:
        """The worker of each line that says that it does."""
        found = self.daemon.logged(ns="http", at="listen")
        return [line["worker"] for line in found]

    def connected(self) -> list[str]:
        success = {"count#log-iss.forwarder.connect.success": "1"}
        return [line["worker"] for line in self.daemon.logged(**success)]

    def said(self, worker: int, **pairs: str) -> list[dict[str, str]]:
        return self.daemon.logged(worker=str(worker), **pairs)

    def pids(self) -> dict[int, int]:
        """The processes that were started last, by the numbers of their workers."""
        started = self.daemon.logged(ns="workers", at="start")
        return {int(line["number"]): int(line["pid"]) for line in started}

    def exits(self) -> list[tuple[int, int]]:
        """Process and exit code of each that has ended."""
        ended = self.daemon.logged(ns="workers", at="exit")
        return [(int(line["pid"]), int(line["code"])) for line in ended]

    def falls(self) -> list[dict[str, str]]:
        return self.daemon.logged(**{"count#log-iss.workers.fallen": "1"})

    def post(self, text: bytes) -> int:
        """The answer to a post of one message, over a connection of its own."""
        client = BlockingClient(self.port)
        client.send(request(framed(message(text))))
        answer = client.answer()
        client.close()
        assert answer is not None
        return answer.code

    def wait_for_all_to_serve(self) -> None:
        """Post until each has been met."""
        for i in range(500):
            assert self.post(b"met-%d" % i) == 200
            if all(self.served(number) for number in self.pids()):
                return
        raise AssertionError("one gets no posts")

    def served(self, worker: int) -> list[dict[str, str]]:
        return self.said(worker, **{"count#log-iss.http.logs.post.success": "1"})


def is_running(pid: int) -> bool:
    """Whether it is there, and no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@contextmanager
def ending(daemon: Daemon) -> Iterator[None]:
    """None of its workers outlives the block, whatever happens in it."""
    try:
        yield
    finally:
        text = b"".join(daemon._out).decode(errors="replace")
        for line in text.split("\n")[:-1]:
            with suppress(Exception):
                pairs = parse(line)
                if pairs.get("ns") == "workers" and pairs.get("at") == "start":
                    with suppress(ProcessLookupError):
                        if _is_ours(int(pairs["pid"])):
                            os.kill(int(pairs["pid"]), signal.SIGKILL)


def _is_ours(pid: int) -> bool:
    with suppress(OSError):
        return b"logiss" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class Load:
    """
    Clients that post numbered messages, one at a time each, until they are told to
    stop; who has no answer comes again over another connection, with the next message.

    @ivar codes: the answer to each message; None where there was none.
    @ivar lost: for each client the messages without an answer.
    """

    def __init__(self, port: int, clients: int) -> None:
        self.codes: dict[bytes, int | None] = {}
        self.lost: list[list[bytes]] = [[] for _ in range(clients)]
        self._is_over = threading.Event()
        self._port = port
        self._threads = [
            threading.Thread(target=self._run, args=[i], daemon=True)
            for i in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        client: BlockingClient | None = None
        i = 0
        while not self._is_over.is_set():
            text, i = b"%d-%d." % (number, i), i + 1
            headers: dict[str, str | None] = {"X-Request-Id": text.decode()}
            try:
                client = client or BlockingClient(self._port)
            except OSError:
                continue
            try:
                client.send(request(framed(message(text)), headers=headers))
                answer = client.answer()
            except OSError:
                answer = None
            self.codes[text] = answer.code if answer else None
            if answer is None or answer.headers.get("connection") == "close":
                client.close()
                client = None
            if answer is None:
                self.lost[number].append(text)
        if client is not None:
            client.close()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
