"""Name resolution for tests: names have the addresses that the test gives them, and no others."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import trio


class Resolver(trio.abc.HostnameResolver):
    """Knows the names it is given; a name with no addresses never answers.

    trio asks it only for names: what the system takes for an address, it resolves by itself.
    """

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = dict(names)
        self.asked: list[str] = []

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - its name is given
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
    """Resolve these names and no others, in this run of trio, until the end of the context."""
    resolver = Resolver(names)
    before = trio.socket.set_custom_hostname_resolver(resolver)
    try:
        yield resolver
    finally:
        trio.socket.set_custom_hostname_resolver(before)
