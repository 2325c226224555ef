"""
Clients behind PROXY headers: behind a real HAProxy, and with headers by hand, in front
of the daemon as a process of its own.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.front import framed, message, request, stamped
from tests.integration.daemons import (
    PATIENCE_SECONDS,
    BlockingClient,
    Daemon,
    Receiver,
    receiving,
    running,
    wait_for,
)
from tests.proxy_headers import SIGNATURE, binary, line

CHANNELS = ["fast", "stock"]
#: Where the client comes from; HAProxy comes from 127.0.0.1.
CLIENT = "127.0.0.9"
FORGED = "203.0.113.66"
REFUSED = "count#log-iss.http.proxy-headers.refused"

_CONFIGURATION = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen version-1
    bind 127.0.0.1:{ports[0]}
    server logiss 127.0.0.1:{port} send-proxy
listen version-2
    bind 127.0.0.1:{ports[1]}
    server logiss 127.0.0.1:{port} send-proxy-v2
listen version-1-of-ipv6
    bind [::1]:{ports[2]}
    server logiss 127.0.0.1:{port} send-proxy
listen version-2-of-ipv6
    bind [::1]:{ports[3]}
    server logiss 127.0.0.1:{port} send-proxy-v2
listen with-everything
    bind 127.0.0.1:{ports[4]}
    server logiss 127.0.0.1:{port} send-proxy-v2 proxy-v2-options crc32c,unique-id
listen http
    mode http
    option forwardfor
    option httpchk
    http-check send meth GET uri /health ver HTTP/1.1 hdr Host logs.example.com
    bind 127.0.0.1:{ports[5]}
    server logiss 127.0.0.1:{port} send-proxy check inter 200ms
"""


def haproxy() -> str:
    program = shutil.which("haproxy", path=f"{os.defpath}:/usr/sbin:/sbin")
    if program is None:
        reason = "haproxy is not installed (Debian: apt-get install haproxy)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def unused_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def balancing(port: int, folder: Path) -> Iterator[list[int]]:
    """A HAProxy in front of `port`; the ports that it listens on."""
    ports = unused_ports(6)
    configuration = folder / "haproxy.cfg"
    configuration.write_text(_CONFIGURATION.format(port=port, ports=ports))
    said = folder / "haproxy.said"
    with said.open("wb") as out:
        process = subprocess.Popen(
            [haproxy(), "-db", "-f", configuration],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )

    def listens() -> bool:
        assert process.poll() is None, said.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", ports[0])) == 0

    try:
        wait_for(listens)
        yield ports
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


