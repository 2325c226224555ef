"""
What becomes of posts when the backend misbehaves: SPEC section 4 at level `sent`,
on the real reactor over loopback.
"""

import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import groupby

import pytest
import pytest_twisted
from attrs import evolve

from logiss.settings import Settings
from logiss.variables import Destination
from tests.integration.backends import (
    SETTINGS,
    Backend,
    Client,
    Connection,
    FakeResolver,
    House,
    RawClient,
    body,
    close,
    listening,
    message,
    messages,
    never_read,
    pause,
    posting,
    reset,
    resolving,
    running,
    start,
    together,
    until,
    within,
)

#: More than the kernel takes for a connection whose peer does not read.
_HUGE = (120, 100_000)


def _attempts_by_id(house: House) -> Counter[str]:
    return Counter(line["id"] for line in house.counted("forwarder.connect.attempt"))


async def _sent_once(client: Client, backend: Backend, name: str) -> None:
    """A fresh POST passes and arrives."""
    sent = messages(name, 3)
    assert await client.post(body(sent)) == 200
    await until(lambda: sum(m in sent for m in backend.messages) >= 3)
    assert [m for m in backend.messages if m in sent] == sent


@pytest_twisted.ensureDeferred
@within(30)
async def test_down() -> None:
    """Without a backend a POST is 504 at its deadline, and is not sent later."""
    async with listening(Backend()) as backend:
        await backend.stop_listening()
        async with (
            running(backend.destination, delivery_timeout_seconds=1.0) as house,
            posting(house) as client,
        ):
            started_at = time.monotonic()
            answers = await together(
                client.answer(body(messages(name, 2))) for name in "abc"
            )
            assert {code for code, _ in answers} == {504}
            assert "no backend connection became usable in time" in answers[0][1]
            assert time.monotonic() - started_at >= 0.9

            backend.listen()
            await house.connected(4)
            await _sent_once(client, backend, "fresh")
            await pause(0.2)
            assert backend.messages == messages("fresh", 3)


@pytest_twisted.ensureDeferred
@within(30)
async def test_late() -> None:
    """A backend that comes up before the deadline gets what has waited for it."""
    async with listening(Backend()) as backend:
        await backend.stop_listening()
        async with (
            running(backend.destination, delivery_timeout_seconds=15.0) as house,
            posting(house) as client,
        ):
            waiting = start(client.post(body(messages("early", 50))))
            await until(lambda: house.counted("forwarder.connect.error"))
            assert not waiting.called
            backend.listen()
            assert await waiting == 200
            await until(lambda: len(backend.frames) >= 50)
            assert backend.messages == messages("early", 50)


@pytest_twisted.ensureDeferred
@within(60)
async def test_never_reads() -> None:
    """
    A backend that stops reading is a 504 and costs the connection, no stall; what
    was not begun never arrives, even when it reads on later.
    """
    async with listening(Backend(receive_buffer_bytes=4096)) as backend:
        backend.on_connection = never_read
        async with (
            running(
                backend.destination, forward_count=1, delivery_timeout_seconds=1.5
            ) as house,
            posting(house) as client,
        ):
            begun_messages = messages("begun", *_HUGE)
            begun = start(client.post(body(begun_messages), "begun"))
            await until(lambda: house.service.metrics.writes == 1)
            queued = [
                start(client.post(body(messages(f"queued{i}", 3)))) for i in range(10)
            ]
            assert await begun == 504
            assert await together(queued) == [504] * 10
            errors = house.counted("forwarder.write.error")
            assert [(e["id"], e["request_id"]) for e in errors] == [("0", "begun")]
            assert "did not take all of it in time" in errors[0]["message"]
            assert len(house.counted("forwarder.disconnect.success")) == 1

            backend.heal()
            await until(lambda: backend.connections[0].ended)
            await house.connected(1)
            for name in ("fresh1", "fresh2"):
                await _sent_once(client, backend, name)
            arrived = backend.messages
            assert not [m for m in arrived if m.startswith(b"post=queued")]
            assert begun_messages[-1] not in arrived
            first = backend.connections[0].messages
            assert first == begun_messages[: len(first)]


