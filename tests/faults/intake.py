"""
A logiss process and its log.

Log lines have no time: each gets the moment at which it was read.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.faults.levels import Level
from tests.faults.receivers import signalled

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 20.0
USER, TOKEN = "faults", "token"
FORWARD_COUNT = 4
#: logiss's own default.
DELIVERY_TIMEOUT_SECONDS = 5.0


class Intake:
    """
    A running logiss.

    @ivar port: where it listens.
    @ivar delivery_timeout_seconds: as it was told.
    """

    def __init__(
        self,
        level: Level,
        folder: Path,
        destinations: str,
        variables: Mapping[str, str],
    ) -> None:
        self._errors = (folder / "stderr").open("ab+")
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(_ROOT),
            "DEPLOY": "faults",
            "PORT": "0",
            "LISTEN_HOST": "127.0.0.1",
            "TOKEN_MAP": f"{USER}:{TOKEN}",
            "REQUEST_LOG": "errors",
            "FORWARD_COUNT": str(FORWARD_COUNT),
            "FORWARD_DEST": ",".join(
                level.scheme + one for one in destinations.split(",")
            ),
            "DELIVERY_TIMEOUT": f"{DELIVERY_TIMEOUT_SECONDS:g}",
            **level.variables,
            **variables,
        }
        self.delivery_timeout_seconds = float(environ["DELIVERY_TIMEOUT"])
        self.forward_count = int(environ["FORWARD_COUNT"])
        self.process = subprocess.Popen(
            [sys.executable, "-m", level.module, "run"],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._lines: list[tuple[float, str]] = []
        self._pump = threading.Thread(target=self._read, daemon=True)
        self._pump.start()
        self.port = 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append((time.monotonic(), line.decode()))

    def wait_until_listening(self) -> None:
        self._wait_for("ns=http at=listen", 1)
        found = re.search(r"\bport=(\d+)", self.logged("ns=http at=listen")[0][1])
        assert found is not None
        self.port = int(found[1])

    def wait_until_usable(self) -> None:
        """Wait for the port, and for all backend connections."""
        self.wait_until_listening()
        self._wait_for(_counted("forwarder.connect.success"), self.forward_count)

    def _wait_for(self, mark: str, count: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while len(self.logged(mark)) < count:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, f"not logged in time: {mark}"
            time.sleep(0.005)

    def said(self) -> str:
        """What it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode()

    def logged(self, mark: str) -> list[tuple[float, str]]:
        """The lines with `mark` in them, and when they came."""
        return [entry for entry in list(self._lines) if mark in entry[1]]

    def counted(self, name: str) -> list[float]:
        """When the lines came that count ``log-iss.NAME``."""
        return [moment for moment, _ in self.logged(_counted(name))]

    def messages_of(self, name: str) -> set[str]:
        """What the lines that count ``log-iss.NAME`` say."""
        return {
            found[1]
            for _, line in self.logged(_counted(name))
            if (found := re.search(r' message="((?:[^"\\]|\\.)*)"', line))
        }

    def begun(self) -> set[str]:
        """The request ids of POSTs of which something was written in vain."""
        return {
            found[1]
            for _, line in self.logged(_counted("forwarder.write.error"))
            if (found := re.search(r'\brequest_id="([^"]*)"', line))
        }

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit code."""
        code = self.process.wait(seconds)
        self._pump.join(seconds)
        return code

    def stop(self) -> None:
        """End it, whatever it is doing."""
        signalled(self.process, signal.SIGKILL)
        self._pump.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


def _counted(name: str) -> str:
    return f"count#log-iss.{name}=1"
