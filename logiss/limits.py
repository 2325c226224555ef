"""
How much and how long a client may send.

Bodies have limits of their own: `logiss.frames`, `logiss.inflate`, `logiss.chunked`.
"""

from attrs import field, frozen

#: A keep-alive connection may be idle so long: logplex drains sit for 5 minutes.
IDLE_SECONDS = 330
#: How much of further requests is kept while one is served.
READ_AHEAD_BYTES = 64 * 1024
#: How long a body may come as slowly as it likes.
SLOW_START_SECONDS = 2.0

# Between the parts of a request line and behind it: two spaces, the version, CRLF.
_LINE_BYTES = len(b"  HTTP/1.1\r\n")
# Behind the last field.
_END_BYTES = len(b"\r\n")


@frozen
class HeadLimits:
    """
    @ivar line_bytes: of the request line.
    @ivar header_bytes: of all fields, as they come.
    @ivar fields: how many there are.
    """

    line_bytes: int = 8 * 1024
    header_bytes: int = 16 * 1024
    fields: int = 100
    #: A head that is no longer is within both.
    head_bytes_safe: int = field(init=False)

    @head_bytes_safe.default
    def _least(self) -> int:
        return min(self.line_bytes, self.header_bytes)

    def is_line_too_long(self, method: bytes, target: bytes) -> bool:
        return len(method) + len(target) + _LINE_BYTES > self.line_bytes

    def are_fields_too_large(
        self, method: bytes, target: bytes, head_bytes: int, fields: int
    ) -> bool:
        """
        @param head_bytes: how long the whole head is, as far as it has come.
        @param fields: how many there are.
        """
        line_bytes = len(method) + len(target) + _LINE_BYTES
        size = head_bytes - line_bytes - _END_BYTES
        return size > self.header_bytes or fields > self.fields


@frozen
class Deadlines:
    """
    How long clients may take. A client that takes longer is cut off without an answer:
    whoever sends logs tries a broken connection again, but throws away what a 4xx says
    no to.

    @ivar idle_seconds: between two requests.
    @ivar header_seconds: for a request's line and headers, from its first byte.
    @ivar body_seconds: for its body.
    @ivar body_bytes_per_second: what of the body has to come on average, once
        `SLOW_START_SECONDS` are over; 0 is no matter how little.
    """

    idle_seconds: float = IDLE_SECONDS
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    body_bytes_per_second: int = 1024


@frozen
class ChannelLimits:
    """
    How much and how long a client may send.

    @ivar body_bytes: of the body of a request to a Resource that does not read it
        itself.
    @ivar read_ahead_bytes: of further requests, while one is served.
    """

    body_bytes: int
    head: HeadLimits = field(factory=HeadLimits)
    read_ahead_bytes: int = READ_AHEAD_BYTES
    deadlines: Deadlines = field(factory=Deadlines)
