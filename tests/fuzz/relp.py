"""
Target: a RELP server's answers, against the model and the twin.

The octets are what a server says, first to frames that were sent, then to open and to
close, then while more is sent. They are also taken for frames to send.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from logiss import codec, relp
from logiss.relp import (
    OPEN_RSP_BYTES_MAX,
    Broken,
    Client,
    Closed,
    Confirmed,
    Event,
    Refused,
    State,
)
from tests.fuzz import relp_model
from tests.fuzz.pieces import chance_of, cut, singly

_OFFERS = b"200 OK\nrelp_version=0\ncommands=syslog"
ACCEPTED = b"1 rsp %d %b\n" % (len(_OFFERS), _OFFERS)
_FIRST = 2

_Make: TypeAlias = Callable[[int], Client]


def check(octets: bytes) -> None:
    """
    @raise Exception: an event does not fit the answers, comes to another when the
        octets are cut or nothing is foreseen, or a frame gets lost.
    """
    chance = chance_of(octets)
    sent = chance.randrange(1, 30)
    expected = relp_model.codes(octets, set(range(_FIRST, _FIRST + sent)))
    for make, pieces in _ways(octets):
        client = _ready(make, window=30)
        _send(client, sent)
        assert _codes(_said(client, pieces)) == expected
        _check_complete(client, sent, len(expected))
    for begin in (_opening, _closing):
        _check_pieces(begin, octets, sent)
    _check_conversation(octets)
    _check_frames(octets)


# the ways to make the same client


def _pure(window: int) -> Client:
    return Client(window=window)


def _compiled(window: int) -> Client:
    return Client(
        window=window, syslog_frames=codec.syslog_frames, answers=codec.answers
    )


def _foreseeing_nothing(window: int) -> Client:
    return Client(window=window, answers=lambda first, end: b"")


_MADE: tuple[_Make, ...] = (_pure, _compiled, _foreseeing_nothing)


def _ways(octets: bytes) -> Iterator[tuple[_Make, Iterable[bytes]]]:
    """Clients and pieces that must come to the same."""
    yield _pure, [octets]
    yield _compiled, cut(octets, chance_of(octets))
    yield _compiled, singly(octets)
    yield _foreseeing_nothing, [octets]


def _ready(make: _Make, window: int) -> Client:
    client = make(window)
    client.open()
    client.receive(ACCEPTED)
    assert client.state is State.READY
    return client


def _opening(make: _Make, sent: int) -> Client:
    client = make(30)
    client.open()
    return client


def _closing(make: _Make, sent: int) -> Client:
    client = _ready(make, window=30)
    _send(client, sent)
    client.close()
    return client


def _send(client: Client, count: int) -> bytes:
    octets, sent, _ = client.send(b"1 m" * count)
    assert sent == count
    return octets


# what is said


def _said(client: Client, pieces: Iterable[bytes]) -> list[Event]:
    """All events of a server that says `pieces` and goes."""
    events = [event for piece in pieces for event in client.receive(piece)]
    # Of what is no whole frame no more is kept than may become one.
    assert len(client._buffer) <= OPEN_RSP_BYTES_MAX + 64
    events += client.end_of_stream()
    assert client.state in (State.BROKEN, State.CLOSED)
    assert isinstance(events[-1], Broken | Closed)
    assert not client.receive(b"2 rsp 6 200 OK\n"), "something behind the end"
    return events


def _codes(events: list[Event]) -> list[tuple[int, int]]:
    codes = []
    for event in events:
        if isinstance(event, Confirmed):
            codes += [(txnr, 200) for txnr in range(event.first, event.last + 1)]
        elif isinstance(event, Refused):
            codes.append((event.txnr, event.code))
            assert event.text.isprintable(), f"not fit for a line: {event}"
        elif isinstance(event, Broken):
            assert event is events[-1], "something behind the end"
            assert 0 < len(event.why) < 1000, event
            assert event.why.isprintable(), f"not fit for a line: {event}"
    return codes


def _check_complete(client: Client, sent: int, answered: int) -> None:
    assert client.unanswered == len(client.unanswered_txnrs()) == sent - answered


def _check_pieces(
    begin: Callable[[_Make, int], Client], octets: bytes, sent: int
) -> None:
    found: list[Any] = []
    for make, pieces in _ways(octets):
        client = begin(make, sent)
        events = _said(client, pieces)
        kinds = [type(e) for e in events if not isinstance(e, Confirmed)]
        found.append((_codes(events), kinds, client.unanswered_txnrs()))
    assert all(outcome == found[0] for outcome in found), found


def _check_conversation(octets: bytes) -> None:
    """Between the pieces more is sent, as much as there is room for."""
    found: list[Any] = []
    for make in _MADE:
        chance = chance_of(octets)
        window = chance.randrange(1, 9)
        client = _ready(make, window)
        written, codes, sent = [], [], 0
        for piece in cut(octets, chance):
            count = chance.randrange(client.room + 1)
            sent += count
            written.append(_send(client, count))
            codes += _codes(client.receive(piece))
            assert client.unanswered <= window
        _check_complete(client, sent, len(codes))
        found.append((written, codes, client.unanswered_txnrs()))
    assert all(outcome == found[0] for outcome in found), found


def _check_frames(octets: bytes) -> None:
    """Both twins make the same of octets that are to be sent."""
    chance = chance_of(octets)
    for count_max in (0, 1, 100):
        at = chance.choice((0, chance.randrange(len(octets) + 2)))
        found: list[Any] = []
        for syslog_frames in (relp.syslog_frames, codec.syslog_frames):
            try:
                found.append(syslog_frames(octets, at, count_max, 999_990))
            except ValueError as e:
                found.append(str(e))
        assert found[0] == found[1], (count_max, at, found)
