"""
The channel in memory: generic Resources, the order of answers, bodies that nobody
wants, clients that go away, and what is no HTTP.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

from attrs import frozen
from httptools.parser.errors import HttpParserCallbackError
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IPullProducer, IPushProducer, ITCPTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http
from twisted.web.error import UnsupportedMethod
from twisted.web.iweb import IRequest
from twisted.web.pages import notFound
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer
from zope.interface.verify import verifyObject

from logiss import channel
from logiss.answers import OK, Answer, IReadsEarly
from logiss.channel import LINGER_SECONDS, Channel
from logiss.limits import IDLE_SECONDS, READ_AHEAD_BYTES, ChannelLimits, HeadLimits
from logiss.site import ChannelSite
from tests.fakes import outcome
from tests.front import Connection, Front, basic, request
from tests.http_rows import BODY, FORWARDED

MAX_BODY_BYTES = 1000
LIMITS = HeadLimits()
#: A read of the reactor's is at most so long.
READ_BYTES = 65536
#: Above so much a transport pauses who writes to it.
BUFFER_BYTES = 65536


@implementer(ITCPTransport)
class Wire(StringTransport):
    """
    A TCP connection whose kernel takes what the test lets it.

    @ivar room: how many bytes the kernel takes at once; None for all.
    @ivar sent: what the kernel has.
    @ivar is_ended: our side is ended, behind everything that was written.
    @ivar is_aborted: the connection was aborted.
    """

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.7", 50000))
        self.protocol: Channel | None = None
        self.room: int | None = None
        self.error: OSError | None = None
        self.sent = b""
        self.buffered = b""
        self.is_ended = False
        self.is_aborted = False
        self.is_ending = False
        self.is_writing = False
        self.is_producer_paused = False
        self.reads_paused = 0

    # the transport's side

    def write(self, data: bytes) -> None:
        assert not self.is_ended, "written behind the end"
        self.buffered += data
        self.is_writing = True
        if len(self.buffered) > BUFFER_BYTES and self.streaming and self.producer:
            self.is_producer_paused = True
            cast(Any, self.producer).pauseProducing()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:  # noqa: N802
        self.write(b"".join(iovec))

    def loseWriteConnection(self) -> None:  # noqa: N802
        self.is_ending = True
        self.end()

    def loseConnection(self) -> None:  # noqa: N802
        self.disconnecting = True
        self.end()

    def end(self) -> None:
        self.is_writing = True
        if not self.buffered:
            self.flush()

    def abortConnection(self) -> None:  # noqa: N802
        self.is_aborted = True
        self.lose(ConnectionAborted())

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self.reads_paused += 1

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        super().registerProducer(producer, streaming)
        if not streaming:
            producer.resumeProducing()

    def getTcpNoDelay(self) -> bool:  # noqa: N802
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802
        assert enabled

    def getTcpKeepAlive(self) -> bool:  # noqa: N802
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: N802
        """Nobody asks for it."""

    def getHandle(self) -> "Wire":  # noqa: N802
        return self

    # the socket's side

    def send(self, octets: bytes) -> int:
        assert not self.buffered, "sent in front of what was written before"
        assert not self.is_ended, "sent behind the end"
        if self.error is not None:
            raise self.error
        if self.room == 0:
            raise BlockingIOError
        taken = octets[: self.room]
        self.sent += taken
        return len(taken)

    def flush(self) -> None:
        """
        The kernel takes everything. As in `abstract.FileDescriptor`, a producer that
        waits for this is told so, and a connection that does ends otherwise.
        """
        self.sent, self.buffered = self.sent + self.buffered, b""
        if self.is_writing:
            self.is_writing = False
            producer: Any = self.producer
            if producer is not None and (not self.streaming or self.is_producer_paused):
                self.is_producer_paused = False
                producer.resumeProducing()
            elif self.disconnecting or self.is_ending:
                self.is_ended = True

    def flush_all(self) -> None:
        """As often as there is something."""
        while self.is_writing:
            self.flush()

    # the test's side

    @property
    def is_reading(self) -> bool:
        return bool(self.producerState == "producing")

    @property
    def is_closed(self) -> bool:
        return self.is_ended or not self.connected

    def lose(self, why: Exception | None = None) -> None:
        """The connection is gone."""
        if self.connected:
            self.connected = False
            assert self.protocol is not None
            self.protocol.connectionLost(Failure(why or ConnectionDone()))


@frozen
class Said:
    """One answer."""

    code: int
    fields: dict[str, str]
    body: bytes


def read_answers(octets: bytes, to_head: bool = False) -> list[Said]:
    """Read answers strictly; one of no known length takes the rest."""
    answers = []
    while octets:
        head, end, octets = octets.partition(b"\r\n\r\n")
        assert end, f"no whole answer: {head!r}"
        status, *lines = head.decode("ascii").split("\r\n")
        version, code, reason = status.split(" ", 2)
        assert version == "HTTP/1.1"
        assert reason
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in fields, line
            fields[name.lower()] = value
        body = b""
        if fields.get("transfer-encoding") == "chunked":
            assert "content-length" not in fields
            body, octets = dechunked(octets)
        elif not to_head and code not in ("100", "204", "304"):
            length = int(fields.get("content-length", len(octets)))
            assert len(octets) >= length, "cut off"
            body, octets = octets[:length], octets[length:]
        answers.append(Said(int(code), fields, body))
    return answers


def dechunked(octets: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, octets = octets.partition(b"\r\n")
        length = int(size, 16)
        assert octets[length : length + 2] == b"\r\n"
        body, octets = body + octets[:length], octets[length + 2 :]
        if not length:
            return body, octets


class Later(Resource):
    """Answers when the test does."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render(self, request: IRequest) -> int:
        self.requests.append(request)
        return NOT_DONE_YET

    def answer(self, body: bytes = b"") -> None:
        """Answer the oldest."""
        oldest = self.requests.pop(0)
        oldest.setHeader(b"Content-Length", b"%d" % len(body))
        oldest.write(body)
        oldest.finish()


class Echo(Resource):
    """Answers with method, path and body."""

    isLeaf = True

    def render(self, request: IRequest) -> bytes:
        content: Any = request.content
        return b"%b %b %b" % (request.method, request.path, content.read())


class Calls(Resource):
    """Renders by a function."""

    isLeaf = True

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self._function = function

    def render(self, request: IRequest) -> Any:
        return self._function(request)


@implementer(IReadsEarly)
class Door(Later):
    """
    Refuses what it is told to, by path, before the body.

    @ivar asked: the paths of the requests it was asked about.
    """

    def __init__(self, refusals: dict[bytes, Answer]) -> None:
        super().__init__()
        self._refusals = refusals
        self.asked: list[bytes] = []
        self.too_large: list[Any] = []
        self.given_up: list[Any] = []

    def refusal(self, request: Request) -> Answer | None:
        self.asked.append(request.path)
        return self._refusals.get(request.path)

    def take(self, request: Any, octets: bytes) -> Answer | None:
        if request.size > MAX_BODY_BYTES:
            self.too_large.append(request)
            return Answer(413, "Too much", closes=True)
        request.add_chunk(octets)
        return None

    def abandoned(self, request: Request) -> None:
        self.given_up.append(request)


