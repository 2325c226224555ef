"""
Reads one frozen `Settings` from a given mapping, or says what is wrong with each
variable.

Each field says which variable it is read from, how that is parsed and what it is when
it is not set. What the variables are for is in `logiss.reference`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import Factory, evolve, field, fields, frozen

from logiss.variables import (
    EVERYBODY,
    MASK,
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
    parse_key_prefix,
    parse_many,
    parse_networks,
    parse_on_timeout,
    parse_pause,
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
    parse_workers,
)


class SettingsError(Exception):
    """
    The configuration cannot be used.

    @ivar problems: a line for each, starting with the variable's name.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _one_or_several(
    given: "Destination | Iterable[Destination] | None",
) -> Destinations:
    if given is None:
        return ()
    return (given,) if isinstance(given, Destination) else tuple(given)


#: A post may ask the shared table twice before it is delivered, and has half of its
#: time for both.
DEDUPE_SHARE = 4

_NOBODY: Networks = ()


def _masked(value: object) -> str:
    return MASK if value else repr(value)


#: Where a field has its `Variable`.
_VARIABLE = "variable"


@frozen
class Variable:
    """
    How a field is read from the environment.

    @ivar default: as it would stand in the environment; nothing where there is none.
    @ivar missing: what to do when it is not set, where it has to be.
    @ivar needed_with: a variable without which it does not have to be set.
    @ivar spared_by: a variable with which it does not have to be set.
    @ivar mask: what may be shown of the text of a secret.
    """

    name: str
    parse: Callable[[str], Any]
    default: str = ""
    missing: str = ""
    needed_with: str = ""
    spared_by: str = ""
    mask: Callable[[str], str] | None = None


def _from(variable: Variable) -> dict[str, Variable]:
    return {_VARIABLE: variable}


def _variable(
    name: str,
    parse: Callable[[str], Any],
    default: str = "",
    *,
    otherwise: Any = None,
    as_repr: Callable[[object], str] = repr,
    **more: Any,
) -> Any:
    """
    A field that is read from a variable.

    @param otherwise: what it is where there is no `default`.
    """
    variable = Variable(name, parse, default, **more)
    return field(
        default=parse(default) if default else otherwise,
        repr=as_repr,
        metadata=_from(variable),
    )


def _mask(text: str) -> str:
    return MASK


def _mask_tokens(text: str) -> str:
    """The users of a TOKEN_MAP."""
    try:
        pairs = parse_tokens(text)
    except ValueError:
        return MASK
    return ",".join(f"{user}:{MASK}" for user, _ in pairs)


def _mask_password(text: str) -> str:
    """A REDIS_URL without its password."""
    try:
        url = parse_redis_url(text)
    except ValueError:
        return MASK
    return str(url)


