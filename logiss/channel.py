"""
A fast HTTP/1.1 channel (llhttp) that serves twisted.web Resources.

llhttp, through httptools, finds the parts of a request; here they become a
`LeanRequest`, served in the order of the requests, one at a time, and a complete
answer goes straight to the socket. A Resource that can refuse a request on its
headers alone (`IRefusesEarly`) is asked before the body is read; the body of a
refused request is read past, not kept.

What this channel leaves to twisted.web's `Request`: everything that does not happen
on the way of a POST.

The states of a connection, by what `_incoming` (being read) and `_serving` (being
answered) are::

    neither     idle: waits for a request, or for the idle timeout
    incoming    headers or body are being read
    serving     waits for the Resource; requests that were read ahead stand in
                `_waiting`, further bytes in `_unread`, up to READ_AHEAD_BYTES
    closing     the last answer is written; what still comes is read past
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from attrs import frozen
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from httptools.parser.errors import (
    HttpParserCallbackError,
    HttpParserInvalidMethodError,
)
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import Site

from logiss.answers import (
    BAD_REQUEST,
    BODY_TOO_LARGE,
    HEADERS_TOO_LARGE,
    INTERNAL_ERROR,
    METHOD_UNKNOWN,
    OK,
    URI_TOO_LONG,
    Answer,
    IRefusesEarly,
)
from logiss.requests import LeanRequest

#: A keep-alive connection may be idle so long: logplex drains sit for 5 minutes.
IDLE_SECONDS = 330
#: How much of further requests is kept while one is served.
READ_AHEAD_BYTES = 64 * 1024
REQUEST_LINE_BYTES_MAX = 8 * 1024
HEADER_BYTES_MAX = 16 * 1024
HEADER_FIELDS_MAX = 100
LENGTH_DIGITS_MAX = 18
#: How long a body may come as slowly as it likes.
SLOW_START_SECONDS = 2.0
#: How long a client may go on sending what nobody reads any more, so that it gets
#: to read its answer.
LINGER_SECONDS = 2.0
#: The same for one that reads slowly.
LINGER_SLOW_SECONDS = 30.0

_BEAT_SECONDS = 1.0
_POLL_SECONDS = 0.02
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


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


def _by_name(fields: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """The values of each header, by its name in lower case."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        name = name.lower()
        if name in values:
            values[name].append(value)
        else:
            values[name] = [value]
    return values


def _is_malformed(version: str, fields: dict[bytes, list[bytes]]) -> bool:
    """
    Whether the head breaks a rule that llhttp lets pass (RFC 9112 sections 2.3, 3.2
    and 6): it takes other versions, a Host missing or doubled, lengths of any number of
    digits, and other codings in front of ``chunked`` or on HTTP/1.0.
    """
    if version not in ("1.1", "1.0"):
        return True
    if version == "1.1" and len(fields.get(b"host", ())) != 1:
        return True
    if len(fields.get(b"content-length", (b"",))[0]) > LENGTH_DIGITS_MAX:
        return True
    codings = fields.get(b"transfer-encoding")
    return codings is not None and (
        version != "1.1" or [coding.lower() for coding in codings] != [b"chunked"]
    )


