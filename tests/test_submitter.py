"""Posts that are answered for good in the end, or not; on a clock of the test's own."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss import submitter
from logiss.submitter import Answer, NoAnswer, Post, Submitter, pause_seconds
from logiss.tally import Fate, Outcome, Tally

OK = Answer(200, is_logiss=True)
SHED = Answer(503, is_logiss=True)
REFUSED = NoAnswer("connection refused by a:1", may_have_arrived=False)
BROKEN = NoAnswer("connection closed by a:1", may_have_arrived=True)
CERTIFICATE = NoAnswer("a:1: its certificate", False, is_retried=False)

Reply = Answer | NoAnswer


def post(name: str = "", messages: int = 1) -> Post:
    return Post(name.encode(), messages)


class Server:
    """
    Answers at once with what stands in a list, or when it is told to.

    @ivar seen: the bodies that have come.
    """

    def __init__(self, replies: list[Reply] | None = None) -> None:
        self._replies = replies
        self.seen: list[bytes] = []
        self.pending: list[Deferred[Answer]] = []

    def __call__(self, given: Post) -> Deferred[Answer]:
        self.seen.append(given.body)
        if self._replies is None:
            self.pending.append(Deferred())
            return self.pending[-1]
        reply = self._replies.pop(0) if self._replies else OK
        return succeed(reply) if isinstance(reply, Answer) else fail(reply)


class Case:
    def __init__(
        self, server: Server, connections: int = 1, retry_seconds: float = 60
    ) -> None:
        self.clock = Clock()
        self.server = server
        self.retries: list[str] = []
        self.ends: list[tuple[bytes, Outcome, Answer | None]] = []
        self.submitter = Submitter(
            self.clock,
            server,
            connections,
            retry_seconds,
            self.retries.append,
            lambda post, outcome, answer: self.ends.append(
                (post.body, outcome, answer)
            ),
            Random(1),
        )

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)

    @property
    def fates(self) -> list[Fate]:
        return [outcome.fate for _, outcome, _ in self.ends]


class RetryTests(SynchronousTestCase):
    """What is tried again, for how long, and what is said in the end."""

    def after(self, *replies: Reply, retry_seconds: float = 60) -> tuple[Outcome, int]:
        """What becomes of a post, and how often it was sent."""
        case = Case(Server(list(replies)), retry_seconds=retry_seconds)
        case.submitter.submit(post("x"))
        case.pass_time(200)
        self.assertEqual(case.clock.getDelayedCalls(), [])
        ((body, outcome, _),) = case.ends
        self.assertEqual(body, b"x")
        self.assertEqual(len(case.retries), len(case.server.seen) - 1)
        self.assertEqual(set(case.server.seen), {b"x"})
        return outcome, len(case.server.seen)

    def test_delivered(self) -> None:
        """Any 2xx ends it."""
        for code in (200, 204):
            self.assertEqual(self.after(Answer(code)), (Outcome(Fate.DELIVERED), 1))

    def test_retried(self) -> None:
        """429, 5xx and broken connections are tried again until it is delivered."""
        for reply in (Answer(429), Answer(500), Answer(503), REFUSED, BROKEN):
            self.assertEqual(self.after(reply, reply, OK), (Outcome(Fate.DELIVERED), 3))

    def test_not_retried(self) -> None:
        """Other statuses and refused certificates are not."""
        for reply in (Answer(301), Answer(400), Answer(401), Answer(413), CERTIFICATE):
            outcome, tries = self.after(reply)
            self.assertEqual((outcome.fate, tries), (Fate.LOST, 1))
            self.assertEqual(outcome.kind, reply.kind)

    def test_given_up(self) -> None:
        """It ends; with 0 seconds at once."""
        for reply in (SHED, REFUSED):
            outcome, tries = self.after(*[reply] * 1000, retry_seconds=60)
            self.assertEqual(outcome.fate, Fate.LOST)
            self.assertIn(tries, range(12, 30))
            self.assertEqual(self.after(reply, retry_seconds=0)[1], 1)

    def test_unknown(self) -> None:
        """
        What may have arrived at any try is not said to be lost, whatever the last try
        came to; and it is delivered when one is answered so. A 503 is known only of a
        logiss to say that nothing was begun.
        """
        for begin in (BROKEN, Answer(504), Answer(500), Answer(503)):
            for end in (REFUSED, SHED, Answer(400), begin):
                outcome, _ = self.after(begin, *[end] * 1000)
                self.assertEqual(outcome.fate, Fate.UNKNOWN, (begin, end))
        duplicate = Answer(200, is_duplicate=True)
        self.assertEqual(
            self.after(BROKEN, duplicate), (Outcome(Fate.DELIVERED, "", "", True), 2)
        )

    def test_retry_after(self) -> None:
        """A server is left alone for as long as it asks, within bounds."""
        for asked, waited in ((7.0, 7.0), (1e9, submitter.RETRY_AFTER_SECONDS_MAX)):
            case = Case(Server([Answer(503, retry_after_seconds=asked)]))
            case.submitter.submit(post())
            case.clock.advance(waited - 0.01)
            self.assertEqual(len(case.server.seen), 1)
            case.clock.advance(0.02)
            self.assertEqual(case.fates, [Fate.DELIVERED])

    def test_pauses(self) -> None:
        """They grow to a bound, and chance makes them shorter, to half at most."""
        longest = [pause_seconds(retry, None, 1.0) for retry in range(2000)]
        self.assertEqual(longest[:6], [0.2, 0.4, 0.8, 1.6, 3.2, 5.0])
        self.assertEqual(set(longest[6:]), {5.0})
        self.assertEqual(pause_seconds(9, None, 0.0), 2.5)

    def test_detail(self) -> None:
        """Nothing that a server says reaches a terminal as control characters."""
        detail = Answer(400, b'a "b" \x1b[2J\x07\xff' + b"x" * 9999).detail
        self.assertTrue(detail.isprintable())
        self.assertLess(len(detail), 250)
        self.assertEqual(Answer(400, b'say "no"').detail, "\"say 'no'\"")
        self.assertEqual(Answer(400, b" ").detail, "")


class RoomTests(SynchronousTestCase):
    """How much is under way."""

    def test_connections(self) -> None:
        """So many posts at once, and so many wait; then there is no room."""
        case = Case(Server(), connections=2)
        for n in range(2 + submitter.WAITING_MAX):
            self.assertTrue(case.submitter.has_room)
            case.submitter.submit(post(f"{n}"))
        self.assertFalse(case.submitter.has_room)
        self.assertEqual(case.server.seen, [b"0", b"1"])
        room, idle = case.submitter.room(), case.submitter.idle()
        self.assertNoResult(room)
        case.server.pending[1].callback(OK)
        self.assertEqual(case.server.seen, [b"0", b"1", b"2"])
        self.successResultOf(room)
        self.assertNoResult(idle)
        for n in (0, 2, 3):
            case.server.pending[n].callback(OK)
        self.successResultOf(idle)
        self.assertEqual([body for body, _, _ in case.ends], [b"1", b"0", b"2", b"3"])

    def test_room_at_once(self) -> None:
        """Where there is room, or nothing under way, nobody waits."""
        case = Case(Server())
        self.successResultOf(case.submitter.room())
        self.successResultOf(case.submitter.idle())

    def test_release(self) -> None:
        """Who waits for room can be let go."""
        case = Case(Server())
        for _ in range(3):
            case.submitter.submit(post())
        room = case.submitter.room()
        case.submitter.release()
        self.successResultOf(room)


class AbortTests(SynchronousTestCase):
    """An end before the end."""

    def test_abort(self) -> None:
        """
        What waits is lost; what was under way is not known; what pauses between two
        tries is what its last try was; nothing is begun any more.
        """
        server = Server()
        case = Case(server, connections=2)
        for name in ("under way", "pausing", "waiting"):
            case.submitter.submit(post(name))
        server.pending[1].callback(SHED)
        idle = case.submitter.idle()
        case.submitter.abort("stopped by SIGINT")
        case.submitter.submit(post("late"))
        self.successResultOf(idle)
        self.successResultOf(case.submitter.room())
        self.assertEqual(
            {body: (outcome.fate, outcome.kind) for body, outcome, _ in case.ends},
            {
                b"under way": (Fate.UNKNOWN, "stopped by SIGINT"),
                b"pausing": (Fate.LOST, "answered 503"),
                b"waiting": (Fate.LOST, "stopped by SIGINT"),
                b"late": (Fate.LOST, "stopped by SIGINT"),
            },
        )
        self.assertEqual(len(case.ends), 4)
        self.assertEqual(case.clock.getDelayedCalls(), [])


REPLIES = st.sampled_from(
    [
        OK,
        Answer(200, is_duplicate=True),
        Answer(400),
        Answer(503),
        SHED,
        Answer(504),
        Answer(429, retry_after_seconds=3.0),
        REFUSED,
        BROKEN,
        CERTIFICATE,
    ]
)


class InvariantTests(SynchronousTestCase):
    """The numbers always add up."""

    @given(
        st.lists(REPLIES, max_size=60),
        st.lists(st.integers(1, 500), max_size=20),
        st.integers(1, 5),
        st.one_of(st.none(), st.integers(0, 30)),
    )
    def test_each_once(
        self,
        replies: list[Reply],
        sizes: list[int],
        connections: int,
        abort_after: int | None,
    ) -> None:
        """Each post has one end, whatever is answered and whenever it is aborted."""
        case = Case(Server(list(replies)), connections, retry_seconds=5)
        tally = Tally(messages=sum(sizes))
        for n, size in enumerate(sizes):
            case.submitter.submit(post(f"{n}", size))
        if abort_after is not None:
            case.pass_time(abort_after / 10)
            case.submitter.abort("stopped")
        case.pass_time(40 * len(sizes))
        self.successResultOf(case.submitter.idle())
        self.assertEqual(
            sorted(body for body, _, _ in case.ends),
            sorted(f"{n}".encode() for n in range(len(sizes))),
        )
        for body, outcome, _ in case.ends:
            tally.ended(sizes[int(body)], outcome)
        self.assertEqual(tally.waiting, 0)
        self.assertEqual(case.clock.getDelayedCalls(), [])
