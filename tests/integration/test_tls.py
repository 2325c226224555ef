"""
TLS to the backend, on the real reactor over loopback: what arrives, and what must
never leave in plaintext or be answered 200.

The backends' end is the standard library's `ssl`, not Twisted's.
"""

import ssl
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import pytest_twisted
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from logiss.senders import CLOSE_SECONDS
from logiss.variables import BackendPEM, Destination, parse_pem_file
from tests.integration.backends import (
    Backend,
    Connection,
    FakeResolver,
    House,
    LenientConnection,
    RawClient,
    TLSBackend,
    TLSConnection,
    body,
    close,
    listening,
    messages,
    never_read,
    pause,
    posting,
    resolving,
    running,
    start,
    together,
    until,
    within,
)

#: More than the kernel takes for a connection whose peer does not read.
_HUGE = (120, 100_000)
_PAST = datetime(2020, 1, 1, tzinfo=UTC)


class Authority:
    """A CA, servers that it vouches for and PEMFILEs that trust it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = trustme.CA()

    def backend(
        self,
        name: str = "127.0.0.1",
        not_after: datetime | None = None,
        trust_clients_of: trustme.CA | None = None,
        version: ssl.TLSVersion | None = None,
    ) -> TLSBackend:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(name, not_after=not_after).configure_cert(context)
        if trust_clients_of is not None:
            trust_clients_of.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return TLSBackend(context)

    def pem(self, *more: bytes) -> BackendPEM:
        """A PEMFILE that trusts this CA and holds `more`."""
        path = self._folder / f"{id(self)}-{len(more)}.pem"
        path.write_bytes(b"".join([self.ca.cert_pem.bytes(), *more]))
        return parse_pem_file(str(path))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _is_handshake_only(raw: bytes) -> bool:
    """
    Whether `raw` is TLS records (RFC 8446 section 5.1) of any types but
    application data: no frame can be in them, encrypted or not.
    """
    while raw:
        if raw[0] not in (20, 21, 22) or raw[1] != 3:
            return False
        raw = raw[5 + int.from_bytes(raw[3:5], "big") :]
    return True


def _connect_errors(house: House) -> set[str]:
    return {line["message"] for line in house.counted("forwarder.connect.error")}


async def _refused(backend: Backend, pem: BackendPEM, host: str = "127.0.0.1") -> str:
    """
    A POST through `backend` is 504 and nothing of it is sent.

    @return: what the log says of the cause, in every line that is about it.
    """
    async with (
        listening(backend),
        running(
            Destination(host, backend.port),
            pem=pem,
            forward_count=2,
            delivery_timeout_seconds=1.0,
            forward_dest_connect_timeout_seconds=0.5,
        ) as house,
        posting(house) as client,
    ):
        assert await client.post(body(messages("secret", 3))) == 504
        await until(lambda: len(house.counted("forwarder.connect.error")) >= 2)
        assert house.counted("forwarder.connect.success") == []
    assert backend.connections
    assert backend.frames == []
    for connection in backend.connections:
        assert b"secret" not in connection.raw
        assert connection.raw[:2] == b"\x16\x03"
    (cause,) = _connect_errors(house)
    return cause


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_frames_arrive(authority: Authority, version: ssl.TLSVersion) -> None:
    """With PEMFILE set the frames travel encrypted and arrive as they are."""
    async with (
        listening(authority.backend(version=version)) as backend,
        running(backend.destination, pem=authority.pem()) as house,
        posting(house) as client,
    ):
        for name in ("p1", "p2", "p3"):
            assert await client.post(body(messages(name, 10))) == 200
        await until(lambda: len(backend.frames) == 30)
        assert backend.messages == [
            m for name in ("p1", "p2", "p3") for m in messages(name, 10)
        ]
        assert not [c for c in backend.connections if b"post=p" in c.raw]
        assert _connect_errors(house) == set()


@pytest_twisted.ensureDeferred
@within(30)
async def test_name_checked(authority: Authority) -> None:
    """A backend that FORWARD_DEST names must have a certificate for that name."""
    async with (
        listening(authority.backend("collector.example")) as backend,
        resolving(FakeResolver("127.0.0.1")),
        running(
            Destination("collector.example", backend.port), pem=authority.pem()
        ) as house,
        posting(house) as client,
    ):
        assert await client.post(body(messages("p", 1))) == 200
        await until(lambda: backend.messages == messages("p", 1))


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_certificate(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    """A key and certificate in PEMFILE are presented to a backend that asks."""
    ours = authority.ca.issue_cert("logiss.example")
    pem = authority.pem(ours.private_key_and_cert_chain_pem.bytes())
    backend = authority.backend(trust_clients_of=authority.ca, version=version)
    async with (
        listening(backend),
        running(backend.destination, pem=pem) as house,
        posting(house) as client,
    ):
        assert await client.post(body(messages("p", 2))) == 200
        await until(lambda: backend.messages == messages("p", 2))
        (connection,) = [c for c in backend.connections if c.frames]
        assert isinstance(connection, TLSConnection)
        presented = connection.tls.getpeercert()
        assert presented is not None
        assert presented["subjectAltName"] == (("DNS", "logiss.example"),)


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_certificate_missing(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    """
    A backend that refuses us for our certificate is never a 200, although in TLS
    1.3 it says so only after the handshake has seemed to succeed.
    """
    backend = authority.backend(trust_clients_of=authority.ca, version=version)
    async with (
        listening(backend),
        running(
            backend.destination,
            pem=authority.pem(),
            forward_count=2,
            delivery_timeout_seconds=1.0,
        ) as house,
        posting(house) as client,
    ):
        answers = []
        for i in range(3):
            answers.append(await client.post(body(messages(f"p{i}", 1))))
        assert answers == [504] * 3
        refused = {
            c.refused for c in backend.connections if isinstance(c, TLSConnection)
        }
        assert any("PEER_DID_NOT_RETURN_A_CERTIFICATE" in why for why in refused)
        assert backend.frames == []
        errors = _connect_errors(house)
        assert errors
        assert all(
            "certificate required" in e or "handshake failure" in e for e in errors
        )


@pytest_twisted.ensureDeferred
@within(30)
async def test_wrong_authority(authority: Authority, tmp_path: Path) -> None:
    """A certificate of an authority that is not in PEMFILE is refused."""
    cause = await _refused(authority.backend(), Authority(tmp_path).pem())
    assert "TLS: the backend's certificate " in cause
    assert "was issued by an authority that is not in PEMFILE" in cause


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.parametrize("name", ["other.example", "127.0.0.2"])
async def test_wrong_name(authority: Authority, name: str) -> None:
    """A certificate for another name or address is refused."""
    cause = await _refused(authority.backend(name), authority.pem())
    assert "TLS: the backend's certificate is for another name" in cause


@pytest_twisted.ensureDeferred
@within(30)
async def test_wrong_name_of_a_name(authority: Authority) -> None:
    """A certificate for the address does not do where FORWARD_DEST has a name."""
    async with resolving(FakeResolver("127.0.0.1")):
        cause = await _refused(
            authority.backend("127.0.0.1"), authority.pem(), "collector.example"
        )
    assert "TLS: the backend's certificate is for another name" in cause


@pytest_twisted.ensureDeferred
@within(30)
async def test_expired(authority: Authority) -> None:
    """An expired certificate is refused."""
    cause = await _refused(authority.backend(not_after=_PAST), authority.pem())
    assert "TLS: the backend's certificate " in cause
    assert "has expired" in cause


def _self_signed(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody else vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "self.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    return path


def _self_signed_backend(path: Path) -> TLSBackend:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return TLSBackend(context)


@pytest_twisted.ensureDeferred
@within(30)
async def test_self_signed(authority: Authority, tmp_path: Path) -> None:
    """A self-signed certificate is refused."""
    backend = _self_signed_backend(_self_signed(tmp_path))
    cause = await _refused(backend, authority.pem())
    assert "TLS: the backend's certificate 'self' is self-signed" in cause


@pytest_twisted.ensureDeferred
@within(30)
async def test_self_signed_in_pemfile(tmp_path: Path) -> None:
    """A self-signed certificate is trusted when it is in PEMFILE itself."""
    path = _self_signed(tmp_path)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(path.read_bytes().partition(b"PRIVATE KEY-----\n")[2])
    trusted.write_bytes(trusted.read_bytes().partition(b"PRIVATE KEY-----\n")[2])
    backend = _self_signed_backend(path)
    async with (
        listening(backend),
        running(backend.destination, pem=parse_pem_file(str(trusted))) as house,
        posting(house) as client,
    ):
        assert await client.post(body(messages("p", 1))) == 200
        await until(lambda: backend.messages == messages("p", 1))


def _speak_plaintext(connection: Connection) -> None:
    connection.transport.write(b"220 collector.example ready\r\n")


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.parametrize(
    ("on_connection", "on_octets", "cause"),
    [
        pytest.param(None, None, "no usable connection within 0.5 s", id="silent"),
        pytest.param(_speak_plaintext, None, "TLS: ", id="plaintext"),
        pytest.param(None, close, "", id="closes"),
    ],
)
async def test_never_shakes_hands(
    authority: Authority,
    on_connection: Callable[[Connection], None] | None,
    on_octets: Callable[[Connection], None] | None,
    cause: str,
) -> None:
    """
    A peer that is no TLS server gets a ClientHello and nothing else, and the
    connection to it is freed within the connect timeout.
    """
    backend = Backend(make_connection=LenientConnection)
    if on_connection is not None:
        backend.on_connection = on_connection
    if on_octets is not None:
        backend.on_octets = on_octets
    said = await _refused(backend, authority.pem())
    assert said.startswith(cause)
    assert all(_is_handshake_only(bytes(c.raw)) for c in backend.connections)
    assert len(backend.connections) > 2
    assert backend.connections[0].ended


@pytest_twisted.ensureDeferred
@within(60)
async def test_large_payload(authority: Authority) -> None:
    """Payloads of several megabytes arrive whole and in order."""
    async with (
        listening(authority.backend()) as backend,
        running(
            backend.destination,
            pem=authority.pem(),
            delivery_timeout_seconds=20.0,
        ) as house,
        posting(house) as client,
    ):
        posts = {f"p{i}": messages(f"p{i}", 40, 100_000) for i in range(3)}
        answers = await together(client.post(body(p)) for p in posts.values())
        assert answers == [200] * 3
        await until(lambda: len(backend.frames) == 120)
        for name, sent in posts.items():
            mark = f"post={name} ".encode()
            assert [m for m in backend.messages if m.startswith(mark)] == sent


@pytest_twisted.ensureDeferred
@within(60)
async def test_stops_reading(authority: Authority) -> None:
    """
    A POST is not 200 while ciphertext is left in the process: a peer that shakes
    hands and then reads no more costs a large POST a 504.
    """
    async with listening(authority.backend()) as backend:
        backend.on_handshake = never_read
        async with (
            running(
                backend.destination,
                pem=authority.pem(),
                forward_count=1,
                delivery_timeout_seconds=1.5,
            ) as house,
            posting(house) as client,
        ):
            assert await client.post(body(messages("big", *_HUGE)), "r1") == 504
            errors = house.counted("forwarder.write.error")
            assert [e["request_id"] for e in errors] == ["r1"]
            # The answer does not wait for the end of the connection.
            await until(lambda: len(house.counted("forwarder.disconnect.success")) == 1)

            backend.on_handshake = lambda _: None
            backend.heal()
            await house.connected(1)
            fresh = messages("fresh", 3)
            assert await client.post(body(fresh)) == 200
            await until(lambda: backend.messages[-3:] == fresh)
            assert messages("big", *_HUGE)[-1] not in backend.messages


@pytest_twisted.ensureDeferred
@within(60)
async def test_ends_abruptly(authority: Authority) -> None:
    """A connection reset in mid-payload: all of it goes out on the next."""
    async with listening(authority.backend()) as backend:

        def end_two(connection: Connection) -> None:
            if len(backend.connections) <= 2 and len(connection.raw) >= 300_000:
                connection.transport.abortConnection()

        backend.on_octets = end_two
        async with (
            running(
                backend.destination,
                pem=authority.pem(),
                forward_count=1,
                delivery_timeout_seconds=20.0,
            ) as house,
            posting(house) as client,
        ):
            sent = messages("p", *_HUGE)
            assert await client.post(body(sent), "r1") == 200
            await until(lambda: len(backend.connections[-1].frames) >= len(sent))
            assert len(backend.connections) == 3
            assert backend.connections[-1].messages == sent
            errors = house.counted("forwarder.write.error")
            assert [e["request_id"] for e in errors] == ["r1"] * 2


@pytest_twisted.ensureDeferred
@within(30)
async def test_session_ends_while_idle(authority: Authority) -> None:
    """
    A session that the backend has ended with close_notify is not written to, even
    when its end and a POST are noticed in the same turn.
    """
    async with listening(authority.backend()) as backend:
        async with running(
            backend.destination, pem=authority.pem(), forward_count=1
        ) as house:
            with closing(RawClient(house.port)) as client:
                client.send(body(messages("before", 2)))
                assert await client.status() == 200
                await until(lambda: len(backend.frames) == 2)

                ended = backend.connections[0]
                assert isinstance(ended, TLSConnection)
                ended.send_close_notify()
                client.send(body(messages("after", 2)))
                assert await client.status() == 200
                await until(
                    lambda: len(backend.frames) == 4,
                    seconds=5,
                    what="answered 200, but it did not arrive",
                )
        first, second = backend.connections
        assert first.messages == messages("before", 2)
        assert second.messages == messages("after", 2)


@pytest_twisted.ensureDeferred
@within(60)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_session_ends_between_posts(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    """
    A session that the backend has ended with close_notify is not written to: with
    a delivery in each turn of the reactor, none that succeeded is lost.
    """
    async with (
        listening(authority.backend(version=version)) as backend,
        running(
            backend.destination,
            pem=authority.pem(),
            forward_count=1,
            delivery_timeout_seconds=20.0,
        ) as house,
    ):
        await house.connected(1)
        names = [f"p{i}" for i in range(60)]
        deliveries = []
        for i, name in enumerate(names):
            if i == 30:
                (ended,) = backend.connections
                assert isinstance(ended, TLSConnection)
                ended.send_close_notify()
            deliveries.append(house.deliver(messages(name, 1)))
            await pause(0)
        await together(deliveries)
        sent = {m for name in names for m in messages(name, 1)}
        await until(
            lambda: set(backend.messages) == sent,
            seconds=5,
            what="delivered, but it did not arrive",
        )
        assert len(backend.connections) == 2


@pytest_twisted.ensureDeferred
@within(30)
async def test_idle_costs_nothing(authority: Authority) -> None:
    """Connections that have sent something and wait for more use no CPU time."""
    async with (
        listening(authority.backend()) as backend,
        running(backend.destination, pem=authority.pem()) as house,
        posting(house) as client,
    ):
        await house.connected(4)
        posts = [start(client.post(body(messages("p", 500)))) for _ in range(8)]
        assert await together(posts) == [200] * 8
        await until(lambda: len(backend.frames) == 4000)
        before = time.process_time()
        await pause(1.0)
        assert time.process_time() - before < 0.3


@pytest_twisted.ensureDeferred
@within(30)
@pytest.mark.parametrize("answers", [True, False])
async def test_stop_ends_the_session(authority: Authority, answers: bool) -> None:
    """
    Stopping ends each session with close_notify, and does not wait for a backend
    that leaves it unanswered.
    """
    async with listening(authority.backend()) as backend:
        backend.answers_close_notify = answers
        async with (
            running(backend.destination, pem=authority.pem()) as house,
            posting(house) as client,
        ):
            await house.connected(4)
            assert await client.post(body(messages("p", 1))) == 200
            await until(lambda: len(backend.frames) == 1)
            await client.close()
            started_at = time.monotonic()
            await house.stop()
            assert time.monotonic() - started_at < CLOSE_SECONDS + 5
        await until(lambda: not backend.open)
        for connection in backend.connections:
            assert isinstance(connection, TLSConnection)
            assert connection.close_notified
            # Not by a reset, which would take from it what it has not read.
            assert "ConnectionLost" not in str(connection.ended)
