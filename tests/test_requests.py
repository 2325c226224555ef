"""
A `LeanRequest` is to a Resource what twisted.web's own request is: the same bytes go
to both channels, and what is seen and said there is compared.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import alsoProvides
from zope.interface.verify import verifyObject

from logiss.answers import OK, Answer
from logiss.limits import ChannelLimits
from logiss.requests import LeanRequest
from logiss.site import ChannelSite
from tests.fakes import outcome
from tests.front import Connection

PEER = IPv4Address("TCP", "192.0.2.7", 50000)
HOST = IPv4Address("TCP", "192.0.2.1", 8080)

Look = Callable[[Any], Any]

#: Touching one of these makes it.
MADE_WHEN_TOUCHED = frozenset(
    {
        "_adapterCache",
        "args",
        "content",
        "cookies",
        "host",
        "notifications",
        "received_cookies",
        "requestHeaders",
        "responseHeaders",
        "site",
        "sitepath",
        "transport",
    }
)


class Looking(Resource):
    """
    Answers nothing, after `look` has seen the request.

    @ivar seen: what it made of each.
    """

    isLeaf = True

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look = look
        self.seen: list[Any] = []
        self.requests: list[Any] = []

    def render(self, request: IRequest) -> int:
        self.requests.append(request)
        try:
            self.seen.append(self._look(request))
        except ValueError as e:
            self.seen.append(type(e))
        answering = cast(Request, request)
        if not answering.finished and not answering._disconnected:
            answering.finish()
        return NOT_DONE_YET


class Branch(Resource):
    """Everything below it is `leaf`."""

    def __init__(self, leaf: IResource) -> None:
        super().__init__()
        self._leaf = leaf

    def getChild(self, path: bytes, request: Request) -> IResource:
        return self._leaf


def tree(leaf: IResource) -> Resource:
    """`leaf` at every path, two steps below ``/a``."""
    root = Branch(leaf)
    root.putChild(b"a", Branch(leaf))
    return root


class Wire(StringTransportWithDisconnection):
    """Tells what it is connected to."""

    def __init__(self, secure: bool = False, peer: Any = PEER) -> None:
        super().__init__(hostAddress=HOST, peerAddress=peer)
        if secure:
            alsoProvides(self, ISSLTransport)

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802
        """Nothing is ever delayed here."""


def lean(root: IResource, octets: bytes, wire: Wire) -> bytes:
    """What `ChannelSite` answers to `octets`."""
    return _answer(
        ChannelSite(root, Clock(), ChannelLimits(10_000), fixed={}), octets, wire
    )


def stock(root: IResource, octets: bytes, wire: Wire) -> bytes:
    """What twisted.web's `Site` answers to `octets`."""
    site = Site(root, reactor=Clock(), parsePOSTFormSubmission=False)
    site.noisy = False
    return _answer(site, octets, wire)


def _answer(site: Any, octets: bytes, wire: Wire) -> bytes:
    site.doStart()
    channel = site.buildProtocol(None)
    wire.protocol = channel
    channel.makeConnection(wire)
    channel.dataReceived(octets)
    wire.loseConnection()
    return cast(bytes, wire.value())


