"""Claims due deliveries: everything in a sweep, otherwise what the last claims left.

While vacuum is held back, a search from the start of a queue passes every delivery settled since
then. So a claim continues where the last one left off: in a backlog with the first delivery that it
left, and elsewhere a few seconds back, for deliveries that become visible late. What that misses,
such as a lease that expired or whose owner has died, the next sweep finds. Sweeps become rarer the
longer they take.
"""

from collections import Counter, deque
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

import structlog
import trio

from bridge.database.clock import ServerClock
from bridge.database.errors import DatabaseError, DatabaseUnavailable, is_of_values
from bridge.database.pool import Database, Row
from bridge.delivery.attempt import LARGE_BYTES, Delivery, Event
from bridge.delivery.retry import Failure
from bridge.telemetry import metrics

log = structlog.get_logger()

#: Shortest time between two sweeps.
SWEEP_SECONDS = 1.0
#: After a sweep, wait this many times its duration, which its statement timeout bounds. The shorter
#: of the last two durations counts: a sweep that waited for a lock was not slow by itself.
SWEEP_REST = 10
#: Most bytes of payload in one claim. Its last event may exceed it.
CLAIM_BYTES = 8 * 1024 * 1024
#: Most bytes of payload in flight. At this size a courier claims nothing, as without free slots.
HELD_BYTES = 64 * 1024 * 1024
#: A payload counts for no more than this, so that a single one does not keep all others waiting.
LARGEST_SHARE_BYTES = HELD_BYTES // 4
#: How much of recent large payloads to keep for further claims of the same events.
RECENT_BYTES = 8 * 1024 * 1024
#: How far a claim looks back where nothing was left: longer than the longest drain, because a
#: delivery is due from the start of its drain and visible at the end.
LATE = timedelta(seconds=10)
#: How long to claim nothing for a webhook whose deliveries can be neither claimed nor given up.
AVOID_SECONDS = 60.0
#: For this long after a claim failed, this courier may have leases that it does not know of: the
#: claim was completed, but its answer was lost.
LOST_ANSWER_SECONDS = 10.0
#: Columns of a claim that the next claim takes back: where to continue, one element per queue.
NEXT = ("next_webhook_ids", "next_queues", "next_times", "next_ids")


