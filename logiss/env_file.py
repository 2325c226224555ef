"""
Reads variables from a file of ``NAME=value`` lines, which can change while the
environment of a process cannot.
"""

import os
import stat
from collections.abc import Container, Mapping, MutableMapping
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dotenv.parser import Binding

#: The variable that names the file.
ENV_FILE = "ENV_FILE"
#: A configuration is no larger.
FILE_BYTES_MAX = 1024 * 1024


class EnvFileError(Exception):
    """The file cannot be read. Says why, on one line, and nothing of what is in it."""


class Environment:
    """
    The environment of the process, where libraries look for what is theirs; what the
    file has for them stands in it as long as it counts.

    @ivar at_start: what it was before.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self.at_start: Mapping[str, str] = dict(environ)
        self._environ = environ
        self._changed: set[str] = set()

    def become(self, variables: Mapping[str, str], ours: Container[str]) -> None:
        """
        Have `variables` count from now on, and those of before no longer.

        @param ours: the names of those that no library looks for.
        """
        for name in self._changed:
            self._put(name, self.at_start.get(name))
        self._changed = {
            name
            for name, text in variables.items()
            if name not in ours and text != self.at_start.get(name)
        }
        for name in self._changed:
            self._environ[name] = variables[name]

    def _put(self, name: str, text: str | None) -> None:
        if text is None:
            self._environ.pop(name, None)
        else:
            self._environ[name] = text


def merged(environ: Mapping[str, str]) -> dict[str, str]:
    """
    `environ`, and in front of it what is in the file that its ENV_FILE names, if it
    names one.

    @raise EnvFileError: it cannot be read, or has a line that is no variable.
    """
    return {**environ, **in_file(environ)}


def in_file(environ: Mapping[str, str]) -> dict[str, str]:
    """
    What is in the file that ENV_FILE of `environ` names, if it names one.

    @raise EnvFileError: as `merged`.
    """
    path = path_in(environ)
    return _variables(path, _text(path, _octets(path))) if path else {}


def path_in(environ: Mapping[str, str]) -> str:
    """The path of the file; nothing where there is none."""
    return environ.get(ENV_FILE, "").strip()


def _octets(path: str) -> bytes:
    try:
        # Not to wait for whoever may write to a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise EnvFileError(
                    f"{ENV_FILE}: {path!r} is no regular file; name a file of"
                    " NAME=value lines"
                )
            octets = os.pread(descriptor, FILE_BYTES_MAX + 1, 0)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or str(e)
        raise EnvFileError(f"{ENV_FILE}: cannot read {path!r}: {why}") from None
    if len(octets) > FILE_BYTES_MAX:
        raise EnvFileError(
            f"{ENV_FILE}: {path!r} has more than {FILE_BYTES_MAX} bytes; name a file of"
            " NAME=value lines"
        )
    return octets


def _text(path: str, octets: bytes) -> str:
    try:
        # Some editors put a mark in front of it.
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise EnvFileError(
            f"{ENV_FILE}: {path!r} must be UTF-8 text; take the odd bytes out"
        ) from None


def _variables(path: str, text: str) -> dict[str, str]:
    # Only whoever has such a file loads what reads it.
    from dotenv.parser import parse_stream

    found = {}
    for binding in parse_stream(StringIO(text)):
        if _is_wrong(binding):
            string, line = binding.original.string, binding.original.line
            # It begins with the empty lines in front of it.
            line += len(string) - len(string.lstrip("\n"))
            raise EnvFileError(
                f"{ENV_FILE}: line {line} of {path!r} is no NAME=value; mend it, or"
                " put a # in front of a comment"
            )
        if binding.key is not None and binding.value is not None:
            found[binding.key] = binding.value
    found.pop(ENV_FILE, None)
    return found


def _is_wrong(binding: "Binding") -> bool:
    if binding.error:
        return True
    if binding.key is None:
        return False
    # What no environment can have is no variable either.
    is_name = binding.key and "=" not in binding.key
    return not is_name or binding.value is None or "\0" in binding.key + binding.value
