"""Refused bodies are kept as they came, within bounds, and nothing depends on it."""

import errno
import gzip
import os
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from threading import current_thread
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from logiss import captures, refused
from logiss.captures import Capture
from logiss.metrics import Metrics
from logiss.refused import (
    BYTES_RATE,
    RATE,
    STOP_SECONDS,
    WAITING_MAX,
    Bounds,
    Folder,
    RefusedBodies,
    in_daemon_thread,
)
from logiss.web import KeepingLogsResource
from tests.fakes import Lines
from tests.front import Connection, Front, framed, message, request
from tests.test_captures import CAPTURE

KIB = 1024


def capture_of(body: bytes) -> Capture:
    return Capture("2026-01-31T12:00:00Z", 400, "why", b"/logs", (), body)


class FolderTestCase(SynchronousTestCase):
    """A directory of its own."""

    def setUp(self) -> None:
        above = tempfile.TemporaryDirectory()
        self.addCleanup(above.cleanup)
        self.path = Path(above.name) / "folder"
        self.path.mkdir()
        self.clock = Clock()
        self.clock.advance(1_769_860_800)

    def folder(self, count: int = 100, size: int = 1024 * KIB, pid: int = 7) -> Folder:
        return Folder(str(self.path), Bounds(count, size), pid, self.clock.seconds)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def bodies(self) -> list[bytes]:
        return [self.read(name).body for name in self.names()]

    def read(self, name: str) -> Capture:
        return captures.read((self.path / name).read_bytes())


