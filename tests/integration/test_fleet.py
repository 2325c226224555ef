"""
Four logiss behind a real HAProxy, with the configuration of deploy/haproxy, in which
only addresses and times are others: what is done to them, and what becomes of every
message.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.faults.receivers import unused_port
from tests.fleet import balancer, rounds
from tests.fleet.balancer import (
    DEPLOYED,
    QUICK,
    SERVERS,
    Balancer,
    deployed,
    substituted,
)
from tests.fleet.rounds import Fleet

DRAIN_DELAY, DELIVERY_TIMEOUT = 2.0, 2.5


def _need_haproxy() -> None:
    try:
        balancer.program()
    except balancer.Missing as e:
        if os.environ.get("CI"):
            pytest.fail(str(e))
        pytest.skip(str(e))


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    _need_haproxy()
    variables = {
        "DRAIN_DELAY": f"{DRAIN_DELAY:g}",
        "DELIVERY_TIMEOUT": f"{DELIVERY_TIMEOUT:g}",
    }
    with rounds.running(variables, QUICK) as fleet:
        yield fleet


def test_rolling_restart(fleet: Fleet) -> None:
    """
    All four are restarted under load, one by one: nothing is lost, no post is answered
    5xx, no connection is broken, HAProxy has nothing to try again, and each message
    has arrived once.
    """
    assert balancer.unseen_seconds(substituted(deployed(), QUICK)) < DRAIN_DELAY
    downs = fleet.downs()
    outcome = rounds.rolling(fleet)
    assert outcome.problems(is_quiet=True) == [], outcome
    assert fleet.instances.codes() == [0] * len(SERVERS)
    assert fleet.downs() >= downs + len(SERVERS)


def test_killed(fleet: Fleet) -> None:
    """
    One is killed under load: nothing answered 200 is lost, and at most the posts that
    it was at have no answer.
    """
    outcome = rounds.kill(fleet)
    print(outcome)
    assert outcome.problems(is_quiet=False) == [], outcome
    unanswered = outcome.tries - outcome.answers[200]
    assert unanswered <= fleet.drains, outcome
    assert outcome.given_up == 0, outcome


def test_halted(fleet: Fleet) -> None:
    """
    One is stopped under load: nothing answered 200 is lost. HAProxy answers 504 to at
    most a post of each drain, and what goes on later delivers no more than these.
    """
    outcome = rounds.halt(fleet)
    print(outcome)
    assert outcome.problems(is_quiet=False) == [], outcome
    unanswered = outcome.tries - outcome.answers[200]
    assert 0 < unanswered <= fleet.drains, outcome
    assert outcome.given_up == 0, outcome
    assert outcome.again <= unanswered * rounds.MESSAGES_MAX, outcome


def test_backend_away(fleet: Fleet) -> None:
    """
    Without a backend none of them is ready. Posts go to them all the same, and wait
    there: none is answered 503.
    """
    outcome = rounds.backend_away(fleet)
    assert outcome.problems(is_quiet=False) == [], outcome
    assert set(outcome.answers) <= {200, 504}, outcome


def test_renewed(fleet: Fleet) -> None:
    """
    All four take code and configuration anew at once: HAProxy sees none of them go,
    and nobody else notices.
    """
    outcome = rounds.renew(fleet)
    assert outcome.problems(is_quiet=True) == [], outcome


def test_full(tmp_path: Path) -> None:
    """HAProxy tells of itself with as many clients as it takes."""
    _need_haproxy()
    own_ports = unused_port(), unused_port()
    ports = [unused_port() for _ in SERVERS]
    few = {"maxconn 400": "maxconn 20", "maxconn 390": "maxconn 15"}
    full = Balancer(tmp_path, ports, own_ports, few)
    try:
        full.wait_for("DOWN")
        with ExitStack() as stack:
            for _ in range(20):
                address = "127.0.0.1", full.port
                stack.enter_context(socket.create_connection(address, 5))
            stats = HTTPConnection("127.0.0.1", full.stats_port, timeout=5)
            stack.callback(stats.close)
            stats.request("GET", "/;csv")
            assert stats.getresponse().status == 200
    finally:
        full.stop()


def test_script_stops(fleet: Fleet) -> None:
    """
    The script restarts nothing when it is told of a server that HAProxy does not know,
    and stops where the command fails.
    """
    script = str(DEPLOYED / "rolling-restart.sh")
    environ = {
        "PATH": os.environ["PATH"],
        "STATS": f"http://127.0.0.1:{fleet.balancer.stats_port}",
        "PATIENCE": "1",
    }
    for command, servers, why in (
        ("echo never", (SERVERS[0], "logiss-9"), "logiss-9: HAProxy knows no such"),
        ("false", SERVERS, f"{SERVERS[0]}: the command has failed"),
        ("true", SERVERS, f"{SERVERS[0]}: did not go down for HAProxy"),
    ):
        done = subprocess.run(
            [script, command, *servers],
            env=environ,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 1
        assert done.stderr.startswith(f"rolling-restart: {why}"), done.stderr
        assert "never" not in done.stdout
        assert done.stdout.count("restarting") <= 1
