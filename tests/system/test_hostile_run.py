"""A short hostile test: attacks affect no honest client and leave nothing behind."""

import os
import resource

import httpx
import trio

from tests.stress.hostile.attackers import NAMES
from tests.stress.hostile.run import MIB, run
from tests.system.processes import running
from tests.system.test_readiness import until_ready
from tests.waiting import PATIENCE_SECONDS, until


# `make hostile` runs longer and checks memory more closely.
def test_attacks_do_not_affect_honest_clients(bridge_url: str) -> None:
    outcome = run(
        bridge_url,
        seconds=6.0,
        report=print,
        logins=150,
        handshake_seconds=2.0,
        memory_bytes=100 * MIB,
    )
    assert not outcome.problems
    assert outcome.attacks.keys() == set(NAMES)
    assert outcome.committed > 0
    assert outcome.received == outcome.delivered == outcome.committed
    assert outcome.missing == 0
    assert outcome.answered == outcome.requests > 0
    assert outcome.tracebacks == 0
    assert outcome.descriptors_after == outcome.descriptors_before


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
