"""
Keeps the posts that are under way or were confirmed in a Redis, so that a retry is
known wherever in a fleet it arrives.

A post is one key, with a value that says which of the two it is. It is begun with
``SET NX``: whoever puts its name there forwards, and puts ``confirmed`` in its place
once the post is delivered. Only that word makes a retry a duplicate: who finds the name
of another waits for a while, for the word or for the key to go, and then forwards. A
name goes by itself soon after its post must have ended, for whoever put it there may
have died.

Each value says again which key it is of: one reply too many or too few, by whatever
fault, would otherwise have a post read what was said of another.

So the worst that a Redis can do is to let a post arrive twice. No post waits for one
that is slow or gone.
"""

import os
from hashlib import sha256
from typing import Any

import hiredis
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from logiss.l2met import EventLog
from logiss.metrics import Metrics
from logiss.pipeline import (
    LOST,
    NONSENSE,
    REFUSED,
    NoReply,
    RedisPipeline,
    Trial,
    encode,
)
from logiss.redis import NOT_REDIS

#: The value of a post that was delivered begins so; then come the digits of its key.
CONFIRMED = b"confirmed:"
#: That of one under way begins so; then come the digits, a colon, and who forwards it.
BEGUN = b"begun:"
#: How often a post looks whether the one that it retries has ended elsewhere.
POLL_SECONDS = 0.1
#: A name outlasts `DELIVERY_TIMEOUT` by this: every post has ended by then.
GRACE_SECONDS = 1.0
#: So much of `DELIVERY_TIMEOUT` a post may wait for another process, and the rest is
#: for its own delivery.
PATIENCE = 0.5

#: Why a post has not asked, beside the reasons of `logiss.pipeline`: Redis was
#: known to be gone.
DOWN = "down"

_RELEASE = (
    b"if redis.call('get',KEYS[1])==ARGV[1] then"
    b" return redis.call('del',KEYS[1]) else return 0 end"
)
_DIGITS = 32
#: As in `logiss.retries`: user, drain token and frame id.
_Key = tuple[bytes, bytes | None, bytes]


class Commands:
    """
    What is said to Redis of a post.

    @param prefix: in front of every key.
    @param owner: who begins posts, unlike all others.
    @param begun_seconds: how long a post that was begun stays.
    @param confirmed_seconds: how long one that was confirmed does.
    """

    def __init__(
        self, prefix: str, owner: bytes, begun_seconds: float, confirmed_seconds: float
    ) -> None:
        self._prefix = prefix.encode() + b":"
        self._owner = owner
        # Digits are so many each time: what stands around them is made once.
        mark = b"\0" * _DIGITS
        name, begun = self._prefix + mark, self.begun(mark)
        begun_ms = b"%d" % max(1, round(begun_seconds * 1e3))
        confirmed_ms = b"%d" % max(1, round(confirmed_seconds * 1e3))
        self._begin = encode(b"SET", name, begun, b"NX", b"PX", begun_ms).split(mark)
        self._confirm = encode(
            b"SET", name, self.confirmed(mark), b"PX", confirmed_ms
        ).split(mark)
        self._look = encode(b"GET", name).split(mark)
        self._release = encode(b"EVAL", _RELEASE, b"1", name, begun).split(mark)

    def name(self, key: _Key) -> bytes:
        """What `key` is called: of a client there is nothing in it that can be read."""
        user, drain_token, frame_id = key
        token_bytes = -1 if drain_token is None else len(drain_token)
        lengths = b"%d,%d," % (len(user), token_bytes)
        digest = sha256(lengths + user + (drain_token or b"") + frame_id)
        return self._prefix + digest.hexdigest()[:_DIGITS].encode()

    def begun(self, name: bytes) -> bytes:
        """The value of a post that this owner has begun."""
        return b"%b%b:%b" % (BEGUN, name[-_DIGITS:], self._owner)

    def begun_by_any(self, name: bytes) -> bytes:
        """What the value of a post begins with that somebody has begun."""
        return b"%b%b:" % (BEGUN, name[-_DIGITS:])

    def confirmed(self, name: bytes) -> bytes:
        """The value of a post that was delivered, by whomever."""
        return CONFIRMED + name[-_DIGITS:]

    def begin(self, name: bytes) -> bytes:
        """OK, or nothing when there is something of that name."""
        return name[-_DIGITS:].join(self._begin)

    def look(self, name: bytes) -> bytes:
        return name[-_DIGITS:].join(self._look)

    def confirm(self, name: bytes) -> bytes:
        return name[-_DIGITS:].join(self._confirm)

    def release(self, name: bytes) -> bytes:
        """Only what this owner has begun goes; 1 then, else 0."""
        return name[-_DIGITS:].join(self._release)

    def trials(self) -> list[Trial]:
        """Each of them once, but for `confirm`, with a key that does not stay."""
        name = self.name((b"", None, b"trial," + self._owner))
        return [
            Trial(self.release(name), (0, 1)),
            Trial(self.begin(name), (b"OK",)),
            Trial(encode(b"EVAL", _RELEASE, b"1", name, b"nobody"), (0,)),
            Trial(self.look(name), (self.begun(name),)),
            Trial(self.release(name), (1,)),
        ]


