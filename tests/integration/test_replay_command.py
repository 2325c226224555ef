"""`logiss replay` as a process, with a real logiss or a test's server behind it."""

import gzip
import os
import signal
import subprocess
import threading
from pathlib import Path

from attrs import evolve

from logiss import captures
from logiss.captures import Capture
from tests.front import framed, message
from tests.integration.daemons import (
    PATIENCE_SECONDS,
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
    sent,
)

GOOD = framed(message(b"one"), message(b"two"))
CAPTURE = Capture(
    captured_at="2026-01-31T12:00:00.000Z",
    code=400,
    because="frame 3 at byte 112: no length",
    target=b"/logs?app=a%20b&x=%zz+\xff",
    fields=(
        ("Content-Type", b"application/logplex-1; x=y"),
        ("Content-Encoding", b"gzip"),
        ("Logplex-Frame-Id", b"0123456789abcdef0123456789abcdef"),
        ("Logplex-Drain-Token", b"d.1"),
    ),
    body=gzip.compress(GOOD + b"\x1b[2J oh no", mtime=0),
    remote_addr=b"192.0.2.1",
    request_id=b"\x1b]0;title\x07",
)


def replayed(*arguments: str, url: str = "") -> Ended:
    return sent(*arguments, url=url, tool="replay")


def written(folder: Path, name: str, octets: bytes) -> str:
    (folder / name).write_bytes(octets)
    return str(folder / name)


def test_real(tmp_path: Path) -> None:
    """A body is posted to a real logiss as it is: what is good arrives."""
    good = written(tmp_path, "good", GOOD)
    zipped = written(tmp_path, "zipped", gzip.compress(GOOD))
    broken = written(tmp_path, "a capture", captures.octets(CAPTURE))
    with receiving() as receiver:
        dest = f"127.0.0.1:{receiver.port}"
        with running("python", tmp_path, FORWARD_DEST=dest) as daemon:
            daemon.wait_until_usable()
            url = f"http://user:a%3Atoken@127.0.0.1:{daemon.port}"
            ended = replayed(good, broken, zipped, url=url)
            assert replayed(good, url=url).code == 0
            wait_for(lambda: len(receiver.frames) == 6)
    assert (ended.code, ended.said) == (1, "")
    first, second, third = ended.out.splitlines()
    assert (first, third) == (f"{good} 200", f"{zipped} 200")
    assert second.startswith(f'"{broken}" 400 "Problem with body: frame 3 at byte ')


def test_as_captured(tmp_path: Path) -> None:
    """Body, query and the fields that were kept are those of the post."""
    name = written(tmp_path, "a.capture", captures.octets(CAPTURE))
    with answering(in_turn()) as intake:
        ended = replayed(name, url=f"{intake.url}/in?not=this")
        assert (ended.code, ended.out) == (0, f"{name} 200\n")
        plain = evolve(CAPTURE, target=b"/logs")
        name = written(tmp_path, "b.capture", captures.octets(plain))
        assert replayed(name, url=f"{intake.url}/in?not=this").code == 0
    (first, second) = intake.posts
    assert first.path == "/in?app=a%20b&x=%zz+%FF"
    assert second.path == "/in"
    assert first.body == CAPTURE.body
    for field, value in CAPTURE.fields:
        assert first.fields[field.lower()] == value.decode()
    assert first.fields["authorization"] == "Basic dXNlcjpodW50ZXIy"


def test_folder(tmp_path: Path) -> None:
    """The captures of a folder are posted by their age; other files are left alone."""
    names = [
        "20260131T120000Z-9-000002.capture",
        "20260131T120000Z-10-000001.capture",
        "20260131T120001Z-1-000001.capture",
        "20260201T000000Z-1-000000.capture",
    ]
    for n, name in reversed(list(enumerate(names))):
        capture = evolve(CAPTURE, request_id=None, target=b"/logs?n=%d" % n)
        written(tmp_path, name, captures.octets(capture))
    written(tmp_path, ".20260131T120000Z-1-000000.capture.tmp", b"x")
    written(tmp_path, "note.txt", b"x")
    with answering(in_turn()) as intake:
        ended = replayed(str(tmp_path), url=intake.url)
    assert ended.code == 0, ended
    assert [post.path for post in intake.posts] == [f"/logs?n={n}" for n in range(4)]
    assert ended.out == "".join(f"{tmp_path / name} 200\n" for name in names)


