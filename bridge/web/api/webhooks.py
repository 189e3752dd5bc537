"""Webhooks: create, read, change, operate, delete."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import trio
from fastapi import Query, Request, Response
from starlette.convertors import StringConvertor, register_url_convertor

from bridge.access.scopes import WEBHOOKS_READ, WEBHOOKS_WRITE
from bridge.database.pool import Row
from bridge.web.api.auth import guarded_router
from bridge.web.api.fields import IsActive, Limit, Offset, WebhookId
from bridge.web.api.parts import InWebhooks
from bridge.web.api.refusals import (
    GUARDED,
    NO_REDELIVERY,
    NO_WEBHOOK,
    REDELIVERY_RUNS,
    TOO_MANY,
    WITH_BODY,
    later,
)
from bridge.webhooks.fields import OptionalText
from bridge.webhooks.model import (
    CreatedWebhook,
    NewWebhook,
    Redelivery,
    RedeliveryCount,
    RedeliveryProgress,
    RotatedSecret,
    SavedWebhook,
    SecretRotation,
    Webhook,
    WebhookChanges,
    WebhookHealth,
    WebhookList,
    WebhookStats,
)
from bridge.webhooks.trial import Trial

reading = guarded_router(WEBHOOKS_READ, "webhooks")
writing = guarded_router(WEBHOOKS_WRITE, "webhooks")
ROUTERS = (reading, writing)

SendTrial = Callable[[Row], Awaitable[Trial]]


class _AnyButStats(StringConvertor):
    """Matches ids only, so that PATCH and DELETE of ``/webhooks/stats`` get 405 and not 422."""

    regex = "(?!stats$)[^/]+"


register_url_convertor("any_but_stats", _AnyButStats())
#: The path of one webhook.
ONE = "/webhooks/{webhook_id:any_but_stats}"


def limited_trials(send_trial: SendTrial, at_once: int) -> SendTrial:
    """Return a function that answers 429 if too many tests are running."""
    running = trio.Semaphore(at_once)

    async def send(webhook: Row) -> Trial:
        if not running.value:
            raise later(429, "Too many tests are running; try again soon")
        async with running:
            return await send_trial(webhook)

    return send


@reading.get("/webhooks", summary="List webhooks")
async def list_webhooks(
    webhooks: InWebhooks,
    event_type: Annotated[OptionalText, Query(description="Exactly this type or pattern.")] = None,
    is_active: IsActive = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> WebhookList:
    """A page of webhooks, newest first."""
    return await webhooks.list(
        event_type=event_type, is_active=is_active, limit=limit, offset=offset
    )


@writing.post(
    "/webhooks",
    status_code=201,
    responses={
        **WITH_BODY,
        **TOO_MANY,
        201: {
            "description": "The webhook, with its secret if that was generated",
            "headers": {
                "Location": {
                    "description": "The webhook's address, relative to this one.",
                    "schema": {"type": "string", "format": "uri-reference"},
                }
            },
        },
    },
    # The fields `secret` and `warnings` are present only if they say something.
    response_model_exclude_unset=True,
    summary="Create a webhook",
)
async def create_webhook(
    response: Response, webhooks: InWebhooks, webhook: NewWebhook
) -> CreatedWebhook:
    """Create a webhook. Its URL must lead to a public or an explicitly allowed address."""
    created = await webhooks.create(webhook)
    response.headers["Location"] = f"/webhooks/{created.id}"
    return created


@reading.get("/webhooks/stats", summary="Count webhooks and deliveries")
async def webhook_stats(webhooks: InWebhooks) -> WebhookStats:
    """How many webhooks and deliveries there are."""
    return await webhooks.stats()


@reading.get(ONE, responses=NO_WEBHOOK, summary="Show a webhook")
async def get_webhook(webhooks: InWebhooks, webhook_id: WebhookId) -> Webhook:
    """One webhook."""
    return await webhooks.get(webhook_id)


@writing.patch(
    ONE,
    responses={**NO_WEBHOOK, **WITH_BODY},
    response_model_exclude_unset=True,  # as above
    summary="Change a webhook",
)
async def update_webhook(
    webhooks: InWebhooks, webhook_id: WebhookId, changes: WebhookChanges
) -> SavedWebhook:
    """Change a webhook. Activating it clears `disabled_reason`."""
    return await webhooks.update(webhook_id, changes)


@writing.post(
    ONE + "/rotate-secret",
    responses={**NO_WEBHOOK, **WITH_BODY},
    summary="Rotate the secret",
)
async def rotate_secret(
    webhooks: InWebhooks, webhook_id: WebhookId, rotation: SecretRotation | None = None
) -> RotatedSecret:
    """Replace the secret. For a day, requests are signed with the old one as well."""
    return await webhooks.rotate_secret(webhook_id, rotation.secret if rotation else None)


@writing.post(
    ONE + "/test",
    responses={
        **NO_WEBHOOK,
        429: {**GUARDED[429], "description": "Too many requests, or too many running tests"},
    },
    summary="Send a test",
)
async def try_webhook(request: Request, webhooks: InWebhooks, webhook_id: WebhookId) -> Trial:
    """Send a signed test request now, and return the receiver's response. It is not logged."""
    return await webhooks.send_test(webhook_id, request.app.state.send_trial)


