"""Ways to run logiss inside another Twisted application."""

from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from logiss import (
    Admission,
    EventLog,
    Forwarder,
    IDeliverer,
    LogissService,
    LogsResource,
    LogsSite,
    Metrics,
    NotDelivered,
    Payload,
    Settings,
    logs_resource,
    read_settings,
)
from logiss.service import watch
from logiss.status import Status


@implementer(IDeliverer)
class Spool:
    """Keeps the frames of each post, as long as there is room."""

    def __init__(self, posts_max: int) -> None:
        self.posts: list[bytes] = []
        self._posts_max = posts_max

    def deliver(self, payload: Payload) -> Deferred[None]:
        if len(self.posts) == self._posts_max:
            return fail(NotDelivered("the spool is full"))  # 504
        self.posts.append(payload.octets)
        return succeed(None)  # 200


def site_with_spool(
    clock: IReactorTime, spool: Spool, write: Callable[[str], None]
) -> Site:
    """A site with pages of its own that takes posts at ``/intake/logs``."""
    settings = Settings(deploy="shop", tokens=(("app", "logthis"),))
    intake = Resource()
    intake.putChild(
        b"logs",
        logs_resource(clock, settings, spool, EventLog(settings.deploy, write)),
    )
    root = Resource()
    root.putChild(b"intake", intake)
    return Site(root)


class Rotating(MultiService):
    """A site that takes posts at ``/logs``, with credentials that are in Redis."""

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        deliverer: IDeliverer,
        write: Callable[[str], None],
    ) -> None:
        super().__init__()
        events = EventLog(settings.deploy, write)
        admission = Admission(reactor, settings, events)
        admission.setServiceParent(self)
        root = Resource()
        root.putChild(
            b"logs",
            logs_resource(
                reactor,
                settings,
                deliverer,
                events,
                credentials=admission.credentials,
            ),
        )
        self.site = LogsSite(root, reactor, settings.max_body_bytes)


class Intake(MultiService):
    """Posts to ``/logs`` of a site of one's own, forwarded by logiss's connections."""

    def __init__(
        self, reactor: Any, settings: Settings, write: Callable[[str], None]
    ) -> None:
        super().__init__()
        events, metrics = EventLog(settings.deploy, write), Metrics()
        forwarder = Forwarder(reactor, settings, events, metrics)
        forwarder.setServiceParent(self)
        self.logs: LogsResource = logs_resource(
            reactor, settings, forwarder.pool, events, metrics=metrics
        )
        root = Resource()
        root.putChild(b"logs", self.logs)
        # Keeps bodies in memory, bounded; a plain Site would write temporary files.
        self.site = LogsSite(root, reactor, settings.max_body_bytes)

    async def _drain(self) -> None:
        emptied: Deferred[None] = Deferred()
        self.logs.drain.begin(lambda: emptied.callback(None))
        await emptied
        await super().stopService()

    def stopService(self) -> Deferred[None]:
        """Refuse posts, wait for those inside, then close the connections."""
        return Deferred.fromCoroutine(self._drain())


class SeenIntake(MultiService):
    """Posts to ``/logs``, and the status page at ``/status/`` of the same site."""

    def __init__(
        self, reactor: Any, settings: Settings, write: Callable[[str], None]
    ) -> None:
        super().__init__()
        events, metrics = EventLog(settings.deploy, write), Metrics()
        forwarder = Forwarder(reactor, settings, events, metrics)
        admission = Admission(reactor, settings, events, metrics)
        logs = logs_resource(
            reactor,
            settings,
            forwarder.pool,
            events,
            metrics=metrics,
            credentials=admission.credentials,
        )
        status = Status(reactor, watch(reactor, settings, logs, forwarder, admission))
        for service in (forwarder, admission, status):
            service.setServiceParent(self)
        root = Resource()
        root.putChild(b"logs", logs)
        # Nobody is asked for credentials there: put what guards it in front.
        root.putChild(b"status", status.root)
        self.site = LogsSite(root, reactor, settings.max_body_bytes)


def whole_as_child(
    parent: MultiService,
    reactor: Any,
    environ: Mapping[str, str],
    write: Callable[[str], None],
) -> LogissService:
    """A whole logiss, listener included, that starts and stops with `parent`."""
    logiss = LogissService(reactor, read_settings(environ), write)
    logiss.setServiceParent(parent)
    return logiss
