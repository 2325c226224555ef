"""
Shares one listening socket among processes and restarts the fallen.

The parent accepts nothing. It starts as many workers as there are to be, each of which
is a whole logiss, starts another in the place of one that has fallen, and replaces all
of them by new ones without a client noticing: the new ones are prepared, then take
posts, then the old ones leave.

The life of a worker, by its state::

    starting    is not prepared yet, or waits until all others are
    serving     takes posts
    leaving     lets no client in, and ends when the last has gone
    stopping    drains

Whoever ends without having been told to has fallen, and so has who crashes while it
leaves; in the place of that no other is started.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from attrs import Factory, define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater

from logiss.facts import Facts, IWatch, WorkerCounts, WorkerFacts
from logiss.history import Sample
from logiss.intercom import DIALECT, read
from logiss.l2met import EventLog
from logiss.processes import IProcess, IProcesses
from logiss.shares import make_table, strike_out
from logiss.takeover import VERSION
from logiss.totals import (
    Gone,
    Living,
    cpu_by_worker,
    posts_by_worker,
    sum_facts,
    sum_samples,
)

#: A worker that has taken posts for so long was no false start.
PROVEN_SECONDS = 10.0
#: The pause before another one is started grows from here, doubling, ...
PAUSE_SECONDS = 0.5
#: ... to here.
PAUSE_SECONDS_MAX = 30.0
#: So many false starts of each in a row, while none serves for long, are the end.
FALLS_MAX = 5
#: How long new workers may take until each has said something: where there are many on
#: a fraction of a CPU, the mere start takes long.
START_SECONDS = 60.0
#: How long from then on until they could deliver a post.
PREPARE_SECONDS = 20.0
#: How long they may take until one of them takes posts, when all could deliver them.
ACCEPT_SECONDS = 5.0
#: A worker of which nothing is heard for so long is ended: it would never answer.
SILENT_SECONDS = 30
#: But before it has said anything, so long.
SILENT_SECONDS_AT_START = 120
#: How much longer than it should a worker may take to drain, or to die.
GRACE_SECONDS = 5.0

_BEAT_SECONDS = 1.0
_POLL_SECONDS = 0.05

STARTING, SERVING, LEAVING, STOPPING = "starting", "serving", "leaving", "stopping"
_FALLEN = "fallen"


class NotRenewed(Exception):
    """The old workers stay. Says why, on one line."""


@define(eq=False)
class Worker:
    """
    One worker, as its parent sees it.

    @ivar has_spoken: it has said whether it could.
    @ivar is_prepared: it has said that it could deliver a post.
    @ivar said_to_have: whether it has a backend connection, and its credentials; older
        versions do not say.
    @ivar has_accepted: it has said that it takes posts: there may be some to lose.
    @ivar understands: which version of what parents hand over its code understands.
    @ivar is_on_trial: it has not been told to take posts: nothing is lost with it.
    @ivar is_held: it is to take posts as soon as it can deliver them.
    @ivar quiet_beats: so often it has said nothing.
    @ivar first_heard_at: when it has said something for the first time.
    @ivar drain_seconds: how long it may take to drain, by what it was started with.
    """

    number: int
    generation: int
    started_at: float
    since: float
    state: str = STARTING
    has_spoken: bool = False
    is_prepared: bool = False
    said_to_have: tuple[bool, bool] | None = None
    has_accepted: bool = False
    understands: int | None = None
    is_on_trial: bool = True
    is_held: bool = False
    is_ended: bool = False
    quiet_beats: int = 0
    first_heard_at: float | None = None
    clients: int = 0
    posts: int = 0
    drain_seconds: float | None = None
    facts: Facts | None = None
    sample: Sample | None = None
    process: IProcess = Factory(lambda: None)  # type: ignore[assignment]

    @property
    def has(self) -> tuple[bool, bool]:
        """Whether a backend connection, and whether its credentials."""
        return self.said_to_have or (self.is_prepared, self.is_prepared)

    def enter(self, state: str, at: float) -> None:
        self.state, self.since = state, at


@define(eq=False)
class Plan:
    """
    What a generation of workers is started with.

    @ivar listener: a descriptor.
    @ivar drain_seconds: how long one may take to drain, and @ivar leave_seconds how
        long a client that has nothing to send may stay when it leaves.
    """

    count: int
    listener: int
    environ: Mapping[str, str] = field(repr=False)
    drain_seconds: float
    leave_seconds: float


class Workers:
    """
    @param on_given_up: called when no worker can be started.
    @ivar falls: how often workers of a number have ended unasked, or not well.
    @ivar on_serving: called when one of them takes posts for the first time.
    @ivar own: knows of what the parent itself serves, if it does.
    @ivar own_has: whether the parent, serving by itself, has a backend connection, and
        whether it has its credentials.
    """

    def __init__(
        self,
        clock: IReactorTime,
        processes: IProcesses,
        events: EventLog,
        plan: Plan,
        on_given_up: Callable[[], None],
        generation: int = 0,
        gone: Gone | None = None,
        shares: int | None = None,
    ) -> None:
        self._clock = clock
        self._processes = processes
        self._events = events
        self.plan = plan
        self._is_renewing = False
        self._on_given_up = on_given_up
        self.generation = generation
        self.gone = gone or Gone()
        self.shares = make_table(plan.count) if shares is None else shares
        self.workers: list[Worker] = []
        self.falls: dict[int, int] = {}
        self._last_fall_at: dict[int, float] = {}
        self._missing_since: dict[int, float] = {}
        self._false_starts: dict[int, int] = {}
        # Of all, since one has served for long.
        self._false_starts_in_a_row = 0
        self._restarts: dict[int, IDelayedCall] = {}
        self._is_stopping = False
        self._has_failed = False
        self._beat = LoopingCall(self._beaten)
        self._beat.clock = clock
        self.started_at = clock.seconds()
        self.on_serving: Callable[[], None] | None = None
        self.own: IWatch | None = None
        self.own_has = (False, False)

    # what is asked from outside

    def start(self) -> None:
        """Start the first workers; each takes posts as soon as it can."""
        self.watch()
        for number in range(1, self.plan.count + 1):
            self._start_worker(number)

    def watch(self) -> None:
        if not self._beat.running:
            self._beat.start(_BEAT_SECONDS, now=False)
            served = {worker.number for worker in self.living(SERVING)}
            for number in range(1, self.plan.count + 1):
                if number not in served:
                    self._miss(number)

    def adopt(self, worker: Worker, start: Callable[[Any, Any], IProcess]) -> None:
        """
        Take over a worker of the process that this one was before, which may not have
        been told all that was said to it.
        """
        worker.has_accepted = True
        worker.first_heard_at = self._clock.seconds()
        self._connect(worker, start)
        self.workers.append(worker)
        if worker.state == SERVING:
            self._missing_since.pop(worker.number, None)
        if worker.state == LEAVING:
            self._have_leave(worker, self.plan.leave_seconds)
        elif worker.state == STARTING:
            self._let_in(worker)
        else:
            self._have_accept(worker)

    def fill_up(self) -> None:
        """Start those who have fallen and whom nothing starts again."""
        there = {worker.number for worker in self.living(STARTING, SERVING)}
        for number in range(1, self.plan.count + 1):
            if number not in there and number not in self._restarts:
                self._start_worker(number)

    def own_has_gone(self, facts: Facts, sample: Sample) -> None:
        """The parent does not serve any more."""
        self.own = None
        self.gone = self.gone.with_one_more(0, facts, sample)

    def lines_dropped(self, count: int) -> None:
        """So many of the parent's own lines were not read in time."""
        self.gone = self.gone.with_lines_dropped(count)

    def living(self, *states: str) -> list[Worker]:
        return [w for w in self.workers if w.state in states]

    async def renew(self, plan: Plan) -> None:
        """
        Start new workers by `plan`, have them take posts when all of them could deliver
        one, and have the old ones leave when they do take them.

        @raise NotRenewed: one of them could not; nothing has changed.
        """
        generation, shares = self.generation + 1, make_table(plan.count)
        new: list[Worker] = []
        self._is_renewing = True
        try:
            for number in range(1, plan.count + 1):
                new.append(self._begin(number, plan, generation, shares))
            await self._until_prepared(new)
            for worker in new:
                self._have_accept(worker)
            await self._until_accepting(new)
        except (NotRenewed, OSError) as e:
            os.close(shares)
            await self._dismiss(new)
            raise NotRenewed(str(e)) from None
        finally:
            self._is_renewing = False
        self._go_over_to(plan, generation, shares, new)

    def _go_over_to(
        self, plan: Plan, generation: int, shares: int, new: list[Worker]
    ) -> None:
        self._forget_restarts()
        os.close(self.shares)
        self._false_starts.clear()
        self._false_starts_in_a_row = 0
        before, self.plan = self.plan, plan
        self.generation, self.shares = generation, shares
        for worker in self.living(STARTING, SERVING):
            if worker.generation != generation:
                self._have_leave(worker, before.leave_seconds)
        for worker in new:
            if worker.is_ended:
                strike_out(shares, worker.number - 1)
                self._fallen(worker)
            elif worker.state == STARTING:
                self._miss(worker.number)

    async def stop(self) -> bool:
        """
        Have all workers drain.

        @return: whether each of them has done so.
        """
        self._is_stopping = True
        self._forget_restarts()
        for worker in self.workers:
            worker.enter(STOPPING, self._clock.seconds())
            if worker.is_on_trial:
                worker.process.kill()
            else:
                worker.process.intercom.say("stop")
        await self._until_ended(self._longest_drain_seconds() + GRACE_SECONDS)
        for worker in self.workers:
            self._has_failed = True
            self._events.worker_silent(worker.number, worker.process.pid, True)
            worker.process.kill()
        await self._until_ended(GRACE_SECONDS)
        if self._beat.running:
            self._beat.stop()
        return not self._has_failed

    def _longest_drain_seconds(self) -> float:
        """Those who leave may have been started with another plan."""
        own = (w.drain_seconds for w in self.workers if w.drain_seconds is not None)
        return max([self.plan.drain_seconds, *own])

    async def _until_ended(self, within_seconds: float) -> None:
        deadline = self._clock.seconds() + within_seconds
        while self.workers and self._clock.seconds() < deadline:
            await self._pause()

    def kill(self) -> None:
        """End all of them at once."""
        for worker in self.workers:
            worker.process.kill()

    def facts(self, base: Facts) -> Facts:
        """
        What is the case with all of them.

        @param base: what is the case without any.
        """
        told = self._told()
        facts = sum_facts(base, told, self.gone)
        self.gone.name(facts.metrics)
        return evolve(
            facts,
            started_at=self.started_at,
            workers=self.rows(),
            workers_wanted=self.plan.count,
            worker_counts=self._counts(told),
        )

    def sample(self) -> Sample:
        """What the counters of all are."""
        samples = [w.sample for w in self.workers if w.sample is not None]
        if self.own is not None:
            samples.append(self.own.sample())
        total = sum_samples(self._clock.seconds(), samples, self.gone)
        return evolve(total, worker_falls=sum(self.falls.values()))

    def rows(self) -> tuple[WorkerFacts, ...]:
        """Each that there is, and each that is to be started again."""
        there = [
            WorkerFacts(
                w.number,
                w.process.pid,
                w.state,
                w.since,
                self.falls.get(w.number, 0),
                w.clients,
                w.posts,
            )
            for w in self.workers
        ]
        fallen = [
            WorkerFacts(
                number,
                0,
                _FALLEN,
                self._last_fall_at.get(number, self.started_at),
                self.falls.get(number, 0),
            )
            for number in self._restarts
        ]
        return tuple(sorted([*there, *fallen], key=lambda row: (row.number, row.since)))

    def _told(self) -> list[Living]:
        told = [
            Living(w.number, w.state == SERVING, w.facts)
            for w in self.workers
            if w.facts is not None
        ]
        if self.own is not None:
            told.append(Living(0, False, self.own.facts()))
        return told

    def _counts(self, told: list[Living]) -> tuple[WorkerCounts, ...]:
        posts = posts_by_worker(told, self.gone)
        cpu_seconds = cpu_by_worker(told, self.gone)
        wanted = range(1, self.plan.count + 1)
        return tuple(
            WorkerCounts(
                number,
                self.falls.get(number, 0),
                posts.get(number, 0),
                cpu_seconds.get(number, 0.0),
                self._last_fall_at.get(number),
                self._missing_since.get(number) if number in wanted else None,
            )
            for number in sorted({*wanted, *self.falls, *posts})
        )

    # starting

    def _start_worker(self, number: int) -> None:
        self._restarts.pop(number, None)
        try:
            worker = self._begin(number, self.plan, self.generation, self.shares)
        except OSError as e:
            self._events.worker_not_started(number, e.strerror or str(e))
            self._note_fall(number)
            self._start_again(number)
            return
        self._let_in(worker)

    def _begin(self, number: int, plan: Plan, generation: int, shares: int) -> Worker:
        now = self._clock.seconds()
        worker = Worker(number, generation, now, now, drain_seconds=plan.drain_seconds)
        self._connect(
            worker,
            lambda on_message, on_end: self._processes.start(
                number, plan.listener, shares, plan.environ, on_message, on_end
            ),
        )
        self.workers.append(worker)
        pid = worker.process.pid
        self._events.phase_reached("workers", "start", number=number, pid=pid)
        return worker

    def _connect(self, worker: Worker, start: Callable[[Any, Any], IProcess]) -> None:
        """Give `worker` its process."""
        worker.process = start(
            lambda message: self._heard(worker, message), lambda: self._ended(worker)
        )

    def _let_in(self, worker: Worker) -> None:
        """
        Have `worker` take posts, if need be when it can deliver them: having no client,
        it would get each new one, although others could serve it.
        """
        worker.is_on_trial, worker.is_held = False, True
        self._miss(worker.number)
        self._let_in_held()

    def _let_in_held(self) -> None:
        could = any(worker.is_prepared for worker in self.living(SERVING))
        for worker in self.living(STARTING):
            if worker.is_held and (worker.is_prepared or not could):
                self._have_accept(worker)

    def _have_accept(self, worker: Worker) -> None:
        worker.is_on_trial = worker.is_held = False
        worker.process.intercom.say("accept")

    def _have_leave(self, worker: Worker, within_seconds: float) -> None:
        worker.is_held = False
        worker.enter(LEAVING, self._clock.seconds())
        worker.process.intercom.say("leave", within_seconds)

    async def _until_prepared(self, new: list[Worker]) -> None:
        """Wait until the new ones are no worse than the old ones."""
        since = self._clock.seconds()
        while not self._are_no_worse(new):
            self._check_time(new, since)
            await self._pause()

    def _check_time(self, new: list[Worker], since: float) -> None:
        """
        @raise NotRenewed: they have had enough of it.
        """
        now = self._clock.seconds()
        heard = [w.first_heard_at for w in new if w.first_heard_at is not None]
        if len(heard) < len(new):
            if now >= since + START_SECONDS:
                raise NotRenewed(
                    f"the new workers have not started within {START_SECONDS:g} s: the"
                    " machine is too slow or too busy for so many"
                )
        elif now >= max(heard) + PREPARE_SECONDS:
            raise NotRenewed(
                f"the new workers could not deliver within {PREPARE_SECONDS:g} s:"
                " no backend connection is usable, or the credentials could not"
                " be read"
            )

    def _are_no_worse(self, new: list[Worker]) -> bool:
        if self._is_stopping:
            raise NotRenewed("the process is told to stop")
        for worker in new:
            _check_new(worker)
        old = [w for w in self.living(STARTING, SERVING) if w not in new]
        # What one of the old ones has, each of the new ones is to have.
        wanted = [
            any(had) for had in zip(self.own_has, *(w.has for w in old), strict=True)
        ]
        return all(
            worker.has_spoken
            and all(
                has or not want for has, want in zip(worker.has, wanted, strict=True)
            )
            for worker in new
        )

    async def _until_accepting(self, new: list[Worker]) -> None:
        """Wait until there is one of the new ones to take posts, for all if need be."""
        deadline = self._clock.seconds() + ACCEPT_SECONDS
        while any(w.state == STARTING and not w.is_ended for w in new):
            if self._is_stopping or self._clock.seconds() >= deadline:
                break
            await self._pause()
        if self._is_stopping:
            raise NotRenewed("the process is told to stop")
        if not any(w.state == SERVING and not w.is_ended for w in new):
            raise NotRenewed(
                "no new worker has begun to take posts; the lines above say why"
            )

    async def _dismiss(self, new: list[Worker]) -> None:
        """They have accepted nobody, so that nothing is lost with them."""
        if self._is_stopping and not any(worker.is_on_trial for worker in new):
            # They have taken posts, and drain.
            return
        for worker in new:
            worker.enter(STOPPING, self._clock.seconds())
            worker.process.kill()
        while any(not worker.is_ended for worker in new):
            await self._pause()

    def _pause(self) -> Deferred[None]:
        return deferLater(self._clock, _POLL_SECONDS)

    # what workers say

    def _heard(self, worker: Worker, message: tuple[Any, ...]) -> None:
        worker.quiet_beats = 0
        if worker.first_heard_at is None:
            worker.first_heard_at = self._clock.seconds()
        match message:
            case ("understands", int(version)):
                worker.understands = version
            case ("has", bool(connection), bool(credentials)):
                worker.said_to_have = connection, credentials
            case ("prepared", bool(is_prepared)):
                worker.has_spoken, worker.is_prepared = True, is_prepared
                self._let_in_held()
            case ("accepts",):
                worker.has_accepted = True
                if worker.state == STARTING:
                    worker.enter(SERVING, self._clock.seconds())
                    self._missing_since.pop(worker.number, None)
                on_serving, self.on_serving = self.on_serving, None
                if on_serving is not None:
                    on_serving()
            case ("told", str(dialect), int(clients), int(posts), bytes(more)):
                worker.clients, worker.posts = clients, posts
                if more and dialect == DIALECT:
                    worker.facts, worker.sample = read(more)

    def _beaten(self) -> None:
        for worker in list(self.workers):
            worker.quiet_beats += 1
            if worker.quiet_beats > 1 and worker.process.exit_code() is not None:
                # Its last words have been heard by now.
                self._reap(worker)
            elif worker.quiet_beats == _silent_seconds(worker):
                self._events.worker_silent(worker.number, worker.process.pid)
                worker.process.kill()

    # the end of a worker

    def _ended(self, worker: Worker) -> None:
        """Its end of the intercom is closed: it ends, or has."""
        self._clock.callLater(0, self._reap, worker)

    def _reap(self, worker: Worker) -> None:
        if worker not in self.workers:
            return
        code = worker.process.exit_code()
        if code is None:
            # It has let go of the intercom and is about to end.
            self._clock.callLater(_POLL_SECONDS, self._reap, worker)
            return
        worker.is_ended = True
        self.workers.remove(worker)
        worker.process.let_go()
        if worker.generation == self.generation:
            strike_out(self.shares, worker.number - 1)
        number, pid = worker.number, worker.process.pid
        # Minus the signal, where a signal has ended it.
        self._events.phase_reached("workers", "exit", number=number, pid=pid, code=code)
        if worker.facts is not None and worker.sample is not None:
            self.gone = self.gone.with_one_more(
                worker.number, worker.facts, worker.sample
            )
        is_new = worker.generation > self.generation and not self._is_stopping
        if worker.is_on_trial or is_new:
            # Whoever tries it sees that.
            return
        if worker.state in (STARTING, SERVING):
            self._fallen(worker)
            self._let_in_held()
        elif code and worker.state == LEAVING:
            self._count_fall(number)
            self._events.worker_fallen(number, None)
        elif code and self._is_stopping and worker.has_accepted:
            self._has_failed = True

    def _fallen(self, worker: Worker) -> None:
        self._note_fall(worker.number)
        if self._is_stopping:
            return
        if self._is_proven(worker):
            self._false_starts[worker.number] = self._false_starts_in_a_row = 0
        self._start_again(worker.number)

    def _miss(self, number: int) -> None:
        """Of this number there should be one that takes posts."""
        self._missing_since.setdefault(number, self._clock.seconds())

    def _note_fall(self, number: int) -> None:
        self._count_fall(number)
        self._miss(number)

    def _count_fall(self, number: int) -> None:
        self.falls[number] = self.falls.get(number, 0) + 1
        self._last_fall_at[number] = self._clock.seconds()

    def _start_again(self, number: int) -> None:
        tries = self._false_starts[number] = self._false_starts.get(number, 0) + 1
        if self._anybody_proven():
            self._false_starts_in_a_row = 0
        else:
            self._false_starts_in_a_row += 1
        is_end = self._false_starts_in_a_row >= FALLS_MAX * self.plan.count
        # New ones on trial may be the remedy.
        if is_end and not self._is_renewing:
            self._give_up()
            return
        pause = pause_seconds(tries)
        self._events.worker_fallen(number, pause)
        self._restarts[number] = self._clock.callLater(
            pause, self._start_worker, number
        )

    def _give_up(self) -> None:
        self._events.workers_given_up(self._false_starts_in_a_row)
        self._has_failed = self._is_stopping = True
        self._forget_restarts()
        self._on_given_up()

    def _forget_restarts(self) -> None:
        for call in self._restarts.values():
            call.cancel()
        self._restarts.clear()

    def _anybody_proven(self) -> bool:
        return any(self._is_proven(worker) for worker in self.workers)

    def _is_proven(self, worker: Worker) -> bool:
        served = self._clock.seconds() - worker.since
        return worker.state == SERVING and served >= PROVEN_SECONDS


def pause_seconds(tries: int) -> float:
    """The pause behind so many false starts in a row, 1 at least."""
    return min(PAUSE_SECONDS * 2.0 ** min(tries - 1, 10), PAUSE_SECONDS_MAX)


def _silent_seconds(worker: Worker) -> int:
    if worker.first_heard_at is None:
        return SILENT_SECONDS_AT_START
    return SILENT_SECONDS


def _check_new(worker: Worker) -> None:
    """
    @raise NotRenewed: `worker` is no use.
    """
    if worker.is_ended:
        raise NotRenewed(
            "a new worker has ended before it could deliver; the lines above say why"
        )
    if worker.has_spoken and worker.understands != VERSION:
        raise NotRenewed(
            "the installed version cannot take over from the one that runs; stop and"
            " start it"
        )
