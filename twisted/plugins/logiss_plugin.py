"""Makes logiss known to ``twist`` and ``twistd``."""

from twisted.application.service import ServiceMaker

logiss = ServiceMaker(
    "logiss", "logiss.daemon", "Takes logplex-1 over HTTP, forwards syslog.", "logiss"
)