@pytest_twisted.ensureDeferred
@within(60)
@pytest.mark.parametrize("end", [reset, close])
async def test_ends_in_mid_payload(end: Callable[[Connection], None]) -> None:
    """
    What a broken connection has not taken whole goes out on the next one, and a
    line is written for each time that something may have arrived twice.
    """
    async with listening(Backend()) as backend:

        def end_three(connection: Connection) -> None:
            if len(backend.connections) <= 3 and len(connection.raw) >= 100_000:
                end(connection)

        backend.on_octets = end_three
        async with (
            running(
                backend.destination, forward_count=1, delivery_timeout_seconds=20.0
            ) as house,
            posting(house) as client,
        ):
            sent = messages("p", *_HUGE)
            assert await client.post(body(sent), "r1") == 200
            await until(lambda: len(backend.connections[-1].frames) >= len(sent))
            assert len(backend.connections) == 4
            *broken, last = [connection.messages for connection in backend.connections]
            assert last == sent
            for part in broken:
                assert part == sent[: len(part)]
                assert len(part) < len(sent)
            errors = house.counted("forwarder.write.error")
            assert [e["request_id"] for e in errors] == ["r1"] * 3
            assert all("may arrive twice" in e["message"] for e in errors)
            assert house.service.metrics.payloads_requeued == 3


@pytest_twisted.ensureDeferred
@within(30)
async def test_closes_while_idle() -> None:
    """
    A connection that the backend has ended is not written to, even when its end
    and a POST are noticed in the same turn.
    """
    async with listening(Backend()) as backend:
        async with running(backend.destination, forward_count=1) as house:
            with closing(RawClient(house.port)) as client:
                client.send(body(messages("before", 2)))
                assert await client.status() == 200
                await until(lambda: len(backend.frames) == 2)

                backend.connections[0].send_eof()
                client.send(body(messages("after", 2)))
                assert await client.status() == 200
                await until(lambda: len(backend.frames) == 4)
        first, second = backend.connections
        assert first.messages == messages("before", 2)
        assert second.messages == messages("after", 2)
        assert house.counted("forwarder.write.error") == []


@pytest_twisted.ensureDeferred
@within(60)
async def test_listener_flaps() -> None:
    """
    A backend that is restarted in order every 200 ms loses nothing, and is
    connected to at most five times a second on each connection.
    """
    async with listening(Backend()) as backend:
        started_at = time.monotonic()
        async with (
            running(backend.destination, delivery_timeout_seconds=15.0) as house,
            posting(house) as client,
        ):
            flapping = True

            async def flap() -> None:
                while flapping:
                    await pause(0.2)
                    await backend.stop_listening()
                    # A receiver that stops in order reads what was sent to it.
                    for connection in backend.open:
                        connection.send_eof()
                    await pause(0.2)
                    backend.listen()

            flaps = start(flap())
            posts = [f"p{i}" for i in range(120)]
            for n, name in enumerate(posts):
                assert await client.post(body(messages(name, 5))) == 200
                await pause(0.02 if n % 10 else 0.1)
            flapping = False
            await flaps
            sent = [m for name in posts for m in messages(name, 5)]
            await until(lambda: set(backend.messages) >= set(sent))
            elapsed = time.monotonic() - started_at
            arrived = Counter(backend.messages)
            assert set(arrived) == set(sent)
            if not house.counted("forwarder.write.error"):
                assert set(arrived.values()) == {1}
            assert house.counted("forwarder.disconnect.success")
            assert max(_attempts_by_id(house).values()) <= 5 * elapsed + 2


