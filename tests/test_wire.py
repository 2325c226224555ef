"""What is written has left when the kernel has it, and not before."""

import os
import select
import socket
import unittest
from collections.abc import Sequence

from twisted.internet.interfaces import IPullProducer
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from logiss.wire import USER_TIMEOUT_SECONDS, Wire, why_no_acknowledgements
from tests.kernel import KernelTransport


class _SocketTransport(KernelTransport):
    """A transport that has a socket, as the reactor's own have."""

    def __init__(self, reactor: MemoryReactorClock, ours: socket.socket) -> None:
        super().__init__(reactor)
        self._ours = ours

    def getHandle(self) -> socket.socket:  # noqa: N802
        return self._ours


class WireTestCase(SynchronousTestCase):
    """A wire over a pair of sockets."""

    hastens = False

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return socket.socketpair()

    def setUp(self) -> None:
        self.ours, self.theirs = self.sockets()
        for end in (self.ours, self.theirs):
            self.addCleanup(end.close)
            end.setblocking(False)
        self.transport = _SocketTransport(MemoryReactorClock(), self.ours)
        self.left: list[bool] = []
        self.wire = Wire(self.transport, lambda: self.left.append(True), self.hastens)

    def read_all(self) -> bytes:
        arrived = b""
        try:
            while octets := self.theirs.recv(1 << 20):
                arrived += octets
        except BlockingIOError:
            pass
        return arrived


class StraightToTheKernelTests(WireTestCase):
    """What the kernel takes at once does not go through the transport."""

    def test_interface(self) -> None:
        """It is the transport's producer."""
        verifyObject(IPullProducer, self.wire)

    def test_all(self) -> None:
        """When it takes everything, that has left there and then."""
        self.assertTrue(self.wire.write([b"hello ", b"world"]))
        self.assertEqual(self.theirs.recv(100), b"hello world")
        self.assertIsNone(self.transport.producer)
        self.transport.run()
        self.assertEqual(self.transport.taken, b"")
        self.assertFalse(self.wire.writing)
        self.assertEqual(self.left, [])

    def test_many_chunks(self) -> None:
        """More chunks than one call takes arrive all the same."""
        chunks = [b"%d," % i for i in range(3_000)]
        self.assertTrue(self.wire.write(chunks))
        self.assertEqual(self.read_all(), b"".join(chunks))

    def test_a_part(self) -> None:
        """What it does not take goes through the transport, in order."""
        octets = bytes(range(256)) * 8_192
        self.assertFalse(self.wire.write([octets[:100], octets[100:]]))
        self.assertTrue(self.wire.writing)
        arrived = self.read_all()
        self.assertTrue(0 < len(arrived) < len(octets))
        self.assertEqual(self.left, [])
        self.transport.run()
        self.assertEqual(arrived + self.transport.taken, octets)
        self.assertEqual(self.left, [True])
        self.assertFalse(self.wire.writing)

    def test_none(self) -> None:
        """A kernel that takes nothing leaves all to the transport."""
        try:
            while True:
                self.ours.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        self.assertFalse(self.wire.write([b"later " * 20, b"and later"]))
        self.transport.run()
        self.assertEqual(self.transport.taken, b"later " * 20 + b"and later")
        self.assertEqual(self.left, [True])

    def test_in_pieces(self) -> None:
        """The transport, which copies, is given a piece of a large write at a time."""
        octets = os.urandom(5_000_000)
        self.assertFalse(self.wire.write([octets]))
        arrived = self.read_all()
        held = 0
        while self.wire.writing:
            transport = self.transport
            held = max(held, len(transport.dataBuffer) + transport._tempDataLen)
            transport.room = 50_000
            transport.doWrite()
        self.assertEqual(arrived + self.transport.taken, octets)
        self.assertEqual(self.left, [True])
        self.assertLessEqual(held, 256 * 1024)
        self.assertEqual(self.wire._rest.obj, b"", "the octets are kept")

    def test_aborted(self) -> None:
        """What the transport has not been given when it is aborted never is."""
        self.assertFalse(self.wire.write([bytes(5_000_000)]))
        self.wire.abort()
        self.transport.run()
        self.assertLess(len(self.transport.taken), 300_000)
        self.assertEqual(self.left, [])

    def test_end_of_file(self) -> None:
        """A backend that has closed is seen, even behind unread bytes."""
        for octets in (b"", b"unread bytes in front"):
            self.assertEqual(self.wire.why_ended(), "")
            self.theirs.send(octets)
            self.theirs.shutdown(socket.SHUT_WR)
            self.assertIn("closed", self.wire.why_ended())
            self.setUp()

    def test_unread_bytes(self) -> None:
        """A backend that talks has not closed."""
        self.theirs.send(b"hello?")
        self.assertEqual(self.wire.why_ended(), "")
        self.assertTrue(self.wire.write([b"yes"]))
        self.assertEqual(self.theirs.recv(100), b"yes")

    def test_broken(self) -> None:
        """A reset connection has ended."""
        self.theirs.close()
        self.assertIn("closed", self.wire.why_ended())

    def test_lost(self) -> None:
        """A connection that is lost has nothing acknowledged."""
        self.wire.lost()
        self.assertGreater(self.wire.unacknowledged(), 1 << 40)


