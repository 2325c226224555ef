"""The guards: each by itself, their order, and what a post knows of its request."""

from collections.abc import Callable
from typing import Any, cast

from attrs import define, evolve, field
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.server import Request

from logiss.answers import (
    BODY_TOO_LARGE,
    LENGTH_REQUIRED,
    ONLY_POST,
    ONLY_SSL,
    SHUTTING_DOWN,
    UNAUTHORIZED,
    WRONG_ENCODING,
    WRONG_TYPE,
    Answer,
)
from logiss.credentials import Credentials
from logiss.drain import Drain
from logiss.guards import Guards, Post
from logiss.metrics import Metrics
from logiss.settings import Settings
from tests.front import TOKEN, USER, basic

MAX_BODY_BYTES = 300


class FakeRequest:
    """What the guards ask of a request of the channel's."""

    def __init__(
        self,
        method: bytes,
        fields: dict[bytes, list[bytes]],
        clientproto: bytes = b"HTTP/1.1",
    ) -> None:
        self.method = method
        self.clientproto = clientproto
        self._fields = fields
        self.client: Any = IPv4Address("TCP", "192.0.2.7", 50000)

    def header_values(self, name: bytes) -> list[bytes] | None:
        return self._fields.get(name)

    def getClientAddress(self) -> Any:  # noqa: N802
        return self.client


class FakeStockRequest:
    """What they ask of one of twisted.web's."""

    def __init__(
        self, method: bytes, fields: dict[bytes, list[bytes]], clientproto: bytes
    ) -> None:
        self.method = method
        self.clientproto = clientproto
        self.requestHeaders = Headers(fields)

    def getClientAddress(self) -> Any:  # noqa: N802
        return IPv4Address("TCP", "192.0.2.7", 50000)


@define
class Asked:
    """A post that passes, until something of it is changed."""

    method: bytes = b"POST"
    clientproto: bytes = b"HTTP/1.1"
    fields: dict[bytes, list[bytes]] = field(
        factory=lambda: {
            b"x-forwarded-proto": [b"https"],
            b"content-type": [b"application/logplex-1"],
            b"authorization": [basic().encode()],
            b"content-length": [b"%d" % MAX_BODY_BYTES],
        }
    )

    def having(self, name: bytes, *values: bytes) -> "Asked":
        """This with other values of a header, or without it."""
        fields = {**self.fields, name: list(values)}
        if not values:
            del fields[name]
        return evolve(self, fields=fields)

    def post(self, kind: Any = FakeRequest) -> Post:
        request = kind(self.method, self.fields, self.clientproto)
        return Post(cast(Request, request), 7.0)


class GuardsTestCase(SynchronousTestCase):
    """Guards with everything on."""

    def setUp(self) -> None:
        self.drain = Drain()
        self.metrics = Metrics()
        self.guards = self.make()

    def make(self, enforce_ssl: bool = True) -> Guards:
        return Guards(
            Settings(
                deploy="test",
                tokens=((USER, TOKEN),),
                enforce_ssl=enforce_ssl,
                max_body_bytes=MAX_BODY_BYTES,
            ),
            Credentials.from_tokens(b"key", ((USER, TOKEN),)),
            self.drain,
            self.metrics,
            BODY_TOO_LARGE,
        )

    def check(self, asked: Asked, expected: Answer | None) -> None:
        for kind in (FakeRequest, FakeStockRequest):
            self.assertEqual(self.guards.refusal(asked.post(kind)), expected, asked)


#: How to make each guard refuse, in their order.
SPOILT: list[tuple[Answer, Callable[[Asked], Asked]]] = [
    (ONLY_SSL, lambda asked: asked.having(b"x-forwarded-proto")),
    (SHUTTING_DOWN, lambda asked: asked),
    (ONLY_POST, lambda asked: evolve(asked, method=b"GET")),
    (WRONG_TYPE, lambda asked: asked.having(b"content-type", b"text/plain")),
    (UNAUTHORIZED, lambda asked: asked.having(b"authorization")),
    (WRONG_ENCODING, lambda asked: asked.having(b"content-encoding", b"br")),
    (
        BODY_TOO_LARGE,
        lambda asked: asked.having(b"content-length", b"%d" % (MAX_BODY_BYTES + 1)),
    ),
]


