"""
Target: requests, against h11, however they are cut.

The octets are what a client sends. A site that serves everything shows what is read;
the daemon's own tree, with a deliverer that records, shows what becomes of posts.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from logiss import stamp
from logiss.answers import OK
from logiss.limits import ChannelLimits, Deadlines
from logiss.pool import NotDelivered
from logiss.site import ChannelSite
from tests import frames_oracle
from tests.front import PEER, Front
from tests.fuzz import h11_oracle
from tests.fuzz.h11_oracle import REWRITTEN, Answer, Request
from tests.fuzz.pieces import chance_of, cut, singly
from tests.test_channel import Wire

BYTES_MAX = 8 * 1024
MAX_BODY_BYTES = 2000
LATE_SECONDS = 5
#: So little that inputs of the usual size meet them.
BUFFER_BYTES = 500
TOO_LARGE_OR_BROKEN = {400, 413}
LIMITS = ChannelLimits(
    MAX_BODY_BYTES,
    read_ahead_bytes=300,
    deadlines=Deadlines(idle_seconds=20, header_seconds=2, body_seconds=4),
)

_Fields: TypeAlias = dict[bytes, list[bytes]]


def check(octets: bytes) -> None:
    """
    @raise Exception: a request is served that h11 reads otherwise or not at all, it
        depends on how the octets are cut, an answer is no HTTP, an answer is not true
        of what was delivered, or something stays behind.
    """
    octets = octets[:BYTES_MAX]
    read_by_h11 = list(h11_oracle.requests(octets))
    _check_reading(octets, read_by_h11)
    _check_posts(octets, read_by_h11)
    _check_leaving(octets)


@frozen
class Served:
    """
    A request that was served, or was refused on its headers.

    @ivar body: None where it was not looked at.
    """

    method: bytes
    target: bytes
    version: bytes
    fields: _Fields
    body: bytes | None

    @classmethod
    def of(cls, request: Any, body: bytes | None = None) -> "Served":
        fields = {name: list(values) for name, values in request.fields.items()}
        return cls(request.method, request.uri, request.clientproto, fields, body)


@frozen
class Outcome:
    """
    @ivar served: the requests, in order.
    @ivar sent: what was answered.
    @ivar is_closed: whether our side of the connection was ended.
    @ivar payloads: what was delivered.
    """

    served: list[Served]
    sent: bytes
    is_closed: bool
    payloads: list[bytes]


class _Recorder(Resource):
    """Serves every request, and keeps what it was."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.served: list[Served] = []

    def render(self, request: IRequest) -> int:
        lean: Any = request
        self.served.append(Served.of(lean, lean.content.read()))
        OK.write_to(lean)
        return NOT_DONE_YET


class _FrontSite(ChannelSite):
    """The daemon's tree; keeps each request whose headers it was asked about."""

    def __init__(self, front: Front, clock: Clock) -> None:
        fixed = {b"/logs": front.logs, b"/logs/": front.logs}
        super().__init__(
            front.root,
            clock,
            LIMITS,
            fixed,
            front.deliverer.delivery_level,
            front.logs.budget,
        )
        self.served: list[Served] = []

    def resource_for(self, request: Any) -> Any:
        self.served.append(Served.of(request))
        return super().resource_for(request)


class _NarrowWire(Wire):
    """A connection that soon says when its client reads too slowly."""

    def write(self, data: bytes) -> None:
        super().write(data)
        producer: Any = self.producer
        if len(self.buffered) > BUFFER_BYTES and producer and self.streaming:
            self.is_producer_paused = True
            producer.pauseProducing()


class _Client:
    """A connection to a site, whose kernel may take little at once."""

    def __init__(self, site: ChannelSite, room: int | None = None) -> None:
        self.site = site
        self.clock: Any = site.clock
        site.doStart()
        self.channel = site.buildProtocol(None)
        self.wire = _NarrowWire()
        self.wire.protocol = self.channel
        self.wire.room = room
        self.channel.makeConnection(self.wire)

    def send(self, pieces: Iterable[bytes], happens: Callable[[], bool]) -> None:
        """
        @param happens: lets something go on that reading may have paused for; says
            whether there was anything.
        """
        for piece in pieces:
            while not self.wire.is_reading and not self.wire.is_closed:
                assert happens(), "reading has paused for ever"
            self.send_one(piece)

    def send_one(self, piece: bytes) -> None:
        if self.wire.connected:
            self.channel.dataReceived(piece)
            self.run_turns()

    def run_turns(self) -> None:
        """What waits for its turn in the reactor has it."""
        clock = self.clock
        while any(call.getTime() <= clock.seconds() for call in clock.calls):
            clock.advance(0)

    def flush(self) -> bool:
        """The kernel takes what waits for it, if anything does."""
        waits = self.wire.is_writing
        self.wire.flush()
        self.run_turns()
        return waits

    def leave(self) -> None:
        """The client is gone: nothing may stay behind."""
        self.wire.lose()
        assert self.site.channels == set(), "the site has kept the channel"
        calls = self.clock.getDelayedCalls()
        assert len(calls) == 1, f"behind the connection: {calls}"
        self.site.doStop()
        assert self.clock.getDelayedCalls() == [], "the site has kept a timer"
        assert self.site.budget.reserved_bytes == 0, "bytes are reserved for nobody"


