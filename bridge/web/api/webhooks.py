"""Webhooks: made, read, changed, operated, deleted."""

import json
from typing import Annotated

import trio
from fastapi import HTTPException, Path, Query, Request, Response
from starlette.convertors import StringConvertor, register_url_convertor

from bridge.access.scopes import WEBHOOKS_READ, WEBHOOKS_WRITE
from bridge.access.vault import new_secret
from bridge.database.errors import DeadlockError
from bridge.database.pool import Row
from bridge.web.api.auth import guarded_router
from bridge.web.api.fields import Limit, Offset, OptionalFlag, OptionalText, WebhookId
from bridge.web.api.parts import ChecksUrl, InDatabase, InVault
from bridge.web.api.refusals import (
    GUARDED,
    NO_WEBHOOK,
    RETRY_SECONDS,
    WITH_BODY,
    found,
    refusing,
    refusing_filter,
    stored_id,
)
from bridge.web.api.schemas import (
    CreatedWebhook,
    NewWebhook,
    Redelivery,
    RedeliveryCount,
    RotatedSecret,
    SecretRotation,
    Webhook,
    WebhookChanges,
    WebhookHealth,
    WebhookList,
    WebhookStats,
    WebhookTrial,
)

#: How often a deletion is tried that a courier's transaction stands in the way of.
DELETE_TRIES = 3

reading = guarded_router(WEBHOOKS_READ)
writing = guarded_router(WEBHOOKS_WRITE)
ROUTERS = (reading, writing)


class _AnyButStats(StringConvertor):
    """Leaves ``/webhooks/stats`` to its own route, whatever the method: else PATCH meets an id."""

    regex = "(?!stats$)[^/]+"


register_url_convertor("any_but_stats", _AnyButStats())
#: The path of one webhook.
ONE = "/webhooks/{webhook_id:any_but_stats}"

_THIS = {"webhook_id": "$response.body#/id"}
_LINKS = {
    name: {"operationId": operation, "parameters": _THIS}
    for name, operation in (
        ("GetWebhook", "get_webhook"),
        ("UpdateWebhook", "update_webhook"),
        ("DeleteWebhook", "delete_webhook"),
        ("ListDeliveries", "list_deliveries"),
        ("WebhookHealth", "webhook_health"),
        ("RotateSecret", "rotate_secret"),
        ("PauseWebhook", "pause_webhook"),
        ("ResumeWebhook", "resume_webhook"),
        ("TryWebhook", "try_webhook"),
        ("RedeliverFailed", "redeliver_failed"),
    )
}


@reading.get("/webhooks", tags=["webhooks"], summary="List webhooks")
async def list_webhooks(
    database: InDatabase,
    event_type: Annotated[OptionalText, Query(description="Exactly this type or pattern.")] = None,
    is_active: Annotated[OptionalFlag, Query(description="Only those that are on, or off.")] = None,
    limit: Annotated[Limit, Query()] = 50,
    offset: Annotated[Offset, Query()] = 0,
) -> WebhookList:
    """A page of webhooks, newest first."""
    rows = await database.fetch("list_webhooks", event_type, is_active, limit, offset)
    return WebhookList(
        items=[_webhook(row) for row in rows if row["id"] is not None],
        total=rows[0]["total"],
        limit=limit,
        offset=offset,
    )


@writing.post(
    "/webhooks",
    status_code=201,
    responses={
        **WITH_BODY,
        201: {
            "description": "The webhook, with its secret if one was made",
            "headers": {
                "Location": {
                    "description": "Where the webhook is, relative to this address.",
                    "schema": {"type": "string", "format": "uri-reference"},
                }
            },
            "links": _LINKS,
        },
    },
    tags=["webhooks"],
    # Only who has asked for a secret finds the field.
    response_model_exclude_unset=True,
    summary="Create a webhook",
)
async def create_webhook(
    response: Response,
    database: InDatabase,
    vault: InVault,
    check_url: ChecksUrl,
    webhook: NewWebhook,
) -> CreatedWebhook:
    """Create a webhook. Its URL must lead to a public address, or to one that is allowed here."""
    await check_url(webhook.url)
    secret = new_secret() if webhook.generate_secret else webhook.secret
    with refusing_filter(webhook.filter):
        rows = await database.fetch(
            "create_webhook",
            webhook.name,
            webhook.url,
            webhook.event_type,
            None if secret is None else vault.seal(secret),
            webhook.description,
            webhook.is_active,
            webhook.timeout_seconds,
            webhook.max_concurrency,
            webhook.filter,
            webhook.rate_per_second,
            webhook.ordered,
            webhook.retry_schedule,
        )
    response.headers["Location"] = f"/webhooks/{rows[0]['id']}"
    shown = {"secret": secret} if webhook.generate_secret else {}
    return CreatedWebhook.model_validate({**rows[0], **shown})


@reading.get("/webhooks/stats", tags=["webhooks"], summary="Count webhooks and deliveries")
async def webhook_stats(database: InDatabase) -> WebhookStats:
    """How many webhooks and deliveries there are."""
    (row,) = await database.fetch("webhook_stats")
    total, successful = row["total_deliveries"], row["successful_deliveries"]
    rate = round(100 * successful / total, 2) if total else 0.0
    return WebhookStats(**row, success_rate=rate)


@reading.get(ONE, responses=NO_WEBHOOK, tags=["webhooks"], summary="Show a webhook")
async def get_webhook(database: InDatabase, webhook_id: Annotated[WebhookId, Path()]) -> Webhook:
    """One webhook."""
    return _webhook(found(await database.fetch("get_webhook", stored_id(webhook_id))))


