"""What the probes of deploy/kubernetes are told by a logiss with its configuration."""

import signal
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.front import framed, message, request
from tests.integration.daemons import (
    BlockingClient,
    Daemon,
    receiving,
    running,
    wait_for,
)
from tests.test_kubernetes import container, find, pod, variables

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
#: Who is not accepted waits for longer; who waits so long by chance asks again.
ANSWER_SECONDS = 0.5


class Kubelet:
    """Asks a daemon what the kubelet would ask it."""

    def __init__(self, daemon: Daemon) -> None:
        (admin,) = daemon.logged(ns="admin", at="listen")
        self._ports = {"http": daemon.port, "admin": int(admin["port"])}

    def told(self) -> list[int]:
        """The status that each probe gets, in order; 0 when there is no answer."""
        asked = [container("production")[name]["httpGet"] for name in PROBES]
        return [self._ask(each["port"], each["path"])[0] for each in asked]

    def metrics(self) -> str:
        """What Prometheus reads."""
        (endpoint,) = find("production", "ServiceMonitor")["spec"]["endpoints"]
        status, body = self._ask(endpoint["port"], endpoint["path"])
        assert status == 200
        return body.decode()

    def _ask(self, port: str, path: str) -> tuple[int, bytes]:
        client = HTTPConnection("127.0.0.1", self._ports[port], timeout=ANSWER_SECONDS)
        try:
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, answer.read()
        except (OSError, HTTPException):
            return 0, b""  # it answers too late, or has ended
        finally:
            client.close()


def test_probes(tmp_path: Path) -> None:
    """
    A full house gets no more clients and is not restarted; nor is a logiss without a
    backend, which is not ready, nor one that drains, which ends within the grace.
    """
    there = {
        **variables("production"),
        "PORT": "0",
        "ADMIN_PORT": "0",
        "ADMIN_HOST": "127.0.0.1",
        # That long the drain is there to be seen.
        "DELIVERY_TIMEOUT": "6",
        "DRAIN_DELAY": "0",
        "MAX_CONNECTIONS": "4",
    }
    with receiving() as receiver:
        there["FORWARD_DEST"] = f"127.0.0.1:{receiver.port}"
        with running("python", tmp_path, **there) as daemon:
            daemon.wait_until_usable()
            kubelet = Kubelet(daemon)
            wait_for(lambda: kubelet.told() == [200, 200, 200])

            crowd = [BlockingClient(daemon.port) for _ in range(4)]
            wait_for(lambda: daemon.logged(**{"count#log-iss.http.accept.pause": "1"}))
            wait_for(lambda: kubelet.told() == [0, 0, 200])
            for client in crowd:
                client.close()
            wait_for(lambda: kubelet.told() == [200, 200, 200])

            receiver.stop()
            wait_for(lambda: kubelet.told() == [200, 503, 200])
            client = BlockingClient(daemon.port)
            client.send(request(framed(message(b"waits"))))
            wait_for(lambda: "\nlogiss_posts_inflight 1.0\n" in kubelet.metrics())
            daemon.signal(signal.SIGTERM)
            wait_for(lambda: daemon.logged(ns="main", at="drain"))
            wait_for(lambda: kubelet.told() == [503, 503, 200])
            grace = pod("production")["spec"]["terminationGracePeriodSeconds"]
            assert daemon.wait(grace) == 0
            answer = client.answer()
            assert answer is not None
            assert answer.code == 504
            client.close()
