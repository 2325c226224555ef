"""
Decides whether a user and password are known.

The table has passwords as HMAC-SHA512 only; headers that were verified are remembered
as they came, while the table is in force. A check costs one HMAC and compares in
constant time with every credential of the user. Every user has as many of them, for
the lists are filled up with one that nobody holds, and so has an unknown user: time
tells nothing.

There are two tables. That of `TOKEN_MAP` stays; a user who is in the other, which may
be replaced at any time, is looked up there only.
"""

import binascii
import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

#: More in one entry is a mistake: each costs every check of an unknown header.
CREDENTIALS_MAX = 16
#: The user of tokens that come without one (RFC 6750).
BEARER = b"bearer"


@define(eq=False)
class Uses:
    """
    How often something was used since it was last summed up.

    @ivar last_at: when it was last used, in the clock's seconds; 0 for never.
    """

    count: int = 0
    last_at: float = 0.0

    def take(self) -> int:
        count, self.count = self.count, 0
        return count


@frozen
class Credential:
    """
    @ivar name: what operators call it.
    @ivar stage: where it stands in its rotation; ``env`` for `TOKEN_MAP`.
    @ivar deprecated: still accepted, but to be replaced by its user.
    @ivar digest: HMAC-SHA512 of the password, raw.
    @ivar user: who holds it.
    """

    name: str
    stage: str
    deprecated: bool
    digest: bytes = field(repr=False)
    user: bytes = b""
    uses: Uses = field(factory=Uses, eq=False, repr=False)


Table = Mapping[bytes, Sequence[Credential]]


def password_digest(hmac_key: bytes, password: bytes) -> bytes:
    """HMAC-SHA512 (RFC 2104) of a password."""
    return hmac.digest(hmac_key, password, "sha512")


_VERIFIED_MAX = 10_000
_HEADER_BYTES_MAX = 512
# So many users are known by their names at least, those who are gone too.
_REMEMBERED_MAX = 1000
_NOBODYS = Credential("", "", False, bytes(64))


