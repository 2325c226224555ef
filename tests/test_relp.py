"""RELP as a client speaks it, against tables and against a server of its own."""

from collections.abc import Iterable, Iterator, Sequence

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss.relp import (
    MESSAGE_BYTES_MAX,
    OPEN_RSP_BYTES_MAX,
    RSP_BYTES_MAX,
    TXNR_MAX,
    Broken,
    Client,
    Closed,
    Confirmed,
    Event,
    Opened,
    Refused,
    State,
)

OFFERS = b"relp_version=0\nrelp_software=librelp,1.11.0,http://x\ncommands=syslog"
OVER = (State.CLOSED, State.BROKEN)


def rsp(txnr: int, octets: bytes = b"200 OK") -> bytes:
    """The server's answer to `txnr`."""
    if not octets:
        return b"%d rsp 0\n" % txnr
    return b"%d rsp %d %b\n" % (txnr, len(octets), octets)


ACCEPTED = rsp(1, b"200 OK\n" + OFFERS + b"\n")


def ready(window: int = 128, txnr_max: int = TXNR_MAX, sent: int = 0) -> Client:
    """A client whose open was accepted and that has `sent` messages on their way."""
    client = Client(window=window, txnr_max=txnr_max)
    client.open()
    client.receive(ACCEPTED)
    send(client, [b"m"] * sent)
    return client


def counted(messages: Iterable[bytes]) -> bytes:
    return b"".join(b"%d %b" % (len(m), m) for m in messages)


def send(client: Client, messages: list[bytes]) -> bytes:
    """What is written when all `messages` are sent, which there is room for."""
    frames = counted(messages)
    octets, count, end = client.send(frames)
    assert (count, end) == (len(messages), len(frames))
    return octets


def fed(client: Client, octets: bytes, size: int = 0) -> list[Event]:
    """The events of `octets`, in pieces of `size` or whole."""
    size = size or len(octets) or 1
    return [
        event
        for at in range(0, len(octets), size)
        for event in client.receive(octets[at : at + size])
    ]


def single(events: Iterable[Event]) -> Iterator[Event | type[Broken]]:
    """
    `events` as they would be had each octet come alone. Why a session broke may
    show more or fewer of the octets that broke it.
    """
    for event in events:
        if isinstance(event, Confirmed):
            for txnr in range(event.first, event.last + 1):
                yield Confirmed(txnr, txnr)
        else:
            yield Broken if isinstance(event, Broken) else event


class ClientTestCase(SynchronousTestCase):
    def assert_broken(self, client: Client, events: list[Event]) -> str:
        """
        The session has just broken, and says why on a line fit for a log.

        @return: that line.
        """
        self.assertIs(client.state, State.BROKEN)
        last = events[-1]
        assert isinstance(last, Broken)
        self.assertTrue(last.why.isprintable(), last.why)
        self.assertTrue(0 < len(last.why) < 1000, last.why)
        self.assertEqual(client.room, 0)
        self.assertEqual(client.receive(b"2 rsp 6 200 OK\n"), [])
        self.assertEqual(client.end_of_stream(), [])
        return last.why


