"""Posts enter until the drain begins; it ends when the last has left."""

from twisted.trial.unittest import SynchronousTestCase

from logiss.drain import Drain


class DrainTests(SynchronousTestCase):
    """`Drain` lets posts in, then no more, and says once when it is empty."""

    def setUp(self) -> None:
        self.drain = Drain()
        self.told: list[str] = []

    def emptied(self) -> None:
        self.told.append("emptied")

    def test_open(self) -> None:
        """Until it begins, posts come and go and nobody is told."""
        self.assertFalse(self.drain.draining)
        self.assertTrue(self.drain.enter())
        self.assertTrue(self.drain.enter())
        self.assertEqual(self.drain.inside, 2)
        self.drain.leave()
        self.drain.leave()
        self.assertEqual(self.drain.inside, 0)
        self.assertFalse(self.drain.draining)
        self.assertTrue(self.drain.enter())

    def test_closed(self) -> None:
        """Once it has begun, nobody enters, empty or not."""
        self.drain.enter()
        self.drain.begin(self.emptied)
        self.assertTrue(self.drain.draining)
        self.assertFalse(self.drain.enter())
        self.assertEqual(self.drain.inside, 1)
        self.drain.leave()
        self.assertFalse(self.drain.enter())
        self.assertEqual(self.drain.inside, 0)

    def test_empty_at_once(self) -> None:
        """With nobody inside it is empty at once, and told once."""
        self.drain.begin(self.emptied)
        self.assertEqual(self.told, ["emptied"])
        self.drain.enter()
        self.assertEqual(self.told, ["emptied"])

    def test_last_one_left(self) -> None:
        """It is told when the last has left, not before, and once."""
        self.drain.enter()
        self.drain.enter()
        self.drain.begin(self.emptied)
        self.assertEqual(self.told, [])
        self.drain.leave()
        self.assertEqual(self.told, [])
        self.drain.leave()
        self.assertEqual(self.told, ["emptied"])

    def test_began_twice(self) -> None:
        """Each who began it is told once."""
        self.drain.enter()
        self.drain.begin(self.emptied)
        self.drain.begin(lambda: self.told.append("second"))
        self.drain.leave()
        self.assertEqual(self.told, ["emptied", "second"])
        self.drain.begin(lambda: self.told.append("third"))
        self.assertEqual(self.told, ["emptied", "second", "third"])

    def test_begun_when_told(self) -> None:
        """Who is told may begin it again, without being told twice."""

        def again() -> None:
            self.told.append("first")
            self.drain.begin(self.emptied)

        self.drain.begin(again)
        self.assertEqual(self.told, ["first", "emptied"])

    def test_left_without_entering(self) -> None:
        """One who has not entered cannot leave."""
        with self.assertRaises(AssertionError):
            self.drain.leave()
