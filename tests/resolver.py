"""Resolve names in tests: only the given names exist."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import trio


class Resolver(trio.abc.HostnameResolver):
    """Resolves the given names; the lookup of a name without addresses never ends.

    trio resolves whatever the system accepts as an address by itself.
    """

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = dict(names)
        self.asked: list[str] = []

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - named by trio
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        assert host is not None
        name = host.decode()
        self.asked.append(name)
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if not self.names[name]:
            await trio.sleep_forever()
        found = []
        for address in self.names[name]:
            found += socket.getaddrinfo(address, port, family, type, proto, flags)
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@contextmanager
def resolving(names: Mapping[str, Sequence[str]]) -> Iterator[Resolver]:
    """Resolve only these names for the duration of the context."""
    resolver = Resolver(names)
    before = trio.socket.set_custom_hostname_resolver(resolver)
    try:
        yield resolver
    finally:
        trio.socket.set_custom_hostname_resolver(before)
