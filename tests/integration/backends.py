"""
What the tests on the real reactor share: backends that take frames and backends
that misbehave, a running logiss in front of them, and clients.

Everything listens on the loopback interface. Nothing here waits without a bound.
"""

import functools
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar, cast

import treq.client
from attrs import evolve
from twisted.internet import reactor as _reactor
from twisted.internet.abstract import isIPAddress
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IListeningPort,
    IResolutionReceiver,
)
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from zope.interface import implementer

from logiss.pool import Payload
from logiss.receiver import FrameDecoder
from logiss.service import LogissService
from logiss.settings import Settings
from logiss.variables import Destination
from tests.fakes import Lines
from tests.l2met_grammar import NotL2met

reactor: Any = _reactor

P = ParamSpec("P")
T = TypeVar("T")

#: How long a test waits for what is to happen at once; a slow machine gets it.
PATIENCE_SECONDS = 20.0


# time


def within(
    seconds: float,
) -> Callable[
    [Callable[P, Coroutine[Any, Any, None]]], Callable[P, Coroutine[Any, Any, None]]
]:
    """Cancel a test that takes longer, so that it cleans up behind itself."""

    def decorate(
        test: Callable[P, Coroutine[Any, Any, None]],
    ) -> Callable[P, Coroutine[Any, Any, None]]:
        @functools.wraps(test)
        async def bounded(*args: P.args, **kwargs: P.kwargs) -> None:
            running = Deferred.fromCoroutine(test(*args, **kwargs))
            await running.addTimeout(seconds, reactor)

        return bounded

    return decorate


async def pause(seconds: float) -> None:
    await deferLater(reactor, seconds)


async def until(
    true: Callable[[], object], seconds: float = PATIENCE_SECONDS, what: str = ""
) -> None:
    """Wait until `true()`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what or "it did not happen in time"
        await pause(0.01)


def start(work: Awaitable[T]) -> Deferred[T]:
    """Let `work` go on by itself."""

    async def run() -> T:
        return await work

    return Deferred.fromCoroutine(run())


async def together(works: Iterable[Awaitable[T]]) -> list[T]:
    """What all `works` come to when they run at the same time."""
    return await gatherResults([start(work) for work in works], consumeErrors=True)


# frames


def message(post: str, n: int, size: int = 60) -> bytes:
    """Message `n` of a post, with a filling that no other message has."""
    head = f"post={post} n={n} "
    return (head + f"{post}.{n}." * (size // len(f"{post}.{n}.") + 1))[
        : max(size, len(head))
    ].encode()


def messages(post: str, count: int, size: int = 60) -> list[bytes]:
    return [message(post, n, size) for n in range(count)]


HEADER = b"<190>1 2013-06-07T13:17:49.468822+00:00 host app web.1 - "
ORIGIN = b'[origin ip="127.0.0.1"] '


def frame(msg: bytes) -> bytes:
    """A frame as logplex sends it."""
    syslog_msg = HEADER + msg
    return b"%d %b" % (len(syslog_msg), syslog_msg)


def body(msgs: Iterable[bytes]) -> bytes:
    return b"".join(map(frame, msgs))


def message_of(forwarded: bytes) -> bytes:
    """The message of a frame that logiss has forwarded."""
    assert forwarded.startswith(HEADER + ORIGIN), forwarded[:200]
    return forwarded[len(HEADER + ORIGIN) :]


# backends


class Connection(Protocol):
    """
    One connection that a backend has accepted.

    @ivar raw: every byte as it came off the wire.
    @ivar frames: every whole frame.
    @ivar ended: how the connection has ended, once it has.
    """

    transport: Any

    def __init__(self, backend: "Backend") -> None:
        self.backend = backend
        self.raw = bytearray()
        self.frames: list[bytes] = []
        self.ended: Failure | None = None
        self._decoder = FrameDecoder()

    @property
    def messages(self) -> list[bytes]:
        return [message_of(frame) for frame in self.frames]

    def connectionMade(self) -> None:
        self.backend.connections.append(self)
        self.backend.on_connection(self)

    def dataReceived(self, data: bytes) -> None:
        self.raw += data
        self.take(data)

    def take(self, octets: bytes) -> None:
        """Octets of the stream of frames."""
        for received in self._decoder.feed(octets):
            self.frames.append(received)
            self.backend.frames.append(received)
        self.backend.on_octets(self)

    def send_eof(self) -> None:
        """Now, not at the end of the reactor's turn; go on reading."""
        self.transport.getHandle().shutdown(socket.SHUT_WR)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = reason


class LenientConnection(Connection):
    """Only records; what comes need not be octet-counted."""

    def take(self, octets: bytes) -> None:
        self.backend.on_octets(self)


class _Factory(ServerFactory[Connection]):
    noisy = False

    def __init__(self, backend: "Backend") -> None:
        self._backend = backend

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return self._backend.make_connection(self._backend)


def _as_usual(connection: Connection) -> None:
    """Read on."""


