"""
Reads and changes one Redis hash, over a connection of its own each time and within a
time.

The commands and the replies are txredisapi's, with hiredis; its connections are not
used. They come back by themselves, log what is no line of ours, and use the global
reactor. Here each piece of work makes a connection, and ends it whatever has come of
it, so that a Redis that hangs, dies or answers nonsense is one failure, and over in
time.
"""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from logiss.credentials import BrokenEntry, NotChanged
from logiss.variables import MASK, RedisURL

T = TypeVar("T")

#: How long one piece of work may take: name look-up, TCP, TLS and all replies.
REDIS_SECONDS = 5.0
#: More are not taken: every one costs memory and time at each refresh.
USERS_MAX = 10_000
#: No more than this comes over one connection.
REPLY_BYTES_MAX = 16 * 1024 * 1024
_EDIT_ATTEMPTS_MAX = 10
#: What is said of a reply that cannot be one.
NOT_REDIS = "its replies are not those of Redis"


class RedisFailed(Exception):
    """The hash could not be read or changed. Says why, and never the password."""


class IHash(Interface):
    """A hash of entries by user."""

    def read() -> "Deferred[dict[bytes, bytes]]":
        """
        Every entry by its user, as they are at one moment; none when there is no such
        key.

        @raise RedisFailed: it could not be read.
        """


class _Connection(Protocol):
    """
    One connection to Redis.

    @ivar commands: txredisapi's protocol, which sends commands and reads replies.
    @ivar failure: what is wrong with what has come, if anything is.
    @ivar reason: why the connection has ended, once it has.
    """

    def __init__(self) -> None:
        # Not above: txredisapi imports the global reactor, and so would choose it for
        # whoever imports this room.
        from txredisapi import RedisProtocol

        self.commands: Any = RedisProtocol(charset=None, convertNumbers=False)
        self.failure = ""
        self.reason: Failure | None = None
        self._received_bytes = 0

    def connectionMade(self) -> None:
        self.commands.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._received_bytes > REPLY_BYTES_MAX:
            self._give_up(f"it sends more than {REPLY_BYTES_MAX} bytes")
            return
        try:
            self.commands.dataReceived(data)
        except Exception as e:
            self._give_up(f"what it sends is not Redis's protocol: {e}")

    def _give_up(self, why: str) -> None:
        self.failure = self.failure or why
        self.abort()

    def abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason
        self.commands.connectionLost(reason)


class _Factory(Factory):
    noisy = False
    protocol = _Connection


@implementer(IHash)
class RedisHash:
    """
    The hash `key` of the Redis at `url`.

    @param endpoint: leads to it, through TLS where `url` says so.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        url: RedisURL,
        key: str,
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._url = url
        self._key = key.encode()

    def read(self) -> Deferred[dict[bytes, bytes]]:
        return self._within_time(self._read)

    def edit(
        self, user: bytes, change: Callable[[bytes | None], bytes]
    ) -> Deferred[None]:
        """
        Put what `change` makes of the entry of `user` in its place. When somebody else
        has changed it meanwhile, `change` is asked again.

        @raise RedisFailed: it could not be changed, or may have been.
        @raise BrokenEntry: by `change`, as is `NotChanged`.
        """
        return self._within_time(lambda commands: self._edit(commands, user, change))

    async def _read(self, commands: Any) -> dict[bytes, bytes]:
        users = await commands.hlen(self._key)
        if not isinstance(users, int):
            raise RedisFailed(NOT_REDIS)
        if users > USERS_MAX:
            raise RedisFailed(f"the hash has {users} users, more than {USERS_MAX}")
        words = await commands.execute_command("HGETALL", self._key)
        if not isinstance(words, list) or len(words) % 2:
            raise RedisFailed(NOT_REDIS)
        if not all(isinstance(word, bytes) for word in words):
            raise RedisFailed(NOT_REDIS)
        return dict(zip(words[::2], words[1::2], strict=True))

    async def _edit(
        self, commands: Any, user: bytes, change: Callable[[bytes | None], bytes]
    ) -> None:
        # Without txredisapi's transactions, which hand the connection back to a pool.
        for _ in range(_EDIT_ATTEMPTS_MAX):
            await commands.execute_command("WATCH", self._key)
            changed = change(await commands.hget(self._key, user))
            await commands.execute_command("MULTI")
            await commands.hset(self._key, user, changed)
            replies = await commands.execute_command("EXEC")
            if replies is not None:
                for reply in replies:
                    commands.handle_reply(reply)
                return
        raise NotChanged("others change the hash all the time; try again")

    def _within_time(
        self, work: Callable[[Any], Coroutine[Any, Any, T]]
    ) -> Deferred[T]:
        working: Deferred[T] = Deferred.fromCoroutine(self._connected(work))
        is_given_up = False

        def give_up(_: Deferred[T]) -> None:
            nonlocal is_given_up
            is_given_up = True
            working.cancel()

        def end(result: T | Failure) -> None:
            # An attempt to connect that is cancelled says that it has failed, as if
            # there were no such host: what it says then does not matter.
            if not is_given_up:
                done.callback(result)

        done: Deferred[T] = Deferred(give_up)
        working.addBoth(end)
        return done.addTimeout(REDIS_SECONDS, self._clock, _too_late)

    async def _connected(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        connection: Any = None
        try:
            connection = await self._endpoint.connect(_Factory())
            await self._log_in(connection.commands)
            return await work(connection.commands)
        except (RedisFailed, BrokenEntry, NotChanged):
            raise
        except Exception as e:
            raise RedisFailed(self._explain(e, connection)) from None
        finally:
            if connection is not None:
                connection.abort()

    async def _log_in(self, commands: Any) -> None:
        if self._url.password:
            await commands.auth(self._url.password, self._url.user or None)
        if self._url.database:
            await commands.select(self._url.database)

    def _explain(self, error: Exception, connection: _Connection | None) -> str:
        why = ""
        if connection is not None:
            why = connection.failure or why_ended(connection.reason)
        why = why or str(error) or type(error).__name__
        # A server that does not know AUTH repeats what came with it.
        return why.replace(self._url.password, MASK) if self._url.password else why


def _too_late(result: Any, seconds: float) -> Any:
    if isinstance(result, Failure) and result.check(CancelledError):
        raise RedisFailed(f"no answer within {seconds:g} s")
    return result


def why_ended(reason: Failure | None) -> str:
    """Why a connection to Redis has ended; nothing while it has not."""
    if reason is None:
        return ""
    if isinstance(reason.value, VerificationError):
        return "TLS: its certificate is for another name"
    if isinstance(reason.value, SSL.Error):
        errors = reason.value.args[0] if reason.value.args else []
        said = ", ".join(str(error[-1]) for error in errors if error) or "broken off"
        return f"TLS: {said}"
    return f"connection lost: {reason.getErrorMessage()}"
