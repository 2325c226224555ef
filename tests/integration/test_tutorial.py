"""
The tutorial, typed as a new user would: each of its commands, in its order, in one bash
and an empty folder beside a fresh copy of the tree. What it shows is what is printed.

Not typed is what apt-get would install: it has to be there. The ports are those of the
text, or others where these are taken on this machine. What only looks is looked at
again when something else is shown, as somebody would who waits a moment.
"""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

_TREE = Path(__file__).parents[2]
_TUTORIAL = _TREE / "docs" / "tutorial.rst"
_NOT_SOURCE = shutil.ignore_patterns(
    ".*", "*.egg-info", "build", "dist", "__pycache__", "dropin.cache", "_trial_temp*"
)
#: A bound for what hangs, no measure: most of it is for pip.
_STEP_SECONDS = 300.0
#: What the text promises. It takes half a minute on two cores, so no noise reaches it.
_TUTORIAL_SECONDS = 600.0
_LOOKS = ("cat ", "grep ", "logiss check", "logiss top ")
_LOOK_SECONDS = 30.0


@frozen
class Step:
    """
    Something to be typed, and what is shown for it.

    @ivar shown: nothing when the text shows nothing.
    """

    typed: str
    shown: str = ""

    def is_shown_by(self, printed: str) -> bool:
        """Whether `printed` is what is shown; ``...`` stands for anything."""
        pieces = [re.escape(piece) for piece in self.shown.split("...")]
        return re.fullmatch(".*?".join(pieces), printed, re.DOTALL) is not None


def _steps(text: str) -> list[Step]:
    """What the blocks of `text` say, in order."""
    steps: list[Step] = []
    blocks = re.findall(
        r"^\.\. code-block:: (sh|text)\n\n((?:   .*\n|\n(?=\n*   ))+)", text, re.M
    )
    for language, block in blocks:
        lines = "\n".join(line[3:] for line in block.rstrip().splitlines())
        if language == "sh":
            steps.append(Step(lines))
        else:
            assert not steps[-1].shown, f"shown for nothing: {lines}"
            steps[-1] = Step(steps[-1].typed, lines)
    return steps


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _on_free_ports(text: str) -> str:
    """`text` with other ports for those that are taken here."""
    for port in (5000, 5514, 9514):
        assert re.search(rf"\b{port}\b", text)
        if not _is_free(port):
            text = re.sub(rf"\b{port}\b", str(_free_port()), text)
    return text


class Shell:
    """A bash in `folder`, as it is after logging in."""

    def __init__(self, folder: Path) -> None:
        home = folder / "home"
        home.mkdir()
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env={"PATH": _path(), "HOME": str(home), **_environ_of_pip()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._end = f"end of step {os.urandom(8).hex()}"

    def type(self, commands: str) -> tuple[int, str]:
        """The exit code of the last of `commands`, and what they have printed."""
        assert self._process.stdin is not None
        mark = f"printf '\\n{self._end} %d\\n' $?"
        self._process.stdin.write(f"{commands}\n{mark}\n".encode())
        self._process.stdin.flush()
        parts = self._read_until(re.compile(rf"\n{self._end} (\d+)\n"), commands)
        octets, code = parts[:2]
        return int(code), octets.replace("\r\n", "\n").rstrip()

    def _read_until(self, end: re.Pattern[str], commands: str) -> list[str]:
        stdout, deadline = self._process.stdout, time.monotonic() + _STEP_SECONDS
        assert stdout is not None
        printed = ""
        while len(parts := end.split(printed)) == 1:
            seconds = max(0.0, deadline - time.monotonic())
            ready = select.select([stdout], [], [], seconds)[0]
            octets = os.read(stdout.fileno(), 65536) if ready else b""
            assert octets, f"no end of:\n{commands}\n{printed}"
            printed += octets.decode()
        return parts

    def leave(self) -> list[str]:
        """End the shell. The commands that it has started and that still run."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        return list(_running_in(self._process.pid))

    def kill(self) -> None:
        """End all that is left of it."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _running_in(session: int) -> Iterator[str]:
    for process in Path("/proc").glob("[1-9]*"):
        try:
            if os.getsid(int(process.name)) == session:
                yield (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            pass  # It has ended.


def _path() -> str:
    """Where a user's shell looks, and before that the Python of these tests."""
    python = Path(getattr(sys, "_base_executable", sys.executable)).parent
    return f"{python}:{os.defpath}"


def _environ_of_pip() -> dict[str, str]:
    """Where packages come from: a matter of the machine, not of the user."""
    environ = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_"))}
    own = Path.home() / ".config" / "pip" / "pip.conf"
    return environ | ({"PIP_CONFIG_FILE": str(own)} if own.is_file() else {})


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in a folder in which there is nothing but the source."""
    folder = tmp_path / "somewhere"
    folder.mkdir()
    shutil.copytree(_TREE, folder / "logiss", ignore=_NOT_SOURCE)
    shell = Shell(folder)
    try:
        yield shell
    finally:
        shell.kill()


@pytest.fixture(autouse=True)
def packages() -> None:
    """What the tutorial has apt-get install."""
    path = f"{os.defpath}:/usr/sbin"
    missing = [
        p for p in ("rsyslogd", "curl", "bash") if not shutil.which(p, path=path)
    ]
    if missing:
        reason = f"{', '.join(missing)} not installed (the tutorial says how)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def _take(shell: Shell, step: Step) -> None:
    """Take `step`, and see what is shown for it, or without that no error."""
    deadline = time.monotonic() + _LOOK_SECONDS
    while True:
        code, printed = shell.type(step.typed)
        if step.is_shown_by(printed) if step.shown else code == 0:
            return
        if not step.typed.startswith(_LOOKS) or time.monotonic() > deadline:
            pytest.fail(
                f"typed:\n{step.typed}\nshown:\n{step.shown}\n"
                f"printed, with exit code {code}:\n{printed}"
            )
        time.sleep(0.2)


def test_tutorial(shell: Shell, tmp_path: Path) -> None:
    """
    From nothing to lines in rsyslog in ten minutes: it all works, and nothing of it is
    left. Debian's packages are there already: what root has to type is not typed.
    """
    began_at = time.monotonic()
    steps = _steps(_on_free_ports(_TUTORIAL.read_text()))
    assert len(steps) > 10
    for step in steps:
        if "apt-get" not in step.typed:
            _take(shell, step)
    assert time.monotonic() - began_at < _TUTORIAL_SECONDS
    assert shell.leave() == []
    assert {path.name for path in (tmp_path / "somewhere").iterdir()} == {
        "home",
        "logiss",
    }


def test_steps() -> None:
    """What is typed and what is shown for it belong together."""
    assert _steps(
        ".. code-block:: sh\n\n   a\n\n     b\n\nText.\n\n"
        ".. code-block:: text\n\n   c ... d\n   e\n\n.. code-block:: sh\n\n   f\n"
    ) == [Step("a\n\n  b", "c ... d\ne"), Step("f")]


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a ... b\nc", "a 1\n2 b\nc", True),
        ("a\n...", "a\nb\nc", True),
        ("a.c", "abc", False),
        ("a", "a\nb", False),
        ("a ...", "b a ", False),
    ],
)
def test_shown(shown: str, printed: str, expected: bool) -> None:
    """What is printed is what is shown, but for ``...``."""
    assert Step("", shown).is_shown_by(printed) is expected
