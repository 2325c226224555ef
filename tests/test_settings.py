"""The environment becomes settings, or a line for each mistake in it."""

import tempfile
from base64 import encodebytes
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import trustme
from attrs import fields
from attrs.exceptions import FrozenInstanceError
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.trial.unittest import SynchronousTestCase

from logiss.credentials import Credentials
from logiss.settings import (
    VARIABLES,
    Settings,
    SettingsError,
    effective,
    read,
    read_hmac_key,
    read_redis,
    read_what_is_right,
)
from logiss.variables import EVERYBODY, MASK, BackendPEM, Destination, RedisURL

KIB, MIB, GIB = 1024, 1024**2, 1024**3

FLAGS = ["1", "t", "T", "true", "yes", "on", "TRUE", "Yes", "oN"]
FLAGS += ["0", "f", "F", "false", "no", "off", "False", "OFF"]

REQUIRED = {
    "DEPLOY": "local",
    "PORT": "5000",
    "FORWARD_DEST": "localhost:5001",
    "TOKEN_MAP": "ada:s3cret",
}


#: What must be set beside REDIS_URL.
REQUIRED_BY_REDIS = {"REDIS_KEY": "users", "HMAC_KEY": "opensesame"}


class ReadTestCase(SynchronousTestCase):
    def read(self, **variables: str) -> Settings:
        return read({**REQUIRED, **variables})

    def problems(self, environ: Mapping[str, str]) -> list[str]:
        """What is wrong with `environ`; each is one line."""
        with self.assertRaises(SettingsError) as caught:
            read(environ)
        problems: list[str] = caught.exception.problems
        self.assertEqual(str(caught.exception).splitlines(), problems)
        for problem in problems:
            self.assertTrue(problem.isprintable(), problem)
        return problems

    def problem(self, name: str, value: str) -> str:
        """The one thing that is wrong when `name` is `value`."""
        environ = {**REQUIRED, name: value}
        if name == "REDIS_URL":
            environ |= REQUIRED_BY_REDIS
        (problem,) = self.problems(environ)
        self.assertTrue(problem.startswith(f"{name}: "), problem)
        return problem


