"""
What becomes of posts over RELP, when the backend answers and when it misbehaves, on
the real reactor over loopback.
"""

import re
import time
from collections import Counter

import pytest
import pytest_twisted
from treq.client import HTTPClient
from twisted.web.client import Agent

from tests.integration import relp_backends as relp
from tests.integration.backends import (
    Client,
    House,
    body,
    listening,
    message,
    messages,
    posting,
    reactor,
    running,
    start,
    together,
    until,
    within,
)
from tests.integration.relp_backends import WINDOW, RELPBackend, RELPTLSBackend
from tests.integration.test_tls import Authority


@pytest.fixture
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


async def _passes(client: Client, backend: RELPBackend, name: str) -> None:
    """A fresh POST is answered 200, and arrives once and in order."""
    sent = messages(name, 3)
    assert await client.post(body(sent)) == 200
    assert [m for m in backend.messages if m in sent] == sent


async def _status(house: House, path: str) -> int:
    http = HTTPClient(Agent(reactor))
    response = await http.get(f"http://127.0.0.1:{house.port}{path}")
    code: int = response.code
    await response.text()
    return code


def _write_errors(house: House) -> list[str]:
    return [line["message"] for line in house.counted("forwarder.write.error")]


# answers


@pytest_twisted.ensureDeferred
@within(30)
async def test_confirmed_by_last_answer() -> None:
    """A POST is answered when the last of its frames is, and not before."""
    last = message("first", 4)

    def hold_last(session: relp.RELPConnection, txnr: int, octets: bytes) -> None:
        (relp.hold if octets.endswith(last) else relp.confirm)(session, txnr, octets)

    async with listening(RELPBackend()) as backend:
        backend.on_syslog = hold_last
        async with (
            running(backend.destination, forward_count=1) as house,
            posting(house) as client,
        ):
            first = start(client.post(body(messages("first", 5))))
            await until(lambda: len(backend.frames) == 5)
            # That it is confirmed shows that the answers before its were read.
            await _passes(client, backend, "second")
            assert not first.called
            backend.sessions[0].answer_held()
            assert await first == 200
            assert backend.messages == messages("first", 5) + messages("second", 3)


@pytest_twisted.ensureDeferred
@within(30)
async def test_window() -> None:
    """A post of 1,000 frames goes through a window of 128, whole and in order."""
    sent = messages("p", 1000)
    peaks = []

    def answer_full_window(session: relp.RELPConnection) -> None:
        peaks.append(len(session.held))
        # A smaller window would wait for ever, a larger one show.
        if len(session.held) >= WINDOW or len(session.txnrs) == len(sent):
            session.answer_held()

    async with listening(RELPBackend()) as backend:
        backend.on_syslog = relp.hold
        backend.on_octets = answer_full_window
        async with (
            running(backend.destination, forward_count=1) as house,
            posting(house) as client,
        ):
            assert await client.post(body(sent)) == 200
            assert backend.messages == sent
            assert max(peaks) == WINDOW


@pytest_twisted.ensureDeferred
@within(30)
async def test_all_sessions_used() -> None:
    """Each of the four sessions gets a post while the others wait for answers."""
    async with listening(RELPBackend()) as backend:
        backend.on_syslog = relp.hold
        async with running(backend.destination) as house, posting(house) as client:
            await house.connected(4)
            posts = []
            for i in range(4):
                posts.append(start(client.post(body(messages(f"p{i}", 2)))))
                await until(lambda: len(backend.frames) == 2 * len(posts))
            assert [len(session.txnrs) for session in backend.sessions] == [2] * 4
            assert not any(post.called for post in posts)
            for session in backend.sessions:
                session.answer_held()
            assert await together(posts) == [200] * 4


