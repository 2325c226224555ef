"""
Tries out what is installed, from the outside: ``python -I smoke.py VERSION``.

It has nothing of the source tree, and imports nothing but what comes with Python: it
runs with the interpreter of the environment that it tries. What is wrong ends it.
"""

import base64
import http.client
import importlib.metadata
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 30
POSTS = 3
_MSG = "<190>1 2013-06-07T13:17:49.468822+00:00 host app web.1 - - smoke {}"


class Wrong(Exception):
    """What is installed does not do what it should."""


def require(is_so: object, what: str) -> None:
    if not is_so:
        raise Wrong(what)


def said(name: str, *arguments: str) -> str:
    """What a command of the environment prints."""
    done = subprocess.run(
        [BIN / name, *arguments],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    require(done.returncode == 0, f"{name} {arguments}: {done.stderr}")
    return done.stdout


def check_versions(version: str) -> None:
    """The package and the command have one version."""
    found = importlib.metadata.version("logiss")
    require(found == version, f"the metadata says {found}, not {version}")
    found = said("logiss", "--version").strip()
    require(found == version, f"logiss --version says {found}, not {version}")


def check_beside(version: str) -> None:
    """The plugin, the man page and the completion are there."""
    require("--with-receiver" in said("twist", "logiss", "--help"), "no plugin")
    page = Path(sys.prefix) / "share" / "man" / "man1" / "logiss.1"
    require(page.is_file(), f"no {page}")
    require(f'"logiss {version}"' in page.read_text(), "the man page is another's")
    require("complete " in said("logiss", "completion", "bash"), "no completion")


class Log:
    """What a process prints, as it comes."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)

    def wait_for(self, pattern: str) -> "re.Match[str]":
        """The first line with it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for line in list(self._lines):
                if found := re.search(pattern, line):
                    return found
            time.sleep(0.01)
        raise Wrong(f"no line with {pattern!r} in {self._lines}")


@contextmanager
def running() -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [BIN / "logiss", "run", "--with-receiver"],
        env={"PATH": os.defpath, "PORT": "0", "LISTEN_HOST": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def post(port: int, text: str) -> int:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    headers = {
        "Authorization": "Basic " + base64.b64encode(b"test:token").decode(),
        "Content-Type": "application/logplex-1",
    }
    client.request("POST", "/logs", f"{len(text)} {text}", headers)
    status = client.getresponse().status
    client.close()
    return status


def check_daemon() -> None:
    """What is posted is delivered, and SIGTERM ends it well."""
    with running() as process:
        log = Log(process)
        port = int(log.wait_for(r"ns=http at=listen port=(\d+)")[1])
        for i in range(POSTS):
            status = post(port, _MSG.format(i))
            require(status == 200, f"post {i}: {status}")
            log.wait_for(rf'\[origin ip="127\.0\.0\.1"\] smoke {i}$')
        process.terminate()
        code = process.wait(PATIENCE_SECONDS)
        require(code == 0, f"the exit code is {code}")


def main(version: str) -> None:
    for check in (check_versions, check_beside):
        check(version)
        print(f"ok: {check.__doc__}")
    check_daemon()
    print(f"ok: {check_daemon.__doc__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
