"""
Decides whether a user and password are known.

The table has passwords as HMAC-SHA512 only; headers that were verified are remembered
as they came, while the table is in force. A check costs one HMAC and compares in
constant time with every credential of the user; for an unknown user it does the
same with a credential that nobody holds, so that time tells nothing.
"""

import binascii
import hmac
from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen


@frozen
class Credential:
    """
    @ivar name: what operators call it.
    @ivar stage: where it stands in its rotation; ``env`` for `TOKEN_MAP`.
    @ivar deprecated: still accepted, but to be replaced by its user.
    @ivar digest: HMAC-SHA512 of the password, raw.
    """

    name: str
    stage: str
    deprecated: bool
    digest: bytes


def password_digest(hmac_key: bytes, password: bytes) -> bytes:
    """HMAC-SHA512 (RFC 2104) of a password."""
    return hmac.digest(hmac_key, password, "sha512")


_VERIFIED_MAX = 10_000
_HEADER_BYTES_MAX = 512
_NOBODYS = Credential("", "", False, bytes(64))


class Credentials:
    """A table of credentials by user."""

    def __init__(
        self, hmac_key: bytes, table: Mapping[bytes, Sequence[Credential]]
    ) -> None:
        self._hmac_key = hmac_key
        self._table = {user: tuple(held) for user, held in table.items()}
        self._verified: dict[bytes, Credential] = {}

    @classmethod
    def from_tokens(
        cls, hmac_key: bytes, tokens: Iterable[tuple[str, str]]
    ) -> "Credentials":
        """A table of user and token pairs; several tokens for a user all count."""
        table: dict[bytes, list[Credential]] = {}
        for user, token in tokens:
            digest = password_digest(hmac_key, token.encode())
            table.setdefault(user.encode(), []).append(
                Credential(user, "env", False, digest)
            )
        return cls(hmac_key, table)

    def authorize(self, authorization: bytes) -> Credential | None:
        """
        The credential that an Authorization header proves, or None.

        A header that was verified once is known again, as long as this table is
        the one in force. Looking it up tells an attacker nothing: bytes are found
        by a hash that is keyed anew in each process, and compared only when that
        is equal.
        """
        credential = self._verified.get(authorization)
        if credential is None:
            offered = parse_basic(authorization)
            credential = self.check(*offered) if offered is not None else None
            if credential is not None and len(authorization) <= _HEADER_BYTES_MAX:
                # One credential can be written in many ways, by its scheme's case
                # and by spaces: this does not grow with them.
                if len(self._verified) >= _VERIFIED_MAX:
                    self._verified.clear()
                self._verified[authorization] = credential
        return credential

    def check(self, user: bytes, password: bytes) -> Credential | None:
        """The credential that `user` and `password` prove, or None."""
        digest = password_digest(self._hmac_key, password)
        proven = None
        for credential in self._table.get(user, (_NOBODYS,)):
            if hmac.compare_digest(credential.digest, digest):
                proven = credential
        return None if proven is _NOBODYS else proven


def parse_basic(authorization: bytes) -> tuple[bytes, bytes] | None:
    """User and password of a Basic Authorization header (RFC 7617), or None."""
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        decoded = binascii.a2b_base64(encoded.strip(b" "), strict_mode=True)
    except binascii.Error:
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon else None