def comparable(answer: bytes) -> tuple[bytes, list[bytes], bytes]:
    """An answer without what each server says of itself."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    ours = (b"server:", b"date:")
    return (
        status,
        sorted(
            b"%b:%b" % (name.lower(), value)
            for name, _, value in (field.partition(b":") for field in fields)
            if not (name + b":").lower().startswith(ours)
        ),
        body,
    )


def raw(
    method: bytes = b"GET",
    uri: bytes = b"/a/b",
    *fields: bytes,
    body: bytes = b"",
    version: bytes = b"HTTP/1.1",
) -> bytes:
    lines = [b"%b %b %b" % (method, uri, version), b"Host: logs.example.com", *fields]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


#: "user:a:token"
BASIC = b"Authorization: Basic dXNlcjphOnRva2Vu"

REQUESTS = {
    "plain": raw(),
    "root": raw(uri=b"/"),
    "no path": raw(uri=b"//"),
    "deep": raw(uri=b"/a/b/c/d/"),
    "quoted": raw(uri=b"/a/%62%2Fc%20d/%C3%A9/%zz?q=%62%26"),
    "query": raw(uri=b"/a/b?x=1&y=2&x=3&empty=&bare&=none&x=%C3%A9+z;s=t"),
    "empty query": raw(uri=b"/a/b?"),
    "two question marks": raw(uri=b"/a/b?x=1?y=2"),
    "headers": raw(
        b"GET",
        b"/a/b",
        b"X-Twice: one",
        b"x-twice: two",
        b"X-Padded:  \t padded",
        b"X-Empty:",
        b"X-Colon: a:b: c",
        b"X-Latin: \xe9",
    ),
    "cookies": raw(
        b"GET", b"/a/b", b"Cookie: a=1; b=x=y;c; =d", b"Cookie: e=2; a=3", b"Cookie:"
    ),
    "credentials": raw(b"GET", b"/a/b", BASIC),
    "other credentials": raw(b"GET", b"/a/b", b"Authorization: Bearer dXNlcjphOnRv"),
    "bad credentials": raw(b"GET", b"/a/b", b"Authorization: Basic !"),
    "post": raw(b"POST", body=b"a body"),
    "form": raw(
        b"POST",
        b"/a/b?x=1",
        b"Content-Type: application/x-www-form-urlencoded",
        body=b"x=2&y=3",
    ),
    "chunked": raw(b"PUT", b"/a/b", b"Transfer-Encoding: chunked")
    + b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n",
    "head": raw(b"HEAD"),
    "old": raw(version=b"HTTP/1.0"),
    "old without host": b"GET /a/b?x=1 HTTP/1.0\r\n\r\n",
    "host with port": b"GET /a/b HTTP/1.1\r\nHost: logs.example.com:81\r\n\r\n",
    "host in IPv6": b"GET /a/b HTTP/1.1\r\nHost: [2001:db8::1]:81\r\n\r\n",
    "close": raw(b"GET", b"/a/b", b"Connection: close"),
}


def read_pieces(request: Request) -> Any:
    content: Any = request.content
    pieces = [content.read(2)]
    content.seek(0, 2)
    pieces.append(content.tell())
    content.seek(0, 0)
    return [*pieces, content.read(), content.read()]


def forced(request: Request) -> Any:
    """A request behind a proxy that says which host it is for."""
    request.setHost(b"proxy.example.com", 443, 1)
    return (
        request.isSecure(),
        request.getHost(),
        request.getHeader(b"host"),
        request.prePathURL(),
    )


def rooted(request: Request) -> Any:
    before = request.getRootURL()
    request.rememberRootURL()
    return before, request.getRootURL()


LOOKS: dict[str, Look] = {
    "method": lambda r: r.method,
    "uri": lambda r: r.uri,
    "path": lambda r: r.path,
    "args": lambda r: r.args,
    "prepath": lambda r: r.prepath,
    "postpath": lambda r: r.postpath,
    "sitepath": lambda r: r.sitepath,
    "clientproto": lambda r: r.clientproto,
    "requestHeaders": lambda r: sorted(r.requestHeaders.getAllRawHeaders()),
    "getHeader": lambda r: [
        r.getHeader(name)
        for name in (b"X-Twice", "x-twice", b"x-empty", b"x-padded", b"nope", "Host")
    ],
    "getAllHeaders": lambda r: r.getAllHeaders(),
    "received_cookies": lambda r: r.received_cookies,
    "getCookie": lambda r: [r.getCookie(k) for k in (b"a", b"b", b"e", b"c", b"")],
    "cookies": lambda r: r.cookies,
    "getRequestHostname": lambda r: r.getRequestHostname(),
    "getHost": lambda r: r.getHost(),
    "getClientAddress": lambda r: r.getClientAddress(),
    "client": lambda r: r.client,
    "getUser": lambda r: r.getUser(),
    "getPassword": lambda r: r.getPassword(),
    "isSecure": lambda r: r.isSecure(),
    "content": lambda r: r.content.read(),
    "content in pieces": read_pieces,
    "URLPath": lambda r: str(r.URLPath()),
    "prePathURL": lambda r: r.prePathURL(),
    "rememberRootURL": rooted,
    "childLink": lambda r: r.childLink(b"x"),
    "sibLink": lambda r: r.sibLink(b"x"),
    "setHost": forced,
    "session": lambda r: r.session,
    "code": lambda r: (r.code, r.code_message),
    "finished": lambda r: (r.finished, r.startedWriting, r.sentLength, r.chunked),
    "validators": lambda r: (r.etag, r.lastModified, r.producer, r.queued),
    "repr": lambda r: repr(r).partition(" method=")[2],
}


class SeenTests(SynchronousTestCase):
    """What a Resource sees of a request is what twisted.web would show it."""

    def check(self, name: str, look: Look, octets: bytes, **wire: Any) -> Any:
        ours, theirs = Looking(look), Looking(look)
        lean(tree(ours), octets, Wire(**wire))
        stock(tree(theirs), octets, Wire(**wire))
        self.assertEqual(len(theirs.seen), 1, name)
        self.assertEqual(ours.seen, theirs.seen, name)
        return ours.seen[0]

    def test_table(self) -> None:
        """Every attribute and method, of every kind of request."""
        for what, octets in REQUESTS.items():
            for name, look in LOOKS.items():
                self.check(f"{name} of {what}", look, octets)

    def test_padded(self) -> None:
        """White space around a header's value is none of it."""
        octets = raw(b"GET", b"/a/b", b"X-Padded: \t padded  x \t ", b"X-Empty:  ")
        for name in ("requestHeaders", "getHeader", "getAllHeaders"):
            self.check(name, LOOKS[name], octets)

    def test_interface(self) -> None:
        """A request provides what `IRequest` asks for, all of it."""
        leaf = Looking(lambda request: verifyObject(IRequest, request))
        lean(leaf, REQUESTS["post"], Wire())
        self.assertEqual(leaf.seen, [True])
        self.assertIsInstance(leaf.requests[0], LeanRequest)

    def test_nothing_missing(self) -> None:
        """Each attribute that a request of twisted.web has is there."""

        def names(request: Any) -> set[str]:
            return {name for name in vars(request) if hasattr(request, name)}

        theirs = Looking(names)
        stock(theirs, REQUESTS["post"], Wire())
        (expected,) = theirs.seen
        ours = Looking(lambda r: {name for name in expected if hasattr(r, name)})
        lean(ours, REQUESTS["post"], Wire())
        # Twisted's own note of a setting of its site.
        self.assertEqual(expected - ours.seen[0] - {"_parsePOSTFormSubmission"}, set())

    def test_secure(self) -> None:
        """Over TLS a request is secure, and so are its URLs."""
        for name in ("isSecure", "prePathURL", "URLPath"):
            self.check(name, LOOKS[name], REQUESTS["plain"], secure=True)
        self.assertTrue(
            self.check("is", LOOKS["isSecure"], REQUESTS["plain"], secure=True)
        )

    def test_peers(self) -> None:
        """The client's address is whatever the transport has for one."""
        for peer in (
            IPv6Address("TCP", "2001:db8::1", 1),
            UNIXAddress(None),
        ):
            seen = self.check(
                "peer", LOOKS["getClientAddress"], REQUESTS["plain"], peer=peer
            )
            self.assertEqual(seen, peer)

    def test_no_longer_secure(self) -> None:
        """A request whose answer is written has no channel, and is not secure."""

        def finished(request: Request) -> Any:
            request.finish()
            return request.isSecure(), request.finished

        self.check("finished", finished, REQUESTS["plain"], secure=True)