@pytest_twisted.ensureDeferred
@within(30)
async def test_writes_joined() -> None:
    """Five posts that come at once leave in one write, and are confirmed."""
    async with listening(RELPBackend()) as backend:
        async with running(backend.destination) as house:
            await house.connected(4)
            posts = [house.deliver(messages(f"p{i}", 1)) for i in range(5)]
            await together(posts)
            assert house.service.metrics.writes == 1
        (session,) = backend.used
        assert session.reads == 1
        assert session.messages == [message(f"p{i}", 0) for i in range(5)]


@pytest_twisted.ensureDeferred
@within(30)
async def test_frame_refused() -> None:
    """A frame that is refused fails its own POST only, and is not sent again."""
    bad = message("bad", 1)

    def refuse_bad(session: relp.RELPConnection, txnr: int, octets: bytes) -> None:
        (relp.refuse if octets.endswith(bad) else relp.confirm)(session, txnr, octets)

    async with listening(RELPBackend()) as backend:
        backend.on_syslog = refuse_bad
        async with (
            running(backend.destination, forward_count=1) as house,
            posting(house) as client,
        ):
            await house.connected(1)
            answers = await together(
                client.answer(body(messages(name, 3)), name)
                for name in ("a", "bad", "b")
            )
            assert [code for code, _ in answers] == [200, 504, 200]
            assert "500 cannot store it" in answers[1][1]
            await _passes(client, backend, "fresh")
            assert set(Counter(backend.messages).values()) == {1}
            assert len(backend.connections) == 1
            (error,) = house.counted("forwarder.write.error")
            assert error["request_id"] == "bad"
            assert "500 cannot store it" in error["message"]


@pytest_twisted.ensureDeferred
@within(30)
async def test_answers_out_of_order() -> None:
    """Answers in another order are taken: nothing is lost, sent twice or early."""
    sent = messages("p", 400)

    def answer_reversed(session: relp.RELPConnection) -> None:
        session.held.reverse()
        session.answer_held()

    async with listening(RELPBackend()) as backend:
        backend.on_syslog = relp.hold
        backend.on_octets = answer_reversed
        async with (
            running(backend.destination, forward_count=1) as house,
            posting(house) as client,
        ):
            assert await client.post(body(sent)) == 200
            assert backend.messages == sent
            await _passes(client, backend, "fresh")
            assert len(backend.connections) == 1


# broken sessions


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.parametrize(
    ("misbehave", "why"),
    [
        (relp.eof, "the backend closed the connection"),
        # A write that has met the reset leaves nothing but an end to be read.
        (relp.reset, "was lost in a non-clean fashion|closed the connection"),
        (relp.serverclose, "RELP: the server has ended the session"),
        (relp.garbage, "RELP: no RELP frame but 'HTTP/1.1 400"),
        (relp.unknown_txnr, "RELP: an answer to 999999, which has none to come"),
    ],
)
async def test_session_breaks(misbehave: relp.Answering, why: str) -> None:
    """
    Frames without an answer are sent again on another session, in order; none that
    was answered, and at most the window twice.
    """
    sent = messages("p", 400)
    confirmed = 49
    async with listening(RELPBackend()) as backend:
        backend.on_syslog = relp.on_frame(confirmed + 1, misbehave)
        async with running(backend.destination) as house, posting(house) as client:
            assert await client.post(body(sent), "r1") == 200
            await until(lambda: backend.used[0].ended)
            first, second = (session.messages for session in backend.used)
            assert first == sent[: len(first)]
            assert confirmed < len(first) <= confirmed + WINDOW
            assert second == sent[confirmed:]
            await _passes(client, backend, "fresh")
            (error,) = house.counted("forwarder.write.error")
            assert error["request_id"] == "r1"
            assert re.search(why, error["message"])
            assert "may arrive twice" in error["message"]
            await house.connected(4)


@pytest_twisted.ensureDeferred
@within(30)
async def test_breaks_while_idle() -> None:
    """A session that ends between posts costs nothing."""
    async with (
        listening(RELPBackend()) as backend,
        running(backend.destination, forward_count=1) as house,
        posting(house) as client,
    ):
        for n in range(3):
            await _passes(client, backend, f"p{n}")
            backend.sessions[-1].end()
        await _passes(client, backend, "fresh")
        assert [len(session.txnrs) for session in backend.sessions] == [3] * 4
        assert _write_errors(house) == []


