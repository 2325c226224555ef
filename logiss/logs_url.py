"""
Reads the URL that logs are posted to, as log-shuttle has it in ``LOGS_URL``:
``http[s]://user:password@host[:port][/path][?query]``.
"""

import re
from base64 import b64encode
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from attrs import evolve, field, frozen

#: Where logiss takes logs.
PATH = "/logs"

_PORTS = {"http": 80, "https": 443}
_ALLOWED = re.compile(r"[!-~]+")
_EXAMPLE = "it looks like https://user:password@logs.example.com/logs"


class NotAURL(Exception):
    """Logs cannot be posted there. Says why on one line, without a password."""


@frozen
class LogsURL:
    """
    @ivar origin: ``https://host:port``.
    @ivar target: path and query.
    @ivar authorization: the value of that header field, if there are credentials.
    """

    is_tls: bool
    host: str
    port: int
    origin: str
    target: str
    authorization: bytes | None = field(default=None, repr=False)

    def with_query(self, query: str) -> "LogsURL":
        """The same with another query; none when it is empty."""
        path = self.target.partition("?")[0]
        return evolve(self, target=f"{path}?{query}" if query else path)


def is_url(text: str) -> bool:
    """Whether it is meant as one, and not as the name of a file."""
    return text.lower().startswith(("http://", "https://"))


def parse(text: str, password: str | None = None) -> LogsURL:
    """
    @param password: for a user that stands there without one.
    @raise NotAURL: it is none, or not one for logs.
    """
    if not text:
        raise NotAURL(f"is empty; {_EXAMPLE}")
    if not _ALLOWED.fullmatch(text):
        raise NotAURL(
            "has a space or another character that a URL has as %XX only;" + _example()
        )
    try:
        split = urlsplit(text)
        port = split.port
    except ValueError:
        raise NotAURL(f"has no valid host and port; {_EXAMPLE}") from None
    scheme = split.scheme.lower()
    if scheme not in _PORTS:
        raise NotAURL(f"does not begin with http:// or https://; {_EXAMPLE}")
    host = _host(split, port)
    port = port or _PORTS[scheme]
    shown = f"[{host}]" if ":" in host else host
    path = split.path if split.path not in ("", "/") else PATH
    return LogsURL(
        is_tls=scheme == "https",
        host=host,
        port=port,
        origin=f"{scheme}://{shown}:{port}",
        target=f"{path}?{split.query}" if split.query else path,
        authorization=_authorization(split, password),
    )


def _example() -> str:
    return f" {_EXAMPLE}"


def _host(split: SplitResult, port: int | None) -> str:
    if not split.hostname or port == 0:
        raise NotAURL(f"has no valid host and port; {_EXAMPLE}")
    if split.fragment:
        raise NotAURL("has a '#'; in a password write %23, or leave out what follows")
    # A "/" or "?" in a password ends the host for who reads a URL, and begins the path.
    if "@" in split.path or ("@" in split.query and split.username is None):
        raise NotAURL(
            "has an '@' behind its host; in a password write %2F for '/' and %3F for"
            " '?', and elsewhere %40 for '@'"
        )
    return split.hostname


def _authorization(split: SplitResult, password: str | None) -> bytes | None:
    """RFC 7617 section 2, of what RFC 3986 section 3.2.1 has percent-encoded."""
    if split.username is None:
        return None
    user = unquote_to_bytes(split.username)
    if b":" in user:
        raise NotAURL("has a user with ':' in it, which HTTP does not allow")
    if split.password is not None:
        secret = unquote_to_bytes(split.password)
    else:
        secret = (password or "").encode("utf-8", "surrogateescape")
    return b"Basic " + b64encode(user + b":" + secret)