# what is read


def _check_reading(octets: bytes, read_by_h11: list[Request]) -> None:
    whole = _read([octets])
    _compare(whole.served, read_by_h11)
    _check_answers(whole, whole.served)
    _same(whole, _read(cut(octets, chance_of(octets))), "in pieces")
    _same(whole, _read(singly(octets)), "octet by octet")


def _read(pieces: Iterable[bytes]) -> Outcome:
    recorder = _Recorder()
    client = _Client(ChannelSite(recorder, Clock(), LIMITS, fixed={}))
    client.send(pieces, client.flush)
    outcome = Outcome(recorder.served, client.wire.sent, client.wire.is_closed, [])
    client.leave()
    return outcome


def _same(one: Outcome, other: Outcome, how: str) -> None:
    if one == other:
        return
    # Of a body that is too large and then malformed a large piece shows both at once.
    assert evolve(one, sent=b"") == evolve(other, sent=b""), (how, one, other)
    (*before, last), (*others, last_other) = (
        _check_answers(outcome, outcome.served) for outcome in (one, other)
    )
    assert before == others, (how, one, other)
    assert one.is_closed, (how, one, other)
    assert {last.code, last_other.code} == TOO_LARGE_OR_BROKEN, (how, one, other)


def _compare(served: list[Served], read_by_h11: list[Request]) -> None:
    if len(served) > len(read_by_h11):
        raise AssertionError(f"h11 does not read {served[len(read_by_h11)]}")
    for ours, its in zip(served, read_by_h11, strict=False):
        assert (ours.method, ours.target) == (its.method, its.target), (ours, its)
        assert _comparable(ours.fields) == _comparable(its.fields), (ours, its)
        # CONNECT has no body (RFC 9110 section 9.3.6), and is the end here.
        if ours.body is not None and ours.method != b"CONNECT":
            assert ours.body == its.body, (ours, its)


def _comparable(fields: _Fields) -> _Fields:
    # What asks for another protocol is served as if it had not.
    return {
        name: values
        for name, values in fields.items()
        if name not in (*REWRITTEN, b"upgrade")
    }


def _check_answers(outcome: Outcome, served: list[Served]) -> list[Answer]:
    """
    @param served: what is answered.
    @return: the answers in full. Each request has one, in order; what is no request
        may have another, and is the end.
    """
    methods = [request.method for request in served]
    found = list(h11_oracle.answers(outcome.sent, methods))
    answers = [answer for answer in found if answer.code != 100]
    for answer in answers:
        assert answer.code != 500, f"an error of our own: {answer}"
        assert b"logiss" in answer.fields[b"server"]
    return answers


# what becomes of posts


def _check_posts(octets: bytes, read_by_h11: list[Request]) -> None:
    whole = _posted([octets])
    _compare(whole.served, read_by_h11)
    answers = _check_answers(whole, whole.served)
    assert whole.payloads == list(_payloads_due(read_by_h11, whole, answers))
    chance = chance_of(octets)
    _same(whole, _posted(cut(octets, chance)), "in pieces")
    _same(whole, _posted(singly(octets), chance.randrange(99)), "octet by octet")
    later = _posted(cut(octets, chance), chance.randrange(300), _delivered)
    _check_later(whole, answers, later)
    _check_never(whole, _posted(cut(octets, chance), None, _not_delivered))


def _check_later(whole: Outcome, answers: list[Answer], later: Outcome) -> None:
    """
    Deliveries that take their time change little. Whoever has sent its body before we
    could say "go on" is not told to. Who is answered on its headers alone, but sends
    what is no HTTP before it can be, is told that. What follows the last request that
    is answered may have been read ahead, and asked about on its headers.
    """
    assert whole.served == later.served[: len(whole.served)], (whole, later)
    assert whole.payloads == later.payloads, (whole, later)
    assert whole.is_closed == later.is_closed
    answers_later = _check_answers(later, whole.served)
    assert len(answers) == len(answers_later), (whole, later)
    for one, other in zip(answers, answers_later, strict=True):
        is_last = one is answers[-1] and whole.is_closed
        excused = other.code == 400 or {one.code, other.code} == TOO_LARGE_OR_BROKEN
        assert one == other or (is_last and excused), (one, other)


