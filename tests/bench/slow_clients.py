"""The cost of clients that do not read: p99 at 100 events/s with 50 of them, relative to none.

500 clients, about 450 bytes per event. In half of the rounds 50 of the 500 never read. Before the
clock starts they are sent more than their sockets hold, so the bridge buffers for them throughout
the round; their buffers do not overflow, which would disconnect them. Rounds alternate; figures are
medians.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psycopg
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.clients import PATH, Clients
from tests.bench.result import Result, new_database
from tests.bench.writers import Writer
from tests.system.processes import Bridge, running

ROUNDS = 5
CLIENTS = 500
SLOW = 50
EVENTS_A_ROUND = 400
PAUSE_SECONDS = 0.01
#: Makes an event of the preset about 450 bytes long.
FIRST_NAME = "x" * 250

RECEIVE_BUFFER = 64 * 1024
#: What an unread socket holds in its own buffer and the receiver's.
UNREAD_BYTES = 2 * RECEIVE_BUFFER + int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
#: The minimum that the bridge then buffers per slow client.
KEPT_BYTES = 1024 * 1024
FILLING_BYTES = 64 * 1024
FILLING_EVENTS = (UNREAD_BYTES + KEPT_BYTES) // FILLING_BYTES + 1
#: Room for that and for a round.
BUFFER_BYTES = UNREAD_BYTES + 2 * KEPT_BYTES


def run(server: EmbeddedPostgres) -> list[Result]:
    with Clients() as clients:
        rounds = trio.run(_rounds, new_database(server), clients)
    return [
        Result(
            f"{CLIENTS - SLOW} clients beside {SLOW} that never read, p99",
            median(beside_slow for beside_slow, _ in rounds) * 1e3,
            median(without for _, without in rounds) * 1e3,
            "ms",
            f"all {CLIENTS} read",
            "<= 1.2",
            median(beside_slow / without for beside_slow, without in rounds),
        )
    ]


async def _rounds(url: str, clients: Clients) -> list[tuple[float, float]]:
    """Return the p99 of reading clients, with and without slow clients."""
    rounds = []
    async with running(url, ws_buffer_bytes=BUFFER_BYTES) as bridge:
        for _ in range(ROUNDS):
            with _slow_clients(url, clients, bridge) as slow:
                beside_slow = _round(url, clients, bridge, CLIENTS - SLOW)
                assert clients.report(slow).closed == 0
            rounds.append((beside_slow, _round(url, clients, bridge, CLIENTS)))
        assert b'"reason": "slow"' not in bridge.log.read_bytes()
    return rounds


def _round(url: str, clients: Clients, bridge: Bridge, readers: int) -> float:
    path = f"{PATH}&events=user.created"
    with clients.connected(readers, bridge.port, "timed", path=path) as group:
        writer = Writer(url, EVENTS_A_ROUND, pause_seconds=PAUSE_SECONDS, first_name=FIRST_NAME)
        writer.join()
        return clients.got(group, EVENTS_A_ROUND).p99


@contextmanager
def _slow_clients(url: str, clients: Clients, bridge: Bridge) -> Iterator[str]:
    """Connect the slow clients, and send enough that the bridge must buffer."""
    with (
        clients.connected(1, bridge.port, "counted") as witness,
        clients.connected(SLOW, bridge.port, "unread", receive_buffer=RECEIVE_BUFFER) as slow,
    ):
        with psycopg.connect(url) as connection:
            connection.execute(
                "select bridge.emit('bench.filling', jsonb_build_object('x', repeat('x', %s)))"
                " from generate_series(1, %s)",
                (FILLING_BYTES, FILLING_EVENTS),
            )
        clients.got(witness, FILLING_EVENTS)
        yield slow
