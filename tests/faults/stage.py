"""
All that a scenario is played with: receivers, logiss, loads, and the row at the end.

What was started is ended with the stage, whatever happens.
"""

import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import frozen

from tests.faults.intake import Intake
from tests.faults.ledger import Arrivals, Ledger
from tests.faults.levels import Level
from tests.faults.load import Client, Load, Poster, Shape, request
from tests.faults.receivers import Receiver, Rsyslogd, Sink
from tests.faults.required import Row

#: How long nothing may arrive until what is missing is given up.
QUIET_SECONDS = 1.5
#: How long a receiver may take to read connections to their end.
_END_SECONDS = 3.0
_FRESH_SECONDS = 30.0
_FRESH_MESSAGES = 5
_POLL_SECONDS = 0.05


@frozen
class Size:
    """
    How much of everything.

    @ivar messages: at least so many in each scenario.
    @ivar load_seconds: how long a load lasts at least where something breaks again
        and again.
    @ivar halt_seconds: how long a receiver is halted.
    @ivar hole_seconds: how long a link drops one direction.
    @ivar holes: how often.
    @ivar drains: how often logiss is told to end.
    @ivar kills: how often it is killed.
    """

    name: str
    messages: int
    load_seconds: float
    halt_seconds: float
    hole_seconds: float
    holes: int
    drains: int
    kills: int


SHORT = Size("short", 5_000, 5.0, 7.0, 6.5, 1, 10, 3)
FULL = Size("full", 100_000, 30.0, 30.0, 8.0, 2, 100, 20)


