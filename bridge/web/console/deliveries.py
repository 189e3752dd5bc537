"""Deliveries of all webhooks: find, show, redeliver."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import HTTPException, Request
from fastapi.responses import Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from bridge.access.scopes import WEBHOOKS_READ, WEBHOOKS_WRITE
from bridge.database.pool import Row
from bridge.database.queries import Queries
from bridge.web.api.fields import BeforeId, DeliveryId, RowId, WebhookId
from bridge.web.api.large import LargePayload
from bridge.web.api.parts import InDatabase, InWebhooks
from bridge.web.api.refusals import found
from bridge.web.console.figures import MOST_SHOWN
from bridge.web.console.forms import Form, Problems, checked, decimal_point
from bridge.web.console.guard import form_of, page_router
from bridge.web.console.rendering import page, redirect
from bridge.webhooks.errors import NotFoundError, WebhookError
from bridge.webhooks.fields import MAX_BIGINT, DeliveryStatus, EventType, Moment, RatePerSecond
from bridge.webhooks.model import Redelivery, RedeliveryProgress, Webhook
from bridge.webhooks.operations import PAYLOAD_BYTES, Webhooks
from bridge.webhooks.preview import preview

#: Deliveries on a page.
SHOWN: Final = 50
#: Newest deliveries to search for an event type, which is not indexed.
LOOKED_AT: Final = 5_000
#: Maximum number of deliveries to select and redeliver at once.
MOST_CHOSEN: Final = 200
#: Latest attempts on the page of a delivery.
ATTEMPTS_SHOWN: Final = 50
#: Maximum number of webhooks in a list to choose from; beyond that, ids are typed.
WEBHOOKS_TO_CHOOSE_FROM: Final = 200

reading = page_router(WEBHOOKS_READ)
writing = page_router(WEBHOOKS_WRITE)
ROUTERS = (writing, reading)  # /redeliver must be matched before /{delivery_id}

#: The fields of the form that selects deliveries by time.
_RANGE: Final = ("webhook", "since", "until", "per_second")
#: The format of a time field; its times are in UTC.
_TIME_FIELD: Final = "%Y-%m-%dT%H:%M:%S"
_MOMENT: Final[TypeAdapter[datetime]] = TypeAdapter(Moment)
_ROW_ID: Final[TypeAdapter[int]] = TypeAdapter(RowId)


class _Filters(BaseModel):
    """The filters of the list, and where its page starts."""

    status: DeliveryStatus | None = None
    webhook: RowId | None = None
    type: EventType | None = None
    since: Moment | None = None
    until: Moment | None = None
    before_id: BeforeId = None


class _Failed(Redelivery):
    """The form that selects failed deliveries of a webhook by time."""

    webhook: RowId
    per_second: Annotated[RatePerSecond, BeforeValidator(decimal_point)]

    @field_validator("until")
    @classmethod
    def _after_since(cls, until: datetime | None, info: ValidationInfo) -> datetime | None:
        since = info.data.get("since")
        if since is not None and until is not None and until <= since:
            raise PydanticCustomError("order", "Must be after the start")
        return until


@reading.get("/console/deliveries")
async def deliveries_page(request: Request, database: InDatabase, webhooks: InWebhooks) -> Response:
    """The list, newest first, filtered by the address's query."""
    asked = {name: request.query_params.get(name, "").strip() for name in _Filters.model_fields}
    wanted, problems = checked(_Filters, asked)
    event_type = None if wanted is None or wanted.type == "*" else wanted.type
    rows: Sequence[Row] = []
    if wanted is not None:
        end_id = await _first_since(database, wanted.until, otherwise=MAX_BIGINT)
        rows = await database.fetch(
            "deliveries_page",
            wanted.webhook,
            wanted.status,
            min(wanted.before_id or MAX_BIGINT, end_id),
            await _first_since(database, wanted.since, otherwise=0),
            event_type,
            SHOWN + 1 if event_type is None else LOOKED_AT,
            SHOWN + 1,
        )
    items = [row for row in rows if row["id"] is not None]
    filters = _with_field_times(asked) | {"before_id": ""}
    return page(
        request,
        "deliveries",
        status=422 if problems else 200,
        items=items[:SHOWN],
        filters=filters,
        narrowed=any(filters.values()),
        webhooks=await _webhooks_to_choose_from(webhooks),
        problems=problems,
        is_first=not asked["before_id"],
        newest=_query(filters),
        older=_query(filters, before_id=items[SHOWN - 1]["id"]) if len(items) > SHOWN else None,
        # The page is not full, and older deliveries have not been searched.
        further=(
            _query(filters, before_id=rows[0]["last_id"])
            if len(items) <= SHOWN and event_type and rows[0]["scanned_count"] == LOOKED_AT
            else None
        ),
        looked_at=LOOKED_AT,
        looked_back_to=rows[0]["last_created_at"] if rows else None,
        done=request.query_params.get("done", ""),
    )


