"""A real logiss keeps what it refuses, and goes on when it cannot."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from logiss import captures
from tests.front import framed, message, request
from tests.integration.daemons import (
    BlockingClient,
    Daemon,
    receiving,
    running,
    wait_for,
)


def _posted(daemon: Daemon, body: bytes, **headers: str) -> int:
    """What a post on a connection of its own is answered."""
    client = BlockingClient(daemon.port)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client.send(request(body, headers={**named}))
    answer = client.answer()
    client.close()
    assert answer is not None
    return answer.code


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.capture"))


def test_kept_and_posted_again(tmp_path: Path) -> None:
    """What was refused is in files, over a restart, and the oldest go first."""
    folder = tmp_path / "refused"
    folder.mkdir()
    bad = [b"no frames", gzip.compress(b"nor are these"), b"\x1f\x8b but no gzip"]
    variables = {"CAPTURE_REFUSED": str(folder), "CAPTURE_REFUSED_MAX": "3"}
    with receiving() as receiver:
        destination = f"127.0.0.1:{receiver.port}"
        for start in (1, 2):
            with running(
                "twist", tmp_path, FORWARD_DEST=destination, **variables
            ) as daemon:
                daemon.wait_until_usable()
                assert _posted(daemon, bad[0]) == 400
                assert _posted(daemon, bad[1], Content_Encoding="gzip") == 400
                assert _posted(daemon, bad[2], Content_Encoding="gzip") == 400
                assert _posted(daemon, framed(message())) == 200
                daemon.signal(signal.SIGTERM)
                # The end waits for what is being written.
                assert daemon.wait() == 0, start
            kept = [captures.read(path.read_bytes()) for path in _files(folder)]
            assert sorted(capture.body for capture in kept) == sorted(bad)
            assert {path.stat().st_mode & 0o777 for path in _files(folder)} == {0o600}
            assert len(os.listdir(folder)) == 3


def test_replayed(tmp_path: Path) -> None:
    """What one logiss has refused another takes, from the file as it is."""
    folder = tmp_path / "refused"
    folder.mkdir()
    body = gzip.compress(framed(message(b"one"), message(b"two")))
    with receiving() as receiver:
        destination = f"127.0.0.1:{receiver.port}"
        strict = {"REQUIRE_MSG_COUNT": "1", "CAPTURE_REFUSED": str(folder)}
        with running("twist", tmp_path, FORWARD_DEST=destination, **strict) as daemon:
            daemon.wait_until_usable()
            headers = {"Content_Encoding": "gzip", "Logplex_Msg_Count": "3"}
            assert _posted(daemon, body, **headers) == 400
            wait_for(lambda: _files(folder))
        with running("twist", tmp_path, FORWARD_DEST=destination) as daemon:
            daemon.wait_until_usable()
            url = f"http://user:a%3Atoken@127.0.0.1:{daemon.port}/logs"
            replayed = subprocess.run(
                [sys.executable, "-m", "logiss", "replay", "--url", url, str(folder)],
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert replayed.returncode == 0, replayed
            wait_for(lambda: len(receiver.frames) == 2)
        texts = [frame.rpartition(b" ")[2] for frame in receiver.frames]
        assert texts == [b"one", b"two"]


def test_vanished(tmp_path: Path) -> None:
    """Without its directory it answers as ever, and keeps again what comes later."""
    folder = tmp_path / "refused"
    folder.mkdir()
    with (
        receiving() as receiver,
        running(
            "twist",
            tmp_path,
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            CAPTURE_REFUSED=str(folder),
        ) as daemon,
    ):
        daemon.wait_until_usable()
        shutil.rmtree(folder)
        assert _posted(daemon, b"no frames") == 400
        assert _posted(daemon, framed(message())) == 200
        folder.mkdir()
        assert _posted(daemon, b"no frames") == 400
        wait_for(lambda: _files(folder))
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        # One that was lost, said at the end.
        (line,) = daemon.logged(**{"count#log-iss.http.logs.capture.error": "1"})
        assert "No such file" in line["message"]


#: A directory whose disk hangs, as Python runs it at its start.
_HANGS = """
import os, time
scandir = os.scandir
def hang(path="."):
    if os.path.basename(path) == "hangs":
        time.sleep(3600)
    return scandir(path)
os.scandir = hang
"""


def test_disk_that_hangs(tmp_path: Path) -> None:
    """It answers as ever, and ends, as if there were nothing to be written."""
    folder = tmp_path / "hangs"
    folder.mkdir()
    (tmp_path / "sitecustomize.py").write_text(_HANGS)
    with (
        receiving() as receiver,
        running(
            "twist",
            tmp_path,
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            CAPTURE_REFUSED=str(folder),
            PYTHONPATH=str(tmp_path),
        ) as daemon,
    ):
        daemon.wait_until_usable()
        assert _posted(daemon, b"no frames") == 400
        assert _posted(daemon, framed(message())) == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        (line,) = daemon.logged(**{"count#log-iss.http.logs.capture.error": "1"})
        assert line["message"] == "the disk is too slow"
        assert _files(folder) == []


def test_not_a_directory(tmp_path: Path) -> None:
    """A directory that is not there ends it at once, with one line."""
    with running(
        "twist",
        tmp_path,
        FORWARD_DEST="127.0.0.1:9",
        CAPTURE_REFUSED=str(tmp_path / "none"),
    ) as daemon:
        assert daemon.wait() == 1
        assert daemon.process.stderr is not None
        said = daemon.process.stderr.read().decode()
        why = f"there is no directory '{tmp_path}/none'; make it"
        assert said == f"logiss: CAPTURE_REFUSED: {why}\n"
