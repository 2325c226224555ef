"""What reads syslog messages in other tests refuses what is none."""

from twisted.trial.unittest import SynchronousTestCase

from tests import rfc5424
from tests.rfc5424 import Message, NotSyslog

START = b"<13>1 2013-06-07T13:17:49.468822+00:00 "
HEADER = START + b"host app web.1 id "


class SplitTests(SynchronousTestCase):
    """`split` reads frames with nothing between."""

    def test_reads(self) -> None:
        """Each frame is as long as its MSG-LEN."""
        self.assertEqual(rfc5424.split(b""), [])
        self.assertEqual(rfc5424.split(b"1 a10  123456789"), [b"a", b" 123456789"])

    def test_refuses(self) -> None:
        """Anything else is refused."""
        for octets in (
            b"x",
            b"1",
            b"1 ",
            b"2 a",
            b"0 ",
            b"01 a",
            b" 1 a",
            b"1 a\n",
            b"-1 a",
        ):
            with self.subTest(octets), self.assertRaises(NotSyslog):
                rfc5424.split(octets)


class ParseTests(SynchronousTestCase):
    """`parse` reads messages of RFC 5424, and nothing else."""

    def test_example(self) -> None:
        """An example of section 6.5 is read to its last byte."""
        octets = (
            b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47"
            b' [exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"]'
            b'[examplePriority@32473 class="high"] \xef\xbb\xbfAn event'
        )
        self.assertEqual(
            rfc5424.parse(octets),
            Message(
                b"<165>1",
                b"2003-10-11T22:14:15.003Z",
                b"mymachine.example.com",
                b"evntslog",
                b"-",
                b"ID47",
                (
                    (
                        b"exampleSDID@32473",
                        (
                            (b"iut", b"3"),
                            (b"eventSource", b"Application"),
                            (b"eventID", b"1011"),
                        ),
                    ),
                    (b"examplePriority@32473", ((b"class", b"high"),)),
                ),
                b"\xef\xbb\xbfAn event",
            ),
        )

    def test_nothing(self) -> None:
        """No time, no structured data, no message, and an empty one."""
        message = rfc5424.parse(b"<0>1 - - - - - -")
        self.assertEqual((message.elements, message.msg), ((), None))
        self.assertEqual(rfc5424.parse(b"<0>1 - - - - - - ").msg, b"")

    def test_values(self) -> None:
        """Three bytes are escaped; any other backslash is one."""
        for written, value in (
            (rb"", b""),
            (rb"\"\\\]", rb'"\]'),
            (rb"\n\\n", rb"\n\n"),
            (b"[= \n\0\xff", b"[= \n\0\xff"),
        ):
            message = rfc5424.parse(HEADER + b'[x y="' + written + b'"]')
            self.assertEqual(message.elements, ((b"x", ((b"y", value),)),))

    def test_headers(self) -> None:
        """Headers that are none are refused."""
        for octets in (
            b"",
            START,
            HEADER[:-1],
            b"13>1 - - - - - -",
            b"<192>1 - - - - - -",
            b"<>1 - - - - - -",
            b"<13> - - - - - -",
            b"<13>0 - - - - - -",
            b"<13>1x - - - - - -",
            b"<13>1  - - - - - -",
            b"<13>1 2013-06-07 - - - - -",
            b"<13>1 2013-06-07T13:17:49 - - - - -",
            b"<13>1 2013-06-07 13:17:49Z - - - - -",
            b"<13>1 2013-06-07T13:17:49+0000 - - - - -",
            b"<13>1 2013-06-37T13:17:49Z - - - - -",
            START + b"h\n a p m -",
            START + b"h \xff p m -",
            START + b"h " + b"a" * 49 + b" p m -",
            START + b"h  p m -",
        ):
            with self.subTest(octets), self.assertRaises(NotSyslog):
                rfc5424.parse(octets)

    def test_any_header(self) -> None:
        """A header's bytes, but not its spaces, may be let pass."""
        message = rfc5424.parse(b"  \n \xff \0 x - -", any_header=True)
        self.assertEqual(message.hostname, b"\n")
        for octets in (b"  h  p m -", START + b"h a p " + b"m" * 33 + b" -"):
            with self.subTest(octets), self.assertRaises(NotSyslog):
                rfc5424.parse(octets, any_header=True)

    def test_structured_data(self) -> None:
        """Structured data that is none is refused."""
        for sd in (
            b"",
            b" ",
            b"x",
            b"--",
            b"-x",
            b"[",
            b"[]",
            b"[ x]",
            b"[x ]",
            b"[x",
            b"[x y]",
            b"[x y=]",
            b"[x y=z]",
            b'[x y="z]',
            b'[x y="z" ]',
            b'[x y="z"w="v"]',
            b'[x  y="z"]',
            b'[x y="]"]',
            b'[x y="\\"]',
            b'[x y="""]',
            b'[x ="z"]',
            b"[x=y]",
            b'[x"y]',
            b"[x\xe9]",
            b"[" + b"x" * 33 + b"]",
            b"[x]y",
            b"[x][",
        ):
            with self.subTest(sd), self.assertRaises(NotSyslog):
                rfc5424.parse(HEADER + sd)


class LeadingElementsTests(SynchronousTestCase):
    """`leading_elements` tells structured data from text."""

    def test_reads(self) -> None:
        """Complete elements, behind them a space or the end."""
        element = (b"x", ((b"y", b"z"),))
        for msg, found in (
            (b'[x y="z"]', ((element,), None)),
            (b'[x y="z"] ', ((element,), b"")),
            (b'[x y="z"][x y="z"]  a', ((element, element), b" a")),
            (b'[x y="z"]a', None),
            (b'[x y="z"][', None),
            (b"[x]", None),
            (b'[x y="z"][x] a', None),
            (b"-", None),
            (b"", None),
            (b" ", None),
        ):
            self.assertEqual(rfc5424.leading_elements(msg), found, msg)
