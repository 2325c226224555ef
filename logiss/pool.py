"""
Holds the queue and its deadlines, hands payloads to idle senders.

Payloads wait in one first-in first-out queue. At the end of a reactor turn an idle
sender takes as many as fit one write. All payloads have the same timeout, so the
queue is in the order of the deadlines and one timer, for the oldest, serves them all.

A delivery ends exactly once: everything of its payload has left, or its deadline
has come, or whoever waited has gone. A payload whose connection breaks first goes
back to the head of the queue.
"""

from collections import deque

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from logiss.l2met import EventLog
from logiss.metrics import Metrics
from logiss.senders import ISender, ISenderOwner, NothingWritten

#: Payloads are joined up to this size; a larger one is written alone.
WRITE_BYTES_MAX = 256 * 1024


class NotDelivered(Exception):
    """The payload was not handed over before its deadline."""


@define(eq=False)
class Payload:
    """
    Frames that are to arrive together and in order.

    @ivar octets: whole octet-counted frames, at least one.
    @ivar request_id: what to call it in the log.
    @ivar received_at: when its deadline started to run, in the clock's seconds.
    @ivar begun_at: when it was first written to a connection, if it was.
    """

    octets: bytes = field(repr=lambda octets: f"<{len(octets)} bytes>")
    received_at: float
    request_id: bytes | None = None
    begun_at: float | None = None


class IDeliverer(Interface):
    """Delivers payloads."""

    def deliver(payload: Payload) -> Deferred[None]:
        """
        @return: fires when `payload` is delivered; fails with `NotDelivered`.
            Cancelling it withdraws a payload that has not been begun; one that
            was begun goes its way, but is not sent a second time.
        """


class _Delivery:
    """A payload on its way. Once it has ended nothing of the payload is kept."""

    __slots__ = ("deadline", "payload", "size", "waiter")

    def __init__(self, payload: Payload, deadline: float) -> None:
        self.payload: Payload | None = payload
        self.deadline = deadline
        self.size = len(payload.octets)
        self.waiter: Deferred[None] = Deferred(self._cancelled)

    def _cancelled(self, _: Deferred[None]) -> None:
        self.payload = None

    def succeed(self) -> None:
        if self.payload is not None:
            self._end().callback(None)

    def fail(self, error: Exception) -> None:
        if self.payload is not None:
            self._end().errback(error)

    def _end(self) -> Deferred[None]:
        # The waiter holds us for its cancelling: left so, both would wait for the
        # garbage collector.
        self.payload = None
        waiter = self.waiter
        del self.waiter
        return waiter


@define(eq=False)
class _Write:
    """What one connection is writing; `given_up` once it was told to stop."""

    deliveries: list[_Delivery]
    given_up: bool = False

    @property
    def deadline(self) -> float:
        return self.deliveries[0].deadline


