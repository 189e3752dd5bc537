"""The application of the chaos test: commits rows and records what it committed."""

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import psycopg
import trio

#: The last digit of the key selects a fifth of the events for a filter.
INSERT = (
    "insert into public.users (auth_type, username, first_name)"
    " select 'telegram', key, right(key, 1) from unnest(array[%s]) as key"
)


class Application:
    """A thread that inserts users at a steady rate and knows nothing of the bridge.

    A key is a username, numbered in the order of writing.
    """

    def __init__(self, url: str, *, per_second: float) -> None:
        self.committed: list[str] = []
        #: When they were committed, on time.monotonic().
        self.committed_at: dict[str, float] = {}
        #: Commits whose response was lost: they may or may not have happened.
        self.unknown: list[str] = []
        self.rolled_back: list[str] = []
        #: Errors of a reachable database, which an application must never see.
        self.refused: list[str] = []
        self._url = url
        self._pause = 1 / per_second
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="application")
        self._thread.start()

    def stop(self) -> None:
        """Stop writing; no transaction is left open."""
        self._stop.set()
        self._thread.join()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Let no transaction be open during the context."""
        await trio.to_thread.run_sync(self._turn.acquire)
        try:
            yield
        finally:
            self._turn.release()

    def _write(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        written = 0
        for transaction in count(1):
            if self._stop.wait(self._pause):
                break
            # Some transactions are large, so that deliveries are in flight.
            size = 10 if transaction % 10 == 7 else 1
            keys = [f"u{number}" for number in range(written + 1, written + size + 1)]
            written += size
            try:
                with self._turn:
                    if connection is None:
                        connection = psycopg.connect(self._url)
                    self._sign_up(connection, keys, fate=transaction % 10)
            except psycopg.Error as error:
                if connection is not None and not connection.closed:
                    self.refused.append(f"{keys}: {error}")
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _sign_up(self, connection: psycopg.Connection[Any], keys: list[str], *, fate: int) -> None:
        for key in keys:
            connection.execute(INSERT, (key,))
        if fate == 0:
            self.rolled_back += keys
            connection.rollback()
            return
        if fate == 5:
            # Roll back a part of the transaction.
            undone = f"{keys[0]}-undone"
            self.rolled_back.append(undone)
            connection.execute("savepoint part")
            connection.execute(INSERT, (undone,))
            connection.execute("rollback to savepoint part")
        try:
            connection.commit()
        except psycopg.OperationalError:
            self.unknown += keys
            raise
        committed_at = time.monotonic()
        self.committed += keys
        self.committed_at |= dict.fromkeys(keys, committed_at)
