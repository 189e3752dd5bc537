"""Claims due deliveries: everything in a sweep, otherwise what became due since the last claim.

While vacuum is held back, a scan from the start of the queue passes every delivery settled since
then. So most claims start at a mark, and sweeps become rarer the longer they take.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import trio

from bridge.database.clock import ServerClock
from bridge.database.pool import Database, Row
from bridge.delivery.attempt import Delivery, Event

#: Shortest time between two sweeps.
SWEEP_SECONDS = 1.0
#: After a sweep, wait this many times its duration. The shorter of the last two durations counts: a
#: sweep that waited for a lock was not slow by itself.
SWEEP_REST = 10
LONGEST_SWEEP_REST_SECONDS = 30.0
#: How long after its due time a delivery may become visible: the longest drain.
LATE = timedelta(seconds=5)


class Claimer:
    """Leases due deliveries.

    Args:
        clock: learns the database's time from each claim.
        most_failing: maximum number of deliveries in flight to webhooks that mostly fail.
        schedule: the retry schedule of webhooks without one.
    """

    def __init__(
        self,
        database: Database,
        clock: ServerClock,
        *,
        most_failing: int,
        schedule: Sequence[float],
    ) -> None:
        self._database = database
        self._clock = clock
        self._most_failing = most_failing
        self._schedule = schedule
        # From which due time on to search the queue, by webhook and for all others.
        self._due_since: dict[int, datetime] = {}
        self._others_since: datetime | None = None
        self._swept_at = -float("inf")
        self._sweep_seconds, self._sweep_took = SWEEP_SECONDS, 0.0

    def sweep_next(self) -> None:
        """Make the next claim a sweep."""
        self._swept_at = -float("inf")

    async def claim(self, limit: int, held: Collection[Delivery]) -> list[Delivery]:
        """Lease at most ``limit`` deliveries, beside those that are held already."""
        in_flight = Counter(delivery.webhook_id for delivery in held)
        started = trio.current_time()
        is_sweep = started - self._swept_at >= self._sweep_seconds
        others = None if is_sweep else self._others_since
        due_since = {} if is_sweep else self._due_since
        known = list(in_flight.keys() | self._due_since.keys())
        asked = self._clock.asks()
        rows = await self._database.fetch(
            "claim",
            known,
            [in_flight[webhook_id] for webhook_id in known],
            [due_since.get(webhook_id, others) for webhook_id in known],
            others,
            limit,
            self._most_failing - sum(delivery.is_failing for delivery in held),
            [delivery.id for delivery in held],
        )
        now = rows[0]["now"]
        self._clock.answered(now, asked)
        if rows[0]["id"] is None:
            rows = []
        if is_sweep:
            self._swept(started)
        if is_sweep and len(rows) < limit:
            # A sweep that ran out of room has not seen everything: then the old marks stay.
            self._others_since = now - LATE
            self._due_since = {
                webhook_id: since
                for webhook_id, since in self._due_since.items()
                if webhook_id in in_flight
            }
        events: dict[int, Event] = {}
        for row in rows:
            if not row["is_redelivery"]:
                self._due_since[row["webhook_id"]] = row["next_attempt_at"] - LATE
            if row["event_id"] not in events:
                events[row["event_id"]] = Event(row["event_id"], row["event_type"], row["payload"])
        return [self._delivery(row, events[row["event_id"]]) for row in rows]

    def _swept(self, started: float) -> None:
        """Schedule the next sweep."""
        self._swept_at = trio.current_time()
        took = self._swept_at - started
        rest = min(SWEEP_REST * min(took, self._sweep_took), LONGEST_SWEEP_REST_SECONDS)
        self._sweep_seconds, self._sweep_took = max(SWEEP_SECONDS, rest), took

    def _delivery(self, row: Row, event: Event) -> Delivery:
        return Delivery(
            id=row["id"],
            lease_token=row["lease_token"],
            event=event,
            committed_at=None if row["is_redelivery"] else row["committed_at"],
            attempt_number=row["attempt_number"] + 1,
            attempt_of_schedule=row["attempt_number"] - row["attempts_before"] + 1,
            webhook_id=row["webhook_id"],
            is_failing=row["is_failing"],
            is_probe=row["is_probe"],
            url=row["url"],
            secret=row["secret"],
            previous_secret=row["previous_secret"],
            timeout_seconds=row["timeout_seconds"],
            schedule=row["retry_schedule"] or self._schedule,
        )
