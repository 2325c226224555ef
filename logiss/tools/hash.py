"""``logiss hash``: prints the HMAC of a password, as it stands in Redis."""

import argparse
import os
import sys
from getpass import getpass
from typing import Any

from logiss import env_file
from logiss.credentials import password_digest
from logiss.env_file import EnvFileError
from logiss.passwords import Unusable, read_password
from logiss.settings import SettingsError, read_hmac_key


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "hash",
        help="print the HMAC-SHA512 of a password, by HMAC_KEY in the environment",
        description="Reads a password from the terminal or standard input, and prints"
        " its HMAC-SHA512 in hex. The key is HMAC_KEY in the environment, or in the"
        " file that ENV_FILE names.",
    )
    parser.set_defaults(call=hash_password)


def hash_password(arguments: argparse.Namespace) -> int:
    try:
        hmac_key = read_hmac_key(env_file.merged(os.environ))
        password = read_password(sys.stdin, getpass)
    except (EnvFileError, SettingsError, Unusable) as e:
        print(f"logiss hash: {e}", file=sys.stderr)
        return 1
    except (EOFError, KeyboardInterrupt):
        print("\nlogiss hash: no password was given", file=sys.stderr)
        return 1
    print(password_digest(hmac_key, password).hex())
    return 0
