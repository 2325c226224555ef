"""
Keeps one connection to a Redis, and sends the commands of a reactor turn in one write.

Replies come in the order of the commands, and are handed on in it. Nobody waits for
long: each command has a time, and when one has had no reply in it the connection is
given up, with all that wait. So is one with replies that are none. It is made anew
behind a pause that grows, and is usable only once it has been tried out: with the very
commands that it is for, in the very time that they have.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import hiredis
from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

from logiss.redis import NOT_REDIS, REDIS_SECONDS, why_ended
from logiss.variables import MASK, RedisURL

#: Why there is no reply: it did not come in time; the connection has ended; an error
#: came in its place; what came is none.
SLOW, LOST, REFUSED, NONSENSE = "slow", "lost", "refused", "nonsense"
#: The pause before the connection is made anew grows from here, doubling, ...
RETRY_SECONDS = 1.0
#: ... to here. One that was usable for longer than this begins from the start.
RETRY_SECONDS_MAX = 2.0
#: A reply that is longer is none that was asked for.
REPLY_BYTES_MAX = 64 * 1024

_NO_MORE = object()
_TOO_LATE = f"no answer within {REDIS_SECONDS:g} s"


class NoReply(Exception):
    """
    There is no reply to a command, and will be none.

    @ivar reason: `SLOW`, `LOST`, `REFUSED` or `NONSENSE`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


OnReply = Callable[[Any], None]


@frozen
class Trial:
    """
    A command that a connection is tried out with.

    @ivar good: the replies that there may be.
    """

    command: bytes
    good: tuple[Any, ...]


class IPipelineOwner(Protocol):
    """Who is told of a `RedisPipeline`."""

    def pipeline_usable(self) -> None:
        """From now on commands may be sent."""

    def pipeline_lost(self, why: str) -> None:
        """An attempt to connect has failed, or what was usable is no more."""


def encode(*words: bytes) -> bytes:
    """A command as Redis reads it: an array of bulk strings (RESP)."""
    octets = b"*%d\r\n" % len(words)
    return octets + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def retry_seconds(failures: int) -> float:
    """The longest pause behind so many failures in a row."""
    return min(RETRY_SECONDS * 2.0 ** min(failures - 1, 10), RETRY_SECONDS_MAX)


def _jittered(seconds: float) -> float:
    """Many processes that have lost Redis together do not come back together."""
    return random.uniform(0.5, 1.0) * seconds  # noqa: S311, nobody gains by guessing it


