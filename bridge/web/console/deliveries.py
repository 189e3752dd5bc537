"""Deliveries of all webhooks: find, show, redeliver."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import HTTPException, Path, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import TypeAdapter, ValidationError

from bridge.access.scopes import WEBHOOKS_READ, WEBHOOKS_WRITE
from bridge.database.pool import Row
from bridge.database.queries import Queries
from bridge.web.api.fields import BeforeId, DeliveryId, OptionalStatus, WebhookId
from bridge.web.api.parts import InDatabase, InWebhooks
from bridge.web.api.refusals import found
from bridge.web.console.forms import Form
from bridge.web.console.guard import form_of, page_router
from bridge.web.console.rendering import base_of, page
from bridge.webhooks.errors import NotFoundError, WebhookError
from bridge.webhooks.fields import MAX_BIGINT, EventType, Moment, RatePerSecond
from bridge.webhooks.model import Redelivery, Webhook
from bridge.webhooks.operations import Webhooks
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

_STATUS: Final[TypeAdapter[Any]] = TypeAdapter(OptionalStatus)
_WEBHOOK: Final[TypeAdapter[Any]] = TypeAdapter(WebhookId)
_TYPE: Final[TypeAdapter[Any]] = TypeAdapter(EventType)
_MOMENT: Final[TypeAdapter[Any]] = TypeAdapter(Moment)
_RATE: Final[TypeAdapter[Any]] = TypeAdapter(RatePerSecond)
_BEFORE: Final[TypeAdapter[Any]] = TypeAdapter(BeforeId)


@dataclass(frozen=True, slots=True)
class _Filters:
    """The filters of the list, as they appear in the address."""

    status: str = ""
    webhook: str = ""
    type: str = ""
    since: str = ""
    until: str = ""

    def query(self, **more: object) -> str:
        """Return the query of an address with these filters and more."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        given = {name: value for name, value in {**own, **more}.items() if value}
        return f"?{urlencode(given)}" if given else ""


@reading.get("/console/deliveries")
async def deliveries_page(request: Request, database: InDatabase, webhooks: InWebhooks) -> Response:
    """The list, newest first, filtered by the address's query."""
    asked = request.query_params
    problems: dict[str, str] = {}

    def value(name: str, kind: TypeAdapter[Any]) -> Any:
        return _value(kind, asked.get(name, "").strip(), name, problems)

    status = value("status", _STATUS)
    webhook_id = value("webhook", _WEBHOOK)
    event_type = value("type", _TYPE)
    since, until = value("since", _MOMENT), value("until", _MOMENT)
    before_id = value("before_id", _BEFORE) or MAX_BIGINT
    filters = _Filters(
        status or "",
        asked.get("webhook", "").strip(),
        asked.get("type", "").strip(),
        _in_field(since, asked.get("since", "")),
        _in_field(until, asked.get("until", "")),
    )
    rows: Sequence[Row] = []
    if not problems:
        if event_type == "*":
            event_type = None
        from_id = 0 if since is None else await _first_since(database, since)
        end_id = MAX_BIGINT if until is None else await _first_since(database, until)
        rows = await database.fetch(
            "deliveries_page",
            webhook_id,
            status,
            min(before_id, end_id),
            from_id,
            event_type,
            SHOWN + 1 if event_type is None else LOOKED_AT,
            SHOWN + 1,
        )
    items = [row for row in rows if row["id"] is not None]
    to_choose_from = await _webhooks_to_choose_from(webhooks)
    return page(
        request,
        "deliveries",
        status=422 if problems else 200,
        items=items[:SHOWN],
        filters=filters,
        narrowed=bool(filters.query()),
        webhooks=to_choose_from,
        problems=problems,
        is_first=before_id == MAX_BIGINT,
        newest=filters.query(),
        older=filters.query(before_id=items[SHOWN - 1]["id"]) if len(items) > SHOWN else None,
        # The page is not full, and older deliveries have not been searched.
        further=(
            filters.query(before_id=rows[0]["last_id"])
            if len(items) <= SHOWN and event_type and rows[0]["scanned_count"] == LOOKED_AT
            else None
        ),
        looked_at=LOOKED_AT,
        looked_back_to=rows[0]["last_created_at"] if rows else None,
        done=asked.get("done", ""),
    )


