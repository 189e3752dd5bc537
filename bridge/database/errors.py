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

#: The connection cannot be made, or is lost. Some of these are values' errors by inheritance.
_UNREACHABLE = (OSError, TimeoutError, asyncpg.ClientConfigurationError)
_LOST = (
    asyncpg.InterfaceError,
    # A statement that reaches a connection just as the server closes it.
    asyncpg.InternalClientError,
)
#: The same, as the server says it. With the severity ERROR, it is the error of code in a statement,
#: such as a trigger that connects elsewhere.
_REFUSED = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
#: The same, whatever the severity: poolers close connections with the first one, and a primary that
#: became a standby reports the second one.
_AWAY = (asyncpg.ProtocolViolationError, asyncpg.ReadOnlySQLTransactionError)
#: The server's answer or a value of the statement is not what the driver can handle.
_UNREADABLE = (
    ValueError,
    OverflowError,
    asyncpg.UnsupportedClientFeatureError,
    asyncpg.UnsupportedServerFeatureError,
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
    """Raise ``DatabaseUnavailable`` if the database is away, and ``DatabaseError`` otherwise.

    Errors of PostgreSQL lose their DETAIL: it shows the values of the whole row that a constraint
    rejected, secrets included. The server's own log has it.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        error.detail = None
        is_refused = isinstance(error, _REFUSED) and error.severity_en != "ERROR"
        if is_refused or isinstance(error, _AWAY):
            raise _unavailable(error) from error
        raise
    except _UNREACHABLE as error:
        raise _unavailable(error) from error
    except _UNREADABLE as error:
        raise asyncpg.DataError(f"the driver cannot handle a value: {error}") from error
    except asyncpg.OutdatedSchemaCacheError as error:
        raise asyncpg.InvalidCachedStatementError(str(error)) from error
    except _LOST as error:
        raise _unavailable(error) from error


def _unavailable(error: BaseException) -> DatabaseUnavailable:
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, FileNotFoundError):
        # asyncio does not say that the missing file is the server's socket.
        reason = f"no PostgreSQL listens on its socket: {reason}"
    elif isinstance(error, TimeoutError) and not str(error).strip():
        reason = "it does not answer in time"
    return DatabaseUnavailable(reason)
