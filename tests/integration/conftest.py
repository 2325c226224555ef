"""What several files need and what takes long to make is made once."""

import os
import shlex
import shutil
import sysconfig

import pytest

from tests import release
from tests.release import Packages


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """The source distribution and the wheel."""
    return release.build(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="session")
def wheel_python(packages: Packages) -> str:
    """An interpreter that has the wheel and what its metadata asks for."""
    return release.install(packages, packages.wheel, "wheel")


@pytest.fixture(scope="session")
def sdist_python(packages: Packages) -> str:
    """The same with the source distribution, where it can be compiled."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(shlex.split(command)[0]) is None and not os.environ.get("CI"):
        pytest.skip(f"there is no {command}")
    return release.install(packages, packages.sdist, "sdist")
