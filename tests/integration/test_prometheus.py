"""A real Prometheus reads a running logiss, with our rules."""

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from logiss.descriptors import ADMIN_MAX
from tests.integration.daemons import (
    BlockingClient,
    Daemon,
    Receiver,
    receiving,
    running,
    wait_for,
)
from tests.test_deploy import ALERTS, ALERTS_TEST, PROMETHEUS, promtool

FRAME = b"64 <190>1 2013-06-07T13:17:49.468822+00:00 host app web.1 - - hello"
LONG = b"<190>1 - %b app web.1 - - x" % (b"h" * 300)


@contextmanager
def watched(workdir: Path, receiver: Receiver) -> Iterator[tuple[Daemon, int]]:
    """A logiss behind which is `receiver`, and its port for operators."""
    variables = {
        "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
        "TOKEN_MAP": "app:logthis,dan:token",
        "ADMIN_PORT": "0",
    }
    with running("twist", workdir, **variables) as daemon:
        daemon.wait_until_usable()
        (line,) = daemon.logged(ns="admin", at="listen")
        yield daemon, int(line["port"])


def post(port: int, body: bytes, user: str = "app:logthis", **fields: str) -> int:
    """What is answered."""
    head = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in fields.items())
    client = BlockingClient(port)
    try:
        client.send(
            b"POST /logs HTTP/1.1\r\nHost: a\r\n"
            b"Content-Type: application/logplex-1\r\n"
            b"Authorization: Basic %b\r\n%bContent-Length: %d\r\n\r\n%b"
            % (b64encode(user.encode()), head.encode(), len(body), body)
        )
        answer = client.answer()
        assert answer is not None
        return int(answer.code)
    finally:
        client.close()


