"""All attacks at once, from a separate process.

``python -m tests.stress.hostile.attackers`` reads a target as JSON from standard input, attacks it
until the time is up and each attack has begun, and prints the number of attacks as JSON.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict

import trio

from tests.stress.hostile import strangers, table_owner, token_holder
from tests.stress.hostile.target import Tally, Target
from tests.waiting import until

PARTS = (strangers, token_holder, table_owner)
NAMES = [name for part in PARTS for name in part.NAMES]
#: Attackers have machines of their own: here, they must not take the processor from the bridge.
NICENESS = 10


async def attack_with_all(target: Target) -> Mapping[str, object]:
    """Run all attacks at once; return the rounds of each and what was unexpected."""
    tally = Tally()
    async with trio.open_nursery() as nursery:
        for part in PARTS:
            nursery.start_soon(part.attack, target, tally)
        await trio.sleep(target.seconds)
        # On a busy machine, some may not have begun.
        await until(lambda: tally.rounds.keys() >= set(NAMES))
        nursery.cancel_scope.cancel()
    return {
        "rounds": tally.rounds,
        "unexpected": [f"{what} ({count} times)" for what, count in tally.unexpected.items()],
    }


async def attack_from_a_process(target: Target) -> dict[str, object]:
    """Attack from another process; return what ``attack_with_all`` returns.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    done = await trio.run_process(
        [sys.executable, "-m", "tests.stress.hostile.attackers"],
        stdin=json.dumps(asdict(target)).encode(),
        capture_stdout=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    os.nice(NICENESS)
    print(json.dumps(trio.run(attack_with_all, Target(**json.load(sys.stdin)))), flush=True)
    # Threads may still wait for a statement; their sessions end with the process.
    os._exit(0)
