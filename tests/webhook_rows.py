"""Add webhooks and failed deliveries to a database."""

from datetime import datetime
from typing import Any

import psycopg


def add_webhook(
    connection: psycopg.Connection[Any], url: str = "http://localhost/", **columns: object
) -> int:
    """Add a webhook for every event, or with these columns, and return its id."""
    columns = {"name": "test", "url": url, "event_type": "*", "timeout_seconds": 20} | columns
    names, places = ", ".join(columns), ", ".join(f"%({name})s" for name in columns)
    row = connection.execute(
        f"insert into bridge.webhooks ({names}) values ({places}) returning id".encode(), columns
    ).fetchone()
    assert row is not None
    return int(row[0])


def add_failures(
    connection: psycopg.Connection[Any],
    webhook_id: int,
    count: int,
    *,
    at: datetime | None = None,
    payload: str = "{}",
) -> None:
    """Log failed deliveries of one event, as if everything happened at this time, or now."""
    connection.execute(
        """
        with event as (
            insert into bridge.events (event_type, payload, occurred_at, recorded_at)
            values ('t', %(payload)s, now(), coalesce(%(at)s, now())) returning id, recorded_at
        ), logged as (
            insert into bridge.delivery_log
                (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
                 created_at, finished_at)
            select nextval(pg_get_serial_sequence('bridge.delivery_queue', 'id')), %(webhook)s, id,
                   recorded_at, 't', 'failed', 3, recorded_at, recorded_at
            from event, generate_series(1, %(count)s)
        )
        update bridge.webhooks set failed_count = failed_count + %(count)s where id = %(webhook)s
        """,
        {"payload": payload, "at": at, "webhook": webhook_id, "count": count},
    )
