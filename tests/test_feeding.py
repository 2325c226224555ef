"""What is read becomes posts: when, of how much, and what is in them."""

import gzip
from random import Random
from uuid import UUID

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss import frames
from logiss.feeding import Feeder, Making, post_of, timestamp
from logiss.submitter import WAITING_MAX, Answer, Post, Submitter
from logiss.syslog_lines import Batch, BrokenFrame, FrameCutter, LineCutter, Origin
from logiss.tally import Outcome, Tally

ORIGIN = Origin(190, b"h", b"a", b"-", b"-")
WALL_SECONDS = 1769860800.25


class FakeSource:
    """
    @ivar asked: who waits for something to be read.
    """

    def __init__(self) -> None:
        self.asked: Deferred[bytes] | None = None

    def read(self) -> Deferred[bytes]:
        assert self.asked is None
        self.asked = Deferred()
        return self.asked

    def say(self, octets: bytes) -> None:
        asked, self.asked = self.asked, None
        assert asked is not None
        asked.callback(octets)

    def close(self) -> None: ...


class Case:
    """Lines to a server that answers when it is told to, over one connection."""

    def __init__(
        self,
        origin: Origin | None = ORIGIN,
        batch_lines: int = 3,
        answers: bool = True,
        batch_bytes: int = 1 << 20,
    ) -> None:
        self.clock = Clock()
        self.posts: list[Post] = []
        self.pending: list[Deferred[Answer]] = []
        self.tally = Tally()
        self._answers = answers
        submitter = Submitter(
            self.clock, self._send, 1, 0, lambda why: None, self._ended, Random(1)
        )
        self.submitter = submitter
        self.source = FakeSource()
        making = Making(origin, batch_lines, batch_bytes, 0.25, False)
        self.feeder = Feeder(
            self.clock,
            lambda: WALL_SECONDS,
            submitter,
            self.tally,
            making,
            lambda: UUID(int=len(self.posts)),
        )
        cutter = LineCutter(100) if origin else FrameCutter()
        self.done = Deferred.fromCoroutine(self.feeder.feed(self.source, cutter))

    def _send(self, post: Post) -> Deferred[Answer]:
        self.posts.append(post)
        if self._answers:
            return succeed(Answer(200))
        self.pending.append(Deferred())
        return self.pending[-1]

    def _ended(self, post: Post, outcome: Outcome, answer: Answer | None) -> None:
        self.tally.ended(post.messages, outcome)

    @property
    def lines(self) -> list[list[bytes]]:
        """Those of each post."""
        return [
            [message.partition(b" - - - ")[2] for message in frames.split(post.body)]
            for post in self.posts
        ]