@writing.get("/console/deliveries/redeliver")
async def redeliver_failed_page(request: Request, webhooks: InWebhooks) -> Response:
    """The form that selects failed deliveries of a webhook by time."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    asked = {
        "webhook": request.query_params.get("webhook", ""),
        "since": _in_field(yesterday.replace(second=0, microsecond=0), ""),
        "until": "",
        "per_second": "20",
    }
    return await _ask_for_failed(request, webhooks, asked, {})


@writing.post("/console/deliveries/redeliver")
async def redeliver_failed_of_form(request: Request, webhooks: InWebhooks) -> Response:
    """Count the selected deliveries; once that is confirmed, send them again."""
    form = form_of(request)
    asked = {name: form.text(name) for name in ("webhook", "since", "until", "per_second")}
    problems: dict[str, str] = {}
    webhook_id = _value(_WEBHOOK, asked["webhook"], "webhook", problems)
    since = _value(_MOMENT, asked["since"], "since", problems)
    until = _value(_MOMENT, asked["until"], "until", problems)
    # Much of Europe writes a decimal comma.
    rate = asked["per_second"].replace(",", ".")
    per_second = _value(_RATE, rate, "per_second", problems)
    needed = {"webhook": webhook_id, "since": since, "per_second": per_second}
    problems |= {name: name for name, value in needed.items() if value is None}
    if since is not None and until is not None and until <= since:
        problems["until"] = "order"
    asked["since"] = _in_field(since, asked["since"])
    asked["until"] = _in_field(until, asked["until"])
    if problems:
        return await _ask_for_failed(request, webhooks, asked, problems)
    chosen = Redelivery(
        since=since, until=until, per_second=per_second, dry_run=form.text("step") != "send"
    )
    try:
        counted = await webhooks.redeliver_failed(webhook_id, chosen)
    except NotFoundError:
        return await _ask_for_failed(request, webhooks, asked, {"webhook": "webhook"})
    if counted.dry_run:
        return await _ask_for_failed(
            request,
            webhooks,
            asked,
            {},
            count=counted.count,
            seconds=counted.count / chosen.per_second,
        )
    query = urlencode({"webhook": webhook_id, "status": "pending", "done": "failed"})
    return RedirectResponse(f"{base_of(request)}deliveries?{query}", 303)


@writing.post("/console/deliveries/redeliver-chosen")
async def redeliver_chosen(
    request: Request, database: InDatabase, webhooks: InWebhooks
) -> Response:
    """Count the deliveries ticked in the list; once that is confirmed, send them again."""
    form = form_of(request)
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
    return RedirectResponse(f"{base_of(request)}deliveries?done={done}", 303)


@reading.get("/console/deliveries/{delivery_id}")
async def delivery_page(
    request: Request,
    database: InDatabase,
    webhooks: InWebhooks,
    delivery_id: Annotated[DeliveryId, Path()],
) -> Response:
    """One delivery: its timeline, its request, its attempts, and what happens next."""
    delivery = await webhooks.delivery(delivery_id)
    made_of = found(await database.fetch("delivery_request", delivery_id), "Delivery")
    request_shown = None
    if made_of["url"] is not None:
        # If the request cannot be built, each attempt shows the reason.
        with suppress(ValueError, RecursionError):
            request_shown = preview(
                url=made_of["url"],
                event_id=made_of["event_id"],
                event_type=made_of["event_type"],
                webhook_id=made_of["webhook_id"],
                payload=made_of["payload"],
                is_signed=made_of["is_signed"],
                is_signed_twice=made_of["is_signed_twice"],
            )
    attempts = delivery.attempts[::-1]
    return page(
        request,
        "delivery",
        delivery=delivery,
        made_of=made_of,
        webhook_name=made_of["webhook_name"],
        has_event=made_of["payload"] is not None,
        can_be_sent=made_of["has_webhook"] and made_of["payload"] is not None,
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
        done=request.query_params.get("done", ""),
    )


@writing.post("/console/deliveries/{delivery_id}/redeliver")
async def redeliver_one(
    request: Request, webhooks: InWebhooks, delivery_id: Annotated[DeliveryId, Path()]
) -> Response:
    """Send one delivery again."""
    try:
        done = "again" if await webhooks.redeliver(delivery_id) else "at-once"
    except NotFoundError:
        raise
    except WebhookError:
        done = "gone"
    return RedirectResponse(f"{base_of(request)}deliveries/{delivery_id}?done={done}", 303)


async def _ask_for_failed(
    request: Request,
    webhooks: Webhooks,
    asked: dict[str, str],
    problems: dict[str, str],
    *,
    count: int | None = None,
    seconds: float = 0.0,
) -> Response:
    """Return the page of ``redeliver_failed_page``; with a count, it asks for confirmation."""
    return page(
        request,
        "redeliver",
        status=422 if problems else 200,
        asked=asked,
        problems=problems,
        webhooks=await _webhooks_to_choose_from(webhooks),
        count=count,
        seconds=seconds,
    )


async def _webhooks_to_choose_from(webhooks: Webhooks) -> list[Webhook] | None:
    """Return the webhooks sorted by name; None if there are too many for a list."""
    listed = await webhooks.list(limit=WEBHOOKS_TO_CHOOSE_FROM)
    if listed.total > WEBHOOKS_TO_CHOOSE_FROM:
        return None
    return sorted(listed.items, key=lambda webhook: (webhook.name.casefold(), webhook.id))


async def _first_since(database: Queries, moment: datetime) -> int:
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
        ids = [TypeAdapter(DeliveryId).validate_python(text) for text in texts]
    except ValidationError:
        raise HTTPException(422, "A delivery is chosen by its id") from None
    return sorted({each for each in ids if 0 < each <= MAX_BIGINT})


def _value(kind: TypeAdapter[Any], text: str, name: str, problems: dict[str, str]) -> Any:
    """Return the value of a field; None if it is empty, or invalid, which is added to problems."""
    if not text:
        return None
    try:
        return kind.validate_python(text)
    except ValidationError:
        problems[name] = name
        return None


def _in_field(moment: datetime | None, typed: str) -> str:
    """Return a time in the format of a time field, in UTC; if it is None, the original text."""
    return typed.strip() if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S}"


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
