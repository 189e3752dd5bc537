"""Open psycopg connections for commands, and detect whether a pooler shares their sessions.

A pooler in transaction mode shares the server's sessions between clients: a setting, lock or LISTEN
made in one may belong to another client a moment later.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import RawCursor
from psycopg.rows import dict_row

from bridge.assets import query
from bridge.database import limits
from bridge.database.neutral import NEUTRAL_SQL
from bridge.database.parameters import for_libpq

Connection = psycopg.Connection[tuple[Any, ...]]

#: How often each of two connections is asked for its session.
PROBES = 3

TRANSACTION_POOLER = "a pooler in transaction mode (PgBouncer)"
USE_LISTEN_URL = "set BRIDGE_LISTEN_URL to PostgreSQL's own address"


class SessionError(Exception):
    """No session could be opened. The message says why and what to do."""


def open_connection(url: str, application_name: str) -> Connection:
    """Connect with autocommit and without prepared statements, so that any pooler accepts it.

    The limits of ``limits.INSTALL_SQL`` and the settings of ``NEUTRAL`` apply, unless a pooler may
    share the session.
    """
    connection = psycopg.connect(
        for_libpq(url),
        autocommit=True,
        client_encoding="utf8",
        application_name=application_name,
        prepare_threshold=None,
    )
    if not is_pooled(connection):
        connection.execute(limits.INSTALL_SQL)
        connection.execute(f"{NEUTRAL_SQL}; {limits.KEEPALIVES}")
        if connection.info.server_version // 10000 >= limits.TRANSACTION_TIMEOUT_SINCE[0]:
            connection.execute(limits.NO_TRANSACTION_TIMEOUT.format("session"))
        with suppress(psycopg.errors.InvalidParameterValue):
            connection.execute(limits.CHECK_CLIENT)
    return connection


@contextmanager
def open_session(url: str) -> Iterator[Connection]:
    """Connect with autocommit.

    Raises:
        SessionError: the database is unreachable, or a pooler would share the session.
    """
    try:
        connection = open_connection(url, "pgbridge-init")
    except psycopg.Error as error:
        raise SessionError(f"cannot connect to the database: {one_line(error)}") from None
    with connection:
        # Settings made in a shared session would leak into the application's.
        if is_shared(connection, url):
            raise SessionError(
                f"the connection goes through {TRANSACTION_POOLER}, which does not preserve a "
                f"session's locks and settings; {USE_LISTEN_URL}"
            )
        yield connection


def fetch(
    connection: Connection, name: str, /, *numbered: object, **values: object
) -> list[dict[str, Any]]:
    """Run a query of ``sql/queries`` and return its rows.

    Args:
        name: the file's name without its suffix.
        numbered: values for ``$1`` and so on, as the daemon's queries have them.
        values: values for ``%(name)s``.
    """
    if numbered:
        with RawCursor(connection, row_factory=dict_row) as raw:
            return raw.execute(query(name).encode(), numbered).fetchall()
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query(name).encode(), values or None).fetchall()


def is_utf8(connection: Connection) -> bool:
    """Return whether the database's encoding is UTF-8, so that clients can read any text."""
    return connection.info.parameter_status("server_encoding") == "UTF8"


def is_pooled(connection: Connection) -> bool:
    """Return whether the connection goes through a pooler, which reports its own process id."""
    return connection.info.backend_pid != _session(connection)


def is_shared(connection: Connection, url: str) -> bool:
    """Return whether a pooler shares the session of this connection, made with the URL."""
    if not is_pooled(connection):
        return False
    with open_connection(url, connection.info.parameter_status("application_name") or "") as other:
        seen: dict[Connection, set[int]] = {connection: set(), other: set()}
        for _ in range(PROBES):
            for each, sessions in seen.items():
                sessions.add(_session(each))
    # Both connections are open all the time: a session seen in both is shared.
    return bool(seen[connection] & seen[other]) or any(len(pids) > 1 for pids in seen.values())


def one_line(error: psycopg.Error) -> str:
    """Return the error's message as one line, without the values of a rejected row."""
    if isinstance(error, psycopg.IntegrityError) and error.diag.message_primary:
        return error.diag.message_primary
    return " ".join(str(error).split()) or type(error).__name__


def one_line_with_hint(error: psycopg.Error) -> str:
    """Return the error's message as one line; a missing privilege adds where to read on."""
    hint = ""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        hint = "; docs/roles.md says which role this command needs"
    return one_line(error) + hint


def _session(connection: Connection) -> int:
    [(pid,)] = connection.execute("select pg_backend_pid()").fetchall()
    return int(pid)
