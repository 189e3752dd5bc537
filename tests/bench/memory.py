"""Resident memory of a bridge after a million deliveries, relative to after a tenth of them.

``BENCH_MEMORY`` sets the number.
"""

import os
import subprocess
import sys

import psycopg
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.delivery import RECEIVER
from tests.bench.result import Result, new_database
from tests.system.processes import running

DELIVERIES = int(os.environ.get("BENCH_MEMORY", "1_000_000"))
ENDPOINTS = 50
#: Events per commit. The next commit follows when half of them are delivered, so that the bridge is
#: always busy and the queue stays short.
CHUNK = 200
#: When memory is measured, as shares of all deliveries.
STEP = 0.05
REFERENCE = 0.1


def run(server: EmbeddedPostgres) -> list[Result]:
    with subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE) as receiver:
        try:
            assert receiver.stdout is not None
            base = f"http://127.0.0.1:{int(receiver.stdout.readline())}"
            samples = trio.run(_deliver, new_database(server), base)
        finally:
            receiver.terminate()
    print(*(f"{share:.0%}: {size:.1f} MiB" for share, size in samples), sep=", ", file=sys.stderr)
    reference = next(size for share, size in samples if share >= REFERENCE)
    return [
        Result(
            f"memory of a bridge after {DELIVERIES:,} deliveries",
            samples[-1][1],
            reference,
            "MiB",
            f"after {REFERENCE:.0%} of them",
        )
    ]


async def _deliver(url: str, base: str) -> list[tuple[float, float]]:
    """Deliver everything; return the memory in MiB by share delivered."""
    samples: list[tuple[float, float]] = []
    async with running(url) as bridge:
        with psycopg.connect(url, autocommit=True) as connection:
            for number in range(ENDPOINTS):
                connection.execute(
                    "insert into bridge.webhooks (name, url, event_type, secret)"
                    " values ('bench', %s, 'user.created', 'secret')",
                    (f"{base}/{number}",),
                )
            written = delivered = 0
            while delivered < DELIVERIES:
                if written < DELIVERIES and written - delivered <= CHUNK * ENDPOINTS / 2:
                    connection.execute(
                        "insert into public.users (auth_type)"
                        " select 'x' from generate_series(1, %s)",
                        (CHUNK,),
                    )
                    written += CHUNK * ENDPOINTS
                await trio.sleep(0.05)
                # Not from the log: counting a million rows takes too long.
                row = connection.execute(
                    "select sum(success_count) from bridge.webhooks"
                ).fetchone()
                assert row is not None
                delivered = int(row[0])
                share = delivered / DELIVERIES
                if not samples or share >= samples[-1][0] + STEP or delivered >= DELIVERIES:
                    samples.append((share, await _resident_mib(bridge.process.pid)))
    return samples


async def _resident_mib(pid: int) -> float:
    for line in (await trio.Path(f"/proc/{pid}/status").read_text()).split("\n"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} is gone")
