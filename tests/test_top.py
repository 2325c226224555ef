"""The command that shows the document in a terminal."""

import argparse
import io
import json
from contextlib import redirect_stderr
from http.client import HTTPResponse
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.__main__ import main
from logiss.history import History
from logiss.report import report
from logiss.tools.top import (
    ANSWER_BYTES_MAX,
    ANSWER_SECONDS,
    NO_ANSWER,
    NoDocument,
    NoPlace,
    Place,
    Seen,
    code_of,
    document_of,
    place_of,
    speaks_unicode,
    top,
)
from tests.cases import facts, lately

HERE = Place("127.0.0.1", 9514, "/status.json", "http://127.0.0.1:9514/")


class PlacesTests(SynchronousTestCase):
    """Where it asks."""

    def test_urls(self) -> None:
        """Page, document or only host and port: the document is asked for."""
        for url, host, port, path, shown in (
            ("http://a:1/", "a", 1, "/status.json", "http://a:1/"),
            ("http://a:1", "a", 1, "/status.json", "http://a:1/"),
            ("a:1", "a", 1, "/status.json", "http://a:1/"),
            ("a", "a", 80, "/status.json", "http://a:80/"),
            ("http://a:1/status.json", "a", 1, "/status.json", "http://a:1/"),
            ("http://[::1]:1/", "::1", 1, "/status.json", "http://[::1]:1/"),
            ("http://a:1/b/", "a", 1, "/b/status.json", "http://a:1/b"),
        ):
            self.assertEqual(place_of(url, {}), Place(host, port, path, shown))

    def test_environment(self) -> None:
        """Without a URL it is where logiss listens, as its environment has it."""
        for host, asked in (
            ("", "http://127.0.0.1:9514/"),
            ("0.0.0.0", "http://127.0.0.1:9514/"),
            ("::", "http://[::1]:9514/"),
            ("10.0.0.5", "http://10.0.0.5:9514/"),
        ):
            environ = {"ADMIN_PORT": "9514", "ADMIN_HOST": host}
            self.assertEqual(place_of(None, environ).url, asked)
        self.assertEqual(place_of(None, {"ADMIN_PORT": "9514"}), HERE)
        self.assertEqual(place_of("b:2", {"ADMIN_PORT": "9514"}).url, "http://b:2/")

    def test_wrong(self) -> None:
        """Whatever is wrong is one line that says what to do, and no secret."""
        for url, environ, why in (
            (None, {}, "ADMIN_PORT is not set; give the URL"),
            (None, {"ADMIN_PORT": "http"}, 'ADMIN_PORT is "http", not a port'),
            (None, {"ADMIN_PORT": "0"}, "not a port"),
            (None, {"ADMIN_PORT": "65536"}, "not a port"),
            (None, {"ADMIN_PORT": "9" * 9999}, "not a port"),
            (None, {"ADMIN_PORT": "\u0661"}, "not a port"),
            ("https://a:1/", {}, '"https://a:1/" is no http URL; give'),
            ("ftp://a/", {}, "is no http URL"),
            ("http:///", {}, "is no http URL"),
            ("", {}, "is no http URL"),
            ("http://a:x/", {}, "is no URL"),
            ("http://a:99999/", {}, "is no URL"),
            ("http://[::1/", {}, "is no URL"),
            ("http://a/\r\nb", {}, "is no http URL"),
            ("http://a/b c", {}, "is no URL"),
            ("http://ada:secret@a/", {}, "the URL has a user"),
        ):
            with self.assertRaises(NoPlace) as raised:
                place_of(url, environ)
            said = str(raised.exception)
            self.assertIn(why, said)
            self.assertTrue(said.isprintable())
            self.assertNotIn("secret", said)

    def test_said(self) -> None:
        """It is an error of the command, without a traceback."""
        with redirect_stderr(io.StringIO()) as err:
            code = top(argparse.Namespace(url="https://a/", once=True))
        self.assertEqual(code, NO_ANSWER)
        self.assertEqual(err.getvalue().count("\n"), 1)
        self.assertTrue(err.getvalue().startswith('logiss top: "https://a/" is no'))

    def test_command(self) -> None:
        """``logiss top`` is that command."""
        with redirect_stderr(io.StringIO()) as err:
            self.assertEqual(main(["top", "--once", "http://ada:x@a/"]), NO_ANSWER)
        self.assertIn("has a user", err.getvalue())


