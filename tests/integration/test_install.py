"""
What a user gets from ``pip install``: the commands, from any directory, and one
line for each mistake in the configuration.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from attrs import frozen

from tests.release import (
    INSTALL_SECONDS,
    NOT_SOURCE,
    TREE,
    Packages,
    new_python,
    pip_environ,
)

_COMMAND_SECONDS = 60.0


def _run(
    command: list[str],
    cwd: Path,
    environ: Mapping[str, str],
    seconds: float = _COMMAND_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run `command` with nothing but `environ`; it is killed when it hangs."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={"PATH": os.defpath, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@frozen
class Installed:
    """
    A virtual environment of its own with logiss and what its metadata asks for.

    Everything is installed as a user would: build isolation, dependencies from the
    package index. Borrowing this environment's packages would be faster, and would
    hide a dependency that the metadata forgets or a plugin that is not packaged.

    @ivar outside: from where nothing of the source tree is found.
    """

    python: str
    outside: Path

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment from outside the source tree."""
        command = str(Path(self.python).with_name(name))
        return _run([command, *arguments], self.outside, {})


def _editable(folder: Path) -> Installed:
    source, outside = folder / "source", folder / "elsewhere"
    outside.mkdir()
    # A build leaves things behind in the tree; not in ours.
    shutil.copytree(TREE, source, ignore=NOT_SOURCE)
    python = new_python(folder / "venv", outside)
    pip = [python, "-m", "pip", "install", "--quiet", "--editable", str(source)]
    done = _run(pip, outside, pip_environ(), INSTALL_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return Installed(python, outside)


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    packages: Packages,
) -> Installed:
    if request.param == "wheel":
        python = request.getfixturevalue("wheel_python")
        return Installed(python, packages.outside)
    folder = tmp_path_factory.mktemp("editable")
    installed = _editable(folder)
    where = installed.run("python", "-c", "import logiss; print(logiss.__file__)")
    assert where.stdout.startswith(f"{folder / 'source'}{os.sep}"), where
    return installed


@pytest.mark.parametrize(
    "command",
    [
        "twist logiss --help",
        "twistd -n logiss --help",
        "twistd logiss --help",
        "python -m logiss run --help",
        "logiss run --help",
    ],
)
def test_help(installed: Installed, command: str) -> None:
    """The daemon can be started in each of these ways."""
    done = installed.run(*command.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "--with-receiver" in done.stdout


def test_page(installed: Installed) -> None:
    """The files of the status page are there too."""
    code = "from logiss.status import Status; from importlib.resources import files; "
    code += "print(*sorted(f.name for f in files('logiss').joinpath('page').iterdir()))"
    done = installed.run("python", "-c", code)
    assert (done.stdout, done.stderr) == ("index.html status.js style.css\n", "")


def test_lean(installed: Installed) -> None:
    """Who has no ADMIN_PORT does not load what it takes."""
    code = "import sys, logiss.daemon; "
    code += "print([m for m in ('prometheus_client', 'pygal', 'rich', 'shtab') if m in"
    done = installed.run("python", "-c", code + " sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("command", ["python -m logiss --help", "logiss --help"])
def test_subcommands(installed: Installed, command: str) -> None:
    """The ``logiss`` command lists what it can do."""
    done = installed.run(*command.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "run " in done.stdout
    assert "receive " in done.stdout


def test_plugin_listed(installed: Installed) -> None:
    """Both of Twisted's runners know the plugin."""
    for runner in ("twist", "twistd"):
        done = installed.run(runner, "--help")
        assert done.returncode == 0
        assert "logiss " in done.stdout


# The mistakes do not depend on how logiss was installed: these run what is tested.


def _twist(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, "-m", "twisted", "logiss"], folder, environ)


def _refusals(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a refused start says."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_nothing_set(tmp_path: Path) -> None:
    """Each required variable that is not set is named on a line of its own."""
    lines = _refusals(_twist(tmp_path))
    assert sorted(line.split(": ")[:2] for line in lines) == [
        ["logiss", name] for name in ("DEPLOY", "FORWARD_DEST", "PORT", "TOKEN_MAP")
    ]


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """Wrong values are named together with what is missing."""
    lines = _refusals(
        _twist(tmp_path, DEPLOY="test", PORT="http", FORWARD_DEST="nowhere")
    )
    assert sorted(line.split(": ")[1] for line in lines) == [
        "FORWARD_DEST",
        "PORT",
        "TOKEN_MAP",
    ]


@pytest.mark.parametrize(
    "token_map",
    ["dan:hunter2,hunter2", "hunter2", "dan:hunter2|:hunter2", "dan:hunter2,eve:"],
)
def test_token_not_printed(tmp_path: Path, token_map: str) -> None:
    """A mistake in TOKEN_MAP is told without a token."""
    done = _twist(
        tmp_path,
        DEPLOY="test",
        PORT="0",
        FORWARD_DEST="127.0.0.1:1",
        TOKEN_MAP=token_map,
    )
    (line,) = _refusals(done)
    assert line.startswith("logiss: TOKEN_MAP: entry ")
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", [["-m", "twisted", "logiss"], ["-m", "logiss", "run"]]
)
def test_port_in_use(tmp_path: Path, command: list[str]) -> None:
    """A port that somebody else has is told in a line that names PORT."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = _run(
            [sys.executable, *command],
            tmp_path,
            {
                "DEPLOY": "test",
                "PORT": str(port),
                "LISTEN_HOST": "127.0.0.1",
                "FORWARD_DEST": "127.0.0.1:1",
                "TOKEN_MAP": "dan:hunter2",
            },
        )
    (line,) = _refusals(done)
    assert line.startswith(f"logiss: PORT: cannot listen on 127.0.0.1:{port}: ")


def test_admin_port_in_use(tmp_path: Path) -> None:
    """Of the two ports the line names the one that somebody else has."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        environ = {
            "DEPLOY": "test",
            "PORT": "0",
            "LISTEN_HOST": "127.0.0.1",
            "FORWARD_DEST": "127.0.0.1:1",
            "TOKEN_MAP": "dan:hunter2",
            "ADMIN_PORT": str(port),
        }
        done = _run([sys.executable, "-m", "logiss", "run"], tmp_path, environ)
        elsewhere = {**environ, "ADMIN_PORT": "9514", "ADMIN_HOST": "192.0.2.1"}
        stranger = _run([sys.executable, "-m", "logiss", "run"], tmp_path, elsewhere)
    line = _refusals(done)[-1]
    assert line.startswith(f"logiss: ADMIN_PORT: cannot listen on 127.0.0.1:{port}: ")
    assert _refusals(stranger)[-1] == (
        "logiss: ADMIN_HOST: cannot listen on 192.0.2.1:9514: Cannot assign requested"
        " address; set it to an address of this machine"
    )


def test_port_in_use_under_twistd(tmp_path: Path) -> None:
    """The other runner ends in the same way."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        program = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"
        done = _run(
            [sys.executable, "-c", program, "-n", "--pidfile=", "logiss"],
            tmp_path,
            {
                "DEPLOY": "test",
                "PORT": str(port),
                "LISTEN_HOST": "127.0.0.1",
                "FORWARD_DEST": "127.0.0.1:1",
                "TOKEN_MAP": "dan:hunter2",
            },
        )
    (line,) = _refusals(done)
    assert line.startswith(f"logiss: PORT: cannot listen on 127.0.0.1:{port}: ")


@pytest.mark.parametrize("delivery", [{}, {"DELIVERY": "acked"}])
@pytest.mark.parametrize("runner", ["twisted", "logiss"])
def test_no_acknowledgements(
    tmp_path: Path, runner: str, delivery: dict[str, str]
) -> None:
    """Where the kernel cannot be asked, ``acked`` ends the start in a line."""
    (line,) = _refusals(_without_ioctl(tmp_path, runner, **delivery))
    assert line == (
        "logiss: DELIVERY: 'acked' needs Linux's SIOCOUTQ, which"
        f" {sys.platform} does not have; set DELIVERY=sent"
    )


@pytest.mark.parametrize(
    "variables",
    [{"DELIVERY": "sent"}, {"FORWARD_DEST": "relp://127.0.0.1:1"}],
    ids=["sent", "relp"],
)
def test_no_acknowledgements_needed(tmp_path: Path, variables: dict[str, str]) -> None:
    """There the other levels start: they come as far as to the port."""
    (line,) = _refusals(_without_ioctl(tmp_path, "logiss", **variables))
    assert line.startswith("logiss: PORT: ")


def _without_ioctl(
    folder: Path, runner: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """
    Start the daemon on a platform that does not have SIOCOUTQ, and on a port that
    is taken: so the start ends in any case.
    """
    arguments = {"twisted": ["logiss"], "logiss": ["run"]}[runner]
    program = (
        "import runpy; from logiss import wire; wire._SIOCOUTQ = 0;"
        f" runpy.run_module({runner!r}, run_name='__main__', alter_sys=True)"
    )
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        return _run(
            [sys.executable, "-c", program, *arguments],
            folder,
            {
                "DEPLOY": "test",
                "PORT": str(holder.getsockname()[1]),
                "LISTEN_HOST": "127.0.0.1",
                "FORWARD_DEST": "127.0.0.1:1",
                "TOKEN_MAP": "dan:hunter2",
                **variables,
            },
        )
