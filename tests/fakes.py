"""
Stand-ins for the neighbours of the room under test.

Each is checked against its interface in `tests.test_fakes`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from logiss.l2met import EventLog
from logiss.metrics import Link
from logiss.pool import IDeliverer, Payload
from logiss.redis import IHash
from logiss.senders import Delivery, ISender, ISenderOwner, Loss, Sender
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


@implementer(IHash)
class FakeHash:
    """
    A hash whose readings end when the test says so.

    @ivar readings: those under way and those that have ended.
    @ivar cancelled: how many were cancelled.
    """

    def __init__(self) -> None:
        self.readings: list[Deferred[dict[bytes, bytes]]] = []
        self.cancelled = 0

    def read(self) -> Deferred[dict[bytes, bytes]]:
        self.readings.append(Deferred(self._cancel))
        return self.readings[-1]

    def _cancel(self, _: Deferred[dict[bytes, bytes]]) -> None:
        self.cancelled += 1


@implementer(ISender)
class FakeSender:
    """
    A connection whose kernel and backend are the test.

    @ivar writes: what it was given, a string for each `send`.
    @ivar owner: who is told; set it before the connection is used.
    @ivar refuses: whether it has ended, as `send` will find out.
    """

    owner: ISenderOwner

    def __init__(self, sender_id: int = 0) -> None:
        self.sender_id = sender_id
        self.link = Link(sender_id, "backend.example:514")
        self.usable_since = 0.0
        self.unconfirmed_bytes = 0
        self.joined_bytes_max = 1000
        self.writes: list[bytes] = []
        self.aborted = False
        self.refuses = False
        self.ready = False
        self._groups: list[Sequence[Delivery]] = []

    def connect(self, owner: ISenderOwner) -> None:
        self.owner = owner
        self.leave()

    @property
    def in_flight(self) -> bool:
        return bool(self._groups)

    def send(self, deliveries: Sequence[Delivery]) -> bool:
        assert self.ready, "only when ready"
        assert deliveries
        assert not self.aborted
        self.ready = False
        if self.refuses:
            return False
        self.writes.append(b"".join(d.octets for d in deliveries))
        self._groups.append(deliveries)
        self.unconfirmed_bytes += len(self.writes[-1])
        return True

    def look(self) -> None:
        """The test says what has reached its level."""

    def unconfirmed(self) -> Sequence[Delivery]:
        return [d for group in self._groups for d in group]

    def abort(self, why: str) -> None:
        assert not self.aborted, "aborted twice"
        self.aborted = True
        self.break_off(why)

    def leave(self) -> None:
        """The kernel has taken everything: it is ready for more."""
        self.ready = True
        self.owner.sender_ready(self)

    def confirm(self) -> None:
        """The oldest write has reached its level."""
        group = self._groups.pop(0)
        self.unconfirmed_bytes -= len(self.writes[-1 - len(self._groups)])
        self.owner.delivered(self, group)

    def flush(self) -> None:
        """Everything has left and reached its level."""
        self.confirm()
        self.leave()

    def break_off(self, why: str = "reset", replay: Sequence[bytes] = ()) -> None:
        """The connection ends."""
        unconfirmed, self._groups = self.unconfirmed(), []
        self.owner.sender_lost(self, Loss(why, unconfirmed, replay))


@frozen
class Lost:
    """What a `FakeOwner` was told of a loss."""

    sender: ISender
    loss: Loss


class FakeDelivery:
    """What a sender is given, without anybody who waits."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.blamed_at: float | None = None


def deliveries(*octets: bytes) -> list[FakeDelivery]:
    return [FakeDelivery(o) for o in octets]


class FakeLinks:
    """What a factory is to its senders, without connecting anything."""

    def __init__(self, clock: IReactorTime) -> None:
        self.call_later = clock.callLater
        self.seconds = clock.seconds

    def sender_usable(self, sender: Sender) -> None:
        """Counted by nobody."""

    def sender_unusable(self, sender: Sender, why: str) -> None:
        """Nor is this."""

    def sender_lost(self, sender: Sender, reason: Failure) -> None:
        """It is not connected again."""


@implementer(ISenderOwner)
class FakeOwner:
    """Keeps what senders tell it."""

    def __init__(self) -> None:
        self.ready: list[ISender] = []
        self.confirmed: list[Delivery] = []
        self.refusals: list[tuple[Delivery, str]] = []
        self.lost: list[Lost] = []

    def sender_ready(self, sender: ISender) -> None:
        self.ready.append(sender)

    def delivered(self, sender: ISender, deliveries: Sequence[Delivery]) -> None:
        self.confirmed += deliveries

    def refused(self, sender: ISender, delivery: Delivery, why: str) -> None:
        self.refusals.append((delivery, why))

    def sender_lost(self, sender: ISender, loss: Loss) -> None:
        self.lost.append(Lost(sender, loss))


@implementer(IDeliverer)
class FakeDeliverer:
    """
    Takes payloads; they end when the test says so, or at once.

    @ivar cancelled: payloads whose waiter has gone.
    """

    def __init__(
        self, at_once: bool = True, delivery_level: str | None = "sent"
    ) -> None:
        self.at_once = at_once
        self.delivery_level = delivery_level
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