class OpenTests(ClientTestCase):
    """A session is ready when the server has accepted version and command."""

    def test_octets(self) -> None:
        """Open is the first frame, with exactly these offers."""
        client = Client(b"logiss,1.0.0,https://x")
        self.assertIs(client.state, State.NEW)
        self.assertEqual(
            client.open(),
            b"1 open 67 relp_version=0\n"
            b"relp_software=logiss,1.0.0,https://x\ncommands=syslog\n",
        )
        self.assertIs(client.state, State.OPENING)
        self.assertEqual(client.room, 0)

    def test_accepted(self) -> None:
        """Version 0 and syslog are enough, among whatever else is offered."""
        for offers, software in [
            (b"relp_version=0\ncommands=syslog", ""),
            (b"relp_version=0\ncommands=syslog\n", ""),
            (b"commands=syslog\nrelp_version=0", ""),
            (b"relp_version=0\ncommands=eventlog,syslog,x", ""),
            (b"relp_version=1,0\ncommands=syslog", ""),
            (b"relp_version=0\ncommands=syslog\nother=\nmore=a=b,c", ""),
            (OFFERS, "librelp,1.11.0,http://x"),
            (
                OFFERS.replace(b"librelp", b"\x1b[2J\xff"),
                "\\x1b[2J\\xff,1.11.0,http://x",
            ),
            (
                b"relp_version=0\nrelp_software=%b\ncommands=syslog" % (b"s" * 999),
                "s" * 200,
            ),
        ]:
            for text in (b"200 OK", b"200 ", b"200 Fine with me"):
                octets = rsp(1, text + b"\n" + offers)
                for size in (0, 1):
                    with self.subTest((octets, size)):
                        client = Client()
                        client.open()
                        self.assertEqual(fed(client, octets, size), [Opened(software)])
                        self.assertIs(client.state, State.READY)
                        self.assertEqual(client.room, 128)
                        self.assertEqual(client.next_txnr, 2)

    def test_not_accepted(self) -> None:
        """Anything else breaks the session, and the reason is named."""
        for answer, why in [
            (b"500 no room", "500 'no room'"),
            (b"500 no room\n" + OFFERS, "500 'no room'"),
            (b"201 OK\n" + OFFERS, "201 'OK'"),
            (b"500 \x1b[2J\x00", "500 '\\x1b[2J\\x00'"),
            (b"200 OK", "relp_version"),
            (b"200 OK\n", "relp_version"),
            (b"200 OK\nrelp_version=0", "commands"),
            (b"200 OK\ncommands=syslog", "relp_version"),
            (b"200 OK\nrelp_version=1\ncommands=syslog", "relp_version 0 is not"),
            (b"200 OK\nrelp_version=\ncommands=syslog", "relp_version 0 is not"),
            (b"200 OK\nrelp_version=0\ncommands=eventlog", "'eventlog'"),
            (b"200 OK\nrelp_version=0\ncommands=", "commands syslog is not"),
            (b"200 OK\nrelp_version=0\ncommands=syslogs", "'syslogs'"),
            (b"200 OK\nrelp_version=0\nwhat\ncommands=syslog", "'what'"),
            (b"200 OK\nrelp_version=0\n=what\ncommands=syslog", "'=what'"),
            (b"200 OK\nrelp_version=0\n\ncommands=syslog", "no offer"),
            (b"200 OK\nrelp_version=0\ncommands=syslog\n\n", "no offer"),
            (b"200OK\n" + OFFERS, "no code"),
            (b"200\n" + OFFERS, "no code"),
            (b"20 OK\n" + OFFERS, "no code"),
            (b"OK\n" + OFFERS, "no code"),
            (b"", "no code"),
        ]:
            for size in (0, 1):
                with self.subTest((answer, size)):
                    client = Client()
                    client.open()
                    events = fed(client, rsp(1, answer), size)
                    self.assertEqual(len(events), 1)
                    self.assertIn(why, self.assert_broken(client, events))

    def test_wrong_order(self) -> None:
        """Nothing is taken before open, and only its answer behind it."""
        client = Client()
        self.assert_broken(client, client.receive(b"1"))
        for octets in (
            rsp(2),
            rsp(2, b"200 OK\n" + OFFERS),
            rsp(0, b"200 OK\n" + OFFERS),
            b"0 serverclose 0\n",
            b"1 open 0\n",
        ):
            with self.subTest(octets):
                client = Client()
                client.open()
                self.assert_broken(client, client.receive(octets))

    def test_largest(self) -> None:
        """An answer to open may have 128 KiB; a larger one is refused unread."""
        start = b"200 OK\n" + OFFERS + b"\nx="
        most = start + b"x" * (OPEN_RSP_BYTES_MAX - len(start))
        client = Client()
        client.open()
        self.assertEqual(len(fed(client, rsp(1, most), 1)), 1)
        self.assertIs(client.state, State.READY)
        client = Client()
        client.open()
        events = client.receive(b"1 rsp %d " % (OPEN_RSP_BYTES_MAX + 1))
        self.assertIn("131073 bytes", self.assert_broken(client, events))

    def test_parameters(self) -> None:
        """What could not work is refused at once."""
        for wrong in (
            {"software": b"a\ncommands=x"},
            {"window": 0},
            {"txnr_max": TXNR_MAX + 1},
        ):
            with self.subTest(wrong), self.assertRaises(ValueError):
                Client(**wrong)