class Client(BlockingClient):
    """A connection from an address of its own."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        source = None if ":" in host else (CLIENT, 0)
        self._socket = socket.create_connection((host, port), PATIENCE_SECONDS, source)

    def post(self, text: bytes) -> int:
        headers: dict[str, str | None] = {"X-Forwarded-For": FORGED}
        self.send(request(framed(message(text)), headers=headers))
        answer = self.answer()
        assert answer is not None
        return answer.code

    def ends(self, octets: bytes) -> bool:
        """Whether the connection is ended behind `octets`, without an answer."""
        try:
            self.send(octets)
            return self._socket.recv(1) == b""
        except OSError as e:
            return not isinstance(e, TimeoutError)


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[tuple[Daemon, Receiver]]:
    """A daemon that expects PROXY headers."""
    with (
        receiving() as receiver,
        running(
            "twist",
            folder,
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            PROXY_PROTOCOL="1",
            **variables,
        ) as daemon,
    ):
        daemon.wait_until_usable()
        yield daemon, receiver


def arrived(receiver: Receiver, text: bytes, address: str) -> None:
    """`text` has arrived with `address` as its origin."""
    wait_for(lambda: any(frame.endswith(text) for frame in receiver.frames))
    assert stamped(text, address) in receiver.frames, receiver.frames


@pytest.mark.parametrize("channel", CHANNELS)
def test_behind_haproxy(channel: str, tmp_path: Path) -> None:
    """
    Behind HAProxy, with either version, the origin is the client, in the frames and in
    the log; so it is for each of many posts of a connection, and HAProxy's own health
    checks are answered.
    """
    with (
        serving(tmp_path, HTTP_CHANNEL=channel) as (daemon, receiver),
        balancing(daemon.port, tmp_path) as ports,
    ):
        for i, port in enumerate(ports):
            host, address = ("::1", "::1") if i in (2, 3) else ("127.0.0.1", CLIENT)
            if host == "::1" and not has_ipv6():
                continue
            client = Client(port, host)
            for number in range(3):
                text = b"%d-%d." % (i, number)
                assert client.post(text) == 200
                arrived(receiver, text, address)
            client.close()
            success = {"count#log-iss.http.logs.post.success": "1"}
            assert daemon.logged(**success)[-1]["remote_addr"] == address
        checked = {"count#log-iss.http.health.get": "1"}
        wait_for(lambda: len(daemon.logged(**checked)) >= 2)
        assert daemon.logged(**{REFUSED: "1"}) == []


@pytest.mark.parametrize("channel", CHANNELS)
def test_large_bodies_behind_haproxy(channel: str, tmp_path: Path) -> None:
    """Large bodies, and many clients beside each other, arrive whole."""
    with (
        serving(tmp_path, HTTP_CHANNEL=channel) as (daemon, receiver),
        balancing(daemon.port, tmp_path) as ports,
    ):
        clients = [Client(ports[i % 2]) for i in range(8)]
        texts = [b"%d " % i * 20_000 + b"end %d." % i for i in range(8)]
        for client, text in zip(clients, texts, strict=True):
            client.send(request(framed(*[message(text)] * 20)))
        for client in clients:
            answer = client.answer()
            assert answer is not None
            assert answer.code == 200
            client.close()
        wait_for(lambda: len(receiver.frames) == 160)
        for text in texts:
            assert receiver.frames.count(stamped(text, CLIENT)) == 20


def test_trusted_behind_haproxy(tmp_path: Path) -> None:
    """Who is trusted is the client in the header: its ``X-Forwarded-For`` counts."""
    with (
        serving(tmp_path, TRUSTED_PROXIES=CLIENT) as (daemon, receiver),
        balancing(daemon.port, tmp_path) as ports,
    ):
        client = Client(ports[1])
        assert client.post(b"trusted.") == 200
        arrived(receiver, b"trusted.", FORGED)
        client.close()
        if has_ipv6():
            client = Client(ports[3], "::1")
            assert client.post(b"other.") == 200
            arrived(receiver, b"other.", "::1")
            client.close()


@pytest.mark.parametrize("channel", CHANNELS)
def test_by_hand(channel: str, tmp_path: Path) -> None:
    """
    Headers by hand are taken, in pieces as well; what is none ends its connection
    without an answer, and nobody else's, with few lines in the log.
    """
    with serving(tmp_path, HTTP_CHANNEL=channel, HEADER_TIMEOUT="1") as (
        daemon,
        receiver,
    ):
        healthy = Client(daemon.port)
        healthy.send(line("192.0.2.50", "192.0.2.80", 1, 2))
        assert healthy.post(b"before.") == 200
        for i, (octets, address) in enumerate(
            [
                (line("192.0.2.9", "192.0.2.80", 1, 2), "192.0.2.9"),
                (line("2001:db8::9", "2001:db8::80", 1, 2), "2001:db8::9"),
                (binary("192.0.2.9", "192.0.2.80", 1, 2), "192.0.2.9"),
                (binary("2001:db8::9", "2001:db8::80", 1, 2), "2001:db8::9"),
                (binary("::ffff:192.0.2.9", "::1", 1, 2), "192.0.2.9"),
                (b"PROXY UNKNOWN\r\n", CLIENT),
                (SIGNATURE + b"\x20\0\0\0", CLIENT),
            ]
        ):
            for cut in (0, 1, 5, len(octets) - 1):
                client = Client(daemon.port)
                client.send(octets[:cut])
                client.send(octets[cut:])
                text = b"%d-%d." % (i, cut)
                assert client.post(text) == 200
                arrived(receiver, text, address)
                client.close()
        for octets in (
            request(framed(message(b"refused."))),
            b"PROXY TCP4 x y 1 2\r\n" + request(framed(message(b"refused."))),
            SIGNATURE + b"\x21\x11\0\0" + request(framed(message(b"refused."))),
            b"\x16\x03\x01",
            # These are waited for.
            b"PROXY TCP4 192.0.2.9",
            SIGNATURE + b"\x21\x11\0\x0c",
        ):
            client = Client(daemon.port)
            assert client.ends(octets), octets
            client.close()
        mute = Client(daemon.port)
        assert mute.is_closed()
        mute.close()
        assert healthy.post(b"behind.") == 200
        arrived(receiver, b"behind.", "192.0.2.50")
        wait_for(lambda: sum(int(found.get(REFUSED, 0)) for found in daemon.lines) == 7)
        told = [found for found in daemon.lines if REFUSED in found]
        assert len(told) < 7
        assert {found["remote_addr"] for found in told} == {CLIENT}
        healthy.close()
        assert not any(frame.endswith(b"refused.") for frame in receiver.frames)


@pytest.mark.parametrize("channel", CHANNELS)
def test_drain(channel: str, tmp_path: Path) -> None:
    """
    Connections that have not sent a header hold no drain up: the process ends with 0,
    long before they would have been late. That they are closed in order is shown by
    `tests.test_proxied.GoodbyeTests`.
    """
    with serving(tmp_path, HTTP_CHANNEL=channel, HEADER_TIMEOUT="1h") as (daemon, _):
        mute, half, idle = (Client(daemon.port) for _ in range(3))
        half.send(b"PROXY TCP4 ")
        idle.send(line("192.0.2.9", "192.0.2.80", 1, 2))
        assert idle.post(b"hi.") == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE_SECONDS) == 0
        for client in (mute, half, idle):
            assert client.is_closed()
            client.close()
        assert daemon.lines[-1]["at"] == "exit"
