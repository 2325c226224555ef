"""
The documentation as pages, as ``make docs`` makes them.

They are also read as plain files, so links name files (``reliability.rst#replay``).
``docs/_ext/linked_files.py`` makes links between pages of them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

_TREE = Path(__file__).parents[2]
_NOT_SOURCE = shutil.ignore_patterns(
    ".*", "*.egg-info", "build", "dist", "__pycache__", "dropin.cache", "_trial_temp*"
)
_BUILD_SECONDS = 300.0


@pytest.fixture(scope="module", autouse=True)
def sphinx() -> None:
    missing = [m for m in ("sphinx", "furo", "sphinxarg") if find_spec(m) is None]
    if missing:
        reason = f"{', '.join(missing)} not installed (pip install '.[docs]')"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def _build(tree: Path) -> subprocess.CompletedProcess[str]:
    """Make pages in ``build/docs`` of `tree`, by the very command of ``make docs``."""
    return subprocess.run(
        [
            "make",
            "-s",
            "-o",
            ".venv/installed",
            "docs",
            f"BIN={Path(sys.prefix) / 'bin'}",
        ],
        cwd=tree,
        # Without a network, as far as programs ask where one is.
        env={"PATH": os.defpath, "http_proxy": "http://127.0.0.1:9", "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = tmp_path_factory.mktemp("pages") / "logiss"
    shutil.copytree(_TREE, copied, ignore=_NOT_SOURCE)
    return copied


@pytest.fixture(scope="module")
def pages(tree: Path) -> Path:
    done = _build(tree)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return tree / "build" / "docs"


class _Links(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if tag == "a" and name == "href" and value:
                self.targets.add(value)
            if name == "id" and value:
                self.ids.add(value)


def _dangling(folder: Path) -> Iterator[tuple[str, str]]:
    """Each link of the pages in `folder` to a file or a section that is not there."""
    pages = {page: _Links(page) for page in folder.glob("*.html")}
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            path = (page.parent / unquote(parts.path)) if parts.path else page
            ids = pages[path].ids if path in pages else {parts.fragment}
            is_there = path.is_file() and (not parts.fragment or parts.fragment in ids)
            if not parts.scheme and not is_there:
                yield page.name, target


def test_built(pages: Path) -> None:
    """``make docs`` makes a page of each document, without a warning."""
    documents = {path.stem for path in (_TREE / "docs").glob("*.rst")}
    made = {path.stem for path in pages.glob("*.html")}
    # The one is part of another page, the others are Sphinx's own.
    assert made == documents - {"faults-report"} | {"genindex", "search"}


def test_linked(pages: Path) -> None:
    """No page links to a page, a section or a file that is not there."""
    assert list(_dangling(pages)) == []
    text = (pages / "faults.html").read_text()
    assert 'href="reliability.html#how-it-is-shown"' in text


def test_commands(pages: Path) -> None:
    """The page on the commands has each of them, and what its help says of it."""
    text = (pages / "commands.html").read_text()
    for words in ("logiss run", "logiss top", "--with-receiver", "logiss credentials"):
        assert words in text


_BROKEN = {
    "`a <nowhere.rst>`__": "no page or file: nowhere.rst",
    "`a <nowhere.png>`__": "no page or file: nowhere.png",
    "`a <http.rst#nowhere>`__": "no section nowhere in http",
    "`a <../README.rst>`__": "no page or file: ../README.rst",
    ":doc:`nowhere`": "unknown document: 'nowhere'",
    ":ref:`nowhere`": "undefined label: 'nowhere'",
}


def test_broken_links_fail(tree: Path, pages: Path) -> None:
    """A link to a page, a file or a section that is not there is an error."""
    page = tree / "docs" / "sending.rst"
    page.write_text("\n\n".join([page.read_text(), *_BROKEN, ""]))
    done = _build(tree)
    assert done.returncode != 0
    assert [told for told in _BROKEN.values() if told not in done.stderr] == []
    assert done.stderr.count("WARNING") == len(_BROKEN)
