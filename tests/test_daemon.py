"""`logiss.daemon`: which configuration a process begins with."""

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from logiss.daemon import taken_over

ENVIRON = {
    "DEPLOY": "kept",
    "PORT": "5000",
    "FORWARD_DEST": "localhost:5001",
    "TOKEN_MAP": "ada:s3cret",
}


class TakenOverTests(SynchronousTestCase):
    """A parent that has executed itself is there, whatever has gone since."""

    def taken_over(self, **variables: str) -> tuple[Any, list[str]]:
        before: Any = SimpleNamespace(environ={**ENVIRON, **variables})
        return taken_over(before)

    def test_right(self) -> None:
        """Mostly nothing has."""
        configuration, problems = self.taken_over()
        self.assertEqual((configuration.environ, problems), (ENVIRON, []))
        self.assertEqual(configuration.settings.deploy, "kept")

    def test_gone(self) -> None:
        """What has is told, and stays in what workers are started with."""
        gone = {"CAPTURE_REFUSED": "/nowhere/folder", "WEB_CONCURRENCY": "3"}
        configuration, problems = self.taken_over(**gone)
        (problem,) = problems
        self.assertTrue(problem.startswith("CAPTURE_REFUSED: "))
        self.assertEqual(configuration.environ, {**ENVIRON, **gone})
        self.assertEqual(configuration.settings.workers, 3)
