"""
SIGHUP: everything becomes new, and no client notices. What each client has seen and
what the receiver has is counted, message by message.
"""

from pathlib import Path

import pytest

from tests.integration.daemons import receiving
from tests.integration.restarts import Crowd, Restarted, restarting

#: Twenty in all.
LOADS = [
    ("fast", "2", 9),
    ("fast", "1", 5),
    ("stock", "1", 3),
    ("stock", "2", 3),
]
PROXY = b"PROXY TCP4 127.0.0.1 127.0.0.1 5555 80\r\n"


def _check_unnoticed(restarted: Restarted, crowd: Crowd) -> None:
    """Nobody has noticed anything, and every message is there once."""
    counts = crowd.counts(restarted.receiver)
    assert not crowd.complaints, crowd.complaints[:5]
    assert counts.sent == counts.accepted == counts.delivered > 0
    assert (counts.lost, counts.duplicated) == (0, 0)
    assert (counts.altered, counts.unknown) == (0, 0)


@pytest.mark.parametrize(("channel", "count", "times"), LOADS)
def test_load(tmp_path: Path, channel: str, count: str, times: int) -> None:
    """
    Restarts under load: no connection is refused or ends without an answer, no answer
    is another than 200, no message is missing or there twice.
    """
    proxied = count == "2"
    with (
        receiving() as receiver,
        restarting(
            tmp_path,
            receiver,
            HTTP_CHANNEL=channel,
            WEB_CONCURRENCY=count,
            PROXY_PROTOCOL=str(int(proxied)),
        ) as restarted,
    ):
        crowd = Crowd(restarted.port)
        crowd.begin(4, 3, PROXY if proxied else b"")
        for _ in range(times):
            restarted.restart()
        crowd.end()
        _check_unnoticed(restarted, crowd)
        assert restarted.end() == 0
