"""Time to drain one event after many passed while vacuum was blocked, relative to a new queue."""

import time
from statistics import median

import psycopg
import trio

from bridge.database.clock import ServerClock
from bridge.database.pool import open_database
from bridge.demo.postgres import EmbeddedPostgres
from bridge.relay.deferral import Deferral
from bridge.relay.drain import Drainer
from bridge.relay.relay import FAST_PLANS
from bridge.relay.watermark import Watermark
from tests.bench.result import Result, new_database

EVENTS = 1_000_000
CHUNK = 50_000
SINGLES = 400

INSERT = (
    "insert into bridge.outbox (event_type, payload)"
    " select 'user.created', '{\"user_id\": 1}' from generate_series(1, %s)"
)


def run(server: EmbeddedPostgres) -> list[Result]:
    return trio.run(_run, new_database(server))


async def _run(url: str) -> list[Result]:
    async with open_database(url) as database, database.connect() as connection:
        await connection.execute(FAST_PLANS)
        drainer = Drainer(
            connection, Watermark(0), 1000, ServerClock(), Deferral(database, lambda: None), 0
        )
        with (
            psycopg.connect(url, autocommit=True) as writer,
            psycopg.connect(url) as report,
        ):
            fresh = await _one_at_a_time(drainer, writer)
            # An open transaction with a snapshot and an xid blocks vacuum.
            report.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            report.execute("select pg_current_xact_id()")
            spent = 0.0
            for _ in range(EVENTS // CHUNK):
                writer.execute(INSERT, (CHUNK,))
                started = time.perf_counter()
                drained = 0
                while drained < CHUNK:
                    rows, _ = await drainer.drain()
                    drained += len(rows)
                spent += time.perf_counter() - started
            after = await _one_at_a_time(drainer, writer)
            writer.execute(INSERT, (CHUNK,))
            started = time.perf_counter()
            bare = 0
            while bare < CHUNK:
                bare += writer.execute(
                    "delete from bridge.outbox where id = any (array("
                    "select id from bridge.outbox order by id desc limit 1000)) returning *"
                ).rowcount
            bare_rate = CHUNK / (time.perf_counter() - started)
    return [
        Result(
            f"drain one event after {EVENTS:,}",
            after * 1e3,
            fresh * 1e3,
            "ms",
            "fresh queue",
            "<= 1.5",
        ),
        Result("drain a backlog", EVENTS / spent, bare_rate, "events/s", "bare DELETE … RETURNING"),
    ]


async def _one_at_a_time(drainer: Drainer, writer: psycopg.Connection[object]) -> float:
    """Return the median seconds of a drain of one event."""
    times = []
    for _ in range(SINGLES):
        writer.execute(INSERT, (1,))
        started = time.perf_counter()
        rows, _ = await drainer.drain()
        times.append(time.perf_counter() - started)
        assert len(rows) == 1
    return median(times)
