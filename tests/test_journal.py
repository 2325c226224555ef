"""Log lines that never wait for who reads them."""

import errno
import os
import select
import socket
import tempfile
from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.journal import Journal, Sink, open_sink


class Reader:
    """
    Who reads the log: takes as much as there is room for.

    @ivar room: bytes that it takes; None is any number.
    @ivar error: raised instead of taking anything.
    """

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.room: int | None = None
        self.error: OSError | None = None
        self.asked = 0

    def __call__(self, octets: bytes) -> int:
        self.asked += 1
        assert self.asked < 1_000, "the journal spins"
        if self.error is not None:
            raise self.error
        if self.room == 0:
            raise BlockingIOError(errno.EAGAIN, "full")
        took = octets[: self.room]
        if self.room is not None:
            self.room -= len(took)
        self.taken.append(took)
        return len(took)

    @property
    def octets(self) -> bytes:
        return b"".join(self.taken)


class JournalTests(SynchronousTestCase):
    """`Journal` writes lines in turns and keeps what is not taken, up to a bound."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.reader = Reader()
        self.journal = Journal(self.clock, self.reader, limit_bytes=100)

    def later(self) -> None:
        """All that is to be tried again has been."""
        for _ in range(50):
            self.clock.advance(0.1)

    def assert_at_rest(self) -> None:
        self.assertFalse(self.journal.waiting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_write_for_a_turn(self) -> None:
        """The lines of a turn are written together when it ends."""
        self.journal.write("a")
        self.journal.write("bc")
        self.assertEqual(self.reader.taken, [])
        self.assertTrue(self.journal.waiting)
        self.clock.advance(0)
        self.assertEqual(self.reader.taken, [b"a\nbc\n"])
        self.assert_at_rest()

    def test_next_turn(self) -> None:
        """The lines of the next turn are the next write."""
        for line in ("a", "b"):
            self.journal.write(line)
            self.clock.advance(0)
        self.assertEqual(self.reader.taken, [b"a\n", b"b\n"])
        self.assert_at_rest()

    def test_flush(self) -> None:
        """What waits can be written before the turn ends, and is not written twice."""
        self.journal.write("a")
        self.journal.flush()
        self.assertEqual(self.reader.octets, b"a\n")
        self.assertFalse(self.journal.waiting)
        self.later()
        self.assertEqual(self.reader.octets, b"a\n")
        self.assert_at_rest()

    def test_not_ascii(self) -> None:
        """Lines are UTF-8, even those that cannot be."""
        self.journal.write("é")
        self.journal.write("a\ud800b")
        self.clock.advance(0)
        self.assertEqual(self.reader.octets, "é\na?b\n".encode())
        self.assert_at_rest()

    def test_partly_taken(self) -> None:
        """What was not taken follows later, before newer lines, nothing twice."""
        self.reader.room = 3
        self.journal.write("abcdef")
        self.clock.advance(0)
        self.assertEqual(self.reader.octets, b"abc")
        self.journal.write("gh")
        self.reader.room = None
        self.later()
        self.assertEqual(self.reader.octets, b"abcdef\ngh\n")
        self.assert_at_rest()

    def test_byte_by_byte(self) -> None:
        """A reader of one byte at a time gets every byte."""
        self.journal.write("abc")
        self.journal.write("def")
        for _ in range(10):
            self.reader.room = 1
            self.clock.advance(1)
        self.assertEqual(self.reader.octets, b"abc\ndef\n")
        self.assertTrue(all(len(took) == 1 for took in self.reader.taken))
        self.assert_at_rest()

    def test_blocked(self) -> None:
        """While nothing is taken it is tried again, now and then, without spinning."""
        self.reader.room = 0
        self.journal.write("a")
        self.clock.advance(0)
        self.assertEqual(self.reader.asked, 1)
        self.assertTrue(self.journal.waiting)
        self.clock.advance(0)
        self.assertEqual(self.reader.asked, 1)
        self.later()
        self.assertGreater(self.reader.asked, 2)
        self.assertTrue(self.journal.waiting)
        self.reader.room = None
        self.later()
        self.assertEqual(self.reader.octets, b"a\n")
        self.assert_at_rest()

    def fill(self, lines: int, size: int = 9) -> None:
        """Writes `lines` numbered lines of `size` bytes and a line feed each."""
        for i in range(lines):
            self.journal.write(f"{i:0{size}}")

    def test_bound(self) -> None:
        """Lines beyond the bound are dropped whole; the older ones stay."""
        dropped: list[int] = []
        self.journal.on_dropped = dropped.append
        self.reader.room = 0
        for _ in range(5):
            self.fill(100)
            self.clock.advance(0)
        self.assertEqual(dropped, [])
        self.reader.room = None
        self.later()
        kept = self.reader.octets.decode().splitlines()
        # The line that reaches the bound may pass it.
        self.assertLessEqual(len(self.reader.octets), 100 + 10)
        self.assertGreaterEqual(len(self.reader.octets), 100 - 10)
        self.assertEqual(kept, [f"{i:09}" for i in range(len(kept))])
        self.assertEqual(dropped, [500 - len(kept)])
        self.assert_at_rest()

    def test_dropped_is_told_once(self) -> None:
        """How many were dropped is told once, when there is room, on a line of ours."""
        self.journal.on_dropped = lambda n: self.journal.write(f"dropped={n}")
        self.reader.room = 0
        self.fill(30)
        self.clock.advance(0)
        self.reader.room = 25
        self.later()
        self.assertNotIn(b"dropped", self.reader.octets)
        self.reader.room = None
        self.later()
        *kept, told = self.reader.octets.decode().splitlines()
        self.assertEqual(told, f"dropped={30 - len(kept)}")
        self.journal.write("next")
        self.later()
        self.assertTrue(self.reader.octets.endswith(f"{told}\nnext\n".encode()))
        self.assert_at_rest()

    def test_dropped_again(self) -> None:
        """The count starts anew after it was told."""
        dropped: list[int] = []
        self.journal.on_dropped = dropped.append
        for extra in (3, 7):
            self.reader.room = 0
            # Eleven lines of ten bytes pass the bound of a hundred.
            self.fill(11 + extra)
            self.clock.advance(0)
            self.reader.room = None
            self.later()
        self.assertEqual(dropped, [3, 7])
        self.assert_at_rest()

    def test_nobody_reads(self) -> None:
        """When the reader is gone its lines are dropped, and writing goes on."""
        self.reader.error = BrokenPipeError(errno.EPIPE, "gone")
        self.journal.write("a")
        self.clock.advance(0)
        self.assert_at_rest()
        self.reader.error = None
        self.journal.write("b")
        self.clock.advance(0)
        self.assertEqual(self.reader.octets, b"b\n")
        self.assert_at_rest()

    def test_disk_full(self) -> None:
        """When the disk is full the lines wait until it is not."""
        self.reader.error = OSError(errno.ENOSPC, "full")
        self.journal.write("a")
        self.later()
        self.assertTrue(self.journal.waiting)
        self.reader.error = None
        self.later()
        self.assertEqual(self.reader.octets, b"a\n")
        self.assert_at_rest()


class AtomicTests(SynchronousTestCase):
    """Lines that other processes write beside ours are not torn apart."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.reader = Reader()
        self.journal = Journal(self.clock, self.reader, atomic_bytes=10)

    def written(self, *lines: str) -> list[bytes]:
        """What each write was."""
        for line in lines:
            self.journal.write(line)
        self.clock.advance(0)
        taken, self.reader.taken = self.reader.taken, []
        return taken

    def test_whole_lines(self) -> None:
        """Each write is as many whole lines as are within the bound."""
        self.assertEqual(
            self.written("ab", "cd", "ef", "gh", "ijklmnopq", "r"),
            [b"ab\ncd\nef\n", b"gh\n", b"ijklmnopq\n", b"r\n"],
        )
        self.assertFalse(self.journal.waiting)

    def test_too_long(self) -> None:
        """A line that is longer is cut, not inside of a character, and none lost."""
        self.assertEqual(
            self.written("a", "0123456789", "b"), [b"a\n", b"012345678\n", b"b\n"]
        )
        self.assertEqual(self.written("01234567é9"), [b"01234567\n"])
        self.assertEqual(self.written("x" * 95), [b"x" * 9 + b"\n"])

    def test_blocked(self) -> None:
        """What is not taken follows later, whole lines again, nothing twice."""
        self.reader.room = 6
        self.assertEqual(self.written("ab", "cd", "efgh", "ij"), [b"ab\ncd\n"])
        self.assertTrue(self.journal.waiting)
        self.reader.room = None
        self.clock.advance(1)
        self.assertEqual(self.reader.taken, [b"efgh\nij\n"])

    def test_disk_full(self) -> None:
        """What was written before the disk was full is not written again."""
        sink = self.reader

        def full_then(octets: bytes) -> int:
            if sink.taken:
                sink.error = OSError(errno.ENOSPC, "full")
            return sink(octets)

        self.journal = Journal(self.clock, full_then, atomic_bytes=10)
        self.assertEqual(self.written("ab", "cd", "efgh", "ij"), [b"ab\ncd\n"])
        sink.error = None
        self.clock.advance(1)
        self.assertEqual(sink.taken, [b"efgh\nij\n"])

    def test_gone(self) -> None:
        """When the reader is gone in the middle, nothing waits."""
        self.reader.error = BrokenPipeError(errno.EPIPE, "gone")
        self.assertEqual(self.written("ab", "cd", "efgh", "ij"), [])
        self.assertFalse(self.journal.waiting)

    def test_share(self) -> None:
        """A process that comes to have others beside it writes what a pipe takes."""
        self.journal = Journal(self.clock, self.reader)
        lines = ["x" * 1000] * 9
        self.assertEqual([len(piece) for piece in self.written(*lines)], [9009])
        self.journal.share()
        self.assertEqual(select.PIPE_BUF, 4096)
        self.assertEqual(
            [len(piece) for piece in self.written(*lines)], [4004, 4004, 1001]
        )


