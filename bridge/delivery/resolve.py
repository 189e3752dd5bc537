"""Finds the addresses of a receiver, and gives only those that may be connected to."""

from socket import SOCK_STREAM, AddressFamily

import httpx
import trio

from bridge.delivery.addresses import AddressPolicy, how_to_allow

_PORTS = {"http": 80, "https": 443}


class BlockedAddressError(Exception):
    """A host has an address that no delivery may connect to. The message says what would help."""


class UnresolvableError(Exception):
    """A host has no address, or none is known now. The message says why."""


async def resolve(host: str, port: int, policy: AddressPolicy) -> list[tuple[AddressFamily, str]]:
    """Return the addresses of a host, in the order in which to try them.

    Connect to these and never to the name: a name server may answer something else when it is
    asked again. Whatever the system takes for a host is resolved, ``127.1`` and ``0x7f000001`` as
    well, and every address is checked: among several, one that is closed is a trap or a mistake.

    Raises:
        BlockedAddressError: an address is closed.
        UnresolvableError: there is none.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: it could not even be asked for
        reason = getattr(error, "strerror", None) or error
        raise UnresolvableError(f"{host} does not resolve: {reason}") from error
    addresses: list[tuple[AddressFamily, str]] = [
        (family, _address(sockaddr)) for family, _, _, _, sockaddr in found
    ]
    for _, address in addresses:
        if refusal := policy.refusal(address):
            named = "" if host == address or ":" in host else f"{host}: "
            raise BlockedAddressError(f"{named}{refusal}; {how_to_allow(address)}")
    return addresses


async def url_refusal(url: str, policy: AddressPolicy, seconds: float = 3.0) -> str | None:
    """Say why no delivery may go to this URL, or return None if one may as far as is known.

    It is there to tell people early; what counts is the check before each connection. So a host
    that does not resolve now, or not within the seconds, is no reason to refuse.
    """
    # The parser that the deliveries go through: another may see another host.
    parsed = httpx.URL(url)
    host, port = parsed.raw_host.decode("ascii"), parsed.port or _PORTS[parsed.scheme]
    with trio.move_on_after(seconds):
        try:
            await resolve(host, port, policy)
        except BlockedAddressError as error:
            return str(error)
        except UnresolvableError:
            pass
    return None


def _address(sockaddr: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    """Return the address with its zone, without which a link-local one leads nowhere."""
    match sockaddr:
        case [str(address), int(), int(), int(zone)] if zone:
            return f"{address}%{zone}"
        case [address, *_]:
            return str(address)
