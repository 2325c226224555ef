"""The ``logiss`` command: one small room of `logiss.tools` for each subcommand."""

import argparse
import sys
from collections.abc import Sequence

from logiss._version import __version__
from logiss.tools import (
    check,
    completion,
    credentials,
    hash,
    receive,
    replay,
    run,
    send,
    top,
)

#: In the order in which somebody comes to need them.
TOOLS = (run, check, send, receive, top, hash, credentials, replay, completion)


def command_line() -> argparse.ArgumentParser:
    """What can be typed; help, man page and completion are all made from it."""
    parser = argparse.ArgumentParser(
        prog="logiss",
        description="Takes batches of log lines over HTTP (logplex-1), and forwards"
        " them to a syslog receiver. Says 200 when they are delivered.",
        epilog="To try it out: 'logiss run --with-receiver', and paste what it says"
        " into another terminal. 'logiss COMMAND --help' tells of each command. What"
        " there is to configure is in environment variables: 'logiss check' lists"
        " them.",
    )
    parser.add_argument(
        "--version", action="version", version=__version__, help="print the version"
    )
    subcommands = parser.add_subparsers(
        required=True, metavar="COMMAND", title="commands"
    )
    for tool in TOOLS:
        tool.add_to(subcommands)
    # The one that completes commands has to know them all.
    parser.set_defaults(command_line=command_line)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = command_line().parse_args(argv)
    result: int = arguments.call(arguments)
    return result


if __name__ == "__main__":
    sys.exit(main())