class Channel(Protocol):
    """One connection of a client."""

    factory: "ChannelSite"
    # TCP's or TLS's; what is asked of either has no common interface.
    transport: Any
    _log = Logger()

    def __init__(self, site: "ChannelSite") -> None:
        self.site = site
        self._parser = HttpRequestParser(self)
        self._uri = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0
        self._in_headers = False
        self._upgrading = False
        self._clogged: bool | None = None
        self._incoming: LeanRequest | None = None
        self._serving: LeanRequest | None = None
        self._waiting: deque[LeanRequest] = deque()
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._advancing = False
        self._broken: Answer | None = None
        self._closing: IDelayedCall | None = None
        self._paused = False
        self.last_active = 0.0
        # When the client began with the headers or the body that it is at.
        self._began_at = 0.0
        self._send: Callable[[bytes], int] | None = None
        self.peer: IAddress | None = None

    # the transport's side

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            if not ISSLTransport.providedBy(transport):
                self._send = cast(Any, transport).getHandle().send
        self.peer = transport.getPeer()
        self.last_active = self.site.clock.seconds()
        self.site.channels.add(self)

    def dataReceived(self, data: bytes) -> None:
        self.last_active = self.site.clock.seconds()
        if self._closing is not None or self._broken is not None:
            return
        if self._serving is not None or self._clogged:
            self._keep_unread(data)
        else:
            self._feed(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channels.discard(self)
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        requests = [self._serving, *self._waiting, self._incoming]
        self._serving = self._incoming = None
        self._waiting.clear()
        self._unread.clear()
        self._send = None
        # It holds our callbacks, and so us.
        del self._parser
        for request in dict.fromkeys(r for r in requests if r is not None):
            if request.channel is not None:
                request.connectionLost(reason)

    def _keep_unread(self, data: bytes) -> None:
        self._unread.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > READ_AHEAD_BYTES and not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def _feed(self, data: bytes) -> None:
        rest: bytes | None = data
        while rest is not None:
            rest = self._parse(rest)

    def _parse(self, data: bytes) -> bytes | None:
        """Have llhttp read `data`; what is to be read then, if anything."""
        self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
            # A field is gathered until it is whole, however long it is; also one
            # behind a chunked body.
            if self._header_bytes > HEADER_BYTES_MAX and (
                self._in_headers or self._incoming is not None
            ):
                self._break(HEADERS_TOO_LARGE)
        except HttpParserUpgrade as e:
            if self._upgrading:
                return self._without_upgrade() + data[e.args[0] :]
            # CONNECT: what follows it is not understood.
            self._no_more()
        except HttpParserCallbackError as e:
            # Ours, not the client's.
            self._log.failure("while reading a request", Failure(e.__context__ or e))
            self._break(INTERNAL_ERROR)
        except HttpParserInvalidMethodError:
            self._break(METHOD_UNKNOWN)
        except HttpParserError:
            self._break(BAD_REQUEST)
        return None

    def _without_upgrade(self) -> bytes:
        """
        The head of a request to upgrade as if it had not asked: no other protocol
        is spoken here. llhttp takes what follows such a head, the body as well, for
        the other protocol, so that it has to read it anew.
        """
        self._upgrading = False
        parser, self._parser = self._parser, HttpRequestParser(self)
        version = parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (parser.get_method(), self._uri, version)]
        lines += [
            b"%b: %b" % field
            for field in self._fields
            if field[0].lower() != b"upgrade"
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _break(self, answer: Answer) -> None:
        """What comes is no HTTP: answer what was before it, say so and close."""
        if self._broken is None:
            self._broken = answer
            incoming, self._incoming = self._incoming, None
            if incoming is not None:
                incoming.chunks = []
                if incoming.finished:
                    # It has had its answer, on its headers.
                    self._close()
            self._advance()

    def _no_more(self) -> None:
        last = self._waiting[-1] if self._waiting else self._serving
        if last is not None:
            last.persistent = False
        elif self._closing is None:
            self._close()

    # llhttp's side

    def on_message_begin(self) -> None:
        self._uri = b""
        self._fields = []
        self._header_bytes = 0
        self._in_headers = True
        self._began_at = self.last_active

    def on_url(self, url: bytes) -> None:
        self._uri += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:
            # llhttp leaves the white space behind a value.
            self._fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._header_bytes = 0
        self._began_at = self.last_active
        if self._closing is not None:
            # Read ahead behind the last request that is answered.
            return
        parser = self._parser
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            self._upgrading = True
            return
        version = parser.get_http_version()
        is_1_1 = version == "1.1"
        request = self._incoming = LeanRequest(
            self,
            parser.get_method(),
            self._uri,
            b"HTTP/1.1" if is_1_1 else b"HTTP/1.0",
            _by_name(self._fields),
        )
        request.persistent = is_1_1 and parser.should_keep_alive()
        request.refusal = self._refusal(request, version)
        is_next = self._serving is None and not self._waiting
        expects = request.fields.get(b"expect")
        if expects is not None and expects[0].lower() == b"100-continue" and is_1_1:
            if request.refusal is not None:
                # Whether its body comes nobody knows.
                request.persistent = False
            elif is_next:
                self.write(_CONTINUE)
            else:
                request.expects = True
        if request.refusal is not None:
            if request.refusal.closes:
                request.persistent = False
            if is_next:
                self._serve(request)

    def _refusal(self, request: LeanRequest, version: str) -> Answer | None:
        """What is to be answered to `request` on its headers, if anything."""
        if len(request.uri) > REQUEST_LINE_BYTES_MAX:
            return URI_TOO_LONG
        size = sum(len(name) + len(value) for name, value in self._fields)
        if size > HEADER_BYTES_MAX or len(self._fields) > HEADER_FIELDS_MAX:
            return HEADERS_TOO_LARGE
        if _is_malformed(version, request.fields):
            return BAD_REQUEST
        request.resource = self.site.resource_for(request)
        if self.site.refuses_early(request.resource):
            return cast("Answer | None", request.resource.refusal(request))
        return None

    def on_body(self, chunk: bytes) -> None:
        self._header_bytes = 0
        request = self._incoming
        if request is None:
            return
        request.size += len(chunk)
        if request.refusal is not None:
            return
        if request.size > self.site.max_body_bytes:
            request.chunks = []
            request.refusal = self.site.body_too_large(request)
            request.persistent = False
            if self._serving is None and not self._waiting:
                self._serve(request)
        else:
            request.add_chunk(chunk)

    def on_message_complete(self) -> None:
        request, self._incoming = self._incoming, None
        if request is None or request.finished:
            return
        if request is not self._serving:
            self._waiting.append(request)
            self._advance()

    # the Resource's side

    def _advance(self) -> None:
        """Serve what waits, until a request has to be waited for."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._serving is None and self._closing is None and not self._clogged:
                incoming = self._incoming
                if self._waiting:
                    self._serve(self._waiting.popleft())
                elif incoming is not None and incoming.is_due:
                    # It was read behind one that was being served.
                    if incoming.refusal is not None:
                        self._serve(incoming)
                    else:
                        incoming.expects = False
                        self.write(_CONTINUE)
                elif self._unread:
                    data = b"".join(self._unread)
                    self._unread.clear()
                    self._unread_bytes = 0
                    if self._paused:
                        self._paused = False
                        self.transport.resumeProducing()
                    self._feed(data)
                elif self._broken is not None:
                    self.write(
                        self._broken.octets(self.site.date, self.site.level, True)
                    )
                    self._close()
                else:
                    break
        finally:
            self._advancing = False

    def _serve(self, request: LeanRequest) -> None:
        self._serving = request
        if request.refusal is not None:
            request.refusal.write_to(request)
            return
        try:
            request.render(request.resource)
        except Exception:
            request.processingFailed(Failure())

    def requestDone(self, request: LeanRequest) -> None:  # noqa: N802
        """`request` is answered in full."""
        self._serving = None
        if self._closing is not None:
            return
        # What was read behind it had to wait for it.
        self.last_active = self._began_at = self.site.clock.seconds()
        if not request.persistent:
            self._close()
        elif not self._advancing and (
            self._waiting
            or self._unread
            or self._incoming is not None
            or self._broken is not None
        ):
            self._advance()

    def _close(self) -> None:
        """
        End our side, and read past what the client still sends: a close with
        unread bytes would be a reset, and take the answer away from it.
        """
        self._incoming = None
        self._waiting.clear()
        self._unread.clear()
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        if self._clogged is not None:
            # A paused producer would keep the end from being sent.
            self.transport.unregisterProducer()
        # Where the kernel has not taken all, the answer itself may still be on its way.
        linger = LINGER_SECONDS if self._send is not None else LINGER_SLOW_SECONDS
        self._closing = self.site.clock.callLater(linger, self.abort)
        lose = getattr(self.transport, "loseWriteConnection", None)
        if lose is None or ISSLTransport.providedBy(self.transport):
            self.transport.loseConnection()
        else:
            lose()

    def close_when_done(self) -> None:
        """Close behind the answers that are being written, at once when idle."""
        if self._closing is None:
            if self._serving is not None:
                self._serving.persistent = False
            else:
                self._close()

    def abort(self) -> None:
        self.transport.abortConnection()

    def close_if_idle(self, since: float) -> None:
        """Close when nothing has come since `since` and nothing is under way."""
        if (
            self.last_active <= since
            and self._serving is None
            and self._closing is None
        ):
            self._close()

    def why_late(self, now: float) -> str:
        """Why the client is to be cut off, if it is."""
        incoming = self._incoming
        if incoming is None and not self._in_headers:
            return ""
        if self._serving is not None or self._closing is not None or self._clogged:
            # The client waits for us, or we for its reading.
            return ""
        deadlines = self.site.deadlines
        seconds = now - self._began_at
        if incoming is None:
            most = deadlines.header_seconds
            return f"headers took more than {most:g} s" if seconds > most else ""
        if seconds > deadlines.body_seconds:
            return f"the body took more than {deadlines.body_seconds:g} s"
        rate = deadlines.body_bytes_per_second
        if seconds > SLOW_START_SECONDS and incoming.size < rate * seconds:
            return f"the body came with less than {rate} bytes a second"
        return ""

    # what twisted.web's `Request` asks of its channel

    def write(self, octets: bytes) -> None:
        send = self._send
        if send is not None:
            # Straight to the kernel: the reactor would make it two more system
            # calls and a turn.
            try:
                sent = send(octets)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The reactor will find out by reading.
                return
            if sent == len(octets):
                return
            # From here on the transport has a buffer, and all goes through it.
            octets = octets[sent:]
            self._send = None
        if self._clogged is None:
            # From here on it says when the client reads too slowly.
            self._clogged = False
            self.transport.registerProducer(self, True)
        self.transport.write(octets)

    # what the transport asks of a producer

    def pauseProducing(self) -> None:
        self._clogged = True

    def resumeProducing(self) -> None:
        self._clogged = False
        # What was read meanwhile had to wait for the client's reading.
        self.last_active = self._began_at = self.site.clock.seconds()
        self._advance()

    def stopProducing(self) -> None:
        """The connection has ended; connectionLost follows."""

    def writeSequence(self, sequence: Any) -> None:  # noqa: N802
        self.write(b"".join(sequence))

    def writeHeaders(  # noqa: N802
        self, version: bytes, code: bytes, reason: bytes, headers: Headers
    ) -> None:
        lines = [b"HTTP/1.1 " + code + b" " + reason]
        lines += [
            name + b": " + value
            for name, values in headers.getAllRawHeaders()
            for value in values
        ]
        serving = self._serving
        if serving is not None and not serving.persistent:
            lines.append(b"Connection: close")
        self.write(b"\r\n".join(lines) + b"\r\n\r\n")

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        self._send = None
        if self._clogged is not None:
            self.transport.unregisterProducer()
        self._clogged = False
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:  # noqa: N802
        self.transport.unregisterProducer()
        self._clogged = None

    def getPeer(self) -> IAddress:  # noqa: N802
        return cast(IAddress, self.transport.getPeer())

    def getHost(self) -> IAddress:  # noqa: N802
        return cast(IAddress, self.transport.getHost())

    def isSecure(self) -> bool:  # noqa: N802
        return bool(ISSLTransport.providedBy(self.transport))

    def loseConnection(self) -> None:  # noqa: N802
        if self._clogged is not None:
            # A registered producer would keep the connection from closing.
            self.transport.unregisterProducer()
            self._clogged = None
        self.transport.loseConnection()


class ChannelSite(ServerFactory[Channel]):
    """
    Serves a tree of Resources over `Channel`.

    @param root: the tree.
    @param fixed: Resources that need not be looked for in the tree, by path.
    @param max_body_bytes: of a body on the wire.
    @param delivery_level: what each answer says a 200 to a post means, if it is
        known.
    @param on_cut: told how many clients were cut off, the address of one and why it
        was.
    @ivar channels: the connections there are.
    """

    noisy = False
    displayTracebacks = False
    _parsePOSTFormSubmission = False  # noqa: N815, twisted.web asks its site

    def __init__(
        self,
        root: IResource,
        clock: IReactorTime,
        max_body_bytes: int,
        fixed: Mapping[bytes, IResource],
        delivery_level: str | None = None,
        deadlines: Deadlines | None = None,
        on_cut: Callable[[int, IAddress, str], None] = lambda *cut: None,
    ) -> None:
        self.clock = clock
        self.deadlines = deadlines or Deadlines()
        self._on_cut = on_cut
        self.level = delivery_level
        self.max_body_bytes = max_body_bytes
        self.channels: set[Channel] = set()
        self._root = root
        self._fixed = fixed
        # Sessions, for a Resource that wants one, are twisted.web's.
        sessions = Site(root, reactor=clock)
        self.makeSession, self.getSession = sessions.makeSession, sessions.getSession
        self._beat = LoopingCall(self._beaten)
        self._beat.clock = clock
        self._early = {r: IRefusesEarly.providedBy(r) for r in fixed.values()}
        self._tick()

    def startFactory(self) -> None:  # noqa: N802
        self._beat.start(_BEAT_SECONDS)

    def stopFactory(self) -> None:  # noqa: N802
        self._beat.stop()

    def _beaten(self) -> None:
        # A date and an idle timeout for each connection would be timers per POST.
        self._tick()
        now = self.clock.seconds()
        since = now - self.deadlines.idle_seconds
        for channel in [c for c in self.channels if c.last_active <= since]:
            channel.close_if_idle(since)
        late = [(c, why) for c in self.channels if (why := c.why_late(now))]
        for channel, _ in late:
            channel.abort()
        if late:
            channel, why = late[0]
            self._on_cut(len(late), cast(IAddress, channel.peer), why)

    def _tick(self) -> None:
        self.date = datetimeToString(self.clock.seconds())
        self.ok = OK.octets(self.date, self.level, False)

    def refuses_early(self, resource: IResource) -> bool:
        # To ask an object for its interfaces costs more than all of the headers.
        known = self._early.get(resource)
        return IRefusesEarly.providedBy(resource) if known is None else known

    def body_too_large(self, request: LeanRequest) -> Answer:
        if self.refuses_early(request.resource):
            return cast(Answer, request.resource.body_too_large(request))
        return BODY_TOO_LARGE

    def buildProtocol(self, addr: IAddress | None) -> Channel:
        channel = Channel(self)
        channel.factory = self
        return channel

    def resource_for(self, request: LeanRequest) -> IResource:
        resource = self._fixed.get(request.path)
        if resource is not None:
            request.prepath, request.postpath = [request.path[1:]], []
            return resource
        return cast(IResource, getChildForRequest(self._root, request))

    def log(self, request: object) -> None:
        """What is to be said of a request is in the l2met lines."""

    async def say_goodbye(self, within_seconds: float) -> None:
        """Close each connection behind its answer; abort those that do not read."""
        for channel in list(self.channels):
            channel.close_when_done()
        deadline = self.clock.seconds() + within_seconds
        while self.channels and self.clock.seconds() < deadline:
            await deferLater(self.clock, _POLL_SECONDS)
        for channel in list(self.channels):
            channel.abort()
