"""
What a variable's text means: each kind of value, and how it is parsed.

A parser raises `ValueError` with the end of a sentence that starts with the variable's
name; none of them repeats a secret.
"""

import os
import re
from ipaddress import (
    AddressValueError,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from urllib.parse import unquote

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

KIB = 1024
MIB = 1024 * KIB
MASK = "********"
#: No longer frame may leave: receivers split what is longer than 200,000 bytes.
FRAME_BYTES_MAX = 128 * KIB
_HEAD_BYTES_MIN, _HEAD_BYTES_MAX = KIB, MIB
_MANY_MAX = 1_000_000


@frozen
class Destination:
    """
    Where to forward to: a TCP host and port. An IPv6 host has no brackets.

    @ivar scheme: ``relp`` or ``relp+tls``; nothing for octet-counted syslog, over
        TLS where there is a `Settings.pem`.
    """

    host: str
    port: int
    scheme: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = f"{self.scheme}://" if self.scheme else ""
        return f"{scheme}{host}:{self.port}"


Destinations = tuple[Destination, ...]

Networks = tuple[IPv4Network | IPv6Network, ...]
#: Every address there is.
EVERYBODY: Networks = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


@frozen
class BackendPEM:
    """
    What PEMFILE holds, PEM encoded.

    @ivar authorities: every certificate in the file; the backend's must lead to
        one of them.
    @ivar certificate: ours, when the file has a private key that fits one.
    @ivar chain: those that lead from ours towards its root.
    """

    path: str
    authorities: tuple[bytes, ...] = field(repr=lambda held: f"<{len(held)}>")
    certificate: bytes | None = field(default=None, repr=False)
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    private_key: bytes | None = field(default=None, repr=False)


@frozen
class RedisURL:
    """
    Where a Redis is, and who we are to it.

    @ivar user: only with a password.
    """

    host: str
    port: int = 6379
    database: int = 0
    user: str = ""
    password: str = field(default="", repr=lambda given: MASK if given else "''")
    tls: bool = False

    def __str__(self) -> str:
        """The URL; whoever reads it learns no password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        who = f"{self.user}:{MASK}@" if self.password else ""
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{who}{host}:{self.port}/{self.database}"


def parse_port(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= 65_535:
        return int(text)
    raise ValueError(f"must be a port number from 0 to 65535, not {text!r}")


def parse_count(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,4}", text) and 1 <= int(text) <= 1_000:
        return int(text)
    raise ValueError(f"must be a whole number from 1 to 1000, not {text!r}")


def parse_many(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,7}", text) and 1 <= int(text) <= _MANY_MAX:
        return int(text)
    raise ValueError(f"must be a whole number from 1 to {_MANY_MAX}, not {text!r}")


_FLAGS = dict.fromkeys(("1", "t", "true", "yes", "on"), True) | dict.fromkeys(
    ("0", "f", "false", "no", "off"), False
)


def parse_flag(text: str) -> bool:
    try:
        return _FLAGS[text.lower()]
    except KeyError:
        raise ValueError(
            f"must be 1/true/yes/on or 0/false/no/off, not {text!r}"
        ) from None


_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|s|us)")
_DAY_SECONDS = 86_400.0


def parse_seconds(text: str) -> float:
    """Seconds of ``10``, ``2.5`` or a Go duration: ``10s``, ``500ms``, ``1m30s``."""
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", text):
        seconds = float(text)
    elif re.fullmatch(f"({_SPAN.pattern})+", text):
        seconds = sum(float(n) * _UNIT_SECONDS[unit] for n, unit in _SPAN.findall(text))
    else:
        raise ValueError(
            f"must be seconds or a duration like 10s, 500ms or 1m, not {text!r}"
        )
    if not 1e-3 <= seconds <= _DAY_SECONDS:
        raise ValueError(f"must be from 1ms to 24h, not {text!r}")
    return seconds


def parse_pause(text: str) -> float:
    """Seconds of ``0`` or of what `parse_seconds` reads."""
    return 0.0 if re.fullmatch(r"0{1,9}s?", text) else parse_seconds(text)


#: As many workers as there are CPUs.
AUTO = 0
#: More than any machine has use for.
_WORKERS_MAX = 256


def parse_workers(text: str) -> int:
    if text.lower() == "auto":
        return AUTO
    if re.fullmatch(r"[0-9]{1,3}", text) and 1 <= int(text) <= _WORKERS_MAX:
        return int(text)
    raise ValueError(
        f"must be a whole number from 1 to {_WORKERS_MAX}, or auto, not {text!r}"
    )


_SIZE_UNITS = {"": 1, "kib": KIB, "mib": MIB, "gib": 1024 * MIB}


def parse_size(text: str) -> int:
    """Bytes of ``1048576`` or ``1MiB``."""
    found = re.fullmatch(r"([0-9]{1,15}) ?([a-z]*)", text.lower())
    if found is None or found[2] not in _SIZE_UNITS or not int(found[1]):
        raise ValueError(
            f"must be a number of bytes, or of KiB, MiB or GiB, not {text!r}"
        )
    return int(found[1]) * _SIZE_UNITS[found[2]]


def parse_size_or_nothing(text: str) -> int:
    """Bytes of ``0`` or of what `parse_size` reads."""
    return 0 if re.fullmatch("0{1,15}", text) else parse_size(text)


def parse_head_size(text: str) -> int:
    size = parse_size(text)
    if _HEAD_BYTES_MIN <= size <= _HEAD_BYTES_MAX:
        return size
    raise ValueError(f"must be from 1KiB to 1MiB, not {text!r}")


def parse_frame_size(text: str) -> int:
    size = parse_size(text)
    if size <= FRAME_BYTES_MAX:
        return size
    raise ValueError(
        f"must be at most {FRAME_BYTES_MAX}, not {text!r}: receivers take longer"
        " frames apart, so that a client could forge records"
    )


def parse_delivery(text: str) -> str:
    if text.lower() in ("sent", "acked"):
        return text.lower()
    if text.lower() == "relp":
        raise ValueError("is 'relp' by FORWARD_DEST=relp://host:port; unset it")
    raise ValueError(f"must be 'sent' or 'acked', not {text!r}")


def parse_request_log(text: str) -> bool:
    if text.lower() in ("all", "errors"):
        return text.lower() == "all"
    raise ValueError(f"must be 'all' or 'errors', not {text!r}")


def parse_channel(text: str) -> str:
    if text.lower() in ("fast", "stock"):
        return text.lower()
    raise ValueError(f"must be 'fast' or 'stock', not {text!r}")


def parse_on_timeout(text: str) -> str:
    if text.lower() in ("respond", "hangup"):
        return text.lower()
    raise ValueError(f"must be 'respond' or 'hangup', not {text!r}")


_NETWORK = re.compile(r"[0-9A-Fa-f.:]+(?:/[0-9]{1,3})?")
_MAPPED = IPv6Network("::ffff:0:0/96")


def parse_networks(text: str) -> Networks:
    """Networks split at ``,`` or spaces, of IPv4 or IPv6; ``all`` is every address."""
    if text.lower() == "all":
        return EVERYBODY
    entries = re.split(r"[\s,]+", text.strip(", "))
    return tuple(parse_network(entry) for entry in entries)


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """One network; an address is one of itself, IPv4-mapped addresses are IPv4."""
    if not _NETWORK.fullmatch(text):
        raise _no_network(text)
    try:
        network = ip_network(text, strict=False)
        address = ip_address(text.partition("/")[0])
    except ValueError:
        raise _no_network(text) from None
    if address != network.network_address:
        raise ValueError(f"{text!r} has bits set behind its mask; write {network}")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        low = int(network.network_address) & 0xFFFF_FFFF
        return IPv4Network((low, network.prefixlen - _MAPPED.prefixlen))
    return network


def _no_network(text: str) -> ValueError:
    return ValueError(
        f"must be 'all', or networks like 10.0.0.0/8 or 2001:db8::/32, not {text!r}"
    )


_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


def parse_destinations(text: str) -> Destinations:
    """Destinations of ``host:port,host:port``, split at ``,``."""
    return tuple(parse_destination(entry.strip()) for entry in text.split(","))


def parse_destination(text: str) -> Destination:
    """
    A destination of ``host:port`` or ``[v6]:port``, behind ``relp://`` or
    ``relp+tls://`` for RELP.
    """
    scheme, found_scheme, rest = text.partition("://")
    if not found_scheme:
        return _parse_address("", text)
    if scheme.lower() not in ("relp", "relp+tls"):
        raise ValueError(
            f"must be host:port, relp://host:port or relp+tls://host:port, not {text!r}"
        )
    return _parse_address(scheme.lower(), rest)


def _parse_address(scheme: str, text: str) -> Destination:
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]+(?:%[^\]]+)?)\]:([0-9]{1,5})", text)
    if found is None:
        found = re.fullmatch(r"([^:\[\]/@\s]+):([0-9]{1,5})", text)
        if found is None or not _HOST.fullmatch(found[1]):
            raise ValueError(f"must be host:port or [v6]:port, not {text!r}")
    elif not _is_ipv6(found[1]):
        raise ValueError(f"{found[1]!r} is not an IPv6 address")
    if not 1 <= int(found[2]) <= 65_535:
        raise ValueError(f"its port must be from 1 to 65535, not {found[2]}")
    return Destination(found[1], int(found[2]), scheme)


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def parse_tokens(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of ``user:token,user:token``; split at ``|`` when there is one."""
    separator = "|" if "|" in text else ","
    pairs = []
    for i, entry in enumerate(text.split(separator), 1):
        user, colon, token = entry.strip().partition(":")
        if not (user and colon and token):
            raise ValueError(
                f"entry {i} must be user:token, with neither of them empty"
            )
        pairs.append((user, token))
    return tuple(pairs)


_SD_NAME = re.compile(r"[!#-<>-\\^-~]{1,32}")


def parse_sd_id(text: str) -> bytes:
    """An SD-ID (RFC 5424 section 6.3.2)."""
    _check_sd_name(text)
    if text == "origin":
        raise ValueError("must not be 'origin', which each frame carries already")
    return text.encode()


def parse_sd_names(text: str) -> tuple[bytes, ...]:
    """PARAM-NAMEs split at ``;``."""
    names = [name.strip() for name in text.split(";") if name.strip()]
    for name in names:
        _check_sd_name(name)
    return tuple(name.encode() for name in names)


def _check_sd_name(name: str) -> None:
    if not _SD_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not 1 to 32 printable ASCII characters without"
            " '=', ']', '\"' or space (RFC 5424 SD-NAME)"
        )


