"""Headers of HAProxy's PROXY protocol, whole, in pieces, and those that are none."""

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.protocols.haproxy import proxyEndpoint
from twisted.trial.unittest import SynchronousTestCase

from logiss.proxy_header import HEADER_BYTES_MAX, BadHeader, Header, read
from tests.proxy_headers import SIGNATURE, binary, line

REST = b"POST /logs HTTP/1.1\r\n"

#: Each header, and the address and the port in it.
GOOD: list[tuple[bytes, str | None, int]] = [
    (line("192.0.2.1", "198.51.100.2", 56324, 443), "192.0.2.1", 56324),
    (line("255.255.255.255", "255.255.255.255", 65535, 0), "255.255.255.255", 65535),
    (line("2001:db8::1", "2001:db8::2", 1, 2), "2001:db8::1", 1),
    (line("2001:DB8:0:0:0:0:0:1", "::1", 1, 2), "2001:db8::1", 1),
    (line("::ffff:192.0.2.1", "::1", 1, 2), "192.0.2.1", 1),
    (b"PROXY UNKNOWN\r\n", None, 0),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None, 0),
    (b"PROXY UNKNOWN " + b"x" * (107 - 16) + b"\r\n", None, 0),
    (binary("192.0.2.1", "198.51.100.2", 56324, 443), "192.0.2.1", 56324),
    (binary("2001:db8::1", "2001:db8::2", 65535, 443), "2001:db8::1", 65535),
    (binary("::ffff:192.0.2.1", "::1", 1, 2), "192.0.2.1", 1),
    (binary("192.0.2.1", "192.0.2.2", 1, 2, behind=b"\x04\0\1x"), "192.0.2.1", 1),
    (SIGNATURE + b"\x20\x00\0\0", None, 0),
    (SIGNATURE + b"\x20\x11\0\x0c" + b"x" * 12, None, 0),
    (SIGNATURE + b"\x20\x99\0\x01x", None, 0),
    (SIGNATURE + b"\x21\x00\0\0", None, 0),
    (SIGNATURE + b"\x21\x00\0\x05hello", None, 0),
    (SIGNATURE + b"\x21\x31\0\xd8" + b"/socket".ljust(216, b"\0"), None, 0),
]

#: What is no header, however it goes on.
BAD: list[bytes] = [
    b"GET / HTTP/1.1\r\n",
    b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b" PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"\r\nPROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1  2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1_0 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 x 2\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100 1 2\r\n",
    b"PROXY TCP4 ::1 ::2 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP6 2001:db8::1::2 ::2 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n",
    b'PROXY TCP4 "] forged 1 2\r\n',
    b"PROXY TCP4 192.0.2.1\n 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 \xff 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
    b"PROXY UNKNOWN " + b"x" * (108 - 16) + b"\r\n",
    b"PROXY " + b"x" * 101,
    SIGNATURE[:-1] + b"\r",
    SIGNATURE + b"\x11\x11\0\x0c" + b"x" * 12,
    SIGNATURE + b"\x22\x11\0\x0c" + b"x" * 12,
    SIGNATURE + b"\x31\x11\0\x0c" + b"x" * 12,
    SIGNATURE + b"\x21\x12\0\x0c" + b"x" * 12,
    SIGNATURE + b"\x21\x10\0\x0c" + b"x" * 12,
    SIGNATURE + b"\x21\x22\0\x24" + b"x" * 36,
    SIGNATURE + b"\x21\x41\0\x24" + b"x" * 36,
    SIGNATURE + b"\x21\x11\0\x0b" + b"x" * 11,
    SIGNATURE + b"\x21\x21\0\x23" + b"x" * 35,
    SIGNATURE + b"\x21\x31\0\xd7" + b"x" * 215,
    SIGNATURE + b"\x21\x11\xff\xff" + b"x" * 12,
    SIGNATURE + b"\x20\x00" + struct.pack("!H", HEADER_BYTES_MAX - 15),
]


class ReadTests(SynchronousTestCase):
    """`read` knows a header as soon as it is whole, and what is none at once."""

    def test_good(self) -> None:
        """Its size, the client's address and port."""
        for octets, host, port in GOOD:
            for rest in (b"", REST, octets, b"\0"):
                found = read(octets + rest)
                self.assertEqual(found, Header(len(octets), host, port), octets)

    def test_pieces(self) -> None:
        """Until it is whole, more is asked for."""
        for octets, _, _ in GOOD:
            for end in range(len(octets)):
                self.assertIsNone(read(octets[:end]), octets[:end])

    def test_bad(self) -> None:
        """What is none is refused, with a text that repeats nothing of it."""
        for octets in BAD:
            for rest in (b"", REST):
                with self.assertRaises(BadHeader, msg=octets) as raised:
                    read(octets + rest)
                self.assertRegex(str(raised.exception), "^(no )?PROXY header[a-z ,]*$")

    def test_bad_in_pieces(self) -> None:
        """In pieces as well: no piece is taken for a header."""
        for octets in BAD:
            for end in range(len(octets)):
                try:
                    self.assertIsNone(read(octets[:end]), octets[:end])
                except BadHeader:
                    break

    def test_bounded(self) -> None:
        """Never more is asked for than the largest header has."""
        largest = struct.pack("!H", HEADER_BYTES_MAX - 16)
        octets = SIGNATURE + b"\x20\x00" + largest + b"x" * (HEADER_BYTES_MAX - 16)
        self.assertIsNone(read(octets[:-1]))
        self.assertEqual(read(octets), Header(HEADER_BYTES_MAX))
        with self.assertRaises(BadHeader):
            read(b"PROXY UNKNOWN" + b" " * 94)

    @given(st.one_of(st.binary(max_size=300), st.binary().map(SIGNATURE.__add__)))
    def test_anything(self, octets: bytes) -> None:
        """Nothing else is raised, and an address is one."""
        try:
            found = read(octets)
        except BadHeader:
            return
        if found is not None:
            self.assertLessEqual(found.size, len(octets))
            if found.host is not None:
                self.assertEqual(str(ip_address(found.host)), found.host)

    @given(
        st.one_of(
            st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
            st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
        ),
        st.integers(0, 65535),
        st.integers(0, 65535),
        st.sampled_from([line, binary]),
    )
    def test_as_twisted(
        self,
        addresses: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address],
        source_port: int,
        port: int,
        written: Callable[[str, str, int, int], bytes],
    ) -> None:
        """Of a good header Twisted's own parser reads the same."""
        octets = written(str(addresses[0]), str(addresses[1]), source_port, port)
        peer = twisted_reads(octets + REST)
        found = read(octets + REST)
        assert found is not None
        assert found.host is not None
        theirs = ip_address(peer.host)
        mapped = getattr(theirs, "ipv4_mapped", None)
        self.assertEqual(ip_address(found.host), mapped or theirs)
        self.assertEqual(found.port, peer.port)


def twisted_reads(octets: bytes) -> Any:
    """The peer that Twisted's parser finds in `octets`."""
    reactor: Any = MemoryReactor()
    factory = Factory.forProtocol(Protocol)
    proxyEndpoint(TCP4ServerEndpoint(reactor, 0)).listen(factory)
    protocol = reactor.tcpServers[0][1].buildProtocol(None)
    protocol.makeConnection(StringTransport())
    protocol.dataReceived(octets)
    return protocol.getPeer()
