"""
What a parent hands to itself when it executes itself anew: sockets, workers, counts.

The process stays, and with it its children and its open descriptors; all else it has to
be told, in a file in memory, since environment and arguments can be read by others and
there are secrets in it.
"""

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from attrs import field, frozen

from logiss.intercom import DIALECT, NotUnderstood, read, written
from logiss.shares import memory_file
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
    """

    number: int
    generation: int
    pid: int
    descriptor: int
    state: str
    started_at: float
    unread: bytes


@frozen
class Takeover:
    """
    @ivar listener: the descriptor of the socket for posts.
    @ivar admin: of that for the status page.
    @ivar shares: of the table of the workers' shares.
    @ivar environ: with which the workers were started; has secrets.
    @ivar given: variables that do not stand in the environment, nor in a file.
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
    workers = tuple(
        (w.number, w.generation, w.pid, w.descriptor, w.state, w.started_at, w.unread)
        for w in takeover.workers
    )
    gone = written((DIALECT, takeover.gone.metrics, takeover.gone.sample))
    octets = written(
        (
            _VERSION,
            takeover.listener,
            takeover.admin,
            takeover.shares,
            takeover.generation,
            dict(takeover.environ),
            dict(takeover.given),
            workers,
            dict(takeover.falls),
            gone,
        )
    )
    descriptor = memory_file("logiss-takeover")
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
            int(shares),
            int(generation),
            dict(variables),
            dict(given),
            tuple(workers),
            dict(falls),
            bytes(gone),
        ):
            return Takeover(
                listener,
                admin,
                shares,
                generation,
                variables,
                given,
                tuple(Handed(*worker) for worker in workers),
                falls,
                _gone(gone),
            )
    raise NotUnderstood(
        "what it was before is written in the words of another version: start it anew"
    )


def _gone(octets: bytes) -> Gone:
    """What they have counted; nothing where that is not understood any more."""
    try:
        message: tuple[Any, ...] = read(octets)
    except NotUnderstood:
        return Gone()
    match message:
        case (dialect, metrics, sample) if dialect == DIALECT:
            return Gone(metrics, sample)
    return Gone()
