"""Connections of the command line, and whether each is a session of its own.

A pooler in transaction mode hands the server's sessions around: what is set, locked or listened for
in one belongs to somebody else a moment later.
"""

from typing import Any

import psycopg
from psycopg import RawCursor
from psycopg.rows import dict_row

from bridge.assets import query

Connection = psycopg.Connection[tuple[Any, ...]]

#: How often each of two connections is asked which session it has.
PROBES = 3

TRANSACTION_POOLER = "a pooler in transaction mode (PgBouncer)"
USE_LISTEN_URL = "set BRIDGE_LISTEN_URL to PostgreSQL's own address"


def open_connection(url: str, application_name: str) -> Connection:
    """Connect with autocommit, and so that a pooler takes it: with nothing kept in the session."""
    return psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=10,
        application_name=application_name,
        prepare_threshold=None,
    )


def fetch(
    connection: Connection, name: str, *numbered: object, **values: object
) -> list[dict[str, Any]]:
    """Run the named query of ``sql/queries`` and return its rows.

    Args:
        numbered: its parameters, if it has them as ``$1``, as the daemon's queries do;
        values: or as ``%(name)s``.
    """
    if numbered:
        with RawCursor(connection, row_factory=dict_row) as raw:
            return raw.execute(query(name).encode(), numbered).fetchall()
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query(name).encode(), values or None).fetchall()


def is_pooled(connection: Connection) -> bool:
    """Return whether a pooler stands between: it has told us another process than the server's."""
    return connection.info.backend_pid != _session(connection)


def is_shared(connection: Connection, url: str) -> bool:
    """Return whether the connection, made with this URL, gets another's session at times."""
    if not is_pooled(connection):
        return False
    with open_connection(url, connection.info.parameter_status("application_name") or "") as other:
        seen: dict[Connection, set[int]] = {connection: set(), other: set()}
        for _ in range(PROBES):
            for each, sessions in seen.items():
                sessions.add(_session(each))
    # Both are open all the while: a session that each of them had is handed around.
    return bool(seen[connection] & seen[other]) or any(len(pids) > 1 for pids in seen.values())


def _session(connection: Connection) -> int:
    [(pid,)] = connection.execute("select pg_backend_pid()").fetchall()
    return int(pid)