class SendTests(ClientTestCase):
    """Messages become numbered frames, as many as the window lets through."""

    def test_octets(self) -> None:
        """Each is a frame as it is, whatever its bytes; numbers go on."""
        client = ready()
        self.assertEqual(client.next_txnr, 2)
        self.assertEqual(
            send(client, [b"<13>1 - h a p m - hi", b"\n\x00\xff 3 rsp"]),
            b"2 syslog 20 <13>1 - h a p m - hi\n3 syslog 9 \n\x00\xff 3 rsp\n",
        )
        self.assertEqual(client.next_txnr, 4)
        self.assertEqual(send(client, [b"x"]), b"4 syslog 1 x\n")
        self.assertEqual(client.unanswered, 3)
        self.assertEqual(client.unanswered_txnrs(), [2, 3, 4])

    def test_nothing(self) -> None:
        """No frames are no octets, whatever the state."""
        for client in (Client(), ready()):
            self.assertEqual(client.send(b""), (b"", 0, 0))
            self.assertEqual(client.send(b"1 a", 3), (b"", 0, 3))

    def test_window(self) -> None:
        """There is room for so many, and for another with each answer."""
        client = ready(window=3)
        self.assertEqual(client.room, 3)
        send(client, [b"a", b"b"])
        self.assertEqual(client.room, 1)
        frames = counted([b"c", b"d", b"e"])
        self.assertEqual(client.send(frames), (b"4 syslog 1 c\n", 1, 3))
        self.assertEqual((client.room, client.next_txnr), (0, 5))
        self.assertEqual(client.send(frames, 3), (b"", 0, 3))
        client.receive(rsp(2) + rsp(3))
        self.assertEqual(client.room, 2)
        both = b"5 syslog 1 d\n6 syslog 1 e\n"
        self.assertEqual(client.send(frames, 3), (both, 2, 9))

    def test_window_waits_for_the_oldest(self) -> None:
        """Answers to others make no room before the oldest has its own."""
        client = ready(window=3, sent=3)
        client.receive(rsp(4) + rsp(3))
        self.assertEqual((client.room, client.unanswered), (0, 1))
        client.receive(rsp(2))
        self.assertEqual((client.room, client.unanswered), (3, 0))

    def test_sizes(self) -> None:
        """A message of 1 to 131,072 bytes is sent; with any other, none is."""
        client = ready()
        self.assertEqual(MESSAGE_BYTES_MAX, 131_072)
        most = b"x" * MESSAGE_BYTES_MAX
        self.assertEqual(send(client, [most]), b"2 syslog 131072 " + most + b"\n")
        for wrong in (b"", most + b"x"):
            with self.subTest(len(wrong)), self.assertRaises(ValueError):
                client.send(counted([b"a", wrong, b"b"]))
        self.assertEqual(client.next_txnr, 3)
        self.assertEqual(client.receive(rsp(2)), [Confirmed(2, 2)])
        self.assertEqual(client.unanswered, 0)

    def test_only_when_ready(self) -> None:
        """Before the answer to open, after close, and in a broken session: none."""
        new, opening, closing, broken = Client(), Client(), ready(), ready()
        opening.open()
        closing.close()
        broken.receive(b"?")
        for client in (new, opening, closing, broken):
            with self.subTest(client.state):
                self.assertEqual(client.send(b"1 x"), (b"", 0, 0))

    def test_worn_out(self) -> None:
        """The last number is given, no other, and the session can still close."""
        client = ready(window=10, txnr_max=5)
        self.assertEqual(client.room, 4)
        send(client, [b"x"] * 3)
        self.assertFalse(client.worn_out)
        self.assertEqual(client.room, 1)
        send(client, [b"x"])
        self.assertTrue(client.worn_out)
        client.receive(b"".join(map(rsp, range(2, 6))))
        self.assertEqual((client.room, client.unanswered), (0, 0))
        self.assertEqual(client.send(b"1 x"), (b"", 0, 0))
        self.assertEqual(client.close(), b"6 close 0\n")
        self.assertEqual(client.receive(rsp(6, b"")), [Closed()])

    def test_worn_out_by_default(self) -> None:
        """Long before the number at which librelp ends a session."""
        self.assertLess(TXNR_MAX, 999_999_999 - 10_000_000)
        self.assertFalse(ready().worn_out)