class OpenSinkTests(SynchronousTestCase):
    """A sink never blocks, and leaves the descriptor that it was opened for alone."""

    def open(self, fd: int) -> Sink:
        """A sink for `fd`; what it opens is closed with the test."""
        before = set(os.listdir("/proc/self/fd"))
        sink = open_sink(fd)
        for name in set(os.listdir("/proc/self/fd")) - before:
            # The listing's own descriptor is there too, and closed by now.
            if os.path.exists(f"/proc/self/fd/{name}"):
                self.addCleanup(_close, int(name))
        return sink

    def assert_fills_up(
        self, sink: Sink, fd: int, read: Callable[[int], bytes]
    ) -> None:
        """Nobody reads: the sink takes some, then refuses; and takes more later."""
        taken = 0
        with self.assertRaises(BlockingIOError):
            # Far more than a kernel buffers.
            while taken < 256 * 1024 * 1024:
                taken += sink(b"x" * 65536)
        self.assertGreater(taken, 0)
        self.assertTrue(os.get_blocking(fd), "others write to it too")

        arrived = 0
        while arrived < taken:
            octets = read(65536)
            self.assertEqual(octets.strip(b"x"), b"")
            arrived += len(octets)
        self.assertEqual(arrived, taken)
        self.assertEqual(sink(b"more"), 4)
        self.assertEqual(read(65536), b"more")

    def test_pipe(self) -> None:
        """A full pipe refuses at once."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        sink = self.open(writing)
        self.assert_fills_up(sink, writing, lambda size: os.read(reading, size))

    def test_socket(self) -> None:
        """A full socket refuses at once."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        sink = open_sink(ours.fileno())
        self.assert_fills_up(sink, ours.fileno(), theirs.recv)

    def test_file(self) -> None:
        """A file takes everything, behind what is there."""
        with tempfile.TemporaryFile() as file:
            file.write(b"before\n")
            file.flush()
            sink = self.open(file.fileno())
            self.assertEqual(sink(b"one\n"), 4)
            self.assertEqual(sink(b"two\n"), 4)
            self.assertTrue(os.get_blocking(file.fileno()))
            file.seek(0)
            self.assertEqual(file.read(), b"before\none\ntwo\n")

    def test_reader_gone(self) -> None:
        """A pipe that nobody reads any more is an error, not an end."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        sink = self.open(writing)
        os.close(reading)
        with self.assertRaises(BrokenPipeError):
            sink(b"x")

    def test_never_read(self) -> None:
        """A pipe whose reader was gone from the start can be opened."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        os.close(reading)
        sink = self.open(writing)
        with self.assertRaises(BrokenPipeError):
            sink(b"x")


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass
