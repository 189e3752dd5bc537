"""Deliveries: listed, shown, sent again."""

from typing import Annotated

from fastapi import Path, Query, Request

from bridge.access.scopes import WEBHOOKS_READ, WEBHOOKS_WRITE
from bridge.web.api.auth import guarded_router
from bridge.web.api.fields import (
    MAX_BIGINT,
    BeforeId,
    DeliveryId,
    Limit,
    Offset,
    OptionalStatus,
    WebhookId,
)
from bridge.web.api.parts import InDatabase
from bridge.web.api.refusals import (
    CANNOT_BE_SENT,
    NO_DELIVERY,
    NO_WEBHOOK,
    found,
    invalid,
    refusing,
    stored_id,
)
from bridge.web.api.schemas import Attempt, Delivery, DeliveryDetail, DeliveryList

reading = guarded_router(WEBHOOKS_READ)
writing = guarded_router(WEBHOOKS_WRITE)
ROUTERS = (reading, writing)

_FIRST = {"delivery_id": "$response.body#/items/0/id"}
_LINKS = {
    "GetDelivery": {"operationId": "get_delivery", "parameters": _FIRST},
    "Redeliver": {"operationId": "redeliver", "parameters": _FIRST},
}


@reading.get(
    "/webhooks/{webhook_id}/deliveries",
    responses={**NO_WEBHOOK, 200: {"links": _LINKS}},
    tags=["deliveries"],
    summary="List a webhook's deliveries",
)
async def list_deliveries(
    request: Request,
    database: InDatabase,
    webhook_id: Annotated[WebhookId, Path()],
    status: Annotated[OptionalStatus, Query(description="Only those.")] = None,
    limit: Annotated[Limit, Query()] = 50,
    offset: Annotated[Offset, Query()] = 0,
    before_id: Annotated[
        BeforeId | None,
        Query(description="Only older ones: the `next_before_id` of the page before."),
    ] = None,
) -> DeliveryList:
    """A page of a webhook's deliveries, newest first. Deep pages are fast with `before_id`."""
    if before_id is not None and "offset" in request.query_params:
        raise invalid("query", "before_id", message="cannot be combined with offset")
    reach = min(offset + limit + 1, MAX_BIGINT)
    rows = await database.fetch(
        "list_deliveries", stored_id(webhook_id), status, reach, offset, limit, before_id
    )
    return DeliveryList(
        total=found(rows)["total"],
        items=[Delivery.model_validate(dict(row)) for row in rows if row["id"] is not None],
        limit=limit,
        offset=offset,
        next_before_id=rows[0]["next_before_id"],
    )


@reading.get(
    "/deliveries/{delivery_id}",
    responses=NO_DELIVERY,
    tags=["deliveries"],
    summary="Show a delivery",
)
async def get_delivery(
    database: InDatabase, delivery_id: Annotated[DeliveryId, Path()]
) -> DeliveryDetail:
    """One delivery, with the times of its way and its attempts."""
    stored = stored_id(delivery_id, "Delivery")
    row = found(await database.fetch("get_delivery", stored), "Delivery")
    attempts = await database.fetch("list_attempts", stored)
    return DeliveryDetail(
        **row, attempts=[Attempt.model_validate(dict(attempt)) for attempt in attempts]
    )


@writing.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    responses={**NO_DELIVERY, **CANNOT_BE_SENT},
    tags=["deliveries"],
    summary="Send a delivery again",
)
async def redeliver(
    database: InDatabase, delivery_id: Annotated[DeliveryId, Path()]
) -> DeliveryDetail:
    """Send a delivery again, with the same `webhook-id`; one that is pending is sent at once."""
    with refusing("Delivery"):
        await database.fetch("redeliver", stored_id(delivery_id, "Delivery"))
    return await get_delivery(database, delivery_id)
