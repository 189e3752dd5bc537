"""PostgreSQL for the daemon: asyncpg, hosted on trio. The only module that imports either.

Everything here is called from trio. A database that is away, restarting or refusing raises
``DatabaseUnavailable``, so that callers retry one thing; any other error is a bug or a refusal and
goes up as ``asyncpg`` made it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

import asyncpg
import structlog
import trio
import trio_asyncio
from trio_asyncio import aio_as_trio

from bridge.assets import query

log = structlog.get_logger()

Result = TypeVar("Result")

#: A row: a mapping from column name to value.
Row = Mapping[str, Any]

#: PostgreSQL refused the statement (a constraint, a missing right, a wrong value).
DatabaseError = asyncpg.PostgresError
#: No partition of a log takes the row: the day's partition is missing.
MissingPartitionError = asyncpg.CheckViolationError
#: Two transactions waited for each other and this one was chosen to give way: try it again.
DeadlockError = asyncpg.DeadlockDetectedError

#: Longest wait for an answer to one statement, in seconds. None of ours takes long: past this the
#: connection is taken for dead.
STATEMENT_SECONDS = 30.0
CONNECT_SECONDS = 10.0
#: How long somebody waits for one of the connections of a share.
SHARE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 5.0
#: From then on, every pause is the longest; counting on would leave what a float can hold.
MANY_FAILURES = 10

# What a pooler takes, too: PgBouncer follows these, and refuses a client that asks for others.
_POOLED = {"application_name": "pgbridge", "timezone": "UTC"}
# The server notices a bridge that vanished without a word within about half a minute, and gives
# its place as the drainer to another.
_SESSION = {
    **_POOLED,
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "search_path": "pg_catalog, pg_temp",
    "jit": "off",
}

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # A statement that meets a connection just as the server ends it.
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
    """A table of somebody else's that is not read. The message says why."""


class DatabaseUnavailable(Exception):  # noqa: N818 - a state, not a mistake
    """The database is away, restarting or refuses the connection."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        # It shows values: all of a row that a constraint refuses, a webhook's secret among them.
        # The server's own log has it.
        error.detail = None
        if isinstance(error, _AWAY):
            raise _unavailable(error) from error
        raise
    except _AWAY as error:
        raise _unavailable(error) from error


def _unavailable(error: BaseException) -> DatabaseUnavailable:
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, FileNotFoundError):
        # Of a socket; asyncio does not say of which.
        reason = f"no PostgreSQL listens on its socket: {reason}"
    elif isinstance(error, TimeoutError) and not str(error).strip():
        reason = "it does not answer in time"
    return DatabaseUnavailable(reason)


class Connection:
    """One connection, with its notifications."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._listeners: dict[str, Callable[..., None]] = {}
        #: Whether a statement was cancelled, or took too long.
        self._interrupted = False

    async def fetch(self, name: str, *values: object) -> list[Row]:
        """Run the named query of ``sql/queries`` and return its rows."""
        statement = partial(self._connection.fetch, query(name), *values)
        rows: list[Row]
        with _translated():
            if self._interrupted:
                # It first waits until the server has cancelled the one before: a task's work.
                rows = await aio_as_trio(statement)()
                return rows
            try:
                rows = await _stepped(statement())
            except (trio.Cancelled, TimeoutError):
                self._interrupted = True
                raise
            return rows

    async def execute(self, sql: str) -> None:
        """Run SQL text without parameters."""
        with _translated():
            await aio_as_trio(self._connection.execute)(sql)

    async def listen(self, channel: str, ring: Callable[[], None]) -> None:
        """LISTEN on a channel; ``ring`` is called, in the trio thread, for each notification."""
        listener = self._listeners[channel] = lambda *_: ring()
        with _translated():
            await aio_as_trio(self._connection.add_listener)(channel, listener)

    async def unlisten(self, channel: str) -> None:
        """Stop listening on a channel."""
        listener = self._listeners.pop(channel)
        with _translated():
            await aio_as_trio(self._connection.remove_listener)(channel, listener)

    def on_loss(self, lost: Callable[[], None]) -> None:
        """Have ``lost`` called as soon as the connection is closed by anyone."""
        self._connection.add_termination_listener(lambda *_: lost())


