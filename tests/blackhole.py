"""A proxy to PostgreSQL that can make packets vanish."""

import ctypes
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
from psycopg.conninfo import conninfo_to_dict

#: Of linux/socket.h; Python's module does not have them.
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
KEEPALIVES = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 5,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 3,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
}
#: A program for the kernel that drops every packet.
_DROP = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
_DROP_ALL = struct.pack("HL", 1, ctypes.addressof(_DROP))


class Blackhole:
    """A running proxy.

    Attributes:
        url: connection string through the proxy, as the same role.
    """

    def __init__(self, url: str, listener: trio.SocketListener) -> None:
        parts = conninfo_to_dict(url)
        port = listener.socket.getsockname()[1]
        self.url = f"postgresql://{parts['user']}@127.0.0.1:{port}/{parts['dbname']}"
        self._server = f"{parts['host']}/.s.PGSQL.{parts.get('port', 5432)}"
        self._listener = listener
        self._clients: set[trio.SocketStream] = set()
        self._flows = trio.Event()
        self._flows.set()

    def stall(self) -> None:
        """Forward nothing. The kernel still acknowledges what arrives, as for a frozen peer."""
        self._flows = trio.Event()

    async def swallow(self) -> None:
        """Drop all packets without a word, as a broken network does."""
        self.stall()
        # The kernel would send again what is not acknowledged yet, so the peer would look alive.
        while any(map(_unacknowledged, self._clients)):  # noqa: ASYNC110
            await trio.sleep(0.005)
        for each in (self._listener.socket, *(client.socket for client in self._clients)):
            each.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _DROP_ALL)

    def heal(self) -> None:
        """Forward again, on old and new connections."""
        for each in (self._listener.socket, *(client.socket for client in self._clients)):
            with suppress(OSError):  # none is attached
                each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        self._flows.set()

    async def serve(self, client: trio.SocketStream) -> None:
        """Forward one connection."""
        # As PostgreSQL does, for sessions of pgbridge.
        for name, value in KEEPALIVES.items():
            client.socket.setsockopt(*name, value)
        self._clients.add(client)
        try:
            async with client:
                with suppress(OSError):  # the server is away
                    await self._serve(client, await trio.open_unix_socket(self._server))
        finally:
            self._clients.discard(client)

    async def _serve(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(self._forward, client, server, nursery.cancel_scope)
            nursery.start_soon(self._forward, server, client, nursery.cancel_scope)

    async def _forward(
        self, source: trio.SocketStream, target: trio.SocketStream, both: trio.CancelScope
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await self._flows.wait()
                await target.send_all(data)
            # Nor is the end of a connection forwarded.
            await self._flows.wait()
        both.cancel()


def _unacknowledged(stream: trio.SocketStream) -> int:
    """Return how many sent bytes the peer has not acknowledged."""
    answer = fcntl.ioctl(stream.socket.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


@asynccontextmanager
async def blackhole(url: str) -> AsyncIterator[Blackhole]:
    """Run a proxy to the server of this URL, which has a Unix socket, during the context."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = Blackhole(url, listener)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
