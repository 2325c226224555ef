"""
A transport whose kernel is the test.

It is Twisted's own `FileDescriptor`, with its buffers and its way with producers;
only the system call below it is replaced.
"""

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(ITCPTransport)
class KernelTransport(FileDescriptor):
    """
    @ivar room: how many bytes the kernel takes before it would block.
    @ivar taken: what it took.
    """

    def __init__(self, reactor: MemoryReactorClock) -> None:
        super().__init__(reactor)
        self._memory = reactor
        self.connected = 1
        self.room = 1 << 30
        self.taken = b""
        self.aborted = False
        self.no_delay = False
        self.keep_alive = False

    def writeSomeData(self, data: bytes) -> int:  # noqa: N802
        octets = bytes(data)[: self.room]
        self.taken += octets
        self.room -= len(octets)
        return len(octets)

    def run(self) -> None:
        """The reactor finds the descriptor writable, while the kernel has room."""
        while self in self._memory.writers and self.room:
            self.doWrite()

    def abortConnection(self) -> None:  # noqa: N802
        self.aborted = True

    def loseWriteConnection(self) -> None:  # noqa: N802
        self._writeDisconnecting = True
        self.startWriting()

    def end(self, reason: Failure) -> None:
        """The connection is lost."""
        self.connectionLost(reason)

    def getPeer(self) -> IPv4Address:  # noqa: N802
        return IPv4Address("TCP", "192.0.2.1", 601)

    def getHost(self) -> IPv4Address:  # noqa: N802
        return self.getPeer()

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: N802
        self.keep_alive = enabled

    def getTcpNoDelay(self) -> bool:  # noqa: N802
        return self.no_delay

    def getTcpKeepAlive(self) -> bool:  # noqa: N802
        return self.keep_alive
