"""Frames over RELP sessions, on a fake clock."""

from twisted.internet.error import ConnectionDone

from logiss.relp import Client
from logiss.relp_sender import OPEN_SECONDS, RELPSender
from tests.fakes import FakeDelivery, deliveries
from tests.kernel import KernelTransport
from tests.sender_case import SenderTestCase

_OFFERS = b"relp_version=0\nrelp_software=test\ncommands=syslog"


def _rsp(txnr: int, data: bytes = b"200 OK") -> bytes:
    return b"%d rsp %d %b\n" % (txnr, len(data), data)


class RELPSenderTestCase(SenderTestCase):
    """Sessions whose server is the test."""

    #: The last txnr that a message may have.
    txnr_max = 1_000

    def make_sender(self, sender_id: int) -> RELPSender:
        client = Client(b"logiss", txnr_max=self.txnr_max)
        return RELPSender(sender_id, self.owner, client)

    def begin(self) -> tuple[RELPSender, KernelTransport]:
        """A connection of which the server has said nothing yet."""
        sender = self.factory.buildProtocol(None)
        assert isinstance(sender, RELPSender)
        transport = KernelTransport(self.reactor)
        transport.protocol = sender  # type: ignore[attr-defined]
        sender.makeConnection(transport)
        transport.run()
        return sender, transport

    def open(self) -> tuple[RELPSender, KernelTransport]:
        """A session in which the server takes frames."""
        sender, transport = self.begin()
        sender.dataReceived(_rsp(1, b"200 OK\n" + _OFFERS))
        transport.taken = b""
        return sender, transport

    def sent(self, transport: KernelTransport) -> bytes:
        transport.run()
        octets, transport.taken = transport.taken, b""
        return octets


class BlameTests(RELPSenderTestCase):
    """Frames that a backend cannot live with."""

    def _end(self, sender: RELPSender, transport: KernelTransport) -> None:
        self.lose(sender, transport, ConnectionDone())

    def _send_and_end(self, delivery: FakeDelivery) -> None:
        sender, transport = self.open()
        self.assertTrue(sender.send([delivery]))
        self._end(sender, transport)

    def test_second_session(self) -> None:
        """One that was opened after the first had ended: the frame is refused."""
        [delivery] = deliveries(b"3 abc")
        self._send_and_end(delivery)
        self.assertEqual([], self.owner.refusals)
        self.reactor.advance(1)
        self._send_and_end(delivery)
        [(refused, why)] = self.owner.refusals
        self.assertIs(delivery, refused)
        self.assertIn("2 sessions in a row have ended on a frame of it", why)

    def test_sessions_that_end_together(self) -> None:
        """
        A backend that is stopped ends one after the other; what was sent again
        between the ends is not to blame.
        """
        [delivery] = deliveries(b"3 abc")
        sessions = [self.open() for _ in range(4)]
        for sender, transport in sessions:
            self.assertTrue(sender.send([delivery]))
            self.reactor.advance(0.01)
            self._end(sender, transport)
        self.assertEqual([], self.owner.refusals)
        self.reactor.advance(1)
        self._send_and_end(delivery)
        self.assertEqual(1, len(self.owner.refusals))

    def test_answered_between(self) -> None:
        """A frame of it that was answered was not what ended the session."""
        [delivery] = deliveries(b"3 abc3 def")
        self._send_and_end(delivery)
        self.reactor.advance(1)
        sender, transport = self.open()
        sender.send([delivery])
        sender.dataReceived(_rsp(2))
        self._end(sender, transport)
        self.assertEqual(([], b"3 def"), (self.owner.refusals, delivery.octets))

    def test_not_the_first(self) -> None:
        """Only the oldest unanswered frame may have ended a session."""
        first, second = deliveries(b"3 abc", b"3 def")
        for _ in range(2):
            sender, transport = self.open()
            sender.send([first, second])
            self._end(sender, transport)
            self.reactor.advance(1)
        self.assertEqual([first], [delivery for delivery, _ in self.owner.refusals])

    def test_client_gone(self) -> None:
        """One whose client has gone is blamed no more, and nobody in its place."""
        for _ in range(2):
            first, second = deliveries(b"3 abc", b"3 def")
            sender, transport = self.open()
            sender.send([first, second])
            first.octets = b""
            self._end(sender, transport)
            self.assertIsNone(second.blamed_at)
            self.reactor.advance(1)
        self.assertEqual([], self.owner.refusals)

    def test_given_up(self) -> None:
        """A session that we end says nothing about its frames."""
        [delivery] = deliveries(b"3 abc")
        for _ in range(3):
            sender, transport = self.open()
            sender.send([delivery])
            sender.abort("its time is over")
            self._end(sender, transport)
            self.reactor.advance(1)
        self.assertEqual([], self.owner.refusals)


