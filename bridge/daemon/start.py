"""Check before a bridge starts that it can use the database and the port."""

from collections.abc import Awaitable, Callable

import trio

from bridge import assets
from bridge.database import rights
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.relay.upkeep import create_partitions
from bridge.settings import Settings


class StartError(Exception):
    """The bridge cannot start. The message says why and what to do."""


async def prepare_database(database: Database) -> int:
    """Check privileges and schema version, create today's partitions, return the last event's ID.

    Raises:
        StartError: the database cannot be used.
    """
    try:
        # Report missing privileges now: a rare statement may need them only hours later.
        if missing := rights.missing_rights(await database.fetch("rights")):
            raise StartError(f"permission denied: {'; '.join(missing)}")
        [row] = await database.fetch("schema_version")
        if mismatch := assets.schema_mismatch(row["version"]):
            raise StartError("; ".join(mismatch))
        await create_partitions(database)
        [newest] = await database.fetch("newest_event")
    except DatabaseUnavailable as error:
        raise StartError(f"cannot use the database: {error}") from None
    except DatabaseError as error:
        raise StartError(
            f"the database has no schema bridge that this role can use: {error}; run: pgbridge init"
        ) from None
    last_event_id: int = newest["newest_id"]
    return last_event_id


async def listen(
    settings: Settings, open_listeners: Callable[[], Awaitable[list[trio.SocketListener]]] | None
) -> list[trio.SocketListener]:
    """Open the listeners, by default on the host and port of the settings.

    Raises:
        StartError: the address is in use or does not exist.
    """
    try:
        if open_listeners is not None:
            return await open_listeners()
        return await trio.open_tcp_listeners(settings.port, host=settings.host)
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        ) from None
