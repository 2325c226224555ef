"""A RELP server in memory: what it answers, and to whom it does not listen."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from logiss import relp
from logiss.receiver import FRAME_BYTES_MAX, TOO_MANY, NotTaken
from logiss.relp import Client, Closed, Confirmed, Opened, Refused
from logiss.relp_receiver import (
    TXNR_MAX,
    NotRELP,
    RELPReceiver,
    RELPReceiverFactory,
    Session,
)

OPEN = b"1 open 50 relp_version=0\nrelp_software=tests\ncommands=syslog\n"
OPENED = b"1 rsp 58 200 OK\nrelp_version=0\nrelp_software=logiss\ncommands=syslog\n"


class SessionTestCase(SynchronousTestCase):
    """A session, with what it has taken."""

    def setUp(self) -> None:
        self.make()

    def make(self) -> None:
        self.frames: list[bytes] = []
        self.why = ""
        self.session = Session(self.take, b"logiss")

    def take(self, frame: bytes) -> None:
        if self.why:
            raise NotTaken(self.why)
        self.frames.append(frame)

    def said(self) -> bytes:
        octets = bytes(self.session.answers)
        self.session.answers.clear()
        return octets


class SessionTests(SessionTestCase):
    """A session as it should be."""

    def test_whole(self) -> None:
        """It is opened, each frame is answered when it is taken, and closed."""
        self.session.receive(OPEN)
        self.assertEqual(self.said(), OPENED)
        self.session.receive(b"2 syslog 5 hello\n3 syslog 4 a\nb\n\n")
        self.assertEqual(self.frames, [b"hello", b"a\nb\n"])
        self.assertEqual(self.said(), relp.answers(2, 4))
        self.session.receive(b"4 close 0\n")
        self.assertEqual(self.said(), b"4 rsp 0\n0 serverclose 0\n")
        self.assertTrue(self.session.is_over)

    def test_byte_by_byte(self) -> None:
        """However it is cut into reads."""
        for octet in OPEN + b"2 syslog 5 hello\n3 syslog 0\n4 close 0\n":
            self.session.receive(bytes([octet]))
        self.assertEqual(self.frames, [b"hello", b""])
        self.assertTrue(self.said().endswith(b"0 serverclose 0\n"))
        self.assertEqual(self.session.pending, 0)

    def test_not_taken(self) -> None:
        """A frame that was not taken is answered 500, with why, on one line."""
        self.session.receive(OPEN)
        self.said()
        self.why = "no space\nleft"
        self.session.receive(b"2 syslog 5 hello\n")
        self.assertEqual(self.said(), b"2 rsp 17 500 no space left\n")
        self.why = ""
        self.session.receive(b"3 syslog 5 again\n")
        self.assertEqual((self.said(), self.frames), (relp.answers(3, 4), [b"again"]))

    def test_last_txnr(self) -> None:
        """Behind the last txnr comes the first, as librelp counts."""
        self.session.receive(OPEN)
        self.said()
        self.session._next_txnr = TXNR_MAX
        self.session.receive(b"999999999 syslog 1 a\n1 syslog 1 b\n")
        self.assertEqual(self.frames, [b"a", b"b"])
        self.assertEqual(self.said(), b"999999999 rsp 6 200 OK\n1 rsp 6 200 OK\n")

    def test_end(self) -> None:
        """It can be ended from here."""
        self.session.receive(OPEN)
        self.said()
        self.session.end()
        self.session.end()
        self.assertEqual(self.said(), b"0 serverclose 0\n")

    def test_with_our_client(self) -> None:
        """logiss's own client understands it all."""
        client = Client()
        self.session.receive(client.open())
        self.assertEqual(client.receive(self.said()), [Opened("logiss")])
        octets, count, _ = client.send(b"5 hello3 abc2 no")
        self.assertEqual(count, 3)
        self.session.receive(octets)
        self.assertEqual(client.receive(self.said()), [Confirmed(2, 4)])
        self.why = "full"
        self.session.receive(client.send(b"1 x")[0])
        self.assertEqual(client.receive(self.said()), [Refused(5, 500, "full")])
        self.session.receive(client.close())
        self.assertEqual(client.receive(self.said()), [Closed()])


