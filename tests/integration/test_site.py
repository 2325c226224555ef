"""The front door over loopback: every row of its table, on a real `Site`."""

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from logiss.pool import NotDelivered
from tests.front import Front, framed, message, request, stamped
from tests.http_rows import BODY, ROWS, SITES, Row
from tests.integration.clients import connect, until

reactor: Any = _reactor
ADDRESS = "127.0.0.1"


@pytest.mark.parametrize("site", SITES)
@pytest_twisted.ensureDeferred
async def test_rows(site: str) -> None:
    """Each row is answered as it says, over a connection of its own."""
    for row in ROWS:
        if site in row.on:
            await check(row, site)


async def check(row: Row, site: str) -> None:
    front = Front(reactor, **row.settings, delivery_timeout_seconds=0.3)
    row.prepare(front)
    port = reactor.listenTCP(0, front.site(site), interface=ADDRESS)
    try:
        client = await connect(reactor, port.getHost().port)
        client.send(row.octets)
        answer = await client.answer(row.to_head)
        assert answer.code == row.code, row.name
        assert answer.body.decode().startswith(row.text), row.name
        assert bool(answer.body) == bool(row.text), row.name
        for name, value in row.headers.items():
            assert answer.headers.get(name) == value, row.name
        assert front.deliverer.octets == row.forwarded_from(ADDRESS), row.name
        if row.headers.get("connection") == "close":
            await client.closed
        client.hang_up()
        if not client.is_closed:
            await client.closed
        assert front.drain.inside == 0, row.name
    finally:
        await port.stopListening()


@pytest.mark.parametrize("site", SITES)
@pytest_twisted.ensureDeferred
async def test_no_100_unless_asked(site: str) -> None:
    """``100 Continue`` goes only to a client that asked."""
    front = Front(reactor)
    port = reactor.listenTCP(0, front.site(site), interface=ADDRESS)
    try:
        client = await connect(reactor, port.getHost().port)
        client.send(request(BODY))
        await until(reactor, lambda: b"\r\n\r\n" in client.received)
        assert client.received.startswith(b"HTTP/1.1 200 ")
        await client.answer()
        octets = request(BODY, headers={"Expect": "100-continue"})
        client.send(octets[: -len(BODY)])
        await until(reactor, lambda: b"\r\n\r\n" in client.received)
        assert client.received.startswith(b"HTTP/1.1 100 Continue\r\n")
        client.send(BODY)
        assert (await client.answer()).code == 200
        client.hang_up()
        await client.closed
    finally:
        await port.stopListening()


@pytest.mark.parametrize("site", SITES)
@pytest_twisted.ensureDeferred
async def test_client_gone(site: str) -> None:
    """A client that hangs up before its answer has its delivery cancelled."""
    front = Front(reactor)
    front.deliverer.at_once = False
    port = reactor.listenTCP(0, front.site(site), interface=ADDRESS)
    try:
        client = await connect(reactor, port.getHost().port)
        client.send(request(BODY))
        await until(reactor, lambda: front.deliverer.payloads)
        client.hang_up()
        await until(reactor, lambda: front.deliverer.cancelled)
        assert front.lines.having("post.code", "499")
        assert front.drain.inside == 0
    finally:
        await port.stopListening()


@pytest.mark.parametrize("site", SITES)
@pytest_twisted.ensureDeferred
async def test_many_on_one_connection(site: str) -> None:
    """A drain's connection carries post after post."""
    front = Front(reactor)
    port = reactor.listenTCP(0, front.site(site), interface=ADDRESS)
    try:
        client = await connect(reactor, port.getHost().port)
        for i in range(200):
            client.send(request(framed(message(b"%d" % i))))
            assert (await client.answer()).code == 200
        await deferLater(reactor, 0)
        assert front.deliverer.octets == framed(
            *[stamped(b"%d" % i, address=ADDRESS) for i in range(200)]
        )
        client.hang_up()
        await client.closed
    finally:
        await port.stopListening()


SHUTTLE: dict[str, str | None] = {"User-Agent": "log-shuttle/0.18.0 (go1.17)"}


@pytest.mark.parametrize("site", SITES)
@pytest_twisted.ensureDeferred
async def test_hung_up(site: str) -> None:
    """
    A log-shuttle in place of whose 504 its connection ends reads what was answered
    before, then the end of the stream; other clients read their status.
    """
    front = Front(reactor, on_timeout="hangup")
    front.deliverer.at_once = False
    port = reactor.listenTCP(0, front.site(site), interface=ADDRESS)
    try:
        shuttle = await connect(reactor, port.getHost().port)
        shuttle.send(request(BODY, headers=SHUTTLE) * 2)
        waiters = front.deliverer.waiters
        await until(reactor, lambda: len(waiters) == 1)
        other = await connect(reactor, port.getHost().port)
        other.send(request(BODY))
        await until(reactor, lambda: len(waiters) == 2)
        waiters[0].callback(None)
        await until(reactor, lambda: len(waiters) == 3)
        for waiter in waiters[1:]:
            waiter.errback(NotDelivered("too slow"))
        assert (await shuttle.answer()).code == 200
        await shuttle.closed
        assert shuttle.received == b""
        assert (await other.answer()).code == 504
        assert not other.is_closed
        await until(reactor, lambda: front.drain.inside == 0)
        assert front.logs.budget.reserved_bytes == 0
        assert len(front.lines.having("post.code", "504")) == 2
        other.hang_up()
        await other.closed
    finally:
        await port.stopListening()


@pytest.mark.parametrize("site", SITES)
@pytest_twisted.ensureDeferred
async def test_hung_up_while_draining(site: str) -> None:
    """In place of ``Shutting down``, too, and nobody is left inside."""
    front = Front(reactor, on_timeout="hangup")
    port = reactor.listenTCP(0, front.site(site), interface=ADDRESS)
    try:
        client = await connect(reactor, port.getHost().port)
        client.send(request(BODY, headers=SHUTTLE))
        assert (await client.answer()).code == 200
        front.drain.begin(lambda: None)
        client.send(request(BODY, headers=SHUTTLE))
        await client.closed
        assert client.received == b""
        assert front.lines.having("post.code", "503")
        assert front.drain.inside == 0
    finally:
        await port.stopListening()
