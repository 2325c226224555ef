"""
The channel over loopback: clients that do not read, that come all at once, that
reset, and the order of what goes to the kernel by two ways.
"""

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.task import deferLater
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from logiss import channel
from logiss.limits import ChannelLimits
from logiss.site import ChannelSite
from tests.fakes import outcome
from tests.front import Front, framed, message, request, stamped
from tests.integration.clients import Client, connect, until

reactor: Any = _reactor
ADDRESS = "127.0.0.1"
MAX_BODY_BYTES = 1_000_000
#: More than the kernel takes for a client that does not read.
_HUGE = 24 * 1024 * 1024
_PIECE = 256 * 1024
_PAUSE_SECONDS = 0.3


class Calls(Resource):
    """Renders by a function, which answers later."""

    isLeaf = True

    def __init__(self, function: Callable[[Any], object]) -> None:
        super().__init__()
        self._function = function

    def render(self, request: IRequest) -> int:
        self._function(request)
        return NOT_DONE_YET


@define
class Served:
    """A site that listens."""

    port: int
    site: ChannelSite
    clients: list[Client] = field(factory=list)

    async def connect(self) -> Client:
        client = await connect(reactor, self.port)
        self.clients.append(client)
        return client


@asynccontextmanager
async def listening(site: Any) -> AsyncIterator[Served]:
    port = reactor.listenTCP(0, site, interface=ADDRESS)
    served = Served(port.getHost().port, site)
    try:
        yield served
    finally:
        for client in served.clients:
            if not client.is_closed:
                cast(Any, client.transport).abortConnection()
                await client.closed
        await until(reactor, lambda: not site.channels)
        await port.stopListening()


def serving(function: Callable[[Any], object]) -> Any:
    return listening(
        ChannelSite(Calls(function), reactor, ChannelLimits(MAX_BODY_BYTES), fixed={})
    )


