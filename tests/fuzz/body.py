"""
Target: frames, against the twin and a plain second reading.

The octets are a body. It is rewritten with and without kept structured data, with
drain tokens good and bad; and under limits so small that they are met.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from logiss import codec, frames
from logiss.frames import Batch, FrameLimits, RefusedBody
from tests import frames_oracle

#: The structured data, the drain token, and whether to keep what is there.
CASES = (
    (b'[origin ip="192.0.2.7"]', b"", False),
    (b'[origin ip="192.0.2.7"]', b"d.token", True),
    (b"", b"host", True),
    (b'[a b="c"]', b"d" * 300, False),
    (b"", b"not a token", False),
)
SMALL = FrameLimits(frame_bytes=90, frames=3, batch_bytes=200)

_Rewrite: TypeAlias = Callable[..., Batch]


def check(octets: bytes) -> None:
    """
    @raise Exception: a twin does not agree with the other or with the second reading,
        or a limit is passed.
    """
    for case in CASES:
        batch = _agreed(octets, case, frames.DEFAULT_LIMITS)
        _check_expected(octets, case, batch)
        small = _agreed(octets, case, SMALL)
        if isinstance(small, Batch):
            _check_small(small)
    _check_split(octets)


def _agreed(octets: bytes, case: tuple[bytes, bytes, bool], limits: FrameLimits) -> Any:
    ours = _outcome(frames.rewrite, octets, case, limits)
    theirs = _outcome(codec.rewrite, octets, case, limits)
    assert ours == theirs, f"{case}: {ours} but compiled {theirs}"
    assert isinstance(ours, Batch) or ours[1].isprintable(), "not fit for a line"
    return ours


def _outcome(rewrite: _Rewrite, octets: bytes, case: Any, limits: FrameLimits) -> Any:
    structured_data, drain_token, keep = case
    try:
        return rewrite(octets, structured_data, drain_token, keep, limits)
    except RefusedBody as e:
        return type(e), str(e)


def _check_expected(octets: bytes, case: Any, batch: Any) -> None:
    try:
        expected = frames_oracle.rewrite(octets, *case)
    except frames_oracle.Refused:
        assert not isinstance(batch, Batch), f"{case}: taken: {batch}"
        return
    assert isinstance(batch, Batch), f"{case}: refused: {batch}"
    assert batch.octets == expected.octets, f"{case}: {batch.octets!r}"
    assert batch.frames == len(expected.frames)
    cuts = (batch.hostnames_cut, batch.app_names_cut, batch.procids_cut)
    assert (*cuts, batch.msgids_cut) == expected.cuts
    # What leaves is taken in again as the same frames.
    assert codec.split(batch.octets) == frames.split(batch.octets) == expected.frames


def _check_small(batch: Batch) -> None:
    messages = frames.split(batch.octets)
    assert len(messages) == batch.frames <= SMALL.frames
    assert all(len(message) <= SMALL.frame_bytes for message in messages)
    assert sum(map(len, messages)) <= SMALL.batch_bytes


def _check_split(octets: bytes) -> None:
    """Whatever is no batch is refused by both twins alike."""
    found = []
    for split in (frames.split, codec.split):
        try:
            found.append((split(octets), ""))
        except ValueError as e:
            found.append(([], str(e)))
    assert found[0] == found[1], found
