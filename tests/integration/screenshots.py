"""
Makes the pictures of the status page in the documentation.

``python -m tests.integration.screenshots [SECONDS]`` runs a logiss for ten minutes, or
for so long, with some traffic and some posts that are refused, and then with a backend
that has gone away.
"""

import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.integration.browsers import (
    DESK,
    PHONE,
    Browser,
    browsing,
    post,
    served,
    url,
)
from tests.integration.daemons import BlockingClient, Daemon, Receiver

DOCS = Path(__file__).resolve().parents[2] / "docs"
SECONDS = 600.0
TOKENS = "shop:t1,search:t2,billing:t3"
_MESSAGES = [
    b"<190>1 2026-11-23T20:17:49.468822+00:00 host shop web.%d - - GET /cart 200\n" % n
    for n in range(1, 9)
]
_DRAIN_TOKEN = b"d.0d9e6f5c-37a5-4d5e-9d1f-6b7c1d2e3f40"


class Traffic:
    """Posts until it is told to stop, a little more and a little less."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._stopping = threading.Event()
        self._random = random.Random(1)
        self._threads = [
            threading.Thread(target=self._run, args=(pause,), daemon=True)
            for pause in (0.02, 0.05, 0.08, 0.2)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, pause: float) -> None:
        client = BlockingClient(self._daemon.port)
        while not self._stopping.wait(pause * self._random.uniform(0.5, 1.5)):
            if not self._post(client):
                client.close()
                client = BlockingClient(self._daemon.port)
        client.close()

    def _post(self, client: BlockingClient) -> bool:
        """Whether the connection stays open."""
        fields = {
            "X_Request_Id": b"%032x" % self._random.getrandbits(128),
            "Logplex_Drain_Token": _DRAIN_TOKEN,
        }
        body = self._body()
        credentials = self._random.choice(["shop:t1", "shop:t1", "search:t2"])
        kind = self._random.random()
        if kind < 0.002:
            credentials = "billing:t2"
        elif kind < 0.003:
            fields["Content_Type"] = b"text/plain"
        elif kind < 0.004:
            body = body[:-1]
        answer = post(self._daemon, body, credentials, client, **fields)
        return answer.headers.get("connection", "").lower() != "close"

    def _body(self) -> bytes:
        count = self._random.randrange(1, 40)
        chosen = self._random.choices(_MESSAGES, k=count)
        return b"".join(b"%d %s" % (len(m), m) for m in chosen)


def take(browser: Browser, name: str, box: Sequence[float] | None = None) -> None:
    """Write the page as it is to the documentation."""
    path = DOCS / name
    path.write_bytes(browser.picture(box).png())
    sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


def main(seconds: float) -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as name:
        receiver = Receiver()
        variables = {"DEPLOY": "eu-1", "TOKEN_MAP": TOKENS, "DELIVERY_TIMEOUT": "2"}
        folder = Path(name)
        with served(folder, receiver, **variables) as daemon, browsing(folder) as page:
            traffic = Traffic(daemon)
            time.sleep(seconds)
            page.be(DESK, prefers_color_scheme="dark")
            page.open(url(daemon))
            time.sleep(8)
            take(page, "status-page.png")
            page.be(PHONE, prefers_color_scheme="light")
            time.sleep(1)
            take(page, "status-page-phone.png", (0, 0, PHONE[0], 1500))
            receiver.stop()
            page.be(DESK, prefers_color_scheme="dark")
            time.sleep(15)
            take(page, "status-page-outage.png")
            traffic.stop()


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else SECONDS)