@pytest_twisted.ensureDeferred
@within(30)
async def test_backs_off() -> None:
    """A refused connection is tried anew, ever more rarely."""
    async with listening(Backend()) as backend:
        await backend.stop_listening()
        async with running(backend.destination) as house:
            await pause(5.0)
            attempts = _attempts_by_id(house)
    assert set(attempts) == {"0", "1", "2", "3"}
    # Without backing off it would be 10: 200 ms, and 300 ms until the endpoint has
    # found out that there is no other address. Whatever the jitter, it is at most 6.
    assert max(attempts.values()) <= 7
    assert min(attempts.values()) >= 2


@pytest_twisted.ensureDeferred
@within(30)
async def test_closes_at_once() -> None:
    """
    A backend that accepts and closes at once is connected to at most five times
    a second on each connection.
    """
    async with listening(Backend()) as backend:
        backend.on_connection = close
        started_at = time.monotonic()
        async with running(backend.destination, forward_count=2) as house:
            await pause(2.0)
            elapsed = time.monotonic() - started_at
            attempts = _attempts_by_id(house)
    assert set(attempts) == {"0", "1"}
    assert max(attempts.values()) <= 5 * elapsed + 1
    assert min(attempts.values()) >= 3


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.parametrize(
    ("settings", "count"), [(SETTINGS, 4), (evolve(SETTINGS, forward_count=2), 2)]
)
async def test_forward_count(settings: Settings, count: int) -> None:
    """There are four persistent connections, or as many as FORWARD_COUNT says."""
    async with (
        listening(Backend()) as backend,
        running(backend.destination, settings) as house,
        posting(house) as client,
    ):
        await house.connected(count)
        for i in range(10):
            assert await client.post(body(messages(f"p{i}", 1))) == 200
        await until(lambda: len(backend.frames) == 10)
        successes = house.counted("forwarder.connect.success")
        assert sorted(line["id"] for line in successes) == [
            str(i) for i in range(count)
        ]
        assert {line["remote_addr"] for line in successes} == {
            f"127.0.0.1:{backend.port}"
        }
        assert len(backend.open) == len(backend.connections) == count


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
async def test_ipv6_address() -> None:
    """FORWARD_DEST may be an IPv6 address."""
    async with (
        listening(Backend("::1")) as backend,
        running(backend.destination) as house,
        posting(house) as client,
    ):
        await _sent_once(client, backend, "p")
        success = house.counted("forwarder.connect.success")[0]
        assert success["remote_addr"] == f"::1:{backend.port}"


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
async def test_ipv6_only_name() -> None:
    """FORWARD_DEST may be a name that has IPv6 addresses only."""
    async with listening(Backend("::1")) as backend, resolving(FakeResolver("::1")):
        destination = Destination("collector.example", backend.port)
        async with running(destination) as house, posting(house) as client:
            await _sent_once(client, backend, "p")


@pytest_twisted.ensureDeferred
@within(30)
async def test_name_resolved_anew() -> None:
    """A name that has moved is followed at the next reconnect."""
    async with (
        listening(Backend("127.0.0.1")) as before,
        resolving(FakeResolver("127.0.0.1")) as resolver,
    ):
        after = Backend("127.0.0.2")
        after.port = before.port
        destination = Destination("collector.example", before.port)
        async with (
            listening(after),
            running(destination, forward_count=1) as house,
            posting(house) as client,
        ):
            await _sent_once(client, before, "p1")
            resolver.host = "127.0.0.2"
            before.connections[0].send_eof()
            await until(lambda: after.connections)
            await _sent_once(client, after, "p2")
            assert len(before.connections) == 1
            assert before.messages == messages("p1", 3)
            assert resolver.asked == ["collector.example"] * 2