class HasteningTests(StraightToTheKernelTests):
    """The same holds for one whose backend is to acknowledge soon."""

    hastens = True


class _Recording:
    """A socket that tells how it was written to."""

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours
        self.sizes: list[int] = []

    def send(self, octets: bytes) -> int:
        self.sizes.append(len(octets))
        return self._ours.send(octets)

    def sendmsg(self, chunks: Sequence[bytes]) -> int:
        self.sizes.append(sum(map(len, chunks)))
        return self._ours.sendmsg(chunks)


class TailTests(WireTestCase):
    """The end of a write is a short segment of its own."""

    hastens = True

    def setUp(self) -> None:
        super().setUp()
        self.recording = _Recording(self.ours)
        self.wire._socket = self.recording  # type: ignore[assignment]

    def test_table(self) -> None:
        """Whatever a write is made of, at most 64 bytes end it."""
        for sizes, expected in (
            ([1], [1]),
            ([64], [64]),
            ([65], [1, 64]),
            ([1000], [936, 64]),
            ([10, 20], [10, 20]),
            ([100, 64], [100, 64]),
            ([100, 200], [236, 64]),
            ([1] * 200, [136, 64]),
            ([65_536], [65_472, 64]),
            # That is more than a segment, wherever it goes.
            ([65_537], [65_537]),
        ):
            chunks = [os.urandom(size) for size in sizes]
            self.assertTrue(self.wire.write(chunks))
            self.assertEqual(self.recording.sizes, expected, sizes)
            self.assertEqual(self.read_all(), b"".join(chunks))
            self.recording.sizes.clear()

    def test_through_the_transport(self) -> None:
        """So it does when the kernel does not take all at once."""
        octets = os.urandom(3_000_000)
        self.assertFalse(self.wire.write([octets]))
        arrived = self.read_all()
        writes: list[bytes] = []
        write = self.transport.write

        def recorded(data: bytes) -> None:
            writes.append(data)
            write(data)

        self.transport.write = recorded  # type: ignore[method-assign]
        self.transport.run()
        self.assertEqual(writes[-1], octets[-64:])
        self.assertEqual(arrived + self.transport.taken, octets)
        self.assertEqual(self.left, [True])


@unittest.skipIf(why_no_acknowledgements(), why_no_acknowledgements())
class TCPTests(WireTestCase):
    """What only TCP has."""

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        listener = socket.create_server(("127.0.0.1", 0))
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        listener.close()
        return ours, theirs

    def test_options(self) -> None:
        """Small writes go out at once; a silent backend is found out in time."""
        self.assertTrue(self.transport.no_delay)
        self.assertTrue(self.transport.keep_alive)
        for name, value in (
            ("TCP_USER_TIMEOUT", USER_TIMEOUT_SECONDS * 1000),
            ("TCP_KEEPIDLE", 15),
            ("TCP_KEEPINTVL", 2),
            ("TCP_KEEPCNT", 3),
        ):
            option = getattr(socket, name)
            self.assertEqual(
                self.ours.getsockopt(socket.IPPROTO_TCP, option), value, name
            )

    def test_acknowledged(self) -> None:
        """What the other kernel has taken is acknowledged, read or not."""
        self.assertTrue(self.wire.write([b"hello"]))
        deadline = 200
        while self.wire.unacknowledged() and deadline:
            select.select([], [], [], 0.01)
            deadline -= 1
        self.assertEqual(self.wire.unacknowledged(), 0)

    def test_not_acknowledged(self) -> None:
        """What nobody has taken is not, also after a reset."""
        self.theirs.close()
        select.select([], [], [], 0.05)
        self.wire.write([b"x" * 5_000])
        select.select([], [], [], 0.05)
        self.assertEqual(self.wire.unacknowledged(), 5_000)
