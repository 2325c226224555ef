"""``logiss credentials``: lists, adds and revokes credentials in Redis."""

import argparse
import os
import sys
from collections.abc import Callable
from getpass import getpass
from typing import Any

from twisted.internet.defer import Deferred

from logiss import env_file, foreground
from logiss.admission import redis_hash
from logiss.credentials import (
    BrokenEntry,
    Credential,
    NotChanged,
    parse_entry,
    password_digest,
    with_credential,
    without_credential,
)
from logiss.env_file import EnvFileError
from logiss.l2met import bare_or_quoted
from logiss.passwords import Unusable, make_password, read_password
from logiss.redis import RedisFailed, RedisHash
from logiss.settings import SettingsError, read_hmac_key, read_redis

# Each of them is a sentence for whoever has typed the command.
_PROBLEMS = (BrokenEntry, EnvFileError, NotChanged, SettingsError, Unusable)


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "credentials",
        help="list, add and revoke credentials in Redis",
        description="Edits the hash REDIS_KEY of REDIS_URL, in the environment or in"
        " the file that ENV_FILE names. Every instance follows within its"
        " CREDENTIAL_REFRESH_INTERVAL.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_list(commands)
    _add_add(commands)
    _add_revoke(commands)


def _add_list(commands: Any) -> None:
    parser = commands.add_parser(
        "list",
        help="print a line for each credential",
        description="Prints a line for each credential in Redis: user, name, stage and"
        " whether it is deprecated. Exits with 1 when an entry cannot be read.",
    )
    parser.set_defaults(call=lambda arguments: _told(lambda: list_all()))


def _add_add(commands: Any) -> None:
    parser = commands.add_parser(
        "add",
        help="add a credential",
        description="Adds a credential to those of USER in Redis. Its password is read"
        " from the terminal or standard input; what is kept is its HMAC-SHA512, by"
        " HMAC_KEY in the environment.",
    )
    parser.add_argument("user", metavar="USER", type=_user, help="who is to post")
    parser.add_argument(
        "--name",
        type=_text,
        required=True,
        help="what operators call it, as in v2 or 2026-11: it is revoked by this name",
    )
    parser.add_argument(
        "--stage",
        type=_text,
        default="current",
        help="where it stands in its rotation, for the log; default: %(default)s",
    )
    parser.add_argument(
        "--deprecate-others",
        action="store_true",
        help="mark the user's other credentials as deprecated; those of the same stage"
        " get the stage 'previous'",
    )
    parser.add_argument(
        "--generate", action="store_true", help="make a password, and print it once"
    )
    parser.set_defaults(call=lambda arguments: _told(lambda: add(arguments)))


def _add_revoke(commands: Any) -> None:
    parser = commands.add_parser(
        "revoke",
        help="remove a credential",
        description="Removes one credential of USER from Redis. Posts with it get 401"
        " as soon as each instance has read the hash again.",
    )
    parser.add_argument("user", metavar="USER", type=_user, help="whose it is")
    parser.add_argument("name", metavar="NAME", type=_text, help="what it is called")
    parser.set_defaults(call=lambda arguments: _told(lambda: revoke(arguments)))


def _text(given: str) -> str:
    try:
        given.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not UTF-8") from None
    return given


def _user(given: str) -> bytes:
    if not given or ":" in given:
        # RFC 7617 section 2
        raise argparse.ArgumentTypeError("a user is not empty and has no ':'")
    return _text(given).encode()


def _told(work: Callable[[], int]) -> int:
    try:
        return work()
    except RedisFailed as e:
        url, _ = read_redis(_environ())
        _say(f"REDIS_URL: {url}: {e}; see to that Redis, or correct the URL")
    except _PROBLEMS as e:
        for line in str(e).splitlines():
            _say(line)
    except (EOFError, KeyboardInterrupt):
        _say("given up")
    return 1


def _environ() -> dict[str, str]:
    """
    @raise EnvFileError: there is a file of variables that cannot be read.
    """
    return env_file.merged(os.environ)


def _say(text: str) -> None:
    print(f"logiss credentials: {text}", file=sys.stderr)


def list_all() -> int:
    """1 when there is an entry that cannot be read."""
    entries = _with_hash(lambda found: found.read())
    code = 0
    for user, octets in sorted(entries.items()):
        whose = f"user={_shown(user.decode('utf-8', 'replace'))}"
        try:
            held = parse_entry(user, octets)
        except BrokenEntry as e:
            print(f"{whose} error={_shown(str(e))}")
            code = 1
            continue
        if not held:
            print(f"{whose} revoked=true")
        for credential in held:
            print(
                f"{whose} name={_shown(credential.name)}"
                f" stage={_shown(credential.stage)}"
                f" deprecated={str(credential.deprecated).lower()}"
            )
    return code


def _shown(text: str) -> str:
    """Nothing of it reaches the terminal as anything but text."""
    return bare_or_quoted(text)


def add(arguments: argparse.Namespace) -> int:
    hmac_key = read_hmac_key(_environ())
    read_redis(_environ())  # Before somebody types a password for nothing.
    if arguments.generate:
        password = make_password()
    else:
        password = read_password(sys.stdin, getpass)
    credential = Credential(
        arguments.name, arguments.stage, False, password_digest(hmac_key, password)
    )
    _with_hash(
        lambda found: found.edit(
            arguments.user,
            lambda entry: with_credential(
                entry, credential, arguments.deprecate_others
            ),
        )
    )
    if arguments.generate:
        print(password.decode())
    return 0


def revoke(arguments: argparse.Namespace) -> int:
    _with_hash(
        lambda found: found.edit(
            arguments.user, lambda entry: without_credential(entry, arguments.name)
        )
    )
    return 0


def _with_hash(work: Callable[[RedisHash], Deferred[Any]]) -> Any:
    """What comes of `work` on the hash, in a reactor that runs until then."""
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    found = redis_hash(reactor, *read_redis(_environ()))
    results: list[Any] = []

    async def do() -> None:
        results.append(await work(found))

    foreground.run(reactor, do, lambda _: foreground.give_up(reactor))
    if not results:
        raise KeyboardInterrupt
    return results[0]
