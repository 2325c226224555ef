"""
Has workers take their shares of the clients: a table in shared memory of how many each
is connected to.

All of them wait for clients at the same socket, and whoever is awake first would get
them all: some would be busy while others are idle. So whoever has more clients than
another leaves the next one to that for a moment. It takes it after all when nobody has,
so that no client depends on the other being well.
"""

import mmap
import os
import sys
import tempfile

#: How long a client is left to others.
YIELD_SECONDS = 0.003
#: A worker that is not there.
_NOBODY = -1
_ROW_BYTES = 4


def memory_file(name: str) -> int:
    """The descriptor of a new file that is in no directory."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def make_table(rows: int) -> int:
    """The descriptor of a table in which nobody is."""
    descriptor = memory_file("logiss-shares")
    os.write(
        descriptor, _NOBODY.to_bytes(_ROW_BYTES, sys.byteorder, signed=True) * rows
    )
    return descriptor


class Shares:
    """
    One worker's look at the table; it closes the descriptor.

    @param row: its own.
    """

    def __init__(self, descriptor: int, row: int) -> None:
        size = os.fstat(descriptor).st_size
        self._rows = memoryview(mmap.mmap(descriptor, size)).cast("i")
        os.close(descriptor)
        self._row = row

    def has(self, connections: int) -> None:
        """It is connected to so many clients now."""
        self._rows[self._row] = connections

    def leave(self) -> None:
        """It takes no further clients."""
        self._rows[self._row] = _NOBODY

    def is_anothers_turn(self, connections: int) -> bool:
        """Whether somebody else has fewer than `connections`."""
        return any(0 <= count < connections for count in self._rows)


def strike_out(descriptor: int, row: int) -> None:
    """The worker of `row` is gone: nothing is left to it any more."""
    octets = _NOBODY.to_bytes(_ROW_BYTES, sys.byteorder, signed=True)
    os.pwrite(descriptor, octets, row * _ROW_BYTES)
