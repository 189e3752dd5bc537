"""Makes one attempt of a delivery: sign the request, send it, judge the response."""

import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import structlog
import trio

from bridge.access.vault import SecretError, Vault
from bridge.database.clock import ServerClock
from bridge.delivery.body import canonical_body
from bridge.delivery.builder import Builder
from bridge.delivery.retry import Answer, Failure, Outcome, Verdict, judge
from bridge.delivery.signing import headers, message_id
from bridge.delivery.transport import Transport
from bridge.telemetry import logs, metrics

log = structlog.get_logger()

#: To parse and sign a payload of this size takes a quarter of a millisecond or more.
LARGE_BYTES = 64 * 1024


@dataclass(slots=True, weakref_slot=True)
class Event:
    """An event to deliver, to one webhook or to many."""

    id: int
    event_type: str
    #: None if the event is no longer in the log, or if ``body`` has replaced it.
    _payload: str | None = field(repr=False)
    _body: bytes | None = field(default=None, repr=False)

    def body(self) -> bytes | None:
        """Return the request body, the same bytes for all webhooks; None if the event is gone."""
        if self._payload is not None:
            self._body, self._payload = canonical_body(self._payload), None
        return self._body

    async def body_of_large(self, builder: Builder) -> bytes | None:
        """Return what :meth:`body` returns, without holding up the event loop."""
        if self._payload is not None:
            self._body, self._payload = await builder.build(self._payload), None
        return self._body

    @property
    def size(self) -> int:
        """Number of bytes or characters of its payload."""
        return len(self._body or self._payload or "")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed delivery."""

    id: int
    lease_token: UUID
    event: Event
    #: When the event was committed; None for a redelivery, which was requested later.
    committed_at: datetime | None
    attempt_number: int
    #: The attempt's number since the last redelivery, which restarts the schedule.
    attempt_of_schedule: int
    webhook_id: int
    is_failing: bool
    #: Sent while the circuit breaker is open, to see whether the receiver works again.
    is_probe: bool
    #: May contain a secret in its path.
    url: str = field(repr=False)
    secret: str | None = field(repr=False)
    previous_secret: str | None = field(repr=False)
    timeout_seconds: int
    schedule: Sequence[float]

    def about(self) -> dict[str, object]:
        """Return the fields that identify it in log events."""
        return {
            "delivery_id": self.id,
            "webhook_id": self.webhook_id,
            "event_id": self.event.id,
            "attempt": self.attempt_number,
        }


@dataclass(frozen=True, slots=True)
class Attempt:
    """A finished attempt."""

    delivery: Delivery
    started_at: datetime
    finished_at: datetime
    answer: Answer
    verdict: Verdict
    #: When it ended, by trio's clock.
    ended: float


class Sender:
    """Makes attempts.

    Args:
        vault: decrypts the webhooks' secrets.
        clock: times attempts by the database's clock.
    """

    def __init__(self, transport: Transport, vault: Vault, clock: ServerClock) -> None:
        self._transport = transport
        self._vault = vault
        self._clock = clock
        # Held while a large request is built, since several of them would share the processors.
        self._building = trio.Lock()
        self._builder = Builder()

    async def close(self) -> None:
        """Release what attempts used."""
        await self._builder.close()

    async def attempt(self, delivery: Delivery) -> Attempt:
        """Send a delivery once. Never raises for a receiver, a payload or a webhook."""
        started_at, started = self._clock.now(), time.monotonic()
        try:
            answer = await self._send(delivery)
        except Exception as error:
            # A bug, perhaps caused by a payload: other deliveries must not suffer.
            log.exception("attempt_crashed", **delivery.about())
            reason = str(error) or type(error).__name__
            answer = Answer(failure=Failure.INTERNAL, error=f"cannot send: {reason}"[:500])
        # The estimate of the database's time may have moved back since the start.
        finished_at = started_at + timedelta(seconds=time.monotonic() - started)
        verdict = judge(
            answer,
            attempt_number=delivery.attempt_of_schedule,
            schedule=delivery.schedule,
            now=finished_at.timestamp(),
            random=random.random,
        )
        _report(delivery, answer, verdict)
        return Attempt(delivery, started_at, finished_at, answer, verdict, trio.current_time())

    async def _send(self, delivery: Delivery) -> Answer:
        request = await self._request(delivery)
        if isinstance(request, Answer):
            return request
        head, body = request
        return await self._transport.post(
            delivery.url,
            headers=head,
            body=body,
            deadline_seconds=delivery.timeout_seconds,
            about=delivery.about(),
        )

    async def _request(self, delivery: Delivery) -> tuple[bytes, bytes] | Answer:
        """Return the headers and the body of the request, or why there are none."""
        event = delivery.event
        is_large = event.size > LARGE_BYTES
        async with self._building if is_large else nullcontext():
            try:
                body = await event.body_of_large(self._builder) if is_large else event.body()
            except RecursionError:  # PostgreSQL accepts what Python's parser does not
                return Answer(failure=Failure.INTERNAL, error="the payload is nested too deeply")
            if body is None:
                return Answer(failure=Failure.NO_EVENT, error="the event is no longer in the log")
            try:
                secret = self._open(delivery.secret)
                previous_secret = self._open(delivery.previous_secret)
            except SecretError as error:
                return Answer(failure=Failure.SECRET, error=f"cannot sign the request: {error}")
            build = partial(
                headers,
                body=body,
                event_type=event.event_type,
                webhook_id=delivery.webhook_id,
                message=message_id(event.id, delivery.webhook_id),
                timestamp=int(time.time()),
                secret=secret,
                previous_secret=previous_secret,
            )
            # Hashing releases the interpreter's lock.
            return await trio.to_thread.run_sync(build) if is_large else build(), body

    def _open(self, stored: str | None) -> str | None:
        return None if stored is None else self._vault.open(stored)


def _report(delivery: Delivery, answer: Answer, verdict: Verdict) -> None:
    metrics.delivery_attempts.labels(verdict.failure or "none").inc()
    if verdict.outcome is not Outcome.SUCCESS:
        is_retried = verdict.outcome is Outcome.RETRY
        log.info(
            "delivery_retried" if is_retried else "delivery_failed",
            **delivery.about(),
            failure=verdict.failure,
            error=verdict.error,
        )
    elif logs.logs_items():
        log.debug("delivery_succeeded", **delivery.about(), status=answer.status)
