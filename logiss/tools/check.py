"""``logiss check``: shows what the configuration comes to, and tries it out."""

import argparse
import os
import shlex
import stat
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from ipaddress import ip_address
from itertools import chain
from typing import Any

from logiss import env_file, foreground
from logiss.descriptors import raise_descriptors_max
from logiss.env_file import EnvFileError
from logiss.preflight import ERROR, NOTE, OK, WARNING, Result, preflight
from logiss.reference import ENTRIES
from logiss.service import (
    clients_max,
    descriptor_problems,
    descriptors_wanted,
    platform_problems,
)
from logiss.settings import (
    VARIABLES,
    Effective,
    Settings,
    SettingsError,
    effective,
    read,
)
from logiss.words import text

#: What log-iss read and logiss does not.
NOT_READ = (
    *("LIBRATO_OWNER", "LIBRATO_SOURCE", "LIBRATO_TOKEN", "LOG_ISS_DEBUG", "DYNO"),
    *("VALID_TOKEN_USER", "TOKEN_USER_SAMPLE_PCT"),
)
#: Senders do not wait longer than this for an answer.
SENDERS_WAIT_SECONDS = 5.0

_LINE_MAX = 2000
_VALUE_MAX = 400


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "check",
        help="show what the configuration comes to, and try it out",
        description="Reads the configuration from the environment and from the file"
        " that ENV_FILE names, as 'logiss run' does, prints each variable with where"
        " its value comes from, secrets masked, and tries it out: looks up and connects"
        " to each destination, with TLS where that is configured, shows certificates,"
        " reads the credentials in Redis. It"
        " listens on nothing and sends no log line, so that it can be run beside a"
        " logiss that is at work. A line for each thing that was found begins with"
        " 'ok', 'note', 'warning' or 'error'.",
        epilog="The exit code is 0 when there is no error, else 1.",
    )
    parser.add_argument(
        "--offline", action="store_true", help="read and check it, connect to nothing"
    )
    parser.add_argument(
        "--brief",
        action="store_true",
        help="leave the variables out, and whatever is ok",
    )
    parser.add_argument(
        "--http",
        metavar="CHANNEL",
        help="HTTP channel, as for 'logiss run': 'fast' or 'stock'; default:"
        " HTTP_CHANNEL, else fast",
    )
    parser.set_defaults(call=check)


def check(arguments: argparse.Namespace) -> int:
    foreground.print_any()
    environ = dict(os.environ)
    if arguments.http is not None:
        environ["HTTP_CHANNEL"] = arguments.http
    by_option = {"HTTP_CHANNEL": "--http"} if arguments.http is not None else {}
    sources, problems = by_option, []
    try:
        of_file = env_file.in_file(environ)
        sources = {**dict.fromkeys(of_file, "file"), **by_option}
        environ = {**environ, **of_file, **{n: environ[n] for n in by_option}}
    except EnvFileError as e:
        problems.append(_error(str(e)))
    try:
        if not arguments.brief:
            _print_variables(environ, sources)
        is_good = True
        for result in chain(problems, _results(environ, arguments.offline)):
            is_good = is_good and result.level != ERROR
            if not (arguments.brief and result.level == OK):
                words = f"{result.variable}: {result.words}"
                print(f"{result.level}: {text(words, _LINE_MAX)}", flush=True)
    except KeyboardInterrupt:
        print("logiss check: given up", file=sys.stderr)
        return 1
    except BrokenPipeError:
        foreground.let_go(sys.stdout)  # Who reads has read enough.
        return 1
    return 0 if is_good else 1


# the variables


def _print_variables(environ: Mapping[str, str], sources: Mapping[str, str]) -> None:
    places = [entry.name for entry in ENTRIES]
    shown = sorted(effective(environ), key=lambda each: places.index(each.name))
    width = max(len(_assignment(each)) for each in shown if each.source)
    width = min(width, 48)
    for each in shown:
        is_set = each.source == "environment"
        source = sources.get(each.name, each.source) if is_set else each.source
        if source:
            print(f"{_assignment(each):{width}}  # {source}")
        else:
            print(f"{'# ' + each.name:{width}}  # not set")
    print(flush=True)


