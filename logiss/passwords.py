"""
Asks for a password: on a terminal without showing it, else on standard input.

It is never an argument, which every process of the machine could read.
"""

import secrets
from collections.abc import Callable
from typing import Protocol

#: A longer one is no password but something else by mistake.
PASSWORD_BYTES_MAX = 4096


class Unusable(Exception):
    """What was given is no password that a client could send. Does not repeat it."""


class IStdin(Protocol):
    """Of a text file as `sys.stdin` is one, what is asked of it."""

    def isatty(self) -> bool: ...

    @property
    def buffer(self) -> "IBuffer": ...


class IBuffer(Protocol):
    """The bytes below it."""

    def read(self, size: int, /) -> bytes: ...


def read_password(stdin: IStdin, ask: Callable[[str], str]) -> bytes:
    """
    The password that is given, in UTF-8.

    @param ask: asks on the terminal, as `getpass.getpass` does. It is asked twice,
        because nobody sees what they type.
    @raise Unusable: the password is empty, too long, or has control characters (RFC
        7617 section 2), or the second is another.
    """
    if stdin.isatty():
        password = _octets(ask("Password: "))
        if _octets(ask("Again: ")) != password:
            raise Unusable("the two passwords are not the same")
    else:
        password = stdin.buffer.read(PASSWORD_BYTES_MAX + 2).removesuffix(b"\n")
    _check(password)
    return password


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _check(password: bytes) -> None:
    if not password:
        raise Unusable("the password is empty")
    if len(password) > PASSWORD_BYTES_MAX:
        raise Unusable(f"the password is longer than {PASSWORD_BYTES_MAX} bytes")
    if any(octet < 0x20 or octet == 0x7F for octet in password):
        raise Unusable("the password has a line break or control character in it")


def make_password() -> bytes:
    """A new one of 256 random bits, of characters that need no quoting anywhere."""
    return secrets.token_urlsafe(32).encode()
