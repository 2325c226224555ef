"""The chunked coding: whole, in pieces, and what is none."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.chunked import (
    EXTENSION_BYTES_MAX,
    TRAILER_BYTES_MAX,
    BadChunk,
    ChunkedBody,
)

BODIES = {
    "empty": (b"0\r\n\r\n", b"", b"\r\n"),
    "one": (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b"\r\n"),
    "many": (b"1\r\na\r\n00B\r\nbcdefghijkl\r\n000\r\n\r\n", b"abcdefghijkl", b"\r\n"),
    "lines in it": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n", b"\r\n"),
    "extensions": (b'1;a=b;c="d e"\r\nx\r\n0;z\r\n\r\n', b"x", b"\r\n"),
    "longest extensions": (
        b"1;" + b"e" * (EXTENSION_BYTES_MAX - 1) + b"\r\nx\r\n0\r\n\r\n",
        b"x",
        b"\r\n",
    ),
    "16 digits": (b"0000000000000001\r\nx\r\n0\r\n\r\n", b"x", b"\r\n"),
    "trailers": (b"0\r\nA: b\r\nC: d\r\n\r\n", b"", b"A: b\r\nC: d\r\n\r\n"),
    "longest trailers": (
        b"0\r\nA:" + b"b" * (TRAILER_BYTES_MAX - 4) + b"\r\n\r\n",
        b"",
        b"A:" + b"b" * (TRAILER_BYTES_MAX - 4) + b"\r\n\r\n",
    ),
}

BAD = {
    "size": (
        b"x\r\n",
        b"\r\n",
        b";a\r\n",
        b"-5\r\n",
        b"+5\r\n",
        b"0x5\r\n",
        b"5_0\r\n",
        b" 5\r\n",
        b"5 \r\n",
        b"5 ;a\r\n",
        b"5\n",
        b"\n",
        b"5\r5\r\n",
        b"5;a\rb\r\n",
        b"5;\x00\r\n",
        b"5;\x7f\r\n",
        b"0" * 17 + b"\r\n",
    ),
    "too long": (
        b"5;" + b"a" * EXTENSION_BYTES_MAX + b"\r\n",
        b"5;" + b"a" * 2 * EXTENSION_BYTES_MAX,
        b"0\r\nA:" + b"b" * (TRAILER_BYTES_MAX - 3) + b"\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * TRAILER_BYTES_MAX,
    ),
    "CRLF": (
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"0\r\n\n",
        b"0\r\nA: b\n\n",
        b"0\r\nA: b\rC: d\r\n",
    ),
}


def read(octets: bytes, step: int) -> tuple[bytes, int, ChunkedBody]:
    """What is in `octets`, fed `step` bytes at a time, and how far it was read."""
    body = ChunkedBody()
    out, at = b"", 0
    while at < len(octets) and not body.is_over:
        piece = octets[at : at + step]
        more, read_to = body.feed(b"?" + piece, 1)
        out += more
        at += read_to - 1
        assert body.is_over or read_to == len(piece) + 1, "something was left unread"
    return out, at, body


class ChunkedBodyTests(SynchronousTestCase):
    """`ChunkedBody.feed`."""

    def test_good(self) -> None:
        """Each gives its octets and trailers, and nothing behind it is read."""
        for name, (octets, expected, trailers) in BODIES.items():
            for step in (1, 2, 3, 7, 1000, 100_000):
                out, at, body = read(octets + b"5\r\nX", step)
                self.assertEqual(out, expected, (name, step))
                self.assertEqual(at, len(octets), (name, step))
                self.assertTrue(body.is_over)
                self.assertEqual(body.trailers, trailers, (name, step))

    def test_bad(self) -> None:
        """Each is refused, by its last byte at the latest, and says why."""
        for why, bodies in BAD.items():
            for octets in bodies:
                for step in (1, 2, 3, 7, 1000, 100_000):
                    with self.assertRaisesRegex(BadChunk, why, msg=(octets, step)):
                        read(octets, step)

    def test_refused_while_it_comes(self) -> None:
        """What has no end is refused soon behind its limit."""
        for octets, most in (
            (b"5;" + b"a" * 100_000, EXTENSION_BYTES_MAX),
            (b"0\r\nA:" + b"b" * 100_000, TRAILER_BYTES_MAX),
        ):
            body = ChunkedBody()
            with self.assertRaises(BadChunk):
                for i in range(most + 32):
                    body.feed(octets[i : i + 1], 0)

    @given(
        st.lists(st.binary(min_size=1, max_size=50), max_size=8),
        st.lists(st.integers(1, 60), min_size=1),
    )
    def test_pieces(self, chunks: list[bytes], steps: list[int]) -> None:
        """The same comes out however it comes in."""
        octets = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
        body = ChunkedBody()
        out, at, i = b"", 0, 0
        while not body.is_over:
            piece = octets[at : at + steps[i % len(steps)]]
            more, _ = body.feed(piece, 0)
            out, at, i = out + more, at + len(piece), i + 1
        self.assertEqual(out, b"".join(chunks))