class AnswerTests(ClientTestCase):
    """Each frame is answered once, in whatever order and words."""

    def check(self, octets: bytes, *expected: Event, left: Sequence[int]) -> None:
        """With frames 2 to 6 on their way, whole and byte by byte."""
        client = ready(sent=5)
        self.assertEqual(client.receive(octets), [*expected])
        self.assertEqual(client.unanswered_txnrs(), [*left])
        for size in (1, 2, 7):
            client = ready(sent=5)
            self.assertEqual(
                list(single(fed(client, octets, size))), list(single(expected))
            )
            self.assertEqual(client.unanswered_txnrs(), [*left])
            self.assertEqual(client.unanswered, len(left))

    def test_in_order(self) -> None:
        """A run of answers is one event."""
        self.check(rsp(2), Confirmed(2, 2), left=[3, 4, 5, 6])
        self.check(rsp(2) + rsp(3) + rsp(4), Confirmed(2, 4), left=[5, 6])
        self.check(b"".join(map(rsp, range(2, 7))), Confirmed(2, 6), left=[])

    def test_in_part(self) -> None:
        """An answer counts with its last byte."""
        self.check(rsp(2)[:-1], left=[2, 3, 4, 5, 6])
        self.check(rsp(2) + rsp(3)[:1], Confirmed(2, 2), left=[3, 4, 5, 6])
        self.check(rsp(2) + rsp(3)[:-1], Confirmed(2, 2), left=[3, 4, 5, 6])

    def test_in_other_words(self) -> None:
        """200 is success whatever stands behind it, and however txnr is written."""
        for answer in (
            rsp(2, b"200 ok"),
            rsp(2, b"200 "),
            rsp(2, b"200 \n\x00\xff\n"),
            rsp(2, b"200 OK\n" + OFFERS),
            rsp(2, b"200 " + b"x" * (RSP_BYTES_MAX - 4)),
            b"000000002 rsp 000000006 200 OK\n",
            b"2 rsp 06 200 OK\n",
        ):
            with self.subTest(answer[:40]):
                self.check(answer, Confirmed(2, 2), left=[3, 4, 5, 6])
                self.check(answer + rsp(3), Confirmed(2, 3), left=[4, 5, 6])
                self.check(
                    answer + rsp(3) + rsp(4)[:5], Confirmed(2, 3), left=[4, 5, 6]
                )

    def test_out_of_order(self) -> None:
        """Each is told as it comes, runs as runs."""
        self.check(rsp(4), Confirmed(4, 4), left=[2, 3, 5, 6])
        self.check(
            rsp(4) + rsp(5) + rsp(2) + rsp(3) + rsp(6),
            *(Confirmed(4, 5), Confirmed(2, 3), Confirmed(6, 6)),
            left=[],
        )
        self.check(
            rsp(6) + rsp(5) + rsp(2),
            *(Confirmed(6, 6), Confirmed(5, 5), Confirmed(2, 2)),
            left=[3, 4],
        )

    def test_refused(self) -> None:
        """Another code is a refusal of that frame alone."""
        self.check(
            rsp(2) + rsp(3, b"500 disk full") + rsp(4),
            *(Confirmed(2, 2), Refused(3, 500, "disk full"), Confirmed(4, 4)),
            left=[5, 6],
        )
        for data, code, text in [
            (b"500 ", 500, ""),
            (b"000 x", 0, "x"),
            (b"201 OK", 201, "OK"),
            (b"999 a\nb", 999, "a"),
            (b"500 \x1b[2J\r\x00\xff\x85", 500, "\\x1b[2J\\r\\x00\\xff\\x85"),
            (b"500 caf\xc3\xa9", 500, "café"),
            (b"500 " + b"x" * 8000, 500, "x" * 200),
        ]:
            with self.subTest(data[:20]):
                self.check(rsp(2, data), Refused(2, code, text), left=[3, 4, 5, 6])
                self.check(rsp(6, data), Refused(6, code, text), left=[2, 3, 4, 5])

    def test_sent_in_between(self) -> None:
        """Frames that are sent while an answer is half here are known as well."""
        for first in (rsp(2), rsp(2, b"200 Taken"), rsp(2, b"500 x")):
            for cut in range(len(first) + 1):
                client = ready(sent=1)
                events = client.receive(first[:cut])
                send(client, [b"x"])
                events += client.receive(first[cut:] + rsp(3)[:4])
                send(client, [b"y", b"z"])
                events += client.receive(rsp(3)[4:] + rsp(4) + rsp(5))
                begun = Refused(2, 500, "x") if b"500" in first else Confirmed(2, 2)
                self.assertEqual(
                    list(single(events)), [begun, *(Confirmed(n, n) for n in (3, 4, 5))]
                )
                self.assertEqual(client.unanswered, 0)

    def test_sent_behind_an_early_answer(self) -> None:
        """The answer to a newer frame is not taken for that to the oldest."""
        client = ready(sent=2)
        self.assertEqual(client.receive(rsp(3)), [Confirmed(3, 3)])
        send(client, [b"x"])
        self.assertEqual(client.receive(rsp(4)), [Confirmed(4, 4)])
        self.assertEqual(client.unanswered_txnrs(), [2])
        self.assertEqual(client.receive(rsp(2)), [Confirmed(2, 2)])
        send(client, [b"y"])
        self.assertEqual(client.receive(rsp(5)), [Confirmed(5, 5)])

    def test_answer_inside_an_answer(self) -> None:
        """What looks like an answer to a frame, in the text of another, is none."""
        answer = rsp(2, b"200 see\n" + rsp(3))
        client = ready(sent=1)
        self.assertEqual(client.receive(answer[: -len(rsp(3)) - 1]), [])
        send(client, [b"x"])
        self.assertEqual(client.receive(rsp(3)), [])
        self.assertEqual(client.receive(b"\n" + rsp(3)), [Confirmed(2, 3)])

    def test_nothing(self) -> None:
        """No octets say nothing, at any time."""
        clients = [Client(), Client(), ready(), ready(sent=2)]
        clients[0].open()
        clients += [ready(sent=2), ready(), ready(), ready()]
        clients[-4].receive(rsp(3))
        clients[-3].close()
        clients[-2].close()
        clients[-2].end_of_stream()
        clients[-1].end_of_stream()
        self.assertEqual({client.state for client in clients}, set(State))
        for client in clients:
            state = client.state
            self.assertEqual(client.receive(b""), [])
            self.assertIs(client.state, state)


