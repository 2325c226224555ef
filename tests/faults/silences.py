"""
Scenarios: the receiver, or the way to it, falls silent; nobody says that it has.
"""

import time
from collections.abc import Callable

from tests.faults.intake import Intake
from tests.faults.load import Client, Load, Shape, request
from tests.faults.netns import Link
from tests.faults.receivers import Sink
from tests.faults.stage import Stage

#: An attempt to connect into the silence must not outlast it for long.
_CONNECT_TIMEOUT = "1"
#: Fills the kernel's buffers, 4.3 MB for each connection, in a few seconds.
_LARGE = Shape(messages=50, padding_bytes=1000, posts_per_second=100)
#: After a silence TCP tries again when it likes to: its pauses double.
_QUIET_SECONDS = 8.0
_REFUSED_TIMEOUT = "1"
_REFUSED = Shape(clients=10, messages=200, posts_per_second=0)
#: More than the kernel takes for a connection whose receiver is halted.
_FILLING = (60, 100_000)
_WITHDRAWN_CLIENTS = 12


def swallowed(stage: Stage) -> None:
    """A link drops what logiss sends, then heals."""
    _black_hole(stage, Link.drop_outgoing)


def unacknowledged(stage: Stage) -> None:
    """A link drops what the receiver sends, then heals."""
    _black_hole(stage, Link.drop_returning)


def _black_hole(stage: Stage, drop: Callable[[Link], None]) -> None:
    link = stage.stack.enter_context(Link())
    sink = stage.sink(host=link.inside, prefix=link.prefix)
    intake = stage.logiss(sink)
    load = stage.load(intake)
    for _ in range(stage.size.holes):
        stage.until_sent(stage.size.messages // (2 * stage.size.holes))
        dropped_at = time.monotonic()
        drop(link)
        time.sleep(stage.size.hole_seconds)
        stage.note_early()
        stage.noticed(dropped_at, stage.first_loss(intake, dropped_at))
        link.heal()
        stage.fresh(intake, time.monotonic())
    _top_up(stage, load)
    stage.finish(_QUIET_SECONDS)


def halted(stage: Stage) -> None:
    """The receiver is stopped for a while; its kernel goes on."""
    sink = stage.sink()
    intake = stage.logiss(
        sink, DELIVERY_TIMEOUT="2", FORWARD_DEST_CONNECT_TIMEOUT=_CONNECT_TIMEOUT
    )
    load = stage.load(intake, _LARGE)
    stage.until_sent(stage.size.messages // 2)
    halted_at = time.monotonic()
    sink.halt()
    time.sleep(stage.size.halt_seconds)
    stage.noticed(halted_at, stage.first_loss(intake, halted_at))
    sink.go_on()
    stage.fresh(intake, time.monotonic())
    _top_up(stage, load)
    stage.finish(_QUIET_SECONDS)


def _top_up(stage: Stage, load: Load) -> None:
    """Go on until enough messages were sent."""
    stage.until_sent(max(100, stage.size.messages - stage.ledger.sent()))
    load.stop()


def refused_then_healed(stage: Stage) -> None:
    """Nobody listens, POSTs fail; then somebody does: none of theirs arrives."""
    sink = Sink(stage.subfolder("sink"))
    stage.add(sink)
    intake = stage.starting(sink.destination, DELIVERY_TIMEOUT=_REFUSED_TIMEOUT)
    intake.wait_until_listening()
    load = stage.load(intake, _REFUSED)
    stage.until_sent(stage.size.messages)
    load.stop()
    stage.demand(
        not any(stage.ledger.answered(200)), "a POST was answered 200 without receiver"
    )
    sink.start()
    stage.fresh(intake, time.monotonic())
    stage.finish()


def halted_then_healed(stage: Stage) -> None:
    """
    One connection is full to a halted receiver, POSTs behind it fail; then the
    receiver goes on: none of theirs arrives.
    """
    sink = stage.sink("--receive-buffer", "4096")
    intake = stage.logiss(sink, FORWARD_COUNT="1", DELIVERY_TIMEOUT="2")
    rounds = 2 if stage.size.messages > 10_000 else 1
    each = stage.size.messages // (rounds * _WITHDRAWN_CLIENTS) + 1
    for _ in range(rounds):
        sink.halt()
        _fill(stage, intake)
        # All of them wait when the deadline of what fills the connection comes, and
        # theirs comes before there is another connection.
        load = stage.load(
            intake, Shape(_WITHDRAWN_CLIENTS, each, posts_per_second=0), ends_at=504
        )
        load.join()
        sink.go_on()
        stage.fresh(intake, time.monotonic())
    stage.finish()
    withdrawn = stage.row.counts.withdrawn
    stage.demand(
        withdrawn >= stage.size.messages // 2,
        f"only {withdrawn} messages were withdrawn: the scenario shows nothing",
    )


def _fill(stage: Stage, intake: Intake) -> None:
    """Begin a payload that the receiver will not take; its answer is not awaited."""
    client = Client(intake.port)
    stage.stack.callback(client.close)
    client.connect()
    post, body = stage.poster().new(*_FILLING)
    stage.poster().enter(post)
    client.send(request(post, body))
