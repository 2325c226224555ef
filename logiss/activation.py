"""
Takes over the listening sockets that systemd has opened for the process, or opens such.

Whoever opens them before logiss is there, and keeps them while it restarts, has no
client refused meanwhile: who connects waits in the kernel's backlog. The protocol is
that of sd_listen_fds(3): descriptors from 3 on, as many as LISTEN_FDS says, for the
process that LISTEN_PID says, called what LISTEN_FDNAMES says.
"""

import errno
import os
import socket
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, cast

from attrs import evolve, frozen
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorSocket

from logiss.words import shown

#: Those before it are the standard streams.
FIRST_DESCRIPTOR = 3
#: More than anybody means.
DESCRIPTORS_MAX = 64
#: How a socket unit calls the port of the status page (FileDescriptorName=).
ADMIN = "admin"
#: How it may call that for posts; one that is called otherwise is for posts too.
LOGS = ("logs", "http")

_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
#: So many may wait to be accepted; the kernel's own limit may be lower.
BACKLOG = 511
_PASSIVE = socket.AI_PASSIVE
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class ActivationError(Exception):
    """What was handed over cannot be listened on. Says why, on one line."""


@frozen
class Inherited:
    """A listening socket that is ours from now on."""

    descriptor: int
    family: socket.AddressFamily
    port: int

    def adopt(self, reactor: object, factory: Any) -> IListeningPort:
        """Have `reactor` accept on it; once, since its descriptor is closed."""
        sockets = cast(IReactorSocket, reactor)
        port = sockets.adoptStreamPort(self.descriptor, self.family, factory)
        # The reactor has a descriptor of its own.
        os.close(self.descriptor)
        return port

    def shared(self) -> "Inherited":
        """The same socket once more, to be adopted or closed by itself."""
        return evolve(self, descriptor=os.dup(self.descriptor))

    def close(self) -> None:
        os.close(self.descriptor)


@frozen
class Listeners:
    """
    The sockets that were handed over, if any.

    @ivar logs: in place of PORT and LISTEN_HOST.
    @ivar admin: in place of ADMIN_PORT and ADMIN_HOST.
    """

    logs: Inherited | None = None
    admin: Inherited | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The ports that they listen on, as the environment would say it."""
        ports = {"PORT": self.logs, "ADMIN_PORT": self.admin}
        return {name: str(each.port) for name, each in ports.items() if each}


#: Nothing was handed over.
NO_LISTENERS = Listeners()


def open_listener(host: str | None, port: int) -> Inherited:
    """
    Listen on `host`, else on all addresses, IPv6 and IPv4 in one where the system has
    IPv6.

    The socket is one that several processes may accept on and each may close: Twisted
    shuts those down that it has opened itself.

    @raise CannotListenError: the port is taken or not allowed.
    """
    try:
        if host is not None:
            return _open(host, port)
        try:
            return _open("::", port)
        except OSError as e:
            if e.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return _open("0.0.0.0", port)  # noqa: S104, all is what was asked for
    except OSError as e:
        raise CannotListenError(host or "", port, e) from None


def _open(host: str, port: int) -> Inherited:
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, _PASSIVE)
    family, _, _, _, address = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        port = _port(listener)
        return Inherited(listener.detach(), socket.AddressFamily(family), port)
    finally:
        listener.close()


def environ_at_start() -> dict[str, str]:
    """
    The environment as the kernel passed it to the process, where it tells.

    Twisted takes LISTEN_FDS and LISTEN_PID out of `os.environ` for endpoints of its
    own (`twisted.python.systemd`) as soon as these are imported, and the plugins of
    ``twist`` are before anything of ours is.
    """
    try:
        octets = Path("/proc/self/environ").read_bytes()
    except OSError:
        return {}
    pairs = [os.fsdecode(pair).partition("=") for pair in octets.split(b"\0")]
    return {name: value for name, _, value in pairs}


def take_over(
    environ: MutableMapping[str, str], pid: int, at_start: Mapping[str, str]
) -> Listeners:
    """
    What `environ` says was handed over to the process `pid`. It says so no longer
    afterwards, and no child inherits it.

    @param at_start: says it where `environ` does no longer.
    @raise ActivationError: it was meant for somebody else, or is no use.
    """
    said = {name: environ.pop(name, "") for name in _VARIABLES}
    if not said["LISTEN_FDS"] and at_start.get("LISTEN_PID") == str(pid):
        said = {name: at_start.get(name, "") for name in _VARIABLES}
    if said["LISTEN_FDS"] in ("", "0"):
        return NO_LISTENERS
    count = _count(said["LISTEN_FDS"])
    if said["LISTEN_PID"] != str(pid):
        raise ActivationError(
            f"LISTEN_FDS: the sockets are for process {shown(said['LISTEN_PID'])}, and"
            f" this is {pid}; let systemd start logiss without a shell around it (or"
            " with exec), or unset LISTEN_FDS"
        )
    names = said["LISTEN_FDNAMES"].split(":")
    return _sorted_out(
        [
            (inherited(FIRST_DESCRIPTOR + i, name), name)
            for i, name in zip(range(count), _padded(names), strict=False)
        ]
    )


def _count(text: str) -> int:
    is_number = text.isascii() and text.isdigit()
    if not is_number or int(text[:6]) > DESCRIPTORS_MAX:
        raise ActivationError(
            f"LISTEN_FDS: is {shown(text)}, not a number of sockets from 0 to"
            f" {DESCRIPTORS_MAX}; leave it to systemd, or unset it"
        )
    return int(text)


def _padded(names: list[str]) -> Iterator[str]:
    yield from names
    while True:
        yield ""


def inherited(descriptor: int, name: str = "") -> Inherited:
    """
    The socket `descriptor`, from now on ours.

    @raise ActivationError: it is no listening TCP socket.
    """
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as e:
        raise _unusable(descriptor, name, e.strerror or str(e)) from None
    try:
        if listener.family not in _FAMILIES or listener.type != socket.SOCK_STREAM:
            raise _unusable(descriptor, name, "it is no TCP socket")
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise _unusable(descriptor, name, "it does not listen")
        # Whoever opened it may have wanted neither.
        listener.setblocking(False)
        listener.set_inheritable(False)
        family = socket.AddressFamily(listener.family)
        return Inherited(descriptor, family, _port(listener))
    finally:
        listener.detach()


def _port(listener: socket.socket) -> int:
    address: Any = listener.getsockname()
    return int(address[1])


def _unusable(descriptor: int, name: str, why: str) -> ActivationError:
    return ActivationError(
        f"LISTEN_FDS: descriptor {descriptor} ({shown(name)}) is no listening TCP"
        f" socket: {why}; give its socket unit ListenStream= with a TCP port, and"
        " Accept=no"
    )


def _sorted_out(found: list[tuple[Inherited, str]]) -> Listeners:
    admins = [each for each, name in found if name == ADMIN]
    others = sorted(
        ((each, name) for each, name in found if name != ADMIN),
        key=lambda pair: pair[1] not in LOGS,
    )
    for each in [*admins[1:], *(each for each, _ in others[1:])]:
        raise ActivationError(
            f"LISTEN_FDS: descriptor {each.descriptor} is one socket too many; hand"
            " over one for posts and at most one besides, with"
            " FileDescriptorName=admin, for the status page"
        )
    return Listeners(
        others[0][0] if others else None,
        admins[0] if admins else None,
    )
