"""Headers of HAProxy's PROXY protocol, written."""

import struct
from ipaddress import ip_address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def line(source: str, destination: str, source_port: int, port: int) -> bytes:
    """Version 1."""
    family = 6 if ":" in source else 4
    ends = f"{source} {destination} {source_port} {port}"
    return f"PROXY TCP{family} {ends}\r\n".encode()


def binary(
    source: str, destination: str, source_port: int, port: int, behind: bytes = b""
) -> bytes:
    """Version 2, with `behind` where its TLVs stand."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    addresses += struct.pack("!HH", source_port, port)
    family = b"\x21" if ":" in source else b"\x11"
    length = struct.pack("!H", len(addresses) + len(behind))
    return SIGNATURE + b"\x21" + family + length + addresses + behind
