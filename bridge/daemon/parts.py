"""The parts of one bridge, and the order in which they start and stop."""

import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog
import trio

from bridge.database.pool import Database
from bridge.database.restart import keep_running
from bridge.delivery.courier import Courier
from bridge.live.stream import LiveStream
from bridge.operations.activity import Activity
from bridge.operations.gauges import Gauges
from bridge.operations.readiness import ListenProbe, Readiness
from bridge.relay.drain import Relay
from bridge.relay.upkeep import Upkeep
from bridge.telemetry import metrics
from bridge.web.http.front import Front

log = structlog.get_logger()

#: A bridge that has not stopped after this long is killed.
STOP_SECONDS = 9.5
#: How long REST requests in flight may take during a shutdown.
REQUEST_GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class Bridge:
    """The parts of a bridge."""

    database: Database
    upkeep: Upkeep
    relay: Relay
    courier: Courier
    live: LiveStream
    probe: ListenProbe
    readiness: Readiness
    gauges: Gauges
    activity: Activity
    front: Front

    async def run(
        self,
        listeners: list[trio.SocketListener],
        signals: AsyncIterator[int],
        serving: Callable[[], None],
    ) -> threading.Timer:
        """Run all parts until a signal, then stop them in order.

        Args:
            serving: called once connections are accepted.

        Returns:
            The timer that kills this process after ``STOP_SECONDS``; cancel it at the very end.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_running, "upkeep", self.upkeep.run)
            nursery.start_soon(keep_running, "relay", self.relay.run)
            nursery.start_soon(self.courier.run)
            nursery.start_soon(self.live.run)
            nursery.start_soon(self.probe.run)
            nursery.start_soon(self.readiness.run)
            nursery.start_soon(self.gauges.run)
            nursery.start_soon(self.activity.run)
            async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
                accepting.start_soon(self.front.accept, listeners, connections)
                serving()
                number = await anext(signals)
                log.info("shutdown_started", signal=signal.Signals(number).name)
                # First stop accepting clients and claiming deliveries, then disconnect clients.
                # Deliveries in flight finish or are released meanwhile.
                kill = _kill_later()
                accepting.cancel_scope.cancel()
                self.courier.stop()
                self.front.stop()
                await self.live.stop()
                connections.cancel_scope.deadline = trio.current_time() + REQUEST_GRACE_SECONDS
            await self.courier.stopped.wait()
            await self.activity.stop()
            nursery.cancel_scope.cancel()
        return kill

    def sample(self) -> None:
        """Set the gauges that are too costly to update on every change."""
        for state, count in zip(("busy", "idle"), self.database.pooled, strict=True):
            metrics.database_connections.labels(state).set(count)
        metrics.delivery_in_flight.set(self.courier.in_flight)
        total = largest = 0
        for waiting in self.live.buffered_bytes():
            total += waiting
            largest = max(largest, waiting)
        metrics.client_buffer.set(total)
        metrics.client_buffer_largest.set(largest)


def _kill_later() -> threading.Timer:
    """Kill this process after ``STOP_SECONDS``, whatever it waits for."""
    timer = threading.Timer(STOP_SECONDS, os._exit, [1])
    timer.daemon = True
    timer.start()
    return timer