@pytest_twisted.ensureDeferred
@within(60)
async def test_frames_never_interleave() -> None:
    """
    Large posts at the same time arrive whole, once each, in order, and no other
    frame gets between theirs.
    """
    sizes = random.Random(7)
    posts = {
        f"p{i}": [message(f"p{i}", n, sizes.randrange(20, 1500)) for n in range(300)]
        for i in range(200)
    }
    names = list(posts)
    async with listening(Backend()) as backend:
        async with running(backend.destination) as house, posting(house) as client:

            async def post_each(some: list[str]) -> list[int]:
                return [await client.post(body(posts[name])) for name in some]

            answers = await together(post_each(names[i::8]) for i in range(8))
            assert answers == [[200] * 25] * 8
            await until(lambda: len(backend.frames) >= 200 * 300)
        arrived = []
        for connection in backend.connections:
            for mark, msgs in groupby(connection.messages, lambda m: m.split()[0]):
                name = mark.decode().removeprefix("post=")
                assert list(msgs) == posts[name]
                arrived.append(name)
        assert sorted(arrived) == sorted(names)
        used = [c for c in backend.connections if c.frames]
        assert len(used) > 1


@pytest_twisted.ensureDeferred
@within(30)
async def test_writes_joined() -> None:
    """Small posts that wait for a connection leave in one write, in order."""
    async with listening(Backend()) as backend:
        backend.on_connection = never_read
        async with (
            running(
                backend.destination, forward_count=1, delivery_timeout_seconds=20.0
            ) as house,
            posting(house) as client,
        ):
            first = start(client.post(body(messages("first", *_HUGE))))
            metrics = house.service.metrics
            await until(lambda: metrics.writes == 1)
            small = [f"small{i}" for i in range(50)]
            posts = [start(client.post(body(messages(name, 2)))) for name in small]
            await until(lambda: house.service.drain.inside == 51)
            assert metrics.writes == 1
            backend.heal()
            assert await first == 200
            assert await together(posts) == [200] * 50
            assert metrics.writes == 2
            await until(lambda: len(backend.frames) == _HUGE[0] + 100)
            arrived = Counter(backend.messages[_HUGE[0] :])
            assert arrived == Counter(m for name in small for m in messages(name, 2))


@pytest.fixture
def black_hole() -> Iterator[Destination]:
    """A port where connecting never ends: its listener's queue is full."""
    with ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(10):
            client = held.enter_context(socket.socket())
            client.settimeout(0.3)
            try:
                client.connect(listener.getsockname())
            except TimeoutError:
                break
            except OSError as e:
                pytest.skip(f"this system refuses what its queue has no room for: {e}")
        else:
            pytest.skip("this system's queues have no end")
        yield Destination(*listener.getsockname())


@pytest_twisted.ensureDeferred
@within(30)
async def test_connect_timeout(black_hole: Destination) -> None:
    """
    A connection that does not come about is given up after
    FORWARD_DEST_CONNECT_TIMEOUT and tried anew.
    """
    async with (
        running(
            black_hole,
            forward_count=1,
            forward_dest_connect_timeout_seconds=0.5,
            delivery_timeout_seconds=1.0,
        ) as house,
        posting(house) as client,
    ):
        assert await client.post(body(messages("p", 1))) == 504
        await until(lambda: len(house.counted("forwarder.connect.attempt")) >= 3)
        errors = house.counted("forwarder.connect.error")
        assert len(errors) >= 2
        assert {e["message"] for e in errors} == {"no usable connection within 0.5 s"}
        # The third attempt still hangs; it must not hold the end up.
        started_at = time.monotonic()
        await house.stop()
        assert time.monotonic() - started_at < 5


@pytest_twisted.ensureDeferred
@within(30)
async def test_stop_ends_the_stream() -> None:
    """Stopping sends the end of the stream; a backend that ignores it is left."""
    async with (
        listening(Backend()) as backend,
        running(backend.destination) as house,
        posting(house) as client,
    ):
        await house.connected(4)
        await _sent_once(client, backend, "p")
        await client.close()
        for connection in backend.connections[:2]:
            never_read(connection)
        started_at = time.monotonic()
        await house.stop()
        assert time.monotonic() - started_at < 10
        assert house.lines.pairs[-1]["at"] == "exit"
        await until(lambda: all(c.ended for c in backend.connections[2:]))
        assert {str(c.ended and c.ended.type) for c in backend.connections[2:]} == {
            "<class 'twisted.internet.error.ConnectionDone'>"
        }
