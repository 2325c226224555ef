"""
Builds the house from `Settings`; `stopService` drains it.

The one room that knows all others; only the doors are above it. `LogissService` and
`Forwarder` are also for other Twisted applications.
"""

import errno
import os
from collections.abc import Callable
from itertools import cycle
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import LoopingCall, deferLater

from logiss import codec, descriptors
from logiss.activation import NO_LISTENERS, Inherited, Listeners
from logiss.admission import Admission, settings_credentials
from logiss.connector import (
    EndpointConnector,
    IReactor,
    endpoint_to,
    redis_endpoint,
)
from logiss.credentials import Credentials
from logiss.dedupe import SharedRetries
from logiss.descriptors import ADMIN_MAX
from logiss.drain import Drain
from logiss.facts import Clients as ConnectedClients
from logiss.facts import IWatch, Watch
from logiss.guards import peer_address
from logiss.health import RootResource
from logiss.l2met import EventLog
from logiss.limits import ChannelLimits, Deadlines, HeadLimits
from logiss.listening import BoundedPort
from logiss.metrics import Link, Metrics
from logiss.pipeline import RedisPipeline
from logiss.pool import IDeliverer, Pool
from logiss.proxied import ProxiedFactory
from logiss.redis import REDIS_SECONDS
from logiss.refused import Bounds, Folder, RefusedBodies, in_daemon_thread
from logiss.relp_sender import RELPSender, relp_client
from logiss.retries import REMEMBERED_SECONDS
from logiss.senders import Sender, SenderFactory
from logiss.settings import Settings, SettingsError
from logiss.shares import Shares
from logiss.site import ChannelSite, Clients, LogsSite
from logiss.syslog_sender import Acknowledgements, SyslogSender
from logiss.tls import tls_wrapper
from logiss.variables import Destination
from logiss.web import KeepingLogsResource, LogsResource
from logiss.wire import why_no_acknowledgements

#: How often successes are summed up when they have no lines of their own.
SUM_SECONDS = 10.0
#: How long posts are still refused, once the last one has its answer.
LAST_POSTS_SECONDS = 0.25
#: How often it is looked whether the last client has left.
LEFT_POLL_SECONDS = 0.05
#: How long clients may take to read their answers once everything is delivered.
GOODBYE_SECONDS = 1.0
#: How long the readers of the status page may take to read the end of it.
ADMIN_GOODBYE_SECONDS = 0.2
#: How long a new worker may be kept from its clients by a Redis that is gone.
TABLE_SECONDS = 2.0
#: Nobody has to send a body there.
ADMIN_BODY_BYTES = 1024


