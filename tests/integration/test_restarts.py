"""
SIGHUP: everything becomes new, and no client notices. What each client has seen and
what the receiver has is counted, message by message.
"""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

import logiss
from tests.faults.ledger import Ledger
from tests.faults.load import Client, Poster, request
from tests.integration.daemons import receiving, wait_for
from tests.integration.restarts import (
    PREPARE_SECONDS,
    RUN,
    Crowd,
    Restarted,
    arrived,
    is_alive,
    one_post,
    post_on,
    restarting,
)

#: Twenty in all.
LOADS = [
    ("fast", "2", 7),
    ("fast", "1", 7),
    ("stock", "1", 3),
    ("stock", "2", 3),
]
PROXY = b"PROXY TCP4 127.0.0.1 127.0.0.1 5555 80\r\n"


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Restarted]]:
    """
    Two that are told to forward, or to take credentials from, where nobody listens.
    To find that out takes its time, so that they begin first.
    """
    with ExitStack() as stack:
        all_of_them = []
        for change in (
            {"FORWARD_DEST": f"127.0.0.1:{_free_port()}"},
            {
                "REDIS_URL": f"redis://127.0.0.1:{_free_port()}",
                "REDIS_KEY": "users",
                "HMAC_KEY": "key",
            },
        ):
            receiver = stack.enter_context(receiving())
            folder = tmp_path_factory.mktemp("hopeless")
            restarted = stack.enter_context(restarting(folder, receiver))
            restarted.write(**change)
            restarted.hang_up()
            all_of_them.append(restarted)
        yield all_of_them


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _check_unnoticed(restarted: Restarted, crowd: Crowd) -> None:
    """Nobody has noticed anything, and every message is there once."""
    counts = crowd.counts(restarted.receiver)
    assert not crowd.complaints, crowd.complaints[:5]
    assert counts.sent == counts.accepted == counts.delivered > 0
    assert (counts.lost, counts.duplicated) == (0, 0)
    assert (counts.altered, counts.unknown) == (0, 0)


