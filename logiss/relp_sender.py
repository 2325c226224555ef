"""
Sends each frame over a RELP session; a delivery is confirmed when the backend has
answered 200 to all of its frames.

`logiss.relp` speaks; here its session gets a connection. What does not fit the window
waits here, and only when all of it is on its way the sender is ready for more. When a
session breaks, a delivery keeps the frames that have no answer: they are all that is
sent again.

A backend that cannot live with a frame, because it is too long for it, ends the
session: librelp says serverclose first, others nothing. A delivery whose first
unanswered frame has ended two sessions, the second opened after the end of the first,
is refused, or it would go on to end them all. Sessions that end together say nothing
about a frame: a backend that is restarted ends them all.
"""

from collections import deque
from collections.abc import Sequence

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from logiss import codec
from logiss._version import __version__
from logiss.relp import Broken, Client, Closed, Confirmed, Event, Opened, Refused, State
from logiss.senders import (
    CLOSE_EMPTY_SECONDS,
    Delivery,
    ISenderOwner,
    Loss,
    Sender,
)

#: How long a backend may take to answer the opening of a session.
OPEN_SECONDS = 5.0
#: Payloads are joined up to this size: about a window of short frames, so that the
#: sessions share the work.
JOINED_BYTES_MAX = 32 * 1024

_SOFTWARE = f"logiss,{__version__}".encode()


def relp_client(window: int) -> Client:
    """A new session, with at most `window` frames on their way."""
    return Client(
        _SOFTWARE, window, syslog_frames=codec.syslog_frames, answers=codec.answers
    )


class _Sending:
    """
    A delivery in this session. Its frames have consecutive txnrs.

    @ivar octets: its frames; the delivery itself may end before them.
    @ivar behind: where in them those begin that are not sent.
    @ivar first: the txnr of its first frame, once that is sent.
    @ivar sent: how many of its frames are sent.
    @ivar answered: how many of those are answered.
    """

    __slots__ = (
        "answered",
        "behind",
        "delivery",
        "first",
        "octets",
        "refused",
        "sent",
        "size",
    )

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.octets = delivery.octets
        self.size = len(delivery.octets)
        self.behind = self.first = self.sent = self.answered = 0
        self.refused = False

    @property
    def is_sent(self) -> bool:
        """Whether no frame of it is left to be sent."""
        return self.behind == len(self.octets)

    def send_no_more(self) -> None:
        self.octets = self.octets[: self.behind]


