"""``logiss hash`` and ``logiss credentials``, as an operator types them."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from logiss.credentials import parse_entry, password_digest
from tests.integration.redises import (
    HMAC_KEY,
    KEY,
    RedisServer,
    credential,
    redis_server,
    unused_port,
)

_COMMAND_SECONDS = 60


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def logiss(
    *arguments: str, stdin: bytes = b"", **environ: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "logiss", *arguments],
        input=stdin,
        capture_output=True,
        env={"PATH": os.environ["PATH"], **environ},
        timeout=_COMMAND_SECONDS,
    )


class Operator:
    """Types commands for one Redis."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self.environ = {
            "REDIS_URL": f"redis://127.0.0.1:{redis.port}",
            "REDIS_KEY": KEY,
            "HMAC_KEY": HMAC_KEY,
        }

    def types(self, *arguments: str, stdin: bytes = b"", **environ: str) -> str:
        """What a command prints that succeeds."""
        done = logiss(
            "credentials", *arguments, stdin=stdin, **{**self.environ, **environ}
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    def is_refused(self, *arguments: str, stdin: bytes = b"", **environ: str) -> str:
        """The one line of a command that fails."""
        done = logiss(
            "credentials", *arguments, stdin=stdin, **{**self.environ, **environ}
        )
        assert (done.returncode, done.stdout) == (1, b""), done
        (line,) = done.stderr.decode().splitlines()
        return line.removeprefix("logiss credentials: ")

    def entry(self, user: str) -> Any:
        return json.loads(self.redis.command("HGET", KEY, user))


@pytest.fixture
def operator(redis: RedisServer) -> Operator:
    return Operator(redis)


def digest(password: str) -> str:
    return password_digest(HMAC_KEY.encode(), password.encode()).hex()


def test_hash() -> None:
    """The HMAC of what stands on standard input, as openssl makes it."""
    done = logiss("hash", stdin=b"two\n", HMAC_KEY="key")
    assert (done.returncode, done.stderr) == (0, b"")
    # printf two | openssl dgst -sha512 -hmac key
    assert done.stdout == (
        b"9c69949ce90936f79281092bc83f7799b62ff01a6914ccc7de7e43071d5f2d49"
        b"30b6605372e91ffaf69d241f0b32a786d542fc589dec4b2c99a9f6f77eab9002\n"
    )


def test_hash_refused() -> None:
    """What is wrong is a line, and the password is no argument."""
    for stdin, environ, why in [
        (b"two\n", {}, b"HMAC_KEY: is not set; "),
        (b"", {"HMAC_KEY": "key"}, b"the password is empty"),
        (b"hunter2\nx", {"HMAC_KEY": "key"}, b"the password has a line break"),
    ]:
        done = logiss("hash", stdin=stdin, **environ)
        assert (done.returncode, done.stdout) == (1, b"")
        (line,) = done.stderr.splitlines()
        assert line.startswith(b"logiss hash: " + why)
        assert b"hunter2" not in line
    done = logiss("hash", "two", HMAC_KEY="key")
    assert done.returncode == 2
    assert done.stdout == b""


def test_hash_on_terminal() -> None:
    """On a terminal it is asked for twice and not shown."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "logiss", "hash"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={"PATH": os.environ["PATH"], "HMAC_KEY": HMAC_KEY},
        # getpass asks the terminal that controls the session.
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(theirs), os.O_RDWR)),
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            for prompt in (b"Password: ", b"Again: "):
                deadline = time.monotonic() + _COMMAND_SECONDS
                while prompt not in shown:
                    assert time.monotonic() < deadline, shown
                    shown += os.read(ours, 1000)
                os.write(ours, b"hunter2\n")
            assert process.stdout is not None
            assert process.stdout.read().decode() == digest("hunter2") + "\n"
            assert process.wait(_COMMAND_SECONDS) == 0
        finally:
            process.kill()
    os.close(ours)
    assert b"hunter2" not in shown


def test_rotation(operator: Operator) -> None:
    """Added, deprecated, revoked: as the page on credentials says."""
    assert operator.types("add", "app", "--name", "v1", stdin=b"one\n") == ""
    assert operator.entry("app") == [credential("one", "v1", "current")]
    made = operator.types(
        "add", "app", "--name", "v2", "--deprecate-others", "--generate"
    )
    assert operator.entry("app") == [
        credential("one", "v1", "previous", True),
        credential(made.strip(), "v2", "current"),
    ]
    operator.types("add", "eve", "--name", "a b", "--stage", "next", stdin=b"e")
    assert operator.types("list") == (
        "user=app name=v1 stage=previous deprecated=true\n"
        "user=app name=v2 stage=current deprecated=false\n"
        'user=eve name="a b" stage=next deprecated=false\n'
    )
    assert operator.types("revoke", "app", "v1") == ""
    assert operator.entry("app") == [credential(made.strip(), "v2", "current")]
    operator.types("revoke", "app", "v2")
    assert operator.entry("app") == []
    assert operator.types("list").splitlines()[0] == "user=app revoked=true"


def test_refused(operator: Operator) -> None:
    """What cannot be done is one line, and changes nothing."""
    operator.redis.hold("app", credential("one"))
    operator.redis.command("HSET", KEY, "bad\x1b[2J", "{}")
    before = operator.entry("app")
    add = ("add", "app", "--name")
    for arguments, more, why in [
        ((*add, "v1"), {"stdin": b"x"}, "there is a credential 'v1' already"),
        ((*add, "v2"), {}, "the password is empty"),
        ((*add, "v2"), {"HMAC_KEY": ""}, "HMAC_KEY: is not set; set it to the key"),
        ((*add, "v2"), {"REDIS_KEY": ""}, "REDIS_KEY: is not set; set it to the"),
        (("revoke", "app", "v2"), {}, "there is no credential 'v2'"),
        (("revoke", "eve", "v1"), {}, "there is no credential 'v1'"),
        (("revoke", "bad\x1b[2J", "v1"), {}, "it is not a list of credentials"),
        (
            ("list",),
            {"REDIS_URL": f"redis://:hunter2@127.0.0.1:{operator.redis.port}"},
            "AUTH <password> called without any password configured",
        ),
        (
            ("list",),
            {"REDIS_URL": f"redis://127.0.0.1:{unused_port()}"},
            "Connection was refused by other side",
        ),
        (("list",), {"REDIS_URL": "hunter2"}, "REDIS_URL: must be redis://"),
    ]:
        line = operator.is_refused(*arguments, **more)  # type: ignore[arg-type]
        assert why in line
        assert "hunter2" not in line
    assert operator.entry("app") == before
    done = logiss("credentials", "list", stdin=b"", **operator.environ)
    assert done.returncode == 1
    assert done.stdout.decode().splitlines() == [
        "user=app name=v1 stage=current deprecated=false",
        'user="bad\\u001b[2J" error="it is not a list of credentials"',
    ]
    arguments = ("credentials", "add", "a:b", "--name", "x")
    done = logiss(*arguments, stdin=b"", **operator.environ)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_hangs(operator: Operator) -> None:
    """A Redis that does not answer is given up."""
    operator.redis.stop_answering()
    assert operator.is_refused("list") == (
        f"REDIS_URL: redis://127.0.0.1:{operator.redis.port}/0: no answer within 5 s;"
        " see to that Redis, or correct the URL"
    )
    operator.redis.go_on()


def test_together(operator: Operator) -> None:
    """Of several operators who edit one entry at once, nobody's edit is lost."""
    names = [f"v{i}" for i in range(8)]

    def add(name: str) -> None:
        operator.types("add", "app", "--name", name, stdin=name.encode())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, names))
    held = parse_entry(b"app", json.dumps(operator.entry("app")).encode())
    assert sorted(c.name for c in held) == names