def test_not_posted(tmp_path: Path) -> None:
    """What is not whole, or not there, is told on its line, and the rest is posted."""
    cut = written(tmp_path, "cut", captures.octets(evolve(CAPTURE, is_cut=True)))
    half = written(tmp_path, "half", captures.octets(CAPTURE)[:-1])
    missing = str(tmp_path / "missing")
    good = written(tmp_path, "good", GOOD)
    (tmp_path / "empty").mkdir()
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    with answering(in_turn()) as intake:
        ended = replayed(
            *(cut, half, missing, pipe, "/dev/zero", good, str(tmp_path / "empty")),
            url=intake.url,
        )
    assert [post.body for post in intake.posts] == [GOOD]
    assert ended.code == 1
    said = ended.out.splitlines()
    assert said[0] == f'{cut} - "was not posted, for only its beginning was kept"'
    assert said[1].startswith(f'{half} - "is no whole capture: Body-Bytes is ')
    assert said[2] == f'{missing} - "cannot be read: No such file or directory"'
    for line, name in zip(said[3:5], (pipe, "/dev/zero"), strict=True):
        assert line.startswith(f'{name} - "is no regular file')
    assert said[5] == f"{good} 200"
    assert "is a folder without a capture in it" in ended.said


def test_answers(tmp_path: Path) -> None:
    """
    Retries as with `logiss send`; what the server says is printed so that it does no
    harm; whatever is not 200 is no success.
    """
    name = written(tmp_path, "a\x1b[2J", GOOD)
    with answering(in_turn(Said(503), Said(200))) as intake:
        ended = replayed(name, url=intake.url)
        assert (ended.code, len(intake.posts)) == (0, 2)
        assert ended.said == "logiss replay: trying again: answered 503\n"
    for said, words in [
        (Said(400, b"no \x1b[2J\nmore"), ' 400 "no '),
        (Said(204), " 204"),
        (Said(0), ' - "connection closed by 127.0.0.1:'),
    ]:
        with answering(lambda _, said=said: said) as intake:  # type: ignore[misc]
            ended = replayed("--retry-seconds", "0", name, url=intake.url)
        assert ended.code == 1
        assert words in ended.out
        assert ended.out.count("\n") == 1
        assert ended.out.replace("\n", "").isprintable()


def test_show(tmp_path: Path) -> None:
    """
    What a capture is, without posting it: when, why, its fields, how many frames are
    good, and the octets around the first that is not; nothing harms the terminal.
    """
    name = written(tmp_path, "a.capture", captures.octets(CAPTURE))
    plain = written(tmp_path, "plain", GOOD)
    ended = replayed("--show", name, plain)
    assert (ended.code, ended.said) == (0, "")
    at = len(GOOD)
    for line in (
        name,
        "  captured at 2026-01-31T12:00:00.000Z",
        "  refused with 400: frame 3 at byte 112: no length",
        "  from '192.0.2.1'",
        "  X-Request-Id: '\\x1b]0;title\\x07'",
        "  target: '/logs?app=a%20b&x=%zz+\\xff'",
        "  Content-Type: 'application/logplex-1; x=y'",
        "  Logplex-Frame-Id: '0123456789abcdef0123456789abcdef'",
        f"  body: {len(CAPTURE.body)} bytes",
        f"  inflated: {at + 10} bytes",
        "  good frames: 2",
        f"  fault at byte {at}",
        f"  before: ...'{GOOD[-40:].decode()}'",
        "  at:     '\\x1b[2J oh no'",
        plain,
        "  a body only: when and why it was refused is not known",
        "  fault: none",
    ):
        assert line in ended.out.splitlines(), (line, ended.out)
    assert f"\n  fault: frame 3 at byte {at}: no length" in ended.out
    assert ended.out.replace("\n", "").isprintable()
    assert replayed("--show", str(tmp_path / "missing")).code == 1


