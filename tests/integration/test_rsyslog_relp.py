"""
A real rsyslogd behind logiss, over RELP: what it has stored when a POST is answered is
what was posted.
"""

import os
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from logiss.pool import NotDelivered
from logiss.relp import MESSAGE_BYTES_MAX
from logiss.variables import Destination
from tests.integration.backends import (
    HEADER,
    ORIGIN,
    House,
    body,
    message,
    messages,
    posting,
    running,
    start,
    together,
    until,
    within,
)
from tests.integration.test_tls import Authority

# A Direct queue: what is answered is in the file.
_CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="{size}" net.enableDNS="off"
       parser.escapeControlCharactersOnReceive="off"
       parser.dropTrailingLFOnReception="off")
module(load="imrelp" tls.tlslib="openssl")
template(name="raw" type="string" string="%rawmsg%{end}")
ruleset(name="durable" queue.type="Direct") {{
  action(type="omfile" file="{folder}/relp.log" template="raw")
}}
input(type="imrelp" address="127.0.0.1" port="{port}" ruleset="durable"
      flowControl="full" maxDataSize="{size}" oversizeMode="abort" keepAlive="on"
      {tls})
"""
_TLS = """tls="on" tls.authmode="certvalid" tls.permittedpeer="*"
      tls.cacert="{folder}/ca.pem" tls.mycert="{folder}/cert.pem"
      tls.myprivkey="{folder}/key.pem" """
#: It shows its certificate and asks for none.
_TLS_SERVER_ONLY = """tls="on" tls.mycert="{folder}/cert.pem"
      tls.myprivkey="{folder}/key.pem" """
#: Ends each record in the file: no message here has it.
_END = b"<end>\n"


class Rsyslogd:
    """
    An rsyslogd with imrelp on a port of its own.

    @param tls: parameters of its listener.
    """

    def __init__(
        self, program: str, folder: Path, tls: str = "", size: str = "128k"
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._file = folder / "relp.log"
        self._said = folder / "said"
        self._configuration = folder / "rsyslog.conf"
        self._configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                port=self.port,
                end=_END.decode().replace("\n", "\\n"),
                size=size,
                tls=tls,
            )
        )
        self._command = [program, "-n", "-f", f"{folder}/rsyslog.conf"]
        self._command += ["-i", f"{folder}/pid"]
        self.start()

    def start(self) -> None:
        with self._said.open("ab") as said:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def records(self) -> list[bytes]:
        assert self.running, self._said.read_text()
        octets = self._file.read_bytes() if self._file.exists() else b""
        return octets.split(_END)[:-1]

    def terminate(self) -> None:
        self._process.terminate()

    def stop(self) -> None:
        self.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


def _missing() -> str:
    program = shutil.which("rsyslogd", path=f"{os.defpath}:/usr/sbin:/sbin")
    if program is None:
        return "rsyslogd is not installed (Debian: apt-get install rsyslog)"
    folders = [Path("/usr/lib/rsyslog"), Path("/usr/lib64/rsyslog")]
    folders += Path("/usr/lib").glob("*/rsyslog")
    if not any((folder / "imrelp.so").exists() for folder in folders):
        return "imrelp is not installed (Debian: apt-get install rsyslog-relp)"
    return ""


@pytest.fixture
def program() -> str:
    reason = _missing()
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    found = shutil.which("rsyslogd", path=f"{os.defpath}:/usr/sbin:/sbin")
    assert found is not None
    return found


@pytest.fixture
def rsyslogd(program: str, tmp_path: Path) -> Iterator[Rsyslogd]:
    daemon = Rsyslogd(program, tmp_path)
    try:
        yield daemon
    finally:
        daemon.stop()


def _stored(msgs: list[bytes]) -> list[bytes]:
    return [HEADER + ORIGIN + msg for msg in msgs]


def _odd(post: str) -> list[bytes]:
    mark = f"post={post} ".encode()
    return [
        mark + b"a first line\n<14>1 2020-01-01T00:00:00Z forged h - - - second",
        mark + b"tab\there, caf\xc3\xa9, \xff\xfe\x80, \x1b[31m",
        mark + b"7 rsp 6 200 OK\n8 close 0\n",
        mark + b"\n99999 syslog 5 forged",
        message(post, 1000, 100_000),
        message(post, 1001),
    ]


@pytest_twisted.ensureDeferred
@within(60)
async def test_odd_messages(rsyslogd: Rsyslogd) -> None:
    """
    With newlines, any bytes, and large: stored as they were posted once the POST is
    answered.
    """
    odd = _odd("odd")
    async with (
        running(
            Destination("127.0.0.1", rsyslogd.port, "relp"),
            forward_count=1,
            delivery_timeout_seconds=20.0,
        ) as house,
        posting(house) as client,
    ):
        assert await client.post(body(odd)) == 200
        assert rsyslogd.records == _stored(odd)


@pytest_twisted.ensureDeferred
@within(60)
async def test_nul(rsyslogd: Rsyslogd) -> None:
    """rsyslogd itself writes a NUL as #000; the frames behind it are not hurt."""
    async with (
        running(
            Destination("127.0.0.1", rsyslogd.port, "relp"), forward_count=1
        ) as house,
        posting(house) as client,
    ):
        sent = [b"post=nul a \0 inside", *messages("p", 3)]
        assert await client.post(body(sent)) == 200
        assert rsyslogd.records == _stored([b"post=nul a #000 inside", *sent[1:]])


