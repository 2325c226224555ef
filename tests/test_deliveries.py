"""
The pool and its senders against a small model, whatever happens in whatever order.

The model knows what the test's kernels have taken, what the backend's kernels have
acknowledged and which connections are broken. What was promised is checked behind
every step.
"""

from math import inf

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from logiss.metrics import Link, Metrics
from logiss.pool import Payload, Pool
from logiss.senders import Delivery
from logiss.syslog_sender import Acknowledgements, SyslogSender
from tests.fakes import FakeLinks, Lines
from tests.kernel import KernelTransport

TIMEOUT_SECONDS = 5.0
REPLAY_BYTES = 100


class _Recorded(SyslogSender):
    """A sender that tells what it has begun."""

    begun: list[bytes]

    def send(self, deliveries: list[Delivery]) -> bool:  # type: ignore[override]
        octets = [delivery.octets for delivery in deliveries]
        self.begun += octets
        return super().send(deliveries)


class _Connection:
    """
    A connection, its kernel and the backend's.

    @ivar acknowledged: how many bytes the backend's kernel has acknowledged.
    """

    def __init__(self, sender: _Recorded, clock: MemoryReactorClock) -> None:
        self.sender = sender
        self.acknowledged = 0
        self.broken = self.ended_in_order = False
        self.transport = KernelTransport(clock)
        self.transport.room = 0
        sender.begun = []
        sender.factory = FakeLinks(clock)  # type: ignore[assignment]
        sender.link = Link(sender.sender_id, "backend.example:514")

    def open(self) -> None:
        sender = self.sender
        sender.makeConnection(self.transport)
        sender.wire.unacknowledged = (  # type: ignore[method-assign]
            lambda: len(self.transport.taken) - self.acknowledged
        )

    @property
    def queue(self) -> int:
        return len(self.transport.taken) - self.acknowledged

    def take(self, size: int) -> None:
        self.transport.room = size
        self.transport.run()
        self.transport.room = 0

    def acknowledge(self, size: int) -> None:
        self.acknowledged += min(size, self.queue)

    def end(self, error: Exception) -> None:
        self.broken = True
        # Then the backend has read whatever it acknowledged.
        self.ended_in_order = isinstance(error, ConnectionDone)
        if isinstance(error, ConnectionDone):
            self.sender.stream_ended()
        self.transport.end(Failure(error))
        self.sender.connectionLost(Failure(error))


class _Post:
    """A payload and what has become of it."""

    def __init__(self, octets: bytes, deadline: float) -> None:
        self.octets = octets
        self.deadline = deadline
        self.answers: list[bool] = []
        self.cancelled = False
        self.begun_when_answered = 0