class FolderTests(FolderTestCase):
    """What is in the directory stays within its bounds."""

    def test_name(self) -> None:
        """A file is called by time, process and number, and read as it was written."""
        self.folder().write(CAPTURE)
        self.assertEqual(self.names(), ["20260131T120000Z-7-000001.capture"])
        self.assertEqual(self.read(self.names()[0]), CAPTURE)

    def test_mode(self) -> None:
        """Only its owner can read it, whatever the umask."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.folder().write(CAPTURE)
        mode = (self.path / self.names()[0]).stat().st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o600)

    def test_count(self) -> None:
        """The oldest are deleted first."""
        folder = self.folder(count=3)
        for i in range(5):
            self.clock.advance(1)
            folder.write(capture_of(b"%d" % i))
        self.assertEqual(self.bodies(), [b"2", b"3", b"4"])

    def test_bytes(self) -> None:
        """So many of the oldest that there is room for the new one."""
        folder = self.folder(size=10 * KIB)
        for i in range(5):
            folder.write(capture_of(b"%d" % i * 2 * KIB))
        sizes = [(self.path / name).stat().st_size for name in self.names()]
        self.assertLessEqual(sum(sizes), 10 * KIB)
        self.assertEqual([body[:1] for body in self.bodies()], [b"1", b"2", b"3", b"4"])

    def test_larger_than_all(self) -> None:
        """A body that is larger than the bound is cut to it, and says so."""
        self.folder(size=KIB).write(capture_of(b"x" * 100 * KIB))
        (name,) = self.names()
        kept = self.read(name)
        self.assertTrue(kept.is_cut)
        self.assertLessEqual((self.path / name).stat().st_size, KIB)
        self.assertGreater(len(kept.body), KIB // 2)

    def test_no_room_for_a_head(self) -> None:
        """A head that is larger than the bound is not written."""
        with self.assertRaisesRegex(Exception, "its head alone has"):
            self.folder(size=10).write(capture_of(b"x"))
        self.assertEqual(self.names(), [])

    def test_earlier_runs(self) -> None:
        """Files of other processes count, and are the first to go."""
        self.folder(pid=6).write(capture_of(b"old"))
        self.clock.advance(1)
        self.folder(count=2).write(capture_of(b"new"))
        self.clock.advance(1)
        self.folder(count=2, pid=8).write(capture_of(b"newer"))
        self.assertEqual(self.bodies(), [b"new", b"newer"])

    def test_trim(self) -> None:
        """At start there is made room where the bounds have become narrower."""
        for i in range(5):
            self.folder(pid=i + 1).write(capture_of(b"%d" % i))
        self.folder(count=2).trim()
        self.assertEqual(self.bodies(), [b"3", b"4"])

    def test_beside_others(self) -> None:
        """Several processes hold the bounds together."""
        folders = [self.folder(size=10 * KIB, pid=pid) for pid in range(1, 9)]
        for i in range(3):
            for folder in folders:
                folder.write(capture_of(b"%d" % i * 2 * KIB))
                sizes = [(self.path / name).stat().st_size for name in self.names()]
                self.assertLessEqual(sum(sizes), 10 * KIB)
        self.assertEqual(len(self.names()), 4)

    def test_begun_by_others(self) -> None:
        """What another process is writing counts, and is left to it."""
        begun = self.path / ".20260131T120000Z-9-000001.capture.part"
        begun.write_bytes(b"x" * 6 * KIB)
        now = self.clock.seconds()
        os.utime(begun, (now, now))
        folder = self.folder(size=10 * KIB)
        for i in range(3):
            folder.write(capture_of(b"%d" % i * 2 * KIB))
        (name,) = set(self.names()) - {begun.name}
        self.assertEqual(self.read(name).body[:1], b"2")
        folder = self.folder(count=2)
        folder.write(capture_of(b"3"))
        self.assertEqual(len(self.names()), 2)

    def test_others_files(self) -> None:
        """Nothing is ever deleted that is not called like ours."""
        others = ["a.capture", "20260131T120000Z.capture", "precious", ".x.part"]
        for name in others:
            (self.path / name).write_bytes(b"x" * 10 * KIB)
            os.utime(self.path / name, (0, 0))
        folder = self.folder(count=1, size=KIB)
        for i in range(3):
            folder.write(capture_of(b"%d" % i))
        (ours,) = set(self.names()) - set(others)
        self.assertEqual(self.read(ours).body, b"2")
        self.assertLessEqual(set(others), set(self.names()))

    def test_same_name(self) -> None:
        """Where the same process number comes again in one second, nothing is lost."""
        self.folder().write(capture_of(b"one"))
        self.folder().write(capture_of(b"two"))
        self.assertEqual(sorted(self.bodies()), [b"one", b"two"])

    def test_left_behind(self) -> None:
        """What was begun by one that was killed is deleted, what is new is not."""
        folder = self.folder()
        folder.write(CAPTURE)
        stale, fresh = (
            self.path / f".20260131T120000Z-9-00000{n}.capture.part" for n in (1, 2)
        )
        now = self.clock.seconds()
        for path, at in ((stale, now - 2 * refused.STALE_SECONDS), (fresh, now)):
            path.write_bytes(b"half")
            os.utime(path, (at, at))
        self.folder().trim()
        self.assertFalse(stale.exists())
        self.assertTrue(fresh.exists())

    def test_fails(self) -> None:
        """A file that cannot be written whole leaves nothing behind."""

        def full(fd: int, octets: bytes) -> None:
            os.write(fd, octets[:10])
            os.close(fd)
            raise OSError(28, "No space left on device")

        self.patch(refused, "_write_whole", full)
        with self.assertRaises(OSError):
            self.folder().write(CAPTURE)
        self.assertEqual(self.names(), [])

    def test_no_files(self) -> None:
        """What is called like ours, but is no file, is passed over."""
        folder, link = (
            self.path / f"20200101T000000Z-1-00000{n}.capture" for n in (1, 2)
        )
        folder.mkdir()
        link.symlink_to(os.devnull)
        for i in range(3):
            self.folder(count=1, pid=2 + i).write(capture_of(b"%d" % i))
        (ours,) = set(self.names()) - {folder.name, link.name}
        self.assertEqual(self.read(ours).body, b"2")

    def test_another_users(self) -> None:
        """Nor is a file of another user deleted, or counted."""
        self.folder().write(capture_of(b"theirs"))
        uid = os.geteuid()
        self.patch(os, "geteuid", lambda: uid + 1)
        self.folder(size=10).trim()
        self.assertEqual(self.bodies(), [b"theirs"])

    def test_cannot_be_deleted(self) -> None:
        """One that cannot be deleted holds up nothing; the others make room for it."""
        for i in range(3):
            self.clock.advance(1)
            self.folder().write(capture_of(b"%d" % i))
        oldest, unlink = self.names()[0], os.unlink

        def fail(path: str) -> None:
            if path.endswith(oldest):
                raise PermissionError(errno.EPERM, "Operation not permitted")
            unlink(path)

        self.patch(os, "unlink", fail)
        for i in range(3, 6):
            self.clock.advance(1)
            self.folder(count=3).write(capture_of(b"%d" % i))
        self.assertEqual(self.bodies(), [b"0", b"4", b"5"])

    def test_link_beside(self) -> None:
        """What becomes a link once it was begun is not written through."""
        precious = self.path.parent / "precious"
        precious.write_bytes(b"precious")
        lexists = os.path.lexists

        def swap(path: str) -> bool:
            (part,) = self.path.glob(".*.part")
            part.unlink()
            part.symlink_to(precious)
            return lexists(path)

        self.patch(os.path, "lexists", swap)
        self.folder().write(CAPTURE)
        self.assertEqual(precious.read_bytes(), b"precious")


class KeeperTestCase(FolderTestCase):
    """Somebody who keeps bodies, with a thread that is the test."""

    def setUp(self) -> None:
        super().setUp()
        self.lines, self.metrics = Lines(), Metrics()
        self.is_held = False
        self.held: list[Callable[[], Any]] = []
        self.keeper = RefusedBodies(
            self.clock,
            self.folder(),
            self.lines.events(),
            self.metrics,
            self.in_thread,
        )

    def in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        if not self.is_held:
            return execute(work)
        done: Deferred[Any] = Deferred()

        def go_on() -> None:
            try:
                done.callback(work())
            except OSError:
                done.errback(Failure())

        self.held.append(go_on)
        return done


class RateTests(KeeperTestCase):
    """No client fills disk, memory or log with what is refused."""

    def test_rate(self) -> None:
        """So many a second are kept, the others are counted."""
        for _ in range(3 * RATE):
            self.keeper.keep(CAPTURE)
        self.assertEqual(len(self.names()), RATE)
        self.assertEqual(self.metrics.refused_captured, RATE)
        self.assertEqual(self.metrics.refused_not_captured, 2 * RATE)
        self.clock.advance(0.5)
        for _ in range(3 * RATE):
            self.keeper.keep(CAPTURE)
        self.assertEqual(len(self.names()), RATE + RATE // 2)

    def test_bytes_rate(self) -> None:
        """A large one takes the time of many small ones."""
        large = capture_of(b"x" * 2 * BYTES_RATE)
        self.keeper.keep(large)
        self.keeper.keep(CAPTURE)
        self.clock.advance(0.9)
        self.keeper.keep(CAPTURE)
        self.assertEqual(self.metrics.refused_captured, 1)
        self.clock.advance(0.2)
        self.keeper.keep(CAPTURE)
        self.assertEqual(self.metrics.refused_captured, 2)

    def test_clock_set_back(self) -> None:
        """It then goes on from there."""
        for _ in range(RATE + 1):
            self.keeper.keep(CAPTURE)
        self.clock.rightNow -= 3600
        self.keeper.keep(CAPTURE)
        self.assertEqual(self.metrics.refused_captured, RATE)
        self.clock.advance(0.15)
        self.keeper.keep(CAPTURE)
        self.assertEqual(self.metrics.refused_captured, RATE + 1)

    def test_slow_disk(self) -> None:
        """So many wait for the disk, no more; then they are written in order."""
        self.is_held = True
        for i in range(3 * WAITING_MAX):
            self.keeper.keep(capture_of(b"%d" % i))
            self.clock.advance(1)
        self.assertEqual(self.metrics.refused_not_captured, 2 * WAITING_MAX)
        while self.held:
            self.held.pop()()
        self.assertEqual(self.bodies(), [b"%d" % i for i in range(WAITING_MAX)])

    def test_slow_disk_and_large(self) -> None:
        """Of large ones fewer wait."""
        self.is_held = True
        for _ in range(10):
            self.keeper.keep(capture_of(b"x" * BYTES_RATE))
            self.clock.advance(10)
        self.assertEqual(self.metrics.refused_not_captured, 8)

    def test_one_line(self) -> None:
        """What is not kept is said once a minute, with its number."""
        self.keeper.start()
        self.path.rename(f"{self.path}-gone")
        for _ in range(3):
            self.keeper.keep(CAPTURE)
        self.assertEqual(self.lines.raw, [])
        self.clock.advance(60)
        key = "count#log-iss.http.logs.capture.error"
        (line,) = self.lines.having(key, "3")
        self.assertIn("No such file or directory", line["message"])
        self.clock.advance(60)
        self.assertEqual(len(self.lines.raw), 1)

    def test_trouble_at_start(self) -> None:
        """A directory that cannot be read is told of, too."""
        self.path.rename(f"{self.path}-gone")
        self.keeper.start()
        self.clock.advance(60)
        self.lines.having("count#log-iss.http.logs.capture.error", "0")[0]

    def test_again(self) -> None:
        """When the directory is back, so are the captures."""
        self.path.rename(f"{self.path}-gone")
        self.keeper.keep(CAPTURE)
        self.path.mkdir()
        self.keeper.keep(CAPTURE)
        self.assertEqual(self.bodies(), [CAPTURE.body])

    def test_stop(self) -> None:
        """At the end what waits is written; what was lost is said."""
        self.is_held = True
        self.keeper.start()
        for _ in range(RATE + 1):
            self.keeper.keep(CAPTURE)
        stopped = self.keeper.stop()
        self.assertNoResult(stopped)
        self.assertEqual(len(self.held), 1)
        while self.held:
            self.held.pop()()
        self.successResultOf(stopped)
        self.assertEqual(len(self.names()), RATE)
        self.assertEqual(len(self.lines.raw), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_with_a_disk_that_hangs(self) -> None:
        """The end does not wait for it for ever, and what waits is given up."""
        self.is_held = True
        for i in range(3):
            self.keeper.keep(capture_of(b"%d" % i))
        stopped = self.keeper.stop()
        self.clock.advance(STOP_SECONDS * 0.9)
        self.assertNoResult(stopped)
        self.clock.advance(STOP_SECONDS * 0.2)
        self.successResultOf(stopped)
        (line,) = self.lines.having("count#log-iss.http.logs.capture.error", "3")
        self.assertIn("the disk is too slow", line["message"])
        # Should it go on after all, so does nothing else.
        while self.held:
            self.held.pop()()
        self.assertEqual(len(self.names()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ThreadTests(SynchronousTestCase):
    """The thread that writes."""

    def setUp(self) -> None:
        self.calls: Queue[tuple[Callable[..., None], Any]] = Queue()
        self.reactor: Any = SimpleNamespace(
            callFromThread=lambda *call: self.calls.put(call)
        )

    def run_calls(self) -> None:
        call, result = self.calls.get(timeout=30)
        call(result)

    def test_daemon(self) -> None:
        """The end of the process does not wait for it."""
        done = in_daemon_thread(self.reactor, lambda: current_thread().daemon)
        self.assertNoResult(done)
        self.run_calls()
        self.assertTrue(self.successResultOf(done))

    def test_fails(self) -> None:
        """What is wrong is told in the reactor's thread."""

        def fail() -> None:
            raise PermissionError

        done = in_daemon_thread(self.reactor, fail)
        self.assertNoResult(done)
        self.run_calls()
        self.failureResultOf(done, PermissionError)