@writing.get("/console/deliveries/redeliver")
async def redeliver_failed_page(
    request: Request, webhooks: InWebhooks, webhook: str = ""
) -> Response:
    """The form that selects failed deliveries of a webhook by time."""
    since = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%dT%H:%M:00}"
    asked = {"webhook": webhook, "since": since, "until": "", "per_second": "20"}
    return await _ask_for_failed(request, webhooks, asked)


@writing.post("/console/deliveries/redeliver")
async def redeliver_failed_of_form(request: Request, webhooks: InWebhooks) -> Response:
    """Count the selected deliveries; once that is confirmed, send them again."""
    form = form_of(request, "step", *_RANGE)
    asked = {name: form.text(name) for name in _RANGE}
    chosen, problems = checked(_Failed, asked)
    if chosen is None:
        return await _ask_for_failed(request, webhooks, asked, problems)
    chosen.dry_run = form.text("step") != "send"
    try:
        counted = await webhooks.redeliver_failed(chosen.webhook, chosen)
    except NotFoundError:
        return await _ask_for_failed(request, webhooks, asked, {"webhook": "not_found"})
    except WebhookError:  # one is running, as the page shows
        return await _ask_for_failed(request, webhooks, asked, status=409)
    if counted.dry_run:
        seconds = counted.count / chosen.per_second
        return await _ask_for_failed(request, webhooks, asked, count=counted.count, seconds=seconds)
    if (await webhooks.redelivery(chosen.webhook)).state == "running":
        return redirect(request, "deliveries/redeliver", webhook=chosen.webhook)
    return redirect(request, "deliveries", webhook=chosen.webhook, status="pending", done="failed")


@writing.post("/console/deliveries/redeliver/{webhook_id}/cancel")
async def cancel_redelivery(
    request: Request, webhooks: InWebhooks, webhook_id: WebhookId
) -> Response:
    """Put no more deliveries of a running redelivery back into the queue."""
    await webhooks.cancel_redelivery(webhook_id)
    return redirect(request, "deliveries/redeliver", webhook=webhook_id)


@writing.post("/console/deliveries/redeliver-chosen")
async def redeliver_chosen(
    request: Request, database: InDatabase, webhooks: InWebhooks
) -> Response:
    """Count the deliveries ticked in the list; once that is confirmed, send them again."""
    form = form_of(request, "step", "delivery")
    chosen = _chosen(form)
    if form.text("step") != "send":
        (counts,) = await database.fetch("chosen_deliveries", chosen)
        return page(request, "redeliver_chosen", chosen=chosen, counts=counts, most=MOST_CHOSEN)
    done = "chosen"
    for delivery_id in chosen:
        try:
            await webhooks.redeliver(delivery_id)
        except WebhookError:
            done = "some"  # it disappeared after the count
    return redirect(request, "deliveries", done=done)


@reading.get("/console/deliveries/{delivery_id}")
async def delivery_page(
    request: Request,
    database: InDatabase,
    webhooks: InWebhooks,
    delivery_id: DeliveryId,
    done: str = "",
) -> Response:
    """One delivery: its timeline, its request, its attempts, and what happens next."""
    delivery = await webhooks.delivery(delivery_id)
    rows = await database.fetch("delivery_request", delivery_id, PAYLOAD_BYTES, MOST_SHOWN)
    made_of = found(rows, "Delivery")
    request_shown = None
    if made_of["url"] is not None:
        # If the request cannot be built, each attempt shows the reason.
        with suppress(ValueError, RecursionError):
            request_shown = preview(made_of)
    attempts = delivery.attempts[::-1]
    return page(
        request,
        "delivery",
        delivery=delivery,
        made_of=made_of,
        has_event=made_of["has_event"],
        can_be_sent=made_of["has_webhook"] and made_of["has_event"],
        way=_way(
            [
                ("captured", delivery.captured_at),
                ("committed", delivery.committed_at),
                ("claimed", delivery.claimed_at),
                # Pending deliveries have no sent_at yet, but may have attempts.
                ("sent", delivery.sent_at or (attempts[0].started_at if attempts else None)),
                ("acknowledged", delivery.acknowledged_at),
            ]
        ),
        shown=request_shown,
        attempts=attempts[:ATTEMPTS_SHOWN],
        has_more_attempts=len(attempts) > ATTEMPTS_SHOWN,
        done=done,
    )