class Forwarder(Service):
    """
    The persistent connections to the backend and the pool that they serve.

    @ivar pool: an `IDeliverer`, usable as soon as this is started.
    """

    name = "forwarder"

    def __init__(
        self,
        reactor: IReactor,
        settings: Settings,
        events: EventLog,
        metrics: Metrics | None = None,
    ) -> None:
        if not settings.forward_dest:
            raise ValueError("settings.forward_dest is needed to forward")
        problems = platform_problems(settings)
        if problems:
            raise SettingsError(problems)
        metrics = metrics or Metrics()
        self._reactor = reactor
        self._settings = settings
        self.pool = Pool(
            reactor,
            settings.delivery_timeout_seconds,
            events,
            metrics,
            settings.delivery_level,
        )
        self._acknowledgements: Acknowledgements | None = None
        if settings.delivery_level == "acked":
            self._acknowledgements = Acknowledgements(reactor)
        destinations = settings.forward_dest
        self._links = []
        for i, destination in zip(
            range(settings.forward_count), cycle(destinations), strict=False
        ):
            link = Link(i, str(destination))
            metrics.links.append(link)
            factory = SenderFactory(
                link,
                self._make_sender,
                reactor,
                events,
                link.destination if len(destinations) > 1 else "",
            )
            self._links.append((factory, destination))

    def _make_sender(self, sender_id: int) -> Sender:
        if self._settings.delivery_level == "relp":
            window = self._settings.relp_window
            return RELPSender(sender_id, self.pool, relp_client(window))
        return SyslogSender(
            sender_id,
            self.pool,
            self._acknowledgements,
            self._settings.replay_bytes,
        )

    def startService(self) -> None:
        super().startService()
        timeout_seconds = self._settings.forward_dest_connect_timeout_seconds
        wraps = {d: self._wrap(d) for d in self._settings.forward_dest}
        for factory, destination in self._links:
            EndpointConnector(
                self._reactor,
                endpoint_to(self._reactor, destination, timeout_seconds),
                factory,
                wraps[destination],
                timeout_seconds,
            ).connect()

    def _wrap(
        self, destination: Destination
    ) -> Callable[[ClientFactory[Any]], IProtocolFactory]:
        """What puts TLS below a factory, where there is to be TLS."""
        if self._settings.pem is None or destination.scheme == "relp":
            return _plain
        return tls_wrapper(destination.host, self._settings.pem, self._reactor)

    async def stop(self, deadline: float) -> None:
        """
        Deliver what is to be replayed, until `deadline` in the reactor's seconds;
        fail what still waits; end every connection in order.
        """
        super().stopService()
        replayed = self.pool.replays_ended()
        timer = self._reactor.callLater(
            max(0.0, deadline - self._reactor.seconds()), self.pool.stop
        )
        await replayed
        if timer.active():
            timer.cancel()
            self.pool.stop()
        await gatherResults([factory.close() for factory, _ in self._links])

    def stopService(self) -> Deferred[None]:
        deadline = self._reactor.seconds() + self._settings.delivery_timeout_seconds
        return Deferred.fromCoroutine(self.stop(deadline))


def platform_problems(settings: Settings) -> list[str]:
    """What this platform has against `settings`, a line each."""
    why = why_no_acknowledgements() if settings.delivery_level == "acked" else ""
    return [f"DELIVERY: 'acked' {why}; set DELIVERY=sent"] if why else []


def descriptor_problems(settings: Settings) -> list[str]:
    """What the limit on open files has against serving clients, a line each."""
    why = descriptors.why_too_few(
        settings.max_connections, _kept(settings), descriptors.descriptors_max()
    )
    return [f"MAX_CONNECTIONS: {why}"] if why else []


def descriptors_wanted(settings: Settings) -> int:
    """How many descriptors a whole logiss may come to need."""
    return settings.max_connections + _kept(settings)


def _kept(settings: Settings) -> int:
    """How many descriptors clients must leave."""
    has_admin = settings.admin_port is not None
    return descriptors.reserved(settings.forward_count, has_admin)


def drain_seconds(settings: Settings) -> float:
    """How long a drain may take, from the signal on."""
    return (
        settings.drain_delay_seconds
        + settings.delivery_timeout_seconds
        + LAST_POSTS_SECONDS
        + GOODBYE_SECONDS
        + ADMIN_GOODBYE_SECONDS
    )


def clients_max(settings: Settings) -> int:
    """How many clients may be connected, as many descriptors as there are."""
    return descriptors.clients_max(
        settings.max_connections, _kept(settings), descriptors.descriptors_max()
    )


def _plain(factory: ClientFactory[Any]) -> IProtocolFactory:
    return factory


def watch(
    clock: IReactorTime,
    settings: Settings,
    logs: LogsResource,
    forwarder: Forwarder,
    admission: Admission,
    clients: Callable[[], ConnectedClients] = ConnectedClients,
) -> Watch:
    """
    Who knows what is the case, for `logiss.status.Status`.

    @param logs: with the metrics of `forwarder` and `admission`, and its credentials.
    @param clients: tells of the connections of clients, where that is known.
    """
    refresh_seconds = None
    if settings.credentials_url is not None:
        refresh_seconds = settings.credential_refresh_interval_seconds
    return Watch(
        clock,
        logs.metrics,
        forwarder.pool,
        logs.budget,
        admission.credentials,
        logs.drain,
        admission.collect_uses,
        clients,
        instance=settings.deploy,
        delivery_timeout_seconds=settings.delivery_timeout_seconds,
        refresh_seconds=refresh_seconds,
    )


