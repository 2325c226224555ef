"""Several workers behind one socket, as processes."""

import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.front import basic, framed, message, request, stamped
from tests.integration.daemons import (
    BIN,
    BlockingClient,
    Receiver,
    receiving,
    running,
    wait_for,
)
from tests.integration.redises import HMAC_KEY, KEY, credential, redis_server
from tests.integration.test_daemon import is_listening, unused_port
from tests.integration.workers import SHORTER, Crew, Load, ending, is_running
from tests.l2met_grammar import parse

TREE = Path(__file__).parents[2]
DRAINED = ["shutdown-signal", "shutdown", "drain", "exit"]


@contextmanager
def crew(
    workdir: Path, receiver: Receiver, command: str = "python", **variables: str
) -> Iterator[Crew]:
    given = {
        "WEB_CONCURRENCY": "2",
        "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
        **variables,
    }
    with running(command, workdir, **given) as daemon, ending(daemon):
        yield Crew(daemon)


def test_one_falls(tmp_path: Path) -> None:
    """
    Both serve, over four connections each. Killed under load, one takes with it only
    what it had not answered, and another takes its place. A signal to all of them at
    once, as systemd's KillMode=control-group sends it, drains them once.
    """
    with receiving() as receiver, crew(tmp_path, receiver) as both:
        assert Counter(both.connected()) == {"1": 4, "2": 4}
        load = Load(both.port, 8)
        wait_for(lambda: len(load.codes) > 300)
        both.wait_for_all_to_serve()
        killed = both.pids()[1]
        os.kill(killed, signal.SIGKILL)
        both.wait_for_prepared(3)
        assert both.exits() == [(killed, -signal.SIGKILL)]
        assert both.pids()[1] != killed
        many = len(load.codes)
        wait_for(lambda: len(load.codes) > many + 300)
        load.stop()
        check_lost(both, load)

        for pid in [both.daemon.process.pid, *both.pids().values()]:
            os.kill(pid, signal.SIGTERM)
        assert both.daemon.wait() == 0
        for number in (1, 2):
            assert [
                line["at"] for line in both.said(number) if line.get("at") in DRAINED
            ] == DRAINED
        assert len(both.falls()) == 1
        arrived = Counter(receiver.frames)
    for text, code in load.codes.items():
        if code == 200:
            assert arrived[stamped(text, "127.0.0.1")] == 1, text


def check_lost(both: Crew, load: Load) -> None:
    """Nobody has no answer but those whose worker was killed, once each."""
    assert set(load.codes.values()) <= {200, None}
    served: dict[str, str] = {}
    for line in both.daemon.lines:
        if "count#log-iss.http.logs.post.success" in line:
            served[line.get("request_id", "")] = line["worker"]
    for lost in load.lost:
        assert len(lost) <= 1
        for text in lost:
            number, _, i = text.decode().rstrip(".").partition("-")
            assert served.get(f"{number}-{int(i) - 1}.", "1") == "1"


def test_hangs_and_ended_by_hand(tmp_path: Path) -> None:
    """
    A worker that says nothing any more is killed, one that somebody else has told to
    stop leaves; both are replaced.
    """
    with (
        receiving() as receiver,
        crew(tmp_path, receiver, launcher=SHORTER) as both,
    ):
        stopped, ended = both.pids()[1], both.pids()[2]
        os.kill(stopped, signal.SIGSTOP)
        os.kill(ended, signal.SIGTERM)
        both.wait_for_prepared(4)
        assert sorted(both.exits()) == [(stopped, -signal.SIGKILL), (ended, 0)]
        (line,) = both.daemon.logged(**{"count#log-iss.workers.silent": "1"})
        assert line["pid"] == str(stopped)
        # Nobody is turned away for it, since the other ones have the port.
        phases = ("leave", *DRAINED, "left")
        told = [line["at"] for line in both.said(2) if line.get("at") in phases]
        assert told[:5] == ["leave", *DRAINED[:-1], "left"], told
        both.wait_for_all_to_serve()
        both.daemon.signal(signal.SIGTERM)
        assert both.daemon.wait() == 0
        # The life of each worker that has drained ends with a line, and the parent's.
        assert len(both.daemon.logged(ns="main", at="exit")) == 3