def get(path: str = "/", *fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: h", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def post(path: str, body: bytes, *fields: str) -> bytes:
    return get(path, *fields, f"Content-Length: {len(body)}", method="POST") + body


def chunked(path: str, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = get(path, "Transfer-Encoding: chunked", method="POST")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + end


class ChannelTestCase(SynchronousTestCase):
    """A site, and connections to it; each test ends on an empty clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cut: list[tuple[int, str]] = []
        self.wires: list[Wire] = []
        self.sites: list[ChannelSite] = []

    def tearDown(self) -> None:
        for wire in self.wires:
            wire.lose()
        for site in self.sites:
            self.assertEqual(site.channels, set())
            site.doStop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def serve(self, root: Resource, max_body_bytes: int = MAX_BODY_BYTES) -> Wire:
        """The first connection to a site of `root`."""
        site = ChannelSite(
            root,
            self.clock,
            ChannelLimits(max_body_bytes),
            fixed={},
            on_cut=lambda count, address, why: self.cut.append((count, why)),
        )
        site.doStart()
        self.sites.append(site)
        return self.connect()

    def connect(self) -> Wire:
        protocol = self.sites[-1].buildProtocol(None)
        wire = Wire()
        wire.protocol = protocol
        protocol.makeConnection(wire)
        self.wires.append(wire)
        return wire

    def send(self, octets: bytes, wire: Wire | None = None) -> None:
        """The client sends, and the reactor reads, in its pieces."""
        wire = wire or self.wires[-1]
        assert wire.protocol is not None
        for start in range(0, len(octets), READ_BYTES):
            assert wire.is_reading, "read while paused"
            wire.protocol.dataReceived(octets[start : start + READ_BYTES])
            self.run_turns()

    def run_turns(self) -> None:
        """What waits for its turn in the reactor has it."""
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.calls):
            self.clock.advance(0)

    def send_bytes(self, octets: bytes) -> None:
        for i in range(len(octets)):
            self.send(octets[i : i + 1])

    def answers(self, to_head: bool = False) -> list[Said]:
        """What has been answered since the last call."""
        wire = self.wires[-1]
        self.run_turns()
        while wire.buffered:
            wire.flush_all()
            self.run_turns()
        octets, wire.sent = wire.sent, b""
        return read_answers(octets, to_head)

    def answer(self, to_head: bool = False) -> Said:
        (answer,) = self.answers(to_head)
        return answer

    def codes(self) -> list[int]:
        return [answer.code for answer in self.answers()]

    def bodies(self) -> list[bytes]:
        return [answer.body for answer in self.answers()]

    @property
    def channel(self) -> Channel:
        protocol = self.wires[-1].protocol
        assert protocol is not None
        return protocol


class WireTests(SynchronousTestCase):
    """The fakes of these tests provide what they stand for."""

    def test_interfaces(self) -> None:
        """A `Wire` is a TCP transport, a `Door` refuses early."""
        verifyObject(ITCPTransport, Wire())
        verifyObject(IReadsEarly, Door({}))
        verifyObject(IPullProducer, Pulled(cast(Any, None), []))
        verifyObject(IPushProducer, Pushed(cast(Any, None)))


@implementer(IPullProducer)
class Pulled:
    """Writes a piece whenever it is asked for one."""

    def __init__(self, request: Any, pieces: list[bytes]) -> None:
        self._request = request
        self._pieces = pieces
        self.is_stopped = False

    def resumeProducing(self) -> None:
        if self._pieces:
            self._request.write(self._pieces.pop(0))
        else:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        self.is_stopped = True


@implementer(IPushProducer)
class Pushed:
    """Writes when the test wants it to, and notes what it is told."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class ResourceTests(ChannelTestCase):
    """Resources that know nothing of this channel are served."""

    def test_bytes(self) -> None:
        """Bytes that are returned are the answer."""
        self.serve(Calls(lambda r: b"hello"))
        self.send(get())
        answer = self.answer()
        self.assertEqual((answer.code, answer.body), (200, b"hello"))
        self.assertEqual(answer.fields["content-length"], "5")
        self.assertFalse(self.wires[-1].is_closed)

    def test_pieces(self) -> None:
        """Pieces without a Content-Length are chunked, and the connection goes on."""
        later = Later()
        self.serve(later)
        self.send(get() * 2)
        (serving,) = later.requests
        serving.write(b"one")
        serving.write(b"two")
        self.assertTrue(self.wires[-1].sent.endswith(b"\r\n3\r\ntwo\r\n"))
        serving.finish()
        later.requests[1].finish()
        first, second = self.answers()
        self.assertEqual(first.body, b"onetwo")
        self.assertEqual(first.fields["transfer-encoding"], "chunked")
        self.assertEqual(second.code, 200)

    def test_pull_producer(self) -> None:
        """A pull producer writes when the transport has room."""
        later = Later()
        wire = self.serve(later)
        self.send(get())
        (serving,) = later.requests
        producer = Pulled(serving, [b"one", b"two"])
        serving.registerProducer(producer, False)
        self.assertIs(wire.producer, producer)
        self.assertTrue(wire.buffered.endswith(b"one\r\n"))
        wire.flush()
        self.assertTrue(wire.buffered.endswith(b"two\r\n"))
        self.assertEqual(self.answer().body, b"onetwo")
        self.assertIsNot(wire.producer, producer)
        self.send(get())
        later.requests[1].finish()
        self.assertEqual(self.codes(), [200])

    def test_push_producer(self) -> None:
        """A push producer is paused and resumed by the transport."""
        later = Later()
        wire = self.serve(later)
        self.send(get())
        (serving,) = later.requests
        producer = Pushed(serving)
        serving.registerProducer(producer, True)
        self.assertTrue(wire.streaming)
        serving.write(b"one")
        registered: Any = wire.producer
        registered.pauseProducing()
        registered.resumeProducing()
        serving.write(b"two")
        self.assertEqual(producer.told, ["pause", "resume"])
        self.assertEqual(wire.sent, b"", "past the transport that is to pause it")
        serving.unregisterProducer()
        serving.finish()
        self.assertIsNot(wire.producer, producer)
        self.assertEqual(self.answer().body, b"onetwo")

    def test_second_producer(self) -> None:
        """There is one producer at a time."""
        later = Later()
        self.serve(later)
        self.send(get())
        (serving,) = later.requests
        serving.registerProducer(Pushed(serving), True)
        self.assertRaises(ValueError, serving.registerProducer, Pushed(serving), True)
        serving.unregisterProducer()

    def test_producer_left_behind(self) -> None:
        """One that a Resource forgot does not keep the next request from its own."""
        later = Later()
        wire = self.serve(later)
        self.send(get())
        (serving,) = later.requests
        producer = Pushed(serving)
        serving.registerProducer(producer, True)
        serving.finish()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertIsNot(wire.producer, producer)

    def test_later(self) -> None:
        """An answer may come later."""
        later = Later()
        self.serve(later)
        self.send(get())
        self.assertEqual(self.answers(), [])
        later.answer(b"at last")
        self.assertEqual(self.bodies(), [b"at last"])

    def test_head_faked(self) -> None:
        """HEAD of a Resource that has only GET is GET without its body."""

        def render(request: Request) -> bytes:
            if request.method != b"GET":
                raise UnsupportedMethod([b"GET"])
            return b"hello"

        class Page(Resource):
            isLeaf = True

            def render_GET(self, request: Request) -> bytes:  # noqa: N802
                return b"hello"

        for page in (Calls(render), Page()):
            self.serve(page)
            self.send(get(method="HEAD"))
            answer = self.answer(to_head=True)
            self.assertEqual(answer.code, 200)
            self.assertEqual(answer.fields["content-length"], "5")
            self.send(get())
            self.assertEqual(self.answer().body, b"hello")

    def test_head(self) -> None:
        """Of what a Resource writes to HEAD only the headers are sent."""
        later = Later()
        self.serve(later)
        self.send(get(method="HEAD"))
        later.answer(b"hello")
        answer = self.answer(to_head=True)
        self.assertEqual(answer.fields["content-length"], "5")

    def test_raises(self) -> None:
        """An error is 500, one event in the log, and the connection goes on."""

        def render(request: Request) -> bytes:
            if request.path == b"/bad":
                raise ZeroDivisionError("oh")
            return b"fine"

        self.serve(Calls(render))
        self.send(get("/bad") + get("/good"))
        bad, good = self.answers()
        self.assertEqual((bad.code, good.code), (500, 200))
        self.assertNotIn(b"ZeroDivision", bad.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_fails_later(self) -> None:
        """So is one that is told to the request."""
        later = Later()
        self.serve(later)
        self.send(get())
        later.requests[0].processingFailed(Failure(ZeroDivisionError("oh")))
        self.assertEqual(self.codes(), [500])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_no_bytes(self) -> None:
        """What is neither bytes nor later is 500."""
        self.serve(Calls(lambda r: "text"))
        self.send(get())
        self.assertEqual(self.codes(), [500])

    def test_tree(self) -> None:
        """Resources are found in a tree, by putChild and by getChild."""

        class Numbers(Resource):
            def getChild(self, path: bytes, request: Request) -> IResource:
                if path.isdigit():
                    return Calls(lambda r: b"%b of %r" % (path, r.postpath))
                return notFound()

        root = Resource()
        root.putChild(b"", Calls(lambda r: b"root"))
        root.putChild(b"n", Numbers())
        self.serve(root)
        self.send(get("/") + get("/n/7/a%20b/c?x") + get("/n/x") + get("/nope"))
        answers = self.answers()
        self.assertEqual([a.code for a in answers], [200, 200, 404, 404])
        self.assertEqual(answers[0].body, b"root")
        self.assertEqual(answers[1].body, b"7 of [b'a b', b'c']")

    def test_fixed(self) -> None:
        """A Resource that needs not be looked for is served by its path alone."""
        fixed = Calls(lambda r: b"fixed %r %r" % (r.prepath, r.postpath))
        site = ChannelSite(
            Resource(), self.clock, ChannelLimits(1000), fixed={b"/f": fixed}
        )
        connection = Connection(site)
        connection.send(get("/f?x=1") + get("/f/x"))
        first, second = connection.answers()
        self.assertEqual(first.body, b"fixed [b'f'] []")
        self.assertEqual(second.code, 404)
        connection.hang_up()
        site.doStop()

    def test_unsupported_method(self) -> None:
        """A method that a Resource has not is 405, and says which it has."""

        class Page(Resource):
            isLeaf = True

            def render_GET(self, request: Request) -> bytes:  # noqa: N802
                raise AssertionError

        self.serve(Page())
        self.send(post("/", b"x") + get(method="PROPFIND"))
        allowed, unknown = self.answers()
        self.assertEqual(allowed.code, 405)
        self.assertEqual(sorted(allowed.fields["allow"].split(", ")), ["GET", "HEAD"])
        self.assertEqual(unknown.code, 501)

    def test_lost_by_the_resource(self) -> None:
        """A Resource may close the connection under its request."""
        later = Later()
        wire = self.serve(later)
        self.send(get())
        later.requests[0].loseConnection()
        self.assertTrue(wire.is_closed)

    def test_lost_in_mid_answer(self) -> None:
        """Behind what it has written, though the client reads that late."""
        later = Later()
        wire = self.serve(later)
        wire.room = 10
        self.send(get())
        later.requests[0].write(b"x" * 200_000)
        later.requests[0].write(b"y")
        later.requests[0].loseConnection()
        self.assertFalse(wire.is_ended)
        wire.flush_all()
        self.assertTrue(wire.sent.endswith(b"y\r\n"))
        self.assertTrue(wire.is_ended)


class KeepAliveTests(ChannelTestCase):
    """A connection goes on for HTTP/1.1 unless somebody wants its end."""

    def test_goes_on(self) -> None:
        """Request after request."""
        self.serve(Echo())
        for i in range(3):
            self.send(post(f"/{i}", b"x"))
            self.assertEqual(self.bodies(), [b"POST /%d x" % i])
        self.assertFalse(self.wires[-1].is_closed)

    def test_asked_to_close(self) -> None:
        """``Connection: close``, in any case and list, is the last request."""
        for value in ("close", "Close", "keep-alive, close", "close, x"):
            wire = self.serve(Echo())
            self.send(get("/1", f"Connection: {value}") + get("/2"))
            answer = self.answer()
            self.assertEqual(answer.fields["connection"], "close", value)
            self.assertEqual(answer.body, b"GET /1 ", value)
            self.assertTrue(wire.is_ended, value)

    def test_other_tokens(self) -> None:
        """Other tokens, and other headers, do not end it."""
        for field in ("Connection: keep-alive", "Connection: x", "X: close"):
            wire = self.serve(Echo())
            self.send(get("/1", field) + get("/2"))
            self.assertEqual(self.bodies(), [b"GET /1 ", b"GET /2 "], field)
            self.assertFalse(wire.is_ended, field)

    def test_old(self) -> None:
        """HTTP/1.0 needs no Host and has one request, whatever it says."""
        for field in (b"", b"Connection: keep-alive\r\n"):
            wire = self.serve(Echo())
            self.send(b"GET /1 HTTP/1.0\r\n" + field + b"\r\n" + get("/2"))
            answer = self.answer()
            self.assertEqual(answer.body, b"GET /1 ")
            self.assertEqual(answer.fields["connection"], "close")
            self.assertTrue(wire.is_ended)

    def test_old_pieces(self) -> None:
        """The end of the connection is the end of its body."""
        later = Later()
        wire = self.serve(later)
        self.send(b"GET / HTTP/1.0\r\n\r\n")
        later.requests[0].write(b"one")
        later.requests[0].write(b"two")
        self.assertFalse(wire.is_ended)
        later.requests[0].finish()
        self.assertEqual(self.answer().body, b"onetwo")
        self.assertTrue(wire.is_ended)

    def test_upgrade(self) -> None:
        """A request to upgrade is served as it is, body and all."""
        for upgrade in (
            ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
            ("Connection: upgrade", "Upgrade: websocket"),
        ):
            self.serve(Echo())
            self.send(post("/", b"a body", *upgrade))
            self.assertEqual(self.bodies(), [b"POST / a body"])
            self.serve(Echo())
            self.send_bytes(post("/", b"a body", *upgrade))
            self.assertEqual(self.bodies(), [b"POST / a body"])

    def test_connect_refused(self) -> None:
        """One to connect that is refused is answered, and closed once."""
        for octets in (b"CONNECT h:1 HTTP/1.1\r\n\r\n", b"CONNECT \n\r\n"):
            wire = self.serve(Echo())
            self.send(octets)
            self.assertEqual(self.codes(), [400])
            self.assertTrue(wire.is_ended)
            wire.lose()
            self.assertEqual(len(self.clock.getDelayedCalls()), len(self.sites))

    def test_upgrade_of_nothing(self) -> None:
        """So is one without a body, and one to connect."""
        upgrade = get("/", "Connection: Upgrade", "Upgrade: x")
        for octets in (upgrade, get("h:1", method="CONNECT")):
            for answered_later in (False, True):
                later = Later()
                self.serve(later if answered_later else Echo())
                self.send(octets)
                if answered_later:
                    later.answer()
                self.assertEqual(self.codes(), [200])
                if octets.startswith(b"CONNECT"):
                    self.assertTrue(self.wires[-1].is_ended)


class PipelineTests(ChannelTestCase):
    """Requests that come before the answer to the one in front."""

    def test_order(self) -> None:
        """The second is not served before the first is answered."""
        later = Later()
        self.serve(later)
        self.send(post("/1", b"one") + post("/2", b"two"))
        self.send(post("/3", b"three"))
        for i in (1, 2, 3):
            self.assertEqual([r.path for r in later.requests], [b"/%d" % i])
            self.assertEqual(self.answers(), [])
            later.answer(b"%d" % i)
            self.assertEqual(self.bodies(), [b"%d" % i])

    def test_a_read_of_many(self) -> None:
        """So many in one read that each a step deeper would be too deep."""
        self.serve(Echo())
        self.send(b"".join(get(f"/{i}") for i in range(2000)))
        self.assertEqual(self.bodies(), [b"GET /%d " % i for i in range(2000)])

    def test_turns(self) -> None:
        """Nobody waits until all of them are served: they are in several turns."""
        wire = self.serve(Echo())
        assert wire.protocol is not None
        wire.protocol.dataReceived(get("/many") * 100)
        served = wire.sent.count(b"GET /many")
        self.assertLess(served, 20)
        other = self.connect()
        self.send(get("/other"), other)
        self.assertEqual(self.bodies(), [b"GET /other "])
        wire.protocol.dataReceived(get("/last"))
        self.run_turns()
        self.assertEqual(wire.sent.count(b"GET /many"), 100)
        self.assertTrue(wire.sent.endswith(b"GET /last "))

    def test_gone_between_turns(self) -> None:
        """A client that goes away between two turns is served no more."""
        wire = self.serve(Echo())
        assert wire.protocol is not None
        wire.protocol.dataReceived(get("/many") * 100)
        served = wire.sent
        wire.lose()
        self.run_turns()
        self.assertEqual(wire.sent, served)

    def test_many_behind_one(self) -> None:
        """So many behind one that is answered late."""
        later = Later()
        root = Resource()
        root.putChild(b"later", later)
        root.putChild(b"echo", Echo())
        self.serve(root)
        self.send(get("/later") + get("/echo") * 500)
        self.send(get("/echo") * 500)
        self.assertEqual(self.answers(), [])
        later.answer(b"first")
        self.assertEqual(self.bodies(), [b"first", *[b"GET /echo "] * 1000])

    def test_many_later(self) -> None:
        """So many that are each answered late."""
        later = Later()
        self.serve(later)
        self.send(b"".join(get(f"/{i}") for i in range(1000)))
        for i in range(1000):
            later.answer(b"%d" % i)
        self.assertEqual(self.bodies(), [b"%d" % i for i in range(1000)])

    def test_many_refused(self) -> None:
        """So many that are each refused on their headers."""
        door = Door({b"/no": Answer(401, "No")})
        self.serve(door)
        self.send(get("/later") + post("/no", b"x" * 50) * 500)
        self.assertEqual(self.answers(), [])
        door.answer()
        self.assertEqual(self.codes(), [200] + [401] * 500)
        self.send(post("/no", b"x" * 50) * 500)
        self.assertEqual(self.codes(), [401] * 500)

    def test_cut(self) -> None:
        """However the reads cut them."""
        octets = post("/1", b"one") + chunked("/2", b"tw", b"o") + get("/3")
        for step in (1, 2, 3, 7, 50, len(octets) - 1):
            self.serve(Echo())
            for start in range(0, len(octets), step):
                self.send(octets[start : start + step])
            self.assertEqual(
                self.bodies(), [b"POST /1 one", b"POST /2 two", b"GET /3 "], step
            )

    def test_cut_where_a_head_ends(self) -> None:
        """In three reads, the last of which has all that follows."""
        head, end, rest = post("/1", b"ab").partition(b"\r\n\r\n")
        whole = head + end + rest + get("/2")
        ends = range(len(head), len(head + end) + 1)
        for first in ends:
            for second in (n for n in ends if n >= first):
                self.serve(Echo())
                for piece in (whole[:first], whole[first:second], whole[second:]):
                    if piece:
                        self.send(piece)
                self.assertEqual(
                    self.bodies(), [b"POST /1 ab", b"GET /2 "], (first, second)
                )

    def test_cut_while_served(self) -> None:
        """However they are cut while one is served."""
        octets = post("/2", b"two") + chunked("/3", b"th", b"ree")
        for step in (1, 2, 3, 7, 50, len(octets) - 1):
            later = Later()
            self.serve(later)
            self.send(post("/1", b"one"))
            for start in range(0, len(octets), step):
                self.send(octets[start : start + step])
            for body in (b"one", b"two", b"three"):
                self.assertEqual(later.requests[0].body(), body, step)
                later.answer(body)
            self.assertEqual(self.bodies(), [b"one", b"two", b"three"], step)

    def test_read_ahead(self) -> None:
        """Reading pauses above the limit, and goes on when there is an answer."""
        later = Later()
        wire = self.serve(later)
        self.send(get("/first"))
        self.send(b"G" * READ_AHEAD_BYTES)
        self.assertTrue(wire.is_reading)
        self.assertEqual(wire.reads_paused, 0)
        self.send(b"G")
        self.assertFalse(wire.is_reading)
        self.assertEqual(wire.reads_paused, 1)
        later.answer()
        self.assertTrue(wire.is_reading)

    def test_read_ahead_served(self) -> None:
        """What was read ahead is served, in its order, and so is what comes then."""
        later = Later()
        wire = self.serve(later, 200_000)
        bodies = [b"%05d" % i * 1000 for i in range(20)]
        self.send(get())
        sent = 0
        octets = b"".join(post("/", body) for body in bodies)
        later.requests[0].body()
        served: list[bytes] = []
        while len(served) < len(bodies):
            while wire.is_reading and sent < len(octets):
                self.send(octets[sent : sent + 10_000])
                sent += 10_000
            later.answer()
            while not later.requests:
                self.send(octets[sent : sent + 10_000])
                sent += 10_000
            served.append(later.requests[0].body())
        later.answer()
        self.assertEqual(served, bodies)
        self.assertGreater(wire.reads_paused, 0)
        self.assertEqual(self.codes(), [200] * 21)

    def test_read_ahead_of_a_body(self) -> None:
        """So it does in the middle of the next request's body."""
        later = Later()
        wire = self.serve(later, 10_000_000)
        self.send(get() + post("/", b"x" * 5_000_000)[:1000])
        kept = self.read_until_paused(wire, b"x" * 1000)
        self.assertFalse(wire.is_reading)
        self.assertLessEqual(kept, READ_AHEAD_BYTES + READ_BYTES)

    def test_read_ahead_of_many(self) -> None:
        """So it does when every read ends in the middle of a request."""
        later = Later()
        wire = self.serve(later)
        one = post("/", b"x" * 900)
        self.send(get() + one[:-10])
        kept = self.read_until_paused(wire, one[-10:] + one[:-10])
        self.assertFalse(wire.is_reading)
        self.assertLessEqual(kept, READ_AHEAD_BYTES + READ_BYTES)

    def read_until_paused(self, wire: Wire, octets: bytes) -> int:
        read = 0
        while wire.is_reading and read < 5 * READ_AHEAD_BYTES:
            self.send(octets)
            read += len(octets)
        return read

    def test_big_body_goes_on(self) -> None:
        """A body that was paused ahead of its turn is read to its end then."""
        later = Later()
        wire = self.serve(later, 10_000_000)
        body = b"0123456789" * 50_000
        octets = get("/1") + post("/2", body)
        sent = self.send_until_paused(wire, octets, 0)
        later.answer()
        self.send_until_paused(wire, octets, sent)
        self.assertEqual(later.requests[0].body(), body)
        later.answer()
        self.assertEqual(self.codes(), [200, 200])

    def send_until_paused(self, wire: Wire, octets: bytes, sent: int) -> int:
        while wire.is_reading and sent < len(octets):
            self.send(octets[sent : sent + 1000])
            sent += 1000
        return sent

    def test_not_paused_by_itself(self) -> None:
        """A large body that is read for its own sake pauses nothing."""
        wire = self.serve(Calls(lambda r: b"%d" % len(r.body())), 1_000_000)
        self.send(post("/", b"x" * 500_000))
        self.assertEqual(self.bodies(), [b"500000"])
        self.assertEqual(wire.reads_paused, 0)


class BodyTests(ChannelTestCase):
    """Bodies, wanted and not."""

    def test_chunked(self) -> None:
        """Chunks are joined; their extensions and the trailers mean nothing."""
        head = get("/", "Transfer-Encoding: chunked", method="POST")
        for body in (
            b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
            b'3;a=b\r\none\r\n3;c="d;e";f\r\ntwo\r\n0;last\r\n\r\n',
            b"03\r\none\r\n0003\r\ntwo\r\n00\r\n\r\n",
            b"6\r\nonetwo\r\n0\r\nX-Sum: 1\r\nHost: other\r\n\r\n",
        ):
            self.serve(Echo())
            self.send(head + body + get("/next"))
            self.send_bytes(head + body)
            self.assertEqual(
                self.bodies(), [b"POST / onetwo", b"GET /next ", b"POST / onetwo"], body
            )

    def test_many_chunks(self) -> None:
        """A body of very many small chunks is kept in few pieces."""
        later = Later()
        self.serve(later, 100_000)
        pieces = [b"%d," % i for i in range(5000)]
        octets = chunked("/", *pieces)
        for start in range(0, len(octets) - 5, 9):
            self.send(octets[start : min(start + 9, len(octets) - 5)])
        incoming = self.channel._incoming
        assert incoming is not None
        self.assertLess(len(incoming.chunks), 10)
        self.send(octets[-5:])
        self.assertEqual(later.requests[0].body(), b"".join(pieces))

    def test_hexadecimal(self) -> None:
        """Chunk sizes are in either case."""
        head = get("/", "Transfer-Encoding: chunked", method="POST")
        for size in (b"1f", b"1F"):
            self.serve(Echo())
            self.send(head + size + b"\r\n" + b"x" * 31 + b"\r\n0\r\n\r\n")
            self.assertEqual(self.bodies(), [b"POST / " + b"x" * 31])

    def test_trailers_are_no_headers(self) -> None:
        """A trailer changes no header of its request, nor of the next."""
        seen: list[Any] = []

        def render(request: Any) -> bytes:
            seen.append(dict(request.fields))
            return b""

        self.serve(Calls(render))
        self.send(chunked("/", end=b"0\r\nX-Late: 1\r\nHost: x\r\n\r\n") + get("/2"))
        self.assertEqual(
            seen,
            [
                {b"host": [b"h"], b"transfer-encoding": [b"chunked"]},
                {b"host": [b"h"]},
            ],
        )

    def test_largest(self) -> None:
        """A body of exactly the limit passes."""
        self.serve(Calls(lambda r: b"%d" % len(r.body())))
        body = b"x" * MAX_BODY_BYTES
        self.send(post("/", body) + chunked("/", body[:1], body[1:]))
        self.assertEqual(self.bodies(), [b"1000", b"1000"])

    def test_too_large(self) -> None:
        """One byte more is refused, whoever it is for, and nothing of it is kept."""
        body = b"x" * (MAX_BODY_BYTES + 1)
        for octets in (post("/", body), chunked("/", body[:500], body[500:])):
            later = Later()
            wire = self.serve(later)
            self.send(octets + get("/next"))
            answer = self.answer()
            self.assertEqual(answer.code, 413)
            self.assertEqual(answer.fields["connection"], "close")
            self.assertEqual(later.requests, [])
            self.assertTrue(wire.is_ended)
            self.assertIsNone(self.channel._incoming)

    def test_as_soon_as_counted(self) -> None:
        """A chunked body is refused with the byte that is too much."""
        door = Door({})
        wire = self.serve(door)
        self.send(chunked("/", b"x" * MAX_BODY_BYTES, b"", end=b"")[:-5] + b"1\r\n")
        self.assertEqual(self.answers(), [])
        self.send(b"x")
        self.assertEqual(self.codes(), [413])
        self.assertTrue(wire.is_ended)
        (refused,) = door.too_large
        self.assertEqual(refused.chunks, [])
        self.assertEqual(door.requests, [])

    def test_too_large_behind(self) -> None:
        """One that is too large waits for its turn to be told so."""
        door = Door({})
        wire = self.serve(door)
        self.send(get("/1") + chunked("/2", b"x" * 600, b"y" * 600))
        self.assertEqual(self.answers(), [])
        door.answer(b"1")
        self.assertEqual(self.codes(), [200, 413])
        self.assertTrue(wire.is_ended)

    def test_refused_on_headers(self) -> None:
        """What can be refused on its headers is, before its body."""
        door = Door({b"/no": Answer(401, "No")})
        wire = self.serve(door)
        self.send(get("/no", "Content-Length: 10000000", method="POST"))
        self.assertEqual(self.codes(), [401])
        self.assertFalse(wire.is_ended)
        self.assertEqual(door.requests, [])

    def test_refused_body(self) -> None:
        """The body of a refused request is read past, and the next one served."""
        for octets in (
            post("/no", b"x" * 10_000_000),
            chunked("/no", *[b"x" * 100_000] * 100),
        ):
            door = Door({b"/no": Answer(401, "No")})
            self.serve(door)
            self.send(octets[:5_000_000])
            self.assertEqual(self.codes(), [401])
            incoming = self.channel._incoming
            assert incoming is not None
            self.assertEqual(incoming.chunks, [])
            self.assertEqual(self.channel._unread, [])
            self.send(octets[5_000_000:])
            self.assertEqual(self.answers(), [])
            self.send(get("/yes"))
            self.assertEqual([r.path for r in door.requests], [b"/yes"])
            door.answer()
            self.assertEqual(self.codes(), [200])

    def test_refused_whole(self) -> None:
        """So is one that comes in a read with the next."""
        door = Door({b"/no": Answer(401, "No")})
        self.serve(door)
        self.send(post("/no", b"x" * 100) + post("/yes", b"y"))
        self.assertEqual(self.codes(), [401])
        self.assertEqual([r.body() for r in door.requests], [b"y"])
        door.answer()
        self.assertEqual(self.codes(), [200])
        self.assertEqual(door.asked, [b"/no", b"/yes"])

    def test_known_by_its_length(self) -> None:
        """A Content-Length over the limit is enough to be 413."""
        front = Front(self.clock, max_body_bytes=300)
        connection = Connection(front.site("channel"))
        octets = request(b"x" * 301)
        connection.send(octets[:-301])
        (answer,) = connection.answers()
        self.assertEqual(answer.code, 413)
        self.assertFalse(connection.transport.connected)
        connection.channel.site.doStop()


class ExpectTests(ChannelTestCase):
    """``100 Continue`` goes to who asked for it and is not refused."""

    expecting = get("/yes", "Expect: 100-continue", "Content-Length: 3", method="POST")

    def setUp(self) -> None:
        super().setUp()
        self.door = Door({b"/no": Answer(401, "No")})
        self.wire = self.serve(self.door)

    def test_asked(self) -> None:
        """Behind the checks of the headers, before the body."""
        self.send(self.expecting[:-1])
        self.assertEqual(self.wire.sent, b"")
        self.send(self.expecting[-1:])
        self.assertEqual(self.door.asked, [b"/yes"])
        self.assertEqual(self.wire.sent, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.send(b"abc")
        self.assertEqual(self.door.requests[0].body(), b"abc")
        self.door.answer()
        self.assertEqual(self.codes(), [100, 200])

    def test_any_case(self) -> None:
        """The expectation is read in any case."""
        self.send(self.expecting.replace(b"100-c", b"100-C"))
        self.assertEqual(self.codes(), [100])

    def test_not_asked(self) -> None:
        """Not to others, other expectations, or HTTP/1.0."""
        for octets in (
            self.expecting.replace(b"Expect", b"X-Expect"),
            self.expecting.replace(b"100-continue", b"200-ok"),
            self.expecting.replace(b"HTTP/1.1", b"HTTP/1.0"),
        ):
            self.serve(Door({}))
            self.send(octets)
            self.assertEqual(self.answers(), [], octets)

    def test_refused(self) -> None:
        """A refusal comes instead, and the connection ends."""
        self.send(self.expecting.replace(b"/yes", b"/no"))
        answer = self.answer()
        self.assertEqual(answer.code, 401)
        self.assertEqual(answer.fields["connection"], "close")
        self.assertTrue(self.wire.is_ended)

    def test_no_host(self) -> None:
        """So it does when the request is malformed."""
        self.send(self.expecting.replace(b"Host", b"X-Host"))
        self.assertEqual(self.codes(), [400])

    def test_behind_another(self) -> None:
        """One behind a request that is served is told so in its turn."""
        self.send(get("/1") + self.expecting)
        self.assertEqual(self.answers(), [])
        self.door.answer()
        self.assertEqual(self.codes(), [200, 100])
        self.send(b"abc")
        self.door.answer()
        self.assertEqual(self.codes(), [200])

    def test_behind_another_in_a_read_of_its_own(self) -> None:
        """So is one that came when the other was being served."""
        self.send(get("/1"))
        self.send(self.expecting)
        self.assertEqual(self.answers(), [])
        self.door.answer()
        self.assertEqual(self.codes(), [200, 100])

    def test_refused_behind_another(self) -> None:
        """One that is refused behind another is told so, with no body to wait for."""
        self.send(get("/1") + self.expecting.replace(b"/yes", b"/no"))
        self.assertEqual(self.answers(), [])
        self.door.answer()
        self.assertEqual(self.codes(), [200, 401])
        self.assertTrue(self.wire.is_ended)

    def test_not_waited_for(self) -> None:
        """A body that comes without waiting is taken."""
        self.send(self.expecting + b"abc")
        self.assertEqual(self.door.requests[0].body(), b"abc")


class GoneTests(ChannelTestCase):
    """Clients that go away."""

    def test_at_once(self) -> None:
        """Before a byte, and in the middle of the headers."""
        for octets in (b"", b"GET", get()[:-2]):
            later = Later()
            wire = self.serve(later)
            self.send(octets)
            wire.lose()
            self.assertEqual(later.requests, [])

    def test_in_mid_body(self) -> None:
        """In the middle of a body: nothing of it is served."""
        for octets in (post("/", b"x" * 100)[:-1], chunked("/", b"x" * 100)[:-1]):
            door = Door({})
            wire = self.serve(door)
            self.send(octets)
            incoming = self.channel._incoming
            assert incoming is not None
            wire.lose()
            self.assertEqual(door.requests, [])
            self.assertEqual(incoming.chunks, [])
            self.assertIsNone(incoming.channel)

    def test_while_served(self) -> None:
        """While it is served: the Resource is told, and what it says goes nowhere."""
        later = Later()
        wire = self.serve(later)
        self.send(get())
        (serving,) = later.requests
        told = outcome(serving.notifyFinish())
        wire.lose()
        self.assertIsInstance(told()[0].value, ConnectionDone)
        serving.write(b"x")
        self.assertEqual((wire.sent, wire.buffered), (b"", b""))

    def test_with_others_behind(self) -> None:
        """Those that wait behind it are never served."""
        later = Later()
        wire = self.serve(later)
        self.send(get("/1") + get("/2") + post("/3", b"xx")[:-1])
        self.send(get("/4"))
        (serving,) = later.requests
        told = outcome(serving.notifyFinish())
        wire.lose()
        self.assertEqual(len(told()), 1)
        self.assertEqual(later.requests, [serving])

    def test_while_paused(self) -> None:
        """While reading is paused."""
        later = Later()
        wire = self.serve(later)
        self.send(get())
        self.send(get() * 3000)
        self.assertFalse(wire.is_reading)
        wire.lose()
        self.assertEqual(len(later.requests), 1)

    def test_after_a_refusal(self) -> None:
        """In the middle of the body of a refused request."""
        door = Door({b"/no": Answer(401, "No")})
        wire = self.serve(door)
        self.send(post("/no", b"x" * 100)[:-1])
        self.assertEqual(self.codes(), [401])
        wire.lose()
        self.assertEqual(door.requests, [])

    def test_seen_when_writing(self) -> None:
        """One that is found gone when answered is left to the reactor to find."""
        later = Later()
        wire = self.serve(later)
        self.send(get())
        self.send(get() * 3000)
        self.assertFalse(wire.is_reading)
        wire.error = ConnectionResetError()
        later.answer(b"x")
        self.assertEqual((wire.sent, wire.buffered), (b"", b""))
        self.assertEqual(later.requests, [])
        self.assertTrue(wire.is_reading)


class DirectTests(ChannelTestCase):
    """Answers go straight to the kernel as long as it takes them."""

    def setUp(self) -> None:
        super().setUp()
        self.later = Later()
        self.wire = self.serve(self.later)

    def say(self, *pieces: bytes) -> None:
        """Answer the oldest."""
        serving = self.later.requests.pop(0)
        serving.setHeader(b"Content-Length", b"%d" % sum(map(len, pieces)))
        for piece in pieces:
            serving.write(piece)
            # Whatever it did not take before, it would take now.
            self.wire.room = None
        serving.finish()

    def test_all_taken(self) -> None:
        """What it takes at once the transport does not see."""
        self.send(get())
        self.say(b"one", b"two")
        self.assertEqual(self.wire.buffered, b"")
        self.assertEqual(self.answer().body, b"onetwo")

    def test_partly_taken(self) -> None:
        """What it leaves goes to the transport, and all that follows behind it."""
        self.wire.room = 10
        self.send(get())
        self.say(b"one", b"two")
        self.assertEqual(self.wire.sent, b"HTTP/1.1 2")
        self.assertEqual(self.bodies(), [b"onetwo"])

    def test_not_taken(self) -> None:
        """A kernel that takes nothing leaves all of it to the transport."""
        self.wire.room = 0
        self.send(get())
        self.say(b"one")
        self.assertEqual(self.wire.sent, b"")
        self.assertEqual(self.bodies(), [b"one"])

    def test_goes_on(self) -> None:
        """The requests behind one that was not taken at once are answered."""
        for read in (get() * 3, get()):
            self.wire.room = 10
            self.send(read)
            self.say(b"one")
            self.send(get())
            self.assertEqual(self.bodies(), [b"one"])
            while self.later.requests:
                self.say(b"more")
                self.wire.flush_all()
            self.assertEqual(self.bodies(), [b"more"] * (read.count(b"GET")))

    def test_closes(self) -> None:
        """One that was not taken at once, and is the last, is written in full."""
        self.send(get("/", "Connection: close"))
        self.wire.room = 10
        self.say(b"one")
        self.clock.advance(LINGER_SECONDS + 1)
        self.assertFalse(self.wire.is_aborted)
        self.assertEqual(self.bodies(), [b"one"])
        self.assertTrue(self.wire.is_ended)

    def test_not_read(self) -> None:
        """A client that does not read its answers is not read from for ever."""
        asked = 0
        for _ in range(1000):
            if self.wire.is_reading:
                self.send(get() * 10)
                asked += 10
            while self.later.requests:
                self.wire.room = 0
                self.say(b"x" * 1000)
        self.assertFalse(self.wire.is_reading)
        self.assertLess(asked, 100)
        self.assertLess(len(self.wire.buffered), BUFFER_BYTES)
        self.wire.room = None
        answered = 0
        while answered < asked:
            answered += len(self.answers())
            while self.later.requests:
                self.say(b"x")
        self.assertEqual(answered, asked)
        self.assertTrue(self.wire.is_reading)

    def test_many_not_read(self) -> None:
        """Of many requests in a read no more are answered than the client reads."""
        wire = self.serve(Calls(lambda r: b"x" * 10_000))
        wire.room = 0
        self.send(get() * 500)
        self.assertLess(len(wire.buffered), 2 * BUFFER_BYTES)
        self.assertEqual(self.bodies(), [b"x" * 10_000] * 500)


class IdleTests(ChannelTestCase):
    """A connection on which nothing comes is closed, one that is served is not."""

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)

    def test_new(self) -> None:
        """One on which nothing ever came."""
        wire = self.serve(Later())
        self.pass_time(IDLE_SECONDS - 1)
        self.assertFalse(wire.is_closed)
        self.pass_time(2)
        self.assertTrue(wire.is_closed)

    def test_kept_alive(self) -> None:
        """One that was used; what comes begins the time anew."""
        wire = self.serve(Echo())
        self.pass_time(300)
        self.send(get())
        self.pass_time(300)
        self.send(get())
        self.pass_time(IDLE_SECONDS - 1)
        self.assertFalse(wire.is_closed)
        self.pass_time(2)
        self.assertTrue(wire.is_closed)

    def test_while_served(self) -> None:
        """Not one that waits for its answer; it has its time behind the answer."""
        later = Later()
        wire = self.serve(later)
        self.send(get())
        self.pass_time(2 * IDLE_SECONDS)
        self.assertFalse(wire.is_closed)
        later.answer()
        self.pass_time(5)
        self.assertFalse(wire.is_closed)
        self.pass_time(IDLE_SECONDS)
        self.assertTrue(wire.is_closed)

    def test_others(self) -> None:
        """Each has its own time."""
        first = self.serve(Echo())
        self.pass_time(100)
        second = self.connect()
        self.pass_time(IDLE_SECONDS - 50)
        self.assertEqual((first.is_closed, second.is_closed), (True, False))


class DeadlineTests(ChannelTestCase):
    """Clients that take too long are cut off, without an answer; others are not."""

    def setUp(self) -> None:
        super().setUp()
        self.wire = self.serve(Echo(), 1_000_000)
        self.healthy = self.connect()

    def send_slowly(self, octets: bytes, rate: int, seconds: int) -> None:
        """`rate` octets each second, if need be of those that follow `octets`."""
        octets += b"x" * rate * seconds
        for i in range(seconds):
            if not self.wire.is_closed:
                self.send(octets[i * rate : (i + 1) * rate], self.wire)
            self.clock.advance(1)

    def check(self, cut: list[tuple[int, str]]) -> None:
        """What was cut off; who is beside it notices nothing."""
        self.assertEqual(self.cut, cut)
        self.assertEqual((self.wire.is_aborted, self.wire.sent), (bool(cut), b""))
        self.send(post("/", b"beside"), self.healthy)
        self.assertTrue(self.healthy.sent.endswith(b"POST / beside"))

    def test_headers(self) -> None:
        """They have 10 s from their first byte on, however they trickle in."""
        self.clock.advance(100)
        self.send_slowly(get("/" + "x" * 100), 1, 10)
        self.assertFalse(self.wire.is_closed)
        self.clock.advance(1)
        self.check([(1, "headers took more than 10 s")])

    def test_headers_behind_another(self) -> None:
        """So have those of the next request."""
        self.send(post("/", b"first") + get()[:5], self.wire)
        self.wire.sent = b""
        self.clock.pump([1] * 11)
        self.check([(1, "headers took more than 10 s")])

    def test_slow_body(self) -> None:
        """After 2 s it has to come with 1 KiB a second."""
        self.send(post("/", b"x" * 100_000)[:-100_000], self.wire)
        self.send_slowly(b"", 1023, 2)
        self.assertFalse(self.wire.is_closed)
        self.send_slowly(b"", 1023, 1)
        self.check([(1, "the body came with less than 1024 bytes a second")])

    def test_body_at_that_rate(self) -> None:
        """It may take its time, up to 30 s."""
        self.send(post("/", b"x" * 100_000)[:-100_000], self.wire)
        self.send_slowly(b"", 1024, 30)
        self.assertFalse(self.wire.is_closed)
        self.send_slowly(b"", 1024, 1)
        self.check([(1, "the body took more than 30 s")])

    def test_body_that_ends_in_time(self) -> None:
        """It is served, and the next begins anew."""
        for _ in range(3):
            self.send(post("/", b"x" * 2048)[:-2048], self.wire)
            self.send_slowly(b"", 1024, 2)
            self.clock.pump([1] * 20)
        self.assertIn(b"x" * 2048, self.wire.sent)
        self.wire.sent = b""
        self.check([])

    def test_body_behind_slow_headers(self) -> None:
        """Each has its own time."""
        head = post("/", b"x" * 100_000)[:-100_000]
        self.send(head[:-1], self.wire)
        self.clock.pump([1] * 9)
        self.send(head[-1:], self.wire)
        self.send_slowly(b"", 1024, 25)
        self.assertFalse(self.wire.is_closed)

    def test_refused_body(self) -> None:
        """That of a request that has its answer has the same time, and rate."""
        self.wire = self.serve(Door({b"/no": Answer(401, "No")}))
        self.send(post("/no", b"x" * 100_000)[:-100_000])
        self.send_slowly(b"", 1024, 30)
        self.assertEqual(self.codes(), [401])
        self.assertFalse(self.wire.is_closed)
        self.send_slowly(b"", 1024, 1)
        self.assertEqual(self.cut, [(1, "the body took more than 30 s")])

    def test_not_while_served(self) -> None:
        """What was read behind a request has its time behind its answer."""
        later = Later()
        self.wire = self.serve(later)
        self.send(get() + get()[:5])
        self.clock.pump([1] * 60)
        self.assertFalse(self.wire.is_closed)
        later.answer()
        self.clock.pump([1] * 10)
        self.assertFalse(self.wire.is_closed)
        self.clock.advance(1)
        self.assertTrue(self.wire.is_aborted)

    def test_not_while_answers_are_unread(self) -> None:
        """What was read then has its time from when we read again."""
        self.wire = self.serve(Calls(lambda r: b"x" * 10 * BUFFER_BYTES))
        self.wire.room = 0
        self.send(get() + get()[:5])
        self.clock.pump([1] * 60)
        self.assertFalse(self.wire.is_closed)
        self.wire.flush_all()
        self.clock.pump([1] * 10)
        self.assertFalse(self.wire.is_closed)
        self.clock.advance(1)
        self.assertTrue(self.wire.is_aborted)

    def test_many(self) -> None:
        """One line says how many there were."""
        for _ in range(100):
            self.send(b"POST", self.connect())
        self.clock.pump([1] * 11)
        self.assertEqual(self.cut, [(100, "headers took more than 10 s")])
        self.assertFalse(self.healthy.is_closed)


class CloseTests(ChannelTestCase):
    """The end of a connection, from our side."""

    def test_idle(self) -> None:
        """At once when nothing is served."""
        wire = self.serve(Echo())
        self.channel.close_when_done()
        self.assertTrue(wire.is_ended)
        self.send(get())
        self.assertEqual(self.answers(), [])
        self.channel.close_when_done()

    def test_behind_the_answer(self) -> None:
        """Behind the answer that is being waited for, and before the next."""
        later = Later()
        wire = self.serve(later)
        self.send(get("/1") + get("/2"))
        self.send(get("/3"))
        self.channel.close_when_done()
        self.assertFalse(wire.is_ended)
        later.answer(b"last")
        answer = self.answer()
        self.assertEqual(answer.body, b"last")
        self.assertEqual(answer.fields["connection"], "close")
        self.assertTrue(wire.is_ended)
        self.assertEqual(later.requests, [])

    def test_while_paused(self) -> None:
        """What was read ahead is dropped, and reading goes on to find the end."""
        later = Later()
        wire = self.serve(later)
        self.send(get())
        self.send(get() * 3000)
        self.channel.close_when_done()
        later.answer()
        self.assertTrue(wire.is_ended)
        self.assertTrue(wire.is_reading)
        self.assertEqual(self.channel._unread, [])

    def test_goodbye(self) -> None:
        """All are closed; it waits for those that are served."""
        later = Later()
        serving = self.serve(later)
        self.send(get())
        idle = self.connect()
        done = outcome(Deferred.fromCoroutine(self.sites[-1].say_goodbye(1.0)))
        self.assertEqual((serving.is_ended, idle.is_ended), (False, True))
        idle.lose()
        self.clock.advance(0.5)
        later.answer()
        self.assertTrue(serving.is_ended)
        serving.lose()
        self.clock.advance(0.1)
        self.assertEqual(done(), [None])
        self.assertFalse(serving.is_aborted)

    def test_goodbye_in_time(self) -> None:
        """Those that do not go are aborted."""
        later = Later()
        serving = self.serve(later)
        self.send(get())
        idle = self.connect()
        done = outcome(Deferred.fromCoroutine(self.sites[-1].say_goodbye(1.0)))
        for _ in range(55):
            self.clock.advance(0.02)
        self.assertEqual(done(), [None])
        self.assertTrue(serving.is_aborted)
        self.assertTrue(idle.is_aborted)


class LingerTests(ChannelTestCase):
    """Behind a closing answer what still comes is read past, for a time."""

    def setUp(self) -> None:
        super().setUp()
        self.door = Door({b"/no": Answer(503, "No", closes=True)})
        self.wire = self.serve(self.door)
        self.send(post("/no", b"x" * 100)[:-90])
        self.assertEqual(self.codes(), [503])
        self.assertTrue(self.wire.is_ended)

    def test_read_past(self) -> None:
        """No byte of it is kept, served or answered."""
        self.assertTrue(self.wire.is_reading)
        self.send(b"x" * 90 + get("/yes") * 10_000 + b"\0garbage")
        self.assertEqual(self.answers(), [])
        self.assertEqual(self.door.requests, [])
        self.assertEqual(self.door.asked, [b"/no"])
        self.assertEqual(self.channel._unread, [])
        self.assertTrue(self.wire.is_reading)
        self.assertFalse(self.wire.is_aborted)

    def test_aborted(self) -> None:
        """A client that goes on is cut off."""
        for _ in range(int(LINGER_SECONDS * 10) - 1):
            self.send(b"x" * 1000)
            self.clock.advance(0.1)
        self.assertFalse(self.wire.is_aborted)
        self.clock.advance(0.2)
        self.assertTrue(self.wire.is_aborted)

    def test_gone(self) -> None:
        """One that goes is not cut off any more."""
        self.wire.lose()
        self.clock.advance(LINGER_SECONDS + 1)
        self.assertFalse(self.wire.is_aborted)


#: How an error of ours may be logged: by itself or as llhttp tells it.
LOGGED = (ZeroDivisionError, HttpParserCallbackError)


class Broken(Resource):
    """Finds nothing below it."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        raise ZeroDivisionError("oh")


class ErrorTests(ChannelTestCase):
    """An error of ours while a request is read is ours, not the client's."""

    def check(self, root: Resource, octets: bytes) -> None:
        wire = self.serve(root)
        self.send(octets)
        answer = self.answer()
        self.assertEqual((answer.code, answer.body), (500, b"Internal error\n"))
        self.assertTrue(wire.is_ended)
        self.assertEqual(len(self.flushLoggedErrors(*LOGGED)), 1)
        self.send(get())
        self.assertEqual(self.answers(), [])

    def test_in_the_tree(self) -> None:
        """Where a Resource is looked for."""
        self.check(Broken(), get("/x"))

    def test_in_the_checks(self) -> None:
        """Where a Resource is asked on the headers."""

        class BrokenDoor(Door):
            def refusal(self, request: Request) -> Answer | None:
                raise ZeroDivisionError("oh")

        self.check(BrokenDoor({}), post("/", b"x"))

    def test_in_the_body(self) -> None:
        """Where a Resource takes the body, whole and in chunks."""

        class BrokenDoor(Door):
            def take(self, request: Any, octets: bytes) -> Answer | None:
                raise ZeroDivisionError("oh")

        self.check(BrokenDoor({}), post("/", b"x"))
        self.check(BrokenDoor({}), chunked("/", b"x"))

    def test_behind_another(self) -> None:
        """The request in front is answered first."""

        class BrokenDoor(Door):
            def refusal(self, request: Request) -> Answer | None:
                if request.path == b"/bad":
                    raise ZeroDivisionError("oh")
                return None

        door = BrokenDoor({})
        self.serve(door)
        self.send(get("/good") + get("/bad") + get("/never"))
        self.assertEqual(self.answers(), [])
        door.answer(b"good")
        self.assertEqual(self.codes(), [200, 500])
        self.assertEqual(len(self.flushLoggedErrors(*LOGGED)), 1)

    def test_named(self) -> None:
        """What is logged is the error, not that llhttp was told of one."""
        self.serve(Broken())
        self.send(get())
        self.assertEqual(
            [type(f.value) for f in self.flushLoggedErrors(*LOGGED)],
            [ZeroDivisionError],
        )


GOOD = request(BODY)
HEAD = (
    "POST /logs HTTP/1.1\r\nHost: h\r\nContent-Type: application/logplex-1\r\n"
    f"Authorization: {basic()}\r\n"
).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def _lengths(value: bytes) -> bytes:
    return HEAD + b"Content-Length: " + value + b"\r\n\r\n" + BODY


def _encoded(value: bytes) -> bytes:
    return HEAD + b"Transfer-Encoding: " + value + b"\r\n\r\n" + IN_CHUNKS


def _with(field: bytes) -> bytes:
    return HEAD + LENGTH + field + b"\r\n" + BODY


def _line(line: bytes) -> bytes:
    return GOOD.replace(b"POST /logs HTTP/1.1", line, 1)


def _in_chunks(octets: bytes) -> bytes:
    return HEAD + CHUNKED + b"\r\n" + octets


#: What is no HTTP, and what is answered to it.
MALFORMED: dict[str, tuple[int, bytes]] = {
    # lengths
    "two lengths, equal": (400, _with(LENGTH)),
    "two lengths": (400, _with(b"Content-Length: 5\r\n")),
    "a list of lengths": (400, _lengths(b"%d, %d" % (len(BODY), len(BODY)))),
    "length and chunks": (400, HEAD + LENGTH + CHUNKED + b"\r\n" + IN_CHUNKS),
    "chunks and length": (400, HEAD + CHUNKED + LENGTH + b"\r\n" + IN_CHUNKS),
    **{
        f"length {value!r}": (400, _lengths(value))
        for value in (
            b"+5",
            b"-5",
            b"0x5",
            b"5_0",
            b"5.0",
            b"5a",
            b"5 5",
            b"",
            b" ",
            b"\xb2",
            b"\xd9\xa3",
            b"9" * 20,
        )
    },
    # transfer encodings
    **{
        f"encoding {value!r}": (400, _encoded(value))
        for value in (
            b"identity",
            b"gzip",
            b"xchunked",
            b"chunked, chunked",
            b"chunked, identity",
            b"gzip, chunked",
            b"chunked;q=1",
            b"chunked,",
            b"\x0bchunked",
            b"",
        )
    },
    "encoding twice": (400, HEAD + CHUNKED + CHUNKED + b"\r\n" + IN_CHUNKS),
    "encoding taken back": (
        400,
        _encoded(b"chunked\r\nTransfer-Encoding: identity"),
    ),
    "encoding behind another": (
        400,
        _encoded(b"identity\r\nTransfer-Encoding: chunked"),
    ),
    "encoding in HTTP/1.0": (
        400,
        _encoded(b"chunked").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    ),
    # the syntax of headers
    "space before colon": (400, _with(b"X : y\r\n")),
    "length with a space before colon": (
        400,
        HEAD + LENGTH.replace(b":", b" :") + b"\r\n" + BODY,
    ),
    "tab before colon": (400, _with(b"X\t: y\r\n")),
    "folded": (400, _with(b"X: y\r\n z\r\n")),
    "folded with tab": (400, _with(b"X: y\r\n\tz\r\n")),
    "folded at once": (400, _line(b"POST /logs HTTP/1.1\r\n X: y")),
    "bare CR in a value": (400, _with(b"X: y\rz\r\n")),
    "bare CR in a name": (400, _with(b"X\rY: z\r\n")),
    "CR twice": (400, _with(b"X: y\r\r\n")),
    "bare CR at the end of lines": (400, GOOD.replace(b"\r\n", b"\r")),
    "bare LF in a value": (400, _with(b"X: y\nZ: z\r\n")),
    "bare LF behind the request line": (400, GOOD.replace(b"\r\n", b"\n", 1)),
    "bare LF behind the headers": (400, HEAD + LENGTH + b"\n" + BODY),
    "bare LF everywhere": (400, GOOD.replace(b"\r\n", b"\n")),
    "NUL in a value": (400, _with(b"X: a\0b\r\n")),
    "NUL in a name": (400, _with(b"X\0: b\r\n")),
    "control byte in a value": (400, _with(b"X: a\x01b\r\n")),
    "no name": (400, _with(b": y\r\n")),
    "no colon": (400, _with(b"garbage\r\n")),
    "name of other bytes": (400, _with(b"X(Y): z\r\n")),
    # Host
    "no Host": (400, GOOD.replace(b"Host", b"X-Host", 1)),
    "two Hosts": (400, _with(b"Host: h\r\n")),
    "two Hosts that differ": (400, _with(b"hOST: i\r\n")),
    # the request line
    "NUL in the path": (400, _line(b"POST /lo\0gs HTTP/1.1")),
    "a path of other bytes": (400, _line(b"POST /logs?\xe9 HTTP/1.1")),
    "space behind the version": (400, _line(b"POST /logs HTTP/1.1 ")),
    "version of two digits": (400, _line(b"POST /logs HTTP/1.10")),
    "19 digits of length": (400, _lengths(b"%019d" % len(BODY))),
    "HTTP/2": (400, _line(b"POST /logs HTTP/2.0")),
    "HTTP/0.9": (400, _line(b"POST /logs HTTP/0.9")),
    "no version": (400, b"GET /logs\r\n\r\n"),
    "unknown version": (400, _line(b"POST /logs HTTP/3.0")),
    "no HTTP": (400, _line(b"POST /logs HTTTP/1.1")),
    "preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "unknown method": (501, _line(b"BREW /logs HTTP/1.1")),
    "method in lower case": (501, _line(b"post /logs HTTP/1.1")),
    "tab behind the method": (501, _line(b"POST\t/logs HTTP/1.1")),
    "garbage": (501, b"\x00\x01\x02garbage\r\n\r\n"),
    "TLS": (501, bytes.fromhex("1603010200010001fc0303") + b"x" * 100),
    "a line too long": (
        414,
        _line(b"POST /logs?" + b"a" * LIMITS.line_bytes + b" HTTP/1.1"),
    ),
    "headers too large": (431, _with(b"X: " + b"a" * LIMITS.header_bytes + b"\r\n")),
    "a name too large": (431, _with(b"X" * LIMITS.header_bytes + b": a\r\n")),
    "too many fields": (431, _with(b"X: a\r\n" * (LIMITS.fields - 3))),
    # chunks
    **{
        f"chunks {octets!r}": (400, _in_chunks(octets))
        for octets in (
            b"x\r\n",
            b"\r\n",
            b";a=b\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"5_0\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\rhello\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhelloXX0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello\r\n0\n\r\n",
            b"5\r\nhello\r\n0\r\n\n",
            b"5;\nx\r\nhello\r\n0\r\n\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"5;a=\0b\r\nhello\r\n0\r\n\r\n",
            b"1" * 17 + b"\r\n",
            b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX: y\n\r\n",
            b"5\r\nhello\r\n0\r\nX: \0\r\n\r\n",
        )
    },
}


def stop(site: ChannelSite) -> None:
    """A `Connection` starts its site."""
    while site.numPorts:
        site.doStop()


class MalformedTests(SynchronousTestCase):
    """What is no HTTP is answered once, forwarded never, and ends the connection."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.front = Front(self.clock)
        self.site = cast(ChannelSite, self.front.site("channel"))

    def tearDown(self) -> None:
        stop(self.site)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def check(
        self, name: str, codes: list[int], octets: bytes, step: int, good: int = 0
    ) -> None:
        """
        @param good: how many of the posts in `octets` are to be forwarded.
        """
        self.front.deliverer.payloads.clear()
        connection = Connection(self.site)
        for start in range(0, len(octets), step):
            if connection.transport.connected:
                connection.send(octets[start : start + step])
        answers = connection.answers()
        self.assertEqual([answer.code for answer in answers], codes, name)
        self.assertEqual(answers[-1].headers["connection"], "close", name)
        self.assertFalse(connection.transport.connected, name)
        self.assertEqual(self.front.deliverer.octets, FORWARDED * good, name)

    def test_the_good_one(self) -> None:
        """What the table spoils is good before."""
        for octets in (
            GOOD,
            HEAD + LENGTH + b"\r\n" + BODY,
            HEAD + CHUNKED + b"\r\n" + IN_CHUNKS,
            _with(b"X: y\r\n"),
            _line(b"POST /logs?x HTTP/1.1"),
        ):
            self.front.deliverer.payloads.clear()
            connection = Connection(self.site)
            connection.send(octets)
            self.assertEqual([a.code for a in connection.answers()], [200])
            self.assertTrue(connection.transport.connected)
            self.assertEqual(self.front.deliverer.octets, FORWARDED)
            connection.hang_up()

    def test_whole(self) -> None:
        """In one read, and nothing behind it is served either."""
        for name, (code, octets) in MALFORMED.items():
            self.check(name, [code], octets, len(octets))
            self.check(name, [code], octets + GOOD, len(octets + GOOD))

    def test_cut(self) -> None:
        """Byte by byte."""
        for name, (code, octets) in MALFORMED.items():
            self.check(name, [code], octets, 1)

    def test_behind_a_good_one(self) -> None:
        """A good request in front is answered and forwarded."""
        for name, (code, octets) in MALFORMED.items():
            self.check(name, [200, code], GOOD + octets, len(GOOD + octets), good=1)
            self.check(name, [200, code], GOOD + octets, len(GOOD), good=1)

    def test_behind_one_that_takes_long(self) -> None:
        """It is answered first, also when that takes long."""
        self.front.deliverer.at_once = False
        for name, (code, octets) in MALFORMED.items():
            for reads in ((GOOD + octets,), (GOOD, octets)):
                connection = Connection(self.site)
                for read in reads:
                    connection.send(read)
                self.assertEqual(connection.answers(), [], name)
                self.front.deliverer.waiters[-1].callback(None)
                self.assertEqual(
                    [answer.code for answer in connection.answers()], [200, code], name
                )
                self.assertFalse(connection.transport.connected, name)

    def test_not_looked_at(self) -> None:
        """What comes behind it, while the request in front is served, is bounded."""
        self.front.deliverer.at_once = False
        connection = Connection(self.site)
        connection.send(GOOD + b"\0")
        while connection.transport.producerState == "producing":
            connection.send(GOOD * 100)
        self.assertLess(connection.channel._unread_bytes, 2 * READ_AHEAD_BYTES)
        self.front.deliverer.waiters[-1].callback(None)
        self.assertEqual([a.code for a in connection.answers()], [200, 501])
        self.assertEqual(len(self.front.deliverer.payloads), 1)
        self.assertEqual(self.front.logs.budget.reserved_bytes, 0)

    def test_behind_its_own_refusal(self) -> None:
        """A request that was refused on its headers has had its answer."""
        refused = HEAD.replace(b"Basic", b"Other") + CHUNKED + b"\r\n"
        connection = Connection(self.site)
        connection.send(refused)
        connection.send(b"no chunk\r\n")
        self.assertEqual([a.code for a in connection.answers()], [401])
        self.assertFalse(connection.transport.connected)

    def test_endless_headers(self) -> None:
        """Headers that never end are refused while they come."""
        for octets in (b"X: " + b"a" * 100_000, b"X: a\r\n" * 20_000, b"a" * 100_000):
            connection = Connection(self.site)
            connection.send(HEAD)
            sent = 0
            while connection.transport.connected and sent < len(octets):
                connection.send(octets[sent : sent + 1000])
                sent += 1000
            self.assertEqual([a.code for a in connection.answers()], [431])
            self.assertLess(sent, 20_000)

    def test_endless_body_without_body(self) -> None:
        """Extensions and trailers that never end are refused while they come."""
        for octets in (
            b"5;" + b"a" * 100_000,
            b"0\r\nX: " + b"a" * 100_000,
            b"0\r\n" + b"X: a\r\n" * 20_000,
        ):
            connection = Connection(self.site)
            connection.send(HEAD + CHUNKED + b"\r\n")
            sent = 0
            while connection.transport.connected and sent < len(octets):
                connection.send(octets[sent : sent + 1000])
                sent += 1000
            self.assertEqual([a.code for a in connection.answers()], [400])
            self.assertLess(sent, 10_000)
        self.assertEqual(self.front.deliverer.payloads, [])

    def test_empty_lines_in_front(self) -> None:
        """Empty lines in front of a request mean nothing (RFC 9112 section 2.2)."""
        connection = Connection(self.site)
        connection.send(b"\r\n\r\n" + GOOD + b"\r\n" + GOOD)
        self.assertEqual([a.code for a in connection.answers()], [200, 200])
        connection.hang_up()


class LimitTests(SynchronousTestCase):
    """What is just within a limit passes."""

    def test_within(self) -> None:
        """The longest line, the largest headers, the most fields."""
        clock = Clock()
        front = Front(clock)
        site = cast(ChannelSite, front.site("channel"))
        line_room = LIMITS.line_bytes - len("POST /logs? HTTP/1.1\r\n")
        fields = HEAD.partition(b"\r\n")[2] + LENGTH + b"X: \r\n"
        room = LIMITS.header_bytes - len(fields)
        for octets in (
            _line(b"POST /logs?" + b"a" * line_room + b" HTTP/1.1"),
            _with(b"X: " + b"a" * room + b"\r\n"),
            _with(b"X: a\r\n" * (LIMITS.fields - 4)),
        ):
            connection = Connection(site)
            connection.send(octets)
            self.assertEqual([a.code for a in connection.answers()], [200])
            connection.hang_up()
        self.assertEqual(front.deliverer.octets, FORWARDED * 3)
        connection = Connection(site)
        for code, octets in (
            (414, _line(b"POST /logs?" + b"a" * (line_room + 1) + b" HTTP/1.1")),
            (431, _with(b"X: " + b"a" * (room + 1) + b"\r\n")),
            (431, _with(b"X: a\r\n" * (LIMITS.fields - 3))),
        ):
            for step in (len(octets), 1000, 1):
                connection = Connection(site)
                for start in range(0, len(octets), step):
                    if connection.transport.connected:
                        connection.send(octets[start : start + step])
                self.assertEqual([a.code for a in connection.answers()], [code])
        stop(site)
        self.assertEqual(clock.getDelayedCalls(), [])


class SiteTests(SynchronousTestCase):
    """What connections share."""

    def test_date(self) -> None:
        """The date of answers is the clock's, to the second."""
        clock = Clock()
        later = Later()
        site = ChannelSite(later, clock, ChannelLimits(1000), fixed={})
        connection = Connection(site)
        for seconds in (0, 61):
            clock.advance(seconds)
            connection.send(get())
            OK.write_to(later.requests.pop())
            (answer,) = connection.answers()
            self.assertEqual(
                answer.headers["date"], http.datetimeToString(seconds).decode()
            )
        connection.hang_up()
        site.doStop()

    def test_nothing_left(self) -> None:
        """A site that is stopped leaves nothing on the clock."""
        clock = Clock()
        site = ChannelSite(Resource(), clock, ChannelLimits(1000), fixed={})
        site.doStart()
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        site.doStop()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_constants(self) -> None:
        """The limits are those that the reference states."""
        self.assertEqual(IDLE_SECONDS, 330)
        self.assertEqual(READ_AHEAD_BYTES, 65_536)
        self.assertEqual(LIMITS, HeadLimits(8192, 16_384, 100))
        self.assertEqual(channel.LINGER_SECONDS, 2.0)
