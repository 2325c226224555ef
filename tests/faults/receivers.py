"""
Starts, stops, halts and kills a sink or an rsyslogd.

A receiver keeps its port while it is started anew. What each of its lives has
received stays in its folder.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tests.faults.ledger import Arrivals
from tests.faults.regions import Lines, Region, Unparsable

_SINK = Path(__file__).with_name("sink.py")
_START_SECONDS = 10.0
_STOP_SECONDS = 10.0
_RSYSLOGD_MODULES = Path("/usr/lib")


class Missing(Exception):
    """Something that a scenario needs is not there; says what and how to get it."""


def unused_port(host: str = "127.0.0.1") -> int:
    """
    One that no outgoing connection is given: a connection to itself would take the
    place of a receiver that is down.
    """
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise Missing("no TCP port from 20000 to 32000 is free")


def signalled(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """End a process; one that takes too long is killed."""
    if process.poll() is not None:
        return
    process.send_signal(number)
    # One that is halted takes no other signal than SIGKILL.
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class MissingNamespace(Missing):
    """No network namespace can be made here."""


class Receiver(ABC):
    """
    A receiver process, or one after the other.

    @ivar host: where it listens.
    """

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self.folder = folder
        self.host = host
        self.port = port
        self.generation = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def destination(self) -> str:
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Returns when it listens."""
        assert self.process is None
        self.generation += 1
        with (self.folder / f"said-{self.generation}").open("wb") as said:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._listens():
            assert self.process.poll() is None, self._said()
            assert time.monotonic() < deadline, "the receiver does not listen"
            time.sleep(0.002)

    def _said(self) -> str:
        return (self.folder / f"said-{self.generation}").read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            signalled(process, number)

    def halt(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @abstractmethod
    def _command(self) -> Sequence[str]: ...

    @abstractmethod
    def _listens(self) -> bool: ...

    @abstractmethod
    def read_into(self, arrivals: Arrivals) -> None:
        """What it has received since the last call."""

    @abstractmethod
    def connected(self) -> int:
        """How many connections of its present life are open, as far as is known."""


class Sink(Receiver):
    """
    `tests.faults.sink`.

    @param prefix: a command that runs another, to run it elsewhere.
    @ivar options: of its command line, from the next start on.
    """

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, host, unused_port("127.0.0.1"))
        self._prefix = prefix
        self.options = options
        self._regions: dict[Path, Region] = {}

    def _command(self) -> Sequence[str]:
        return [
            *self._prefix,
            *(sys.executable, "-I", "-S", str(_SINK)),
            *("--host", self.host, "--port", str(self.port)),
            *("--folder", str(self.folder), "--generation", str(self.generation)),
            *self.options,
        ]

    def journal(self) -> list[list[str]]:
        """Moment, event, connection and how it ended, of each event so far."""
        try:
            text = (self.folder / "journal").read_text()
        except FileNotFoundError:
            return []
        return [line.split(" ") for line in text.splitlines()]

    def _listens(self) -> bool:
        return any(
            event == "listening" and name == str(self.generation)
            for _, event, name, *_ in self.journal()
        )

    def connected(self) -> int:
        events = [
            event
            for _, event, name, *_ in self.journal()
            if name.startswith(f"{self.generation}-")
        ]
        return events.count("accepted") - events.count("ended")

    def read_into(self, arrivals: Arrivals) -> None:
        for path in self._region_paths():
            region = self._regions.setdefault(path, Region(path))
            try:
                arrivals.take(region.frames())
            except Unparsable:
                arrivals.altered += 1

    def received_bytes(self) -> int:
        """About how much has come, to a page for each connection."""
        return sum(path.stat().st_blocks * 512 for path in self._region_paths())

    def longest_connection_seconds(self) -> float:
        """How long a connection was open, one that still is until now."""
        accepted: dict[str, float] = {}
        longest = 0.0
        for moment, event, name, *_ in self.journal():
            if event == "accepted":
                accepted[name] = float(moment)
            elif event == "ended":
                longest = max(longest, float(moment) - accepted.pop(name))
        now = time.monotonic()
        return max([longest, *(now - moment for moment in accepted.values())])

    def _region_paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.region"))

    def wire(self) -> list[bytes]:
        """What has come over each TLS connection, as it came."""
        return [path.read_bytes() for path in sorted(self.folder.glob("*.wire"))]


_CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="128k" net.enableDNS="off"
       parser.escapeControlCharactersOnReceive="off"
       parser.dropTrailingLFOnReception="off")
module(load="{module}")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="durable" queue.type="Direct") {{
    action(type="omfile" file="{output}" template="raw")
}}
input(type="{module}" address="{host}" port="{port}" ruleset="durable" keepAlive="on"
      {options})
"""
_INPUT_OPTIONS = {
    "imptcp": 'maxFrameSize="200000"',
    "imrelp": 'flowControl="full" maxDataSize="128k" oversizeMode="abort"',
}


class Rsyslogd(Receiver):
    """
    An rsyslogd that writes what it receives to a file, without a queue between.

    @param module: ``imptcp`` or ``imrelp``.
    """

    def __init__(self, folder: Path, module: str) -> None:
        super().__init__(folder, "127.0.0.1", unused_port())
        program = shutil.which("rsyslogd", path=f"{os.defpath}:/usr/sbin:/sbin")
        if program is None:
            raise Missing("rsyslogd is not installed (Debian: apt-get install rsyslog)")
        if not any(_RSYSLOGD_MODULES.glob(f"**/rsyslog/{module}.so")):
            raise Missing(
                f"rsyslogd has no {module} (Debian: apt-get install rsyslog-relp)"
            )
        self._program = program
        self._module = module
        self._outputs: dict[int, Lines] = {}

    def _command(self) -> Sequence[str]:
        # A line that a death has cut must not be glued to the next life's first.
        output = self.folder / f"output-{self.generation}"
        self._outputs[self.generation] = Lines(output)
        configuration = self.folder / f"rsyslog-{self.generation}.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=self.folder,
                module=self._module,
                output=output,
                host=self.host,
                port=self.port,
                options=_INPUT_OPTIONS[self._module],
            )
        )
        pid = self.folder / f"pid-{self.generation}"
        return [self._program, "-n", "-f", str(configuration), "-i", str(pid)]

    def _listens(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), 0.2).close()
        except OSError:
            return False
        return True

    def connected(self) -> int:
        return 0

    def read_into(self, arrivals: Arrivals) -> None:
        for lines in self._outputs.values():
            arrivals.take(lines.frames())
