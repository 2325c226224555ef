"""The configuration of HAProxy, held against the code and against HAProxy itself."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import trustme
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from logiss import settings
from logiss.settings import VARIABLES
from tests.fleet import balancer
from tests.fleet.balancer import DEPLOYED, SERVERS, seconds_of, unseen_seconds

ROOT = DEPLOYED.parent.parent
SCRIPT = DEPLOYED / "rolling-restart.sh"
RIGHT = {
    "DEPLOY": "fleet",
    "PORT": "5000",
    "FORWARD_DEST": "syslog.example.com:601",
    "TOKEN_MAP": "user:token",
}
#: What HAProxy keeps free of a buffer for headers that it adds (tune.maxrewrite).
MAX_REWRITE = 1024
#: A usual large post of a drain.
POST_BYTES = 100 * 1024
#: After which logplex and log-shuttle give up.
SENDER_SECONDS = 5.0
#: What an answer may take beyond the delivery timeout.
GRACE_SECONDS = 1.0

TEXT = balancer.deployed()
#: What HAProxy reads of it.
LINES = [
    stripped
    for line in TEXT.splitlines()
    if (stripped := line.strip()) and not stripped.startswith("#")
]


def whole(name: str) -> int:
    """The number behind `name`, where it is set first."""
    for line in LINES:
        found = re.search(rf"\b{re.escape(name)} (\d+)\b", line)
        if found is not None:
            return int(found[1])
    raise AssertionError(f"haproxy.cfg has no {name!r}")


def section(title: str) -> list[str]:
    """The lines of a section."""
    titles = ("global", "defaults", "frontend ", "backend ")
    begin = LINES.index(title) + 1
    rest = LINES[begin:]
    ends = [i for i, line in enumerate(rest) if line.startswith(titles)]
    return rest[: ends[0]] if ends else rest


def asked_for() -> dict[str, str]:
    """The variables that its first comment asks for."""
    first = TEXT.split("\n\n", 1)[0]
    return dict(re.findall(r"^# +([A-Z_]+)=(\S+)", first, re.MULTILINE))


class ConfigurationTests(SynchronousTestCase):
    """Its numbers fit those of logiss."""

    def test_drain_delay(self) -> None:
        """
        The DRAIN_DELAY that it asks for is longer than HAProxy may go on to send posts
        to a server that drains, and the sum in its comment is that.
        """
        unseen = unseen_seconds(TEXT)
        self.assertIn(f"=  {unseen:g} s\n", TEXT)
        self.assertGreater(float(asked_for()["DRAIN_DELAY"]), unseen)

    def test_variables(self) -> None:
        """What it asks for is there and is accepted."""
        asked = {
            name: "192.0.2.1" if value == "..." else value
            for name, value in asked_for().items()
        }
        self.assertEqual(
            set(asked), {"DRAIN_DELAY", "TRUSTED_PROXIES", "DELIVERY_TIMEOUT"}
        )
        settings.read({**RIGHT, **asked})
        known = {variable.name for variable in VARIABLES.values()}
        named = set(re.findall(r"\b[A-Z]{3,}(?:_[A-Z]+)+\b", TEXT))
        self.assertEqual(named - known, set())

    def test_gateway_timeout(self) -> None:
        """A 504 is logiss's own, by default as with what is asked for."""
        server = seconds_of(TEXT, "timeout server")
        by_default = settings.read(RIGHT).delivery_timeout_seconds
        asked = float(asked_for()["DELIVERY_TIMEOUT"])
        self.assertGreaterEqual(server, max(by_default, asked) + GRACE_SECONDS)

    def test_queue(self) -> None:
        """
        A post waits in HAProxy no shorter than it would in logiss, and is answered
        before its sender gives up.
        """
        queue = seconds_of(TEXT, "timeout queue")
        self.assertEqual(queue, float(asked_for()["DELIVERY_TIMEOUT"]))
        self.assertLess(queue, SENDER_SECONDS)

    def test_stats_have_room(self) -> None:
        """All clients together leave connections for those who ask the stats."""
        (posts,) = [s for s in section("frontend posts") if s.startswith("maxconn ")]
        self.assertLess(int(posts.split()[1]), whole("maxconn"))

    def test_deadlines(self) -> None:
        """Clients have the time that logiss gives them, and connections are kept."""
        ours = settings.read(RIGHT)
        keepalive = ours.keepalive_timeout_seconds
        self.assertEqual(seconds_of(TEXT, "timeout http-keep-alive"), keepalive)
        header = ours.header_timeout_seconds
        self.assertEqual(seconds_of(TEXT, "timeout http-request"), header)
        body = ours.body_timeout_seconds
        self.assertEqual(seconds_of(TEXT, "timeout client"), body)

    def test_sizes(self) -> None:
        """The largest headers fit into a buffer, and all posts into the memory."""
        ours = settings.read(RIGHT)
        room = whole("tune.bufsize") - 2 * MAX_REWRITE
        self.assertGreaterEqual(
            room, ours.max_request_line_bytes + ours.max_header_bytes
        )
        self.assertLessEqual(whole("maxconn"), ours.max_connections)
        (servers,) = [line for line in LINES if line.startswith("default-server ")]
        found = re.search(r"\bmaxconn (\d+)", servers)
        assert found is not None
        self.assertLessEqual(int(found[1]) * POST_BYTES, ours.max_inflight_bytes)

    def test_backends(self) -> None:
        """Both have the same servers, and ask for paths that there are."""
        ready, up = section("backend ready"), section("backend up")
        self.assertEqual(
            [s for s in ready if "uri" not in s], [s for s in up if "uri" not in s]
        )
        names = [line.split()[1] for line in ready if line.startswith("server ")]
        self.assertEqual(tuple(names), SERVERS)
        health = (ROOT / "logiss" / "health.py").read_text()
        for lines, path in ((ready, "ready"), (up, "health")):
            self.assertTrue(any(f"uri /{path} " in line for line in lines))
            self.assertIn(f'putChild(b"{path}"', health)

    def test_tried_again(self) -> None:
        """
        Another attempt goes elsewhere, is never made for what a slow backend causes,
        and no post is cut off when its server drains.
        """
        (again,) = [line for line in LINES if line.startswith("retry-on ")]
        self.assertEqual(
            set(again.split()[1:]), {"conn-failure", "empty-response", "503"}
        )
        self.assertIn("option redispatch 1", LINES)
        self.assertNotIn("shutdown-sessions", " ".join(LINES))
        self.assertNotIn("option http-buffer-request", LINES)

    def test_is_valid(self) -> None:
        """HAProxy takes it without a warning, with TLS as well."""
        try:
            program = balancer.program()
        except balancer.Missing as e:
            if os.environ.get("CI"):
                raise AssertionError(str(e)) from None
            raise SkipTest(str(e)) from None
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        for name, text in (("plain", TEXT), ("tls", self._with_tls(folder))):
            path = folder / f"{name}.cfg"
            path.write_text(text)
            # -dW makes a warning an error.
            done = subprocess.run(
                [program, "-dW", "-c", "-f", path],
                capture_output=True,
                text=True,
                timeout=60,
            )
            said = done.stdout + done.stderr
            self.assertEqual((done.returncode, "WARNING" in said), (0, False), said)

    @staticmethod
    def _with_tls(folder: Path) -> str:
        key = folder / "logs.pem"
        issued = trustme.CA().issue_cert("logs.example.com")
        issued.private_key_and_cert_chain_pem.write_to_path(key)
        return balancer.substituted(
            TEXT, {"#bind": "bind", "/etc/haproxy/logs.example.com.pem": str(key)}
        )


