"""
Stand-ins for the neighbours of the room under test.

Each is checked against its interface in `tests.test_fakes`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import implementer

from logiss.l2met import EventLog
from logiss.pool import IDeliverer, Payload
from logiss.senders import ConnectionBroken, ISender, ISenderOwner
from tests import l2met_grammar


class Lines:
    """Keeps log lines, each read by l2met's grammar as it comes."""

    def __init__(self) -> None:
        self.raw: list[str] = []
        self.pairs: list[dict[str, str]] = []

    def write(self, line: str) -> None:
        self.pairs.append(l2met_grammar.parse(line))
        self.raw.append(line)

    def events(self, source: str = "test") -> EventLog:
        return EventLog(source, self.write)

    def having(self, key: str, value: str | None = None) -> list[dict[str, str]]:
        """The lines that have `key`, with `value` if one is given."""
        return [
            pairs
            for pairs in self.pairs
            if key in pairs and value in (None, pairs[key])
        ]


@frozen
class Facts:
    """What a line says of a client."""

    drain_token: bytes | None
    remote_addr: bytes | None
    request_id: bytes | None


@implementer(ISender)
class FakeSender:
    """A connection whose kernel is the test."""

    def __init__(self, sender_id: int = 0) -> None:
        self.sender_id = sender_id
        self.writes: list[bytes] = []
        self.aborted = False
        self.in_flight: Deferred[None] | None = None

    def send(self, chunks: Sequence[bytes]) -> Deferred[None]:
        assert self.in_flight is None, "one send at a time"
        assert chunks
        self.writes.append(b"".join(chunks))
        self.in_flight = Deferred()
        return self.in_flight

    def abort(self) -> None:
        assert not self.aborted, "aborted twice"
        self.aborted = True

    def flush(self) -> None:
        """The kernel takes everything."""
        sent, self.in_flight = self.in_flight, None
        assert sent is not None
        sent.callback(None)

    def break_off(self, owner: ISenderOwner, why: str = "reset") -> None:
        """The connection ends."""
        owner.sender_lost(self)
        sent, self.in_flight = self.in_flight, None
        if sent is not None:
            sent.errback(ConnectionBroken(why))


@implementer(ISenderOwner)
class FakeOwner:
    """Keeps what senders tell it."""

    def __init__(self) -> None:
        self.connected: list[ISender] = []
        self.lost: list[ISender] = []

    def sender_connected(self, sender: ISender) -> None:
        self.connected.append(sender)

    def sender_lost(self, sender: ISender) -> None:
        self.lost.append(sender)


@implementer(IDeliverer)
class FakeDeliverer:
    """
    Takes payloads; they end when the test says so, or at once.

    @ivar cancelled: payloads whose waiter has gone.
    """

    def __init__(self, at_once: bool = True) -> None:
        self.at_once = at_once
        self.payloads: list[Payload] = []
        self.waiters: list[Deferred[None]] = []
        self.cancelled: list[Payload] = []
        self.new_waiter: Callable[[Payload], Deferred[None]] = lambda payload: Deferred(
            lambda _: self.cancelled.append(payload)
        )

    def deliver(self, payload: Payload) -> Deferred[None]:
        self.payloads.append(payload)
        waiter = self.new_waiter(payload)
        self.waiters.append(waiter)
        if self.at_once:
            waiter.callback(None)
        return waiter

    @property
    def octets(self) -> bytes:
        return b"".join(payload.octets for payload in self.payloads)


def outcome(deferred: Deferred[Any]) -> Callable[[], list[Any]]:
    """What `deferred` has come to so far: nothing, its result or its failure."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    return lambda: results
