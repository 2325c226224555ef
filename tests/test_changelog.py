"""The changelog is made of the fragments, and the version stands in one place."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from docs import make_man
from logiss import __version__

ROOT = Path(__file__).parent.parent
FRAGMENTS = ROOT / "newsfragments"
_VERSION = "9.8.7"


def fragments() -> list[Path]:
    return [path for path in FRAGMENTS.iterdir() if path.name != "README.rst"]


def towncrier(*arguments: str, folder: Path = ROOT) -> str:
    """What it writes to standard output."""
    if find_spec("towncrier") is None:
        reason = "towncrier is not installed (pip install towncrier)"
        if os.environ.get("CI"):
            raise AssertionError(reason)
        raise SkipTest(reason)
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


def one_line(text: str) -> str:
    return " ".join(text.split())


class FragmentsTests(SynchronousTestCase):
    """Each change that was written down gets into the changelog."""

    def test_names(self) -> None:
        """Each file is called as towncrier finds it; another would be left out."""
        for path in fragments():
            self.assertRegex(path.name, r"^\+[a-z-]+\.(feature|bugfix|misc)\.rst$")
        self.assertGreater(len(fragments()), 0)

    def test_rendered(self) -> None:
        """A draft has each fragment whole."""
        draft = one_line(towncrier("build", "--draft", "--version", _VERSION))
        for path in fragments():
            with self.subTest(path.name):
                self.assertIn(one_line(path.read_text()), draft)

    def test_built(self) -> None:
        """
        Built, they are a section of CHANGELOG.rst that docutils reads and that the man
        page takes its day from, and are gone.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file in ("CHANGELOG.rst", "pyproject.toml"):
                shutil.copy(ROOT / file, folder)
            shutil.copytree(FRAGMENTS, folder / "newsfragments")
            towncrier("build", "--yes", "--version", _VERSION, folder=folder)
            left = [path.name for path in (folder / "newsfragments").iterdir()]
            self.assertEqual(left, ["README.rst"])
            changelog = folder / "CHANGELOG.rst"
            self.patch(make_man, "CHANGELOG", changelog)
            self.assertRegex(make_man.released_on(_VERSION), r"^\d{4}-\d\d-\d\d$")
            check_syntax(changelog)


def check_syntax(path: Path) -> None:
    core = import_module("docutils.core")
    settings = {"halt_level": 1, "report_level": 5}
    core.publish_doctree(path.read_text(), settings_overrides=settings)


class VersionTests(SynchronousTestCase):
    """It is written down once."""

    def test_only_there(self) -> None:
        """What is installed has it from ``_version.py``; no other file has it."""
        self.assertEqual(importlib.metadata.version("logiss"), __version__)
        places = [*(ROOT / "logiss").rglob("*.py"), *(ROOT / "docs").glob("*.py")]
        for path in [*places, ROOT / "setup.py", ROOT / "pyproject.toml"]:
            if path.name != "_version.py":
                text = path.read_text()
                self.assertNotRegex(text, rf'["\']{re.escape(__version__)}["\']', path)

    def test_documentation(self) -> None:
        """The pages take it from there as well, where they are built."""
        conf = ROOT / "docs" / "conf.py"
        if not conf.exists():
            raise SkipTest("there is no docs/conf.py")
        self.assertRegex(conf.read_text(), r"__version__|_version\.py")
