"""
Chooses between the twins of the frame codec.

The compiled one where it was built, unless ``LOGISS_PURE=1``; both have the same
contract and pass the same tests.
"""

import os

from logiss import frames, relp

NAME = "pure"
rewrite = frames.rewrite
split = frames.split
tail = frames.tail
syslog_frames = relp.syslog_frames
answers = relp.answers

if os.environ.get("LOGISS_PURE") != "1":
    try:
        from logiss import _frames  # type: ignore[attr-defined]
    except ImportError:
        pass
    else:
        NAME = "compiled"
        rewrite = _frames.rewrite
        split = _frames.split
        tail = _frames.tail
        syslog_frames = _frames.syslog_frames
        answers = _frames.answers
