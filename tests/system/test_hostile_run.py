"""A short hostile test: attacks affect no honest client and leave nothing behind."""

import math
import os
import resource

import httpx
import trio

from tests.stress.hostile.attackers import NAMES
from tests.stress.hostile.run import Size, run
from tests.stress.hostile.verdict import Bounds
from tests.system.processes import running
from tests.system.test_readiness import until_ready
from tests.waiting import PATIENCE_SECONDS, until

SIZE = Size(
    seconds=6.0, logins=150, handshake_seconds=2.0, webhooks=40, rows=100, row_bytes=500_000
)
#: No test depends on real time, and a short run does not show whether memory grows.
BOUNDS = Bounds(latency_ms=None, drain_seconds=math.inf, growth_mib=100.0)


# `make hostile` runs longer, with more of everything, and judges latencies and memory.
def test_attacks_do_not_affect_honest_clients(empty_url: str) -> None:
    outcome = run(empty_url, size=SIZE, bounds=BOUNDS, report=print)
    assert not outcome.problems
    assert outcome.attacks.keys() == set(NAMES)
    assert outcome.committed > 0
    assert outcome.received == outcome.delivered == outcome.committed
    assert outcome.missing == 0
    assert outcome.figures.tracebacks == 0


async def test_bridge_survives_running_out_of_descriptors(
    bridge_url: str,
) -> None:
    async with running(bridge_url) as bridge, httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        await until_ready(bridge)  # with all its connections to the database
        pid = bridge.process.pid
        most = len(os.listdir(f"/proc/{pid}/fd")) + 20
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
        idle = [await trio.open_tcp_stream("127.0.0.1", bridge.port) for _ in range(40)]
        # Behind more connections than there are descriptors.
        assert (await client.get(f"{bridge.rest_url}/healthz")).status_code == 200
        assert len(bridge.logged("accept_failed")) == 1, "it was short of them, and says so once"
        for stream in idle:
            await stream.aclose()
        await until(lambda: len(os.listdir(f"/proc/{pid}/fd")) < most - 15)
        answers: list[int] = []

        async def ask() -> None:
            answers.append((await client.get(f"{bridge.rest_url}/healthz")).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        assert answers == [200] * 10
        with trio.fail_after(PATIENCE_SECONDS):
            await until_ready(bridge)
        assert "Traceback" not in await trio.Path(bridge.log).read_text()
        assert await bridge.terminate() == 0
