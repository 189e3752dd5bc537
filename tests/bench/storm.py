"""After a bridge is killed, 1,000 clients reconnect at once, each 10,000 events behind.

The restarted bridge has nothing in memory. The clients connect with ``?since=`` the event before
the 10,000, while the application writes 100 events/s and ten other clients follow live. The clock
runs from the first connect until the last client has caught up. Every byte is compared: each client
gets every event once, in order.

The reference of the same run is a loop that writes the same 10,000 events from memory to 1,000
plain sockets of the clients' process. The second figure is the p99 of the ten live clients
meanwhile, relative to the p99 without a storm.
"""

import sys
import time
from statistics import median

import psycopg
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.clients import PATH, Clients
from tests.bench.idle import resident_kb
from tests.bench.plain import frame, plain_sockets
from tests.bench.result import Result, new_database
from tests.bench.writers import Writer
from tests.system.processes import Bridge, running

ROUNDS = 2
CLIENTS = 1_000
MISSED = 10_000
LIVE = 10
CALM_SECONDS = 3.0
PAUSE_SECONDS = 0.01
#: Bytes per write of the loop, about as many as the bridge joins.
JOINED = 350
RESUMED = b'\x81\x12{"type":"resumed"}'

MISSED_EVENTS = (
    "insert into public.users (auth_type, username)"
    " select 'x', n::text from generate_series(1, %s) as n"
)


def run(server: EmbeddedPostgres) -> list[Result]:
    rounds = []
    for _ in range(ROUNDS):
        with Clients() as clients:
            spent, live, calm, peak_mib = trio.run(_storm, new_database(server), clients)
            rounds.append((spent, _plain(clients), live, calm, peak_mib))
    spent, plain, live, calm, peak_mib = (median(each) for each in zip(*rounds, strict=True))
    print(f"storm: the bridge had {peak_mib:.0f} MiB at most", file=sys.stderr)
    return [
        Result(
            f"storm: {CLIENTS:,} clients, {MISSED:,} events missed",
            spent,
            plain,
            "s",
            "a bare loop, from memory",
            median_ratio=median(each[0] / each[1] for each in rounds),
        ),
        Result(
            f"storm: {LIVE} live clients meanwhile, p99",
            live * 1e3,
            calm * 1e3,
            "ms",
            "no storm",
            median_ratio=median(each[2] / each[3] for each in rounds),
        ),
    ]


async def _storm(url: str, clients: Clients) -> tuple[float, float, float, float]:
    """Return the storm's seconds, the p99 during and before it, and the bridge's peak in MiB."""
    async with running(url) as bridge:
        since = await _miss_events(url, bridge, clients)
    async with running(url) as bridge:
        with clients.connected(LIVE, bridge.port, "timed") as live, _paced(url) as writer:
            await trio.sleep(CALM_SECONDS)
            calm = clients.report(live).p99
            began = time.monotonic()
            storm = clients.begin_to_connect(
                CLIENTS, bridge.port, "compared", path=f"{PATH}&since={since}"
            )
            clients.opened()
            seen = clients.caught_up(storm)
            stormy = clients.report(live).p99
            committed = writer.stop()
            assert seen.closed == 0
            assert MISSED <= seen.reference_frames <= MISSED + committed
            peak_mib = resident_kb(bridge.process.pid, "VmHWM") / 1024
            clients.close(storm)
    return seen.last_at - began, stormy, calm, peak_mib


def _paced(url: str) -> Writer:
    return Writer(url, None, pause_seconds=PAUSE_SECONDS)


async def _miss_events(url: str, bridge: Bridge, clients: Clients) -> int:
    """Log the events and kill the bridge with all its clients; return the ID before them."""
    with psycopg.connect(url, autocommit=True) as connection:
        since = _newest_id(connection)
        connection.execute(MISSED_EVENTS, (MISSED,))
        newest_id = since
        while newest_id < since + MISSED:
            await trio.sleep(0.02)
            newest_id = _newest_id(connection)
    with clients.connected(CLIENTS, bridge.port, "counted"):
        await bridge.kill()
    return since


def _newest_id(connection: psycopg.Connection[tuple[int]]) -> int:
    row = connection.execute("select coalesce(max(id), 0) from bridge.events").fetchone()
    assert row is not None
    return row[0]


def _plain(clients: Clients) -> float:
    """Return the seconds that the loop takes to send as much."""
    frames = [frame(number, f"{number}") for number in range(1, MISSED + 1)]
    chunks = [b"".join(frames[at : at + JOINED]) for at in range(0, MISSED, JOINED)]
    with plain_sockets(clients, CLIENTS, "compared") as sockets:
        began = time.monotonic()
        sockets.write([*chunks, RESUMED])
        seen = clients.caught_up(sockets.group)
        assert seen.reference_frames == MISSED
        return seen.last_at - began