def _check_never(whole: Outcome, never: Outcome) -> None:
    """Each delivery that fails is answered so, and nothing else changes its answer."""
    answers = _check_answers(never, whole.served)
    failed = [answer for answer in answers if answer.code == 504]
    assert len(failed) == len(never.payloads) >= len(whole.payloads), (whole, never)


def _delivered(waiter: Deferred[None]) -> None:
    waiter.callback(None)


def _not_delivered(waiter: Deferred[None]) -> None:
    waiter.errback(Failure(NotDelivered("no backend")))


def _posted(
    pieces: Iterable[bytes],
    room: int | None = None,
    end: Callable[[Deferred[None]], None] | None = None,
) -> Outcome:
    """
    @param end: ends each delivery, when nothing else is left to happen; by default they
        are delivered at once.
    """
    clock = Clock()
    front = Front(clock, max_body_bytes=MAX_BODY_BYTES)
    front.deliverer.at_once = end is None
    site = _FrontSite(front, clock)
    client = _Client(site, room)

    def happens() -> bool:
        for waiter in front.deliverer.waiters:
            if not waiter.called:
                (end or _delivered)(waiter)
                client.run_turns()
                return True
        return client.flush()

    client.send(pieces, happens)
    while happens():
        pass
    outcome = Outcome(
        site.served,
        client.wire.sent,
        client.wire.is_closed,
        [payload.octets for payload in front.deliverer.payloads],
    )
    client.leave()
    _check_empty(front)
    return outcome


def _check_empty(front: Front) -> None:
    assert front.drain.inside == 0, "a post has not left"


def _payloads_due(
    read_by_h11: list[Request], whole: Outcome, answers: list[Answer]
) -> Iterator[bytes]:
    """What must be delivered, of what was answered 200 to a post and of no more."""
    served = len(whole.served)
    is_half = served > 0 and read_by_h11[served - 1].body is None
    # What is no request may have an answer as well.
    assert served - is_half <= len(answers) <= served + 1, (served, answers)
    for request, answer in zip(read_by_h11, answers, strict=False):
        if request.method != b"POST" or not _is_for_logs(request.target):
            continue
        if answer.code != 200 or b"logiss-duplicate" in answer.fields:
            continue
        assert request.body is not None, "200 to half a body"
        if octets := _due(request, request.body):
            yield octets


def _is_for_logs(target: bytes) -> bool:
    path = re.sub(rb"(?i)\Ahttps?://[^/?]*", b"", target).partition(b"?")[0]
    segments = [unquote_to_bytes(segment) for segment in path.split(b"/")]
    return path[:1] == b"/" and segments[1:] in ([b"logs"], [b"logs", b""])


def _due(request: Request, body: bytes) -> bytes:
    encoding = b",".join(request.fields.get(b"content-encoding", ()))
    if encoding.strip().lower() == b"gzip" and body:
        body = _inflated(body)
    # As the documents say: several addresses are kept as they came.
    addresses = request.fields.get(b"x-forwarded-for", [])
    address = b", ".join(addresses) if any(addresses) else PEER.encode()
    tokens = request.fields.get(b"logplex-drain-token", [b""])
    return frames_oracle.rewrite(body, stamp.origin(address), tokens[0], False).octets


def _inflated(body: bytes) -> bytes:
    out = b""
    while body := body.lstrip(b"\0"):
        member = zlib.decompressobj(31)
        out += member.decompress(body)
        assert member.eof, "200 to half a member"
        body = member.unused_data
    return out


# what stays behind


def _check_leaving(octets: bytes) -> None:
    """The client goes anywhere in the middle, at once or after being silent."""
    chance = chance_of(octets)
    begun = octets[: chance.randrange(len(octets) + 1)]
    clock = Clock()
    front = Front(clock, max_body_bytes=MAX_BODY_BYTES)
    front.deliverer.at_once = False
    client = _Client(_FrontSite(front, clock), chance.choice((None, 0, 40)))
    for piece in cut(begun, chance):
        if client.wire.is_reading:
            client.send_one(piece)
    if chance.randrange(2):
        clock.pump([1.0] * LATE_SECONDS)
    client.leave()
    waiting = [w for w in front.deliverer.waiters if not w.called]
    assert waiting == [], "a delivery is waited for by nobody"
    _check_empty(front)
