"""Everything at size: time without progress and memory, against the bounds that are promised."""

import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.result import Result, new_database
from tests.stress.size import Size, run_at_size

#: Most memory of the bridge and of each backend in MiB, and longest time without progress in
#: seconds: that of one drain.
BRIDGE_MIB = 400
BACKEND_MIB = 200
PAUSE_SECONDS = 5


def run(server: EmbeddedPostgres) -> list[Result]:
    size = Size()
    outcome = trio.run(run_at_size, new_database(server), size)
    rows = size.events + size.wide * (1 + size.webhooks) + size.huge
    return [
        Result("at size, rows written", rows / outcome.seconds, 1, "rows/s", "none"),
        Result("at size, bridge", outcome.bridge_mib, BRIDGE_MIB, "MiB", "bound", "<= 1"),
        Result("at size, backend", outcome.backend_mib, BACKEND_MIB, "MiB", "bound", "<= 1"),
        Result("at size, no progress", outcome.longest_pause, PAUSE_SECONDS, "s", "bound", "<= 1"),
    ]
