"""
Target: Authorization headers, against a second reading.

The octets are a header's value. Whoever is let in has sent a user and a password that
are in the table, in base64 that has one reading only.
"""

import base64

from logiss.credentials import Credentials, parse_basic
from tests.front import TOKEN, USER

_KNOWN = {(USER, TOKEN), (USER, "second"), ("other", "a:b:c"), ("", "")}
_CREDENTIALS = Credentials.from_tokens(b"key", sorted(_KNOWN))


def check(octets: bytes) -> None:
    """
    @raise Exception: somebody is let in by other octets than a credential's, or kept
        out with those, or it matters whether he was let in before.
    """
    read = _read(octets)
    assert parse_basic(octets) == read, f"{parse_basic(octets)!r}, not {read!r}"
    known = {(user.encode(), token.encode()): user for user, token in _KNOWN}
    expected = None if read is None else known.get(read)
    for _ in range(2):
        credential = _CREDENTIALS.authorize(octets)
        assert (credential.name if credential else None) == expected


def _read(octets: bytes) -> tuple[bytes, bytes] | None:
    """User and password, by RFC 7617 section 2 and RFC 4648 section 4."""
    if octets[:6].lower() != b"basic ":
        return None
    encoded = octets[6:].strip(b" ")
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    # What is encoded has one form, but for the bits that the padding leaves over.
    whole = base64.b64encode(decoded)
    if len(whole) != len(encoded) or b":" not in decoded:
        return None
    user, password = decoded.split(b":", 1)
    return user, password
