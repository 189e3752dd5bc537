"""Client addresses of requests that pass through trusted proxies."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network

#: IPv6 providers assign prefixes of this length, so one client owns all addresses within it.
IPV6_PREFIX: Final = 64
#: Longest chain of trusted proxies that is followed.
MOST_PROXIES: Final = 20


def client_address(peer: str, forwarded_for: Sequence[str], proxies: Sequence[Network]) -> str:
    """Return the address of the client that sent a request.

    Any client can send ``X-Forwarded-For``; each proxy appends the address it received the request
    from. So the header is read from the right, for as long as each hop is a trusted proxy.

    Args:
        peer: the other end of the connection.
        forwarded_for: the values of the ``X-Forwarded-For`` headers, in order.
        proxies: networks of the trusted proxies.
    """
    address = _plain(peer)
    if address is None:
        return peer
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    for hop in hops[: -MOST_PROXIES - 1 : -1]:
        if not _is_among(address, proxies):
            break
        before = _plain(hop)
        if before is None:
            break
        address = before
    return str(address)


def is_proxy(peer: str, proxies: Sequence[Network]) -> bool:
    """Return whether the other end of a connection is a trusted proxy."""
    address = _plain(peer)
    return address is not None and _is_among(address, proxies)


def origin(address: str) -> str:
    """Return the key for limits per client: an IPv4 address, or an IPv6 network."""
    plain = _plain(address)
    if isinstance(plain, IPv6Address):
        return str(ip_network((plain, IPV6_PREFIX), strict=False))
    return address


def _plain(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address without port, brackets or zone; return a mapped IPv4 address as IPv4."""
    host, _, port = text.rpartition(":")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif "." in host and ":" not in host and port.isdecimal():
        text = host
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_among(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
