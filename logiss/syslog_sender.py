"""
Writes octet-counted frames (RFC 6587 section 3.4.1) to a connection, at the delivery
levels ``sent`` and ``acked``.

``sent``: a delivery is confirmed when all its bytes have left for the kernel.
``acked``: when the backend's kernel has acknowledged them. A sender knows the offset
in its stream at which each write ends, and looks how far the backend's kernel has
come: as soon as its owner has given out what it had, for a near backend has mostly
acknowledged it by then, and while a write is unconfirmed when `Acknowledgements` has
it look again. Further writes do not wait for that, up to `UNCONFIRMED_MAX`.

What was acknowledged may have stood unread in the backend's kernel when the backend
died. So an ``acked`` sender keeps what was confirmed until so many newer bytes are
confirmed behind it, and hands it back for replay, unless the backend has ended the
stream in order with everything acknowledged: then it had read all of it. Of a large
delivery the last frames are kept, as many as that takes.

Over TLS the kernel counts ciphertext, which is more than what was written. The
arithmetic is the same: as the bytes that stand in the queue are compared with
those written behind a delivery, it comes to its end late, never early.
"""

from collections import deque
from collections.abc import Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from logiss import codec
from logiss.senders import Delivery, ISenderOwner, Loss, Sender

#: Payloads are joined up to this size; a larger one is written alone.
WRITE_BYTES_MAX = 512 * 1024
#: Further writes wait when more bytes than these have no confirmation, and are no
#: larger themselves: together they come to one write.
UNCONFIRMED_MAX = WRITE_BYTES_MAX // 2
#: When to look again for acknowledgements; the last pause is for good.
LOOK_SECONDS = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.02)


class Acknowledgements:
    """Has senders look what was acknowledged while they have something unconfirmed."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._watched: dict[SyslogSender, None] = {}
        self._timer: IDelayedCall | None = None
        self._looks = 0

    def watch(self, sender: "SyslogSender") -> None:
        """`sender` has written something; look soon."""
        self._watched[sender] = None
        if self._timer is not None:
            if not self._looks:
                return
            self._timer.cancel()
        self._looks = 0
        self._timer = self._clock.callLater(LOOK_SECONDS[0], self._look)

    def forget(self, sender: "SyslogSender") -> None:
        """The connection of `sender` has ended."""
        self._watched.pop(sender, None)
        if not self._watched and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        self._looks = min(self._looks + 1, len(LOOK_SECONDS) - 1)
        for sender in list(self._watched):
            # It confirms deliveries, which may end any connection and begin writes.
            if sender in self._watched:
                sender.look()
                if not sender.unconfirmed_bytes:
                    self._watched.pop(sender, None)
        if self._watched and self._timer is None:
            pause = LOOK_SECONDS[self._looks]
            self._timer = self._clock.callLater(pause, self._look)


class _Write:
    """
    Deliveries that were written together.

    @ivar end: the offset in the stream behind them.
    @ivar octets: what to replay of them, once they are confirmed.
    """

    __slots__ = ("deliveries", "end", "octets")

    def __init__(self, deliveries: Sequence[Delivery], end: int) -> None:
        self.deliveries = deliveries
        self.end = end
        self.octets: Sequence[bytes] = ()


class SyslogSender(Sender):
    """
    @param acknowledgements: who looks for them; without, the level is ``sent``.
    @param replay_bytes: at the level ``acked``, how many newer bytes have to be
        confirmed behind a delivery until it is replayed no more; 0 replays nothing.
    """

    def __init__(
        self,
        sender_id: int,
        owner: ISenderOwner,
        acknowledgements: Acknowledgements | None = None,
        replay_bytes: int = 0,
    ) -> None:
        super().__init__(sender_id, owner)
        self._acknowledgements = acknowledgements
        self.hastens = acknowledgements is not None
        # At the level sent there is nothing that would say what to keep.
        self._replay_bytes = replay_bytes if self.hastens else 0
        # Offsets in the stream.
        self._written = 0
        self._left = 0
        self._watched_to = 0
        self._confirmed_to = 0
        self._unconfirmed: deque[_Write] = deque()
        self._answered: deque[_Write] = deque()
        self._ready = False

    @property
    def joined_bytes_max(self) -> int:
        return UNCONFIRMED_MAX if self.unconfirmed_bytes else WRITE_BYTES_MAX

    def accepted(self) -> None:
        self._ready = True
        self.has_become_usable()

    def send(self, deliveries: Sequence[Delivery]) -> bool:
        assert self._ready, "only when ready"
        if self.wire.why_ended():
            # connectionLost follows.
            return False
        self._ready = False
        octets = [delivery.octets for delivery in deliveries]
        size = sum(map(len, octets))
        self._written += size
        self.unconfirmed_bytes += size
        self._unconfirmed.append(_Write(deliveries, self._written))
        if self.wire.write(octets):
            self._all_has_left()
        return True

    def written(self) -> None:
        self._all_has_left()
        self.look()

    def _all_has_left(self) -> None:
        self._left = self._written
        if self._acknowledgements is None:
            self._confirm(self._left)
        self._get_ready()

    def look(self) -> None:
        """Confirm what the backend's kernel has acknowledged."""
        if self._acknowledgements is None or not self._unconfirmed:
            return
        self._confirm(self._left - self.wire.unacknowledged())
        self._get_ready()
        if self._watched_to < self._left and self._unconfirmed and not self._over:
            self._watched_to = self._left
            self._acknowledgements.watch(self)

    def _get_ready(self) -> None:
        if (
            self.usable
            and not self._ready
            and not self.wire.writing
            and self.unconfirmed_bytes <= UNCONFIRMED_MAX
        ):
            self._ready = True
            self.owner.sender_ready(self)

    def _confirm(self, offset: int) -> None:
        while self._unconfirmed and self._unconfirmed[0].end <= offset:
            write = self._unconfirmed.popleft()
            self.unconfirmed_bytes -= write.end - self._confirmed_to
            self._confirmed_to = write.end
            if self._replay_bytes:
                self._keep(write)
            deliveries, write.deliveries = write.deliveries, ()
            self.owner.delivered(self, deliveries)

    def _keep(self, write: _Write) -> None:
        # One for whom nobody waits any more is not to be sent again.
        write.octets = [d.octets for d in write.deliveries if d.octets]
        if len(write.octets) == 1 and len(write.octets[0]) > WRITE_BYTES_MAX:
            # It may be as large as all the memory there is for bodies.
            write.octets = [codec.tail(write.octets[0], self._replay_bytes)]
        answered = self._answered
        answered.append(write)
        while self._confirmed_to - answered[0].end >= self._replay_bytes:
            answered.popleft()

    def unconfirmed(self) -> Sequence[Delivery]:
        return [d for write in self._unconfirmed for d in write.deliveries]

    def loss(self, why: str, in_order: bool) -> Loss:
        if self._acknowledgements is not None:
            self._acknowledgements.forget(self)
        unconfirmed, replay = self.unconfirmed(), self._replay()
        self._unconfirmed.clear()
        self._answered.clear()
        if in_order and not unconfirmed:
            replay = []
        return Loss(why, unconfirmed, replay)

    def _replay(self) -> list[bytes]:
        """What was confirmed within the last `replay_bytes`, oldest first."""
        replay: list[bytes] = []
        end = self._confirmed_to
        for write in reversed(self._answered):
            end = write.end
            for octets in reversed(write.octets):
                if self._confirmed_to - end >= self._replay_bytes:
                    break
                replay.append(octets)
                end -= len(octets)
        return replay[::-1]
