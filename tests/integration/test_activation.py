"""Sockets that are there before logiss is, and stay when it goes."""

import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.front import framed, message, request, stamped
from tests.integration.daemons import (
    BlockingClient,
    Daemon,
    Receiver,
    receiving,
    running,
    wait_for,
)
from tests.integration.test_daemon import is_listening, unused_port
from tests.integration.workers import Crew, ending

#: What systemd does between fork and exec: the sockets become the descriptors from 3
#: on, and the environment says so.
_LAUNCHER = """
import fcntl, os, sys
names, pid, passed, command = *sys.argv[1:4], sys.argv[4:]
away = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 100) for n in passed.split(",")]
for i, descriptor in enumerate(away):
    os.dup2(descriptor, 3 + i)
os.environ["LISTEN_FDS"] = str(len(away))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.environ["LISTEN_PID"] = pid or str(os.getpid())
os.execv(command[0], command)
"""
COMMANDS = ["twist", "twistd", "python --http stock"]


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def launcher(names: str, sockets: Sequence[socket.socket], pid: str = "") -> list[str]:
    passed = ",".join(str(each.fileno()) for each in sockets)
    return [sys.executable, "-c", _LAUNCHER, names, pid, passed]


@contextmanager
def activated(
    workdir: Path,
    receiver: Receiver,
    *sockets: socket.socket,
    names: str = "logs",
    command: str = "python",
    **variables: str,
) -> Iterator[Daemon]:
    """A daemon that has inherited `sockets`, and is told of no port."""
    with running(
        command,
        workdir,
        **{
            "launcher": shlex.join(launcher(names, sockets)),
            "passed": " ".join(str(each.fileno()) for each in sockets),
            "PORT": "",
            "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
            **variables,
        },
    ) as daemon:
        yield daemon


def post(client: BlockingClient, text: bytes) -> None:
    client.send(request(framed(message(text))))


def arrived(receiver: Receiver, text: bytes) -> None:
    wait_for(lambda: receiver.frames)
    assert receiver.frames == [stamped(text, "127.0.0.1")]


def answered(client: BlockingClient) -> int | None:
    answer = client.answer()
    client.close()
    return answer.code if answer else None


@pytest.mark.parametrize("command", COMMANDS)
def test_before_ready(command: str, tmp_path: Path) -> None:
    """Who posts before there is a process is answered, however it is started."""
    with receiving() as receiver, listening() as listener:
        client = BlockingClient(port_of(listener))
        post(client, b"early")
        with activated(tmp_path, receiver, listener, command=command) as daemon:
            assert answered(client) == 200
            arrived(receiver, b"early")
            daemon.wait_until_usable()
            assert daemon.port == port_of(listener)
            daemon.process.terminate()
            assert daemon.wait() == 0


def test_restart(tmp_path: Path) -> None:
    """From one process to the next nobody is refused."""
    with receiving() as receiver, listening() as listener:
        port, refused, over = port_of(listener), [], threading.Event()

        def knock() -> None:
            while not over.wait(0.005):
                try:
                    socket.create_connection(("127.0.0.1", port), 30).close()
                except ConnectionRefusedError as e:
                    refused.append(e)

        knocking = threading.Thread(target=knock, daemon=True)
        knocking.start()
        with activated(tmp_path, receiver, listener) as daemon:
            daemon.wait_until_usable()
            daemon.process.terminate()
            assert daemon.wait() == 0
        over.set()
        knocking.join(30)
        client = BlockingClient(port)
        post(client, b"between")
        with activated(tmp_path, receiver, listener):
            assert answered(client) == 200
        arrived(receiver, b"between")
        assert refused == []


def test_bounded(tmp_path: Path) -> None:
    """There are no more clients on an inherited socket than there may be."""
    with (
        receiving() as receiver,
        listening() as listener,
        activated(tmp_path, receiver, listener, MAX_CONNECTIONS="1") as daemon,
    ):
        first = BlockingClient(port_of(listener))
        post(first, b"first")
        assert first.answer() is not None
        second = BlockingClient(port_of(listener))
        post(second, b"second")
        wait_for(lambda: daemon.logged(**{"count#log-iss.http.accept.pause": "1"}))
        assert not second.is_readable()
        first.close()
        assert answered(second) == 200


def test_admin(tmp_path: Path) -> None:
    """A socket named admin serves the status page, without ADMIN_PORT."""
    with (
        receiving() as receiver,
        listening() as logs,
        listening() as admin,
        activated(
            tmp_path, receiver, admin, logs, names="admin:logs", ADMIN_PORT=""
        ) as daemon,
    ):
        daemon.wait_until_usable()
        assert daemon.port == port_of(logs)
        assert b"logiss_" in read(port_of(admin), "/metrics")


