"""The front door over loopback: every row of its table, on a real `Site`."""

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

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