class ReadTests(ReadTestCase):
    """`read` takes what is right and names what is wrong."""

    def test_defaults(self) -> None:
        """With nothing but what is required, the rest is as documented."""
        self.assertEqual(
            self.read(),
            Settings(
                deploy="local",
                tokens=(("ada", "s3cret"),),
                port=5000,
                listen_host=None,
                forward_dest=Destination("localhost", 5001),
                forward_dest_connect_timeout_seconds=10.0,
                forward_count=4,
                delivery_timeout_seconds=5.0,
                enforce_ssl=False,
                pem=None,
                hmac_key=None,
                metadata_id=None,
                query_params=(),
                field_params=(),
                keep_structured_data=False,
                max_body_bytes=16 * MIB,
                max_inflight_bytes=256 * MIB,
                log_successes=True,
                http_channel="fast",
            ),
        )

    def test_all_fields_are_tested(self) -> None:
        """A new setting is noticed here."""
        self.assertEqual(
            {f.name for f in fields(Settings)},
            {field for _, _, field, _ in self.good} | {"pem", "redis_url"},
        )

    good: list[tuple[str, str, str, Any]] = [
        ("REDIS_KEY", " users ", "redis_key", "users"),
        ("CREDENTIAL_REFRESH_INTERVAL", "1", "credential_refresh_interval_seconds", 1),
        (
            "CREDENTIAL_REFRESH_INTERVAL",
            "5m",
            "credential_refresh_interval_seconds",
            300,
        ),
        ("ALLOW_EMPTY_CREDENTIALS", "1", "allow_empty_credentials", True),
        ("DEPLOY", "eu-1 production", "deploy", "eu-1 production"),
        ("PORT", "0", "port", 0),
        ("PORT", "65535", "port", 65_535),
        ("PORT", " 80 ", "port", 80),
        ("LISTEN_HOST", "127.0.0.1", "listen_host", "127.0.0.1"),
        ("FORWARD_DEST", "a:1", "forward_dest", Destination("a", 1)),
        (
            "FORWARD_DEST",
            "a:1, [::1]:2,a:3",
            "forward_dest",
            (Destination("a", 1), Destination("::1", 2), Destination("a", 3)),
        ),
        ("FORWARD_DEST", "relp://a:1", "forward_dest", Destination("a", 1, "relp")),
        ("FORWARD_DEST", "RELP://a:1", "forward_dest", Destination("a", 1, "relp")),
        (
            "FORWARD_DEST",
            "relp://[::1]:1,relp://b:2",
            "forward_dest",
            (Destination("::1", 1, "relp"), Destination("b", 2, "relp")),
        ),
        (
            "FORWARD_DEST",
            "syslog.example.com:6514",
            "forward_dest",
            Destination("syslog.example.com", 6514),
        ),
        ("FORWARD_DEST", "a.b.:1", "forward_dest", Destination("a.b.", 1)),
        ("FORWARD_DEST", "my_host-1:1", "forward_dest", Destination("my_host-1", 1)),
        ("FORWARD_DEST", "10.0.0.1:1", "forward_dest", Destination("10.0.0.1", 1)),
        ("FORWARD_DEST", "[::1]:65535", "forward_dest", Destination("::1", 65_535)),
        (
            "FORWARD_DEST",
            "[2001:db8::A]:5",
            "forward_dest",
            Destination("2001:db8::A", 5),
        ),
        (
            "FORWARD_DEST",
            "[fe80::1%eth0]:5",
            "forward_dest",
            Destination("fe80::1%eth0", 5),
        ),
        (
            "FORWARD_DEST",
            "[::ffff:1.2.3.4]:5",
            "forward_dest",
            Destination("::ffff:1.2.3.4", 5),
        ),
        *(
            (name, text, field, seconds)
            for name, field in (
                (
                    "FORWARD_DEST_CONNECT_TIMEOUT",
                    "forward_dest_connect_timeout_seconds",
                ),
                ("DELIVERY_TIMEOUT", "delivery_timeout_seconds"),
            )
            for text, seconds in (
                ("7", 7.0),
                ("4.5", 4.5),
                (".5", 0.5),
                ("10s", 10.0),
                ("500ms", 0.5),
                ("1m", 60.0),
                ("1m30s", 90.0),
                ("1h0.5m", 3630.0),
                ("1000us", 0.001),
                ("24h", 86_400.0),
            )
        ),
        ("DELIVERY", "sent", "delivery", "sent"),
        ("DELIVERY", "Acked", "delivery", "acked"),
        ("REPLAY_BYTES", "0", "replay_bytes", 0),
        ("REPLAY_BYTES", "1MiB", "replay_bytes", MIB),
        ("RELP_WINDOW", "512", "relp_window", 512),
        ("HEADER_TIMEOUT", "5", "header_timeout_seconds", 5.0),
        ("BODY_TIMEOUT", "1m", "body_timeout_seconds", 60.0),
        ("BODY_RATE", "0", "body_rate", 0),
        ("BODY_RATE", "16KiB", "body_rate", 16_384),
        ("KEEPALIVE_TIMEOUT", "1m", "keepalive_timeout_seconds", 60.0),
        ("MAX_REQUEST_LINE", "1KiB", "max_request_line_bytes", 1024),
        ("MAX_REQUEST_LINE", "1MiB", "max_request_line_bytes", MIB),
        ("MAX_HEADER_BYTES", "2048", "max_header_bytes", 2048),
        ("MAX_HEADER_FIELDS", "1", "max_header_fields", 1),
        ("MAX_HEADER_FIELDS", "1000000", "max_header_fields", 1_000_000),
        ("READ_AHEAD", "0", "read_ahead_bytes", 0),
        ("READ_AHEAD", "1MiB", "read_ahead_bytes", MIB),
        ("MAX_FRAMES", "7", "max_frames", 7),
        ("MAX_FRAME_BYTES", "1KiB", "max_frame_bytes", 1024),
        ("MAX_FRAME_BYTES", "128KiB", "max_frame_bytes", 131_072),
        ("MAX_GZIP_MEMBERS", "1", "max_gzip_members", 1),
        ("MAX_GZIP_RATIO", "1000", "max_gzip_ratio", 1000),
        ("FORWARD_COUNT", "1", "forward_count", 1),
        ("FORWARD_COUNT", "1000", "forward_count", 1000),
        ("TOKEN_MAP", "a:b", "tokens", (("a", "b"),)),
        ("TOKEN_MAP", "a:b,c:d", "tokens", (("a", "b"), ("c", "d"))),
        ("TOKEN_MAP", "a:b,a:c", "tokens", (("a", "b"), ("a", "c"))),
        ("TOKEN_MAP", "a:b, c:d", "tokens", (("a", "b"), ("c", "d"))),
        ("TOKEN_MAP", "a:b:c:", "tokens", (("a", "b:c:"),)),
        ("TOKEN_MAP", "a:b,c|d:e", "tokens", (("a", "b,c"), ("d", "e"))),
        ("TOKEN_MAP", "zoë:€", "tokens", (("zoë", "€"),)),
        *(
            (name, text, field, text.strip().lower() in ("1", "t", "true", "yes", "on"))
            for name, field in (
                ("ENFORCE_SSL", "enforce_ssl"),
                ("KEEP_STRUCTURED_DATA", "keep_structured_data"),
                ("REQUIRE_MSG_COUNT", "require_msg_count"),
            )
            for text in FLAGS
        ),
        ("HMAC_KEY", "a key", "hmac_key", b"a key"),
        ("METADATA_ID", "metadata@123", "metadata_id", b"metadata@123"),
        ("METADATA_ID", "m" * 32, "metadata_id", b"m" * 32),
        ("LOG_ISS_QUERY_PARAMS", "a;b", "query_params", (b"a", b"b")),
        ("LOG_ISS_QUERY_PARAMS", " a ; b ;", "query_params", (b"a", b"b")),
        ("LOG_ISS_FIELD_PARAMS", "b;a", "field_params", (b"b", b"a")),
        ("MAX_BODY_BYTES", "1", "max_body_bytes", 1),
        ("MAX_BODY_BYTES", "12345", "max_body_bytes", 12_345),
        ("MAX_BODY_BYTES", "3 KiB", "max_body_bytes", 3 * KIB),
        ("MAX_BODY_BYTES", "256MiB", "max_body_bytes", 256 * MIB),
        ("MAX_INFLIGHT_BYTES", "2gib", "max_inflight_bytes", 2 * GIB),
        ("MAX_INFLIGHT_BYTES", "16MiB", "max_inflight_bytes", 16 * MIB),
        ("HTTP_CHANNEL", "fast", "http_channel", "fast"),
        ("HTTP_CHANNEL", "Stock", "http_channel", "stock"),
        ("DELIVERY", "sent", "delivery", "sent"),
        ("ADMIN_PORT", "9514", "admin_port", 9514),
        ("ADMIN_PORT", "", "admin_port", None),
        ("ADMIN_HOST", "::1", "admin_host", "::1"),
        ("CAPTURE_REFUSED", "/tmp", "capture_refused", "/tmp"),  # noqa: S108
        ("CAPTURE_REFUSED_MAX", "7", "capture_refused_max", 7),
        ("CAPTURE_REFUSED_BYTES", "1GiB", "capture_refused_bytes", GIB),
        ("DEDUPE_REDIS", "off", "dedupe_redis", False),
        ("DEDUPE_TIMEOUT", "20ms", "dedupe_timeout_seconds", 0.02),
        ("DEDUPE_PREFIX", "a:{b}", "dedupe_prefix", "a:{b}"),
        ("DEDUPE_PREFIX", "a" * 64, "dedupe_prefix", "a" * 64),
        ("DRAIN_DELAY", "0", "drain_delay_seconds", 0.0),
        ("DRAIN_DELAY", "0s", "drain_delay_seconds", 0.0),
        ("DRAIN_DELAY", "1m", "drain_delay_seconds", 60.0),
        ("WEB_CONCURRENCY", "3", "workers", 3),
        ("WEB_CONCURRENCY", "256", "workers", 256),
        ("WEB_CONCURRENCY", "Auto", "workers", 0),
        ("ENV_FILE", "/etc/logiss.env", "env_file", "/etc/logiss.env"),
        ("MAX_CONNECTIONS", "1", "max_connections", 1),
        ("MAX_CONNECTIONS", "1000000", "max_connections", 1_000_000),
        ("ON_TIMEOUT", "respond", "on_timeout", "respond"),
        ("ON_TIMEOUT", "Hangup", "on_timeout", "hangup"),
        ("PROXY_PROTOCOL", "0", "proxy_protocol", False),
        *(
            ("TRUSTED_PROXIES", text, "trusted_proxies", networks)
            for text, networks in (
                ("all", EVERYBODY),
                ("ALL", EVERYBODY),
                ("10.0.0.0/8", (IPv4Network("10.0.0.0/8"),)),
                ("192.0.2.7", (IPv4Network("192.0.2.7/32"),)),
                ("2001:DB8::/32", (IPv6Network("2001:db8::/32"),)),
                ("::1", (IPv6Network("::1/128"),)),
                ("::ffff:10.0.0.0/104", (IPv4Network("10.0.0.0/8"),)),
                ("::ffff:192.0.2.7", (IPv4Network("192.0.2.7/32"),)),
                ("0.0.0.0/0", (IPv4Network("0.0.0.0/0"),)),
                (
                    "10.0.0.0/8, ::1  192.0.2.7,",
                    (
                        IPv4Network("10.0.0.0/8"),
                        IPv6Network("::1/128"),
                        IPv4Network("192.0.2.7/32"),
                    ),
                ),
            )
        ),
        ("REQUEST_LOG", "all", "log_successes", True),
        ("REQUEST_LOG", "errors", "log_successes", False),
    ]

    def test_good(self) -> None:
        """Each variable sets its field, and no other."""
        defaults = self.read()
        for name, value, field, expected in self.good:
            with self.subTest((name, value)):
                settings = self.read(**{name: value})
                if isinstance(expected, Destination):
                    expected = (expected,)
                self.assertEqual(getattr(settings, field), expected)
                for other in fields(Settings):
                    if other.name != field:
                        self.assertEqual(
                            getattr(settings, other.name),
                            getattr(defaults, other.name),
                        )

    bad: list[tuple[str, list[str], str]] = [
        ("PORT", ["-1", "65536", "80.0", "http", "+80", "8_0", "٨٠", "1e3"], "65535"),
        (
            "FORWARD_DEST",
            [
                "localhost",
                "localhost:",
                ":5001",
                "localhost:port",
                "localhost:+1",
                "localhost:123456",
                "::1:5001",
                "[::1]",
                "[::1:5001",
                "http://a:1",
                "tcp://a:1",
                "a:1/",
                "a b:1",
                "-a:1",
                "a-:1",
                "a..b:1",
                ".a:1",
                "ä:1",
                "a" * 64 + ":1",
                "user@a:1",
                "a\nb:1",
            ],
            "host:port",
        ),
        ("FORWARD_DEST", ["a:0", "a:65536", "[::1]:0"], "from 1 to 65535"),
        ("FORWARD_DEST", ["[1.2.3.4]:5", "[::1::2]:5", "[1:2]:5"], "IPv6"),
        ("FORWARD_DEST", ["a:1,", ",a:1", "a:1,,b:1", "a:1;b:1"], "host:port"),
        ("FORWARD_DEST", ["http://a:1", "relps://a:1", "://a:1"], "relp+tls://"),
        ("FORWARD_DEST", ["relp://a", "relp://", "relp://relp://a:1"], "host:port"),
        ("FORWARD_DEST", ["a:1,relp://b:1"], "with RELP and without"),
        ("FORWARD_DEST", ["relp+tls://a:1"], "needs PEMFILE"),
        *(
            (name, ["ten", "-1", "+1", "1d", "1 m", "1s500", "1,5", "٣", "nan"], "10s")
            for name in ("FORWARD_DEST_CONNECT_TIMEOUT", "DELIVERY_TIMEOUT")
        ),
        *(
            (name, ["0", "0s", "999us", "24h1s", "9" * 400], "1ms to 24h")
            for name in ("FORWARD_DEST_CONNECT_TIMEOUT", "DELIVERY_TIMEOUT")
        ),
        ("FORWARD_COUNT", ["0", "-1", "1001", "four", "1.0", "1_0"], "1 to 1000"),
        ("TOKEN_MAP", ["ada", "ada:", ":s3cret", ":", "|"], "entry 1 must be user:"),
        ("TOKEN_MAP", ["a:b,c", "a:b,", "a:b|c,d"], "entry 2 must be user:token"),
        *(
            (name, ["2", "ja", "y", "-", "truee", "0.0"], "1/true/yes/on")
            for name in (
                "ENFORCE_SSL",
                "KEEP_STRUCTURED_DATA",
                "REQUIRE_MSG_COUNT",
                "PROXY_PROTOCOL",
            )
        ),
        ("METADATA_ID", ["a b", "a=b", 'a"', "a]", "ä", "m" * 33, "a\x7f"], "32 print"),
        ("METADATA_ID", ["origin"], "must not be 'origin'"),
        ("LOG_ISS_QUERY_PARAMS", ["a b", "a;b=c", "a;" + "b" * 33], "32 print"),
        ("LOG_ISS_FIELD_PARAMS", ["a]", "ä;b", "a\nb"], "32 print"),
        *(
            (name, ["0", "-1", "1.5", "16MB", "MiB", "1e6", "1_0", "٣"], "KiB, MiB")
            for name in ("MAX_BODY_BYTES", "MAX_INFLIGHT_BYTES")
        ),
        ("MAX_INFLIGHT_BYTES", ["1", "16777215"], "MAX_BODY_BYTES"),
        ("ADMIN_PORT", ["-1", "65536", "http"], "65535"),
        ("MAX_CONNECTIONS", ["0", "-1", "1000001", "1e4", "all"], "1 to 1000000"),
        ("ON_TIMEOUT", ["hang up", "1"], "'respond' or 'hangup'"),
        ("REQUEST_LOG", ["none", "error", "1"], "'all' or 'errors'"),
        ("DELIVERY", ["on", "acked,sent", "1"], "'sent' or 'acked'"),
        ("DELIVERY", ["relp"], "FORWARD_DEST=relp://host:port"),
        ("REPLAY_BYTES", ["-1", "1.5", "much", "1 TiB"], "bytes"),
        ("RELP_WINDOW", ["0", "1001", "1.5", "all"], "from 1 to 1000"),
        *(
            (name, ["1023", "1025KiB", "2MiB"], "from 1KiB to 1MiB")
            for name in ("MAX_REQUEST_LINE", "MAX_HEADER_BYTES")
        ),
        *(
            (
                name,
                ["0", "1000001", "-1", "1.5", "all", "1_0", "٣"],
                "from 1 to 1000000",
            )
            for name in (
                "MAX_HEADER_FIELDS",
                "MAX_FRAMES",
                "MAX_GZIP_MEMBERS",
                "MAX_GZIP_RATIO",
            )
        ),
        ("MAX_FRAME_BYTES", ["131073", "1MiB"], "at most 131072"),
        ("MAX_FRAME_BYTES", ["0", "big"], "KiB, MiB"),
        ("READ_AHEAD", ["-1", "some"], "KiB, MiB"),
        ("CAPTURE_REFUSED", ["/nowhere"], "there is no directory '/nowhere'; make it"),
        ("CAPTURE_REFUSED", ["/etc/passwd"], "is no directory; name one"),
        ("CAPTURE_REFUSED_MAX", ["0", "many"], "from 1 to 1000000"),
        ("CAPTURE_REFUSED_BYTES", ["0", "-1", "much"], "KiB, MiB"),
        ("DEDUPE_REDIS", ["2", "redis"], "must be 1/true/yes/on"),
        ("DEDUPE_TIMEOUT", ["0", "soon"], "must be"),
        ("DEDUPE_PREFIX", ["a b", "a" * 65, "ü"], "64 printable ASCII characters"),
        ("DRAIN_DELAY", ["-1", "soon"], "10s, 500ms or 1m"),
        ("DRAIN_DELAY", ["25h"], "from 1ms to 24h"),
        ("WEB_CONCURRENCY", ["0", "257", "-1", "all", "1.5"], "1 to 256, or auto"),
        (
            "TRUSTED_PROXIES",
            [
                ",",
                "proxy.example.com",
                "10.0.0.0/33",
                "10.0.0.0/255.0.0.0",
                "10.0.0.0/",
                "10.0.0",
                "10.0.0.256",
                "2001:db8::/129",
                "fe80::1%eth0",
                "[::1]",
                "10.0.0.1;10.0.0.2",
                "10.0.0.1 all",
                "٣.0.0.1",
            ],
            "must be 'all', or networks like",
        ),
        ("TRUSTED_PROXIES", ["10.0.0.1/8", "::1, 10.0.0.1/8"], "write 10.0.0.0/8"),
        (
            "REDIS_URL",
            [
                "a",
                "redis:",
                "redis://",
                "http://a",
                "unix:///a",
                "redis://a:b",
                "redis://a:1:2",
                "redis://a/x",
                "redis://a/1/2",
                "redis://a?db=1",
                "redis://a@b",
                "redis://a:b@c@d",
                "redis://a:b/c@d",
                "redis://[::1",
            ],
            "must be redis://[[user]:password@]host[:port][/database]",
        ),
        (
            "REDIS_URL",
            ["redis:// a", "redis://a b", "redis://ä", "redis://[1:2]"],
            "its host",
        ),
        ("REDIS_URL", ["redis://a:0", "redis://a:65536"], "from 1 to 65535"),
        ("REDIS_URL", ["redis://u:@a"], "a user without a password"),
        ("REDIS_URL", ["rediss://a_b"], "with '_'"),
        ("CREDENTIAL_REFRESH_INTERVAL", ["0", "999ms", "25h"], "24h"),
        ("ALLOW_EMPTY_CREDENTIALS", ["2", "empty"], "1/true/yes/on"),
    ]

    def test_bad(self) -> None:
        """Each mistake is one line that names the variable and says what to do."""
        for name, values, said in self.bad:
            for value in values:
                with self.subTest((name, value)):
                    self.assertIn(said, self.problem(name, value))

    def test_required(self) -> None:
        """What must be set and is not is said, with what to set it to."""
        for environ in ({}, dict.fromkeys(REQUIRED, ""), dict.fromkeys(REQUIRED, " ")):
            problems = self.problems(environ)
            self.assertEqual(
                {problem.partition(":")[0] for problem in problems}, set(REQUIRED)
            )
            for problem in problems:
                self.assertRegex(problem, "^[A-Z_]+: is not set; set it to ")

    def test_all_at_once(self) -> None:
        """Every mistake is said at once, each on a line of its own."""
        environ = {name: values[0] for name, values, _ in self.bad}
        environ["PEMFILE"] = "/nonexistent/pem"
        problems = self.problems(environ)
        self.assertEqual(
            sorted(problem.partition(":")[0] for problem in problems),
            sorted(
                {
                    *("DEPLOY", "PEMFILE", "HMAC_KEY", "REDIS_KEY"),
                    *(name for name, _, _ in self.bad),
                }
            ),
        )

    def test_body_larger_than_budget(self) -> None:
        """A body that never finds room is a mistake, whichever is set."""
        (problem,) = self.problems({**REQUIRED, "MAX_BODY_BYTES": "257MiB"})
        self.assertTrue(problem.startswith("MAX_INFLIGHT_BYTES: "), problem)
        self.assertIn("MAX_BODY_BYTES", problem)

    def test_admin_port_is_port(self) -> None:
        """The status page is not on the port for posts; 0 is no port yet."""
        (problem,) = self.problems({**REQUIRED, "ADMIN_PORT": REQUIRED["PORT"]})
        self.assertTrue(problem.startswith("ADMIN_PORT: is "), problem)
        self.assertEqual(self.read(PORT="0", ADMIN_PORT="0").admin_port, 0)

    def test_empty_is_not_set(self) -> None:
        """A variable that is set to nothing has its default."""
        names = {name for name, _, _ in self.bad} | {"PEMFILE", "HMAC_KEY", "REDIS_KEY"}
        empty = dict.fromkeys(names - set(REQUIRED), "")
        self.assertEqual(self.read(**empty), self.read())

    def test_delivery_level(self) -> None:
        """A destination with RELP says what 200 means, else DELIVERY does."""
        for environ, level in (
            ({}, "acked"),
            ({"DELIVERY": "sent"}, "sent"),
            ({"FORWARD_DEST": "relp://a:1"}, "relp"),
            ({"FORWARD_DEST": "relp://a:1", "DELIVERY": "sent"}, "relp"),
        ):
            self.assertEqual(self.read(**environ).delivery_level, level)

    def test_more_destinations_than_connections(self) -> None:
        """A destination without a connection is a mistake."""
        (problem,) = self.problems(
            {**REQUIRED, "FORWARD_DEST": "a:1,b:1", "FORWARD_COUNT": "1"}
        )
        self.assertTrue(problem.startswith("FORWARD_COUNT: is 1"), problem)

    def test_bad_network(self) -> None:
        """The one that is wrong is named."""
        problem = self.problem("TRUSTED_PROXIES", "10.0.0.0/8, 10.0.0.0/99, ::1")
        self.assertIn("not '10.0.0.0/99'", problem)

    def test_nobody_trusted_behind_proxy_protocol(self) -> None:
        """Behind PROXY headers nobody is trusted unless it is said who."""
        self.assertEqual(self.read(PROXY_PROTOCOL="1").trusted_proxies, ())
        for text, networks in (
            ("all", EVERYBODY),
            ("::1", (IPv6Network("::1/128"),)),
        ):
            settings = self.read(PROXY_PROTOCOL="on", TRUSTED_PROXIES=text)
            self.assertTrue(settings.proxy_protocol)
            self.assertEqual(settings.trusted_proxies, networks)
        self.assertEqual(Settings("local", proxy_protocol=True).trusted_proxies, ())
        self.assertEqual(Settings("local").trusted_proxies, EVERYBODY)

    def test_ssl_behind_proxy_protocol(self) -> None:
        """To ask for HTTPS and believe nobody is a mistake, with what to do."""
        both = {"PROXY_PROTOCOL": "1", "ENFORCE_SSL": "1"}
        for unset in ({}, {"TRUSTED_PROXIES": ""}, {"TRUSTED_PROXIES": " "}):
            (problem,) = self.problems({**REQUIRED, **both, **unset})
            self.assertTrue(problem.startswith("ENFORCE_SSL: "), problem)
            self.assertIn("set TRUSTED_PROXIES or unset ENFORCE_SSL", problem)
        (problem,) = self.problems({**REQUIRED, **both, "TRUSTED_PROXIES": "x"})
        self.assertTrue(problem.startswith("TRUSTED_PROXIES: "), problem)
        for text in ("all", "10.0.0.0/8"):
            self.assertTrue(self.read(**both, TRUSTED_PROXIES=text).enforce_ssl)
        self.read(PROXY_PROTOCOL="1", ENFORCE_SSL="0")
        self.read(PROXY_PROTOCOL="0", ENFORCE_SSL="1")

    def test_others_ignored(self) -> None:
        """Variables of others do not matter."""
        self.assertEqual(self.read(PATH="/bin", HOME="/"), self.read())

    def test_frozen(self) -> None:
        """Settings do not change."""
        settings = self.read()
        for field in fields(Settings):
            with self.assertRaises(FrozenInstanceError):
                setattr(settings, field.name, None)
        (destination,) = settings.forward_dest
        for name in ("host", "port", "scheme"):
            with self.assertRaises(FrozenInstanceError):
                setattr(destination, name, None)
        hash(settings)

    def test_destination_as_text(self) -> None:
        """A destination is shown as it is set."""
        for text in ("a.b:1", "[::1]:2", "10.0.0.1:3", "relp://[::1]:4"):
            (destination,) = self.read(FORWARD_DEST=text).forward_dest
            self.assertEqual(str(destination), text)


