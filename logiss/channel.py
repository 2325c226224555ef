"""
A fast HTTP/1.1 channel (llhttp) that serves twisted.web Resources.

llhttp, through httptools, finds the parts of a request; here they become a
`LeanRequest`, served in the order of the requests, one at a time, and a complete
answer goes straight to the socket. A Resource that can refuse a request on its
headers alone (`IReadsEarly`) is asked before the body is read, and is given the body as
it arrives; the body of a refused request is read past, not kept.

llhttp is fed in steps that end where a head or a body does, so that nothing behind a
request is looked at before that one is answered: a read of thousands of requests is
kept as the bytes that it is. Chunks are taken apart by `logiss.chunked`.

What this channel leaves to twisted.web's `Request`: everything that does not happen
on the way of a POST.

The states of a connection, by what `_incoming` (being read) and `_serving` (being
answered) are::

    neither     idle: waits for a request, or for the idle timeout
    incoming    headers or body are being read; of a request that was refused meanwhile
                the body is read past
    serving     waits for the Resource; what comes meanwhile stands in `_unread`, up to
                a limit
    closing     the last answer is written; what still comes is read past
"""

import socket
from collections.abc import Callable
from typing import Any, cast
from typing import Protocol as TypingProtocol

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
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource

from logiss.answers import (
    BAD_REQUEST,
    BODY_TOO_LARGE,
    HEADERS_TOO_LARGE,
    INTERNAL_ERROR,
    METHOD_UNKNOWN,
    URI_TOO_LONG,
    Answer,
)
from logiss.budget import Budget
from logiss.chunked import BadChunk, ChunkedBody
from logiss.heads import first_line, is_malformed
from logiss.limits import SLOW_START_SECONDS, ChannelLimits
from logiss.requests import LeanRequest

#: How long a client may go on sending what nobody reads any more, so that it gets
#: to read its answer.
LINGER_SECONDS = 2.0
#: The same for one that reads slowly.
LINGER_SLOW_SECONDS = 30.0

# Of the requests in one read so many are served in a turn of the reactor: a read may
# hold thousands, and others wait for their turn.
_SERVED_AT_ONCE = 16
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
_CR = 13
# As all senders write it; where it is not so the body is a step of its own.
_LENGTH = b"\r\nContent-Length: %d\r\n"


class IServed(TypingProtocol):
    """
    What a connection asks of the site that it belongs to.

    @ivar channels: the connections there are.
    @ivar date: for answers.
    @ivar is_leaving: whether each answer is to be the last of its connection.
    @ivar level: the delivery level that answers name, if it is known.
    """

    budget: Budget
    channels: "set[Channel]"
    clock: IReactorTime
    date: bytes
    is_leaving: bool
    level: str | None
    limits: ChannelLimits

    def joined(self, channel: "Channel") -> None: ...
    def reads_early(self, resource: IResource) -> bool: ...
    def refused(self, answer: Answer) -> None: ...
    def resource_for(self, request: LeanRequest) -> IResource: ...


