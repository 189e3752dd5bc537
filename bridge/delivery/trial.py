"""Sends a webhook one request of a test, so that nobody has to wait for an event to try it."""

import json
import time
from dataclasses import dataclass
from uuid import uuid4

import trio

from bridge.access.vault import SecretError, Vault
from bridge.database.pool import Row
from bridge.delivery.retry import Outcome, describe, rule_of
from bridge.delivery.signing import canonical_body, headers
from bridge.delivery.transport import Transport

EVENT_TYPE = "webhook.test"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it. ``error_message`` is None if the receiver took the request."""

    response_status: int | None
    response_body: str | None
    error_message: str | None
    seconds: float


async def send_trial(transport: Transport, vault: Vault, webhook: Row) -> Trial:
    """Send a test signed as a delivery is, at once, whatever keeps the webhook from delivering.

    It is no delivery: it is not logged, not tried again, and counts for nothing.

    Args:
        webhook: a row of ``webhook_to_try``.
    """
    payload = {"message": "This is a test of the webhook.", "webhook_id": webhook["id"]}
    body = canonical_body(json.dumps(payload))
    started = trio.current_time()
    try:
        secret, previous_secret = (
            stored and vault.open(stored)
            for stored in (webhook["secret"], webhook["previous_secret"])
        )
    except SecretError as error:
        return Trial(None, None, f"cannot be signed: {error}", 0.0)
    answer = await transport.post(
        webhook["url"],
        headers=headers(
            body=body,
            event_type=EVENT_TYPE,
            webhook_id=webhook["id"],
            message=f"test_{uuid4().hex}",
            timestamp=int(time.time()),
            secret=secret,
            previous_secret=previous_secret,
        ),
        body=body,
        deadline_seconds=webhook["timeout_seconds"],
    )
    problem = None if rule_of(answer).outcome is Outcome.SUCCESS else describe(answer)
    return Trial(answer.status, answer.body, problem, trio.current_time() - started)