class WhatIsRightTests(ReadTestCase):
    """A parent that has taken over reads what there is."""

    def test_gone(self) -> None:
        """A mistake is told, and counts as not set; all else is as it is set."""
        environ = {
            **REQUIRED,
            "DEPLOY": "kept",
            "PEMFILE": "/nowhere/cert.pem",
            "CAPTURE_REFUSED": "/nowhere/folder",
        }
        found, problems = read_what_is_right(environ)
        with self.assertRaises(SettingsError) as caught:
            read(environ)
        self.assertEqual(problems, caught.exception.problems)
        names = {problem.partition(":")[0] for problem in problems}
        self.assertEqual(names, {"PEMFILE", "CAPTURE_REFUSED"})
        self.assertEqual(found.deploy, "kept")
        self.assertEqual(read_what_is_right(REQUIRED), (read(REQUIRED), []))

    def test_nothing(self) -> None:
        """There are always some."""
        found, problems = read_what_is_right({})
        self.assertEqual(found.port, 0)
        self.assertTrue(problems)


class EffectiveTests(ReadTestCase):
    """An operator can see what counts, and who has said so."""

    def shown(self, **variables: str) -> dict[str, tuple[str, str]]:
        return {e.name: (e.text, e.source) for e in effective(variables)}

    def test_all(self) -> None:
        """Each variable is there, in the order of the settings."""
        self.assertEqual(
            [e.name for e in effective({})], [v.name for v in VARIABLES.values()]
        )
        self.assertEqual(list(VARIABLES), [field.name for field in fields(Settings)])

    def test_sources(self) -> None:
        """What is set, what is not and has a default, and what is not."""
        shown = self.shown(PORT=" 5000 ", DELIVERY_TIMEOUT="", ADMIN_HOST="::1")
        self.assertEqual(shown["PORT"], ("5000", "environment"))
        self.assertEqual(shown["ADMIN_HOST"], ("::1", "environment"))
        self.assertEqual(shown["DELIVERY_TIMEOUT"], ("5", "default"))
        self.assertEqual(shown["METADATA_ID"], ("", ""))

    def test_defaults(self) -> None:
        """The defaults that are shown are those that count."""
        shown = {n: t for n, (t, source) in self.shown().items() if source == "default"}
        self.assertEqual(self.read(**shown), self.read())
        self.assertGreater(len(shown), 25)

    def test_secrets(self) -> None:
        """Users are shown, tokens, keys and passwords are not."""
        shown = self.shown(
            TOKEN_MAP="ada:hunter2,bob:swordfish",
            HMAC_KEY="opensesame",
            REDIS_URL="rediss://app:hunter2@[2001:db8::7]/2",
        )
        self.assertEqual(shown["TOKEN_MAP"][0], f"ada:{MASK},bob:{MASK}")
        self.assertEqual(shown["HMAC_KEY"][0], MASK)
        self.assertEqual(
            shown["REDIS_URL"][0], f"rediss://app:{MASK}@[2001:db8::7]:6379/2"
        )

    def test_wrong_secrets(self) -> None:
        """Of what cannot be read nothing is shown."""
        shown = self.shown(TOKEN_MAP="hunter2", REDIS_URL="redis:swordfish@nowhere")
        self.assertEqual(shown["TOKEN_MAP"][0], MASK)
        self.assertEqual(shown["REDIS_URL"][0], MASK)

    def test_without_password(self) -> None:
        """A Redis without a password is shown as it is."""
        shown = self.shown(REDIS_URL="redis://cache.example.com")
        self.assertEqual(shown["REDIS_URL"][0], "redis://cache.example.com:6379/0")


