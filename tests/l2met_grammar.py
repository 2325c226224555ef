"""
Reads a log line as l2met does, independently of what writes it.

The grammar is that of l2met's logfmt: pairs with spaces between, ``key=value``,
where a key is bytes above space other than ``=`` and ``"``, and a value is bare (the
same bytes) or quoted as in JSON. Stricter than l2met in one thing: what it would
skip as garbage is an error here.
"""

import json
import re

_KEY = re.compile(r'[^\x00-\x20="\x7f]+')
_BARE = re.compile(r'[^\x00-\x20="\x7f]*')
_QUOTED = re.compile(
    r'"(?:[^"\\\x00-\x1f\x7f-\U0010ffff]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
)
_METRIC = re.compile(r"(count|measure|sample)#[a-z][a-z0-9._-]*")
_METRIC_VALUE = re.compile(r"[0-9]+(\.[0-9]+)?[a-z]*")


class NotL2met(Exception):
    """l2met would not read the line, or not all of it."""


#: A line repeats at most so many characters of a value, and they become at most so
#: many bytes.
SHOWN_MAX, ESCAPED_MAX = 256, 768


def cut(value: str) -> str:
    """What a line says of `value`."""
    escaped = 0
    for i, character in enumerate(value[:SHOWN_MAX]):
        escaped += len(json.dumps(character)) - 2
        if escaped > ESCAPED_MAX:
            return value[:i]
    return value[:SHOWN_MAX]


def parse(line: str) -> dict[str, str]:
    """
    The pairs of `line`.

    @raise NotL2met: it is not l2met, or a key is there twice.
    """
    pairs: dict[str, str] = {}
    at = 0
    while True:
        key = _KEY.match(line, at)
        if key is None or line[key.end() : key.end() + 1] != "=":
            raise NotL2met(f"no key at {at}: {line!r}")
        at = key.end() + 1
        quoted = _QUOTED.match(line, at)
        value = quoted or _BARE.match(line, at)
        assert value is not None
        at = value.end()
        if key[0] in pairs:
            raise NotL2met(f"{key[0]} is there twice: {line!r}")
        pairs[key[0]] = json.loads(value[0]) if quoted else value[0]
        if "#" in key[0] and not (
            _METRIC.fullmatch(key[0])
            and not quoted
            and _METRIC_VALUE.fullmatch(value[0])
        ):
            raise NotL2met(f"{key[0]} is no metric: {line!r}")
        if at == len(line):
            break
        if line[at] != " ":
            raise NotL2met(f"no space at {at}: {line!r}")
        at += 1
    if list(pairs)[:2] != ["app", "source"] or pairs["app"] != "log-iss":
        raise NotL2met(f"does not start with app and source: {line!r}")
    return pairs