class BrokenTests(ClientTestCase):
    """What is no answer to a frame breaks the session, and says why."""

    def check(self, octets: bytes) -> str:
        """With frames 2 and 3 on their way, after an answer to 2."""
        whys = set()
        for size in (0, 1, 3):
            client = ready(sent=2)
            events = fed(client, rsp(2) + octets, size)
            self.assertEqual(list(single(events)), [Confirmed(2, 2), Broken])
            whys.add(self.assert_broken(client, events))
            self.assertEqual(client.unanswered_txnrs(), [3])
        return max(whys)

    def test_txnr(self) -> None:
        """An answer to no frame, and a second answer."""
        for txnr in (0, 1, 2, 4, 999_999_999):
            for data in (b"200 OK", b"500 x", b""):
                with self.subTest((txnr, data)):
                    self.assertIn(f"to {txnr},", self.check(rsp(txnr, data)))

    def test_answered_twice_out_of_order(self) -> None:
        """Also when an older one is still to come."""
        client = ready(sent=3)
        events = client.receive(rsp(3) + rsp(3))
        self.assertEqual(list(single(events)), [Confirmed(3, 3), Broken])
        self.assertEqual(client.unanswered_txnrs(), [2, 4])
        self.assert_broken(client, events)

    def test_malformed(self) -> None:
        """What is no frame, or no answer."""
        for octets in (
            b"?",
            b"\n",
            b" ",
            b"-1 rsp 6 200 OK\n",
            b"+3 rsp 6 200 OK\n",
            b"3  rsp 6 200 OK\n",
            b"3\trsp 6 200 OK\n",
            b"3\nrsp 6 200 OK\n",
            b"3 rsp  6 200 OK\n",
            b"3 rsp -6 200 OK\n",
            b"3 rsp 6\t200 OK\n",
            b"3 rsp 6\r\n200 OK\n",
            b"3 rsp 6\n200 OK\n",
            b"3 rsp 6\n200 O\n",
            b"3 rsp 0 \n",
            b"3 rsp\n",
            b"3 rsp 5 200 OK\n",
            b"3 rsp 6 200 OK\r\n",
            b"3 rsp 6 200 OK3",
            b"3 rsp1 6 200 OK\n",
            b"3 r\xc3\xa9p 6 200 OK\n",
            "٣ rsp 6 200 OK\n".encode(),
            b"3 rsp 0\n",
            b"3 rsp 3 200\n",
            b"3 rsp 5 200OK\n",
            b"3 rsp 4 20 x\n",
            b"3 rsp 6 2000 x\n",
            b"3 rsp 6 \xb2\xb2\xb2 OK\n",
            b"3 rsp 2 OK\n",
            b"3 RSP 6 200 OK\n",
            b"3 rs 6 200 OK\n",
            b"3 open 0\n",
            b"3 syslog 6 200 OK\n",
            b"0 what 0\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"\x15\x03\x01\x00\x02\x02\x0a",
        ):
            with self.subTest(octets):
                self.check(octets)

    def test_limits(self) -> None:
        """More digits, letters or data than there may be, before they have come."""
        for octets in (
            b"1" * 10,
            b"0" * 9 + b"3 rsp 6 200 OK\n",
            b"3 " + b"a" * 33,
            b"3 rsp 1000000000",
            b"3 rsp 0000000006 ",
            b"3 rsp %d " % (RSP_BYTES_MAX + 1),
            b"3 rsp 999999999 ",
            b"3 %b %d " % (b"z" * 32, RSP_BYTES_MAX + 1),
        ):
            with self.subTest(octets):
                self.check(octets)

    def test_server_closes(self) -> None:
        """The hint ends the session, with data and without, and so does its end."""
        for octets in (b"0 serverclose 0\n", b"0 serverclose 3 bye\n"):
            self.assertIn("ended the session", self.check(octets))
        for sent in (0, 2):
            client = ready(sent=sent)
            why = self.assert_broken(client, client.end_of_stream())
            self.assertIn("ended the session", why)
            self.assertEqual(client.unanswered, sent)

    def test_end_at_other_times(self) -> None:
        """Also before open was answered, or in the middle of an answer."""
        client = Client()
        self.assert_broken(client, client.end_of_stream())
        client = Client()
        client.open()
        client.receive(ACCEPTED[:-1])
        self.assert_broken(client, client.end_of_stream())
        client = ready(sent=1)
        client.receive(rsp(2)[:-1])
        self.assert_broken(client, client.end_of_stream())
        self.assertEqual(client.unanswered_txnrs(), [2])

    def test_shows_what_came(self) -> None:
        """What came in place of a frame is shown, escaped and short."""
        self.assertIn(
            "'HTTP/1.1 400 Bad Request\\r", self.check(b"HTTP/1.1 400 Bad Request\r\n")
        )
        self.assertLess(len(self.check(b"\x1b" * 100_000)), 300)


