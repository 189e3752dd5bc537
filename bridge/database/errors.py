"""The errors that the daemon's database layer raises, and their translation from asyncpg's."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

#: PostgreSQL refused the statement: a constraint, a missing privilege, an invalid value.
DatabaseError = asyncpg.PostgresError
#: No partition of a log accepts the row: the day's partition is missing.
MissingPartitionError = asyncpg.CheckViolationError
#: PostgreSQL chose this transaction as the victim of a deadlock; it can be retried.
DeadlockError = asyncpg.DeadlockDetectedError
#: A row with this key exists already.
UniqueViolationError = asyncpg.UniqueViolationError
#: PostgreSQL cancelled the statement: it ran into ``statement_timeout``, or an operator ended it.
StatementTimeoutError = asyncpg.QueryCanceledError

#: SQLSTATEs, or their classes, that a value of the statement causes: invalid data, constraints,
#: exceptions of triggers, limits of PostgreSQL, memory, and its internal errors.
_OF_VALUES = ("22", "23", "P0", "54", "53200", "XX")

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # A statement that reaches a connection just as the server closes it.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
)


class UnfitTableError(Exception):
    """A table of the application that must not be read. The message gives the reason."""


class DatabaseUnavailable(Exception):  # noqa: N818 - a state, not a mistake
    """The database is down, restarting or refuses the connection."""


def is_of_values(error: asyncpg.PostgresError) -> bool:
    """Return whether some value made the statement fail, so that others need not fail.

    A full disk, a lock timeout or a missing privilege affects every statement, and can pass.
    """
    return (error.sqlstate or "").startswith(_OF_VALUES)


@contextmanager
def translated() -> Iterator[None]:
    """Raise ``DatabaseUnavailable`` for every error that means the database is away.

    Other errors of PostgreSQL pass through without their DETAIL: it shows the values of the whole
    row that a constraint rejected, secrets included. The server's own log has it.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        error.detail = None
        if isinstance(error, _AWAY):
            raise _unavailable(error) from error
        raise
    except _AWAY as error:
        raise _unavailable(error) from error


def _unavailable(error: BaseException) -> DatabaseUnavailable:
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, FileNotFoundError):
        # asyncio does not say that the missing file is the server's socket.
        reason = f"no PostgreSQL listens on its socket: {reason}"
    elif isinstance(error, TimeoutError) and not str(error).strip():
        reason = "it does not answer in time"
    return DatabaseUnavailable(reason)
