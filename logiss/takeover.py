"""
What a parent hands to itself when it executes itself anew: sockets, workers, counts.

The process stays, and with it its children and its open descriptors; all else it has to
be told, in a file in memory, since environment and arguments can be read by others and
there are secrets in it.
"""

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from attrs import Factory, asdict, astuple, evolve, field, fields, frozen

from logiss.facts import Facts
from logiss.history import Sample
from logiss.intercom import DIALECT, NotUnderstood, read, written
from logiss.shares import memory_file
from logiss.totals import Gone

#: Names the descriptor of the file.
TAKEOVER = "LOGISS_TAKEOVER"
#: Of what is handed over: another is not understood.
VERSION = 1


@frozen
class Handed:
    """
    One worker.

    @ivar descriptor: of its parent's end of the intercom, and @ivar unread: what has
        come there of a message that is not whole.
    @ivar drain_seconds: how long it may take to drain; older versions do not say.
    @ivar is_prepared: it has said that it could deliver a post.
    @ivar facts: what it has told last, and @ivar sample: likewise.
    """

    number: int
    generation: int
    pid: int
    descriptor: int
    state: str
    started_at: float
    is_prepared: bool
    unread: bytes
    drain_seconds: float | None = None
    facts: Facts | None = None
    sample: Sample | None = None


@frozen
class Takeover:
    """
    @ivar listener: the descriptor of the socket for posts.
    @ivar admin: of that for the status page.
    @ivar shares: of the table of the workers' shares.
    @ivar environ: with which the workers were started; has secrets.
    @ivar given: variables that do not stand in the environment, nor in a file.
    @ivar started_at: since when there are counts.
    @ivar reloads: how often the configuration was read anew, by what came of it.
    """

    listener: int
    admin: int | None
    shares: int
    generation: int
    environ: Mapping[str, str] = field(repr=False)
    given: Mapping[str, str]
    workers: tuple[Handed, ...]
    falls: Mapping[int, int]
    gone: Gone
    started_at: float = 0.0
    reloads: Mapping[str, int] = Factory(dict)

    def descriptors(self) -> list[int]:
        admin = [] if self.admin is None else [self.admin]
        return [
            self.listener,
            self.shares,
            *admin,
            *(worker.descriptor for worker in self.workers),
        ]


def hand_over(takeover: Takeover) -> int:
    """
    Write it down, and keep all open over the execution.

    @return: the descriptor of what is written.
    """
    descriptor = write_down(takeover)
    for each in [descriptor, *takeover.descriptors()]:
        os.set_inheritable(each, True)
    return descriptor


def write_down(takeover: Takeover) -> int:
    """
    @return: the descriptor of what is written.
    """
    # What has been told is in words that another version may not have.
    workers = tuple(astuple(worker, recurse=False)[:-2] for worker in takeover.workers)
    told = [(worker.facts, worker.sample) for worker in takeover.workers]
    counted = written((DIALECT, asdict(takeover.gone, recurse=False), told))
    octets = written(
        (
            VERSION,
            takeover.listener,
            takeover.admin,
            takeover.shares,
            takeover.generation,
            dict(takeover.environ),
            dict(takeover.given),
            workers,
            dict(takeover.falls),
            takeover.started_at,
            dict(takeover.reloads),
            counted,
        )
    )
    descriptor = memory_file("logiss-takeover")
    os.write(descriptor, octets)
    return descriptor


def keep(takeover: Takeover, descriptor: int) -> None:
    """Nothing was executed: all is as before `hand_over`."""
    os.close(descriptor)
    hold(takeover)


def hold(takeover: Takeover) -> None:
    """Whoever is started from now on gets nothing of it but what it is given."""
    for each in takeover.descriptors():
        os.set_inheritable(each, False)


def take_over(environ: MutableMapping[str, str]) -> Takeover | None:
    """
    What the process was before, if it was a parent.

    @raise NotUnderstood: by another version, with which nothing is shared.
    """
    text = environ.pop(TAKEOVER, "")
    if not text:
        return None
    try:
        message = read(_read_memory(int(text)))
    except (NotUnderstood, OSError, ValueError):
        raise NotUnderstood(f"{TAKEOVER}: is not for you to set; unset it") from None
    match message:
        case (
            int(version),
            int(listener),
            admin,
            int(shares),
            int(generation),
            dict(variables),
            dict(given),
            tuple(workers),
            dict(falls),
            float(started_at),
            dict(reloads),
            bytes(counted),
        ) if version == VERSION:
            gone, told = _counted(counted)
            told = told or [(None, None)] * len(workers)
            return Takeover(
                listener,
                admin,
                shares,
                generation,
                variables,
                given,
                tuple(
                    evolve(Handed(*worker), facts=facts, sample=sample)
                    for worker, (facts, sample) in zip(workers, told, strict=True)
                ),
                falls,
                gone,
                started_at,
                reloads,
            )
    raise NotUnderstood(
        "what it was before is written in the words of another version: start it anew"
    )


def _read_memory(descriptor: int) -> bytes:
    """
    What is in the file, which ends with that.

    @raise OSError: there is no such descriptor.
    """
    octets = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    return octets


_Told = list[tuple[Facts | None, Sample | None]]


def _counted(octets: bytes) -> tuple[Gone, _Told]:
    """What workers have counted; nothing where that is not understood any more."""
    try:
        message: tuple[Any, ...] = read(octets)
    except NotUnderstood:
        return Gone(), []
    match message:
        case (dialect, dict(gone), list(told)) if dialect == DIALECT:
            if set(gone) == {each.name for each in fields(Gone)}:
                return Gone(**gone), told
    return Gone(), []
