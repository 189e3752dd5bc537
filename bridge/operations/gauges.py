"""Looks at the queues and the webhooks now and then, for who watches the bridge by its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import trio

from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.shares import Share
from bridge.operations.overview import WEBHOOK_STATES
from bridge.telemetry import metrics

#: How often it looks. And so many times as long as a look took passes before the next: while vacuum
#: is held back, it walks over all that was drained and settled since. Up to a bound, or nothing
#: would be shown for long after a look that had to wait for a lock.
LOOK_SECONDS: Final = 10.0
REST: Final = 10
LONGEST_REST_SECONDS: Final = 60.0
#: What was seen longer ago than this, and the rest, is not shown any more.
STALE_SECONDS: Final = 60.0


class Gauges:
    """What the queues hold, as metrics; the same in every bridge on a database."""

    def __init__(self, database: Database) -> None:
        self._database = Share(database, 1)
        self._stale_at = -float("inf")

    async def run(self) -> None:
        """Look for ever. While the database is away, nothing is shown."""
        while True:
            started = trio.current_time()
            try:
                [state] = await self._database.fetch("overview")
                [outbox] = await self._database.fetch("outbox_last_id")
            except (DatabaseUnavailable, DatabaseError):
                _hide()
            else:
                _show(state, outbox["last_id"])
            rest = min(REST * (trio.current_time() - started), LONGEST_REST_SECONDS)
            pause = max(LOOK_SECONDS, rest)
            self._stale_at = trio.current_time() + pause + STALE_SECONDS
            await trio.sleep(pause)

    def sample(self) -> None:
        """Show nothing if the last look is too long ago, since the one after it hangs."""
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
    for number in (
        metrics.events_captured,
        metrics.outbox_events,
        metrics.outbox_oldest,
        metrics.delivery_queue_oldest_due,
    ):
        number.show(None)
    for states in (metrics.delivery_queue, metrics.webhooks):
        states.show_states({})
