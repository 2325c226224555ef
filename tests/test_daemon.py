"""`logiss.daemon`: which configuration a process begins with."""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from logiss.daemon import complete, taken_over

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


class CompleteTests(SynchronousTestCase):
    """What counts is put together from several places."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name, "logiss.env")
        self.environ = {"ENV_FILE": str(self.file), "DEPLOY": "environment"}

    def complete(self, text: str, http: str | None = None) -> dict[str, str]:
        self.file.write_text(text)
        options = {"http": http, "with-receiver": False}
        return complete(self.environ, options, {"PORT": "4711"})

    def test_order(self) -> None:
        """The command line is before the file, and that before the environment."""
        found = self.complete("DEPLOY=file\nHTTP_CHANNEL=stock\n", "fast")
        self.assertEqual((found["DEPLOY"], found["HTTP_CHANNEL"]), ("file", "fast"))

    def test_handed_over(self) -> None:
        """Sockets that were handed over are what is listened on, whatever it says."""
        self.assertEqual(self.complete("PORT=5000\n")["PORT"], "4711")
