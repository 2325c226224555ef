"""
What a parent hands to itself when it executes itself anew: sockets, workers, counts.

The process stays, and with it its children and its open descriptors; all else it has to
be told, in a file in memory, since environment and arguments can be read by others and
there are secrets in it.
"""

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from attrs import Factory, asdict, evolve, field, fields, frozen

from logiss.facts import Facts
from logiss.history import Sample
from logiss.intercom import DIALECT, NotUnderstood, read, written
from logiss.totals import Gone

#: Names the descriptor of the file.
TAKEOVER = "LOGISS_TAKEOVER"
_BYTES_MAX = 256 * 1024 * 1024
_VERSION = 1


@frozen
class Handed:
    """
    One worker.

    @ivar descriptor: of its parent's end of the intercom, and @ivar unread: what has
        come there of a message that is not whole.
    @ivar facts: what it has told last, and @ivar sample: likewise.
    """

    number: int
    generation: int
    pid: int
    descriptor: int
    state: str
    started_at: float
    unread: bytes
    facts: Facts | None = None
    sample: Sample | None = None


@frozen
class Takeover:
    """
    @ivar listener: the descriptor of the socket for posts.
    @ivar admin: of that for the status page.
    @ivar environ: with which the workers were started; has secrets.
    @ivar given: variables that do not stand in the environment, nor in a file.
    @ivar started_at: since when there are counts.
    @ivar reloads: how often the configuration was read anew, by what came of it.
    """

    listener: int
    admin: int | None
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
        return [self.listener, *admin, *(worker.descriptor for worker in self.workers)]


def hand_over(takeover: Takeover) -> int:
    """
    Write it down, and keep all open over the execution.

    @return: the descriptor of what is written.
    """
    workers = tuple(
        (w.number, w.generation, w.pid, w.descriptor, w.state, w.started_at, w.unread)
        for w in takeover.workers
    )
    told = [(worker.facts, worker.sample) for worker in takeover.workers]
    counted = written((DIALECT, asdict(takeover.gone, recurse=False), told))
    octets = written(
        (
            _VERSION,
            takeover.listener,
            takeover.admin,
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
    descriptor = os.memfd_create("logiss-takeover")
    os.write(descriptor, octets)
    for each in [descriptor, *takeover.descriptors()]:
        os.set_inheritable(each, True)
    return descriptor


def take_over(environ: MutableMapping[str, str]) -> Takeover | None:
    """
    What the process was before, if it was a parent.

    @raise NotUnderstood: by another version, with which nothing is shared.
    """
    text = environ.pop(TAKEOVER, "")
    if not text.isdigit():
        return None
    descriptor = int(text)
    octets = os.pread(descriptor, _BYTES_MAX, 0)
    os.close(descriptor)
    match read(octets):
        case (
            1,
            int(listener),
            admin,
            int(generation),
            dict(variables),
            dict(given),
            tuple(workers),
            dict(falls),
            float(started_at),
            dict(reloads),
            bytes(counted),
        ):
            gone, told = _counted(counted)
            told = told or [(None, None)] * len(workers)
            return Takeover(
                listener,
                admin,
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
    raise NotUnderstood("it was written by another version")


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