_PEM_KEY = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----\n?", re.DOTALL
)
_PEM_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL
)


def parse_pem_file(path: str) -> BackendPEM:
    """What the PEM file at `path` holds; the file must be readable now."""
    try:
        pem = Path(path).read_bytes()
    except OSError as e:
        raise ValueError(f"cannot read {path!r}: {e.strerror}") from None
    blocks = _PEM_CERTIFICATE.findall(pem)
    if not blocks:
        raise ValueError(f"{path!r} has no certificate in PEM format")
    certificates = []
    for i, block in enumerate(blocks, 1):
        try:
            certificates.append(x509.load_pem_x509_certificate(block))
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(f"certificate {i} in {path!r} cannot be read") from None
    keys = [found[0] for found in _PEM_KEY.finditer(pem)]
    begun = len(re.findall(rb"-----BEGIN (?:CERTIFICATE|[A-Z0-9 ]*KEY)-----", pem))
    if begun != len(blocks) + len(keys):
        raise ValueError(f"{path!r} is cut off: a PEM block in it does not end")
    if not keys:
        return BackendPEM(path, tuple(blocks))
    if len(keys) > 1:
        raise ValueError(f"{path!r} has {len(keys)} private keys; leave one")
    try:
        key = load_pem_private_key(keys[0], None)
    except TypeError:
        raise ValueError(f"the private key in {path!r} is encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"the private key in {path!r} cannot be read") from None
    public_key = key.public_key()
    fitting = [i for i, c in enumerate(certificates) if _public_key(c) == public_key]
    if not fitting:
        raise ValueError(f"no certificate in {path!r} fits its private key")
    ours = fitting[0]
    chain, at = [], certificates[ours]
    while at.issuer != at.subject:
        above = [
            i
            for i, c in enumerate(certificates)
            if c.subject == at.issuer and i != ours and blocks[i] not in chain
        ]
        if not above:
            break
        at = certificates[above[0]]
        if at.issuer != at.subject:
            chain.append(blocks[above[0]])
    return BackendPEM(path, tuple(blocks), blocks[ours], tuple(chain), keys[0])


def _public_key(certificate: x509.Certificate) -> object:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


_REDIS_URL_FORM = "redis://[[user]:password@]host[:port][/database]"


def parse_redis_url(text: str) -> RedisURL:
    """
    A Redis of ``redis://user:password@host:port/database``, or ``rediss://`` over TLS.
    User and password are percent-encoded. No mistake repeats any of it.
    """
    found = re.fullmatch(
        r"(rediss?)://(?:([^:@/?#]*):([^:@/?#]*)@)?"
        r"(\[[0-9A-Fa-f:.]+\]|[^:@/?#\[\]]+)(?::([0-9]{1,5}))?(?:/([0-9]{0,4}))?",
        text,
        re.IGNORECASE,
    )
    if found is None:
        raise ValueError(
            f"must be {_REDIS_URL_FORM}, or rediss://... for TLS, with user and"
            " password percent-encoded"
        )
    tls = found[1].lower() == "rediss"
    host = found[4].strip("[]")
    is_known = _is_ipv6(host) if found[4] != host else _HOST.fullmatch(host)
    if not is_known:
        raise ValueError("its host is neither a name nor an address")
    if tls and "_" in host:
        raise ValueError("no certificate can be for a host with '_' in its name")
    port = int(found[5] or 6379)
    if not 1 <= port <= 65_535:
        raise ValueError(f"its port must be from 1 to 65535, not {port}")
    user, password = unquote(found[2] or ""), unquote(found[3] or "")
    if user and not password:
        raise ValueError("has a user without a password; add it or take the user out")
    return RedisURL(host, port, int(found[6] or 0), user, password, tls)


def parse_key_prefix(text: str) -> str:
    """What keys in Redis begin with: short, and to be typed."""
    if not re.fullmatch(r"[!-~]{1,64}", text):
        raise ValueError(
            "must be at most 64 printable ASCII characters without spaces, not"
            f" {text!r}"
        )
    return text


def parse_directory(path: str) -> str:
    """A directory that is there, and that files can be made in now."""
    if not os.path.exists(path):
        raise ValueError(f"there is no directory {path!r}; make it")
    if not os.path.isdir(path):
        raise ValueError(f"{path!r} is no directory; name one")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ValueError(
            f"{path!r} cannot be written to; let the user that logiss runs as own it"
        )
    return path


def parse_interval(text: str) -> float:
    """Seconds of what `parse_seconds` reads, 1 at least."""
    interval = parse_seconds(text)
    if interval < 1.0:
        raise ValueError(f"must be from 1s to 24h, not {text!r}")
    return interval
