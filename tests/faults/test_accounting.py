"""
What the scenarios are judged by: the decoder, the ledger and the predicates. Each
thing that may become of a message is put before them once.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.faults import messages, required
from tests.faults.ledger import Arrivals, Counts, Ledger, Post
from tests.faults.messages import Altered, Name
from tests.faults.regions import Lines, Region, Unparsable
from tests.faults.required import Row

RUN = "0123abcd"


def arrived(name: Name, run: str = RUN) -> bytes:
    """The message as logiss sends it on, without its count."""
    syslog_msg = messages.frame(run, name).partition(b" ")[2]
    header, _, msg = syslog_msg.partition(b" - - ")
    assert messages.STAMPED.startswith(header)
    return messages.STAMPED + msg


def counted(syslog_msg: bytes) -> bytes:
    return b"%d %b" % (len(syslog_msg), syslog_msg)


def post(number: int, code: int | None, whole: bool = True) -> Post:
    """A POST of two messages of drain `number`."""
    names = [Name(number, 0), Name(number, 1)]
    return Post(f"r{number}", names, 1.0, code, 2.0, whole)


def temporary(test: SynchronousTestCase) -> Path:
    """Where a file may be, for as long as `test` lasts."""
    folder = tempfile.TemporaryDirectory()
    test.addCleanup(folder.cleanup)
    return Path(folder.name, "file")


class MessageTests(SynchronousTestCase):
    def test_read(self) -> None:
        """A message names itself."""
        name = Name(3, 17)
        self.assertEqual(messages.read(arrived(name)), (RUN, name))

    def test_no_marks_inside(self) -> None:
        """No octet of it is one that marks an end elsewhere."""
        for sequence in range(500):
            frame = messages.frame(RUN, Name(1, sequence))
            self.assertNotIn(b"\0", frame)
            self.assertNotIn(b"\n", frame)

    def test_any_octet_altered(self) -> None:
        """Whichever octet is another, the message is known to be altered."""
        right = arrived(Name(3, 17))
        for i in range(len(right)):
            wrong = right[:i] + bytes([right[i] ^ 1]) + right[i + 1 :]
            with self.assertRaises(Altered):
                messages.read(wrong)

    def test_cut_or_glued(self) -> None:
        """A piece of a message is altered, and so are two in one frame."""
        right = arrived(Name(3, 17))
        for wrong in (b"", right[:-1], right[:40], right * 2):
            with self.assertRaises(Altered):
                messages.read(wrong)


class RegionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = temporary(self)

    def write(self, octets: bytes) -> None:
        self.path.write_bytes(octets + bytes(5000))

    def test_at_every_cut(self) -> None:
        """Frames come once each, wherever the region has ended between two reads."""
        frames = [arrived(Name(1, i)) for i in range(2)]
        whole = b"".join(map(counted, frames))
        for cut in range(len(whole) + 1):
            self.write(whole[:cut])
            region = Region(self.path)
            first = list(region.frames())
            self.write(whole)
            self.assertEqual(first + list(region.frames()), frames)

    def test_full(self) -> None:
        """A region without a NUL ends with the file."""
        self.path.write_bytes(counted(b"one") + counted(b"two"))
        self.assertEqual(list(Region(self.path).frames()), [b"one", b"two"])

    def test_not_yet_there(self) -> None:
        """A region of no size has no frames."""
        self.path.touch()
        self.assertEqual(list(Region(self.path).frames()), [])

    def test_unparsable(self) -> None:
        """What is no count ends a region, once, behind the frames before it."""
        for wrong in (b"x", b"03 one", b"-3 one", b"1234567890 one", b"3one", b"<1>"):
            self.write(counted(b"one") + wrong)
            region = Region(self.path)
            frames = region.frames()
            self.assertEqual(next(frames), b"one")
            with self.assertRaises(Unparsable):
                next(frames)
            self.assertEqual(list(region.frames()), [])


class LinesTests(SynchronousTestCase):
    def test_cut_line(self) -> None:
        """A line is read once, when it is whole."""
        path = temporary(self)
        lines = Lines(path)
        self.assertEqual(list(lines.frames()), [])
        path.write_bytes(b"one\ntwo\nth")
        self.assertEqual(list(lines.frames()), [b"one", b"two"])
        path.write_bytes(b"one\ntwo\nthree\n")
        self.assertEqual(list(lines.frames()), [b"three"])
        self.assertEqual(list(lines.frames()), [])


class LedgerTests(SynchronousTestCase):
    def counts(
        self,
        posts: list[Post],
        frames: Iterable[bytes],
        begun: Iterable[str] = (),
    ) -> Counts:
        arrivals = Arrivals(RUN)
        arrivals.take(frames)
        return Ledger(posts).counts(arrivals, set(begun))

    def test_delivered(self) -> None:
        """What was answered 200 and has arrived once is all right."""
        done = post(1, 200)
        self.assertEqual(
            self.counts([done], map(arrived, done.names)),
            Counts(sent=2, accepted=2, delivered=2),
        )

    def test_lost(self) -> None:
        """What was answered 200 and has not arrived is lost, by the message."""
        done = post(1, 200)
        self.assertEqual(
            self.counts([done], [arrived(done.names[0])]),
            Counts(sent=2, accepted=2, delivered=1, lost=1),
        )

    def test_duplicated(self) -> None:
        """Each arrival behind the first is counted."""
        done = post(1, 200)
        frames = [arrived(name) for name in done.names]
        self.assertEqual(
            self.counts([done], [*frames, frames[0], frames[0]]),
            Counts(sent=2, accepted=2, delivered=2, duplicated=2),
        )

    def test_altered(self) -> None:
        """A frame that is not as it was posted stands for no message."""
        done = post(1, 200)
        first, second = (arrived(name) for name in done.names)
        self.assertEqual(
            self.counts([done], [first, second[:-1] + b"!"]),
            Counts(sent=2, accepted=2, delivered=1, lost=1, altered=1),
        )

    def test_unknown(self) -> None:
        """What nobody has sent is unknown, in this run or in another."""
        frames = [arrived(Name(9, 0)), arrived(Name(1, 0), run="ffffffff")]
        self.assertEqual(
            self.counts([post(1, 504)], frames, ["r1"]),
            Counts(sent=2, refused=2, unknown=2),
        )

    def test_unanswered(self) -> None:
        """What was not answered may have arrived, or not."""
        broken = post(1, None)
        self.assertEqual(
            self.counts([broken], [arrived(broken.names[0])]),
            Counts(sent=2, unanswered=2, delivered=1),
        )

    def test_withdrawn(self) -> None:
        """What was refused before it was begun must not arrive."""
        refused = post(1, 504)
        self.assertEqual(
            self.counts([refused], [arrived(refused.names[0])]),
            Counts(sent=2, refused=2, delivered=1, withdrawn=2, withdrawn_arrived=1),
        )

    def test_begun(self) -> None:
        """What was refused after it was begun may arrive."""
        refused = post(1, 504)
        self.assertEqual(
            self.counts([refused], [arrived(refused.names[0])], ["r1"]),
            Counts(sent=2, refused=2, delivered=1),
        )

    def test_never_whole(self) -> None:
        """What was posted in part must not arrive, whatever becomes of the client."""
        cut = post(1, None, whole=False)
        self.assertEqual(
            self.counts([cut], [arrived(cut.names[0])]),
            Counts(sent=2, unanswered=2, delivered=1, withdrawn=2, withdrawn_arrived=1),
        )

    def test_duplicate_bytes(self) -> None:
        """Of what arrives again the bytes are counted, not of what arrives."""
        arrivals = Arrivals(RUN)
        frame = arrived(Name(1, 0))
        arrivals.take([frame, arrived(Name(1, 1)), frame])
        self.assertEqual(arrivals.duplicate_bytes, len(frame))

    def test_recovered_at(self) -> None:
        """A recovery is shown by a POST sent after the fault's end alone."""
        before, after = post(1, 200), post(2, 200)
        after.sent_at, after.answered_at = 3.0, 4.0
        self.assertEqual(Ledger([before, after]).recovered_at(2.5), 4.0)
        self.assertIsNone(Ledger([before]).recovered_at(2.5))


class RequiredTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.row = Row(
            "fault",
            "acked",
            Counts(sent=100, accepted=100, delivered=100),
            messages_min=100,
            delivery_timeout_seconds=5.0,
            breaks=1,
            notice_seconds=1.0,
            recover_seconds=1.0,
        )

    def check(self, requirement: required.Requirement, wrong: Row) -> None:
        self.assertEqual(requirement(self.row), "")
        self.assertNotEqual(requirement(wrong), "")

    def test_counts(self) -> None:
        """Each predicate about a count is broken by that count, and by one message."""
        for requirement, field, number in (
            (required.enough_sent, "sent", 99),
            (required.none_lost, "lost", 1),
            (required.none_duplicated, "duplicated", 1),
            (required.none_altered, "altered", 1),
            (required.none_unknown, "unknown", 1),
            (required.none_withdrawn_arrived, "withdrawn_arrived", 1),
            (required.all_answered, "unanswered", 1),
        ):
            counts = evolve(self.row.counts, **{field: number})
            self.check(requirement, evolve(self.row, counts=counts))

    def test_early(self) -> None:
        """Nothing may be answered 200 before it has arrived."""
        self.check(required.none_early, evolve(self.row, early=1))

    def test_duplicates_bounded(self) -> None:
        """So much may arrive twice for each broken connection, and no more."""
        most = required.DUPLICATE_BYTES_PER_BREAK
        self.check(
            required.duplicates_bounded, evolve(self.row, duplicate_bytes=most + 1)
        )
        within = evolve(self.row, breaks=2, duplicate_bytes=most + 1)
        self.assertEqual(required.duplicates_bounded(within), "")

    def test_duplicates_within_window(self) -> None:
        """A window of frames may, for each broken session."""
        for breaks in (0, 2):
            counts = evolve(self.row.counts, duplicated=breaks * 128)
            row = evolve(self.row, breaks=breaks, counts=counts)
            self.assertEqual(required.duplicates_within_window(row), "")
            counts = evolve(counts, duplicated=breaks * 128 + 1)
            self.check(required.duplicates_within_window, evolve(row, counts=counts))

    def test_times(self) -> None:
        """What is late, or has never been, breaks the predicates about time."""
        noticed, recovered = required.noticed_within(4.0), required.recovered_within(2)
        row = self.row
        self.check(required.answered_in_time, evolve(row, slowest_seconds=6.1))
        self.check(noticed, evolve(row, notice_seconds=4.1))
        self.check(noticed, evolve(row, notice_seconds=None))
        self.check(recovered, evolve(row, recover_seconds=2.1))
        self.check(recovered, evolve(row, recover_seconds=None))
