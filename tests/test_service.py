"""What a platform has against the settings ends the start."""

import errno
import os
import sys
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from logiss import descriptors, service, wire
from logiss.service import Forwarder, LogissService, platform_problems
from logiss.settings import Destination, Settings, SettingsError
from logiss.wire import why_no_acknowledgements
from tests.fakes import Lines

SYSLOG = Destination("192.0.2.1", 601)
RELP = (Destination("192.0.2.1", 2514, "relp"),)
RELP_TLS = (Destination("192.0.2.1", 2514, "relp+tls"),)

#: Level and destinations for which nobody asks the kernel.
UNASKING = [
    ("sent", (SYSLOG,)),
    ("sent", RELP),
    ("acked", RELP),
    ("acked", RELP_TLS),
]


def settings(delivery: str = "acked", forward_dest: Any = SYSLOG) -> Settings:
    return Settings(
        deploy="test",
        port=5000,
        forward_dest=forward_dest,
        tokens=(("user", "token"),),
        delivery=delivery,
    )


class ReasonTests(SynchronousTestCase):
    """`why_no_acknowledgements` says what is missing."""

    def setUp(self) -> None:
        # As if on Linux, wherever this runs.
        self.patch(sys, "platform", "linux")
        self.patch(wire, "_SIOCOUTQ", 0x5411)
        self.patch(wire, "ioctl", self.ioctl)
        self.asked: list[int] = []

    def ioctl(self, fd: int, request: int, octets: bytes) -> bytes:
        self.asked.append(request)
        return octets

    def test_nothing(self) -> None:
        """Where the kernel answers, nothing is missing."""
        self.assertEqual(why_no_acknowledgements(), "")
        self.assertEqual(self.asked, [0x5411])

    def test_no_such_number(self) -> None:
        """A Python that does not know the ioctl's number cannot ask."""
        self.patch(wire, "_SIOCOUTQ", 0)
        self.assertEqual(
            why_no_acknowledgements(),
            "needs Linux's SIOCOUTQ, which linux does not have",
        )
        self.assertEqual(self.asked, [])

    def test_other_platforms(self) -> None:
        """
        Elsewhere the platform is named, and not asked: the number means something
        else there.
        """
        for platform in ("darwin", "freebsd14", "win32"):
            self.patch(sys, "platform", platform)
            self.assertEqual(
                why_no_acknowledgements(),
                f"needs Linux's SIOCOUTQ, which {platform} does not have",
            )
        self.assertEqual(self.asked, [])

    def test_refused(self) -> None:
        """A system that refuses the ioctl, as a sandbox may, is quoted."""

        def refuse(fd: int, request: int, octets: bytes) -> bytes:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

        self.patch(wire, "ioctl", refuse)
        self.assertEqual(
            why_no_acknowledgements(),
            "needs the ioctl SIOCOUTQ, which this system refuses: "
            + os.strerror(errno.ENOTTY),
        )


class ProblemTests(SynchronousTestCase):
    """Who asks for `acked` is told what this platform has against it."""

    LINE = "DELIVERY: 'acked' needs what is not here; set DELIVERY=sent"

    def setUp(self) -> None:
        self.patch(service, "why_no_acknowledgements", lambda: "needs what is not here")
        self.reactor: Any = MemoryReactorClock()
        self.lines = Lines()

    def forwarder(self, settings: Settings) -> Forwarder:
        return Forwarder(self.reactor, settings, self.lines.events())

    def test_acked(self) -> None:
        """It is one line that begins with the variable and says what to do."""
        self.assertEqual(platform_problems(settings()), [self.LINE])

    def test_unasking(self) -> None:
        """`sent` needs no acknowledgements of TCP's, and RELP has its own."""
        for delivery, forward_dest in UNASKING:
            self.assertEqual(platform_problems(settings(delivery, forward_dest)), [])

    def test_able(self) -> None:
        """A platform that can say what was acknowledged has nothing against it."""
        self.patch(service, "why_no_acknowledgements", lambda: "")
        self.assertEqual(platform_problems(settings()), [])
        self.forwarder(settings())

    def test_embedded(self) -> None:
        """Another application is told when it builds, before anything is started."""
        with self.assertRaises(SettingsError) as raised:
            self.forwarder(settings())
        self.assertEqual(raised.exception.problems, [self.LINE])
        with self.assertRaises(SettingsError) as raised:
            LogissService(self.reactor, settings(), self.lines.write)
        self.assertEqual(raised.exception.problems, [self.LINE])
        self.assertEqual(self.lines.raw, [])

    def test_embedded_unasking(self) -> None:
        """One that does not ask for it is built."""
        for delivery, forward_dest in UNASKING:
            forwarder = self.forwarder(settings(delivery, forward_dest))
            level = "relp" if forward_dest != (SYSLOG,) else delivery
            self.assertEqual(forwarder.pool.delivery_level, level)


class DescriptorTests(SynchronousTestCase):
    """How many descriptors there are decides how many clients there may be."""

    def setUp(self) -> None:
        self.lines = Lines()

    def started(self, descriptors_max: int) -> None:
        """Start a whole logiss in a process that may open so many files."""
        self.patch(descriptors, "descriptors_max", lambda: descriptors_max)
        reactor: Any = MemoryReactorClock()
        LogissService(reactor, settings("sent"), self.lines.write).startService()

    def test_none_for_clients(self) -> None:
        """Another application is told when it builds that nobody could be served."""
        with self.assertRaises(SettingsError) as raised:
            self.started(80)
        self.assertEqual(
            raised.exception.problems,
            [
                "MAX_CONNECTIONS: the process may open 80 files and sockets, and keeps"
                " 72 for itself; raise its limit (ulimit -n) to 10072"
            ],
        )
        self.assertEqual(self.lines.raw, [])

    def test_fewer_clients(self) -> None:
        """With room for fewer than were asked for, a line says for how many."""
        self.started(1024)
        (line,) = self.lines.having("connections_max")
        self.assertEqual(line["connections_max"], "952")
        self.assertIn("MAX_CONNECTIONS=10000", line["message"])
        self.assertIn("to 10072", line["message"])

    def test_enough(self) -> None:
        """With enough, nothing is said."""
        self.started(10_072)
        self.assertEqual(self.lines.having("connections_max"), [])
