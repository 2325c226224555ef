"""What is typed behind ``logiss send`` and ``logiss replay``."""

import argparse
import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from logiss.__main__ import command_line
from logiss.target import NoTarget, target_of
from logiss.tools.replay import Unreadable, _kept, _paths
from logiss.tools.send import Unusable, _inputs, _making, _probes


def parsed(*typed: str) -> argparse.Namespace:
    return command_line().parse_args(["send", *typed])


def refused(*typed: str) -> str:
    """What argparse says of what it does not take."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        parsed(*typed)
        raise AssertionError(f"{typed} was taken")
    return said.getvalue().splitlines()[-1]


class OptionsTests(SynchronousTestCase):
    """Options, their defaults and their bounds."""

    def test_defaults(self) -> None:
        """They are those of log-shuttle where it has them."""
        given = parsed()
        self.assertEqual(given.files, [])
        self.assertEqual((given.batch_lines, given.batch_seconds), (500, 0.25))
        self.assertEqual((given.line_bytes, given.pri), (10_000, 190))
        self.assertEqual((given.connections, given.gzip), (4, True))
        self.assertEqual((given.timeout, given.retry_seconds), (10.0, 60.0))
        making = _making(given)
        assert making.origin is not None
        self.assertEqual(making.origin.app_name, b"logiss")
        self.assertTrue(making.origin.hostname)
        self.assertIsNone(_making(parsed("--framed")).origin)
        self.assertFalse(_making(parsed("--no-gzip")).is_zipped)

    def test_bounds(self) -> None:
        """What is out of bounds is told with the bounds."""
        for typed, said in [
            (("--pri", "192"), "--pri: '192' is no whole number from 0 to 191"),
            (("--pri", "-1"), "--pri"),
            (("--pri", "²"), "--pri: '²' is no whole number"),
            (("--batch-lines", "0"), "--batch-lines: '0' is no whole number from 1"),
            (("--batch-bytes", "16777217"), "--batch-bytes: '16777217' is no whole"),
            (("--line-bytes", "65537"), "--line-bytes: '65537' is no whole number"),
            (("--connections", "x"), "--connections: 'x' is no whole number"),
            (("--timeout", "0"), "--timeout: '0' is no number of seconds from 0.05"),
            (("--timeout", "nan"), "--timeout: 'nan' is no number of seconds"),
            (("--retry-seconds", "-1"), "--retry-seconds"),
            (("--app-name", "a b"), "--app-name: must be printable ASCII"),
            (("--hostname", "ä"), "--hostname: must be printable ASCII"),
            (("--msgid", "m" * 33), "--msgid: is longer than 32 characters"),
            (("--procid", ""), "--procid: must be printable ASCII"),
            (("--run", "a b"), "--run: is not 1 to 32 letters"),
            (("--run", "ä"), "--run: is not 1 to 32 letters"),
        ]:
            self.assertIn(said, refused(*typed))

    def test_probes(self) -> None:
        """Test messages are numbered from 1 on, without gaps."""
        from logiss import probes

        made = [probes.read(text) for text in _probes("a-1", 3)]
        self.assertEqual(made, [probes.Probe("a-1", n) for n in (1, 2, 3)])


class PathsTests(SynchronousTestCase):
    """The files that ``logiss replay`` reads."""

    def test_folder_not_read(self) -> None:
        """A folder that may not be read is a file that may not, and others follow."""
        folder = self.mktemp()
        os.mkdir(folder)

        def refuse(_: Path) -> Iterator[Path]:
            raise PermissionError(errno.EACCES, "Permission denied")

        self.patch(Path, "iterdir", refuse)
        self.assertEqual(list(_paths([folder, "b"])), [folder, "b"])
        with self.assertRaises(Unreadable):
            _kept(folder)


class TargetTests(SynchronousTestCase):
    """Where to post to."""

    def refusal(self, environ: Mapping[str, str], *typed: str) -> str:
        with self.assertRaises(NoTarget) as raised:
            target_of(parsed(*typed), environ)
        said = str(raised.exception)
        self.assertTrue(said.isprintable())
        self.assertNotIn("hunter2", said)
        return said

    def test_places(self) -> None:
        """--url comes before LOGS_URL; the password may be in the environment."""
        environ = {"LOGS_URL": "http://u@a", "LOGS_PASSWORD": "p"}
        self.assertEqual(target_of(parsed(), environ).url.host, "a")
        self.assertEqual(target_of(parsed(), environ).url.authorization, b"Basic dTpw")
        given = parsed("--url", "https://b", "--timeout", "3", "--retry-seconds", "0")
        target = target_of(given, environ)
        self.assertEqual((target.url.host, target.authorities), ("b", None))
        self.assertEqual((target.timeout_seconds, target.retry_seconds), (3.0, 0.0))

    def test_refused(self) -> None:
        """Each mistake names the option or the variable, and no password."""
        self.assertIn("--url: it is not said where to post to", self.refusal({}))
        said = self.refusal({"LOGS_URL": "ftp://u:hunter2@a"})
        self.assertIn("LOGS_URL: does not begin with http", said)
        said = self.refusal({}, "--url", "http://u:hunter2@a:b")
        self.assertIn("--url: has no valid host and port", said)
        said = self.refusal({}, "--url", "https://a", "--ca", "/nowhere/ca.pem")
        self.assertIn("--ca: cannot read '/nowhere/ca.pem': No such file", said)


class InputsTests(SynchronousTestCase):
    """What is read."""

    def refusal(self, *typed: str, is_stdin_open: bool = True) -> str:
        with self.assertRaises(Unusable) as raised:
            _inputs(parsed(*typed), is_stdin_open)
        said = str(raised.exception)
        self.assertTrue(said.isprintable())
        self.assertNotIn("hunter2", said)
        return said

    def test_default(self) -> None:
        """Standard input, unless there are files; nothing for test messages."""
        self.assertEqual([i.name for i in _inputs(parsed(), True)], ["-"])
        self.assertEqual(_inputs(parsed("--test", "3"), False), [])
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"abc")
            file.flush()
            (found,) = _inputs(parsed(file.name), False)
        self.assertEqual((found.name, found.size), (file.name, 3))

    def test_refused(self) -> None:
        """All that cannot be read is told before anything is sent."""
        missing = self.refusal("/nowhere/\x1b.log")
        self.assertIn("cannot read '/nowhere/\\x1b.log': No such file", missing)
        self.assertIn("it is a folder", self.refusal("/"))
        self.assertIn("null", self.refusal("a\0b"))
        self.assertIn("--url", self.refusal("http://u:hunter2@a/"))
        self.assertIn("'-' stands there twice", self.refusal("-", "-"))
        self.assertIn("is closed", self.refusal(is_stdin_open=False))
        self.assertIn("--test: sends", self.refusal("--test", "1", "a.log"))
        self.assertIn("--test: sends", self.refusal("--test", "1", "--framed"))
        self.assertIn("--run: is the name", self.refusal("--run", "a"))
