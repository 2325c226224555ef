"""Gzip bodies come out whole and within bounds."""

import gzip
import tracemalloc
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.inflate import (
    DEFAULT_LIMITS,
    BrokenGzip,
    InflatedTooLarge,
    InflateLimits,
    inflate,
)

TEXT = b"<13>1 2013-06-07T13:17:49Z host heroku web.7 - - hello\n" * 20
MIB = 1024 * 1024


def packed(octets: bytes) -> bytes:
    return gzip.compress(octets, mtime=0)


class InflateTests(SynchronousTestCase):
    """`inflate` gives back what was compressed."""

    def test_one_member(self) -> None:
        """A body of one member is inflated."""
        self.assertEqual(inflate(packed(TEXT)), TEXT)

    def test_empty_content(self) -> None:
        """Nothing, compressed, is nothing."""
        self.assertEqual(inflate(packed(b"")), b"")

    def test_larger_than_a_piece(self) -> None:
        """A body larger than what is inflated at a time is whole."""
        octets = b"".join(b"%d " % i for i in range(200_000))
        self.assertEqual(inflate(packed(octets)), octets)

    @settings(deadline=None)
    @given(st.lists(st.binary(max_size=300), min_size=1, max_size=16))
    def test_members(self, parts: list[bytes]) -> None:
        """Members follow one another, up to their limit."""
        body = b"".join(packed(part) for part in parts)
        self.assertEqual(inflate(body), b"".join(parts))

    def test_nul_padding(self) -> None:
        """NUL bytes behind a member are padding."""
        self.assertEqual(inflate(packed(TEXT) + b"\0" * 1000), TEXT)
        self.assertEqual(
            inflate(packed(b"a") + b"\0" * 9 + packed(b"b") + b"\0"), b"ab"
        )


class BrokenTests(SynchronousTestCase):
    """What is not gzip to its end is refused, and said so on one line."""

    def refusal(self, body: bytes) -> str:
        with self.assertRaises(BrokenGzip) as caught:
            inflate(body)
        message = str(caught.exception)
        self.assertTrue(message.isprintable(), message)
        return message

    def test_truncated(self) -> None:
        """A body cut off anywhere is refused."""
        body = packed(TEXT)
        for end in range(1, len(body)):
            self.assertIn("too early", self.refusal(body[:end]))

    def test_second_member_truncated(self) -> None:
        """A second member that is cut off spoils the first."""
        body = packed(b"a") + packed(b"b")
        for end in range(len(packed(b"a")) + 1, len(body)):
            self.assertIn("too early", self.refusal(body[:end]))

    def test_trailing_garbage(self) -> None:
        """What follows a member must be a member."""
        self.refusal(packed(TEXT) + b"garbage that goes on for a while")
        self.refusal(packed(TEXT) + b"\0\0\0garbage that goes on for a while")

    def test_not_gzip(self) -> None:
        """Other formats are refused, those that zlib could read too."""
        raw = zlib.compressobj(wbits=-15)
        for body in (
            TEXT,
            zlib.compress(TEXT),
            raw.compress(TEXT) + raw.flush(),
            b"\0" * 100,
        ):
            with self.subTest(body[:4]):
                self.refusal(body)

    def test_empty(self) -> None:
        """An empty body is no gzip."""
        self.assertIn("empty", self.refusal(b""))

    def test_wrong_checksum(self) -> None:
        """A member whose content does not fit its checksum or size is refused."""
        body = packed(TEXT)
        for at in range(len(body) - 8, len(body)):
            broken = bytearray(body)
            broken[at] ^= 1
            self.refusal(bytes(broken))

    def test_too_many_members(self) -> None:
        """One member more than the limit is one too many."""
        self.assertEqual(DEFAULT_LIMITS.members, 16)
        self.assertEqual(inflate(packed(b"x") * 16), b"x" * 16)
        self.assertIn("16 gzip members", self.refusal(packed(b"x") * 17))
        # Members with nothing in them count as well.
        self.refusal(packed(b"") * 17)


class LimitsTests(SynchronousTestCase):
    """No more comes out than the limits allow."""

    def test_inflated_bytes(self) -> None:
        """At the limit is allowed, one byte more is not."""
        limits = InflateLimits(inflated_bytes=len(TEXT))
        self.assertEqual(inflate(packed(TEXT), limits), TEXT)
        with self.assertRaises(InflatedTooLarge) as caught:
            inflate(packed(TEXT + b"x"), limits)
        self.assertIn(str(len(TEXT)), str(caught.exception))

    def test_all_members_count(self) -> None:
        """The limit is one for all members."""
        limits = InflateLimits(inflated_bytes=2 * len(TEXT))
        self.assertEqual(inflate(packed(TEXT) * 2, limits), TEXT * 2)
        with self.assertRaises(InflatedTooLarge):
            inflate(packed(TEXT) * 2 + packed(b"x"), limits)

    def test_ratio(self) -> None:
        """Beyond the free bytes, so many come out of each and no more."""
        body = packed(bytes(MIB))
        ratio = -(-MIB // len(body))
        self.assertEqual(
            len(inflate(body, InflateLimits(ratio=ratio, ratio_free_bytes=0))), MIB
        )
        with self.assertRaises(InflatedTooLarge):
            inflate(body, InflateLimits(ratio=ratio - 1, ratio_free_bytes=0))
        self.assertEqual(
            len(inflate(body, InflateLimits(ratio=1, ratio_free_bytes=MIB))), MIB
        )

    def test_default_ratio(self) -> None:
        """By default 1 MiB may come out of anything, and 200 to 1 beyond."""
        self.assertEqual(len(inflate(packed(bytes(MIB)))), MIB)
        with self.assertRaises(InflatedTooLarge):
            inflate(packed(bytes(2 * MIB)))

    def test_bomb(self) -> None:
        """A bomb is given up at the limit, not beyond it."""
        bomb = packed(bytes(64 * MIB))
        for limits, most in [
            (InflateLimits(), 200 * len(bomb)),
            (InflateLimits(ratio=1), MIB),
            (InflateLimits(ratio=10_000), 16 * MIB),
            (InflateLimits(inflated_bytes=300_000), 300_000),
        ]:
            with self.subTest(most):
                tracemalloc.start()
                self.addCleanup(tracemalloc.stop)
                with self.assertRaises(InflatedTooLarge):
                    inflate(bomb, limits)
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                # A piece more, what is left of the bomb, zlib's own window.
                self.assertLess(peak, most + 3 * len(bomb) + 256 * 1024)
