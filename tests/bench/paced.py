"""Latency from the application's statement to the client at 100 events/s.

The clock starts just before the statement is sent, so every figure and reference includes the
commit with its flush to disk. It stops when the client's process has read the event.

References of the same run: for one client, a bare asyncpg LISTEN for the statement's own NOTIFY;
for 500 clients, a bare LISTEN whose frame is written in a loop to 500 plain sockets of the clients'
process. Figures are medians over alternating rounds.
"""

import asyncio
import time
from contextlib import closing
from statistics import median, quantiles

import asyncpg
import psycopg
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.clients import Clients
from tests.bench.plain import PlainSockets, frame, plain_sockets
from tests.bench.result import Result, new_database
from tests.bench.writers import STATEMENT, Writer
from tests.system.processes import running

ROUNDS = 5
CROWDS = (1, 100, 500)
MANY = max(CROWDS)
EVENTS_A_ROUND = 200
PAUSE_SECONDS = 0.01

#: Writes as much as the bridge's trigger: one more row, and a NOTIFY.
BARE = (
    "with row as (insert into public.bare (t, first_name) values (%s, %s) returning t)"
    " select pg_notify('bare', t) from row"
)

#: Median and p99 of a round, in seconds.
Spent = tuple[float, float]


def run(server: EmbeddedPostgres) -> list[Result]:
    with Clients() as clients:
        spent = trio.run(_rounds, new_database(server), clients)
    return [
        *[
            _result("p50", spent, f"{crowd}", "LISTEN", mark)
            for crowd, mark in zip(CROWDS, ("<= 2.5", "", ""), strict=True)
        ],
        *[_result("p99", spent, f"{crowd}", "LISTEN", "") for crowd in CROWDS],
        _result("p50", spent, f"{MANY}", "loop", ""),
        _result("p99", spent, f"{MANY}", "loop", "<= 10 ms"),
    ]


async def _rounds(url: str, clients: Clients) -> dict[str, list[Spent]]:
    """Return the latencies of each, by round."""
    with psycopg.connect(url) as connection:
        connection.execute("create table public.bare (t text, first_name text)")
    spent: dict[str, list[Spent]] = {
        name: [] for name in ("LISTEN", "loop", *(f"{crowd}" for crowd in CROWDS))
    }
    async with running(url) as bridge:
        for _ in range(ROUNDS):
            spent["LISTEN"].append(await trio.to_thread.run_sync(_bare, url))
            for crowd in CROWDS:
                with clients.connected(crowd, bridge.port, "timed") as group:
                    spent[f"{crowd}"].append(_through_the_bridge(url, clients, group))
            with plain_sockets(clients, MANY, "timed") as sockets:
                spent["loop"].append(_through_a_loop(url, clients, sockets))
    return spent


def _writer(url: str, statement: str = STATEMENT) -> Writer:
    return Writer(url, EVENTS_A_ROUND, pause_seconds=PAUSE_SECONDS, statement=statement)


def _through_the_bridge(url: str, clients: Clients, group: str) -> Spent:
    _writer(url).join()
    seen = clients.got(group, EVENTS_A_ROUND)
    return seen.p50, seen.p99


def _through_a_loop(url: str, clients: Clients, sockets: PlainSockets) -> Spent:
    with closing(psycopg.connect(url, autocommit=True)) as listener:
        listener.execute("listen bare")
        with _writer(url, BARE) as writer:
            heard = listener.notifies(stop_after=EVENTS_A_ROUND)
            for number, notification in enumerate(heard):
                sockets.write([frame(number, notification.payload)])
            writer.join()
    seen = clients.got(sockets.group, EVENTS_A_ROUND)
    return seen.p50, seen.p99


def _bare(url: str) -> Spent:
    # asyncio's own loop: asyncio.run() would use the one of trio-asyncio.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(_listen(url))


async def _listen(url: str) -> Spent:
    latencies: list[float] = []
    complete = asyncio.Event()

    def heard(*notification: object) -> None:
        latencies.append(time.monotonic() - float(str(notification[-1])))
        if len(latencies) == EVENTS_A_ROUND:
            complete.set()

    listener = await asyncpg.connect(url)
    await listener.add_listener("bare", heard)
    writer = _writer(url, BARE)
    await complete.wait()
    writer.join()
    await listener.close()
    percents = quantiles(latencies, n=100)
    return percents[49], percents[98]


def _result(
    percentile: str, spent: dict[str, list[Spent]], name: str, reference: str, mark: str
) -> Result:
    at = {"p50": 0, "p99": 1}[percentile]
    measured = [each[at] * 1e3 for each in spent[name]]
    beside = [each[at] * 1e3 for each in spent[reference]]
    against = {"LISTEN": "bare asyncpg LISTEN", "loop": f"a bare loop, {MANY} plain sockets"}
    return Result(
        f"paced, {name} client{'s' if name != '1' else ''}, {percentile}",
        median(measured),
        median(beside),
        "ms",
        against[reference],
        mark,
        median(a / b for a, b in zip(measured, beside, strict=True)),
    )