class Stage:
    """
    @ivar row: filled in by the scenario, completed by `finish`.
    """

    def __init__(
        self, scenario: str, level: Level, size: Size, folder: Path, stack: ExitStack
    ) -> None:
        self.level = level
        self.size = size
        self.folder = folder
        self.stack = stack
        self.run = secrets.token_hex(4)
        self.ledger = Ledger()
        self.arrivals = Arrivals(self.run)
        self.row = Row(scenario, level.name, messages_min=size.messages)
        self.intakes: list[Intake] = []
        self._receivers: list[Receiver] = []
        self._loads: list[Load] = []
        self._drains = 0

    # what there is on it

    def sink(
        self, *options: str, host: str = "127.0.0.1", prefix: Sequence[str] = ()
    ) -> Sink:
        """A sink that listens."""
        sink = Sink(self.subfolder("sink"), host, prefix, options)
        self.add(sink)
        sink.start()
        return sink

    def rsyslogd(self) -> Rsyslogd:
        """An rsyslogd with the input that the level speaks to."""
        module = "imrelp" if self.level.scheme else "imptcp"
        rsyslogd = Rsyslogd(self.subfolder("rsyslogd"), module)
        self.add(rsyslogd)
        rsyslogd.start()
        return rsyslogd

    def receiver(self) -> Receiver:
        """What the level speaks to, where any receiver will do."""
        return self.rsyslogd() if self.level.scheme else self.sink()

    def add(self, receiver: Receiver) -> None:
        """A receiver that the scenario starts itself."""
        self._receivers.append(receiver)
        self.stack.callback(receiver.end, signal.SIGKILL)

    def starting(self, destinations: str, **variables: str) -> Intake:
        """A logiss that may be not yet up."""
        intake = Intake(self.level, self.subfolder("logiss"), destinations, variables)
        self.stack.callback(intake.stop)
        self.intakes.append(intake)
        self.row.delivery_timeout_seconds = intake.delivery_timeout_seconds
        return intake

    def logiss(self, receiver: Receiver, **variables: str) -> Intake:
        """A logiss with all its connections to `receiver`."""
        intake = self.starting(receiver.destination, **variables)
        intake.wait_until_usable()
        return intake

    def poster(self) -> Poster:
        self._drains += 1
        return Poster(self.run, self._drains, self.ledger)

    def load(
        self, intake: Intake, shape: Shape | None = None, ends_at: int | None = None
    ) -> Load:
        shape = shape or Shape()
        posters = [self.poster() for _ in range(shape.clients)]
        load = Load(intake.port, posters, shape, ends_at)
        self._loads.append(load)
        self.stack.callback(load.stop)
        return load

    def subfolder(self, name: str) -> Path:
        folder = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        return folder

    # what the scenario does and says

    def demand(self, fulfilled: bool, breach: str) -> None:
        if not fulfilled:
            self.row.breaches.append(breach)

    def unfinished(self, since: float) -> bool:
        """Whether a load that began at `since` has to go on."""
        return (
            time.monotonic() - since < self.size.load_seconds
            or self.ledger.sent() < self.size.messages
        )

    def until_sent(self, messages: int) -> None:
        """Wait until so many messages more have been sent."""
        enough = self.ledger.sent() + messages
        wait_until(lambda: self.ledger.sent() >= enough, 120)

    def recovered(self, since: float, at: float | None) -> None:
        """A POST sent after `since`, the end of a fault, was answered 200 `at`."""
        if at is not None:
            longest = self.row.recover_seconds or 0.0
            self.row.recover_seconds = max(longest, at - since)

    def noticed(self, since: float, at: float | None) -> None:
        """A connection broken by the fault of `since` was lost `at`."""
        if at is not None:
            self.row.notice_seconds = max(self.row.notice_seconds or 0.0, at - since)

    def first_loss(self, intake: Intake, since: float) -> float | None:
        """When the first backend connection after `since` was lost."""
        lost = intake.counted("forwarder.disconnect.success")
        return min((moment for moment in lost if moment >= since), default=None)

    def fresh(self, intake: Intake, since: float) -> None:
        """Post, as long as it takes, until a POST passes after the fault's end."""
        poster, client = self.poster(), Client(intake.port)
        deadline = time.monotonic() + _FRESH_SECONDS
        try:
            while time.monotonic() < deadline:
                client.connect()
                post, body = poster.new(_FRESH_MESSAGES)
                answer = poster.post(client, post, request(post, body))
                if answer is not None and answer.code == 200:
                    self.recovered(since, post.answered_at)
                    return
                time.sleep(_POLL_SECONDS)
            self.demand(False, "no fresh POST has passed")
        finally:
            client.close()

    # what has come of it

    def read(self) -> None:
        for receiver in self._receivers:
            receiver.read_into(self.arrivals)

    def note_early(self) -> None:
        """Count what has been answered 200 by now and has not arrived."""
        accepted = list(self.ledger.answered(200))
        self.read()
        self.row.early += sum(
            name not in self.arrivals.times for post in accepted for name in post.names
        )

    def settle(self, quiet_seconds: float = QUIET_SECONDS) -> None:
        """Wait until all that is owed has arrived, or nothing arrives any more."""
        arrived, last = -1, time.monotonic()
        while True:
            self.read()
            if not self.ledger.missing(self.arrivals):
                return
            now, total = time.monotonic(), self.arrivals.times.total()
            if total != arrived:
                arrived, last = total, now
            elif now - last > quiet_seconds:
                return
            time.sleep(_POLL_SECONDS * 2)

    def finish(self, quiet_seconds: float = QUIET_SECONDS) -> None:
        """End the loads, logiss and the receivers in this order, and fill the row."""
        for load in self._loads:
            load.stop()
        self.settle(quiet_seconds)
        for intake in self.intakes:
            if intake.process.poll() is None:
                intake.signal(signal.SIGTERM)
                code = intake.wait(intake.delivery_timeout_seconds + 10)
                self.demand(code == 0, f"logiss ended with {code}: {intake.said()}")
        for receiver in self._receivers:
            _end(receiver)
        self.read()
        self._fill_row()

    def _fill_row(self) -> None:
        begun = {request_id for intake in self.intakes for request_id in intake.begun()}
        row = self.row
        row.counts = self.ledger.counts(self.arrivals, begun)
        row.duplicate_bytes = self.arrivals.duplicate_bytes
        row.slowest_seconds = self.ledger.slowest_seconds()
        row.breaks += sum(
            len(intake.counted("forwarder.disconnect.success"))
            for intake in self.intakes
        )


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def staged(scenario: str, level: Level, size: Size) -> Iterator[Stage]:
    with (
        tempfile.TemporaryDirectory(prefix="logiss-faults-") as folder,
        ExitStack() as stack,
    ):
        yield Stage(scenario, level, size, Path(folder), stack)


def _end(receiver: Receiver) -> None:
    """Let it read all its connections to their end, then stop it."""
    if receiver.process is not None:
        wait_until(lambda: not receiver.connected(), _END_SECONDS)
        receiver.end()
