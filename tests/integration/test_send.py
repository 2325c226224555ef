"""`logiss send` as a process, with a real logiss or a server of the test behind it."""

import contextlib
import fcntl
import os
import pty
import random
import re
import select
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import termios
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from logiss import frames, probes
from tests.integration.daemons import (
    PATIENCE_SECONDS,
    Daemon,
    Receiver,
    receiving,
    running,
    wait_for,
)
from tests.integration.intakes import (
    Ended,
    Posted,
    Said,
    answering,
    command,
    environ,
    in_turn,
    sending,
    sent,
    without_names,
)

LOST, INTERRUPTED, TERMINATED = 1, 130, 143


@contextmanager
def logiss(tmp_path: Path, **variables: str) -> Iterator[tuple[Daemon, Receiver, str]]:
    """A real one with a receiver behind it, and its URL."""
    with receiving() as receiver:
        dest = f"127.0.0.1:{receiver.port}"
        with running("python", tmp_path, FORWARD_DEST=dest, **variables) as daemon:
            daemon.wait_until_usable(int(variables.get("FORWARD_COUNT", "4")))
            yield daemon, receiver, f"http://user:a%3Atoken@127.0.0.1:{daemon.port}"


def texts(received: list[bytes]) -> list[bytes]:
    """What stands behind the stamp in each frame."""
    return [frame.partition(b'"127.0.0.1"] ')[2] for frame in received]


def numbers(ended: Ended) -> dict[str, int]:
    """Those of the summary, which add up."""
    found = re.search(
        r"read ([\d,]+) (?:line|message)s?(?: as ([\d,]+) messages?)?:"
        r" ([\d,]+) delivered, ([\d,]+) lost, ([\d,]+) not known; ",
        ended.said,
    )
    assert found is not None, ended
    read, messages, *fates = (
        int(group.replace(",", "")) if group else 0 for group in found.groups()
    )
    assert sum(fates) == (messages or read), ended
    names = ("delivered", "lost", "unknown")
    return {"read": read, **dict(zip(names, fates, strict=True))}


def lines(count: int) -> bytes:
    return b"".join(b"line %07d\n" % n for n in range(count))


# what arrives


def test_octets(tmp_path: Path) -> None:
    """Whatever stands in lines arrives as it is, and the last one without its end."""
    given = b"one\ntwo\r\n\n- nil\n[a b]\nNUL \0\xff\xfe\n\ttab \xc3\xa4\r\r\nlast"
    with logiss(tmp_path) as (_, receiver, url):
        ended = sent("--hostname", "web1", "--app-name", "shop", given=given, url=url)
        wait_for(lambda: len(receiver.frames) == 8)
    assert texts(receiver.frames) == [
        *(b"one", b"two", b"", b"- nil", b"[a b]"),
        *(b"NUL \0\xff\xfe", b"\ttab \xc3\xa4\r", b"last"),
    ]
    assert re.fullmatch(
        rb"<190>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z web1 shop - - ",
        receiver.frames[0].partition(b"[")[0],
    )
    assert (ended.code, ended.out) == (0, "")
    assert numbers(ended) == {"read": 8, "delivered": 8, "lost": 0, "unknown": 0}
    assert ended.said.count("\n") == 1