@frozen
class Settings:
    """
    Everything that can be configured, checked and typed. Sizes are in bytes.

    `read` makes it from environment variables; an embedding application may also
    make it directly.
    """

    deploy: str = field(
        metadata=_from(
            Variable("DEPLOY", str, missing="set it to a label for this instance")
        )
    )
    tokens: tuple[tuple[str, str], ...] = _variable(
        "TOKEN_MAP",
        parse_tokens,
        otherwise=(),
        missing="set it to user:token[,user:token...], or set REDIS_URL",
        spared_by="REDIS_URL",
        mask=_mask_tokens,
        as_repr=_masked,
    )
    port: int = _variable(
        "PORT",
        parse_port,
        otherwise=5000,
        missing="set it to the TCP port to listen on",
    )
    listen_host: str | None = _variable("LISTEN_HOST", str)
    forward_dest: Destinations = field(
        default=(),
        converter=_one_or_several,
        metadata=_from(
            Variable(
                "FORWARD_DEST",
                parse_destinations,
                missing="set it to the host:port of the syslog receiver",
            )
        ),
    )
    forward_dest_connect_timeout_seconds: float = _variable(
        "FORWARD_DEST_CONNECT_TIMEOUT", parse_seconds, "10"
    )
    forward_count: int = _variable("FORWARD_COUNT", parse_count, "4")
    delivery_timeout_seconds: float = _variable("DELIVERY_TIMEOUT", parse_seconds, "5")
    delivery: str = _variable("DELIVERY", parse_delivery, "acked")
    replay_bytes: int = _variable("REPLAY_BYTES", parse_size_or_nothing, "256KiB")
    relp_window: int = _variable("RELP_WINDOW", parse_count, "128")
    enforce_ssl: bool = _variable("ENFORCE_SSL", parse_flag, "0")
    pem: BackendPEM | None = _variable("PEMFILE", parse_pem_file)
    hmac_key: bytes | None = _variable(
        "HMAC_KEY",
        str.encode,
        missing="set it to the key that the credentials in Redis are hashed with",
        needed_with="REDIS_URL",
        mask=_mask,
        as_repr=_masked,
    )
    metadata_id: bytes | None = _variable("METADATA_ID", parse_sd_id)
    query_params: tuple[bytes, ...] = _variable(
        "LOG_ISS_QUERY_PARAMS", parse_sd_names, otherwise=()
    )
    field_params: tuple[bytes, ...] = _variable(
        "LOG_ISS_FIELD_PARAMS", parse_sd_names, otherwise=()
    )
    keep_structured_data: bool = _variable("KEEP_STRUCTURED_DATA", parse_flag, "0")
    max_body_bytes: int = _variable("MAX_BODY_BYTES", parse_size, "16MiB")
    max_inflight_bytes: int = _variable("MAX_INFLIGHT_BYTES", parse_size, "256MiB")
    log_successes: bool = _variable("REQUEST_LOG", parse_request_log, "all")
    http_channel: str = _variable("HTTP_CHANNEL", parse_channel, "fast")
    require_msg_count: bool = _variable("REQUIRE_MSG_COUNT", parse_flag, "0")
    header_timeout_seconds: float = _variable("HEADER_TIMEOUT", parse_seconds, "10")
    body_timeout_seconds: float = _variable("BODY_TIMEOUT", parse_seconds, "30")
    body_rate: int = _variable("BODY_RATE", parse_size_or_nothing, "1KiB")
    keepalive_timeout_seconds: float = _variable(
        "KEEPALIVE_TIMEOUT", parse_seconds, "330"
    )
    on_timeout: str = _variable("ON_TIMEOUT", parse_on_timeout, "respond")
    max_request_line_bytes: int = _variable("MAX_REQUEST_LINE", parse_head_size, "8KiB")
    max_header_bytes: int = _variable("MAX_HEADER_BYTES", parse_head_size, "16KiB")
    max_header_fields: int = _variable("MAX_HEADER_FIELDS", parse_many, "100")
    read_ahead_bytes: int = _variable("READ_AHEAD", parse_size_or_nothing, "64KiB")
    max_frames: int = _variable("MAX_FRAMES", parse_many, "100000")
    max_frame_bytes: int = _variable("MAX_FRAME_BYTES", parse_frame_size, "128KiB")
    max_gzip_members: int = _variable("MAX_GZIP_MEMBERS", parse_many, "16")
    max_gzip_ratio: int = _variable("MAX_GZIP_RATIO", parse_many, "200")
    proxy_protocol: bool = _variable("PROXY_PROTOCOL", parse_flag, "0")
    # Behind a PROXY header the peer is whoever the proxy names, and could name itself
    # anything.
    trusted_proxies: Networks = field(
        default=Factory(
            lambda self: _NOBODY if self.proxy_protocol else EVERYBODY, takes_self=True
        ),
        metadata=_from(Variable("TRUSTED_PROXIES", parse_networks, "all")),
    )
    redis_url: RedisURL | None = _variable(
        "REDIS_URL", parse_redis_url, mask=_mask_password
    )
    redis_key: str = _variable(
        "REDIS_KEY",
        str,
        otherwise="",
        missing="set it to the hash in Redis that has the credentials",
        needed_with="REDIS_URL",
    )
    credential_refresh_interval_seconds: float = _variable(
        "CREDENTIAL_REFRESH_INTERVAL", parse_interval, "60"
    )
    allow_empty_credentials: bool = _variable(
        "ALLOW_EMPTY_CREDENTIALS", parse_flag, "0"
    )
    max_connections: int = _variable("MAX_CONNECTIONS", parse_many, "10000")
    admin_port: int | None = _variable("ADMIN_PORT", parse_port)
    admin_host: str = _variable("ADMIN_HOST", str, "127.0.0.1")
    capture_refused: str | None = _variable("CAPTURE_REFUSED", parse_directory)
    capture_refused_max: int = _variable("CAPTURE_REFUSED_MAX", parse_many, "100")
    capture_refused_bytes: int = _variable("CAPTURE_REFUSED_BYTES", parse_size, "64MiB")
    dedupe_redis: bool = _variable("DEDUPE_REDIS", parse_flag, "0")
    dedupe_timeout_seconds: float = _variable("DEDUPE_TIMEOUT", parse_seconds, "50ms")
    dedupe_prefix: str = _variable("DEDUPE_PREFIX", parse_key_prefix, "logiss:id")

    drain_delay_seconds: float = _variable("DRAIN_DELAY", parse_pause, "0")
    workers: int = _variable("WEB_CONCURRENCY", parse_workers, "1")
    env_file: str | None = _variable("ENV_FILE", str)

    @property
    def delivery_level(self) -> str:
        """What 200 means: ``sent``, ``acked`` or ``relp``."""
        if any(destination.scheme for destination in self.forward_dest):
            return "relp"
        return self.delivery

    @property
    def credentials_url(self) -> RedisURL | None:
        """
        The Redis that has credentials; nothing where it is there for the table of
        retried posts alone.
        """
        is_for_dedupe = self.dedupe_redis and not self.redis_key
        return None if is_for_dedupe else self.redis_url


#: Each variable by the field that it is read into, in order.
VARIABLES: Mapping[str, Variable] = {
    found.name: found.metadata[_VARIABLE] for found in fields(Settings)
}