class CloseTests(ClientTestCase):
    """The owner ends a session, and learns when all of it was answered."""

    def test_closed(self) -> None:
        """By the answer to close, by serverclose and by the end of the stream."""
        for octets in (
            rsp(3, b""),
            rsp(3, b"") + b"0 serverclose 0\n",
            rsp(3),
            b"0 serverclose 0\n",
            rsp(3, b"") + b"whatever\xff",
        ):
            for size in (0, 1):
                with self.subTest((octets, size)):
                    client = ready(sent=1)
                    client.receive(rsp(2))
                    self.assertEqual(client.close(), b"3 close 0\n")
                    self.assertIs(client.state, State.CLOSING)
                    self.assertEqual(fed(client, octets, size), [Closed()])
                    self.assertIs(client.state, State.CLOSED)
                    self.assertEqual(client.end_of_stream(), [])
                    self.assertEqual(client.receive(b"?"), [])
        client = ready()
        client.close()
        self.assertEqual(client.end_of_stream(), [Closed()])

    def test_answers_come_first(self) -> None:
        """What was on its way when the owner closed is answered as ever."""
        for size in (0, 1):
            client = ready(sent=3)
            self.assertEqual(client.close(), b"5 close 0\n")
            events = fed(client, rsp(2) + rsp(3, b"500 x") + rsp(4) + rsp(5, b""), size)
            self.assertEqual(
                events,
                [Confirmed(2, 2), Refused(3, 500, "x"), Confirmed(4, 4), Closed()],
            )

    def test_unanswered(self) -> None:
        """An end before the answers is a broken session."""
        for octets in (rsp(4, b""), b"0 serverclose 0\n"):
            client = ready(sent=2)
            client.close()
            events = client.receive(rsp(2) + octets)
            self.assertEqual(list(single(events)), [Confirmed(2, 2), Broken])
            self.assert_broken(client, events)
            self.assertEqual(client.unanswered_txnrs(), [3])
        client = ready(sent=1)
        client.close()
        self.assert_broken(client, client.end_of_stream())

    def test_not_in_order(self) -> None:
        """A session opens once, and closes once after that."""
        with self.assertRaises(RuntimeError):
            Client().close()
        client = ready()
        with self.assertRaises(RuntimeError):
            client.open()
        client.close()
        with self.assertRaises(RuntimeError):
            client.close()


