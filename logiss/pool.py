"""
Holds the queue and its deadlines, hands payloads to idle senders.

Payloads wait in one first-in first-out queue. At the end of a reactor turn a sender
that is ready takes as many as fit one write; one with nothing unconfirmed goes before
one that waits for its backend. All payloads have the same timeout, so the queue is in
the order of the deadlines and one timer, for the oldest, serves them all.

A delivery ends exactly once: its payload has reached its delivery level, or its
deadline has come, or whoever waited has gone. A payload whose connection breaks first
goes back to the head of the queue.

What a broken connection leaves for replay goes before everything else. Nobody waits
for it, and it has no deadline: it was answered, so it is kept until it is delivered
again or the pool is stopped.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from math import inf

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import Interface, implementer

from logiss.l2met import EventLog
from logiss.metrics import Link, Metrics
from logiss.senders import Delivery, ISender, ISenderOwner, Loss

#: How long what a connection has ended on waits for one that became usable later: a
#: backend that is well again has one within 200 ms.
BLAMED_SECONDS = 1.0


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
    """
    A payload on its way. Once it has ended nothing of the payload is kept.

    @ivar octets: what is not confirmed of it; nothing once it has ended.
    @ivar waiter: fires at its end; None of a replay, for which nobody waits.
    @ivar blamed_at: see `logiss.senders.Delivery`.
    @ivar sent_at: when it was given to a connection last, in the clock's seconds.
    """

    __slots__ = (
        "blamed_at",
        "deadline",
        "octets",
        "payload",
        "sent_at",
        "size",
        "waiter",
    )

    def __init__(self, payload: Payload, deadline: float) -> None:
        self.payload: Payload | None = payload
        self.octets = payload.octets
        self.size = len(payload.octets)
        self.deadline = deadline
        self.blamed_at: float | None = None
        self.sent_at = 0.0
        self.waiter: Deferred[None] | None = None
        if deadline != inf:
            self.waiter = Deferred(self._cancelled)

    @property
    def is_replay(self) -> bool:
        return self.deadline == inf

    def _cancelled(self, _: Deferred[None]) -> None:
        self.payload = None
        self.octets = b""

    def succeed(self) -> None:
        waiter = self._end()
        if waiter is not None:
            waiter.callback(None)

    def fail(self, error: Exception) -> None:
        waiter = self._end()
        if waiter is not None:
            waiter.errback(error)

    def _end(self) -> Deferred[None] | None:
        """Whom to tell, if that has not been done."""
        if self.payload is None:
            return None
        self.payload = None
        self.octets = b""
        # The waiter holds us for its cancelling: left so, both would wait for the
        # garbage collector.
        waiter, self.waiter = self.waiter, None
        return waiter


@implementer(IDeliverer, ISenderOwner)
class Pool:
    """
    @param timeout_seconds: from `Payload.received_at` to `NotDelivered`.
    @ivar delivery_level: what it means that a payload is delivered.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeout_seconds: float,
        events: EventLog,
        metrics: Metrics,
        delivery_level: str = "sent",
    ) -> None:
        self.delivery_level = delivery_level
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._events = events
        self._metrics = metrics
        self._replays: deque[_Delivery] = deque()
        self._queue: deque[_Delivery] = deque()
        # In the order in which they became ready: dicts for want of ordered sets.
        self._idle: dict[ISender, None] = {}
        self._behind: dict[ISender, None] = {}
        self._senders: set[ISender] = set()
        self._timer: IDelayedCall | None = None
        self._turn: IDelayedCall | None = None
        self._patience: IDelayedCall | None = None
        self._dispatching = False
        self._stopped = False
        self._replays_open = 0
        self._replays_ended: list[Deferred[None]] = []

    @property
    def connected(self) -> int:
        """How many connections are usable."""
        return len(self._senders)

    @property
    def queue_payloads(self) -> int:
        """How many payloads wait for a connection."""
        return sum(1 for delivery in self._queue if delivery.octets)

    @property
    def queue_bytes(self) -> int:
        """How many bytes wait for a connection."""
        return sum(len(delivery.octets) for delivery in self._queue)

    @property
    def replay_bytes(self) -> int:
        """How many bytes that were answered 200 wait to be sent again."""
        return sum(len(delivery.octets) for delivery in self._replays)

    def oldest_sent_at(self) -> dict[Link, float]:
        """
        Of each connection that has something unconfirmed, when the oldest of it was
        given to it, in the clock's seconds.
        """
        return {
            sender.link: min(d.sent_at for d in given if isinstance(d, _Delivery))
            for sender in self._senders
            if (given := sender.unconfirmed())
        }

    # the web's side

    def deliver(self, payload: Payload) -> Deferred[None]:
        deadline = payload.received_at + self._timeout_seconds
        if deadline <= self._clock.seconds():
            return fail(NotDelivered("no time was left to deliver"))
        delivery = _Delivery(payload, deadline)
        waiter = delivery.waiter
        assert waiter is not None
        self._queue.append(delivery)
        if self._timer is None:
            self._set_timer(deadline)
        if self._turn is None and (self._idle or self._behind):
            # What else comes in this turn of the reactor goes out with it.
            self._turn = self._clock.callLater(0, self._turn_ended)
        return waiter

    # the senders' side

    def sender_ready(self, sender: ISender) -> None:
        self._senders.add(sender)
        if sender.unconfirmed_bytes:
            self._behind[sender] = None
        else:
            self._idle[sender] = None
        self._dispatch()

    def delivered(self, sender: ISender, deliveries: Sequence[Delivery]) -> None:
        if sender in self._behind and not sender.unconfirmed_bytes:
            del self._behind[sender]
            self._idle[sender] = None
        link, now = sender.link, self._clock.seconds()
        for delivery in deliveries:
            assert isinstance(delivery, _Delivery)
            link.bytes_delivered += delivery.size
            link.confirmation.observe(now - delivery.sent_at)
            if delivery.is_replay:
                self._replay_ended()
            delivery.succeed()

    def refused(self, sender: ISender, delivery: Delivery, why: str) -> None:
        assert isinstance(delivery, _Delivery)
        self._metrics.payloads_refused += 1
        sender.link.write_errors += 1
        if delivery.payload is not None:
            request_id = delivery.payload.request_id
            self._events.write_failed(sender.sender_id, request_id, why)
        delivery.fail(NotDelivered(why))

    def sender_lost(self, sender: ISender, loss: Loss) -> None:
        self._senders.discard(sender)
        self._idle.pop(sender, None)
        self._behind.pop(sender, None)
        again = [d for d in loss.unconfirmed if isinstance(d, _Delivery) and d.octets]
        replays = [d for d in again if d.is_replay]
        alive = [d for d in again if not d.is_replay]
        for delivery in alive:
            assert delivery.payload is not None
            self._events.write_failed(
                sender.sender_id,
                delivery.payload.request_id,
                f"{loss.why}; what was written of the payload may arrive twice",
            )
        sender.link.write_errors += len(alive)
        self._metrics.payloads_requeued += len(alive)
        # What this connection had confirmed stood before what it was replaying.
        self._replays.extend([*map(self._replay_of, loss.replay), *replays])
        if loss.replay:
            size = sum(map(len, loss.replay))
            self._metrics.payloads_replayed += len(loss.replay)
            self._metrics.bytes_replayed += size
            self._events.replaying(sender.sender_id, len(loss.replay), size, loss.why)
        # Two connections may break one after the other: the older payload goes
        # first, whichever was lost first.
        self._requeue(alive)
        if self._stopped:
            self._give_replays_up()
            self._fail_all()
            return
        if self._timer is None:
            self._watch_oldest()
        self._dispatch()

    def _requeue(self, deliveries: list[_Delivery]) -> None:
        if deliveries:
            waiting = [*deliveries, *self._queue]
            self._queue = deque(sorted(waiting, key=lambda d: d.deadline))

    # replays

    def _replay_of(self, octets: bytes) -> _Delivery:
        self._replays_open += 1
        return _Delivery(Payload(octets, self._clock.seconds()), inf)

    def _replay_ended(self) -> None:
        self._replays_open -= 1
        if not self._replays_open:
            self._tell_replays_ended()

    def _tell_replays_ended(self) -> None:
        ended, self._replays_ended = self._replays_ended, []
        for waiter in ended:
            waiter.callback(None)

    def replays_ended(self) -> Deferred[None]:
        """Fires when nothing waits for replay, or the pool is stopped."""
        if not self._replays_open:
            return succeed(None)
        ended: Deferred[None] = Deferred()
        self._replays_ended.append(ended)
        return ended

    def _give_replays_up(self) -> None:
        count = len(self._replays)
        if count:
            size = sum(len(delivery.octets) for delivery in self._replays)
            self._metrics.replays_given_up += count
            self._events.replays_given_up(count, size)
        self._replays.clear()
        for _ in range(count):
            self._replay_ended()

    # the end

    def stop(self) -> None:
        """
        Fail what still waits, and give up what would be replayed. Senders are
        stopped by who started them.
        """
        self._stopped = True
        for call in (self._timer, self._turn, self._patience):
            if call is not None:
                call.cancel()
        self._timer = self._turn = self._patience = None
        begun = [d for sender in self._senders for d in sender.unconfirmed()]
        self._give_replays_up()
        # Those that are on their way may still arrive, but are waited for no more.
        self._tell_replays_ended()
        self._fail_all(begun)

    def _fail_all(self, begun: Iterable[Delivery] = ()) -> None:
        failed = [*begun, *self._queue]
        self._queue.clear()
        for delivery in failed:
            assert isinstance(delivery, _Delivery)
            if not delivery.is_replay:
                delivery.fail(NotDelivered("logiss has stopped"))

    # handing out

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
            while given := self._hand_all_out():
                for sender in given:
                    sender.look()
        finally:
            self._dispatching = False

    def _hand_all_out(self) -> Iterable[ISender]:
        """Give the senders what they can take; who has been given something."""
        given: dict[ISender, None] = {}
        while (self._replays or self._queue) and (sender := self._hand_out()):
            given[sender] = None
        return given

    def _hand_out(self) -> ISender | None:
        """Give a sender what it can take; who it was, if there was one."""
        for ready in (self._idle, self._behind):
            for sender in ready:
                group = self._take(sender)
                if group:
                    del ready[sender]
                    self._send(sender, group)
                    return sender
        return None

    def _send(self, sender: ISender, group: list[_Delivery]) -> None:
        now = self._clock.seconds()
        first_begun = []
        for delivery in group:
            delivery.sent_at = now
            payload = delivery.payload
            assert payload is not None
            if payload.begun_at is None:
                payload.begun_at = now
                first_begun.append(payload)
        if sender.send(group):
            self._metrics.writes += 1
            return
        # It has ended and is lost in a moment; nothing was written.
        for payload in first_begun:
            payload.begun_at = None
        self._replays.extendleft(reversed([d for d in group if d.is_replay]))
        # One that stands in front of them may be older: it was for another sender.
        self._requeue([d for d in group if not d.is_replay])

    def _take(self, sender: ISender) -> list[_Delivery]:
        """What its next write is made of; nothing when nothing waits for it."""
        room = sender.joined_bytes_max
        group: list[_Delivery] = []
        for queue in (self._replays, self._queue):
            for_others: list[_Delivery] = []
            while queue:
                delivery = queue[0]
                if delivery.blamed_at is not None and self._is_kept(delivery, sender):
                    for_others.append(delivery)
                elif delivery.octets:
                    room -= len(delivery.octets)
                    if room < 0 and group:
                        break
                    group.append(delivery)
                queue.popleft()
            queue.extendleft(reversed(for_others))
            if room < 0:
                break
        return group

    def _is_kept(self, delivery: _Delivery, sender: ISender) -> bool:
        """
        Whether `delivery` waits for a connection that became usable after the one that
        ended on it: not for long, as there may be none.
        """
        assert delivery.blamed_at is not None
        if delivery.blamed_at < sender.usable_since:
            return False
        left = delivery.blamed_at + BLAMED_SECONDS - self._clock.seconds()
        if left > 0 and self._patience is None:
            self._patience = self._clock.callLater(left, self._patience_ended)
        return left > 0

    def _patience_ended(self) -> None:
        self._patience = None
        self._dispatch()

    # deadlines

    def _deadline_came(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        queue = self._queue
        withdrawn: list[_Delivery] = []
        while queue and (queue[0].payload is None or queue[0].deadline <= now):
            withdrawn.append(queue.popleft())
        stalled = [
            (sender, late) for sender in self._senders if (late := _late(sender, now))
        ]
        for delivery in withdrawn:
            self._metrics.payloads_withdrawn += delivery.payload is not None
            delivery.fail(NotDelivered(self._why_queued()))
        for sender, late_deliveries in stalled:
            self._give_up(sender, late_deliveries)
        # What has been delivered meanwhile has set it to its own deadline.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch_oldest()

    def _give_up(self, sender: ISender, late: list[_Delivery]) -> None:
        """A connection made no progress: end it, and those whose time is over."""
        why = "the backend did not take all of it in time"
        now = self._clock.seconds()
        sender.link.stalls += 1
        for delivery in late:
            sender.link.confirmation.observe(now - delivery.sent_at)
            sender.link.write_errors += 1
            if delivery.payload is not None:
                self._events.write_failed(
                    sender.sender_id, delivery.payload.request_id, why
                )
                delivery.fail(NotDelivered(why))
        sender.abort(why)

    def _watch_oldest(self) -> None:
        deadlines = [d.deadline for d in self._queue if d.octets][:1]
        for sender in self._senders:
            for delivery in sender.unconfirmed():
                assert isinstance(delivery, _Delivery)
                deadlines.append(delivery.deadline)
        oldest = min(deadlines, default=inf)
        if oldest != inf:
            self._set_timer(oldest)

    def _why_queued(self) -> str:
        if not self._senders:
            return "no backend connection became usable in time"
        return "all backend connections stayed busy"

    def _set_timer(self, deadline: float) -> None:
        self._timer = self._clock.callLater(
            max(0.0, deadline - self._clock.seconds()), self._deadline_came
        )


def _late(sender: ISender, now: float) -> list[_Delivery]:
    return [
        delivery
        for delivery in sender.unconfirmed()
        if isinstance(delivery, _Delivery) and delivery.deadline <= now
    ]
