"""A Redis in memory, as `logiss.dedupe` uses one, and connections to it."""

from collections import deque
from typing import Any

from hiredis import ReplyError
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from logiss.dedupe import SharedRetries
from logiss.metrics import Metrics
from logiss.pipeline import LOST, NONSENSE, SLOW, NoReply
from tests.fakes import Lines
from tests.test_redis import commands_in

DELIVERY_SECONDS = 5.0
REMEMBERED_SECONDS = 120.0
TIMEOUT_SECONDS = 0.05


class FakeRedis:
    """
    SET, GET and the one script there is, with expiry.

    @ivar values: by key, the value and when it goes.
    @ivar refusal: what every command is answered, if anything.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.values: dict[bytes, tuple[bytes, float]] = {}
        self.refusal = ""

    def value(self, key: bytes) -> bytes | None:
        value, until = self.values.get(key, (b"", 0.0))
        return value if until > self._clock.seconds() else None

    def reply(self, command: bytes) -> Any:
        ((name, *words),) = commands_in(command)
        if self.refusal:
            return ReplyError(self.refusal)
        if name == b"SET":
            key, value, *options = words
            if b"NX" in options and self.value(key) is not None:
                return None
            seconds = int(options[options.index(b"PX") + 1]) / 1e3
            self.values[key] = (value, self._clock.seconds() + seconds)
            return b"OK"
        if name == b"GET":
            return self.value(words[0])
        assert name == b"EVAL", name
        _, _, key, begun = words
        if self.value(key) != begun:
            return 0
        del self.values[key]
        return 1


class FakePipeline:
    """
    Commands reach Redis at once, replies come when the test lets them. As many as there
    are: a command whose reply was swallowed has that of the next one, or none in time.

    @ivar given_up: why, each time that it was by its owner.
    @ivar last: the reply before the next one.
    @ivar is_trying: not usable yet, but there to be given up.
    """

    def __init__(self, redis: FakeRedis, clock: Clock) -> None:
        self.redis = redis
        self.is_usable = self.is_trying = False
        self.given_up: list[str] = []
        self.commands = 0
        self.last: Any = None
        self._seconds = clock.seconds
        self._owner: Any = None
        # Since when, and who waits.
        self._waiting: deque[tuple[float, Any]] = deque()
        self._replies: deque[Any] = deque()

    def start(self, owner: Any, trials: Any) -> None:
        self._owner = owner
        for trial in trials:
            assert self.redis.reply(trial.command) in trial.good, trial
        self.come_back()

    def come_back(self) -> None:
        self.is_usable = True
        self._owner.pipeline_usable()

    def send(self, command: bytes, on_reply: Any) -> None:
        self.commands += 1
        if not self.is_usable:
            on_reply(NoReply(LOST))
        else:
            self._waiting.append((self._seconds(), on_reply))
            self._replies.append(self.redis.reply(command))

    def insert(self, reply: Any) -> None:
        """One reply too many, before all others."""
        if self.is_usable:
            self._replies.appendleft(reply)

    def swallow(self) -> None:
        """One too few."""
        if self._replies:
            self._replies.popleft()

    def turn(self) -> None:
        """All replies there are, and those to what is asked because of them."""
        while self.has_reply:
            self.turn_once()
        if self._replies:
            self.lose(NONSENSE)
        elif self._waiting and self._seconds() >= self._waiting[0][0] + TIMEOUT_SECONDS:
            self.lose(SLOW)

    @property
    def has_reply(self) -> bool:
        """Whether somebody waits for what is there."""
        return bool(self._waiting and self._replies)

    def turn_once(self) -> None:
        """One reply."""
        self.last = self._replies.popleft()
        self._waiting.popleft()[1](self.last)

    def lose(self, reason: str = SLOW) -> None:
        if self.is_usable:
            self.is_usable = False
            self._owner.pipeline_lost(reason)
            self._replies.clear()
            waiting, self._waiting = self._waiting, deque()
            for _, on_reply in waiting:
                on_reply(NoReply(reason))

    def give_up(self, reason: str, why: str) -> None:
        if self.is_usable or self.is_trying:
            self.given_up.append(why)
            self.lose(reason)

    def stop(self) -> Deferred[None]:
        self.turn()
        return succeed(None)


class Process:
    """A process of the fleet."""

    def __init__(self, clock: Clock, redis: FakeRedis, owner: bytes) -> None:
        self.lines = Lines()
        self.metrics = Metrics()
        self.pipeline = FakePipeline(redis, clock)
        pipeline: Any = self.pipeline
        self.shared = SharedRetries(
            clock,
            pipeline,
            self.lines.events(),
            self.metrics,
            "fleet",
            DELIVERY_SECONDS,
            TIMEOUT_SECONDS,
            REMEMBERED_SECONDS,
            owner,
        )
        self.shared.start()