class FeedingTests(SynchronousTestCase):
    """When what has been read is posted."""

    def test_full(self) -> None:
        """A batch that is full is posted at once."""
        case = Case()
        case.source.say(b"1\n2\n3\n4\n5\n6\n7\n")
        self.assertEqual(case.lines, [[b"1", b"2", b"3"], [b"4", b"5", b"6"]])

    def test_time(self) -> None:
        """A line waits a quarter of a second at most, though the input goes on."""
        case = Case()
        case.source.say(b"1\nhalf")
        case.clock.advance(0.2)
        case.source.say(b" a line")
        self.assertEqual(case.lines, [])
        case.clock.advance(0.05)
        self.assertEqual(case.lines, [[b"1"]])
        case.source.say(b"\n")
        case.clock.advance(0.25)
        self.assertEqual(case.lines, [[b"1"], [b"half a line"]])
        case.clock.advance(10)
        self.assertEqual(len(case.lines), 2)

    def test_end(self) -> None:
        """At the end there is a line without an end, and the rest can be flushed."""
        case = Case()
        case.source.say(b"1\n2")
        case.source.say(b"")
        self.successResultOf(case.done)
        case.feeder.flush()
        self.assertEqual(case.lines, [[b"1", b"2"]])
        self.assertEqual(case.clock.getDelayedCalls(), [])
        self.assertEqual((case.tally.messages, case.tally.delivered), (2, 2))

    def test_bytes(self) -> None:
        """A batch is bounded in bytes too."""
        case = Case(batch_lines=500, batch_bytes=1000)
        case.source.say(b"x" * 99 + b"\n" + b"\n".join([b"x" * 99] * 20))
        self.assertGreater(len(case.posts), 2)
        self.assertLessEqual({len(post.body) > 1000 for post in case.posts}, {False})

    def test_pauses(self) -> None:
        """It reads no further while enough is on its way, and goes on behind it."""
        case = Case(answers=False)
        case.source.say(b"1\n2\n3\n" * (WAITING_MAX + 3))
        self.assertIsNone(case.source.asked)
        self.assertEqual(case.tally.messages, 3 * (WAITING_MAX + 2))
        for answered in range(WAITING_MAX + 3):
            # Time passes, and makes no more batches of them.
            case.clock.advance(1)
            self.assertEqual(len(case.posts), answered + 1)
            case.pending[answered].callback(Answer(200))
        self.assertIsNotNone(case.source.asked)
        self.assertEqual(case.lines, [[b"1", b"2", b"3"]] * (WAITING_MAX + 3))

    def test_time_without_room(self) -> None:
        """What waits for its time gathers more while there is no room for it."""
        case = Case(answers=False, batch_lines=2)
        case.source.say(b"1\n2\n" * (WAITING_MAX + 1) + b"1\n")
        case.clock.advance(0.25)
        case.clock.advance(0.25)
        case.source.say(b"2\n")
        for answered in range(WAITING_MAX + 2):
            case.pending[answered].callback(Answer(200))
        self.assertEqual(case.lines, [[b"1", b"2"]] * (WAITING_MAX + 2))

    def test_stop(self) -> None:
        """
        It reads no more, waits for no room, submits the lines that it has read and
        nothing of one that has not ended.
        """
        case = Case(answers=False)
        case.source.say(b"1\n2\n3\n" * (WAITING_MAX + 3) + b"4\nhalf")
        case.feeder.stop()
        self.successResultOf(case.done)
        case.feeder.flush()
        while case.pending:
            case.pending.pop(0).callback(Answer(200))
        whole = [[b"1", b"2", b"3"]] * (WAITING_MAX + 3)
        self.assertEqual(case.lines, [*whole, [b"4"]])

    def test_stop_while_reading(self) -> None:
        """It waits no longer for what is to be read."""
        case = Case()
        case.feeder.stop()
        self.successResultOf(case.done)

    def test_frames(self) -> None:
        """Frames are passed on as they are, up to the first that is none."""
        case = Case(origin=None)
        case.source.say(b"3 a b1 c")
        self.assertEqual(case.tally.messages, 2)
        case.source.say(b"x")
        self.failureResultOf(case.done, BrokenFrame)
        case.feeder.flush()
        self.assertEqual([post.body for post in case.posts], [b"3 a b1 c"])

    def test_unreadable(self) -> None:
        """What cannot be read is told, and what was is submitted."""
        case = Case()
        case.source.say(b"1\n")
        assert case.source.asked is not None
        case.source.asked.errback(OSError(5, "Input/output error"))
        self.failureResultOf(case.done, OSError)
        case.feeder.flush()
        self.assertEqual(case.lines, [[b"1"]])


class PostTests(SynchronousTestCase):
    """What is in a post."""

    def test_timestamp(self) -> None:
        """UTC, microseconds; each frame has the time at which it was read."""
        self.assertEqual(timestamp(0.5), b"1970-01-01T00:00:00.500000Z")
        self.assertEqual(timestamp(WALL_SECONDS), b"2026-01-31T12:00:00.250000Z")
        case = Case(batch_lines=1)
        case.source.say(b"x\n")
        self.assertIn(timestamp(WALL_SECONDS), case.posts[0].body)

    def test_fields(self) -> None:
        """The fields that log-shuttle and logplex send, ids among them."""
        post = post_of(Batch(b"1 a1 b", 2), UUID(int=255), is_zipped=False)
        self.assertEqual(
            dict(post.fields),
            {
                "Content-Type": b"application/logplex-1",
                "Logplex-Msg-Count": b"2",
                "Logplex-Frame-Id": b"000000000000000000000000000000ff",
                "X-Request-Id": b"00000000-0000-0000-0000-0000000000ff",
            },
        )
        self.assertEqual((post.body, post.messages), (b"1 a1 b", 2))

    def test_ids(self) -> None:
        """Each post has ids of its own."""
        case = Case(batch_lines=1)
        case.source.say(b"1\n2\n")
        first, second = (dict(post.fields) for post in case.posts)
        for name in ("Logplex-Frame-Id", "X-Request-Id"):
            self.assertNotEqual(first[name], second[name])

    def test_gzip(self) -> None:
        """Compressed, but for what a logiss would refuse for its ratio."""
        body = bytes(range(256)) * 9
        post = post_of(Batch(body, 1), UUID(int=1), is_zipped=True)
        self.assertEqual(dict(post.fields)["Content-Encoding"], b"gzip")
        self.assertEqual(gzip.decompress(post.body), body)
        bomb = post_of(Batch(b"x" * (1 << 20), 1), UUID(int=1), is_zipped=True)
        self.assertNotIn("Content-Encoding", dict(bomb.fields))
        self.assertEqual(len(bomb.body), 1 << 20)
