"""The cost of ten million finished deliveries for claiming, settling and reading new ones.

``BENCH_HISTORY`` sets the number; a million takes half a minute and half a gigabyte.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

import httpx
import psycopg
import trio

from bridge.database.pool import Database, Row, open_database, values_by_column
from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.result import Result, new_database
from tests.integration.delivering import NOTHING_LEFT, claim_values
from tests.system.processes import TOKEN, running

HISTORY = int(os.environ.get("BENCH_HISTORY", "10_000_000"))
#: The days of the history: the default retention.
DAYS = 7
#: Disk space per delivery in both logs with indexes, and the space for WAL.
DELIVERY_BYTES = 500
WAL_BYTES = 3 * 1024**3

WEBHOOKS = 50
BATCH = 200
ROUNDS = 7
BATCHES = 15
#: PostgreSQL keeps a generic plan after five executions.
WARM_UP = 6
CLAIMS = 40
REQUESTS = 15
#: Deliveries settled while vacuum is blocked.
HELD_BACK = int(os.environ.get("BENCH_HELD_BACK", "100_000"))
#: The largest batch of a claim, to get through those.
LARGE_BATCH = 1000

ADD_WEBHOOKS = """
insert into bridge.webhooks (name, url, event_type, max_concurrency)
select 'bench', 'http://127.0.0.1:9/', 'bench.event', %s from generate_series(1, %s)
"""
ENQUEUE = """
with logged as (
    insert into bridge.events (event_type, payload, occurred_at)
    select 'bench.event', '{"user_id": 1, "amount_kopeks": 10050}', now()
    from generate_series(1, %s)
    returning id, recorded_at, event_type
)
insert into bridge.delivery_queue (webhook_id, event_id, event_recorded_at, event_type)
select w.id, l.id, l.recorded_at, l.event_type from logged l cross join bridge.webhooks w
"""
# As settle writes them: in ID order, alternating between webhooks.
LOG = """
insert into bridge.delivery_log
    (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
     response_status, response_body, created_at, finished_at,
     captured_at, committed_at, claimed_at, sent_at, acknowledged_at)
select n, 1 + n %% %(webhooks)s, n / %(webhooks)s, at, 'bench.event', 'success', 1,
       200, 'ok', at, at, at, at, at, at, at
from generate_series(%(first)s, %(last)s) as n
cross join lateral (
    select now() - make_interval(secs => %(days)s * 86400 * (1 - n / %(count)s::float8)) as at
) as finished
"""
ATTEMPTS = """
insert into bridge.delivery_attempts
    (delivery_id, webhook_id, attempt_number, started_at, finished_at,
     response_status, response_body)
select n, 1 + n %% %(webhooks)s, 1, at, at, 200, 'ok'
from generate_series(%(first)s, %(last)s) as n
cross join lateral (
    select now() - make_interval(secs => %(days)s * 86400 * (1 - n / %(count)s::float8)) as at
) as finished
"""
FILL_CHUNK = 500_000


def run(server: EmbeddedPostgres) -> list[Result]:
    needed = HISTORY * DELIVERY_BYTES + WAL_BYTES
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        raise SystemExit(
            f"{HISTORY:,} deliveries need {needed / 1e9:.0f} GB in {tempfile.gettempdir()}, and"
            f" {free / 1e9:.0f} GB are free; set BENCH_HISTORY to fewer"
        )
    urls = [_new_database(server), _new_database(server)]
    _fill(urls[0])
    return [
        *trio.run(_claim_and_settle, urls),
        *trio.run(_look, urls),
        *trio.run(_hold_vacuum_back, _new_database(server)),
    ]


def _new_database(server: EmbeddedPostgres) -> str:
    url = new_database(server)
    with psycopg.connect(url) as connection:
        connection.execute(ADD_WEBHOOKS, (LARGE_BATCH // WEBHOOKS, WEBHOOKS))
        connection.execute(
            "select bridge.create_partitions((now() at time zone 'UTC')::date - %s, %s)",
            (DAYS + 1, DAYS + 3),
        )
    return url


def _fill(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        for first in range(1, HISTORY + 1, FILL_CHUNK):
            chunk = {
                "first": first,
                "last": min(first + FILL_CHUNK - 1, HISTORY),
                "count": HISTORY,
                "webhooks": WEBHOOKS,
                "days": DAYS,
            }
            connection.execute(LOG, chunk)
            connection.execute(ATTEMPTS, chunk)
        connection.execute("select setval('bridge.delivery_queue_id_seq', %s)", (HISTORY,))
        connection.execute(
            "update bridge.webhooks w set delivered_count = l.count, success_count = l.count"
            " from (select webhook_id, count(*) from bridge.delivery_log group by 1) as l"
            " where l.webhook_id = w.id"
        )
        # Autovacuum would have done this in a history that grew over days.
        connection.execute("vacuum (analyze)")
        connection.execute("checkpoint")


async def _claim_and_settle(urls: Sequence[str]) -> list[Result]:
    """Time both queries on both databases, alternating by rounds of batches."""
    claims: list[list[float]] = [[], []]
    settlings: list[list[float]] = [[], []]
    both: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for place, url in enumerate(urls):
            # One at a time: an event loop has one database open.
            async with open_database(url) as database:
                with psycopg.connect(url, autocommit=True) as writer:
                    times = await _batches(database, writer)
            claims[place].append(median(claim for claim, _ in times))
            settlings[place].append(median(settle for _, settle in times))
            both[place].append(median(claim + settle for claim, settle in times))
    return [
        _beside("claim + settle", both, "<= 1.2"),
        _beside("claim", claims),
        _beside("settle", settlings),
    ]


async def _batches(
    database: Database, writer: psycopg.Connection[Any]
) -> list[tuple[float, float]]:
    """Return the times of claiming and settling per batch."""
    times = []
    for number in range(WARM_UP + BATCHES):
        writer.execute(ENQUEUE, (BATCH // WEBHOOKS,))
        claim, rows = await _claim(database, BATCH)
        assert len(rows) == BATCH
        settle = await _settle(database, rows)
        if number >= WARM_UP:
            times.append((claim, settle))
    return times


async def _look(urls: Sequence[str]) -> list[Result]:
    """Time the dashboard's REST requests."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    results = []
    async with (
        running(urls[0]) as full,
        running(urls[1]) as empty,
        httpx.AsyncClient(headers=headers, trust_env=False, timeout=60) as client,
    ):
        for path in ("/webhooks/stats", "/webhooks/1/deliveries"):
            spent: list[list[float]] = [[], []]
            for number in range(REQUESTS + 2):
                for place, bridge in enumerate((full, empty)):
                    started = time.perf_counter()
                    answer = await client.get(bridge.rest_url + path)
                    elapsed = time.perf_counter() - started
                    assert answer.status_code == 200, answer.text
                    if number >= 2:
                        spent[place].append(elapsed)
            results.append(_beside(f"GET {path}", spent))
    return results


