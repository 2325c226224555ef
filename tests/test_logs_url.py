"""The URL that logs are posted to."""

from base64 import b64decode

from twisted.trial.unittest import SynchronousTestCase

from logiss.logs_url import NotAURL, is_url, parse


def credentials(url: str, password: str | None = None) -> bytes | None:
    found = parse(url, password).authorization
    return None if found is None else b64decode(found.removeprefix(b"Basic "))


class LogsURLTests(SynchronousTestCase):
    """What is typed, and what comes of it."""

    def test_places(self) -> None:
        """Port and path have their defaults, and a query stays."""
        for url, origin, target in [
            ("http://a.example", "http://a.example:80", "/logs"),
            ("HTTPS://a.example/", "https://a.example:443", "/logs"),
            ("http://a.example:5000?x=1&y", "http://a.example:5000", "/logs?x=1&y"),
            ("http://u:p@a/in?x=b@c", "http://a:80", "/in?x=b@c"),
            ("http://u:p@[::1]:5/in/", "http://[::1]:5", "/in/"),
        ]:
            found = parse(url)
            self.assertEqual((found.origin, found.target), (origin, target))

    def test_query(self) -> None:
        """A post may have another query than the URL, or none."""
        url = parse("http://a/in?x=1")
        self.assertEqual(url.with_query("y=2").target, "/in?y=2")
        self.assertEqual(url.with_query("").target, "/in")

    def test_credentials(self) -> None:
        """They are decoded; a user without a password has the other one."""
        self.assertEqual(credentials("http://u:p@a"), b"u:p")
        self.assertEqual(credentials("http://u:a%3At%40%C3%A4@a"), b"u:a:t@\xc3\xa4")
        self.assertEqual(credentials("http://u:p:q@a", "other"), b"u:p:q")
        self.assertEqual(credentials("http://u@a", "sec ret"), b"u:sec ret")
        self.assertEqual(credentials("http://u:@a", "secret"), b"u:")
        self.assertIsNone(credentials("http://a", "secret"))

    def test_refused(self) -> None:
        """Each mistake is one line that says what to do, and no password."""
        for url in (
            "",
            "a.example:5000/logs",
            "ftp://u:hunter2@a.example",
            "http://u:hunter2@",
            "http://u:hunter2@a:0",
            "http://u:hunter2@a:port",
            "http://u:hunter2@a:99999",
            "http://u:hunter2@[::1",
            "http://u:hunter2@a/#x",
            "http://u:hun#ter2@a/",
            "http://u%3Av:hunter2@a",
            "http://hun:9/ter2@a.example/logs",
            "http://hun:9?ter2@a.example",
            "http://hun/ter2@a.example",
            "http://u:p@hun/ter2@a.example",
            "http://u:hunter2@a b",
            "http://u:hunter2@a\n",
            "http://u:hunter2@ä.example",
        ):
            with self.assertRaises(NotAURL) as raised:
                parse(url)
            said = str(raised.exception)
            self.assertTrue(said.isprintable(), url)
            self.assertNotIn("hun", said)

    def test_not_shown(self) -> None:
        """What a traceback would show has no password."""
        shown = repr(parse("http://u:hunter2@a.example"))
        self.assertNotIn("hunter2", shown)
        self.assertNotIn("Basic", shown)

    def test_is_url(self) -> None:
        """A URL is told from the name of a file."""
        self.assertTrue(is_url("http://a") and is_url("HTTPS://a"))
        self.assertFalse(is_url("http") or is_url("./http://a") or is_url("-"))
