"""
logiss: takes log batches over HTTP, forwards them as octet-counted syslog, and
says 200 when they are delivered.

What other Twisted applications need is here; see the docs on embedding.
"""

from logiss._version import __version__
from logiss.admission import Admission
from logiss.journal import Journal, open_sink
from logiss.l2met import EventLog
from logiss.metrics import Metrics
from logiss.pool import IDeliverer, NotDelivered, Payload
from logiss.service import Forwarder, LogissService, logs_resource
from logiss.settings import Settings, SettingsError, read
from logiss.site import LogsSite
from logiss.variables import Destination
from logiss.web import LogsResource

read_settings = read

__all__ = [
    "Admission",
    "Destination",
    "EventLog",
    "Forwarder",
    "IDeliverer",
    "Journal",
    "LogissService",
    "LogsResource",
    "LogsSite",
    "Metrics",
    "NotDelivered",
    "Payload",
    "Settings",
    "SettingsError",
    "__version__",
    "logs_resource",
    "open_sink",
    "read_settings",
]
