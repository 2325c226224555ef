"""The operator's page, metrics and JSON, asked for over HTTP in memory."""

import json
from typing import Any

from attrs import evolve
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.testing import (
    MemoryReactorClock,
    StringTransportWithDisconnection,
)
from twisted.trial.unittest import SynchronousTestCase

from docs.embedding_example import SeenIntake
from logiss.plots import PLOTS
from logiss.service import LogissService
from logiss.settings import Settings
from logiss.status import PAGES_MAX, STUCK_SECONDS
from logiss.variables import Destination
from tests.fakes import Lines
from tests.front import HTTPAnswer, basic, framed, message, parse_answers, request

SETTINGS = Settings(
    deploy="test",
    port=5000,
    forward_dest=Destination("192.0.2.1", 601),
    tokens=(("user", "a:token"),),
    delivery="sent",
    admin_port=9514,
)


class Browser(StringTransportWithDisconnection):
    """A client of the admin port."""

    protocol: Any
    producer: Any

    def __init__(self, factory: Any) -> None:
        super().__init__()
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self)
        self.is_aborted = False

    def abortConnection(self) -> None:  # noqa: N802, called by twisted.web
        self.is_aborted = True
        super().abortConnection()

    def ask(self, path: str, method: str = "GET", accept: str = "*/*") -> None:
        self.protocol.dataReceived(
            f"{method} {path} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n".encode()
        )

    def get(self, path: str, method: str = "GET", accept: str = "*/*") -> HTTPAnswer:
        self.ask(path, method, accept)
        octets = self.value()
        self.clear()
        [answer] = parse_answers(octets, method == "HEAD")
        return answer

    def events(self) -> list[tuple[str, Any]]:
        """What has been sent since the last call."""
        octets = self.value()
        self.clear()
        if octets.startswith(b"HTTP/1.1 200 OK\r\n"):
            octets = octets.partition(b"\r\n\r\n")[2]
        # Each write is a chunk, and an event ends with an empty line.
        text, at = b"", 0
        while at < len(octets):
            end = octets.index(b"\r\n", at)
            size = int(octets[at:end], 16)
            text += octets[end + 2 : end + 2 + size]
            at = end + 2 + size + 2
        found = []
        for lines in text.decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in lines.split("\n"))
            if "event" in fields:
                found.append((fields["event"], json.loads(fields["data"])))
        return found


class StatusTestCase(SynchronousTestCase):
    """A whole logiss in memory, with its admin port."""

    def setUp(self) -> None:
        reactor: Any = MemoryReactorClock()
        self.reactor = reactor
        self.reactor.advance(1_000_000)
        self.lines = Lines()
        self.house = LogissService(reactor, SETTINGS, self.lines.write)
        self.house.startService()

    @property
    def factory(self) -> Any:
        [factory] = [s[1] for s in self.reactor.tcpServers if s[0] == 9514]
        return factory

    def browser(self) -> Browser:
        return Browser(self.factory)

    def status(self) -> Any:
        return json.loads(self.browser().get("/status.json").body)