class Claimer:
    """Leases due deliveries.

    Args:
        clock: learns the database's time from each claim.
        most_failing: maximum number of deliveries in flight to webhooks that mostly fail.
        schedule: the retry schedule of webhooks without one.
        owner: identifies this courier in its leases.
    """

    def __init__(
        self,
        database: Database,
        clock: ServerClock,
        *,
        most_failing: int,
        schedule: Sequence[float],
        owner: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._most_failing = most_failing
        self._schedule = schedule
        self._owner = owner
        #: Owners whose leases count as expired.
        self._dead: list[int] = []
        self._failed_at = -float("inf")
        # Where to continue in each queue with a backlog, and since when to search all others.
        self._left_off: Sequence[Sequence[object]] = [()] * len(NEXT)
        self._others_since: datetime | None = None
        self._must_sweep = True
        #: Whether the last claim left deliveries only because of their size.
        self.has_cut = False
        # Events in flight and recent large ones: claims share their request bodies. With the time,
        # because a database that was restored assigns ids again.
        self._events: WeakValueDictionary[tuple[int, datetime], Event] = WeakValueDictionary()
        self._recent: deque[Event] = deque()
        #: Webhooks for which nothing is claimed until a time.
        self._avoided: dict[int, float] = {}
        self._swept_at = 0.0
        self._sweep_seconds, self._sweep_took = SWEEP_SECONDS, 0.0

    def sweep_next(self) -> None:
        """Make the next claim a sweep."""
        self._must_sweep = True

    async def claim(
        self, limit: int, held: Collection[Delivery], dead: Sequence[int] = ()
    ) -> list[Delivery]:
        """Lease at most ``limit`` deliveries, beside those that are held already.

        If a value makes this fail, the delivery with it is found and given up.

        Args:
            dead: owners whose leases count as expired.
        """
        self.has_cut = False
        if _payload_bytes(held) >= HELD_BYTES:
            return []
        started = trio.current_time()
        self._avoided = {each: until for each, until in self._avoided.items() if until > started}
        is_sweep = self._must_sweep or started - self._swept_at >= self._sweep_seconds
        self._must_sweep = False
        self._dead = [*dead, *self._itself_if_answers_were_lost(started)]
        try:
            rows = await self._lease(limit, held, self._avoided, is_sweep=is_sweep)
        except DatabaseError as error:
            if not is_of_values(error):
                raise
            log.warning("claim_failed", reason=str(error))
            return await self._claim_apart(limit, held)
        finally:
            # A sweep that was cancelled because it took too long must not follow itself.
            if is_sweep:
                self._swept(started)
        first = rows[0]
        self._others_since = first["now"] - LATE
        self._left_off = [first[column] or () for column in NEXT]
        self.has_cut = first["is_cut"]
        return self._deliveries(rows)

    async def _lease(
        self,
        limit: int,
        held: Collection[Delivery],
        without: Collection[int],
        *,
        is_sweep: bool,
    ) -> list[Row]:
        """Run the statement, for all webhooks but those ``without``."""
        in_flight = Counter(delivery.webhook_id for delivery in held)
        asked = self._clock.asks()
        try:
            rows = await self._database.fetch(
                "claim",
                list(in_flight.keys()),
                list(in_flight.values()),
                *self._left_off,
                self._others_since,
                is_sweep,
                limit,
                self._most_failing - sum(delivery.is_failing for delivery in held),
                min(CLAIM_BYTES, HELD_BYTES - _payload_bytes(held)),
                [delivery.id for delivery in held],
                list(without),
                self._owner,
                self._dead,
            )
        except (DatabaseUnavailable, DatabaseError):
            self._failed_at = trio.current_time()
            raise
        self._clock.answered(rows[0]["now"], asked)
        return rows

    async def _claim_apart(self, limit: int, held: Collection[Delivery]) -> list[Delivery]:
        """Claim for a part of the webhooks at a time, until a single delivery is to blame."""
        # What these claims leave, the next sweep finds.
        self._left_off, self._others_since = [()] * len(NEXT), None
        self.sweep_next()
        rows = await self._database.fetch("webhooks_with_due")
        webhooks = [row["id"] for row in rows if row["id"] not in self._avoided]
        claimed: list[Delivery] = []
        parts = [(webhooks, limit)] if webhooks else []
        while parts and len(claimed) < limit:
            part, most = parts.pop()
            most = min(most, limit - len(claimed))
            without = self._avoided.keys() | set(webhooks).difference(part)
            try:
                found = await self._lease(most, [*held, *claimed], without, is_sweep=True)
            except (DatabaseError, DatabaseUnavailable) as error:
                if isinstance(error, DatabaseUnavailable) or not is_of_values(error):
                    if claimed:
                        break  # they are leased
                    raise
                half = len(part) // 2
                if half:
                    parts += [(part[half:], most), (part[:half], most)]
                elif most > 1:
                    parts.append((part, 1))
                else:
                    await self._give_up_next(part[0], str(error))
            else:
                claimed += self._deliveries(found)
        return claimed

    async def _give_up_next(self, webhook_id: int, reason: str) -> None:
        """Give up the first due delivery of a webhook, which makes claims fail."""
        try:
            [row] = await self._database.fetch("give_up_next", webhook_id, reason)
        except DatabaseError as error:
            if not is_of_values(error):
                raise
            row = {"delivery_id": None}
        if row["delivery_id"] is None:
            self._avoided[webhook_id] = trio.current_time() + AVOID_SECONDS
            log.error(
                "webhook_avoided", webhook_id=webhook_id, reason=reason, seconds=AVOID_SECONDS
            )
        else:
            metrics.delivery_failed.labels(Failure.INTERNAL).inc()
            log.error(
                "delivery_set_aside",
                delivery_id=row["delivery_id"],
                webhook_id=webhook_id,
                event_id=row["event_id"],
                attempt=row["attempt_number"],
                reason=reason,
            )

    def _deliveries(self, rows: Sequence[Row]) -> list[Delivery]:
        if rows[0]["id"] is None:
            return []
        return [self._delivery(row, self._event(row)) for row in rows]

    def _itself_if_answers_were_lost(self, now: float) -> list[int]:
        return [self._owner] if now - self._failed_at < LOST_ANSWER_SECONDS else []

    def _event(self, row: Row) -> Event:
        key = row["event_id"], row["event_recorded_at"]
        event = self._events.get(key)
        if event is None:
            # The payload is in the first row of each event.
            event = self._events[key] = Event(row["event_id"], row["event_type"], row["payload"])
            if event.size > LARGE_BYTES:
                self._recent.append(event)
                while sum(each.size for each in self._recent) > RECENT_BYTES:
                    self._recent.popleft()
        return event

    def _swept(self, started: float) -> None:
        """Schedule the next sweep."""
        self._swept_at = trio.current_time()
        took = self._swept_at - started
        rest = SWEEP_REST * min(took, self._sweep_took)
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


def _payload_bytes(held: Collection[Delivery]) -> int:
    """Return how much of ``HELD_BYTES`` deliveries use. Those of a claim share their events."""
    events = {id(delivery.event): delivery.event for delivery in held}
    return sum(min(event.size, LARGEST_SHARE_BYTES) for event in events.values())