def cookies(request: Request) -> None:
    request.addCookie(b"a", b"1")
    request.addCookie(
        "b",
        "x; y\r\nz",
        expires="Thu, 01 Jan 2015 00:00:00 GMT",
        domain="example.com",
        path="/",
        max_age="10",
        comment="c",
        secure=True,
        httpOnly=True,
        sameSite="lax",
    )


def pieces(request: Request) -> None:
    for piece in (b"one", b"", b"two" * 100):
        request.write(piece)


def counted(request: Request) -> None:
    request.setHeader(b"Content-Length", b"6")
    request.write(b"one")
    request.write(b"two")


def both_validators(request: Request) -> None:
    request.setLastModified(1_000_000_000)
    request.setETag(b"tag")
    request.write(b"x")


def status(code: int, message: bytes | None = None, body: bytes = b"") -> Look:
    def say(request: Request) -> None:
        request.setResponseCode(code, message)
        request.write(body)

    return say


def headers(request: Request) -> None:
    request.setHeader("x-text", "a")
    request.setHeader(b"X-Text", b"b")
    request.responseHeaders.addRawHeader(b"x-more", b"1")
    request.responseHeaders.addRawHeader(b"x-more", b"2")
    request.setHeader(b"x-split", b"a\r\nX-Forged: b")
    request.defaultContentType = None


