"""The bridges of the chaos test: processes that are killed, frozen and restarted."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psutil  # type: ignore[import-untyped]
import trio

from tests.blackhole import Blackhole, blackhole
from tests.system.processes import Bridge, as_role, running

#: Long enough for the whole run, with short pauses.
RETRY_SCHEDULE = [0.0, 0.2, 0.5, 1.0, 1.0] + [2.0] * 55
SETTINGS = {
    "poll_seconds": 0.2,
    "retry_schedule": ",".join(map(str, RETRY_SCHEDULE)),
    # More than all webhooks may have in flight, so that claiming never waits for a receiver.
    "delivery_concurrency": 256,
    "allowed_networks": "127.0.0.0/8",
}


class Worker:
    """A ``pgbridge run`` that is restarted.

    It connects with its own role, so that the database can identify the worker, and through a proxy
    that can lose packets.
    """

    def __init__(self, url: str, role: str) -> None:
        self.role = role
        #: Problems that no fault explains.
        self.problems: list[str] = []
        #: Peak memory of any of its processes.
        self.peak_bytes = 0
        #: Set while it serves.
        self.serves = trio.Event()
        self._url = as_role(url, role)
        self._network: Blackhole | None = None
        self._stack = AsyncExitStack()
        self._bridge: Bridge | None = None

    @property
    def bridge(self) -> Bridge:
        assert self._bridge is not None, f"{self.role} is not running"
        return self._bridge

    @property
    def is_running(self) -> bool:
        return self._bridge is not None

    @property
    def network(self) -> Blackhole:
        assert self._network is not None, f"{self.role} is not connected"
        return self._network

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Let its connections pass during the context."""
        async with blackhole(self._url) as self._network:
            yield

    async def start(self) -> None:
        """Start a process and wait until it serves."""
        self._bridge = await self._stack.enter_async_context(running(self.network.url, **SETTINGS))
        self.serves.set()

    async def kill(self) -> None:
        """Kill it as ``kill -9`` does."""
        bridge = await self._leave()
        await bridge.kill()
        await self._stack.aclose()

    async def terminate(self) -> None:
        """Send SIGTERM; record a problem unless it exits with 0 within 10 s."""
        bridge = await self._leave()
        try:
            if code := await bridge.terminate(within=10):
                self.problems.append(f"{self.role} ended with {code} after SIGTERM")
        except trio.TooSlowError:
            self.problems.append(f"{self.role} was still running 10 s after SIGTERM")
        await self._stack.aclose()

    def freeze(self) -> None:
        """Freeze it with SIGSTOP."""
        self.bridge.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.bridge.process.send_signal(signal.SIGCONT)

    def owns(self, port: int) -> bool:
        """Return whether this port is the source of one of its connections."""
        if self._bridge is None:
            return False
        connections = psutil.Process(self._bridge.process.pid).net_connections("tcp")
        return any(connection.laddr.port == port for connection in connections)

    async def discard(self) -> None:
        """Kill what is left after an error."""
        self._bridge = None
        await self._stack.aclose()

    async def _leave(self) -> Bridge:
        """Inspect the process before its end, and return it."""
        bridge = self.bridge
        await self._look(bridge)
        self._bridge = None
        self.serves = trio.Event()
        return bridge

    async def _look(self, bridge: Bridge) -> None:
        if bridge.process.returncode is not None:
            self.problems.append(f"{self.role} ended by itself with {bridge.process.returncode}")
            return
        for line in (await trio.Path(f"/proc/{bridge.process.pid}/status").read_text()).split("\n"):
            if line.startswith("VmHWM:"):
                self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)
        log = await trio.Path(bridge.log).read_text()
        # A kill may truncate the last line.
        self.problems += [
            f"{self.role} logged: {line[:1000]}"
            for line in log.split("\n")[:-1]
            if "Traceback" in line or '"level": "critical"' in line
        ]
