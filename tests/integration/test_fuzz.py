"""
The targets are able to fail: mistakes that are planted in a copy of the tree are seen.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.planted import MISTAKES, Mistake, plant, seen_by_corpus

_TREE = Path(__file__).parents[2]
_RUN_SECONDS = 120


@pytest.mark.parametrize(
    "mistake", [m for m in MISTAKES if m.by_corpus], ids=lambda m: m.name
)
def test_seen(mistake: Mistake, tmp_path: Path) -> None:
    """The corpus alone shows most of the mistakes."""
    tree = tmp_path / "tree"
    plant(mistake, tree)
    assert seen_by_corpus(mistake, tree)


BY_NAME = {mistake.name: mistake for mistake in MISTAKES}


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("takes a doubled Host", "atheris"),
        ("takes a doubled Host", "hypothesis"),
        # Not with atheris: its own alarm does not always end a hang, so that the run is
        # ended from outside, with the finding told and its octets lost.
        ("spins behind a half member", "hypothesis"),
    ],
)
def test_found(name: str, engine: str, tmp_path: Path) -> None:
    """
    An engine that finds an error or a hang ends with 1, and says which octets it was
    and how to keep them.
    """
    need(engine)
    mistake, tree = BY_NAME[name], tmp_path / "tree"
    plant(mistake, tree)
    done = fuzz(tree, mistake.target, "--engine", engine, "--seconds", "30")
    assert done.returncode == 1, done.stdout
    assert f"fuzz: {mistake.target} has found something" in done.stdout
    (found,) = (tree / ".fuzz" / "findings").iterdir()
    assert f"cp {found} tests/fuzz/corpus/{mistake.target}/NAME" in done.stdout


@pytest.mark.parametrize("engine", ["atheris", "hypothesis"])
def test_nothing_found(engine: str, tmp_path: Path) -> None:
    """One that finds nothing says after how many inputs, and ends with 0."""
    need(engine)
    folder = str(tmp_path / "kept")
    arguments = ("basic", "--engine", engine, "--seconds", "2", "--folder", folder)
    done = fuzz(_TREE, *arguments)
    assert done.returncode == 0, done.stdout
    assert " runs, nothing found" in done.stdout


def need(engine: str) -> None:
    """`make fuzz` installs atheris, which has no wheel for some interpreters."""
    if engine == "atheris":
        pytest.importorskip("atheris")


def fuzz(tree: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        cwd=tree,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
        check=False,
    )
