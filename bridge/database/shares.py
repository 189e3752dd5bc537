"""Shares of the connection pool, so that no group of callers can use all of it.

Within a share, callers take turns: one that sends many requests at once waits for its own.
"""

from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from contextvars import ContextVar

import trio

from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import Database, Row

#: Longest wait for one of a share's connections, in seconds.
SHARE_SECONDS = 10.0

#: The client for which the current task works, such as the key of its token; None: the bridge.
caller: ContextVar[Hashable] = ContextVar("caller", default=None)


class Share:
    """A limit on the pooled connections that one group of callers uses at a time.

    Callers queue for at most ``SHARE_SECONDS``, so a slow database fails them instead of holding
    them indefinitely, and they never hold up callers of other shares.
    """

    def __init__(self, database: Database, connections: int) -> None:
        self._database = database
        self._turns = Turns(connections)

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
        key = caller.get()
        with trio.move_on_after(SHARE_SECONDS) as waiting:
            await self._turns.take(key)
        if waiting.cancelled_caught:
            raise DatabaseUnavailable("it is too slow for the current number of requests")
        try:
            yield self._database
        finally:
            self._turns.give_back(key)


class Turns:
    """A number of places for which callers queue, each in its own queue.

    If there are several places, a client never holds all of them, so that another one need not wait
    until a statement of the first has ended.
    """

    def __init__(self, places: int) -> None:
        self._free = self._places = places
        self._held: Counter[Hashable] = Counter()
        #: The callers that wait, the next one first.
        self._queues: dict[Hashable, deque[trio.Event]] = {}

    async def take(self, key: Hashable) -> None:
        """Take a place, or wait for one."""
        if self._free and self._may_hold_more(key):
            self._hold(key)
            await trio.lowlevel.checkpoint()
            return
        called = trio.Event()
        self._queues.setdefault(key, deque()).append(called)
        try:
            await called.wait()
        except trio.Cancelled:
            if called.is_set():
                self.give_back(key)
            else:
                self._leave(key, called)
            raise

    def give_back(self, key: Hashable) -> None:
        """Free a place for the next caller that may have it."""
        self._free += 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        self._call_next()

    def _may_hold_more(self, key: Hashable) -> bool:
        return key is None or self._held[key] < max(1, self._places - 1)

    def _hold(self, key: Hashable) -> None:
        self._free -= 1
        self._held[key] += 1

    def _call_next(self) -> None:
        while self._free:
            for key in self._queues:
                if self._may_hold_more(key):
                    break
            else:
                return
            called = self._queues[key][0]
            waits_on = len(self._queues[key]) > 1
            self._leave(key, called)
            if waits_on:  # behind the others
                self._queues[key] = self._queues.pop(key)
            self._hold(key)
            called.set()

    def _leave(self, key: Hashable, called: trio.Event) -> None:
        queue = self._queues[key]
        queue.remove(called)
        if not queue:
            del self._queues[key]
