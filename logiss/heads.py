"""
Knows the rules of HTTP for the head of a request that llhttp lets pass.

llhttp takes other versions, a Host missing or doubled, lengths of any number of digits,
and other codings in front of ``chunked`` or on HTTP/1.0 (RFC 9112 sections 2.3, 3.2
and 6).
"""

#: RFC 9110 has no limit; no body has a length of more digits.
LENGTH_DIGITS_MAX = 18


def by_name(fields: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """The values of each header, by its name in lower case."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        name = name.lower()
        if name in values:
            values[name].append(value)
        else:
            values[name] = [value]
    return values


def is_malformed(version: str, fields: dict[bytes, list[bytes]]) -> bool:
    """Whether a head that llhttp has let pass breaks a rule nevertheless."""
    if version not in ("1.1", "1.0"):
        return True
    if version == "1.1" and len(fields.get(b"host", ())) != 1:
        return True
    if len(fields.get(b"content-length", (b"",))[0]) > LENGTH_DIGITS_MAX:
        return True
    codings = fields.get(b"transfer-encoding")
    return codings is not None and (
        version != "1.1" or [coding.lower() for coding in codings] != [b"chunked"]
    )
