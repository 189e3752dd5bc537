"""Deliveries of all webhooks: found, looked at, sent again."""

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
from bridge.web.api.deliveries import get_delivery
from bridge.web.api.fields import (
    MAX_BIGINT,
    BeforeId,
    DeliveryId,
    EventType,
    Moment,
    OptionalStatus,
    RatePerSecond,
    WebhookId,
)
from bridge.web.api.parts import InDatabase, Queries
from bridge.web.api.refusals import found, refusing, stored_id
from bridge.web.api.schemas import Redelivery, Webhook
from bridge.web.api.webhooks import list_webhooks, redeliver_failed
from bridge.web.console.forms import Form
from bridge.web.console.guard import form_of, page_router
from bridge.web.console.rendering import base_of, page

#: Rows of a page.
SHOWN: Final = 50
#: So many of the newest deliveries are looked at for those of a type, which no index has.
LOOKED_AT: Final = 5_000
#: Deliveries that are chosen by hand and sent again at once.
MOST_CHOSEN: Final = 200
#: The last attempts of a delivery.
ATTEMPTS_SHOWN: Final = 50
#: Webhooks that a list to choose from has; where there are more, their ids are typed.
WEBHOOKS_TO_CHOOSE_FROM: Final = 200

reading = page_router(WEBHOOKS_READ)
writing = page_router(WEBHOOKS_WRITE)
ROUTERS = (writing, reading)  # /redeliver is no delivery

_STATUS: Final[TypeAdapter[Any]] = TypeAdapter(OptionalStatus)
_WEBHOOK: Final[TypeAdapter[Any]] = TypeAdapter(WebhookId)
_TYPE: Final[TypeAdapter[Any]] = TypeAdapter(EventType)
_MOMENT: Final[TypeAdapter[Any]] = TypeAdapter(Moment)
_RATE: Final[TypeAdapter[Any]] = TypeAdapter(RatePerSecond)
_BEFORE: Final[TypeAdapter[Any]] = TypeAdapter(BeforeId)