def noise(count: int) -> bytes:
    return os.urandom(count)


class KeepingTests(KeeperTestCase):
    """Posts that are answered 400 for their bodies, and all others."""

    site = "channel"
    authority = "http://me:hidden1@example.com"

    def setUp(self) -> None:
        super().setUp()
        self.use()

    def use(self, **settings: Any) -> None:
        self.front = Front(self.clock, refused=self.keeper, **settings)
        self.connection = Connection(self.front.site(self.site))

    def code(self) -> int:
        (answer,) = self.connection.answers()
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)
        return answer.code

    def kept(self) -> Capture:
        (name,) = self.names()
        return self.read(name)

    def test_malformed(self) -> None:
        """A body of malformed frames is kept, with what was wrong."""
        self.connection.send(request(b"no frames", path="/logs?a=b"))
        self.assertEqual(self.code(), 400)
        kept = self.kept()
        self.assertEqual((kept.body, kept.is_cut), (b"no frames", False))
        self.assertEqual(kept.target, b"/logs?a=b")
        self.assertEqual(kept.captured_at, "2026-01-31T12:00:00.000000Z")
        self.assertTrue(kept.because.startswith("Problem with body: "), kept.because)
        self.assertIn(("Content-Type", b"application/logplex-1"), kept.fields)
        self.assertEqual(kept.remote_addr, b"192.0.2.7")

    def test_gzip_as_it_came(self) -> None:
        """A gzip body whose frames are malformed is kept as gzip."""
        body = gzip.compress(b"no frames")
        self.connection.send(request(body, headers={"Content-Encoding": "gzip"}))
        self.assertEqual(self.code(), 400)
        kept = self.kept()
        self.assertEqual((kept.body, kept.is_cut), (body, False))
        self.assertIn(("Content-Encoding", b"gzip"), kept.fields)

    def test_more_than_may_be(self) -> None:
        """Nothing is made of a body that is beyond the rate; it is counted, once."""
        body = gzip.compress(b"no frames")
        octets = request(body, headers={"Content-Encoding": "gzip"})
        made: list[object] = []
        capture = KeepingLogsResource._capture

        def count(*arguments: Any) -> Capture:
            made.append(arguments)
            return capture(*arguments)

        self.patch(KeepingLogsResource, "_capture", count)
        for _ in range(RATE + 2):
            self.connection.send(octets)
            self.assertEqual(self.code(), 400)
        self.assertEqual(len(made), RATE)
        self.assertEqual(self.metrics.refused_captured, RATE)
        self.assertEqual(self.metrics.refused_not_captured, 2)

    def test_cut_off_gzip(self) -> None:
        """So is one whose gzip ends too early."""
        body = gzip.compress(framed(message()))[:-5]
        self.connection.send(request(body, headers={"Content-Encoding": "gzip"}))
        self.assertEqual(self.code(), 400)
        self.assertEqual((self.kept().body, self.kept().is_cut), (body, False))

    def test_wrong_count(self) -> None:
        """So is one with another number of frames, where that is an error."""
        self.use(require_msg_count=True)
        body = framed(message())
        self.connection.send(request(body, headers={"Logplex-Msg-Count": "2"}))
        self.assertEqual(self.code(), 400)
        self.assertEqual(self.kept().body, body)
        self.assertIn(("Logplex-Msg-Count", b"2"), self.kept().fields)

    def test_wrong_count_of_none(self) -> None:
        """So is an empty one that should not be."""
        self.use(require_msg_count=True)
        self.connection.send(request(b"", headers={"Logplex-Msg-Count": "2"}))
        self.assertEqual(self.code(), 400)
        self.assertEqual(self.kept().body, b"")

    def test_no_secrets(self) -> None:
        """Credentials and cookies are never kept, wherever they stand."""
        target = f"{self.authority}/logs?a=b"
        headers: dict[str, str | None] = {
            "Cookie": "hidden2",
            "X-Api-Key": "hidden3",
            "Proxy-Authorization": "hidden4",
            "Logplex-Frame-Id": "f1",
        }
        octets = request(b"no frames", headers=headers).replace(
            b"POST /logs ", f"POST {target} ".encode()
        )
        self.connection.send(octets)
        self.assertEqual(self.code(), 400)
        kept = self.kept()
        self.assertEqual(kept.target, b"/logs?a=b")
        self.assertIn(("Logplex-Frame-Id", b"f1"), kept.fields)
        written = (self.path / self.names()[0]).read_bytes()
        secret = re.search(rb"Authorization: Basic (\S+)", octets)
        assert secret is not None
        for word in (secret[1], b"token", b"hidden", b"Authorization", b"Cookie"):
            self.assertNotIn(word, written)

    def test_others(self) -> None:
        """Posts that are good, or refused for something else, are not kept."""
        for octets, code in [
            (request(framed(message())), 200),
            (request(b"x", headers={"Authorization": None}), 401),
            (request(b"x", headers={"Content-Type": "text/plain"}), 415),
            (request(b"", headers={"Logplex-Msg-Count": "7"}), 200),
        ]:
            self.connection.send(octets)
            self.assertEqual(self.code(), code)
        self.use(max_frames=1)
        self.connection.send(request(framed(message(), message())))
        self.assertEqual(self.code(), 413)
        self.use(enforce_ssl=True)
        self.connection.send(request(b"x"))
        self.assertEqual(self.code(), 400)
        self.assertEqual(self.names(), [])

    def test_retried(self) -> None:
        """A retry of what is under way is not kept, nor held."""
        self.front.deliverer.at_once = False
        octets = request(
            framed(message(b"x" * 1000)),
            headers={"Logplex-Frame-Id": "0123456789abcdef" * 2},
        )
        self.connection.send(octets)
        reserved = self.front.logs.budget.reserved_bytes
        other = Connection(self.front.site(self.site))
        other.send(octets)
        self.assertEqual(self.front.logs.budget.reserved_bytes, reserved)
        self.front.deliverer.waiters[0].callback(None)
        self.assertEqual(self.code(), 200)

    def test_delivered_slowly(self) -> None:
        """While a good body is delivered nothing is held but what it has become."""
        self.front.deliverer.at_once = False
        for headers, body in [
            ({}, framed(message())),
            ({"Content-Encoding": "gzip"}, gzip.compress(framed(message()))),
        ]:
            self.connection.send(request(body, headers=dict(headers)))
            (payload,) = self.front.deliverer.payloads
            self.assertEqual(self.front.logs.budget.reserved_bytes, len(payload.octets))
            self.front.deliverer.waiters.pop().callback(None)
            self.front.deliverer.payloads.clear()
            self.assertEqual(self.code(), 200)


