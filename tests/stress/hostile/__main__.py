"""Run the hostile test: ``python -m tests.stress.hostile [--seconds N]``.

Says what happens, and ends with one line of JSON; exit code 1 if honest clients missed anything or
waited too long, or if a bound of the verdict was broken.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict

import psycopg

from bridge.demo.postgres import embedded_postgres
from tests.conftest import create_roles
from tests.stress.hostile.run import Size, run
from tests.stress.hostile.verdict import Bounds

#: What bridge, PostgreSQL and honest clients take of two processors in the quiet phase is less.
BUSY_PERCENT = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stress.hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it is attacked")
    arguments = parser.parse_args()
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True)

    with embedded_postgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            create_roles(connection)
            connection.execute("create database shop")
        outcome = run(
            server.url("shop"),
            size=Size(seconds=arguments.seconds),
            bounds=Bounds(),
            report=report,
        )
    busy = outcome.figures.quiet_cpu_percent
    if busy > BUSY_PERCENT:
        report(f"the processors were {busy:.0f} % busy before the attack: do not trust latencies")
    for problem in outcome.problems:
        report(f"WRONG: {problem}")
    print(json.dumps({**asdict(outcome), "problems": len(outcome.problems)}))
    sys.exit(1 if outcome.problems else 0)


main()