@writing.patch(
    ONE, responses={**NO_WEBHOOK, **WITH_BODY}, tags=["webhooks"], summary="Change a webhook"
)
async def update_webhook(
    database: InDatabase,
    vault: InVault,
    check_url: ChecksUrl,
    webhook_id: Annotated[WebhookId, Path()],
    changes: WebhookChanges,
) -> Webhook:
    """Change a webhook. Switching it on clears the reason for which the bridge switched it off."""
    row_id, columns = stored_id(webhook_id), changes.columns()
    if changes.url is not None:
        # Also where it is the same as before: nothing could be delivered to it.
        await check_url(changes.url)
    if changes.secret:
        columns["secret"] = vault.seal(changes.secret)
    with refusing_filter(changes.filter):
        rows = await database.fetch("update_webhook", row_id, json.dumps(columns))
    return _webhook(found(rows))


@writing.post(
    "/webhooks/{webhook_id}/rotate-secret",
    responses={**NO_WEBHOOK, **WITH_BODY},
    tags=["webhooks"],
    summary="Rotate the secret",
)
async def rotate_secret(
    database: InDatabase,
    vault: InVault,
    webhook_id: Annotated[WebhookId, Path()],
    rotation: SecretRotation | None = None,
) -> RotatedSecret:
    """Replace the secret. For a day, requests are signed with the old one as well."""
    given = rotation.secret if rotation else None
    secret = given or new_secret()
    row = found(await database.fetch("rotate_secret", stored_id(webhook_id), vault.seal(secret)))
    return RotatedSecret(
        secret=None if given else secret,
        previous_secret_expires_at=row["previous_secret_expires_at"],
    )


@writing.post(
    "/webhooks/{webhook_id}/test",
    responses={
        **NO_WEBHOOK,
        429: {**GUARDED[429], "description": "Too many requests, or too many tests under way"},
    },
    tags=["webhooks"],
    summary="Send a test",
)
async def try_webhook(
    request: Request, database: InDatabase, webhook_id: Annotated[WebhookId, Path()]
) -> WebhookTrial:
    """Send a signed test to the receiver now, and answer with what it answers. It is not logged."""
    webhook = found(await database.fetch("webhook_to_try", stored_id(webhook_id)))
    try:
        request.app.state.trials.acquire_nowait()
    except trio.WouldBlock:
        raise HTTPException(
            429,
            "Too many tests are under way; try again soon",
            headers={"Retry-After": str(RETRY_SECONDS)},
        ) from None
    try:
        trial = await request.app.state.send_trial(webhook)
    finally:
        request.app.state.trials.release()
    return WebhookTrial.model_validate(trial, from_attributes=True)


@writing.delete(
    ONE, status_code=204, responses=NO_WEBHOOK, tags=["webhooks"], summary="Delete a webhook"
)
async def delete_webhook(database: InDatabase, webhook_id: Annotated[WebhookId, Path()]) -> None:
    """Delete a webhook, and what is still to be delivered to it."""
    for tries_left in reversed(range(DELETE_TRIES)):
        try:
            found(await database.fetch("delete_webhook", stored_id(webhook_id)))
        except DeadlockError:
            # A courier holds a delivery of it and waits for the webhook.
            if not tries_left:
                raise
        else:
            return


@reading.get(
    "/webhooks/{webhook_id}/health",
    responses=NO_WEBHOOK,
    tags=["webhooks"],
    summary="Show how a webhook does",
)
async def webhook_health(
    database: InDatabase, webhook_id: Annotated[WebhookId, Path()]
) -> WebhookHealth:
    """How a webhook does: its state, what waits for it, and its last hour and day."""
    row = found(await database.fetch("webhook_health", stored_id(webhook_id)))
    return WebhookHealth.model_validate(dict(row))


@writing.post(
    "/webhooks/{webhook_id}/pause",
    responses=NO_WEBHOOK,
    tags=["webhooks"],
    summary="Pause a webhook",
)
async def pause_webhook(database: InDatabase, webhook_id: Annotated[WebhookId, Path()]) -> Webhook:
    """Have a webhook's deliveries wait, new ones included."""
    with refusing("Webhook"):
        await database.fetch("pause_webhook", stored_id(webhook_id))
    return await get_webhook(database, webhook_id)


@writing.post(
    "/webhooks/{webhook_id}/resume",
    responses=NO_WEBHOOK,
    tags=["webhooks"],
    summary="Resume a webhook",
)
async def resume_webhook(database: InDatabase, webhook_id: Annotated[WebhookId, Path()]) -> Webhook:
    """Have a webhook deliver again, whether it was paused, failing or switched off."""
    with refusing("Webhook"):
        await database.fetch("resume_webhook", stored_id(webhook_id))
    return await get_webhook(database, webhook_id)


@writing.post(
    "/webhooks/{webhook_id}/redeliver",
    responses={**NO_WEBHOOK, **WITH_BODY},
    tags=["webhooks"],
    summary="Send failed deliveries again",
)
async def redeliver_failed(
    database: InDatabase, webhook_id: Annotated[WebhookId, Path()], chosen: Redelivery
) -> RedeliveryCount:
    """Send again what a webhook failed to take. Only counts, unless `dry_run` is false."""
    with refusing("Webhook"):
        (row,) = await database.fetch(
            "redeliver_failed",
            stored_id(webhook_id),
            chosen.since,
            chosen.until,
            chosen.dry_run,
            chosen.per_second,
        )
    return RedeliveryCount(count=row["count"], dry_run=chosen.dry_run)


def _webhook(row: Row) -> Webhook:
    return Webhook.model_validate(dict(row))
