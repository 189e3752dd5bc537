"""A burst of events to 500 clients: frames/s from the first received frame to the last.

The application commits 2,000 events, one row per transaction, from two connections at full speed;
one bridge sends each to every client. All of the million frames are counted.

The reference of the same run is a loop that writes the same frames from memory, twenty per write,
to as many plain sockets of the same clients' process.
"""

from statistics import median

import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.clients import Clients, Seen
from tests.bench.plain import frame, plain_sockets
from tests.bench.result import Result, new_database
from tests.bench.writers import Writer
from tests.system.processes import running

ROUNDS = 5
CLIENTS = 500
EVENTS = 2_000
WRITERS = 2
JOINED = 20


def run(server: EmbeddedPostgres) -> list[Result]:
    with Clients() as clients:
        rounds = trio.run(_rounds, new_database(server), clients)
    return [
        Result(
            f"fan-out of a burst to {CLIENTS} clients",
            median(bridged for bridged, _ in rounds),
            median(plain for _, plain in rounds),
            "frames/s",
            "a bare loop, 20 joined a write",
            ">= 600,000/s",
            median(bridged / plain for bridged, plain in rounds),
        )
    ]


async def _rounds(url: str, clients: Clients) -> list[tuple[float, float]]:
    """Return the frames/s of the bridge and of the loop, round by round."""
    frames = [frame(number, f"{number}.000000") for number in range(EVENTS)]
    chunks = [b"".join(frames[at : at + JOINED]) for at in range(0, EVENTS, JOINED)]
    rounds = []
    async with running(url) as bridge:
        for _ in range(ROUNDS):
            with clients.connected(CLIENTS, bridge.port, "counted") as group:
                for writer in [Writer(url, EVENTS // WRITERS) for _ in range(WRITERS)]:
                    writer.join()
                bridged = _rate(clients.got(group, EVENTS))
            with plain_sockets(clients, CLIENTS, "counted") as sockets:
                sockets.write(chunks)
                rounds.append((bridged, _rate(clients.got(sockets.group, EVENTS))))
    return rounds


def _rate(seen: Seen) -> float:
    return seen.frames / (seen.last_at - seen.first_at)
