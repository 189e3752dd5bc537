"""The REST API: webhooks, their deliveries and statistics, and how the bridge is."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import trio
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from bridge import metrics
from bridge.db import Database, DatabaseError, DatabaseUnavailable, DeadlockError, Row
from bridge.secrets import Vault, new_secret
from bridge.tokens import WEBHOOKS_READ, WEBHOOKS_WRITE, TokenStore
from bridge.web.auth import guarded_router
from bridge.web.schemas import (
    MAX_BIGINT,
    Attempt,
    BeforeId,
    CreatedWebhook,
    Delivery,
    DeliveryDetail,
    DeliveryId,
    DeliveryList,
    Health,
    Limit,
    NewWebhook,
    Offset,
    OptionalFlag,
    OptionalStatus,
    OptionalText,
    Problem,
    Readiness,
    Redelivery,
    RedeliveryCount,
    RotatedSecret,
    SecretRotation,
    Webhook,
    WebhookChanges,
    WebhookHealth,
    WebhookId,
    WebhookList,
    WebhookStats,
    WebhookTrial,
)

#: How often a deletion is tried that a courier's transaction stands in the way of.
DELETE_TRIES = 3
#: Tests of webhooks under way at once; each may hold its request for as long as an attempt.
TRIALS = 8

#: What the functions of schema bridge raise, by SQLSTATE, and the status that says the same.
REFUSALS = {
    "P0002": 404,  # no_data_found
    "55000": 409,  # object_not_in_prerequisite_state
    "22023": 422,  # invalid_parameter_value
}
#: Classes of SQLSTATE that a text gives which is no jsonpath: data, features, syntax, limits.
NO_JSONPATH = ("22", "0A", "42", "54")

open_to_all = APIRouter(tags=["bridge"])
reading = guarded_router(WEBHOOKS_READ)
writing = guarded_router(WEBHOOKS_WRITE)

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is no such webhook"}
}
_NO_DELIVERY: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is no such delivery"}
}
_CANNOT_BE_SENT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "Its webhook is deleted, or its event has expired"}
}
_TOO_LARGE: dict[int | str, dict[str, Any]] = {
    413: {"model": Problem, "description": "The body is too large"}
}


def build_api(
    database: Database,
    tokens: TokenStore,
    *,
    vault: Vault,
    cors_origins: Sequence[str] = (),
    ready: Callable[[], Mapping[str, bool]],
    url_refusal: Callable[[str], Awaitable[str | None]],
    send_trial: Callable[[Row], Awaitable[object]],
    exposition: Callable[[], Awaitable[bytes]] = metrics.exposition,
) -> FastAPI:
    """Build the API as an ASGI application. It has no lifespan: whoever serves it owns the parts.

    Args:
        database: where the webhooks are.
        tokens: who may call.
        vault: seals the webhooks' secrets.
        cors_origins: origins of the dashboards that may call from a browser.
        ready: the parts of the bridge by name, and whether each does its work.
        send_trial: sends a test to a webhook, a row of ``webhook_to_try``, and returns what came
            of it, with the attributes of ``WebhookTrial``.
        url_refusal: says why no delivery may go to a webhook's URL, or None if one may.
        exposition: gives what is counted, in Prometheus' text format.
    """
    api = FastAPI(
        title="pgbridge",
        summary="Webhooks for the events of a PostgreSQL application.",
        version=_version(),
        generate_unique_id_function=_operation_id,
    )
    api.state.database = database
    api.state.tokens = tokens
    api.state.vault = vault
    api.state.ready = ready
    api.state.url_refusal = url_refusal
    api.state.send_trial = send_trial
    api.state.exposition = exposition
    api.state.trials = trio.Semaphore(TRIALS)
    for router in (open_to_all, reading, writing):
        api.include_router(router)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(DatabaseUnavailable, _database_unavailable)
    if cors_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["*"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type"],
        )
    return api


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


UrlCheck = Callable[[str], Awaitable[None]]


async def _url_check(request: Request) -> UrlCheck:
    """Give what answers 422, as for any wrong field, to a URL that no delivery may go to."""

    async def check(url: str) -> None:
        if refusal := await request.app.state.url_refusal(url):
            raise RequestValidationError(
                [{"type": "url_refused", "loc": ("body", "url"), "msg": refusal}]
            )

    return check


async def _vault(request: Request) -> Vault:
    vault: Vault = request.app.state.vault
    return vault


InDatabase = Annotated[Database, Depends(_database)]
InVault = Annotated[Vault, Depends(_vault)]
ChecksUrl = Annotated[UrlCheck, Depends(_url_check)]


@open_to_all.get("/healthz", response_model=Health)
async def healthz() -> Health:
    """Whether the process answers."""
    return Health(status="ok")


@open_to_all.get(
    "/readyz",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "A part does not do its work"}},
)
async def readyz(request: Request) -> JSONResponse:
    """Whether every part of the bridge does its work."""
    checks = dict(request.app.state.ready())
    all_well = all(checks.values())
    answer = Readiness(status="ready" if all_well else "not ready", checks=checks)
    return JSONResponse(answer.model_dump(), 200 if all_well else 503)


@open_to_all.get("/metrics", response_class=PlainTextResponse)
async def prometheus_metrics(request: Request) -> Response:
    """What this bridge, with all its workers, has counted since it was started, for Prometheus."""
    return Response(await request.app.state.exposition(), media_type=metrics.CONTENT_TYPE)


@reading.get("/webhooks", tags=["webhooks"])
async def list_webhooks(
    database: InDatabase,
    event_type: Annotated[OptionalText, Query(description="Exactly this type or pattern.")] = None,
    is_active: Annotated[OptionalFlag, Query()] = None,
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
    responses=_TOO_LARGE,
    tags=["webhooks"],
    # Only who has asked for a secret finds the field.
    response_model_exclude_unset=True,
)
async def create_webhook(
    database: InDatabase, vault: InVault, check_url: ChecksUrl, webhook: NewWebhook
) -> CreatedWebhook:
    """Create a webhook. Its URL must lead to a public address, or to one that is allowed here."""
    await check_url(webhook.url)
    secret = new_secret() if webhook.generate_secret else webhook.secret
    with _refusing_filter(webhook.filter):
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
    shown = {"secret": secret} if webhook.generate_secret else {}
    return CreatedWebhook.model_validate({**rows[0], **shown})


# Before the route of one webhook, which would take "stats" for an id.
@reading.get("/webhooks/stats", tags=["webhooks"])
async def webhook_stats(database: InDatabase) -> WebhookStats:
    """How many webhooks and deliveries there are."""
    (row,) = await database.fetch("webhook_stats")
    total, successful = row["total_deliveries"], row["successful_deliveries"]
    rate = round(100 * successful / total, 2) if total else 0.0
    return WebhookStats(**row, success_rate=rate)


@reading.get("/webhooks/{webhook_id}", responses=_NOT_FOUND, tags=["webhooks"])
async def get_webhook(database: InDatabase, webhook_id: Annotated[WebhookId, Path()]) -> Webhook:
    """One webhook."""
    return _webhook(_found(await database.fetch("get_webhook", _stored(webhook_id))))


@writing.patch("/webhooks/{webhook_id}", responses={**_NOT_FOUND, **_TOO_LARGE}, tags=["webhooks"])
async def update_webhook(
    database: InDatabase,
    vault: InVault,
    check_url: ChecksUrl,
    webhook_id: Annotated[WebhookId, Path()],
    changes: WebhookChanges,
) -> Webhook:
    """Change a webhook. Switching it on clears the reason for which the bridge switched it off."""
    stored_id, columns = _stored(webhook_id), changes.columns()
    if changes.url is not None:
        # Also where it is the same as before: nothing could be delivered to it.
        await check_url(changes.url)
    if changes.secret:
        columns["secret"] = vault.seal(changes.secret)
    with _refusing_filter(changes.filter):
        rows = await database.fetch("update_webhook", stored_id, json.dumps(columns))
    return _webhook(_found(rows))


@writing.post(
    "/webhooks/{webhook_id}/rotate-secret",
    responses={**_NOT_FOUND, **_TOO_LARGE},
    tags=["webhooks"],
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
    row = _found(await database.fetch("rotate_secret", _stored(webhook_id), vault.seal(secret)))
    return RotatedSecret(
        secret=None if given else secret,
        previous_secret_expires_at=row["previous_secret_expires_at"],
    )


@writing.post(
    "/webhooks/{webhook_id}/test",
    responses={
        **_NOT_FOUND,
        429: {"model": Problem, "description": "Too many tests are under way"},
    },
    tags=["webhooks"],
)
async def try_webhook(
    request: Request, database: InDatabase, webhook_id: Annotated[WebhookId, Path()]
) -> WebhookTrial:
    """Send a signed test to the receiver now, and answer with what it answers. It is not logged."""
    webhook = _found(await database.fetch("webhook_to_try", _stored(webhook_id)))
    try:
        request.app.state.trials.acquire_nowait()
    except trio.WouldBlock:
        raise HTTPException(429, "Too many tests are under way; try again soon") from None
    try:
        trial = await request.app.state.send_trial(webhook)
    finally:
        request.app.state.trials.release()
    return WebhookTrial.model_validate(trial, from_attributes=True)


@writing.delete(
    "/webhooks/{webhook_id}",
    status_code=204,
    responses=_NOT_FOUND,
    tags=["webhooks"],
)
async def delete_webhook(database: InDatabase, webhook_id: Annotated[WebhookId, Path()]) -> None:
    """Delete a webhook, and what is still to be delivered to it."""
    for tries_left in reversed(range(DELETE_TRIES)):
        try:
            _found(await database.fetch("delete_webhook", _stored(webhook_id)))
        except DeadlockError:
            # A courier holds a delivery of it and waits for the webhook.
            if not tries_left:
                raise
        else:
            return


@reading.get("/webhooks/{webhook_id}/deliveries", responses=_NOT_FOUND, tags=["webhooks"])
async def list_deliveries(
    request: Request,
    database: InDatabase,
    webhook_id: Annotated[WebhookId, Path()],
    status: Annotated[OptionalStatus, Query()] = None,
    limit: Annotated[Limit, Query()] = 50,
    offset: Annotated[Offset, Query()] = 0,
    before_id: Annotated[
        BeforeId | None,
        Query(description="Only older ones: the `next_before_id` of the page before."),
    ] = None,
) -> DeliveryList:
    """A page of a webhook's deliveries, newest first. Deep pages are fast with `before_id`."""
    if before_id is not None and "offset" in request.query_params:
        raise _invalid_field("query", "before_id", "cannot be combined with offset")
    reach = min(offset + limit + 1, MAX_BIGINT)
    rows = await database.fetch(
        "list_deliveries", _stored(webhook_id), status, reach, offset, limit, before_id
    )
    return DeliveryList(
        total=_found(rows)["total"],
        items=[Delivery.model_validate(dict(row)) for row in rows if row["id"] is not None],
        limit=limit,
        offset=offset,
        next_before_id=rows[0]["next_before_id"],
    )


