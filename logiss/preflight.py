"""
Tries a configuration out: connects as logiss would, and serves nobody.

A destination is connected to by the very senders that forward, so that it is found
good exactly when posts would reach it. Nothing is sent but what opens a session, and
nothing is listened on.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.x509.oid import NameOID
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from logiss.admission import redis_hash
from logiss.connector import (
    EndpointConnector,
    IReactor,
    endpoint_to,
    redis_endpoint,
)
from logiss.credentials import BrokenEntry, parse_entry
from logiss.dedupe import Commands
from logiss.l2met import EventLog
from logiss.metrics import Link
from logiss.pipeline import RedisPipeline
from logiss.redis import REDIS_SECONDS, RedisFailed
from logiss.relp_sender import RELPSender, relp_client
from logiss.senders import ISenderOwner, Sender, SenderFactory, describe
from logiss.settings import Settings
from logiss.syslog_sender import SyslogSender
from logiss.tls import ClientTLS, tls_wrapper
from logiss.variables import BackendPEM, Destination, RedisURL
from logiss.words import many, text

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
#: A certificate that ends sooner is a warning.
EXPIRES_SOON = timedelta(days=21)
#: So much of a name that somebody else has made is repeated.
NAME_MAX = 100
_NAMES_MAX = 10
_BROKEN_MAX = 10


@frozen
class Result:
    """
    What was found out.

    @ivar level: `OK`, `NOTE`, `WARNING` or `ERROR`.
    @ivar variable: which one it is about.
    @ivar words: on one line.
    """

    level: str
    variable: str
    words: str


def preflight(
    reactor: IReactor, settings: Settings, now: datetime
) -> Deferred[list[Result]]:
    """
    Try all of `settings` out at once.

    @param now: with a timezone.
    @return: fires with the results in the order of the variables, never fails.
    """
    tries = [_try_destination(reactor, settings, d, now) for d in _each(settings)]
    if settings.credentials_url is not None:
        tries.append(_try_redis(reactor, settings, settings.credentials_url))
    if settings.dedupe_redis and settings.redis_url is not None:
        tries.append(_try_dedupe(reactor, settings, settings.redis_url))
    found: Deferred[list[list[Result]]] = gatherResults(tries)
    kept = list(_pem_results(settings.pem, now)) if settings.pem is not None else []
    return found.addCallback(lambda lists: kept + [r for each in lists for r in each])


def _each(settings: Settings) -> Iterable[Destination]:
    return dict.fromkeys(settings.forward_dest)


# destinations


async def _destination(
    reactor: IReactor, settings: Settings, destination: Destination, now: datetime
) -> list[Result]:
    timeout_seconds = settings.forward_dest_connect_timeout_seconds
    results = []
    host = destination.host
    if not (isIPAddress(host) or isIPv6Address(host.partition("%")[0])):
        addresses = await _resolved(reactor, host, timeout_seconds)
        if addresses is None:
            why = f"{destination}: no answer of DNS within {timeout_seconds:g} s"
            return [Result(ERROR, "FORWARD_DEST", why)]
        if not addresses:
            why = f"{destination}: {host!r} has no address; correct it, or see to DNS"
            return [Result(ERROR, "FORWARD_DEST", why)]
        shown = ", ".join(addresses)
        results.append(Result(OK, "FORWARD_DEST", f"{destination}: {host} is {shown}"))
    attempt = _Attempt(reactor, settings, destination)
    why = await attempt.made()
    if why:
        why = f"{destination}: {why}; see to that receiver, or correct FORWARD_DEST"
        results.append(Result(ERROR, "FORWARD_DEST", why))
    else:
        words = f"{destination}: connected to {attempt.peer}{attempt.spoken}"
        results.append(Result(OK, "FORWARD_DEST", words))
    if attempt.certificate is not None:
        about = f"{destination}: its certificate"
        results.append(
            _certificate_result("FORWARD_DEST", about, attempt.certificate, now)
        )
    return results


def _try_destination(
    reactor: IReactor, settings: Settings, destination: Destination, now: datetime
) -> Deferred[list[Result]]:
    return Deferred.fromCoroutine(_destination(reactor, settings, destination, now))


@implementer(IResolutionReceiver)
class _Addresses:
    """Collects those of a name (`IResolutionReceiver`)."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.done: Deferred[list[str] | None] = Deferred()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        host = str(getattr(address, "host", ""))
        if host not in self.found:
            self.found.append(host)

    def resolutionComplete(self) -> None:
        if not self.done.called:
            self.done.callback(self.found)


def _resolved(
    reactor: IReactor, host: str, timeout_seconds: float
) -> Deferred[list[str] | None]:
    """The addresses of `host`; None when they are not known in time."""
    addresses = _Addresses()
    reactor.nameResolver.resolveHostName(addresses, host)
    done: Deferred[list[str] | None] = addresses.done
    done.addTimeout(timeout_seconds, reactor)
    return done.addErrback(_none_in_time)


