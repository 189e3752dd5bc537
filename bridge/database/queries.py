"""One way to run named queries for both drivers, so that they share the code above them."""

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg

from bridge.database import sessions

T = TypeVar("T")


class Queries(Protocol):
    """Runs the named queries of ``sql/queries``."""

    async def fetch(self, name: str, *values: object) -> Sequence[Mapping[str, Any]]:
        """Run a query and return its rows."""


class SessionQueries:
    """Runs named queries on a connection of the command line. They block, and never suspend."""

    def __init__(self, connection: sessions.Connection) -> None:
        self._connection = connection

    async def fetch(self, name: str, *values: object) -> Sequence[Mapping[str, Any]]:
        """Run a query and return its rows."""
        return sessions.fetch(self._connection, name, *values)


def run_blocking(operation: Coroutine[Any, Any, T]) -> T:
    """Run an operation on ``SessionQueries`` to its end, without an event loop."""
    try:
        operation.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    operation.close()
    raise RuntimeError("the operation waits for something other than a query")


class Refusal(NamedTuple):
    """An error of PostgreSQL, whichever driver raised it."""

    sqlstate: str
    message: str
    constraint: str | None


def refusal_of(error: Exception) -> Refusal | None:
    """Return what PostgreSQL says of a failed statement; None for errors of other origin."""
    if isinstance(error, psycopg.Error):
        details = error.diag
        return Refusal(error.sqlstate or "", details.message_primary or "", details.constraint_name)
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate is None:
        return None
    # asyncpg's: importing it would double the time that a command takes to start.
    return Refusal(sqlstate, getattr(error, "message", ""), getattr(error, "constraint_name", None))
