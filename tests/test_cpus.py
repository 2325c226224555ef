"""How many CPUs there are to use."""

import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from logiss import cpus


class UsableTests(SynchronousTestCase):
    """`cpus.usable` by affinity and control groups."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def put(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode("utf-8", "surrogateescape"))

    def group(self, *lines: str) -> None:
        self.put("proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def v2(self, path: str, limit: str) -> None:
        self.put(f"sys/fs/cgroup/{path}/cpu.max", f"{limit}\n")

    def v1(self, path: str, quota: int, period: int = 100000) -> None:
        self.put(f"sys/fs/cgroup/cpu/{path}/cpu.cfs_quota_us", f"{quota}\n")
        self.put(f"sys/fs/cgroup/cpu/{path}/cpu.cfs_period_us", f"{period}\n")

    def assert_usable(self, count: int) -> None:
        self.assertEqual(cpus.usable(self.root, 64), count)

    def test_no_groups(self) -> None:
        """Where there are none, those it is bound to count."""
        self.assert_usable(64)

    def test_v2(self) -> None:
        """A limit counts as it is, part of a CPU as one, none as none."""
        self.group("0::/a")
        for limit, count in [
            ("200000 100000", 2),
            ("150000 100000", 2),
            ("10000 100000", 1),
            ("1000 100000", 1),
            ("25000 10000", 3),
            ("max 100000", 64),
            ("9900000 100000", 64),
            ("", 64),
            ("200000", 64),
            ("100000 0", 64),
            ("x y", 64),
        ]:
            with self.subTest(limit):
                self.v2("a", limit)
                self.assert_usable(count)

    def test_nested(self) -> None:
        """The least of the limits of all groups around it counts."""
        self.group("0::/a/b/c")
        self.v2("a/b/c", "max 100000")
        self.v2("a/b", "800000 100000")
        self.v2("a", "300000 100000")
        self.assert_usable(3)
        self.v2("a/b/c", "100000 100000")
        self.assert_usable(1)

    def test_container(self) -> None:
        """In a container the group that is mounted at the root is its own."""
        self.group("0::/")
        self.v2("", "250000 100000")
        self.assert_usable(3)
        self.group("0::/system.slice/of-the-host.scope")
        self.assert_usable(3)
        self.group("0::/../../elsewhere")
        self.assert_usable(3)

    def test_v1(self) -> None:
        """So it is with groups of version 1, where -1 is no limit."""
        self.group("5:memory:/m", "4:cpu,cpuacct:/a/b", "1:name=systemd:/s")
        self.v1("m", 100000)
        self.v1("a/b", -1)
        self.v1("a", 350000)
        self.assert_usable(4)
        self.v1("a/b", 50000, 25000)
        self.assert_usable(2)

    def test_hybrid(self) -> None:
        """Where there are both, the limit of version 1 is found."""
        self.group("4:cpu,cpuacct:/a", "0::/b")
        self.v1("a", 200000)
        self.assert_usable(2)

    def test_other_controllers(self) -> None:
        """Only ``cpu`` is, not what has it in its name."""
        self.group("4:cpuset:/a", "3:cpuacct:/a")
        self.v1("a", 100000)
        self.assert_usable(64)

    def test_strange_lines(self) -> None:
        """What is no line of it is passed over; so are names that are no UTF-8."""
        self.group("", "junk", "0:", "0::/\udcff")
        self.v2("", "200000 100000")
        self.assert_usable(2)


class BoundTests(SynchronousTestCase):
    """The CPUs that the process is bound to."""

    def test_affinity(self) -> None:
        """One that is bound to one may use one, and any of them."""
        before = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, before)
        os.sched_setaffinity(0, {max(before)})
        self.assertEqual(cpus.usable(), 1)

    def test_here(self) -> None:
        """Here it is between one and all."""
        found = cpus.usable()
        self.assertTrue(1 <= found <= len(os.sched_getaffinity(0)))
