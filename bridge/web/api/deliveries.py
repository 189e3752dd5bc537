"""Deliveries: list, show, redeliver."""

from fastapi import Request, Response

from bridge.access.scopes import WEBHOOKS_READ, WEBHOOKS_WRITE
from bridge.database.shares import Share
from bridge.web.api.auth import guarded_router
from bridge.web.api.fields import BeforeId, DeliveryId, Limit, Offset, OptionalStatus, WebhookId
from bridge.web.api.large import LargePayload, Mark
from bridge.web.api.parts import InWebhooks
from bridge.web.api.refusals import CANNOT_BE_SENT, NO_DELIVERY, NO_WEBHOOK
from bridge.web.http.body import invalid
from bridge.webhooks.model import DeliveryDetail, DeliveryList

reading = guarded_router(WEBHOOKS_READ, "deliveries")
writing = guarded_router(WEBHOOKS_WRITE, "deliveries")
ROUTERS = (reading, writing)


@reading.get(
    "/webhooks/{webhook_id}/deliveries",
    responses=NO_WEBHOOK,
    summary="List a webhook's deliveries",
)
async def list_deliveries(
    request: Request,
    webhooks: InWebhooks,
    webhook_id: WebhookId,
    status: OptionalStatus = None,
    limit: Limit = 50,
    offset: Offset = 0,
    before_id: BeforeId = None,
) -> DeliveryList:
    """A page of a webhook's deliveries, newest first. Deep pages are fast with `before_id`."""
    if before_id is not None and "offset" in request.query_params:
        raise invalid("query", "before_id", message="cannot be combined with offset")
    return await webhooks.deliveries(
        webhook_id, status=status, limit=limit, offset=offset, before_id=before_id
    )


@reading.get(
    "/deliveries/{delivery_id}",
    response_model=DeliveryDetail,
    responses=NO_DELIVERY,
    summary="Show a delivery",
)
async def get_delivery(
    request: Request, webhooks: InWebhooks, delivery_id: DeliveryId
) -> DeliveryDetail | Response:
    """One delivery, with its timestamps and attempts."""
    return _whole(request, await webhooks.delivery(delivery_id))


@writing.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    response_model=DeliveryDetail,
    responses={**NO_DELIVERY, **CANNOT_BE_SENT},
    summary="Redeliver a delivery",
)
async def redeliver(
    request: Request, webhooks: InWebhooks, delivery_id: DeliveryId
) -> DeliveryDetail | Response:
    """Send a delivery again at once, pending or finished, with the same `webhook-id`."""
    await webhooks.redeliver(delivery_id)
    return _whole(request, await webhooks.delivery(delivery_id), 202)


def _whole(
    request: Request, delivery: DeliveryDetail, status: int = 200
) -> DeliveryDetail | Response:
    """Return the response with a delivery, including a payload that was omitted for its size."""
    if not delivery.payload_omitted:
        return delivery
    mark = Mark()
    around = mark.around(delivery.model_copy(update={"payload": mark, "payload_omitted": False}))
    share: Share = request.app.state.large
    return LargePayload(share, "delivery_payload", delivery.id, around, status)
