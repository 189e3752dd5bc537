"""Resolves a receiver's host and rejects addresses that no delivery may connect to."""

import socket
from collections.abc import Awaitable, Callable, Sequence
from socket import SOCK_STREAM
from typing import Any, cast

import trio

from bridge.access.proxies import Network
from bridge.delivery.addresses import AddressPolicy, how_to_allow
from bridge.delivery.url import parse_url

#: Maximum number of concurrent lookups, per host and in all. Each takes a thread, also after its
#: caller has given up. Further lookups wait within their attempts' time limits.
LOOKUPS_OF_HOST, LOOKUPS = 2, 128


class BlockedAddressError(Exception):
    """A host has an address that no delivery may connect to. The message says how to allow it."""


class UnresolvableError(Exception):
    """The name cannot be resolved. The message says why."""


class Lookups(trio.abc.HostnameResolver):
    """Resolves names in separate threads, so that slow name servers delay only their own names.

    By default all threads of trio share one limit, and a few unresponsive name servers would use it
    up for everything else that needs a thread.
    """

    def __init__(self) -> None:
        self._all = trio.CapacityLimiter(LOOKUPS)
        self._by_host: dict[bytes | None, trio.CapacityLimiter] = {}

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - named by trio
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        of_host = self._by_host.setdefault(host, trio.CapacityLimiter(LOOKUPS_OF_HOST))
        try:
            return await trio.to_thread.run_sync(
                socket.getaddrinfo,
                *(host, port, family, type, proto, flags),
                abandon_on_cancel=True,
                limiter=cast(trio.CapacityLimiter, _Both(of_host, self._all)),
            )
        finally:
            for name, limiter in list(self._by_host.items()):
                used = limiter.statistics()
                if not used.borrowed_tokens and not used.tasks_waiting:
                    del self._by_host[name]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        return await trio.to_thread.run_sync(
            socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True, limiter=self._all
        )


class _Both:
    """Two capacity limiters as one, for ``run_sync``; a thread holds both until it ends."""

    def __init__(self, first: trio.CapacityLimiter, second: trio.CapacityLimiter) -> None:
        self._first, self._second = first, second

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._first.acquire_on_behalf_of(borrower)
        try:
            await self._second.acquire_on_behalf_of(borrower)
        except BaseException:
            self._first.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self._second.release_on_behalf_of(borrower)
        self._first.release_on_behalf_of(borrower)


async def resolve(host: str, port: int, policy: AddressPolicy) -> list[str]:
    """Return the addresses of a host, in the order in which to try them.

    Connect to these and never to the name, which may resolve differently the next time. All forms
    that the system accepts are resolved, such as ``127.1`` and ``0x7f000001``. Every address is
    checked: a single forbidden one among several is an attack or a mistake.

    Raises:
        BlockedAddressError: an address is forbidden.
        UnresolvableError: there is no address.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: not a possible name
        reason = getattr(error, "strerror", None) or error
        raise UnresolvableError(f"{host} does not resolve: {reason}") from error
    addresses = [_address(sockaddr) for *_, sockaddr in found]
    for address in addresses:
        if refusal := policy.refusal(address):
            named = "" if host == address or ":" in host else f"{host}: "
            raise BlockedAddressError(f"{named}{refusal}; {how_to_allow(address)}")
    return addresses


async def url_refusal(url: str, policy: AddressPolicy, seconds: float = 3.0) -> str | None:
    """Return why no delivery may go to this URL; None if one may, as far as is known.

    This check gives early feedback; the one before each connection is decisive. So a host that does
    not resolve within ``seconds`` is accepted.
    """
    # The same parser as for deliveries: another one might see another host.
    origin = parse_url(url).origin
    with trio.move_on_after(seconds):
        try:
            await resolve(origin.host, origin.port, policy)
        except BlockedAddressError as error:
            return str(error)
        except UnresolvableError:
            pass
    return None


def blocking_url_refusal(networks: Sequence[Network]) -> Callable[[str], Awaitable[str | None]]:
    """Return a function like ``url_refusal`` that works without an event loop, for commands."""

    async def refusal(url: str) -> str | None:
        return trio.run(url_refusal, url, AddressPolicy(networks))

    return refusal


def _address(sockaddr: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    """Return the address with its zone, which a link-local address needs."""
    match sockaddr:
        case [str(address), int(), int(), int(zone)] if zone:
            return f"{address}%{zone}"
        case [address, *_]:
            return str(address)