class OrderTests(GuardsTestCase):
    """The first refusal is the answer."""

    def test_passes(self) -> None:
        """A post with nothing wrong is refused by none."""
        self.check(Asked(), None)

    def test_alone(self) -> None:
        """Each refuses what is wrong with it alone."""
        for refusal, spoil in SPOILT:
            if refusal is not SHUTTING_DOWN:
                self.check(spoil(Asked()), refusal)
        self.drain.begin(lambda: None)
        self.check(Asked(), SHUTTING_DOWN)

    def test_order(self) -> None:
        """Of each two that would refuse, the first one does."""
        for i, (first, spoil) in enumerate(SPOILT):
            for second, spoil_too in SPOILT[i + 1 :]:
                self.setUp()
                if SHUTTING_DOWN in (first, second):
                    self.drain.begin(lambda: None)
                self.check(spoil_too(spoil(Asked())), first)

    def test_credentials_last_of_all(self) -> None:
        """Nobody's credentials are looked at when the post is refused before."""
        self.drain.begin(lambda: None)
        self.check(Asked(), SHUTTING_DOWN)
        self.assertEqual(self.metrics.credentials_accepted, 0)
        self.assertEqual(self.metrics.credentials_refused, 0)

    def test_counted(self) -> None:
        """Credentials are counted, accepted and refused."""
        self.check(Asked(), None)
        self.check(Asked().having(b"authorization", b"Basic x"), UNAUTHORIZED)
        self.assertEqual(self.metrics.credentials_accepted, 2)
        self.assertEqual(self.metrics.credentials_refused, 2)


class GuardTests(GuardsTestCase):
    """What each lets pass and what not, beyond the rows of the HTTP table."""

    def table(self, name: bytes, passes: Any, refused: Any, answer: Answer) -> None:
        for values in passes:
            self.check(Asked().having(name, *values), None)
        for values in refused:
            self.check(Asked().having(name, *values), answer)

    def test_ssl(self) -> None:
        """The first item of the first header decides."""
        self.table(
            b"x-forwarded-proto",
            [(b"https",), (b"https, http",), (b"\tHTTPS ",), (b"https", b"http")],
            [
                (),
                (b"",),
                (b"http", b"https"),
                (b",https",),
                (b"https;x",),
                (b"httpss",),
            ],
            ONLY_SSL,
        )

    def test_ssl_off(self) -> None:
        """Unless it is enforced, nobody asks."""
        self.guards = self.make(enforce_ssl=False)
        self.table(b"x-forwarded-proto", [(), (b"http",)], [], ONLY_SSL)

    def test_method(self) -> None:
        """Exactly POST."""
        for method in (b"GET", b"PUT", b"post", b"POSTS", b""):
            self.check(evolve(Asked(), method=method), ONLY_POST)

    def test_content_type(self) -> None:
        """Parameters and case do not matter, of the first header."""
        good, other = b"application/logplex-1", b"text/plain"
        self.table(
            b"content-type",
            [
                (good,),
                (b"application/x-logplex-1",),
                (good.upper(),),
                (b" " + good + b"\t; charset=utf-8",),
                (good, other),
            ],
            [(), (b"",), (other, good), (good + b"0",), (good + b", " + other,)],
            WRONG_TYPE,
        )

    def test_credentials(self) -> None:
        """One header with a known pair; the post keeps what it was admitted by."""
        good = basic().encode()
        self.table(
            b"authorization",
            [(good,)],
            [
                (),
                (good, good),
                (good, b""),
                (good[:-1],),
                (basic("user", "b").encode(),),
            ],
            UNAUTHORIZED,
        )
        post = Asked().post()
        self.assertIsNone(self.guards.refusal(post))
        assert post.credential is not None
        refused = Asked().having(b"authorization", good, good).post()
        self.guards.refusal(refused)
        self.assertIsNone(refused.credential)

    def test_content_encoding(self) -> None:
        """None, identity or gzip, in any case and one only."""
        self.table(
            b"content-encoding",
            [(b"gzip",), (b"GZip",), (b" identity ",), (b"",)],
            [(b"gzip", b"gzip"), (b"gzip,",), (b"x-gzip",), (b"identity", b"gzip")],
            WRONG_ENCODING,
        )

    def test_content_encoding_kept(self) -> None:
        """The post knows whether to inflate."""
        for values, expected in (
            ((b" GZIP ",), b"gzip"),
            ((b"Identity",), b"identity"),
            ((b"",), b""),
        ):
            post = Asked().having(b"content-encoding", *values).post()
            self.assertIsNone(self.guards.refusal(post))
            self.assertEqual(post.content_encoding, expected)
        self.assertEqual(Asked().post().content_encoding, b"")

    def test_content_length(self) -> None:
        """A chunked body has none, and the largest passes."""
        most = MAX_BODY_BYTES
        self.table(
            b"content-length",
            [(b"0",), (b"%d" % most,), (b"000%d" % most,)],
            [(b"%d" % (most + 1),), (b"9" * 18,)],
            BODY_TOO_LARGE,
        )
        asked = Asked()
        del asked.fields[b"content-length"]
        self.check(asked, None)

    def test_old_without_length(self) -> None:
        """On HTTP/1.0 a body without a length may be lost unseen: it is refused."""
        asked = Asked(clientproto=b"HTTP/1.0")
        self.check(asked, None)
        del asked.fields[b"content-length"]
        self.check(asked, LENGTH_REQUIRED)

    def test_draining_alone(self) -> None:
        """Draining can be asked about by itself, again and again."""
        post = Asked(method=b"GET").post()
        self.assertIsNone(self.guards.draining(post))
        self.drain.begin(lambda: None)
        self.assertEqual(self.guards.draining(post), SHUTTING_DOWN)


