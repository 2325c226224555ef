"""
Builds the structured data that says where a post came from: the origin and the
metadata of its query.

Both are SD-ELEMENTs (RFC 5424 section 6.3)::

    [origin ip="ADDRESS"]
    [ID name="value" ... fields="name=value,name=value"]

A PARAM-VALUE is UTF-8 in which ``"``, ``\\`` and ``]`` are escaped.  Everything in
it comes from a client, so control bytes are dropped and its length is bounded.
"""

from collections.abc import Iterable, Mapping, Sequence

#: Octets of a PARAM-VALUE before escaping.
VALUE_MAX = 255

_CONTROL = bytes([*range(32), 127])


def escaped(value: bytes) -> bytes:
    """`value` as a PARAM-VALUE."""
    value = value.translate(None, _CONTROL)
    if len(value) > VALUE_MAX:
        value = _cut(value, VALUE_MAX)
    return value.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"]", b"\\]")


def _cut(value: bytes, most: int) -> bytes:
    """At most `most` bytes of `value`, without half a UTF-8 character at the end."""
    end = most
    while end > most - 3 and value[end] & 0xC0 == 0x80:
        end -= 1
    return value[:end]


def origin(address: bytes) -> bytes:
    """The origin element (RFC 5424 section 7.2), or nothing without an address."""
    value = escaped(address)
    return b'[origin ip="' + value + b'"]' if value else b""


def metadata(
    sd_id: bytes,
    query: Mapping[bytes, Sequence[bytes]],
    query_params: Iterable[bytes],
    field_params: Iterable[bytes],
    deprecated_credential: bytes | None = None,
) -> bytes:
    """
    The metadata element, or nothing when there is no value for it.

    @param query: values by name; the first of each counts, an empty one does not.
    @param deprecated_credential: name of the credential in use, when it is one
        that is to go.
    """
    params = _present(query, query_params)
    fields = _present(query, field_params)
    if deprecated_credential is not None:
        fields.append((b"credential_deprecated", b"true"))
        fields.append((b"credential_name", escaped(deprecated_credential)))
    if fields:
        params.append((b"fields", b",".join(k + b"=" + v for k, v in fields)))
    if not params:
        return b""
    return b"[" + sd_id + b"".join(b' %b="%b"' % pair for pair in params) + b"]"


def _present(
    query: Mapping[bytes, Sequence[bytes]], names: Iterable[bytes]
) -> list[tuple[bytes, bytes]]:
    found = ((name, escaped(query[name][0])) for name in names if query.get(name))
    return [(name, value) for name, value in found if value]
