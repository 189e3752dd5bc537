"""Decides which addresses deliveries may connect to: public ones, and those the operator allows.

Anyone who can write a webhook chooses where the bridge connects to from inside its network. So
everything that is not clearly the public internet is forbidden.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from bridge.access.proxies import Network

# Forbidden networks, each with words that complete "this address is …"; the first match counts.
#
# The table contains both registries of special-purpose addresses completely, including those that
# are globally reachable, since no receiver uses them:
# https://www.iana.org/assignments/iana-ipv4-special-registry
# https://www.iana.org/assignments/iana-ipv6-special-registry
# It adds multicast and unassigned space. Python's ipaddress omits some of these networks, and its
# answers have changed between patch releases.
_CLOSED = (
    ("0.0.0.0/32", "the unspecified address, which means this machine"),
    ("0.0.0.0/8", "an address of this network"),
    ("10.0.0.0/8", "a private address"),
    ("100.64.0.0/10", "a shared address behind a carrier's NAT"),
    ("127.0.0.0/8", "a loopback address"),
    # At 169.254.169.254, cloud providers serve a machine's credentials.
    ("169.254.0.0/16", "a link-local address"),
    ("172.16.0.0/12", "a private address"),
    ("192.0.0.0/24", "an address for protocol assignments"),
    ("192.0.2.0/24", "an address for documentation"),
    ("192.31.196.0/24", "an address of AS112 name servers"),
    ("192.52.193.0/24", "an address of multicast relays"),
    ("192.88.99.0/24", "an address of 6to4 relays"),
    ("192.168.0.0/16", "a private address"),
    ("192.175.48.0/24", "an address of AS112 name servers"),
    ("198.18.0.0/15", "an address for benchmarks"),
    ("198.51.100.0/24", "an address for documentation"),
    ("203.0.113.0/24", "an address for documentation"),
    ("224.0.0.0/4", "a multicast address"),
    ("255.255.255.255/32", "the broadcast address"),
    ("240.0.0.0/4", "a reserved address"),
    # In no registry: a public-looking address of the host that an Azure machine runs on.
    ("168.63.129.16/32", "Azure's address for a machine's own host"),
    ("::/128", "the unspecified address, which means this machine"),
    ("::1/128", "a loopback address"),
    ("::/96", "an IPv4 address written as IPv6"),
    ("::ffff:0:0:0/96", "an IPv4 address translated to IPv6"),
    ("64:ff9b::/96", "an IPv4 address behind NAT64"),
    ("64:ff9b:1::/48", "an IPv4 address behind a local NAT64"),
    ("100::/64", "an address that discards all traffic"),
    ("100:0:0:1::/64", "a dummy address"),
    ("2001::/32", "a Teredo address"),
    ("2001:2::/48", "an address for benchmarks"),
    ("2001:10::/28", "a cryptographic hash, not an address"),
    ("2001:20::/28", "a cryptographic hash, not an address"),
    ("2001::/23", "an address for protocol assignments"),
    ("2001:db8::/32", "an address for documentation"),
    ("2002::/16", "an IPv4 address behind 6to4"),
    ("2620:4f:8000::/48", "an address of AS112 name servers"),
    ("3fff::/20", "an address for documentation"),
    ("5f00::/16", "a source routing segment"),
    ("fc00::/7", "a private address"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a site-local address"),
    ("ff00::/8", "a multicast address"),
    # The rest of the space: only 2000::/3 is assigned to the internet.
    ("::/3", "a reserved address"),
    ("4000::/2", "a reserved address"),
    ("8000::/1", "a reserved address"),
)

_CLOSED_NETWORKS: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), words) for network, words in _CLOSED
)


class AddressPolicy:
    """Decides whether a delivery may connect to an address.

    An IPv4-mapped address (``::ffff:127.0.0.1``) is treated as its IPv4 address, which is what the
    kernel connects to. Every other IPv6 address with an embedded IPv4 address (NAT64, 6to4, Teredo)
    is forbidden unless an IPv6 network around it is allowed. NAT64 with a network's own prefix
    cannot be detected.
    """

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        """Allow these networks in addition to public addresses."""
        self._allowed = tuple(allowed)

    def refusal(self, address: str) -> str | None:
        """Return why an address is forbidden, such as "127.0.0.1 is a loopback address", or None.

        Args:
            address: as ``getaddrinfo`` returns it, with or without a zone (``fe80::1%eth0``).

        Raises:
            ValueError: it is not an address.
        """
        connected = _connected(address)
        if any(connected in network for network in self._allowed):
            return None
        for network, words in _CLOSED_NETWORKS:
            if connected in network:
                return f"{connected} is {words}"
        return None


def how_to_allow(address: str) -> str:
    """Return how to allow this address and no other, to follow its refusal.

    Raises:
        ValueError: it is not an address.
    """
    return f"to allow it, add {ip_network(_connected(address))} to BRIDGE_ALLOWED_NETWORKS"


def _connected(address: str) -> IPv4Address | IPv6Address:
    """Return the address that the kernel would connect to."""
    parsed = ip_address(address.partition("%")[0])
    return getattr(parsed, "ipv4_mapped", None) or parsed
