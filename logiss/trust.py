"""
Decides whose word counts on where a post came from: that of the proxies that are
trusted.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

Network = IPv4Network | IPv6Network

_KNOWN_MAX = 4096


class TrustedProxies:
    """
    The addresses in `networks`. What was found of few of them is known again.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._known: dict[str, bool] = {}

    def __contains__(self, host: str) -> bool:
        """Whether `host`, an address in the text of `ipaddress`, is one of them."""
        is_trusted = self._known.get(host)
        if is_trusted is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            is_trusted = self._known[host] = self._looked_up(host)
        return is_trusted

    def _looked_up(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            # A peer without an address, as on a UNIX socket.
            return False
        return any(address in network for network in self._networks)