class Channel(Protocol):
    """One connection of a client."""

    factory: Any
    # TCP's or TLS's; what is asked of either has no common interface.
    transport: Any
    _log = Logger()

    # With more attributes than 30 in a dictionary of its own Python (3.11) would look
    # each of them up by its hash.
    __slots__ = (
        "_began_at",
        "_body_left",
        "_chunked",
        "_clogged",
        "_closing",
        "_complete",
        "_direct",
        "_field_count",
        "_fields",
        "_has_more",
        "_head_bytes",
        "_head_start",
        "_head_tail",
        "_in_head",
        "_incoming",
        "_is_feeding",
        "_is_open",
        "_line",
        "_next_turn",
        "_parser",
        "_paused",
        "_registering",
        "_send",
        "_serving",
        "_unread",
        "_unread_bytes",
        "_upgrading",
        "_uri",
        "_waits_for_room",
        "last_active",
        "peer",
        "site",
    )

    def __init__(self, site: IServed) -> None:
        self.site = site
        self._parser = HttpRequestParser(self)
        # The head that is being read.
        self._in_head = False
        self._head_bytes = 0
        self._head_tail = b""
        # What has come of it, until its first line is whole.
        self._head_start = b""
        self._line: bytes | None = None
        self._uri = b""
        # The values of each header, by its name in lower case.
        self._fields: dict[bytes, list[bytes]] = {}
        self._field_count = 0
        self._upgrading = False
        # The body that is being read.
        self._body_left = 0
        self._chunked: ChunkedBody | None = None
        self._incoming: LeanRequest | None = None
        self._complete: LeanRequest | None = None
        # The request that is being answered, and what came behind it.
        self._serving: LeanRequest | None = None
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._is_feeding = self._has_more = False
        self._next_turn: IDelayedCall | None = None
        self._paused = False
        self._waits_for_room = False
        # Whether the client has still to read what was answered before; None where
        # the transport has not been asked to say so.
        self._clogged: bool | None = None
        self._send: Callable[[bytes], int] | None = None
        self._direct: Callable[[bytes], int] | None = None
        self._registering = False
        self._closing: IDelayedCall | None = None
        self._is_open = True
        self.last_active = 0.0
        # When the client began with the headers or the body that it is at.
        self._began_at = 0.0
        self.peer: IAddress | None = None

    # the transport's side

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            if not ISSLTransport.providedBy(transport):
                self._send = self._direct = cast(Any, transport).getHandle().send
        self.peer = transport.getPeer()
        self.last_active = self.site.clock.seconds()
        self.site.joined(self)

    def dataReceived(self, data: bytes) -> None:
        self.last_active = self.site.clock.seconds()
        if not self._is_open:
            return
        if self._serving is not None or self._clogged or self._unread:
            self._keep_unread(data)
        else:
            self._feed(data)
            if self._paused:
                # Whatever that was for may be over already.
                self._go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channels.discard(self)
        self._is_open = False
        for call in (self._closing, self._next_turn):
            if call is not None and call.active():
                call.cancel()
        incoming, self._incoming = self._incoming or self._complete, None
        serving, self._serving = self._serving, None
        self._complete = None
        self._take_unread()
        self._send = self._direct = None
        # It holds our callbacks, and so us.
        del self._parser
        if incoming is not None and not incoming.finished:
            incoming.abandon()
            incoming.connectionLost(reason)
        if serving is not None and serving.channel is not None:
            serving.connectionLost(reason)

    def _keep_unread(self, data: bytes) -> None:
        self._unread.append(data)
        self._unread_bytes += len(data)
        site = self.site
        site.budget.hold(len(data))
        if not self._paused and (
            self._clogged
            or site.budget.is_tight
            or self._unread_bytes > site.limits.read_ahead_bytes
        ):
            self._pause()

    def _take_unread(self) -> bytes:
        data = b"".join(self._unread)
        self._unread.clear()
        self.site.budget.release(self._unread_bytes)
        self._unread_bytes = 0
        return data

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()

    def read_at_most(self, size: int) -> None:
        """Have the reactor read `size` bytes at once from this client."""
        transport = self.transport
        while (below := getattr(transport, "transport", None)) is not None:
            transport = below
        transport.bufferSize = size

    # from bytes to requests

    def _feed(self, data: bytes) -> None:
        """Read `data` until a request has to be waited for; keep the rest."""
        at, end, heads = 0, len(data), 0
        self._is_feeding = True
        try:
            while at < end and self._is_open:
                if self._serving is not None or self._clogged:
                    self._keep_unread(data[at:])
                    return
                if heads == _SERVED_AT_ONCE and not self._incoming:
                    self._keep_unread(data[at:])
                    self._next_turn = self.site.clock.callLater(0, self._go_on)
                    return
                if self._chunked is not None:
                    at = self._read_chunks(self._chunked, data, at)
                elif self._body_left:
                    at = self._read_body(data, at)
                else:
                    heads += 1
                    at = self._read_head(data, at)
                complete, self._complete = self._complete, None
                if complete is not None and self._is_open:
                    self._has_more = at < end
                    self._serve(complete)
        finally:
            self._is_feeding = self._has_more = False

    def _read_head(self, data: bytes, at: int) -> int:
        """Read as far as the head goes, so that what follows it can be bounded."""
        if not self._in_head and not self._head_start and data[at] != _CR:
            # Nearly always it is there whole.
            stop = data.find(_HEAD_END, at) + len(_HEAD_END)
            if stop >= at + len(_HEAD_END):
                self._head_bytes = stop - at
                self._line = data[at : data.find(b"\r\n", at)]
                rest = len(data) - stop
                if rest and data.find(_LENGTH % rest, at, stop) >= 0:
                    # And so is its body, with nothing behind it: a step less.
                    stop = len(data)
                self._parse(data[at:stop])
                return stop
        return self._read_part_of_head(data, at)

    def _read_part_of_head(self, data: bytes, at: int) -> int:
        stop = self._end_of_head(data, at)
        head = data[at:stop]
        if not self._in_head:
            self._head_bytes = 0
            self._head_tail = b""
        self._head_bytes += len(head)
        self._head_tail = (self._head_tail + head[-3:])[-3:]
        if self._line is None:
            self._head_start += head
            self._line = first_line(self._head_start)
            if self._line is not None:
                self._head_start = b""
        self._parse(head)
        if self._in_head and self._head_bytes > self.site.limits.head.head_bytes_safe:
            self._check_unfinished_head()
        elif len(self._head_start) > self.site.limits.head.line_bytes:
            # Empty lines in front of a request are nothing, but not without end.
            self._refuse_bytes(BAD_REQUEST)
        return stop

    def _end_of_head(self, data: bytes, at: int) -> int:
        """The index behind the head that is read, or behind all of `data`."""
        if self._in_head:
            # Its end may have begun in what was read before.
            tail = self._head_tail
            found = (tail + data[at : at + 3]).find(_HEAD_END)
            if found >= 0:
                return at + found + len(_HEAD_END) - len(tail)
        found = data.find(_HEAD_END, at)
        return found + len(_HEAD_END) if found >= 0 else len(data)

    def _check_unfinished_head(self) -> None:
        limits, method = self.site.limits.head, self._parser.get_method()
        if limits.is_line_too_long(method, self._uri):
            self._refuse_bytes(URI_TOO_LONG)
        elif limits.are_fields_too_large(method, self._uri, self._head_bytes, 0):
            self._refuse_bytes(HEADERS_TOO_LARGE)

    def _read_body(self, data: bytes, at: int) -> int:
        stop = min(at + self._body_left, len(data))
        self._body_left -= stop - at
        self._parse(memoryview(data)[at:stop])
        return stop

    def _read_chunks(self, chunked: ChunkedBody, data: bytes, at: int) -> int:
        try:
            octets, at = chunked.feed(data, at)
            if octets:
                self.on_body(octets)
        except BadChunk:
            self._refuse_bytes(BAD_REQUEST)
            return len(data)
        except Exception:
            self._fail(Failure())
        if chunked.is_over and self._is_open:
            self._chunked = None
            # llhttp has seen none of the chunks; it knows what trailers are.
            self._parse(b"0\r\n" + chunked.trailers)
        return at

    def _parse(self, octets: bytes | memoryview) -> None:
        """Have llhttp read `octets`."""
        try:
            self._parser.feed_data(octets)
        except HttpParserUpgrade as e:
            if self._upgrading:
                self._parse(self._without_upgrade())
                body = octets[e.args[0] :]
                if body and self._is_open:
                    self._parse(body)
            elif self._complete is not None:
                # CONNECT: what follows it is not understood.
                self._complete.persistent = False
            elif self._is_open:
                self._close()
        except HttpParserCallbackError as e:
            self._fail(Failure(e.__context__ or e))
        except HttpParserInvalidMethodError:
            self._refuse_bytes(METHOD_UNKNOWN)
        except HttpParserError:
            self._refuse_bytes(BAD_REQUEST)

    def _fail(self, reason: Failure) -> None:
        """Ours, not the client's."""
        self._log.failure("while reading a request", reason)
        self._refuse_bytes(INTERNAL_ERROR)

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
            b"%b: %b" % (name, value)
            for name, values in self._fields.items()
            for value in values
            if name != b"upgrade"
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _refuse_bytes(self, answer: Answer) -> None:
        """What comes is no HTTP, or too much: say so and close."""
        if not self._is_open:
            return
        incoming = self._incoming
        if incoming is None or not incoming.finished:
            # Else it has had its answer, on its headers.
            self.site.refused(answer)
            self.write(answer.octets(self.site.date, self.site.level, True))
        self._close()

    # llhttp's side

    def on_message_begin(self) -> None:
        self._uri = b""
        self._fields = {}
        self._field_count = 0
        self._in_head = True
        self._began_at = self.last_active

    def on_url(self, url: bytes) -> None:
        self._uri += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            # llhttp leaves the white space behind a value.
            value = value.rstrip(b" \t")
            name = name.lower()
            fields = self._fields
            self._field_count += 1
            if name in fields:
                fields[name].append(value)
            else:
                fields[name] = [value]

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._began_at = self.last_active
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
            self._fields,
        )
        request.persistent = is_1_1 and parser.should_keep_alive()
        request.refusal = self._refusal(request, version)
        expects = request.fields.get(b"expect")
        if expects is not None and expects[0].lower() == b"100-continue" and is_1_1:
            if request.refusal is None:
                self.write(_CONTINUE)
            else:
                # Whether its body comes nobody knows.
                request.persistent = False
        if request.refusal is not None:
            if request.refusal.closes:
                request.persistent = False
            self._serve(request)
        if not self._is_open:
            return
        lengths = request.fields.get(b"content-length")
        if lengths is not None:
            self._body_left = int(lengths[0])
        elif b"transfer-encoding" in request.fields:
            self._chunked = ChunkedBody()

    def _refusal(self, request: LeanRequest, version: str) -> Answer | None:
        """What is to be answered to `request` on its headers, if anything."""
        refusal = self._head_refusal(request, version)
        if refusal is not None:
            self.site.refused(refusal)
            return refusal
        request.resource = self.site.resource_for(request)
        request.reads_early = self.site.reads_early(request.resource)
        if request.reads_early:
            return cast("Answer | None", request.resource.refusal(request))
        return None

    def _head_refusal(self, request: LeanRequest, version: str) -> Answer | None:
        """What is wrong with the head of `request`, whatever it asks for."""
        line, self._line = self._line or b"", None
        limits, fields = self.site.limits.head, self._field_count
        if self._head_bytes > limits.head_bytes_safe or fields > limits.fields:
            if limits.is_line_too_long(request.method, request.uri):
                return URI_TOO_LONG
            if limits.are_fields_too_large(
                request.method, request.uri, self._head_bytes, fields
            ):
                return HEADERS_TOO_LARGE
        if is_malformed(line, request.method, request.uri, version, request.fields):
            return BAD_REQUEST
        return None

    def on_body(self, octets: bytes) -> None:
        request = self._incoming
        if request is None:
            return
        request.size += len(octets)
        if request.refusal is not None:
            return
        refusal = None
        if request.reads_early:
            refusal = request.resource.take(request, octets)
        elif request.size > self.site.limits.body_bytes:
            refusal = BODY_TOO_LARGE
            self.site.refused(refusal)
        else:
            request.add_chunk(octets)
        if refusal is not None:
            self.refuse(request, refusal)

    def on_message_complete(self) -> None:
        request, self._incoming = self._incoming, None
        self._body_left = 0
        if request is not None and not request.finished:
            self._complete = request

    # the Resource's side

    def refuse(self, request: LeanRequest, answer: Answer) -> None:
        """Answer `request`, that is still being read, and close behind that."""
        request.chunks = []
        request.refusal = answer
        request.persistent = False
        self._serve(request)

    def _serve(self, request: LeanRequest) -> None:
        self._serving = request
        if request.refusal is not None:
            request.refusal.write_to(request)
            return
        try:
            request.render(request.resource)
        except Exception:
            request.processingFailed(Failure())

    def is_last(self) -> bool:
        """
        Whether the answer that is being written is to be the last: what the client has
        sent behind its request already gets its answer too.
        """
        return self.site.is_leaving and not self._has_sent_more()

    def _has_sent_more(self) -> bool:
        if self._unread or self._has_more:
            return True
        if self._direct is None:
            return False
        try:
            return bool(self.transport.getHandle().recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def requestDone(self, request: LeanRequest) -> None:  # noqa: N802
        """`request` is answered in full."""
        self._serving = None
        self._waits_for_room = False
        if not self._is_open:
            return
        # What was read behind it had to wait for it.
        self.last_active = self._began_at = self.site.clock.seconds()
        if not request.persistent:
            self._close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Read what had to wait, or have more of it read."""
        if self._is_feeding or self._serving is not None or self._clogged:
            return
        if self._unread:
            self._feed(self._take_unread())
        if not self._unread and not self._waits_for_room and self._is_open:
            self._resume()

    def pause_reading(self) -> None:
        """There is no room for more of the body that is being read."""
        self._waits_for_room = True
        self._pause()

    def resume_reading(self) -> None:
        self._waits_for_room = False
        self.last_active = self._began_at = self.site.clock.seconds()
        self._go_on()

    def _close(self) -> None:
        """
        End our side, and read past what the client still sends: a close with
        unread bytes would be a reset, and take the answer away from it.
        """
        self._is_open = self._waits_for_room = False
        incoming, self._incoming = self._incoming or self._complete, None
        self._complete = None
        if incoming is not None and not incoming.finished:
            incoming.abandon()
        self._take_unread()
        self._resume()
        if self._clogged is not None:
            # A paused producer would keep the end from being sent.
            self._clogged = None
            self.transport.unregisterProducer()
        # Where the kernel has not taken all, the answer itself may still be on its way.
        linger = LINGER_SECONDS if self._send is not None else LINGER_SLOW_SECONDS
        if incoming is not None and self.site.is_leaving:
            # What made this answer the last is nothing that the client has done.
            linger = max(linger, self.site.limits.deadlines.body_seconds)
        self._closing = self.site.clock.callLater(linger, self.abort)
        lose = getattr(self.transport, "loseWriteConnection", None)
        if lose is None or ISSLTransport.providedBy(self.transport):
            self.transport.loseConnection()
        else:
            lose()

    def close_when_done(self) -> None:
        """Close behind the answers that are being written, at once when idle."""
        if self._is_open:
            if self._serving is not None:
                self._serving.persistent = False
            else:
                self._close()

    def is_between_requests(self) -> bool:
        """Whether nothing of a request is there that would have no answer."""
        return not (
            self._serving or self._incoming or self._in_head or self._has_sent_more()
        )

    def abort(self) -> None:
        self.transport.abortConnection()

    def close_if_idle(self, since: float) -> None:
        """Close when nothing has come since `since` and nothing is under way."""
        if self.last_active <= since and self._serving is None and self._is_open:
            self._close()

    def why_late(self, now: float) -> str:
        """Why the client is to be cut off, if it is."""
        incoming = self._incoming
        if incoming is None and not self._in_head:
            return ""
        if not self._is_open or self._clogged or self._waits_for_room:
            # We read past what comes, or the client waits for us, or we for it.
            return ""
        deadlines = self.site.limits.deadlines
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
                self._give_up()
                return
            if sent == len(octets):
                return
            # Until it is empty the transport has a buffer, and all goes through it.
            octets = octets[sent:]
            self._send = None
        if self._clogged is None:
            self._watch_transport()
        self.transport.write(octets)

    def _give_up(self) -> None:
        """The client is gone; the reactor finds that out by reading."""
        self._is_open = False
        self._take_unread()
        self._resume()

    def _watch_transport(self) -> None:
        """Have the transport say when the client has read, or reads too slowly."""
        self._clogged = self._direct is not None
        self._registering = True
        self.transport.registerProducer(self, self._direct is None)
        self._registering = False

    # what the transport asks of a producer: one that is pulled, where we write to the
    # socket ourselves

    def pauseProducing(self) -> None:
        self._clogged = True

    def resumeProducing(self) -> None:
        if self._registering:
            return
        self._clogged = False
        if self._direct is not None:
            self._clogged = None
            self._send = self._direct
            self.transport.unregisterProducer()
        # What was read meanwhile had to wait for the client's reading.
        self.last_active = self._began_at = self.site.clock.seconds()
        self._go_on()

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
        if serving is not None and self.is_last():
            serving.persistent = False
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
