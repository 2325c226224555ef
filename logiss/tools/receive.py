"""``logiss receive``: prints each frame that a logiss forwards to it."""

import argparse
import sys
from typing import Any

from twisted.internet.error import CannotListenError

from logiss.receiver import ReceiverFactory, printable


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "receive",
        help="receive octet-counted syslog over TCP and print each frame on a line",
        description="Receives what logiss forwards, and prints each frame on a line.",
    )
    parser.add_argument("--port", type=int, required=True, help="TCP port; 0 is any")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.set_defaults(call=receive)


def receive(arguments: argparse.Namespace) -> int:
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor

    factory = ReceiverFactory(_print, lambda e: print(e, file=sys.stderr))
    try:
        port = reactor.listenTCP(arguments.port, factory, interface=arguments.host)
    except CannotListenError as e:
        print(f"logiss receive: --port: {e}", file=sys.stderr)
        return 1
    print(f"receiving on {arguments.host}:{port.getHost().port}", file=sys.stderr)
    reactor.run()
    return 0


def _print(frame: bytes) -> None:
    print(printable(frame), flush=True)
