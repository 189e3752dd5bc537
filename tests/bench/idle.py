"""5,000 idle clients: memory per client, connects per second, processor time.

Memory is the growth of the bridge's process from before the first client until after the last
welcome. Connects are timed from the first TCP connection to the last welcome. Processor time is
measured over 25 seconds, so that every client has answered a ping of the default 20 seconds.

The reference of the same run is trio-websocket's own server with a handler that only waits; for the
processor time, a bridge without clients.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.clients import Clients
from tests.bench.result import Result, new_database
from tests.system.processes import running

CLIENTS = 5_000
IDLE_SECONDS = 25.0
ALONE_SECONDS = 5.0
#: Processor time is given per this many seconds.
PER_SECONDS = 10.0

# Ends with its standard input.
BARE_SERVER = """
import json, resource, sys, trio, trio_websocket
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
async def serve(request):
    websocket = await request.accept()
    await websocket.send_message(json.dumps({"type": "connection", "status": "connected"}))
    await websocket.get_message()
async def main():
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = trio_websocket.WebSocketServer(serve, [listener])
        nursery.start_soon(server.run)
        print(listener.socket.getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
trio.run(main)
"""


def run(server: EmbeddedPostgres) -> list[Result]:
    with Clients() as clients:
        with _bare_server() as (pid, port):
            bare_kb, bare_rate = _come(clients, pid, port)
        kb, rate, idle, alone = trio.run(_bridge, new_database(server), clients)
    against = "trio-websocket's server"
    return [
        Result("memory of an idle client", kb, bare_kb, "kB", against, "<= 25 kB"),
        Result(f"{CLIENTS:,} clients connecting", rate, bare_rate, "clients/s", against),
        Result(
            f"processor time of {PER_SECONDS:g} s idle, {CLIENTS:,} clients",
            idle,
            max(alone, 0.01),
            "s",
            "no client",
        ),
    ]


async def _bridge(url: str, clients: Clients) -> tuple[float, float, float, float]:
    """Return kB per client, clients/s, and processor seconds with and without clients."""
    async with running(url) as bridge:
        pid = bridge.process.pid
        alone = _busy(pid, ALONE_SECONDS)
        before = resident_kb(pid)
        began = time.monotonic()
        with clients.connected(CLIENTS, bridge.port, "counted") as group:
            rate = CLIENTS / (time.monotonic() - began)
            kb = (resident_kb(pid) - before) / CLIENTS
            idle = _busy(pid, IDLE_SECONDS)
            assert clients.report(group).closed == 0
    return kb, rate, idle, alone


def _come(clients: Clients, pid: int, port: int) -> tuple[float, float]:
    """Return kB per client, and clients/s."""
    before = resident_kb(pid)
    began = time.monotonic()
    with clients.connected(CLIENTS, port, "counted"):
        rate = CLIENTS / (time.monotonic() - began)
        return (resident_kb(pid) - before) / CLIENTS, rate


@contextmanager
def _bare_server() -> Iterator[tuple[int, int]]:
    with subprocess.Popen(
        [sys.executable, "-c", BARE_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


def resident_kb(pid: int, name: str = "VmRSS") -> float:
    """Return the memory of a process; ``VmHWM`` is its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} is gone")


def _busy(pid: int, seconds: float) -> float:
    """Return the processor seconds of a process per ``PER_SECONDS``."""
    before = _processor_seconds(pid)
    time.sleep(seconds)
    return (_processor_seconds(pid) - before) / seconds * PER_SECONDS


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
