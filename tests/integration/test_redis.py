"""The daemon with a real Redis: credentials that rotate, and all that can go wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.front import basic, framed, message, request
from tests.integration.daemons import (
    BlockingClient,
    Daemon,
    receiving,
    running,
    wait_for,
)
from tests.integration.redises import (
    HMAC_KEY,
    KEY,
    RedisServer,
    credential,
    redis_server,
)

REFRESHED = "count#log-iss.credentials.refresh.success"
FAILED = "count#log-iss.credentials.refresh.error"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@contextmanager
def logiss(folder: Path, url: str, **variables: str) -> Iterator[Daemon]:
    """A daemon that takes its credentials from Redis."""
    more = {
        "TOKEN_MAP": "",
        "REDIS_URL": url,
        "REDIS_KEY": KEY,
        "HMAC_KEY": HMAC_KEY,
        "CREDENTIAL_REFRESH_INTERVAL": "1",
        **variables,
    }
    with receiving() as receiver:
        more["FORWARD_DEST"] = f"127.0.0.1:{receiver.port}"
        with running("twist", folder, **more) as daemon:
            daemon.wait_until_usable()
            yield daemon


def url_of(redis: RedisServer, login: str = "") -> str:
    return f"redis://{login}127.0.0.1:{redis.port}"


def answer(daemon: Daemon, octets: bytes) -> Any:
    client = BlockingClient(daemon.port)
    try:
        client.send(octets)
        return client.answer()
    finally:
        client.close()


def post(daemon: Daemon, user: str, password: str) -> int:
    """The status of a post with these credentials."""
    headers: dict[str, str | None] = {"Authorization": basic(user, password)}
    code: int = answer(daemon, request(framed(message()), headers=headers)).code
    return code


def ready(daemon: Daemon) -> int:
    code: int = answer(daemon, request(method="GET", path="/ready")).code
    return code


def test_served(redis: RedisServer, tmp_path: Path) -> None:
    """Who is in Redis is served, and nobody else."""
    redis.hold("app", credential("old", "v1"), credential("new", "v2"))
    with logiss(tmp_path, url_of(redis)) as daemon:
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        assert ready(daemon) == 200
        assert post(daemon, "app", "old") == 200
        assert post(daemon, "app", "new") == 200
        assert post(daemon, "app", "other") == 401
        assert post(daemon, "other", "new") == 401
