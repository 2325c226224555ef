"""Clients never get the descriptors that the process needs for itself."""

import resource

from twisted.trial.unittest import SynchronousTestCase

from logiss import descriptors
from logiss.descriptors import (
    clients_max,
    descriptors_max,
    raise_descriptors_max,
    reserved,
    why_too_few,
)


class ShareTests(SynchronousTestCase):
    """How many clients there may be is what was wanted, or what is left."""

    def test_reserved(self) -> None:
        """64, two for each connection to the backend, 160 for an admin port."""
        self.assertEqual(reserved(4), 72)
        self.assertEqual(reserved(4, has_admin=True), 232)
        self.assertEqual(reserved(1000), 2064)

    def test_clients(self) -> None:
        """What is kept for the process is never given to clients."""
        for wanted, limit, expected in [
            (10_000, 20_000, 10_000),
            (10_000, 10_072, 10_000),
            (10_000, 10_071, 9_999),
            (10_000, 1024, 952),
            (10_000, 73, 1),
            (10_000, 72, 0),
            (10_000, 10, 0),
            (5, 1024, 5),
        ]:
            with self.subTest((wanted, limit)):
                self.assertEqual(clients_max(wanted, reserved(4), limit), expected)

    def test_too_few(self) -> None:
        """Room for less than a handful is a mistake, unless no more was wanted."""
        for wanted, limit, is_mistake in [
            (10_000, 88, False),
            (10_000, 87, True),
            (10_000, 10, True),
            (3, 75, False),
            (3, 74, True),
        ]:
            with self.subTest((wanted, limit)):
                self.assertEqual(
                    bool(why_too_few(wanted, reserved(4), limit)), is_mistake
                )

    def test_says_what_to_do(self) -> None:
        """It says what there is and what there should be."""
        self.assertEqual(
            why_too_few(10_000, reserved(4), 64),
            "the process may open 64 files and sockets, and keeps 72 for itself;"
            " raise its limit (ulimit -n) to 10072",
        )


class LimitTests(SynchronousTestCase):
    """The limit is raised as far as it needs to be and may be."""

    def setUp(self) -> None:
        self.limits = (1024, 4096)
        self.patch(resource, "getrlimit", lambda which: self.limits)
        self.patch(resource, "setrlimit", self.set)

    def set(self, which: int, limits: tuple[int, int]) -> None:
        self.assertEqual(which, resource.RLIMIT_NOFILE)
        self.limits = limits

    def test_raised(self) -> None:
        """The soft limit goes up to what is needed, the hard one stays."""
        raise_descriptors_max(3000)
        self.assertEqual(self.limits, (3000, 4096))
        self.assertEqual(descriptors_max(), 3000)

    def test_at_most_to_the_hard_one(self) -> None:
        """Nobody but root goes beyond the hard limit."""
        raise_descriptors_max(10_072)
        self.assertEqual(self.limits, (4096, 4096))

    def test_no_hard_one(self) -> None:
        """Where there is none, it is what is needed, not infinity."""
        self.limits = (1024, resource.RLIM_INFINITY)
        raise_descriptors_max(10_072)
        self.assertEqual(self.limits, (10_072, resource.RLIM_INFINITY))

    def test_never_lowered(self) -> None:
        """A process that may open more than is needed goes on to."""
        raise_descriptors_max(500)
        self.assertEqual(self.limits, (1024, 4096))
        self.limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        raise_descriptors_max(500)
        self.assertEqual(self.limits[0], resource.RLIM_INFINITY)
        self.assertGreater(descriptors_max(), 1_000_000)

    def test_refused(self) -> None:
        """A system that refuses leaves the limit as it was."""

        def refuse(which: int, limits: tuple[int, int]) -> None:
            raise ValueError("current limit exceeds maximum limit")

        self.patch(resource, "setrlimit", refuse)
        raise_descriptors_max(3000)
        self.assertEqual(descriptors_max(), 1024)

    def test_unknown(self) -> None:
        """A platform without such limits has none."""
        self.patch(descriptors, "_LIMIT", None)
        raise_descriptors_max(3000)
        self.assertEqual(self.limits, (1024, 4096))
        self.assertGreater(descriptors_max(), 1_000_000)