def _none_in_time(reason: Failure) -> None:
    reason.trap(TimeoutError)


@implementer(ISenderOwner)
class _Nobody:
    """Has no posts to send."""

    def sender_ready(self, sender: Any) -> None:
        pass

    def delivered(self, sender: Any, deliveries: Sequence[Any]) -> None:
        pass

    def refused(self, sender: Any, delivery: Any, why: str) -> None:
        pass

    def sender_lost(self, sender: Any, loss: Any) -> None:
        pass


class _Attempt(SenderFactory):
    """
    One attempt to connect, which is not repeated.

    @ivar peer: whom it has reached.
    @ivar spoken: what is spoken there, to stand behind that.
    @ivar certificate: what was shown.
    """

    def __init__(
        self, reactor: IReactor, settings: Settings, destination: Destination
    ) -> None:
        unheard = EventLog(settings.deploy, lambda line: None)
        link = Link(0, str(destination))
        super().__init__(link, self._make_one, reactor, unheard)
        self._reactor = reactor
        self._settings = settings
        self._to = destination
        self._outcome: Deferred[str] = Deferred()
        self._ending = False
        self._only: Sender | None = None
        self.peer = self.spoken = ""
        self.certificate: x509.Certificate | None = None

    def _make_one(self, sender_id: int) -> Sender:
        nobody = _Nobody()
        if self._to.scheme:
            self._only = RELPSender(
                sender_id, nobody, relp_client(self._settings.relp_window)
            )
        else:
            self._only = SyslogSender(sender_id, nobody)
        return self._only

    async def made(self) -> str:
        """Make it and end it; says why it failed, or nothing."""
        settings = self._settings
        seconds = settings.forward_dest_connect_timeout_seconds
        wrap: Callable[[Any], Any] = lambda factory: factory  # noqa: E731
        if settings.pem is not None and self._to.scheme != "relp":
            wrap = tls_wrapper(self._to.host, settings.pem, self._reactor)
        EndpointConnector(
            self._reactor,
            endpoint_to(self._reactor, self._to, seconds),
            self,
            wrap,
            seconds,
        ).connect()
        why = await self._outcome
        await self.close()
        return why

    def sender_usable(self, sender: Sender) -> None:
        super().sender_usable(sender)
        peer = sender.transport.getPeer()
        self.peer = str(getattr(peer, "host", peer))
        self.spoken = _spoken(sender.transport, self._to)
        self._see(sender.transport)
        self._end("")

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if self._only is not None:
            self._see(self._only.transport)
        self._end(describe(reason))
        super().clientConnectionFailed(connector, reason)

    def retry(self, connector: IConnector | None = None) -> None:
        """It is one attempt."""

    def _see(self, transport: Any) -> None:
        shown = getattr(transport, "certificate", None)
        if shown is not None:
            self.certificate = shown.to_cryptography()

    def _end(self, why: str) -> None:
        # A turn later, for the connector is in the middle of it.
        if not self._ending:
            self._ending = True
            self.call_later(0, self._outcome.callback, why)


def _spoken(transport: Any, destination: Destination) -> str:
    said = ", RELP" if destination.scheme else ""
    if isinstance(transport, ClientTLS):
        version = transport.getHandle().get_protocol_version_name()
        return f"{said}, {version.replace('TLSv', 'TLS ')}"
    return f"{said}, without TLS"


# certificates


def _pem_results(pem: BackendPEM, now: datetime) -> Iterator[Result]:
    """Whether what is in PEMFILE is still in force; a line where there is no worry."""
    blocks = [x509.load_pem_x509_certificate(block) for block in pem.authorities]
    for certificate in blocks:
        result = _certificate_result("PEMFILE", "a certificate in it", certificate, now)
        if result.level != OK:
            yield result
    words = many(len(blocks), "certificate")
    if pem.certificate is not None:
        words += ", and a private key that fits one: it is shown to the backend"
    yield Result(OK, "PEMFILE", words)


def _certificate_result(
    variable: str, about: str, certificate: x509.Certificate, now: datetime
) -> Result:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    words = f"{about} is for {names_of(certificate)}; "
    if now < begins:
        words += f"is not valid before {begins:%Y-%m-%d %H:%M} UTC"
        return Result(ERROR, variable, f"{words}; set the clock right, or wait")
    if now >= ends:
        words += f"has expired on {ends:%Y-%m-%d %H:%M} UTC"
        return Result(ERROR, variable, f"{words}; renew it")
    days = (ends - now).days
    words += f"expires on {ends:%Y-%m-%d}, in {many(days, 'day')}"
    if ends - now < EXPIRES_SOON:
        return Result(WARNING, variable, f"{words}; renew it")
    return Result(OK, variable, words)