def moved(request: Request) -> None:
    request.redirect(b"https://other.example.com/?a=b")


SAYS: dict[str, Look] = {
    "nothing": lambda r: None,
    "one piece": lambda r: r.write(b"hello"),
    "pieces": pieces,
    "pieces with a length": counted,
    "headers": headers,
    "cookies": cookies,
    "redirect": moved,
    "validators": both_validators,
    "404": status(404, body=b"nope"),
    "own reason": status(200, b"Very Well", b"x"),
    "unknown code": status(299, body=b"x"),
    "204": status(204, body=b"dropped"),
    "304": status(304, body=b"dropped"),
}

ASKING = {
    "get": raw(),
    "head": raw(b"HEAD"),
    "post": raw(b"POST", body=b"x"),
    "if none match": raw(b"GET", b"/a/b", b"If-None-Match: other tag"),
    "put if none match": raw(b"PUT", b"/a/b", b"If-None-Match: tag"),
    "if modified since": raw(
        b"GET", b"/a/b", b"If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT"
    ),
    "if modified before": raw(
        b"GET", b"/a/b", b"If-Modified-Since: Sun, 09 Sep 2001 01:46:39 GMT"
    ),
    "if modified never": raw(b"GET", b"/a/b", b"If-Modified-Since: never"),
    "close": raw(b"GET", b"/a/b", b"Connection: close"),
}


class SaidTests(SynchronousTestCase):
    """What a Resource says is written as twisted.web would write it."""

    def check(self, name: str, say: Look, octets: bytes) -> bytes:
        ours, theirs = Looking(say), Looking(say)
        answer = lean(tree(ours), octets, Wire())
        self.assertEqual(
            comparable(answer),
            comparable(stock(tree(theirs), octets, Wire())),
            name,
        )
        self.assertEqual(ours.seen, theirs.seen, name)
        return answer

    def test_table(self) -> None:
        """Every way to answer, to every kind of request."""
        for what, octets in ASKING.items():
            for name, say in SAYS.items():
                self.check(f"{name} to {what}", say, octets)

    def test_conditional(self) -> None:
        """What the validators say to the Resource is the same, too."""
        for octets in ASKING.values():
            self.check("etag", lambda r: r.setETag(b"tag"), octets)
            self.check("modified", lambda r: r.setLastModified(999_999_999.5), octets)

    def test_old(self) -> None:
        """To HTTP/1.0 nothing is chunked, and the connection ends the body."""
        answer = lean(Looking(pieces), raw(version=b"HTTP/1.0"), Wire())
        _, fields, body = comparable(answer)
        self.assertEqual(body, b"one" + b"two" * 100)
        self.assertEqual(fields, [b"connection: close", b"content-type: text/html"])

    def test_refused_cookie(self) -> None:
        """A cookie that may not be is refused."""
        leaf = Looking(
            lambda r: self.assertRaises(
                ValueError, r.addCookie, b"a", b"b", sameSite=b"none"
            )
        )
        lean(leaf, raw(), Wire())
        self.assertEqual(len(leaf.seen), 1)

    def test_after_the_end(self) -> None:
        """Writing behind the end is an error; a second end is a warning."""

        def finish_twice(request: Request) -> Any:
            request.finish()
            request.finish()
            try:
                request.write(b"x")
            except RuntimeError as e:
                return str(e)
            return None

        self.check("twice", finish_twice, raw())
        self.assertEqual(len(self.flushWarnings()), 2)