def _assignment(each: Effective) -> str:
    """As a shell would take it; what does not print is replaced."""
    return f"{each.name}={shlex.quote(text(each.text, _VALUE_MAX))}"


# what is found


def _results(environ: Mapping[str, str], offline: bool) -> Iterator[Result]:
    yield from _unread(environ)
    yield from _exposed(environ)
    try:
        settings = read(environ)
    except SettingsError as e:
        yield from (_error(problem) for problem in e.problems)
        return
    raise_descriptors_max(descriptors_wanted(settings))
    problems = platform_problems(settings) + descriptor_problems(settings)
    yield from (_error(problem) for problem in problems)
    yield from _advice(settings)
    if offline:
        yield Result(NOTE, "FORWARD_DEST", "was not tried, as --offline says")
    else:
        yield from _tried(settings)


def _error(problem: str) -> Result:
    """Of what the start would have ended with: a name, a colon and why."""
    name, _, why = problem.partition(": ")
    return Result(ERROR, name, why)


def _unread(environ: Mapping[str, str]) -> Iterator[Result]:
    """Variables that somebody may have taken for others, or for ours."""
    ours = [variable.name for variable in VARIABLES.values()]
    for name in sorted(set(environ) - set(ours)):
        if name in NOT_READ:
            yield Result(NOTE, name, "log-iss read it, logiss does not; unset it")
            continue
        meant = get_close_matches(name.upper(), ours, 1, 0.86)
        if meant and not environ.get(meant[0], "").strip():
            yield Result(
                WARNING, name, f"is not read; if {meant[0]} is meant, call it that"
            )


def _exposed(environ: Mapping[str, str]) -> Iterator[Result]:
    """A file of variables that everybody may read, or write."""
    path = env_file.path_in(environ)
    try:
        mode = os.stat(path).st_mode if path else 0
    except (OSError, ValueError):
        return  # Which is said elsewhere.
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        yield Result(
            WARNING,
            env_file.ENV_FILE,
            f"everybody on this machine may read or write {path!r}; take that away with"
            " chmod o-rw, since there are secrets in it",
        )


def _advice(settings: Settings) -> Iterator[Result]:
    if settings.delivery_timeout_seconds >= SENDERS_WAIT_SECONDS:
        yield Result(
            NOTE,
            "DELIVERY_TIMEOUT",
            f"is {settings.delivery_timeout_seconds:g} s, but log-shuttle and logplex"
            f" give up after {SENDERS_WAIT_SECONDS:g} s and never read a 504; set 4.5",
        )
    most, wanted = clients_max(settings), settings.max_connections
    if 0 < most < wanted:
        yield Result(
            WARNING,
            "MAX_CONNECTIONS",
            f"is {wanted}, but so few files and sockets may be open that there will be"
            f" {most}; raise the limit (ulimit -n) to {descriptors_wanted(settings)}",
        )
    if settings.metadata_id and not (settings.query_params or settings.field_params):
        yield Result(
            WARNING,
            "METADATA_ID",
            "nothing goes into this element; set LOG_ISS_QUERY_PARAMS or"
            " LOG_ISS_FIELD_PARAMS",
        )
    if settings.admin_port is not None and not _is_loopback(settings.admin_host):
        yield Result(
            WARNING,
            "ADMIN_HOST",
            f"is {settings.admin_host}: whoever reaches it reads users and addresses,"
            " for nobody is asked for credentials there; see to who can",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _tried(settings: Settings) -> list[Result]:
    """What comes of connecting, in a reactor that runs until then."""
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    results: list[Result] = []

    async def work() -> None:
        now = datetime.now(UTC)
        results.extend(await preflight(reactor, settings, now))

    foreground.run(reactor, work, lambda _: foreground.give_up(reactor))
    if not results:
        raise KeyboardInterrupt
    return results
