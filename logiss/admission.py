"""
Knows who may post: the credentials of the settings, kept fresh from Redis where they
say so, and the sums of their use.
"""

import os

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

from logiss.connector import IReactor, redis_endpoint
from logiss.credentials import Credentials, Table
from logiss.l2met import EventLog
from logiss.metrics import Metrics
from logiss.redis import REDIS_SECONDS, RedisHash
from logiss.refresh import Refresher
from logiss.settings import Settings
from logiss.uses import SUM_SECONDS, UseSums
from logiss.variables import RedisURL


class Admission(Service):
    """
    Has the credentials read and their uses summed up while it runs.

    @ivar credentials: usable before this is started; those in Redis come after.
    """

    name = "admission"

    def __init__(
        self,
        reactor: IReactor,
        settings: Settings,
        events: EventLog,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        self.credentials = settings_credentials(settings)
        self._uses = UseSums(self.credentials, events, metrics)
        self._summing = LoopingCall(self._uses.write)
        self._summing.clock = reactor
        self._refresher: Refresher | None = None
        if settings.credentials_url is not None:
            self._refresher = Refresher(
                reactor,
                redis_hash(reactor, settings.credentials_url, settings.redis_key),
                self._replace,
                events,
                metrics,
                settings.credential_refresh_interval_seconds,
                settings.allow_empty_credentials,
            )

    def collect_uses(self) -> None:
        """Bring the counts of the credentials to the metrics."""
        self._uses.collect()

    def _replace(self, table: Table) -> None:
        self._uses.collect()
        self.credentials.replace(table)

    def startService(self) -> None:
        super().startService()
        self._summing.start(SUM_SECONDS, now=False)
        if self._refresher is not None:
            self._refresher.startService()

    def stopService(self) -> None:
        """Stop at once, with a last sum."""
        if not self.running:
            return
        super().stopService()
        if self._refresher is not None:
            self._refresher.stopService()
        self._summing.stop()
        self._uses.write()


def redis_hash(reactor: IReactor, url: RedisURL, key: str) -> RedisHash:
    """The hash `key` of the Redis at `url`, over TLS with its certificate checked."""
    endpoint = redis_endpoint(reactor, url, REDIS_SECONDS)
    return RedisHash(reactor, endpoint, url, key)


def settings_credentials(settings: Settings) -> Credentials:
    """Those of `settings`, to which those in Redis may still come."""
    return Credentials.from_tokens(
        settings.hmac_key or os.urandom(64),
        settings.tokens,
        awaits_more=settings.credentials_url is not None,
    )
