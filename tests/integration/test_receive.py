"""``logiss receive`` as a process: behind a real logiss, rsyslog, and bad senders."""

import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from logiss.probes import Probe, text
from logiss.receiver import FrameDecoder
from tests.front import framed, message, request
from tests.integration.daemons import BlockingClient, Daemon, running, wait_for
from tests.test_relp_receiver import OPEN, OPENED


class Receive:
    """
    A ``logiss receive``; its output is in files.

    @param stdout: where it is to go instead.
    """

    def __init__(
        self, folder: Path, *options: str, stdout: int | None = None, port: int = 0
    ) -> None:
        self._out, self._err = folder / "receive.out", folder / "receive.err"
        command = [sys.executable, "-m", "logiss", "receive", "--port", f"{port}"]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*command, *options],
                cwd=folder,
                env={"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err,
            )
        wait_for(lambda: "receiving" in self.err or self.process.poll() is not None)
        assert self.process.poll() is None, self.err
        self.port = int(self.err.split()[-1].rpartition(":")[2])

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 30)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    @property
    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()


@contextmanager
def receive(
    folder: Path, *options: str, stdout: int | None = None
) -> Iterator[Receive]:
    started = Receive(folder, *options, stdout=stdout)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait()


def failing(*options: str, folder: Path) -> tuple[int, str]:
    """Exit code and stderr of one that cannot start."""
    ended = subprocess.run(
        [sys.executable, "-m", "logiss", "receive", *options],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


def probes(first: int, last: int, run: str = "r") -> bytes:
    return framed(
        *[message(text(Probe(run, number))) for number in range(first, last + 1)]
    )


def post(daemon: Daemon, body: bytes) -> int:
    client = BlockingClient(daemon.port)
    client.send(request(body))
    answer = client.answer()
    client.close()
    assert answer is not None
    return answer.code


def authority(folder: Path) -> trustme.CA:
    """A CA in ``ca.pem``, a server's certificate and key in ``server.pem``."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "server.pem")
    )
    return ca


# behind others


@pytest.mark.parametrize("tls", ["", "--tls-cert"])
@pytest.mark.parametrize("relp", ["", "--relp"])
def test_behind_logiss(relp: str, tls: str, tmp_path: Path) -> None:
    """
    What is posted to a real logiss is verified over TCP, TLS, RELP and RELP over TLS;
    it ends when all of it is there.
    """
    options = [relp] if relp else []
    variables = {}
    if tls:
        authority(tmp_path)
        options += ["--tls-cert", "server.pem"]
        variables["PEMFILE"] = str(tmp_path / "ca.pem")
    scheme = ("relp+tls://" if tls else "relp://") if relp else ""
    with receive(tmp_path, "--verify", "--expect", "3000", *options) as receiver:
        destination = f"{scheme}127.0.0.1:{receiver.port}"
        with running(
            "python", tmp_path, FORWARD_DEST=destination, **variables
        ) as daemon:
            daemon.wait_until_usable()
            for first in range(1, 3000, 500):
                assert post(daemon, probes(first, first + 499)) == 200
            assert receiver.process.wait(30) == 0, receiver.err
    assert receiver.out.splitlines()[:2] == [
        "run r: 3,000 received, 0 duplicates, 0 missing",
        "all there",
    ]
    assert receiver.err.count("\n") == 1, receiver.err


def test_client_certificates(tmp_path: Path) -> None:
    """With --tls-ca only those are let in who have a certificate of that authority."""
    ca = authority(tmp_path)
    options = ("--tls-cert", "server.pem", "--tls-ca", "ca.pem")
    with receive(tmp_path, *options) as receiver:
        stranger = ssl.create_default_context()
        ca.configure_trust(stranger)
        friend = ssl.create_default_context()
        ca.configure_trust(friend)
        ca.issue_cert("sender.example").configure_cert(friend)
        with (
            receiver.connect() as plain,
            stranger.wrap_socket(plain, server_hostname="127.0.0.1") as sender,
        ):
            # In TLS 1.3 it is told so when it reads.
            with suppress(OSError):
                sender.sendall(framed(message(b"stranger")))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                sender.recv(1)
        wait_for(lambda: "did not return a certificate" in receiver.err)
        with (
            receiver.connect() as plain,
            friend.wrap_socket(plain, server_hostname="127.0.0.1") as sender,
        ):
            sender.sendall(framed(message(b"friend")))
            wait_for(lambda: "friend" in receiver.out)
        assert "stranger" not in receiver.out


def _rsyslogd(module: str = "") -> str:
    program = shutil.which("rsyslogd", path=f"{os.defpath}:/usr/sbin:/sbin")
    reason = ""
    if program is None:
        reason = "rsyslogd is not installed (Debian: apt-get install rsyslog)"
    elif module and not list(Path("/usr/lib").glob(f"**/rsyslog/{module}.so")):
        reason = f"{module} is not installed (Debian: apt-get install rsyslog-relp)"
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    assert program is not None
    return program


_CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="128k" net.enableDNS="off")
module(load="imfile" mode="inotify")
{module}
template(name="raw" type="string" string="%rawmsg%")
input(type="imfile" file="{folder}/in.log" tag="t" freshStartTail="off")
action(type="{action}" target="127.0.0.1" port="{port}" {parameters} template="raw")
"""


@pytest.mark.parametrize(
    ("relp", "module", "parameters"),
    [
        ("", "", 'protocol="tcp" TCP_Framing="octet-counted"'),
        ("--relp", "omrelp", 'rebindInterval="700"'),
        ("--relp", "omrelp", 'tls="on" tls.caCert="{folder}/ca.pem"'),
    ],
    ids=["omfwd", "omrelp", "omrelp-tls"],
)
def test_behind_rsyslog(
    relp: str, module: str, parameters: str, tmp_path: Path
) -> None:
    """What rsyslog sends with omfwd or omrelp comes whole, over several sessions."""
    program = _rsyslogd(module)
    options = [relp] if relp else []
    if "tls=" in parameters:
        ca = authority(tmp_path)
        options += ["--tls-cert", "server.pem"]
        own = ca.issue_cert("sender.example")
        own.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
        own.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        parameters += (
            ' tls.myCert="{folder}/cert.pem" tls.myPrivKey="{folder}/key.pem"'
            ' tls.authMode="certvalid"'
        )
    lines = b"".join(text(Probe("r", n)) + b"\n" for n in range(1, 2001))
    (tmp_path / "in.log").write_bytes(lines)
    with receive(tmp_path, "--verify", "--expect", "2000", *options) as receiver:
        load = f'module(load="{module}")' if module else ""
        if "tls=" in parameters:
            load = f'module(load="{module}" tls.tlslib="openssl")'
        configuration = tmp_path / "rsyslog.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=tmp_path,
                module=load,
                action=module or "omfwd",
                port=receiver.port,
                parameters=parameters.format(folder=tmp_path),
            )
        )
        with (tmp_path / "said").open("wb") as said:
            rsyslogd = subprocess.Popen(
                [program, "-n", "-f", configuration, "-i", tmp_path / "pid"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        try:
            code = receiver.process.wait(30)
        except subprocess.TimeoutExpired:
            pytest.fail(receiver.err + (tmp_path / "said").read_text())
        finally:
            rsyslogd.terminate()
            try:
                rsyslogd.wait(10)
            except subprocess.TimeoutExpired:
                rsyslogd.kill()
                rsyslogd.wait(10)
    assert (code, receiver.err.count("\n")) == (0, 1), receiver.out + receiver.err


def typed(daemon: Daemon, folder: Path, *arguments: str) -> str:
    """What a command says that posts to `daemon`, and succeeds."""
    ended = subprocess.run(
        [sys.executable, "-m", "logiss", *arguments],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "LOGS_URL": f"http://user:a%3Atoken@127.0.0.1:{daemon.port}/logs",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended
    return ended.stdout + ended.stderr


def test_behind_logiss_send(tmp_path: Path) -> None:
    """What logiss send --test sends through a logiss is verified."""
    with receive(tmp_path, "--relp", "--verify", "--expect", "5000") as receiver:
        destination = f"relp://127.0.0.1:{receiver.port}"
        with running("python", tmp_path, FORWARD_DEST=destination) as daemon:
            daemon.wait_until_usable()
            typed(daemon, tmp_path, "send", "--test", "5000", "--run", "nightly")
            assert receiver.process.wait(30) == 0, receiver.out
    assert "run nightly: 5,000 received, " in receiver.out


def test_framed_is_sent_again(tmp_path: Path) -> None:
    """What was received --framed is what logiss send --framed posts."""
    frames = [message(b"one\ntwo\n"), message(b"\xff\x01"), message(b"last")]
    (tmp_path / "first").write_bytes(framed(*frames))
    options = ("--output", "second", "--framed")
    with receive(tmp_path, *options) as receiver:
        destination = f"127.0.0.1:{receiver.port}"
        with running("python", tmp_path, FORWARD_DEST=destination) as daemon:
            daemon.wait_until_usable()
            second = tmp_path / "second"
            for name, ends in (("first", 1), ("third", 2)):
                typed(daemon, tmp_path, "send", "--framed", name)
                wait_for(lambda ends=ends: second.read_bytes().count(b"last") == ends)
                if name == "first":
                    shutil.copy(second, tmp_path / "third")
                    size = second.stat().st_size
        assert receiver.end() == 0
    once = list(FrameDecoder().feed((tmp_path / "third").read_bytes()))
    twice = list(FrameDecoder().feed((tmp_path / "second").read_bytes()[size:]))
    assert [f.rpartition(b"] ")[2] for f in once] == [
        b"one\ntwo\n",
        b"\xff\x01",
        b"last",
    ]
    assert [f.rpartition(b"] ")[2] for f in twice] == [
        b"one\ntwo\n",
        b"\xff\x01",
        b"last",
    ]


# what becomes of the frames


def test_verify_finds(tmp_path: Path) -> None:
    """What is missing, altered or twice is said, and makes the exit code 1."""
    with receive(tmp_path, "--verify") as receiver:
        with receiver.connect() as sender:
            sender.sendall(probes(1, 10) + probes(13, 20) + probes(5, 5))
            sender.sendall(
                framed(message(text(Probe("r", 21)).replace(b"abc", b"xbc")))
            )
            sender.sendall(framed(message(b"hello")))
        wait_for(lambda: "altered" in receiver.err)
        assert receiver.end(signal.SIGINT) == 1
    assert receiver.out.splitlines() == [
        "run r: 18 received, 1 duplicate, 2 missing: 11-12",
        "1 altered test message",
        "1 other message",
        "NOT ALL THERE",
        receiver.out.splitlines()[-1],
    ]
    assert receiver.out.splitlines()[-1].startswith("received 21 frames, ")
    assert "another checksum: <13>1 2013" in receiver.err


def test_verify_in_time(tmp_path: Path) -> None:
    """What has not come in --seconds is missing."""
    options = ("--verify", "--expect", "3", "--seconds", "1.5")
    with receive(tmp_path, *options) as receiver, receiver.connect() as sender:
        sender.sendall(probes(1, 2))
        assert receiver.process.wait(30) == 1
    assert "2 received, 0 duplicates, 1 missing: 3\n" in receiver.out


def test_no_duplicates(tmp_path: Path) -> None:
    """One too many is noticed even when everything had been there already."""
    options = ("--verify", "--expect", "3", "--no-duplicates")
    with receive(tmp_path, *options) as receiver, receiver.connect() as sender:
        sender.sendall(probes(1, 3) + probes(3, 3))
        assert receiver.process.wait(30) == 1
    assert "1 duplicate" in receiver.out


def test_count(tmp_path: Path) -> None:
    """--count prints no frame, but how many there are, and a summary at the end."""
    with receive(tmp_path, "--count") as receiver:
        with receiver.connect() as sender:
            sender.sendall(framed(message(b"secret"), message()))
            wait_for(lambda: "+2: 2 frames" in receiver.out)
        assert receiver.end() == 0
    assert receiver.out.splitlines()[-1].startswith("received 2 frames, ")
    assert "secret" not in receiver.out


def test_output(tmp_path: Path) -> None:
    """--output has a line for each frame; SIGHUP opens the file anew."""
    with (
        receive(tmp_path, "--output", "logs") as receiver,
        receiver.connect() as sender,
    ):
        file = tmp_path / "logs"
        sender.sendall(framed(message(b"one\ntwo\n"), message(b"\x1b[31m\xff")))
        expected = message(b"one\\ntwo\n") + message(b"\x1b[31m\xff\n")
        wait_for(lambda: file.read_bytes() == expected)
        file.rename(tmp_path / "logs.old")
        receiver.process.send_signal(signal.SIGHUP)
        wait_for(file.exists)
        sender.sendall(framed(message(b"three")))
        wait_for(lambda: file.read_bytes() == message(b"three\n"))
        assert (tmp_path / "logs.old").read_bytes() == expected
        assert receiver.end() == 0
        assert receiver.out == ""
        assert "received 3 frames" in receiver.err


def test_terminal_gone(tmp_path: Path) -> None:
    """Without a file SIGHUP says that the terminal has gone, and ends it."""
    with receive(tmp_path) as receiver:
        assert receiver.end(signal.SIGHUP) == 0
    assert "received 0 frames" in receiver.err


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6(host: str, tmp_path: Path) -> None:
    """It listens on IPv6, too, however it is given, and says so as one writes it."""
    with receive(tmp_path, "--host", host) as receiver:
        assert f"receiving on [::1]:{receiver.port}\n" == receiver.err
        with socket.create_connection(("::1", receiver.port), 30) as sender:
            sender.sendall(framed(message(b"six")))
            wait_for(lambda: "six" in receiver.out)
        assert receiver.end() == 0


def test_rotation(tmp_path: Path) -> None:
    """The file is rotated, and so many old ones are kept."""
    options = ("--output", "logs", "--rotate-bytes", "1KiB", "--rotate-keep", "2")
    frames = [message(b"%d" % n) for n in range(100, 160)]
    with receive(tmp_path, *options) as receiver, receiver.connect() as sender:
        sender.sendall(framed(*frames))
        last = frames[-1] + b"\n"
        wait_for(lambda: (tmp_path / "logs").read_bytes().endswith(last))
        assert receiver.end() == 0
    names = sorted(path.name for path in tmp_path.glob("logs*"))
    assert names == ["logs", "logs.1", "logs.2"]
    kept = b"".join(
        (tmp_path / name).read_bytes() for name in ("logs.2", "logs.1", "logs")
    )
    assert b"".join(frame + b"\n" for frame in frames).endswith(kept)
    assert all((tmp_path / name).stat().st_size <= 1024 for name in names)
    assert len(kept) > 2048


def test_framed(tmp_path: Path) -> None:
    """With --framed each octet is kept."""
    frames = [message(b"one\ntwo\n"), message(b"\x00\xff\r\n"), message()]
    options = ("--output", "logs", "--framed")
    with receive(tmp_path, *options) as receiver, receiver.connect() as sender:
        sender.sendall(framed(*frames))
        wait_for(lambda: (tmp_path / "logs").read_bytes().endswith(frames[-1]))
        assert receiver.end() == 0
    assert list(FrameDecoder().feed((tmp_path / "logs").read_bytes())) == frames


# when it is badly treated


def send_until_stuck(sender: socket.socket, octets: bytes) -> int:
    """Send until nobody takes anything for a second; how much was sent."""
    sender.settimeout(1)
    sent = 0
    with suppress(TimeoutError):
        while sent < len(octets):
            sent += sender.send(octets[sent : sent + 65_536])
    return sent


def test_full_disk_relp(tmp_path: Path) -> None:
    """What the disk does not take is answered 500, and a post is not answered 200."""
    with receive(tmp_path, "--relp", "--output", "/dev/full") as receiver:
        with receiver.connect() as sender:
            sender.sendall(OPEN + b"2 syslog 5 hello\n")
            answers = sender.makefile("rb")
            assert b"".join(answers.readline() for _ in range(4)).startswith(b"1 rsp")
            assert answers.readline() == (
                b"2 rsp 40 500 not written: No space left on device\n"
            )
        destination = f"relp://127.0.0.1:{receiver.port}"
        with running(
            "python", tmp_path, FORWARD_DEST=destination, DELIVERY_TIMEOUT="1"
        ) as daemon:
            daemon.wait_until_usable()
            assert post(daemon, framed(message())) == 504
        assert receiver.end() == 1
    assert "cannot write to /dev/full: No space left on device" in receiver.err
    assert "received 0 frames" in receiver.err
    assert "could not be written" in receiver.err


def test_full_disk_tcp(tmp_path: Path) -> None:
    """Over TCP, which has no answers, the connection is reset."""
    with (
        receive(tmp_path, "--output", "/dev/full") as receiver,
        receiver.connect() as sender,
    ):
        sender.sendall(framed(message()))
        with pytest.raises(ConnectionResetError):
            sender.recv(1)
        assert receiver.end() == 1
    assert "1 frame could not be written" in receiver.err


def test_full_stdout(tmp_path: Path) -> None:
    """A full disk behind standard output is an error, without a traceback."""
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with (
            receive(tmp_path, "--count", stdout=fd) as receiver,
            receiver.connect() as sender,
        ):
            sender.sendall(framed(message()))
            wait_for(lambda: "No space left" in receiver.err)
            assert receiver.end() == 1
    finally:
        os.close(fd)
    assert "Traceback" not in receiver.err


def test_closed_stdout(tmp_path: Path) -> None:
    """Without a standard output it says so."""
    command = f"exec {sys.executable} -m logiss receive --port 0 >&-"
    ended = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "logiss receive: standard output is closed; send it somewhere\n"
    )


def test_head(tmp_path: Path) -> None:
    """When the reader of the output goes, it ends quietly, without another frame."""
    source, target = os.pipe()
    with receive(tmp_path, stdout=target) as receiver, receiver.connect() as sender:
        os.close(target)
        sender.sendall(framed(message(b"one")))
        assert os.read(source, 1000) == message(b"one\n")
        os.close(source)
        assert receiver.process.wait(30) == 0
    assert receiver.err.count("\n") == 1, receiver.err


@pytest.mark.parametrize(
    ("frame", "code", "verdict"),
    [(b"none of them", 1, "NOT ALL THERE"), (text(Probe("r", 1)), 0, "all there")],
    ids=["bad", "good"],
)
def test_head_of_verify(frame: bytes, code: int, verdict: str, tmp_path: Path) -> None:
    """The verdict is said, and is the exit code, when nobody reads it on stdout."""
    source, target = os.pipe()
    options = ("--verify", "--count")
    with receive(tmp_path, *options, stdout=target) as receiver:
        os.close(target)
        os.close(source)
        with receiver.connect() as sender:
            sender.sendall(framed(message(frame)))
            assert receiver.process.wait(30) == code
    assert f"\n{verdict}\nreceived 1 frame, " in receiver.err


def test_head_of_verdict(tmp_path: Path) -> None:
    """So is it when the reader has gone by the end."""
    source, target = os.pipe()
    with receive(tmp_path, "--verify", stdout=target) as receiver:
        os.close(target)
        os.close(source)
        assert receiver.end() == 1
    assert "\nno test message has come\nNOT ALL THERE\nreceived" in receiver.err


def test_slow_reader(tmp_path: Path) -> None:
    """
    While nobody reads the output the senders are not read from, and memory does not
    grow; then everything is there.
    """
    source, target = os.pipe()
    frames = [message(b"%07d" % n + b"x" * 1000) for n in range(20_000)]
    octets = framed(*frames)
    with receive(tmp_path, stdout=target) as receiver, receiver.connect() as sender:
        os.close(target)
        before = receiver.resident_bytes
        sent = send_until_stuck(sender, octets)
        assert sent < len(octets)
        assert receiver.resident_bytes - before < 8 * 1024 * 1024
        expected = b"".join(frame + b"\n" for frame in frames)
        with open(source, "rb") as reader:
            found = b""
            sender.setblocking(False)
            deadline = time.monotonic() + 60
            while len(found) < len(expected) and time.monotonic() < deadline:
                if sent < len(octets):
                    with suppress(BlockingIOError):
                        sent += sender.send(octets[sent : sent + 65_536])
                found += os.read(reader.fileno(), 65_536)
            assert found == expected
            assert receiver.end() == 0


def test_ends_while_nobody_reads(tmp_path: Path) -> None:
    """A signal ends it although nobody takes its output."""
    source, target = os.pipe()
    with receive(tmp_path, stdout=target) as receiver, receiver.connect() as sender:
        os.close(target)
        octets = framed(*[message(b"x" * 1000)] * 20_000)
        assert send_until_stuck(sender, octets) < len(octets)
        assert receiver.end() == 1
    os.close(source)
    assert "received" in receiver.err
    assert "could not be written" in receiver.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_while_nobody_reads_a_fifo(number: signal.Signals, tmp_path: Path) -> None:
    """Nor does it wait for the reader of a FIFO, when that is its file."""
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with (
            receive(tmp_path, "--output", "fifo") as receiver,
            receiver.connect() as sender,
        ):
            octets = framed(*[message(b"x" * 1000)] * 20_000)
            assert send_until_stuck(sender, octets) < len(octets)
            assert receiver.end(number) == 1
    finally:
        os.close(reader)
    assert "could not be written" in receiver.err


def test_hostile(tmp_path: Path) -> None:
    """Nonsense ends its connection only, in bounded lines, and costs little memory."""
    for options, nonsense in [
        ((), [b"<13>no count\n", b"99999999 x", b"0 ", b"\x16\x03\x01\x02", b"a" * 9]),
        (
            ("--relp",),
            [b"63 <13>1", b"1 open 999999999 x", OPEN + b"3 syslog 1 x\n", b"\0" * 99],
        ),
    ]:
        with receive(tmp_path, *options) as receiver, receiver.connect() as good:
            before = receiver.resident_bytes
            for octets in nonsense * 20:
                with receiver.connect() as bad:
                    bad.sendall(octets)
                    with suppress(ConnectionResetError):
                        while bad.recv(1000):
                            pass
            wait_for(lambda: "more lines like these left out" in receiver.err)
            # Slow ones, each in the middle of something large.
            head = OPEN + b"2 syslog 900000 " if options else b"900000 "
            slow = [receiver.connect() for _ in range(20)]
            for sender in slow:
                sender.sendall(head + b"x" * 100_000)
            if options:
                good.sendall(OPEN)
                octets = b""
                while len(octets) < len(OPENED):
                    octets += good.recv(1000)
                good.sendall(b"2 syslog 5 hello\n")
            else:
                good.sendall(b"5 hello")
            wait_for(lambda: receiver.out == "hello\n")
            grown = receiver.resident_bytes - before
            for sender in slow:
                sender.close()
            wait_for(lambda: "inside a frame" in receiver.err)
            assert receiver.end() == 0
        assert grown < 32 * 1024 * 1024
        assert "Traceback" not in receiver.err
        assert receiver.err.count("\n") < 200
        assert receiver.out == "hello\n"
        if not options:
            assert "that is TLS, which takes --tls-cert" in receiver.err


def test_mistakes(tmp_path: Path) -> None:
    """Each is one line that says what to do."""
    (tmp_path / "empty.pem").touch()
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = f"{taken.getsockname()[1]}"
        for options, why in [
            (["--port", port], f"--port: cannot listen on 127.0.0.1:{port}: Address"),
            (["--port", "0", "--host", "192.0.2.1"], "--port: cannot listen on 192.0"),
            (["--port", "0", "--tls-cert", "none.pem"], "--tls-cert: cannot read"),
            (["--port", "0", "--tls-cert", "empty.pem"], "has no certificate"),
            (["--port", "0", "--tls-cert", "ca.pem"], "has no private key; add it"),
            (["--port", "0", "--tls-ca", "ca.pem"], "--tls-ca: needs --tls-cert"),
            (["--port", "0", "--output", "no/file"], "--output: cannot write to"),
            (["--port", "0", "--output", "."], "Is a directory"),
            (["--port", "0", "--rotate-keep", "3"], "--rotate-keep: needs --output"),
            (["--port", "0", "--expect", "3"], "--expect: needs --verify"),
            (["--port", "0", "--count", "--framed"], "--framed: no frames are written"),
        ]:
            code, said = failing(*options, folder=tmp_path)
            assert (code, said.count("\n")) == (1, 1), (options, said)
            assert said.startswith("logiss receive: "), said
            assert why in said, said


def test_help() -> None:
    """The help has examples that can be typed, and the default of each option."""
    said = subprocess.run(
        [sys.executable, "-m", "logiss", "receive", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    assert len(re.findall(r"^  logiss receive --port", said, re.MULTILINE)) >= 4
    assert "FORWARD_DEST=127.0.0.1:PORT" in said
    assert "default: 64MiB" in said