@pytest_twisted.ensureDeferred
@within(60)
@pytest.mark.parametrize("before", [0, 200])
@pytest.mark.parametrize("end", [relp.eof, relp.reset, relp.serverclose])
async def test_frame_ends_sessions(end: relp.Answering, before: int) -> None:
    """
    A frame that ends two sessions in a row fails its POST; what is posted with it
    passes.
    """
    long = [*messages("long", before), message("long", before, 20_000)]
    good = [f"good{i}" for i in range(10)]
    async with listening(RELPBackend()) as backend:
        backend.message_bytes_max = 10_000
        backend.on_too_long = end
        async with (
            running(
                backend.destination, forward_count=2, delivery_timeout_seconds=20.0
            ) as house,
            posting(house) as client,
        ):
            await house.connected(2)
            bad = start(client.answer(body(long), "long"))
            answers = together(client.post(body(messages(n, 5))) for n in good)
            assert await answers == [200] * 10
            code, text = await bad
            assert code == 504
            assert "2 sessions in a row have ended on a frame of it" in text
            assert backend.too_long == 2
            arrived = Counter(backend.messages)
            for name in good:
                assert all(1 <= arrived[m] <= 3 for m in messages(name, 5))
            await _passes(client, backend, "fresh")
            assert backend.too_long == 2


@pytest_twisted.ensureDeferred
@within(30)
async def test_never_answered() -> None:
    """What is not answered is 504 at its deadline and ends its session."""
    async with listening(RELPBackend()) as backend:
        backend.on_syslog = relp.on_frame(2, relp.ignore)
        async with (
            running(
                backend.destination, forward_count=1, delivery_timeout_seconds=1.0
            ) as house,
            posting(house) as client,
        ):
            await house.connected(1)
            started_at = time.monotonic()
            assert await client.post(body(messages("p", 3)), "r1") == 504
            assert time.monotonic() - started_at >= 0.9
            await until(lambda: backend.sessions[0].ended)
            await house.connected(1)
            await _passes(client, backend, "fresh")
            assert backend.sessions[1].messages == messages("fresh", 3)
            (error,) = house.counted("forwarder.write.error")
            assert error["request_id"] == "r1"


# opening


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"1 rsp 14 500 go away ok\n", "RELP: open was answered 500 'go away ok'"),
        (
            b"1 rsp 37 200 OK\nrelp_version=1\ncommands=syslog\n",
            "RELP: relp_version 0 is not offered but '1'",
        ),
        (
            b"1 rsp 37 200 OK\nrelp_version=0\ncommands=eventx\n",
            "RELP: commands syslog is not offered but 'eventx'",
        ),
        (b"220 mail.example ESMTP\r\n", "RELP: no RELP frame but '220 mail.example"),
        (b"", "RELP: no answer to open within 5 s"),
    ],
)
async def test_open_fails(answer: bytes, why: str) -> None:
    """A backend that does not open a session gets no frame, and the log says why."""
    async with listening(RELPBackend()) as backend:
        backend.on_open = relp.opening(answer)
        async with (
            running(
                backend.destination, forward_count=1, delivery_timeout_seconds=1.0
            ) as house,
            posting(house) as client,
        ):
            code, text = await client.answer(body(messages("p", 1)))
            assert code == 504
            assert "no backend connection became usable in time" in text
            await until(lambda: house.counted("forwarder.connect.error"))
            for error in house.counted("forwarder.connect.error"):
                assert why in error["message"]
            assert await _status(house, "/ready") == 503
            assert house.counted("forwarder.connect.success") == []
            assert backend.frames == []

            backend.on_open = relp.accept
            await house.connected(1)
            assert await _status(house, "/ready") == 200
            await _passes(client, backend, "fresh")


# the end


