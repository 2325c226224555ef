"""What the C library and the garbage collector are told of memory."""

import gc
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from logiss import memory

MIB = 1024 * 1024


class FakeLibC:
    """glibc, as far as it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def mallopt(self, option: int, value: int) -> int:
        self.calls.append(("mallopt", option, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.calls.append(("malloc_trim", pad))
        return 1


class MemoryTests(SynchronousTestCase):
    """`keep_freed` and `give_back_freed`."""

    def test_kept(self) -> None:
        """Blocks of bodies are kept: malloc.h's M_TRIM_ and M_MMAP_THRESHOLD."""
        libc = FakeLibC()
        self.patch(memory, "_LIBC", libc)
        memory.keep_freed()
        self.assertEqual(
            libc.calls, [("mallopt", -1, 32 * MIB), ("mallopt", -3, 4 * MIB)]
        )

    def test_given_back(self) -> None:
        """All that is free is given back."""
        libc = FakeLibC()
        self.patch(memory, "_LIBC", libc)
        memory.give_back_freed()
        self.assertEqual(libc.calls, [("malloc_trim", 0)])

    def test_other_libraries(self) -> None:
        """Where there is no glibc nothing is done, and nothing fails."""
        for libc in (None, object()):
            self.patch(memory, "_LIBC", libc)
            memory.keep_freed()
            memory.give_back_freed()

    def test_set_aside(self) -> None:
        """What there was at the start is not looked at again; it can be undone."""
        self.addCleanup(gc.unfreeze)
        there = len(gc.get_objects())
        memory.set_aside_started()
        self.assertGreater(gc.get_freeze_count(), there // 2)
        self.assertLess(len(gc.get_objects()), there // 10)
