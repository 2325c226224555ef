"""
What is typed to say where posts go and how hard it is tried: the same for each command
that posts.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from logiss.logs_url import LogsURL, NotAURL, parse

#: The variable that log-shuttle has for the URL.
URL_VARIABLE = "LOGS_URL"
PASSWORD_VARIABLE = "LOGS_PASSWORD"  # noqa: S105
TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 60.0

_DAY_SECONDS = 86400.0


class NoTarget(Exception):
    """It is not known where to post to. One line: what is wrong, and what to do."""


@frozen
class Target:
    """
    @ivar authorities: in PEM, of ``--ca``.
    """

    url: LogsURL
    authorities: bytes | None
    timeout_seconds: float
    retry_seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that `target_of` reads."""
    parser.add_argument(
        "--url",
        help="where to post to, as in http://user:password@127.0.0.1:5000/logs; without"
        f" a path it is /logs. Default: {URL_VARIABLE} in the environment, which other"
        " users of this machine do not see as they see a command line. A user without"
        f" a password there has that of {PASSWORD_VARIABLE} in the environment",
    )
    parser.add_argument(
        "--ca",
        metavar="FILE",
        help="certificates in PEM of the authorities that are trusted for https;"
        " default: those of this machine",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds(0.05, _DAY_SECONDS),
        default=TIMEOUT_SECONDS,
        help="how long an answer may take, in seconds; let it be longer than"
        " DELIVERY_TIMEOUT of logiss, or batches may arrive twice. Default:"
        " %(default)g",
    )
    parser.add_argument(
        "--retry-seconds",
        metavar="SECONDS",
        type=seconds(0, _DAY_SECONDS),
        default=RETRY_SECONDS,
        help="for how many seconds a batch is tried again that was answered 429 or 5xx,"
        " or not at all; 0 is never. Default: %(default)g",
    )


def seconds(least: float, most: float) -> Callable[[str], float]:
    """For options with seconds."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no number of seconds from {least:g} to {most:g}"
            )
        return value

    return read


def target_of(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Target:
    """
    @raise NoTarget: it cannot be known.
    """
    return Target(
        _url(arguments.url, environ),
        _authorities(arguments.ca),
        arguments.timeout,
        arguments.retry_seconds,
    )


def _url(given: str | None, environ: Mapping[str, str]) -> LogsURL:
    name, text = "--url", given
    if text is None:
        name, text = URL_VARIABLE, environ.get(URL_VARIABLE)
    if text is None:
        raise NoTarget(
            "--url: it is not said where to post to; give the URL, as in --url"
            f" http://user:password@127.0.0.1:5000/logs, or set {URL_VARIABLE}"
        )
    try:
        return parse(text, environ.get(PASSWORD_VARIABLE))
    except NotAURL as e:
        raise NoTarget(f"{name}: {e}") from None


def _authorities(name: str | None) -> bytes | None:
    if name is None:
        return None
    try:
        with open(name, "rb") as file:
            return file.read()
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else str(e)
        raise NoTarget(f"--ca: cannot read {name!a}: {why}") from None


def reaching(target: Target, reactor: Any, connections: int) -> Any:
    """
    The `logiss.posting.Poster` to it.

    @raise NoTarget: no connection could be checked with these authorities.
    """
    # treq is loaded by who posts, not by who only types.
    from logiss.posting import BadAuthorities, Poster, policy

    try:
        tls = policy(target.authorities)
    except BadAuthorities as e:
        raise NoTarget(f"--ca: {e}") from None
    return Poster(reactor, target.url, tls, connections, target.timeout_seconds)
