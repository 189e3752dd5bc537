"""PostgreSQL for the daemon: asyncpg hosted on trio.

Everything here is called from trio. While the database is down, restarting or refuses connections,
calls raise ``DatabaseUnavailable``, so callers have one error to retry. Every other error is
``DatabaseError``: a bug or a refused statement.
"""

import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import asyncpg
import psycopg
import structlog
import trio
import trio_asyncio
from trio_asyncio import aio_as_trio

from bridge.assets import query
from bridge.database import limits
from bridge.database.errors import DatabaseError, DatabaseUnavailable, UnfitTableError, translated
from bridge.database.neutral import NEUTRAL_SQL
from bridge.database.parameters import ParameterError, Parameters, check_demands, for_asyncpg
from bridge.database.stepping import stepped

log = structlog.get_logger()

#: A row: a mapping from column name to value.
Row = Mapping[str, Any]

#: Longest wait for the result of one statement, in seconds. PostgreSQL cancels ours sooner: after
#: this the connection is considered dead.
STATEMENT_SECONDS = 30.0
# PgBouncer accepts these settings and rejects clients that send others.
_POOLED = {"application_name": "pgbridge", "timezone": "UTC"}
_SESSION = {
    **_POOLED,
    "search_path": "pg_catalog, pg_temp",
}


