"""What a parent hands to itself arrives whole, or is said not to be understood."""

import os
from typing import Any

from attrs import astuple, evolve
from twisted.trial.unittest import SynchronousTestCase

from logiss import takeover
from logiss.history import Sample
from logiss.intercom import NotUnderstood, written
from logiss.metrics import Metrics
from logiss.takeover import TAKEOVER, Handed, Takeover, hand_over, hold, keep, take_over
from logiss.totals import Gone


class TakeoverTests(SynchronousTestCase):
    """Over the execution go descriptors and a file in memory, and nothing else."""

    def setUp(self) -> None:
        self.open = [fd for _ in range(3) for fd in os.pipe()]
        for descriptor in self.open:
            self.addCleanup(os.close, descriptor)
        metrics = Metrics()
        metrics.posts_succeeded = 42
        self.gone = Gone(metrics, Sample(1.0, 2, 3))
        self.handed = Takeover(
            self.open[0],
            self.open[1],
            self.open[4],
            7,
            {"TOKEN_MAP": "user:hunter2", "ODD": "\udcff\n"},
            {"PORT": "5000"},
            (
                Handed(
                    1, 7, 4711, self.open[2], "serving", 12.5, True, b"\0\0\1", 25.5
                ),
                Handed(1, 6, 4700, self.open[3], "leaving", 2.5, False, b""),
            ),
            {1: 3},
            self.gone,
        )

    def hand_over(self) -> int:
        descriptor = hand_over(self.handed)
        self.addCleanup(self.close, descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        try:
            os.close(descriptor)
        except OSError:
            pass  # Whoever read it has done so.

    def test_round_trip(self) -> None:
        """It arrives as it was, and its file is gone, its variable as well."""
        environ = {TAKEOVER: str(self.hand_over()), "OTHER": "1"}
        descriptor = int(environ[TAKEOVER])
        found = take_over(environ)
        assert found is not None
        self.assertEqual(evolve(found, gone=self.gone), self.handed)
        self.assertEqual(found.gone.metrics.posts_succeeded, 42)
        self.assertEqual(found.gone.sample, self.gone.sample)
        self.assertEqual(environ, {"OTHER": "1"})
        with self.assertRaises(OSError):
            os.fstat(descriptor)

    def test_older(self) -> None:
        """What an older version, that says less of its workers, hands over is taken."""

        def say_less(worker: Handed, *, recurse: bool) -> Any:
            *more, _, facts, sample = astuple(worker, recurse=recurse)
            return (*more, facts, sample)

        self.patch(takeover, "astuple", say_less)
        found = take_over({TAKEOVER: str(self.hand_over())})
        assert found is not None
        first, second = found.workers
        self.assertEqual(first, evolve(self.handed.workers[0], drain_seconds=None))
        self.assertEqual(second, self.handed.workers[1])

    def test_inheritable(self) -> None:
        """All that it names stays open over an execution, unless there is none."""
        descriptor = self.hand_over()
        for each in (descriptor, *self.open[:5]):
            self.assertTrue(os.get_inheritable(each))
        keep(self.handed, descriptor)
        self.assertFalse(any(os.get_inheritable(each) for each in self.open))
        with self.assertRaises(OSError):
            os.fstat(descriptor)

    def test_held(self) -> None:
        """Whoever has taken it over passes none of it on unasked."""
        self.hand_over()
        hold(self.handed)
        self.assertFalse(any(os.get_inheritable(each) for each in self.open))

    def test_secrets(self) -> None:
        """Whoever prints it prints no secret."""
        self.assertNotIn("hunter2", repr(self.handed))

    def test_nothing(self) -> None:
        """Without its variable the process was nothing before."""
        self.assertIsNone(take_over({}))
        self.assertIsNone(take_over({TAKEOVER: ""}))

    def test_not_ours(self) -> None:
        """What somebody else has set is a line that says so."""
        garbage = os.memfd_create("garbage")
        os.write(garbage, b"garbage")
        empty = os.memfd_create("empty")
        for text in ("x", "-1", "999999", "²", str(garbage), str(empty)):
            with self.assertRaises(NotUnderstood) as caught:
                take_over({TAKEOVER: text})
            self.assertEqual(
                str(caught.exception),
                "LOGISS_TAKEOVER: is not for you to set; unset it",
            )

    def test_another_version(self) -> None:
        """What a later version has written is not guessed at."""
        self.patch(takeover, "VERSION", takeover.VERSION + 1)
        environ = {TAKEOVER: str(self.hand_over())}
        self.patch(takeover, "VERSION", takeover.VERSION - 1)
        with self.assertRaises(NotUnderstood) as caught:
            take_over(environ)
        self.assertIn("another version", str(caught.exception))

    def test_other_counts(self) -> None:
        """Counts that are not understood any more are lost, and nothing else is."""
        self.patch(takeover, "DIALECT", "another")
        environ = {TAKEOVER: str(self.hand_over())}
        self.patch(takeover, "DIALECT", "ours")
        found = take_over(environ)
        assert found is not None
        self.assertEqual(found.gone.metrics.posts_succeeded, 0)
        self.assertEqual(found.workers, self.handed.workers)

    def test_something_else(self) -> None:
        """A message of another kind is none."""
        memory = os.memfd_create("other")
        os.write(memory, written(("stop",)))
        with self.assertRaises(NotUnderstood):
            take_over({TAKEOVER: str(memory)})
