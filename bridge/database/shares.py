"""Shares of the connection pool, so that no group of callers can use all of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import Database, Row

#: Longest wait for one of a share's connections, in seconds.
SHARE_SECONDS = 10.0


class Share:
    """A limit on the pooled connections that one group of callers uses at a time.

    Callers queue for at most ``SHARE_SECONDS``, so a slow database fails them instead of holding
    them indefinitely, and they never hold up callers of other shares.
    """

    def __init__(self, database: Database, connections: int) -> None:
        self._database = database
        self._turns = trio.CapacityLimiter(connections)

    async def fetch(self, name: str, *values: object) -> list[Row]:
        """Do what :meth:`Database.fetch` does, within the share.

        Raises:
            DatabaseUnavailable: also if no connection was free in time.
        """
        async with self.turn() as database:
            return await database.fetch(name, *values)

    async def change(self, actor: str, name: str, *values: object) -> list[Row]:
        """Do what :meth:`Database.change` does, within the share; raises the same."""
        async with self.turn() as database:
            return await database.change(actor, name, *values)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Database]:
        """Wait for a free connection of the share; yield the database for one statement at a time.

        Raises:
            DatabaseUnavailable: no connection was free in time.
        """
        with trio.move_on_after(SHARE_SECONDS) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise DatabaseUnavailable("it is too slow for the current number of requests")
        try:
            yield self._database
        finally:
            self._turns.release()