class Backend:
    """
    A receiver on a loopback port that can be told to misbehave.

    @ivar frames: whole frames of all connections, in the order of arrival.
    @ivar connections: all there ever were, in order.
    @ivar on_connection: what to do with each new connection.
    @ivar on_octets: what to do behind each read.
    """

    def __init__(
        self,
        interface: str = "127.0.0.1",
        make_connection: Callable[["Backend"], Connection] = Connection,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        self.interface = interface
        self.port = 0
        self.make_connection = make_connection
        self.frames: list[bytes] = []
        self.connections: list[Connection] = []
        self.on_connection: Callable[[Any], None] = _as_usual
        self.on_octets: Callable[[Any], None] = _as_usual
        self._receive_buffer_bytes = receive_buffer_bytes
        self._listening: IListeningPort | None = None
        self._reserved: socket.socket | None = None

    @property
    def destination(self) -> Destination:
        return Destination(self.interface, self.port)

    @property
    def messages(self) -> list[bytes]:
        return [message_of(frame) for frame in self.frames]

    @property
    def open(self) -> list[Connection]:
        return [c for c in self.connections if c.ended is None]

    def listen(self) -> None:
        """The first time on any port, then always on the same."""
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        port: Any = reactor.listenTCP(
            self.port, _Factory(self), interface=self.interface
        )
        if self._receive_buffer_bytes is not None:
            # Connections inherit it; set on each it would come too late.
            port.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes
            )
        self._listening = port
        self.port = port.getHost().port

    async def stop_listening(self) -> None:
        """Refuse connections; those that there are go on."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        stopped = listening.stopListening()
        if stopped is not None:
            await stopped
        # Else the system may give the port to the connection that is tried to it.
        family = socket.AF_INET6 if ":" in self.interface else socket.AF_INET
        self._reserved = socket.socket(family)
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((self.interface, self.port))

    def heal(self) -> None:
        """Read on, on every connection that there is and will be."""
        self.on_connection = self.on_octets = _as_usual
        for connection in self.open:
            connection.transport.resumeProducing()

    async def stop(self) -> None:
        await self.stop_listening()
        if self._reserved is not None:
            self._reserved.close()
        for connection in self.open:
            connection.transport.abortConnection()
        await until(lambda: not self.open)


B = TypeVar("B", bound=Backend)


@asynccontextmanager
async def listening(backend: B) -> AsyncIterator[B]:
    """`backend`, on its port."""
    backend.listen()
    try:
        yield backend
    finally:
        await backend.stop()


def never_read(connection: Connection) -> None:
    connection.transport.pauseProducing()


def reset(connection: Connection) -> None:
    connection.transport.abortConnection()


def close(connection: Connection) -> None:
    connection.transport.loseConnection()


class TLSConnection(Connection):
    """
    A server's end of TLS, on the standard library's `ssl`, independent of Twisted's.

    @ivar tls: to be asked about the session.
    @ivar refused: why there was no handshake.
    @ivar close_notified: whether the client has ended the session in order.
    """

    backend: "TLSBackend"

    def connectionMade(self) -> None:
        # Alerts are small; Nagle's algorithm would keep them back.
        self.transport.setTcpNoDelay(True)
        self.shaken_hands = False
        self.refused = ""
        self.close_notified = False
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.backend.context.wrap_bio(self._in, self._out, server_side=True)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        self.raw += data
        self._in.write(data)
        try:
            self._go_on()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as e:
            self.refused = str(e)
            self._flush()
            self.transport.loseConnection()

    def _go_on(self) -> None:
        if not self.shaken_hands:
            self.tls.do_handshake()
            self.shaken_hands = True
            self._flush()
            self.backend.on_handshake(self)
        while octets := self.tls.read(65536):
            self.take(octets)
        self.close_notified = True
        if self.backend.answers_close_notify:
            self.tls.unwrap()
            self._flush()
            self.transport.loseConnection()

    def _flush(self) -> None:
        self.transport.write(self._out.read())

    def send_close_notify(self) -> None:
        """Now, not at the end of the reactor's turn; TCP stays open."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        octets = self._out.read()
        assert self.transport.getHandle().send(octets) == len(octets)


class TLSBackend(Backend):
    """
    @ivar on_handshake: what to do with a connection that has shaken hands.
    @ivar answers_close_notify: whether the end of a session is answered.
    """

    def __init__(self, context: ssl.SSLContext, interface: str = "127.0.0.1") -> None:
        super().__init__(interface, lambda _: TLSConnection(self))
        self.context = context
        self.on_handshake: Callable[[Any], None] = _as_usual
        self.answers_close_notify = True


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """It is over already."""


