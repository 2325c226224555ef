"""
The last moment of a drain, on the real reactor over loopback: who posts again when
the last answer has come is refused, not cut off.
"""

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from tests.front import basic, request
from tests.integration.backends import (
    RawClient,
    body,
    listening,
    messages,
    running,
    start,
    within,
)
from tests.integration.clients import Client, connect, until
from tests.integration.relp_backends import RELPBackend, hold

reactor: Any = _reactor


class HastyClient(Client):
    """
    One that does not pause.

    @ivar then: called once, while it still reads its first answer.
    """

    then: Callable[[], None] | None = None

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        then, self.then = self.then, None
        if then is not None:
            then()


def _post(name: str) -> bytes:
    return request(
        body(messages(name, 1)), headers={"Authorization": basic("test", "token")}
    )


async def _posted_anew(port: int) -> int:
    """The status of a post on a connection that is made now, in this turn."""
    client = RawClient(port)
    try:
        client.send(body(messages("anew", 1)))
        return await client.status()
    finally:
        client.close()


async def _check_refused(client: Client) -> None:
    await until(reactor, lambda: client.received or client.is_closed)
    assert client.received, "cut off without an answer"
    answer = await client.answer()
    assert (answer.code, answer.body) == (503, b"Shutting down\n")
    assert answer.headers["connection"] == "close"
    await client.closed


@pytest.mark.parametrize("channel", ["fast", "stock"])
@pytest_twisted.ensureDeferred
@within(60)
async def test_posts_behind_the_last_answer(channel: str) -> None:
    """
    When the last post inside is answered, the client may post again before it can
    know; so may others, on a connection that they have and on a new one.
    """
    async with (
        listening(RELPBackend()) as backend,
        running(backend.destination, forward_count=1, http_channel=channel) as house,
    ):
        backend.on_syslog = hold
        await house.connected(1)
        port = house.port
        client: HastyClient = await connectProtocol(
            TCP4ClientEndpoint(reactor, "127.0.0.1", port), HastyClient(reactor)
        )
        other = await connect(reactor, port)
        newcomers: list[Deferred[int]] = []

        def post_again() -> None:
            client.send(_post("again"))
            other.send(_post("other"))
            newcomers.append(start(_posted_anew(port)))

        client.then = post_again
        client.send(_post("inside"))
        await until(reactor, lambda: backend.frames)
        stopping = start(house.stop())
        try:
            (session,) = backend.used
            session.answer_held()
            answer = await client.answer()
            assert answer.code == 200
            assert "connection" not in answer.headers
            await _check_refused(client)
            await _check_refused(other)
            (newcomer,) = newcomers
            assert await newcomer == 503
        finally:
            await stopping
        assert backend.messages == messages("inside", 1)
        with pytest.raises(ConnectionRefusedError):
            RawClient(port)