class ScriptTests(SynchronousTestCase):
    """The script is one."""

    def test_runs(self) -> None:
        """It can be run, and says what it takes when it is given nothing."""
        done = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=10)
        self.assertEqual(
            (done.returncode, done.stderr),
            (1, "rolling-restart: give a command, and the servers behind it\n"),
        )

    def _restarted(
        self, *seen: str | None, server: str = SERVERS[0], patience: str = "1"
    ) -> list[str]:
        """
        What it says of a server that is restarted.

        @param seen: the answers to its looks, in order, the last again and again; None
            is none.
        """
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        for number, one in enumerate(seen):
            if one is not None:
                table = f"# pxname,svname,chkdown,status\nready,{SERVERS[0]},{one}\n"
                (folder / str(number)).write_text(table)
        curl = folder / "curl"
        curl.write_text(
            "#!/bin/sh\n"
            f"cd {folder}; read -r n < next\n"
            f"[ $n = {len(seen) - 1} ] || echo $((n + 1)) > next\n"
            "cat $n 2> /dev/null || exit 7\n"
        )
        curl.chmod(0o755)
        (folder / "next").write_text("0\n")
        done = subprocess.run(
            [SCRIPT, "true", server],
            env={"PATH": f"{folder}:{os.environ['PATH']}", "PATIENCE": patience},
            capture_output=True,
            text=True,
            timeout=30,
        )
        return (done.stdout + done.stderr).splitlines()

    def test_recovered(self) -> None:
        """
        A server of which one check had failed when it was told to restart has not
        been restarted because that check has recovered.
        """
        said = self._restarted("0,UP 2/3", "0,UP 2/3", "0,UP")
        self.assertEqual(said[0], "logiss-1: restarting")
        self.assertIn("logiss-1: did not go down for HAProxy", said[1])
        gone = ("0,UP 1/3", "0,DOWN", "1,DOWN", "1,DOWN 1/2", "1,UP")
        said = self._restarted("0,UP 2/3", "0,UP 2/3", *gone, patience="30")
        self.assertEqual(said, ["logiss-1: restarting", "logiss-1: takes posts"])

    def test_no_answer(self) -> None:
        """
        HAProxy that does not answer is not one that does not know the server, and one
        look in vain is none of a server that is away.
        """
        silent = "rolling-restart: HAProxy does not answer at http://127.0.0.1:8404;"
        for seen in ((None,), ("0,UP", None), ("0,UP", "0,UP", None)):
            self.assertIn(silent, self._restarted(*seen)[-1])
        said = self._restarted("0,UP", server="logiss-9")
        self.assertIn("logiss-9: HAProxy knows no such server in ready", said[0])
        said = self._restarted(
            "0,UP", "0,UP", None, "1,DOWN", None, "1,UP", patience="30"
        )
        self.assertEqual(said, ["logiss-1: restarting", "logiss-1: takes posts"])

    def test_variables(self) -> None:
        """Its comment has the defaults that it takes, and the stats are there."""
        text = SCRIPT.read_text()
        for name, default in re.findall(r"=\$\{([A-Z]+):-([^}]+)\}", text):
            self.assertRegex(text, rf"# {name} .*\({re.escape(default)}\)\n")
        self.assertIn("bind 127.0.0.1:8404", section("frontend stats"))
