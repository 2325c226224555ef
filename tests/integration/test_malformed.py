"""
What is no HTTP, over loopback: who sends it gets to read why it is refused, and nobody
else notices.
"""

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from logiss.answers import BAD_REQUEST
from tests.front import Front, framed, message, parse_answers, request, stamped
from tests.integration.clients import PATIENCE_SECONDS, Client, connect, until
from tests.integration.test_channel import ADDRESS, listening
from tests.malformed_rows import GOOD, ROWS, SMUGGLED

reactor: Any = _reactor
#: More than the kernels on both sides hold.
_HUGE = 12 * 1024 * 1024
_PIECE = b"x" * 65536

#: One of each kind.
_NAMES = (
    "length and coding",
    "two lengths, equal",
    "Content-Length b'+5'",
    "Content-Length b''",
    "Transfer-Encoding b'gzip, chunked'",
    "coding on 1.0",
    "space before the length's colon",
    "folded",
    "CR in a value",
    "LF behind the request line",
    "NUL in a value",
    "no Host",
    "two Hosts that differ",
    r"chunks b'0x5\r\nhello\r\n0\r\n\r\n'",
    r"chunks b'5\r\nhello\n0\r\n\r\n'",
)
_BY_NAME = {row.name: row for row in ROWS}
_ROWS = [_BY_NAME[name] for name in _NAMES]


def told(port: int, octets: bytes, goes_on: bool) -> bytes:
    """
    What a client reads up to the end, that first sends all of `octets`, and more behind
    the answer if it `goes_on`. In a thread of its own, for Twisted takes a reset for an
    end.

    @raise OSError: the connection was reset, or there was no end.
    """
    received = b""
    address = (ADDRESS, port)
    with socket.create_connection(address, PATIENCE_SECONDS) as client:
        client.sendall(octets)
        while read := client.recv(65536):
            received += read
            if goes_on:
                client.sendall(_PIECE * 20)
    return received


async def posts(client: Client, answered: list[int], is_over: list[bool]) -> None:
    """Post without a pause, and keep what is answered."""
    while not is_over:
        client.send(request(framed(message(b"%d" % len(answered)))))
        answered.append((await client.answer()).code)


@pytest.mark.parametrize("more", ["nothing", "a huge body", "behind the answer"])
@pytest_twisted.ensureDeferred
async def test_refusal_is_read(more: str) -> None:
    """
    The client reads 400 and then the end, also when it has more to say; the posts of
    one beside it are all answered 200, and they alone are forwarded.
    """
    behind = SMUGGLED + (b"x" * _HUGE if more == "a huge body" else b"")
    front = Front(reactor)
    async with listening(front.site("channel")) as served:
        healthy = await served.connect()
        is_over: list[bool] = []
        answered: list[int] = []
        posting = Deferred.fromCoroutine(posts(healthy, answered, is_over))
        for row in _ROWS:
            received = await deferToThread(
                told, served.port, row.octets + behind, more == "behind the answer"
            )
            answers = parse_answers(received)
            assert [answer.code for answer in answers] == [400], row.name
            assert answers[0].body.decode() == BAD_REQUEST.text + "\n", row.name
            seen = len(answered)
            await until(reactor, lambda seen=seen: len(answered) > seen)
        is_over.append(True)
        await posting
        assert set(answered) == {200}
        assert [payload.octets for payload in front.deliverer.payloads] == [
            framed(stamped(b"%d" % i, address=ADDRESS)) for i in range(len(answered))
        ]


@pytest_twisted.ensureDeferred
async def test_behind_a_good_one() -> None:
    """A good post in front of it is answered 200, and nothing behind it is served."""
    front = Front(reactor)
    async with listening(front.site("channel")) as served:
        for row in _ROWS:
            front.deliverer.payloads.clear()
            client = await connect(reactor, served.port)
            served.clients.append(client)
            client.send(GOOD + row.octets + SMUGGLED)
            await until(reactor, lambda client=client: client.is_closed)
            codes = [answer.code for answer in parse_answers(client.received)]
            assert codes == [200, 400], row.name
            assert len(front.deliverer.payloads) == 1, row.name
            assert b"smuggled" not in front.deliverer.octets, row.name
