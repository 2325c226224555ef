"""Clients that say exactly what they are told, on the real reactor."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.front import HTTPAnswer, parse_answers

#: Nothing in these tests takes longer unless it hangs.
PATIENCE_SECONDS = 30


class Client(Protocol):
    """One connection."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.received = b""
        self.closed: Deferred[None] = Deferred()
        self.is_closed = False

    def send(self, octets: bytes) -> None:
        assert self.transport is not None
        self.transport.write(octets)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_closed = True
        self.closed.callback(None)

    def hang_up(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    async def answer(self, to_head: bool = False) -> HTTPAnswer:
        """The next answer, when it is whole; interim ones are passed over."""
        answers: list[HTTPAnswer] = []

        def is_whole() -> bool:
            head, end, body = _final(self.received)
            if not end:
                return self.is_closed
            length = 0 if to_head else _length(head)
            return len(body) >= length or self.is_closed

        await until(self._reactor, is_whole)
        head, end, body = _final(self.received)
        length = 0 if to_head else _length(head)
        answers = parse_answers(head + end + body[:length], to_head)
        self.received = body[length:]
        return answers[-1]


def _final(octets: bytes) -> tuple[bytes, bytes, bytes]:
    if octets.startswith(b"HTTP/1.1 100 "):
        _, _, octets = octets.partition(b"\r\n\r\n")
    return octets.partition(b"\r\n\r\n")


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise AssertionError(f"no Content-Length: {head!r}")


async def connect(reactor: Any, port: int, host: str = "127.0.0.1") -> Client:
    client: Client = await connectProtocol(
        TCP4ClientEndpoint(reactor, host, port), Client(reactor)
    )
    return client


async def until(reactor: Any, condition: Any) -> None:
    """Wait for `condition`; that it never comes is a failure, not a hang."""
    deadline = reactor.seconds() + PATIENCE_SECONDS
    while not condition():
        assert reactor.seconds() < deadline, "waited in vain"
        await deferLater(reactor, 0.01)
