"""Lines and frames, cut out of octets in any pieces, and gathered in batches."""

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss import frames, syslog_lines
from logiss.syslog_lines import (
    Batcher,
    BrokenFrame,
    FrameCutter,
    LineCutter,
    NotAField,
    Origin,
    framed,
    header_field,
)
from tests import rfc5424

ORIGIN = Origin(190, b"web1", b"app", b"4711", b"-")
TIME = b"2026-01-31T12:00:00.123456Z"


def pieces(octets: bytes, ends: list[int]) -> Iterator[bytes]:
    """`octets`, cut at `ends`."""
    places = sorted({end % (len(octets) + 1) for end in ends} | {0, len(octets)})
    for begin, end in pairwise(places):
        yield octets[begin:end]


def cut_lines(octets: bytes, most: int, ends: list[int]) -> tuple[list[bytes], int]:
    cutter = LineCutter(most)
    found = [line for piece in pieces(octets, ends) for line in cutter.feed(piece)]
    found += cutter.end()
    assert cutter.offset == len(octets)
    return found, cutter.lines_cut


class HeaderTests(SynchronousTestCase):
    """What stands in front of a line."""

    def test_frame(self) -> None:
        """It is a frame of RFC 5424 that a logiss forwards with every octet."""
        for line in (b"hello", b"", b"- a", b"[x y]", b"a\0\xff\r", b" "):
            frame = framed(ORIGIN.head(TIME), line)
            size, _, message = frame.partition(b" ")
            self.assertEqual(int(size), len(message))
            parsed = rfc5424.parse(message)
            self.assertEqual(parsed.msg, line)
            self.assertEqual((parsed.hostname, parsed.app_name), (b"web1", b"app"))
            self.assertEqual((parsed.pri_version, parsed.procid), (b"<190>1", b"4711"))
            forwarded = frames.rewrite(frame, b'[origin ip="192.0.2.1"]')
            self.assertTrue(forwarded.octets.endswith(b'"192.0.2.1"] ' + line))

    def test_fields(self) -> None:
        """What RFC 5424 section 6 does not allow in a field is refused."""
        for name, most in syslog_lines.FIELD_BYTES_MAX.items():
            self.assertEqual(header_field(name, "!" * most), b"!" * most)
            for text in ("", "a b", "a\n", "\x7f", "ä", "a" * (most + 1)):
                self.assertRaises(NotAField, header_field, name, text)


class LineCutterTests(SynchronousTestCase):
    """Lines as they were written."""

    def test_ends(self) -> None:
        """LF and CR LF end a line, a CR alone does not, nor is an end needed."""
        for octets, lines in [
            (b"", []),
            (b"\n", [b""]),
            (b"a", [b"a"]),
            (b"a\n", [b"a"]),
            (b"a\r\nb\r\n", [b"a", b"b"]),
            (b"a\rb\r\r\nc\r", [b"a\rb\r", b"c\r"]),
            (b"\n\n\r\n", [b"", b"", b""]),
            (b"a\0b\xff\xfe\n\x1b[2J", [b"a\0b\xff\xfe", b"\x1b[2J"]),
        ]:
            self.assertEqual(cut_lines(octets, 100, []), (lines, 0))

    def test_long(self) -> None:
        """A longer line becomes several, and is counted once."""
        for octets, lines, count in [
            (b"abcdef\n", [b"abcdef"], 0),
            (b"abcdef\r\n", [b"abcdef"], 0),
            (b"abcdefg\n", [b"abcdef", b"g"], 1),
            (b"abcdefghijkl\r\nx", [b"abcdef", b"ghijkl", b"x"], 1),
            (b"abcdef\r", [b"abcdef", b"\r"], 1),
            (b"abcdefghijklm", [b"abcdef", b"ghijkl", b"m"], 1),
        ]:
            for ends in ([], list(range(len(octets)))):
                found = cut_lines(octets, 6, ends)
                self.assertEqual(found, (lines, count), octets)

    @given(
        st.lists(st.sampled_from([b"a", b"bcd", b"\r", b"\n", b"\0"])).map(b"".join),
        st.lists(st.integers(0, 1000)),
        st.integers(1, 5),
    )
    def test_pieces(self, octets: bytes, ends: list[int], most: int) -> None:
        """However the octets come, the lines are the same, and are all there."""
        expected = []
        long = 0
        whole = octets.split(b"\n")
        for n, line in enumerate(whole):
            line = line.removesuffix(b"\r") if n < len(whole) - 1 else line
            if n < len(whole) - 1 or line:
                parts = [line[i : i + most] for i in range(0, len(line), most)]
                expected += parts or [b""]
                long += len(line) > most
        self.assertEqual(cut_lines(octets, most, ends), (expected, long))

    def test_bounded(self) -> None:
        """Of a line without an end no more is kept than it may have."""
        cutter = LineCutter(10)
        for _ in range(100):
            given_out = list(cutter.feed(b"x" * 1000))
            self.assertLessEqual({len(line) for line in given_out}, {10})
            self.assertLessEqual(len(cutter._rest), 11)