@writing.delete(ONE, status_code=204, responses=NO_WEBHOOK, summary="Delete a webhook")
async def delete_webhook(webhooks: InWebhooks, webhook_id: WebhookId) -> None:
    """Delete a webhook and its pending deliveries."""
    await webhooks.delete(webhook_id)


@reading.get(ONE + "/health", responses=NO_WEBHOOK, summary="Show a webhook's health")
async def webhook_health(webhooks: InWebhooks, webhook_id: WebhookId) -> WebhookHealth:
    """A webhook's state, its backlog, and its attempts of the last hour and day."""
    return await webhooks.health(webhook_id)


@writing.post(ONE + "/pause", responses=NO_WEBHOOK, summary="Pause a webhook")
async def pause_webhook(webhooks: InWebhooks, webhook_id: WebhookId) -> Webhook:
    """Hold back a webhook's deliveries, including new ones."""
    await webhooks.pause(webhook_id)
    return await webhooks.get(webhook_id)


@writing.post(ONE + "/resume", responses=NO_WEBHOOK, summary="Resume a webhook")
async def resume_webhook(webhooks: InWebhooks, webhook_id: WebhookId) -> Webhook:
    """Deliver again, whether the webhook was paused, failing or disabled."""
    await webhooks.resume(webhook_id)
    return await webhooks.get(webhook_id)


@writing.post(
    ONE + "/redeliver",
    responses={**NO_WEBHOOK, **REDELIVERY_RUNS, **WITH_BODY},
    summary="Redeliver failed deliveries",
)
async def redeliver_failed(
    webhooks: InWebhooks, webhook_id: WebhookId, chosen: Redelivery
) -> RedeliveryCount:
    """Send failed deliveries again. Only counts them unless `dry_run` is false.

    The first thousand are put into the queue at once, the others while the first are sent.
    """
    return await webhooks.redeliver_failed(webhook_id, chosen)


@reading.get(ONE + "/redelivery", responses=NO_REDELIVERY, summary="Show a redelivery's progress")
async def get_redelivery(webhooks: InWebhooks, webhook_id: WebhookId) -> RedeliveryProgress:
    """The webhook's last redelivery by time range, running or not."""
    return await webhooks.redelivery(webhook_id)


@writing.post(
    ONE + "/redelivery/cancel", responses=NO_REDELIVERY, summary="Cancel a webhook's redelivery"
)
async def cancel_redelivery(webhooks: InWebhooks, webhook_id: WebhookId) -> RedeliveryProgress:
    """Put no more deliveries into the queue. Those in it, at most 2,000, are still sent."""
    return await webhooks.cancel_redelivery(webhook_id)