def test_second_signal(tmp_path: Path) -> None:
    """A second signal ends all at once, however much there is to deliver."""
    with receiving() as receiver, crew(tmp_path, receiver) as both:
        receiver.reading.clear()
        stuck = BlockingClient(both.port)
        stuck.send(request(framed(*[message(b"x" * 9000)] * 1500)))
        time.sleep(0.3)
        both.daemon.signal(signal.SIGTERM)
        wait_for(lambda: both.daemon.logged(ns="main", at="drain"))
        time.sleep(0.3)
        both.daemon.signal(signal.SIGTERM)
        began = time.monotonic()
        assert both.daemon.wait() == 128 + signal.SIGTERM
        wait_for(lambda: not any(map(is_running, both.pids().values())))
        assert time.monotonic() - began < 4, "they have drained"
        stuck.close()


def test_cannot_start(tmp_path: Path) -> None:
    """When no worker can start the parent gives up, in the log and on stderr."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif 'LOGISS_WORKER' in os.environ:\n    os._exit(3)\n"
    )
    with (
        receiving() as receiver,
        running(
            "python",
            tmp_path,
            launcher=SHORTER,
            PYTHONPATH=str(tmp_path),
            WEB_CONCURRENCY="2",
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
        ) as daemon,
    ):
        assert daemon.wait() == 1
        assert daemon.process.stderr is not None
        assert daemon.process.stderr.read() == (
            b"logiss: no worker can be started; the log says why each has ended\n"
        )
        codes = [line["code"] for line in daemon.logged(ns="workers", at="exit")]
        assert codes == ["3"] * 10
        assert daemon.logged(**{"count#log-iss.workers.given-up": "1"})


def test_orphaned(tmp_path: Path) -> None:
    """Without their parent the workers leave and end; the port is free."""
    with receiving() as receiver, crew(tmp_path, receiver) as both:
        both.daemon.signal(signal.SIGKILL)
        assert both.daemon.wait() == -signal.SIGKILL
        wait_for(lambda: not any(map(is_running, both.pids().values())))
        assert not is_listening(both.port)
        for number in (1, 2):
            (line,) = both.said(number, at="shutdown-signal")
            assert line["signal"] == "orphaned"
            assert both.said(number, at="left")


def test_terminal(tmp_path: Path) -> None:
    """Ctrl-C at a terminal is for the parent, which has the workers drain."""
    with receiving() as receiver:
        environ = {
            "DEPLOY": "test",
            "PORT": "0",
            "LISTEN_HOST": "127.0.0.1",
            "TOKEN_MAP": "user:a:token",
            "WEB_CONCURRENCY": "2",
            "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
        }
        pid, terminal = pty.fork()
        if not pid:
            os.chdir(tmp_path)
            os.execve(  # noqa: S606, it is what is tested
                BIN / "logiss", ["logiss", "run"], environ
            )
        with closing(Terminal(terminal)) as shown:
            shown.wait_for(lambda: shown.text.count("connect.success") == 8)
            # The group in the foreground has nobody else in it.
            workers = re.findall(r" at=start number=\d pid=(\d+)", shown.text)
            assert [os.getpgid(int(number)) for number in workers] == [
                *map(int, workers)
            ]
            os.write(terminal, b"\x03")
            shown.wait_for(lambda: shown.is_over)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        lines = [parse(line) for line in shown.text.replace("^C", "").splitlines()]
        told = {
            line.get("worker"): line["signal"]
            for line in lines
            if line.get("at") == "shutdown-signal"
        }
        assert told == {None: "SIGINT", "1": "stop", "2": "stop"}


class Terminal:
    """
    What is shown at the other end of a terminal.

    @ivar is_over: nobody has it open any more.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._octets = b""
        self.is_over = False

    @property
    def text(self) -> str:
        return self._octets.decode()

    def wait_for(self, condition: Any) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, self.text
            if not select.select([self._descriptor], [], [], 0.05)[0]:
                continue
            try:
                self._octets += os.read(self._descriptor, 1 << 16)
            except OSError:
                self.is_over = True

    def close(self) -> None:
        os.close(self._descriptor)


def test_twistd(tmp_path: Path) -> None:
    """
    Under twistd, with its pidfile, and behind the PROXY protocol; what is refused is
    kept by all in one directory.
    """
    kept = tmp_path / "kept"
    kept.mkdir()
    with (
        receiving() as receiver,
        crew(
            tmp_path,
            receiver,
            "twistd --http fast",
            PROXY_PROTOCOL="1",
            CAPTURE_REFUSED=str(kept),
            CAPTURE_REFUSED_MAX="5",
        ) as both,
    ):
        for i in range(60):
            client = BlockingClient(both.port)
            client.send(
                b"PROXY TCP4 192.0.2.9 192.0.2.1 5 6\r\n" + request(b"no %d" % i)
            )
            answer = client.answer()
            assert answer is not None
            assert answer.code == 400
            client.close()
        refused = both.daemon.logged(**{"count#log-iss.http.logs.post.error": "1"})
        assert {line["remote_addr"] for line in refused} == {"192.0.2.9"}
        both.daemon.signal(signal.SIGTERM)
        assert both.daemon.wait() == 0
        # Each of two may have begun one while the other looked.
        assert 1 <= len(list(kept.glob("*.capture"))) <= 6


