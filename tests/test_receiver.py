"""The other end: frames out of a stream, and shown without harm."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from logiss.receiver import (
    FRAME_BYTES_MAX,
    TOO_MANY,
    FrameDecoder,
    FrameReceiver,
    NotOctetCounted,
    NotTaken,
    ReceiverFactory,
    printable,
)


class FrameDecoderTests(SynchronousTestCase):
    """`FrameDecoder` finds the frames, however the stream is cut."""

    def test_whole(self) -> None:
        """Frames that come together are found in order."""
        decoder = FrameDecoder()
        self.assertEqual(
            list(decoder.feed(b"1 a2 bc5 d\ne 1")), [b"a", b"bc", b"d\ne 1"]
        )
        self.assertEqual(decoder.pending, 0)

    def test_byte_by_byte(self) -> None:
        """A frame is found with its last byte and not before."""
        decoder = FrameDecoder()
        found = [list(decoder.feed(bytes([byte]))) for byte in b"2 ab11 01234567890"]
        expected: list[list[bytes]] = [[] for _ in range(18)]
        expected[3], expected[17] = [b"ab"], [b"01234567890"]
        self.assertEqual(found, expected)

    @settings(deadline=None)
    @given(
        st.lists(st.binary(min_size=1, max_size=300), max_size=8),
        st.lists(st.integers(1, 100), min_size=1, max_size=5),
    )
    def test_any_pieces(self, frames: list[bytes], sizes: list[int]) -> None:
        """Any frames in any pieces come out as they went in."""
        octets = b"".join(b"%d %b" % (len(frame), frame) for frame in frames)
        decoder = FrameDecoder()
        found: list[bytes] = []
        turn = 0
        while octets:
            size = sizes[turn % len(sizes)]
            found += decoder.feed(octets[:size])
            octets, turn = octets[size:], turn + 1
        self.assertEqual(found, frames)
        self.assertEqual(decoder.pending, 0)

    def test_pending(self) -> None:
        """What is not complete is pending."""
        decoder = FrameDecoder()
        self.assertEqual(list(decoder.feed(b"1 a5 bcd")), [b"a"])
        self.assertEqual(decoder.pending, 5)
        self.assertEqual(list(decoder.feed(b"ef")), [b"bcdef"])
        self.assertEqual(decoder.pending, 0)

    def test_errors(self) -> None:
        """What is no length is refused, in one piece and byte by byte."""
        for octets in (
            b"x",
            b" ",
            b"\n",
            b"0 ",
            b"0",
            b"01 a",
            b"-1 a",
            b"+1 a",
            b"1_0 a",
            b"1\ta",
            b"<13>1 - - - - - - line feeds, not lengths\n",
            b"12345678",
            b"12345678 a",
            b"9999999 a",
            b"%d a" % (FRAME_BYTES_MAX + 1),
            "٣ abc".encode(),
        ):
            with self.subTest(octets):
                with self.assertRaises(NotOctetCounted):
                    list(FrameDecoder().feed(octets))
                decoder = FrameDecoder()
                with self.assertRaises(NotOctetCounted):
                    for byte in octets:
                        self.assertEqual(list(decoder.feed(bytes([byte]))), [])

    def test_frames_before_an_error(self) -> None:
        """Frames ahead of an error are found; behind it there is nothing."""
        decoder = FrameDecoder()
        frames = decoder.feed(b"1 a1 b?1 c")
        self.assertEqual([next(frames), next(frames)], [b"a", b"b"])
        with self.assertRaises(NotOctetCounted):
            next(frames)
        with self.assertRaises(NotOctetCounted):
            list(decoder.feed(b"1 d"))

    def test_bound(self) -> None:
        """The largest frame is found; a larger one is refused by its length."""
        largest = b"x" * FRAME_BYTES_MAX
        decoder = FrameDecoder()
        self.assertEqual(list(decoder.feed(b"%d " % FRAME_BYTES_MAX)), [])
        self.assertEqual(list(decoder.feed(largest[:-1])), [])
        self.assertEqual(list(decoder.feed(b"x")), [largest])

    def test_error_is_one_line(self) -> None:
        """What was found in place of a length is shown, escaped and short."""
        with self.assertRaises(NotOctetCounted) as caught:
            list(FrameDecoder().feed(b"\x1b[2J\n\xff" * 1000 + b" x"))
        message = str(caught.exception)
        self.assertTrue(message.isprintable(), message)
        self.assertLess(len(message), 120)


class FrameReceiverTests(SynchronousTestCase):
    """A connection hands on its frames until it breaks the rules."""

    def setUp(self) -> None:
        self.frames: list[bytes] = []
        self.errors: list[str] = []
        self.factory = ReceiverFactory(self.frames.append, self.errors.append)

    def connect(self) -> tuple[StringTransport, FrameReceiver]:
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        transport = StringTransport()
        protocol.makeConnection(transport)
        return transport, protocol

    def test_frames(self) -> None:
        """Each frame is handed on, and nothing is answered."""
        transport, protocol = self.connect()
        protocol.dataReceived(b"1 a2 b")
        protocol.dataReceived(b"c")
        self.assertEqual(self.frames, [b"a", b"bc"])
        self.assertEqual(transport.value(), b"")
        self.assertFalse(transport.disconnecting)

    def test_connections_are_apart(self) -> None:
        """Half a frame on one connection does not touch another."""
        (_, one), (_, other) = self.connect(), self.connect()
        one.dataReceived(b"2 a")
        other.dataReceived(b"2 b")
        one.dataReceived(b"1")
        other.dataReceived(b"2")
        self.assertEqual(self.frames, [b"a1", b"b2"])

    def test_error(self) -> None:
        """A stream that breaks the rules is told of and closed."""
        transport, protocol = self.connect()
        protocol.dataReceived(b"1 a?")
        self.assertEqual(self.frames, [b"a"])
        self.assertEqual(len(self.errors), 1)
        self.assertTrue(transport.disconnecting)
        # What comes before it is closed is not looked at, nor told of.
        protocol.dataReceived(b"1 b?")
        self.assertEqual((len(self.frames), len(self.errors)), (1, 1))

    def test_not_taken(self) -> None:
        """When a frame was not taken its connection is reset."""

        def refuse(frame: bytes) -> None:
            raise NotTaken("full")

        self.factory.on_frame = refuse
        transport, protocol = self.connect()
        protocol.dataReceived(b"1 a1 b")
        self.assertTrue(transport.disconnected)
        self.factory.on_frame = self.frames.append
        protocol.dataReceived(b"1 c")
        self.assertEqual(self.frames, [])

    def test_too_many(self) -> None:
        """Connections are bounded, and counted down again."""
        self.factory = ReceiverFactory(
            self.frames.append, self.errors.append, connections_max=2
        )
        _, protocol = self.connect()
        self.connect()
        self.assertIsNone(self.factory.buildProtocol(None))
        self.assertEqual(self.errors, [TOO_MANY])
        protocol.connectionLost()
        self.connect()

    def test_cut_off(self) -> None:
        """It is known how much had come of a frame that did not end."""
        pending: list[int] = []
        self.factory.on_lost = lambda why, octets: pending.append(octets)
        for octets in (b"1 a9 cut", b"1 a", b"no length"):
            _, protocol = self.connect()
            protocol.dataReceived(octets)
            protocol.connectionLost()
        self.assertEqual(pending, [5, 0, 0])

    def test_end(self) -> None:
        """All connections are ended, and nothing more is taken."""
        transport, protocol = self.connect()
        self.factory.end()
        self.assertTrue(transport.disconnecting)
        protocol.dataReceived(b"1 a")
        self.assertEqual(self.frames, [])


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


class PrintableTests(SynchronousTestCase):
    """`printable` shows a frame on one line and moves no terminal."""

    def test_table(self) -> None:
        """Text stays text; a line feed at the end goes, all else is escaped."""
        for frame, shown in [
            (b"", ""),
            (b"a b", "a b"),
            ("é€😀".encode(), "é€😀"),
            (b"a\n", "a"),
            (b"a\n\n", "a\\n"),
            (b"a\nb", "a\\nb"),
            (b"a\r\n", "a\\r"),
            (b"\x1b[2J", "\\x1b[2J"),
            (b"\x00\x07\x08\t\x7f", "\\x00\\x07\\x08\\t\\x7f"),
            (b"\xff", "\\xff"),
            (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
            ("\x85\x9b".encode(), "\\x85\\x9b"),
            ("\u2028\u202e\ufeff".encode(), "\\u2028\\u202e\\ufeff"),
        ]:
            with self.subTest(frame):
                self.assertEqual(printable(frame), shown)

    @settings(deadline=None)
    @given(st.one_of(st.binary(), st.text().map(_encoded)))
    def test_any_bytes(self, frame: bytes) -> None:
        """Whatever comes, nothing that is not printable is shown."""
        self.assertTrue(printable(frame).isprintable())
