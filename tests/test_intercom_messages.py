"""What is said between a parent and its workers: each class, and nothing else."""

import os
import pickle
import subprocess
import sys
from typing import Any

from attrs import fields, has
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss import facts, history, intercom, metrics
from logiss.facts import EndedLinks
from logiss.history import Sample
from logiss.intercom import DIALECT, Intercom, NotUnderstood, read, written
from logiss.metrics import CountsByCode, Histogram, Link, Metrics
from tests import cases


def everything() -> tuple[Any, ...]:
    """A message in which there is something of each class."""
    counted = Metrics(posts_succeeded=5, post_seconds=0.5)
    counted.posts_failed_by_code[503] = 2
    counted.failures.append(cases.failed(503, "cause", request_id=b"\x00\xff"))
    counted.accepted_by_stage.add((b"app", "current"), 3)
    counted.refused_by_user.add((), 1)
    counted.add_loss(1.0, b"eve", 2, 3)
    counted.delivery.observe(0.1)
    about = cases.of_workers(
        metrics=counted,
        refusals=(cases.refusal(b"dan"),),
        ended_links=(EndedLinks(1, Link(0, "a:1", connects=3), 2),),
    )
    sample = Sample(1.0, posts_delivered=2, confirmation={"a:1": (1, 2)})
    return "told", DIALECT, 3, 4, about, sample


def plain(thing: Any) -> Any:
    """What it is made of, to be compared."""
    if isinstance(thing, Histogram):
        return thing.counts, thing.sum_seconds
    if has(type(thing)):
        return type(thing), [plain(getattr(thing, f.name)) for f in fields(type(thing))]
    if isinstance(thing, tuple | list):
        return type(thing), [plain(each) for each in thing]
    if isinstance(thing, dict):
        return type(thing), {key: plain(value) for key, value in thing.items()}
    return thing


class MessagesTests(SynchronousTestCase):
    """What is said is what is heard."""

    def test_round_trip(self) -> None:
        """Everything that a worker knows, of each class."""
        message = everything()
        octets = written(message)
        self.assertEqual(plain(read(octets)), plain(message))
        for _, name in intercom._CLASSES:
            self.assertIn(name.encode(), octets)

    def test_all_classes(self) -> None:
        """Each class that facts, samples and metrics are made of is known."""
        made = {
            thing
            for room in (facts, history, metrics)
            for thing in vars(room).values()
            if has(thing) and thing.__module__ == room.__name__
        }
        self.assertLessEqual(made, set(intercom._CLASSES.values()))
        self.assertIn(CountsByCode, intercom._CLASSES.values())

    def test_still_usable(self) -> None:
        """What was heard can go on counting."""
        heard = read(written((everything()[4].metrics,)))[0]
        heard.posts_failed_by_code[503] += 1
        heard.accepted_by_stage.add((b"app", "current"), 1)
        heard.delivery.observe(0.1)
        for n in range(60):
            heard.failures.append(n)
        self.assertEqual(heard.posts_failed, 3)
        self.assertEqual(len(heard.failures), 50)

    def test_refused(self) -> None:
        """Nothing else is made: no function, no other class, no object of ours."""
        for thing in (
            *(os.system, eval, subprocess.Popen, Intercom, ValueError("x"), object()),
            *(metrics.Name, range(3), complex(1, 2)),
        ):
            octets = pickle.dumps(("told", thing), 5)
            with self.subTest(thing), self.assertRaises(NotUnderstood):
                read(octets)

    def test_nothing_is_called(self) -> None:
        """What would do something when it is read does not."""

        place = self.mktemp()

        class Evil:
            def __reduce__(self) -> Any:
                return os.mkdir, (place,)

        octets = pickle.dumps((Evil(),), 5)
        with self.assertRaisesRegex(NotUnderstood, "mkdir is part of no message"):
            read(octets)
        self.assertFalse(os.path.exists(place))

    def test_no_tuple(self) -> None:
        """A message is a tuple that is not empty."""
        things: tuple[Any, ...] = ([1], "told", 1, None, (), {})
        for thing in things:
            with self.assertRaises(NotUnderstood):
                read(pickle.dumps(thing, 5))

    @given(st.binary(max_size=200))
    def test_garbage(self, octets: bytes) -> None:
        """Whatever the octets are, they are no message or one, and no other error."""
        try:
            message = read(octets)
        except NotUnderstood:
            return
        self.assertIsInstance(message, tuple)

    @given(st.data())
    def test_broken(self, data: st.DataObject) -> None:
        """So it is with a message of which a part is another, or missing."""
        octets = bytearray(written(everything()))
        at = data.draw(st.integers(0, len(octets) - 1))
        octets[at] = data.draw(st.integers(0, 255))
        try:
            read(bytes(octets[: data.draw(st.integers(0, len(octets)))]))
        except NotUnderstood:
            return


class DialectTests(SynchronousTestCase):
    """Versions that would not understand each other are told apart."""

    def test_same(self) -> None:
        """Two processes of the same code speak the same."""
        code = "from logiss.intercom import DIALECT; print(DIALECT)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        self.assertEqual(done.stdout.strip(), DIALECT)

    def test_differs(self) -> None:
        """Another version, or a class with other fields, is another dialect."""
        self.assertEqual(intercom._dialect(), DIALECT)
        self.patch(intercom, "__version__", "0")
        self.assertNotEqual(intercom._dialect(), DIALECT)
        self.patch(intercom, "__version__", intercom.__dict__["__version__"])
        changed = {**intercom._CLASSES, ("logiss.metrics", "Link"): Histogram}
        version = intercom._dialect()
        self.patch(intercom, "_CLASSES", changed)
        self.assertNotEqual(intercom._dialect(), version)
