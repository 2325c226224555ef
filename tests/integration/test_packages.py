"""
The source distribution and the wheel, and what is installed from them: a compiled
codec, or where there is no compiler a pure one.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from attrs import frozen

from tests.integration.test_install import (
    _INSTALL_SECONDS,
    _NOT_SOURCE,
    _TREE,
    _run,
)

#: A wheel would bring what was compiled elsewhere.
FROM_SOURCE = ("--no-deps", "--no-binary=logiss")
CHOICE = "from logiss import codec, _version; print(codec.NAME, _version.__file__)"


def need_compiler() -> None:
    """Without one there is no compiled codec; where tests must not skip, they fail."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(shlex.split(command)[0]) is None and not os.environ.get("CI"):
        pytest.skip(f"there is no {command}")


def pip_environ(**more: str) -> Mapping[str, str]:
    """pip is told by the environment where its index and proxies are."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**kept, **more}


@frozen
class Packages:
    """
    @ivar folder: also where they are installed.
    @ivar outside: from where nothing of the source tree is found.
    """

    folder: Path
    outside: Path
    sdist: Path
    wheel: Path

    def names_in_sdist(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            # Each begins with a folder that is named after the version.
            return {name.partition("/")[2] for name in archive.getnames()}

    def names_in_wheel(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())


def succeed(
    command: list[str], cwd: Path, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    done = _run(command, cwd, environ, _INSTALL_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def new_python(folder: Path, cwd: Path) -> str:
    """The interpreter of a new virtual environment."""
    succeed([sys.executable, "-m", "venv", str(folder)], cwd, pip_environ())
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Both, the wheel built from the source distribution, as ``build`` does it."""
    folder = tmp_path_factory.mktemp("packages")
    outside, source, dist = folder / "elsewhere", folder / "source", folder / "dist"
    outside.mkdir()
    # With what earlier builds have left in the tree, as a release may well be made.
    shutil.copytree(_TREE, source, ignore=_NOT_SOURCE)
    python = new_python(folder / "builder", outside)
    succeed(
        [python, "-m", "pip", "install", "--quiet", "build>=1.2"],
        outside,
        pip_environ(),
    )
    succeed(
        [python, "-m", "build", "--outdir", str(dist), str(source)],
        outside,
        pip_environ(),
    )
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    return Packages(folder, outside, sdist, wheel)


@pytest.fixture(scope="module")
def python(packages: Packages) -> str:
    """An interpreter that has the wheel and what its metadata asks for."""
    python = new_python(packages.folder / "venv", packages.outside)
    succeed(
        [python, "-m", "pip", "install", "--quiet", str(packages.wheel)],
        packages.outside,
        pip_environ(),
    )
    return python


def test_sdist(packages: Packages) -> None:
    """It has what builds, documents and tests a logiss, and nothing that was built."""
    names = packages.names_in_sdist()
    assert {
        "CHANGELOG.rst",
        "LICENSE",
        "README.rst",
        "docs/index.rst",
        "logiss/_frames.pyx",
        "logiss/frames.py",
        "logiss/py.typed",
        "pyproject.toml",
        "setup.py",
        "tests/fakes.py",
        "tests/vectors.json",
        "twisted/plugins/logiss_plugin.py",
    } <= names
    assert "logiss/_frames.c" not in names
    built = (".so", ".pyc", "dropin.cache")
    assert {name for name in names if name.endswith(built)} == set()


def test_wheel(packages: Packages) -> None:
    """It has the rooms, the plugin and the compiled codec, and no tests."""
    need_compiler()
    names = packages.names_in_wheel()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {
        f"logiss/_frames{suffix}",
        "logiss/frames.py",
        "logiss/py.typed",
        "logiss/tools/receive.py",
        "twisted/plugins/logiss_plugin.py",
    } <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "logiss",
        "twisted",
    }
    assert not any("__init__" in name for name in names if name.startswith("twisted/"))
    assert "logiss/_frames.c" not in names


def test_compiled(packages: Packages, python: str) -> None:
    """The wheel's codec is the compiled one."""
    need_compiler()
    done = succeed([python, "-c", CHOICE], packages.outside, {})
    name, where = done.stdout.split()
    assert name == "compiled"
    assert Path(where).is_relative_to(packages.folder / "venv")


def test_plugin(packages: Packages, python: str) -> None:
    """``twist`` of an environment with the wheel knows logiss."""
    twist = str(Path(python).with_name("twist"))
    done = succeed([twist, "logiss", "--help"], packages.outside, {})
    assert "--with-receiver" in done.stdout
    assert done.stderr == ""


def test_no_compiler(packages: Packages, python: str) -> None:
    """Where the compiler fails the install does not, and the codec is pure."""
    target = packages.folder / "uncompiled"
    pip = [python, "-m", "pip", "install", "--quiet", *FROM_SOURCE]
    succeed(
        [*pip, "--target", str(target), str(packages.sdist)],
        packages.outside,
        pip_environ(CC="/bin/false"),
    )
    # It stands before the wheel, whose environment has what both depend on.
    environ = {"PYTHONPATH": str(target)}
    done = succeed([python, "-c", CHOICE], packages.outside, environ)
    name, where = done.stdout.split()
    assert name == "pure"
    assert Path(where).is_relative_to(target)