class Admin(Service):
    """
    The operator's page, metrics and JSON on a port of their own.

    @param watch: knows where to look.
    @param inherited: listens already, in place of the port that `settings` name.
    """

    name = "admin"

    def __init__(
        self,
        reactor: IReactor,
        settings: Settings,
        watch: IWatch,
        inherited: Inherited | None = None,
    ) -> None:
        # Whoever does not want it does not pay for its libraries.
        from logiss.status import Status

        self._reactor = reactor
        self._settings = settings
        self._inherited = inherited
        self.status = Status(reactor, watch)
        site = LogsSite(self.status.root, reactor, ADMIN_BODY_BYTES)
        self._clients = Clients(site, reactor)
        self._port: BoundedPort | None = None

    def startService(self) -> None:
        """
        @raise CannotListenError: the port is taken or not allowed.
        """
        super().startService()
        # Lines on clients are about those who post.
        muted = EventLog(self._settings.deploy, lambda line: None)
        self._port = BoundedPort(self._reactor, self._listen(), ADMIN_MAX, muted)
        self.status.startService()

    def _listen(self) -> IListeningPort:
        clients, settings = cast(Any, self._clients), self._settings
        if self._inherited is not None:
            return self._inherited.adopt(self._reactor, clients)
        assert settings.admin_port is not None
        return self._reactor.listenTCP(
            settings.admin_port, clients, interface=settings.admin_host
        )

    @property
    def address(self) -> Any:
        """Where it listens; only while it does."""
        assert self._port is not None
        return self._port.getHost()

    async def stop(self) -> None:
        """Close the port and all pages."""
        super().stopService()
        port, self._port = self._port, None
        if port is not None:
            stopped = port.stopListening()
            if stopped is not None:
                await stopped
        self.status.stopService()
        await self._clients.say_goodbye(ADMIN_GOODBYE_SECONDS)


