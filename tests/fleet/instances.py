"""
Four logiss, and who starts them again when they have ended.

As systemd does it with the unit of deploy/systemd: whoever has ended with 0 was told
to, as by a restart, and is started anew at once; whoever has fallen is after a pause.

But for its socket: each binds its port itself, as without ``logiss.socket``. Whoever
connects to one that has gone is refused at once, where systemd would let him wait for
the next.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.faults.intake import Intake
from tests.faults.levels import ACKED
from tests.faults.receivers import unused_port
from tests.fleet.balancer import SERVERS

#: RestartSec= of the unit.
PAUSE_SECONDS = 2.0
_LOOK_SECONDS = 0.05
_END_SECONDS = 30.0


class Instance:
    """
    One logiss after the other, on one port.

    @ivar codes: with what those that have ended did so.
    """

    def __init__(
        self, folder: Path, name: str, destination: str, variables: Mapping[str, str]
    ) -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self.pid_file = folder / f"{name}.pid"
        self._destination = destination
        self.port = unused_port()
        self._variables = {"PORT": str(self.port), "DEPLOY": name, **variables}
        self.codes: list[int] = []
        self._ended_at: float | None = None
        self.start()

    def start(self) -> None:
        self.intake = Intake(ACKED, self._folder, self._destination, self._variables)
        self.pid_file.write_text(str(self.intake.process.pid))

    def signal(self, number: signal.Signals) -> None:
        self.intake.signal(number)

    def kill(self) -> None:
        """And its workers, which would drain without it."""
        pid = self.intake.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        try:
            workers = [int(worker) for worker in children.read_text().split()]
        except OSError:
            workers = []  # it has ended
        self.signal(signal.SIGKILL)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)

    def start_again(self) -> None:
        """If it has ended, and if it is time."""
        code = self.intake.process.poll()
        if code is None:
            return
        now = time.monotonic()
        if self._ended_at is None:
            self._ended_at = now
            self.codes.append(code)
        if code == 0 or now - self._ended_at >= PAUSE_SECONDS:
            self._ended_at = None
            self.intake.stop()
            self.start()


class Instances:
    """
    @ivar one: each by its name in HAProxy.
    """

    def __init__(
        self, folder: Path, destination: str, variables: Mapping[str, str]
    ) -> None:
        self.one: dict[str, Instance] = {}
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        for name in SERVERS:
            self.one[name] = Instance(folder, name, destination, variables)
        self._keeper.start()

    def _keep(self) -> None:
        while not self._ending.wait(_LOOK_SECONDS):
            for instance in self.one.values():
                instance.start_again()

    def wait_until_usable(self) -> None:
        for instance in self.one.values():
            instance.intake.wait_until_usable()

    def ports(self) -> list[int]:
        return [instance.port for instance in self.one.values()]

    def codes(self) -> list[int]:
        """With what those that have ended did so."""
        return [code for instance in self.one.values() for code in instance.codes]

    def stop(self) -> None:
        self._ending.set()
        self._keeper.join(_END_SECONDS)
        for instance in self.one.values():
            instance.kill()
        for instance in self.one.values():
            instance.intake.stop()
