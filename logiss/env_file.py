"""
Reads variables from a file of ``NAME=value`` lines, which can change while the
environment of a process cannot.
"""

from collections.abc import Mapping
from io import StringIO

#: The variable that names the file.
ENV_FILE = "ENV_FILE"
#: A configuration is no larger.
FILE_BYTES_MAX = 1024 * 1024


class EnvFileError(Exception):
    """The file cannot be read. Says why, on one line, and nothing of what is in it."""


def merged(environ: Mapping[str, str]) -> dict[str, str]:
    """
    `environ`, and in front of it what is in the file that its ENV_FILE names, if it
    names one.

    @raise EnvFileError: it cannot be read, or has a line that is no variable.
    """
    path = environ.get(ENV_FILE, "").strip()
    return {**environ, **_read(path)} if path else dict(environ)


def _read(path: str) -> dict[str, str]:
    try:
        with open(path, "rb") as file:
            octets = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or str(e)
        raise EnvFileError(f"ENV_FILE: cannot read {path!r}: {why}") from None
    if len(octets) > FILE_BYTES_MAX:
        raise EnvFileError(
            f"ENV_FILE: {path!r} has more than {FILE_BYTES_MAX} bytes; name a file of"
            " NAME=value lines"
        )
    try:
        return _variables(path, octets.decode())
    except UnicodeDecodeError:
        raise EnvFileError(
            f"ENV_FILE: {path!r} must be UTF-8 text; take the odd bytes out"
        ) from None


def _variables(path: str, text: str) -> dict[str, str]:
    # Only whoever has such a file loads what reads it.
    from dotenv.parser import parse_stream

    found = {}
    for binding in parse_stream(StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            string, line = binding.original.string, binding.original.line
            # It begins with the empty lines in front of it.
            line += len(string) - len(string.lstrip("\n"))
            raise EnvFileError(
                f"ENV_FILE: line {line} of {path!r} is no NAME=value; mend it, or"
                " put a # in front of a comment"
            )
        if binding.key is not None and binding.value is not None:
            found[binding.key] = binding.value
    found.pop(ENV_FILE, None)
    return found