class _Reader:
    """
    Reads variables.

    @ivar problems: what is wrong with those that were read.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        """What it is set to; nothing counts as not set."""
        return self._environ.get(name, "").strip()

    def read(self, variable: Variable) -> Any:
        """Its value; None when it has none, or a wrong one."""
        name, text = variable.name, self.text(variable.name)
        if not text:
            if self._is_missed(variable):
                self.problems.append(f"{name}: is not set; {variable.missing}")
            return None
        try:
            text.encode()
        except UnicodeEncodeError:
            # How the environment shows bytes that are no UTF-8. Not repeated, for
            # it may be a secret.
            self.problems.append(f"{name}: must be UTF-8 text; take the odd bytes out")
            return None
        try:
            return variable.parse(text)
        except ValueError as e:
            self.problems.append(f"{name}: {e}")
            return None

    def _is_missed(self, variable: Variable) -> bool:
        if variable.spared_by and self.text(variable.spared_by):
            return False
        if variable.needed_with and not self.text(variable.needed_with):
            return False
        if variable.needed_with == "REDIS_URL" and self._has_no_hash():
            return False
        return bool(variable.missing)

    def _has_no_hash(self) -> bool:
        """
        Whether Redis is there for DEDUPE_REDIS alone: TOKEN_MAP says who may post, and
        no hash is named.
        """
        if self.text("REDIS_KEY") or not self.text("TOKEN_MAP"):
            return False
        try:
            return parse_flag(self.text("DEDUPE_REDIS"))
        except ValueError:
            return False


def read_hmac_key(environ: Mapping[str, str]) -> bytes:
    """
    Read the one variable that it takes to hash a password.

    @raise SettingsError: it is not set, or wrong.
    """
    reader = _Reader(environ)
    hmac_key: bytes | None = reader.read(evolve(VARIABLES["hmac_key"], needed_with=""))
    if hmac_key is None:
        raise SettingsError(reader.problems)
    return hmac_key


def read_redis(environ: Mapping[str, str]) -> tuple[RedisURL, str]:
    """
    Read where the credentials are: the Redis and the key of the hash.

    @raise SettingsError: with every mistake there is.
    """
    reader = _Reader(environ)
    missing = "set it to redis://[:password@]host[:port]"
    url = reader.read(evolve(VARIABLES["redis_url"], missing=missing))
    key = reader.read(evolve(VARIABLES["redis_key"], needed_with=""))
    if reader.problems:
        raise SettingsError(reader.problems)
    return url, key


def read(environ: Mapping[str, str]) -> Settings:
    """
    Read the settings of a whole logiss.

    A variable that is set to nothing counts as not set.

    @raise SettingsError: with every mistake there is.
    """
    settings, problems = read_what_is_right(environ)
    if problems:
        raise SettingsError(problems)
    return settings


def read_what_is_right(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """
    As `read`, for whoever has to go on in any case.

    @return: settings where what is wrong counts as not set, and every mistake.
    """
    reader = _Reader(environ)
    values: dict[str, Any] = {"deploy": "", "port": 0}
    for name, variable in VARIABLES.items():
        value = reader.read(variable)
        if value is not None:
            values[name] = value
    settings = Settings(**values)
    problems = reader.problems + _contradictions(settings)
    is_trust_stated = bool(reader.text("TRUSTED_PROXIES"))
    if settings.enforce_ssl and settings.proxy_protocol and not is_trust_stated:
        problems.append(
            "ENFORCE_SSL: with PROXY_PROTOCOL nobody is trusted for X-Forwarded-Proto"
            " unless TRUSTED_PROXIES says who, so that every post would be refused;"
            " set TRUSTED_PROXIES or unset ENFORCE_SSL"
        )
    if settings.dedupe_redis and not reader.text("REDIS_URL"):
        problems.append(
            "DEDUPE_REDIS: needs REDIS_URL, the Redis that the processes share; set it"
            " or unset DEDUPE_REDIS"
        )
    return settings, problems


@frozen
class Effective:
    """
    What a variable is, and by whom.

    @ivar text: as it is set, or its default; secrets are masked.
    @ivar source: ``environment``, ``default``, nothing for what is not set.
    """

    name: str
    text: str
    source: str


def effective(environ: Mapping[str, str]) -> list[Effective]:
    """All variables as they count, right or wrong."""
    reader = _Reader(environ)
    return [_effective(reader, variable) for variable in VARIABLES.values()]


def _effective(reader: _Reader, variable: Variable) -> Effective:
    text = reader.text(variable.name)
    if not text:
        source = "default" if variable.default else ""
        return Effective(variable.name, variable.default, source)
    if variable.mask is not None:
        text = variable.mask(text)
    return Effective(variable.name, text, "environment")


def _contradictions(settings: Settings) -> list[str]:
    """What variables have against each other."""
    problems = []
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
    most = settings.delivery_timeout_seconds / DEDUPE_SHARE
    if settings.dedupe_redis and settings.dedupe_timeout_seconds > most:
        problems.append(
            f"DEDUPE_TIMEOUT: is {settings.dedupe_timeout_seconds:g} s, more than a"
            f" quarter of DELIVERY_TIMEOUT ({most:g} s), so that a slow Redis could"
            " leave a post too little time; lower it"
        )
    return problems + _destination_problems(settings)


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