@pytest_twisted.ensureDeferred
@within(30)
async def test_drain() -> None:
    """Stopping waits for the answers, closes the sessions in order and exits."""
    async with listening(RELPBackend()) as backend:
        backend.on_syslog = relp.hold
        async with running(backend.destination) as house, posting(house) as client:
            await house.connected(4)
            post = start(client.post(body(messages("p", 300))))
            await until(lambda: len(backend.frames) == WINDOW)
            stopping = start(house.stop())
            await until(lambda: house.service.drain.draining)
            (session,) = backend.used
            while len(session.txnrs) < 300:
                session.answer_held()
                await until(lambda: session.held)
            assert not post.called
            assert not stopping.called
            assert not any(c.ended for c in backend.connections)
            session.answer_held()
            assert await post == 200
            await stopping
            assert house.lines.pairs[-1]["at"] == "exit"
            await until(lambda: not backend.open)
            for each in backend.sessions:
                last = 302 if each is session else 2
                assert each.commands[-1] == (last, b"close")
            assert session.messages == messages("p", 300)


@pytest_twisted.ensureDeferred
@within(30)
async def test_drain_unanswered() -> None:
    """What is not answered does not hold up the end beyond its deadline."""
    async with listening(RELPBackend()) as backend:
        backend.on_syslog = relp.ignore
        async with (
            running(backend.destination, delivery_timeout_seconds=1.0) as house,
            posting(house) as client,
        ):
            await house.connected(4)
            post = start(client.post(body(messages("p", 1))))
            await until(lambda: backend.frames)
            started_at = time.monotonic()
            await house.stop()
            assert time.monotonic() - started_at < 5
            assert await post == 504
            assert house.lines.pairs[-1]["at"] == "exit"


# TLS


def _tls_backend(authority: Authority, **options: object) -> RELPTLSBackend:
    made = authority.backend(**options)  # type: ignore[arg-type]
    return RELPTLSBackend(made.context)


@pytest_twisted.ensureDeferred
@within(30)
async def test_tls(authority: Authority) -> None:
    """Frames and answers go through TLS, and the session is closed in order."""
    async with listening(_tls_backend(authority)) as backend:
        async with (
            running(backend.destination, pem=authority.pem(), forward_count=1) as house,
            posting(house) as client,
        ):
            await _passes(client, backend, "first")
            assert await client.post(body(messages("p", 1000))) == 200
            assert backend.messages[3:] == messages("p", 1000)
        (session,) = backend.sessions
        assert b"post=" not in session.raw
        assert session.commands[-1] == (1005, b"close")


@pytest_twisted.ensureDeferred
@within(30)
async def test_tls_client_certificate_missing(authority: Authority) -> None:
    """
    A backend that refuses us after the handshake never becomes usable: there is no
    answer to open.
    """
    backend = _tls_backend(authority, trust_clients_of=authority.ca)
    async with (
        listening(backend),
        running(
            backend.destination,
            pem=authority.pem(),
            forward_count=1,
            delivery_timeout_seconds=1.0,
        ) as house,
        posting(house) as client,
    ):
        assert await client.post(body(messages("p", 1))) == 504
        errors = house.counted("forwarder.connect.error")
        assert errors
        assert all("certificate required" in e["message"] for e in errors)
        assert house.counted("forwarder.connect.success") == []
        assert await _status(house, "/ready") == 503
        assert backend.sessions == []


@pytest_twisted.ensureDeferred
@within(30)
async def test_tls_wrong_authority(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A backend that we do not trust does not even get the open."""
    other = Authority(tmp_path_factory.mktemp("other"))
    backend = _tls_backend(other)
    async with (
        listening(backend),
        running(
            backend.destination,
            pem=authority.pem(),
            forward_count=1,
            delivery_timeout_seconds=1.0,
        ) as house,
        posting(house) as client,
    ):
        assert await client.post(body(messages("p", 1))) == 504
        errors = house.counted("forwarder.connect.error")
        assert errors
        assert all("not in PEMFILE" in e["message"] for e in errors)
        assert backend.sessions == []
