"""From the bot's statement to a WebSocket client at 100 events/s, over a bare asyncpg LISTEN."""

from __future__ import annotations

import json
import threading
import time
from statistics import median, quantiles

import asyncpg
import psycopg
import trio
import trio_asyncio
from trio_asyncio import aio_as_trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.result import Result, new_database
from tests.system.processes import listening, running

ROUNDS = 5
EVENTS_A_ROUND = 200
PAUSE_SECONDS = 0.01

CAPTURED = "insert into public.users (auth_type, username) values ('x', %s)"
BARE = (
    "with row as (insert into public.bare (t) values (%s) returning t)"
    " select pg_notify('bare', t) from row"
)


def run(server: EmbeddedPostgres) -> list[Result]:
    return trio.run(_run, new_database(server))


async def _run(url: str) -> list[Result]:
    with psycopg.connect(url) as connection:
        connection.execute("create table public.bare (t text)")
    bridged: list[float] = []
    bare: list[float] = []
    async with trio_asyncio.open_loop(), running(url) as bridge, listening(bridge) as client:
        listener = await aio_as_trio(asyncpg.connect)(url)
        send, receive = trio.open_memory_channel[float](EVENTS_A_ROUND)
        await aio_as_trio(listener.add_listener)(
            "bare", lambda *args: send.send_nowait(time.monotonic() - float(args[-1]))
        )
        for _ in range(ROUNDS):
            writer = _write(url, CAPTURED)
            for _ in range(EVENTS_A_ROUND):
                sent = json.loads(await client.get_message())["payload"]["username"]
                bridged.append(time.monotonic() - float(sent))
            writer.join()
            writer = _write(url, BARE)
            bare += [await receive.receive() for _ in range(EVENTS_A_ROUND)]
            writer.join()
        await aio_as_trio(listener.close)()
    against = "bare asyncpg LISTEN"
    return [
        Result("latency p50", median(bridged) * 1e3, median(bare) * 1e3, "ms", against, "<= 2.5"),
        Result("latency p99", _p99(bridged) * 1e3, _p99(bare) * 1e3, "ms", against),
    ]


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[-1]


def _write(url: str, statement: str) -> threading.Thread:
    """Start a thread that writes one round, each row with the time at which it was sent."""

    def write() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for _ in range(EVENTS_A_ROUND):
                time.sleep(PAUSE_SECONDS)
                connection.execute(statement.encode(), (repr(time.monotonic()),))

    thread = threading.Thread(target=write)
    thread.start()
    return thread
