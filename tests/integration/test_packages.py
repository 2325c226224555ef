"""
The source distribution and the wheel, and what is installed from them: a compiled
codec, or where there is no compiler a pure one.
"""

import os
import shlex
import shutil
import sysconfig
from pathlib import Path

import pytest

from logiss import __version__
from tests import release
from tests.release import Packages, pip_environ, succeed

#: A wheel would bring what was compiled elsewhere.
FROM_SOURCE = ("--no-deps", "--no-binary=logiss")
CHOICE = "from logiss import codec, _version; print(codec.NAME, _version.__file__)"


def need_compiler() -> None:
    """Without one there is no compiled codec; where tests must not skip, they fail."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(shlex.split(command)[0]) is None and not os.environ.get("CI"):
        pytest.skip(f"there is no {command}")


def test_sdist(packages: Packages) -> None:
    """It has what builds, documents and tests a logiss, and nothing that was built."""
    names = packages.names_in_sdist()
    assert {
        ".dockerignore",
        "CHANGELOG.rst",
        "LICENSE",
        "README.rst",
        "deploy/docker/Dockerfile",
        "deploy/heroku/.python-version",
        "deploy/systemd/logiss.socket",
        "docs/index.rst",
        "docs/logiss.1",
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
        f"logiss-{__version__}.data/data/share/man/man1/logiss.1",
    } <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == {
        "logiss",
        "twisted",
    }
    assert not any("__init__" in name for name in names if name.startswith("twisted/"))
    assert "logiss/_frames.c" not in names


def test_compiled(packages: Packages, wheel_python: str) -> None:
    """The wheel's codec is the compiled one."""
    need_compiler()
    done = succeed([wheel_python, "-c", CHOICE], packages.outside, {})
    name, where = done.stdout.split()
    assert name == "compiled"
    assert Path(where).is_relative_to(packages.folder / "wheel")


@pytest.mark.parametrize("which", ["wheel_python", "sdist_python"])
def test_smoke(packages: Packages, which: str, request: pytest.FixtureRequest) -> None:
    """With either, all that ``tests/smoke.py`` tries works."""
    said = release.try_out(packages, request.getfixturevalue(which))
    assert said.count("ok: ") == 3


def test_readme(packages: Packages) -> None:
    """An index can show the README."""
    assert release.readme_problems(packages) == ""


def test_version(packages: Packages) -> None:
    """Both are named after the version that stands in ``_version.py``."""
    assert packages.metadata()["Version"] == __version__
    assert packages.sdist.name == f"logiss-{__version__}.tar.gz"
    assert packages.wheel.name.startswith(f"logiss-{__version__}-")


def test_no_compiler(packages: Packages, wheel_python: str) -> None:
    """Where the compiler fails the install does not, and the codec is pure."""
    target = packages.folder / "uncompiled"
    pip = [wheel_python, "-m", "pip", "install", "--quiet", *FROM_SOURCE]
    succeed(
        [*pip, "--target", str(target), str(packages.sdist)],
        packages.outside,
        pip_environ(CC="/bin/false"),
    )
    # It stands before the wheel, whose environment has what both depend on.
    environ = {"PYTHONPATH": str(target)}
    done = succeed([wheel_python, "-c", CHOICE], packages.outside, environ)
    name, where = done.stdout.split()
    assert name == "pure"
    assert Path(where).is_relative_to(target)
