"""
Sums up who is let in and who is refused, and says so once a minute.

Credentials count for themselves, whatever posts there are. Here their counts are taken
together by user and stage, so that there is a bounded number of names, and those of
deprecated credentials one by one, so that an operator sees who still has to change.
"""

from logiss.credentials import Credentials
from logiss.l2met import EventLog
from logiss.metrics import CountsByName, Metrics

#: How often there are lines.
SUM_SECONDS = 60.0


class UseSums:
    """
    Takes the counts of `credentials` together.

    `collect` is to be called before credentials go out of force: what they have
    counted would go with them.
    """

    def __init__(
        self, credentials: Credentials, events: EventLog, metrics: Metrics
    ) -> None:
        self._credentials = credentials
        self._events = events
        self._metrics = metrics
        self._clear()

    def _clear(self) -> None:
        self._accepted, self._refused = CountsByName(), CountsByName()
        self._deprecated = CountsByName()

    def collect(self) -> None:
        """Take what has been counted since the last call."""
        for credential in self._credentials.held():
            if credential.uses.count:
                count = credential.uses.take()
                name = (credential.user, credential.stage)
                self._accepted.add(name, count)
                self._metrics.accepted_by_stage.add(name, count)
                if credential.deprecated:
                    self._deprecated.add((*name, credential.name), count)
        for user, uses in self._credentials.refused():
            if uses.count:
                self._refuse((user,), uses.take())
        if self._credentials.refused_unknown.count:
            self._refuse((), self._credentials.refused_unknown.take())

    def _refuse(self, name: tuple[bytes, ...], count: int) -> None:
        self._refused.add(name, count)
        self._metrics.refused_by_user.add(name, count)

    def write(self) -> None:
        """A line for each name that has something to say."""
        self.collect()
        for name, count in self._accepted.items():
            self._events.credentials_accepted(count, *name)
        for name, count in self._refused.items():
            self._events.credentials_refused(count, *name)
        for name, count in self._deprecated.items():
            self._events.deprecated_used(count, *name)
        self._clear()