@implementer(IHostnameResolver)
class FakeResolver:
    """
    A name service in which every name has one address; an address is its own.

    @ivar host: the address that names have now.
    @ivar asked: names that were looked up.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.asked: list[str] = []

    def resolveHostName(  # noqa: N802
        self,
        resolutionReceiver: IResolutionReceiver,  # noqa: N803
        hostName: str,  # noqa: N803
        portNumber: int = 0,  # noqa: N803
        addressTypes: Any = None,  # noqa: N803
        transportSemantics: str = "TCP",  # noqa: N803
    ) -> IHostResolution:
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        if isIPAddress(hostName):
            host = hostName
        else:
            self.asked.append(hostName)
            host = self.host
        make = IPv6Address if ":" in host else IPv4Address
        resolutionReceiver.addressResolved(make("TCP", host, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


@asynccontextmanager
async def resolving(resolver: FakeResolver) -> AsyncIterator[FakeResolver]:
    """Let the reactor ask `resolver` for a while."""
    before = reactor.installNameResolver(resolver)
    try:
        yield resolver
    finally:
        reactor.installNameResolver(before)


# logiss


SETTINGS = Settings(
    deploy="test", tokens=(("test", "token"),), port=0, listen_host="127.0.0.1"
)


class House:
    """
    A running logiss and its log.

    @ivar lines: its log lines, each read by l2met's grammar.
    @ivar not_l2met: those that the grammar has refused.
    @ivar observer: keeps in `errors` what Twisted logs of exceptions that nobody
        has taken.
    """

    def __init__(self, settings: Settings) -> None:
        self.lines = Lines()
        self.not_l2met: list[str] = []
        self.errors: list[str] = []
        self.observer = cast(ILogObserver, self._observe)
        self.service = LogissService(reactor, settings, self._write)

    def _write(self, line: str) -> None:
        # An exception here would end in somebody's Deferred.
        try:
            self.lines.write(line)
        except NotL2met as e:
            self.not_l2met.append(str(e))

    def _observe(self, event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) >= LogLevel.error:
            failure = event.get("log_failure")
            self.errors.append(failure.getTraceback() if failure else repr(event))

    @property
    def port(self) -> int:
        port: int = self.service.address.port
        return port

    def counted(self, name: str) -> list[dict[str, str]]:
        """The lines that count NAME of ``count#log-iss.NAME``."""
        return self.lines.having(f"count#log-iss.{name}")

    def deliver(self, msgs: list[bytes]) -> Deferred[None]:
        """Hand a payload over now, in this turn of the reactor: no HTTP."""
        octets = b"".join(
            b"%d %b" % (len(stamped), stamped)
            for stamped in (HEADER + ORIGIN + msg for msg in msgs)
        )
        return self.service.forwarder.pool.deliver(Payload(octets, reactor.seconds()))

    async def connected(self, count: int | None = None) -> None:
        """Wait until `count` connections to the backend, or any, are usable."""
        pool = self.service.forwarder.pool
        await until(
            lambda: pool.connected >= 1 if count is None else pool.connected == count,
            what="logiss did not connect",
        )

    async def stop(self) -> None:
        await self.service.stopService()


@asynccontextmanager
async def running(
    destination: Destination, settings: Settings = SETTINGS, **changes: Any
) -> AsyncIterator[House]:
    """A logiss that forwards to `destination`, until the end of the block."""
    house = House(evolve(settings, forward_dest=destination, **changes))
    globalLogPublisher.addObserver(house.observer)
    try:
        house.service.startService()
        try:
            yield house
        finally:
            if house.service.running:
                await house.stop()
    finally:
        globalLogPublisher.removeObserver(house.observer)
    assert house.not_l2met == []
    assert house.errors == []


class Client:
    """Posts to a logiss; connections are kept alive, one for each post at a time."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/logs"
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = 100
        self._http = treq.client.HTTPClient(Agent(reactor, pool=self._pool))

    async def post(self, octets: bytes, request_id: str = "-") -> int:
        """The status of the answer."""
        return (await self.answer(octets, request_id))[0]

    async def answer(self, octets: bytes, request_id: str = "-") -> tuple[int, str]:
        response = await self._http.post(
            self._url,
            data=octets,
            auth=("test", "token"),
            headers=Headers(
                {
                    "Content-Type": ["application/logplex-1"],
                    "X-Request-Id": [request_id],
                }
            ),
        )
        return response.code, await response.text()

    async def close(self) -> None:
        await self._pool.closeCachedConnections()


@asynccontextmanager
async def posting(house: House) -> AsyncIterator[Client]:
    """A client of `house`."""
    client = Client(house.port)
    try:
        yield client
    finally:
        await client.close()


class RawClient:
    """
    Posts without the reactor: a request is on the wire when `send` returns, so
    that a test can decide what the reactor finds in one and the same turn.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 5)
        self._socket.setblocking(False)

    def send(self, octets: bytes) -> None:
        request = (
            b"POST /logs HTTP/1.1\r\nHost: logiss\r\n"
            b"Authorization: Basic %b\r\nContent-Type: application/logplex-1\r\n"
            b"Content-Length: %d\r\n\r\n%b"
        ) % (b64encode(b"test:token"), len(octets), octets)
        assert self._socket.send(request) == len(request)

    async def status(self) -> int:
        """Of the one answer that is awaited."""
        answer = b""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\r\n\r\n" not in answer:
            assert time.monotonic() < deadline, "no answer"
            await pause(0.01)
            try:
                octets = self._socket.recv(65536)
            except BlockingIOError:
                continue
            assert octets, "the connection was closed before the answer"
            answer += octets
        return int(answer.split()[1])

    def close(self) -> None:
        self._socket.close()
