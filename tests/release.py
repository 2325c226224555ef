"""
Builds the source distribution and the wheel, installs each into an empty environment
and tries it out: ``make release-check``.

The wheel is built from the source distribution, as ``build`` does it. What is tried
with what is installed is in ``tests/smoke.py``.
"""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from attrs import frozen

from logiss import __version__

TREE = Path(__file__).parent.parent
SMOKE = Path(__file__).with_name("smoke.py")
#: With what earlier builds have left in the tree, as a release may well be made.
NOT_SOURCE = shutil.ignore_patterns(
    *(".git", ".venv", ".tox", ".*_cache", ".fuzz", ".hypothesis"),
    *("*.egg-info", "build", "dist", "__pycache__", "dropin.cache", "_trial_temp*"),
)
INSTALL_SECONDS = 300.0


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

    def metadata(self) -> "email.message.Message[str, str]":
        """What the wheel says of itself; the README is its payload."""
        with zipfile.ZipFile(self.wheel) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("-info/METADATA"))
            return email.message_from_string(archive.read(name).decode())


def pip_environ(**more: str) -> Mapping[str, str]:
    """pip is told by the environment where its index and proxies are."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**kept, **more}


def succeed(
    command: list[str], cwd: Path, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `command` with nothing but `environ`; it is killed when it hangs."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={"PATH": os.defpath, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def new_python(folder: Path, cwd: Path) -> str:
    """The interpreter of a new virtual environment."""
    succeed([sys.executable, "-m", "venv", str(folder)], cwd, pip_environ())
    return str(folder / "bin" / "python")


def build(folder: Path) -> Packages:
    """Build both from a copy of the tree."""
    outside, source, dist = folder / "elsewhere", folder / "source", folder / "dist"
    outside.mkdir()
    shutil.copytree(TREE, source, ignore=NOT_SOURCE)
    command = [sys.executable, "-m", "build", "--outdir", str(dist), str(source)]
    succeed(command, outside, pip_environ())
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    return Packages(folder, outside, sdist, wheel)


def install(packages: Packages, package: Path, name: str) -> str:
    """
    The interpreter of a new environment with `package`, and with what its metadata
    asks for.
    """
    python = new_python(packages.folder / name, packages.outside)
    succeed(
        [python, "-m", "pip", "install", "--quiet", str(package)],
        packages.outside,
        pip_environ(),
    )
    return python


def try_out(packages: Packages, python: str) -> str:
    """Run the smoke test, and say what was tried."""
    # -I: neither this folder nor the environment gives it anything of ours.
    command = [python, "-I", str(SMOKE), __version__]
    return succeed(command, packages.outside, {}).stdout


def readme_problems(packages: Packages) -> str:
    """What an index would have against the README, as ``twine check`` finds it."""
    from readme_renderer import rst

    metadata = packages.metadata()
    if metadata["Description-Content-Type"] != "text/x-rst":
        return "its content type is not text/x-rst"
    problems = StringIO()
    rendered = rst.render(str(metadata.get_payload()), stream=problems)
    return problems.getvalue() or ("" if rendered else "nothing comes of it")


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        packages = build(Path(folder))
        print(f"built: {packages.sdist.name}, {packages.wheel.name}")
        problems = readme_problems(packages)
        if problems:
            sys.exit(f"README.rst: {problems}")
        print("ok: An index can show the README.")
        for name, package in (("sdist", packages.sdist), ("wheel", packages.wheel)):
            python = install(packages, package, name)
            print(f"installed: {package.name}\n{try_out(packages, python)}", end="")
        target.mkdir(exist_ok=True)
        for package in (packages.sdist, packages.wheel):
            shutil.copy(package, target)
    print(f"{target} has what was tried out")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
