"""
Knows the rules of HTTP for the head of a request that llhttp lets pass.

llhttp takes other protocols and versions, several spaces between the parts of a request
line, bare CRs and LFs in front of it, a Host missing, doubled or with anything in it,
lengths of any number of digits, and other codings in front of ``chunked`` or on
HTTP/1.0 (RFC 9112 sections 2 and 3, and 6.1 to 6.3).
"""

#: RFC 9110 has no limit; no body has a length of more digits.
LENGTH_DIGITS_MAX = 18


def first_line(octets: bytes) -> bytes | None:
    """
    The request line at the start of `octets`, behind empty lines (RFC 9112 section
    2.2), or None while its end has not come.
    """
    at = 0
    while octets.startswith(b"\r\n", at):
        at += 2
    end = octets.find(b"\r\n", at)
    return octets[at:end] if end >= 0 else None


# RFC 3986 section 3.2: a host, which may be empty, and a port.
_HOST_OCTETS = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%!$&'()*+,;=:[]"
)


def is_malformed(
    line: bytes,
    method: bytes,
    target: bytes,
    version: str,
    fields: dict[bytes, list[bytes]],
) -> bool:
    """
    Whether a head that llhttp has let pass breaks a rule nevertheless.

    @param line: the request line as it came, of which the next three are the parts.
    """
    if version not in ("1.1", "1.0"):
        return True
    # As the parts come one behind the other, there is nothing else in it.
    ends_well = line.endswith(b" HTTP/1.1" if version == "1.1" else b" HTTP/1.0")
    if not ends_well or len(line) != len(method) + len(target) + len("  HTTP/1.1"):
        return True
    hosts = fields.get(b"host", ())
    if len(hosts) != 1 and (hosts or version == "1.1"):
        return True
    if hosts and hosts[0].translate(None, _HOST_OCTETS):
        return True
    if len(fields.get(b"content-length", (b"",))[0]) > LENGTH_DIGITS_MAX:
        return True
    codings = fields.get(b"transfer-encoding")
    return codings is not None and (
        version != "1.1" or [coding.lower() for coding in codings] != [b"chunked"]
    )
