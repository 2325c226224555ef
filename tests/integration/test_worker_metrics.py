"""What is said of several workers, while they fall and are replaced."""

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from logiss.findings import INFO
from tests.integration.daemons import (
    BlockingClient,
    Daemon,
    receiving,
    running,
    wait_for,
)
from tests.integration.test_prometheus import FRAME
from tests.test_deploy import promtool
from tests.test_exposition import Samples, samples

CLIENTS, ROUNDS = 16, 50
#: What findings about workers begin with.
ABOUT = "LogissWorker"
#: The ends of the names of what never becomes less.
COUNTS = ("_total", "_count", "_sum", "_bucket")
POST = (
    b"POST /logs HTTP/1.1\r\nHost: a\r\nContent-Type: application/logplex-1\r\n"
    b"Authorization: Basic dXNlcjphOnRva2Vu\r\nContent-Length: %d\r\n\r\n%b"
    % (len(FRAME), FRAME)
)


class Watched:
    """
    Looks at the metrics of a daemon.

    @ivar last: what they were; no counter is ever less than it was.
    """

    def __init__(self, daemon: Daemon) -> None:
        wait_for(lambda: daemon.logged(ns="admin", at="listen"))
        (admin,) = daemon.logged(ns="admin", at="listen")
        (logs,) = daemon.logged(ns="workers", at="listen")
        self._url = f"http://127.0.0.1:{admin['port']}"
        self.port = int(logs["port"])
        self.last: Samples = {}
        self.posted = 0

    def text(self, path: str = "/metrics") -> str:
        url = self._url + path
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310, ours
            return str(answer.read().decode())

    def look(self) -> Samples:
        now = samples(text_string_to_metric_families(self.text()))
        for name, before in self.last.items():
            if name[0].startswith("logiss") and name[0].endswith(COUNTS):
                assert now[name] >= before, (name, before, now.get(name))
        self.last = now
        return now

    def value(self, name: str, **labels: str) -> float:
        return self.look()[name, tuple(sorted(labels.items()))]

    def of_workers(self, name: str) -> list[float]:
        now = self.look()
        return [now[name, (("worker", number),)] for number in ("1", "2")]

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.text("/status.json"))
        return document

    def rows(self) -> list[dict[str, Any]]:
        return list(self.document()["workers"])

    def alerts(self) -> set[str]:
        """Those about workers. What a busy machine is slow at is another matter."""
        return {
            finding["alert"]
            for finding in self.document()["findings"]
            if finding["severity"] != INFO and finding["alert"].startswith(ABOUT)
        }

    def serve(self) -> bool:
        return self.of_workers("logiss_worker_up") == [1, 1]

    def all_told(self) -> bool:
        return self.value("logiss_posts_total", code="200") == self.posted

    def post(self) -> None:
        """From some clients at once, each by a connection of its own."""
        clients = [BlockingClient(self.port) for _ in range(CLIENTS)]
        for client in clients:
            client.send(POST)
        for client in clients:
            answer = client.answer()
            assert answer is not None
            assert answer.code == 200
            self.posted += 1
            client.close()


def test_sums(tmp_path: Path) -> None:
    """
    Metrics are the sums of both workers, and no count becomes smaller when one is
    killed, nor when all are replaced and the parent executes itself anew.
    """
    with receiving() as receiver:
        variables = {
            "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
            "ADMIN_PORT": "0",
            "WEB_CONCURRENCY": "2",
        }
        with running("python", tmp_path, **variables) as daemon:
            watched = Watched(daemon)
            wait_for(watched.serve)
            wait_for(lambda: _usable(watched) == 8)
            for _ in range(ROUNDS):
                watched.post()
                wait_for(watched.all_told)
                if all(watched.of_workers("logiss_worker_posts_total")):
                    break
            posts = watched.of_workers("logiss_worker_posts_total")
            assert all(posts)
            assert sum(posts) == watched.posted
            assert watched.value("logiss_frames_delivered_total") == watched.posted
            assert promtool("check", "metrics", stdin=watched.text()).strip() == ""

            (pid,) = (row["pid"] for row in watched.rows() if row["number"] == 1)
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: watched.of_workers("logiss_worker_falls_total") == [1, 0])
            wait_for(lambda: "LogissWorkerFallen" in watched.alerts())
            wait_for(watched.serve)
            assert watched.all_told()

            watched.post()
            before = {row["pid"] for row in watched.rows()}
            daemon.signal(signal.SIGHUP)
            wait_for(lambda: daemon.logged(ns="main", at="executed") and watched.look())
            wait_for(
                lambda: (
                    len(rows := watched.rows()) == 2
                    and not before & {row["pid"] for row in rows}
                )
            )
            wait_for(watched.all_told)
            watched.post()
            wait_for(watched.all_told)
            assert watched.of_workers("logiss_worker_falls_total") == [1, 0]
            assert watched.value("logiss_reloads_total", result="done") == 1
            # Workers begin with one connection each, and tell of them once a second.
            wait_for(lambda: _usable(watched) == 8)
            assert watched.alerts() <= {"LogissWorkerFallen"}
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0


def _usable(watched: Watched) -> float:
    return sum(
        value
        for (name, _), value in watched.look().items()
        if name == "logiss_backend_connected"
    )