class PostTests(SynchronousTestCase):
    """What a post knows of its request, whichever channel that came by."""

    def facts(self, fields: dict[bytes, list[bytes]]) -> tuple[Any, ...]:
        seen = []
        for kind in (FakeRequest, FakeStockRequest):
            post = Asked(fields=fields).post(kind)
            seen.append((post.drain_token, post.request_id, post.remote_addr))
        self.assertEqual(seen[0], seen[1])
        return seen[0]

    def test_first(self) -> None:
        """Of drain token and request id the first counts."""
        self.assertEqual(
            self.facts(
                {
                    b"logplex-drain-token": [b"d.1", b"d.2"],
                    b"x-request-id": [b"one", b"two"],
                }
            ),
            (b"d.1", b"one", b"192.0.2.7"),
        )
        self.assertEqual(self.facts({}), (None, None, b"192.0.2.7"))

    def test_forwarded(self) -> None:
        """X-Forwarded-For is kept as it came, several headers are joined."""
        for values, expected in (
            ([b"1.1.1.1"], b"1.1.1.1"),
            ([b"1.1.1.1 ,2.2.2.2"], b"1.1.1.1 ,2.2.2.2"),
            ([b"1.1.1.1", b"2.2.2.2"], b"1.1.1.1, 2.2.2.2"),
            ([b"", b"2.2.2.2"], b", 2.2.2.2"),
            ([b""], b"192.0.2.7"),
            ([b"", b""], b"192.0.2.7"),
        ):
            self.assertEqual(self.facts({b"x-forwarded-for": values})[2], expected)

    def test_peer(self) -> None:
        """Without it, it is the peer; a peer without an address is none."""
        for peer, expected in (
            (IPv4Address("TCP", "192.0.2.9", 1), b"192.0.2.9"),
            (IPv6Address("TCP", "fe80::1%eth0", 1), b"fe80::1"),
            (IPv6Address("TCP", "::ffff:192.0.2.9", 1), b"192.0.2.9"),
            (UNIXAddress(None), None),
            (None, None),
        ):
            request = FakeRequest(b"POST", {})
            request.client = peer
            self.assertEqual(
                Post(cast(Request, request), 0.0).remote_addr, expected, peer
            )

    def test_started_at(self) -> None:
        """A post knows since when it is."""
        self.assertEqual(Asked().post().started_at, 7.0)