class Credentials:
    """
    A table of credentials by user.

    @param table: those that are known from the start.
    @param awaits_more: whether `replace` is still to come. Until it has, nobody can be
        told that their credentials are wrong.
    @ivar is_loaded: whether it knows all there are.
    @ivar refused_unknown: refusals without a known user.
    @ivar refused_known: how many there were of known users, since the start.
    """

    def __init__(
        self, hmac_key: bytes, table: Table, *, awaits_more: bool = False
    ) -> None:
        self._hmac_key = hmac_key
        self._fixed = {user: tuple(held) for user, held in table.items()}
        self._verified: dict[bytes, Credential] = {}
        self._table: dict[bytes, tuple[Credential, ...]] = {}
        self._refused: dict[bytes, Uses] = {}
        self.refused_unknown = Uses()
        self.refused_known = 0
        self.is_loaded = not awaits_more
        self._put_in_force(self._fixed)

    @classmethod
    def from_tokens(
        cls,
        hmac_key: bytes,
        tokens: Iterable[tuple[str, str]],
        *,
        awaits_more: bool = False,
    ) -> "Credentials":
        """A table of user and token pairs; several tokens for a user all count."""
        table: dict[bytes, list[Credential]] = {}
        for user, token in tokens:
            digest = password_digest(hmac_key, token.encode())
            table.setdefault(user.encode(), []).append(
                Credential(user, "env", False, digest, user.encode())
            )
        return cls(hmac_key, table, awaits_more=awaits_more)

    def replace(self, table: Table) -> None:
        """
        Put `table` in force, in the place of what was given before: each of its users
        has those credentials and no others. Verified headers are verified anew.
        """
        self.is_loaded = True
        self._put_in_force({**self._fixed, **{u: tuple(h) for u, h in table.items()}})

    def _put_in_force(self, held: dict[bytes, tuple[Credential, ...]]) -> None:
        known = {(c.user, c.digest): c.uses.last_at for c in self.held()}
        for credential in (c for credentials in held.values() for c in credentials):
            # One that is read anew is the one that was used.
            last_at = known.get((credential.user, credential.digest), 0.0)
            credential.uses.last_at = max(credential.uses.last_at, last_at)
        most = max(map(len, held.values()), default=0) or 1
        self._nobodys = (_NOBODYS,) * most
        self._table = {u: c + self._nobodys[len(c) :] for u, c in held.items()}
        refused = {user: self._refused.get(user) or Uses() for user in held}
        # Those that are gone are still called by their name when they go on posting.
        for user, uses in reversed(self._refused.items()):
            if len(refused) >= max(_REMEMBERED_MAX, len(held)):
                break
            refused.setdefault(user, uses)
        self._refused = refused
        self._verified = {}

    def held(self) -> Iterable[Credential]:
        """Every credential that is in force."""
        return (c for held in self._table.values() for c in held if c is not _NOBODYS)

    def refused(self) -> Iterable[tuple[bytes, Uses]]:
        """The refusals of each known user, also of some that were known before."""
        return self._refused.items()

    def claimed_user(self, authorization: bytes) -> bytes | None:
        """The user that an Authorization header names, if it is a known one."""
        offered = parse_authorization(authorization)
        return offered[0] if offered and offered[0] in self._refused else None

    def authorize(self, authorization: bytes, at: float = 0.0) -> Credential | None:
        """
        The credential that an Authorization header proves, or None. Either is
        counted, but for what may still turn out to be right.

        @param at: in the clock's seconds.

        A header that was verified once is known again, as long as this table is
        the one in force. Looking it up tells an attacker nothing: bytes are found
        by a hash that is keyed anew in each process, and compared only when that
        is equal.
        """
        credential = self._verified.get(authorization)
        if credential is None:
            credential = self._verify(authorization, at)
            if credential is None:
                return None
        uses = credential.uses
        uses.count += 1
        uses.last_at = at
        return credential

    def _verify(self, authorization: bytes, at: float) -> Credential | None:
        offered = parse_authorization(authorization)
        if offered is None:
            self.refused_unknown.count += 1
            self.refused_unknown.last_at = at
            return None
        credential = self.check(*offered)
        if credential is None:
            if self.is_loaded:
                uses = self._refused.get(offered[0], self.refused_unknown)
                uses.count += 1
                uses.last_at = at
                self.refused_known += uses is not self.refused_unknown
        elif len(authorization) <= _HEADER_BYTES_MAX:
            # One credential can be written in many ways, by its scheme's case and
            # by spaces: this does not grow with them.
            if len(self._verified) >= _VERIFIED_MAX:
                self._verified.clear()
            self._verified[authorization] = credential
        return credential

    def check(self, user: bytes, password: bytes) -> Credential | None:
        """The credential that `user` and `password` prove, or None."""
        digest = password_digest(self._hmac_key, password)
        proven = None
        for credential in self._table.get(user, self._nobodys):
            if hmac.compare_digest(credential.digest, digest):
                proven = credential
        return None if proven is _NOBODYS else proven


# the Authorization header


def parse_authorization(authorization: bytes) -> tuple[bytes, bytes] | None:
    """
    User and password of an Authorization header, Basic (RFC 7617) or Bearer (RFC
    6750), or None.
    """
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        return parse_basic(authorization)
    token = token.strip(b" ")
    return (BEARER, token) if token else None


def parse_basic(authorization: bytes) -> tuple[bytes, bytes] | None:
    """User and password of a Basic Authorization header (RFC 7617), or None."""
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    encoded = encoded.strip(b" ")
    if len(encoded) % 4 or encoded.endswith(b"==="):
        # Python before 3.13 passes over pads that nothing needs.
        return None
    try:
        decoded = binascii.a2b_base64(encoded, strict_mode=True)
    except binascii.Error:
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon else None


# the entry of a user, as it stands in Redis


class BrokenEntry(Exception):
    """An entry is not a list of credentials. Says why, and never what it holds."""


class NotChanged(Exception):
    """An entry cannot be changed as it is wanted. Says why."""


_UNSAID = {"name": "", "stage": "", "deprecated": False, "hmac": None}
_MEMBERS = frozenset(_UNSAID)
_DIGEST = re.compile(r"[0-9A-Fa-f]{128}")