class SecretsTests(ReadTestCase):
    """No secret is ever shown."""

    secrets = ("hunter2", "swordfish", "opensesame")

    def assert_none_in(self, text: str) -> None:
        for secret in self.secrets:
            self.assertNotIn(secret, text)

    def test_repr(self) -> None:
        """Settings show that there are secrets, not which."""
        settings = self.read(TOKEN_MAP="a:hunter2,b:swordfish", HMAC_KEY="opensesame")
        self.assert_none_in(repr(settings))
        self.assertIn(f"tokens={MASK}", repr(settings))
        self.assertIn(f"hmac_key={MASK}", repr(settings))

    def test_redis_repr(self) -> None:
        """Settings show where Redis is, and that there is a password."""
        settings = self.read(
            REDIS_URL="redis://app:hunter2@cache.example.com", **REQUIRED_BY_REDIS
        )
        self.assert_none_in(repr(settings))
        self.assertIn(
            "RedisURL(host='cache.example.com', port=6379, database=0,"
            f" user='app', password={MASK}, tls=False)",
            repr(settings),
        )

    def test_mistakes(self) -> None:
        """What is said of a mistake does not repeat a secret."""
        for name, value in [
            ("TOKEN_MAP", "hunter2"),
            ("TOKEN_MAP", "a:hunter2,swordfish"),
            ("TOKEN_MAP", "a:hunter2|swordfish:|b:opensesame"),
            ("TOKEN_MAP", ":hunter2"),
            ("REDIS_URL", "hunter2"),
            ("REDIS_URL", "redis://hunter2@host"),
            ("REDIS_URL", "redis://a:hunter2@host:port"),
            ("REDIS_URL", "redis://a:hunter2@host:0"),
            ("REDIS_URL", "redis://a:hun/ter2hunter2@host"),
            ("REDIS_URL", "redis://hunter2:@host"),
            ("REDIS_URL", "rediss://a:hunter2@swordfish_"),
        ]:
            with self.subTest((name, value)):
                self.assert_none_in(self.problem(name, value))

    def test_mistakes_elsewhere(self) -> None:
        """Mistakes in other variables do not bring secrets up."""
        environ = {
            "TOKEN_MAP": "a:hunter2",
            "HMAC_KEY": "opensesame",
            "REDIS_URL": "redis://:swordfish@host",
            "REDIS_KEY": "users",
            "PORT": "x",
        }
        for problem in self.problems(environ):
            self.assert_none_in(problem)

    def test_not_utf8(self) -> None:
        """Secrets that are not UTF-8 are refused with a line, or can be used."""
        # os.environ decodes with surrogateescape, so this is the byte 0xff.
        for name, value in [("TOKEN_MAP", "ada:hunter\udcff"), ("HMAC_KEY", "k\udcff")]:
            with self.subTest(name):
                try:
                    settings = self.read(**{name: value})
                except SettingsError as e:
                    self.assertNotIn("udcff", str(e))
                    self.assertIn("UTF-8", str(e))
                else:
                    Credentials.from_tokens(settings.hmac_key or b"k", settings.tokens)