class LogissService(Service):
    """
    A whole logiss: listener, front door, forwarder, drain.

    `stopService` drains: it returns a Deferred that fires when every post has its
    answer and every connection is closed.

    @param write: takes a log line without its line feed.
    @param listeners: listen already, in place of the ports that `settings` name.
    @param worker: the number of this one, where several share a listening socket.
    @param shares: what each of them has of the clients.
    @ivar logs: the `LogsResource`.
    @ivar forwarder: the connections to the backend.
    """

    name = "logiss"

    def __init__(
        self,
        reactor: IReactor,
        settings: Settings,
        write: Callable[[str], None],
        listeners: Listeners = NO_LISTENERS,
        worker: int | None = None,
        shares: Shares | None = None,
    ) -> None:
        problems = descriptor_problems(settings)
        if problems:
            raise SettingsError(problems)
        self._reactor = reactor
        self._settings = settings
        self._inherited = listeners.logs
        self._shares = shares
        self.events = EventLog(settings.deploy, write, worker)
        self.metrics = Metrics()
        self.drain = Drain()
        self.forwarder = Forwarder(reactor, settings, self.events, self.metrics)
        self.admission = Admission(reactor, settings, self.events, self.metrics)
        self._refused: RefusedBodies | None = None
        if settings.capture_refused is not None:
            self._refused = refused_bodies(
                reactor, settings, settings.capture_refused, self.events, self.metrics
            )
        self._shared = shared_retries(reactor, settings, self.events, self.metrics)
        self.logs = logs_resource(
            reactor,
            settings,
            self.forwarder.pool,
            self.events,
            drain=self.drain,
            metrics=self.metrics,
            credentials=self.admission.credentials,
            refused=self._refused,
            shared=self._shared,
        )
        root = RootResource(
            self.logs,
            self.drain,
            self.events,
            self.metrics,
            connected=lambda: self.forwarder.pool.connected,
            delivery_level=self.forwarder.pool.delivery_level,
            credentials_loaded=lambda: self.admission.credentials.is_loaded,
        )
        self._clients: Clients | ChannelSite | ProxiedFactory
        if settings.http_channel == "stock":
            site = LogsSite(
                root,
                reactor,
                settings.max_body_bytes,
                settings.keepalive_timeout_seconds,
            )
            self._clients = Clients(site, reactor)
        else:
            self._clients = ChannelSite(
                root,
                reactor,
                channel_limits(settings),
                fixed={b"/logs": self.logs, b"/logs/": self.logs},
                delivery_level=self.forwarder.pool.delivery_level,
                budget=self.logs.budget,
                on_cut=self._clients_cut,
                refused_by_code=self.metrics.requests_refused_by_code,
            )
        if settings.proxy_protocol:
            self._clients = ProxiedFactory(
                self._clients,
                reactor,
                settings.header_timeout_seconds,
                self._proxy_headers_refused,
            )
        self._port: BoundedPort | None = None
        self._admin: Admin | None = None
        self.watch = watch(
            reactor,
            settings,
            self.logs,
            self.forwarder,
            self.admission,
            self._connected,
        )
        if settings.admin_port is not None:
            self._admin = Admin(reactor, settings, self.watch, listeners.admin)
        self._sums = LoopingCall(self._sum_up)
        self._sums.clock = reactor
        self._summed = (0, 0)
        self._has_left = False
        self._pauses = 0
        self._began_at = reactor.seconds()

    def startService(self) -> None:
        """
        @raise CannotListenError: the port is taken or not allowed.
        """
        self._port = self._listen()
        self.events.started(codec.NAME, self._settings.http_channel)
        self.events.phase_reached("http", "listen", port=self.address.port)
        self._begin()

    def prepare(self) -> None:
        """Do all that `startService` does, but do not listen before `accept`."""
        self.events.started(codec.NAME, self._settings.http_channel)
        self._begin()

    def accept(self) -> None:
        """
        Take posts.

        @raise CannotListenError: the port is taken or not allowed.
        """
        self._port = self._listen()
        self.events.phase_reached("http", "listen", port=self.address.port)

    @property
    def has(self) -> tuple[bool, bool]:
        """
        Whether it has a usable backend connection, and whether it has its credentials:
        with both of them a post that came now could be delivered. The table of retried
        posts is waited for, but not for long: no post needs it.
        """
        usable = self.forwarder.pool.connected
        is_known = self.admission.credentials.is_loaded and not self._awaits_table
        return usable > 0, is_known

    @property
    def _awaits_table(self) -> bool:
        if self._shared is None or self._shared.is_usable:
            return False
        return self._reactor.seconds() < self._began_at + TABLE_SECONDS

    def _begin(self) -> None:
        super().startService()
        self._began_at = self._reactor.seconds()
        if self._admin is not None:
            self._admin.startService()
            port = self._admin.address.port
            self.events.phase_reached("admin", "listen", port=port)
        self._say_how_many()
        self.forwarder.startService()
        self.admission.startService()
        if self._shared is not None:
            self._shared.start()
        if self._refused is not None:
            self._refused.start()
        if not self._settings.log_successes:
            self._sums.start(SUM_SECONDS, now=False)

    @property
    def counts(self) -> tuple[int, int]:
        """How many clients are connected, and how many posts have been answered."""
        metrics = self.metrics
        answered = metrics.posts_succeeded + metrics.posts_failed
        return self._clients.connected, answered

    def _connected(self) -> ConnectedClients:
        port = self._port
        if port is not None:
            most = clients_max(self._settings)
            return ConnectedClients(port.connections, most, port.pauses)
        if self._has_left:
            # It lets nobody else in.
            there = self._clients.connected
            return ConnectedClients(there, there, self._pauses)
        return ConnectedClients()

    def _listen(self) -> BoundedPort:
        """Listen, with no more connections than there may be."""
        port = listen(self._reactor, self._settings, self._clients, self._inherited)
        most = clients_max(self._settings)
        return BoundedPort(self._reactor, port, most, self.events, self._shares)

    def _say_how_many(self) -> None:
        wanted, most = self._settings.max_connections, clients_max(self._settings)
        if most < wanted:
            limit = descriptors_wanted(self._settings)
            self.events.connections_limited(most, wanted, limit)

    @property
    def address(self) -> Any:
        """Where it listens; only while it does."""
        assert self._port is not None
        return self._port.getHost()

    async def leave(self, within_seconds: float) -> None:
        """
        Let no further client in, and serve those who are there until they have gone:
        the next answer of each is its last. A client that has nothing to send may stay
        `within_seconds`; to close its connection sooner could meet its next post
        halfway, which then had no answer. `stopService` is to follow, or comes before
        they have gone.
        """
        self._has_left = True
        await self._stop_listening()
        self._clients.announce_end()
        self.events.phase_reached("http", "leave", clients=self._clients.connected)
        await self._until_left(within_seconds)
        if self.drain.announced:
            return
        self._clients.dismiss_idle()
        # What has been begun by then is read and answered, within its own deadlines.
        settings = self._settings
        await self._until_left(
            settings.header_timeout_seconds
            + settings.body_timeout_seconds
            + settings.delivery_timeout_seconds
        )
        if not self.drain.announced:
            await self._clients.say_goodbye(GOODBYE_SECONDS)

    async def _until_left(self, within_seconds: float) -> None:
        """Until nobody is connected, or a drain has begun."""
        deadline = self._reactor.seconds() + within_seconds
        while self._clients.connected and self._reactor.seconds() < deadline:
            if self.drain.announced:
                return
            await deferLater(self._reactor, LEFT_POLL_SECONDS)

    async def end_admin(self) -> None:
        """Close the operator's page, where it has not been closed before."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.stop()

    async def _stop_listening(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            self._pauses = port.pauses
            stopped = port.stopListening()
            if stopped is not None:
                await stopped

    async def _announce_drain(self) -> None:
        """Have load balancers look away, while posts are still taken."""
        self.drain.announce()
        delay_seconds = self._settings.drain_delay_seconds
        if not delay_seconds or self._is_left:
            return
        self.events.phase_reached("main", "drain-delay")
        self._clients.announce_end()
        deadline = self._reactor.seconds() + delay_seconds
        while not self._is_left and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, LEFT_POLL_SECONDS)

    @property
    def _is_left(self) -> bool:
        """Whether nobody is there any more, nor will be."""
        return self._has_left and not self._clients.connected

    async def _drain(self) -> None:
        await self._announce_drain()
        deadline = self._reactor.seconds() + self._settings.delivery_timeout_seconds
        emptied: Deferred[None] = Deferred()
        self.drain.begin(lambda: emptied.callback(None))
        self.events.phase_reached("http", "shutdown")
        self.events.phase_reached("main", "drain", posts=self.drain.inside)
        await emptied
        self.admission.stopService()
        # Clients may have posted again while the last answers went out: they get
        # their 503. What lies unread when they are closed has no answer.
        await deferLater(self._reactor, LAST_POSTS_SECONDS)
        await self._stop_listening()
        await self._clients.say_goodbye(GOODBYE_SECONDS)
        await self.forwarder.stop(deadline)
        if self._shared is not None:
            await self._shared.stop()
        await self.end_admin()
        if self._refused is not None:
            await self._refused.stop()
        if self._sums.running:
            self._sums.stop()
            self._sum_up()
        if self._has_left:
            # The process may go on as the parent of others.
            self.events.phase_reached("http", "left")
        else:
            self.events.phase_reached("main", "exit")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._drain())

    def _clients_cut(self, count: int, address: IAddress, why: str) -> None:
        self.metrics.clients_cut += count
        self.events.clients_cut(count, getattr(address, "host", ""), why)

    def _proxy_headers_refused(self, count: int, address: IAddress, why: str) -> None:
        self.metrics.proxy_headers_refused += count
        host = peer_address(getattr(address, "host", ""))
        self.events.proxy_headers_refused(count, host, why)

    def _sum_up(self) -> None:
        now = (self.metrics.posts_succeeded, self.metrics.frames_delivered)
        before, self._summed = self._summed, now
        if now != before:
            self.events.posts_summed(now[0] - before[0], now[1] - before[1])


def channel_limits(settings: Settings) -> ChannelLimits:
    """What clients of `logiss.channel` may send."""
    return ChannelLimits(
        settings.max_body_bytes,
        HeadLimits(
            settings.max_request_line_bytes,
            settings.max_header_bytes,
            settings.max_header_fields,
        ),
        settings.read_ahead_bytes,
        Deadlines(
            settings.keepalive_timeout_seconds,
            settings.header_timeout_seconds,
            settings.body_timeout_seconds,
            settings.body_rate,
        ),
    )


def logs_resource(
    clock: IReactorTime,
    settings: Settings,
    deliverer: IDeliverer,
    events: EventLog,
    *,
    drain: Drain | None = None,
    metrics: Metrics | None = None,
    credentials: Credentials | None = None,
    refused: RefusedBodies | None = None,
    shared: SharedRetries | None = None,
) -> LogsResource:
    """
    A `LogsResource`.

    @param credentials: an `Admission`'s; without them those of `settings`.
    @param refused: takes the bodies that are answered 400, if they are to be kept.
    @param shared: what `shared_retries` has made.
    @raise ValueError: `settings` have a Redis, which takes an `Admission`.
    """
    if credentials is None:
        if settings.credentials_url is not None:
            raise ValueError("settings.redis_url needs the credentials of an Admission")
        credentials = settings_credentials(settings)
    if refused is not None:
        return KeepingLogsResource(
            settings,
            deliverer,
            clock,
            events,
            refused=refused,
            credentials=credentials,
            drain=drain,
            metrics=metrics,
            shared=shared,
        )
    return LogsResource(
        settings,
        deliverer,
        clock,
        events,
        credentials=credentials,
        drain=drain,
        metrics=metrics,
        shared=shared,
    )


def shared_retries(
    reactor: IReactor, settings: Settings, events: EventLog, metrics: Metrics
) -> SharedRetries | None:
    """The table by which a fleet knows retried posts, if there is to be one."""
    if not settings.dedupe_redis or settings.redis_url is None:
        return None
    timeout_seconds = settings.dedupe_timeout_seconds
    endpoint = redis_endpoint(reactor, settings.redis_url, REDIS_SECONDS)
    return SharedRetries(
        reactor,
        RedisPipeline(reactor, endpoint, settings.redis_url, timeout_seconds),
        events,
        metrics,
        settings.dedupe_prefix,
        settings.delivery_timeout_seconds,
        timeout_seconds,
        REMEMBERED_SECONDS,
    )


def refused_bodies(
    reactor: IReactor,
    settings: Settings,
    path: str,
    events: EventLog,
    metrics: Metrics,
) -> RefusedBodies:
    """
    Keeps refused bodies in the directory `path`.
    """
    bounds = Bounds(settings.capture_refused_max, settings.capture_refused_bytes)
    folder = Folder(path, bounds, os.getpid(), reactor.seconds)
    threads: Any = reactor
    return RefusedBodies(
        reactor,
        folder,
        events,
        metrics,
        lambda work: in_daemon_thread(threads, work),
    )


def listen(
    reactor: IReactor,
    settings: Settings,
    factory: Any,
    inherited: Inherited | None = None,
) -> IListeningPort:
    """
    Listen on `inherited`, else on `LISTEN_HOST`, else on all addresses, IPv6 and IPv4
    in one where the system has IPv6.
    """
    if inherited is not None:
        return inherited.adopt(reactor, factory)
    if settings.listen_host is not None:
        return reactor.listenTCP(
            settings.port, factory, 511, interface=settings.listen_host
        )
    try:
        return reactor.listenTCP(settings.port, factory, 511, interface="::")
    except CannotListenError as e:
        if not _no_ipv6(e):
            raise
        return reactor.listenTCP(settings.port, factory, 511)


def _no_ipv6(error: CannotListenError) -> bool:
    cause = error.socketError
    return isinstance(cause, OSError) and cause.errno in (
        errno.EAFNOSUPPORT,
        errno.EADDRNOTAVAIL,
    )