class Database:
    """A pool of connections and the means to open one's own."""

    def __init__(self, session_url: str, pool: asyncpg.Pool) -> None:
        self._session_url = session_url
        self._pool = pool

    async def fetch(self, name: str, *values: object) -> list[Row]:
        """Run the named query of ``sql/queries`` on a pooled connection and return its rows.

        Cancelling waits for it to end: asyncpg may lose a pooled connection whose statement is
        cancelled just as the server ends it. Statements are short, and bounded in any case.
        """
        rows: list[Row] = []
        with _translated(), trio.CancelScope(shield=True):
            rows = await aio_as_trio(self._pool.fetch)(query(name), *values)
        return rows  # noqa: RET504 - mypy: the scope might swallow what it cancels

    async def fetch_one(self, name: str, *values: object) -> Row | None:
        """Like :meth:`fetch`, and return the first row or None."""
        rows = await self.fetch(name, *values)
        return rows[0] if rows else None

    async def change(self, actor: str, name: str, *values: object) -> list[Row]:
        """Like :meth:`fetch`, and what changes is written down as this actor's doing.

        Args:
            actor: JSON, as ``bridge.audit`` reads it.
        """
        rows: list[Row] = []
        with _translated(), trio.CancelScope(shield=True):
            rows = await aio_as_trio(self._change)(actor, query(name), values)
        return rows  # noqa: RET504 - mypy, as above

    async def _change(self, actor: str, statement: str, values: Sequence[object]) -> list[Row]:
        async with self._pool.acquire() as connection, connection.transaction():
            # For this transaction: a pooler gives the session to others behind it.
            await connection.execute("select set_config('bridge.actor', $1, true)", actor)
            rows: list[Row] = await connection.fetch(statement, *values)
            return rows

    async def read_foreign(self, guard: str, name: str, *values: object) -> list[Row]:
        """Like :meth:`fetch`, of a table whose owner may do less than this role.

        What he makes of the table may run with our rights. So the query ``guard`` is asked before
        whether there is such a thing; and should it come a moment later, it can write nothing.

        Args:
            guard: returns a row, with a ``reason``, if the table is not to be read.

        Raises:
            UnfitTableError: it has returned one.
        """
        rows: list[Row] = []
        with _translated(), trio.CancelScope(shield=True):
            rows = await aio_as_trio(self._read_foreign)(query(guard), query(name), values)
        return rows  # noqa: RET504 - mypy, as above

    async def _read_foreign(
        self, guard: str, statement: str, values: Sequence[object]
    ) -> list[Row]:
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            for row in await connection.fetch(guard):
                raise UnfitTableError(row["reason"])
            rows: list[Row] = await connection.fetch(statement, *values)
            return rows

    @property
    def pooled(self) -> tuple[int, int]:
        """How many connections of the pool are busy, and how many idle."""
        idle: int = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Open a connection outside the pool, for LISTEN and session locks."""
        with _translated():
            raw = await _connect(self._session_url)
        try:
            yield Connection(raw)
        finally:
            # Not close(): that would wait for a server that may be gone.
            raw.terminate()


class Share:
    """A share of the pool: those who ask through it take no more connections at once than that.

    Who waits for a turn waits ``SHARE_SECONDS`` at most; they are not kept waiting for ever by a
    database that is slow, and others not by them.
    """

    def __init__(self, database: Database, connections: int) -> None:
        self._database = database
        self._turns = trio.CapacityLimiter(connections)

    async def fetch(self, name: str, *values: object) -> list[Row]:
        """Like :meth:`Database.fetch`.

        Raises:
            DatabaseUnavailable: also if there was no turn in time.
        """
        async with self.turn() as database:
            return await database.fetch(name, *values)

    async def change(self, actor: str, name: str, *values: object) -> list[Row]:
        """Like :meth:`Database.change`, and raises what :meth:`fetch` does."""
        async with self.turn() as database:
            return await database.change(actor, name, *values)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Database]:
        """Wait for a turn, and give the database for one statement at a time.

        Raises:
            DatabaseUnavailable: there was no turn in time.
        """
        with trio.move_on_after(SHARE_SECONDS) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise DatabaseUnavailable("it answers too slowly for all who ask")
        try:
            yield self._database
        finally:
            self._turns.release()


@asynccontextmanager
async def open_database(
    url: str, *, listen_url: str | None = None, pool_size: int = 8
) -> AsyncIterator[Database]:
    """Open the pool, and the event loop that asyncpg needs, for the time of the context.

    Args:
        url: where the pool connects.
        listen_url: where connections of one's own are opened, if elsewhere. With it, the pool is
            taken to be behind a pooler such as PgBouncer: a statement then runs in whatever
            session of the server is free, and nothing is expected of that session.

    Raises:
        DatabaseUnavailable: the database cannot be reached with one of the URLs.
    """
    pooled: dict[str, Any] = {"server_settings": _SESSION}
    if listen_url is not None:
        pooled = {"server_settings": _POOLED, "statement_cache_size": 0, "reset": _leave_as_it_is}
    # What is raised inside the loop's context comes out in exception groups; a connection that
    # cannot be had should not.
    failure: DatabaseUnavailable | None = None
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_log_stray_error)
        try:
            with _translated():
                if listen_url is not None:
                    # A wrong one is found now, and not by a relay that tries again for ever.
                    (await _connect(listen_url)).terminate()
                pool = await aio_as_trio(asyncpg.create_pool)(
                    url,
                    min_size=1,
                    max_size=pool_size,
                    timeout=CONNECT_SECONDS,
                    command_timeout=STATEMENT_SECONDS,
                    **pooled,
                )
        except (DatabaseUnavailable, DatabaseError) as error:
            failure = DatabaseUnavailable(str(error))
            if isinstance(error.__cause__, asyncpg.ProtocolViolationError):
                failure = DatabaseUnavailable(
                    f"{error}; if that is a pooler such as PgBouncer, set BRIDGE_LISTEN_URL to "
                    "PostgreSQL's own address"
                )
        else:
            try:
                yield Database(listen_url or url, pool)
            finally:
                pool.terminate()
    if failure is not None:
        raise failure


def _log_stray_error(_loop: object, context: Mapping[str, Any]) -> None:
    """Log what a task of asyncpg's own ended with.

    A statement that is cancelled leaves one behind that cleans its connection up; when that fails,
    because the connection has ended, nobody waits for it. By default it would end the process.
    """
    error = context.get("exception")
    log.warning("connection_discarded", reason=str(error or context.get("message")))


async def _stepped(work: Coroutine[asyncio.Future[Any], None, Result]) -> Result:
    """Run a statement of asyncpg's in this very task, instead of in an asyncio task of its own.

    That takes a third of the round trip's time away, and an event is delayed by one of them. It
    does for what awaits nothing but futures, as a statement on one connection does.
    """
    task = trio.lowlevel.current_task()
    try:
        while True:
            future = work.send(None)
            # What an asyncio task does with a future that it was given.
            future._asyncio_future_blocking = False
            future.add_done_callback(lambda _: trio.lowlevel.reschedule(task))

            def cancel(_: object, future: asyncio.Future[Any] = future) -> trio.lowlevel.Abort:
                # asyncpg then tells the server; what became of it comes out of the statement.
                future.cancel()
                return trio.lowlevel.Abort.FAILED

            await trio.lowlevel.wait_task_rescheduled(cancel)
    except StopIteration as done:
        result: Result = done.value
        return result
    except asyncio.CancelledError:
        await trio.lowlevel.checkpoint_if_cancelled()
        raise


async def _leave_as_it_is(_connection: asyncpg.Connection) -> None:
    """Take a connection back into the pool: our statements leave nothing behind to reset.

    What asyncpg would run, RESET ALL among it, would meet a session that the application uses.
    """


async def _connect(url: str) -> asyncpg.Connection:
    return await aio_as_trio(asyncpg.connect)(
        url,
        timeout=CONNECT_SECONDS,
        command_timeout=STATEMENT_SECONDS,
        server_settings=_SESSION,
    )


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work``, and run it again whenever the database ends it, until it returns.

    What is retried: a database that is away, and one that refuses (no space, no right, a lock that
    is not to be had); both pass without us. What is let through: everything else, which is a bug.
    Pauses grow to ``LONGEST_PAUSE_SECONDS`` and are jittered, so that many bridges do not return at
    once; a run that lasted longer starts them over.
    """
    failures = 0
    while True:
        started = trio.current_time()
        try:
            return await work()
        except (DatabaseUnavailable, DatabaseError) as error:
            lasted = trio.current_time() - started
            failures = 0 if lasted > LONGEST_PAUSE_SECONDS else min(failures + 1, MANY_FAILURES)
            pause = random.uniform(0.5, 1.0) * min(0.1 * 2**failures, LONGEST_PAUSE_SECONDS)  # noqa: S311
            tell = log.warning if isinstance(error, DatabaseUnavailable) else log.error
            tell("database_away", task=name, reason=str(error), retry_seconds=round(pause, 2))
            await trio.sleep(pause)


def values_by_column(rows: Sequence[Sequence[object]]) -> list[list[Any]]:
    """Turn rows into one list a column, which is how ``unnest`` takes many rows at once."""
    return [list(column) for column in zip(*rows, strict=True)]
