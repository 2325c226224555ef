"""Who is let in and who is refused, summed up."""

from base64 import b64encode

from twisted.trial.unittest import SynchronousTestCase

from logiss import metrics as metrics_room
from logiss.credentials import Credential, Credentials, password_digest
from logiss.metrics import CountsByName, Metrics
from logiss.uses import UseSums
from tests.fakes import Lines

KEY = b"key"
SUCCESS = "count#log-iss.credentials.success"
FAILURE = "count#log-iss.credentials.failure"
DEPRECATED = "count#log-iss.credentials.deprecated"


def held(
    user: bytes, password: bytes, name: str, stage: str, deprecated: bool = False
) -> Credential:
    return Credential(name, stage, deprecated, password_digest(KEY, password), user)


class UseSumsTests(SynchronousTestCase):
    """A line for each user and stage, each use in one of them."""

    def setUp(self) -> None:
        self.credentials = Credentials(
            KEY,
            {
                b"ada": [
                    held(b"ada", b"1", "v1", "previous", True),
                    held(b"ada", b"2", "v2", "current"),
                    held(b"ada", b"3", "v3", "current"),
                ],
                b"bob": [held(b"bob", b"4", "", "current")],
            },
        )
        self.metrics = Metrics()
        self.lines = Lines()
        self.sums = UseSums(self.credentials, self.lines.events(), self.metrics)

    def offer(self, *pairs: bytes) -> None:
        for pair in pairs:
            self.credentials.authorize(b"Basic " + b64encode(pair))

    def written(self) -> list[str]:
        """The lines of this minute, without what they all begin with."""
        self.lines.raw.clear()
        self.sums.write()
        prefix = "app=log-iss source=test "
        return [line.removeprefix(prefix) for line in self.lines.raw]

    def test_sums(self) -> None:
        """By user and stage, those refused by user, deprecated ones by name."""
        self.offer(b"ada:1", b"ada:2", b"ada:3", b"bob:4", b"ada:1", b"ada:x", b"eve:1")
        self.assertEqual(
            self.written(),
            [
                f'{SUCCESS}=2 user="ada" stage="previous"',
                f'{SUCCESS}=2 user="ada" stage="current"',
                f'{SUCCESS}=1 user="bob" stage="current"',
                f'{FAILURE}=1 user="ada"',
                f"{FAILURE}=1",
                f'{DEPRECATED}=2 user="ada" stage="previous" name="v1"',
            ],
        )

    def test_only_news(self) -> None:
        """A minute without posts has no lines, and nothing is said twice."""
        self.assertEqual(self.written(), [])
        self.offer(b"bob:4", b"bob:5")
        self.assertEqual(len(self.written()), 2)
        self.assertEqual(self.written(), [])
        self.offer(b"bob:4")
        self.assertEqual(self.written(), [f'{SUCCESS}=1 user="bob" stage="current"'])

    def test_revoked(self) -> None:
        """What a credential had counted before it was removed is not lost."""
        self.offer(b"ada:1", b"ada:x", b"bob:4")
        self.sums.collect()
        self.credentials.replace({b"ada": []})
        self.credentials.replace({})
        self.offer(b"bob:4")
        self.assertEqual(
            self.written(),
            [
                f'{SUCCESS}=1 user="ada" stage="previous"',
                f'{SUCCESS}=2 user="bob" stage="current"',
                f'{FAILURE}=1 user="ada"',
                f'{DEPRECATED}=1 user="ada" stage="previous" name="v1"',
            ],
        )

    def test_metrics(self) -> None:
        """The metrics keep the sums since the start."""
        for _ in range(2):
            self.offer(b"ada:1", b"ada:x", b"eve:1")
            self.sums.write()
        self.assertEqual(self.metrics.accepted_by_stage, {(b"ada", "previous"): 2})
        self.assertEqual(self.metrics.refused_by_user, {(b"ada",): 2, (): 2})

    def test_hostile_names(self) -> None:
        """A name may hold anything: its line is still read as one of l2met."""
        name = 'x" count#y=1 \n'
        user = b'u" count#z=1 \xff'
        self.credentials.replace({user: [held(user, b"1", name, name, True)]})
        self.offer(user + b":1", user + b":2")
        self.sums.write()
        self.assertEqual(len(self.lines.pairs), 3)
        for pairs in self.lines.pairs:
            self.assertEqual(pairs["user"], user.decode("utf-8", "replace"))
            self.assertNotIn("count#y", pairs)
            self.assertNotIn("count#z", pairs)


class CountsByNameTests(SynchronousTestCase):
    """However many names there are, a bounded number is kept."""

    def test_bounded(self) -> None:
        """The first names are kept, all others are one."""
        self.patch(metrics_room, "NAMES_MAX", 2)
        counts = CountsByName()
        for name in ("a", "b", "c", "a", "d"):
            counts.add((name,), 2)
        self.assertEqual(counts, {("a",): 4, ("b",): 2, (): 4})
