"""
The operator's page, Prometheus text and JSON, on a port of their own.

All open pages are sent the same octets, made once a second and only while there is
one. A page that does not read is left out until it does, and closed when it takes too
long.
"""

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web import http
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from logiss.exposition import Exposition
from logiss.facts import IWatch
from logiss.findings import lately
from logiss.history import SAMPLE_SECONDS, History
from logiss.plots import Gallery
from logiss.report import report

#: So many pages may be open at once; there are more connections, for other requests.
PAGES_MAX = 128
#: How long a page may take to read what it was sent.
STUCK_SECONDS = 30.0

#: Everything comes from here, nothing is a script but the one file.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    b" img-src 'self' data:; base-uri 'none'; form-action 'none';"
    b" frame-ancestors 'none'"
)
_FIELDS = (
    (b"Content-Security-Policy", _POLICY),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Cache-Control", b"no-store"),
    (b"Server", b"logiss"),
)


class _Answering(Resource):
    """Answers GET and HEAD at its own path."""

    isLeaf = True

    def render(self, request: IRequest) -> int:
        request = cast(Request, request)
        for name, value in _FIELDS:
            request.setHeader(name, value)
        if request.postpath not in ([], [b""]):
            _write(
                request, http.NOT_FOUND, b"text/plain; charset=utf-8", b"Not found\n"
            )
        elif request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"Allow", b"GET, HEAD")
            body = b"Only GET is served here\n"
            _write(request, http.NOT_ALLOWED, b"text/plain; charset=utf-8", body)
        else:
            self.answer(request)
        return NOT_DONE_YET

    def answer(self, request: Request) -> None:
        raise NotImplementedError


def _write(request: Request, code: int, content_type: bytes, body: bytes) -> None:
    request.setResponseCode(code)
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    if request.method != b"HEAD":
        request.write(body)
    request.finish()


class _Made(_Answering):
    """A body that is made when it is asked for."""

    def __init__(self, make: Callable[[Request], tuple[bytes, bytes]]) -> None:
        super().__init__()
        self._make = make

    def answer(self, request: Request) -> None:
        content_type, body = self._make(request)
        _write(request, http.OK, content_type, body)


def _file(name: str, content_type: bytes) -> _Made:
    body = files("logiss").joinpath("page", name).read_bytes()
    return _Made(lambda request: (content_type, body))


@implementer(IPushProducer)
class _Page:
    """A page that is open somewhere."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.paused_at: float | None = None
        self.is_paused = False

    def resumeProducing(self) -> None:
        """It has read what it was sent."""
        self.is_paused = False
        self.paused_at = None

    def pauseProducing(self) -> None:
        """It is behind."""
        self.is_paused = True

    def stopProducing(self) -> None:
        """It is gone."""
        self.is_paused = True


class Pages(_Answering):
    """
    The open pages, each a stream of server-sent events (WHATWG HTML section 9.2).

    @param first: what a page is sent when it is opened.
    """

    def __init__(self, clock: IReactorTime, first: Callable[[], bytes]) -> None:
        super().__init__()
        self._clock = clock
        self._first = first
        self._pages: dict[_Page, None] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def answer(self, request: Request) -> None:
        if len(self._pages) >= PAGES_MAX:
            body = b"Too many pages are open; close some\n"
            _write(
                request, http.SERVICE_UNAVAILABLE, b"text/plain; charset=utf-8", body
            )
            return
        request.setHeader(b"Content-Type", b"text/event-stream; charset=utf-8")
        if request.method == b"HEAD":
            request.finish()
            return
        page = _Page(request)
        self._pages[page] = None
        request.notifyFinish().addBoth(lambda _: self._pages.pop(page, None))
        request.registerProducer(page, True)
        request.write(self._first())

    def send(self, octets: bytes) -> None:
        """Send each page `octets` that reads them."""
        now = self._clock.seconds()
        for page in list(self._pages):
            if not page.is_paused:
                page.request.write(octets)
            elif page.paused_at is None:
                page.paused_at = now
            elif now - page.paused_at > STUCK_SECONDS:
                cast(Any, page.request.transport).abortConnection()

    def close(self) -> None:
        """No more will be sent."""
        for page in list(self._pages):
            page.request.unregisterProducer()
            page.request.finish()


def event(name: str, data: Any) -> bytes:
    """A server-sent event; JSON has no line feeds."""
    return f"event: {name}\ndata: {_json(data)}\n\n".encode()


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))


class StatusRoot(Resource):
    """Everything on the admin port, by path."""

    def __init__(self, page: Resource, **children: Resource) -> None:
        super().__init__()
        self._page = page
        for name, child in children.items():
            self.putChild(name.replace("_", ".").encode(), child)

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        request = cast(Request, request)
        if path == b"" and not request.postpath:
            return self._page
        return _Nothing()


class _Nothing(_Answering):
    """Is not there."""

    def render(self, request: IRequest) -> int:
        cast(Any, request).postpath = [b"nothing"]
        return super().render(request)


class Status(Service):
    """
    Takes a sample each second, and tells whoever looks.

    @ivar root: what the admin port serves.
    @ivar pages: those that are open.
    """

    name = "status"
    _log = Logger()

    def __init__(self, clock: IReactorTime, watch: IWatch) -> None:
        self._watch = watch
        self._history = History()
        self._gallery = Gallery(self._history)
        exposition = Exposition(watch.facts, lambda: lately(self._history))
        self.pages = Pages(clock, self._first)
        self._sampling = LoopingCall(self._tick)
        self._sampling.clock = clock

        def metrics(request: Request) -> tuple[bytes, bytes]:
            octets, content_type = exposition.octets(request.getHeader("accept") or "")
            return content_type.encode(), octets

        def document(request: Request) -> tuple[bytes, bytes]:
            whole = {**self.report(), "plots": self._gallery.words()}
            return b"application/json", json.dumps(whole, indent=1).encode() + b"\n"

        self.root = StatusRoot(
            _file("index.html", b"text/html; charset=utf-8"),
            style_css=_file("style.css", b"text/css; charset=utf-8"),
            status_js=_file("status.js", b"text/javascript; charset=utf-8"),
            status_json=_Made(document),
            metrics=_Made(metrics),
            events=self.pages,
        )

    def report(self) -> dict[str, Any]:
        """What is the case now."""
        return report(self._watch.facts(), self._history)

    def startService(self) -> None:
        super().startService()
        self._sampling.start(SAMPLE_SECONDS)

    def stopService(self) -> None:
        super().stopService()
        if self._sampling.running:
            self._sampling.stop()
        self.pages.close()

    def _tick(self) -> None:
        try:
            self._history.add(self._watch.sample())
            if len(self.pages):
                drawn = event("plots", self._gallery.draw_next())
                self.pages.send(event("status", self.report()) + drawn)
            else:
                self._gallery.forget()
        except Exception:
            # What is shown must never end what is shown.
            self._log.failure("while looking at what is the case")

    def _first(self) -> bytes:
        return (
            b"retry: %d\n" % (1000 * SAMPLE_SECONDS)
            + event("status", self.report())
            + event("plots", self._gallery.shown())
        )