def names_of(certificate: x509.Certificate) -> str:
    """
    The names that it is for (RFC 6125 section 6.4), else its subject's; on one line.
    """
    names: list[str] = []
    try:
        found = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
        names += found.get_values_for_type(x509.DNSName)
        names += [str(ip) for ip in found.get_values_for_type(x509.IPAddress)]
    except (x509.ExtensionNotFound, ValueError):
        pass
    if not names:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [str(name.value) for name in common] or ["nobody"]
    shown = [text(name, NAME_MAX) for name in names[:_NAMES_MAX]]
    if len(names) > _NAMES_MAX:
        shown.append(f"{len(names) - _NAMES_MAX} more")
    return ", ".join(shown)


# Redis


def _try_redis(
    reactor: IReactor, settings: Settings, url: RedisURL
) -> Deferred[list[Result]]:
    return Deferred.fromCoroutine(_redis(reactor, settings, url))


async def _redis(reactor: IReactor, settings: Settings, url: RedisURL) -> list[Result]:
    try:
        entries = await redis_hash(reactor, url, settings.redis_key).read()
    except RedisFailed as e:
        why = f"{url}: {e}; see to that Redis, or correct the URL"
        return [Result(ERROR, "REDIS_URL", why)]
    if not entries and not settings.allow_empty_credentials:
        why = (
            f"the hash {text(settings.redis_key, NAME_MAX)!r} is empty or not there;"
            " put the credentials in (logiss credentials add), correct the key, or set"
            " ALLOW_EMPTY_CREDENTIALS=1"
        )
        return [Result(ERROR, "REDIS_KEY", why)]
    return list(_entries_results(entries, settings))


def _entries_results(
    entries: Mapping[bytes, bytes], settings: Settings
) -> Iterator[Result]:
    good = credentials = 0
    broken = []
    for user, octets in entries.items():
        try:
            held = parse_entry(user, octets)
        except BrokenEntry as e:
            broken.append(f"the entry of {text(user, NAME_MAX)!r}: {e}")
            continue
        good += 1
        credentials += len(held)
    for words in broken[:_BROKEN_MAX]:
        yield Result(
            WARNING, "REDIS_KEY", f"{words}; it is skipped until that is mended"
        )
    if len(broken) > _BROKEN_MAX:
        more = many(len(broken) - _BROKEN_MAX, "more entry", "more entries")
        yield Result(WARNING, "REDIS_KEY", f"{more} that cannot be read")
    words = (
        f"{settings.credentials_url}: {many(good, 'user')} with"
        f" {many(credentials, 'credential')}"
    )
    yield Result(OK, "REDIS_URL", words)
    twice = sorted({user for user, _ in settings.tokens} & _names(entries))
    if twice:
        shown = ", ".join(text(user, NAME_MAX) for user in twice[:_NAMES_MAX])
        yield Result(
            NOTE, "TOKEN_MAP", f"{shown}: also in Redis, which counts, not this"
        )


def _try_dedupe(
    reactor: IReactor, settings: Settings, url: RedisURL
) -> Deferred[list[Result]]:
    return Deferred.fromCoroutine(_dedupe(reactor, settings, url))


async def _dedupe(reactor: IReactor, settings: Settings, url: RedisURL) -> list[Result]:
    timeout_seconds = settings.dedupe_timeout_seconds
    endpoint = redis_endpoint(reactor, url, REDIS_SECONDS)
    pipeline = RedisPipeline(reactor, endpoint, url, timeout_seconds)
    first = _First()
    # What becomes of real posts does not matter here.
    commands = Commands(settings.dedupe_prefix, os.urandom(8).hex().encode(), 1.0, 1.0)
    pipeline.start(first, commands.trials())
    why = await first.outcome
    await pipeline.stop()
    if why:
        why = f"{url}: {why}; see to that Redis, or unset DEDUPE_REDIS"
        return [Result(ERROR, "DEDUPE_REDIS", why)]
    prefix = settings.dedupe_prefix
    words = f"{url}: keys that begin with {prefix}: can be written and read"
    return [Result(OK, "DEDUPE_REDIS", words)]


class _First:
    """
    The first that is said of a pipeline.

    @ivar outcome: fires with why it is of no use, or with nothing.
    """

    def __init__(self) -> None:
        self.outcome: Deferred[str] = Deferred()

    def pipeline_usable(self) -> None:
        if not self.outcome.called:
            self.outcome.callback("")

    def pipeline_lost(self, why: str) -> None:
        if not self.outcome.called:
            self.outcome.callback(why)


def _names(entries: Mapping[bytes, bytes]) -> set[str]:
    return {user.decode("utf-8", "replace") for user in entries}
