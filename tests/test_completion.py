"""Shells complete the command line as it is; the man page says what it is."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from docs import make_man
from logiss import __version__
from logiss.__main__ import command_line
from logiss.reference import ENTRIES
from logiss.tools.completion import SHELLS, script
from tests.test_commands import commands

#: What bash does on TAB, without a terminal.
_BASH = """
{script}
COMP_WORDS=({words})
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
COMP_LINE="${{COMP_WORDS[*]}}"
COMP_POINT=${{#COMP_LINE}}
spec=$(complete -p logiss)
function=${{spec#*-F }}
${{function%% *}} logiss "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def program(name: str, package: str = "") -> str:
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed (Debian: apt-get install {package or name})"
        if package and os.environ.get("CI"):
            raise AssertionError(reason)
        raise SkipTest(reason)
    return found


def said(command: list[str], text: str = "", folder: str | None = None) -> str:
    """What `command` writes; it fails when that is on standard error."""
    done = subprocess.run(
        command,
        input=text,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode or done.stderr:
        raise AssertionError((done.returncode, done.stderr))
    return done.stdout


def completed(
    parser: argparse.ArgumentParser, *words: str, folder: str = "/"
) -> set[str]:
    """What bash offers for the last of `words`."""
    bash = program("bash", "bash")
    text = _BASH.format(script=script(parser, "bash"), words=shlex.join(words))
    return set(said([bash, "--norc"], text, folder).split())


class BashTests(SynchronousTestCase):
    """A real bash completes what is there to be typed."""

    def test_commands(self) -> None:
        """It offers each command, and those that begin like what is typed."""
        offered = completed(command_line(), "logiss", "")
        names = {name for name, _ in commands(command_line())}
        self.assertEqual(
            {each for each in offered if not each.startswith("-")},
            {name.split()[1] for name in names if name.count(" ") == 1},
        )
        self.assertEqual(completed(command_line(), "logiss", "cred"), {"credentials"})
        self.assertEqual(
            completed(command_line(), "logiss", "credentials", "a"), {"add"}
        )

    def test_options(self) -> None:
        """It offers each option of the command that was typed, and no other's."""
        for name, parser in commands(command_line()):
            if name == "logiss":
                continue
            with self.subTest(name):
                options = {
                    option
                    for action in parser._actions
                    for option in action.option_strings
                    if option.startswith("--")
                }
                self.assertEqual(
                    completed(command_line(), *name.split(), "--"), options
                )

    def test_choices(self) -> None:
        """It offers the choices of an argument."""
        offered = completed(command_line(), "logiss", "completion", "")
        self.assertLessEqual(set(SHELLS), offered)

    def test_files(self) -> None:
        """It offers files and folders where they are asked for."""
        parser = argparse.ArgumentParser("logiss")
        parser.add_argument("--to", metavar="DIR")
        below = parser.add_subparsers().add_parser("replay", help="post it")
        below.add_argument("file", metavar="FILE")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "captured.body").touch()
            (Path(folder) / "captures").mkdir()
            found = completed(parser, "logiss", "replay", "capt", folder=folder)
            self.assertEqual(found, {"captured.body", "captures"})
            found = completed(parser, "logiss", "--to", "capt", folder=folder)
            self.assertEqual(found, {"captures"})


class ScriptTests(SynchronousTestCase):
    """The other shells, as far as they are here."""

    def test_zsh(self) -> None:
        """zsh can read its script."""
        text = script(command_line(), "zsh")
        self.assertIn("#compdef logiss", text)
        said([program("zsh", "zsh"), "-n"], text)

    def test_tcsh(self) -> None:
        """tcsh can read its script."""
        text = script(command_line(), "tcsh")
        self.assertIn("complete logiss", text)
        said([program("tcsh", "tcsh"), "-f"], text)

    def test_printed(self) -> None:
        """The command prints it, and nobody minds who does not read it."""
        command = [sys.executable, "-m", "logiss", "completion"]
        for shell in SHELLS:
            self.assertEqual(said([*command, shell]), script(command_line(), shell))
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = subprocess.run(
                [*command, "bash"],
                stdout=writing,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        finally:
            os.close(writing)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_disk_full(self) -> None:
        """Where nothing can be written, a line says so."""
        if not Path("/dev/full").exists():
            raise SkipTest("there is no /dev/full")
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "logiss", "completion", "bash"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        self.assertEqual(
            (done.returncode, done.stderr),
            (1, "logiss completion: cannot write: No space left on device\n"),
        )


class ManPageTests(SynchronousTestCase):
    """The man page is that of this command line."""

    def setUp(self) -> None:
        self.page = make_man.PAGE.read_text(encoding="utf-8")

    def test_is_made(self) -> None:
        """It is what ``make man`` writes."""
        if sys.version_info[:2] != (3, 11):
            raise SkipTest("argparse of another Python may wrap its texts otherwise")
        self.assertEqual(self.page, make_man.page(), "run 'make man'")

    def test_same_everywhere(self) -> None:
        """It does not depend on the terminal, nor on the day."""
        for columns, epoch in [("40", "0"), ("200", "86400")]:
            self.patch(
                os,
                "environ",
                {**os.environ, "COLUMNS": columns, "SOURCE_DATE_EPOCH": epoch},
            )
            if sys.version_info[:2] == (3, 11):
                self.assertEqual(self.page, make_man.page())

    def test_complete(self) -> None:
        """It has each command, each option and each variable."""
        text = self.page.replace("\\-", "-")
        for name, parser in commands(command_line()):
            if name != "logiss":
                self.assertIn(f".SS \\fB{name}\\fR", text)
            for action in parser._actions:
                for option in action.option_strings:
                    if option.startswith("--") and option != "--help":
                        self.assertIn(f"\\fB{option}\\fR", text)
        for entry in ENTRIES:
            self.assertIn(f".TP\n\\fB{entry.name}\\fR\n", text)
        headings = re.findall(r"(?m)^\.SH (.+)$", text)
        self.assertEqual(
            headings,
            [
                *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS"),
                *("ENVIRONMENT", "EXIT STATUS", "SIGNALS", "SEE ALSO"),
            ],
        )

    def test_version(self) -> None:
        """It has the version, and the day of its release where there was one."""
        day = make_man.released_on(__version__).replace("-", "\\-")
        self.assertIn(
            f'.TH LOGISS "1" "{day}" "logiss {__version__}" "logiss"', self.page
        )
        self.assertEqual(make_man.released_on("0.0.0"), "unreleased")

    def test_groff(self) -> None:
        """groff has nothing to say about it."""
        groff = program("groff", "groff")
        shown = said([groff, "-man", "-Tutf8", "-ww", str(make_man.PAGE)])
        self.assertIn("TOKEN_MAP", shown)
