"""What is written is there whole, or it is said that it is not."""

import errno
import fcntl
import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from logiss import outlets
from logiss.outlets import Descriptor, Ended, RotatedFile


class RotatedFileTests(SynchronousTestCase):
    """A file that is appended to."""

    def setUp(self) -> None:
        above = tempfile.TemporaryDirectory()
        self.addCleanup(above.cleanup)
        self.folder = Path(above.name) / "folder"
        self.folder.mkdir()
        self.path = self.folder / "out"

    def open(self, rotate_bytes: int = 0, keep: int = 5) -> RotatedFile:
        file = RotatedFile(str(self.path), rotate_bytes, keep)
        self.addCleanup(file.close)
        return file

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def test_appends(self) -> None:
        """What was there stays."""
        self.path.write_bytes(b"old\n")
        self.open().write(b"new\n")
        self.assertEqual(self.contents(), {"out": b"old\nnew\n"})

    def test_rotates(self) -> None:
        """Before it is too large it becomes another; so many are kept."""
        file = self.open(rotate_bytes=8, keep=2)
        for n in range(7):
            file.write(b"abc%d" % n)
        self.assertEqual(
            self.contents(),
            {"out": b"abc6", "out.1": b"abc4abc5", "out.2": b"abc2abc3"},
        )

    def test_larger_than_a_file(self) -> None:
        """What is larger than a file may be has one for itself, whole."""
        file = self.open(rotate_bytes=8)
        for octets in (b"a" * 10, b"b" * 20, b"c"):
            file.write(octets)
        self.assertEqual(
            self.contents(), {"out": b"c", "out.1": b"b" * 20, "out.2": b"a" * 10}
        )

    def test_counts_what_was_there(self) -> None:
        """What an earlier process has written counts."""
        self.path.write_bytes(b"old octets")
        self.open(rotate_bytes=8).write(b"new")
        self.assertEqual(self.contents(), {"out": b"new", "out.1": b"old octets"})

    def test_reopen(self) -> None:
        """Moved away, it goes on in the old one until it is opened anew."""
        file = self.open()
        file.write(b"one")
        self.path.rename(self.folder / "moved")
        file.write(b"two")
        file.reopen()
        file.write(b"three")
        self.assertEqual(self.contents(), {"moved": b"onetwo", "out": b"three"})

    def test_reopen_the_same(self) -> None:
        """Opened anew without having been moved it goes on in the same."""
        file = self.open()
        file.write(b"one")
        file.reopen()
        file.write(b"two")
        self.assertEqual(self.contents(), {"out": b"onetwo"})
        with self.assertRaisesRegex(OSError, "another process"):
            self.open()

    def test_cannot_reopen(self) -> None:
        """When it cannot be opened anew the old one stays open."""
        file = self.open()
        self.folder.rename(f"{self.folder}-moved")
        with self.assertRaises(FileNotFoundError):
            file.reopen()
        file.write(b"one")
        self.assertEqual(Path(f"{self.folder}-moved/out").read_bytes(), b"one")

    def test_cannot_rotate(self) -> None:
        """However often it cannot be rotated, no old one is lost."""
        file = self.open(rotate_bytes=4, keep=3)
        for octets in (b"one.", b"two.", b"three."):
            file.write(octets)
        for name in ("replace", "open"):
            patched = self.patch(os, name, _fail)
            for _ in range(4):
                with self.assertRaises(PermissionError):
                    file.write(b"four.")
            patched.restore()
            kept = sorted(self.contents().values())
            self.assertEqual(kept, [b"one.", b"three.", b"two."])
        file.write(b"four.")
        self.assertEqual(
            self.contents(),
            {"out": b"four.", "out.1": b"three.", "out.2": b"two.", "out.3": b"one."},
        )

    def test_disk_full(self) -> None:
        """Of what did not go in whole nothing stays."""
        file = self.open()
        file.write(b"whole\n")
        write, calls = os.write, []

        def full(fd: int, octets: bytes) -> int:
            calls.append(octets)
            if len(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, octets[:3])

        self.patch(os, "write", full)
        with self.assertRaisesRegex(OSError, "No space left"):
            file.write(b"not whole\n")
        self.patch(os, "write", write)
        self.assertEqual(self.contents(), {"out": b"whole\n"})
        file.write(b"again\n")
        self.assertEqual(self.contents(), {"out": b"whole\nagain\n"})

    def test_disk_full_once_cut(self) -> None:
        """Nor when the file was cut meanwhile, as logrotate does with copytruncate."""
        file = self.open()
        file.write(b"x" * 1000)
        os.truncate(self.path, 0)
        write = os.write

        def full(fd: int, octets: bytes) -> int:
            if len(octets) < 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, octets[:3])

        self.patch(os, "write", full)
        with self.assertRaisesRegex(OSError, "No space left"):
            file.write(b"not whole\n")
        self.assertEqual(self.contents(), {"out": b""})

    def test_cut(self) -> None:
        """Nor is a file that was cut taken for a large one."""
        file = self.open(rotate_bytes=1000)
        file.write(b"x" * 1000)
        os.truncate(self.path, 0)
        file.write(b"one")
        self.assertEqual(self.contents(), {"out": b"one"})

    def test_full_device(self) -> None:
        """A device that takes nothing is told of."""
        self.path = Path("/dev/full")
        with self.assertRaisesRegex(OSError, "No space left"):
            self.open().write(b"x")

    def test_one_process(self) -> None:
        """Two cannot write to the same file, for each would cut what the other did."""
        self.open()
        with self.assertRaisesRegex(OSError, "another process writes to it"):
            self.open()

    def test_pipe_that_nobody_reads(self) -> None:
        """A pipe is not waited for."""
        os.mkfifo(self.path)
        with self.assertRaises(OSError):
            self.open()

    def test_pipe(self) -> None:
        """Who waits for the reader of a pipe stops waiting when it is to end."""
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.patch(outlets, "_LOOK_MILLISECONDS", 1)
        file = RotatedFile(str(self.path), 0, 5, lambda: True)
        self.addCleanup(file.close)
        self.assertFalse(os.get_blocking(file._fd))
        file.write(b"x" * 1000)
        self.assertEqual(os.read(reader, 2000), b"x" * 1000)
        with self.assertRaises(Ended):
            file.write(b"x" * 1_000_000)


def _fail(*_: object) -> None:
    raise OSError(errno.EACCES, "Permission denied")


class DescriptorTests(SynchronousTestCase):
    """A pipe, as stdout often is."""

    def setUp(self) -> None:
        self.ending = False
        self.source, self.target = os.pipe()
        self.addCleanup(os.close, self.target)
        self.descriptor = Descriptor(self.target, lambda: self.ending)

    def test_all(self) -> None:
        """All of it goes through."""
        self.descriptor.write(b"x" * 1000)
        self.assertEqual(os.read(self.source, 2000), b"x" * 1000)
        self.assertFalse(self.descriptor.is_broken)
        os.close(self.source)

    def test_ending(self) -> None:
        """Who waits for a reader stops waiting when it is to end."""
        fcntl.fcntl(self.target, fcntl.F_SETPIPE_SZ, 4096)
        self.patch(outlets, "_LOOK_MILLISECONDS", 1)
        self.ending = True
        with self.assertRaises(Ended):
            self.descriptor.write(b"x" * 100_000)
        os.close(self.source)

    def test_nobody_reads(self) -> None:
        """A reader that has gone is noticed, without a write, too."""
        os.close(self.source)
        self.assertTrue(self.descriptor.is_broken)
        with self.assertRaises(BrokenPipeError):
            self.descriptor.write(b"x")
