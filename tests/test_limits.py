"""How much of a head there may be, to the byte."""

from twisted.trial.unittest import SynchronousTestCase

from logiss.limits import HeadLimits

LINE = b"GET /0123 HTTP/1.1\r\n"
FIELDS = b"A: b\r\nC: d\r\n"


class HeadLimitsTests(SynchronousTestCase):
    """`HeadLimits`."""

    def test_line(self) -> None:
        """The request line counts with its end."""
        for most, is_too_long in ((len(LINE) - 1, True), (len(LINE), False)):
            limits = HeadLimits(line_bytes=most)
            self.assertEqual(limits.is_line_too_long(b"GET", b"/0123"), is_too_long)

    def test_fields(self) -> None:
        """The fields count with their ends, without the line and the empty one."""
        head = LINE + FIELDS + b"\r\n"
        for most, fields_max, are_too_large in (
            (len(FIELDS), 2, False),
            (len(FIELDS) - 1, 2, True),
            (len(FIELDS), 1, True),
        ):
            limits = HeadLimits(header_bytes=most, fields=fields_max)
            self.assertEqual(
                limits.are_fields_too_large(b"GET", b"/0123", len(head), 2),
                are_too_large,
            )