@implementer(IDeliverer, ISenderOwner)
class Pool:
    """
    @param timeout_seconds: from `Payload.received_at` to `NotDelivered`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeout_seconds: float,
        events: EventLog,
        metrics: Metrics,
    ) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._events = events
        self._metrics = metrics
        self._queue: deque[_Delivery] = deque()
        self._idle: deque[ISender] = deque()
        self._begun: dict[ISender, _Write] = {}
        self._senders: set[ISender] = set()
        self._timer: IDelayedCall | None = None
        self._turn: IDelayedCall | None = None
        self._dispatching = False

    @property
    def connected(self) -> int:
        """How many connections are usable."""
        return len(self._senders)

    def deliver(self, payload: Payload) -> Deferred[None]:
        deadline = payload.received_at + self._timeout_seconds
        if deadline <= self._clock.seconds():
            return fail(NotDelivered("no time was left to deliver"))
        delivery = _Delivery(payload, deadline)
        self._queue.append(delivery)
        if self._timer is None:
            self._set_timer(deadline)
        if self._idle and self._turn is None:
            # What else comes in this turn of the reactor goes out with it.
            self._turn = self._clock.callLater(0, self._turn_ended)
        return delivery.waiter

    def sender_connected(self, sender: ISender) -> None:
        self._senders.add(sender)
        self._idle.append(sender)
        self._dispatch()

    def sender_lost(self, sender: ISender) -> None:
        self._senders.discard(sender)
        if sender in self._idle:
            self._idle.remove(sender)

    def stop(self) -> None:
        """Fail what still waits. Senders are stopped by who started them."""
        for call in (self._timer, self._turn):
            if call is not None:
                call.cancel()
        self._timer = self._turn = None
        begun = [d for write in self._begun.values() for d in write.deliveries]
        waiting = [*begun, *self._queue]
        self._queue.clear()
        for delivery in waiting:
            delivery.fail(NotDelivered("logiss has stopped"))

    def _turn_ended(self) -> None:
        self._turn = None
        self._dispatch()

    def _dispatch(self) -> None:
        # A send may end at once, and its end calls this again: as a loop, not as
        # deep as the queue is long.
        if self._dispatching:
            return
        self._dispatching = True
        try:
            self._hand_out()
        finally:
            self._dispatching = False

    def _hand_out(self) -> None:
        while self._idle and (group := self._take()):
            sender = self._idle.popleft()
            self._begun[sender] = _Write(group)
            now = self._clock.seconds()
            chunks = []
            for delivery in group:
                payload = delivery.payload
                assert payload is not None
                if payload.begun_at is None:
                    payload.begun_at = now
                chunks.append(payload.octets)
            self._metrics.writes += 1
            sender.send(chunks).addCallbacks(
                self._sent,
                self._broken,
                callbackArgs=(sender, group),
                errbackArgs=(sender, group),
            )

    def _take(self) -> list[_Delivery]:
        """What the next write is made of; nothing when nothing waits."""
        queue, size = self._queue, 0
        group: list[_Delivery] = []
        while queue:
            delivery = queue[0]
            if delivery.payload is not None:
                if group and size + delivery.size > WRITE_BYTES_MAX:
                    break
                size += delivery.size
                group.append(delivery)
            queue.popleft()
        return group

    def _sent(self, _: None, sender: ISender, group: list[_Delivery]) -> None:
        del self._begun[sender]
        for delivery in group:
            self._metrics.bytes_delivered += delivery.size
            delivery.succeed()
        if sender in self._senders:
            self._idle.append(sender)
            self._dispatch()

    def _broken(self, reason: Failure, sender: ISender, group: list[_Delivery]) -> None:
        del self._begun[sender]
        alive = [delivery for delivery in group if delivery.payload is not None]
        for delivery in alive:
            assert delivery.payload is not None
            if reason.check(NothingWritten):
                continue
            self._events.write_failed(
                sender.sender_id,
                delivery.payload.request_id,
                f"{reason.getErrorMessage()}; what was written of the payload may"
                " arrive twice",
            )
        self._metrics.payloads_requeued += len(alive)
        # Two connections may break one after the other: the older payload goes
        # first, whichever was lost first.
        self._queue = deque(
            sorted([*alive, *self._queue], key=lambda delivery: delivery.deadline)
        )
        self._dispatch()
        # A write that was given up is watched no more, but what it held is.
        if self._timer is None:
            self._watch_oldest()

    def _deadline_came(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        queue = self._queue
        withdrawn: list[_Delivery] = []
        while queue and (queue[0].payload is None or queue[0].deadline <= now):
            withdrawn.append(queue.popleft())
        stalled = [
            (sender, write)
            for sender, write in self._begun.items()
            if write.deadline <= now and not write.given_up
        ]
        for _, write in stalled:
            write.given_up = True
        self._watch_oldest()
        # Whoever hears of an end may deliver again: the queue is in order by now.
        for delivery in withdrawn:
            self._metrics.payloads_withdrawn += delivery.payload is not None
            delivery.fail(NotDelivered(self._why_queued()))
        for sender, write in stalled:
            self._give_up(sender, write, now)

    def _give_up(self, sender: ISender, write: _Write, now: float) -> None:
        """A connection made no progress: end it, and those whose time is over."""
        why = "the backend did not take all of it in time"
        for delivery in write.deliveries:
            if delivery.payload is not None and delivery.deadline <= now:
                self._events.write_failed(
                    sender.sender_id, delivery.payload.request_id, why
                )
                delivery.fail(NotDelivered(why))
        sender.abort()

    def _watch_oldest(self) -> None:
        deadlines = [w.deadline for w in self._begun.values() if not w.given_up]
        if self._queue:
            deadlines.append(self._queue[0].deadline)
        if deadlines:
            self._set_timer(min(deadlines))

    def _why_queued(self) -> str:
        if not self._senders:
            return "no backend connection became usable in time"
        return "all backend connections stayed busy"

    def _set_timer(self, deadline: float) -> None:
        self._timer = self._clock.callLater(
            max(0.0, deadline - self._clock.seconds()), self._deadline_came
        )
