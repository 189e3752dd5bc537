"""Webhooks: list, create, watch, operate, delete."""

from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response
from pydantic import ValidationError

from bridge.access.scopes import WEBHOOKS_READ, WEBHOOKS_WRITE
from bridge.database.pool import Row
from bridge.database.queries import Queries
from bridge.events import patterns_matching
from bridge.web.api.fields import BeforeId, WebhookId
from bridge.web.api.parts import InDatabase, InWebhooks
from bridge.web.api.refusals import found
from bridge.web.console import webhook_form
from bridge.web.console.forms import Problems, problems_of, status_of
from bridge.web.console.guard import form_of, page_router
from bridge.web.console.rendering import page, redirect
from bridge.webhooks.errors import InvalidInputError, TooManyError
from bridge.webhooks.event_types import BRIDGE_TYPES
from bridge.webhooks.fields import MAX_BIGINT
from bridge.webhooks.model import SecretRotation, WebhookChanges
from bridge.webhooks.operations import Webhooks
from bridge.webhooks.trial import Trial

#: Webhooks on a page of the list, and deliveries on the page of one webhook.
ON_A_PAGE: Final = 50
DELIVERIES_SHOWN: Final = 10
#: Upper bounds when counting pending deliveries, in the list and on a webhook's own page.
COUNTED_IN_LIST: Final = 1_000
COUNTED: Final = 10_000
#: Deliveries that a webhook's figures are based on.
LOOKED_AT: Final = 2_000
#: Event types that the form suggests.
MOST_TYPES: Final = 500

reading = page_router(WEBHOOKS_READ)
writing = page_router(WEBHOOKS_WRITE)
# /webhooks/new must be matched before /webhooks/{webhook_id}.
ROUTERS = (writing, reading)


@reading.get("/console/webhooks")
async def webhooks_page(
    request: Request,
    database: InDatabase,
    before: BeforeId = None,
    done: str = "",
) -> Response:
    """A page of the list, newest first."""
    highest = MAX_BIGINT if before is None else before - 1
    rows = await database.fetch("webhooks_page", 1, highest, ON_A_PAGE + 1, COUNTED_IN_LIST)
    return page(
        request,
        "webhooks",
        webhooks=rows[:ON_A_PAGE],
        next_before=rows[ON_A_PAGE - 1]["id"] if len(rows) > ON_A_PAGE else None,
        is_first=before is None,
        counted=COUNTED_IN_LIST,
        done=done,
    )


# --- the form


@writing.get("/console/webhooks/new")
async def new_webhook_page(request: Request, database: InDatabase) -> Response:
    """The form of a new webhook."""
    return await _form_page(request, database, webhook_form.blank())


@writing.post("/console/webhooks/new")
async def create_webhook(request: Request, database: InDatabase, webhooks: InWebhooks) -> Response:
    """Create a webhook. Only this response shows a generated secret."""
    form = form_of(request, *webhook_form.FIELDS)
    try:
        wanted = webhook_form.new_webhook(form)
        # Not afterwards: if that failed, the secret would be lost.
        unmatched = await webhooks.unmatched_type(wanted.event_type)
        created = await webhooks.create(wanted)
    except (ValidationError, InvalidInputError, TooManyError) as error:
        return await _form_page(
            request, database, webhook_form.typed(form), problems=problems_of(error)
        )
    if created.secret is None:
        return _to_webhook(request, created.id, "created")
    return page(
        request,
        "webhook_secret",
        status=201,
        webhook=created,
        secret=created.secret,
        unmatched=unmatched,
        rotated=None,
    )


@writing.get("/console/webhooks/{webhook_id}/edit")
async def edit_webhook_page(
    request: Request, database: InDatabase, webhooks: InWebhooks, webhook_id: WebhookId
) -> Response:
    """The form of a webhook."""
    webhook = await webhooks.get(webhook_id)
    return await _form_page(
        request,
        database,
        webhook_form.filled(webhook),
        webhook=webhook,
        seen=webhook_form.version_of(webhook),
    )


@writing.post("/console/webhooks/{webhook_id}/edit")
async def update_webhook(
    request: Request, database: InDatabase, webhooks: InWebhooks, webhook_id: WebhookId
) -> Response:
    """Apply the changes made in the form, unless the webhook has changed meanwhile."""
    form = form_of(request, *webhook_form.FIELDS)
    webhook = await webhooks.get(webhook_id)
    version = webhook_form.version_of(webhook)
    problems: Problems = {}
    is_stale = form.text("seen") != version
    try:
        changes = webhook_form.changes(form, webhook)
        if not is_stale:
            await webhooks.update(webhook_id, changes)
            return _to_webhook(request, webhook.id, "changed")
    except (ValidationError, InvalidInputError) as error:
        problems = problems_of(error)
    return await _form_page(
        request,
        database,
        webhook_form.typed(form),
        webhook=webhook,
        seen=version,
        problems=problems,
        is_stale=is_stale,
    )


# --- one webhook


@reading.get("/console/webhooks/{webhook_id}")
async def webhook_page(
    request: Request,
    database: InDatabase,
    webhooks: InWebhooks,
    webhook_id: WebhookId,
    done: str = "",
) -> Response:
    """A webhook's health, its configuration and its operations."""
    return await _webhook_page(request, database, webhooks, webhook_id, done=done)


