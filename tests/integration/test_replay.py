"""Real input: the submitters' requests, and a hundred thousand lines."""

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from attrs import define
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults

from logiss.receiver import ReceiverFactory
from logiss.service import LogissService
from logiss.settings import Settings
from logiss.variables import Destination
from tests.fakes import Lines
from tests.front import TOKEN, USER
from tests.integration.clients import connect, until
from tests.integration.submitters import (
    DRAIN_TOKEN,
    L10_FRAME,
    log_shuttle_post,
    logplex_post,
)

reactor: Any = _reactor


@define
class House:
    """A whole logiss and the receiver behind it."""

    port: int
    frames: list[bytes]
    lines: Lines
    service: LogissService


@pytest_twisted.async_yield_fixture
async def house() -> AsyncIterator[House]:
    frames: list[bytes] = []
    lines = Lines()

    def complain(error: str) -> None:
        raise AssertionError(error)

    receiver = reactor.listenTCP(
        0, ReceiverFactory(frames.append, complain), interface="127.0.0.1"
    )
    service = LogissService(
        reactor,
        Settings(
            deploy="test",
            tokens=((USER, TOKEN),),
            port=0,
            listen_host="127.0.0.1",
            forward_dest=Destination("127.0.0.1", receiver.getHost().port),
            # What is shown is that all arrives, not how fast this machine is.
            delivery_timeout_seconds=30,
        ),
        lines.write,
    )
    service.startService()
    yield House(service.address.port, frames, lines, service)
    await service.stopService()
    await receiver.stopListening()


def texts_of(frames: list[bytes]) -> list[bytes]:
    return [frame.partition(b'[origin ip="127.0.0.1"] ')[2] for frame in frames]


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest_twisted.ensureDeferred
async def test_log_shuttle(house: House, zipped: bool) -> None:
    """500 lines of log-shuttle, chunked, arrive in order and are answered 200."""
    texts = [b"at=info line=%d " % i + b"x" * (i % 150) for i in range(500)]
    client = await connect(reactor, house.port)
    octets = log_shuttle_post(texts, zipped)
    # The pieces in which Go writes do not matter to the outcome; these are odd.
    for i in range(0, len(octets), 4_099):
        client.send(octets[i : i + 4_099])
    answer = await client.answer()
    assert (answer.code, answer.body) == (200, b"")
    await until(reactor, lambda: len(house.frames) == 500)
    assert texts_of(house.frames) == [text + b"\n" for text in texts]
    assert house.frames[7] == (
        b"<190>1 2013-06-07T13:17:49.468822+00:00 host app shuttle -"
        b' [origin ip="127.0.0.1"] ' + texts[7] + b"\n"
    )
    (line,) = house.lines.having("count#log-iss.http.logs.post.success")
    assert len(line["request_id"]) == 36
    client.hang_up()
    await client.closed


@pytest_twisted.ensureDeferred
async def test_logplex_drain(house: House) -> None:
    """A drain's POST: token for host, an L10 frame in front, no STRUCTURED-DATA."""
    client = await connect(reactor, house.port)
    texts = [b"one", b"[two] - ", b"- three", b""]
    client.send(logplex_post(texts))
    answer = await client.answer()
    assert (answer.code, answer.reason) == (200, "OK")
    await until(reactor, lambda: len(house.frames) == 5)
    stamp = DRAIN_TOKEN.encode() + b' app web.3 - [origin ip="127.0.0.1"] '
    lead = b"<40>1 2013-06-07T13:17:49.468822+00:00 "
    assert house.frames == [
        L10_FRAME.replace(b" host ", b" " + DRAIN_TOKEN.encode() + b" ").replace(
            b" - Error", b' - [origin ip="127.0.0.1"] Error'
        ),
        lead + stamp + b"one\n",
        lead + stamp + b"[two] - \n",
        # What looks like nil structured data is: logplex cannot say it otherwise.
        lead + stamp + b"three\n",
        lead + stamp + b"\n",
    ]
    (line,) = house.lines.having("count#log-iss.http.logs.post.success")
    assert line["logdrain_token"] == DRAIN_TOKEN
    client.hang_up()
    await client.closed


@pytest_twisted.ensureDeferred
async def test_a_hundred_thousand_lines(house: House) -> None:
    """
    100,000 lines in 400 posts through 8 connections arrive once each, in order
    within each post.
    """
    posts, lines_a_post, clients = 400, 250, 8

    async def submit(client_number: int) -> None:
        client = await connect(reactor, house.port)
        for post in range(client_number, posts, clients):
            texts = [b"%d/%d" % (post, i) for i in range(lines_a_post)]
            client.send(log_shuttle_post(texts, zipped=bool(post % 2), batch=post))
            answer = await client.answer()
            assert answer.code == 200
        client.hang_up()
        await client.closed

    await gatherResults([Deferred.fromCoroutine(submit(i)) for i in range(clients)])
    await until(reactor, lambda: len(house.frames) >= posts * lines_a_post)
    arrived: dict[int, list[int]] = defaultdict(list)
    for text in texts_of(house.frames):
        number, _, i = text.partition(b"/")
        arrived[int(number)].append(int(i))
    assert len(arrived) == posts
    for post in range(posts):
        assert arrived[post] == list(range(lines_a_post)), post
    assert house.service.metrics.frames_delivered == posts * lines_a_post