class NonsenseTests(SessionTestCase):
    """What is no RELP ends the session, and takes no memory."""

    def test_each(self) -> None:
        """It is said what is wrong."""
        for octets, why in [
            (b"2 open 0\n", "txnr 2 in the place of 1"),
            (b"1 syslog 1 x\n", "not 'open'"),
            (OPEN + b"2 open 0\n", "a second 'open'"),
            (OPEN + b"3 syslog 1 x\n", "txnr 3 in the place of 2"),
            (OPEN + b"2 rsp 1 x\n", "was never offered"),
            (OPEN + b"2 syslog 1 xy\n", "does not end where"),
            (OPEN + b"2 syslog 0 \n", "not followed by its data"),
            (OPEN + b"2 syslog 1\n", "not followed by its data"),
            (OPEN + b"2 syslog %d " % (FRAME_BYTES_MAX + 1), "a RELP frame of 1048577"),
            (OPEN + b"2 syslog 999999999 ", "a RELP frame of 999999999 bytes"),
            (b"1 open 99999 ", "a RELP frame of 99999 bytes"),
            (b"1 open 1000000000", "no RELP frame"),
            (b"63 <13>1 2013-06-07", "no RELP frame but b'63 <13>1 2013-06-07'"),
            (b"\x16\x03\x01", "no RELP frame but b'\\x16\\x03\\x01'"),
            (b"a" * 100, "no RELP frame"),
            (b"1 open 14 relp_version=0\n", "does not offer commands=syslog"),
            (b"1 open 15 commands=syslog\n", "does not offer relp_version=0"),
        ]:
            with self.subTest(octets):
                self.make()
                with self.assertRaises(NotRELP) as raised:
                    self.session.receive(octets)
                self.assertIn(why, str(raised.exception))
                self.assertEqual(self.frames, [])

    def test_refused_open(self) -> None:
        """Who offers too little is told so."""
        with self.assertRaises(NotRELP):
            self.session.receive(b"1 open 14 relp_version=0\n")
        self.assertEqual(self.said(), b"1 rsp 31 500 commands=syslog is required\n")

    def test_before_nonsense(self) -> None:
        """What came before it keeps its answers."""
        with self.assertRaises(NotRELP):
            self.session.receive(OPEN + b"2 syslog 5 hello\nnonsense")
        self.assertEqual(self.frames, [b"hello"])
        self.assertEqual(self.said(), OPENED + relp.answers(2, 3))

    @given(st.binary(max_size=200))
    def test_any_octets(self, octets: bytes) -> None:
        """Whatever comes is taken, waited for or refused."""
        for begun in (b"", OPEN):
            self.make()
            try:
                self.session.receive(begun + octets)
            except NotRELP:
                pass
            self.assertLessEqual(self.session.pending, len(octets))


class ConnectionTests(SynchronousTestCase):
    """Connections to the server."""

    def setUp(self) -> None:
        self.frames: list[bytes] = []
        self.errors: list[str] = []
        self.pending: list[int] = []
        self.factory = RELPReceiverFactory(
            self.frames.append, self.errors.append, connections_max=2
        )
        self.factory.on_lost = lambda why, pending: self.pending.append(pending)

    def connect(self) -> tuple[StringTransport, RELPReceiver]:
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        transport = StringTransport()
        protocol.makeConnection(transport)
        return transport, protocol

    def test_session(self) -> None:
        """The answers to a read are one write, and closing closes."""
        transport, protocol = self.connect()
        protocol.dataReceived(OPEN + b"2 syslog 5 hello\n")
        self.assertEqual(transport.value(), OPENED + relp.answers(2, 3))
        protocol.dataReceived(b"3 close 0\n")
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.frames, [b"hello"])

    def test_nonsense(self) -> None:
        """It is told of once, and the connection ends."""
        transport, protocol = self.connect()
        protocol.dataReceived(b"GET / HTTP/1.1\r\n")
        protocol.dataReceived(b"Host: a\r\n\r\n")
        self.assertTrue(transport.disconnecting)
        self.assertEqual(len(self.errors), 1)
        self.assertEqual(self.frames, [])

    def test_answers_not_read(self) -> None:
        """Who does not read its answers is not read from until it does."""
        transport, _ = self.connect()
        producer = transport.producer
        assert producer is not None
        producer.pauseProducing()
        self.assertEqual(transport.producerState, "paused")
        producer.resumeProducing()
        self.assertEqual(transport.producerState, "producing")

    def test_too_many(self) -> None:
        """Connections are bounded, and counted down again."""
        _, protocol = self.connect()
        self.connect()
        self.assertIsNone(self.factory.buildProtocol(None))
        self.assertEqual(self.errors, [TOO_MANY])
        protocol.connectionLost()
        self.connect()

    def test_cut_off(self) -> None:
        """It is known how much had come of a frame that did not end."""
        _, protocol = self.connect()
        protocol.dataReceived(OPEN + b"2 syslog 5 he")
        protocol.connectionLost()
        _, protocol = self.connect()
        protocol.dataReceived(OPEN)
        protocol.connectionLost()
        self.assertEqual(self.pending, [13, 0])

    def test_end(self) -> None:
        """All sessions are ended in order."""
        transport, protocol = self.connect()
        protocol.dataReceived(OPEN)
        transport.clear()
        self.factory.end()
        self.assertEqual(transport.value(), b"0 serverclose 0\n")
        self.assertTrue(transport.disconnecting)
