"""
The pool and RELP sessions against a small model, whatever happens in whatever order.

The model is the backends: they know which frames came to them and which they have
answered, and how. What was promised is checked behind every step.
"""

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
from logiss.relp import Client
from logiss.relp_sender import RELPSender
from tests.fakes import FakeLinks, Lines
from tests.kernel import KernelTransport

TIMEOUT_SECONDS = 5.0
WINDOW = 4
OFFERS = b"200 OK\nrelp_version=0\nrelp_software=model\ncommands=syslog"


class _Session:
    """
    A session, and the backend's side of it.

    @ivar messages: those that came to the backend, by txnr.
    @ivar unanswered: their txnrs, oldest first.
    """

    def __init__(self, number: int, pool: Pool, clock: MemoryReactorClock) -> None:
        client = Client(b"logiss", WINDOW, txnr_max=40)
        self.sender = RELPSender(number, pool, client)
        self.sender.factory = FakeLinks(clock)  # type: ignore[assignment]
        self.sender.link = Link(number, "backend.example:2514")
        self.transport = KernelTransport(clock)
        self.messages: dict[int, bytes] = {}
        self.unanswered: list[int] = []
        self.broken = self.is_closing = False
        self.sender.makeConnection(self.transport)
        self.read()
        self.say(1, OFFERS)

    @property
    def is_alive(self) -> bool:
        return not self.broken and not self.transport.aborted

    def read(self) -> None:
        """What has been written comes to the backend."""
        self.transport.run()
        octets, self.transport.taken = self.transport.taken, b""
        while octets:
            txnr, command, rest = octets.split(b" ", 2)
            if command == b"close":
                self.is_closing = True
                return
            size, _, rest = rest.partition(b" ")
            if command == b"syslog":
                assert int(txnr) not in self.messages
                self.messages[int(txnr)] = rest[: int(size)]
                self.unanswered.append(int(txnr))
            assert rest[int(size) : int(size) + 1] == b"\n"
            octets = rest[int(size) + 1 :]
        assert len(self.unanswered) <= WINDOW

    def say(self, txnr: int, data: bytes) -> None:
        self.sender.dataReceived(b"%d rsp %d %b\n" % (txnr, len(data), data))

    def end(self, error: Exception) -> None:
        self.broken = True
        self.transport.end(Failure(error))
        self.sender.connectionLost(Failure(error))


class _Post:
    """A payload and what has become of it."""

    def __init__(self, messages: list[bytes], deadline: float) -> None:
        self.messages = messages
        self.deadline = deadline
        self.answers: list[bool] = []
        self.cancelled = False


class _Sessions(RuleBasedStateMachine):
    @initialize()
    def build(self) -> None:
        self.clock = MemoryReactorClock()
        self.pool = Pool(
            self.clock, TIMEOUT_SECONDS, Lines().events(), Metrics(), "relp"
        )
        self.sessions: list[_Session] = []
        self.posts: list[_Post] = []
        self.waiters: dict[int, Deferred[None]] = {}
        #: Messages that a backend has answered 200.
        self.stored: set[bytes] = set()

    # what happens

    @rule(count=st.integers(1, 6))
    def deliver(self, count: int) -> None:
        number = len(self.posts)
        messages = [b"<%d.%d>" % (number, i) for i in range(count)]
        now = self.clock.seconds()
        post = _Post(messages, now + TIMEOUT_SECONDS)
        self.posts.append(post)
        octets = b"".join(b"%d %b" % (len(m), m) for m in messages)
        waiter = self.pool.deliver(Payload(octets, now))
        self.waiters[number] = waiter
        waiter.addCallbacks(
            lambda _: self.succeeded(post), lambda _: post.answers.append(False)
        )

    def succeeded(self, post: _Post) -> None:
        assert not post.cancelled
        assert self.stored.issuperset(post.messages), post.messages
        post.answers.append(True)

    @precondition(lambda self: len(self.alive) < 3)
    @rule()
    def connect(self) -> None:
        self.sessions.append(_Session(len(self.sessions), self.pool, self.clock))

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9), count=st.integers(1, WINDOW), newest=st.booleans())
    def backend_answers(self, which: int, count: int, newest: bool) -> None:
        session = self.one_alive(which)
        for _ in range(count):
            if session.is_alive and session.unanswered:
                txnr = session.unanswered.pop(-1 if newest else 0)
                self.stored.add(session.messages[txnr])
                session.say(txnr, b"200 OK")

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9))
    def backend_refuses(self, which: int) -> None:
        session = self.one_alive(which)
        if session.unanswered:
            session.say(session.unanswered.pop(0), b"500 no")

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9), in_order=st.booleans())
    def backend_ends(self, which: int, in_order: bool) -> None:
        error = ConnectionDone() if in_order else ConnectionLost()
        self.one_alive(which).end(error)

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9))
    def backend_has_ended(self, which: int) -> None:
        """The reactor has not read that yet; the kernel can be asked."""
        wire = self.one_alive(which).sender.wire
        wire.why_ended = lambda: "ended"  # type: ignore[method-assign]

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.3, 1.0, TIMEOUT_SECONDS]))
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

    # the model

    @property
    def alive(self) -> list[_Session]:
        return [session for session in self.sessions if session.is_alive]

    def one_alive(self, which: int) -> _Session:
        return self.alive[which % len(self.alive)]

    # what holds

    @invariant()
    def the_given_up_are_gone(self) -> None:
        for session in self.sessions:
            session.read()
            ended = session.transport.aborted or session.transport.disconnecting
            if ended and not session.broken:
                session.end(ConnectionLost())

    @invariant()
    def one_answer_each_and_in_time(self) -> None:
        for post in self.posts:
            assert len(post.answers) <= 1
            if post.deadline <= self.clock.seconds():
                assert len(post.answers) == 1, post.messages

    @invariant()
    def sent_twice_only_over_a_broken_session(self) -> None:
        for post in self.posts:
            for message in post.messages:
                having = [s for s in self.sessions if message in s.messages.values()]
                assert sum(s.is_alive for s in having) <= 1, message
                for session in having:
                    assert [*session.messages.values()].count(message) == 1

    @invariant()
    def nothing_answered_is_sent_again(self) -> None:
        for post in self.posts:
            for message in post.messages:
                having = [s for s in self.sessions if message in s.messages.values()]
                if message in self.stored:
                    before = getattr(post, "sent", {}).get(message, len(having))
                    assert len(having) <= before, message
                    post.__dict__.setdefault("sent", {})[message] = len(having)

    @invariant()
    def who_is_free_has_the_work(self) -> None:
        """What waits waits for a connection, or for one that is younger."""
        self.clock.advance(0)
        if self.pool._idle:
            waiting = [d for d in self.pool._queue if d.octets]
            assert all(d.blamed_at is not None for d in waiting)

    @invariant()
    def nothing_kept_behind_its_answer(self) -> None:
        held = [*self.pool._queue]
        for session in self.alive:
            held += session.sender.unconfirmed()  # type: ignore[arg-type]
        for delivery in held:
            assert (delivery.payload is None) == (not delivery.octets)


class SessionsTests(SynchronousTestCase):
    """No 200 without its answers, no second answer, nothing twice without a break."""

    def test_relp(self) -> None:
        """Over RELP."""
        case = _Sessions.TestCase
        case.settings = settings(
            max_examples=300,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        case("runTest").runTest()