async def _hold_vacuum_back(url: str) -> list[Result]:
    """Time a claim while vacuum cannot remove the settled rows before it."""
    async with open_database(url) as database:
        with psycopg.connect(url, autocommit=True) as writer, psycopg.connect(url) as report:
            fresh = await _claims(database, writer, None)
            # An open transaction with a snapshot and an xid blocks vacuum.
            report.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            report.execute("select pg_current_xact_id()")
            since = None
            for _ in range(HELD_BACK // LARGE_BATCH):
                writer.execute(ENQUEUE, (LARGE_BATCH // WEBHOOKS,))
                _, rows = await _claim(database, LARGE_BATCH)
                since = max(row["next_attempt_at"] for row in rows)
                await _settle(database, rows)
            all_over = await _claims(database, writer, None)
            from_mark = await _claims(database, writer, since)
    name = f"claim after {HELD_BACK:,} settled, vacuum blocked"
    return [
        Result(f"{name}, full scan", all_over * 1e3, fresh * 1e3, "ms", "fresh queue"),
        Result(f"{name}, from the mark on", from_mark * 1e3, fresh * 1e3, "ms", "fresh queue"),
    ]


async def _claims(
    database: Database, writer: psycopg.Connection[Any], since: datetime | None
) -> float:
    """Return the median seconds of claiming a batch.

    Deliveries due before ``since`` are not scanned; None scans all.
    """
    times = []
    for number in range(WARM_UP + CLAIMS):
        writer.execute(ENQUEUE, (BATCH // WEBHOOKS,))
        spent, rows = await _claim(database, BATCH, since)
        assert len(rows) == BATCH
        if since is not None:
            since = max(row["next_attempt_at"] for row in rows)
        await _settle(database, rows)
        if number >= WARM_UP:
            times.append(spent)
    return median(times)


async def _claim(
    database: Database, most: int, since: datetime | None = None
) -> tuple[float, list[Row]]:
    left_off = None if since is None else NOTHING_LEFT
    values = claim_values(most, left_off=left_off, others_since=since)
    started = time.perf_counter()
    rows = await database.fetch("claim", *values)
    return time.perf_counter() - started, rows


async def _settle(database: Database, rows: Sequence[Row]) -> float:
    now = datetime.now(UTC)
    attempts = [
        (
            *(row["id"], row["lease_token"], row["webhook_id"], row["attempt_number"] + 1),
            *(now, now, "success", 0.0, 200, "ok", None, None, None, 0.0, False),
        )
        for row in rows
    ]
    started = time.perf_counter()
    settled = await database.fetch("settle", *values_by_column(attempts), 5 * 86_400.0, 0.0)
    spent = time.perf_counter() - started
    assert len(settled) == len(rows)
    return spent


def _beside(name: str, spent: Sequence[Sequence[float]], mark: str = "") -> Result:
    """Return the median with the history and the median without."""
    full, empty = spent
    return Result(
        f"{name} after {HISTORY:,} deliveries",
        median(full) * 1e3,
        median(empty) * 1e3,
        "ms",
        "after none",
        mark,
        median(with_it / without for with_it, without in zip(full, empty, strict=True)),
    )