class RenewTests(RELPSenderTestCase):
    """A session whose txnrs are used up, here after three frames."""

    txnr_max = 4

    def test_renewed(self) -> None:
        """It takes no more, gets its answers, and is closed in order."""
        sender, transport = self.open()
        three = deliveries(b"1 a1 b", b"1 c")
        sender.send(three)
        self.assertEqual(
            b"2 syslog 1 a\n3 syslog 1 b\n4 syslog 1 c\n", self.sent(transport)
        )
        self.assertEqual(1, len(self.owner.ready))
        sender.dataReceived(_rsp(2) + _rsp(3))
        self.assertEqual(b"", self.sent(transport))
        self.assertEqual([], self.owner.lost)
        sender.dataReceived(_rsp(4))
        self.assertEqual(three, self.owner.confirmed)
        self.assertEqual(b"5 close 0\n", self.sent(transport))
        [lost] = self.owner.lost
        self.assertEqual([], lost.loss.unconfirmed)
        sender.dataReceived(b"5 rsp 0\n")
        transport.run()
        self.assertTrue(transport.disconnecting)
        self.lose(sender, transport, ConnectionDone())
        self.assertEqual(1, len(self.owner.lost))

    def test_more_than_it_has_txnrs_for(self) -> None:
        """The frames beyond them are left for another session."""
        sender, transport = self.open()
        [delivery] = deliveries(b"1 a1 b1 c1 d1 e")
        sender.send([delivery])
        self.sent(transport)
        sender.dataReceived(_rsp(2) + _rsp(3) + _rsp(4))
        [lost] = self.owner.lost
        self.assertEqual([delivery], lost.loss.unconfirmed)
        self.assertEqual(b"1 d1 e", delivery.octets)
        self.assertEqual([], self.owner.refusals)
        self.assertEqual([], self.owner.confirmed)

    def test_close_is_not_answered(self) -> None:
        """The connection is ended all the same."""
        sender, transport = self.open()
        sender.send(deliveries(b"1 a1 b1 c"))
        self.sent(transport)
        sender.dataReceived(_rsp(2) + _rsp(3) + _rsp(4))
        self.sent(transport)
        self.assertFalse(transport.disconnecting)
        self.reactor.advance(1)
        self.assertTrue(transport.disconnecting)


class OpenTests(RELPSenderTestCase):
    """Before the session is usable."""

    def test_unanswered(self) -> None:
        """A server that does not answer is left after a while."""
        _, transport = self.begin()
        self.assertIn(b"1 open ", transport.taken)
        self.reactor.advance(OPEN_SECONDS - 0.1)
        self.assertFalse(transport.aborted)
        self.reactor.advance(0.1)
        self.assertTrue(transport.aborted)
        self.assertEqual([], self.owner.ready)

    def test_answered(self) -> None:
        """Then it is usable, and the time does not run any more."""
        sender, transport = self.open()
        self.assertEqual([sender], self.owner.ready)
        self.reactor.advance(OPEN_SECONDS)
        self.assertFalse(transport.aborted)
