"""Claims deliveries, sends them, and settles what became of them.

A delivery is leased in a short transaction, sent outside any, and settled in a batch. Slots are
held from the claim to the end of settling, so the memory that answers can take is bounded:
``concurrency`` times 16 KiB. A full courier claims nothing more, and what it does not claim waits
in the queue.
"""

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import structlog
import trio

from bridge.db import (
    Database,
    DatabaseError,
    DatabaseUnavailable,
    DeadlockError,
    MissingPartitionError,
    Row,
    keep_running,
    values_by_column,
)
from bridge.delivery.retry import Answer, Failure, Outcome, Verdict, judge
from bridge.delivery.signing import canonical_body, headers, message_id
from bridge.delivery.transport import Transport
from bridge.wakeup import WakeUp

log = structlog.get_logger()

#: Attempts that are settled by one statement at most.
SETTLE_BATCH = 200
#: How long attempts in flight may go on when the courier is told to stop.
STOP_SECONDS = 6.0
#: How long a last claim may take before that, and settling and giving back leases after it.
LAST_WORDS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A claimed delivery. ``payload`` is None if its event is no longer in the log."""

    id: int
    lease_token: UUID
    webhook_id: int
    url: str
    secret: str | None
    timeout_seconds: int
    event_id: int
    event_type: str
    payload: str | None
    attempt_number: int


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An attempt that has ended."""

    delivery: _Delivery
    started_at: datetime
    finished_at: datetime
    answer: Answer
    verdict: Verdict