def parse_entry(user: bytes, entry: bytes) -> tuple[Credential, ...]:
    """
    The credentials of `user`: a JSON list of objects with ``name``, ``stage``,
    ``deprecated`` and ``hmac``, the HMAC-SHA512 of the password in hex. Only the last
    has to be there; others do not matter. Names may be in any case and what is null is
    missing, as for log-iss.

    @raise BrokenEntry: it is something else, or one of them is.
    """
    return tuple(
        _credential(user, i, held) for i, held in enumerate(_list_of(entry), 1)
    )


def _list_of(entry: bytes) -> list[dict[str, Any]]:
    try:
        held = json.loads(entry.decode())
    except UnicodeDecodeError:
        raise BrokenEntry("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise BrokenEntry("it is not JSON") from None
    if not isinstance(held, list):
        raise BrokenEntry("it is not a list of credentials")
    if len(held) > CREDENTIALS_MAX:
        raise BrokenEntry(f"it has {len(held)} credentials, {CREDENTIALS_MAX} at most")
    for i, credential in enumerate(held, 1):
        if not isinstance(credential, dict):
            raise BrokenEntry(f"credential {i} is not an object")
    return [_in_lower_case(credential) for credential in held]


def _in_lower_case(held: Mapping[str, Any]) -> dict[str, Any]:
    """With the members that count called so; one that was called so goes first."""
    known = {k.lower(): v for k, v in held.items() if k.lower() in _MEMBERS}
    rest = {k: v for k, v in held.items() if k in known or k.lower() not in known}
    return {**known, **rest}


def _credential(user: bytes, i: int, held: Mapping[str, Any]) -> Credential:
    given = {**_UNSAID, **{k: v for k, v in held.items() if v is not None}}
    name, stage = given["name"], given["stage"]
    deprecated, digest = given["deprecated"], given["hmac"]
    for member, value in (("name", name), ("stage", stage)):
        if not isinstance(value, str) or not _is_unicode(value):
            raise BrokenEntry(f'"{member}" of credential {i} is not text')
    if not isinstance(deprecated, bool):
        raise BrokenEntry(f'"deprecated" of credential {i} is neither true nor false')
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BrokenEntry(f'"hmac" of credential {i} is not 128 hex digits')
    return Credential(name, stage, deprecated, bytes.fromhex(digest), user)


def _is_unicode(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which JSON allows."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def with_credential(
    entry: bytes | None, credential: Credential, deprecate_others: bool
) -> bytes:
    """
    The entry with one more credential; members that are not known are kept.

    @param deprecate_others: mark the others as such, and give those of its stage the
        stage ``previous``.
    @param entry: None when the user has none yet.
    @raise BrokenEntry: the entry cannot be read.
    @raise NotChanged: there is one of this name, or no room.
    """
    held = _checked(entry)
    if any(other.get("name") == credential.name for other in held):
        raise NotChanged(f"there is a credential {credential.name!r} already")
    if len(held) >= CREDENTIALS_MAX:
        raise NotChanged(f"there are {len(held)} credentials already; revoke one")
    if deprecate_others:
        held = [_deprecated(other, credential.stage) for other in held]
    added = {
        "name": credential.name,
        "stage": credential.stage,
        "deprecated": credential.deprecated,
        "hmac": credential.digest.hex(),
    }
    return json.dumps([*held, added]).encode()


def _deprecated(held: dict[str, Any], new_stage: str) -> dict[str, Any]:
    stage = held.get("stage") or ""
    stage = "previous" if stage == new_stage else stage
    return {**held, "stage": stage, "deprecated": True}


def without_credential(entry: bytes | None, name: str) -> bytes:
    """
    The entry without the credentials called `name`. One without any is left as an
    empty list: as long as it is there the user is not looked up in `TOKEN_MAP`.

    @raise BrokenEntry: the entry cannot be read.
    @raise NotChanged: there is no such credential.
    """
    held = _checked(entry)
    left = [other for other in held if (other.get("name") or "") != name]
    if len(left) == len(held):
        raise NotChanged(f"there is no credential {name!r}")
    return json.dumps(left).encode()


def _checked(entry: bytes | None) -> list[dict[str, Any]]:
    if entry is None:
        return []
    parse_entry(b"", entry)
    return _list_of(entry)
