"""The first ten minutes: the embedded receiver, the line to paste, `receive`."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.front import framed, message
from tests.integration.daemons import BIN, wait_for

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def process(arguments: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output is in files ``out`` and ``err``; it ends with the test."""
    environ = {"PATH": os.environ["PATH"], "LISTEN_HOST": "127.0.0.1", "PORT": "0"}
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        started = subprocess.Popen(
            arguments, cwd=tmp_path, env=environ, stdout=out, stderr=err
        )
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()
            started.wait()


def test_paste_the_curl_line(tmp_path: Path) -> None:
    """
    Without FORWARD_DEST there is a receiver that prints what it gets; the printed
    curl line works as it stands; Ctrl-C drains.
    """
    if shutil.which("curl") is None:
        if os.environ.get("CI"):
            pytest.fail("curl is not installed")
        pytest.skip("curl is not installed")
    with process([str(BIN / "twist"), "logiss", "--with-receiver"], tmp_path) as daemon:
        wait_for(lambda: "/logs\n" in (tmp_path / "err").read_text())
        said = (tmp_path / "err").read_text()
        assert "FORWARD_DEST IS NOT SET" in said
        assert "KEEPS NOTHING" in said
        command = said[said.index("curl ") :]
        answer = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, timeout=30
        )
        assert answer.stdout.startswith("HTTP/1.1 200 OK"), answer
        printed = (
            "<190>1 2013-06-07T13:17:49.468822+00:00 host app web.1 -"
            ' [origin ip="127.0.0.1"] hello\n'
        )
        wait_for(lambda: printed in (tmp_path / "out").read_text())
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(30) == 0
        assert "ns=main at=exit" in (tmp_path / "out").read_text()


def test_with_destination(tmp_path: Path) -> None:
    """With FORWARD_DEST set, nothing is assumed: the other variables are required."""
    started = subprocess.run(
        [str(BIN / "twist"), "logiss", "--with-receiver"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "FORWARD_DEST": "127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert started.returncode == 1
    assert "DEPLOY: is not set" in started.stderr
    assert "TOKEN_MAP: is not set" in started.stderr


def test_receive(tmp_path: Path) -> None:
    """`receive` prints each frame on a line, whatever is in it."""
    arguments = [sys.executable, "-m", "logiss", "receive", "--port", "0"]
    with process(arguments, tmp_path) as receiver:
        wait_for(lambda: "receiving on" in (tmp_path / "err").read_text())
        host, _, port = (tmp_path / "err").read_text().split()[-1].partition(":")
        octets = framed(message(b"one\n"), message(b"two\x1b[2J\nlines"))
        with socket.create_connection((host, int(port)), 30) as sender:
            for i in range(len(octets)):
                sender.sendall(octets[i : i + 1])
        wait_for(lambda: "lines" in (tmp_path / "out").read_text())
        assert (tmp_path / "out").read_text() == (
            message(b"one\n") + message(b"two\\x1b[2J\\nlines\n")
        ).decode()
        with socket.create_connection((host, int(port)), 30) as sender:
            sender.sendall(b"<13>not octet-counted\n")
            assert sender.recv(1) == b""
        wait_for(lambda: "no length" in (tmp_path / "err").read_text())
        receiver.send_signal(signal.SIGTERM)
        receiver.wait(30)


def test_make_run_is_that() -> None:
    """`make run` runs just what is tested here."""
    recipe = (ROOT / "Makefile").read_text()
    assert "\nrun: $(STAMP)\n\t$(BIN)/twist logiss --with-receiver\n" in recipe