@writing.post("/console/webhooks/{webhook_id}/test")
async def try_webhook(
    request: Request, database: InDatabase, webhooks: InWebhooks, webhook_id: WebhookId
) -> Response:
    """Send a test request and show the receiver's response."""
    trial = await webhooks.send_test(webhook_id, request.app.state.send_trial)
    return await _webhook_page(request, database, webhooks, webhook_id, trial=trial)


@writing.post("/console/webhooks/{webhook_id}/pause")
@writing.post("/console/webhooks/{webhook_id}/resume")
@writing.post("/console/webhooks/{webhook_id}/switch-on")
@writing.post("/console/webhooks/{webhook_id}/switch-off")
async def operate_webhook(
    request: Request, webhooks: InWebhooks, webhook_id: WebhookId
) -> Response:
    """Pause, resume, activate or deactivate it. Activation does not end a pause."""
    match request.url.path.rstrip("/").rpartition("/")[2]:
        case "pause":
            await webhooks.pause(webhook_id)
            done = "paused"
        case "resume":
            await webhooks.resume(webhook_id)
            done = "resumed"
        case operation:
            is_active = operation == "switch-on"
            await webhooks.update(webhook_id, WebhookChanges(is_active=is_active))
            done = "switched-on" if is_active else "switched-off"
    return _to_webhook(request, webhook_id, done)


@writing.post("/console/webhooks/{webhook_id}/rotate-secret")
async def rotate_secret(
    request: Request, database: InDatabase, webhooks: InWebhooks, webhook_id: WebhookId
) -> Response:
    """Replace the secret. Only this response shows a generated one."""
    form = form_of(request, *webhook_form.FIELDS)
    try:
        rotation = SecretRotation(secret=webhook_form.given_secret(form))
    except (ValidationError, InvalidInputError) as error:
        problems = problems_of(error)
        return await _webhook_page(request, database, webhooks, webhook_id, problems=problems)
    rotated = await webhooks.rotate_secret(webhook_id, rotation.secret)
    if rotated.secret is None:
        return _to_webhook(request, webhook_id, "rotated")
    webhook = await webhooks.get(webhook_id)
    return page(
        request,
        "webhook_secret",
        webhook=webhook,
        secret=rotated.secret,
        unmatched=None,
        rotated=rotated,
    )


@writing.get("/console/webhooks/{webhook_id}/delete")
async def delete_webhook_page(
    request: Request, database: InDatabase, webhooks: InWebhooks, webhook_id: WebhookId
) -> Response:
    """Ask for confirmation, and show what would be lost."""
    webhook = await webhooks.get(webhook_id)
    glance = await _glance(database, webhook_id)
    return page(request, "webhook_delete", webhook=webhook, glance=glance, counted=COUNTED)


@writing.post("/console/webhooks/{webhook_id}/delete")
async def delete_webhook(request: Request, webhooks: InWebhooks, webhook_id: WebhookId) -> Response:
    """Delete it and its pending deliveries."""
    await webhooks.delete(webhook_id)
    return redirect(request, "webhooks", done="deleted")


async def _webhook_page(
    request: Request,
    database: Queries,
    webhooks: Webhooks,
    webhook_id: int,
    *,
    trial: Trial | None = None,
    problems: Problems | None = None,
    done: str = "",
) -> Response:
    webhook = await webhooks.get(webhook_id)
    (figures,) = await database.fetch("webhook_figures", webhook.id, LOOKED_AT)
    newest = await webhooks.deliveries(webhook_id, limit=DELIVERIES_SHOWN, payload_bytes=0)
    return page(
        request,
        "webhook",
        status=422 if problems else 200,
        webhook=webhook,
        unmatched=await webhooks.unmatched_type(webhook.event_type),
        glance=await _glance(database, webhook_id),
        figures=figures,
        deliveries=newest.items,
        counted=COUNTED,
        looked_at=LOOKED_AT,
        trial=trial,
        problems=problems or {},
        done=done,
        # The page reloads its own address, which must answer GET with the same page.
        is_fresh=request.method == "GET",
    )


async def _glance(database: Queries, webhook_id: int) -> Row:
    rows = await database.fetch("webhooks_page", webhook_id, webhook_id, 1, COUNTED)
    return found(rows, "Webhook")


async def _form_page(
    request: Request, database: Queries, shown: dict[str, Any], **more: Any
) -> Response:
    rows = await database.fetch("event_types", MOST_TYPES)
    known = [*BRIDGE_TYPES, *(row["event_type"] for row in rows)]
    types = {pattern for each in known for pattern in patterns_matching(each)}
    values = {"webhook": None, "seen": "", "problems": {}, "is_stale": False, **more}
    status = 409 if values["is_stale"] else status_of(values["problems"])
    return page(
        request,
        "webhook_form",
        status=status,
        shown=shown,
        is_rare_open=_is_rare_open(shown, values["problems"]),
        event_types=sorted(types),
        **values,
    )


def _is_rare_open(shown: dict[str, Any], problems: Problems) -> bool:
    """Tell whether a rarely used field is invalid or differs from its default."""
    usual = webhook_form.blank()
    rare = webhook_form.RARE
    return bool(rare & problems.keys()) or any(shown[name] != usual[name] for name in rare)


def _to_webhook(request: Request, webhook_id: int, done: str) -> Response:
    return redirect(request, f"webhooks/{webhook_id}", done=done)
