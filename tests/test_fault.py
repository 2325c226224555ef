"""Where a body stops being frames, and what is shown of it."""

import gzip

from twisted.trial.unittest import SynchronousTestCase

from logiss import fault

GOOD = b"17 <1>1 - h a p m ab"


class FaultTests(SynchronousTestCase):
    """The place of a fault."""

    def test_none(self) -> None:
        """A body that is whole has none."""
        for body, is_zipped in ((GOOD * 3, False), (gzip.compress(GOOD * 3), True)):
            found = fault.find(body, is_zipped)
            self.assertEqual((found.why, found.frames, found.offset), ("", 3, None))
            self.assertEqual(found.octets, GOOD * 3)

    def test_place(self) -> None:
        """How many frames are good, and where the next begins."""
        for rest, why in [
            (b"x", "no length"),
            (b"99 short", "its length is 99 but only 5 bytes follow"),
            (b"3 a b", "end before MSGID"),
        ]:
            body = GOOD * 2 + rest
            for found in (
                fault.find(body, False),
                fault.find(gzip.compress(body), True),
            ):
                self.assertIn(why, found.why)
                self.assertEqual((found.frames, found.offset), (2, 2 * len(GOOD)))

    def test_gzip(self) -> None:
        """A gzip body is looked at as far as it goes, and told to be broken."""
        whole = gzip.compress(bytes(range(256)) * 100)
        found = fault.find(b"no gzip", True)
        self.assertIn("not valid gzip", found.why)
        self.assertEqual((found.frames, found.octets), (0, b""))
        found = fault.find(whole[:-9], True)
        self.assertIn("ends too early", found.why)
        cut = gzip.compress(GOOD * 10)[:-8]
        found = fault.find(cut, True)
        self.assertIn("ends too early", found.why)
        self.assertEqual((found.frames, found.offset), (10, 10 * len(GOOD)))

    def test_around(self) -> None:
        """The octets on both sides, so that no terminal is harmed by them."""
        octets = b"a" * 50 + b"\x1b[2J\xff\n" + b"b" * 50
        before, at = fault.around(octets, 50)
        self.assertEqual(before, "before: ...'" + "a" * 40 + "'")
        self.assertEqual(at, "at:     '\\x1b[2J\\xff\\n" + "b" * 34 + "'...")
        self.assertEqual(list(fault.around(b"ab", 0)), ["before: ''", "at:     'ab'"])
        self.assertEqual(list(fault.around(b"ab", 2)), ["before: 'ab'", "at:     ''"])