def test_many(tmp_path: Path) -> None:
    """100,000 lines arrive once, those of a batch in their order; with 1 all do."""
    (tmp_path / "lines").write_bytes(lines(100_000))
    with logiss(tmp_path, FORWARD_COUNT="1") as (_, receiver, url):
        ended = sent(str(tmp_path / "lines"), url=url)
        assert numbers(ended)["delivered"] == 100_000
        wait_for(lambda: len(receiver.frames) >= 100_000)
        arrived = [int(text.split()[1]) for text in texts(receiver.frames)]
        assert sorted(arrived) == list(range(100_000))
        batches: dict[int, list[int]] = {}
        for number in arrived:
            batches.setdefault(number // 500, []).append(number)
        assert all(batch == sorted(batch) for batch in batches.values())

        ended = sent("--connections", "1", given=lines(5000), url=url)
        assert ended.code == 0
        wait_for(lambda: len(receiver.frames) >= 105_000)
        last = texts(receiver.frames)[100_000:]
        assert last == lines(5000).splitlines()


def test_probes(tmp_path: Path) -> None:
    """Test messages arrive whole and all, of the run that was named."""
    with logiss(tmp_path) as (_, receiver, url):
        ended = sent("--test", "1234", "--run", "a-run", url=url)
        assert ended.code == 0
        wait_for(lambda: len(receiver.frames) >= 1234)
        found = [probes.read(frame) for frame in receiver.frames]
    assert sorted(probe.number for probe in found if probe) == list(range(1, 1235))
    assert {probe.run for probe in found if probe} == {"a-run"}


def test_tail(tmp_path: Path) -> None:
    """A line arrives while the input goes on."""
    with logiss(tmp_path) as (_, receiver, url), sending(url) as process:
        assert process.stdin is not None
        for n in range(3):
            process.stdin.write(b"%d\nhalf" % n)
            process.stdin.flush()
            wait_for(lambda n=n: len(receiver.frames) == n + 1)
        out, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0
        wait_for(lambda: len(receiver.frames) == 4)
        assert texts(receiver.frames) == [b"0", b"half1", b"half2", b"half"]
        assert (out, said.count(b"\n")) == (b"", 1)


def test_shared_input() -> None:
    """Others who read the same open file find it as it was."""
    ours, theirs = os.pipe()
    with answering(in_turn()) as intake:
        process = subprocess.Popen(
            command("send"),
            env=environ(LOGS_URL=intake.url),
            stdin=ours,
            stderr=subprocess.PIPE,
        )
        os.write(theirs, b"1\n")
        wait_for(lambda: intake.posts)
        flags = fcntl.fcntl(ours, fcntl.F_GETFL)
        os.close(theirs)
        assert process.wait(PATIENCE_SECONDS) == 0
        process.communicate()
    os.close(ours)
    assert not flags & os.O_NONBLOCK


def test_several_files(tmp_path: Path) -> None:
    """Files, a named pipe and standard input are read one after the other."""
    (tmp_path / "a").write_bytes(b"1\n2")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"3\n4",))
    writer.start()
    names = [str(tmp_path / "a"), str(tmp_path / "pipe"), "-", "/dev/null"]
    with answering(in_turn()) as intake:
        ended = sent("--connections", "1", *names, given=b"5\n", url=intake.url)
    writer.join(PATIENCE_SECONDS)
    assert (ended.code, numbers(ended)["delivered"]) == (0, 5)
    octets = b"".join(post.octets for post in intake.posts)
    assert [text[-1:] for text in frames.split(octets)] == [
        b"1",
        b"2",
        b"3",
        b"4",
        b"5",
    ]


def test_long_lines() -> None:
    """A long line is cut into several, and this is said; nothing of it is lost."""
    with answering(in_turn()) as intake:
        given = b"a\n" + b"x" * 25_000 + b"\nb\n"
        ended = sent(given=given, url=intake.url)
    assert (ended.code, numbers(ended)["read"]) == (0, 3)
    assert "3 lines as 5 messages" in ended.said
    assert "1 line longer than --line-bytes became several messages" in ended.said
    cut = frames.split(b"".join(post.octets for post in intake.posts))
    assert b"".join(text.partition(b" - - - ")[2] for text in cut) == (
        b"a" + b"x" * 25_000 + b"b"
    )


def test_framed() -> None:
    """Frames are passed on as they are, and what is broken is named."""
    good = b"19 <1>1 - h a p m - ab" + b"19 <1>1 - h a p m - cd"
    with answering(in_turn()) as intake:
        assert sent("--framed", given=good + b"\n", url=intake.url).code == 0
        assert intake.posts[0].octets == good
        ended = sent("--framed", given=good + b"99 x", url=intake.url)
        assert intake.posts[1].octets == good
    assert (ended.code, numbers(ended)["delivered"]) == (LOST, 2)
    assert (
        "logiss send: standard input: frame 3 at byte 44: its length is 99 but only 1"
        " bytes follow; nothing behind it was sent\n"
    ) in ended.said


# what is posted


