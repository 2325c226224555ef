"""What became of each message, counted and told."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.tally import KINDS_MAX, Fate, Outcome, Tally, summary

OUTCOMES = st.builds(
    Outcome,
    st.sampled_from(list(Fate)),
    st.sampled_from([f"kind {n}" for n in range(2 * KINDS_MAX)]),
    st.sampled_from(["", '"detail"']),
    st.booleans(),
)


class TallyTests(SynchronousTestCase):
    """The numbers add up."""

    @given(st.lists(st.tuples(st.integers(1, 500), OUTCOMES)), st.integers(0, 99))
    def test_adds_up(self, ended: list[tuple[int, Outcome]], waiting: int) -> None:
        """Every message is in one of the numbers, and every loss has its cause."""
        tally = Tally(messages=sum(count for count, _ in ended) + waiting)
        for count, outcome in ended:
            tally.ended(count, outcome)
        self.assertEqual(tally.waiting, waiting)
        known = tally.delivered + tally.lost + tally.unknown
        self.assertEqual(known, sum(count for count, _ in ended))
        for fate, number in [(Fate.LOST, tally.lost), (Fate.UNKNOWN, tally.unknown)]:
            causes = [c for (f, _), c in tally.causes.items() if f is fate]
            self.assertEqual(sum(cause.messages for cause in causes), number)
        self.assertEqual(tally.is_whole, tally.delivered == tally.messages)
        # Whatever servers say, the end of the summary is near.
        self.assertLessEqual(len(list(summary(tally, 1.0))), KINDS_MAX + 5)

    def test_many_kinds(self) -> None:
        """Of many kinds of causes the last are summed up as one."""
        tally = Tally(messages=3 * KINDS_MAX)
        for n in range(3 * KINDS_MAX):
            tally.ended(1, Outcome(Fate.LOST, f"kind {n}"))
        self.assertEqual(len(tally.causes), KINDS_MAX + 1)
        self.assertEqual(
            tally.causes[Fate.LOST, "other causes"].messages, 2 * KINDS_MAX
        )

    def test_summary(self) -> None:
        """It says what there is to say, and no more."""
        tally = Tally(lines=3, messages=3)
        tally.ended(3, Outcome(Fate.DELIVERED))
        self.assertEqual(
            list(summary(tally, 2.0)),
            ["read 3 lines: 3 delivered, 0 lost, 0 not known; 2.0 s, 2 a second"],
        )
        tally = Tally(lines=1004, lines_cut=1, messages=1005, retries=1)
        tally.ended(500, Outcome(Fate.DELIVERED, is_duplicate=True))
        tally.ended(250, Outcome(Fate.LOST, "answered 400", '"frame 1"'))
        tally.ended(250, Outcome(Fate.LOST, "answered 400", '"frame 9"'))
        tally.ended(5, Outcome(Fate.UNKNOWN, "connection closed by a:1"))
        self.assertEqual(
            list(summary(tally, 0.0)),
            [
                "read 1,004 lines as 1,005 messages: 500 delivered, 500 lost, 5 not"
                " known; 0.0 s, 0 a second",
                "1 line longer than --line-bytes became several messages",
                "1 retry; 1 batch answered as delivered before",
                'lost: 500 messages in 2 batches: answered 400, first with "frame 1"',
                "not known: 5 messages in 1 batch and may have arrived or not:"
                " connection closed by a:1",
            ],
        )
