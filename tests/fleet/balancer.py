"""
A HAProxy with the configuration of deploy/haproxy.

Only what has to differ on another machine is put in anew, and each of it has to be
there.
"""

import csv
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

DEPLOYED = Path(__file__).resolve().parents[2] / "deploy" / "haproxy"
#: Of those that are ready, and of all that are there.
BACKENDS = ("ready", "up")
SERVERS = ("logiss-1", "logiss-2", "logiss-3", "logiss-4")
#: As `retry-on` without what may deliver twice.
NO_SECOND_DELIVERY = {
    "retry-on conn-failure empty-response 503": "retry-on conn-failure 503"
}
#: A fleet that is restarted in seconds.
QUICK = {
    "inter 1s fastinter 250ms downinter 1s": (
        "inter 200ms fastinter 100ms downinter 200ms"
    ),
    "timeout check 500ms": "timeout check 300ms",
    "timeout server 7s": "timeout server 3s",
}
_START_SECONDS = 10.0
_STATS_SECONDS = 5.0
#: Not what root may, nor so many descriptors; and its log on standard output.
_ELSEWHERE = {
    "    user haproxy\n": "",
    "    group haproxy\n": "",
    "    chroot /var/lib/haproxy\n": "",
    "log /dev/log local0": "log stdout format raw local0",
    "maxconn 10000": "maxconn 400",
    "maxconn 9900": "maxconn 390",
}


class Missing(Exception):
    """There is no HAProxy here; says how to get one."""


def program() -> str:
    """
    @raise Missing: it is not installed.
    """
    found = shutil.which("haproxy", path=f"{os.defpath}:/usr/sbin:/sbin")
    if found is None:
        raise Missing("haproxy is not installed (Debian: apt-get install haproxy)")
    return found


def deployed() -> str:
    """The configuration that is deployed."""
    return (DEPLOYED / "haproxy.cfg").read_text()


def substituted(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"haproxy.cfg has no {old!r}"
        text = text.replace(old, new)
    return text


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def seconds_of(text: str, name: str) -> float:
    """The time behind `name` in a configuration, where it is set first."""
    line = re.sub("^ *#.*\n", "", text, flags=re.M)
    found = re.search(rf"\b{name} (\d+)(ms|s|m)\b", line)
    assert found is not None, f"haproxy.cfg has no {name!r}"
    return int(found[1]) * _UNITS[found[2]]


def unseen_seconds(text: str) -> float:
    """How long posts may still be sent to a server whose checks fail from now on."""
    inter = seconds_of(text, "inter")
    found = re.search(r"^ *default-server .*\bfall (\d+)\b", text, re.M)
    assert found is not None
    fall = int(found[1])
    connect = min(seconds_of(text, "timeout connect"), inter)
    one_check = connect + seconds_of(text, "timeout check")
    return inter + (fall - 1) * seconds_of(text, "fastinter") + fall * one_check


@frozen
class Seen:
    """
    What HAProxy says of a server.

    @ivar downs: how often its checks have failed for good.
    @ivar retries: attempts that were followed by another one, here or elsewhere.
    """

    status: str
    downs: int
    retries: int


class Balancer:
    """
    A running HAProxy in front of `ports`.

    @ivar port: where it takes posts.
    @ivar stats_port: where it tells of itself over HTTP.
    """

    def __init__(
        self,
        folder: Path,
        ports: Sequence[int],
        own_ports: tuple[int, int],
        changes: Mapping[str, str],
    ) -> None:
        self.port, self.stats_port = own_ports
        self._socket = folder / "haproxy.sock"
        addresses = {
            f"192.0.2.1{number}:5000": f"127.0.0.1:{port}"
            for number, port in enumerate(ports, 1)
        }
        text = substituted(
            deployed(),
            {
                **_ELSEWHERE,
                **addresses,
                **changes,
                "/run/haproxy/admin.sock": str(self._socket),
                "bind :80\n": f"bind 127.0.0.1:{self.port}\n",
                "127.0.0.1:8404": f"127.0.0.1:{self.stats_port}",
            },
        )
        self.server_timeout_seconds = seconds_of(text, "timeout server")
        configuration = folder / "haproxy.cfg"
        configuration.write_text(text)
        self._said = folder / "haproxy.said"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [program(), "-db", "-f", configuration],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        return self._said.read_text()

    def seen(self, backend: str = "ready") -> dict[str, Seen]:
        """What it says of each server."""
        rows = csv.DictReader(self._asked("show stat").lstrip("# ").splitlines())
        return {
            row["svname"]: Seen(
                row["status"],
                int(row["chkdown"]),
                int(row["wretr"]) + int(row["wredis"]),
            )
            for row in rows
            if row["pxname"] == backend and row["svname"] in SERVERS
        }

    def retries(self) -> int:
        """How many attempts it has made again, of all servers."""
        return sum(
            seen.retries
            for name in ("ready", "up")
            for seen in self.seen(name).values()
        )

    def _asked(self, question: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_STATS_SECONDS)
            connection.connect(str(self._socket))
            connection.sendall(question.encode() + b"\n")
            with connection.makefile("rb") as answer:
                return answer.read().decode()

    def wait_for(
        self,
        status: str,
        *servers: str,
        backends: Sequence[str] = BACKENDS,
        seconds: float = 30.0,
    ) -> None:
        """Wait until all of `servers`, by default each, are UP or DOWN."""
        deadline = time.monotonic() + seconds
        while not self._are(status, servers or SERVERS, backends):
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < deadline, f"not {status}: {self.seen()}"
            time.sleep(0.02)

    def _are(
        self, status: str, servers: Sequence[str], backends: Sequence[str]
    ) -> bool:
        try:
            return all(
                self.seen(backend)[server].status == status
                for backend in backends
                for server in servers
            )
        except (FileNotFoundError, ConnectionRefusedError):
            return False  # it has only begun

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
