"""The ``logiss`` command: one small room of `logiss.tools` for each subcommand."""

import argparse
import sys
from collections.abc import Sequence

from logiss._version import __version__
from logiss.tools import check, credentials, hash, receive, replay, run, send, top

#: In the order in which somebody comes to need them.
TOOLS = (run, check, send, receive, top, hash, credentials, replay)


def command_line() -> argparse.ArgumentParser:
    """What can be typed; help, man page and completion are all made from it."""
    parser = argparse.ArgumentParser(
        prog="logiss",
        description="Takes logplex-1 over HTTP and forwards it as syslog.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for tool in TOOLS:
        tool.add_to(subcommands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = command_line().parse_args(argv)
    result: int = arguments.call(arguments)
    return result


if __name__ == "__main__":
    sys.exit(main())