def cut_frames(octets: bytes, ends: list[int]) -> tuple[list[bytes], str]:
    cutter = FrameCutter()
    found = []
    try:
        for piece in pieces(octets, ends):
            for frame in cutter.feed(piece):
                found.append(frame)
        found += cutter.end()
    except BrokenFrame as e:
        return found, str(e)
    return found, ""


class FrameCutterTests(SynchronousTestCase):
    """Frames that are there already."""

    def test_unchanged(self) -> None:
        """They come out as they are; white space behind the last is let go."""
        self.assertEqual(cut_frames(b"3 a\nc1 \0", []), ([b"3 a\nc", b"1 \0"], ""))
        self.assertEqual(cut_frames(b"1 a \r\n\n", []), ([b"1 a"], ""))
        self.assertEqual(cut_frames(b"", []), ([], ""))

    def test_broken(self) -> None:
        """What is good comes out first; the error names frame and offset."""
        for octets, good, why in [
            (b"<190>1 a", 0, "frame 1 at byte 0: no length (digits without a leading"),
            (b"1 a1 b01 c", 2, "frame 3 at byte 6: no length"),
            (b"1 a\n1 b", 1, "frame 2 at byte 3: no length"),
            (b"1 a5 xy", 1, "frame 2 at byte 3: its length is 5 but only 2 bytes"),
            (b"1 a12", 1, "frame 2 at byte 3: no length"),
            (b"1 a1048577 x", 1, "frame 2 at byte 3: its length is 1048577, and none"),
            (b"9999999999 x", 0, "frame 1 at byte 0: no length"),
        ]:
            for ends in ([], list(range(20))):
                found, said = cut_frames(octets, ends)
                self.assertEqual(len(found), good, octets)
                self.assertTrue(said.startswith(why), said)

    def test_white_space(self) -> None:
        """However much there is, little is kept, and nothing may stand behind it."""
        cutter = FrameCutter()
        list(cutter.feed(b"1 a\n"))
        tracemalloc.start()
        for _ in range(100):
            self.assertEqual(list(cutter.feed(b" " * 10_000)), [])
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.assertLess(kept, 100_000)
        with self.assertRaisesRegex(BrokenFrame, "frame 2 at byte 3: no length"):
            list(cutter.feed(b" 1 b"))

    def test_harmless(self) -> None:
        """What stands there in place of a length reaches no terminal as it is."""
        said = cut_frames(b"\x1b[2J\xff\n", [])[1]
        self.assertTrue(said.isprintable() and said.isascii(), said)

    @given(st.lists(st.binary(min_size=1, max_size=20)), st.lists(st.integers(0, 999)))
    def test_pieces(self, messages: list[bytes], ends: list[int]) -> None:
        """However the octets come, the frames are the same."""
        expected = [b"%d %b" % (len(m), m) for m in messages]
        self.assertEqual(cut_frames(b"".join(expected), ends), (expected, ""))


class BatcherTests(SynchronousTestCase):
    """Batches within their bounds."""

    def gather(self, sizes: list[int]) -> list[int]:
        """How many messages the batches have."""
        batcher, batches = Batcher(3, 100_100), []
        for size in sizes:
            frame = b"x" * size
            if not batcher.fits(frame):
                batches.append(batcher.take())
            batcher.add(frame)
            if batcher.is_full:
                batches.append(batcher.take())
        batches.append(batcher.take())
        self.assertTrue(batcher.is_empty)
        self.assertEqual(sum(len(batch.octets) for batch in batches), sum(sizes))
        return [batch.messages for batch in batches]

    def test_bounds(self) -> None:
        """A batch ends with its messages or its bytes, whichever comes first."""
        self.assertEqual(self.gather([1] * 7), [3, 3, 1])
        self.assertEqual(self.gather([50_000, 50_101, 1]), [1, 2])
        self.assertEqual(self.gather([50_000, 50_100, 1]), [2, 1])

    def test_alone(self) -> None:
        """What may be refused for its length takes no others with it."""
        self.assertEqual(self.gather([1, 100_001, 1]), [1, 1, 1])
        self.assertEqual(self.gather([200_000, 200_000]), [1, 1, 0])