_BOUND = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_trying(tmp_path: Path) -> None:
    """``--with-receiver`` prints what all of them take; ``auto`` is what there is."""
    with running(
        "python --with-receiver",
        tmp_path,
        WEB_CONCURRENCY="auto",
        PORT=str(unused_port()),
        DEPLOY="",
        TOKEN_MAP="",
        launcher=shlex.join([sys.executable, "-c", _BOUND]),
    ) as daemon:
        # One CPU is one process, which has no parent.
        daemon.wait_until_usable()
        assert not daemon.logged(ns="workers", at="listen")
    port = unused_port()
    environ = {"WEB_CONCURRENCY": "2", "PORT": str(port), "DEPLOY": ""}
    with running("python --with-receiver", tmp_path, TOKEN_MAP="", **environ) as daemon:
        text = b"z" * 9000
        wait_for(lambda: is_listening(port))
        client = BlockingClient(port)
        headers: dict[str, str | None] = {"Authorization": basic("test", "token")}
        client.send(request(framed(message(text)), headers=headers))
        answer = client.answer()
        assert answer is not None
        assert answer.code == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        shown = b"".join(daemon._out)
        # A pipe takes no more than this whole.
        (line,) = [each for each in shown.splitlines() if b"zzz" in each]
        assert len(line) == select.PIPE_BUF - 1


def test_redis(tmp_path: Path) -> None:
    """Each worker reads the credentials from Redis by itself."""
    with receiving() as receiver, redis_server(tmp_path) as redis:
        redis.hold("user", credential("a:token"))
        with crew(
            tmp_path,
            receiver,
            TOKEN_MAP="",
            REDIS_URL=f"redis://127.0.0.1:{redis.port}",
            REDIS_KEY=KEY,
            HMAC_KEY=HMAC_KEY,
        ) as both:
            both.wait_for_all_to_serve()
            refreshed = {"count#log-iss.credentials.refresh.success": "1"}
            assert all(both.said(number, **refreshed) for number in (1, 2))


_WRITER = """
import sys, time
from types import SimpleNamespace
from twisted.internet.task import Clock
from logiss.journal import Journal, open_sink
from logiss.l2met import EventLog
number, count = int(sys.argv[1]), int(sys.argv[2])
clock = Clock()
journal = Journal(clock, open_sink(1))
journal.share()
events = EventLog("test", journal.write, number)
hostile = [b"x" * 300, b'"' * 300, b"\\n" * 300, b"\\xff" * 300, b"a b=c " * 50]
for i in range(count):
    value = hostile[i % 5]
    post = SimpleNamespace(drain_token=value, remote_addr=value)
    post.request_id = b"%d-%d" % (number, i)
    events.post_failed(post, 400, "y" * i, 0.1)
    if i % 7 == 0:
        clock.advance(0)
while journal.waiting:
    clock.advance(0.1)
    time.sleep(0.001)
"""


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_lines_do_not_mix(kind: str, tmp_path: Path) -> None:
    """Whatever the log is, lines of several processes stay lines, and all arrive."""
    each, writers = 300, 3
    with tempfile.TemporaryFile() as file:
        reading, writing = {
            "pipe": os.pipe,
            "socket": lambda: tuple(s.detach() for s in socket.socketpair()),
            "file": lambda: (os.dup(file.fileno()), os.dup(file.fileno())),
        }[kind]()
        started = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(number), str(each)],
                stdout=writing,
                env={"PYTHONPATH": str(TREE)},
            )
            for number in range(writers)
        ]
        os.close(writing)
        octets = b""
        if kind == "file":
            assert [process.wait(60) for process in started] == [0] * writers
            file.seek(0)
        while more := os.read(reading, 5000):
            octets += more
        os.close(reading)
        assert [process.wait(60) for process in started] == [0] * writers
    found = [parse(line) for line in octets.decode("ascii").split("\n")[:-1]]
    ids = {line["request_id"] for line in found}
    assert ids == {f"{n}-{i}" for n in range(writers) for i in range(each)}
    assert len(found) == each * writers
    assert all(line["worker"] == line["request_id"].split("-")[0] for line in found)