class KeepingWithTwistedTests(KeepingTests):
    """The same on twisted.web's own channel."""

    site = "logs"
    # It does not know the absolute form.
    authority = ""


class ArrivingTests(KeepingTests):
    """What only a channel meets that gives a body as it arrives."""

    def test_broken_while_it_comes(self) -> None:
        """Of a body that is refused before its end what has come is kept, as cut."""
        body = noise(4 * KIB)
        octets = request(body, headers={"Content-Encoding": "gzip"})
        self.connection.send(octets[: -3 * KIB])
        self.assertEqual(self.code(), 400)
        self.assertEqual(self.kept().body, body[:KIB])
        self.assertTrue(self.kept().is_cut)

    def test_broken_at_its_end(self) -> None:
        """One that was there whole is not cut."""
        body = noise(4 * KIB)
        self.connection.send(request(body, headers={"Content-Encoding": "gzip"}))
        self.assertEqual(self.code(), 400)
        self.assertEqual((self.kept().body, self.kept().is_cut), (body, False))

    def test_counted(self) -> None:
        """What is kept of a gzip body counts beside what it inflates to."""
        frames = framed(message(noise(10 * KIB)))
        body = gzip.compress(frames)
        octets = request(body, headers={"Content-Encoding": "gzip"})
        self.connection.send(octets[:-100])
        reserved = self.front.logs.budget.reserved_bytes
        self.assertGreater(reserved, len(body) - 100)
        self.assertGreater(reserved, 1.9 * len(body))
        self.connection.send(octets[-100:])
        self.assertEqual(self.code(), 200)

    def test_no_http(self) -> None:
        """What is no HTTP is not kept, before its body or in it."""
        chunked = request(chunks=[b"no frames"])
        for octets in (
            request(b"x").replace(b"Content-Length: 1", b"Content-Length: one"),
            chunked.replace(b"no frames\r\n", b"no frames, too long\r\n"),
        ):
            self.use()
            self.connection.send(octets)
            self.assertEqual(self.code(), 400)
        self.assertEqual(self.names(), [])

    def test_gone(self) -> None:
        """Of a client that has gone nothing is kept, nor reserved."""
        body = gzip.compress(framed(message(noise(10 * KIB))))
        octets = request(body, headers={"Content-Encoding": "gzip"})
        self.connection.send(octets[:-100])
        self.connection.hang_up()
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)
        self.assertEqual(self.names(), [])