class _Connection(TwistedProtocol):
    """
    One connection: commands out, replies back to who waits for them.

    @param ended: called once, at the end, with why.
    """

    def __init__(self, clock: IReactorTime, ended: Callable[[str], None]) -> None:
        self._clock = clock
        self._ended = ended
        self._reader = hiredis.Reader(notEnoughData=_NO_MORE)
        self._outgoing: list[bytes] = []
        # Until when, how many seconds that are, and who waits.
        self._unanswered: deque[tuple[float, float, OnReply]] = deque()
        self._timer: IDelayedCall | None = None
        self._overdue: object = None
        self._partial_bytes = 0
        self._idle: Deferred[None] | None = None
        self._is_over = False

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.setTcpNoDelay(True)

    def send(
        self, command: bytes, on_reply: OnReply, timeout_seconds: float | None
    ) -> None:
        """
        Send `command` at the end of this turn.

        @param timeout_seconds: None leaves it to somebody else to give up; all that
            is sent before it is answered has to be so, too.
        @param on_reply: called once, in a later turn unless the connection is over:
            with the reply, which may be a `hiredis.ReplyError`, or with `NoReply`.
        """
        if self._is_over:
            on_reply(NoReply(LOST))
            return
        until = 0.0
        if timeout_seconds is not None:
            until = self._clock.seconds() + timeout_seconds
            if self._timer is None:
                self._timer = self._clock.callLater(timeout_seconds, self._look)
        self._unanswered.append((until, timeout_seconds or 0.0, on_reply))
        if not self._outgoing:
            self._clock.callLater(0, self._flush)
        self._outgoing.append(command)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if not self._is_over:
            transport: Any = self.transport
            transport.write(b"".join(outgoing))

    def dataReceived(self, data: bytes) -> None:
        self._partial_bytes += len(data)
        reply = self._next_reply(data)
        while reply is not _NO_MORE:
            self._partial_bytes = 0
            if not self._unanswered:
                self.give_up(NONSENSE, NOT_REDIS)
                return
            self._unanswered.popleft()[2](reply)
            reply = self._next_reply()
        if self._partial_bytes > REPLY_BYTES_MAX:
            self.give_up(NONSENSE, NOT_REDIS)
        self._look_whether_idle()

    def _next_reply(self, data: bytes = b"") -> Any:
        """The next of those that are whole, once `data` has come, too."""
        try:
            if data:
                self._reader.feed(data)
            return self._reader.gets()
        except hiredis.ProtocolError as e:
            self.give_up(NONSENSE, f"what it sends is not Redis's protocol: {e}")
        except Exception:
            # As of a map whose key is a list, which no Python object can be.
            self.give_up(NONSENSE, NOT_REDIS)
        return _NO_MORE

    def _look(self) -> None:
        """Whether the oldest has waited for too long."""
        self._timer = None
        if not self._unanswered:
            return
        oldest = self._unanswered[0]
        left = oldest[0] - self._clock.seconds()
        if left > 0.0:
            self._timer = self._clock.callLater(left, self._look)
        elif oldest is not self._overdue:
            # It may have been us: what came while we were busy is still to be read.
            self._overdue = oldest
            self._timer = self._clock.callLater(0, self._look)
        else:
            self.give_up(SLOW, f"no answer within {oldest[1]:g} s")

    def idle(self) -> Deferred[None]:
        """Fires when everything is answered, or the connection is over."""
        self._idle = Deferred()
        idle = self._idle
        self._look_whether_idle()
        return idle

    def _look_whether_idle(self) -> None:
        if self._idle is not None and not self._unanswered:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def give_up(self, reason: str, why: str) -> None:
        """End it now; who waits is told."""
        if not self._is_over:
            self._is_over = True
            transport: Any = self.transport
            transport.abortConnection()
            self._end(reason, why)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._is_over:
            self._is_over = True
            self._end(LOST, why_ended(reason))

    def _end(self, reason: str, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ended(why)
        unanswered, self._unanswered = self._unanswered, deque()
        for _, _, on_reply in unanswered:
            on_reply(NoReply(reason))
        self._look_whether_idle()


class RedisPipeline:
    """
    A connection to the Redis at `url` that comes back.

    @param endpoint: leads to it, through TLS where `url` says so.
    @param timeout_seconds: how long a command may wait for its reply.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        url: RedisURL,
        timeout_seconds: float,
        jittered: Callable[[float], float] = _jittered,
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._jittered = jittered
        self._owner: IPipelineOwner | None = None
        self._trials: Sequence[Trial] = ()
        self._attempt: Deferred[Any] | None = None
        self._connection: _Connection | None = None
        self._usable_since: float | None = None
        self._failures = 0
        # The end of the pause, or of the time to become usable.
        self._timer: IDelayedCall | None = None

    @property
    def is_usable(self) -> bool:
        """Whether a command that is sent now may have a reply."""
        return self._usable_since is not None

    def start(self, owner: IPipelineOwner, trials: Sequence[Trial]) -> None:
        """
        @param trials: what each connection is tried out with.
        """
        self._owner, self._trials = owner, trials
        self._connect()

    def send(self, command: bytes, on_reply: OnReply) -> None:
        """
        Send `command` with the others of this turn.

        @param on_reply: called once: with the reply, which may be a
            `hiredis.ReplyError`, or with `NoReply`.
        """
        connection = self._connection
        if connection is None or self._usable_since is None:
            on_reply(NoReply(LOST))
        else:
            connection.send(command, on_reply, self._timeout_seconds)

    def give_up(self, reason: str, why: str) -> None:
        """What has come over the connection shows that it is of no use."""
        if self._connection is not None:
            self._connection.give_up(reason, why)

    def stop(self) -> Deferred[None]:
        """
        End it, when everything that was sent is answered or has had its time.
        """
        self._owner = None
        if self.is_usable and self._connection is not None:
            return self._connection.idle().addCallback(lambda _: self._abort())
        self._abort()
        return succeed(None)

    def _abort(self) -> None:
        self._stop_timer()
        if self._attempt is not None:
            self._attempt.cancel()
        self.give_up(LOST, "")

    # from one connection to the next

    def _connect(self) -> None:
        self._timer = self._clock.callLater(REDIS_SECONDS, self._too_late)
        factory = Factory.forProtocol(self._make_connection)
        factory.noisy = False
        self._attempt = self._endpoint.connect(factory)
        self._attempt.addCallbacks(self._connected, self._not_connected)

    def _make_connection(self) -> _Connection:
        return _Connection(self._clock, self._connection_ended)

    def _connected(self, connection: Any) -> None:
        self._attempt = None
        self._connection = connection
        greetings = []
        if self._url.password:
            login = [self._url.user.encode()] * bool(self._url.user)
            login.append(self._url.password.encode())
            greetings.append(Trial(encode(b"AUTH", *login), (b"OK",)))
        if self._url.database:
            select = encode(b"SELECT", b"%d" % self._url.database)
            greetings.append(Trial(select, (b"OK",)))
        # Behind the handshake of TLS, so that no trial waits for that.
        greetings.append(Trial(encode(b"PING"), (b"PONG",)))
        self._try_out(greetings, None, self._greeted)

    def _greeted(self) -> None:
        self._try_out(self._trials, self._timeout_seconds, self._tried)

    def _try_out(
        self,
        trials: Sequence[Trial],
        timeout_seconds: float | None,
        go_on: Callable[[], None],
    ) -> None:
        connection = self._connection
        assert connection is not None

        def tried(trial: Trial, reply: Any) -> None:
            if isinstance(reply, NoReply):
                return
            if isinstance(reply, hiredis.ReplyError):
                connection.give_up(REFUSED, str(reply))
            elif reply not in trial.good:
                connection.give_up(NONSENSE, NOT_REDIS)
            elif trial is trials[-1]:
                go_on()

        for trial in trials:
            connection.send(trial.command, partial(tried, trial), timeout_seconds)

    def _tried(self) -> None:
        self._stop_timer()
        self._usable_since = self._clock.seconds()
        if self._owner is not None:
            self._owner.pipeline_usable()

    def _not_connected(self, reason: Failure) -> None:
        self._attempt = None
        # What it says when it is cancelled does not matter.
        is_late = self._timer is None
        self._failed(_TOO_LATE if is_late else reason.getErrorMessage())

    def _too_late(self) -> None:
        self._timer = None
        if self._attempt is not None:
            self._attempt.cancel()
        else:
            self.give_up(SLOW, _TOO_LATE)

    def _connection_ended(self, why: str) -> None:
        self._connection = None
        since, self._usable_since = self._usable_since, None
        if since is not None:
            lasted_seconds = self._clock.seconds() - since
            if lasted_seconds > RETRY_SECONDS_MAX:
                self._failures = 0
        self._failed(why)

    def _failed(self, why: str) -> None:
        self._stop_timer()
        if self._owner is None:
            return
        self._failures += 1
        pause = self._jittered(retry_seconds(self._failures))
        self._timer = self._clock.callLater(pause, self._connect)
        self._owner.pipeline_lost(self._masked(why))

    def _masked(self, why: str) -> str:
        # A server that does not know AUTH repeats what came with it.
        return why.replace(self._url.password, MASK) if self._url.password else why

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
