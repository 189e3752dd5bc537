"""Run the chaos test: ``python -m tests.stress.chaos [--seconds N] [--seed S]``.

Prints every fault and ends with one line of JSON. The exit code is 1 if there was any problem.
"""

import argparse
import json
import random
import sys
import time
from dataclasses import asdict

from bridge.demo.postgres import embedded_postgres
from tests.stress.chaos.failover import promote
from tests.stress.chaos.run import run

#: The usual time to deliver everything after the last fault, and to promote two standbys.
USUAL_SETTLING_SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stress.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="approximate duration")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True)

    report(f"seed {arguments.seed}")
    with embedded_postgres() as server:
        outcome = run(
            server,
            seed=arguments.seed,
            report=report,
            seconds=max(arguments.seconds - USUAL_SETTLING_SECONDS, 1.0),
        )
    problems = list(outcome.problems)
    for is_synchronous in (True, False):
        report(f"a {'synchronous' if is_synchronous else 'asynchronous'} standby is promoted")
        with embedded_postgres() as server:
            problems += promote(server, is_synchronous=is_synchronous, report=report).problems
    for problem in problems:
        report(f"WRONG: {problem}")
    print(json.dumps({**asdict(outcome), "problems": len(problems)}))
    sys.exit(1 if problems else 0)


main()
