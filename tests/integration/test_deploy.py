"""
The Dockerfile and the Procfile: what they tell an engine to run is run here, in an
empty directory and with the environment that they make.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from tests.front import framed, message, request, stamped
from tests.integration.daemons import BlockingClient, receiving, wait_for
from tests.integration.test_daemon import is_listening, unused_port
from tests.test_deploy import DOCKERFILE, Instruction, instructions, stages

TREE = Path(__file__).parents[2]
PROCFILE = TREE / "deploy" / "heroku" / "Procfile"
_BUILD_SECONDS = 300
#: How long Heroku waits between SIGTERM and SIGKILL.
_HEROKU_SECONDS = 30
_VARIABLES = {"DEPLOY": "test", "TOKEN_MAP": "user:a:token", "LISTEN_HOST": "127.0.0.1"}


def sent_to_engine(folder: Path) -> None:
    """Copy what .dockerignore lets through; a later line counts more."""
    lines = (TREE / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    def is_sent(name: str) -> bool:
        sent = True
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            parents = [name, *map(str, Path(name).parents)]
            whole = [*parents, Path(name).name, *Path(name).parts]
            tried = whole if rule.startswith("**/") else parents[:-1] or parents
            if any(fnmatch.fnmatchcase(part, pattern) for part in tried):
                sent = rule.startswith("!")
        return sent

    for path in TREE.rglob("*"):
        name = str(path.relative_to(TREE))
        if path.is_file() and not name.startswith((".", "build/")) and is_sent(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, folder / name)


@frozen
class Image:
    """
    What the Dockerfile makes, as directories.

    @ivar folder: stands for the root of the file system.
    @ivar environ: what ENV of the last stage says.
    """

    folder: Path
    environ: Mapping[str, str]

    def here(self, text: str) -> str:
        """`text` with the paths of the image as they are here."""
        return re.sub(
            r"(?<![\w/.])/(opt/logiss|source|wheels)\b", rf"{self.folder}/\1", text
        )

    def command(self, instruction: Instruction) -> list[str]:
        """What an instruction in exec form runs."""
        words: list[str] = json.loads(instruction.text)
        program = shutil.which(words[0], path=self.environ["PATH"])
        assert program is not None
        return [program, *words[1:]]


def environ_of(image: Image, stage: list[Instruction]) -> dict[str, str]:
    pairs = [
        pair
        for each in stage
        if each.name == "ENV"
        for pair in shlex.split(image.here(each.text))
    ]
    named = dict(pair.split("=", 1) for pair in pairs)
    return {k: v.replace("$PATH", os.defpath) for k, v in named.items()}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Built as the Dockerfile says, except for what apt-get installs."""
    folder = tmp_path_factory.mktemp("image")
    source = folder / "source"
    source.mkdir()
    sent_to_engine(source)
    builder, final = stages(instructions(DOCKERFILE))
    bare = Image(folder, {})
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    runs = [each.text for each in builder if each.name == "RUN"]
    assert len([text for text in runs if "apt-get" in text]) == 1
    for text in runs:
        if "apt-get" not in text:
            succeed(["/bin/sh", "-c", bare.here(text)], source, with_python(kept))
    # The compiler and the source stay behind.
    shutil.rmtree(source)
    return Image(folder, environ_of(bare, final))


def with_python(environ: Mapping[str, str]) -> dict[str, str]:
    """As in the base image, ``python`` is the interpreter that the tests have."""
    where = Path(sys.base_prefix) / "bin"
    return {**environ, "PATH": f"{where}{os.pathsep}{os.defpath}"}


def succeed(command: list[str], cwd: Path, environ: Mapping[str, str]) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def started(
    command: list[str], folder: Path, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: is_up(process, int(environ["PORT"]), folder))
        yield process
    finally:
        process.kill()
        process.wait()


def is_up(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    assert process.poll() is None, (folder / "log").read_text()
    return is_listening(port)


def test_dockerfile(image: Image, tmp_path: Path) -> None:
    """
    Its command runs what was built; its health check sees a healthy logiss, one that
    drains, and none.
    """
    _, final = stages(instructions(DOCKERFILE))
    by_name = {each.name: each for each in final}
    check = by_name["HEALTHCHECK"].text.partition("CMD ")[2]
    checks = image.command(Instruction("CMD", check))
    # Nobody is there, so that a post waits and the drain takes as long.
    environ = {
        **image.environ,
        **_VARIABLES,
        "PORT": str(unused_port()),
        "FORWARD_DEST": f"127.0.0.1:{unused_port()}",
    }

    def health() -> int:
        return subprocess.run(checks, env=environ, timeout=30, check=False).returncode

    with started(image.command(by_name["CMD"]), tmp_path, environ) as process:
        client = BlockingClient(int(environ["PORT"]))
        client.send(request(framed(message(b"late"))))
        # Once this has its answer, the post has been read.
        assert health() == 0
        process.send_signal(getattr(signal, by_name["STOPSIGNAL"].text))
        wait_for(lambda: "at=drain posts=1" in (tmp_path / "log").read_text())
        assert health() == 1
        answer = client.answer()
        assert answer is not None
        assert answer.code == 504
        assert process.wait(30) == 0
        assert health() == 1
    assert "codec=compiled" in (tmp_path / "log").read_text()


def test_procfile(image: Image, tmp_path: Path) -> None:
    """What it calls web serves Heroku's PORT, and ends in time."""
    processes = dict(
        line.split(": ", 1) for line in PROCFILE.read_text().splitlines() if line
    )
    assert list(processes) == ["web"]
    with receiving() as receiver:
        environ = {
            "PATH": image.environ["PATH"],
            **_VARIABLES,
            "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
            "PORT": str(unused_port()),
            "DYNO": "web.1",
        }
        # As a dyno runs it: by a shell that does not stay.
        command = ["/bin/sh", "-c", f"exec {processes['web']}"]
        with started(command, tmp_path, environ) as process:
            client = BlockingClient(int(environ["PORT"]))
            client.send(request(framed(message(b"hello"))))
            answer = client.answer()
            assert answer is not None
            assert answer.code == 200
            wait_for(lambda: receiver.frames)
            assert receiver.frames == [stamped(b"hello", "127.0.0.1")]
            client.close()
            process.terminate()
            assert process.wait(_HEROKU_SECONDS) == 0
