"""Bodies as they arrive: counted, inflated, paused, refused and let go."""

import gzip
import random
import zlib
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss import frames
from logiss.codec import rewrite
from logiss.inflate import PIECE_BYTES
from logiss.pool import NotDelivered
from logiss.site import READ_BYTES, READ_BYTES_TIGHT, ChannelSite
from tests.front import (
    TIMEOUT_SECONDS,
    Connection,
    Front,
    framed,
    message,
    request,
    stamped,
)

KIB = 1024
LIMIT = 1024 * KIB
BODY = framed(*[message(b"x" * 500)] * 400)
FORWARDED = framed(*[stamped(b"x" * 500)] * 400)
HALF = len(BODY) // 2
#: Not to be compressed, so that what arrives is what comes out.
NOISE = random.Random(1).randbytes(200 * KIB)


def frame_of(octets: bytes) -> bytes:
    return framed(*[message(octets[i : i + 1000]) for i in range(0, len(octets), 1000)])


class IntakeTestCase(SynchronousTestCase):
    """A front with little memory; each test ends with all of it given back."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.make()

    def use(self, **options: Any) -> None:
        """Another front."""
        self.finish()
        self.make(**options)

    def make(self, **options: Any) -> None:
        options.setdefault("max_inflight_bytes", LIMIT)
        options.setdefault("max_body_bytes", LIMIT)
        self.front = Front(self.clock, **options)
        self.budget = self.front.logs.budget
        self.site = cast(ChannelSite, self.front.site("channel"))
        self.taken = 0

    def tearDown(self) -> None:
        self.finish()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def finish(self) -> None:
        """End all connections to the front there is."""
        self.give(self.taken)
        self.assertEqual(self.budget.reserved_bytes, 0)
        self.assertEqual(self.front.drain.inside, 0)
        for channel in list(self.site.channels):
            channel.transport.loseConnection()
        while self.site.numPorts:
            self.site.doStop()

    def take(self, size: int) -> None:
        """Somebody else has `size` bytes."""
        self.taken += size
        self.budget.hold(size)

    def give(self, size: int) -> None:
        self.taken -= size
        self.budget.release(size)

    def connect(self) -> Connection:
        return Connection(self.site)

    def codes(self, connection: Connection) -> list[int]:
        return [answer.code for answer in connection.answers()]

    def is_reading(self, connection: Connection) -> bool:
        return bool(connection.transport.producerState == "producing")

    def gzipped(self, body: bytes, **options: Any) -> bytes:
        headers: dict[str, str | None] = {"Content-Encoding": "gzip"}
        return request(gzip.compress(body), headers=headers, **options)


class CountTests(IntakeTestCase):
    """What is there counts, as it is."""

    def test_as_it_arrives(self) -> None:
        """From the first byte of the body on, and not before."""
        connection = self.connect()
        octets = request(BODY)
        connection.send(octets[: -len(BODY)])
        self.assertEqual(self.budget.reserved_bytes, 0)
        connection.send(BODY[:HALF])
        self.assertEqual(self.budget.reserved_bytes, HALF)
        connection.send(BODY[HALF:])
        self.assertEqual(self.codes(connection), [200])
        self.assertEqual(self.front.deliverer.octets, FORWARDED)

    def test_while_it_is_delivered(self) -> None:
        """Then what it has become."""
        self.front.deliverer.at_once = False
        connection = self.connect()
        connection.send(request(BODY))
        self.assertEqual(self.budget.reserved_bytes, len(FORWARDED))
        self.front.deliverer.waiters[0].callback(None)

    def test_inflated(self) -> None:
        """Of a gzip body what has come out."""
        connection = self.connect()
        octets = self.gzipped(frame_of(NOISE))
        connection.send(octets[: len(octets) // 2])
        self.assertGreater(self.budget.reserved_bytes, len(NOISE) // 3)
        self.assertLess(self.budget.reserved_bytes, len(NOISE))
        connection.send(octets[len(octets) // 2 :])
        self.assertEqual(self.codes(connection), [200])

    def test_read_ahead(self) -> None:
        """So does what comes behind a post that is being served."""
        self.front.deliverer.at_once = False
        connection = self.connect()
        connection.send(request(BODY[:0] + framed(message())))
        before = self.budget.reserved_bytes
        connection.send(b"G" * 1000)
        self.assertEqual(self.budget.reserved_bytes, before + 1000)
        connection.hang_up()
        self.front.deliverer.waiters[0].cancel()

    def test_gone(self) -> None:
        """A client that goes away in mid-body gives all of it back."""
        for octets in (
            request(BODY),
            request(chunks=[BODY]),
            self.gzipped(BODY),
        ):
            connection = self.connect()
            connection.send(octets[:-1])
            self.assertGreater(self.budget.reserved_bytes, 0)
            connection.hang_up()
            self.assertEqual(self.budget.reserved_bytes, 0)
        self.assertEqual(self.front.deliverer.payloads, [])

    def test_goodbye(self) -> None:
        """So does one that is closed at the end of the drain."""
        connection = self.connect()
        connection.send(request(BODY)[:-1])
        connection.channel.close_when_done()
        self.assertEqual(self.budget.reserved_bytes, 0)
        self.assertEqual(self.codes(connection), [])

    def test_drained(self) -> None:
        """So does one whose body comes when the drain has begun."""
        for octets in (request(BODY), self.gzipped(BODY)):
            connection = self.connect()
            connection.send(octets[:-1])
            self.front.drain.begin(lambda: None)
            connection.send(octets[-1:])
            self.assertEqual(self.codes(connection), [503])
            self.assertEqual(self.budget.reserved_bytes, 0)
            self.use()

    def test_broken_chunks(self) -> None:
        """So does one whose chunks are none."""
        connection = self.connect()
        connection.send(request(chunks=[BODY])[:-5] + b"x\r\n")
        self.assertEqual(self.codes(connection), [400])

    def test_retry(self) -> None:
        """A retry holds nothing while it waits for the first."""
        self.front.deliverer.at_once = False
        headers: dict[str, str | None] = {"Logplex-Frame-Id": "0" * 32}
        first, second = self.connect(), self.connect()
        first.send(request(BODY, headers=headers))
        second.send(request(BODY, headers=headers))
        self.assertEqual(self.budget.reserved_bytes, len(FORWARDED))
        self.front.deliverer.waiters[0].callback(None)
        self.assertEqual(self.codes(second), [200])


class RoomTests(IntakeTestCase):
    """Bodies for which there is no room."""

    def begin(self, octets: bytes) -> Connection:
        """A post of which the last 100,000 bytes have not come."""
        connection = self.connect()
        connection.send(octets[:-100_000])
        return connection

    def test_paused(self) -> None:
        """Reading pauses, and goes on when there is room."""
        self.take(LIMIT)
        octets = request(BODY)
        connection = self.begin(octets)
        self.assertFalse(self.is_reading(connection))
        self.give(LIMIT)
        self.assertTrue(self.is_reading(connection))
        connection.send(octets[-100_000:])
        self.assertEqual(self.codes(connection), [200])
        self.assertEqual(self.front.deliverer.octets, FORWARDED)

    def test_refused(self) -> None:
        """After the delivery timeout it is 503, and nothing is kept."""
        self.take(LIMIT)
        connection = self.begin(request(BODY))
        self.clock.advance(TIMEOUT_SECONDS - 0.1)
        self.assertEqual(self.codes(connection), [])
        self.clock.advance(0.1)
        (answer,) = connection.answers()
        self.assertEqual(answer.code, 503)
        self.assertEqual(answer.headers["retry-after"], "1")
        self.assertEqual(answer.headers["connection"], "close")
        self.assertEqual(self.budget.reserved_bytes, LIMIT)
        (line,) = self.front.lines.having("post.code", "503")
        self.assertIn("memory budget", line["post.error"])

    def test_answered_at_once(self) -> None:
        """A post that is answered while there is no room keeps nobody from reading."""
        self.take(LIMIT * 3 // 4)
        connection = self.connect()
        for body, code in ((b"no frame", 400), (b" ", 200), (b"x" * 9000, 400)):
            connection.send(request(body))
            self.assertEqual(self.codes(connection), [code])
            self.assertTrue(self.is_reading(connection))

    def test_all_in_all(self) -> None:
        """However often there is a little room, it waits so long and no longer."""
        self.take(LIMIT)
        connection = self.begin(request(BODY))
        for _ in range(9):
            self.clock.advance(TIMEOUT_SECONDS / 10)
            self.give(LIMIT)
            self.take(LIMIT)
            self.assertTrue(self.is_reading(connection))
            connection.send(b"x" * 1000)
            self.assertFalse(self.is_reading(connection))
        self.clock.advance(TIMEOUT_SECONDS / 10)
        self.assertEqual(self.codes(connection), [503])

    def test_not_blamed(self) -> None:
        """A client that is not read from is not cut off for it."""
        self.use(delivery_timeout_seconds=100.0)
        self.take(LIMIT)
        connection = self.begin(request(BODY))
        for _ in range(90):
            self.clock.advance(1)
        self.assertTrue(connection.transport.connected)
        self.give(LIMIT)
        connection.send(BODY[-100_000:])
        self.assertEqual(self.codes(connection), [200])

    def test_gone(self) -> None:
        """A client that goes away while it waits gives its place up."""
        self.take(LIMIT)
        for octets in (request(BODY), self.gzipped(frame_of(NOISE))):
            connection = self.begin(octets)
            connection.hang_up()
            self.assertEqual(self.budget.reserved_bytes, LIMIT)

    def test_complete(self) -> None:
        """A body that is there does not wait for room to read more."""
        self.take(LIMIT * 7 // 8 - 1000)
        connection = self.connect()
        connection.send(request(framed(message(b"x" * 2000))))
        self.assertEqual(self.codes(connection), [200])

    def test_alone(self) -> None:
        """The largest body there may be finds room when it is alone."""
        body = framed(*[message(b"x" * 100_000)] * 10)
        body += framed(message(b"x" * (LIMIT - len(body) - 70)))
        for octets in (request(body), self.gzipped(body)):
            connection = self.connect()
            for start in range(0, len(octets), 60_000):
                self.assertTrue(self.is_reading(connection))
                connection.send(octets[start : start + 60_000])
            self.assertEqual(self.codes(connection), [200])

    def test_batch(self) -> None:
        """A batch that is much larger than its body waits for room first."""
        body = framed(*[b"<1>1 t h a p m"] * 5000)
        self.take(LIMIT - len(body))
        connection = self.connect()
        connection.send(request(body))
        self.assertEqual(self.front.deliverer.payloads, [])
        self.assertEqual(self.codes(connection), [])
        self.give(LIMIT - len(body))
        self.assertEqual(self.codes(connection), [200])
        self.assertGreater(len(self.front.deliverer.octets), 2 * len(body))

    def test_batch_refused(self) -> None:
        """It is 503 when there is none in time."""
        body = framed(*[b"<1>1 t h a p m"] * 5000)
        self.take(LIMIT - len(body))
        connection = self.connect()
        connection.send(request(body))
        self.clock.advance(TIMEOUT_SECONDS)
        self.assertEqual(self.codes(connection), [503])
        self.assertEqual(self.front.deliverer.payloads, [])

    def test_growth_is_bounded(self) -> None:
        """A batch is never larger than what was reserved for it."""
        logs = cast(Any, self.front.logs)
        token = b"t" * 255
        stamp = b'[origin ip="%b"]' % (b"1" * 200)
        growth = len(stamp) + len(token) + frames.GROWTH_MAX
        for header in (b"<1>1 t host a p m", b"<1>1 t    ", b"     "):
            for text in (b"", b" ", b" -", b" - ", b" text of words"):
                body = framed(*[header + text] * 50)
                batch = rewrite(body, stamp, token).octets
                most = logs._batch_bytes_max(body, growth)
                self.assertLessEqual(len(batch), most, (header, text))
                frames_max = len(body) // frames.BYTES_MIN
                self.assertLessEqual(most, len(body) + frames_max * growth)

    def test_tight(self) -> None:
        """From half of the memory on all clients are read from in small pieces."""
        early = self.connect()
        self.take(LIMIT // 2 + 1)
        late = self.connect()
        for connection in (early, late):
            transport = cast(Any, connection.transport)
            self.assertEqual(transport.bufferSize, READ_BYTES_TIGHT)
        self.give(self.taken)
        for connection in (early, late):
            transport = cast(Any, connection.transport)
            self.assertEqual(transport.bufferSize, READ_BYTES)

    def test_tight_read_ahead(self) -> None:
        """Then nothing is read ahead."""
        self.front.deliverer.at_once = False
        self.take(LIMIT // 2 + 1)
        connection = self.connect()
        connection.send(request(framed(message())))
        connection.send(b"G")
        self.assertFalse(self.is_reading(connection))
        self.front.deliverer.waiters[0].callback(None)
        self.assertTrue(self.is_reading(connection))


class GzipTests(IntakeTestCase):
    """Gzip bodies are inflated as they arrive, as far as there is room."""

    bomb = framed(message(b"x" * 100_000)) * 10

    def test_room(self) -> None:
        """No more comes out of a small read than there is room for."""
        self.take(LIMIT // 2)
        connection = self.connect()
        connection.send(self.gzipped(self.bomb))
        self.assertEqual(self.codes(connection), [])
        self.assertLess(self.budget.reserved_bytes, LIMIT * 7 // 8 + 2 * PIECE_BYTES)
        self.give(LIMIT // 2)
        self.assertEqual(self.codes(connection), [200])
        self.assertEqual(self.front.metrics.frames_delivered, 10)

    def test_no_room(self) -> None:
        """One for which there is none in time is 503."""
        self.take(LIMIT)
        connection = self.connect()
        connection.send(self.gzipped(self.bomb))
        self.assertLess(self.budget.reserved_bytes, LIMIT + PIECE_BYTES)
        self.clock.advance(TIMEOUT_SECONDS)
        self.assertEqual(self.codes(connection), [503])

    def test_gone_while_inflated(self) -> None:
        """A client that goes away while its whole body waits gives all back."""
        self.take(LIMIT)
        connection = self.connect()
        connection.send(self.gzipped(self.bomb))
        connection.hang_up()
        self.assertEqual(self.budget.reserved_bytes, LIMIT)
        (line,) = self.front.lines.having("post.code", "499")
        self.assertIn("client gone", line["post.error"])

    def test_broken(self) -> None:
        """What is not gzip is refused before its end."""
        connection = self.connect()
        octets = self.gzipped(BODY)
        connection.send(octets.replace(b"\x1f\x8b", b"\x1f\x8c")[:-50])
        (answer,) = connection.answers()
        self.assertEqual(answer.code, 400)
        self.assertEqual(answer.headers["connection"], "close")
        self.assertIn(b"not valid gzip", answer.body)

    def test_broken_after_a_wait(self) -> None:
        """So is what turns out so while it waits, before its end and at its end."""
        good = gzip.compress(frame_of(NOISE))
        for octets in (
            request(good[:-9], headers={"Content-Encoding": "gzip"}),
            request(good[:-8] + b"12345678", headers={"Content-Encoding": "gzip"}),
        ):
            self.take(LIMIT)
            connection = self.connect()
            connection.send(octets)
            self.give(LIMIT)
            self.assertEqual(self.codes(connection), [400])

    def test_too_large(self) -> None:
        """One that inflates to too much is refused as soon as it does."""
        self.use(max_body_bytes=LIMIT // 4)
        connection = self.connect()
        octets = self.gzipped(frame_of(NOISE * 2))
        connection.send(octets[: len(octets) * 3 // 4])
        self.assertEqual(self.codes(connection), [413])
        self.assertEqual(self.front.deliverer.payloads, [])

    def test_ratio(self) -> None:
        """The ratio of one that says its length is known at once, else at the end."""
        self.use(max_body_bytes=8 * LIMIT, max_inflight_bytes=64 * LIMIT)
        body = gzip.compress(framed(message(b"x" * 100_000)) * 30)
        headers: dict[str, str | None] = {"Content-Encoding": "gzip"}
        connection = self.connect()
        octets = request(body, headers=headers)
        connection.send(octets[:-10])
        self.assertEqual(self.codes(connection), [413])
        connection = self.connect()
        octets = request(headers=headers, chunks=[body])
        connection.send(octets[:-10])
        self.assertEqual(self.codes(connection), [])
        connection.send(octets[-10:])
        self.assertEqual(self.codes(connection), [413])

    def test_settings(self) -> None:
        """Ratio and members are what is configured."""
        for limits, code in (
            ({"max_gzip_ratio": 2000, "max_gzip_members": 2}, 200),
            ({"max_gzip_ratio": 2000, "max_gzip_members": 1}, 400),
            ({"max_gzip_ratio": 100}, 413),
        ):
            self.use(max_body_bytes=8 * LIMIT, max_inflight_bytes=64 * LIMIT, **limits)
            body = gzip.compress(framed(message(b"x" * 100_000)) * 15)
            body += gzip.compress(framed(message()))
            connection = self.connect()
            connection.send(request(body, headers={"Content-Encoding": "gzip"}))
            self.assertEqual(self.codes(connection), [code], limits)

    def test_frame_settings(self) -> None:
        """So are the number of frames and their length."""
        for limits, code in (
            ({"max_frames": 2}, 200),
            ({"max_frames": 1}, 413),
            ({"max_frame_bytes": 1024}, 200),
            ({"max_frame_bytes": 80}, 413),
        ):
            self.use(**limits)
            connection = self.connect()
            connection.send(request(framed(message(), message())))
            self.assertEqual(self.codes(connection), [code], limits)

    def test_retry_is_not_inflated(self) -> None:
        """A known retry is not inflated, unless its first has failed meanwhile."""
        self.front.deliverer.at_once = False
        headers: dict[str, str | None] = {
            "Logplex-Frame-Id": "0" * 32,
            "Content-Encoding": "gzip",
        }
        first, second = self.connect(), self.connect()
        octets = request(gzip.compress(BODY), headers=headers)
        first.send(octets)
        second.send(octets[:-10])
        self.assertLess(self.budget.reserved_bytes, len(FORWARDED) + len(octets))
        self.front.deliverer.waiters[0].errback(NotDelivered("too late"))
        second.send(octets[-10:])
        self.front.deliverer.waiters[1].callback(None)
        self.assertEqual(self.codes(second), [200])
        self.assertEqual(self.front.deliverer.payloads[1].octets, FORWARDED)


TEXTS = (b"x" * 5000, NOISE[:7000], b"a b c d " * 700)
_KINDS = st.tuples(
    st.integers(0, len(TEXTS) - 1),  # which text
    st.integers(1, 6),  # of how many frames
    st.sampled_from(["plain", "gzip", "cut"]),
    st.booleans(),  # chunked
    st.sampled_from([1000, 3000, 20_000]),  # sent at a time
)


def post_of(text: int, frames: int, coding: str, chunked: bool) -> bytes:
    body = framed(message(TEXTS[text])) * frames
    headers: dict[str, str | None] = {}
    if coding != "plain":
        headers["Content-Encoding"] = "gzip"
        body = zlib.compress(body, wbits=31)[: -3 if coding == "cut" else None]
    if chunked:
        return request(headers=headers, chunks=[body[:7], body[7:]])
    return request(body, headers=headers)


class ManyTests(SynchronousTestCase):
    """Many clients at once, of which some go away, and a backend that lags."""

    @given(
        st.sampled_from([50_000, 150_000]),
        st.lists(_KINDS, min_size=2, max_size=8),
        st.lists(st.integers(0, 255), max_size=60),
    )
    @settings(max_examples=80, deadline=None)
    def test_nothing_is_lost(
        self,
        limit: int,
        kinds: list[tuple[int, int, str, bool, int]],
        turns: list[int],
    ) -> None:
        """The bytes stay bounded, each post has an answer, and all is given back."""
        clock = Clock()
        front = Front(clock, max_inflight_bytes=limit, max_body_bytes=limit)
        front.deliverer.at_once = False
        site = cast(ChannelSite, front.site("channel"))
        budget = front.logs.budget
        clients = [Connection(site) for _ in kinds]
        rests = [post_of(*kind[:4]) for kind in kinds]
        # What one client has at once that was not reserved before.
        most = limit + len(kinds) * (20_000 + PIECE_BYTES)

        def turn(i: int, is_hanging_up: bool, is_delivering: bool) -> None:
            client, step = clients[i], kinds[i][4]
            if is_hanging_up:
                if client.transport.connected:
                    client.hang_up()
            elif rests[i] and client.transport.producerState == "producing":
                client.send(rests[i][:step])
                rests[i] = rests[i][step:]
            for waiter in front.deliverer.waiters:
                if is_delivering and not waiter.called:
                    waiter.callback(None)
            clock.advance(0.05)
            self.assertLessEqual(budget.reserved_bytes, most)

        for n in turns:
            turn(n % len(kinds), n > 250, n % 3 == 0)
        for n in range(100 * len(kinds)):
            turn(n % len(kinds), False, True)
        for client, kind in zip(clients, kinds, strict=True):
            codes = [answer.code for answer in client.answers()]
            if client.transport.connected or codes:
                self.assertIn(
                    codes, ([400], [503]) if kind[2] == "cut" else ([200], [503])
                )
                if client.transport.connected:
                    client.hang_up()
        self.assertEqual(budget.reserved_bytes, 0)
        self.assertEqual(front.drain.inside, 0)
        while site.numPorts:
            site.doStop()
        self.assertEqual(clock.getDelayedCalls(), [])
