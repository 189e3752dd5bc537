"""Wait for facts by polling."""

from collections.abc import Callable
from typing import Any

import psycopg
import trio

POLL_SECONDS = 0.005
#: After this time, a test has hung. A busy machine takes up to a minute for a second's work.
PATIENCE_SECONDS = 300.0


async def until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    while not holds():  # noqa: ASYNC110 - nothing announces it
        await trio.sleep(POLL_SECONDS)


async def until_true(connection: psycopg.Connection[Any], condition: str) -> None:
    """Wait until an SQL condition holds in the database."""
    query = f"select {condition}".encode()
    await until(lambda: connection.execute(query).fetchone() == (True,))


def notifications(connection: psycopg.Connection[Any], count: int = 1) -> list[psycopg.Notify]:
    """Wait for this many notifications."""
    return list(connection.notifies(timeout=PATIENCE_SECONDS, stop_after=count))