class AdminTests(StatusTestCase):
    """The port for whoever runs it."""

    def test_off(self) -> None:
        """Without ADMIN_PORT there is none."""
        reactor: Any = MemoryReactorClock()
        off = evolve(SETTINGS, admin_port=None)
        LogissService(reactor, off, self.lines.write).startService()
        self.assertEqual([server[0] for server in reactor.tcpServers], [5000])

    def test_loopback(self) -> None:
        """It listens on loopback unless ADMIN_HOST says otherwise; the log has it."""
        for host in ("127.0.0.1", "::1"):
            reactor: Any = MemoryReactorClock()
            there = evolve(SETTINGS, admin_host=host)
            LogissService(reactor, there, self.lines.write).startService()
            [server] = [s for s in reactor.tcpServers if s[0] == 9514]
            self.assertEqual(server[3], host)
        self.assertEqual(len(self.lines.having("ns", "admin")), 3)

    def test_posts_go_elsewhere(self) -> None:
        """No post is taken there, and nothing of it is shown on the other port."""
        browser = self.browser()
        self.assertEqual(browser.get("/logs").code, 404)
        [server] = [s[1] for s in self.reactor.tcpServers if s[0] == 5000]
        for path in ("/", "/metrics", "/status.json", "/events"):
            client = Browser(server)
            self.assertEqual(client.get(path).code, 404)

    def test_files(self) -> None:
        """Page, style and script are there, by their types."""
        for path, content_type in [
            ("/", "text/html; charset=utf-8"),
            ("/style.css", "text/css; charset=utf-8"),
            ("/status.js", "text/javascript; charset=utf-8"),
            ("/status.json", "application/json"),
            ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ]:
            with self.subTest(path):
                answer = self.browser().get(path)
                self.assertEqual(answer.code, 200)
                self.assertEqual(answer.headers["content-type"], content_type)
                self.assertNotEqual(answer.body, b"")
                head = self.browser().get(path, "HEAD")
                self.assertEqual((head.code, head.body), (200, b""))

    def test_policy(self) -> None:
        """No answer lets a browser run, load or send anything from elsewhere."""
        for path in ("/", "/status.js", "/status.json", "/metrics", "/nothing"):
            headers = self.browser().get(path).headers
            policy = headers["content-security-policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertIn("script-src 'self';", policy)
            self.assertIn("style-src 'self';", policy)
            self.assertNotIn("unsafe", policy)
            self.assertEqual(headers["x-content-type-options"], "nosniff")
            self.assertEqual(headers["cache-control"], "no-store")

    def test_not_there(self) -> None:
        """What is not there is 404, and what is there takes nothing."""
        for path in ("/x", "/metrics/x", "/index.html", "/../x", "//", "/page/"):
            self.assertEqual(self.browser().get(path).code, 404, path)
        for path in ("/", "/metrics", "/status.json", "/events"):
            answer = self.browser().get(path, "POST")
            self.assertEqual(answer.code, 405)
            self.assertEqual(answer.headers["allow"], "GET, HEAD")

    def test_query(self) -> None:
        """A query changes nothing."""
        self.assertEqual(self.browser().get("/status.json?x=1").code, 200)

    def test_open_metrics(self) -> None:
        """Who asks for OpenMetrics gets it."""
        accept = "application/openmetrics-text; version=1.0.0"
        answer = self.browser().get("/metrics", accept=accept)
        self.assertIn("application/openmetrics-text", answer.headers["content-type"])
        self.assertTrue(answer.body.endswith(b"# EOF\n"))

    def test_agrees(self) -> None:
        """A refused post is in the metrics, in the JSON and among the failures."""
        [server] = [s[1] for s in self.reactor.tcpServers if s[0] == 5000]
        client = Browser(server)
        body = framed(message())
        client.protocol.dataReceived(
            request(
                body,
                headers={"Authorization": basic("user", "no"), "X-Request-ID": "r-1"},
            )
        )
        families = text_string_to_metric_families(
            self.browser().get("/metrics").body.decode()
        )
        samples = {
            (s.name, *s.labels.values()): s.value for f in families for s in f.samples
        }
        self.assertEqual(samples["logiss_posts_total", "401"], 1)
        self.assertEqual(samples["logiss_credentials_refused_total", "user"], 1)
        self.reactor.advance(1)
        status = self.status()
        self.assertEqual(status["totals"]["posts_by_code"], {"200": 0, "401": 1})
        [failure] = status["failures"]
        self.assertEqual(
            (failure["code"], failure["request_id"], failure["user"]),
            (401, "r-1", "user"),
        )
        self.assertIn("LogissCredentialsRefused", str(status["findings"]))

    def test_slow_lately(self) -> None:
        """What one of ten posts of the last seconds took is a metric."""
        self.reactor.advance(1)
        self.house.metrics.links[0].confirmation.observe(3.0)
        self.reactor.advance(1)
        name = b'logiss_backend_recent_p90_seconds{destination="192.0.2.1:601"} 4.75'
        self.assertIn(name, self.browser().get("/metrics").body)
        self.reactor.pump([1.0] * 11)
        name = b'logiss_backend_recent_p90_seconds{destination="192.0.2.1:601"} 0.0'
        self.assertIn(name, self.browser().get("/metrics").body)

    def test_draining(self) -> None:
        """It tells of the drain until its end, then it is closed."""
        stopped = self.house.stopService()
        status = self.status()
        self.assertTrue(status["is_draining"])
        page = self.browser()
        page.ask("/events")
        for _ in range(100):
            self.reactor.advance(0.1)
        self.assertEqual(self.successResultOf(stopped), None)
        self.assertFalse(page.connected)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class PagesTests(StatusTestCase):
    """Open pages are told each second."""

    def page(self) -> Browser:
        page = self.browser()
        page.ask("/events")
        return page

    def test_first(self) -> None:
        """What is the case is there at once."""
        page = self.page()
        head = page.value().partition(b"\r\n\r\n")[0]
        self.assertIn(b"Content-Type: text/event-stream", head)
        names = [name for name, _ in page.events()]
        self.assertEqual(names, ["status", "plots"])

    def test_back_soon(self) -> None:
        """A browser whose stream breaks comes back a second later."""
        self.assertIn(b"retry: 1000\n", self.page().value())

    def test_each_second(self) -> None:
        """Then each second, with one plot more, until all are there."""
        page = self.page()
        page.events()
        plots: set[str] = set()
        for _ in PLOTS:
            self.reactor.advance(1)
            (status, _), (drawn, plot) = page.events()
            self.assertEqual((status, drawn), ("status", "plots"))
            plots |= set(plot)
        self.assertEqual(plots, {plot.key for plot in PLOTS})

    def test_same_octets(self) -> None:
        """All are sent the same, made once."""
        pages = [self.page() for _ in range(3)]
        for page in pages:
            page.clear()
        self.reactor.advance(1)
        self.assertEqual(len({page.value() for page in pages}), 1)

    def test_nobody_looks(self) -> None:
        """Without a page nothing is drawn."""
        page = self.page()
        self.reactor.advance(1)
        page.loseConnection()
        gallery = self.house._admin.status._gallery  # type: ignore[union-attr]
        self.assertNotEqual(gallery.drawn, {})
        self.reactor.advance(1)
        self.assertEqual(gallery.drawn, {})
        self.assertEqual(len(self.house._admin.status.pages), 0)  # type: ignore[union-attr]

    def test_slow(self) -> None:
        """One that is behind is left out until it has read what it has."""
        page, other = self.page(), self.page()
        page.clear()
        page.producer.pauseProducing()
        self.reactor.pump([1.0] * 5)
        self.assertEqual(page.value(), b"")
        self.assertEqual(len(other.events()), 2 + 2 * 5)
        page.producer.resumeProducing()
        self.reactor.advance(1)
        self.assertEqual([name for name, _ in page.events()], ["status", "plots"])

    def test_stuck(self) -> None:
        """One that reads nothing for long is closed, the others stay."""
        page, other = self.page(), self.page()
        page.producer.pauseProducing()
        self.reactor.pump([1.0] * int(STUCK_SECONDS))
        self.assertFalse(page.is_aborted)
        self.reactor.pump([1.0] * 3)
        self.assertTrue(page.is_aborted)
        self.assertFalse(other.is_aborted)

    def test_too_many(self) -> None:
        """There are only so many; one that closes makes room."""
        pages = [self.page() for _ in range(PAGES_MAX)]
        self.assertEqual(self.browser().get("/events").code, 503)
        pages[7].loseConnection()
        self.assertIn(b"HTTP/1.1 200", self.page().value())

    def test_goes_on(self) -> None:
        """An error while looking is logged, and the next second is looked again."""
        page = self.page()
        page.events()
        pool = self.house.forwarder.pool
        queue, pool._queue = pool._queue, None  # type: ignore[assignment]
        self.reactor.advance(1)
        self.assertEqual(page.events(), [])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        pool._queue = queue
        self.reactor.advance(1)
        self.assertEqual(len(page.events()), 2)

    def test_outage(self) -> None:
        """What is down is told in the second in which it is seen."""
        page = self.page()
        [(_, status), _] = page.events()
        self.assertEqual(status["answers"][1]["state"], "bad")
        link = self.house.metrics.links[0]
        for is_usable, state in ((True, "good"), (False, "bad")):
            for link in self.house.metrics.links:
                link.is_usable = is_usable
            self.reactor.advance(1)
            (_, status), _ = page.events()
            self.assertEqual(status["answers"][1]["state"], state)


class EmbeddedTests(SynchronousTestCase):
    """The page in another application's site."""

    def test_seen(self) -> None:
        """It is at its path, and knows of the posts of the same site."""
        reactor: Any = MemoryReactorClock()
        lines = Lines()
        intake = SeenIntake(reactor, SETTINGS, lines.write)
        intake.startService()
        client = Browser(intake.site)
        client.protocol.dataReceived(request(b"", headers={"Content-Type": "a/b"}))
        self.assertIn(b" 415 ", client.value())
        self.assertEqual(Browser(intake.site).get("/status/").code, 200)
        body = Browser(intake.site).get("/status/status.json").body
        self.assertEqual(json.loads(body)["totals"]["posts_by_code"]["415"], 1)
        intake.stopService()
