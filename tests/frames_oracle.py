"""
What must become of a body, worked out slowly and plainly.

A second reading of the frames' specification that shares nothing with
`logiss.frames`: no regular expression, one bytes object for each step. Limits of
size are not its business.
"""

from attrs import frozen

_DIGITS = b"0123456789"
_FIELD_MAX = (255, 48, 128, 32)
_NAME_MAX = 32


class Refused(Exception):
    """The body breaks the grammar."""


@frozen
class Expected:
    """
    @ivar frames: each SYSLOG-MSG, corrected, without its MSG-LEN.
    @ivar cuts: of HOSTNAME, APP-NAME, PROCID and MSGID.
    """

    frames: list[bytes]
    cuts: tuple[int, int, int, int]

    @property
    def octets(self) -> bytes:
        return b"".join(str(len(f)).encode() + b" " + f for f in self.frames)


def rewrite(
    body: bytes, structured_data: bytes, drain_token: bytes, keep: bool
) -> Expected:
    """
    @raise Refused: the body must be refused whole.
    """
    corrected = []
    cuts = [0, 0, 0, 0]
    for frame in split(body):
        corrected.append(_correct(frame, structured_data, drain_token, keep, cuts))
    return Expected(corrected, (cuts[0], cuts[1], cuts[2], cuts[3]))


def split(body: bytes) -> list[bytes]:
    """The SYSLOG-MSGs of `body`."""
    frames = []
    while body.strip(b" \t\n\r\x0b\x0c"):
        length, space, body = body.partition(b" ")
        if not space or not length or any(byte not in _DIGITS for byte in length):
            raise Refused("no length")
        if length[:1] == b"0" or len(length) > 15 or int(length) > len(body):
            raise Refused("bad length")
        frames.append(body[: int(length)])
        body = body[int(length) :]
    return frames


def _correct(
    frame: bytes, ours: bytes, drain_token: bytes, keep: bool, cuts: list[int]
) -> bytes:
    parts = frame.split(b" ", 6)
    if len(parts) < 6:
        raise Refused("no MSGID")
    rest = parts.pop() if len(parts) == 7 else b""
    if parts[2] == b"host" and _is_token(drain_token):
        parts[2] = drain_token
    for i, most in enumerate(_FIELD_MAX):
        cuts[i] += len(parts[2 + i]) > most
        parts[2 + i] = parts[2 + i][:most] or b"-"

    structured_data = ours
    elements = _elements_end(rest) if keep else 0
    if rest[:2] == b"- ":
        rest = rest[1:]
    elif elements:
        structured_data = ours + rest[:elements]
        rest = rest[elements:]
    elif rest:
        rest = b" " + rest
    return b" ".join([*parts, structured_data or b"-"]) + rest


def _is_token(drain_token: bytes) -> bool:
    return bool(drain_token) and all(32 < byte < 127 for byte in drain_token)


def _elements_end(rest: bytes) -> int:
    """
    Where the SD-ELEMENTs at the start of `rest` end, followed by a space or by
    nothing; 0 when there are none.
    """
    at = 0
    while rest[at : at + 1] == b"[":
        end = _element_end(rest, at)
        if not end:
            return 0
        at = end
    return at if rest[at : at + 1] in (b" ", b"") else 0


def _element_end(rest: bytes, at: int) -> int:
    at = _name_end(rest, at + 1)
    params = 0
    while at and rest[at : at + 1] == b" ":
        at = _param_end(rest, at + 1)
        params += 1
    return at + 1 if at and params and rest[at : at + 1] == b"]" else 0


def _param_end(rest: bytes, at: int) -> int:
    at = _name_end(rest, at)
    if not at or rest[at : at + 2] != b'="':
        return 0
    at += 2
    while at < len(rest):
        here = rest[at : at + 1]
        if here == b'"':
            return at + 1
        if here == b"]":
            return 0
        at += 2 if here == b"\\" else 1
    return 0


def _name_end(rest: bytes, at: int) -> int:
    end = at
    while end < len(rest) and 32 < rest[end] < 127 and rest[end] not in b'="]':
        end += 1
    return end if 0 < end - at <= _NAME_MAX else 0