@reading.get("/webhooks/{webhook_id}/health", responses=_NOT_FOUND, tags=["webhooks"])
async def webhook_health(
    database: InDatabase, webhook_id: Annotated[WebhookId, Path()]
) -> WebhookHealth:
    """How a webhook does: its state, what waits for it, and its last hour and day."""
    row = _found(await database.fetch("webhook_health", _stored(webhook_id)))
    return WebhookHealth.model_validate(dict(row))


@writing.post("/webhooks/{webhook_id}/pause", responses=_NOT_FOUND, tags=["webhooks"])
async def pause_webhook(database: InDatabase, webhook_id: Annotated[WebhookId, Path()]) -> Webhook:
    """Have a webhook's deliveries wait, new ones included."""
    with _refusing("Webhook"):
        await database.fetch("pause_webhook", _stored(webhook_id))
    return await get_webhook(database, webhook_id)


@writing.post("/webhooks/{webhook_id}/resume", responses=_NOT_FOUND, tags=["webhooks"])
async def resume_webhook(database: InDatabase, webhook_id: Annotated[WebhookId, Path()]) -> Webhook:
    """Have a webhook deliver again, whether it was paused, failing or switched off."""
    with _refusing("Webhook"):
        await database.fetch("resume_webhook", _stored(webhook_id))
    return await get_webhook(database, webhook_id)


