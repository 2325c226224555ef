"""
The front door with a deliverer that the test decides over, and HTTP in bytes.
"""

import base64
import re
from collections.abc import Iterable
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IReactorTime
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.web.server import Site

from logiss.credentials import Credentials
from logiss.drain import Drain
from logiss.health import RootResource
from logiss.metrics import Metrics
from logiss.service import channel_limits, logs_resource
from logiss.settings import Settings
from logiss.site import ChannelSite, LogsSite
from tests.fakes import FakeDeliverer, Lines

USER, TOKEN = "user", "a:token"
TIMEOUT_SECONDS = 5.0
PEER = "192.0.2.7"


class Front:
    """
    Everything above the pool.

    @ivar connected: how many backend connections ``/ready`` is told of.
    """

    def __init__(
        self,
        clock: IReactorTime,
        level: Any = "sent",
        refused: Any = None,
        shared: Any = None,
        **settings: Any,
    ) -> None:
        self.clock = clock
        settings.setdefault("delivery_timeout_seconds", TIMEOUT_SECONDS)
        settings.setdefault("tokens", ((USER, TOKEN),))
        self.settings = Settings(deploy="test", **settings)
        self.lines = Lines()
        self.deliverer = FakeDeliverer(delivery_level=level)
        self.drain = Drain()
        self.metrics = Metrics()
        self.connected = 1
        self.credentials = Credentials.from_tokens(b"key", self.settings.tokens)
        events = self.lines.events()
        self.logs = logs_resource(
            clock,
            self.settings,
            self.deliverer,
            events,
            drain=self.drain,
            metrics=self.metrics,
            credentials=self.credentials,
            refused=refused,
            shared=shared,
        )
        self.root = RootResource(
            self.logs,
            self.drain,
            events,
            self.metrics,
            lambda: self.connected,
            self.deliverer.delivery_level,
            lambda: self.credentials.is_loaded,
        )

    def site(self, name: str) -> Site | ChannelSite:
        """One of `tests.http_rows.SITES`."""
        most = self.settings.max_body_bytes
        if name == "channel":
            fixed = {b"/logs": self.logs, b"/logs/": self.logs}
            level = self.deliverer.delivery_level
            limits = channel_limits(self.settings)
            budget = self.logs.budget
            return ChannelSite(self.root, self.clock, limits, fixed, level, budget)
        if name == "logs":
            idle_seconds = self.settings.keepalive_timeout_seconds
            return LogsSite(self.root, self.clock, most, idle_seconds)
        return Site(self.root, reactor=self.clock)


class Connection:
    """A client's connection to a site, in memory."""

    def __init__(self, site: Site | ChannelSite, peer: str = PEER) -> None:
        if isinstance(site, ChannelSite):
            site.doStart()
        self.channel: Any = site.buildProtocol(None)
        self.transport = StringTransportWithDisconnection(
            peerAddress=IPv4Address("TCP", peer, 50000)
        )
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)

    def send(self, octets: bytes) -> None:
        self.channel.dataReceived(octets)

    def answers(self, to_head: bool = False) -> "list[HTTPAnswer]":
        """What has been answered since the last call."""
        octets = self.transport.value()
        self.transport.clear()
        return parse_answers(octets, to_head)

    def hang_up(self) -> None:
        self.transport.loseConnection()


@frozen
class HTTPAnswer:
    """One answer, as a simple client reads it."""

    code: int
    reason: str
    headers: dict[str, str]
    body: bytes


def parse_answers(octets: bytes, to_head: bool = False) -> list[HTTPAnswer]:
    """
    Read answers as logplex does: a status with its reason phrase, headers, and a
    body of Content-Length. Fails on anything else.
    """
    answers = []
    while octets:
        head, end, octets = octets.partition(b"\r\n\r\n")
        assert end, head
        status, *fields = head.decode("ascii").split("\r\n")
        found = re.fullmatch(r"HTTP/1\.1 ([0-9]{3}) (\S.*)", status)
        assert found is not None, status
        headers: dict[str, str] = {}
        for line in fields:
            name, colon, value = line.partition(":")
            assert colon, line
            assert name.lower() not in headers, line
            headers[name.lower()] = value.strip()
        if found[1] == "100":
            answers.append(HTTPAnswer(100, found[2], headers, b""))
            continue
        length = 0 if to_head else int(headers["content-length"])
        assert len(octets) >= length, octets
        answers.append(HTTPAnswer(int(found[1]), found[2], headers, octets[:length]))
        octets = octets[length:]
    return answers


def basic(user: str = USER, token: str = TOKEN) -> str:
    return "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()


#: Headers of a post that is accepted.
GOOD_HEADERS = {
    "Host": "logs.example.com",
    "Content-Type": "application/logplex-1",
    "Authorization": basic(),
}


def framed(*messages: bytes) -> bytes:
    """SYSLOG-MSGs with their octet counts."""
    return b"".join(b"%d %b" % (len(m), m) for m in messages)


def message(text: bytes = b"hi", hostname: bytes = b"host") -> bytes:
    return (
        b"<13>1 2013-06-07T13:17:49.468822+00:00 "
        + hostname
        + b" heroku web.7 - - "
        + text
    )


def stamped(text: bytes = b"hi", address: str = PEER) -> bytes:
    """What `message` has become on its way out."""
    return (
        b"<13>1 2013-06-07T13:17:49.468822+00:00 host heroku web.7 - "
        b'[origin ip="' + address.encode() + b'"] ' + text
    )


def request(
    body: bytes = b"",
    *,
    method: str = "POST",
    path: str = "/logs",
    headers: dict[str, str | None] | None = None,
    more: Iterable[tuple[str, str]] = (),
    chunks: Iterable[bytes] | None = None,
) -> bytes:
    """
    A request in bytes: `GOOD_HEADERS`, changed by `headers` (None takes one away),
    and `more` behind them. With `chunks` the body is those, chunked.
    """
    merged: dict[str, str | None] = {**GOOD_HEADERS, **(headers or {})}
    if chunks is not None:
        merged["Transfer-Encoding"] = "chunked"
        body = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks if c)
        body += b"0\r\n\r\n"
    else:
        merged.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{k}: {v}" for k, v in [*merged.items(), *more] if v is not None]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
