"""The command line as a newcomer meets it."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from logiss.__main__ import TOOLS, command_line

TOOLS_FOLDER = Path(__file__).parent.parent / "logiss" / "tools"


def commands(
    parser: argparse.ArgumentParser, name: str = "logiss"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """`parser` and those below it, by what is typed for them."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice, below in action.choices.items():
                yield from commands(below, f"{name} {choice}")


class HelpTests(SynchronousTestCase):
    """Nobody has to guess."""

    def test_each_is_there(self) -> None:
        """Each room of the tools is a command."""
        rooms = {
            path.stem
            for path in TOOLS_FOLDER.glob("*.py")
            if re.search(r"^def add_to\(", path.read_text(), re.MULTILINE)
        }
        self.assertEqual({t.__name__.rpartition(".")[2] for t in TOOLS}, rooms)

    def test_each_explains_itself(self) -> None:
        """Each command says in sentences what it does."""
        for name, parser in commands(command_line()):
            with self.subTest(name):
                self.assertRegex(parser.description or "", r"\w+ .+\.$")
                self.assertTrue(parser.format_help().isascii(), name)

    def test_each_is_listed(self) -> None:
        """Each command has its line in the list of those beside it."""
        for name, parser in commands(command_line()):
            for action in parser._actions:
                if isinstance(action, argparse._SubParsersAction):
                    listed = {choice.dest for choice in action._choices_actions}
                    self.assertEqual(listed, set(action.choices), name)

    def test_options(self) -> None:
        """Each option and each argument has a text."""
        for name, parser in commands(command_line()):
            for action in parser._actions:
                if not isinstance(action, argparse._SubParsersAction):
                    self.assertTrue(action.help, f"{name} {action.dest}")