# Against a server.


@define
class ModelServer:
    """
    Takes what a client sends, by a parser that has nothing of the client's.

    @ivar frames: txnr, command and data of each, in order.
    """

    frames: list[tuple[int, bytes, bytes]] = field(factory=list)
    _rest: bytes = b""

    def take(self, octets: bytes) -> None:
        self._rest += octets
        while self._rest:
            txnr, command, rest = self._rest.split(b" ", 2)
            digits = rest[: len(rest) - len(rest.lstrip(b"0123456789"))]
            assert digits, self._rest[:80]
            rest = rest[len(digits) :]
            if int(digits):
                assert rest[:1] == b" ", self._rest[:80]
                rest = rest[1:]
            data, rest = rest[: int(digits)], rest[int(digits) :]
            assert len(data) == int(digits), "half a frame was written"
            assert rest[:1] == b"\n", self._rest[:80]
            self._rest = rest[1:]
            assert int(txnr) == len(self.frames) + 1, "a gap in the txnrs"
            self.frames.append((int(txnr), command, data))


_texts = st.one_of(
    st.just(b"200 OK"),
    st.just(b"200 OK"),
    st.sampled_from([b"200 ok", b"200 ", b"500 no", b"404 \xff\x00", b"200 OK\na=b"]),
    st.builds(
        lambda code, text: b"%03d " % code + text,
        st.integers(0, 999),
        st.binary(max_size=20),
    ),
)
_sizes = st.lists(st.integers(1, 60), min_size=1, max_size=5)


def in_pieces(octets: bytes, sizes: list[int]) -> Iterator[bytes]:
    turn = 0
    while octets:
        size = sizes[turn % len(sizes)]
        yield octets[:size]
        octets, turn = octets[size:], turn + 1


def foretold(txnr: int, text: bytes) -> Event:
    """What an answer comes to, but for the looks of its text."""
    code = int(text[:3])
    return Confirmed(txnr, txnr) if code == 200 else Refused(txnr, code, "")


def without_text(events: Iterable[Event]) -> list[Event | type[Broken]]:
    return [
        Refused(event.txnr, event.code, "") if isinstance(event, Refused) else event
        for event in single(events)
    ]


class AgainstServerTests(ClientTestCase):
    """Whatever is sent and however it is answered, both sides agree."""

    @settings(deadline=None, max_examples=300)
    @given(st.data(), st.integers(1, 12), _sizes)
    def test_any_session(
        self, choices: st.DataObject, window: int, sizes: list[int]
    ) -> None:
        """
        Messages come to the server as they are; answers, in any order and in any
        pieces, come to the events that they are; each frame has one.
        """
        client, server = Client(window=window), ModelServer()
        server.take(client.open())
        events = fed(client, ACCEPTED, sizes[0])
        self.assertEqual(len(events), 1)
        sent: list[bytes] = []
        expected: list[Event] = []
        waiting: list[int] = []
        stream = b""
        for _ in range(choices.draw(st.integers(1, 8), "turns")):
            messages = choices.draw(
                st.lists(st.binary(min_size=1, max_size=20), max_size=client.room),
                "messages",
            )
            waiting += range(client.next_txnr, client.next_txnr + len(messages))
            sent += messages
            server.take(send(client, messages))
            if choices.draw(st.integers(0, 3), "order") == 0:
                waiting = list(choices.draw(st.permutations(waiting), "permuted"))
            answered = choices.draw(st.integers(0, len(waiting)), "answered")
            for txnr in waiting[:answered]:
                text = choices.draw(_texts, "text")
                stream += rsp(txnr, text)
                expected.append(foretold(txnr, text))
            waiting = waiting[answered:]
            # The last piece may end in the middle of an answer, until the next turn.
            kept = choices.draw(st.integers(0, min(len(stream), 20)), "kept")
            events = []
            for piece in in_pieces(stream[: len(stream) - kept], sizes):
                events += client.receive(piece)
            stream = stream[len(stream) - kept :]
            got = without_text(events)
            self.assertEqual(got, expected[: len(got)])
            expected = expected[len(got) :]
            self.assertLessEqual(client.unanswered, window)
            self.assertEqual(client.unanswered, len(client.unanswered_txnrs()))
        self.assertEqual(without_text(client.receive(stream)), expected)
        self.assertEqual(client.unanswered_txnrs(), sorted(waiting))
        self.assertEqual([f[2] for f in server.frames[1:]], sent)
        self.assertEqual({f[1] for f in server.frames[1:]} | {b"syslog"}, {b"syslog"})

    @settings(deadline=None)
    @given(st.lists(st.integers(1, 30), min_size=1, max_size=6), _sizes)
    def test_words_do_not_matter(self, counts: list[int], sizes: list[int]) -> None:
        """The answers that are foreseen make the same events as those that are not."""
        found = []
        for text in (b"200 OK", b"200 Ok"):
            client = ready()
            events: list[Event] = []
            for count in counts:
                first = client.next_txnr
                send(client, [b"m"] * count)
                stream = b"".join(
                    rsp(txnr, text) for txnr in range(first, client.next_txnr)
                )
                for piece in in_pieces(stream, sizes):
                    events += client.receive(piece)
            self.assertEqual(client.unanswered, 0)
            found.append(events)
        self.assertEqual(*found)

    def test_long_session(self) -> None:
        """10,000 frames pass a window of 128, with digits coming to the txnr."""
        client, server = ready(), ModelServer()
        server.take(Client().open())
        messages = [b"message %d\n" % n for n in range(10_000)]
        sent = 0
        while sent < len(messages) or client.unanswered:
            batch = messages[sent : sent + client.room]
            first = client.next_txnr
            server.take(send(client, batch))
            sent += len(batch)
            answers = b"".join(map(rsp, range(first, client.next_txnr)))
            self.assertEqual(
                client.receive(answers), [Confirmed(first, client.next_txnr - 1)]
            )
        self.assertEqual([data for _, _, data in server.frames[1:]], messages)
        server.take(client.close())
        self.assertEqual(server.frames[-1], (10_002, b"close", b""))


