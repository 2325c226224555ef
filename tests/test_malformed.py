"""
Attacks on the parsing of HTTP: what could be read in two ways is refused, and nothing
behind it is ever served.

The rows are those of `tests.malformed_rows`. Bounds of size are tested with the
channel.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss.answers import BAD_REQUEST
from logiss.channel import LINGER_SECONDS
from tests.front import (
    Front,
    HTTPAnswer,
    framed,
    message,
    parse_answers,
    request,
    stamped,
)
from tests.malformed_rows import (
    AUTHORIZATION,
    AWAITED,
    BODY,
    CHUNKED,
    FORWARDED,
    GOOD,
    GOOD_CHUNKED,
    HOST,
    IN_CHUNKS,
    LENGTH,
    REFUSED,
    ROWS,
    SERVED,
    SIZE,
    SMUGGLED,
    Row,
    post,
)
from tests.test_channel import Wire

#: The daemon's channel, and its way back to twisted.web's.
CHANNELS = ("channel", "logs")


class StockWire(Wire):
    """A TCP connection that forgives what Twisted's own forgive."""

    def unregisterProducer(self) -> None:  # noqa: N802
        self.producer = self.streaming = None


class Talk:
    """
    What a client has said on a connection of its own, and been answered.

    @ivar forwarded: what has gone to the backend.
    """

    def __init__(self, front: Front, site: Any, reads: Iterable[bytes]) -> None:
        self._front = front
        front.deliverer.payloads.clear()
        self.wire = StockWire()
        self.wire.protocol = self._protocol = site.buildProtocol(None)
        self._protocol.makeConnection(self.wire)
        for read in reads:
            self.send(read)

    def send(self, read: bytes) -> None:
        """The client goes on as long as anybody reads."""
        if self.wire.connected and not self.wire.disconnecting:
            self._protocol.dataReceived(read)

    @property
    def octets(self) -> bytes:
        self.wire.flush_all()
        return self.wire.sent

    @property
    def answers(self) -> list[HTTPAnswer]:
        return parse_answers(self.octets)

    @property
    def codes(self) -> list[int]:
        return [answer.code for answer in self.answers]

    @property
    def stock_codes(self) -> list[int]:
        """Those of twisted.web's own answers too, which are bare."""
        return [
            int(code) for code in re.findall(rb"HTTP/1\.[01] ([0-9]+) ", self.octets)
        ]

    @property
    def forwarded(self) -> bytes:
        return self._front.deliverer.octets

    def end(self) -> None:
        self.wire.lose()


class TalkTestCase(SynchronousTestCase):
    """Clients of both channels; each test ends on an empty clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.front = Front(self.clock)
        self.sites: dict[str, Any] = {name: self.front.site(name) for name in CHANNELS}
        for site in self.sites.values():
            site.doStart()

    def tearDown(self) -> None:
        for site in self.sites.values():
            site.doStop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def talk(self, *reads: bytes, on: str = "channel") -> Talk:
        talk = Talk(self.front, self.sites[on], reads)
        self.addCleanup(talk.end)
        return talk


def byte_by_byte(octets: bytes) -> Iterator[bytes]:
    return (octets[i : i + 1] for i in range(len(octets)))


class RowTestCase(TalkTestCase):
    """Rows on the daemon's channel."""

    def refused(self, row: Row, *reads: bytes, good: int = 0) -> None:
        """
        `row` is answered 400 and ends its connection, and nothing is forwarded but
        the `good` posts before it.
        """
        talk = Talk(self.front, self.sites["channel"], reads)
        answers = talk.answers
        codes = [answer.code for answer in answers]
        self.assertEqual(codes, [200] * good + [400], (row.name, reads))
        self.assertEqual(answers[-1].body.decode(), BAD_REQUEST.text + "\n", row.name)
        self.assertEqual(answers[-1].headers["connection"], "close", row.name)
        self.assertTrue(talk.wire.is_ended, row.name)
        self.assertEqual(talk.forwarded, FORWARDED * good, row.name)
        talk.end()


