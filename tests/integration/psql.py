"""An operator's psql session on a separate database."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

Session = psycopg.Connection[tuple[Any, ...]]

#: Far enough in the past to be expired, but recent enough that create_partitions accepts it. Each
#: test uses its own days.
LONG_AGO = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(395)
KEPT_DAYS = 30


class Psql:
    """An operator's session in autocommit mode, with shortcuts for what couriers do."""

    def __init__(self, url: str) -> None:
        self.session: Session = psycopg.connect(url, autocommit=True)

    def rows(self, sql: str, *values: object) -> list[Any]:
        return self.session.execute(sql.encode(), values or None).fetchall()

    def value(self, sql: str, *values: object) -> Any:
        [[value]] = self.rows(sql, *values)
        return value

    def run(self, sql: str, *values: object) -> None:
        self.session.execute(sql.encode(), values or None)

    def row(self, sql: str, *values: object) -> dict[str, Any]:
        with self.session.cursor(row_factory=dict_row) as cursor:
            [row] = cursor.execute(sql.encode(), values or None).fetchall()
        return row

    def webhook(self, **columns: object) -> int:
        columns = {"name": "n", "url": "http://receiver", "event_type": "t"} | columns
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        webhook_id: int = self.value(
            f"insert into bridge.webhooks ({names}) values ({places}) returning id",
            *columns.values(),
        )
        return webhook_id

    def make_day(self, moment: datetime) -> None:
        self.run("select bridge.create_partitions(%s::date, 1)", moment)

    def pending(self, webhook_id: int, *, at: datetime | None = None, **columns: object) -> int:
        """Queue a delivery of an event recorded at this time; return its id."""
        event_id, recorded_at = self.rows(
            "insert into bridge.events (event_type, payload, occurred_at, recorded_at)"
            " values ('t', '{}', now(), coalesce(%s, now())) returning id, recorded_at",
            at,
        )[0]
        columns = {
            "webhook_id": webhook_id,
            "event_id": event_id,
            "event_recorded_at": recorded_at,
            "event_type": "t",
        } | columns
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        delivery_id: int = self.value(
            f"insert into bridge.delivery_queue ({names}) values ({places}) returning id",
            *columns.values(),
        )
        return delivery_id

    def finish(
        self, delivery_id: int, outcome: str = "failed", *, at: datetime | None = None
    ) -> None:
        """Settle a delivery as if at this time."""
        self.run(
            """
            with gone as (
                delete from bridge.delivery_queue where id = %s returning *
            ), logged as (
                insert into bridge.delivery_log
                    (id, webhook_id, event_id, event_recorded_at, event_type, status,
                     attempt_number, response_status, error_message, created_at, captured_at,
                     committed_at, finished_at)
                select id, webhook_id, event_id, event_recorded_at, event_type, %s,
                       attempt_number + 3, 500, 'HTTP 500', created_at, captured_at, committed_at,
                       coalesce(%s, now())
                from gone
                returning webhook_id, status
            )
            update bridge.webhooks w
            set delivered_count = delivered_count + (status = 'success')::integer,
                failed_count = failed_count + (status = 'failed')::integer
            from logged where logged.webhook_id = w.id
            """,
            delivery_id,
            outcome,
            at,
        )

    def finished(
        self, webhook_id: int, outcome: str = "failed", *, at: datetime | None = None
    ) -> int:
        delivery_id = self.pending(webhook_id, at=at)
        self.finish(delivery_id, outcome, at=at)
        return delivery_id

    def queued(self, delivery_id: int) -> dict[str, Any]:
        return self.row("select * from bridge.delivery_queue where id = %s", delivery_id)

    def waiting(self) -> bool:
        """Return whether a session waits for a lock."""
        return bool(
            self.value(
                "select exists (select from pg_locks l join pg_database d on d.oid = l.database"
                " where not granted and d.datname = current_database()"
                " union all select from pg_locks where not granted and database is null)"
            )
        )

    def assert_counts_are_exact(self) -> None:
        """Compare the webhooks' counts with the log."""
        assert (
            self.rows("""
            select webhook_id, delivered, failed
            from (select id as webhook_id, delivered_count as delivered, failed_count as failed
                  from bridge.webhooks
                  union all
                  select id, delivered_count, failed_count from bridge.deleted_webhooks) as kept
            full join (
                select webhook_id,
                       count(*) filter (where status = 'success') as delivered,
                       count(*) filter (where status = 'failed') as failed
                from bridge.delivery_log group by webhook_id) as logged
            using (webhook_id, delivered, failed)
            where (kept.webhook_id is null or logged.webhook_id is null)
              and (delivered <> 0 or failed <> 0)
        """)
            == []
        )


Psql.__test__ = False  # type: ignore[attr-defined]  # not a test class


def refused(psql: Psql, code: type[psycopg.Error], sql: str, *values: object) -> str:
    with pytest.raises(code) as refusal:
        psql.run(sql, *values)
    return str(refusal.value.diag.message_primary)


def together(*work: Callable[[], object]) -> list[object]:
    """Run functions at once in threads; return their results or exceptions."""
    results: list[object] = [None] * len(work)

    def run(place: int) -> None:
        try:
            results[place] = work[place]()
        except Exception as error:
            results[place] = error

    threads = [
        threading.Thread(target=run, args=[place], daemon=True) for place in range(len(work))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results
