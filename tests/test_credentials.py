"""Who is let in."""

import sys
from base64 import b64encode
from collections import Counter
from types import FrameType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.credentials import (
    Credential,
    Credentials,
    parse_basic,
    password_digest,
)

KEY = b"key"


def known() -> Credentials:
    return Credentials.from_tokens(
        KEY, [("ada", "one"), ("bob", "two"), ("ada", "three"), ("zoë", "pässword")]
    )


class CredentialsTests(SynchronousTestCase):
    """Only a known user with one of their passwords is let in."""

    def test_each_token_counts(self) -> None:
        """Every token of a user lets them in."""
        for user, password in [
            (b"ada", b"one"),
            (b"ada", b"three"),
            (b"bob", b"two"),
            ("zoë".encode(), "pässword".encode()),
        ]:
            with self.subTest((user, password)):
                credential = known().check(user, password)
                assert credential is not None
                self.assertEqual(credential.name, user.decode())
                self.assertEqual(credential.stage, "env")
                self.assertFalse(credential.deprecated)

    def test_refused(self) -> None:
        """Another's password, a part of one, an empty one, an unknown user: no."""
        for user, password in [
            (b"ada", b"two"),
            (b"bob", b"one"),
            (b"bob", b"tw"),
            (b"bob", b"two "),
            (b"bob", b""),
            (b"Bob", b"two"),
            (b"", b""),
            (b"nobody", b""),
            (b"nobody", b"one"),
            ("zoë".encode("latin-1"), "pässword".encode()),
        ]:
            with self.subTest((user, password)):
                self.assertIsNone(known().check(user, password))

    def test_digest_is_no_password(self) -> None:
        """Whoever has read a digest cannot log in with it."""
        digest = password_digest(KEY, b"two")
        for password in (digest, digest.hex().encode(), bytes(64)):
            self.assertIsNone(known().check(b"bob", password))
            self.assertIsNone(known().check(b"nobody", password))

    def test_nothing_to_read(self) -> None:
        """What is held of a password is neither the password nor a plain hash."""
        credential = known().check(b"bob", b"two")
        assert credential is not None
        self.assertNotIn(b"two", credential.digest)
        self.assertEqual(
            credential.digest.hex(),
            # printf two | openssl dgst -sha512 -hmac key
            "9c69949ce90936f79281092bc83f7799b62ff01a6914ccc7de7e43071d5f2d49"
            "30b6605372e91ffaf69d241f0b32a786d542fc589dec4b2c99a9f6f77eab9002",
        )
        self.assertNotEqual(password_digest(b"other", b"two"), credential.digest)

    def test_given_table(self) -> None:
        """The credential that fits is the one returned, with all that is known."""
        old = Credential("v1", "previous", True, password_digest(KEY, b"old"))
        new = Credential("v2", "current", False, password_digest(KEY, b"new"))
        credentials = Credentials(KEY, {b"ada": [new, old], b"none": []})
        self.assertIs(credentials.check(b"ada", b"old"), old)
        self.assertIs(credentials.check(b"ada", b"new"), new)
        self.assertIsNone(credentials.check(b"none", b"new"))

    def test_cost(self) -> None:
        """An unknown user costs what a wrong password and a right one cost."""
        credentials = known()
        for user, password, compares in [
            # As many as the user who has most.
            (b"bob", b"two", 2),
            (b"bob", b"wrong", 2),
            (b"nobody", b"two", 2),
            # The first that fits does not end it.
            (b"ada", b"one", 2),
            (b"ada", b"three", 2),
            (b"ada", b"wrong", 2),
        ]:
            with self.subTest((user, password)):
                calls: Counter[str] = Counter()

                def count(
                    frame: FrameType, event: str, called: Any, calls: Any = calls
                ) -> None:
                    if event == "c_call":
                        calls[called.__name__.strip("_")] += 1

                sys.setprofile(count)
                try:
                    credentials.check(user, password)
                finally:
                    sys.setprofile(None)
                self.assertEqual(calls["hmac_digest"], 1, calls)
                self.assertEqual(calls["compare_digest"], compares, calls)


def basic(user_password: bytes) -> bytes:
    return b"Basic " + b64encode(user_password)


class ParseBasicTests(SynchronousTestCase):
    """A Basic Authorization header is a user and a password."""

    def test_good(self) -> None:
        """Users have no colon, passwords may; the scheme may be in any case."""
        for header, expected in [
            (basic(b"ada:one"), (b"ada", b"one")),
            (basic(b"ada:o:n:e:"), (b"ada", b"o:n:e:")),
            (basic(b":"), (b"", b"")),
            (basic(b"ada:"), (b"ada", b"")),
            (basic(b":one"), (b"", b"one")),
            (basic("zoë:€".encode()), ("zoë".encode(), "€".encode())),
            (basic(b"a:\xff\x00"), (b"a", b"\xff\x00")),
            (b"basic YTpi", (b"a", b"b")),
            (b"BASIC YTpi", (b"a", b"b")),
            (b"bAsIc YTpi", (b"a", b"b")),
            # RFC 9110 section 11.4: 1*SP between them
            (b"Basic   YTpi", (b"a", b"b")),
        ]:
            with self.subTest(header):
                self.assertEqual(parse_basic(header), expected)

    def test_bad(self) -> None:
        """Anything else is nothing."""
        for header in (
            b"",
            b"Basic",
            b"Basic ",
            b"YTpi",
            b"Bearer YTpi",
            b"Basically YTpi",
            b" Basic YTpi",
            b"Basic\tYTpi",
            b"Digest username=x",
            basic(b"no colon"),
            b"Basic a:b",
            b"Basic YTp",
            b"Basic YTo",
            b"Basic YTpi YTpi",
            b"Basic Y Tpi",
            b"Basic YTp!i",
            b"Basic YTpi\n",
            b"Basic =YTpi",
            b"Basic \xff\xff\xff\xff",
        ):
            with self.subTest(header):
                self.assertIsNone(parse_basic(header))

    @settings(deadline=None)
    @given(st.binary(max_size=30), st.binary(max_size=30))
    def test_any(self, user: bytes, password: bytes) -> None:
        """Any user without a colon and any password come out as they went in."""
        user = user.replace(b":", b"")
        self.assertEqual(parse_basic(basic(user + b":" + password)), (user, password))

    @settings(deadline=None)
    @given(st.binary(max_size=60))
    def test_never_raises(self, header: bytes) -> None:
        """No header makes it fail."""
        for authorization in (header, b"Basic " + header):
            parsed = parse_basic(authorization)
            self.assertTrue(parsed is None or b":" not in parsed[0])
