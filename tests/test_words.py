"""Numbers and names as people read them."""

from math import inf, nan

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.words import SHOWN_MAX, duration, many, shown, size, text

REPLACED = "\N{REPLACEMENT CHARACTER}"


class NumbersTests(SynchronousTestCase):
    """Numbers have a unit that fits."""

    def test_durations(self) -> None:
        """Two or three digits, in the largest unit of which there are two."""
        for seconds, said in (
            (0, "0 s"),
            (0.00034, "0.3 ms"),
            (0.0234, "23 ms"),
            (0.5, "500 ms"),
            (1, "1.0 s"),
            (9.94, "9.9 s"),
            (12, "12 s"),
            (119.4, "119 s"),
            (120, "2 min"),
            (7199, "120 min"),
            (7200, "2 h"),
            (2 * 86400, "2 d"),
        ):
            self.assertEqual(duration(seconds), said)

    def test_odd_durations(self) -> None:
        """A clock that was set back makes no negative duration; none is an error."""
        self.assertEqual(duration(-3600), "0 s")
        for seconds in (inf, nan, -inf, 1e300):
            self.assertIsInstance(duration(seconds), str)

    def test_sizes(self) -> None:
        """By powers of 1024."""
        for count, said in (
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1024**2, "1.0 MiB"),
            (3 * 1024**3, "3.0 GiB"),
            (1024**4, "1024.0 GiB"),
        ):
            self.assertEqual(size(count), said)

    def test_many(self) -> None:
        """One is one, none and two are many, thousands are set apart."""
        self.assertEqual(many(1, "post"), "1 post")
        self.assertEqual(many(0, "post"), "0 posts")
        self.assertEqual(many(2000, "post"), "2,000 posts")
        self.assertEqual(many(1, "entry", "entries"), "1 entry")
        self.assertEqual(many(2, "entry", "entries"), "2 entries")


class NamesTests(SynchronousTestCase):
    """Names are on one line and do nothing."""

    def test_inert(self) -> None:
        """What does not print, or turns what follows around, is replaced."""
        for c in "\x00\n\r\t\x1b\x7f\x9b\u200b\u200f\u2028\u202e\u2066\ud800\U000e0041":
            self.assertEqual(text(f"a{c}b", 9), f"a{REPLACED}b", ascii(c))

    def test_kept(self) -> None:
        """Names of all scripts stay what they are, as bytes too."""
        for name in ("app", "häuser", "日本", "שלום", "a b<i>"):
            self.assertEqual(text(name, 99), name)
            self.assertEqual(text(name.encode(), 99), name)

    def test_not_utf8(self) -> None:
        """Bytes that are no text have something in their place."""
        self.assertEqual(text(b"a\xffb", 9), f"a{REPLACED}b")

    @given(st.one_of(st.binary(), st.text()), st.integers(1, 20))
    def test_bounded(self, name: bytes | str, most: int) -> None:
        """Whatever comes is printable and no longer than was wanted."""
        said = text(name, most)
        self.assertLessEqual(len(said), most)
        self.assertTrue(said.isprintable())

    def test_cut(self) -> None:
        """Only so much of a long name is looked at, and it is said to be cut."""
        self.assertEqual(text("日" * 99, 3), "日日日")
        self.assertEqual(text(("日" * 99).encode(), 3), "日日日")
        self.assertEqual(shown("x" * SHOWN_MAX), f'"{"x" * SHOWN_MAX}"')
        self.assertEqual(shown("x" * 10_000), f'"{"x" * SHOWN_MAX}..."')

    def test_quoted(self) -> None:
        """A name cannot end its own quotation."""
        self.assertEqual(shown(b'a" is fine'), '"a\' is fine"')
