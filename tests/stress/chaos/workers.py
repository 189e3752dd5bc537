"""The bridges of the fault run: processes that are killed, frozen and started again."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack

import psutil  # type: ignore[import-untyped]
import trio

from tests.system.processes import Bridge, as_role, running

#: Never runs out while the faults last: what was hit by them is tried again soon.
RETRY_SCHEDULE = [0.0, 0.2, 0.5, 1.0, 1.0] + [2.0] * 55
SETTINGS = {
    "poll_seconds": 0.2,
    "retry_schedule": ",".join(map(str, RETRY_SCHEDULE)),
    # More than all webhooks together may have in flight: claiming never waits for a free slot, and
    # so whoever waits for a worker to claim waits for no receiver.
    "delivery_concurrency": 256,
    "allowed_networks": "127.0.0.0/8",
}


class Worker:
    """A ``pgbridge run``, started again after each end.

    It connects as a role of its own, so that the database can tell which worker did what.
    """

    def __init__(self, url: str, role: str) -> None:
        self.role = role
        #: What was wrong with it, apart from what was done to it.
        self.problems: list[str] = []
        #: The most memory that one of its processes had, as far as was looked at.
        self.peak_bytes = 0
        #: Set while it serves.
        self.serves = trio.Event()
        self._url = as_role(url, role)
        self._stack = AsyncExitStack()
        self._bridge: Bridge | None = None

    @property
    def bridge(self) -> Bridge:
        assert self._bridge is not None, f"{self.role} is not running"
        return self._bridge

    @property
    def is_running(self) -> bool:
        return self._bridge is not None

    async def start(self) -> None:
        """Start a new process; return when it serves."""
        self._bridge = await self._stack.enter_async_context(running(self._url, **SETTINGS))
        self.serves.set()

    async def kill(self) -> None:
        """End it as ``kill -9`` does."""
        bridge = await self._leave()
        await bridge.kill()
        await self._stack.aclose()

    async def terminate(self) -> None:
        """Send SIGTERM; a problem if it has not ended within 10 s, or not well."""
        bridge = await self._leave()
        try:
            if code := await bridge.terminate(within=10):
                self.problems.append(f"{self.role} ended with {code} after SIGTERM")
        except trio.TooSlowError:
            self.problems.append(f"{self.role} had not ended 10 s after SIGTERM")
        await self._stack.aclose()

    def freeze(self) -> None:
        """Stop it as SIGSTOP does; it knows nothing of the time until it is thawed."""
        self.bridge.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.bridge.process.send_signal(signal.SIGCONT)

    def owns(self, port: int) -> bool:
        """Whether a connection of its process comes from this port."""
        if self._bridge is None:
            return False
        connections = psutil.Process(self._bridge.process.pid).net_connections("tcp")
        return any(connection.laddr.port == port for connection in connections)

    async def discard(self) -> None:
        """End whatever is still there; for the very end, after something went wrong."""
        self._bridge = None
        await self._stack.aclose()

    async def _leave(self) -> Bridge:
        """Return the process that is to end, and note what can be seen of it only before."""
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
        # A kill may cut the last line short: that is no line of the bridge's.
        self.problems += [
            f"{self.role} logged: {line[:1000]}"
            for line in log.split("\n")[:-1]
            if "Traceback" in line or '"level": "critical"' in line
        ]
