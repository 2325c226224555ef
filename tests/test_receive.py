"""What can be typed behind ``logiss receive``, and what the documents say of it."""

import argparse
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from logiss.__main__ import command_line
from logiss.arrivals import RANGES_MAX, RUNS_MAX
from logiss.receiver import CONNECTIONS_MAX, FRAME_BYTES_MAX
from logiss.tools.receive import COMPLAINTS_MAX, LINGER_SECONDS, _line

_PAGE = Path(__file__).parent.parent / "docs" / "receiving.rst"


def _options() -> set[str]:
    for action in command_line()._actions:
        if isinstance(action, argparse._SubParsersAction):
            parser = action.choices["receive"]
            return {o for a in parser._actions for o in a.option_strings}
    raise AssertionError("no subcommands")


class DocumentTests(SynchronousTestCase):
    """docs/receiving.rst is about what there is."""

    def section(self) -> str:
        return _PAGE.read_text().partition("\nRefused bodies\n===")[0]

    def test_options(self) -> None:
        """It has each option, and no others but those of other commands."""
        text = (
            self.section()
            .replace("logiss send --framed", "")
            .replace("logiss send --test", "")
        )
        named = set(re.findall(r"(--[a-z-]+[a-z])", text))
        self.assertEqual(named, _options() - {"-h", "--help"})

    def test_numbers(self) -> None:
        """The bounds that it names are those that there are."""
        text = " ".join(self.section().split())
        for words in (
            f"up to {CONNECTIONS_MAX:,} connections",
            f"{FRAME_BYTES_MAX // 1024 // 1024} MiB at most",
            f"more than {COMPLAINTS_MAX} lines a second",
            f"A run may have {RANGES_MAX:,} of them",
            f"there may be {RUNS_MAX} runs",
        ):
            self.assertIn(words, text)
        self.assertEqual(LINGER_SECONDS, 0.5)
        self.assertIn("ends half a second after", text)


class LineTests(SynchronousTestCase):
    """A frame on one line of a file."""

    def test_one_line(self) -> None:
        """A line feed at the end is dropped, others are shown, nothing else changes."""
        for frame, line in [
            (b"a", b"a\n"),
            (b"a\n", b"a\n"),
            (b"a\n\n", b"a\\n\n"),
            (b"\n", b"\n"),
            (b"", b"\n"),
            (b"a\nb\r\x00\xff\\n", b"a\\nb\r\x00\xff\\n\n"),
        ]:
            self.assertEqual(_line(frame), line)
