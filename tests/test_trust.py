"""Whose word counts on where a post came from, and that of nobody else."""

from ipaddress import ip_network
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from logiss import trust
from logiss.answers import ONLY_SSL
from logiss.site import ChannelSite
from logiss.trust import TrustedProxies
from logiss.variables import EVERYBODY, Networks
from tests.front import PEER, Connection, Front, framed, request, stamped
from tests.http_rows import BODY

Headers = dict[str, str | None]


def networks(*texts: str) -> Networks:
    return tuple(ip_network(text) for text in texts)


class TrustedProxiesTests(SynchronousTestCase):
    """`TrustedProxies` has the addresses of its networks."""

    def test_networks(self) -> None:
        """IPv4 and IPv6, the first and the last address of each and none beside."""
        proxies = TrustedProxies(networks("10.1.2.0/23", "192.0.2.7", "2001:db8::/32"))
        for host in (
            "10.1.2.0",
            "10.1.3.255",
            "192.0.2.7",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        ):
            self.assertIn(host, proxies)
        for host in (
            "10.1.1.255",
            "10.1.4.0",
            "192.0.2.6",
            "192.0.2.8",
            "2001:db7:ffff::",
            "2001:db9::",
            "::ffff:192.0.2.7",
            "::",
        ):
            self.assertNotIn(host, proxies)

    def test_nobody(self) -> None:
        """Without networks there is nobody."""
        for host in ("192.0.2.7", "::1", ""):
            self.assertNotIn(host, TrustedProxies(()))

    def test_everybody(self) -> None:
        """Every address is in all of them, and what is no address is not."""
        for host in ("0.0.0.0", "255.255.255.255", "::", "ffff::"):
            self.assertIn(host, TrustedProxies(EVERYBODY))
        for host in ("", "localhost", "10.0.0.0/8"):
            self.assertNotIn(host, TrustedProxies(EVERYBODY))

    def test_bounded(self) -> None:
        """Few addresses are known again, however many there are."""
        self.patch(trust, "_KNOWN_MAX", 8)
        proxies = TrustedProxies(networks("10.0.0.0/24"))
        for i in range(100):
            self.assertIn(f"10.0.0.{i}", proxies)
            self.assertNotIn(f"10.0.1.{i}", proxies)
            self.assertLessEqual(len(proxies._known), 8)


FORWARDED_FOR: Headers = {"X-Forwarded-For": "203.0.113.9, 203.0.113.8"}
HTTPS: Headers = {"X-Forwarded-Proto": "https"}
#: Networks with the peer in them, and without.
WITH_PEER = networks("2001:db8::/32", PEER + "/32")
WITHOUT_PEER = networks("198.51.100.0/24", "::/0")


class FrontTests(SynchronousTestCase):
    """What a front door makes of headers that proxies set, on both channels."""

    def post(
        self,
        headers: Headers,
        peer: str = PEER,
        **settings: Any,
    ) -> tuple[int, str, dict[str, str]]:
        """The answer's code, the address in the origin, and the log line."""
        seen = []
        for name in ("channel", "logs"):
            clock = Clock()
            front = Front(clock, **settings)
            site = front.site(name)
            connection = Connection(site, peer)
            connection.send(request(BODY, headers=headers))
            (answer,) = connection.answers()
            connection.hang_up()
            if isinstance(site, ChannelSite):
                site.doStop()
            octets = front.deliverer.octets
            address = octets.partition(b'[origin ip="')[2].partition(b'"]')[0].decode()
            if octets:
                self.assertEqual(
                    octets,
                    framed(stamped(b"one", address), stamped(b"two", address)),
                )
            (line,) = front.lines.having("remote_addr")
            seen.append((answer.code, address, line))
        self.assertEqual(seen[0], seen[1])
        return seen[0]

    def test_default(self) -> None:
        """By default everybody is believed."""
        code, address, line = self.post(FORWARDED_FOR)
        self.assertEqual((code, address), (200, "203.0.113.9, 203.0.113.8"))
        self.assertEqual(line["remote_addr"], address)

    def test_trusted(self) -> None:
        """So is who is in one of the networks."""
        code, address, line = self.post(FORWARDED_FOR, trusted_proxies=WITH_PEER)
        self.assertEqual((code, address), (200, "203.0.113.9, 203.0.113.8"))
        self.assertEqual(line["remote_addr"], address)
        self.assertEqual(self.post({}, trusted_proxies=WITH_PEER)[1], PEER)

    def test_untrusted(self) -> None:
        """Of anybody else ``X-Forwarded-For`` is ignored, in the frames and the log."""
        for proxies in (WITHOUT_PEER, ()):
            forged: Headers = {"X-Forwarded-For": '"]'}
            for headers in (FORWARDED_FOR, forged, {}):
                code, address, line = self.post(headers, trusted_proxies=proxies)
                self.assertEqual((code, address), (200, PEER))
                self.assertEqual(line["remote_addr"], PEER)

    def test_untrusted_refused(self) -> None:
        """A line of a post that is refused has the peer's address, too."""
        code, _, line = self.post(
            {**FORWARDED_FOR, "Authorization": None}, trusted_proxies=WITHOUT_PEER
        )
        self.assertEqual(code, 401)
        self.assertEqual(line["remote_addr"], PEER)

    def test_mapped(self) -> None:
        """A peer with an IPv4-mapped address is known as IPv4."""
        for proxies, expected in ((WITH_PEER, 203), (WITHOUT_PEER, 192)):
            _, address, _ = self.post(
                FORWARDED_FOR, peer="::ffff:" + PEER, trusted_proxies=proxies
            )
            self.assertTrue(address.startswith(f"{expected}."), address)

    def test_https(self) -> None:
        """``X-Forwarded-Proto`` is believed of the same."""
        for proxies, code in (
            (EVERYBODY, 200),
            (WITH_PEER, 200),
            (WITHOUT_PEER, 400),
            ((), 400),
        ):
            found = self.post(HTTPS, enforce_ssl=True, trusted_proxies=proxies)
            self.assertEqual(found[0], code)
            if code == 400:
                self.assertEqual(found[2]["post.error"], ONLY_SSL.text)

    def test_not_https(self) -> None:
        """Nobody's is asked for unless it is enforced."""
        for proxies in (EVERYBODY, WITH_PEER, WITHOUT_PEER):
            self.assertEqual(self.post({}, trusted_proxies=proxies)[0], 200)

    def test_behind_proxy_protocol(self) -> None:
        """With the PROXY protocol nobody is, unless it is said who."""
        self.assertEqual(self.post(FORWARDED_FOR, proxy_protocol=True)[1], PEER)
        _, address, _ = self.post(
            FORWARDED_FOR, proxy_protocol=True, trusted_proxies=WITH_PEER
        )
        self.assertEqual(address, "203.0.113.9, 203.0.113.8")

    def test_default_costs_nothing(self) -> None:
        """By default no peer is looked up, also where HTTPS is enforced."""

        looked_up: list[str] = []

        def look_up(proxies: TrustedProxies, host: str) -> bool:
            looked_up.append(host)
            return True

        self.patch(TrustedProxies, "__contains__", look_up)
        self.post({**FORWARDED_FOR, **HTTPS})
        self.post({**FORWARDED_FOR, **HTTPS}, enforce_ssl=True)
        self.assertEqual(looked_up, [])
        self.post(FORWARDED_FOR, trusted_proxies=WITH_PEER)
        self.assertEqual(set(looked_up), {PEER})