@writing.post(
    "/webhooks/{webhook_id}/redeliver", responses={**_NOT_FOUND, **_TOO_LARGE}, tags=["webhooks"]
)
async def redeliver_failed(
    database: InDatabase, webhook_id: Annotated[WebhookId, Path()], chosen: Redelivery
) -> RedeliveryCount:
    """Send again what a webhook failed to take. Only counts, unless `dry_run` is false."""
    with _refusing("Webhook"):
        (row,) = await database.fetch(
            "redeliver_failed",
            _stored(webhook_id),
            chosen.since,
            chosen.until,
            chosen.dry_run,
            chosen.per_second,
        )
    return RedeliveryCount(count=row["count"], dry_run=chosen.dry_run)


@reading.get("/deliveries/{delivery_id}", responses=_NO_DELIVERY, tags=["deliveries"])
async def get_delivery(
    database: InDatabase, delivery_id: Annotated[DeliveryId, Path()]
) -> DeliveryDetail:
    """One delivery, with the times of its way and its attempts."""
    stored = _stored(delivery_id, "Delivery")
    row = _found(await database.fetch("get_delivery", stored), "Delivery")
    attempts = await database.fetch("list_attempts", stored)
    return DeliveryDetail(
        **row, attempts=[Attempt.model_validate(dict(attempt)) for attempt in attempts]
    )


