"""Keeps idle connections for the next request to the same receiver."""

from __future__ import annotations

from collections import deque

import trio

from bridge.delivery.connection import Connection
from bridge.delivery.url import Origin

#: How long to keep an idle connection.
IDLE_SECONDS = 30.0


class IdleConnections:
    """The idle connections. The most recently used is reused first, so the others expire.

    Args:
        most: maximum number to keep; beyond it the one that has been idle longest is closed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_origin: dict[Origin, deque[Connection]] = {}
        self._count = 0

    def take(self, origin: Origin) -> Connection | None:
        """Remove and return a usable connection, or None."""
        connections = self._by_origin.get(origin)
        while connections:
            connection = connections.pop()
            self._count -= 1
            if connection.is_usable:
                return connection
            connection.close()
        return None

    def keep(self, connection: Connection) -> None:
        """Add a connection."""
        connection.idle_since = trio.current_time()
        self._by_origin.setdefault(connection.origin, deque()).append(connection)
        self._count += 1
        if self._count > self._most:
            oldest = min(
                (each for each in self._by_origin.values() if each),
                key=lambda each: each[0].idle_since,
            )
            oldest.popleft().close()
            self._count -= 1

    def close(self, older_than_seconds: float) -> None:
        """Close the connections that have been idle for this long."""
        before = trio.current_time() - older_than_seconds
        for origin, connections in list(self._by_origin.items()):
            while connections and connections[0].idle_since <= before:
                connections.popleft().close()
                self._count -= 1
            if not connections:
                del self._by_origin[origin]