class AnyOctetsTests(ClientTestCase):
    """A server that says anything at all does no more than break the session."""

    def check(self, octets: bytes, sizes: list[int]) -> None:
        """Whole and in pieces it comes to the same events, `Broken` the last."""
        outcomes = []
        for pieces in ([octets], in_pieces(octets, sizes), in_pieces(octets, [1])):
            client = ready(sent=4)
            events = [event for piece in pieces for event in client.receive(piece)]
            events += client.end_of_stream()
            self.assert_broken(client, events)
            outcomes.append((list(single(events)), client.unanswered_txnrs()))
        self.assertEqual(outcomes[0], outcomes[1])
        self.assertEqual(outcomes[0], outcomes[2])
        told = [e for e in outcomes[0][0] if e is not Broken]
        self.assertEqual(len(told) + len(outcomes[0][1]), 4)

    @settings(deadline=None, max_examples=300)
    @given(
        st.lists(
            st.one_of(
                st.builds(rsp, st.integers(0, 7), _texts),
                st.sampled_from([b"0 serverclose 0\n", b"3 rsp ", b"\n", b" ", b"9"]),
                st.binary(max_size=10),
            ),
            max_size=8,
        ).map(b"".join),
        _sizes,
    )
    def test_any_octets(self, octets: bytes, sizes: list[int]) -> None:
        """Of answers and of what is none."""
        self.check(octets, sizes)

    @settings(deadline=None, max_examples=300)
    @given(st.integers(0, 59), st.binary(max_size=3), st.integers(0, 3), _sizes)
    def test_any_mutation(
        self, at: int, other: bytes, dropped: int, sizes: list[int]
    ) -> None:
        """Of good answers with a change anywhere."""
        octets = b"".join(map(rsp, range(2, 6)))
        self.check(octets[:at] + other + octets[at + dropped :], sizes)

    def test_no_growth(self) -> None:
        """No server keeps a client reading for ever: the largest frame is the end."""
        starts = (b"", b"3", b"3 ", b"3 rsp", b"3 rsp ", b"3 rsp 8192", b"3 rsp 8192 ")
        for start in starts:
            for byte in b"3a \n\x00":
                opening, waiting, closing = Client(), ready(sent=3), ready(sent=3)
                opening.open()
                closing.close()
                for client in (opening, waiting, closing):
                    client.receive(start)
                    most = OPEN_RSP_BYTES_MAX if client is opening else RSP_BYTES_MAX
                    for _ in range(0, most + 100, 100):
                        client.receive(bytes([byte]) * 100)
                    self.assertIn(client.state, OVER, (start, byte))