class RELPSender(Sender):
    """One RELP session."""

    def __init__(self, sender_id: int, owner: ISenderOwner, client: Client) -> None:
        """
        @param client: the session, not begun.
        """
        super().__init__(sender_id, owner)
        self._client = client
        self._sendings: deque[_Sending] = deque()
        # Those at the end of them that are not sent, or not to their end.
        self._unsent: deque[_Sending] = deque()
        self._unwritten: list[bytes] = []
        self._ready = False
        self._opening: IDelayedCall | None = None
        self._why = ""
        self._ended_by_backend = False

    @property
    def joined_bytes_max(self) -> int:
        return JOINED_BYTES_MAX

    @property
    def refusal(self) -> str:
        return super().refusal or self._why

    # the session

    def handshakeCompleted(self) -> None:
        # Whether TLS is accepted the answer to open tells.
        self.session_confirmed()

    def accepted(self) -> None:
        self._opening = self.factory.call_later(OPEN_SECONDS, self._open_unanswered)
        self._write([self._client.open()])

    def _open_unanswered(self) -> None:
        self._give_up(f"RELP: no answer to open within {OPEN_SECONDS:g} s")

    def dataReceived(self, data: bytes) -> None:
        if not self._over or self._client.state is State.CLOSING:
            self._take(self._client.receive(data))

    def _take(self, events: list[Event]) -> None:
        confirmed: list[Delivery] = []
        for event in events:
            if isinstance(event, Confirmed):
                self._confirmed_to(event.first, event.last, confirmed)
            elif isinstance(event, Refused):
                self._refused(event)
            elif isinstance(event, Opened):
                self._opened()
            elif isinstance(event, Closed):
                self.transport.loseConnection()
            elif isinstance(event, Broken):
                self.owner.delivered(self, confirmed)
                self._ended_by_backend = True
                self._give_up(f"RELP: {event.why}")
                return
        if confirmed:
            self.owner.delivered(self, confirmed)
        if self.usable:
            self._fill()

    def _opened(self) -> None:
        self._stop_opening()
        self._ready = True
        self.has_become_usable()

    def _stop_opening(self) -> None:
        if self._opening is not None and self._opening.active():
            self._opening.cancel()

    def _give_up(self, why: str) -> None:
        self._why = why
        self.abort(why)

    # frames

    def send(self, deliveries: Sequence[Delivery]) -> bool:
        assert self._ready, "only when ready"
        if self.wire.why_ended():
            return False
        self._ready = False
        for delivery in deliveries:
            sending = _Sending(delivery)
            self.unconfirmed_bytes += sending.size
            self._sendings.append(sending)
            self._unsent.append(sending)
        self._fill()
        return True

    def _fill(self) -> None:
        """Send what the window has room for; say so when there is room for more."""
        if self._unsent and self._has_room():
            self._send_unsent()
        if self._client.worn_out:
            self._renew()
        elif not self._ready and not self._unsent and self._has_room():
            self._ready = True
            self.owner.sender_ready(self)

    def _send_unsent(self) -> None:
        client, unsent = self._client, self._unsent
        written = []
        while unsent:
            sending = unsent[0]
            if not sending.sent:
                sending.first = client.next_txnr
            octets, count, sending.behind = client.send(sending.octets, sending.behind)
            if octets:
                written.append(octets)
            sending.sent += count
            if not sending.is_sent:
                # There is no room for the rest of it.
                break
            unsent.popleft()
        self._write(written)

    def _has_room(self) -> bool:
        # While others are on their way, less than half of a window waits for more: each
        # write has a price, and the backend has enough to do.
        client = self._client
        room = client.room
        return room > 0 and (2 * room >= client.window or not client.unanswered)

    def _write(self, chunks: list[bytes]) -> None:
        if self.wire.writing:
            self._unwritten += chunks
        else:
            self.wire.write(chunks)

    def written(self) -> None:
        if self._unwritten:
            chunks, self._unwritten = self._unwritten, []
            self.wire.write(chunks)

    def _confirmed_to(self, first: int, last: int, confirmed: list[Delivery]) -> None:
        while first <= last:
            sending = self._sending_of(first)
            end = min(last + 1, sending.first + sending.sent)
            sending.answered += end - first
            first = end
            if self._is_complete(sending) and not sending.refused:
                confirmed.append(sending.delivery)

    def _refused(self, event: Refused) -> None:
        sending = self._sending_of(event.txnr)
        sending.answered += 1
        if not sending.refused:
            sending.refused = True
            sending.send_no_more()
            if self._unsent and self._unsent[0] is sending:
                self._unsent.popleft()
            which = event.txnr - sending.first + 1
            self.owner.refused(
                self,
                sending.delivery,
                f"the backend answered {event.code} {event.text} to frame {which}",
            )
        self._is_complete(sending)

    def _sending_of(self, txnr: int) -> _Sending:
        # The oldest, but where answers come in another order.
        for sending in self._sendings:
            if sending.first <= txnr < sending.first + sending.sent:
                return sending
        raise AssertionError(f"nothing was sent as {txnr}")

    def _is_complete(self, sending: _Sending) -> bool:
        """Whether all of it is answered; if so, it is not kept."""
        if sending.answered < sending.sent or not sending.is_sent:
            return False
        if self._sendings[0] is sending:
            self._sendings.popleft()
        else:
            self._sendings.remove(sending)
        self.unconfirmed_bytes -= sending.size
        return True

    def unconfirmed(self) -> Sequence[Delivery]:
        return [s.delivery for s in self._sendings if not s.refused]

    # the end

    def _renew(self) -> None:
        """The session has used up its txnrs: close it when all is answered."""
        if self._client.unanswered or self._over:
            return
        self._end("the RELP session is renewed", True)
        self._write([self._client.close()])
        self._opening = self.factory.call_later(CLOSE_EMPTY_SECONDS, self.wire.end)

    def say_goodbye(self) -> None:
        if self._client.state is State.READY and not self._client.unanswered:
            self._write([self._client.close()])
        else:
            self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_opening()
        if not self._over:
            self._ended_by_backend = True
        super().connectionLost(reason)

    def loss(self, why: str, in_order: bool) -> Loss:
        sendings = [s for s in self._sendings if not s.refused]
        first = self._sendings[0] if self._sendings else None
        self._sendings.clear()
        self._unsent.clear()
        self._unwritten.clear()
        left = [s for s in sendings if s.delivery.octets]
        unanswered = set(self._client.unanswered_txnrs())
        for sending in left:
            self._keep_the_rest(sending, unanswered)
        # The client of the first may have gone; then nobody else is to blame.
        if self._ended_by_backend and left and left[0] is first and first.sent:
            self._blame(first.delivery, why)
        return Loss(why, [s.delivery for s in left if s.delivery.octets])

    def _blame(self, delivery: Delivery, why: str) -> None:
        """The session has ended on a frame of `delivery`, as far as can be known."""
        before, delivery.blamed_at = delivery.blamed_at, self.factory.seconds()
        if before is not None and before < self.usable_since:
            self.owner.refused(
                self,
                delivery,
                f"2 sessions in a row have ended on a frame of it: {why};"
                " maybe it is too long for the backend",
            )

    def _keep_the_rest(self, sending: _Sending, unanswered: set[int]) -> None:
        """Leave of a delivery the frames that have no answer."""
        delivery = sending.delivery
        messages = codec.split(sending.octets)
        rest = [
            message
            for i, message in enumerate(messages)
            if i >= sending.sent or sending.first + i in unanswered
        ]
        if len(rest) < len(messages):
            delivery.octets = b"".join([b"%d %b" % (len(m), m) for m in rest])
            delivery.blamed_at = None
