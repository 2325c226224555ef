"""
Reads one frozen `Settings` from a given mapping, or says what is wrong with each
variable.

Each variable has one line in `read`: its name, how it is parsed and its default.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from attrs import Factory, field, fields, frozen

from logiss.variables import (
    EVERYBODY,
    FRAME_BYTES_MAX,
    KIB,
    MASK,
    MIB,
    BackendPEM,
    Destination,
    Destinations,
    Networks,
    RedisURL,
    parse_channel,
    parse_count,
    parse_delivery,
    parse_destinations,
    parse_directory,
    parse_flag,
    parse_frame_size,
    parse_head_size,
    parse_interval,
    parse_many,
    parse_networks,
    parse_on_timeout,
    parse_pem_file,
    parse_port,
    parse_redis_url,
    parse_request_log,
    parse_sd_id,
    parse_sd_names,
    parse_seconds,
    parse_size,
    parse_size_or_nothing,
    parse_tokens,
)

T = TypeVar("T")


class SettingsError(Exception):
    """
    The configuration cannot be used.

    @ivar problems: a line for each, starting with the variable's name.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


_NOWHERE: Destinations = ()


def _one_or_several(
    given: "Destination | Iterable[Destination] | None",
) -> Destinations:
    if given is None:
        return ()
    return (given,) if isinstance(given, Destination) else tuple(given)


_NOBODY: Networks = ()


def _masked(value: object) -> str:
    return MASK if value else repr(value)


@frozen
class Settings:
    """
    Everything that can be configured, checked and typed. Sizes are in bytes.

    `read` makes it from environment variables; an embedding application may also
    make it directly.
    """

    deploy: str
    tokens: tuple[tuple[str, str], ...] = field(default=(), repr=_masked)
    port: int = 5000
    listen_host: str | None = None
    forward_dest: Destinations = field(default=(), converter=_one_or_several)
    forward_dest_connect_timeout_seconds: float = 10.0
    forward_count: int = 4
    delivery_timeout_seconds: float = 5.0
    delivery: str = "acked"
    replay_bytes: int = 256 * KIB
    relp_window: int = 128
    enforce_ssl: bool = False
    pem: BackendPEM | None = None
    hmac_key: bytes | None = field(default=None, repr=_masked)
    metadata_id: bytes | None = None
    query_params: tuple[bytes, ...] = Factory(tuple)
    field_params: tuple[bytes, ...] = Factory(tuple)
    keep_structured_data: bool = False
    max_body_bytes: int = 16 * MIB
    max_inflight_bytes: int = 256 * MIB
    log_successes: bool = True
    http_channel: str = "fast"
    require_msg_count: bool = False
    header_timeout_seconds: float = 10.0
    body_timeout_seconds: float = 30.0
    body_rate: int = 1024
    keepalive_timeout_seconds: float = 330.0
    on_timeout: str = "respond"
    max_request_line_bytes: int = 8 * KIB
    max_header_bytes: int = 16 * KIB
    max_header_fields: int = 100
    read_ahead_bytes: int = 64 * KIB
    max_frames: int = 100_000
    max_frame_bytes: int = FRAME_BYTES_MAX
    max_gzip_members: int = 16
    max_gzip_ratio: int = 200
    proxy_protocol: bool = False
    # Behind a PROXY header the peer is whoever the proxy names, and could name itself
    # anything.
    trusted_proxies: Networks = Factory(
        lambda self: _NOBODY if self.proxy_protocol else EVERYBODY, takes_self=True
    )
    redis_url: RedisURL | None = None
    redis_key: str = ""
    credential_refresh_interval_seconds: float = 60.0
    allow_empty_credentials: bool = False
    max_connections: int = 10_000
    admin_port: int | None = None
    admin_host: str = "127.0.0.1"
    capture_refused: str | None = None
    capture_refused_max: int = 100
    capture_refused_bytes: int = 64 * MIB

    @property
    def delivery_level(self) -> str:
        """What 200 means: ``sent``, ``acked`` or ``relp``."""
        if any(destination.scheme for destination in self.forward_dest):
            return "relp"
        return self.delivery

    def describe(self) -> list[str]:
        """A line for each setting, secrets masked."""
        lines = []
        for attribute in fields(Settings):
            value = getattr(self, attribute.name)
            shown = attribute.repr(value) if callable(attribute.repr) else repr(value)
            lines.append(f"{attribute.name}={shown}")
        return lines