def test_fields() -> None:
    """What a server is told of a post, and over how many connections they come."""
    with answering(in_turn()) as intake:
        ended = sent(given=lines(20_000), url=f"{intake.url}/in?a=b%20c&a=d")
    assert numbers(ended)["delivered"] == 20_000
    assert {post.path for post in intake.posts} == {"/in?a=b%20c&a=d"}
    assert {post.count for post in intake.posts} == {500}
    assert 1 <= len({post.connection for post in intake.posts}) <= 4
    for name in ("logplex-frame-id", "x-request-id"):
        assert len({post.fields[name] for post in intake.posts}) == 40
    first = intake.posts[0].fields
    assert re.fullmatch("[0-9a-f]{32}", first["logplex-frame-id"])
    assert first["user-agent"].startswith("logiss-send/")
    assert first["authorization"] == "Basic dXNlcjpodW50ZXIy"
    assert first["content-type"] == "application/logplex-1"
    assert first["content-encoding"] == "gzip"


def test_plain() -> None:
    """Without gzip a body is as it is."""
    with answering(in_turn()) as intake:
        assert sent("--no-gzip", given=b"a\n", url=intake.url).code == 0
    assert "content-encoding" not in intake.posts[0].fields
    assert frames.split(intake.posts[0].body)[0].endswith(b" - a")


# what is tried again


@pytest.mark.parametrize(
    "said", [Said(503), Said(429), Said(500, b"oops"), Said(0)], ids=str
)
def test_retried(said: Said) -> None:
    """The same post comes again, until it is answered for good."""
    with answering(in_turn(said, said)) as intake:
        ended = sent(given=b"a\nb\n", url=intake.url)
    assert (ended.code, numbers(ended)["delivered"]) == (0, 2)
    assert "2 retries; 0 batches answered as delivered before" in ended.said
    assert ended.said.count("trying again: ") == 1
    assert len(intake.posts) == 3
    assert (
        len({(post.body, post.fields["logplex-frame-id"]) for post in intake.posts})
        == 1
    )
    assert len({post.fields["x-request-id"] for post in intake.posts}) == 1


def test_duplicate() -> None:
    """What was there already is delivered, and counted as such."""
    duplicate = Said(200, fields=(("Logiss-Duplicate", "1"),))
    with answering(in_turn(Said(0), duplicate)) as intake:
        ended = sent(given=b"a\n", url=intake.url)
    assert (ended.code, numbers(ended)["delivered"]) == (0, 1)
    assert "1 retry; 1 batch answered as delivered before" in ended.said


def test_no_logiss(tmp_path: Path) -> None:
    """What takes posts and does not say that it is a logiss is told of, once."""
    name = str(tmp_path / "file")
    Path(name).write_bytes(b"a\nb\nc\n")
    for tool, arguments in [
        ("send", ("--quiet", "--batch-lines", "1", name)),
        ("replay", (name, name)),
    ]:
        with answering(lambda _: Said(200, is_logiss=False)) as intake:
            ended = sent(*arguments, url=intake.url, tool=tool)
        assert (ended.code, ended.said.count("\n")) == (0, 1)
        assert ended.said.startswith(f"logiss {tool}: answered 200 without Logiss-Del")
        with answering(in_turn()) as intake:
            assert sent(*arguments, url=intake.url, tool=tool).said == ""


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_dripping(tmp_path: Path, is_tls: bool) -> None:
    """An answer without an end counts by its status, and leaves no connection open."""
    began, ended, stop = [0], [0], threading.Event()

    class Dripping(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            began[0] += 1
            self.rfile.readline()
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n")
                while not stop.wait(0.02):
                    self.wfile.write(b"x")
            ended[0] += 1

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping)
    scheme, options = "http", ["--timeout", "0.3", "--connections", "1"]
    if is_tls:
        authority = trustme.CA()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        authority.issue_cert("localhost").configure_cert(tls)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme, options = "https", [*options, "--ca", str(tmp_path / "ca.pem")]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    url = f"{scheme}://u:p@localhost:{server.server_address[1]}"
    try:
        with sending(url, *options, "--batch-lines", "1") as process:
            assert process.stdin is not None
            process.stdin.write(b"1\n2\n3\n")
            process.stdin.flush()
            wait_for(lambda: began == [3] and ended == [3])
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_SECONDS)
            assert process.stderr is not None
            said = process.stderr.read().decode()
            assert numbers(Ended(0, "", said))["delivered"] == 3
    finally:
        stop.set()
        server.shutdown()
        thread.join(PATIENCE_SECONDS)
        server.server_close()


