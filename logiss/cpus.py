"""
Knows how many CPUs the process may use: those it is bound to, and no more than its
control groups let it have.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path


def usable(root: Path = Path("/"), bound: int | None = None) -> int:
    """
    How many CPUs the process may use, 1 at least. Part of one counts as one.

    @param root: where /proc and /sys/fs/cgroup are.
    @param bound: to how many it is bound, where that is known.
    """
    allowed = float(bound or _bound())
    for limit in _limits(root):
        allowed = min(allowed, limit)
    return max(1, math.ceil(allowed))


def _bound() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1  # Where there is no such thing.


def _limits(root: Path) -> list[float]:
    """CPUs by the limit of each control group that the process is in (cgroups(7))."""
    found: list[float | None] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            found += _along(root / "sys/fs/cgroup", path, _limit)
        elif "cpu" in controllers.split(","):
            found += _along(root / "sys/fs/cgroup/cpu", path, _limit_of_v1)
    return [limit for limit in found if limit is not None]


def _along(
    mount: Path, path: str, limit: Callable[[Path], float | None]
) -> list[float | None]:
    """The limits of a group and of all that it is part of."""
    group = Path(path.strip("/"))
    # In a container the path may be one outside of it; what is mounted is its own.
    return [limit(mount / each) for each in (group, *group.parents)]


def _limit(group: Path) -> float | None:
    quota, _, period = _text(group / "cpu.max").strip().partition(" ")
    return _quotient(quota, period)


def _limit_of_v1(group: Path) -> float | None:
    quota = _text(group / "cpu.cfs_quota_us").strip()
    return _quotient(quota, _text(group / "cpu.cfs_period_us").strip())


def _quotient(quota: str, period: str) -> float | None:
    # No limit is "max", or -1.
    if quota.isdigit() and period.isdigit() and int(period):
        return int(quota) / int(period)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""