class _Deliveries(RuleBasedStateMachine):
    level = ""

    @initialize()
    def build(self) -> None:
        self.clock = MemoryReactorClock()
        self.lines = Lines()
        self.pool = Pool(self.clock, TIMEOUT_SECONDS, self.lines.events(), Metrics())
        self.acknowledgements = (
            Acknowledgements(self.clock) if self.level == "acked" else None
        )
        self.connections: list[_Connection] = []
        self.posts: list[_Post] = []
        self.waiters: dict[int, Deferred[None]] = {}
        self.stopped = False

    # what happens

    @precondition(lambda self: not self.stopped)
    @rule(size=st.sampled_from([1, 20, 60, 150]))
    def deliver(self, size: int) -> None:
        number = len(self.posts)
        octets = b"<%d>" % number + b"x" * size
        now = self.clock.seconds()
        post = _Post(octets, now + TIMEOUT_SECONDS)
        self.posts.append(post)
        waiter = self.pool.deliver(Payload(octets, now))
        self.waiters[number] = waiter
        waiter.addCallbacks(lambda _: self.succeeded(post), lambda _: self.failed(post))

    def succeeded(self, post: _Post) -> None:
        assert not post.cancelled
        assert self.has_reached_its_level(post), post.octets
        post.answers.append(True)

    def failed(self, post: _Post) -> None:
        post.answers.append(False)
        post.begun_when_answered = self.times_begun(post)

    @precondition(lambda self: not self.stopped and len(self.alive) < 3)
    @rule()
    def connect(self) -> None:
        sender = _Recorded(
            len(self.connections), self.pool, self.acknowledgements, REPLAY_BYTES
        )
        connection = _Connection(sender, self.clock)
        self.connections.append(connection)
        connection.open()

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9), size=st.sampled_from([1, 30, 100, 1000]))
    def kernel_takes(self, which: int, size: int) -> None:
        self.one_alive(which).take(size)

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9), size=st.sampled_from([1, 30, 100, 1000]))
    def backend_acknowledges(self, which: int, size: int) -> None:
        self.one_alive(which).acknowledge(size)

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9))
    def all_is_well(self, which: int) -> None:
        """For a while: else few runs come to where much has been confirmed."""
        connection = self.one_alive(which)
        connection.take(1 << 20)
        connection.acknowledge(1 << 20)
        self.clock.advance(0.02)

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9), in_order=st.booleans())
    def backend_ends(self, which: int, in_order: bool) -> None:
        error = ConnectionDone() if in_order else ConnectionLost()
        self.one_alive(which).end(error)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.02, 1.0, TIMEOUT_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.waiters)
    @rule(which=st.integers(0, 99))
    def client_goes(self, which: int) -> None:
        number = sorted(self.waiters)[which % len(self.waiters)]
        post = self.posts[number]
        if not post.answers:
            post.cancelled = True
        self.waiters.pop(number).cancel()

    @precondition(lambda self: not self.stopped)
    @rule()
    def drain(self) -> None:
        """Only at the end of a run is it likely to be all of it."""
        if self.clock.seconds() < 2 * TIMEOUT_SECONDS:
            return
        self.stopped = True
        self.pool.stop()

    # the model

    @property
    def alive(self) -> list[_Connection]:
        return [c for c in self.connections if not c.broken and not c.transport.aborted]

    def one_alive(self, which: int) -> _Connection:
        return self.alive[which % len(self.alive)]

    def times_begun(self, post: _Post) -> int:
        return sum(c.sender.begun.count(post.octets) for c in self.connections)

    def has_reached_its_level(self, post: _Post) -> bool:
        for connection in self.connections:
            taken = connection.transport.taken
            if self.level == "acked":
                taken = taken[: connection.acknowledged]
            if post.octets in taken:
                return True
        return False

    # what holds

    @invariant()
    def the_given_up_are_gone(self) -> None:
        for connection in self.connections:
            if connection.transport.aborted and not connection.broken:
                connection.end(ConnectionLost())

    @invariant()
    def one_answer_each_and_in_time(self) -> None:
        for post in self.posts:
            assert len(post.answers) <= 1
            if self.stopped or post.deadline <= self.clock.seconds():
                assert len(post.answers) == 1, post.octets

    @invariant()
    def begun_twice_only_over_a_broken_connection(self) -> None:
        for post in self.posts:
            alive = sum(c.sender.begun.count(post.octets) for c in self.alive)
            assert alive <= 1, post.octets
            for connection in self.connections:
                assert connection.sender.begun.count(post.octets) <= 1

    @invariant()
    def never_begun_behind_a_failure(self) -> None:
        for post in self.posts:
            if post.answers == [False]:
                assert self.times_begun(post) == post.begun_when_answered

    @invariant()
    def nothing_kept_behind_its_answer(self) -> None:
        held = [*self.pool._queue]
        for connection in self.alive:
            held += connection.sender.unconfirmed()  # type: ignore[arg-type]
            # A write is kept as long as anything of it may have to be replayed.
            newer = [*connection.sender._answered][1:]
            assert sum(len(o) for w in newer for o in w.octets) < REPLAY_BYTES
        for delivery in held:
            if delivery.payload is None:
                assert delivery.octets == b""
            elif delivery.deadline != inf:
                (post,) = (p for p in self.posts if p.octets == delivery.octets)
                assert not post.answers

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        """
        What was answered at the level acked is where the backend may have read it,
        or is kept to be sent again.
        """
        if self.level != "acked" or self.stopped:
            return
        waiting = {delivery.octets for delivery in self.pool._replays}
        for connection in self.alive:
            waiting |= set(connection.sender.begun)
        for post in self.posts:
            if post.answers == [True] and not self.is_read(post):
                assert post.octets in waiting, post.octets

    def is_read(self, post: _Post) -> bool:
        """By a backend that leaves at most `REPLAY_BYTES` unread when it is reset."""
        for connection in self.connections:
            taken = connection.transport.taken[: connection.acknowledged]
            end = taken.find(post.octets) + len(post.octets)
            if post.octets not in taken:
                continue
            if not connection.broken or len(taken) - end >= REPLAY_BYTES:
                return True
            if connection.ended_in_order:
                return True
        return False


class _Acked(_Deliveries):
    level = "acked"


class _Sent(_Deliveries):
    level = "sent"


class DeliveriesTests(SynchronousTestCase):
    """No 200 without its level, no second answer, nothing twice without a break."""

    def run_machine(self, machine: type[_Deliveries]) -> None:
        case = machine.TestCase
        case.settings = settings(
            max_examples=300,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        case("runTest").runTest()

    def test_acked(self) -> None:
        """At the level ``acked``."""
        self.run_machine(_Acked)

    def test_sent(self) -> None:
        """At the level ``sent``."""
        self.run_machine(_Sent)