class RowTests(RowTestCase):
    """Each row is refused, however it comes."""

    def test_names(self) -> None:
        """There are rows, and no two of a name."""
        self.assertGreater(len(ROWS), 200)
        self.assertEqual(len({row.name for row in ROWS}), len(ROWS))
        self.assertEqual(len({row.octets for row in ROWS}), len(ROWS))

    def test_whole(self) -> None:
        """In one read."""
        for row in ROWS:
            self.refused(row, row.octets)

    def test_byte_by_byte(self) -> None:
        """In as many reads as there are bytes."""
        for row in ROWS:
            self.refused(row, *byte_by_byte(row.octets))

    def test_halves(self) -> None:
        """In two reads, cut anywhere from shortly before the wrong bytes on."""
        for row in ROWS:
            for cut in range(max(1, row.at - 20), len(row.octets)):
                self.refused(row, row.octets[:cut], row.octets[cut:])

    def test_request_behind(self) -> None:
        """A request behind it is neither answered nor forwarded."""
        for row in ROWS:
            self.refused(row, row.octets + SMUGGLED)
            self.refused(row, row.octets, SMUGGLED)
            self.refused(row, *byte_by_byte(row.octets + SMUGGLED))

    def test_request_before(self) -> None:
        """A good one before it is answered and forwarded, and it alone."""
        for row in ROWS:
            for good in (GOOD, GOOD_CHUNKED):
                octets = row.octets + SMUGGLED
                self.refused(row, good + octets, good=1)
                self.refused(row, good, octets, good=1)
                cut = row.at + 1
                self.refused(row, good + octets[:cut], octets[cut:], good=1)

    def test_request_before_that_takes_long(self) -> None:
        """What was read meanwhile is refused behind its answer, and never served."""
        self.front.deliverer.at_once = False
        for row in ROWS:
            for reads in (
                (GOOD + row.octets + SMUGGLED,),
                (GOOD, row.octets, SMUGGLED),
                (GOOD + row.octets[: row.at], row.octets[row.at :], SMUGGLED),
            ):
                talk = self.talk(*reads)
                self.assertEqual(talk.codes, [], row.name)
                (waiter,) = self.front.deliverer.waiters
                self.front.deliverer.waiters.clear()
                waiter.callback(None)
                self.assertEqual(talk.codes, [200, 400], row.name)
                self.assertTrue(talk.wire.is_ended, row.name)
                self.assertEqual(talk.forwarded, FORWARDED, row.name)
                self.assertEqual(self.front.deliverer.waiters, [], row.name)
                talk.end()

    def test_client_goes_on(self) -> None:
        """A client that goes on sending is not listened to, and then cut off."""
        for row in ROWS:
            talk = self.talk(row.octets)
            answered = talk.octets
            for _ in range(3):
                talk.send(SMUGGLED)
                self.clock.advance(LINGER_SECONDS / 4)
            self.assertFalse(talk.wire.is_aborted, row.name)
            self.assertEqual(talk.octets, answered, row.name)
            self.assertEqual(talk.forwarded, b"", row.name)
            self.clock.advance(LINGER_SECONDS / 4)
            self.assertTrue(talk.wire.is_aborted, row.name)

    def test_health(self) -> None:
        """So are those to other paths, when their headers are wrong."""
        count = 0
        for row in ROWS:
            for path in (b"/health", b"/nowhere"):
                octets = row.octets.replace(b"POST /logs", b"POST " + path, 1)
                if (
                    row.at < row.octets.index(b"ation/logplex-1")
                    or b"\r\n\r\n" not in (row.octets[: row.at])
                ):
                    self.refused(row, octets)
                    count += 1
        self.assertGreater(count, 200)

    def test_upgrade(self) -> None:
        """
        So are those that ask for another protocol, whose heads are read a second time.
        """
        asks = b"\r\nConnection: Upgrade\r\nUpgrade: h2c"
        for row in ROWS:
            octets = row.octets.replace(AUTHORIZATION, AUTHORIZATION + asks, 1)
            self.assertIn(asks, octets)
            self.refused(row, octets + SMUGGLED)
            self.refused(row, *byte_by_byte(octets + SMUGGLED))


