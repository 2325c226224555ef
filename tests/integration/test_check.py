"""
``logiss check`` connects as logiss would: to backends over TCP, TLS and RELP, and to a
real Redis.
"""

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from attrs import evolve

from logiss.preflight import Result, preflight
from logiss.variables import BackendPEM, Destination, RedisURL, parse_pem_file
from tests.integration.backends import (
    SETTINGS,
    Backend,
    FakeResolver,
    TLSBackend,
    close,
    listening,
    never_read,
    reactor,
    resolving,
    within,
)
from tests.integration.daemons import receiving
from tests.integration.redises import (
    HMAC_KEY,
    KEY,
    RedisServer,
    credential,
    redis_server,
)
from tests.integration.relp_backends import RELPBackend, RELPTLSBackend, never_open

NOW = datetime.now(UTC)
#: What has no quick answer is given up after this.
CONNECT_SECONDS = 2.0


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


def pem(folder: Path, ca: trustme.CA, *more: bytes) -> BackendPEM:
    path = folder / "backend.pem"
    path.write_bytes(b"".join([ca.cert_pem.bytes(), *more]))
    return parse_pem_file(str(path))


def context(
    ca: trustme.CA, *names: str, not_after: datetime | None = None
) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names, not_after=not_after).configure_cert(made)
    return made


async def tried(*to: Destination, now: datetime = NOW, **more: Any) -> list[Result]:
    """What comes of trying it out; nothing stays open."""
    settings = evolve(
        SETTINGS,
        forward_dest=to,
        forward_dest_connect_timeout_seconds=CONNECT_SECONDS,
        **more,
    )
    found: list[Result] = await preflight(reactor, settings, now)
    for result in found:
        assert result.words.isprintable()
    return found


def lines(results: list[Result]) -> list[str]:
    return [f"{r.level}: {r.variable}: {r.words}" for r in results]


# destinations


@pytest_twisted.ensureDeferred
@within(30)
async def test_tcp() -> None:
    """One that takes connections is ok, and gets no frame."""
    async with listening(Backend()) as backend:
        to = backend.destination
        assert lines(await tried(to)) == [
            f"ok: FORWARD_DEST: {to}: connected to 127.0.0.1, without TLS"
        ]
        (connection,) = backend.connections
        assert connection.raw == b""


@pytest_twisted.ensureDeferred
@within(30)
async def test_several() -> None:
    """Each has its lines, in their order, whatever becomes of the others."""
    refusing = socket.socket()
    refusing.bind(("127.0.0.1", 0))
    dead = Destination("127.0.0.1", refusing.getsockname()[1])
    async with listening(Backend()) as backend:
        found = await tried(dead, backend.destination, dead)
    refusing.close()
    assert [(r.level, r.words.split(": ")[0]) for r in found] == [
        ("error", str(dead)),
        ("ok", str(backend.destination)),
    ]
    assert "refused" in found[0].words


@pytest_twisted.ensureDeferred
@within(30)
async def test_names() -> None:
    """The addresses of a name are shown; a name without one is an error."""
    async with resolving(FakeResolver("127.0.0.1")), listening(Backend()) as backend:
        to = Destination("syslog.example.com", backend.port)
        assert lines(await tried(to)) == [
            f"ok: FORWARD_DEST: {to}: syslog.example.com is 127.0.0.1",
            f"ok: FORWARD_DEST: {to}: connected to 127.0.0.1, without TLS",
        ]
    found = await tried(Destination("no-such-host.invalid", 601))
    assert lines(found) == [
        "error: FORWARD_DEST: no-such-host.invalid:601: 'no-such-host.invalid' has no"
        " address; correct it, or see to DNS"
    ]