def test_retry_after() -> None:
    """A server is left alone for as long as it asks."""
    later = Said(503, fields=(("Retry-After", "2"),))
    at: list[float] = []
    answer = in_turn(later)

    def timed(post: Posted) -> Said:
        at.append(time.monotonic())
        return answer(post)

    with answering(timed) as intake:
        assert sent(given=b"a\n", url=intake.url).code == 0
    assert at[1] - at[0] >= 2.0


def test_lost() -> None:
    """
    What is answered 4xx is lost, with the reason told once, counted, and harmless to
    a terminal; exit code 1.
    """
    evil = b'frame 1 "is" \x1b[2J\x07\xff broken\nsecond line'
    with answering(lambda _: Said(400, evil)) as intake:
        ended = sent(given=lines(2000), url=intake.url)
    assert ended.code == LOST
    assert numbers(ended) == {"read": 2000, "delivered": 0, "lost": 2000, "unknown": 0}
    assert len(intake.posts) == 4
    assert ended.said.replace("\n", "").isprintable()
    told = "answered 400, first with \"frame 1 'is' "
    assert f"lost: 2,000 messages in 4 batches: {told}" in ended.said
    assert ended.said.count("\n") == 3
    assert "second line" not in ended.said


def test_wrong_password(tmp_path: Path) -> None:
    """A real logiss says no, also to large bodies, and its word arrives."""
    with logiss(tmp_path) as (daemon, _, _):
        url = f"http://user:hunter2@127.0.0.1:{daemon.port}"
        large = ("--no-gzip", "--batch-lines", "10000", "--batch-bytes", "8000000")
        given = (b"x" * 499 + b"\n") * 40_000
        ended = sent(*large, given=given, url=url)
    assert (ended.code, numbers(ended)["lost"]) == (LOST, 40_000)
    assert 'answered 401, first with "' in ended.said


def test_unknown() -> None:
    """
    What was written and not answered may have arrived: that is said, with exit code 1,
    and takes no longer than it may.
    """
    for said, words in ((Said(0), "connection closed by"), (None, "no answer from")):
        release = threading.Event()

        def answer(
            _: Posted, said: Said | None = said, release: threading.Event = release
        ) -> Said:
            if said is None:
                release.wait(PATIENCE_SECONDS)
            return said or Said()

        with answering(answer) as intake:
            options = ("--retry-seconds", "1", "--timeout", "0.5")
            ended = sent(*options, given=b"a\n", url=intake.url)
            release.set()
        assert (ended.code, numbers(ended)["unknown"]) == (LOST, 1)
        assert (
            "not known: 1 message in 1 batch and may have arrived or not" in ended.said
        )
        assert words in ended.said
    for fields, fate in [
        ((), "unknown"),
        ((("Server", "logiss"),), "lost"),
        ((("Logiss-Delivery", "acked"),), "lost"),
    ]:
        shed = Said(503, fields=fields, is_logiss=False)
        with answering(lambda _, shed=shed: shed) as intake:  # type: ignore[misc]
            ended = sent("--retry-seconds", "0", given=b"a\n", url=intake.url)
        assert numbers(ended)[fate] == 1, ended