class RedisTests(ReadTestCase):
    """REDIS_URL says where the credentials are, and brings others with it."""

    def url(self, text: str) -> RedisURL:
        settings = self.read(REDIS_URL=text, **REQUIRED_BY_REDIS)
        assert settings.redis_url is not None
        self.assertEqual(
            read_redis({"REDIS_URL": text, "REDIS_KEY": "users"}),
            (settings.redis_url, "users"),
        )
        return settings.redis_url

    def test_urls(self) -> None:
        """Host, port, database, user and password are taken apart."""
        for text, expected in [
            ("redis://a", RedisURL("a", 6379, 0, "", "", False)),
            ("REDISS://a.b", RedisURL("a.b", 6379, 0, "", "", True)),
            ("redis://a:1/", RedisURL("a", 1)),
            ("redis://a_b/15", RedisURL("a_b", 6379, 15)),
            ("redis://[::1]:7", RedisURL("::1", 7)),
            ("redis://127.0.0.1/2", RedisURL("127.0.0.1", 6379, 2)),
            ("redis://:p@a", RedisURL("a", password="p")),
            ("redis://u:p@a", RedisURL("a", user="u", password="p")),
            ("redis://u%3a:p%40%2Fä@a", RedisURL("a", user="u:", password="p@/ä")),
        ]:
            with self.subTest(text):
                self.assertEqual(self.url(text), expected)

    def test_needs(self) -> None:
        """It needs the hash and the key of its digests, but no TOKEN_MAP."""
        environ = {**REQUIRED, "REDIS_URL": "redis://a"}
        self.assertEqual(
            [p.partition(":")[0] for p in self.problems(environ)],
            ["HMAC_KEY", "REDIS_KEY"],
        )
        del environ["TOKEN_MAP"]
        self.assertEqual(read({**environ, **REQUIRED_BY_REDIS}).tokens, ())

    def test_for_dedupe_alone(self) -> None:
        """
        With DEDUPE_REDIS it needs neither when TOKEN_MAP has the credentials; both,
        when Redis has some.
        """
        self.assertIn("needs REDIS_URL", self.problem("DEDUPE_REDIS", "1"))
        environ = {**REQUIRED, "REDIS_URL": "redis://a", "DEDUPE_REDIS": "on"}
        settings = read(environ)
        self.assertTrue(settings.dedupe_redis)
        self.assertEqual(settings.redis_url, RedisURL("a"))
        self.assertIsNone(settings.credentials_url)
        settings = read({**environ, **REQUIRED_BY_REDIS})
        self.assertEqual(settings.credentials_url, RedisURL("a"))
        for name, value, missed in [
            ("DEDUPE_REDIS", "0", ["HMAC_KEY", "REDIS_KEY"]),
            ("TOKEN_MAP", "", ["HMAC_KEY", "REDIS_KEY"]),
            ("REDIS_KEY", "users", ["HMAC_KEY"]),
            ("DEDUPE_REDIS", "maybe", ["HMAC_KEY", "REDIS_KEY", "DEDUPE_REDIS"]),
            ("REDIS_URL", "oops", ["REDIS_URL"]),
        ]:
            with self.subTest((name, value)):
                problems = self.problems({**environ, name: value})
                self.assertEqual([p.partition(":")[0] for p in problems], missed)

    def test_dedupe_leaves_time(self) -> None:
        """What may take so long that no time is left to deliver is refused."""
        environ = {**REQUIRED, "REDIS_URL": "redis://a", "DEDUPE_TIMEOUT": "1.3"}
        read({**REQUIRED, "DEDUPE_TIMEOUT": "1.3"})
        environ["DEDUPE_REDIS"] = "1"
        (problem,) = self.problems(environ)
        self.assertIn("a quarter of DELIVERY_TIMEOUT (1.25 s)", problem)
        read({**environ, "DEDUPE_TIMEOUT": "1.25"})

    def test_tools(self) -> None:
        """The tools are told what they miss, and nothing of the rest."""
        with self.assertRaises(SettingsError) as caught:
            read_redis({"REDIS_URL": "redis://:hunter2@a/b"})
        first, second = caught.exception.problems
        self.assertTrue(first.startswith("REDIS_URL: must be"), first)
        self.assertTrue(second.startswith("REDIS_KEY: is not set"), second)
        self.assertNotIn("hunter2", first)
        self.assertEqual(read_hmac_key({"HMAC_KEY": " k "}), b"k")
        with self.assertRaises(SettingsError) as caught:
            read_hmac_key({})
        self.assertIn("HMAC_KEY: is not set", str(caught.exception))


