"""
A network namespace whose link can be made to drop one direction.

A permanent wrong neighbour entry sends the packets of one side to nobody: they leave,
and nothing says that they were dropped. It needs root and iproute2.
"""

import os
import random
import shutil
import subprocess
from types import TracebackType

from tests.faults.receivers import MissingNamespace

_NOBODY = "02:00:00:00:00:01"


class Link:
    """
    A namespace and a pair of devices between it and this one.

    @ivar inside: the address in the namespace.
    @ivar prefix: a command that runs another in the namespace.
    """

    def __init__(self) -> None:
        mark = f"{os.getpid():x}{random.randrange(1 << 16):04x}"
        self._namespace = f"logiss-faults-{mark}"
        self._near, self._far = f"lgn{mark}", f"lgf{mark}"
        # 198.18.0.0/15 is for measuring networks (RFC 2544): nobody's.
        net = f"198.18.{random.randrange(256)}"
        last = random.randrange(64) * 4
        self.outside, self.inside = f"{net}.{last + 1}", f"{net}.{last + 2}"
        self.prefix = ["ip", "netns", "exec", self._namespace]
        self._undo: list[list[str]] = []

    def __enter__(self) -> "Link":
        if shutil.which("ip") is None:
            raise MissingNamespace(
                "no network namespace: no ip (Debian: apt-get install iproute2)"
            )
        near, far, namespace = self._near, self._far, self._namespace
        try:
            _ip("netns", "add", namespace)
            self._undo.append(["netns", "del", namespace])
            _ip("link", "add", near, "type", "veth", "peer", "name", far)
            self._undo.append(["link", "del", near])
            _ip("link", "set", far, "netns", namespace)
            _ip("address", "add", f"{self.outside}/30", "dev", near)
            _ip("link", "set", near, "up")
            self._inside("address", "add", f"{self.inside}/30", "dev", far)
            self._inside("link", "set", far, "up")
            self._inside("link", "set", "lo", "up")
            # Without a namespace's rights this fails first.
            subprocess.run([*self.prefix, "true"], check=True, capture_output=True)
        except subprocess.CalledProcessError as e:
            self._clean_up()
            raise MissingNamespace(
                f"no network namespace: {e.stderr.decode().strip()} (needs root)"
            ) from None
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clean_up()

    def _clean_up(self) -> None:
        while self._undo:
            subprocess.run(["ip", *self._undo.pop()], capture_output=True, check=False)

    def _inside(self, *arguments: str) -> None:
        _ip("-n", self._namespace, *arguments)

    def drop_outgoing(self) -> None:
        """What this side sends arrives no more."""
        _ip(*_neighbour("replace", self.inside, self._near))

    def drop_returning(self) -> None:
        """What the other side sends arrives no more, acknowledgements first."""
        self._inside(*_neighbour("replace", self.outside, self._far))

    def heal(self) -> None:
        _ip("neighbour", "flush", "dev", self._near, "nud", "permanent")
        self._inside("neighbour", "flush", "dev", self._far, "nud", "permanent")


def _neighbour(action: str, address: str, device: str) -> list[str]:
    return [
        *("neighbour", action, address, "lladdr", _NOBODY),
        *("dev", device, "nud", "permanent"),
    ]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
