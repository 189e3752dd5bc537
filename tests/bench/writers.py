"""The application, as the benches of the live stream play it: one row a transaction.

Each writer is a process of its own, so that it takes no turns with what the bench itself does.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import psycopg

#: The time at which it was sent goes with each row, and so with each event.
STATEMENT = "insert into public.users (auth_type, username, first_name) values ('x', %s, %s)"


class Writer:
    """Commits one event after the other, from when it is made on.

    Args:
        events: how many; None: until stopped.
        pause_seconds: from one statement to the next, as far as the server keeps up.
        first_name: a part of each event, to make it larger.
        statement: of two parameters, the time and the first name.
    """

    def __init__(
        self,
        url: str,
        events: int | None,
        *,
        pause_seconds: float = 0.0,
        first_name: str = "",
        statement: str = STATEMENT,
    ) -> None:
        # It ends with its standard input, whatever becomes of us.
        self._process = subprocess.Popen(
            [
                *[sys.executable, "-m", "tests.bench.writers", url, json.dumps(events)],
                *[str(pause_seconds), first_name, statement],
            ],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.stop()

    def join(self) -> int:
        """Wait until all are committed; return how many that is."""
        assert self._process.stdout is not None
        committed = int(self._process.stdout.readline())
        self._process.communicate()
        return committed

    def stop(self) -> int:
        """Have it commit no more; return how many it did."""
        output, _ = self._process.communicate()
        return int(output or 0)


def main() -> None:
    """Be a writer, until all is written or standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser()
    for name in ("url", "events", "pause_seconds", "first_name", "statement"):
        parser.add_argument(name)
    given = parser.parse_args()
    events = json.loads(given.events)
    pause_seconds = float(given.pause_seconds)
    statement = given.statement.encode()
    committed = 0
    with psycopg.connect(given.url, autocommit=True) as connection:
        next_at = time.monotonic()
        while committed != events and not select.select([sys.stdin], [], [], 0)[0]:
            next_at += pause_seconds
            time.sleep(max(0.0, next_at - time.monotonic()))
            connection.execute(statement, (f"{time.monotonic():.6f}", given.first_name))
            committed += 1
    print(committed, flush=True)


if __name__ == "__main__":
    main()
