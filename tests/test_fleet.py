"""What makes ``make fleet`` fail."""

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tests.fleet.__main__ import ROUNDS, not_fewer
from tests.fleet.traffic import Outcome


def outcome(again: int = 0, unanswered: int = 0) -> Outcome:
    return Outcome("", answers=Counter({200: 1000, None: unanswered}), again=again)


class VerdictTests(SynchronousTestCase):
    """Outcomes that must not be are problems."""

    def test_table(self) -> None:
        """A table in Redis has to make less of what comes twice."""
        tables = [one for one in ROUNDS if one.has_redis]
        self.assertEqual(len(tables), 2)
        for one in tables:
            for again, is_problem in ((1, False), (2, True), (3, True)):
                both = {one.name: outcome(again), one.without_table: outcome(2)}
                self.assertEqual(bool(not_fewer(both)), is_problem)
            self.assertEqual(not_fewer({one.name: outcome(2)}), [])
        names = {one.name for one in ROUNDS if not one.has_redis}
        self.assertLessEqual({one.without_table for one in tables}, names)

    def test_hits(self) -> None:
        """A kill or a halt costs at most a post of each drain."""
        hit = {one.name: one for one in ROUNDS if one.hits is not None}
        named = {o.name for o in ROUNDS if "SIG" in o.name and "SIGHUP" not in o.name}
        self.assertLessEqual(named, set(hit))
        for one in hit.values():
            assert one.hits is not None
            most = one.hits * one.shape.drains
            self.assertEqual(one.problems(outcome(unanswered=most)), [])
            (why,) = one.problems(outcome(unanswered=most + 1))
            self.assertIn(f"{most + 1} posts not answered 200", why)
