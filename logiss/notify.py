"""
Tells systemd how the service is: ready, reloading, stopping, still alive.

The protocol is that of sd_notify(3): datagrams of ``NAME=value`` lines to the socket
that NOTIFY_SOCKET names. Without one nothing is told.
"""

import socket
import time
from collections.abc import MutableMapping

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

_MICROSECONDS = 1_000_000


class Supervisor:
    """
    Whoever started the process and waits to hear of it.

    @param environ: says where it listens, and no longer afterwards, since no child is
        to speak for the process.
    @ivar keeps_watch: whether it ends a process that it hears nothing of.
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        self.variables = {
            name: environ.pop(name)
            for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
            if name in environ
        }
        self._address = self.variables.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            # In Linux's abstract namespace.
            self._address = "\0" + self._address[1:]
        self._watchdog_seconds = _watchdog_seconds(self.variables, pid)
        self._beat = LoopingCall(self._say, "WATCHDOG=1")

    @property
    def keeps_watch(self) -> bool:
        return self._watchdog_seconds > 0.0

    def ready(self) -> None:
        self._say("READY=1")

    def reloading(self) -> None:
        """The next `ready` is the end of it; systemd asks for the time (v253)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def watch(self, clock: IReactorTime) -> None:
        """Say often enough that the reactor of `clock` is alive, if that is wanted."""
        if self.keeps_watch and not self._beat.running:
            self._beat.clock = clock
            # As often as sd_watchdog_enabled(3) recommends.
            self._beat.start(self._watchdog_seconds / 2.0)

    def _say(self, words: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
                speaker.setblocking(False)
                speaker.sendto(words.encode(), self._address)
        except OSError:
            # Nobody is there to hear it, nor to hear that.
            return


def _watchdog_seconds(variables: MutableMapping[str, str], pid: int) -> float:
    text = variables.get("WATCHDOG_USEC", "")
    is_ours = variables.get("WATCHDOG_PID", str(pid)) == str(pid)
    is_number = text.isascii() and text.isdigit()
    return int(text) / _MICROSECONDS if is_number and is_ours else 0.0
