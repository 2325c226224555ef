"""`logiss.env_file` reads variables, and tells nothing of what it cannot read."""

import os
import sys
import tempfile
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from logiss.__main__ import main
from logiss.credentials import password_digest
from logiss.env_file import FILE_BYTES_MAX, EnvFileError, Environment, in_file, merged


class EnvironmentTests(SynchronousTestCase):
    """Libraries look into the environment, not into the file."""

    def test_become(self) -> None:
        """What is theirs stands there as long as it counts; then what was before."""
        environ = {"HOME": "/", "LANG": "C", "PORT": "1"}
        environment = Environment(environ)
        at_start = dict(environ)
        environment.become(
            {**environ, "LANG": "de", "PORT": "2", "MORE": "a"}, {"PORT"}
        )
        self.assertEqual(environ, {"HOME": "/", "LANG": "de", "PORT": "1", "MORE": "a"})
        environment.become({**at_start, "MORE": "b"}, {"PORT"})
        self.assertEqual(environ, {**at_start, "MORE": "b"})
        environment.become(at_start, {"PORT"})
        self.assertEqual(environ, at_start)
        self.assertEqual(environment.at_start, at_start)


class EnvFileTests(SynchronousTestCase):
    """What is in the file counts in place of what is in the environment."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "logiss.env")

    def read(self, text: str | bytes, **environ: str) -> dict[str, str]:
        octets = text if isinstance(text, bytes) else text.encode()
        self.path.write_bytes(octets)
        return merged({**environ, "ENV_FILE": str(self.path)})

    def why(self, text: str | bytes) -> str:
        """With which words `text` is refused, without the path."""
        with self.assertRaises(EnvFileError) as caught:
            self.read(text)
        return str(caught.exception).replace(repr(str(self.path)), "PATH")

    def test_none(self) -> None:
        """Without a file the environment is what counts."""
        for environ in ({}, {"ENV_FILE": " "}, {"DEPLOY": "a"}):
            self.assertEqual(merged(environ), environ)
            self.assertEqual(in_file(environ), {})

    def test_in_front(self) -> None:
        """A variable in the file counts, an empty one as well; others stay."""
        self.assertEqual(
            self.read("A=1\nB=\nA=2\n", A="0", B="0", C="0"),
            {"A": "2", "B": "", "C": "0", "ENV_FILE": str(self.path)},
        )

    def test_itself(self) -> None:
        """A file names no other file."""
        found = self.read("ENV_FILE=/etc/other\n")
        self.assertEqual(found, {"ENV_FILE": str(self.path)})

    def test_forms(self) -> None:
        """Comments, quotes, export, several lines, a mark, lines that end otherwise."""
        text = (
            b"\xef\xbb\xbf# one\r\n\r\nA=1\r\nexport B='a # b'\r\n"
            b'C="one\ntwo" # three\nD = $A ${B}\n'
        )
        found = self.read(text)
        del found["ENV_FILE"]
        self.assertEqual(
            found, {"A": "1", "B": "a # b", "C": "one\ntwo", "D": "$A ${B}"}
        )

    def test_wrong_line(self) -> None:
        """The line is named by its number, and nothing is said of what is in it."""
        for number, text in (
            (1, "hunter2\n"),
            (3, "A=1\n\nhunter2\nB=2\n"),
            (2, "A=1\nB='hunter2\n"),
            (2, "# one\nA=hun\0ter2\n"),
            (1, "'hunter2=1'=2\n"),
            (1, "=hunter2\n"),
        ):
            self.assertEqual(
                self.why(text),
                f"ENV_FILE: line {number} of PATH is no NAME=value; mend it, or put a #"
                " in front of a comment",
            )

    def test_not_text(self) -> None:
        """What is no UTF-8 is no text."""
        self.assertEqual(
            self.why(b"A=\xff\n"),
            "ENV_FILE: PATH must be UTF-8 text; take the odd bytes out",
        )

    def test_too_large(self) -> None:
        """A file of any other kind is not read into memory."""
        self.read(b"#" * FILE_BYTES_MAX)
        self.assertEqual(
            self.why(b"#" * (FILE_BYTES_MAX + 1)),
            f"ENV_FILE: PATH has more than {FILE_BYTES_MAX} bytes; name a file of"
            " NAME=value lines",
        )

    def test_no_such(self) -> None:
        """The system says why there is nothing to be read."""
        with self.assertRaises(EnvFileError) as caught:
            merged({"ENV_FILE": str(self.path)})
        self.assertEqual(
            str(caught.exception),
            f"ENV_FILE: cannot read {str(self.path)!r}: No such file or directory",
        )
        with self.assertRaises(EnvFileError) as caught:
            merged({"ENV_FILE": "a\0b"})
        self.assertIn("embedded null byte", str(caught.exception))

    def test_no_file(self) -> None:
        """A pipe, for whose writer the process would wait, or a folder is no file."""
        os.mkfifo(self.path)
        for path in (str(self.path), str(self.path.parent)):
            with self.assertRaises(EnvFileError) as caught:
                merged({"ENV_FILE": path})
            self.assertEqual(
                str(caught.exception),
                f"ENV_FILE: {path!r} is no regular file; name a file of NAME=value"
                " lines",
            )


class CommandTests(SynchronousTestCase):
    """`logiss hash` and `logiss credentials` read what `logiss run` reads."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "logiss.env")
        self.out, self.err = StringIO(), StringIO()
        self.patch(os, "environ", {"HMAC_KEY": "old", "ENV_FILE": str(self.path)})
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)
        self.patch(sys, "stdin", TextIOWrapper(BytesIO(b"password\n")))

    def test_hash(self) -> None:
        """The key is that of the file."""
        self.path.write_text("HMAC_KEY=new\n")
        self.assertEqual(main(["hash"]), 0)
        digest = password_digest(b"new", b"password").hex()
        self.assertEqual(self.out.getvalue(), f"{digest}\n")

    def test_wrong(self) -> None:
        """A file that cannot be read is a line, and the exit code is 1."""
        for command in (["hash"], ["credentials", "add", "user", "--name", "v1"]):
            self.err.truncate(0)
            self.assertEqual(main(command), 1)
            self.assertIn(
                f"logiss {command[0]}: ENV_FILE: cannot read {str(self.path)!r}: No"
                " such file or directory\n",
                self.err.getvalue(),
            )
