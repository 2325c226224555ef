"""A connector tries as often as it is told to, and not for longer than allowed."""

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError, NotConnectingError
from twisted.internet.interfaces import (
    IConnector,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from logiss.connector import EndpointConnector


@implementer(IStreamClientEndpoint)
class FakeEndpoint:
    """Keeps the attempts for the test to decide."""

    def __init__(self) -> None:
        self.attempts: list[Deferred[IProtocol]] = []
        self.cancelled = 0

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        self.attempts.append(Deferred(self._cancel))
        return self.attempts[-1]

    def _cancel(self, attempt: Deferred[IProtocol]) -> None:
        self.cancelled += 1


class RecordingFactory(ClientFactory[Protocol]):
    """Keeps what a connector tells it."""

    noisy = False

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def startedConnecting(self, connector: IConnector) -> None:
        self.told.append(("started", None))

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self.told.append(("failed", reason.value))

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self.told.append(("lost", reason.value))


class EndpointConnectorTests(SynchronousTestCase):
    """Attempts, their ends and their time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        self.factory = RecordingFactory()
        self.connector = EndpointConnector(
            self.clock, self.endpoint, self.factory, lambda factory: factory, 10.0
        )
        self.connector.connect()

    def succeed(self) -> StringTransport:
        protocol = Protocol()
        transport = StringTransport()
        protocol.makeConnection(transport)
        self.endpoint.attempts[-1].callback(protocol)
        return transport

    def last_failure(self) -> object:
        what, error = self.factory.told[-1]
        self.assertEqual(what, "failed")
        return error

    def test_interface(self) -> None:
        """It is what Twisted's client factories want."""
        verifyObject(IConnector, self.connector)
        verifyObject(IStreamClientEndpoint, self.endpoint)

    def test_tells_the_factory(self) -> None:
        """The factory hears of start and failure."""
        self.endpoint.attempts[0].errback(Failure(ConnectionRefusedError()))
        self.assertIsInstance(self.last_failure(), ConnectionRefusedError)
        self.assertEqual(self.factory.told[0], ("started", None))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.connector.active)

    def test_again(self) -> None:
        """After a failure it may be told to connect again, with time anew."""
        self.clock.advance(6)
        self.endpoint.attempts[0].errback(Failure(ConnectionRefusedError()))
        self.connector.connect()
        self.clock.advance(6)
        self.assertEqual(self.endpoint.cancelled, 0)
        self.assertEqual(len(self.endpoint.attempts), 2)
        self.clock.advance(4)
        self.assertEqual(self.endpoint.cancelled, 1)

    def test_too_late(self) -> None:
        """An attempt that takes too long fails, and the error says so."""
        self.clock.advance(10)
        self.assertEqual(self.endpoint.cancelled, 1)
        self.assertEqual(str(self.last_failure()), "no usable connection within 10 s")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_never_usable(self) -> None:
        """A connection that is made but never usable is given up in the same time."""
        transport = self.succeed()
        self.clock.advance(10)
        self.assertTrue(transport.disconnected or transport.disconnecting)
        self.connector.connection_lost(Failure(ConnectionRefusedError()), False)
        self.assertEqual(str(self.last_failure()), "no usable connection within 10 s")

    def test_established(self) -> None:
        """The time for connecting does not matter once it is usable."""
        transport = self.succeed()
        self.connector.established()
        self.clock.advance(100)
        self.assertFalse(transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.connector.active)
        self.connector.connection_lost(Failure(ConnectionRefusedError()), True)
        self.assertEqual(self.factory.told[-1][0], "lost")
        self.assertFalse(self.connector.active)

    def test_stop_connecting(self) -> None:
        """An attempt can be called off; without one there is nothing to call off."""
        self.connector.stopConnecting()
        self.assertEqual(self.endpoint.cancelled, 1)
        self.assertEqual(self.factory.told[-1][0], "failed")
        self.assertRaises(NotConnectingError, self.connector.stopConnecting)
