"""Moves events from the outbox to the log, and queues their deliveries, in bounded statements."""

from collections.abc import Sequence

import structlog
import trio

from bridge.database.clock import ServerClock
from bridge.database.errors import (
    DatabaseError,
    MissingPartitionError,
    StatementTimeoutError,
    UniqueViolationError,
    is_of_values,
)
from bridge.database.pool import Connection, Row
from bridge.relay.deferral import Deferral
from bridge.relay.doorbell import Drained
from bridge.relay.watermark import Watermark

log = structlog.get_logger()

#: How often the whole outbox is scanned, whatever the watermark says.
FULL_SCAN_SECONDS = 60.0
#: The same after sequences were set back, and for how long.
SUSPICIOUS_SCAN_SECONDS, SUSPICIOUS_SECONDS = 1.0, 15.0
#: Most deliveries that one drain creates, as ``drain.sql`` counts them. The stream waits for them,
#: a few milliseconds; the others are deferred.
DRAIN_DELIVERIES = 250
#: Most bytes of payload in one drain, as ``drain.sql`` estimates them.
DRAIN_BYTES = 8 * 1024 * 1024
#: A drain that ran out of time is tried again with this share of its events.
SMALLER = 10


class Drainer:
    """Runs the drain statement and maintains its watermark.

    Args:
        batch: most events of one drain. A drain that runs out of time is repeated with fewer, and
            the number grows again afterwards.
        clock: set from the answer of each drain.
        deferral: told of deliveries that were deferred, and decides which are.
        last_event_id: the highest event id that was ever given out, as far as this bridge knows.
    """

    def __init__(
        self,
        connection: Connection,
        watermark: Watermark,
        batch: int,
        clock: ServerClock,
        deferral: Deferral,
        last_event_id: int,
    ) -> None:
        self._connection = connection
        self._watermark = watermark
        self._batch = self._events = batch
        self._deliveries = DRAIN_DELIVERIES
        self._clock = clock
        self._deferral = deferral
        self._last_event_id = last_event_id
        #: Whether the last drain left nothing behind, as far as it searched.
        self.complete = True
        self._gaps_scanned_at = -float("inf")
        self._full_scan_at = trio.current_time() + FULL_SCAN_SECONDS
        self._suspicious_until = -float("inf")

    async def drain(self, *, everywhere: bool = False) -> tuple[Sequence[Row], Drained]:
        """Return the drained rows in order, and what the drain found in the outbox.

        Args:
            everywhere: scan the gaps even if they are wide.

        Raises:
            DatabaseError: PostgreSQL refused or cancelled the statement.
            DatabaseUnavailable: the connection is lost.
        """
        now = trio.current_time()
        watermark = self._watermark
        # With a backlog, scan the gaps every time, so that the oldest events go first.
        scan_gaps = (
            everywhere
            or not (watermark.wide and self.complete)
            or now - self._gaps_scanned_at >= 1.0
        )
        gaps = [(gap.low, gap.high) for gap in watermark.gaps] if scan_gaps else []
        if now >= self._full_scan_at:
            # A safety net: take any row below the mark, even if no gap contains it.
            gaps, scan_gaps = [(1, watermark.mark)], True
            is_suspicious = now < self._suspicious_until
            self._full_scan_at = now + (
                SUSPICIOUS_SCAN_SECONDS if is_suspicious else FULL_SCAN_SECONDS
            )
            await self.advance_sequences()
        rows = await self._fetch([low for low, _ in gaps], [high for _, high in gaps])
        xmin, next_xid = rows[0]["xmin"], rows[0]["next_xid"]
        is_set_back, outbox_last_id = rows[0]["is_set_back"], rows[0]["outbox_last_id"]
        self.complete = rows[0]["is_complete"]
        if rows[0]["outbox_id"] is None:
            # Also if another session deleted what this one was about to take.
            rows, self.complete = [], True
        else:
            self._last_event_id = rows[-1]["id"]
        watermark.record(
            [row["outbox_id"] for row in rows],
            xmin=xmin,
            next_xid=next_xid,
            complete=self.complete,
            gaps_scanned=scan_gaps,
        )
        if scan_gaps:
            self._gaps_scanned_at = now
        if is_set_back or outbox_last_id < watermark.mark:
            await self.advance_sequences()
        if self._full_scan_at <= now:
            self.complete = False
        return rows, Drained(len(rows), self.complete and scan_gaps, xmin, next_xid)

    async def advance_sequences(self) -> None:
        """Move sequences that were set back past all ids that are in use.

        The application's rows may already have ids below the mark, so the next drain searches them
        all. A dump sets sequences back one after the other, so later ones do it again.
        """
        for row in await self._connection.fetch(
            "advance_sequences", self._last_event_id, self._watermark.mark
        ):
            log.warning(
                "sequence_advanced",
                sequence=row["sequence_name"],
                from_id=row["last_id"],
                to_id=row["used_id"],
            )
            self._full_scan_at = -float("inf")
            self._suspicious_until = trio.current_time() + SUSPICIOUS_SECONDS

    async def _fetch(self, lows: Sequence[int], highs: Sequence[int]) -> list[Row]:
        """Run the statement, with less work each time it fails, until one event is to blame."""
        mark = self._watermark.mark
        advanced = False
        while True:
            asked = self._clock.asks()
            try:
                rows = await self._connection.fetch(
                    *("drain", mark, lows, highs, self._events, DRAIN_BYTES, self._deliveries),
                    self._deferral.from_webhook_id,
                    self._last_event_id,
                )
            except DatabaseError as error:
                if isinstance(error, UniqueViolationError) and not advanced:
                    # Probably a sequence gave out an id twice.
                    advanced = True
                    await self.advance_sequences()
                    continue
                if isinstance(error, MissingPartitionError) and error.constraint_name is None:
                    raise  # with a name, it is a check constraint that pgbridge did not create
                is_slow = isinstance(error, StatementTimeoutError)
                if not is_slow and not is_of_values(error):
                    raise
                if is_slow:
                    log.warning("drain_timed_out", events=self._events, reason=str(error))
                else:
                    log.warning("drain_failed", events=self._events, reason=str(error))
                if self._events > 1:
                    self._events = max(1, self._events // SMALLER)
                elif self._deliveries:
                    self._deliveries = 0  # and no filters
                elif is_slow:
                    raise
                else:
                    await self._set_aside(mark, lows, highs, str(error))
                continue
            self._clock.answered(rows[0]["now"], asked)
            self._events = min(self._batch, 2 * self._events)
            self._deliveries = DRAIN_DELIVERIES
            if rows[0]["deferred_from"] is not None:
                self._deferral.add(rows[0]["deferred_from"])
            return rows

    async def _set_aside(
        self, mark: int, lows: Sequence[int], highs: Sequence[int], reason: str
    ) -> None:
        """Move the next event, which makes the drain fail, to the dead letters."""
        for row in await self._connection.fetch("set_event_aside", mark, lows, highs, reason):
            log.error(
                "event_set_aside",
                outbox_id=row["outbox_id"],
                dead_letter=row["dead_letter_id"],
                event_type=row["event_type"],
                reason=reason,
            )
