"""Find the filters that keep the drain from finishing in time, and disable their webhooks."""

from collections.abc import Mapping, Sequence

import structlog

from bridge.database.errors import StatementTimeoutError
from bridge.database.limits import DRAIN_SECONDS
from bridge.database.pool import Connection

log = structlog.get_logger()

#: How much of the drain's time the filters of one event may take together.
FILTERS_MILLISECONDS = DRAIN_SECONDS * 1000 / 2


async def disable_slow_filters(
    connection: Connection, mark: int, lows: Sequence[int], highs: Sequence[int]
) -> bool:
    """Disable the slowest filters of the next event, until the others fit into a drain.

    Args:
        mark: the drain's watermark.
        lows: first ids of the gaps below it.
        highs: last ids of the gaps.

    Returns:
        Whether a webhook was disabled, so that it makes sense to drain again.
    """
    rows = await connection.fetch("filters_of_next_event", mark, lows, highs)
    if not rows:
        return False
    outbox_id, event_type = rows[0]["outbox_id"], rows[0]["event_type"]
    costs = await _costs(connection, outbox_id, [row["webhook_id"] for row in rows])
    slow = slowest(costs)
    if not slow:
        return False
    reasons = [
        f"its filter took {costs[each] / 1000:.1f} s for an event of type {event_type}"
        for each in slow
    ]
    for row in await connection.fetch("disable_webhooks", slow, reasons):
        log.error("slow_filter_disabled", webhook_id=row["id"], reason=row["disabled_reason"])
    return True


def slowest(costs: Mapping[int, float]) -> list[int]:
    """Return the fewest webhooks without which the others take ``FILTERS_MILLISECONDS`` at most.

    Args:
        costs: milliseconds by webhook.
    """
    total = sum(costs.values())
    found = []
    for webhook_id in sorted(costs, key=lambda each: costs[each], reverse=True):
        if total <= FILTERS_MILLISECONDS:
            break
        found.append(webhook_id)
        total -= costs[webhook_id]
    return found


async def _costs(
    connection: Connection, outbox_id: int, webhook_ids: Sequence[int]
) -> dict[int, float]:
    """Return how many milliseconds each filter takes, searching for those that take too long."""
    try:
        rows = await connection.fetch("time_filters", outbox_id, webhook_ids)
    except StatementTimeoutError:
        if len(webhook_ids) == 1:
            return {webhook_ids[0]: DRAIN_SECONDS * 1000.0}
        middle = len(webhook_ids) // 2
        return {
            **await _costs(connection, outbox_id, webhook_ids[:middle]),
            **await _costs(connection, outbox_id, webhook_ids[middle:]),
        }
    return {row["webhook_id"]: row["milliseconds"] for row in rows}