class SessionTests(SynchronousTestCase):
    """Sessions are kept as by a `Site`."""

    def test_session(self) -> None:
        """A session is made, known again by its cookie, and ends with its time."""
        for make in (
            lambda root, clock: ChannelSite(root, clock, ChannelLimits(1000), fixed={}),
            lambda root, clock: Site(root, reactor=clock),
        ):
            clock = Clock()
            leaf = Looking(lambda r: r.getSession().uid)
            site: Any = make(leaf, clock)
            site.noisy = False
            connection = Connection(site)
            connection.send(raw())
            self.assertEqual(len(leaf.seen), 1, "no session")
            connection.send(
                raw(b"GET", b"/", b"Cookie: TWISTED_SESSION=" + leaf.seen[0])
            )
            self.assertEqual(leaf.seen[0], leaf.seen[1])
            connection.hang_up()
            clock.advance(901)
            connection = Connection(site)
            connection.send(
                raw(b"GET", b"/", b"Cookie: TWISTED_SESSION=" + leaf.seen[0])
            )
            self.assertNotEqual(leaf.seen[0], leaf.seen[2])


class NotifyTests(SynchronousTestCase):
    """Who asks is told once how a request has ended."""

    def serve(self, octets: bytes) -> tuple[Any, Connection]:
        requests: list[Any] = []

        class Later(Resource):
            isLeaf = True

            def render(self, request: IRequest) -> int:
                requests.append(request)
                return NOT_DONE_YET

        site = ChannelSite(Later(), Clock(), ChannelLimits(1000), fixed={})
        connection = Connection(site)
        connection.send(octets)
        (request,) = requests
        return request, connection

    def test_finished(self) -> None:
        """All that asked hear of it, when the answer is written."""
        request, _ = self.serve(raw())
        told = [outcome(request.notifyFinish()) for _ in range(2)]
        request.write(b"x")
        self.assertEqual([results() for results in told], [[], []])
        request.finish()
        self.assertEqual([results() for results in told], [[None], [None]])

    def test_written_whole(self) -> None:
        """An `Answer` ends a request as `finish` does."""
        request, connection = self.serve(raw())
        told = outcome(request.notifyFinish())
        ends: list[bool] = []
        request.on_end = ends.append
        OK.write_to(request)
        self.assertEqual((told(), ends), ([None], [True]))
        connection.hang_up()
        self.assertEqual((told(), ends), ([None], [True]))

    def test_gone(self) -> None:
        """A client that has gone is why it ended."""
        request, connection = self.serve(raw())
        ends: list[bool] = []
        request.on_end = ends.append
        told = outcome(request.notifyFinish())
        connection.hang_up()
        (failure,) = told()
        self.assertIsInstance(failure, Failure)
        self.assertIsInstance(failure.value, ConnectionDone)
        self.assertEqual(ends, [False])

    def test_gone_before_the_end(self) -> None:
        """To a client that has gone nothing is written, and no end."""
        request, connection = self.serve(raw())
        connection.hang_up()
        request.write(b"x")
        self.assertEqual(connection.transport.value(), b"")
        self.assertRaises(RuntimeError, request.finish)