@writing.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    responses={**_NO_DELIVERY, **_CANNOT_BE_SENT},
    tags=["deliveries"],
)
async def redeliver(
    database: InDatabase, delivery_id: Annotated[DeliveryId, Path()]
) -> DeliveryDetail:
    """Send a delivery again, with the same `webhook-id`; one that is pending is sent at once."""
    with _refusing("Delivery"):
        await database.fetch("redeliver", _stored(delivery_id, "Delivery"))
    return await get_delivery(database, delivery_id)


def _webhook(row: Row) -> Webhook:
    return Webhook.model_validate(dict(row))


def _stored(row_id: int, what: str = "Webhook") -> int:
    """Return an id that a row can have; any other is not found without asking."""
    if not 0 < row_id <= MAX_BIGINT:
        raise _not_found(what)
    return row_id


def _found(rows: Sequence[Row], what: str = "Webhook") -> Row:
    """Return the first row; none means that there is no such thing."""
    if not rows:
        raise _not_found(what)
    return rows[0]


def _not_found(what: str) -> HTTPException:
    return HTTPException(404, f"{what} not found")


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Answer what a function of schema bridge refuses as the status that says it."""
    try:
        yield
    except DatabaseError as error:
        status = REFUSALS.get(error.sqlstate)
        if status is None:
            raise
        if status == 404:
            raise _not_found(what) from None
        raise HTTPException(status, error.message) from None


@contextmanager
def _refusing_filter(filter_text: str | None) -> Iterator[None]:
    """Answer a filter that PostgreSQL does not take like any other bad field."""
    try:
        yield
    except DatabaseError as error:
        if filter_text is None:
            raise
        if error.constraint_name == "webhooks_filter_without_variables":
            message = "must not have variables; a field is written $.name"
        elif error.sqlstate.startswith(NO_JSONPATH):
            message = f"must be a jsonpath: {error.message}"
        else:
            raise
        raise _invalid_field("body", "filter", message) from None


def _invalid_field(place: str, field: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": (place, field), "msg": message}])


def _version() -> str:
    try:
        return version("pgbridge")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


def _operation_id(route: APIRoute) -> str:
    return route.name


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Answer 422 in FastAPI's shape, without the input.

    The input may be a secret, and may be what JSON cannot say: NaN, half of a surrogate pair.
    """
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    detail = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": detail}, 422)


async def _database_unavailable(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "Database unavailable"}, 503)
