"""
Everything that the daemon serves, by path: ``/logs``, and ``/health`` and ``/ready``
for load balancers.

``/health`` says whether to send posts here at all, ``/ready`` whether they would be
delivered.
"""

from collections.abc import Callable
from typing import cast

from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from logiss.answers import (
    CREDENTIALS_UNKNOWN,
    NO_BACKEND,
    NOT_FOUND,
    OK,
    SHUTTING_DOWN,
    Answer,
    IReadsEarly,
    name_level,
)
from logiss.drain import Drain
from logiss.l2met import EventLog
from logiss.metrics import Metrics


@implementer(IReadsEarly)
class _Leaf(Resource):
    """Answers at its own path only, and never reads a body."""

    isLeaf = True

    def __init__(self, answer: Callable[[], Answer], level: str | None) -> None:
        super().__init__()
        self._answer = answer
        self._level = level

    def refusal(self, request: Request) -> Answer:
        return NOT_FOUND if request.postpath else self._answer()

    def take(self, request: Request, octets: bytes) -> Answer | None:
        """Never called, for each request is answered on its headers."""
        return NOT_FOUND

    def abandoned(self, request: Request) -> None:
        """Nor is this."""

    def render(self, request: IRequest) -> int:
        request = cast(Request, request)
        name_level(request, self._level)
        self.refusal(request).write_to(request)
        return NOT_DONE_YET


class RootResource(Resource):
    """
    Everything that the daemon serves: ``/logs``, ``/health``, ``/ready``.

    @param logs: what serves ``/logs``.
    @param connected: says how many backend connections are usable.
    @param delivery_level: what each answer says a 200 to a post means, if it is
        known.
    @param credentials_loaded: says whether all credentials are known.
    """

    def __init__(
        self,
        logs: IResource,
        drain: Drain,
        events: EventLog,
        metrics: Metrics,
        connected: Callable[[], int],
        delivery_level: str | None = None,
        credentials_loaded: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__()
        self._level = delivery_level
        self._credentials_loaded = credentials_loaded
        self._drain = drain
        self._events = events
        self._metrics = metrics
        self._connected = connected
        self.putChild(b"logs", logs)
        self.putChild(b"health", _Leaf(self._health, self._level))
        self.putChild(b"ready", _Leaf(self._ready, self._level))

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        return _Leaf(lambda: NOT_FOUND, self._level)

    def _health(self) -> Answer:
        self._metrics.health_checks += 1
        self._events.health_checked()
        return SHUTTING_DOWN if self._drain.announced else OK

    def _ready(self) -> Answer:
        if self._drain.announced:
            return SHUTTING_DOWN
        if not self._connected():
            return NO_BACKEND
        return OK if self._credentials_loaded() else CREDENTIALS_UNKNOWN
