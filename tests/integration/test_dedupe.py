"""Instances that share a table of retried posts in a Redis, and all that Redis does."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.front import framed, message, request
from tests.integration.daemons import (
    BlockingClient,
    Daemon,
    Receiver,
    receiving,
    running,
    wait_for,
)
from tests.integration.redises import RedisServer, redis_server, unused_port
from tests.integration.test_redis import tls_redis

USABLE = {"count#log-iss.dedupe.usable": "1"}
LOST = {"count#log-iss.dedupe.outage": "1"}
CONNECTED = {"count#log-iss.forwarder.connect.success": "1"}
PREFIX = "fleet:a"
_NUMBERS = count(1)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@contextmanager
def instance(
    folder: Path, redis: RedisServer, backend_port: int, **variables: str
) -> Iterator[Daemon]:
    """A daemon with the table; its backend may not be there yet."""
    more = {
        "REDIS_URL": f"redis://127.0.0.1:{redis.port}",
        "DEDUPE_REDIS": "1",
        "DEDUPE_PREFIX": PREFIX,
        # A busy machine is not to be taken for a slow Redis; who has to wait for the
        # word of another has time for many looks then.
        "DEDUPE_TIMEOUT": "2",
        "DELIVERY_TIMEOUT": "40",
        "FORWARD_DEST": f"127.0.0.1:{backend_port}",
        **variables,
    }
    with running("twist", folder, **more) as daemon:
        daemon.wait_until_usable(connections=0)
        wait_for(lambda: daemon.logged(**USABLE))
        yield daemon
        # Whatever goes wrong, it is one of our own lines that says so.
        assert not daemon.logged(ns="twisted")


def octets_of(frame_id: int) -> bytes:
    text = b"post %d" % frame_id
    headers: dict[str, str | None] = {
        "Logplex-Frame-Id": f"{frame_id:032x}",
        "Logplex-Drain-Token": "d.1",
    }
    return request(framed(message(text)), headers=headers)


def posted(daemon: Daemon, frame_id: int) -> tuple[int, bool]:
    """The status, and whether it was a duplicate."""
    client = BlockingClient(daemon.port)
    try:
        client.send(octets_of(frame_id))
        return said(client)
    finally:
        client.close()


def said(client: BlockingClient) -> tuple[int, bool]:
    answer: Any = client.answer()
    assert answer is not None
    return answer.code, answer.headers.get("logiss-duplicate") == "1"


def arrived(receiver: Receiver, frame_id: int) -> int:
    """How often the post has."""
    return sum(b"post %d\n" % frame_id in frame + b"\n" for frame in receiver.frames)


def delivered(key: bytes) -> bytes:
    """What Redis says of `key` once its post was delivered."""
    return b"confirmed:%b\r\n" % key.rpartition(b":")[2]


def test_retry_elsewhere(redis: RedisServer, tmp_path: Path) -> None:
    """
    A retry that comes to another instance is answered as a duplicate, and the backend
    has it once; nothing that a client has sent can be read in Redis.
    """
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        a, b = (
            stack.enter_context(instance(tmp_path, redis, receiver.port))
            for _ in range(2)
        )
        for daemon in (a, b):
            daemon.wait_until_usable()
        assert posted(a, 1) == (200, False)
        assert posted(b, 1) == (200, True)
        assert posted(b, 1) == (200, True)
        assert posted(b, 2) == (200, False)
        assert posted(a, 2) == (200, True)
        wait_for(lambda: arrived(receiver, 1) and arrived(receiver, 2))
        assert [arrived(receiver, 1), arrived(receiver, 2)] == [1, 1]
        keys = redis.keys()
        assert len(keys) == 2
        for key in keys:
            assert key.startswith(b"fleet:a:")
            assert redis.command("GET", key) == delivered(key)
            assert 0 < int(redis.command("TTL", key)[1:]) <= 120
        # The end waits for nobody, and leaves nothing untold.
        assert posted(a, 3) == (200, False)
        a.signal(signal.SIGTERM)
        assert a.wait() == 0
        assert posted(b, 3) == (200, True)


def test_under_way_elsewhere(redis: RedisServer, tmp_path: Path) -> None:
    """A retry of what is under way in another instance waits, and shares its 200."""
    port = unused_port()
    with ExitStack() as stack:
        b_receiver = stack.enter_context(receiving())
        a = stack.enter_context(instance(tmp_path, redis, port))
        b = stack.enter_context(instance(tmp_path, redis, b_receiver.port))
        b.wait_until_usable()
        clients = [BlockingClient(daemon.port) for daemon in (a, b)]
        clients[0].send(octets_of(1))
        wait_for(lambda: len(redis.keys()) == 1)
        clients[1].send(octets_of(1))
        time.sleep(0.3)
        assert not clients[1].is_readable()
        a_receiver = Receiver(port=port)
        try:
            assert said(clients[0]) == (200, False)
            assert said(clients[1]) == (200, True)
            wait_for(lambda: arrived(a_receiver, 1))
            assert arrived(b_receiver, 1) == 0
        finally:
            a_receiver.stop()


def test_ended_elsewhere(redis: RedisServer, tmp_path: Path) -> None:
    """
    What another instance could not deliver, or was killed in the middle of, is
    forwarded: a retry of it is no duplicate.
    """
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        # One that ends soon, and one that does not within the test.
        a = stack.enter_context(
            instance(
                tmp_path, redis, unused_port(), DELIVERY_TIMEOUT="4", DEDUPE_TIMEOUT="1"
            )
        )
        c = stack.enter_context(instance(tmp_path, redis, unused_port()))
        # It waits for another for less than a second, then there is no time for a look.
        b = stack.enter_context(
            instance(
                tmp_path, redis, receiver.port, DELIVERY_TIMEOUT="8", DEDUPE_TIMEOUT="2"
            )
        )
        b.wait_until_usable()
        assert posted(a, 1) == (504, False)
        wait_for(lambda: not redis.keys())
        assert posted(b, 1) == (200, False)
        (first,) = redis.keys()
        client = BlockingClient(c.port)
        client.send(octets_of(2))
        wait_for(lambda: len(redis.keys()) == 2)
        (second,) = set(redis.keys()) - {first}
        c.process.kill()
        assert posted(b, 2) == (200, False)
        wait_for(lambda: arrived(receiver, 1) == arrived(receiver, 2) == 1)
        # The 200 does not wait for the word, nor is `a` to be without the table.
        wait_for(lambda: redis.command("GET", second) == delivered(second))
        wait_for(lambda: len(a.logged(**USABLE)) > len(a.logged(**LOST)))
        assert posted(a, 2) == (200, True)


def test_outages(redis: RedisServer, tmp_path: Path) -> None:
    """
    Whatever becomes of Redis in the middle of traffic, every post is delivered in time;
    when it is well again, so is the table.
    """
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        a, b = (
            stack.enter_context(instance(tmp_path, redis, receiver.port))
            for _ in range(2)
        )
        for daemon in (a, b):
            daemon.wait_until_usable()
        sent: list[int] = []

        def traffic(posts: int) -> None:
            """Distinct posts, each of which has to be forwarded."""
            for frame_id in [next(_NUMBERS) for _ in range(posts)]:
                began = time.monotonic()
                assert posted(a, frame_id) == (200, False)
                assert time.monotonic() - began < 20
                sent.append(frame_id)

        def well_again() -> None:
            for daemon in (a, b):
                wait_for(lambda: len(daemon.logged(**USABLE)) > outages(daemon))  # noqa: B023
            traffic(5)
            assert posted(b, sent[-1]) == (200, True)

        def outages(daemon: Daemon) -> int:
            return len(daemon.logged(**LOST))

        traffic(5)
        # Hangs.
        redis.stop_answering()
        traffic(20)
        assert outages(a) == 1
        redis.go_on()
        # The other notices only when it asks.
        well_again()
        # Dies, and comes back with nothing.
        redis.kill()
        traffic(20)
        wait_for(lambda: outages(a) == 2)
        redis.start()
        well_again()
        # Is emptied: what it has forgotten is forwarded.
        redis.command("FLUSHALL")
        assert posted(b, sent[0]) == (200, False)
        # Has no room, and takes nothing.
        redis.command("CONFIG", "SET", "maxmemory", "1")
        traffic(20)
        wait_for(lambda: "OOM" in a.logged(**LOST)[-1]["message"])
        assert outages(a) == 3
        redis.command("CONFIG", "SET", "maxmemory", "0")
        well_again()
        # Takes no orders from us.
        redis.command("REPLICAOF", "127.0.0.1", str(unused_port()))
        traffic(20)
        wait_for(lambda: "READONLY" in a.logged(**LOST)[-1]["message"])
        assert outages(a) == 4
        redis.command("REPLICAOF", "NO", "ONE")
        well_again()
        # Somebody has put other things where the table is.
        before = outages(b)
        redis.command("FLUSHALL")
        traffic(1)
        (key,) = redis.keys()
        wait_for(lambda: redis.command("GET", key) == delivered(key))
        redis.command("DEL", key)
        redis.command("LPUSH", key, "oops")
        assert posted(b, sent[-1]) == (200, False)
        # The 200 does not wait for it.
        wait_for(lambda: redis.command("TYPE", key) == b"+string")
        assert redis.command("GET", key) == delivered(key)
        assert outages(b) == before
        sent.pop()
        wait_for(lambda: all(arrived(receiver, frame_id) for frame_id in sent))


def test_wrong_password(redis: RedisServer, tmp_path: Path) -> None:
    """A password that Redis refuses stops no post, and is never shown."""
    redis.command("CONFIG", "SET", "requirepass", "right")
    with receiving() as receiver:
        variables = {
            "REDIS_URL": f"redis://:hunter2@127.0.0.1:{redis.port}",
            "DEDUPE_REDIS": "1",
            "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
        }
        with running("twist", tmp_path, **variables) as daemon:
            daemon.wait_until_usable()
            wait_for(lambda: daemon.logged(**LOST))
            assert "WRONGPASS" in daemon.logged(**LOST)[0]["message"]
            assert posted(daemon, 1) == (200, False)
            assert posted(daemon, 1) == (200, True)
            assert "hunter2" not in str(daemon.lines)


def test_tls_and_user(tmp_path: Path) -> None:
    """Over TLS, as a user who may do what the docs say and nothing else."""
    authority = trustme.CA()
    with (
        tls_redis(tmp_path, authority, "localhost") as (redis, port),
        receiving() as receiver,
    ):
        rights = "~logiss:id:* +set +get +eval +del +ping +select"
        redis.command("ACL", "SETUSER", "logiss", "on", ">p@ss", *rights.split())
        variables = {
            "REDIS_URL": f"rediss://logiss:p%40ss@localhost:{port}/3",
            "DEDUPE_PREFIX": "logiss:id",
            "SSL_CERT_FILE": str(tmp_path / "authority.pem"),
        }
        with instance(tmp_path, redis, receiver.port, **variables) as daemon:
            daemon.wait_until_usable()
            assert posted(daemon, 1) == (200, False)
            wait_for(lambda: redis.command("INFO", "keyspace").find(b"db3:keys=1") > 0)
            assert not daemon.logged(**LOST)


def test_workers(redis: RedisServer, tmp_path: Path) -> None:
    """Workers of one process know each other's posts, whichever a retry reaches."""
    with receiving() as receiver:
        variables = {
            "REDIS_URL": f"redis://127.0.0.1:{redis.port}",
            "DEDUPE_REDIS": "1",
            "DEDUPE_TIMEOUT": "2",
            "DELIVERY_TIMEOUT": "40",
            "WEB_CONCURRENCY": "2",
            "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
        }
        with running("python", tmp_path, **variables) as daemon:
            wait_for(lambda: len(daemon.logged(**USABLE)) == 2)
            wait_for(lambda: len(daemon.logged(**CONNECTED)) == 8)
            daemon.port = int(daemon.logged(ns="http", at="listen")[0]["port"])
            answers = [posted(daemon, 1) for _ in range(20)]
            assert answers == [(200, False)] + [(200, True)] * 19
            wait_for(lambda: arrived(receiver, 1))
            workers = {line["worker"] for line in daemon.logged(duplicate="1")}
            assert len(workers) == 2
            assert arrived(receiver, 1) == 1
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
