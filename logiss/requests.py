# mypy: disable-error-code="override"
"""
A twisted.web `Request` of which only what is touched is made.

twisted.web makes headers, cookies, arguments, notifications and a file for every
request. Here they are made when somebody asks; who does not, as our own Resources,
takes `fields`, `body` and `write_answer` instead.
"""

import re
from collections.abc import Callable
from functools import cached_property
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.python.failure import Failure
from twisted.web.http import datetimeToString, parse_qs
from twisted.web.http_headers import Headers
from twisted.web.server import Request

from logiss.answers import OK, Answer

_SMALL_CHUNK_BYTES = 1024
# A large block that grows, among thousands that do, leaves holes in the memory.
_TOGETHER_BYTES = 32 * 1024


_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


def path_in(target: bytes) -> bytes:
    """Path and query of a target in absolute form (RFC 9112 section 3.2.2)."""
    found = _ABSOLUTE.match(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


class LeanRequest(Request):
    """
    A twisted.web `Request` of which only what is touched is made.

    @ivar fields: the values of each header, by its name in lower case.
    @ivar header_values: the values of a header by its name in lower case, or None.
    @ivar on_end: called with whether the answer was written, once it was or the
        client has gone.
    @ivar refusal: the answer that was found on the headers alone.
    @ivar about: for a Resource that was asked on the headers, what it found out.
    """

    def __init__(
        self,
        channel: Any,
        method: bytes,
        uri: bytes,
        clientproto: bytes,
        fields: dict[bytes, list[bytes]],
    ) -> None:
        # Not the base class's: what that would make is made when touched.
        self.channel: Any = channel
        self.method = method
        self.uri = uri
        self.clientproto = clientproto
        self.fields = fields
        # A call less for each header that is asked for.
        self.header_values = fields.get
        self.path = (uri if uri.startswith(b"/") else path_in(uri)).partition(b"?")[0]
        self.client = channel.peer
        self.resource: Any = None
        self.chunks: list[bytes] = []
        self.size = 0
        self.persistent = True
        self.refusal: Answer | None = None
        self.reads_early = False
        self.about: Any = None
        self.on_end: Callable[[bool], None] | None = None

    queued = False
    _inFakeHead = False  # noqa: N815, the base class's
    _encoder = None

    @cached_property
    def notifications(self) -> Any:
        return []

    @cached_property
    def cookies(self) -> Any:
        return []

    @cached_property
    def _adapterCache(self) -> Any:  # noqa: N802
        return {}

    @cached_property
    def requestHeaders(self) -> Any:  # noqa: N802
        return Headers(self.fields)

    @cached_property
    def responseHeaders(self) -> Any:  # noqa: N802
        return Headers({b"date": [datetimeToString()]})

    @cached_property
    def received_cookies(self) -> Any:
        self.__dict__["received_cookies"] = {}
        self.parseCookies()
        return self.__dict__["received_cookies"]

    @cached_property
    def args(self) -> Any:
        query = self.uri.partition(b"?")[2]
        return parse_qs(query, True) if query else {}

    @cached_property
    def prepath(self) -> Any:
        return []

    @cached_property
    def postpath(self) -> Any:
        return [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]

    @cached_property
    def content(self) -> Any:
        return BytesIO(self.body())

    @cached_property
    def host(self) -> Any:
        return self.channel.getHost()

    @cached_property
    def transport(self) -> Any:
        return self.channel.transport

    @cached_property
    def site(self) -> Any:
        return self.channel.site

    @cached_property
    def sitepath(self) -> Any:
        return []

    # what a Resource that reads early asks for

    def pause_reading(self) -> None:
        """There is no room for more of the body."""
        self.channel.pause_reading()

    def resume_reading(self) -> None:
        self.channel.resume_reading()

    def refuse(self, answer: Answer) -> None:
        """Answer before the body is there, and close the connection behind that."""
        self.channel.refuse(self, answer)

    def abandon(self) -> None:
        """Nothing more of the body will be read: whoever has taken it lets it go."""
        self.chunks = []
        if self.reads_early:
            self.resource.abandoned(self)

    def add_chunk(self, chunk: bytes) -> None:
        """Keep a piece of the body, small ones together: each has a price."""
        chunks: list[Any] = self.chunks
        if len(chunk) >= _SMALL_CHUNK_BYTES or not chunks:
            chunks.append(chunk)
        elif isinstance(chunks[-1], bytearray) and len(chunks[-1]) < _TOGETHER_BYTES:
            chunks[-1] += chunk
        else:
            chunks.append(bytearray(chunk))

    def body(self) -> bytes:
        """The body, which is not kept here any longer."""
        chunks, self.chunks = self.chunks, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def write_answer(self, answer: Answer) -> None:
        """Write a complete answer and finish."""
        channel = self.channel
        self.startedWriting = self.finished = 1
        if (
            answer.closes
            or answer.hangs_up
            or (channel.site.is_leaving and channel.is_last())
        ):
            self.persistent = False
        if answer.hangs_up:
            # What was answered before is written; behind it the connection ends.
            pass
        elif answer is OK and self.persistent and self.method == b"POST":
            channel.write(channel.site.ok)
        else:
            site = channel.site
            to_head = self.method == b"HEAD"
            channel.write(
                answer.octets(site.date, site.level, not self.persistent, to_head)
            )
        self._cleanup()

    def _cleanup(self) -> None:
        # The end of an answer, from `finish` or `write_answer`.
        if self.producer is not None:
            self._log.failure(
                "", Failure(RuntimeError(f"a producer was left behind by {self.uri!r}"))
            )
            self.unregisterProducer()
        channel, self.channel = self.channel, None
        self._end(True)
        for waiting in self.__dict__.pop("notifications", ()):
            waiting.callback(None)
        channel.requestDone(self)

    def connectionLost(self, reason: Failure) -> None:
        self._disconnected = True
        self.channel = None
        self.chunks = []
        self._end(False)
        for waiting in self.__dict__.pop("notifications", ()):
            waiting.errback(reason)

    def _end(self, is_answered: bool) -> None:
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(is_answered)
