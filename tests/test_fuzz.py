"""The corpus of each fuzz target passes it, and the targets are able to fail."""

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.growth import RUNS, Grown, Watched
from tests.fuzz.targets import CORPUS, TARGETS, WORDS

#: Each is an input of every run of the tests, and a start for what an engine tries.
SEEDS_MAX = 80
SEED_BYTES_MAX = 4096


class CorpusTests(SynchronousTestCase):
    """What has once been thought of, or found, is tried in each run of the tests."""

    def test_passes(self) -> None:
        """Each input of each corpus passes its target."""
        for target in TARGETS.values():
            check = target.load()
            for name, octets in target.seeds():
                with self.subTest((target.name, name)):
                    check(octets)

    def test_small(self) -> None:
        """No corpus is empty or large, nor is an input."""
        for target in TARGETS.values():
            sizes = [len(octets) for _, octets in target.seeds()]
            self.assertTrue(10 <= len(sizes) <= SEEDS_MAX, (target.name, len(sizes)))
            self.assertLessEqual(max(sizes), SEED_BYTES_MAX, target.name)

    def test_no_strangers(self) -> None:
        """Each target has a corpus and words, and there are no others."""
        names = sorted(TARGETS)
        self.assertEqual(sorted(path.name for path in CORPUS.iterdir()), names)
        self.assertEqual(sorted(path.stem for path in WORDS.iterdir()), names)


class GrowthTests(SynchronousTestCase):
    """What stays behind is seen."""

    def test_grown(self) -> None:
        """A target that keeps a block of each input is reported."""
        kept: list[bytes] = []
        watched = Watched(lambda octets: kept.append(octets + b"x"), blocks_max=500)
        with self.assertRaises(Grown) as raised:
            for _ in range(2 * RUNS):
                watched(b"octets")
        self.assertIn(f"after {2 * RUNS} runs", str(raised.exception))

    def test_not_grown(self) -> None:
        """One that keeps nothing is not."""
        watched = Watched(lambda octets: None, blocks_max=500)
        for _ in range(3 * RUNS):
            watched(b"octets")
        self.assertEqual(watched.runs, 3 * RUNS)
