"""
Target: headers of the PROXY protocol, against a second reading.

The octets are what comes first from a proxy. The second reading is of one step for each
part of the header, and knows only what names a client by TCP.
"""

import socket
from ipaddress import ip_address

from logiss.proxy_header import HEADER_BYTES_MAX, BadHeader, Header, read

_LINE_BYTES_MAX = 107
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def check(octets: bytes) -> None:
    """
    @raise Exception: a header is read that is none, or not as the same client; it
        depends on what follows, or on how much of it is there; or it never ends.
    """
    whole = _read(octets)
    if isinstance(whole, Header):
        assert 0 < whole.size <= min(len(octets), HEADER_BYTES_MAX)
        assert _read(octets[: whole.size] + b"GET / HTTP/1.1\r\n\r\n") == whole
        assert _client(octets) == (whole.host, whole.port), whole
    _check_pieces(octets, whole)


def _read(octets: bytes) -> Header | str | None:
    try:
        return read(octets)
    except BadHeader as e:
        return str(e)


def _check_pieces(octets: bytes, whole: Header | str | None) -> None:
    """More of it never takes back what was said of less."""
    for end in range(min(len(octets), 300)):
        found = _read(octets[:end])
        if found is not None:
            # Why it is none may be another for what has come.
            same = found == whole or (isinstance(found, str) and isinstance(whole, str))
            assert same, (octets[:end], found, whole)
            return


def _client(octets: bytes) -> tuple[str | None, int]:
    """Who is named by octets that are a header."""
    named = _in_line(octets) if octets[:1] == b"P" else _in_binary(octets)
    if named is None:
        return None, 0
    address = ip_address(named[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), named[1]


def _in_line(octets: bytes) -> tuple[str, int] | None:
    line = octets[:_LINE_BYTES_MAX].split(b"\r\n")[0].decode("latin-1")
    words = line.split(" ")
    assert words[0] == "PROXY", line
    if words[1] == "UNKNOWN":
        return None
    family = {"TCP4": socket.AF_INET, "TCP6": socket.AF_INET6}[words[1]]
    _, _, source, destination, source_port, port = words
    for host in (source, destination):
        socket.inet_pton(family, host)
    for number in (source_port, port):
        assert 0 <= int(number) < 65_536, line
        assert str(int(number)) == number, line
    return source, int(source_port)


def _in_binary(octets: bytes) -> tuple[str, int] | None:
    assert octets.startswith(_SIGNATURE)
    version, command = divmod(octets[12], 16)
    assert version == 2, version
    family, addresses = octets[13], octets[16:]
    if command == 0 or family in (0x00, 0x31):
        return None
    assert command == 1, command
    kind, size = {0x11: (socket.AF_INET, 4), 0x21: (socket.AF_INET6, 16)}[family]
    assert int.from_bytes(octets[14:16]) >= 2 * size + 4
    host = socket.inet_ntop(kind, addresses[:size])
    return host, int.from_bytes(addresses[2 * size : 2 * size + 2])