class _Variables:
    """
    Reads variables by name.

    @ivar problems: what is wrong with those that were read.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def is_set(self, name: str) -> bool:
        return bool(self._environ.get(name, "").strip())

    def __call__(
        self, name: str, parse: Callable[[str], T], default: T, missing: str = ""
    ) -> T:
        text = self._environ.get(name, "").strip()
        if not text:
            if missing:
                self.problems.append(f"{name}: is not set; {missing}")
            return default
        try:
            text.encode()
        except UnicodeEncodeError:
            # How the environment shows bytes that are no UTF-8. Not repeated, for
            # it may be a secret.
            self.problems.append(f"{name}: must be UTF-8 text; take the odd bytes out")
            return default
        try:
            return parse(text)
        except ValueError as e:
            self.problems.append(f"{name}: {e}")
            return default


def _read_hmac_key(variable: _Variables, is_required: bool) -> bytes | None:
    missing = "set it to the key that the credentials in Redis are hashed with"
    return variable("HMAC_KEY", str.encode, None, missing if is_required else "")


def _read_redis_key(variable: _Variables, is_required: bool) -> str:
    missing = "set it to the hash in Redis that has the credentials"
    return variable("REDIS_KEY", str, "", missing if is_required else "")


def read_hmac_key(environ: Mapping[str, str]) -> bytes:
    """
    Read the one variable that it takes to hash a password.

    @raise SettingsError: it is not set, or wrong.
    """
    variable = _Variables(environ)
    hmac_key = _read_hmac_key(variable, True)
    if hmac_key is None or variable.problems:
        raise SettingsError(variable.problems)
    return hmac_key


def read_redis(environ: Mapping[str, str]) -> tuple[RedisURL, str]:
    """
    Read where the credentials are: the Redis and the key of the hash.

    @raise SettingsError: with every mistake there is.
    """
    variable = _Variables(environ)
    url = variable(
        "REDIS_URL", parse_redis_url, None, "set it to redis://[:password@]host[:port]"
    )
    key = _read_redis_key(variable, True)
    if url is None or variable.problems:
        raise SettingsError(variable.problems)
    return url, key


def read(environ: Mapping[str, str]) -> Settings:
    """
    Read the settings of a whole logiss.

    A variable that is set to nothing counts as not set.

    @raise SettingsError: with every mistake there is.
    """
    variable = _Variables(environ)
    problems = variable.problems
    proxy_protocol = variable("PROXY_PROTOCOL", parse_flag, False)
    settings = Settings(
        deploy=variable("DEPLOY", str, "", "set it to a label for this instance"),
        tokens=variable(
            "TOKEN_MAP",
            parse_tokens,
            (),
            ""
            if variable.is_set("REDIS_URL")
            else "set it to user:token[,user:token...], or set REDIS_URL",
        ),
        port=variable("PORT", parse_port, 0, "set it to the TCP port to listen on"),
        listen_host=variable("LISTEN_HOST", str, None),
        forward_dest=variable(
            "FORWARD_DEST",
            parse_destinations,
            _NOWHERE,
            "set it to the host:port of the syslog receiver",
        ),
        forward_dest_connect_timeout_seconds=variable(
            "FORWARD_DEST_CONNECT_TIMEOUT", parse_seconds, 10.0
        ),
        forward_count=variable("FORWARD_COUNT", parse_count, 4),
        delivery_timeout_seconds=variable("DELIVERY_TIMEOUT", parse_seconds, 5.0),
        delivery=variable("DELIVERY", parse_delivery, "acked"),
        replay_bytes=variable("REPLAY_BYTES", parse_size_or_nothing, 256 * KIB),
        relp_window=variable("RELP_WINDOW", parse_count, 128),
        enforce_ssl=variable("ENFORCE_SSL", parse_flag, False),
        pem=variable("PEMFILE", parse_pem_file, None),
        hmac_key=_read_hmac_key(variable, variable.is_set("REDIS_URL")),
        metadata_id=variable("METADATA_ID", parse_sd_id, None),
        query_params=variable("LOG_ISS_QUERY_PARAMS", parse_sd_names, ()),
        field_params=variable("LOG_ISS_FIELD_PARAMS", parse_sd_names, ()),
        keep_structured_data=variable("KEEP_STRUCTURED_DATA", parse_flag, False),
        max_body_bytes=variable("MAX_BODY_BYTES", parse_size, 16 * MIB),
        max_inflight_bytes=variable("MAX_INFLIGHT_BYTES", parse_size, 256 * MIB),
        log_successes=variable("REQUEST_LOG", parse_request_log, True),
        http_channel=variable("HTTP_CHANNEL", parse_channel, "fast"),
        require_msg_count=variable("REQUIRE_MSG_COUNT", parse_flag, False),
        header_timeout_seconds=variable("HEADER_TIMEOUT", parse_seconds, 10.0),
        body_timeout_seconds=variable("BODY_TIMEOUT", parse_seconds, 30.0),
        body_rate=variable("BODY_RATE", parse_size_or_nothing, 1024),
        keepalive_timeout_seconds=variable("KEEPALIVE_TIMEOUT", parse_seconds, 330.0),
        on_timeout=variable("ON_TIMEOUT", parse_on_timeout, "respond"),
        max_request_line_bytes=variable("MAX_REQUEST_LINE", parse_head_size, 8 * KIB),
        max_header_bytes=variable("MAX_HEADER_BYTES", parse_head_size, 16 * KIB),
        max_header_fields=variable("MAX_HEADER_FIELDS", parse_many, 100),
        read_ahead_bytes=variable("READ_AHEAD", parse_size_or_nothing, 64 * KIB),
        max_frames=variable("MAX_FRAMES", parse_many, 100_000),
        max_frame_bytes=variable("MAX_FRAME_BYTES", parse_frame_size, FRAME_BYTES_MAX),
        max_gzip_members=variable("MAX_GZIP_MEMBERS", parse_many, 16),
        max_gzip_ratio=variable("MAX_GZIP_RATIO", parse_many, 200),
        proxy_protocol=proxy_protocol,
        trusted_proxies=variable(
            "TRUSTED_PROXIES",
            parse_networks,
            _NOBODY if proxy_protocol else EVERYBODY,
        ),
        redis_url=variable("REDIS_URL", parse_redis_url, None),
        redis_key=_read_redis_key(variable, variable.is_set("REDIS_URL")),
        credential_refresh_interval_seconds=variable(
            "CREDENTIAL_REFRESH_INTERVAL", parse_interval, 60.0
        ),
        allow_empty_credentials=variable("ALLOW_EMPTY_CREDENTIALS", parse_flag, False),
        max_connections=variable("MAX_CONNECTIONS", parse_many, 10_000),
        admin_port=variable("ADMIN_PORT", parse_port, None),
        admin_host=variable("ADMIN_HOST", str, "127.0.0.1"),
        capture_refused=variable("CAPTURE_REFUSED", parse_directory, None),
        capture_refused_max=variable("CAPTURE_REFUSED_MAX", parse_many, 100),
        capture_refused_bytes=variable("CAPTURE_REFUSED_BYTES", parse_size, 64 * MIB),
    )
    if settings.max_inflight_bytes < settings.max_body_bytes:
        problems.append(
            f"MAX_INFLIGHT_BYTES: is {settings.max_inflight_bytes}, less than"
            f" MAX_BODY_BYTES ({settings.max_body_bytes}): the largest body would"
            " never find room; raise it or lower MAX_BODY_BYTES"
        )
    if settings.admin_port and settings.admin_port == settings.port:
        problems.append(
            f"ADMIN_PORT: is {settings.admin_port}, as is PORT; set it to another, the"
            " status page is not for those who post"
        )
    problems += _destination_problems(settings)
    is_trust_stated = bool(environ.get("TRUSTED_PROXIES", "").strip())
    if settings.enforce_ssl and proxy_protocol and not is_trust_stated:
        problems.append(
            "ENFORCE_SSL: with PROXY_PROTOCOL nobody is trusted for X-Forwarded-Proto"
            " unless TRUSTED_PROXIES says who, so that every post would be refused;"
            " set TRUSTED_PROXIES or unset ENFORCE_SSL"
        )
    if problems:
        raise SettingsError(problems)
    return settings


def _destination_problems(settings: Settings) -> list[str]:
    """What FORWARD_DEST has against the other variables."""
    problems = []
    destinations = settings.forward_dest
    if len({bool(destination.scheme) for destination in destinations}) > 1:
        problems.append(
            "FORWARD_DEST: has destinations with RELP and without; as 200 can only"
            " mean one thing, use relp:// or relp+tls:// for all of them or for none"
        )
    if len(destinations) > settings.forward_count:
        problems.append(
            f"FORWARD_COUNT: is {settings.forward_count}, less than the"
            f" {len(destinations)} destinations in FORWARD_DEST; raise it"
        )
    for destination in destinations:
        where = f"FORWARD_DEST: {str(destination)!r}"
        if settings.pem is None:
            if destination.scheme == "relp+tls":
                problems.append(
                    f"{where} needs PEMFILE, the certificates to check it against;"
                    " set it"
                )
            continue
        if destination.scheme == "relp":
            problems.append(
                f"{where} is without TLS although PEMFILE is set; use relp+tls:// or"
                " unset PEMFILE"
            )
        if "_" in destination.host:
            problems.append(
                f"FORWARD_DEST: no certificate can be for {destination.host!r};"
                " with PEMFILE it must be a name without '_'"
            )
    return problems