class GoodTests(TalkTestCase):
    """What the rows spoil, and what is only unusual, is served."""

    def served(self, octets: bytes, forwarded: bytes = FORWARDED) -> None:
        for on in CHANNELS:
            for reads in ([octets], byte_by_byte(octets)):
                talk = self.talk(*reads, on=on)
                self.assertEqual(talk.stock_codes, [200], (on, octets))
                self.assertEqual(talk.forwarded, forwarded, (on, octets))

    def test_good(self) -> None:
        """The requests that rows are made of."""
        for octets in (GOOD, GOOD_CHUNKED, post(LENGTH, b"X: y")):
            self.served(octets)
        self.served(SMUGGLED, framed(stamped(b"smuggled")))

    def test_lengths(self) -> None:
        """Lengths with zeros in front, up to 18 digits, and white space around."""
        for value in (b"0" + SIZE, SIZE.zfill(18), b"  " + SIZE + b" \t", b"\t" + SIZE):
            self.served(post(b"Content-Length:" + value))

    def test_empty_lines(self) -> None:
        """An empty line in front, however it comes."""
        self.served(b"\r\n" + GOOD)

    def test_hosts(self) -> None:
        """Names, addresses and ports, and an empty one."""
        for host in (b"a-b.example.com:8080", b"[2001:db8::1]:80", b"", b"a_b%20c"):
            self.served(post(LENGTH, host=[b"Host: " + host]))

    def test_codings(self) -> None:
        """``chunked`` in any case, with white space around."""
        for value in (b"Chunked", b"CHUNKED", b"  chunked", b"chunked "):
            self.served(post(b"Transfer-Encoding:" + value, body=IN_CHUNKS))

    def test_chunks(self) -> None:
        """Sizes in capitals and with zeros in front, extensions and trailers."""
        size = b"%X" % len(BODY)
        for octets in (
            size + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
            b"0" + size + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
            size + b"\r\n" + BODY + b"\r\n000\r\n\r\n",
            size + b";a=b\r\n" + BODY + b"\r\n0\r\n\r\n",
            size + b'; a = "b";c\r\n' + BODY + b"\r\n0;d\r\n\r\n",
            size + b"\r\n" + BODY + b"\r\n0\r\nX: y\r\nZ: z\r\n\r\n",
        ):
            self.served(post(CHUNKED, body=octets))

    def test_values(self) -> None:
        """Empty values, tabs and bytes beyond ASCII in them."""
        for field in (
            b"X:",
            b"X: ",
            b"X: a\tb",
            b"X: \xe9\xff",
            b"X:y",
            b"!#$%&'*+: y",
        ):
            self.served(post(LENGTH, field))

    def test_old(self) -> None:
        """HTTP/1.0 needs no Host."""
        line = b"POST /logs HTTP/1.0"
        for host in ([], [HOST]):
            self.served(post(LENGTH, line=line, host=host))


class StricterTests(RowTestCase):
    """The daemon's channel takes less than it might, as the HTTP reference says."""

    def test_white_space(self) -> None:
        """White space before a chunk extension, a tab behind ``chunked``."""
        chunks = IN_CHUNKS.replace(b"\r\n", b" ;a\r\n", 1)
        octets = post(CHUNKED, body=chunks)
        self.refused(Row("extension", octets, 0, REFUSED), octets)
        octets = post(CHUNKED + b"\t", body=IN_CHUNKS)
        self.refused(Row("tab", octets, 0, SERVED), octets)


