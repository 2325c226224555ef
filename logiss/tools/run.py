"""``logiss run``: the daemon, as ``twist logiss`` runs it."""

import argparse
from typing import Any

from twisted.application.twist._twist import Twist


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "run", help="run the daemon, configured by environment variables"
    )
    parser.add_argument(
        "--with-receiver",
        action="store_true",
        help="when FORWARD_DEST is not set, forward to an embedded receiver",
    )
    parser.add_argument(
        "--http", metavar="CHANNEL", help="HTTP channel: 'fast' or 'stock'"
    )
    parser.set_defaults(call=run)


def run(arguments: argparse.Namespace) -> int:
    flags = ["--with-receiver"] if arguments.with_receiver else []
    if arguments.http is not None:
        flags += ["--http", arguments.http]
    Twist.main(["twist", "logiss", *flags])
    return 0