def test_refused() -> None:
    """Where nobody listens everything is lost, and nothing of that is unknown."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    url = f"http://user:hunter2@127.0.0.1:{port}"
    ended = sent("--retry-seconds", "1", given=b"a\n", url=url)
    assert (ended.code, numbers(ended)["lost"]) == (LOST, 1)
    assert f"connection refused by 127.0.0.1:{port}" in ended.said
    ended = sent("--retry-seconds", "0", given=b"a\n", url="http://name.invalid")
    assert "no address found for name.invalid:80" in ended.said


def test_adds_up() -> None:
    """
    Whatever a server does, the numbers add up, and are true: what is called lost has
    not been taken, what is called delivered has.
    """
    chance = random.Random(7)
    taken: Counter[str] = Counter()
    given_out: Counter[int] = Counter()
    kinds = [Said(), Said(), Said(400), Said(413), Said(503), Said(429), Said(0)]

    def answer(post: Posted) -> Said:
        said = chance.choice(kinds)
        # One that closes has taken every other post.
        if said.code == 200 or (not said.code and chance.random() < 0.5):
            taken[post.fields["logplex-frame-id"]] = post.count
        given_out[said.code] += 1
        return said

    with answering(answer) as intake:
        options = ("--batch-lines", "10", "--retry-seconds", "0.5")
        ended = sent(*options, given=lines(2000), url=intake.url)
    assert len(given_out) == len(set(kinds)), given_out
    found = numbers(ended)
    arrived = sum(taken.values())
    assert found["delivered"] <= arrived <= found["delivered"] + found["unknown"]
    assert 0 < found["lost"] <= 2000 - arrived
    assert ended.code == LOST


def test_restarted(tmp_path: Path) -> None:
    """
    A logiss is killed and started again in mid-run: nothing is lost, and no more
    arrives twice than was under way.
    """
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    with receiving() as receiver:
        about = {"FORWARD_DEST": f"127.0.0.1:{receiver.port}", "PORT": str(port)}
        url = f"http://user:a%3Atoken@127.0.0.1:{port}"
        with sending(url, "--batch-lines", "100") as process:
            assert process.stdin is not None
            for n in range(3):
                with running("python", tmp_path, **about) as daemon:
                    daemon.wait_until_usable()
                    for i in range(10):
                        many = range(
                            n * 10_000 + i * 1000, n * 10_000 + i * 1000 + 1000
                        )
                        text = b"".join(b"%d\n" % number for number in many)
                        process.stdin.write(text)
                        process.stdin.flush()
                    if n < 2:
                        daemon.signal(signal.SIGKILL)
                        daemon.wait()
                    else:
                        _, told = process.communicate(timeout=PATIENCE_SECONDS)
                        said = told.decode()
                        assert process.returncode == 0, said
    ended = Ended(process.returncode, "", said)
    assert numbers(ended)["delivered"] == 30_000
    arrived = Counter(int(text) for text in texts(receiver.frames))
    assert set(arrived) == set(range(30_000))
    twice = sum(count - 1 for count in arrived.values())
    assert twice <= 2 * 4 * 100
    assert "trying again: " in said


# TLS


def test_tls(tmp_path: Path) -> None:
    """
    https with --ca; another authority or name is refused at once, without a post.
    """
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    with answering(in_turn(), tls) as intake:
        url = f"https://user:hunter2@localhost:{intake.port}"
        assert sent("--ca", str(tmp_path / "ca.pem"), given=b"a\n", url=url).code == 0
        assert len(intake.posts) == 1
        for options, where in [
            (("--ca", str(tmp_path / "other.pem")), "localhost"),
            ((), "localhost"),
            (("--ca", str(tmp_path / "ca.pem")), "127.0.0.1"),
        ]:
            url = f"https://user:hunter2@{where}:{intake.port}"
            ended = sent(*options, given=b"a\n", url=url)
            assert (ended.code, numbers(ended)["lost"]) == (LOST, 1)
            assert f"{where}:{intake.port}: its certificate is " in ended.said
            assert "trying again" not in ended.said
        assert len(intake.posts) == 1


def test_tls_not_closed(tmp_path: Path) -> None:
    """A server that does not close its side of TLS does not hold up the end."""
    authority, stop = trustme.CA(), threading.Event()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)

    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with tls.wrap_socket(connection, server_side=True) as secured:
            # Head and body, which are short, come at once or one after the other.
            octets = b""
            while b" m - a" not in octets:
                octets += secured.recv(65536)
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            stop.wait(2 * PATIENCE_SECONDS)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,), daemon=True)
        thread.start()
        url = f"https://u:p@localhost:{listening.getsockname()[1]}"
        options = ("--no-gzip", "--msgid", "m", "--ca", str(tmp_path / "ca.pem"))
        try:
            process = subprocess.run(
                command("send", *options),
                env=environ(LOGS_URL=url),
                input=b"a\n",
                capture_output=True,
                timeout=PATIENCE_SECONDS,
            )
        finally:
            stop.set()
            thread.join(PATIENCE_SECONDS)
    assert process.returncode == 0, process


def test_bad_authorities(tmp_path: Path) -> None:
    """A file without certificates is told in a line."""
    for octets, why in [
        (b"", "has no certificate in PEM"),
        (
            b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----",
            "cannot be read",
        ),
    ]:
        (tmp_path / "ca.pem").write_bytes(octets)
        ended = sent("--ca", str(tmp_path / "ca.pem"), url="https://a.invalid")
        assert (ended.code, ended.said.count("\n")) == (LOST, 1)
        assert ended.said.startswith("logiss send: --ca: ")
        assert why in ended.said


# what somebody sees


class Terminal:
    """
    A pseudo-terminal on which `logiss send` runs.

    @ivar written: all that it has sent to the terminal.
    """

    def __init__(self, url: str, *arguments: str, **about: str) -> None:
        self._ours, theirs = pty.openpty()
        size = struct.pack("HHHH", 24, 120, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)
        self.written = b""
        self.process = subprocess.Popen(
            command("send", *arguments),
            env=environ(**{"TERM": "xterm-256color", "LOGS_URL": url, **about}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
        )
        os.close(theirs)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def shows(self, words: str) -> bool:
        while select.select([self._ours], [], [], 0.02)[0]:
            try:
                self.written += os.read(self._ours, 1 << 16)
            except OSError:
                break  # EIO: the other side has gone.
        return words in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.written.decode())

    def wait(self) -> int:
        wait_for(lambda: self.shows("") and self.process.poll() is not None)
        self.shows("")
        return self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(url: str, *arguments: str, **about: str) -> Iterator[Terminal]:
    opened = Terminal(url, *arguments, **about)
    try:
        yield opened
    finally:
        opened.close()


def test_bar(tmp_path: Path) -> None:
    """A terminal has a bar while a file is sent, and the summary below it."""
    (tmp_path / "lines").write_bytes(lines(3000))
    go_on = threading.Event()

    def answer(_: Posted) -> Said:
        go_on.wait(PATIENCE_SECONDS)
        return Said()

    name = str(tmp_path / "lines")
    with answering(answer) as intake, terminal(intake.url, name) as shown:
        wait_for(lambda: shown.shows("0 delivered"))
        assert shown.shows("0 retries  0 lost")
        go_on.set()
        assert shown.wait() == 0
        assert shown.shows("100% 3,000 delivered")
        assert shown.shows("read 3,000 lines: 3,000 delivered, 0 lost")
        assert b"\x1b[?25l" in shown.written
        assert shown.written.rindex(b"\x1b[?25h") > shown.written.rindex(b"\x1b[?25l")


def test_bar_without_size() -> None:
    """Typed lines are sent; how many there will be is not known; Ctrl-D ends them."""
    with answering(in_turn()) as intake, terminal(intake.url) as shown:
        wait_for(lambda: shown.shows("reading lines from this terminal; Ctrl-D ends"))
        shown.type(b"hello\n")
        wait_for(lambda: shown.shows("1 delivered"))
        assert not shown.shows("%")
        shown.type(b"\x04")
        assert shown.wait() == 0
    assert frames.split(intake.posts[0].octets)[0].endswith(b" hello")


def test_no_bar(tmp_path: Path) -> None:
    """Where the terminal is dumb, or it is to be quiet, there is none."""
    (tmp_path / "lines").write_bytes(lines(3))
    for options, about, summed in [
        ((), {"TERM": "dumb"}, True),
        (("--quiet",), {}, False),
    ]:
        with answering(in_turn()) as intake:
            name = str(tmp_path / "lines")
            with terminal(intake.url, name, *options, **about) as shown:
                assert shown.wait() == 0
                assert b"\x1b" not in shown.written
                assert shown.shows("read 3 lines") == summed
                assert not shown.shows("retries")


def test_quiet() -> None:
    """--quiet tells what is lost, and nothing else."""
    with answering(in_turn(Said(503), Said(), Said(400, b"why"))) as intake:
        assert sent("--quiet", given=b"a\n", url=intake.url) == Ended(0, "", "")
        ended = sent("--quiet", given=b"a\n", url=intake.url)
    assert (ended.code, numbers(ended)["lost"]) == (LOST, 1)
    assert ended.said.count("\n") == 2


@pytest.mark.parametrize(
    "redirection", ["2>&-", ">&- 2>&-", "2>&1 | true", "2>/dev/full"]
)
def test_nobody_reads(tmp_path: Path, redirection: str) -> None:
    """Where nobody reads what it says the lines are sent, and the exit code is true."""
    (tmp_path / "lines").write_bytes(lines(3000))
    code_file = tmp_path / "code"
    with answering(in_turn(Said(503))) as intake:
        script = f'{{ "$@"; echo $? > {code_file}; }} {redirection}'
        arguments = command("send", str(tmp_path / "lines"))
        done = subprocess.run(
            ["/bin/sh", "-c", script, "sh", *arguments],
            env=environ(LOGS_URL=intake.url),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=PATIENCE_SECONDS,
        )
    assert done.stdout == b""
    assert code_file.read_text() == "0\n"
    delivered = {post.fields["logplex-frame-id"]: post.count for post in intake.posts}
    assert sum(delivered.values()) == 3000


def test_inputs(tmp_path: Path) -> None:
    """Standard input may be a file, nothing or closed; memory has nothing in it."""
    (tmp_path / "lines").write_bytes(lines(3))
    with answering(in_turn()) as intake:
        for redirection, said, code in [
            (f"< {tmp_path}/lines", "read 3 lines: 3 delivered", 0),
            ("< /dev/null", "read 0 lines: 0 delivered", 0),
            ("<&-", "standard input: is closed; name a FILE", LOST),
            ("/proc/self/mem", "mem': cannot be read any further: Input/output", LOST),
        ]:
            done = subprocess.run(
                ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *command("send")],
                env=environ(LOGS_URL=intake.url),
                capture_output=True,
                timeout=PATIENCE_SECONDS,
            )
            assert (done.returncode, done.stdout) == (code, b""), done
            assert said in done.stderr.decode(), done
            assert b"Traceback" not in done.stderr


def test_mistakes(tmp_path: Path) -> None:
    """Each mistake is one line, and nothing is sent."""
    with answering(in_turn()) as intake:
        (tmp_path / "a").write_bytes(b"1\n")
        for arguments, words in [
            ((str(tmp_path / "a"), str(tmp_path / "b")), "FILE: cannot read "),
            ((intake.url,), "FILE: is a URL; give it behind --url"),
            (("--url", "nowhere"), "--url: does not begin with http"),
            (("--test", "1", "x"), "--test: sends its own messages"),
        ]:
            ended = sent(*arguments, url=intake.url)
            assert (ended.code, ended.out, ended.said.count("\n")) == (LOST, "", 1)
            assert ended.said.startswith(f"logiss send: {words}")
        assert not intake.posts
    assert (
        "--url: it is not said where" in sent(url="").said or sent(url="").code == LOST
    )


def test_nothing_open(tmp_path: Path) -> None:
    """Where standard descriptors are closed no connection gets their numbers."""
    code = "import os, pathlib, sys; from logiss.foreground import hold_descriptors;"
    code += "hold_descriptors(); fd = os.open('/dev/null', os.O_RDONLY);"
    code += "pathlib.Path(sys.argv[1]).write_text(str(fd))"
    for redirection in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        script = f'"$@" {redirection}'
        python = [*command()[:1], "-c", code, str(tmp_path / "fd")]
        subprocess.run(["/bin/sh", "-c", script, "sh", *python], timeout=60)
        assert int((tmp_path / "fd").read_text()) > 2


# how it ends


def test_stopped_without_writer(tmp_path: Path) -> None:
    """A named pipe that nobody writes to is waited for, and Ctrl-C ends that."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lines").write_bytes(b"1\n")
    names = [str(tmp_path / "lines"), str(tmp_path / "pipe")]
    with answering(in_turn()) as intake, sending(intake.url, *names) as process:
        wait_for(lambda: intake.posts)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == INTERRUPTED


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)]
)
def test_stopped(number: signal.Signals, code: int) -> None:
    """A signal ends the reading; what has been read is delivered, and all is told."""
    with answering(in_turn()) as intake, sending(intake.url) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n2\nhalf")
        process.stdin.flush()
        wait_for(lambda: intake.posts)
        process.send_signal(number)
        process.wait(PATIENCE_SECONDS)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert process.returncode == code, said
    assert numbers(Ended(code, "", said))["delivered"] == 2
    assert f"stopped by {number.name}: what is under way has 10 s" in said
    assert "stopped reading standard input at byte 4" in said


