"""
Knows how many descriptors the process may have open, and how many of them may be
clients.

Clients must never take those that a new connection to the backend needs, or a name
look-up, or the log: so many are kept for the process itself.
"""

try:
    import resource
except ImportError:
    _LIMIT = None
else:
    _LIMIT = resource.RLIMIT_NOFILE

#: Kept for the process itself: standard streams, reactor, listener, log, name look-ups.
RESERVED = 64
#: Kept besides for each connection to the backend: itself, and an attempt to connect
#: while the old one still closes.
RESERVED_EACH = 2
#: Kept for the status page and for who reads the metrics, where there is a port for it.
ADMIN_MAX = 160
#: With room for fewer clients than this the process is of no use.
CLIENTS_LEAST = 16

_UNLIMITED = 1 << 30


def reserved(forward_count: int, has_admin: bool = False) -> int:
    """How many descriptors are kept for a process with so many connections out."""
    return RESERVED + RESERVED_EACH * forward_count + ADMIN_MAX * has_admin


def clients_max(wanted: int, kept: int, descriptors: int) -> int:
    """How many clients there may be, with so many descriptors in all."""
    return max(0, min(wanted, descriptors - kept))


def why_too_few(wanted: int, kept: int, descriptors: int) -> str:
    """Why so few descriptors serve nobody; nothing when they serve somebody."""
    if clients_max(wanted, kept, descriptors) >= min(wanted, CLIENTS_LEAST):
        return ""
    return (
        f"the process may open {descriptors} files and sockets, and keeps {kept} for"
        f" itself; raise its limit (ulimit -n) to {kept + wanted}"
    )


def descriptors_max() -> int:
    """How many descriptors the process may have open now: its soft RLIMIT_NOFILE."""
    if _LIMIT is None:
        return _UNLIMITED
    soft, _ = resource.getrlimit(_LIMIT)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def raise_descriptors_max(wanted: int) -> None:
    """
    Let the process have `wanted` descriptors, or as many as its hard RLIMIT_NOFILE
    allows. What it may have already is not taken from it.
    """
    if _LIMIT is None or descriptors_max() >= wanted:
        return
    _, hard = resource.getrlimit(_LIMIT)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    try:
        resource.setrlimit(_LIMIT, (wanted, hard))
    except (OSError, ValueError):
        # A system may have a lower limit of its own; `descriptors_max` tells.
        return
