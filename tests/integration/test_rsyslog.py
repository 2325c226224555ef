"""
A real rsyslogd behind logiss: what it writes to its file is what was posted.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from logiss.variables import Destination
from tests.integration.backends import (
    HEADER,
    ORIGIN,
    body,
    message,
    messages,
    posting,
    running,
    together,
    until,
    within,
)

_CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="128k" net.enableDNS="off"
       parser.escapeControlCharactersOnReceive="off"
       parser.dropTrailingLFOnReception="off")
module(load="imptcp")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="plain") {{ action(type="omfile" file="{folder}/tcp.log" template="raw") }}
input(type="imptcp" address="127.0.0.1" port="{port}" ruleset="plain"
      maxFrameSize="200000" keepAlive="on")
"""


class Rsyslogd:
    """A running rsyslogd."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.destination = Destination("127.0.0.1", port)
        self._file = folder / "tcp.log"
        self._said = folder / "said"
        configuration = folder / "rsyslog.conf"
        configuration.write_text(_CONFIGURATION.format(folder=folder, port=port))
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [program, "-n", "-f", configuration, "-i", folder / "pid"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    @property
    def written(self) -> bytes:
        assert self._process.poll() is None, self._said.read_text()
        return self._file.read_bytes() if self._file.exists() else b""

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


@pytest.fixture
def rsyslogd(tmp_path: Path) -> Iterator[Rsyslogd]:
    program = shutil.which("rsyslogd", path=f"{os.defpath}:/usr/sbin:/sbin")
    if program is None:
        reason = "rsyslogd is not installed (Debian: apt-get install rsyslog)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    daemon = Rsyslogd(program, tmp_path)
    try:
        yield daemon
    finally:
        daemon.stop()


def _lines(msgs: list[bytes]) -> bytes:
    return b"".join(HEADER + ORIGIN + msg + b"\n" for msg in msgs)


@pytest_twisted.ensureDeferred
@within(60)
async def test_messages_arrive(rsyslogd: Rsyslogd) -> None:
    """Messages arrive as they were posted: with newlines, any bytes, and large."""
    odd = [
        b"post=odd n=0 a first line\n<14>1 2020-01-01T00:00:00Z forged h - - - second",
        b"post=odd n=1 ends with a newline\n",
        b"post=odd n=2 tab\there, caf\xc3\xa9, \xff\xfe\x80, \x1b[31m",
        b"post=odd n=3 17 is no length, nor is\n99999 this",
        message("odd", 4, 100_000),
        message("odd", 5),
    ]
    async with (
        running(
            rsyslogd.destination, forward_count=1, delivery_timeout_seconds=20.0
        ) as house,
        posting(house) as client,
    ):
        assert await client.post(body(odd)) == 200
        assert await client.post(body(messages("more", 1000))) == 200
        expected = _lines(odd + messages("more", 1000))
        await until(lambda: len(rsyslogd.written) >= len(expected))
        assert rsyslogd.written == expected


@pytest_twisted.ensureDeferred
@within(60)
async def test_concurrent_posts_arrive(rsyslogd: Rsyslogd) -> None:
    """Posts over all connections at once arrive, each message once."""
    async with (
        running(rsyslogd.destination, delivery_timeout_seconds=20.0) as house,
        posting(house) as client,
    ):
        posts = [messages(f"p{i}", 100, 200) for i in range(40)]
        answers = await together(client.post(body(msgs)) for msgs in posts)
        assert answers == [200] * 40
        expected = sorted(_lines([m for msgs in posts for m in msgs]).splitlines())
        await until(lambda: len(rsyslogd.written.splitlines()) >= len(expected))
        assert sorted(rsyslogd.written.splitlines()) == expected
