"""Parse networks written as CIDR."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from bridge.access.proxies import Network

#: The example in error messages.
EXAMPLE: Final = "10.0.0.0/8,192.168.1.7"
#: IPv4 addresses written as IPv6.
MAPPED: Final = IPv6Network("::ffff:0:0/96")


def parse_networks(items: Sequence[object]) -> tuple[Network, ...]:
    """Parse networks; an address without a prefix is a network of one address.

    They open what is closed for safety, so nothing is guessed: each item must be exact.

    Raises:
        ValueError: names the first invalid item and how to write it.
    """
    return tuple(_parse(item) for item in items)


def _parse(item: object) -> Network:
    if isinstance(item, IPv4Network | IPv6Network):
        return item
    # ipaddress would also accept integers, netmasks and zones.
    if not isinstance(item, str) or not re.fullmatch(r"[0-9A-Fa-f.:]+(/[0-9]+)?", item):
        raise ValueError(f"{item!r} is not a network; write networks like {EXAMPLE}")
    try:
        network = ip_network(item, strict=False)
    except ValueError:
        raise ValueError(f"{item!r} is not a network; write networks like {EXAMPLE}") from None
    address = ip_address(item.partition("/")[0])
    if address != network.network_address:
        raise ValueError(
            f"{item} is not exact; write {network}, or {address} for this address alone"
        )
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        plain = IPv4Network((int(address) & 0xFFFFFFFF, network.prefixlen - MAPPED.prefixlen))
        raise ValueError(f"{item} is IPv4 written as IPv6; write {plain}")
    return network