def test_mistakes(tmp_path: Path) -> None:
    """A mistake is one line."""
    name = written(tmp_path, "good", GOOD)
    ended = replayed(name, "--url", "http://u:hunter2@a:b")
    assert (ended.code, ended.out, ended.said.count("\n")) == (1, "", 1)
    assert ended.said.startswith("logiss replay: --url: has no valid host and port")
    for options in ((), ("--show",)):
        ended = replayed(name, "http://u:hunter2@a/", *options, url="http://u:p@a")
        assert (ended.code, ended.out, ended.said.count("\n")) == (1, "", 1)
        assert ended.said.startswith("logiss replay: FILE: is a URL; ")


def test_nobody_reads(tmp_path: Path) -> None:
    """Where nobody reads what it prints it ends, without a traceback."""
    name = written(tmp_path, "good", GOOD)
    with answering(in_turn()) as intake:
        for redirection, said in [
            ("| true", b""),
            ("> /dev/full", b"logiss replay: standard output: cannot be written to"),
            (">&-", b""),
        ]:
            for options in ("", "--show"):
                script = f'"$@" {redirection}'
                arguments = command("replay", *options.split(), *[name] * 50)
                done = subprocess.run(
                    ["/bin/sh", "-c", script, "sh", *arguments],
                    env=environ(LOGS_URL=intake.url),
                    capture_output=True,
                    timeout=PATIENCE_SECONDS,
                )
                assert b"Traceback" not in done.stderr, done
                assert b"Exception" not in done.stderr, done
                assert said in done.stderr
                assert done.stderr.count(b"\n") <= 1, done


def test_other_locale(tmp_path: Path) -> None:
    """What the encoding of standard output does not have is escaped."""
    capture = evolve(CAPTURE, because="a\x07b")
    shown = written(tmp_path, "a.capture", captures.octets(capture))
    body = written(tmp_path, "good", GOOD)
    with answering(lambda _: Said(400, b"c\x07d")) as intake:
        for arguments, words in [
            (("--show", shown), b"refused with 400: a\\ufffdb\n"),
            ((body,), b' 400 "c\\ufffdd"\n'),
        ]:
            done = subprocess.run(
                command("replay", *arguments),
                env=environ(LOGS_URL=intake.url, PYTHONIOENCODING="latin-1"),
                capture_output=True,
                timeout=PATIENCE_SECONDS,
            )
            assert done.stderr == b""
            assert words in done.stdout


def test_stopped(tmp_path: Path) -> None:
    """Ctrl-C lets the post under way have its time, and begins no other."""
    release = threading.Event()

    def answer(_: Posted) -> Said:
        release.wait(PATIENCE_SECONDS)
        return Said()

    names = [written(tmp_path, name, GOOD) for name in ("a", "b")]
    with answering(answer) as intake:
        process = subprocess.Popen(
            command("replay", *names),
            env=environ(LOGS_URL=intake.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            wait_for(lambda: intake.posts)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert b"stopped by SIGINT: the post under way" in process.stderr.readline()
            release.set()
            out, said = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            release.set()
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert process.returncode == 130
    assert out.decode() == f"{names[0]} 200\n"
    assert f"not posted: '{names[1]}' and what comes behind it" in said.decode()
    assert len(intake.posts) == 1


def test_help() -> None:
    """A newcomer reads what it does."""
    said = " ".join(replayed("--help").out.split())
    for words in ("CAPTURE_REFUSED", "--show", "exit code", "LOGS_URL", "folder"):
        assert words in said