class SilentResolver(FakeResolver):
    """A name service that does not answer."""

    def resolveHostName(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        return None


@pytest_twisted.ensureDeferred
@within(30)
async def test_silent_dns() -> None:
    """A name service that does not answer is not waited for."""
    async with resolving(SilentResolver("")):
        found = await tried(Destination("syslog.example.com", 601))
    assert lines(found) == [
        "error: FORWARD_DEST: syslog.example.com:601: no answer of DNS within 2 s"
    ]


@pytest_twisted.ensureDeferred
@within(30)
async def test_tls(tmp_path: Path, ca: trustme.CA) -> None:
    """The names and the end of the certificate are shown."""
    backend = TLSBackend(context(ca, "127.0.0.1", "syslog.example.com"))
    async with listening(backend):
        connected, shown, kept = sorted(
            await tried(backend.destination, pem=pem(tmp_path, ca)),
            key=lambda result: result.variable,
        )
    assert connected.words.endswith("connected to 127.0.0.1, TLS 1.3")
    assert "its certificate is for syslog.example.com, 127.0.0.1; expires" in (
        shown.words
    )
    assert [r.level for r in (connected, shown, kept)] == ["ok"] * 3
    assert (kept.variable, kept.words) == ("PEMFILE", "1 certificate")


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.parametrize(
    ("days", "level", "words"),
    [(30, "ok", "in 30 days"), (20, "warning", "in 20 days; renew it")],
)
async def test_expires_soon(
    tmp_path: Path, ca: trustme.CA, days: int, level: str, words: str
) -> None:
    """A certificate that ends within three weeks is a warning."""
    ends = NOW + timedelta(days=days, hours=1)
    backend = TLSBackend(context(ca, "127.0.0.1", not_after=ends))
    async with listening(backend):
        found = await tried(backend.destination, pem=pem(tmp_path, ca))
    (shown,) = (r for r in found if "its certificate" in r.words)
    assert (shown.level, shown.words.endswith(words)) == (level, True), shown


@pytest_twisted.ensureDeferred
@within(30)
async def test_expired(tmp_path: Path, ca: trustme.CA) -> None:
    """One that has ended is an error, and when it has ended is shown all the same."""
    ends = NOW - timedelta(days=2)
    backend = TLSBackend(context(ca, "127.0.0.1", not_after=ends))
    async with listening(backend):
        found = await tried(backend.destination, pem=pem(tmp_path, ca))
    errors = [r.words for r in found if r.level == "error"]
    assert "has expired" in errors[0]
    assert f"has expired on {ends:%Y-%m-%d %H:%M} UTC; renew it" in errors[1]


@pytest_twisted.ensureDeferred
@within(30)
async def test_another_name(tmp_path: Path, ca: trustme.CA) -> None:
    """A certificate for somebody else is an error, and whose it is is shown."""
    backend = TLSBackend(context(ca, "other.example.com"))
    async with listening(backend):
        found = await tried(backend.destination, pem=pem(tmp_path, ca))
    shown = [r for r in found if r.variable == "FORWARD_DEST"]
    assert [r.level for r in shown] == ["error", "ok"]
    assert "is for another name than '127.0.0.1'" in shown[0].words
    assert "is for other.example.com;" in shown[1].words


@pytest_twisted.ensureDeferred
@within(30)
async def test_unknown_authority(tmp_path: Path, ca: trustme.CA) -> None:
    """A certificate that leads elsewhere is an error that says so."""
    backend = TLSBackend(context(trustme.CA(), "127.0.0.1"))
    async with listening(backend):
        found = await tried(backend.destination, pem=pem(tmp_path, ca))
    (error,) = (r for r in found if r.level == "error")
    assert "not in PEMFILE" in error.words


@pytest_twisted.ensureDeferred
@within(30)
async def test_wants_a_certificate(tmp_path: Path, ca: trustme.CA) -> None:
    """A backend that wants to know who we are, and is not told, is an error."""
    strict = context(ca, "127.0.0.1")
    ca.configure_trust(strict)
    strict.verify_mode = ssl.CERT_REQUIRED
    async with listening(TLSBackend(strict)) as backend:
        found = await tried(backend.destination, pem=pem(tmp_path, ca))
        assert next(r.level for r in found if r.variable == "FORWARD_DEST") == "error"
        ours = ca.issue_cert("logiss.example.com").private_key_and_cert_chain_pem
        kept = pem(tmp_path, ca, ours.bytes())
        found = await tried(backend.destination, pem=kept)
    assert [r.level for r in found] == ["ok"] * len(found)
    assert "a private key that fits one" in found[0].words


@pytest_twisted.ensureDeferred
@within(30)
async def test_not_tls(tmp_path: Path, ca: trustme.CA) -> None:
    """With PEMFILE, a backend that does not speak TLS is an error."""
    backend = Backend()
    backend.on_connection = close
    async with listening(backend):
        found = await tried(backend.destination, pem=pem(tmp_path, ca))
    assert [r.level for r in found if r.variable == "FORWARD_DEST"] == ["error"]


@pytest_twisted.ensureDeferred
@within(30)
async def test_silent(tmp_path: Path, ca: trustme.CA) -> None:
    """One that never answers is given up in time."""
    backend = Backend()
    backend.on_connection = never_read
    async with listening(backend):
        found = await tried(backend.destination, pem=pem(tmp_path, ca))
    (error,) = (r for r in found if r.level == "error")
    assert "no usable connection within 2 s; see to that receiver" in error.words


@pytest_twisted.ensureDeferred
@within(30)
async def test_relp(tmp_path: Path, ca: trustme.CA) -> None:
    """A RELP session is opened and closed, over TCP and TLS."""
    tls = RELPTLSBackend(context(ca, "127.0.0.1"))
    async with listening(RELPBackend()) as plain, listening(tls):
        found = await tried(plain.destination)
        assert [r.words for r in found] == [
            f"{plain.destination}: connected to 127.0.0.1, RELP, without TLS"
        ]
        assert [command for _, command in plain.sessions[0].commands] == [
            b"open",
            b"close",
        ]
        found = await tried(tls.destination, pem=pem(tmp_path, ca))
        assert found[1].words.endswith("connected to 127.0.0.1, RELP, TLS 1.3")


@pytest_twisted.ensureDeferred
@within(30)
async def test_not_relp() -> None:
    """A backend that takes connections and does not speak RELP is an error."""
    backend = RELPBackend()
    backend.on_open = never_open
    async with listening(backend):
        (error,) = await tried(backend.destination)
    assert error.level == "error"


# PEMFILE


@pytest_twisted.ensureDeferred
@within(30)
async def test_pem_expires(tmp_path: Path, ca: trustme.CA) -> None:
    """An authority that has ended is an error, whoever is connected to."""
    async with listening(TLSBackend(context(ca, "127.0.0.1"))) as backend:
        later = datetime(3001, 1, 1, tzinfo=UTC)
        found = await tried(backend.destination, pem=pem(tmp_path, ca), now=later)
    (expired,) = (r for r in found if r.variable == "PEMFILE" and r.level == "error")
    assert "a certificate in it is for" in expired.words
    assert "has expired on" in expired.words


# Redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


async def tried_redis(redis: RedisServer, **more: Any) -> list[str]:
    async with listening(Backend()) as backend:
        found = await tried(
            backend.destination,
            redis_url=RedisURL("127.0.0.1", redis.port),
            redis_key=KEY,
            **more,
        )
    return lines(found[1:])


@pytest_twisted.ensureDeferred
@within(60)
async def test_redis(redis: RedisServer) -> None:
    """Users and credentials are counted; who is also in TOKEN_MAP is named."""
    redis.hold("ada", credential("one"), credential("two"))
    redis.hold("test", credential("one"))
    assert await tried_redis(redis) == [
        f"ok: REDIS_URL: redis://127.0.0.1:{redis.port}/0: 2 users with 3 credentials",
        "note: TOKEN_MAP: test: also in Redis, which counts, not this",
    ]


@pytest_twisted.ensureDeferred
@within(60)
async def test_broken_entries(redis: RedisServer) -> None:
    """Each entry that cannot be read is a warning with what is wrong, up to ten."""
    redis.hold("ada", credential("one"))
    for n in range(12):
        redis.command("HSET", KEY, f"eve\x1b{n:02}", "{")
    found = await tried_redis(redis)
    assert len(found) == 12
    assert "the entry of 'eve\N{REPLACEMENT CHARACTER}" in found[0]
    assert found[0].startswith("warning: REDIS_KEY: ")
    assert "it is not JSON; it is skipped" in found[0]
    assert "warning: REDIS_KEY: 2 more entries that cannot be read" in found


@pytest_twisted.ensureDeferred
@within(60)
async def test_empty_hash(redis: RedisServer) -> None:
    """A hash that is not there is an error, unless it is said to be meant."""
    (line,) = await tried_redis(redis)
    assert line.startswith(f"error: REDIS_KEY: the hash '{KEY}' is empty or not there")
    (line,) = await tried_redis(redis, allow_empty_credentials=True)
    assert line.endswith("0 users with 0 credentials")


@pytest_twisted.ensureDeferred
@within(60)
async def test_redis_password(redis: RedisServer) -> None:
    """A wrong password is an error that does not repeat it."""
    redis.command("CONFIG", "SET", "requirepass", "opensesame")
    async with listening(Backend()) as backend:
        url = RedisURL("127.0.0.1", redis.port, password="hunter2")
        found = await tried(backend.destination, redis_url=url, redis_key=KEY)
    assert found[-1].level == "error"
    assert "WRONGPASS" in found[-1].words
    assert "hunter2" not in found[-1].words


@pytest_twisted.ensureDeferred
@within(60)
async def test_redis_down(redis: RedisServer) -> None:
    """A Redis that is not there is an error that names it."""
    redis.kill()
    (line,) = await tried_redis(redis)
    assert line.startswith(f"error: REDIS_URL: redis://127.0.0.1:{redis.port}/0: ")


@pytest_twisted.ensureDeferred
@within(60)
async def test_dedupe(redis: RedisServer) -> None:
    """The table of retried posts is tried out as posts would use it."""
    more: dict[str, Any] = {"dedupe_redis": True, "dedupe_timeout_seconds": 1.0}
    url = f"redis://127.0.0.1:{redis.port}/0"
    redis.hold("ada", credential("one"))
    assert await tried_redis(redis, **more) == [
        f"ok: REDIS_URL: {url}: 1 user with 1 credential",
        f"ok: DEDUPE_REDIS: {url}: keys that begin with logiss:id: can be written and"
        " read",
    ]
    assert redis.keys() == [KEY.encode()]
    # For this alone, and not allowed to.
    redis.command("ACL", "SETUSER", "default", "-eval")
    redis_key, dedupe = "", {**more, "redis_url": RedisURL("127.0.0.1", redis.port)}
    async with listening(Backend()) as backend:
        found = await tried(backend.destination, redis_key=redis_key, **dedupe)
    (line,) = lines(found[1:])
    assert line.startswith(f"error: DEDUPE_REDIS: {url}: NOPERM")
    assert line.endswith("; see to that Redis, or unset DEDUPE_REDIS")


# the command


def run(
    folder: Path, *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "logiss", "check", *options],
        cwd=folder,
        env={"PATH": os.defpath, "PYTHONPATH": os.getcwd(), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_command(tmp_path: Path) -> None:
    """Good is 0, an error 1; nothing goes to stderr, and PORT may be taken."""
    with receiving() as receiver, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environ = {
            "DEPLOY": "eu-1",
            "PORT": str(taken.getsockname()[1]),
            "LISTEN_HOST": "127.0.0.1",
            "TOKEN_MAP": "app:hunter2",
            "DELIVERY_TIMEOUT": "4.5",
            "HMAC_KEY": HMAC_KEY,
            "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
        }
        done = run(tmp_path, **environ)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith(": connected to 127.0.0.1, without TLS\n")
        assert "hunter2" not in done.stdout
        assert HMAC_KEY not in done.stdout
        assert receiver.frames == []
        done = run(tmp_path, "--brief", **environ)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run(tmp_path, "--brief", **environ)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("error: FORWARD_DEST: 127.0.0.1:")


def test_reader_gone(tmp_path: Path) -> None:
    """Who reads no further is told no more."""
    program = [sys.executable, "-m", "logiss", "check", "--offline"]
    environ = {"PATH": os.defpath, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        program,
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as checking:
        assert checking.stdout is not None
        assert checking.stderr is not None
        checking.stdout.close()
        assert checking.wait(60) == 1
        assert checking.stderr.read() == b""