class Connection:
    """One connection and its notifications."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._listeners: dict[str, Callable[..., None]] = {}
        #: Whether a statement was cancelled or timed out.
        self._interrupted = False

    async def fetch(self, name: str, *values: object) -> list[Row]:
        """Run the named query of ``sql/queries`` and return its rows."""
        statement = partial(self._connection.fetch, query(name), *values)
        rows: list[Row]
        with translated():
            if self._interrupted:
                # asyncpg first waits for the server to cancel the previous statement, which takes a
                # real asyncio task.
                rows = await aio_as_trio(statement)()
                return rows
            try:
                rows = await stepped(statement())
            except (trio.Cancelled, TimeoutError):
                self._interrupted = True
                raise
            return rows

    async def execute(self, sql: str) -> None:
        """Run SQL text without parameters."""
        with translated():
            await aio_as_trio(self._connection.execute)(sql)

    async def listen(self, channel: str, ring: Callable[[], None]) -> None:
        """LISTEN on a channel and call ``ring``, in the trio thread, for each notification."""
        listener = self._listeners[channel] = lambda *_: ring()
        with translated():
            await aio_as_trio(self._connection.add_listener)(channel, listener)

    async def unlisten(self, channel: str) -> None:
        """Stop listening on a channel."""
        listener = self._listeners.pop(channel)
        with translated():
            await aio_as_trio(self._connection.remove_listener)(channel, listener)

    def on_loss(self, lost: Callable[[], None]) -> None:
        """Call ``lost`` as soon as either side closes the connection."""
        self._connection.add_termination_listener(lambda *_: lost())


class Database:
    """A connection pool, and a way to open dedicated connections.

    Args:
        key: identifies this process. As long as it lives, its sessions hold the advisory lock with
            this key, all of them, so that losing one of them does not look like its end.
        shared: whether a pooler shares the sessions of the pool.
        pool_holds_key: whether the sessions of the pool are this process's own, and hold the lock.
    """

    def __init__(
        self,
        for_sessions: Parameters,
        pool: asyncpg.Pool,
        *,
        key: int,
        shared: bool = False,
        pool_holds_key: bool = True,
    ) -> None:
        self._for_sessions = for_sessions
        self._pool = pool
        self.key = key
        self._pool_holds_key = pool_holds_key
        # If so, limits must be set for each transaction.
        self._shared = shared

    async def fetch(self, name: str, *values: object) -> list[Row]:
        """Run the named query of ``sql/queries`` on a pooled connection and return its rows."""
        if not self._shared:
            return await self._run(self._pool.fetch, query(name), *values)

        async def work() -> list[Row]:
            async with self._transaction() as connection:
                rows: list[Row] = await connection.fetch(query(name), *values)
                return rows

        return await self._run(work)

    async def change(self, actor: str, name: str, *values: object) -> list[Row]:
        """Run a query like :meth:`fetch` and attribute its changes to an actor in the audit log.

        Args:
            actor: JSON, as ``bridge.audit`` reads it.
        """

        async def work() -> list[Row]:
            async with self._transaction() as connection:
                # Local to the transaction: behind a pooler, other clients use the session next.
                await connection.execute("select set_config('bridge.actor', $1, true)", actor)
                rows: list[Row] = await connection.fetch(query(name), *values)
                return rows

        return await self._run(work)

    async def read_foreign(self, guard: str, name: str, *values: object) -> list[Row]:
        """Run a query like :meth:`fetch` on a table whose owner has fewer rights than this role.

        Code that the owner attaches to the table could run with our rights. The query ``guard``
        looks for such code first; the transaction is read-only in case it is added just after.

        Args:
            guard: query that returns a row with a ``reason`` if the table must not be read.

        Raises:
            UnfitTableError: the guard returned a row.
        """

        async def work() -> list[Row]:
            async with self._transaction(readonly=True) as connection:
                # The application's own policies may let the bridge see some rows.
                await connection.execute("set local row_security = on")
                for row in await connection.fetch(query(guard)):
                    raise UnfitTableError(row["reason"])
                rows: list[Row] = await connection.fetch(query(name), *values)
                return rows

        return await self._run(work)

    @asynccontextmanager
    async def _transaction(self, *, readonly: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """Open a transaction, within the limits, on a pooled connection. Runs in asyncio."""
        async with self._pool.acquire() as connection, connection.transaction(readonly=readonly):
            if self._shared:
                await connection.execute(limits.POOL_SQL)
                if connection.get_server_version() >= limits.TRANSACTION_TIMEOUT_SINCE:
                    await connection.execute(limits.NO_TRANSACTION_TIMEOUT.format("local"))
            yield connection

    async def _run(
        self, work: Callable[..., Awaitable[list[Row]]], *arguments: object
    ) -> list[Row]:
        """Run a coroutine function of asyncio that uses the pool.

        Cancellation waits for it to finish: asyncpg can lose a pooled connection whose statement is
        cancelled just as the server closes it. Statements are short and time-limited.
        """
        rows: list[Row] = []
        with translated(), trio.CancelScope(shield=True):
            try:
                rows = await aio_as_trio(work)(*arguments)
            except TimeoutError:
                # The other connections lead to the same peer, which does not answer.
                await aio_as_trio(self._pool.expire_connections)()
                raise
        return rows

    @property
    def pooled(self) -> tuple[int, int]:
        """Number of busy and of idle connections in the pool."""
        idle: int = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle

    async def hold_key(self) -> None:
        """Hold the lock of this process in a session, if a pooler is in front of the pool.

        Otherwise only the relay would hold it, which loses its session on every error.

        Raises:
            DatabaseUnavailable: the session is lost. Run again.
        """
        if self._pool_holds_key:
            return
        async with self.connect() as connection:
            lost = trio.Event()
            connection.on_loss(lost.set)
            await lost.wait()
        raise DatabaseUnavailable("the session was closed")

    @asynccontextmanager
    async def connect(
        self, session_limits: Mapping[str, str] | None = None, seconds: float | None = None
    ) -> AsyncIterator[Connection]:
        """Open a connection outside the pool, for LISTEN, session locks and long statements.

        Args:
            session_limits: settings of the session; ``limits.RELAY`` if missing.
            seconds: longest wait for a result before the connection is considered dead;
                ``STATEMENT_SECONDS`` if missing.
        """
        with translated():
            raw = await _connect(
                self._for_sessions,
                session_limits or limits.RELAY,
                seconds or STATEMENT_SECONDS,
                self.key,
            )
        try:
            yield Connection(raw)
        finally:
            # Not close(), which would wait for a server that may be gone.
            raw.terminate()


@asynccontextmanager
async def open_database(
    url: str, *, listen_url: str | None = None, pool_size: int = 8
) -> AsyncIterator[Database]:
    """Open the pool, and the asyncio event loop that asyncpg needs, for the life of the context.

    Args:
        url: connection string of the pool.
        listen_url: connection string for dedicated connections, if they need another one. If it is
            set, the pool is assumed to be behind a pooler such as PgBouncer, where each statement
            runs in any free server session and no session state can be relied on.

    Raises:
        DatabaseUnavailable: one of the two URLs cannot be used or reached.
    """
    try:
        parameters = for_asyncpg(url)
        for_sessions = parameters if listen_url is None else for_asyncpg(listen_url)
    except ParameterError as error:
        raise DatabaseUnavailable(str(error)) from None

    key = secrets.randbits(63)
    pool_holds_key = False

    async def begin(connection: asyncpg.Connection) -> None:
        nonlocal pool_holds_key
        parameters.apply_to(_socket(connection))
        if listen_url is None and await _finish_limits(connection):
            await _hold_key(connection, key)
            pool_holds_key = True

    pooled: dict[str, Any] = {"server_settings": {**_SESSION, **limits.POOL}}
    if listen_url is not None:
        pooled = {"server_settings": _POOLED, "statement_cache_size": 0}
    # An error raised inside the loop's context would leave it in an exception group.
    failure: DatabaseUnavailable | None = None
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_log_stray_error)
        try:
            with translated():
                for each, each_url in ((parameters, url), (for_sessions, listen_url)):
                    if each.has_demands and each_url is not None:
                        await trio.to_thread.run_sync(check_demands, each_url)
                if listen_url is not None:
                    # Fail at start instead of in a relay that retries forever.
                    probe = await _connect(for_sessions, limits.RELAY, STATEMENT_SECONDS, key)
                    probe.terminate()
                pool = await aio_as_trio(asyncpg.create_pool)(
                    parameters.dsn,
                    ssl=parameters.tls,
                    min_size=1,
                    max_size=pool_size,
                    timeout=parameters.connect_seconds,
                    init=begin,
                    command_timeout=STATEMENT_SECONDS,
                    reset=_leave_as_it_is,
                    **pooled,
                )
        except (DatabaseUnavailable, DatabaseError, psycopg.Error) as error:
            failure = DatabaseUnavailable(str(error))
            if isinstance(error.__cause__, asyncpg.ProtocolViolationError):
                failure = DatabaseUnavailable(
                    f"{error}; if that is a pooler such as PgBouncer, set BRIDGE_LISTEN_URL to "
                    "PostgreSQL's own address"
                )
        else:
            try:
                yield Database(
                    for_sessions,
                    pool,
                    key=key,
                    shared=listen_url is not None,
                    pool_holds_key=pool_holds_key,
                )
            finally:
                pool.terminate()
    if failure is not None:
        raise failure


def _log_stray_error(_loop: object, context: Mapping[str, Any]) -> None:
    """Log the failure of a background task of asyncpg.

    A cancelled statement leaves a task behind that cleans up its connection. No caller awaits that
    task, so its failure would otherwise end the process.
    """
    error = context.get("exception")
    log.warning("database_connection_discarded", reason=str(error or context.get("message")))


async def _leave_as_it_is(_connection: asyncpg.Connection) -> None:
    """Return a connection to the pool without resetting it.

    Our statements leave no session state. asyncpg's RESET ALL would take a round trip and, behind a
    pooler, hit a server session that the application may use next.
    """


async def _connect(
    parameters: Parameters, session_limits: Mapping[str, str], seconds: float, key: int
) -> asyncpg.Connection:
    connection = await aio_as_trio(asyncpg.connect)(
        parameters.dsn,
        ssl=parameters.tls,
        timeout=parameters.connect_seconds,
        command_timeout=seconds,
        server_settings={**_SESSION, **session_limits},
    )
    try:
        parameters.apply_to(_socket(connection))
        await aio_as_trio(_hold_key)(connection, key)
        await aio_as_trio(_finish_limits)(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _socket(connection: asyncpg.Connection) -> socket.socket:
    found: socket.socket = connection._transport.get_extra_info("socket")
    return found


async def _finish_limits(connection: asyncpg.Connection) -> bool:
    """Set what cannot be a parameter of the connection, unless a pooler may share the session.

    Runs in asyncio.

    Returns:
        Whether there is no pooler.
    """
    if await connection.fetchval("select pg_backend_pid()") != connection.get_server_pid():
        return False
    await connection.execute(f"{NEUTRAL_SQL}; {limits.KEEPALIVES}")
    if connection.get_server_version() >= limits.TRANSACTION_TIMEOUT_SINCE:
        await connection.execute(limits.NO_TRANSACTION_TIMEOUT.format("session"))
    with suppress(asyncpg.InvalidParameterValueError):
        await connection.execute(limits.CHECK_CLIENT)
    return True


async def _hold_key(connection: asyncpg.Connection, key: int) -> None:
    """Show that the process with this key lives. Runs in asyncio."""
    await connection.fetch(query("hold_key"), key)


def values_by_column(rows: Sequence[Sequence[object]]) -> list[list[Any]]:
    """Transpose rows into one list per column, the form in which ``unnest`` takes them."""
    return [list(column) for column in zip(*rows, strict=True)]