def get(path: str = "/", *fields: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: h", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def pause(client: Client) -> None:
    cast(Any, client.transport).pauseProducing()


def resume(client: Client) -> None:
    cast(Any, client.transport).resumeProducing()


def reset(client: Client) -> None:
    """Go away as a process does that is killed with bytes unread."""
    transport: Any = client.transport
    transport.getHandle().setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abortConnection()


def numbered(size: int) -> bytes:
    """`size` bytes that are no other `size` bytes when any of them is missing."""
    octets = b"".join(b"%015d\n" % i for i in range(size // 16 + 1))
    return octets[:size]


def dechunked(octets: bytes) -> bytes:
    pieces = []
    at = 0
    while True:
        end = octets.index(b"\r\n", at)
        size = int(octets[at:end], 16)
        at = end + 2
        pieces.append(octets[at : at + size])
        assert octets[at + size : at + size + 2] == b"\r\n"
        at += size + 2
        if not size:
            assert at == len(octets)
            return b"".join(pieces)


async def body_of(client: Client) -> bytes:
    """The chunked body of the only answer."""
    await until(
        reactor,
        lambda: client.received.endswith(b"\r\n0\r\n\r\n") or client.is_closed,
    )
    assert client.received.endswith(b"\r\n0\r\n\r\n"), "cut off"
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding: chunked" in head.lower()
    client.received = b""
    return dechunked(body)


@implementer(IPushProducer)
class Pushed:
    """Writes `body` while it is not paused."""

    def __init__(self, request: Any, body: bytes) -> None:
        self._request = request
        self._body = body
        self._at = 0
        self._is_paused = False
        self.pauses = 0

    def resumeProducing(self) -> None:
        self._is_paused = False
        while not self._is_paused and self._at < len(self._body):
            self._at += _PIECE
            self._request.write(self._body[self._at - _PIECE : self._at])
        if self._at >= len(self._body):
            self._request.unregisterProducer()
            self._request.finish()

    def pauseProducing(self) -> None:
        self._is_paused = True
        self.pauses += 1

    def stopProducing(self) -> None:
        self._is_paused = True


@implementer(IPullProducer)
class Pulled:
    """Writes the next piece of `body` when it is asked for."""

    def __init__(self, request: Any, body: bytes) -> None:
        self._request = request
        self._body = body
        self._at = 0
        self.pieces = 0

    def resumeProducing(self) -> None:
        if self._at < len(self._body):
            self.pieces += 1
            self._at += _PIECE
            self._request.write(self._body[self._at - _PIECE : self._at])
        else:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        """Nothing is left behind."""


@pytest_twisted.ensureDeferred
async def test_not_read_for_a_while() -> None:
    """A large answer in pieces arrives whole at a client that reads it late."""
    body = numbered(_HUGE)

    def render(request: Request) -> None:
        if request.path == b"/next":
            request.write(b"next")
        else:
            for start in range(0, len(body), _PIECE):
                request.write(body[start : start + _PIECE])
        request.finish()

    async with serving(render) as served:
        client = await served.connect()
        pause(client)
        client.send(get("/"))
        await deferLater(reactor, _PAUSE_SECONDS)
        resume(client)
        assert await body_of(client) == body
        client.send(get("/next"))
        assert await body_of(client) == b"next"


@pytest.mark.parametrize("size", [1000, _HUGE])
@pytest_twisted.ensureDeferred
async def test_last_answer_not_read_for_a_while(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does the last one, behind which the connection is closed."""
    monkeypatch.setattr(channel, "LINGER_SECONDS", _PAUSE_SECONDS / 3)
    body = numbered(size)

    def render(request: Request) -> None:
        request.write(body)
        request.finish()

    async with serving(render) as served:
        client = await served.connect()
        pause(client)
        client.send(get("/", "Connection: close"))
        await deferLater(reactor, _PAUSE_SECONDS)
        resume(client)
        assert await body_of(client) == body
        await client.closed


@pytest_twisted.ensureDeferred
async def test_lost_by_the_resource() -> None:
    """A connection that a Resource closes ends behind what it has written."""
    body = numbered(_HUGE)

    def render(request: Any) -> None:
        request.setHeader(b"Content-Length", b"%d" % (2 * len(body)))
        request.write(body)
        request.loseConnection()

    async with serving(render) as served:
        client = await served.connect()
        pause(client)
        client.send(get())
        await deferLater(reactor, _PAUSE_SECONDS)
        resume(client)
        await until(reactor, lambda: client.is_closed)
        assert client.received.partition(b"\r\n\r\n")[2] == body


@pytest_twisted.ensureDeferred
async def test_push_producer() -> None:
    """A push producer is paused while the client does not read."""
    body = numbered(_HUGE)
    producers: list[Pushed] = []

    def render(request: Any) -> None:
        producers.append(Pushed(request, body))
        request.registerProducer(producers[-1], True)
        producers[-1].resumeProducing()

    async with serving(render) as served:
        client = await served.connect()
        pause(client)
        client.send(get())
        await until(reactor, lambda: producers and producers[0].pauses)
        resume(client)
        assert await body_of(client) == body
        client.send(get())
        assert await body_of(client) == body


@pytest_twisted.ensureDeferred
async def test_pull_producer() -> None:
    """A pull producer is asked for no more than the client reads."""
    body = numbered(_HUGE)
    producers: list[Pulled] = []

    def render(request: Any) -> None:
        producers.append(Pulled(request, body))
        request.registerProducer(producers[-1], False)

    async with serving(render) as served:
        client = await served.connect()
        pause(client)
        client.send(get())
        await deferLater(reactor, _PAUSE_SECONDS)
        assert producers[0].pieces * _PIECE < len(body)
        resume(client)
        assert await body_of(client) == body
        client.send(get())
        assert await body_of(client) == body


@pytest_twisted.ensureDeferred
async def test_order() -> None:
    """
    Answers to pipelined requests keep their order and every byte, whether the kernel
    or the transport took them.
    """
    sizes = [10, 300_000, 5, 2_000_000, 1] * 6

    def render(request: Any) -> None:
        size = int(request.path[1:])
        for start in range(0, size, 100_000):
            request.write(numbered(min(100_000, size - start)))
        request.finish()

    async with serving(render) as served:
        client = await served.connect()
        pause(client)
        client.send(b"".join(get(f"/{size}") for size in sizes))
        await deferLater(reactor, _PAUSE_SECONDS)
        resume(client)
        await until(
            reactor,
            lambda: (
                client.received.count(b"HTTP/1.1 200 OK\r\n") == len(sizes)
                and client.received.endswith(b"\r\n0\r\n\r\n")
            ),
        )
        answers = client.received.split(b"HTTP/1.1 200 OK\r\n")[1:]
        for size, answer in zip(sizes, answers, strict=True):
            body = dechunked(answer.partition(b"\r\n\r\n")[2])
            assert len(body) == size
            for start in range(0, size, 100_000):
                piece = body[start : start + 100_000]
                assert piece == numbered(len(piece))


@pytest_twisted.ensureDeferred
async def test_many_clients() -> None:
    """A hundred clients at once get each its own answers, and nothing is lost."""
    front = Front(reactor)
    async with listening(front.site("channel")) as served:
        clients = [await served.connect() for _ in range(100)]

        async def post(number: int, client: Client) -> list[int]:
            codes = []
            for i in range(5):
                octets = request(framed(message(b"%d of %d" % (i, number))))
                # The second half of it comes when the others had their turn.
                client.send(octets[:100])
                await deferLater(reactor, 0)
                client.send(octets[100:])
                codes.append((await client.answer()).code)
            return codes

        codes = await gatherResults(
            [Deferred.fromCoroutine(post(*pair)) for pair in enumerate(clients)]
        )
        assert codes == [[200] * 5] * 100
        assert sorted(payload.octets for payload in front.deliverer.payloads) == sorted(
            framed(stamped(b"%d of %d" % (i, number), address=ADDRESS))
            for number in range(100)
            for i in range(5)
        )


@pytest_twisted.ensureDeferred
async def test_reset_while_served() -> None:
    """A client that resets ends its request, and no other client's."""
    requests: list[Any] = []
    async with serving(requests.append) as served:
        first, second = await served.connect(), await served.connect()
        first.send(get("/first") + get("/behind"))
        second.send(get("/second"))
        await until(reactor, lambda: len(requests) == 2)
        told = {r.path: outcome(r.notifyFinish()) for r in requests}
        reset(first)
        await until(reactor, told[b"/first"])
        assert not isinstance(told[b"/first"]()[0].value, ConnectionDone)
        (other,) = [r for r in requests if r.path == b"/second"]
        other.write(b"fine")
        other.finish()
        assert await body_of(second) == b"fine"
        assert len(requests) == 2


@pytest_twisted.ensureDeferred
async def test_reset_in_mid_answer() -> None:
    """One that resets while its answer is written stops the writing."""
    producers: list[Pushed] = []
    ends: list[Callable[[], list[Any]]] = []

    def render(request: Any) -> None:
        producers.append(Pushed(request, numbered(_HUGE)))
        ends.append(outcome(request.notifyFinish()))
        request.registerProducer(producers[-1], True)
        producers[-1].resumeProducing()

    async with serving(render) as served:
        client = await served.connect()
        pause(client)
        client.send(get())
        await until(reactor, lambda: producers and producers[0].pauses)
        reset(client)
        await until(reactor, lambda: ends[0]())
        assert ends[0]() != [None]
        await until(reactor, lambda: not served.site.channels)


@pytest.mark.parametrize("why", ["size", "credentials"])
@pytest_twisted.ensureDeferred
async def test_refusal_is_read(why: str) -> None:
    """A client that is still sending its body gets to read why it is refused."""
    front = Front(reactor, max_body_bytes=1_000_000)
    async with listening(front.site("channel")) as served:
        client = await served.connect()
        if why == "size":
            client.send(request(b"x" * 8_000_000))
            answer = await client.answer()
            assert answer.code == 413
            await client.closed
        else:
            client.send(request(b"x" * 900_000, headers={"Authorization": None}))
            answer = await client.answer()
            assert answer.code == 401
            client.send(request(framed(message())))
            assert (await client.answer()).code == 200
        assert front.drain.inside == 0


@pytest_twisted.ensureDeferred
async def test_refused_client_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes on sending for ever is cut off."""
    monkeypatch.setattr(channel, "LINGER_SECONDS", _PAUSE_SECONDS)
    front = Front(reactor, max_body_bytes=1000)
    async with listening(front.site("channel")) as served:
        client = await served.connect()
        client.send(request(chunks=[b"x" * 2000])[:-5])

        def go_on() -> bool:
            if not client.is_closed:
                client.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            return client.is_closed

        await until(reactor, go_on)
        assert client.received.startswith(b"HTTP/1.1 413 ")
        await until(reactor, lambda: not served.site.channels)
