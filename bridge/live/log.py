"""The event log, as clients that were away read it."""

from bridge.database.pool import Database
from bridge.events import Event
from bridge.live.history import LogPage


async def read_log(
    database: Database, after: int, through: int, most_events: int, most_bytes: int
) -> LogPage:
    """Return the events of the log after an id, up to another one.

    Args:
        most_bytes: of payload, but one event in any case.

    Raises:
        DatabaseUnavailable: the database is away.
    """
    rows = await database.fetch("log_page", after, through, most_events, most_bytes)
    bounds = rows[0]
    events = [
        Event(row["id"], row["event_type"], row["payload"], row["occurred_at"])
        for row in rows
        if row["id"] is not None
    ]
    read_rows = bounds["read_rows"] or 0
    return LogPage(
        events,
        complete=len(events) == read_rows < most_events,
        available_from=bounds["available_from"],
        newest_id=bounds["newest_id"],
    )
