"""A password is asked for where nobody else can read it."""

from io import BytesIO

from twisted.trial.unittest import SynchronousTestCase

from logiss.passwords import (
    PASSWORD_BYTES_MAX,
    Unusable,
    make_password,
    read_password,
)


class FakeStdin:
    """Standard input, on a terminal or not."""

    def __init__(self, octets: bytes = b"", is_terminal: bool = False) -> None:
        self.buffer = BytesIO(octets)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def never(prompt: str) -> str:
    raise AssertionError("asked on a terminal that is not there")


class ReadPasswordTests(SynchronousTestCase):
    """It is taken as it is, or it is said what is wrong with it."""

    def refusal(self, stdin: FakeStdin, *answers: str) -> str:
        rest = list(answers)
        with self.assertRaises(Unusable) as caught:
            read_password(stdin, lambda prompt: rest.pop(0))
        self.assertEqual(rest, [])
        return str(caught.exception)

    def test_stdin(self) -> None:
        """All but a line feed at the end, in whatever encoding."""
        longest = b"x" * PASSWORD_BYTES_MAX
        for octets, expected in [
            (b"secret\n", b"secret"),
            (b"secret", b"secret"),
            (b" two words \n", b" two words "),
            ("pässword\n".encode(), "pässword".encode()),
            (b"\xff\n", b"\xff"),
            (longest + b"\n", longest),
        ]:
            with self.subTest(octets[:20]):
                self.assertEqual(read_password(FakeStdin(octets), never), expected)

    def test_unusable(self) -> None:
        """What no client could send is refused, and not repeated."""
        for octets, why in [
            (b"", "the password is empty"),
            (b"\n", "the password is empty"),
            (b"secret\n\n", "the password has a line break or control character in it"),
            (b"secret\r\n", "the password has a line break or control character in it"),
            (b"a\x7fb", "the password has a line break or control character in it"),
            (
                b"x" * (PASSWORD_BYTES_MAX + 1),
                f"the password is longer than {PASSWORD_BYTES_MAX} bytes",
            ),
        ]:
            with self.subTest(octets[:20]):
                self.assertEqual(self.refusal(FakeStdin(octets)), why)

    def test_terminal(self) -> None:
        """On a terminal it is asked for twice, and standard input is left alone."""
        stdin = FakeStdin(b"other\n", is_terminal=True)
        answers = ["pässword", "pässword"]
        password = read_password(stdin, lambda prompt: answers.pop(0))
        self.assertEqual((password, answers), ("pässword".encode(), []))
        self.assertEqual(stdin.buffer.read(), b"other\n")

    def test_terminal_refused(self) -> None:
        """A slip is noticed."""
        stdin = FakeStdin(is_terminal=True)
        for answers, why in [
            (("secret", "secert"), "the two passwords are not the same"),
            (("", ""), "the password is empty"),
            (("a\tb", "a\tb"), "the password has a line break or control character"),
        ]:
            self.assertTrue(self.refusal(stdin, *answers).startswith(why))


class MakePasswordTests(SynchronousTestCase):
    """A new password is long, usable and never the same."""

    def test_made(self) -> None:
        """43 characters that need no quoting."""
        first, second = make_password(), make_password()
        self.assertRegex(first, rb"\A[A-Za-z0-9_-]{43}\Z")
        self.assertNotEqual(first, second)
        self.assertEqual(read_password(FakeStdin(first), never), first)
