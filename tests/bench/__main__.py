"""Run the benchmarks: ``python -m tests.bench [capture] [trigger] [drain] …``, all by default.

Each prints its figure next to a reference from the same run. The last line is one JSON object.
"""

import gc
import json
import sys
from collections.abc import Callable

import psycopg
from rich.console import Console
from rich.table import Table

from bridge.daemon.app import GARBAGE_OBJECTS
from bridge.demo.postgres import EmbeddedPostgres, embedded_postgres
from tests.bench import (
    backlog,
    capture,
    delivery,
    drain,
    fanout,
    history,
    idle,
    memory,
    paced,
    size,
    slow_clients,
    storm,
    trigger,
)
from tests.bench.result import Result
from tests.conftest import create_roles

BENCHES: dict[str, Callable[[EmbeddedPostgres], list[Result]]] = {
    "capture": capture.run,
    "trigger": trigger.run,
    "drain": drain.run,
    "paced": paced.run,
    "idle": idle.run,
    "slow_clients": slow_clients.run,
    "storm": storm.run,
    "fanout": fanout.run,
    "delivery": delivery.run,
    "backlog": backlog.run,
    "history": history.run,
    "memory": memory.run,
    "size": size.run,
}


def main() -> None:
    names = sys.argv[1:] or list(BENCHES)
    if unknown := set(names) - set(BENCHES):
        sys.exit(f"there is no bench called {unknown.pop()}; there are {', '.join(BENCHES)}")
    # References run in this process. As in a bridge, they do not pay for the objects of imports.
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    table = Table("bench", "measured", "reference", "ratio", "mark")
    results: list[Result] = []
    with embedded_postgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            create_roles(connection)
        for name in names:
            print(f"running {name} …", file=sys.stderr, flush=True)
            results += BENCHES[name](server)
    for result in results:
        table.add_row(
            result.name,
            f"{result.measured:,.4g} {result.unit}",
            f"{result.reference:,.4g} {result.unit} ({result.against})",
            f"{result.ratio:.2f}",
            result.mark,
        )
    Console().print(table)
    print(json.dumps({result.name: round(result.ratio, 3) for result in results}))


main()
