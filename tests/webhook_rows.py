"""Add webhooks to a database."""

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