@reading.get("/console/deliveries/{delivery_id}/payload")
async def delivery_payload(
    request: Request, webhooks: InWebhooks, delivery_id: DeliveryId
) -> Response:
    """Download a payload that is too large for the page."""
    await webhooks.delivery(delivery_id)
    name = f'attachment; filename="delivery-{delivery_id}.json"'
    return LargePayload(
        request.app.state.large,
        "delivery_payload",
        delivery_id,
        more_headers={"Content-Disposition": name},
    )


@writing.post("/console/deliveries/{delivery_id}/redeliver")
async def redeliver_one(
    request: Request, webhooks: InWebhooks, delivery_id: DeliveryId
) -> Response:
    """Send one delivery again."""
    try:
        done = "again" if await webhooks.redeliver(delivery_id) else "at-once"
    except NotFoundError:
        raise
    except WebhookError:
        done = "gone"
    return redirect(request, f"deliveries/{delivery_id}", done=done)


async def _ask_for_failed(
    request: Request,
    webhooks: Webhooks,
    asked: dict[str, str],
    problems: Problems | None = None,
    *,
    count: int | None = None,
    seconds: float = 0.0,
    status: int = 200,
) -> Response:
    """Return the page of ``redeliver_failed_page``; with a count, it asks for confirmation."""
    progress: RedeliveryProgress | None = None
    with suppress(NotFoundError, ValidationError):
        progress = await webhooks.redelivery(_ROW_ID.validate_python(asked["webhook"] or "0"))
    return page(
        request,
        "redeliver",
        status=422 if problems else status,
        asked=_with_field_times(asked),
        problems=problems or {},
        webhooks=await _webhooks_to_choose_from(webhooks),
        count=count,
        seconds=seconds,
        progress=progress,
        # The page reloads its own address, which must answer GET with the same page.
        is_fresh=request.method == "GET",
    )


async def _webhooks_to_choose_from(webhooks: Webhooks) -> list[Webhook] | None:
    """Return the webhooks sorted by name; None if there are too many for a list."""
    listed = await webhooks.list(limit=WEBHOOKS_TO_CHOOSE_FROM)
    if listed.total > WEBHOOKS_TO_CHOOSE_FROM:
        return None
    return sorted(listed.items, key=lambda webhook: (webhook.name.casefold(), webhook.id))


async def _first_since(database: Queries, moment: datetime | None, *, otherwise: int) -> int:
    """Return the id at which the deliveries since a moment start."""
    if moment is None:
        return otherwise
    (row,) = await database.fetch("first_delivery_since", moment)
    first: int = row["from_id"]
    return first


def _chosen(form: Form) -> list[int]:
    """Return the ids of the ticked deliveries.

    Raises:
        HTTPException: 422, there are too many, or one is not an id.
    """
    texts = form.texts("delivery")
    if len(texts) > MOST_CHOSEN:
        raise HTTPException(422, f"At most {MOST_CHOSEN} deliveries can be chosen")
    try:
        ids = TypeAdapter(set[RowId]).validate_python(texts)
    except ValidationError:
        raise HTTPException(422, "A delivery is chosen by its id") from None
    return sorted(ids - {0})


def _query(filters: dict[str, str], **more: object) -> str:
    """Return the query of an address with these filters and more."""
    given = {name: value for name, value in {**filters, **more}.items() if value}
    return f"?{urlencode(given)}" if given else ""


def _with_field_times(asked: dict[str, str]) -> dict[str, str]:
    """Return the texts with the valid times in the format of a time field."""
    shown = dict(asked)
    for name in ("since", "until"):
        with suppress(ValidationError):
            shown[name] = f"{_MOMENT.validate_python(asked[name]):{_TIME_FIELD}}"
    return shown


def _way(
    stations: Sequence[tuple[str, datetime | None]],
) -> list[tuple[str, datetime | None, float | None]]:
    """Return a delivery's timestamps, each with the seconds since the previous one."""
    way = []
    last: datetime | None = None
    for name, moment in stations:
        since = None if moment is None or last is None else (moment - last).total_seconds()
        way.append((name, moment, since))
        last = moment or last
    return way