def test_stopped_at_once() -> None:
    """The second Ctrl-C waits for nothing, and says what is not known and lost."""
    release = threading.Event()

    def answer(_: Posted) -> Said:
        release.wait(PATIENCE_SECONDS)
        return Said()

    options = ("--connections", "1", "--timeout", "1000", "--batch-lines", "1")
    with answering(answer) as intake, sending(intake.url, *options) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n2\n")
        process.stdin.flush()
        wait_for(lambda: intake.posts)
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert b"stopped by SIGINT" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        process.wait(PATIENCE_SECONDS)
        release.set()
    assert process.returncode == INTERRUPTED
    found = numbers(Ended(0, "", said))
    assert (found["unknown"], found["lost"]) == (1, 1), said


def test_stopped_with_time() -> None:
    """After one Ctrl-C a server that never answers holds nothing up for long."""
    release = threading.Event()

    def answer(_: Posted) -> Said:
        release.wait(PATIENCE_SECONDS)
        return Said()

    with answering(answer) as intake, sending(intake.url, "--timeout", "1") as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        wait_for(lambda: intake.posts)
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_SECONDS)
        release.set()
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert process.returncode == INTERRUPTED
    assert numbers(Ended(0, "", said))["unknown"] == 1


@pytest.mark.parametrize("tool", ["send", "replay"])
def test_name_service(tmp_path: Path, tool: str) -> None:
    """A thread that asks a name service for ever holds up no end of the work."""
    (tmp_path / "file").write_bytes(b"1 x")
    variables = environ(LOGS_URL="http://u:p@name.example", **without_names(tmp_path))
    done = subprocess.run(
        command(tool, "--timeout", "0.05", "--retry-seconds", "0", f"{tmp_path}/file"),
        env=variables,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == LOST, done
    assert b"name.example:80" in done.stdout + done.stderr
    assert (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("arguments", "times", "code"),
    [
        (("send", "--timeout", "3600", "/etc/hosts"), 2, INTERRUPTED),
        (("replay", "--timeout", "3600", "/etc/hosts"), 2, INTERRUPTED),
        (("check",), 1, 1),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_stopped_without_names(
    tmp_path: Path, arguments: tuple[str, ...], times: int, code: int
) -> None:
    """Nor does it when it is ended by Ctrl-C, and what was printed is there."""
    process = subprocess.Popen(
        command(*arguments),
        env=environ(
            LOGS_URL="http://u:p@name.example",
            PORT="0",
            DEPLOY="test",
            TOKEN_MAP="user:token",
            FORWARD_DEST="name.example:601",
            **without_names(tmp_path),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for((tmp_path / "asked").exists)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            process.stderr.readline()
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == code
    assert out or arguments[0] == "send"


# what it takes


def test_memory(tmp_path: Path) -> None:
    """A large file needs hardly more memory than a small one."""

    # What wait4() tells of a child includes what its parent had.
    code = "import re, sys; from logiss.__main__ import main;"
    code += "main(['send', *sys.argv[1:]]); about = open('/proc/self/status').read();"
    code += "print(re.search('VmHWM: *([0-9]+) kB', about.replace(chr(9), ' '))[1])"

    def slower_than_reading(_: Posted) -> Said:
        time.sleep(0.04)
        return Said()

    def peak_kib(name: str) -> int:
        with answering(slower_than_reading) as intake:
            done = subprocess.run(
                [*command()[:1], "-c", code, "--no-gzip", str(tmp_path / name)],
                env=environ(LOGS_URL=intake.url),
                capture_output=True,
                timeout=4 * PATIENCE_SECONDS,
            )
        assert b" 0 lost, 0 not known" in done.stderr, done
        return int(done.stdout)

    line = b"".join(b"%d " % n for n in range(300))[:999] + b"\n"
    for name, megabytes in (("small", 10), ("large", 200)):
        with (tmp_path / name).open("wb") as file:
            for _ in range(megabytes):
                file.write(line * 1000)
    small, large = peak_kib("small"), peak_kib("large")
    assert large < 1.5 * small


def test_others_do_not_pay() -> None:
    """What posts and draws is not loaded by the commands that do not."""
    code = "import sys, logiss.__main__;"
    code += (
        "print([m for m in ('treq', 'rich', 'twisted.web.client') if m in sys.modules])"
    )
    done = subprocess.run(
        [*command()[:1], "-c", code], env=environ(), capture_output=True, timeout=60
    )
    assert done.stdout == b"[]\n", done


def test_help() -> None:
    """A newcomer reads what it does, how to say where, and what the exit code says."""
    said = " ".join(sent("--help").out.split())
    for words in ("LOGS_URL", "tail -F", "exit code", "--ca", "in seconds", "order"):
        assert words in said
