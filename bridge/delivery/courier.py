"""Claims deliveries, sends them, and settles what became of them.

A delivery is leased in a short transaction, sent outside any, and settled in a batch. It is held
from the claim until it is settled, and so are its slots: at most ``concurrency`` in all and
``max_concurrency`` to one webhook. So the memory that answers can take is bounded, and so is what a
crash can repeat. A full courier claims nothing more, and what it does not claim waits in the queue.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog
import trio

from bridge.access.vault import SecretError, Vault
from bridge.database.clock import ServerClock
from bridge.database.errors import (
    DatabaseError,
    DatabaseUnavailable,
    DeadlockError,
    MissingPartitionError,
)
from bridge.database.pool import Database, Row, values_by_column
from bridge.database.restart import keep_running
from bridge.delivery.retry import Answer, Failure, Outcome, Verdict, judge
from bridge.delivery.signing import canonical_body, headers, message_id
from bridge.delivery.transport import Transport
from bridge.tasks import WakeUp
from bridge.telemetry import logs, metrics

log = structlog.get_logger()

#: Deliveries that are claimed by one statement at most: few enough that the attempts before them
#: are still under way when they come.
CLAIM_BATCH = 64
#: Attempts that are settled by one statement at most.
SETTLE_BATCH = 500
#: How often everything that is due is looked for, whatever has been looked through already.
SWEEP_SECONDS = 1.0
#: After a sweep, so many times as long as it took passes before the next: while vacuum is held
#: back, it walks over all that was settled since. The shorter of the last two counts, and up to a
#: bound: one that had to wait for a lock has walked over nothing.
SWEEP_REST = 10
LONGEST_SWEEP_REST_SECONDS = 30.0
#: How long at most more may come together between two statements: after one that had to wait for a
#: lock, all that is due has waited long enough.
LONGEST_LINGER_SECONDS = 1.0
#: How late at most a delivery appears whose time has come: the longest drain.
LATE = timedelta(seconds=5)
#: How long attempts in flight may go on when the courier is told to stop.
STOP_SECONDS = 6.0
#: How long a last claim may take before that, and settling and giving back leases after it.
LAST_WORDS_SECONDS = 1.0
#: A courier that has not looked for what is due for so long, or not written down what became of an
#: attempt, does not do its work.
STALL_SECONDS = 10.0


class _Event:
    """An event that is being delivered, to one webhook or to many."""

    __slots__ = ("_body", "event_type", "id", "payload")

    def __init__(self, event_id: int, event_type: str, payload: str | None) -> None:
        self.id = event_id
        self.event_type = event_type
        #: None if it is no longer in the log.
        self.payload = payload
        self._body: bytes | None = None

    def body(self) -> bytes:
        """Return the payload as it is sent; the same bytes for all webhooks."""
        if self._body is None:
            assert self.payload is not None  # noqa: S101 - whoever sends has looked
            self._body = canonical_body(self.payload)
        return self._body


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A claimed delivery."""

    id: int
    lease_token: UUID
    event: _Event
    #: When the event was; None for a redelivery, whose way began when somebody asked for it.
    committed_at: datetime | None
    attempt_number: int
    #: The same, counted from the last redelivery on.
    attempt_of_schedule: int
    webhook_id: int
    is_failing: bool
    #: Sent while the breaker is open, to see whether the receiver is back.
    is_probe: bool
    #: May hold a secret in its path.
    url: str = field(repr=False)
    secret: str | None = field(repr=False)
    previous_secret: str | None = field(repr=False)
    timeout_seconds: int
    schedule: Sequence[float]

    def about(self) -> dict[str, object]:
        """Return what every line of the log says of it."""
        return {
            "delivery_id": self.id,
            "webhook_id": self.webhook_id,
            "event_id": self.event.id,
            "attempt": self.attempt_number,
        }


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An attempt that has ended."""

    delivery: _Delivery
    started_at: datetime
    finished_at: datetime
    answer: Answer
    verdict: Verdict
    #: When it was over, by trio's clock.
    ended: float


class Courier:
    """Delivers what is due.

    Args:
        vault: opens the webhooks' secrets.
        concurrency: attempts in flight at most, over all webhooks; half of it to those that
            mostly fail.
        schedule: seconds to wait before each attempt of a delivery.
        disable_seconds: how long a webhook may do nothing but fail before it is switched off.
        create_partitions: makes the partitions that the logs miss.
        poll_seconds: how often it looks for what is due without being told.
    """

    def __init__(
        self,
        database: Database,
        transport: Transport,
        vault: Vault,
        *,
        concurrency: int,
        schedule: Sequence[float],
        disable_seconds: float,
        create_partitions: Callable[[], Awaitable[int]],
        poll_seconds: float,
    ) -> None:
        self._database = database
        self._transport = transport
        self._vault = vault
        self._concurrency = concurrency
        self._schedule = schedule
        self._disable_seconds = disable_seconds
        self._create_partitions = create_partitions
        self._poll_seconds = min(poll_seconds, SWEEP_SECONDS)
        self._due = WakeUp()
        self._ended = WakeUp()
        self._stopping = False
        self._claiming = trio.CancelScope()
        self._over = False
        #: Set when ``run`` has let go of everything.
        self.stopped = trio.Event()
        # Every claimed delivery until it is settled; twice if its lease was taken away, by a server
        # restored from a backup or by hand, and it was claimed once more.
        self._held: dict[tuple[int, UUID], _Delivery] = {}
        # Attempts that wait for being settled: a part of those held.
        self._attempts: list[_Attempt] = []
        # Those held by webhook, and how many of them to webhooks that mostly fail.
        self._held_by_webhook: Counter[int] = Counter()
        self._held_failing = 0
        # What has been looked through: by webhook, and everywhere.
        self._due_since: dict[int, datetime] = {}
        self._swept: datetime | None = None
        self._swept_at = -float("inf")
        self._sweep_seconds, self._sweep_took = SWEEP_SECONDS, 0.0
        self._clock = ServerClock()
        self._looked_at = trio.current_time()

    @property
    def in_flight(self) -> int:
        """How many deliveries it holds: being sent, or about to be settled."""
        return len(self._held)

    def claim_trouble(self) -> str | None:
        """Say that it has not got around to looking for what is due; None if it has."""
        waited = trio.current_time() - self._looked_at
        if waited < STALL_SECONDS:
            return None
        return f"this bridge has not got around to looking for deliveries for {waited:.0f} s"

    def settle_trouble(self) -> str | None:
        """Say that what became of an attempt is not written down; None if nothing waits for it."""
        waited = trio.current_time() - self._attempts[0].ended if self._attempts else 0.0
        if waited < STALL_SECONDS:
            return None
        return f"what became of an attempt {waited:.0f} s ago is not written down yet"

    def deliveries_due(self) -> None:
        """Tell the courier that there may be something to claim."""
        self._due.signal()

    def look_everywhere(self) -> None:
        """Tell the courier that deliveries may be due that it had passed over."""
        self._swept_at = -float("inf")
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
            started = trio.current_time()
            free = min(CLAIM_BATCH, self._concurrency - len(self._held))
            # One that is full has looked, too: receivers that are slow are none of its troubles.
            self._looked_at = started
            if free > 0:
                deliveries = await self._claim(free)
                self._looked_at = trio.current_time()
                for delivery in deliveries:
                    self._hold(delivery)
                    attempts.start_soon(self._attempt, delivery)
                if len(deliveries) == free:
                    continue  # there is more
            self._transport.close_idle()
            await _linger(started)
            await self._due.wait(self._poll_seconds)

    def _hold(self, delivery: _Delivery) -> None:
        self._held[delivery.id, delivery.lease_token] = delivery
        self._held_by_webhook[delivery.webhook_id] += 1
        self._held_failing += delivery.is_failing

    def _let_go(self, delivery: _Delivery) -> None:
        del self._held[delivery.id, delivery.lease_token]
        self._held_failing -= delivery.is_failing
        self._held_by_webhook[delivery.webhook_id] -= 1
        if not self._held_by_webhook[delivery.webhook_id]:
            del self._held_by_webhook[delivery.webhook_id]

    async def _claim(self, limit: int) -> list[_Delivery]:
        """Lease what is due; everything, or what has become due since it was looked for."""
        started = trio.current_time()
        is_sweep = started - self._swept_at >= self._sweep_seconds
        swept = None if is_sweep else self._swept
        due_since = {} if is_sweep else self._due_since
        known = list(self._held_by_webhook.keys() | self._due_since.keys())
        asked = self._clock.asks()
        rows = await self._database.fetch(
            "claim",
            known,
            [self._held_by_webhook[webhook_id] for webhook_id in known],
            [due_since.get(webhook_id, swept) for webhook_id in known],
            swept,
            limit,
            max(1, self._concurrency // 2) - self._held_failing,
            [delivery_id for delivery_id, _ in self._held],
        )
        now = rows[0]["now"]
        self._clock.answered(now, asked)
        if rows[0]["id"] is None:
            rows = []
        if is_sweep:
            self._swept_at = trio.current_time()
            took = self._swept_at - started
            rest = min(SWEEP_REST * min(took, self._sweep_took), LONGEST_SWEEP_REST_SECONDS)
            self._sweep_seconds, self._sweep_took = max(SWEEP_SECONDS, rest), took
        if is_sweep and len(rows) < limit:
            # It has seen everything. (One that had no room left for more has not: then what it did
            # not come to is looked for from the last mark on, and not from a new one.)
            self._swept = now - LATE
            self._due_since = {
                webhook_id: since
                for webhook_id, since in self._due_since.items()
                if webhook_id in self._held_by_webhook
            }
        for row in rows:
            if not row["is_redelivery"]:
                self._due_since[row["webhook_id"]] = row["next_attempt_at"] - LATE
        events: dict[int, _Event] = {}
        return [self._delivery(row, events) for row in rows]

    def _delivery(self, row: Row, events: dict[int, _Event]) -> _Delivery:
        event = events.get(row["event_id"])
        if event is None:
            event = events[row["event_id"]] = _Event(
                row["event_id"], row["event_type"], row["payload"]
            )
        return _Delivery(
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

    async def _attempt(self, delivery: _Delivery) -> None:
        started_at, started = self._clock.now(), time.monotonic()
        try:
            answer = await self._send(delivery)
        except Exception as error:
            # A payload that cannot be serialised, or a bug: one delivery's trouble, nobody else's.
            log.exception("attempt_crashed", **delivery.about())
            answer = Answer(failure=Failure.INTERNAL, error=f"cannot be sent: {error!r}"[:500])
        # Not by the clock: what it has been told since may have set it back a little.
        finished_at = started_at + timedelta(seconds=time.monotonic() - started)
        verdict = judge(
            answer,
            attempt_number=delivery.attempt_of_schedule,
            schedule=delivery.schedule,
            now=finished_at.timestamp(),
            random=random.random,
        )
        attempt = _Attempt(delivery, started_at, finished_at, answer, verdict, trio.current_time())
        self._attempts.append(attempt)
        self._ended.signal()
        metrics.delivery_attempts.labels(verdict.failure or "none").inc()
        if verdict.outcome is not Outcome.SUCCESS:
            is_retried = verdict.outcome is Outcome.RETRY
            log.info(
                "delivery_retried" if is_retried else "delivery_failed",
                **delivery.about(),
                failure=verdict.failure,
                error=verdict.error,
            )
        elif logs.items_told():
            log.debug("delivery_succeeded", **delivery.about(), status=answer.status)

    async def _send(self, delivery: _Delivery) -> Answer:
        event = delivery.event
        if event.payload is None:
            return Answer(failure=Failure.NO_EVENT, error="the event is no longer in the log")
        body = event.body()
        try:
            secret = self._open(delivery.secret)
            previous_secret = self._open(delivery.previous_secret)
        except SecretError as error:
            return Answer(failure=Failure.SECRET, error=f"cannot be signed: {error}")
        return await self._transport.post(
            delivery.url,
            headers=headers(
                body=body,
                event_type=event.event_type,
                webhook_id=delivery.webhook_id,
                message=message_id(event.id, delivery.webhook_id),
                timestamp=int(time.time()),
                secret=secret,
                previous_secret=previous_secret,
            ),
            body=body,
            deadline_seconds=delivery.timeout_seconds,
            about=delivery.about(),
        )

    def _open(self, stored: str | None) -> str | None:
        return None if stored is None else self._vault.open(stored)

    async def _settle_until_over(self) -> None:
        while not self._over or self._attempts:
            started = trio.current_time()
            await keep_running("settle", self._settle_all)
            if not self._over and len(self._held) > CLAIM_BATCH:
                await _linger(started)
            await self._ended.wait(self._poll_seconds)

    async def _settle_all(self) -> None:
        """Settle everything that has ended, a batch at a time."""
        while self._attempts:
            batch = self._attempts[:SETTLE_BATCH]
            try:
                await self._settle(batch)
            except DeadlockError:
                continue
            except DatabaseError as error:
                if isinstance(error, MissingPartitionError) and await self._create_partitions():
                    continue
                if not _is_refused_for_its_values(error):
                    raise
                # Something in it is refused: find out what, and keep the rest.
                for attempt in batch:
                    await self._settle_alone(attempt)
                    # Not all at the end: should the database go away, what was kept stays so.
                    self._settled([attempt])
                continue
            self._settled(batch)

    def _settled(self, batch: Sequence[_Attempt]) -> None:
        """Forget the attempts that have waited for longest, and give their slots to others."""
        del self._attempts[: len(batch)]
        _count(batch)
        for attempt in batch:
            self._let_go(attempt.delivery)
        self._due.signal()

    async def _settle_alone(self, attempt: _Attempt) -> None:
        try:
            await self._settle([attempt])
        except DatabaseError as error:
            if not _is_refused_for_its_values(error):
                raise
            # Its lease runs out, and it is sent again with the same webhook-id.
            log.error("result_rejected", **attempt.delivery.about(), reason=str(error))

    async def _settle(self, batch: Sequence[_Attempt]) -> None:
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
            "settle", *values_by_column(rows), self._disable_seconds
        )
        if len(settled) < len(batch):
            kept = {row["id"] for row in settled}
            for attempt in batch:
                if attempt.delivery.id not in kept:
                    log.warning("lease_lost", **attempt.delivery.about())

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
            log.warning("lease_release_failed", count=len(held), reason=str(error))


def _is_refused_for_its_values(error: DatabaseError) -> bool:
    """Whether the same statement will always be refused; otherwise it is worth trying again.

    A full disk, a lock that is not to be had, a right that is missing: these say nothing of an
    attempt, and what became of it is kept until they are over.
    """
    # Values that do not fit, constraints, and what somebody's own trigger raises.
    return (error.sqlstate or "").startswith(("22", "23", "P0"))


def _count(batch: Sequence[_Attempt]) -> None:
    """Count what became of attempts that are settled."""
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


async def _linger(started: float) -> None:
    """Wait as long again as what began then has taken, while more comes together.

    So under load a statement is for many rows, and statements take half of the time at most.
    """
    await trio.sleep(min(trio.current_time() - started, LONGEST_LINGER_SECONDS))
