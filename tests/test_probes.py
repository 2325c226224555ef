"""Test messages know when they have been changed."""

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.probes import Altered, Probe, read, text

_HEADER = b"<190>1 2013-06-07T13:17:49.468822+00:00 host app web.1 - - "


class ProbesTests(SynchronousTestCase):
    """What is made is read, and nothing else."""

    def test_read(self) -> None:
        """It is found behind any header, with or without a line feed."""
        probe = Probe("nightly-1", 17)
        for end in (b"", b"\n"):
            self.assertEqual(read(_HEADER + text(probe) + end), probe)
            self.assertEqual(read(text(probe) + end), probe)

    def test_others(self) -> None:
        """Other messages are no test messages."""
        self.assertIsNone(read(_HEADER + b"hello"))
        self.assertIsNone(read(b""))

    @given(st.integers(1, 10**9), st.data())
    def test_altered(self, number: int, drawn: st.DataObject) -> None:
        """One octet that is changed, dropped or doubled is noticed."""
        good = text(Probe("r", number))
        at = drawn.draw(st.integers(len(b"logiss-probe "), len(good) - 1))
        octet = drawn.draw(st.binary(min_size=0, max_size=2))
        bad = good[:at] + octet + good[at + 1 :]
        assume(bad not in (good, good + b"\n"))
        with self.assertRaises(Altered):
            read(_HEADER + bad)
