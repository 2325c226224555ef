"""
Tells the C library what to do with memory that has been freed, and the garbage
collector what it need not look at.

Bodies are large and short-lived. Left to itself, glibc maps a block of 128 KiB and more
anew for each POST: a third of the CPU time of one with 500 frames is page faults. So
what bodies leave is kept; but when memory is tight it is given back, because what lies
between the pieces of bodies is of no use for a batch, which is one large block.
"""

import ctypes
import gc
from typing import Any

_MIB = 1024 * 1024
# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def _libc() -> Any:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None  # where there is no such thing


_LIBC = _libc()


def keep_freed() -> None:
    """Keep what large bodies leave. Does nothing where there is no glibc."""
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 32 * _MIB)
        mallopt(_M_MMAP_THRESHOLD, 4 * _MIB)


def give_back_freed() -> None:
    """Give what is free now back to the system. Does nothing without glibc."""
    malloc_trim = getattr(_LIBC, "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def set_aside_started() -> None:
    """
    Have the garbage collector not look any more at what there is now. Modules, classes
    and what a process has made at its start stay to its end: to look through all of
    them takes 16 ms each time, in which no post is served.
    """
    gc.collect()
    gc.freeze()