@dataclass(frozen=True, slots=True)
class _Filters:
    """What the list is narrowed to, as it stands in the address."""

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
async def deliveries_page(request: Request, database: InDatabase) -> Response:
    """The list, newest first, with what it is narrowed to in the address."""
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
    rows: list[Row] = []
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
    webhooks = await _webhooks_to_choose_from(database)
    return page(
        request,
        "deliveries",
        status=422 if problems else 200,
        items=items[:SHOWN],
        filters=filters,
        narrowed=bool(filters.query()),
        webhooks=webhooks,
        problems=problems,
        is_first=before_id == MAX_BIGINT,
        newest=filters.query(),
        older=filters.query(before_id=items[SHOWN - 1]["id"]) if len(items) > SHOWN else None,
        # It has not found enough, and there may be more than it has looked at.
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
async def redeliver_failed_page(request: Request, database: InDatabase) -> Response:
    """The form that chooses failed deliveries of a webhook by their time."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    asked = {
        "webhook": request.query_params.get("webhook", ""),
        "since": _in_field(yesterday.replace(second=0, microsecond=0), ""),
        "until": "",
        "per_second": "20",
    }
    return await _ask_for_failed(request, database, asked, {})


@writing.post("/console/deliveries/redeliver")
async def redeliver_failed_of_form(request: Request, database: InDatabase) -> Response:
    """Count those that are chosen; after that was confirmed, send them again."""
    form = form_of(request)
    asked = {name: form.text(name) for name in ("webhook", "since", "until", "per_second")}
    problems: dict[str, str] = {}
    webhook_id = _value(_WEBHOOK, asked["webhook"], "webhook", problems)
    since = _value(_MOMENT, asked["since"], "since", problems)
    until = _value(_MOMENT, asked["until"], "until", problems)
    # As half of Europe writes it.
    rate = asked["per_second"].replace(",", ".")
    per_second = _value(_RATE, rate, "per_second", problems)
    needed = {"webhook": webhook_id, "since": since, "per_second": per_second}
    problems |= {name: name for name, value in needed.items() if value is None}
    if since is not None and until is not None and until <= since:
        problems["until"] = "order"
    asked["since"] = _in_field(since, asked["since"])
    asked["until"] = _in_field(until, asked["until"])
    if problems:
        return await _ask_for_failed(request, database, asked, problems)
    chosen = Redelivery(
        since=since, until=until, per_second=per_second, dry_run=form.text("step") != "send"
    )
    try:
        counted = await redeliver_failed(database, webhook_id, chosen)
    except HTTPException as error:
        if error.status_code != 404:
            raise
        return await _ask_for_failed(request, database, asked, {"webhook": "webhook"})
    if counted.dry_run:
        return await _ask_for_failed(
            request,
            database,
            asked,
            {},
            count=counted.count,
            seconds=counted.count / chosen.per_second,
        )
    query = urlencode({"webhook": webhook_id, "status": "pending", "done": "failed"})
    return RedirectResponse(f"{base_of(request)}deliveries?{query}", 303)


@writing.post("/console/deliveries/redeliver-chosen")
async def redeliver_chosen(request: Request, database: InDatabase) -> Response:
    """Count what was ticked in the list; after that was confirmed, send it again."""
    form = form_of(request)
    chosen = _chosen(form)
    if form.text("step") != "send":
        (counts,) = await database.fetch("chosen_deliveries", chosen)
        return page(request, "redeliver_chosen", chosen=chosen, counts=counts, most=MOST_CHOSEN)
    done = "chosen"
    for delivery_id in chosen:
        try:
            with refusing("Delivery"):
                await database.fetch("redeliver", delivery_id)
        except HTTPException as error:
            if error.status_code not in (404, 409):
                raise
            done = "some"  # gone since they were counted
    return RedirectResponse(f"{base_of(request)}deliveries?done={done}", 303)


@reading.get("/console/deliveries/{delivery_id}")
async def delivery_page(
    request: Request, database: InDatabase, delivery_id: Annotated[DeliveryId, Path()]
) -> Response:
    """One delivery: its way, its request, its attempts, and what comes next."""
    delivery = await get_delivery(database, delivery_id)
    made_of = found(await database.fetch("delivery_request", delivery_id), "Delivery")
    request_shown = None
    if made_of["url"] is not None:
        with suppress(
            ValueError, RecursionError
        ):  # there is no such request: each attempt says why
            request_shown = request.app.state.preview(
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
                # The view has none while a delivery is pending; its attempts have.
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
    request: Request, database: InDatabase, delivery_id: Annotated[DeliveryId, Path()]
) -> Response:
    """Send one delivery again."""
    try:
        with refusing("Delivery"):
            (row,) = await database.fetch("redeliver", stored_id(delivery_id, "Delivery"))
    except HTTPException as error:
        if error.status_code != 409:
            raise
        done = "gone"
    else:
        done = "again" if row["was_finished"] else "at-once"
    return RedirectResponse(f"{base_of(request)}deliveries/{delivery_id}?done={done}", 303)


async def _ask_for_failed(
    request: Request,
    database: Queries,
    asked: dict[str, str],
    problems: dict[str, str],
    *,
    count: int | None = None,
    seconds: float = 0.0,
) -> Response:
    """Make the page of ``redeliver_failed_page``; with a count, it asks to confirm."""
    return page(
        request,
        "redeliver",
        status=422 if problems else 200,
        asked=asked,
        problems=problems,
        webhooks=await _webhooks_to_choose_from(database),
        count=count,
        seconds=seconds,
    )


async def _webhooks_to_choose_from(database: Queries) -> list[Webhook] | None:
    """Return the webhooks by name; None: there are too many for a list."""
    webhooks = await list_webhooks(database, limit=WEBHOOKS_TO_CHOOSE_FROM, offset=0)
    if webhooks.total > WEBHOOKS_TO_CHOOSE_FROM:
        return None
    return sorted(webhooks.items, key=lambda webhook: (webhook.name.casefold(), webhook.id))


async def _first_since(database: Queries, moment: datetime) -> int:
    (row,) = await database.fetch("first_delivery_since", moment)
    first: int = row["from_id"]
    return first


def _chosen(form: Form) -> list[int]:
    """Return the ids of the deliveries that were ticked.

    Raises:
        HTTPException: 422, they are too many, or no ids.
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
    """Return what was typed as what it means; None: nothing was, or there is a problem."""
    if not text:
        return None
    try:
        return kind.validate_python(text)
    except ValidationError:
        problems[name] = name
        return None


def _in_field(moment: datetime | None, typed: str) -> str:
    """Return a time as a field for times has it, in UTC; what was typed, if that is no time."""
    return typed.strip() if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S}"


def _way(
    stations: Sequence[tuple[str, datetime | None]],
) -> list[tuple[str, datetime | None, float | None]]:
    """Return the times of a delivery's way, each with the seconds since the one before."""
    way = []
    last: datetime | None = None
    for name, moment in stations:
        since = None if moment is None or last is None else (moment - last).total_seconds()
        way.append((name, moment, since))
        last = moment or last
    return way
