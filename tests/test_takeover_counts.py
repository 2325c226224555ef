"""What a parent hands to itself of what was counted."""

import os
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from logiss import takeover
from logiss.history import Sample
from logiss.intercom import NotUnderstood, written
from logiss.metrics import Metrics
from logiss.takeover import TAKEOVER, Handed, Takeover, hand_over, take_over
from logiss.totals import Gone
from tests import cases
from tests.test_intercom_messages import plain


def handed(descriptor: int) -> Takeover:
    sample = Sample(6.0, 7)
    told = cases.facts(metrics=Metrics(posts_succeeded=5))
    gone = Gone().with_one_more(2, evolve(told, cpu_seconds=1.5), Sample(3.0, 4))
    workers = (
        Handed(1, 3, 99, descriptor, "serving", 5.0, True, b"half", 6.0, told, sample),
        Handed(2, 3, 98, descriptor, "starting", 5.0, False, b""),
    )
    environ = {"TOKEN_MAP": "secret"}
    reloads = {"done": 2, "refused": 1}
    return Takeover(
        descriptor,
        None,
        descriptor,
        3,
        environ,
        {},
        workers,
        {2: 4},
        gone,
        8.0,
        reloads,
    )


class TakeoverTests(SynchronousTestCase):
    """Nothing that was counted is lost when the parent executes itself."""

    def setUp(self) -> None:
        self.descriptor, other = os.pipe()
        for each in (self.descriptor, other):
            self.addCleanup(os.close, each)

    def over(self) -> Takeover:
        environ = {TAKEOVER: str(hand_over(handed(self.descriptor)))}
        taken = take_over(environ)
        assert taken is not None
        self.assertEqual(environ, {})
        return taken

    def test_all(self) -> None:
        """Workers with what they told last, those who are gone, falls and reloads."""
        self.assertEqual(plain(self.over()), plain(handed(self.descriptor)))

    def test_another_dialect(self) -> None:
        """Of another version workers and falls are taken over, and no counts."""
        descriptor = hand_over(handed(self.descriptor))
        self.patch(takeover, "DIALECT", "another")
        taken = take_over({TAKEOVER: str(descriptor)})
        assert taken is not None
        self.assertEqual(plain(taken.gone), plain(Gone()))
        self.assertEqual([w.pid for w in taken.workers], [99, 98])
        self.assertEqual([w.facts for w in taken.workers], [None, None])
        self.assertEqual((taken.falls, taken.reloads["done"]), ({2: 4}, 2))

    def test_other_fields(self) -> None:
        """So it is where what stays of workers has another form."""

        def asdict(*_: Any, **__: Any) -> dict[str, Any]:
            return {"another": 1}

        self.patch(takeover, "asdict", asdict)
        self.assertEqual(plain(self.over().gone), plain(Gone()))

    def test_nothing(self) -> None:
        """A process that was not a parent has nothing to take over."""
        self.assertIs(take_over({}), None)

    def test_another_form(self) -> None:
        """What is no takeover is told."""
        descriptor = os.memfd_create("test")
        os.write(descriptor, written((2, "else")))
        with self.assertRaises(NotUnderstood):
            take_over({TAKEOVER: str(descriptor)})