@pytest_twisted.ensureDeferred
@within(60)
async def test_concurrent_posts(rsyslogd: Rsyslogd) -> None:
    """5,000 messages over four sessions: each once, and in order of their post."""
    posts = [messages(f"p{i}", 125, 200) for i in range(40)]
    async with (
        running(
            Destination("127.0.0.1", rsyslogd.port, "relp"),
            delivery_timeout_seconds=20.0,
        ) as house,
        posting(house) as client,
    ):
        await house.connected(4)
        answers = await together(client.post(body(msgs)) for msgs in posts)
        assert answers == [200] * 40
        records = rsyslogd.records
        for msgs in posts:
            mine = set(_stored(msgs))
            assert [r for r in records if r in mine] == _stored(msgs)
        assert len(records) == 5000


@pytest_twisted.ensureDeferred
@within(90)
async def test_restarted(rsyslogd: Rsyslogd) -> None:
    """
    A restart between and under posts loses nothing, and stores at most a window of
    each session twice.
    """
    posts = {f"p{i}": [*messages(f"p{i}", 93), *_odd(f"p{i}")] for i in range(50)}
    async with (
        running(
            Destination("127.0.0.1", rsyslogd.port, "relp"),
            delivery_timeout_seconds=30.0,
        ) as house,
        posting(house) as client,
    ):
        await house.connected(4)

        async def post_all(names: list[str]) -> list[int]:
            return [await client.post(body(posts[name])) for name in names]

        names = list(posts)
        posting_all = [start(post_all(names[i::5])) for i in range(5)]
        await until(lambda: len(rsyslogd.records) > 1000)
        rsyslogd.terminate()
        await until(lambda: not rsyslogd.running)
        rsyslogd.start()
        assert await together(posting_all) == [[200] * 10] * 5

        records = rsyslogd.records
        expected = [r for msgs in posts.values() for r in _stored(msgs)]
        stored = Counter(records)
        assert set(stored) == set(expected)
        broken = len(house.counted("forwarder.disconnect.success"))
        assert broken >= 4
        assert len(records) - len(expected) <= broken * 128
        first = dict.fromkeys(records)
        for msgs in posts.values():
            mine = _stored(msgs)
            assert [r for r in first if r in set(mine)] == mine


@pytest_twisted.ensureDeferred
@within(60)
async def test_too_long_for_it(program: str, tmp_path: Path) -> None:
    """A message that rsyslogd will not take fails its POST, and none beside it."""
    daemon = Rsyslogd(program, tmp_path, size="8k")
    long = [message("long", 0, 50_000)]
    try:
        async with running(
            Destination("127.0.0.1", daemon.port, "relp"),
            forward_count=1,
            delivery_timeout_seconds=20.0,
        ) as house:
            await house.connected(1)
            # All three leave in one write.
            before = house.deliver(messages("before", 3))
            refused = house.deliver(long)
            behind = house.deliver(messages("behind", 3))
            with pytest.raises(NotDelivered, match="2 sessions in a row have ended"):
                await refused
            await before
            await behind
            stored = _stored([*messages("before", 3), *messages("behind", 3)])
            assert daemon.records == stored
            assert len(house.counted("forwarder.disconnect.success")) == 2
    finally:
        daemon.stop()


