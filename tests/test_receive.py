"""What can be typed behind ``logiss receive``, and what the documents say of it."""

import argparse
import errno
import os
import re
from pathlib import Path
from typing import Any

from twisted.internet.testing import (
    MemoryReactorClock,
    StringTransport,
    StringTransportWithDisconnection,
)
from twisted.trial.unittest import SynchronousTestCase

from logiss.__main__ import command_line
from logiss.arrivals import RANGES_MAX, RUNS_MAX
from logiss.probes import Probe, text
from logiss.receiver import CONNECTIONS_MAX, FRAME_BYTES_MAX
from logiss.tools import receive
from logiss.tools.receive import (
    COMPLAINTS_MAX,
    GOODBYE_SECONDS,
    LINGER_SECONDS,
    Receiving,
    _line,
)
from tests.front import framed
from tests.test_relp_receiver import OPEN

_PAGE = Path(__file__).parent.parent / "docs" / "receiving.rst"


def _options() -> set[str]:
    for action in command_line()._actions:
        if isinstance(action, argparse._SubParsersAction):
            parser = action.choices["receive"]
            return {o for a in parser._actions for o in a.option_strings}
    raise AssertionError("no subcommands")


class DocumentTests(SynchronousTestCase):
    """docs/receiving.rst is about what there is."""

    def section(self) -> str:
        return _PAGE.read_text().partition("\nRefused bodies\n===")[0]

    def test_options(self) -> None:
        """It has each option, and no others but those of other commands."""
        page = (
            self.section()
            .replace("logiss send --framed", "")
            .replace("logiss send --test", "")
        )
        named = set(re.findall(r"(--[a-z-]+[a-z])", page))
        self.assertEqual(named, _options() - {"-h", "--help"})

    def test_numbers(self) -> None:
        """The bounds that it names are those that there are."""
        page = " ".join(self.section().split())
        for words in (
            f"up to {CONNECTIONS_MAX:,} connections",
            f"{FRAME_BYTES_MAX // 1024 // 1024} MiB at most",
            f"more than {COMPLAINTS_MAX} lines a second",
            f"A run may have {RANGES_MAX:,} of them",
            f"there may be {RUNS_MAX} runs",
        ):
            self.assertIn(words, page)
        self.assertEqual(LINGER_SECONDS, 0.5)
        self.assertIn("ends half a second after", page)


class Failing:
    """An output that takes nothing."""

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, octets: bytes) -> None:
        raise OSError(self._number, os.strerror(self._number))


class ReceivingTests(SynchronousTestCase):
    """What can be seen without a process."""

    def receiving(self, *options: str) -> tuple[Receiving, MemoryReactorClock]:
        arguments = command_line().parse_args(["receive", "--port", "0", *options])
        self.said: list[str] = []
        self.patch(receive, "_say", self.said.append)
        reactor = MemoryReactorClock()
        reactor.running = True
        receiving = Receiving(reactor, arguments)
        receiving.listen()
        return receiving, reactor

    def connect(self, reactor: MemoryReactorClock) -> StringTransport:
        factory: Any = reactor.tcpServers[0][1]
        protocol = factory.buildProtocol(None)
        transport = StringTransportWithDisconnection()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        self.feed = protocol.dataReceived
        return transport

    def test_lingers(self) -> None:
        """When all has come it waits for what should not come, and ends then."""
        _, reactor = self.receiving("--verify", "--expect", "1")
        transport = self.connect(reactor)
        for _ in range(2):
            self.feed(framed(text(Probe("r", 1))))
            reactor.advance(LINGER_SECONDS * 0.6)
        self.assertTrue(reactor.hasStopped)
        self.assertFalse(transport.connected)

    def test_lingers_so_long(self) -> None:
        """Not earlier."""
        _, reactor = self.receiving("--verify", "--expect", "1")
        transport = self.connect(reactor)
        self.feed(framed(text(Probe("r", 1))))
        reactor.advance(LINGER_SECONDS * 0.9)
        self.assertFalse(reactor.hasStopped)
        self.assertTrue(transport.connected)

    def test_says_goodbye_so_long(self) -> None:
        """It does not wait for ever for who does not end its connection."""
        receiving, reactor = self.receiving("--verify")
        transport = self.connect(reactor)
        transport.loseConnection = lambda: None  # type: ignore[method-assign]
        receiving.end()
        self.assertFalse(reactor.hasStopped)
        reactor.pump([GOODBYE_SECONDS / 4] * 5)
        self.assertTrue(reactor.hasStopped)

    def test_nobody_reads_relp(self) -> None:
        """A frame that nobody reads is answered before the session is ended."""
        receiving, reactor = self.receiving("--relp")
        receiving._outlet = Failing(errno.EPIPE)
        transport = self.connect(reactor)
        self.feed(OPEN)
        transport.clear()
        self.feed(b"2 syslog 5 hello\n3 syslog 5 again\n")
        reactor.advance(0)
        why = b"500 not written: Broken pipe"
        self.assertEqual(
            transport.value(),
            b"2 rsp %d %b\n3 rsp %d %b\n0 serverclose 0\n"
            % (len(why), why, len(why), why),
        )
        self.assertFalse(transport.connected)
        self.assertTrue(reactor.hasStopped)

    def test_nobody_reads_the_count(self) -> None:
        """That does not hide a frame which could not be written to the file."""
        for outlet, code in ((Failing(errno.ENOSPC), 1), (None, 0)):
            receiving, reactor = self.receiving("--count", "--output", os.devnull)
            receiving._stdout = Failing(errno.EPIPE)  # type: ignore[assignment]
            self.connect(reactor)
            self.feed(b"1 a")
            receiving._outlet = outlet or receiving._outlet
            self.feed(b"1 b")
            reactor.advance(1)
            reactor.advance(0)
            self.assertTrue(reactor.hasStopped)
            self.assertEqual(receiving.result(), code)
            said = "1 frame could not be written" in self.said
            self.assertEqual(said, outlet is not None)

    def test_complaints(self) -> None:
        """So many lines a second, then their number."""
        _, reactor = self.receiving("--verify")
        before = len(self.said)
        for _ in range(COMPLAINTS_MAX + 3):
            self.connect(reactor)
            self.feed(b"no length")
        self.assertEqual(len(self.said) - before, COMPLAINTS_MAX)
        reactor.advance(1)
        self.assertEqual(
            self.said[-1], "logiss receive: 3 more lines like these left out"
        )


class LineTests(SynchronousTestCase):
    """A frame on one line of a file."""

    def test_one_line(self) -> None:
        """A line feed at the end is dropped, others are shown, nothing else changes."""
        for frame, line in [
            (b"a", b"a\n"),
            (b"a\n", b"a\n"),
            (b"a\n\n", b"a\\n\n"),
            (b"\n", b"\n"),
            (b"", b"\n"),
            (b"a\nb\r\x00\xff\\n", b"a\\nb\r\x00\xff\\n\n"),
        ]:
            self.assertEqual(_line(frame), line)
