"""
Scenarios: logiss itself is ended.
"""

import signal
import subprocess
import time

from tests.faults.intake import Intake
from tests.faults.load import Shape
from tests.faults.receivers import Receiver
from tests.faults.required import GRACE_SECONDS
from tests.faults.stage import Stage

_FLAT_OUT = Shape(posts_per_second=0)


def drained(stage: Stage) -> None:
    """logiss gets SIGTERM under load, again and again."""
    receiver = stage.receiver()
    slowest = 0.0
    for _ in range(stage.size.drains):
        intake = stage.logiss(receiver)
        load = stage.load(intake, _FLAT_OUT, ends_at=503)
        stage.until_sent(stage.size.messages // stage.size.drains + 1)
        told_at = time.monotonic()
        intake.signal(signal.SIGTERM)
        _await_exit(stage, intake)
        slowest = max(slowest, time.monotonic() - told_at)
        load.stop()
    stage.row.facts.append(f"{stage.size.drains} times, the slowest in {slowest:.2f} s")
    _pass_once_more(stage, receiver)


def _await_exit(stage: Stage, intake: Intake) -> None:
    allowed = intake.delivery_timeout_seconds + GRACE_SECONDS
    try:
        code = intake.wait(allowed)
    except subprocess.TimeoutExpired:
        stage.demand(False, f"not ended {allowed:g} s after SIGTERM")
        return
    stage.demand(code == 0, f"ended with {code}: {intake.said()}")


def killed(stage: Stage) -> None:
    """logiss is killed under load, again and again."""
    receiver = stage.receiver()
    for _ in range(stage.size.kills):
        intake = stage.logiss(receiver)
        load = stage.load(intake, _FLAT_OUT)
        stage.until_sent(stage.size.messages // stage.size.kills + 1)
        intake.signal(signal.SIGKILL)
        intake.wait(10)
        load.stop()
    stage.row.facts.append(f"{stage.size.kills} times")
    _pass_once_more(stage, receiver)


def _pass_once_more(stage: Stage, receiver: Receiver) -> None:
    stage.fresh(stage.logiss(receiver), time.monotonic())
    # That is how long a new logiss takes to answer, not how long one is gone.
    stage.row.recover_seconds = None
    stage.finish()