def post_all_kinds(port: int) -> None:
    """Posts that are delivered, refused, mistaken, cut, late and repeated."""
    assert post(port, FRAME) == 200
    assert post(port, FRAME, Logplex_Msg_Count="7", Logplex_Drop_Count="3") == 200
    assert post(port, b"%d %b" % (len(LONG), LONG)) == 200
    assert post(port, FRAME, user="dan:wrong") == 401
    assert post(port, FRAME, user='e"v\\e:x') == 401
    assert post(port, b"no frame") == 400
    for _ in range(2):
        assert post(port, FRAME, X_Request_Id="the-same") == 200
    for octets in (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\r\n\r\n"):
        client = BlockingClient(port)
        client.send(octets)
        client.answer()
        client.close()


def read(port: int, path: str = "/metrics", accept: str = "") -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", headers={"Accept": accept}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        text: str = answer.read().decode()
        return text


@contextmanager
def prometheus(workdir: Path, target: int) -> Iterator[int]:
    """A Prometheus with our example, but for the port; its own port."""
    program = shutil.which("prometheus")
    if program is None:
        reason = "prometheus is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    shutil.copy(PROMETHEUS / "alerts.yml", workdir)
    example = (PROMETHEUS / "prometheus.yml").read_text()
    assert "127.0.0.1:9514" in example
    example = example.replace("127.0.0.1:9514", f"127.0.0.1:{target}")
    (workdir / "prometheus.yml").write_text(example.replace("15s", "1s"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (workdir / "said").open("wb") as said:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={workdir / 'prometheus.yml'}",
                f"--storage.tsdb.path={workdir / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: is_listening(port))
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def asked(port: int, path: str, **query: str) -> Any:
    """What Prometheus's API says; None while it says nothing yet."""
    encoded = urllib.parse.urlencode(query)
    try:
        answer = json.loads(read(port, f"/api/v1/{path}?{encoded}"))
    except OSError:
        return None
    assert answer["status"] == "success"
    return answer["data"]


def values(port: int, query: str) -> dict[str, float]:
    """What a query finds, by what is left of the labels."""
    result = (asked(port, "query", query=query) or {}).get("result", [])
    return {
        ",".join(v for k, v in sorted(row["metric"].items())): float(row["value"][1])
        for row in result
    }


def test_alerts() -> None:
    """Alerts fire when they should, and not when they should not."""
    promtool("test", "rules", ALERTS_TEST.name, cwd=PROMETHEUS)


def test_alerts_each_second(tmp_path: Path) -> None:
    """They do so when rules are evaluated each second as well."""
    text = ALERTS_TEST.read_text()
    assert "\nevaluation_interval: 15s\n" in text
    text = text.replace("evaluation_interval: 15s", "evaluation_interval: 1s")
    # A day of seconds takes too long.
    text = text.replace("eval_time: 28h", "eval_time: 2h")
    shutil.copy(ALERTS, tmp_path)
    (tmp_path / ALERTS_TEST.name).write_text(text)
    promtool("test", "rules", ALERTS_TEST.name, cwd=tmp_path)


def test_metrics_are_good(tmp_path: Path) -> None:
    """Prometheus has nothing against the metrics behind posts of all kinds."""
    with receiving() as receiver, watched(tmp_path, receiver) as (daemon, admin):
        post_all_kinds(daemon.port)
        text = read(admin)
        assert promtool("check", "metrics", stdin=text).strip() == ""
        for line in (
            'logiss_posts_total{code="400"} 1.0',
            'logiss_posts_total{code="401"} 2.0',
            'logiss_credentials_refused_total{user="dan"} 1.0',
            'logiss_credentials_refused_total{user=""} 1.0',
            'logiss_user_losses_total{user="app",what="dropped"} 3.0',
            'logiss_frames_truncated_total{field="hostname"} 1.0',
            "logiss_msg_count_mismatches_total 1.0",
            "logiss_health_checks_total 1.0",
        ):
            assert line in text.splitlines(), line


def test_formats(tmp_path: Path) -> None:
    """OpenMetrics for who asks for a version there is; a HEAD has no body."""
    with receiving() as receiver, watched(tmp_path, receiver) as (_, admin):
        assert read(admin, accept="application/openmetrics-text").endswith("# EOF\n")
        assert "# EOF" not in read(
            admin, accept="application/openmetrics-text;version=x"
        )
        request = urllib.request.Request(
            f"http://127.0.0.1:{admin}/metrics", method="HEAD"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            assert answer.headers["Content-Type"].startswith(
                "text/plain; version=0.0.4"
            )
            assert int(answer.headers["Content-Length"]) > 1000
            assert answer.read() == b""


def test_prometheus(tmp_path: Path) -> None:
    """
    With the example, a Prometheus reads it, all rules are healthy, and who is refused
    and who loses lines is named by an alert.
    """
    with (
        receiving() as receiver,
        watched(tmp_path, receiver) as (daemon, admin),
        prometheus(tmp_path, admin) as port,
    ):
        wait_for(lambda: values(port, "up") and values(port, "logiss_info"))
        post_all_kinds(daemon.port)
        firing = 'count by (alertname, user) (ALERTS{alertstate="firing"})'
        expected = {"LogissCredentialsRefused,dan", "LogissSendersLosing,app"}
        wait_for(lambda: expected <= values(port, firing).keys())
        delivered = values(port, 'sum by (code) (logiss_posts_total{code="200"})')
        assert delivered == {"200": 5.0}
        connected = "count by (destination) (logiss_backend_connected == 1)"
        assert values(port, connected) == {f"127.0.0.1:{receiver.port}": 4.0}
        assert set(values(port, "up").values()) == {1.0}
        groups = asked(port, "rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) > 25
        wrong = [r["name"] for r in rules if r["health"] != "ok" or r.get("lastError")]
        assert wrong == []
        assert "LogissBackendDown" not in str(values(port, firing))


def test_connections_bounded(tmp_path: Path) -> None:
    """The admin port has so many connections, however many there are; others wait."""
    with receiving() as receiver, watched(tmp_path, receiver) as (daemon, port):
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(ADMIN_MAX)]
        with socket.create_connection(("127.0.0.1", port)) as late:
            late.sendall(b"GET /status.json HTTP/1.1\r\nHost: a\r\n\r\n")
            late.settimeout(1)
            with pytest.raises(TimeoutError):
                late.recv(1)
            # Posts do not notice.
            assert post(daemon.port, FRAME) == 200
            idle.pop().close()
            late.settimeout(30)
            assert late.recv(12) == b"HTTP/1.1 200"
        for connection in idle:
            connection.close()