class TargetTests(TalkTestCase):
    """The absolute form of a target (RFC 9112 section 3.2.2), which channel knows."""

    def test_absolute(self) -> None:
        """Its path is what counts."""
        for target, code in (
            (b"http://logs.example.com/logs", 200),
            (b"HTTPS://logs.example.com:80/logs?a=b", 200),
            (b"http://logs.example.com", 404),
            (b"http://logs.example.com?/logs", 404),
            (b"http://logs.example.com/other", 404),
            (b"http:///logs", 200),
        ):
            line = b"POST " + target + b" HTTP/1.1"
            talk = self.talk(post(LENGTH, line=line))
            self.assertEqual(talk.codes, [code], target)


class StockTests(TalkTestCase):
    """twisted.web's own channel refuses the rows that the HTTP reference says."""

    def made_of(self, *reads: bytes) -> str:
        talk = self.talk(*reads, on="logs")
        if talk.stock_codes == [400] and talk.wire.is_ended:
            self.assertEqual(talk.forwarded, b"")
            return REFUSED
        return SERVED if talk.stock_codes else AWAITED

    def test_rows(self) -> None:
        """Each row is refused, served or awaited as it says, however it comes."""
        for row in ROWS:
            self.assertEqual(self.made_of(row.octets), row.stock, row.name)
            made = self.made_of(*byte_by_byte(row.octets))
            self.assertEqual(made, row.stock, row.name)

    def test_request_behind(self) -> None:
        """Nothing behind one that it refuses is served."""
        for row in ROWS:
            if row.stock == REFUSED:
                for reads in ((row.octets + SMUGGLED,), (row.octets, SMUGGLED)):
                    self.assertEqual(self.made_of(*reads), REFUSED, row.name)


