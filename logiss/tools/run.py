"""``logiss run``: the daemon, as ``twist logiss`` runs it."""

import argparse
from typing import Any

from twisted.application.twist._twist import Twist


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "run",
        help="take log lines and forward them, until it is told to stop",
        description="Runs logiss in the foreground, as 'twist logiss' does. Its log"
        " goes to standard output. SIGTERM or Ctrl-C drains and ends it: what was taken"
        " is delivered first; a second one ends it at once. SIGHUP reads the"
        " configuration anew and takes the code that is installed then, without a"
        " client noticing. DEPLOY, PORT, FORWARD_DEST and TOKEN_MAP or REDIS_URL have"
        " to be in the environment, or in the file that ENV_FILE names; 'logiss check'"
        " tells what else there is, and whether it is right.",
        epilog="The exit code is 0 after a drain, 1 when it could not start, and 128"
        " and the signal's number after a second signal.",
    )
    parser.add_argument(
        "--with-receiver",
        action="store_true",
        help="for trying it out: when FORWARD_DEST is not set, forward to an embedded"
        " receiver that prints each frame, with DEPLOY=local, PORT=5000 and"
        " TOKEN_MAP=test:token unless they are set",
    )
    parser.add_argument(
        "--http",
        metavar="CHANNEL",
        help="HTTP channel, 'fast' or 'stock' (twisted.web's); default: HTTP_CHANNEL,"
        " else fast",
    )
    parser.set_defaults(call=run)


def run(arguments: argparse.Namespace) -> int:
    flags = ["--with-receiver"] if arguments.with_receiver else []
    if arguments.http is not None:
        flags += ["--http", arguments.http]
    Twist.main(["twist", "logiss", *flags])
    return 0
