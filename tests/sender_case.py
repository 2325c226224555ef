"""What the tests of senders share: a factory with everything around it."""

from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from logiss.metrics import Link
from logiss.senders import Sender, SenderFactory
from logiss.syslog_sender import SyslogSender
from tests.fakes import FakeOwner, Lines
from tests.kernel import KernelTransport


class FakeConnector:
    """A connector whose network is the test."""

    def __init__(self, factory: SenderFactory) -> None:
        self.factory = factory
        self.attempts = 0
        self.active = False
        self.is_established = False
        self.disconnects = 0

    def connect(self) -> None:
        self.attempts += 1
        self.active = True
        self.is_established = False
        self.factory.startedConnecting(self)  # type: ignore[arg-type]

    def established(self) -> None:
        self.is_established = True

    def stopConnecting(self) -> None:
        from twisted.internet.error import NotConnectingError

        raise NotConnectingError

    def disconnect(self) -> None:
        self.disconnects += 1

    def fail(self, reason: Failure) -> None:
        self.active = False
        self.factory.clientConnectionFailed(self, reason)  # type: ignore[arg-type]

    def connection_lost(self, reason: Failure, was_usable: bool) -> None:
        self.active = False
        if was_usable:
            self.factory.clientConnectionLost(self, reason)  # type: ignore[arg-type]
        else:
            self.fail(reason)


class SenderTestCase(SynchronousTestCase):
    """A factory with everything around it, and time of its own."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.lines = Lines()
        self.link = Link(2, "backend.example:514")
        self.owner = FakeOwner()
        self.factory = SenderFactory(
            self.link,
            self.make_sender,
            self.reactor,
            self.lines.events(),
        )
        self.connector = FakeConnector(self.factory)
        self.connector.connect()

    def make_sender(self, sender_id: int) -> Sender:
        return SyslogSender(sender_id, self.owner)

    def connect(self) -> tuple[SyslogSender, KernelTransport]:
        sender = self.factory.buildProtocol(None)
        assert isinstance(sender, SyslogSender)
        transport = KernelTransport(self.reactor)
        transport.protocol = sender  # type: ignore[attr-defined]
        sender.makeConnection(transport)
        return sender, transport

    def lose(
        self, sender: Sender, transport: KernelTransport, error: Exception
    ) -> None:
        transport.end(Failure(error))
        sender.connectionLost(Failure(error))
