"""
Says numbers and names as people read them.
"""

#: So much of a name is shown.
SHOWN_MAX = 64


def duration(seconds: float) -> str:
    """``0.3 ms``, ``12 s``, ``5 min``, ``3 h``, ``2 d``; nothing is below ``0 s``."""
    if seconds <= 0:
        return "0 s"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit_seconds, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_seconds:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """``512 B``, ``1.5 MiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} GiB"


def many(count: int, one: str, more: str = "") -> str:
    """``1 post``, ``2,000 posts``."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def text(name: bytes | str, most: int) -> str:
    """A name as text, cut, with nothing in it that does not print."""
    if isinstance(name, bytes):
        name = name[: 4 * most].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)[
        :most
    ]


def shown(name: bytes | str) -> str:
    """A name between quotation marks, of which it has none; it says when it is cut."""
    whole = text(name, SHOWN_MAX + 1).replace('"', "'")
    cut = whole[:SHOWN_MAX]
    return f'"{cut}"' if cut == whole else f'"{cut}..."'
