"""Update the metrics about the queues and webhooks from the database."""

from collections.abc import Mapping
from typing import Any, Final

import trio

from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.shares import Share
from bridge.operations.overview import WEBHOOK_STATES
from bridge.telemetry import metrics

#: Pause between updates. The queries scan everything drained and settled while vacuum is held back,
#: so after a slow update, wait ``PAUSE_FACTOR`` times its duration. The bound ends the pause after
#: an update that only waited for a lock.
LOOK_SECONDS: Final = 10.0
PAUSE_FACTOR: Final = 10
LONGEST_PAUSE_SECONDS: Final = 60.0
#: Values are hidden when their next update is this late.
STALE_SECONDS: Final = 60.0


class Gauges:
    """Metrics about the whole database, so every bridge reports the same values."""

    def __init__(self, database: Database) -> None:
        self._database = Share(database, 1)
        self._stale_at = -float("inf")

    async def run(self) -> None:
        """Update forever. The metrics are absent while the database is unavailable."""
        while True:
            started = trio.current_time()
            try:
                [state] = await self._database.fetch("overview")
                [outbox] = await self._database.fetch("outbox_last_id")
            except (DatabaseUnavailable, DatabaseError):
                _hide()
            else:
                _show(state, outbox["last_id"])
            took = trio.current_time() - started
            pause = max(LOOK_SECONDS, min(PAUSE_FACTOR * took, LONGEST_PAUSE_SECONDS))
            self._stale_at = trio.current_time() + pause + STALE_SECONDS
            await trio.sleep(pause)

    def sample(self) -> None:
        """Hide the values if the next update hangs."""
        if trio.current_time() > self._stale_at:
            _hide()


def _show(state: Mapping[str, Any], last_id: int) -> None:
    metrics.events_captured.show(last_id)
    metrics.outbox_events.show(state["outbox_count"])
    metrics.outbox_oldest.show(state["outbox_oldest_seconds"] or 0.0)
    metrics.delivery_queue.show_states(
        {name: state[f"{name}_count"] for name in ("due", "scheduled", "held")}
    )
    metrics.delivery_queue_oldest_due.show(state["oldest_due_seconds"] or 0.0)
    metrics.webhooks.show_states({name: state[f"webhooks_{name}"] for name in WEBHOOK_STATES})


def _hide() -> None:
    for gauge in (
        metrics.events_captured,
        metrics.outbox_events,
        metrics.outbox_oldest,
        metrics.delivery_queue_oldest_due,
    ):
        gauge.show(None)
    for states in (metrics.delivery_queue, metrics.webhooks):
        states.show_states({})
