"""Update the metrics about the queues and webhooks from the database."""

from collections.abc import Mapping
from typing import Any, Final

import trio

from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.shares import Share
from bridge.operations.overview import WEBHOOK_STATES
from bridge.operations.pacing import pause_after
from bridge.telemetry import metrics

#: Pause between updates, usually and at most.
LOOK_SECONDS: Final = 10.0
LONGEST_PAUSE_SECONDS: Final = 60.0
#: Values are hidden when an update takes this long.
STALE_SECONDS: Final = 60.0


async def update_gauges(database: Database) -> None:
    """Update the metrics forever. They are absent while the database is unavailable.

    They describe the whole database, so every bridge reports the same values.
    """
    share = Share(database, 1)
    while True:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hide_when_stale)
            await _update(share)
            nursery.cancel_scope.cancel()
        took = trio.current_time() - started
        await trio.sleep(pause_after(took, LOOK_SECONDS, LONGEST_PAUSE_SECONDS))


async def _update(database: Share) -> None:
    try:
        [state] = await database.fetch("overview")
        [last] = await database.fetch("last_ids")
    except (DatabaseUnavailable, DatabaseError):
        _hide()
    else:
        _show(state, last["outbox_id"])


async def _hide_when_stale() -> None:
    await trio.sleep(STALE_SECONDS)
    _hide()


def _show(state: Mapping[str, Any], last_id: int) -> None:
    metrics.events_captured.show(last_id)
    metrics.outbox_events.show(state["outbox_count"])
    metrics.outbox_oldest.show(state["outbox_oldest_seconds"] or 0.0)
    metrics.deferred_events.show(state["deferred_count"])
    metrics.deferred_oldest.show(state["deferred_oldest_seconds"] or 0.0)
    metrics.dead_letters.show(state["dead_letters_count"])
    metrics.dead_letters_oldest.show(state["dead_letters_oldest_seconds"] or 0.0)
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
        metrics.deferred_events,
        metrics.deferred_oldest,
        metrics.dead_letters,
        metrics.dead_letters_oldest,
        metrics.delivery_queue_oldest_due,
    ):
        gauge.show(None)
    for states in (metrics.delivery_queue, metrics.webhooks):
        states.show_states({})
