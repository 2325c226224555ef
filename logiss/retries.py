"""
Knows a retried post by its frame id, so that it is not forwarded twice.

A logplex drain gives each batch an id that stays the same on its retries, although
their bodies may differ. The first post of an id is an attempt; while that is under way
a retry joins it and shares its outcome. One that is confirmed is remembered for a
while, one that has failed is forgotten, so that its retry is a first post again. All of
this is of one process; an attempt may also have a claim in a table that others read,
which hears how it ended.

An attempt is under way as long as somebody waits for it, whoever came first. When
nobody does any more it is abandoned, and whoever made it decides what becomes of it.

There is no timer: what is too old goes a few at a time, as others come.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

#: How long after its confirmation a post is known again.
REMEMBERED_SECONDS = 120.0
#: Attempts and confirmed posts, together.
KEYS_MAX = 100_000
#: A longer drain token is none of logplex's, and would be kept for each of its posts.
DRAIN_TOKEN_BYTES_MAX = 255

# More than come at a time, so that what is too old does not stay.
_EXPIRED_AT_ONCE = 8

_FRAME_ID = re.compile(rb"[0-9A-Fa-f]{32}")

#: The header that has the id.
FRAME_ID = b"logplex-frame-id"
#: User, drain token and frame id.
Key = tuple[bytes, bytes | None, bytes]


def key_of(
    user: bytes, drain_token: bytes | None, frame_ids: list[bytes]
) -> Key | None:
    """
    What a post is known by; None when it has no id that counts.

    @param frame_ids: the values of ``Logplex-Frame-Id``.
    """
    if len(frame_ids) != 1 or not _FRAME_ID.fullmatch(frame_ids[0]):
        return None
    if drain_token is not None and len(drain_token) > DRAIN_TOKEN_BYTES_MAX:
        return None
    return user, drain_token, frame_ids[0]


class Claim(Protocol):
    """What an attempt has in a table beyond this process. It ends once."""

    def confirm(self) -> None:
        """The post was delivered."""

    def release(self) -> None:
        """It was not."""


class Attempt:
    """
    A post that is under way. It ends exactly once, by `confirm` or `fail`.

    @param abandoned: called when nobody waits for it any more.
    @ivar claim: is told how it ends.
    """

    __slots__ = ("_abandoned", "_first_waits", "_joined", "_retries", "claim", "key")

    def __init__(
        self, retries: "Retries", key: Key, abandoned: Callable[[], None]
    ) -> None:
        self.key = key
        self.claim: Claim | None = None
        self._retries = retries
        self._abandoned: Callable[[], None] | None = abandoned
        self._first_waits = True
        self._joined: dict[Deferred[None], None] = {}

    def join(self) -> Deferred[None]:
        """
        @return: fires or fails with this attempt. Cancelling it leaves.
        """
        joined: Deferred[None] = Deferred(self._left)
        self._joined[joined] = None
        return joined

    def first_left(self) -> None:
        """Whoever made it does not wait for it any more."""
        self._first_waits = False
        self._look_who_waits()

    def confirm(self) -> None:
        """It was delivered: those who have joined share that, retries will."""
        if self.claim is not None:
            self.claim.confirm()
        for joined in self._end(confirmed=True):
            if not joined.called:
                joined.callback(None)

    def fail(self, reason: Failure) -> None:
        """It was not: those who have joined share that, a retry starts anew."""
        if self.claim is not None:
            self.claim.release()
        for joined in self._end(confirmed=False):
            if not joined.called:
                joined.errback(reason)

    def _left(self, joined: Deferred[None]) -> None:
        # Not there any more when it goes while the others are told of the end.
        if joined in self._joined:
            del self._joined[joined]
            self._look_who_waits()

    def _look_who_waits(self) -> None:
        abandoned = self._abandoned
        if abandoned is not None and not self._first_waits and not self._joined:
            abandoned()

    def _end(self, confirmed: bool) -> list[Deferred[None]]:
        # Those who have joined hold us for their leaving, and who made us is held
        # for the abandoning: left so, all would wait for the garbage collector.
        self._abandoned = None
        joined = list(self._joined)
        self._joined.clear()
        self._retries.ended(self, confirmed)
        return joined


class Retries:
    """
    The attempts that are under way, and the posts that were confirmed lately.

    @param seconds: the time.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        remembered_seconds: float = REMEMBERED_SECONDS,
        keys_max: int = KEYS_MAX,
    ) -> None:
        self._seconds = seconds
        self._remembered_seconds = remembered_seconds
        self._keys_max = keys_max
        # What is under way, or when it was confirmed; the oldest first. Of a plain
        # dict the first would be looked for past all that have gone before it.
        self._known: OrderedDict[Key, Attempt | float] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are kept."""
        return len(self._known)

    def under_way(self, key: Key) -> Attempt | None:
        """The attempt of `key` that a retry may join."""
        known = self._known.get(key)
        return known if isinstance(known, Attempt) else None

    def remembers(self, key: Key) -> bool:
        """Whether a post of `key` was confirmed lately."""
        known = self._known.get(key)
        return isinstance(known, float) and not self._is_expired(known)

    def begin(self, key: Key, abandoned: Callable[[], None]) -> Attempt:
        """The first post of `key`, which is neither under way nor remembered."""
        self._known.pop(key, None)
        attempt = self._known[key] = Attempt(self, key, abandoned)
        self._make_room()
        return attempt

    def ended(self, attempt: Attempt, confirmed: bool) -> None:
        """Called by `attempt` at its end."""
        # It may have been forgotten as one of too many, and its retry be under way.
        if self._known.get(attempt.key) is attempt:
            del self._known[attempt.key]
            if confirmed:
                self._known[attempt.key] = self._seconds()

    def _make_room(self) -> None:
        known = self._known
        for _ in range(_EXPIRED_AT_ONCE):
            oldest = known[next(iter(known))]
            if isinstance(oldest, Attempt) or not self._is_expired(oldest):
                break
            known.popitem(last=False)
        while len(known) > self._keys_max:
            known.popitem(last=False)

    def _is_expired(self, confirmed_at: float) -> bool:
        return self._seconds() - confirmed_at >= self._remembered_seconds
