"""The ``logiss`` command: one small room of `logiss.tools` for each subcommand."""

import argparse
import sys
from collections.abc import Sequence

from logiss._version import __version__
from logiss.tools import credentials, hash, receive, run, top


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="logiss",
        description="Takes logplex-1 over HTTP and forwards it as syslog.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for tool in (run, top, receive, hash, credentials):
        tool.add_to(subcommands)
    arguments = parser.parse_args(argv)
    result: int = arguments.call(arguments)
    return result


if __name__ == "__main__":
    sys.exit(main())
