"""What was refused can be read again as it came, and nothing in it forges its head."""

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.captures import NAME, BrokenCapture, Capture, octets, read

CAPTURE = Capture(
    captured_at="2026-01-31T12:00:00.123Z",
    code=400,
    because="Problem with body: malformed frame",
    target=b"/logs?app=web",
    fields=(
        ("Content-Type", b"application/logplex-1"),
        ("Logplex-Msg-Count", b"1"),
    ),
    body=b"12 <190>1 no\n\nCapture-Version: 1\n",
    remote_addr=b"192.0.2.7",
    request_id=b"abc",
)
TEXT = b"""\
Capture-Version: 1
Captured-At: 2026-01-31T12:00:00.123Z
Refused-With: 400
Refused-Because: "Problem with body: malformed frame"
Remote-Addr: "192.0.2.7"
Request-Id: "abc"
Target: "/logs?app=web"
Content-Type: "application/logplex-1"
Logplex-Msg-Count: "1"
Body-Bytes: 33

12 <190>1 no

Capture-Version: 1
"""

_NAMES = st.sampled_from(["Content-Type", "Content-Encoding", "Logplex-Drain-Token"])
_CAPTURES = st.builds(
    Capture,
    captured_at=st.just("2026-01-31T12:00:00Z"),
    code=st.integers(100, 599),
    because=st.text(),
    target=st.binary(),
    fields=st.lists(st.tuples(_NAMES, st.binary()), max_size=4).map(tuple),
    body=st.binary(),
    is_cut=st.booleans(),
    remote_addr=st.none() | st.binary(),
    request_id=st.none() | st.binary(),
)


class CaptureTests(SynchronousTestCase):
    """What is written is read."""

    def test_form(self) -> None:
        """It is what the docs show."""
        self.assertEqual(octets(CAPTURE), TEXT)

    @given(_CAPTURES)
    def test_round_trip(self, capture: Capture) -> None:
        """Whatever a client has sent, it is read as it came."""
        self.assertEqual(read(octets(capture)), capture)

    @given(st.binary(), st.text())
    def test_no_forged_line(self, octets_sent: bytes, why: str) -> None:
        """The lines of the head are as many as there are names."""
        capture = evolve(
            CAPTURE, because=why, target=octets_sent, request_id=octets_sent, body=b""
        )
        lines = octets(capture).decode("ascii").splitlines()
        names = [line.partition(": ")[0] for line in lines]
        self.assertEqual(
            names, [line.partition(": ")[0] for line in TEXT.decode().splitlines()[:11]]
        )

    def test_only_fields_to_be_kept(self) -> None:
        """What proves who somebody is cannot be part of it."""
        for name in ("Authorization", "Cookie", "Content-Type\nX", "Logplex-", "X"):
            with self.assertRaises(ValueError):
                evolve(CAPTURE, fields=((name, b""),))
        with self.assertRaises(ValueError):
            evolve(CAPTURE, captured_at="now")

    def test_name(self) -> None:
        """Files of ours are known by their names, and no others."""
        self.assertIsNotNone(NAME.fullmatch("20260131T120000Z-4711-000001.capture"))
        for name in ("a.capture", "20260131T120000Z-4711-000001.capture~", ".capture"):
            self.assertIsNone(NAME.fullmatch(name))


class BrokenCaptureTests(SynchronousTestCase):
    """What cannot be read is said in a sentence."""

    def test_each(self) -> None:
        """The sentence names what is wrong."""
        for before, after, why in [
            (b"Capture-V", b"apture-V", "does not begin with"),
            (b"n: 1\n", b"n: 2\n", "Capture-Version is not 1"),
            (b"\n\n12", b"\n12", "no 'Name: value' but '12 <190>1 no'"),
            (b"Body-Bytes: 33", b"Body-Bytes: 34", "but its body has 33 bytes"),
            (b"Body-Bytes: 33", b"Body-Bytes: -1", "Body-Bytes is no number"),
            (b"Body-Bytes: 33\n", b"", "Body-Bytes is missing"),
            (b"2026-01-31T", b"2026-01-31 ", "Captured-At is no time"),
            (b"With: 400", b"With: 4x0", "Refused-With is no number"),
            (b'"abc"', b"abc", "Request-Id is not quoted as in JSON"),
            (b'"abc"', b'["abc"]', "Request-Id is not quoted as in JSON"),
            (b'"abc"', b"[" * 100_000, "Request-Id is not quoted as in JSON"),
            (b'"abc"', b'"\\u20ac"', "characters that are no octets"),
            (b'"abc"\n', b'"abc"\nRequest-Id: "d"\n', "Request-Id stands twice"),
            (b"Target", b"Tar get", "no 'Name: value'"),
            (b'"abc"', b'"' + b"a" * 300_000 + b'"', "no blank line ends its head"),
        ]:
            with self.subTest(why):
                with self.assertRaises(BrokenCapture) as raised:
                    read(TEXT.replace(before, after, 1))
                self.assertIn(why, str(raised.exception))

    def test_cut_off(self) -> None:
        """A file that is not whole is known to be, wherever it ends."""
        for end in range(len(TEXT)):
            with self.assertRaises(BrokenCapture):
                read(TEXT[:end])

    @given(st.binary())
    def test_anything(self, garbage: bytes) -> None:
        """Nothing else comes of what nobody has thought of."""
        for text in (garbage, b"Capture-Version: " + garbage, TEXT + garbage):
            try:
                read(text)
            except BrokenCapture:
                pass