class PastHolesTests(TalkTestCase):
    """What twisted.web's channel once did wrong, neither channel does."""

    def refused(self, octets: bytes) -> None:
        for on in CHANNELS:
            for reads in ([octets], byte_by_byte(octets)):
                talk = self.talk(*reads, on=on)
                self.assertEqual(talk.stock_codes, [400], (on, octets))
                self.assertTrue(talk.wire.is_ended, (on, octets))
                self.assertEqual(talk.forwarded, b"", (on, octets))

    def test_cve_2020_10108(self) -> None:
        """
        Of two Content-Lengths, of which the one says that a request follows and the
        other that it is a body, none is chosen.
        """
        empty = b"Content-Length: 0"
        whole = b"Content-Length: %d" % len(SMUGGLED)
        for fields in ((empty, whole), (whole, empty), (whole, whole)):
            self.refused(post(*fields, body=SMUGGLED))

    def test_cve_2020_10109(self) -> None:
        """
        Neither is a Content-Length or a Transfer-Encoding, where one hides a request
        in a body.
        """
        end = b"0\r\n\r\n"
        whole = b"Content-Length: %d" % len(end + SMUGGLED)
        short = b"Content-Length: %d" % len(end)
        for length in (whole, short, b"Content-Length: 0"):
            for fields in ((length, CHUNKED), (CHUNKED, length)):
                self.refused(post(*fields, body=end + SMUGGLED))

    def test_cve_2022_24801(self) -> None:
        """
        Numbers have no signs, prefixes or underscores, white space is space and tab
        alone, and a line of a chunk ends with CRLF.
        """
        for value in (b"+" + SIZE, b"-" + SIZE, b"0x86", b"1_34", b"\x0b" + SIZE):
            self.refused(post(b"Content-Length: " + value))
        for value in (b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"\x1cchunked"):
            self.refused(post(b"Transfer-Encoding: " + value, body=IN_CHUNKS))
        for size in (b"0x86", b"+86", b"-86", b"8_6", b" 86", b"86 "):
            chunks = size + b"\r\n" + BODY + b"\r\n0\r\n\r\n"
            self.refused(post(CHUNKED, body=chunks))
        for end in (b";\n", b";a=\n", b"\n", b";\nX: y\r\n"):
            chunks = b"86" + end + BODY + b"\r\n0\r\n\r\n"
            self.refused(post(CHUNKED, body=chunks))

    def pipelined(self, *reads: bytes) -> None:
        """
        Two posts and a health check between them, which could be answered at once,
        are answered one behind the other.
        """
        for on in CHANNELS:
            self.front.deliverer.at_once = False
            waiters = self.front.deliverer.waiters
            waiters.clear()
            talk = self.talk(*reads, on=on)
            self.assertEqual(talk.stock_codes, [], on)
            self.assertEqual(talk.forwarded, FORWARDED, on)
            waiters.pop().callback(None)
            self.assertEqual(talk.stock_codes, [200, 503], on)
            self.assertEqual(talk.forwarded, FORWARDED + framed(stamped(b"last")), on)
            waiters.pop().callback(None)
            self.assertEqual(talk.stock_codes, [200, 503, 200], on)
            self.assertEqual(waiters, [])

    def test_cve_2023_46137(self) -> None:
        """Pipelined requests of one read are served in their order."""
        self.front.connected = 0
        ready = b"GET /ready HTTP/1.1\r\nHost: h\r\n\r\n"
        last = request(framed(message(b"last")))
        self.pipelined(GOOD + ready + last)
        self.pipelined(GOOD, ready, last)
        self.pipelined(*byte_by_byte(GOOD + ready + last))

    def test_cve_2024_41671(self) -> None:
        """
        So are those of several reads, where chunks of a body end in the same read as
        the next begins.
        """
        self.front.connected = 0
        ready = b"GET /ready HTTP/1.1\r\nHost: h\r\n\r\n"
        last = request(chunks=[framed(message(b"last"))])
        octets = GOOD_CHUNKED + ready + last
        for cut in range(1, len(octets)):
            self.pipelined(octets[:cut], octets[cut:])

    def repeated_nowhere(self, octets: bytes) -> None:
        """Nothing between ``<`` and ``>`` is in an answer, and none is a page."""
        for on in CHANNELS:
            talk = self.talk(octets, on=on)
            self.assertNotEqual(talk.octets, b"", (on, octets))
            self.assertNotIn(b"<", talk.octets, (on, octets))
            self.assertNotIn(b"evil", talk.octets, (on, octets))
            for line in talk.octets.lower().split(b"\r\n"):
                self.assertFalse(line.startswith((b"location:", b"refresh:")), line)
                if line.startswith(b"content-type:"):
                    self.assertTrue(line.startswith(b"content-type: text/plain"), line)
            self.assertNotIn(True, [300 <= c < 400 for c in talk.stock_codes])

    def test_cve_2022_39348(self) -> None:
        """A Host is in no answer, whatever it is."""
        host = "<script>evil</script>"
        for path in ("/", "/logs", "/logs/evil", "/health", "/ready", "/x/y"):
            for method in ("GET", "POST", "PUT"):
                self.repeated_nowhere(
                    request(BODY, method=method, path=path, headers={"Host": host})
                )
        self.repeated_nowhere(request(BODY, path="/x", headers={"Host": "a, <evil>"}))

    def test_cve_2024_41810(self) -> None:
        """Nobody is sent elsewhere, and no path or query is in an answer."""
        for path in (
            "//evil.example.com/",
            "//evil.example.com/%2e%2e",
            "/logs?next=//evil.example.com/",
            '/logs"><script>evil</script>',
            "/<script>evil</script>",
            "/logs/<evil>/",
            "/health?<evil>",
            "/%3Cscript%3Eevil",
            "http://evil.example.com/logs",
            "/\\evil.example.com",
        ):
            for method in ("GET", "POST"):
                self.repeated_nowhere(request(BODY, method=method, path=path))
        for name in ("Referer", "X-Forwarded-Host", "X-Request-Id", "User-Agent"):
            for path in ("/", "/logs"):
                self.repeated_nowhere(
                    request(b"no frame", path=path, headers={name: "<evil>"})
                )
