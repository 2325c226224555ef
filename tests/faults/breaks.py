"""
Scenarios: the receiver goes away, and comes back.
"""

import random
import signal
import time

from tests.faults.intake import Intake
from tests.faults.load import Shape
from tests.faults.receivers import Receiver, Sink
from tests.faults.stage import Stage, wait_until

#: Slow enough that there are unread bytes whenever it is killed: what comes within
#: 50 ms. It keeps up with the load, at 640 kB/s for each connection.
SLOW = ("--read-bytes", "32768", "--pause", "0.05")
_CONNECTED = "forwarder.connect.success"
#: At least, as it arrives.
_MESSAGE_BYTES = 150
_DOWN_SECONDS = 0.2
_FLAP_SECONDS = 0.2
_CONNECTS_PER_SECOND = 5.0


def closes_idle(stage: Stage) -> None:
    """Connections are closed at random while they are idle; then POSTs come."""
    sink = stage.sink("--idle-close", "0.005", "0.15")
    intake = stage.starting(sink.destination)
    intake.wait_until_listening()
    since = time.monotonic()
    # As long as the connections live, so that a POST often meets an end.
    shape = Shape(pause_seconds=lambda: random.uniform(0.0, 0.15))
    load = stage.load(intake, shape)
    while stage.unfinished(since):
        time.sleep(0.1)
    load.stop()
    stage.fresh(intake, time.monotonic())
    stage.finish()


def restarted(stage: Stage) -> None:
    """The receiver is restarted every 1-3 s under load."""
    broken_again_and_again(stage, stage.sink(), signal.SIGTERM)


def killed(stage: Stage) -> None:
    """The receiver, a slow one, is killed every 1-3 s under load."""
    broken_again_and_again(stage, stage.sink(*SLOW), signal.SIGKILL)


def rsyslogd_restarted(stage: Stage) -> None:
    """An rsyslogd is restarted every 1-3 s under load."""
    broken_again_and_again(stage, stage.rsyslogd(), signal.SIGTERM)


def rsyslogd_killed(stage: Stage) -> None:
    """An rsyslogd is killed every 1-3 s under load."""
    broken_again_and_again(stage, stage.rsyslogd(), signal.SIGKILL)


def one_of_several_dies(stage: Stage) -> None:
    """One of two destinations is killed under load, and comes back."""
    steady, dying = stage.sink(), stage.sink(*SLOW)
    intake = stage.starting(f"{steady.destination},{dying.destination}")
    intake.wait_until_usable()
    load = stage.load(intake)
    stage.until_sent(stage.size.messages // 3)
    _demand_share(stage, dying, "had no share while both were there")
    broken_at = time.monotonic()
    dying.end(signal.SIGKILL)
    wait_until(lambda: stage.first_loss(intake, broken_at) is not None, 10)
    stage.noticed(broken_at, stage.first_loss(intake, broken_at))
    stage.until_sent(stage.size.messages // 3)
    connected = len(intake.counted(_CONNECTED))
    dying.start()
    wait_until(
        lambda: len(intake.counted(_CONNECTED)) >= connected + intake.forward_count / 2,
        30,
    )
    before = dying.received_bytes()
    stage.until_sent(stage.size.messages // 3 + 1)
    _demand_share(stage, dying, "got its share not back", before)
    load.stop()
    refused = [post for post in stage.ledger.posts if post.code != 200]
    stage.demand(not refused, f"{len(refused)} POSTs were not taken by the other one")
    stage.finish()


def _demand_share(stage: Stage, sink: Sink, breach: str, before: int = 0) -> None:
    share_bytes = stage.size.messages * _MESSAGE_BYTES // 3 // 10
    stage.demand(
        wait_until(lambda: sink.received_bytes() - before > share_bytes, 10), breach
    )


def broken_again_and_again(
    stage: Stage, receiver: Receiver, number: signal.Signals, **variables: str
) -> None:
    """The receiver is ended by a signal every 1-3 s under load, and starts again."""
    intake = stage.logiss(receiver, **variables)
    load = stage.load(intake)
    since = time.monotonic()
    times = 0
    while stage.unfinished(since):
        time.sleep(random.uniform(1.0, min(3.0, stage.size.load_seconds / 3)))
        _break_once(stage, intake, receiver, number)
        times += 1
    load.stop()
    stage.fresh(intake, time.monotonic())
    stage.row.facts.append(f"{times} times")
    stage.finish()


def _break_once(
    stage: Stage, intake: Intake, receiver: Receiver, number: signal.Signals
) -> None:
    broken_at = time.monotonic()
    receiver.end(number)
    time.sleep(_DOWN_SECONDS)
    stage.noticed(broken_at, stage.first_loss(intake, broken_at))
    receiver.start()
    healed_at = time.monotonic()
    while stage.ledger.recovered_at(healed_at) is None:
        if time.monotonic() > healed_at + intake.delivery_timeout_seconds:
            return
        time.sleep(0.02)
    stage.recovered(healed_at, stage.ledger.recovered_at(healed_at))


def flaps(stage: Stage) -> None:
    """The listener comes and goes every 200 ms, its connections with it."""
    sink = stage.sink("--flap", f"{_FLAP_SECONDS:g}")
    intake = stage.starting(sink.destination)
    intake.wait_until_listening()
    since = time.monotonic()
    load = stage.load(intake)
    while stage.unfinished(since):
        time.sleep(0.1)
    lasted = time.monotonic() - since
    attempts = sum(
        moment >= since for moment in intake.counted("forwarder.connect.attempt")
    )
    each = attempts / intake.forward_count
    # The first attempts come at once.
    stage.demand(
        each <= _CONNECTS_PER_SECOND * lasted + 1,
        f"{each:.0f} connects of each connection in {lasted:.1f} s",
    )
    stage.row.facts.append(f"{each / lasted:.1f} connects/s of each connection")
    load.stop()
    stage.fresh(intake, time.monotonic())
    stage.finish()
