"""
Scenarios: clients that go away or try again.
"""

import time

from tests.faults.intake import Intake
from tests.faults.load import Client, Poster, request
from tests.faults.stage import Stage, wait_until

#: A megabyte each, which is far more than what a process is not to keep.
_BODY = (25, 40_000)
_AT_ONCE = 20
#: Room for the bodies that are begun at once and little more: when what they held is
#: not given back, there is none left after a fifth of the short run.
_ROOM = {"MAX_BODY_BYTES": "2MiB", "MAX_INFLIGHT_BYTES": "24MiB"}
#: What an allocator may keep for later, beyond what it kept after the first rounds: it
#: has come to 17 MiB. Four times that is begun even in the short run.
_KEPT_BYTES = 32 * 1024 * 1024
_ROUNDS_BEFORE = 3
_ROUNDS = 12
_RETURN_SECONDS = 10.0
_RETRIED_MESSAGES = 25


def gone(stage: Stage) -> None:
    """Clients go away in the middle of a body."""
    sink = stage.sink()
    intake = stage.logiss(sink, **_ROOM)
    # What the first POSTs need stays.
    for _ in range(_ROUNDS_BEFORE):
        _go_away(stage, intake)
    before = intake.resident_bytes()
    enough = stage.ledger.sent() + _ROUNDS * _AT_ONCE * _BODY[0]
    while stage.ledger.sent() < max(stage.size.messages, enough):
        _go_away(stage, intake)
    returned = wait_until(
        lambda: intake.resident_bytes() <= before + _KEPT_BYTES, _RETURN_SECONDS
    )
    grown = (intake.resident_bytes() - before) >> 20
    stage.demand(returned, f"{grown} MiB more are in use than before")
    stage.row.facts.append(f"{grown} MiB more in use at the end")
    stage.fresh(intake, time.monotonic())
    stage.row.recover_seconds = None
    stage.finish()


def _go_away(stage: Stage, intake: Intake) -> None:
    """Begin bodies together; then half of the clients close, half are cut off."""
    poster = stage.poster()
    clients = [Client(intake.port) for _ in range(_AT_ONCE)]
    try:
        for client in clients:
            _begin(poster, client)
    finally:
        for client in clients[::2]:
            client.close()
        for client in clients[1::2]:
            client.reset()


def _begin(poster: Poster, client: Client) -> None:
    client.connect()
    post, body = poster.new(*_BODY)
    post.whole = False
    poster.enter(post)
    octets = request(post, body)
    # In the head, in a frame, or one octet short of the whole.
    ends = (len(octets) - len(body) - 1, len(octets) // 2, len(octets) - 1)
    client.send(octets[: ends[post.names[0].sequence // _BODY[0] % len(ends)]])


def retried(stage: Stage) -> None:
    """Each POST is sent twice at once and once again, with one frame id."""
    sink = stage.sink()
    intake = stage.logiss(sink)
    poster = stage.poster()
    clients = Client(intake.port), Client(intake.port)
    number = 0
    while stage.ledger.sent() < stage.size.messages:
        number += 1
        _post_three_times(poster, clients, f"{stage.run}{number:024x}", stage)
    for client in clients:
        client.close()
    stage.fresh(intake, time.monotonic())
    stage.row.recover_seconds = None
    stage.finish()


def _post_three_times(
    poster: Poster, clients: tuple[Client, Client], frame_id: str, stage: Stage
) -> None:
    post, body = poster.new(_RETRIED_MESSAGES)
    octets = request(post, body, Logplex_Frame_Id=frame_id)
    poster.enter(post)
    for client in clients:
        client.connect()
        client.send(octets)
    answers = [client.receive() for client in clients]
    answers.append(clients[0].post(octets))
    post.answered_at = time.monotonic()
    codes = [answer.code for answer in answers]
    post.code = 200 if 200 in codes else codes[0]
    stage.demand(codes == [200, 200, 200], f"a retry was answered {codes}")
    stage.demand(
        answers[2].headers.get(b"logiss-duplicate") == b"1",
        "a retry was not known again",
    )