def _descriptors(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/fd")
    found = [os.readlink(each).partition(":")[0] for each in folder.iterdir()]
    return sorted(found)


@pytest.mark.usefixtures("hopeless")
@pytest.mark.parametrize(("channel", "count", "times"), LOADS)
def test_load(tmp_path: Path, channel: str, count: str, times: int) -> None:
    """
    Restarts under load: no connection is refused or ends without an answer, no answer
    is another than 200, no message is missing or there twice. The process stays the
    same, with as many workers and descriptors as before, and no dead ones.
    """
    proxied = count == "2"
    with (
        receiving() as receiver,
        restarting(
            tmp_path,
            receiver,
            HTTP_CHANNEL=channel,
            WEB_CONCURRENCY=count,
            PROXY_PROTOCOL=str(int(proxied)),
        ) as restarted,
    ):
        pid = restarted.daemon.process.pid
        crowd = Crowd(restarted.port)
        crowd.begin(4, 3, PROXY if proxied else b"")
        restarted.restart()
        wait_for(lambda: len(restarted.workers()) == int(count))
        descriptors = _descriptors(pid)
        for _ in range(times - 1):
            restarted.restart()
        crowd.end()
        _check_unnoticed(restarted, crowd)
        wait_for(lambda: len(restarted.workers()) == int(count))
        wait_for(lambda: _descriptors(pid) == descriptors)
        workers = restarted.workers()
        assert restarted.end() == 0
        assert not any(map(is_alive, workers))


def _begun(port: int, number: int, head: bytes, size: int) -> tuple[Client, bytes]:
    """A client that has sent `size` octets of a post, and the rest of it."""
    client = Client(port)
    client.connect()
    post, body = Poster(RUN, number, Ledger()).new(1)
    octets = request(post, body)
    client.send(head + octets[:size])
    return client, octets[size:]


@pytest.mark.parametrize(
    ("channel", "count", "head"), [("fast", "1", b""), ("stock", "2", PROXY)]
)
def test_clients_who_wait(
    tmp_path: Path, channel: str, count: str, head: bytes
) -> None:
    """
    Whoever was connected before and posts behind the restart, goes on with a request
    that it had begun, or posts several times at once has a 200 for each post, and the
    last of them ends the connection. Other restarts may come meanwhile.
    """
    with (
        receiving() as receiver,
        restarting(
            tmp_path,
            receiver,
            HTTP_CHANNEL=channel,
            WEB_CONCURRENCY=count,
            PROXY_PROTOCOL=str(int(bool(head))),
        ) as restarted,
    ):
        port = restarted.port
        idle = one_post(port, 1, head=head)
        pipelining = one_post(port, 2, head=head)
        silent = Client(port)
        silent.connect()
        in_head, rest_of_head = _begun(port, 3, head, 20)
        in_body, rest_of_body = _begun(port, 4, head, 250)
        time.sleep(0.1)
        executes = count != "1"
        restarted.restart(executes=executes)
        restarted.restart(executes=executes)
        assert post_on(one_post(port, 5, head=head), 6) == (200, "")

        assert post_on(idle, 7) == (200, "close")
        silent.send(head)
        assert post_on(silent, 8) == (200, "close")
        for client, rest in ((in_head, rest_of_head), (in_body, rest_of_body)):
            client.send(rest)
            answer = client.receive()
            assert (answer.code, answer.headers[b"connection"]) == (200, b"close")
        poster = Poster(RUN, 9, Ledger())
        posts = [request(*poster.new(1)) for _ in range(3)]
        pipelining.send(b"".join(posts))
        answers = pipelining.receive_many(3)
        assert [answer.code for answer in answers] == [200, 200, 200]
        ends = [b"connection" in answer.headers for answer in answers]
        assert ends == [False, False, True]
        wait_for(lambda: arrived(receiver) == 11)
        if not executes:
            wait_for(lambda: restarted.executions == 1)
        assert restarted.end() == 0


def test_refused(tmp_path: Path) -> None:
    """
    A configuration that is no good is refused, a line for each mistake, and everything
    goes on as it was; the next good one is taken.
    """
    with (
        receiving() as receiver,
        restarting(tmp_path, receiver) as restarted,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        client = one_post(restarted.port, 1)
        good = restarted.file.read_text()
        restarted.file.write_text(f"{good}DRAIN_DELAY=soon\nDELIVERY=perhaps\n")
        first, second = sorted(restarted.refuse())
        assert first.startswith("DELIVERY: must be")
        assert second.startswith("DRAIN_DELAY: must be")
        restarted.file.write_text(f"{good}SECRET\n")
        (line,) = restarted.refuse()
        assert line.startswith("ENV_FILE: line 4 of ")
        assert "SECRET" not in line
        restarted.file.unlink()
        (line,) = restarted.refuse()
        assert "No such file" in line
        port = taken.getsockname()[1]
        restarted.file.write_text(f"{good}PORT={port}\n")
        (line,) = restarted.refuse()
        assert line.startswith(f"PORT: cannot listen on 127.0.0.1:{port}: Address")
        assert not restarted.workers()
        assert post_on(client, 2) == (200, "")
        restarted.file.write_text(good)
        restarted.restart(executes=False)
        assert post_on(client, 3) == (200, "close")
        assert post_on(one_post(restarted.port, 4), 5) == (200, "")
        wait_for(lambda: restarted.executions == 1)
        assert restarted.end() == 0


def _page(port: int) -> dict[str, object]:
    with urlopen(f"http://127.0.0.1:{port}/status.json", timeout=10) as answer:
        page: dict[str, object] = json.load(answer)
    return page


def test_changes(tmp_path: Path) -> None:
    """
    What is in the file at SIGHUP counts from then on, ports and the number of workers
    as well; whoever is connected to the old port is served to the end.
    """
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        other = stack.enter_context(receiving())
        restarted = stack.enter_context(restarting(tmp_path, receiver, "twist"))
        port, admin_port, next_port = restarted.port, _free_port(), _free_port()
        client = one_post(port, 1)
        restarted.write(
            TOKEN_MAP="somebody:else",
            FORWARD_DEST=f"127.0.0.1:{other.port}",
            DEPLOY="changed",
            PORT=str(next_port),
            WEB_CONCURRENCY="3",
            ADMIN_PORT=str(admin_port),
            HTTP_CHANNEL="stock",
        )
        restarted.restart(executes=False)
        wait_for(lambda: len(restarted.workers()) == 3)
        assert restarted.logged(source="changed", worker="3", http="stock")
        assert _page(admin_port)["instance"] == "changed"
        newcomer = Client(next_port)
        newcomer.connect()
        assert post_on(newcomer, 2)[0] == 401
        newcomer.close()
        with pytest.raises(ConnectionRefusedError):
            Client(port).connect()
        # The old ones know the old credentials, and the old destination.
        assert post_on(client, 3) == (200, "close")
        wait_for(lambda: arrived(receiver) == 2)
        wait_for(lambda: restarted.executions == 1)
        restarted.write(
            TOKEN_MAP="faults:token", WEB_CONCURRENCY="1", ADMIN_PORT=str(port)
        )
        restarted.restart()
        wait_for(lambda: len(restarted.workers()) == 1)
        assert post_on(one_post(next_port, 4), 5) == (200, "")
        wait_for(lambda: arrived(other) == 2)
        assert _page(port)["instance"] == "changed"
        with pytest.raises(ConnectionRefusedError):
            Client(admin_port).connect()
        assert restarted.end() == 0


def test_one_after_the_other(tmp_path: Path) -> None:
    """Signals that come while a restart is under way make one more, behind it."""
    with (
        receiving() as receiver,
        restarting(tmp_path, receiver, WEB_CONCURRENCY="2") as restarted,
    ):
        crowd = Crowd(restarted.port)
        crowd.begin(2, 2)
        for _ in range(8):
            restarted.hang_up()
            time.sleep(0.05)
        reloads = len(restarted.logged(ns="main", at="reload"))
        wait_for(lambda: restarted.executions >= max(reloads, 2))
        wait_for(lambda: len(restarted.workers()) == 2)
        crowd.end()
        _check_unnoticed(restarted, crowd)
        assert restarted.end() == 0


@pytest.mark.parametrize(
    ("count", "moment"),
    [
        ("1", {"ns": "workers", "at": "start"}),
        ("1", {"ns": "http", "at": "leave"}),
        ("2", {"ns": "main", "at": "reload"}),
        ("2", {"ns": "main", "at": "executed"}),
    ],
)
def test_stopped_meanwhile(tmp_path: Path, count: str, moment: dict[str, str]) -> None:
    """
    SIGTERM while a restart is under way drains whoever serves, old and new: exit code
    0, nothing that was answered 200 is missing, and no process stays.
    """
    with (
        receiving() as receiver,
        restarting(tmp_path, receiver, WEB_CONCURRENCY=count) as restarted,
    ):
        crowd = Crowd(restarted.port)
        crowd.begin(2, 2)
        wait_for(lambda: arrived(receiver))
        restarted.hang_up()
        wait_for(lambda: restarted.logged(**moment))
        workers = restarted.workers()
        assert restarted.end() == 0
        crowd.end()
        counts = crowd.counts(receiver)
        assert counts.accepted > 0
        assert (counts.lost, counts.duplicated, counts.unknown) == (0, 0, 0)
        assert {post.code for post in crowd.ledger.posts} <= {200, 503, None}
        assert not any(map(is_alive, workers))


def _installed(folder: Path) -> Path:
    """A copy of the package, to be changed."""
    package = folder / "installed" / "logiss"
    source = Path(logiss.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def test_upgrade(tmp_path: Path) -> None:
    """
    SIGHUP takes the code that is installed then, in the workers and in their parent,
    which is the same process as before. Code that does not start is refused, whoever
    would need it.
    """
    package, admin_port = _installed(tmp_path), _free_port()
    with (
        receiving() as receiver,
        restarting(
            tmp_path,
            receiver,
            env={"PYTHONPATH": str(package.parent)},
            ADMIN_PORT=str(admin_port),
        ) as restarted,
    ):
        pid = restarted.daemon.process.pid
        version = package / "_version.py"
        version.write_text('__version__ = "98.7.6"\n')
        restarted.restart()
        wait_for(lambda: _page(admin_port)["version"] == "98.7.6")
        executable = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"logiss\0run" in executable
        descriptors = _descriptors(pid)
        for broken in (version, package / "status.py", package / "parent.py"):
            good = broken.read_text()
            broken.write_text("import nothing_of_that_name\n")
            (line,) = restarted.refuse()
            assert line.startswith("a new worker has ended before it could deliver")
            broken.write_text(good)
        # That of the page may not have been closed yet when they were counted.
        wait_for(lambda: len(_descriptors(pid)) <= len(descriptors))
        assert post_on(one_post(restarted.port, 1), 2) == (200, "")
        assert restarted.end() == 0


def test_broken_behind(tmp_path: Path) -> None:
    """
    Code that was broken after SIGHUP, while clients of the process itself were still
    there, is not executed when they have gone, however it is broken.
    """
    package = _installed(tmp_path)
    with (
        receiving() as receiver,
        restarting(
            tmp_path, receiver, env={"PYTHONPATH": str(package.parent)}
        ) as restarted,
    ):
        client = one_post(restarted.port, 1)
        restarted.restart(executes=False)
        main = package / "daemon.py"
        good = main.read_text()
        main.write_text("")
        assert post_on(client, 2) == (200, "close")
        wait_for(lambda: restarted.refusals)
        (line,) = restarted.refusals
        assert line.startswith("the installed code could not be the parent")
        assert post_on(one_post(restarted.port, 3), 4) == (200, "")
        main.write_text(good)
        restarted.restart()
        assert post_on(one_post(restarted.port, 5), 6) == (200, "")
        assert restarted.end() == 0


def test_twistd(tmp_path: Path) -> None:
    """Under twistd, too, workers are new after SIGHUP; the parent stays what it is."""
    with (
        receiving() as receiver,
        restarting(tmp_path, receiver, "twistd") as restarted,
    ):
        client = one_post(restarted.port, 1)
        for _ in range(2):
            restarted.restart(executes=False)
        assert post_on(client, 2) == (200, "close")
        assert post_on(one_post(restarted.port, 3), 4) == (200, "")
        wait_for(lambda: len(restarted.workers()) == 1)
        assert restarted.end() == 0
        assert restarted.executions == 0


def _health(port: int, path: str) -> int:
    client = Client(port)
    client.connect()
    client.send(b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
    code = client.receive().code
    client.close()
    return code


def test_drain_delay(tmp_path: Path) -> None:
    """
    During DRAIN_DELAY, health checks get 503 and posts their 200, which ends the
    connection; behind it everything is drained. A second signal ends it at once.
    """
    with receiving() as receiver, ExitStack() as stack:
        folders = [tmp_path / "first", tmp_path / "second"]
        for folder in folders:
            folder.mkdir()
        first, second = (
            stack.enter_context(
                restarting(folder, receiver, DRAIN_DELAY=delay, WEB_CONCURRENCY=count)
            )
            for folder, delay, count in zip(
                folders, ("1", "1h"), ("1", "2"), strict=True
            )
        )
        client = one_post(first.port, 1)
        for restarted in (first, second):
            restarted.daemon.signal(signal.SIGTERM)
            wait_for(lambda: restarted.logged(at="drain-delay"))  # noqa: B023
            assert _health(restarted.port, "health") == 503
            assert _health(restarted.port, "ready") == 503
        assert post_on(client, 2) == (200, "close")
        newcomer = Client(second.port)
        newcomer.connect()
        assert post_on(newcomer, 3) == (200, "close")
        assert first.daemon.wait() == 0
        assert first.logged(ns="main", at="drain")
        workers = second.workers()
        second.daemon.signal(signal.SIGTERM)
        assert second.daemon.wait() == 128 + signal.SIGTERM
        wait_for(lambda: not any(map(is_alive, workers)))
        assert arrived(receiver) == 3


def test_hopeless(hopeless: list[Restarted]) -> None:
    """
    New workers that could not deliver, while the old ones can, are given up, and the
    old ones go on.
    """
    for restarted in hopeless:
        wait_for(lambda: restarted.refusals)  # noqa: B023
        (line,) = restarted.refusals
        assert line.startswith(
            f"the new workers could not deliver within {PREPARE_SECONDS}"
        )
        wait_for(lambda: not restarted.workers())  # noqa: B023
        for number in (0, 2):
            client = one_post(restarted.port, number)
            assert post_on(client, number + 1) == (200, "")
            client.close()
        wait_for(lambda: arrived(restarted.receiver) == 4)  # noqa: B023
        destination = f"127.0.0.1:{restarted.receiver.port}"
        restarted.write(FORWARD_DEST=destination, REDIS_URL="")
        restarted.restart()
        assert restarted.end() == 0