class _Socket:
    """As much of a socket as a response reads."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._octets)


def response(
    body: bytes, status: str = "200 OK", kind: str = "application/json"
) -> HTTPResponse:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nLocation: http://b/\r\n\r\n"
    made = HTTPResponse(cast(Any, _Socket(head.encode("latin-1") + body)))
    made.begin()
    return made


class AnswersTests(SynchronousTestCase):
    """What it takes for an answer of logiss."""

    def test_document(self) -> None:
        """The document, with a charset or without one."""
        document = report(facts(), lately())
        octets = json.dumps(document).encode()
        self.assertEqual(document_of(response(octets)), document)
        kind = "application/json; charset=utf-8"
        self.assertEqual(document_of(response(octets, kind=kind)), document)

    def test_none(self) -> None:
        """Anything else is one line that says what came."""
        good = b'{"answers": []}'
        for answer, why in (
            (response(good, "302 Found"), "it answered 302; is that the ADMIN_PORT"),
            (response(good, "404 Not Found"), "it answered 404"),
            (response(good, kind="text/html"), 'it answered "text/html", not JSON'),
            (response(b"<html>"), "what came is not JSON"),
            (response(b""), "what came is not JSON"),
            (response(b"\xff\xfe\xfd"), "what came is not JSON"),
            (response(b"[" * 100_000), "what came is not JSON"),
            (response(b"9" * 9999), "what came is not JSON"),
            (response(b"[]"), "not of a logiss"),
            (response(b"{}"), "not of a logiss"),
            (response(b'{"answers": 1}'), "not of a logiss"),
            (response(good + b" " * ANSWER_BYTES_MAX), "larger than 8 MiB"),
        ):
            with self.assertRaises(NoDocument) as raised:
                document_of(answer)
            self.assertIn(why, str(raised.exception))
            self.assertTrue(str(raised.exception).isprintable())

    def test_codes(self) -> None:
        """The exit code is that of the worst answer."""
        for states, code in (
            ("good good good", 0),
            ("good warn good", 1),
            ("bad warn good", 2),
            ("warn good bad", 2),
            ("good excellent", NO_ANSWER),
            ("", NO_ANSWER),
        ):
            answers = [{"state": state} for state in states.split()]
            self.assertEqual(code_of({"answers": answers}), code, states)
        self.assertEqual(code_of({"answers": [1, {}]}), NO_ANSWER)
        self.assertEqual(code_of(report(facts(), History())), 0)
        self.assertEqual(code_of(report(facts(is_draining=True), History())), 1)
        self.assertEqual(code_of(report(facts(), lately(posts_failed=1))), 2)

    @given(st.binary(max_size=50))
    def test_any_octets(self, octets: bytes) -> None:
        """Whatever comes, it is no document or one."""
        try:
            document_of(response(octets))
        except NoDocument as e:
            self.assertTrue(str(e).isprintable())


class SeenTests(SynchronousTestCase):
    """What is shown when no answer comes."""

    def test_failing(self) -> None:
        """It is said since when, and why it is so now; the last answer is kept."""
        seen = Seen({"answers": []})
        self.assertEqual(seen.trouble(HERE, 100.0), "")
        seen = seen.after(NoDocument("refused"), 100.0, 0.0)
        seen = seen.after(NoDocument("too long"), 107.0, 0.0)
        self.assertEqual(seen.document, {"answers": []})
        self.assertEqual(seen.failing_since, 100.0)
        said = seen.trouble(HERE, 112.0)
        self.assertRegex(
            said,
            r"^http://127.0.0.1:9514/ has not answered since \d\d:\d\d:\d\d, for 12 s:"
            r" too long\.",
        )

    def test_silent(self) -> None:
        """An answer that does not come is noticed; one that comes late is not."""
        seen = Seen({})
        self.assertIs(seen.after(None, 100.0, ANSWER_SECONDS), seen)
        seen = seen.after(None, 100.0, ANSWER_SECONDS + 1)
        self.assertEqual(seen.failing_since, 100.0 - ANSWER_SECONDS - 1)
        self.assertIn("it takes too long", seen.trouble(HERE, 100.0))

    def test_well_again(self) -> None:
        """With the next answer it is over."""
        seen = Seen({}).after(NoDocument("refused"), 100.0, 0.0)
        self.assertEqual(seen.after({"answers": []}, 101.0, 0.0), Seen({"answers": []}))


class LocaleTests(SynchronousTestCase):
    """Whether a terminal reads UTF-8 is what its locale says."""

    def test_locales(self) -> None:
        """The first that is set counts, but for what Python itself sets."""
        for environ, speaks in (
            ({}, True),
            ({"LANG": "en_US.UTF-8"}, True),
            ({"LANG": "de_DE.utf8"}, True),
            ({"LANG": "C"}, False),
            ({"LANG": "POSIX"}, False),
            ({"LANG": "de_DE.ISO-8859-1"}, False),
            ({"LANG": "C.UTF-8"}, True),
            ({"LC_ALL": "C", "LANG": "en_US.UTF-8"}, False),
            ({"LC_ALL": "", "LANG": "en_US.UTF-8"}, True),
            ({"LC_CTYPE": "en_US.UTF-8", "LANG": "C"}, True),
            ({"LC_CTYPE": "C.UTF-8", "LANG": "C"}, False),
            ({"LC_CTYPE": "C.UTF-8", "LANG": "de_DE.ISO-8859-1"}, False),
            ({"LC_CTYPE": "C.UTF-8"}, True),
        ):
            self.assertEqual(speaks_unicode(environ), speaks, environ)