def read(port: int, path: str) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as client:
        client.request("GET", path)
        return client.getresponse().read()


def test_nameless(tmp_path: Path) -> None:
    """Who opens sockets without naming them is understood too."""
    with (
        receiving() as receiver,
        listening() as listener,
        activated(tmp_path, receiver, listener, names="") as daemon,
    ):
        daemon.wait_until_usable()
        assert daemon.port == port_of(listener)


def test_variables_give_way(tmp_path: Path) -> None:
    """The socket is listened on, not what PORT and LISTEN_HOST say."""
    with (
        receiving() as receiver,
        listening() as listener,
        activated(
            tmp_path, receiver, listener, PORT="1", LISTEN_HOST="192.0.2.1"
        ) as daemon,
    ):
        daemon.wait_until_usable()
        assert daemon.port == port_of(listener)


def refusal(folder: Path, command: list[str], *sockets: socket.socket) -> str:
    done = subprocess.run(
        [*command, sys.executable, "-m", "logiss", "run", "--with-receiver"],
        cwd=folder,
        env={"PATH": os.defpath},
        pass_fds=[each.fileno() for each in sockets],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


def test_refused(tmp_path: Path) -> None:
    """What cannot be listened on ends the start with a line that names LISTEN_FDS."""
    with listening() as listener, closing(socket.socket()) as mute:
        stranger = launcher("logs", [listener], pid="1")
        line = refusal(tmp_path, stranger, listener)
        assert line.startswith('logiss: LISTEN_FDS: the sockets are for process "1"')
        line = refusal(tmp_path, launcher("logs", [mute]), mute)
        assert line.startswith('logiss: LISTEN_FDS: descriptor 3 ("logs") is no list')


def systemd_socket_activate() -> str:
    program = shutil.which("systemd-socket-activate")
    if program is None:
        reason = "systemd-socket-activate is missing (Debian: apt-get install systemd)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


def test_systemd(tmp_path: Path) -> None:
    """systemd's own launcher: the first post starts logiss and is answered."""
    program, port, admin = systemd_socket_activate(), unused_port(), unused_port()
    variables = {
        "DEPLOY": "test",
        "TOKEN_MAP": "user:a:token",
        "PYTHONUNBUFFERED": "1",
    }
    with receiving() as receiver:
        variables["FORWARD_DEST"] = f"127.0.0.1:{receiver.port}"
        told = [f"--setenv={name}={value}" for name, value in variables.items()]
        where = [f"--listen=127.0.0.1:{number}" for number in (port, admin)]
        launcher = shlex.join([program, *where, "--fdname=logs:admin", *told])
        with running("python", tmp_path, launcher=launcher) as daemon:
            wait_for(lambda: is_listening(port) and is_listening(admin))
            client = BlockingClient(port)
            post(client, b"first")
            assert answered(client) == 200
            arrived(receiver, b"first")
            assert b"answers" in read(admin, "/status.json")
            daemon.process.terminate()
            assert daemon.wait() == 0


def test_systemd_workers(tmp_path: Path) -> None:
    """With several workers, too; its sockets are kept over SIGHUP."""
    program, port, admin = systemd_socket_activate(), unused_port(), unused_port()
    variables = {
        "DEPLOY": "test",
        "TOKEN_MAP": "user:a:token",
        "PYTHONUNBUFFERED": "1",
        "WEB_CONCURRENCY": "2",
    }
    with receiving() as receiver:
        variables["FORWARD_DEST"] = f"127.0.0.1:{receiver.port}"
        told = [f"--setenv={name}={value}" for name, value in variables.items()]
        where = [f"--listen=127.0.0.1:{number}" for number in (port, admin)]
        launcher = shlex.join([program, *where, "--fdname=logs:admin", *told])
        with running("python", tmp_path, launcher=launcher) as daemon, ending(daemon):
            wait_for(lambda: is_listening(port) and is_listening(admin))
            client = BlockingClient(port)
            post(client, b"first")
            assert answered(client) == 200
            arrived(receiver, b"first")
            both = Crew(daemon)
            assert both.port == port
            first = set(both.pids().values())
            daemon.signal(signal.SIGHUP)
            wait_for(lambda: daemon.logged(ns="main", at="executed"))
            both.wait_for_prepared(4)
            assert not first & set(both.pids().values())
            both.wait_for_all_to_serve()
            assert b"answers" in read(admin, "/status.json")
            daemon.process.terminate()
            assert daemon.wait() == 0
            assert not is_listening(port)
