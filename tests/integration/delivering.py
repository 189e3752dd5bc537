"""Run a courier on a test's database, or its two queries by themselves."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_network
from typing import Any

import psycopg
import trio

from bridge.access.vault import Vault
from bridge.database.pool import Database, Row, open_database, values_by_column
from bridge.delivery.addresses import AddressPolicy
from bridge.delivery.claiming import CLAIM_BYTES, NEXT
from bridge.delivery.courier import Courier
from bridge.delivery.resolve import resolve
from bridge.delivery.transport import Transport
from bridge.relay.upkeep import create_partitions
from tests.waiting import PATIENCE_SECONDS

#: Stores secrets in plain text.
PLAIN = Vault()
#: Allows the tests' receivers, which run on this machine.
LOCAL = AddressPolicy([ip_network("127.0.0.0/8")])

#: The default of the settings.
DISABLE_SECONDS = 5 * 86_400.0

Bot = psycopg.Connection[tuple[Any, ...]]


def enqueue(bot: Bot, webhook_id: int, payload: str = "{}", count: int = 1) -> list[int]:
    """Log events and queue their deliveries to a webhook; return the ids of the deliveries."""
    rows = bot.execute(
        """
        with logged as (
            insert into bridge.events (event_type, payload, occurred_at)
            select 'test.event', %s, now() from generate_series(1, %s)
            returning id, recorded_at, event_type
        )
        insert into bridge.delivery_queue (webhook_id, event_id, event_recorded_at, event_type)
        select %s, id, recorded_at, event_type from logged
        returning id
        """,
        (payload, count, webhook_id),
    ).fetchall()
    return [row[0] for row in rows]


def delivery(bot: Bot, delivery_id: int) -> dict[str, Any]:
    """Return a delivery's row of the view."""
    with bot.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        row = cursor.execute(
            "select * from bridge.webhook_deliveries where id = %s", (delivery_id,)
        ).fetchone()
    assert row is not None
    return row


#: The answer of a claim that searched every queue to its end.
NOTHING_LEFT: Row = dict.fromkeys(NEXT)
SETTLED = "not exists (select from bridge.delivery_queue where attempt_number = 0)"


@asynccontextmanager
async def delivering(
    url: str,
    *,
    schedule: Sequence[float] = (0, 3600),
    concurrency: int = 16,
    poll_seconds: float = 0.05,
    vault: Vault = PLAIN,
    policy: AddressPolicy = LOCAL,
) -> AsyncIterator[Courier]:
    """Run a courier for the duration of the context, then stop it."""
    with (
        trio.fail_after(PATIENCE_SECONDS),
        Transport(partial(resolve, policy=policy), max_idle=concurrency) as transport,
    ):
        async with (
            open_database(url) as database,
            trio.open_nursery() as nursery,
        ):
            courier = Courier(
                database,
                transport,
                vault,
                concurrency=concurrency,
                schedule=schedule,
                disable_seconds=DISABLE_SECONDS,
                create_partitions=partial(create_partitions, database),
                poll_seconds=poll_seconds,
            )
            nursery.start_soon(courier.run)
            yield courier
            courier.stop()


async def claim(
    database: Database,
    limit: int = 64,
    *,
    failing: int | None = None,
    in_flight: Mapping[int, int] | None = None,
) -> list[Row]:
    """Sweep as a courier does.

    Args:
        limit: maximum number of deliveries.
        failing: maximum number of them to webhooks that mostly fail; None: no limit.
        in_flight: deliveries in flight by webhook.
    """
    rows = await database.fetch("claim", *claim_values(limit, failing=failing, in_flight=in_flight))
    return [row for row in rows if row["id"] is not None]


def claim_values(
    limit: int = 64,
    *,
    failing: int | None = None,
    in_flight: Mapping[int, int] | None = None,
    left_off: Row | None = None,
    others_since: datetime | None = None,
    most_bytes: int = CLAIM_BYTES,
    owner: int = 1,
    lost: Sequence[int] = (),
) -> list[object]:
    """Return the parameters of a claim, or of a sweep unless it continues another claim.

    Args:
        left_off: the first row of the last claim.
        others_since: since when to search the queues that it searched to their ends.
        most_bytes: maximum size of all payloads.
        owner: names the courier in its leases.
        lost: owners whose leases count as expired.
    """
    known = in_flight or {}
    return [
        list(known),
        list(known.values()),
        *([] if left_off is None else left_off[column] or [] for column in NEXT),
        others_since,
        left_off is None,
        limit,
        limit if failing is None else failing,
        most_bytes,
        [],
        [],
        owner,
        list(lost),
    ]


async def settle(
    database: Database,
    rows: Sequence[Row],
    *,
    failure: str | None = None,
    gives_up: bool = False,
    retry_seconds: float = 3600.0,
    pause_seconds: float = 0.0,
    started_at: datetime | None = None,
    count_seconds: float = 0.0,
) -> None:
    """Settle claimed deliveries in one batch, all with the same result.

    Args:
        count_seconds: how long successes may wait to be counted.
    """
    outcome = "success" if failure is None else "failed" if gives_up else "retry"
    at = started_at or datetime.now(UTC)
    attempts = [
        (
            *(row["id"], row["lease_token"], row["webhook_id"], row["attempt_number"] + 1),
            *(at, at, outcome, retry_seconds, None, None, failure, failure, None),
            *(pause_seconds, row["is_probe"]),
        )
        for row in rows
    ]
    settled = await database.fetch(
        "settle", *values_by_column(attempts), DISABLE_SECONDS, count_seconds
    )
    assert sum(row["id"] is not None for row in settled) == len(rows)
