"""The numbers of the bar."""

from twisted.trial.unittest import SynchronousTestCase

from logiss.progress import RATE_SECONDS, Rate


class RateTests(SynchronousTestCase):
    """How much faster a number has grown of late."""

    def test_of_late(self) -> None:
        """What was longer ago than a few seconds does not count any more."""
        rate = Rate()
        self.assertEqual(rate.at(0.0, 0), 0.0)
        self.assertEqual(rate.at(1.0, 100), 100.0)
        self.assertEqual(rate.at(2.0, 100), 50.0)
        for second in range(3, 20):
            rate.at(float(second), 100)
        self.assertEqual(rate.at(20.0, 100), 0.0)
        self.assertGreater(rate.at(20.0 + RATE_SECONDS / 2, 200), 0.0)

    def test_same_moment(self) -> None:
        """No time has passed: nothing is known yet."""
        rate = Rate()
        rate.at(1.0, 0)
        self.assertEqual(rate.at(1.0, 100), 0.0)
