"""Settles attempts: records their results in batches, and frees the leases."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import structlog
import trio

from bridge.database.errors import DatabaseError, DeadlockError, MissingPartitionError, is_of_values
from bridge.database.pool import Database, values_by_column
from bridge.database.queries import unrepresentable
from bridge.delivery.attempt import Attempt
from bridge.delivery.retry import Outcome
from bridge.telemetry import metrics

log = structlog.get_logger()

#: Maximum number of attempts per statement.
SETTLE_BATCH = 500
#: Shortest time between two updates of a webhook's row by a courier, if only its counters change.
COUNT_SECONDS = 1.0


class Settler:
    """Records the results of attempts.

    Args:
        settled: gets each batch that needs no more work.
        disable_seconds: how long a webhook may fail without a success before it is disabled.
        create_partitions: creates missing partitions of the logs; returns how many.
    """

    def __init__(
        self,
        database: Database,
        *,
        settled: Callable[[Sequence[Attempt]], None],
        disable_seconds: float,
        create_partitions: Callable[[], Awaitable[int]],
    ) -> None:
        self._database = database
        self._settled = settled
        self._disable_seconds = disable_seconds
        self._create_partitions = create_partitions
        #: Finished attempts, oldest first.
        self.waiting: list[Attempt] = []
        # Rows of uncounted_successes. If this bridge is killed, another one counts them.
        self._uncounted: list[int] = []
        self._counted_at = -float("inf")

    async def settle_all(self) -> None:
        """Settle all waiting attempts, a batch at a time, and smaller ones while some fail."""
        size = SETTLE_BATCH
        while self.waiting:
            batch = self.waiting[:size]
            try:
                await self._settle(batch)
            except DeadlockError:
                continue
            except DatabaseError as error:
                if isinstance(error, MissingPartitionError) and await self._create_partitions():
                    continue
                if unrepresentable(error) and await self._make_storable(len(batch)):
                    continue
                if not is_of_values(error):
                    raise
                if len(batch) > 1:
                    size = (len(batch) + 1) // 2
                    continue
                await self._settle_apart(batch[0], str(error))
            self._forget(batch)
            size = min(SETTLE_BATCH, 2 * size)

    async def count(self, *, now: bool) -> None:
        """Count the successes whose webhooks were not updated: ``now``, or when it is time."""
        if self._uncounted and (now or trio.current_time() - self._counted_at >= COUNT_SECONDS):
            try:
                await self._database.fetch("count_successes", self._uncounted)
                self._uncounted = []
            except DeadlockError:
                pass
            except DatabaseError as error:
                if not is_of_values(error):
                    raise
                # Upkeep tries again, every few minutes.
                log.error("counts_rejected", batches=len(self._uncounted), reason=str(error))
                self._uncounted = []
            self._counted_at = trio.current_time()

    def _forget(self, batch: Sequence[Attempt]) -> None:
        """Drop the oldest attempts and report them as settled."""
        del self.waiting[: len(batch)]
        _count(batch)
        self._settled(batch)

    async def _make_storable(self, count: int) -> bool:
        """Remove what the database's encoding does not have from the oldest attempts' texts.

        Return whether there was something to remove.
        """
        batch = self.waiting[:count]
        texts = [text for each in batch for text in (each.answer.body, each.verdict.error)]
        rows = await self._database.fetch(
            "storable_texts", [None if text is None else text.encode() for text in texts]
        )
        storable = [row["text"] for row in rows]
        self.waiting[:count] = [
            replace(
                each,
                answer=replace(each.answer, body=body),
                verdict=replace(each.verdict, error=error),
            )
            for each, body, error in zip(batch, storable[::2], storable[1::2], strict=True)
        ]
        return storable != texts

    async def _settle_apart(self, attempt: Attempt, reason: str) -> None:
        """Keep as much of a rejected result as the database accepts."""
        delivery, verdict = attempt.delivery, attempt.verdict
        try:
            [row] = await self._database.fetch(
                "settle_apart",
                delivery.id,
                delivery.lease_token,
                delivery.attempt_number,
                attempt.started_at,
                attempt.finished_at,
                verdict.outcome.value,
                verdict.retry_seconds,
                attempt.answer.status,
                attempt.answer.body,
                verdict.failure,
                verdict.error,
                reason,
            )
        except DatabaseError as error:
            if not is_of_values(error):
                raise
            # When its lease expires, it is sent again with the same webhook-id.
            log.error("result_rejected", **delivery.about(), reason=str(error), result=None)
        else:
            log.error("result_rejected", **delivery.about(), reason=reason, result=row["result"])

    async def _settle(self, batch: Sequence[Attempt]) -> None:
        rows = [
            (
                attempt.delivery.id,
                attempt.delivery.lease_token,
                attempt.delivery.webhook_id,
                attempt.delivery.attempt_number,
                attempt.started_at,
                attempt.finished_at,
                attempt.verdict.outcome.value,
                attempt.verdict.retry_seconds,
                attempt.answer.status,
                attempt.answer.body,
                attempt.verdict.failure,
                attempt.verdict.error,
                attempt.verdict.disable,
                attempt.verdict.pause_seconds,
                attempt.delivery.is_probe,
            )
            for attempt in batch
        ]
        settled = await self._database.fetch(
            "settle", *values_by_column(rows), self._disable_seconds, COUNT_SECONDS
        )
        self._uncounted += [row["uncounted_id"] for row in settled if row["uncounted_id"]]
        kept = {row["id"] for row in settled if row["id"]}
        if len(kept) < len(batch):
            for attempt in batch:
                if attempt.delivery.id not in kept:
                    log.warning("lease_lost", **attempt.delivery.about())


def _count(batch: Sequence[Attempt]) -> None:
    """Update the metrics for settled attempts."""
    ends: Counter[tuple[Outcome, str | None]] = Counter()
    acknowledged, took = [], []
    for attempt in batch:
        outcome = attempt.verdict.outcome
        ends[outcome, attempt.verdict.failure] += 1
        took.append((attempt.finished_at - attempt.started_at).total_seconds())
        committed_at = attempt.delivery.committed_at
        if outcome is Outcome.SUCCESS and committed_at is not None:
            acknowledged.append((attempt.finished_at - committed_at).total_seconds())
    metrics.delivery_attempt_seconds.observe_all(took)
    metrics.commit_to_acknowledged.observe_all(acknowledged)
    for (outcome, failure), count in ends.items():
        if outcome is Outcome.SUCCESS:
            metrics.delivery_succeeded.inc(count)
        elif outcome is Outcome.RETRY:
            metrics.delivery_retried.labels(failure).inc(count)
        else:
            metrics.delivery_failed.labels(failure).inc(count)
