"""``logiss check`` without a network: what it shows and what it finds."""

import os
import resource
import sys
import tempfile
from io import StringIO

from twisted.trial.unittest import SynchronousTestCase

from logiss.__main__ import main
from logiss.preflight import Result
from logiss.reference import ENTRIES
from logiss.tools import check

ENVIRON = {
    "DEPLOY": "eu-1",
    "PORT": "5000",
    "FORWARD_DEST": "syslog.example.com:601",
    "TOKEN_MAP": "app:hunter2",
    "DELIVERY_TIMEOUT": "4.5",
}


class CheckTests(SynchronousTestCase):
    """It says what counts, and all that is wrong with it."""

    def check(self, *options: str, **variables: str) -> tuple[int, list[str]]:
        """Its exit code and its lines."""
        said = StringIO()
        self.patch(os, "environ", {**ENVIRON, **variables})
        self.patch(sys, "stdout", said)
        code = main(["check", "--offline", *options])
        return code, said.getvalue().splitlines()

    def findings(self, **variables: str) -> tuple[int, list[str]]:
        """All but what is always there."""
        code, lines = self.check("--brief", **variables)
        always = "note: FORWARD_DEST: was not tried, as --offline says"
        return code, [line for line in lines if line != always]

    def test_variables(self) -> None:
        """Each variable has its line, in the order of the reference."""
        code, lines = self.check()
        self.assertEqual(code, 0)
        shown = lines[: lines.index("")]
        names = [line.removeprefix("# ").split("=")[0].split(" ")[0] for line in shown]
        self.assertEqual(names, [entry.name for entry in ENTRIES])

    def test_sources(self) -> None:
        """Each line says where its value comes from."""
        _, lines = self.check("--http", "stock", METADATA_ID="a@1 b", ADMIN_HOST="")
        shown = {tuple(part.strip() for part in line.split("  # ")) for line in lines}
        self.assertIn(("DEPLOY=eu-1", "environment"), shown)
        self.assertIn(("METADATA_ID='a@1 b'", "environment"), shown)
        self.assertIn(("ADMIN_HOST=127.0.0.1", "default"), shown)
        self.assertIn(("HTTP_CHANNEL=stock", "--http"), shown)
        self.assertIn(("# REDIS_URL", "not set"), shown)

    def file(self, text: str, mode: int = 0o600) -> str:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "logiss.env")
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def test_file(self) -> None:
        """What stands in the file counts, as at the start, and is said to be there."""
        path = self.file("DEPLOY=us-1\nHTTP_CHANNEL=fast\nADMIN_HOST=\nPORT=80000\n")
        code, lines = self.check("--http", "stock", ENV_FILE=path)
        shown = {tuple(part.strip() for part in line.split("  # ")) for line in lines}
        self.assertIn(("DEPLOY=us-1", "file"), shown)
        self.assertIn((f"ENV_FILE={path}", "environment"), shown)
        self.assertIn(("ADMIN_HOST=127.0.0.1", "default"), shown)
        self.assertIn(("HTTP_CHANNEL=stock", "--http"), shown)
        self.assertEqual(code, 1)
        self.assertIn(
            "error: PORT: must be a port number from 0 to 65535, not '80000'", lines
        )

    def test_wrong_file(self) -> None:
        """One that cannot be read is an error, and the rest is checked all the same."""
        path = self.file("hunter2")
        self.assertEqual(
            self.findings(ENV_FILE=path, FORWARD_COUNT="0"),
            (
                1,
                [
                    f"error: ENV_FILE: line 1 of {path!r} is no NAME=value; mend it, or"
                    " put a # in front of a comment",
                    "error: FORWARD_COUNT: must be a whole number from 1 to 1000, not"
                    " '0'",
                ],
            ),
        )

    def test_exposed_file(self) -> None:
        """One that everybody may read or write is a warning."""
        for mode in (0o604, 0o602, 0o666):
            path = self.file("TOKEN_MAP=a:b", mode)
            code, (line,) = self.findings(ENV_FILE=path)
            self.assertEqual(code, 0)
            self.assertEqual(
                line,
                f"warning: ENV_FILE: everybody on this machine may read or write"
                f" {path!r}; take that away with chmod o-rw, since there are secrets in"
                " it",
            )
        self.assertEqual(self.findings(ENV_FILE=self.file("", 0o660)), (0, []))

    def test_secrets(self) -> None:
        """No line has a secret in it, right or wrong."""
        for variables in (
            {"TOKEN_MAP": "app:hunter2"},
            {"TOKEN_MAP": "hunter2"},
            {"REDIS_URL": "redis://:hunter2@cache", "HMAC_KEY": "hunter2"},
            {"REDIS_URL": "hunter2"},
        ):
            _, lines = self.check(**variables)
            self.assertNotIn("hunter2", "\n".join(lines))
            self.assertIn("********", "\n".join(lines))

    def test_good(self) -> None:
        """There is nothing to say, and the exit code is 0."""
        self.assertEqual(self.findings(), (0, []))

    def test_mistakes(self) -> None:
        """Each mistake is an error on a line of its own, as the start has it."""
        code, lines = self.findings(PORT="80000", FORWARD_COUNT="0", HTTP_CHANNEL="x")
        self.assertEqual(code, 1)
        self.assertEqual(
            lines,
            [
                "error: PORT: must be a port number from 0 to 65535, not '80000'",
                "error: FORWARD_COUNT: must be a whole number from 1 to 1000, not '0'",
                "error: HTTP_CHANNEL: must be 'fast' or 'stock', not 'x'",
            ],
        )

    def test_misspelt(self) -> None:
        """A variable that was meant to be one of ours is named."""
        self.assertEqual(
            self.findings(DELIVERY_TIME_OUT="3", DELIVERY_TIMEOUT="", HOME="/"),
            (
                0,
                [
                    "warning: DELIVERY_TIME_OUT: is not read; if DELIVERY_TIMEOUT is"
                    " meant, call it that",
                    "note: DELIVERY_TIMEOUT: is 5 s, but log-shuttle and logplex give"
                    " up after 5 s and never read a 504; set 4.5",
                ],
            ),
        )

    def test_not_misspelt(self) -> None:
        """Nobody is told so whose variable is set."""
        self.assertEqual(self.findings(DELIVERY_TIMEOUTS="3"), (0, []))

    def test_log_iss(self) -> None:
        """What only log-iss read is said to be of no use."""
        self.assertEqual(
            self.findings(LIBRATO_TOKEN="x"),
            (0, ["note: LIBRATO_TOKEN: log-iss read it, logiss does not; unset it"]),
        )

    def test_empty_metadata(self) -> None:
        """An element that nothing can go into is noticed."""
        code, (line,) = self.findings(METADATA_ID="a@1")
        self.assertEqual(code, 0)
        self.assertIn("warning: METADATA_ID: nothing goes into this element", line)
        self.assertEqual(
            self.findings(METADATA_ID="a@1", LOG_ISS_FIELD_PARAMS="team"), (0, [])
        )

    def test_open_admin_port(self) -> None:
        """Whoever opens the status page to others is told what that means."""
        code, lines = self.findings(ADMIN_PORT="9514", ADMIN_HOST="0.0.0.0")
        self.assertEqual(code, 0)
        self.assertEqual(len(lines), 1)
        self.assertIn("warning: ADMIN_HOST: is 0.0.0.0: whoever reaches it", lines[0])
        self.assertEqual(self.findings(ADMIN_PORT="9514"), (0, []))

    def test_too_few_files(self) -> None:
        """Fewer clients than were wanted is a warning with the number to set."""
        self.patch(resource, "getrlimit", lambda _: (1024, 1024))
        self.patch(resource, "setrlimit", lambda *_: None)
        code, (line,) = self.findings(MAX_CONNECTIONS="1000000")
        self.assertEqual(code, 0)
        self.assertIn("warning: MAX_CONNECTIONS: is 1000000, but so few files", line)
        self.assertIn("(ulimit -n) to 1000072", line)

    def test_one_line(self) -> None:
        """Nothing in a value reaches the terminal as anything but text."""
        _, lines = self.check(DEPLOY="a\nb\x1b[31m", PORT="\x1b]0;x\x07")
        for line in lines:
            self.assertTrue(line.isprintable(), line)

    def test_others_words(self) -> None:
        """Nor does anything that a server has said."""
        said = Result("error", "REDIS_URL", "ERR \x1b]0;x\x07\nok: all is well")
        self.patch(check, "_results", lambda *_: iter([said]))
        code, lines = self.check("--brief")
        self.assertEqual(code, 1)
        self.assertEqual(
            lines, ["error: REDIS_URL: ERR \ufffd]0;x\ufffd\ufffdok: all is well"]
        )