class Courier:
    """Delivers what is due.

    Args:
        concurrency: attempts in flight at most, over all webhooks.
        schedule: seconds to wait before each attempt of a delivery.
        create_partitions: makes the partitions that the logs miss.
        poll_seconds: how often it looks for what is due without being told.
    """

    def __init__(
        self,
        database: Database,
        transport: Transport,
        *,
        concurrency: int,
        schedule: Sequence[float],
        create_partitions: Callable[[], Awaitable[int]],
        poll_seconds: float,
    ) -> None:
        self._database = database
        self._transport = transport
        self._concurrency = concurrency
        self._schedule = schedule
        self._create_partitions = create_partitions
        self._poll_seconds = poll_seconds
        self._due = WakeUp()
        self._ended = WakeUp()
        self._stopping = False
        self._claiming = trio.CancelScope()
        self._over = False
        #: Set when ``run`` has let go of everything.
        self.stopped = trio.Event()
        # Every claimed delivery until it is settled: at most `concurrency`.
        self._held: dict[int, _Delivery] = {}
        # Attempts that wait for being settled: a part of those held.
        self._attempts: list[_Attempt] = []

    def deliveries_due(self) -> None:
        """Tell the courier that there may be something to claim."""
        self._due.signal()

    def stop(self) -> None:
        """Have ``run`` take no more, end what is in flight and return."""
        self._stopping = True
        self._due.signal()
        # A claim that is under way ends in time; a pause because the database is away need not.
        self._claiming.deadline = trio.current_time() + LAST_WORDS_SECONDS

    async def run(self) -> None:
        """Deliver until told to stop; then end or give back what is in flight."""
        async with trio.open_nursery() as settling:
            settling.start_soon(self._settle_until_over)
            async with trio.open_nursery() as attempts:
                with self._claiming:
                    await keep_running("claim", lambda: self._claim_until_stopped(attempts))
                attempts.cancel_scope.deadline = trio.current_time() + STOP_SECONDS
            self._over = True
            self._ended.signal()
            settling.cancel_scope.deadline = trio.current_time() + LAST_WORDS_SECONDS
        with trio.move_on_after(LAST_WORDS_SECONDS):
            await self._release()
        self.stopped.set()

    async def _claim_until_stopped(self, attempts: trio.Nursery) -> None:
        while not self._stopping:
            free = self._concurrency - len(self._held)
            if free > 0:
                busy = Counter(delivery.webhook_id for delivery in self._held.values())
                rows = await self._database.fetch(
                    "claim", list(busy), list(busy.values()), [None] * len(busy), free, free
                )
                for row in rows:
                    delivery = _delivery(row)
                    self._held[delivery.id] = delivery
                    attempts.start_soon(self._attempt, delivery)
            await self._due.wait(self._poll_seconds)

    async def _attempt(self, delivery: _Delivery) -> None:
        started_at = datetime.now(UTC)
        try:
            answer = await self._send(delivery)
        except Exception as error:
            # A payload that cannot be serialised, or a bug: one delivery's trouble, nobody else's.
            log.exception("attempt_crashed", delivery_id=delivery.id)
            answer = Answer(failure=Failure.INTERNAL, error=f"cannot be sent: {error!r}"[:500])
        verdict = judge(
            answer,
            attempt_number=delivery.attempt_number,
            schedule=self._schedule,
            now=time.time(),
            random=random.random,
        )
        attempt = _Attempt(delivery, started_at, datetime.now(UTC), answer, verdict)
        self._attempts.append(attempt)
        self._ended.signal()
        if verdict.outcome is not Outcome.SUCCESS:
            log.info(
                f"delivery_{'retried' if verdict.outcome is Outcome.RETRY else 'failed'}",
                delivery_id=delivery.id,
                webhook_id=delivery.webhook_id,
                event_id=delivery.event_id,
                attempt=delivery.attempt_number,
                error=verdict.error,
            )

    async def _send(self, delivery: _Delivery) -> Answer:
        if delivery.payload is None:
            return Answer(failure=Failure.NO_EVENT, error="the event is no longer in the log")
        body = canonical_body(delivery.payload)
        return await self._transport.post(
            delivery.url,
            headers=headers(
                body=body,
                event_type=delivery.event_type,
                webhook_id=delivery.webhook_id,
                message=message_id(delivery.event_id, delivery.webhook_id),
                timestamp=int(time.time()),
                secret=delivery.secret,
            ),
            body=body,
            deadline_seconds=delivery.timeout_seconds,
        )

    async def _settle_until_over(self) -> None:
        while not self._over or self._attempts:
            await keep_running("settle", self._settle_all)
            await self._ended.wait(self._poll_seconds)

    async def _settle_all(self) -> None:
        """Settle everything that has ended, a batch at a time."""
        while self._attempts:
            batch = self._attempts[:SETTLE_BATCH]
            try:
                await self._settle(batch)
            except DeadlockError:
                continue
            except MissingPartitionError:
                if not await self._create_partitions():
                    raise
                continue
            except DatabaseError:
                # Something in it is refused: find out what, and keep the rest.
                for attempt in batch:
                    await self._settle_alone(attempt)
            del self._attempts[: len(batch)]
            for attempt in batch:
                self._held.pop(attempt.delivery.id, None)
            self._due.signal()

    async def _settle_alone(self, attempt: _Attempt) -> None:
        try:
            await self._settle([attempt])
        except DatabaseUnavailable:
            raise
        except DatabaseError as error:
            # Its lease runs out, and it is sent again with the same webhook-id.
            log.error("settle_refused", delivery_id=attempt.delivery.id, reason=str(error))

    async def _settle(self, batch: Sequence[_Attempt]) -> None:
        rows = [
            (
                attempt.delivery.id,
                attempt.delivery.lease_token,
                attempt.delivery.webhook_id,
                attempt.delivery.attempt_number,
                attempt.started_at,
                attempt.finished_at,
                str(attempt.verdict.outcome),
                attempt.verdict.retry_seconds,
                attempt.answer.status,
                attempt.answer.body,
                attempt.verdict.failure,
                attempt.verdict.error,
                attempt.verdict.disable,
                attempt.verdict.pause_seconds,
            )
            for attempt in batch
        ]
        settled = await self._database.fetch("settle", *values_by_column(rows), 5 * 86_400.0)
        if len(settled) < len(batch):
            kept = {row["id"] for row in settled}
            for attempt in batch:
                if attempt.delivery.id not in kept:
                    log.warning("lease_lost", delivery_id=attempt.delivery.id)

    async def _release(self) -> None:
        """Give back the leases of what could not be sent or settled."""
        held = list(self._held.values())
        if not held:
            return
        try:
            await self._database.fetch(
                "release", [each.id for each in held], [each.lease_token for each in held]
            )
            log.info("leases_released", count=len(held))
        except (DatabaseUnavailable, DatabaseError) as error:
            log.warning("leases_left_to_run_out", count=len(held), reason=str(error))


def _delivery(row: Row) -> _Delivery:
    return _Delivery(
        id=row["id"],
        lease_token=row["lease_token"],
        webhook_id=row["webhook_id"],
        url=row["url"],
        secret=row["secret"],
        timeout_seconds=row["timeout_seconds"],
        event_id=row["event_id"],
        event_type=row["event_type"],
        payload=row["payload"],
        attempt_number=row["attempt_number"] + 1,
    )
