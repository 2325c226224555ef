"""
What is done to the fleet.

Each round has traffic of its own, and ends when all that has been posted in it is
accounted for.
"""

import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.faults.ledger import Arrivals, Ledger
from tests.faults.load import Poster
from tests.faults.receivers import Sink, unused_port
from tests.fleet.balancer import DEPLOYED, SERVERS, Balancer
from tests.fleet.instances import Instances
from tests.fleet.traffic import MESSAGES_LARGE, Outcome, Shape, Traffic, settle
from tests.integration.redises import RedisServer

#: Of a post.
MESSAGES_MAX = MESSAGES_LARGE
#: What HAProxy logs of a server that is down because it drains.
_SAYS_503 = "Layer7 wrong status, code: 503"
_BEFORE_SECONDS = 0.3
_AFTER_SECONDS = 0.3
_SCRIPT_SECONDS = 300
_RELOAD_SECONDS = 30.0


class Fleet:
    """
    Four logiss behind a HAProxy, and a receiver behind them.

    @ivar balancer: the HAProxy.
    @ivar instances: the four.
    """

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        variables: Mapping[str, str],
        changes: Mapping[str, str],
        shape: Shape,
        has_redis: bool = False,
    ) -> None:
        self._folder = folder
        self._shape = shape
        self._run = secrets.token_hex(4)
        self._posters = 0
        self._arrivals = Arrivals(self._run)
        (folder / "sink").mkdir()
        self.sink = Sink(folder / "sink")
        stack.callback(self.sink.end, signal.SIGKILL)
        self.sink.start()
        more = {"TRUSTED_PROXIES": "127.0.0.1"}
        if has_redis:
            redis = RedisServer(folder)
            stack.callback(redis.kill)
            more |= {
                "DEDUPE_REDIS": "1",
                "REDIS_URL": f"redis://127.0.0.1:{redis.port}",
            }
        self.instances = Instances(folder, self.sink.destination, {**more, **variables})
        stack.callback(self.instances.stop)
        self.balancer = Balancer(
            folder, self.instances.ports(), (unused_port(), unused_port()), changes
        )
        stack.callback(self.balancer.stop)
        self.instances.wait_until_usable()
        self.balancer.wait_for("UP")

    @property
    def drains(self) -> int:
        """How many post at the same time."""
        return self._shape.drains

    def _poster(self, ledger: Ledger) -> Poster:
        self._posters += 1
        return Poster(self._run, self._posters, ledger)

    @contextmanager
    def traffic(self, name: str) -> Iterator[Outcome]:
        """Traffic as long as the block; behind it the outcome is filled in."""
        ledger, outcome = Ledger(), Outcome(name)
        before = self.balancer.retries()
        traffic = Traffic(
            self.balancer.port, self._shape, ledger, lambda: self._poster(ledger)
        )
        try:
            time.sleep(_BEFORE_SECONDS)
            yield outcome
            time.sleep(_AFTER_SECONDS)
        finally:
            traffic.stop()
        settle(self._arrivals, lambda: self.sink.read_into(self._arrivals))
        traffic.fill_in(outcome, self._arrivals)
        outcome.tried_again = self.balancer.retries() - before

    def downs(self) -> int:
        """How often HAProxy has seen one of them go down."""
        return sum(seen.downs for seen in self.balancer.seen().values())

    def restart_all(self) -> str:
        """With the script of deploy/haproxy; what it has said."""
        command = f'kill -TERM "$(cat {self._folder}/$1.pid)"'
        done = subprocess.run(
            [DEPLOYED / "rolling-restart.sh", command, *SERVERS],
            env={
                "PATH": os.environ["PATH"],
                "STATS": f"http://127.0.0.1:{self.balancer.stats_port}",
            },
            capture_output=True,
            text=True,
            timeout=_SCRIPT_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def rolling(fleet: Fleet, times: int = 1) -> Outcome:
    """All of them are restarted, one by one."""
    with fleet.traffic("rolling restart") as outcome:
        for _ in range(times):
            fleet.restart_all()
    return outcome


def rolling_unannounced(fleet: Fleet, times: int) -> Outcome:
    """The same, where HAProxy has no time to see them go."""
    with fleet.traffic("rolling restart") as outcome:
        for server in SERVERS * times:
            instance = fleet.instances.one[server]
            before = instance.intake
            instance.signal(signal.SIGTERM)
            while instance.intake is before:
                time.sleep(0.02)
            instance.intake.wait_until_usable()
            time.sleep(_AFTER_SECONDS)
            fleet.balancer.wait_for("UP", server)
    return outcome


def renew(fleet: Fleet, times: int = 1) -> Outcome:
    """All of them take code and configuration anew, at once, with SIGHUP."""
    refusals = fleet.balancer.said().count(_SAYS_503)
    with fleet.traffic("SIGHUP") as outcome:
        for _ in range(times):
            _renew(fleet)
    assert fleet.balancer.said().count(_SAYS_503) == refusals
    return outcome


def _renew(fleet: Fleet) -> None:
    mark = "count#log-iss.reload.success=1"
    intakes = [instance.intake for instance in fleet.instances.one.values()]
    before = [len(intake.logged(mark)) for intake in intakes]
    for intake in intakes:
        intake.signal(signal.SIGHUP)
    deadline = time.monotonic() + _RELOAD_SECONDS
    while any(
        len(intake.logged(mark)) == count
        for intake, count in zip(intakes, before, strict=True)
    ):
        assert time.monotonic() < deadline, "not renewed"
        time.sleep(0.02)


def kill(
    fleet: Fleet, name: str = "SIGKILL", servers: Sequence[str] = SERVERS[1:2]
) -> Outcome:
    """They are killed one by one, each when the one before is back."""
    with fleet.traffic(name) as outcome:
        for server in servers:
            fleet.instances.one[server].signal(signal.SIGKILL)
            fleet.balancer.wait_for("DOWN", server)
            fleet.balancer.wait_for("UP", server)
    return outcome


def halt(fleet: Fleet) -> Outcome:
    """One of them is halted until what it holds is given up, then goes on."""
    server = SERVERS[2]
    with fleet.traffic("SIGSTOP") as outcome:
        fleet.instances.one[server].signal(signal.SIGSTOP)
        try:
            fleet.balancer.wait_for("DOWN", server)
            time.sleep(fleet.balancer.server_timeout_seconds + 0.5)
        finally:
            fleet.instances.one[server].signal(signal.SIGCONT)
        fleet.balancer.wait_for("UP", server)
    return outcome


def backend_away(fleet: Fleet) -> Outcome:
    """The receiver ends, and comes back when HAProxy has none that is ready."""
    with fleet.traffic("backend away") as outcome:
        fleet.sink.end()
        fleet.balancer.wait_for("DOWN", backends=("ready",))
        time.sleep(_AFTER_SECONDS)
        fleet.sink.start()
        fleet.balancer.wait_for("UP")
    return outcome


@contextmanager
def running(
    variables: Mapping[str, str],
    changes: Mapping[str, str],
    shape: Shape | None = None,
    has_redis: bool = False,
) -> Iterator[Fleet]:
    """
    A fleet, until the end of the block.

    @param has_redis: whether they share a table of the posts that they know.
    """
    with (
        tempfile.TemporaryDirectory(prefix="logiss-fleet-") as folder,
        ExitStack() as stack,
    ):
        yield Fleet(
            Path(folder), stack, variables, changes, shape or Shape(), has_redis
        )
