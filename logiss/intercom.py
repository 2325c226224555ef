"""
What a parent and its workers say to each other: tuples, over a pair of sockets.

A message is pickled, for it is made of our own attrs classes, and read by an unpickler
that makes nothing else. Another version of the code, as after an upgrade, may not have
the same classes: what was said is told apart by `DIALECT`, and what is not understood
is not taken.
"""

import hashlib
import io
import pickle
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from attrs import fields_dict
from twisted.internet.interfaces import IReactorSocket
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from logiss import facts, history, metrics
from logiss._version import __version__

_SIZE = struct.Struct(">I")

#: What messages are made of, but for numbers and strings.
_CLASSES: dict[tuple[str, str], Any] = {
    (made.__module__, made.__qualname__): made
    for made in (
        deque,
        facts.Clients,
        facts.CredentialFacts,
        facts.Facts,
        facts.LinkFacts,
        facts.EndedLinks,
        facts.RefusalFacts,
        facts.WorkerCounts,
        facts.WorkerFacts,
        history.Sample,
        metrics.CountsByCode,
        metrics.CountsByName,
        metrics.FailedPost,
        metrics.Histogram,
        metrics.Link,
        metrics.Metrics,
        metrics.ReportedLoss,
    )
}


def _dialect() -> str:
    spoken = [__version__]
    for made in _CLASSES.values():
        names = fields_dict(made) if hasattr(made, "__attrs_attrs__") else ()
        spoken.append(f"{made.__qualname__}({','.join(names)})")
    return hashlib.sha256(" ".join(spoken).encode()).hexdigest()[:16]


#: Differs where facts of one version would not be understood by another.
DIALECT = _dialect()


# In place of a message that is not understood.
_MUMBLED = ("mumbled",)


class NotUnderstood(Exception):
    """These octets are no message."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _CLASSES[module, name]
        except KeyError:
            raise NotUnderstood(f"{module}.{name} is part of no message") from None


def written(message: tuple[Any, ...]) -> bytes:
    return pickle.dumps(message, 5)


def read(octets: bytes) -> tuple[Any, ...]:
    """
    @raise NotUnderstood: it is no message.
    """
    try:
        message = _Reader(io.BytesIO(octets)).load()
    except Exception as e:
        raise NotUnderstood(str(e)) from None
    if not isinstance(message, tuple) or not message:
        raise NotUnderstood("it is no tuple")
    return message


class Intercom(Protocol):
    """
    One end of the pair.

    @param octets: what has been read of it before.
    @ivar unread: what has come of a message that is not whole.
    @ivar is_behind: whether the other end has not read what was said.
    """

    def __init__(
        self,
        on_message: Callable[[tuple[Any, ...]], None],
        on_end: Callable[[], None],
        octets: bytes = b"",
    ) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self.unread = octets
        self.is_behind = False

    def connectionMade(self) -> None:
        cast(Any, self.transport).registerProducer(self, True)

    def say(self, *message: Any) -> None:
        octets = written(message)
        cast(Any, self.transport).write(_SIZE.pack(len(octets)) + octets)

    def dataReceived(self, data: bytes) -> None:
        self.unread += data
        while len(self.unread) >= _SIZE.size:
            (size,) = _SIZE.unpack_from(self.unread)
            end = _SIZE.size + size
            if len(self.unread) < end:
                return
            octets, self.unread = self.unread[_SIZE.size : end], self.unread[end:]
            self._take(octets)

    def _take(self, octets: bytes) -> None:
        try:
            message = read(octets)
        except NotUnderstood:
            # Of another version. It says at least that the other end is alive.
            message = _MUMBLED
        self._on_message(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._on_end()

    def hang_up(self) -> None:
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()

    def pauseProducing(self) -> None:
        self.is_behind = True

    def resumeProducing(self) -> None:
        self.is_behind = False

    def stopProducing(self) -> None:
        """The other end is gone."""


def connect(reactor: object, descriptor: int, intercom: Intercom) -> None:
    """
    Speak on the socket `descriptor`, of which the reactor has its own duplicate.
    """
    sockets = cast(IReactorSocket, reactor)
    factory: Any = Factory.forProtocol(lambda: intercom)
    factory.noisy = False
    sockets.adoptStreamConnection(descriptor, socket.AF_UNIX, factory)