class LeanTests(SynchronousTestCase):
    """Of a request only what is touched is made."""

    def made_of(self, look: Look, octets: bytes) -> set[str]:
        leaf = Looking(look)
        site = ChannelSite(leaf, Clock(), ChannelLimits(1000), fixed={b"/fixed": leaf})
        Connection(site).send(octets)
        (request,) = leaf.requests
        return set(vars(request)) & MADE_WHEN_TOUCHED

    def test_plain_post(self) -> None:
        """A post to a Resource that asks for nothing else makes nothing else."""

        def take(request: Any) -> None:
            self.assertEqual(request.header_values(b"host"), [b"logs.example.com"])
            self.assertIsNone(request.header_values(b"nope"))
            self.assertEqual(request.body(), b"a body")
            OK.write_to(request)

        octets = raw(b"POST", b"/fixed?x=1", body=b"a body")
        self.assertEqual(self.made_of(take, octets), set())

    def test_table_of_these_is_right(self) -> None:
        """Each of them would be there had it been touched."""
        for name in MADE_WHEN_TOUCHED - {"notifications"}:
            self.assertIn(name, self.made_of(attrgetter(name), raw()))

    def test_made_once(self) -> None:
        """What was made stays."""

        def same(request: Any) -> None:
            for name in MADE_WHEN_TOUCHED:
                self.assertIs(getattr(request, name), getattr(request, name), name)

        self.made_of(same, raw(uri=b"/?x=1"))

    def test_body_taken(self) -> None:
        """A body that was taken is not kept."""
        taken: list[bytes] = []

        def take(request: Any) -> None:
            taken.extend((request.body(), request.body()))
            self.assertEqual(request.chunks, [])

        self.made_of(take, raw(b"POST", body=b"a body"))
        self.assertEqual(taken, [b"a body", b""])

    def test_body_of_chunks(self) -> None:
        """The chunks of a body are joined."""
        taken: list[bytes] = []
        self.made_of(lambda r: taken.append(r.body()), REQUESTS["chunked"])
        self.assertEqual(taken, [b"abcdefg"])


class WriteAnswerTests(SynchronousTestCase):
    """An `Answer` is written whole, with its length."""

    def answer(self, answer: Answer, octets: bytes) -> tuple[bytes, bool]:
        wire = Wire()
        site = ChannelSite(
            Looking(answer.write_to),
            Clock(),
            ChannelLimits(1000),
            fixed={},
            delivery_level="sent",
        )
        site.doStart()
        channel = site.buildProtocol(None)
        wire.protocol = channel
        channel.makeConnection(wire)
        channel.dataReceived(octets)
        return wire.value(), wire.connected

    def test_ok(self) -> None:
        """200 has no body, and a date of the clock's second."""
        octets, connected = self.answer(OK, raw(b"POST"))
        self.assertEqual(
            octets,
            b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
            b"Server: logiss\r\nContent-Length: 0\r\nLogiss-Delivery: sent\r\n\r\n",
        )
        self.assertTrue(connected)

    def test_closes(self) -> None:
        """One that closes says so and does."""
        octets, connected = self.answer(Answer(503, "Off", closes=True), raw())
        self.assertIn(b"\r\nConnection: close\r\n", octets)
        self.assertTrue(octets.endswith(b"\r\n\r\nOff\n"))
        self.assertFalse(connected)

    def test_asked_to_close(self) -> None:
        """So does one to a client that wants it, 200 included."""
        octets, connected = self.answer(OK, raw(b"POST", b"/", b"Connection: close"))
        self.assertIn(b"\r\nConnection: close\r\n", octets)
        self.assertFalse(connected)

    def test_head(self) -> None:
        """To HEAD the length is said, and the text is not."""
        octets, _ = self.answer(Answer(http.NOT_FOUND, "Not found"), raw(b"HEAD"))
        self.assertIn(b"\r\nContent-Length: 10\r\n", octets)
        self.assertTrue(octets.endswith(b"\r\n\r\n"))
