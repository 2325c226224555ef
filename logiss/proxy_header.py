"""
Reads the header of HAProxy's PROXY protocol, versions 1 and 2: bytes in, the address
of the client out.

The grammar (proxy-protocol.txt sections 2.1 and 2.2 of HAProxy)::

    version 1   = "PROXY TCP4" SP IPv4 SP IPv4 SP PORT SP PORT CRLF
                / "PROXY TCP6" SP IPv6 SP IPv6 SP PORT SP PORT CRLF
                / "PROXY UNKNOWN" *( octet ) CRLF     ; at most 107 octets in all

    version 2   = SIGNATURE COMMAND FAMILY LENGTH ADDRESSES *( TLV )
    SIGNATURE   = CR LF CR LF NUL CR LF "QUIT" LF
    COMMAND     = %x20 / %x21                         ; LOCAL, PROXY
    FAMILY      = %x00 / %x11 / %x21 / %x31           ; none, TCP4, TCP6, UNIX
    LENGTH      = 2 octets                            ; of what is behind it

Source stands before destination. Twisted's own parser is not used: it gives up on a
header that comes in small pieces, waits for ever for the end of one, and takes anything
for an address.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from attrs import frozen

#: The longest header that is read. What is behind the addresses in version 2 is
#: mostly of some hundred bytes.
HEADER_BYTES_MAX = 16 * 1024

_LINE_BYTES_MAX = 107
_LINE_START = b"PROXY "
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: .*)?|TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+)"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))",
    re.DOTALL,
)
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES = 16
_LOCAL, _PROXY = 0x20, 0x21
_NONE, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
# Both addresses and both ports.
_ADDRESSES_BYTES = {_NONE: 0, _TCP4: 12, _TCP6: 36, _UNIX: 216}


class BadHeader(Exception):
    """What comes is no PROXY header. Its text repeats nothing of it."""


@frozen
class Header:
    """
    @ivar size: of the header, in bytes.
    @ivar host: the client's address, an IPv4-mapped one as IPv4; None when the proxy
        speaks for itself, or of a client without address.
    @ivar port: the client's.
    """

    size: int
    host: str | None = None
    port: int = 0


def read(octets: bytes) -> Header | None:
    """
    The header at the start of `octets`, or None when more of it has to come.

    @raise BadHeader: it is none, whatever comes.
    """
    for start, read_version in ((_LINE_START, _read_line), (_SIGNATURE, _read_binary)):
        if octets.startswith(start):
            return read_version(octets)
        if start.startswith(octets):
            return None
    raise BadHeader("no PROXY header")


def _read_line(octets: bytes) -> Header | None:
    end = octets.find(b"\r\n", 0, _LINE_BYTES_MAX)
    if end < 0:
        if len(octets) >= _LINE_BYTES_MAX:
            raise BadHeader("PROXY header without end")
        return None
    found = _LINE.fullmatch(octets, 0, end)
    if found is None:
        raise BadHeader("PROXY header malformed")
    version, source, destination, *ports = found.groups()
    if version is None:
        return Header(end + 2)
    kind = IPv4Address if version == b"4" else IPv6Address
    try:
        host = _shown(kind(source.decode()))
        kind(destination.decode())
    except AddressValueError:
        raise BadHeader("PROXY header with an address that is none") from None
    if max(map(int, ports)) > 65_535:
        raise BadHeader("PROXY header with a port that is none")
    return Header(end + 2, host, int(ports[0]))


def _read_binary(octets: bytes) -> Header | None:
    if len(octets) < _FIXED_BYTES:
        return None
    command, family = octets[12], octets[13]
    length = int.from_bytes(octets[14:_FIXED_BYTES])
    if command not in (_LOCAL, _PROXY):
        raise BadHeader("PROXY header of an unknown version or command")
    if _FIXED_BYTES + length > HEADER_BYTES_MAX:
        raise BadHeader("PROXY header too large")
    if command == _PROXY and length < _ADDRESSES_BYTES.get(family, length + 1):
        raise BadHeader("PROXY header of an unknown family, or without its addresses")
    if len(octets) < _FIXED_BYTES + length:
        return None
    size = _FIXED_BYTES + length
    if command == _LOCAL or family in (_NONE, _UNIX):
        return Header(size)
    if family == _TCP4:
        return Header(
            size, _shown(IPv4Address(octets[16:20])), int.from_bytes(octets[24:26])
        )
    return Header(
        size, _shown(IPv6Address(octets[16:32])), int.from_bytes(octets[48:50])
    )


def _shown(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