class PEMFileTests(ReadTestCase):
    """PEMFILE says whom to trust, and who we are if it has a key."""

    root = trustme.CA()
    middle = root.create_child_ca()
    leaf = middle.issue_cert("logiss.example.com")
    leaf_pem, middle_pem = (pem.bytes() for pem in leaf.cert_chain_pems[:2])
    key_pem = leaf.private_key_pem.bytes()
    root_pem = root.cert_pem.bytes()
    other_pem = trustme.CA().cert_pem.bytes()

    def write(self, *blocks: bytes) -> str:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "backend.pem"
        path.write_bytes(b"".join(blocks))
        return str(path)

    def pem(self, *blocks: bytes) -> BackendPEM:
        pem = self.read(PEMFILE=self.write(*blocks)).pem
        assert pem is not None
        return pem

    def refusal(self, *blocks: bytes) -> str:
        """What is said; it names the file and repeats no line of its key."""
        path = self.write(*blocks)
        problem = self.problem("PEMFILE", path)
        self.assertIn(path, problem)
        for line in self.key_pem.decode().splitlines()[1:-1]:
            self.assertNotIn(line, problem)
        return problem

    def test_one_authority(self) -> None:
        """A certificate alone is whom to trust."""
        path = self.write(self.root_pem)
        self.assertEqual(
            self.read(PEMFILE=path).pem, BackendPEM(path, (self.root_pem,))
        )

    def test_bundle(self) -> None:
        """Each certificate of a bundle is trusted, with text around them."""
        pem = self.pem(b"# ours\n", self.root_pem, b"\ntheirs\n", self.other_pem, b"#")
        self.assertEqual(pem.authorities, (self.root_pem, self.other_pem))
        self.assertIsNone(pem.certificate)
        self.assertIsNone(pem.private_key)

    def test_key_and_certificate(self) -> None:
        """A key and the certificate that it fits are ours, wherever they stand."""
        for blocks in (
            (self.root_pem, self.key_pem, self.leaf_pem),
            (self.key_pem, self.leaf_pem, self.root_pem),
            (self.leaf_pem, self.root_pem, self.key_pem),
        ):
            pem = self.pem(*blocks)
            self.assertEqual(pem.certificate, self.leaf_pem)
            self.assertEqual(pem.private_key, self.key_pem)
            self.assertEqual(pem.chain, ())
            self.assertEqual(
                pem.authorities, tuple(b for b in blocks if b != self.key_pem)
            )

    def test_chain(self) -> None:
        """What leads from ours to its root is the chain, without the root."""
        second = self.middle.create_child_ca()
        leaf = second.issue_cert("logiss.example.com")
        leaf_pem, second_pem, middle_pem = (p.bytes() for p in leaf.cert_chain_pems)
        self.assertEqual(middle_pem, self.middle_pem)
        for blocks in (
            [leaf_pem, second_pem, middle_pem, self.root_pem],
            [self.root_pem, self.other_pem, middle_pem, leaf_pem, second_pem],
            [second_pem, leaf_pem, middle_pem],
        ):
            pem = self.pem(leaf.private_key_pem.bytes(), *blocks)
            self.assertEqual(pem.certificate, leaf_pem)
            self.assertEqual(pem.chain, (second_pem, middle_pem))
            self.assertEqual(pem.authorities, tuple(blocks))

    def test_key_formats(self) -> None:
        """A key may be PKCS#8 as well."""
        pkcs8 = load_pem_private_key(self.key_pem, None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        self.assertIn(b"BEGIN PRIVATE KEY", pkcs8)
        self.assertEqual(self.pem(self.leaf_pem, pkcs8).private_key, pkcs8)

    def test_unreadable(self) -> None:
        """A file that cannot be read is said, and why."""
        problem = self.problem("PEMFILE", "/nonexistent/backend.pem")
        self.assertIn("cannot read '/nonexistent/backend.pem'", problem)
        self.assertIn("No such file", problem)
        folder = str(Path(self.write(b"")).parent)
        self.assertIn("Is a directory", self.problem("PEMFILE", folder))

    def test_no_certificate(self) -> None:
        """A file without a certificate is of no use."""
        for blocks in ([], [b"hello\n"], [self.key_pem], [b"\xff\x00" * 50]):
            self.assertIn("no certificate", self.refusal(*blocks))

    def test_garbage_certificate(self) -> None:
        """The certificate that cannot be read is named by its place."""
        for content in (b"bm8=", b"!!!!", b""):
            garbage = (
                b"-----BEGIN CERTIFICATE-----\n"
                + content
                + b"\n-----END CERTIFICATE-----\n"
            )
            self.assertIn("certificate 2 ", self.refusal(self.root_pem, garbage))

    def test_key_that_fits_none(self) -> None:
        """A key without its certificate is a mistake."""
        self.assertIn("fits", self.refusal(self.root_pem, self.key_pem))

    def test_two_keys(self) -> None:
        """Of two keys one must go."""
        self.assertIn(
            "2 private keys",
            self.refusal(self.leaf_pem, self.key_pem, self.key_pem),
        )

    def test_encrypted_key(self) -> None:
        """A key that asks for a passphrase cannot be used."""
        key = load_pem_private_key(self.key_pem, None)
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            encrypted = key.private_bytes(
                Encoding.PEM, form, BestAvailableEncryption(b"x")
            )
            self.assertIn("encrypted", self.refusal(self.leaf_pem, encrypted))

    def test_garbage_key(self) -> None:
        """A key that cannot be read is said."""
        for label in (b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY"):
            garbage = b"-----BEGIN %b-----\nbm8=\n-----END %b-----\n" % (label, label)
            self.assertIn("cannot be read", self.refusal(self.leaf_pem, garbage))

    def test_unknown_kind_of_key(self) -> None:
        """A key of a kind that is not known is said."""
        # PKCS#8 with the algorithm 1.2.3.4
        unknown = bytes.fromhex("300f020100300506032a03040403616263")
        garbage = (
            b"-----BEGIN PRIVATE KEY-----\n"
            + encodebytes(unknown)
            + b"-----END PRIVATE KEY-----\n"
        )
        self.refusal(self.leaf_pem, garbage)

    def test_key_not_shown(self) -> None:
        """Neither the settings nor their description show the key."""
        settings = self.read(
            PEMFILE=self.write(self.leaf_pem, self.middle_pem, self.key_pem)
        )
        for text in (
            repr(settings),
            str(settings),
            repr(settings.pem),
        ):
            self.assertNotIn("PRIVATE KEY", text)
            for line in self.key_pem.decode().splitlines()[1:-1]:
                self.assertNotIn(line, text)
            self.assertIn("authorities=<2>", text)
