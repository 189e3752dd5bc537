"""Deliveries per second of a backlog beside an idle open transaction, relative to without it.

The transaction holds back vacuum, so every settled delivery stays in the queue's indexes. The last
quarter shows whether deliveries become slower the longer it lasts. ``BENCH_BACKLOG`` sets the
number of deliveries.
"""

import os
import subprocess
import sys
import time

import psycopg
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.delivery import ENDPOINTS, RECEIVER
from tests.bench.result import Result, new_database
from tests.system.processes import running

#: Enough for 40 seconds on two cores.
BACKLOG = int(os.environ.get("BENCH_BACKLOG", "100_000"))
#: Events per commit.
CHUNK = 20
QUARTERS = 4
MARK = ">= 0.8"


def run(server: EmbeddedPostgres) -> list[Result]:
    with subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE) as receiver:
        try:
            assert receiver.stdout is not None
            base = f"http://127.0.0.1:{int(receiver.stdout.readline())}"
            alone = trio.run(_deliver, new_database(server), base)
            url = new_database(server)
            with psycopg.connect(url) as idle:
                # It has a snapshot and an xid.
                idle.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                idle.execute("select pg_current_xact_id()")
                beside = trio.run(_deliver, url, base)
        finally:
            receiver.terminate()
    for name, quarters in (("alone", alone), ("beside", beside)):
        print(name, *(f"{each:.1f} s" for each in quarters), file=sys.stderr)
    share = BACKLOG / QUARTERS
    return [
        Result(
            f"{BACKLOG:,} deliveries beside an open transaction",
            BACKLOG / beside[-1],
            BACKLOG / alone[-1],
            "deliveries/s",
            "without it",
            MARK,
        ),
        Result(
            "the last quarter of them",
            share / (beside[-1] - beside[-2]),
            share / (alone[-1] - alone[-2]),
            "deliveries/s",
            "without it",
            MARK,
        ),
    ]


async def _deliver(url: str, base: str) -> list[float]:
    """Queue the deliveries, send them, and return after how many seconds each quarter was done."""
    async with running(url):
        with psycopg.connect(url, autocommit=True) as connection:
            for number in range(ENDPOINTS):
                connection.execute(
                    "insert into bridge.webhooks (name, url, event_type, secret)"
                    " values ('bench', %s, 'user.created', 'secret')",
                    (f"{base}/{number}",),
                )
            started = time.perf_counter()
            for _ in range(BACKLOG // ENDPOINTS // CHUNK):
                connection.execute(
                    "insert into public.users (auth_type) select 'x' from generate_series(1, %s)",
                    (CHUNK,),
                )
            quarters: list[float] = []
            while len(quarters) < QUARTERS:
                await trio.sleep(0.2)
                row = connection.execute(
                    "select sum(delivered_count)::bigint from bridge.webhooks"
                ).fetchone()
                assert row is not None
                while len(quarters) < row[0] * QUARTERS // BACKLOG:
                    quarters.append(time.perf_counter() - started)
            return quarters
