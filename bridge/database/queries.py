"""One way to run named queries for both drivers, so that they share the code above them."""

import re
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


class Unrepresentable(NamedTuple):
    """A character of a statement's values that the database's encoding does not have."""

    character: str
    encoding: str

    def __str__(self) -> str:
        return (
            f"contains {self.character}, which the database's encoding, {self.encoding}, "
            "does not have"
        )


def unrepresentable(error: Exception) -> Unrepresentable | None:
    """Return the character that made a statement fail.

    None for any other error, such as stored text that UTF-8 does not have.
    """
    refusal = refusal_of(error)
    if refusal is None or refusal.sqlstate != "22P05":
        return None
    # In every language, the message has the bytes and ends with the encoding that lacks them.
    encoding = re.search(r"(\w+)\W*$", refusal.message)
    character = bytes.fromhex("".join(re.findall(r"\b0x([0-9a-f]{2})\b", refusal.message)))
    if encoding is None or encoding[1] == "UTF8" or not character:
        return None
    return Unrepresentable(character.decode("utf-8", "replace"), encoding[1])


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
