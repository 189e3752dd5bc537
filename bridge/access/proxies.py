"""Who a request comes from, behind the proxies that are known here.  (pure)"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network

#: A customer of a network gets so much of IPv6: whoever has one address has all of these.
IPV6_PREFIX: Final = 64
#: Proxies in a row that are believed; who is behind more of them says what he likes.
MOST_PROXIES: Final = 20


def client_address(peer: str, forwarded_for: Sequence[str], proxies: Sequence[Network]) -> str:
    """Return the address of who has sent a request.

    Anybody may write an ``X-Forwarded-For``; each proxy adds, on the right, whom it got the request
    from. So it is read from the right, for as long as what has said so is a known proxy.

    Args:
        peer: the other end of the connection.
        forwarded_for: the values of the header, in their order.
        proxies: networks of the proxies whose word is believed.
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
    """Tell whether the other end of a connection is one of the known proxies."""
    address = _plain(peer)
    return address is not None and _is_among(address, proxies)


def origin(address: str) -> str:
    """Return what counts as one origin of requests: an IPv4 address, a network of IPv6."""
    plain = _plain(address)
    if isinstance(plain, IPv6Address):
        return str(ip_network((plain, IPV6_PREFIX), strict=False))
    return address


def _plain(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address without port, brackets and zone; IPv4 in the form of IPv6 as IPv4."""
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