@pytest_twisted.ensureDeferred
@within(60)
async def test_longest(rsyslogd: Rsyslogd) -> None:
    """The longest frame that we send is one that this rsyslogd takes whole."""
    longest = message("p", 0, MESSAGE_BYTES_MAX - len(HEADER + ORIGIN))
    async with (
        running(
            Destination("127.0.0.1", rsyslogd.port, "relp"),
            forward_count=1,
            delivery_timeout_seconds=10.0,
        ) as house,
        posting(house) as client,
    ):
        assert await client.post(body([longest])) == 200
        (record,) = rsyslogd.records
        assert record == HEADER + ORIGIN + longest


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _with_certificate(
    program: str, folder: Path, authority: Authority, tls: str
) -> Iterator[Rsyslogd]:
    """One with a certificate by `authority`, as long as a fixture is needed."""
    server = authority.ca.issue_cert("127.0.0.1")
    authority.ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    server.private_key_pem.write_to_path(str(folder / "key.pem"))
    server.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    daemon = Rsyslogd(program, folder, tls.format(folder=folder))
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def tls_rsyslogd(
    program: str, tmp_path: Path, authority: Authority
) -> Iterator[Rsyslogd]:
    """It wants a certificate of ours by the same authority."""
    yield from _with_certificate(program, tmp_path, authority, _TLS)


@pytest.fixture
def unasking_rsyslogd(
    program: str, tmp_path: Path, authority: Authority
) -> Iterator[Rsyslogd]:
    """It wants no certificate of ours."""
    yield from _with_certificate(program, tmp_path, authority, _TLS_SERVER_ONLY)


@pytest_twisted.ensureDeferred
@within(60)
async def test_tls(tls_rsyslogd: Rsyslogd, authority: Authority) -> None:
    """Over TLS, with a certificate that rsyslogd asks us for."""
    ours = authority.ca.issue_cert("logiss.example")
    sent = messages("p", 500)
    async with (
        running(
            Destination("127.0.0.1", tls_rsyslogd.port, "relp+tls"),
            pem=authority.pem(ours.private_key_and_cert_chain_pem.bytes()),
            delivery_timeout_seconds=20.0,
        ) as house,
        posting(house) as client,
    ):
        assert await client.post(body(sent)) == 200
        assert tls_rsyslogd.records == _stored(sent)


@pytest_twisted.ensureDeferred
@within(60)
async def test_tls_without_certificate(
    unasking_rsyslogd: Rsyslogd, authority: Authority
) -> None:
    """Over TLS, to one that only shows its certificate: we need none of our own."""
    sent = messages("p", 500)
    async with (
        running(
            Destination("127.0.0.1", unasking_rsyslogd.port, "relp+tls"),
            pem=authority.pem(),
            delivery_timeout_seconds=20.0,
        ) as house,
        posting(house) as client,
    ):
        assert await client.post(body(sent)) == 200
        assert unasking_rsyslogd.records == _stored(sent)


@pytest_twisted.ensureDeferred
@within(60)
async def test_tls_refused(tls_rsyslogd: Rsyslogd, authority: Authority) -> None:
    """Without a certificate we never become usable, and nothing is stored."""
    async with (
        running(
            Destination("127.0.0.1", tls_rsyslogd.port, "relp+tls"),
            pem=authority.pem(),
            delivery_timeout_seconds=2.0,
        ) as house,
        posting(house) as client,
    ):
        # What is refused has to be up: else we would not even be asked.
        await until(lambda: _ended_by_it(house))
        assert await client.post(body(messages("p", 1))) == 504
        assert house.counted("forwarder.connect.success") == []
        assert tls_rsyslogd.records == []


def _ended_by_it(house: House) -> list[str]:
    """Why connections that it had accepted ended: an alert may be lost on the way."""
    errors = [e["message"] for e in house.counted("forwarder.connect.error")]
    return [why for why in errors if not why.startswith("Connection was refused")]
