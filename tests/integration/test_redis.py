"""The daemon with a real Redis: credentials that rotate, and all that can go wrong."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.front import basic, framed, message, request
from tests.integration.daemons import (
    BlockingClient,
    Daemon,
    Receiver,
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
    unused_port,
)

REFRESHED = "count#log-iss.credentials.refresh.success"
SKIPPED = "count#log-iss.credentials.entry.error"
FAILED = "count#log-iss.credentials.refresh.error"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@contextmanager
def logiss_and_receiver(
    folder: Path, url: str, **variables: str
) -> Iterator[tuple[Daemon, Receiver]]:
    """A daemon that takes its credentials from Redis, and where it forwards to."""
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
            yield daemon, receiver
            # Whatever goes wrong, it is one of our own lines that says so.
            assert not daemon.logged(ns="twisted")


@contextmanager
def logiss(folder: Path, url: str, **variables: str) -> Iterator[Daemon]:
    with logiss_and_receiver(folder, url, **variables) as (daemon, _):
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


def test_database_and_user(redis: RedisServer, tmp_path: Path) -> None:
    """User, password and database of the URL are gone by."""
    redis.command("ACL", "SETUSER", "logiss", "on", ">p@ss", "~*", "+@all")
    redis.hold("app", credential("one"))
    url = url_of(redis, "logiss:p%40ss@") + "/3"
    with logiss(tmp_path, url) as daemon:
        # It is in another database yet.
        wait_for(lambda: has_failed(daemon, "the hash is empty or not there"))
        assert post(daemon, "app", "one") == 503
        redis.command("MOVE", KEY, "3")
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        assert post(daemon, "app", "one") == 200
    assert b"cmdstat_auth" in redis.command("INFO", "commandstats")


def test_token_map_until_loaded(tmp_path: Path) -> None:
    """
    Until Redis has answered, users of TOKEN_MAP are served, others are told to come
    again, and it is not ready; then an entry takes the place of TOKEN_MAP's.
    """
    variables = {"TOKEN_MAP": "app:token,bob:two"}
    with redis_server(tmp_path) as redis:
        redis.hold("app", credential("one"))
        redis.stop_answering()
        with logiss(tmp_path, url_of(redis), **variables) as daemon:
            assert post(daemon, "app", "token") == 200
            assert post(daemon, "app", "one") == 503
            assert post(daemon, "eve", "x") == 503
            assert ready(daemon) == 503
            redis.go_on()
            wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
            assert ready(daemon) == 200
            assert post(daemon, "app", "token") == 401
            assert post(daemon, "app", "one") == 200
            assert post(daemon, "bob", "two") == 200
            assert post(daemon, "eve", "x") == 401


class Load:
    """
    Clients that post all the time, each with one password.

    @ivar answers: of each password, when a post began, when it ended, by the clock
        of the machine, and its status.
    """

    def __init__(self, port: int, passwords: Iterable[str]) -> None:
        self.answers: dict[str, list[tuple[float, float, int]]] = {}
        self._stopping = False
        self._threads = []
        for password in passwords:
            self.answers[password] = []
            thread = threading.Thread(target=self._post, args=(port, password))
            self._threads.append(thread)
            thread.start()

    def _post(self, port: int, password: str) -> None:
        client = BlockingClient(port)
        headers: dict[str, str | None] = {"Authorization": basic("app", password)}
        octets = request(framed(message()), headers=headers)
        while not self._stopping:
            began = time.monotonic()
            client.send(octets)
            answer = client.answer()
            assert answer is not None
            ended = time.monotonic()
            self.answers[password].append((began, ended, answer.code))
            time.sleep(0.01)
        client.close()

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def wait_until_in_force(daemon: Daemon) -> None:
    """Wait for two more readings: the second has begun after now."""
    count = len(daemon.logged(**{REFRESHED: "1"}))
    wait_for(lambda: len(daemon.logged(**{REFRESHED: "1"})) >= count + 2)


def test_rotation_under_load(redis: RedisServer, tmp_path: Path) -> None:
    """
    Under load passwords come and go: none is refused while it is in force, none is
    accepted before it has come or once its removal is in force.
    """
    passwords = [f"p{i}" for i in range(4)]
    redis.hold("app", credential("p0", "p0"))
    with logiss(tmp_path, url_of(redis), REQUEST_LOG="errors") as daemon:
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        # Of each: when it may be accepted, must be, need not be any more, must not.
        marks = {"p0": [0.0, time.monotonic()]}
        load = Load(daemon.port, [*passwords, "never"])
        held = ["p0"]
        for coming in [*passwords[1:], None]:
            if coming is not None:
                held = [*held, coming]
                marks[coming] = [time.monotonic()]
                redis.hold("app", *(credential(p, p) for p in held))
                wait_until_in_force(daemon)
                marks[coming].append(time.monotonic())
            if len(held) > 1:
                going, *held = held
                marks[going].append(time.monotonic())
                redis.hold("app", *(credential(p, p) for p in held))
                wait_until_in_force(daemon)
                marks[going].append(time.monotonic())
        load.stop()
        end = time.monotonic()
    seen: Counter[tuple[int, bool]] = Counter()
    for password, answers in load.answers.items():
        may, must, leaves, gone = [*marks.get(password, []), end, end, end, end][:4]
        for began, ended, code in answers:
            assert code in (200, 401)
            if began >= must and ended <= leaves:
                assert code == 200, (password, began, ended)
                seen[code, True] += 1
            if ended <= may or began >= gone:
                assert code == 401, (password, began, ended)
                seen[code, False] += 1
        removal = [began for began, _, code in answers if code == 200][-1:]
        if gone < end:
            print(f"{password}: accepted {removal[0] - leaves:.3f} s after its removal")
    assert seen[200, True] > 100
    assert seen[401, False] > 100


def test_removal_of_user(redis: RedisServer, tmp_path: Path) -> None:
    """A user who is gone is refused on a connection that was let in before."""
    redis.hold("app", credential("one"))
    redis.hold("bob", credential("two"))
    with logiss(tmp_path, url_of(redis)) as daemon:
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        client = BlockingClient(daemon.port)
        octets = request(
            framed(message()), headers={"Authorization": basic("app", "one")}
        )
        codes = []
        for _ in range(2):
            client.send(octets)
            answer = client.answer()
            assert answer is not None
            codes.append(answer.code)
            redis.command("HDEL", KEY, "app")
            wait_until_in_force(daemon)
        client.close()
        assert codes == [200, 401]
        assert post(daemon, "bob", "two") == 200


def test_killed(redis: RedisServer, tmp_path: Path) -> None:
    """
    A Redis that is killed changes nothing, nor does one that comes back without its
    data; what it holds then counts.
    """
    redis.hold("app", credential("one"))
    with logiss(tmp_path, url_of(redis)) as daemon:
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        redis.kill()
        wait_for(lambda: daemon.logged(**{FAILED: "1"}))
        (line, *_) = daemon.logged(**{FAILED: "1"})
        assert line["users"] == "1"
        assert "refused" in line["message"] or "lost" in line["message"]
        assert post(daemon, "app", "one") == 200
        assert ready(daemon) == 200
        redis.start()
        wait_for(lambda: has_failed(daemon, "the hash is empty or not there"))
        assert post(daemon, "app", "one") == 200
        redis.hold("app", credential("new"))
        wait_until_in_force(daemon)
        assert post(daemon, "app", "one") == 401
        assert post(daemon, "app", "new") == 200


def has_failed(daemon: Daemon, why: str) -> bool:
    return any(why in line["message"] for line in daemon.logged(**{FAILED: "1"}))


def test_stopped(redis: RedisServer, tmp_path: Path) -> None:
    """
    A Redis that hangs is given up and asked again; meanwhile posts are answered. The
    end of the process does not wait for it.
    """
    redis.hold("app", credential("one"))
    with logiss(tmp_path, url_of(redis)) as daemon:
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        redis.stop_answering()
        wait_for(
            lambda: (
                post(daemon, "app", "one") == 200
                and has_failed(daemon, "no answer within 5 s")
            )
        )
        assert ready(daemon) == 200
        redis.go_on()
        redis.hold("app", credential("new"))
        wait_until_in_force(daemon)
        assert post(daemon, "app", "one") == 401
        redis.stop_answering()
        failures = len(daemon.logged(**{FAILED: "1"}))
        # Long enough for a reading to be under way.
        time.sleep(1.2)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert len(daemon.logged(**{FAILED: "1"})) == failures
        assert daemon.logged(at="exit")


def test_wrong_type(redis: RedisServer, tmp_path: Path) -> None:
    """A key that is no hash revokes nobody."""
    redis.hold("app", credential("one"))
    with logiss(tmp_path, url_of(redis)) as daemon:
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        redis.command("SET", KEY, "oops")
        wait_for(lambda: has_failed(daemon, "WRONGTYPE"))
        assert post(daemon, "app", "one") == 200
        redis.command("DEL", KEY)
        redis.hold("app", credential("new"))
        wait_until_in_force(daemon)
        assert post(daemon, "app", "new") == 200


def test_wrong_password(redis: RedisServer, tmp_path: Path) -> None:
    """A password that Redis refuses loads nothing, and is never shown."""
    redis.hold("app", credential("one"))
    redis.command("CONFIG", "SET", "requirepass", "right")
    for login, why in [("", "NOAUTH"), (":hunter2@", "WRONGPASS")]:
        with logiss(tmp_path, url_of(redis, login)) as daemon:
            wait_for(lambda: has_failed(daemon, why))  # noqa: B023
            assert post(daemon, "app", "one") == 503
            assert ready(daemon) == 503
            assert "hunter2" not in str(daemon.lines)


def test_bad_json(redis: RedisServer, tmp_path: Path) -> None:
    """Who has a broken entry keeps the last one; the others rotate."""
    redis.hold("app", credential("one"))
    redis.hold("bob", credential("two"))
    with logiss(tmp_path, url_of(redis)) as daemon:
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        redis.command("HSET", KEY, "app", '[{"hmac": "')
        redis.command("HSET", KEY, "eve", "{}")
        redis.hold("bob", credential("new"))
        wait_until_in_force(daemon)
        assert post(daemon, "app", "one") == 200
        assert post(daemon, "bob", "new") == 200
        assert post(daemon, "bob", "two") == 401
        assert post(daemon, "eve", "x") == 401
        skipped = daemon.logged(**{SKIPPED: "1"})
        assert {(line["user"], line["kept"]) for line in skipped} == {
            ("app", "1"),
            ("eve", "0"),
        }


def test_emptied(redis: RedisServer, tmp_path: Path) -> None:
    """A hash that is emptied revokes nobody, unless that is said to be meant."""
    for allowed, code in (("0", 200), ("1", 401)):
        redis.hold("app", credential("one"))
        with logiss(tmp_path, url_of(redis), ALLOW_EMPTY_CREDENTIALS=allowed) as daemon:
            wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
            redis.command("DEL", KEY)
            if allowed == "1":
                wait_until_in_force(daemon)
            else:
                wait_for(lambda: has_failed(daemon, "empty or not there"))
            assert post(daemon, "app", "one") == code


def test_uses_logged(redis: RedisServer, tmp_path: Path) -> None:
    """At the end at the latest it is said who was let in, and by what."""
    redis.hold("app", credential("old", "v1", "previous", True), credential("new"))
    with logiss(tmp_path, url_of(redis)) as daemon:
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        codes = [post(daemon, "app", p) for p in ("old", "new", "old", "x")]
        assert codes == [200, 200, 200, 401]
        assert post(daemon, "eve", "x") == 401
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        said = [
            {k: v for k, v in line.items() if k not in ("app", "source")}
            for line in daemon.lines
            if any(k.startswith("count#log-iss.credentials.") for k in line)
            and REFRESHED not in line
        ]
    name = "count#log-iss.credentials"
    assert said == [
        {f"{name}.success": "2", "user": "app", "stage": "previous"},
        {f"{name}.success": "1", "user": "app", "stage": "current"},
        {f"{name}.failure": "1", "user": "app"},
        {f"{name}.failure": "1"},
        {f"{name}.deprecated": "2", "user": "app", "stage": "previous", "name": "v1"},
    ]


def test_deprecated_in_frames(redis: RedisServer, tmp_path: Path) -> None:
    """Frames that a deprecated credential let in say so, and which it was."""
    redis.hold("app", credential("old", "v1", "previous", True), credential("new"))
    with logiss_and_receiver(tmp_path, url_of(redis), METADATA_ID="m@1") as (
        daemon,
        receiver,
    ):
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        assert [post(daemon, "app", p) for p in ("old", "new")] == [200, 200]
        note = b'[m@1 fields="credential_deprecated=true,credential_name=v1"]'
        wait_for(lambda: len(receiver.frames) == 2)
        assert [note in frame for frame in receiver.frames] == [True, False]


def test_bearer(redis: RedisServer, tmp_path: Path) -> None:
    """A token is good when the user called bearer holds it."""
    redis.hold("bearer", credential("t0ken"))
    redis.hold("app", credential("one"))
    with logiss(tmp_path, url_of(redis)) as daemon:
        wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
        for token, code in (("t0ken", 200), ("one", 401)):
            headers: dict[str, str | None] = {"Authorization": f"Bearer {token}"}
            octets = request(framed(message()), headers=headers)
            assert answer(daemon, octets).code == code


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@contextmanager
def tls_redis(
    folder: Path, authority: trustme.CA, name: str
) -> Iterator[tuple[RedisServer, int]]:
    """A redis-server with a port for the test and one with TLS."""
    leaf = authority.issue_cert(name)
    (folder / "key.pem").write_bytes(leaf.private_key_pem.bytes())
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    (folder / "cert.pem").write_bytes(chain)
    (folder / "authority.pem").write_bytes(authority.cert_pem.bytes())
    port = unused_port()
    with redis_server(
        folder,
        *("--tls-port", str(port)),
        *("--tls-cert-file", str(folder / "cert.pem")),
        *("--tls-key-file", str(folder / "key.pem")),
        *("--tls-ca-cert-file", str(folder / "authority.pem")),
        *("--tls-auth-clients", "no"),
    ) as server:
        server.hold("app", credential("one"))
        yield server, port


def test_tls(tmp_path: Path, authority: trustme.CA) -> None:
    """Over TLS, when the certificate is for the host and of an authority we trust."""
    with tls_redis(tmp_path, authority, "localhost") as (_, port):
        trusted = str(tmp_path / "authority.pem")
        url = f"rediss://localhost:{port}"
        with logiss(tmp_path, url, SSL_CERT_FILE=trusted) as daemon:
            wait_for(lambda: daemon.logged(**{REFRESHED: "1"}))
            assert post(daemon, "app", "one") == 200


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_tls_refused(tmp_path: Path, authority: trustme.CA, wrong: str) -> None:
    """Another's certificate is refused before it is sent the password."""
    name = "localhost" if wrong == "authority" else "other.example.com"
    with tls_redis(tmp_path, authority, name) as (server, port):
        trusted = tmp_path / "trusted.pem"
        ca = trustme.CA() if wrong == "authority" else authority
        trusted.write_bytes(ca.cert_pem.bytes())
        url = f"rediss://:hunter2@localhost:{port}"
        with logiss(tmp_path, url, SSL_CERT_FILE=str(trusted)) as daemon:
            why = {
                "name": "TLS: its certificate is for another name",
                "authority": "TLS: certificate verify failed",
            }[wrong]
            wait_for(lambda: has_failed(daemon, why))
            wait_for(lambda: len(daemon.logged(**{FAILED: "1"})) >= 2)
            assert post(daemon, "app", "one") == 503
        assert b"cmdstat_auth" not in server.command("INFO", "commandstats")


def test_tls_to_plain(redis: RedisServer, tmp_path: Path) -> None:
    """There is no way back from TLS: a Redis without it is none."""
    redis.hold("app", credential("one"))
    with logiss(tmp_path, f"rediss://localhost:{redis.port}") as daemon:
        wait_for(lambda: has_failed(daemon, ""))
        assert post(daemon, "app", "one") == 503


def test_reactor_not_chosen() -> None:
    """Who imports logiss can still choose a reactor."""
    program = "import sys, logiss; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