class Claim:
    """
    What a post that is about to be forwarded has of the table. It ends once, by
    `confirm` or `release`.
    """

    __slots__ = ("_asked", "_is_held", "_name", "_table", "_timer", "_until")

    def __init__(self, table: "SharedRetries", name: bytes, until: float) -> None:
        self._table = table
        self._name = name
        self._until = until
        self._asked: Deferred[Claim | None] | None = None
        self._is_held = False
        self._timer: IDelayedCall | None = None

    def ask(self) -> "Deferred[Claim | None]":
        asked = self._asked = Deferred(self._given_up)
        self._begin()
        return asked

    def confirm(self) -> None:
        """It was delivered: from now on its retries are duplicates, everywhere."""
        table = self._table
        if table.pipeline.is_usable:
            table.pipeline.send(table.commands.confirm(self._name), table.recorded)
        else:
            table.recorded(NoReply(LOST))

    def release(self) -> None:
        """It was not: its retry may be forwarded at once, wherever it arrives."""
        table = self._table
        if self._is_held and table.pipeline.is_usable:
            table.pipeline.send(table.commands.release(self._name), table.released)

    def _begin(self) -> None:
        self._timer = None
        table = self._table
        table.pipeline.send(table.commands.begin(self._name), self._begun)

    def _begun(self, reply: Any) -> None:
        if reply == b"OK":
            self._is_held = True
            if self._asked is None:
                self.release()
            else:
                self._found(self)
        elif reply is not None:
            self._go_without(reply)
        elif self._asked is not None:
            table = self._table
            table.pipeline.send(table.commands.look(self._name), self._seen)

    def _seen(self, reply: Any) -> None:
        commands = self._table.commands
        if reply == commands.confirmed(self._name):
            self._found(None)
        elif reply == commands.begun(self._name):
            # Ours, from a connection that was lost before it said so: had this
            # process the post under way, nobody would have asked.
            self._is_held = True
            self._found(self)
        elif reply is None or (
            isinstance(reply, bytes)
            and reply.startswith(commands.begun_by_any(self._name))
        ):
            if self._asked is not None:
                self._wait()
        else:
            self._go_without(reply)

    def _wait(self) -> None:
        table = self._table
        if table.may_wait(self._until):
            self._timer = table.clock.callLater(POLL_SECONDS, self._begin)
        else:
            table.metrics.dedupe_overtaken += 1
            self._found(self)

    def _go_without(self, reply: Any) -> None:
        if self._asked is None:
            self._table.give_up_after(reply)
        else:
            self._table.not_told(reply)
            self._found(self)

    def _found(self, claim: "Claim | None") -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.callback(claim)

    def _given_up(self, asked: object) -> None:
        """Whoever has asked does not wait for it any more."""
        self._asked = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class SharedRetries:
    """
    The table of a fleet, as one process sees it.

    @param pipeline: to the Redis that has the table.
    @param delivery_timeout_seconds: in which each post ends.
    @param timeout_seconds: in which `pipeline` has a reply or gives up.
    @param remembered_seconds: how long a post is known that was delivered.
    @param owner: unlike that of all other processes.
    """

    def __init__(
        self,
        clock: IReactorTime,
        pipeline: RedisPipeline,
        events: EventLog,
        metrics: Metrics,
        prefix: str,
        delivery_timeout_seconds: float,
        timeout_seconds: float,
        remembered_seconds: float,
        owner: bytes = b"",
    ) -> None:
        self.clock = clock
        self.pipeline = pipeline
        self.metrics = metrics
        self._events = events
        self.commands = Commands(
            prefix,
            owner or os.urandom(8).hex().encode(),
            delivery_timeout_seconds + GRACE_SECONDS,
            remembered_seconds,
        )
        self._patience_seconds = PATIENCE * delivery_timeout_seconds
        # The longest that one look may take.
        self._look_seconds = POLL_SECONDS + 2 * timeout_seconds
        self._lost_at = clock.seconds()
        self._is_lost = self._was_usable = False
        self._unasked_before = 0

    @property
    def is_usable(self) -> bool:
        """Whether a post that came now would ask."""
        return self.pipeline.is_usable

    def start(self) -> None:
        """Connect; until that has succeeded posts go without."""
        self._lost_at = self.clock.seconds()
        self.pipeline.start(self, self.commands.trials())

    def stop(self) -> Deferred[None]:
        """Fires when what was said of posts has arrived, or has had its time."""
        return self.pipeline.stop()

    def claim(self, key: _Key, received_at: float) -> Deferred[Claim | None]:
        """
        Ask whether a post is to be forwarded.

        @param received_at: since when it is whole, in the clock's seconds.
        @return: fires with what to end when the post has ended; with nothing when it
            was delivered before, by whomever. Never fails. Cancelling it lets go.
        """
        name = self.commands.name(key)
        claim = Claim(self, name, received_at + self._patience_seconds)
        if not self.pipeline.is_usable:
            self.metrics.dedupe_unasked.add((DOWN,), 1)
            return succeed(claim)
        return claim.ask()

    def may_wait(self, until: float) -> bool:
        """Whether there is time for another look."""
        return self.clock.seconds() + self._look_seconds <= until

    # replies

    def not_told(self, reply: Any) -> None:
        """A post goes without, since `reply` says nothing of it."""
        reason = self._reason(reply)
        self.give_up_after(reply)
        self.metrics.dedupe_unasked.add((reason,), 1)

    def recorded(self, reply: Any) -> None:
        """What came of telling that a post was delivered."""
        if reply != b"OK":
            self.metrics.dedupe_unrecorded += 1
            self.give_up_after(reply)

    def released(self, reply: Any) -> None:
        """What came of telling that one was not."""
        if reply not in (0, 1):
            self.give_up_after(reply)

    def give_up_after(self, reply: Any) -> None:
        """
        Give the connection up, for `reply` is none that its command can have: whatever
        comes behind it may be of another command.
        """
        if isinstance(reply, hiredis.ReplyError):
            # Of a key that somebody else has made something else of, the next post
            # has nothing to fear.
            if not str(reply).startswith("WRONGTYPE"):
                self.pipeline.give_up(REFUSED, str(reply))
        elif not isinstance(reply, NoReply):
            self.pipeline.give_up(NONSENSE, NOT_REDIS)

    def _reason(self, reply: Any) -> str:
        if isinstance(reply, NoReply):
            return reply.reason
        return REFUSED if isinstance(reply, hiredis.ReplyError) else NONSENSE

    # the pipeline

    def pipeline_usable(self) -> None:
        unasked = sum(self.metrics.dedupe_unasked.values())
        self._events.dedupe_usable(
            self.clock.seconds() - self._lost_at, unasked - self._unasked_before
        )
        self._unasked_before = unasked
        self._is_lost, self._was_usable = False, True
        self.metrics.dedupe_connects += 1

    def pipeline_lost(self, why: str) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        if self._was_usable:
            self._lost_at = self.clock.seconds()
            self._unasked_before = sum(self.metrics.dedupe_unasked.values())
        self.metrics.dedupe_outages += 1
        self._events.dedupe_lost(why)
