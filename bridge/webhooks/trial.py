"""Sends a webhook a test request, to try it without waiting for an event."""

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any
from uuid import uuid4

import trio
from pydantic import Field

from bridge.access.proxies import Network
from bridge.access.vault import SecretError, Vault
from bridge.delivery.addresses import AddressPolicy
from bridge.delivery.body import canonical_body
from bridge.delivery.resolve import resolve
from bridge.delivery.retry import Outcome, describe, rule_of
from bridge.delivery.signing import headers
from bridge.delivery.transport import Transport

Row = Mapping[str, Any]

EVENT_TYPE = "webhook.test"


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a test request."""

    response_status: int | None
    response_body: Annotated[str | None, Field(description="First 16 KiB of the response.")]
    error_message: Annotated[
        str | None, Field(description="Null if the receiver accepted the request.")
    ]
    seconds: Annotated[float, Field(description="From connecting to the end of the response.")]


async def send_trial(transport: Transport, vault: Vault, webhook: Row) -> Trial:
    """Send a test request, signed like a delivery, at once and whatever the webhook's state.

    It is not logged, not retried, and does not count as a delivery.

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
        return Trial(None, None, f"cannot sign the request: {error}", 0.0)
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


def blocking_sender(
    vault: Vault, allowed_networks: Sequence[Network]
) -> Callable[[Row], Awaitable[Trial]]:
    """Return a function like ``send_trial`` that works without an event loop, for commands."""

    async def send_now(webhook: Row) -> Trial:
        policy = AddressPolicy(allowed_networks)
        with Transport(partial(resolve, policy=policy), max_idle=0) as transport:
            return await send_trial(transport, vault, webhook)

    async def send(webhook: Row) -> Trial:
        return trio.run(send_now, webhook)

    return send
