"""The application of the live stream's benchmarks: one row per transaction.

Each writer is a separate process, so that it does not compete with the benchmark for one
interpreter.
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

#: Each row, and so each event, contains the time of sending.
STATEMENT = "insert into public.users (auth_type, username, first_name) values ('x', %s, %s)"


class Writer:
    """Commits events one by one, from its creation on.

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
        # It ends with its standard input, even if this process dies.
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
        """Wait until all are committed; return the number."""
        assert self._process.stdout is not None
        committed = int(self._process.stdout.readline())
        self._process.communicate()
        return committed

    def stop(self) -> int:
        """Stop, and return the number of commits."""
        output, _ = self._process.communicate()
        return int(output or 0)


def main() -> None:
    """Write until everything is written or standard input ends."""
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
