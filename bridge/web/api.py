"""The REST API as a whole: its rooms put together, and what is answered when one of them raises."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import trio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from bridge import metrics
from bridge.db import Database, DatabaseUnavailable, Row, Share
from bridge.proxies import Network
from bridge.secrets import Vault
from bridge.throttle import Throttle
from bridge.tokens import TokenStore
from bridge.web import audit, deliveries, health, tickets, tokens, webhooks
from bridge.web.access import AccessLog

#: Connections of the pool for requests; the others are left to the stream and to delivery.
REST_CONNECTIONS = 3
#: Tests of webhooks under way at once; each may hold its request for as long as an attempt.
TRIALS = 8


def build_api(
    database: Database,
    token_store: TokenStore,
    *,
    vault: Vault,
    cors_origins: Sequence[str] = (),
    proxies: Sequence[Network] = (),
    requests: Throttle | None = None,
    access_log: bool = False,
    ready: Callable[[], Mapping[str, bool]],
    url_refusal: Callable[[str], Awaitable[str | None]],
    send_trial: Callable[[Row], Awaitable[object]],
    exposition: Callable[[], Awaitable[bytes]] = metrics.exposition,
) -> FastAPI:
    """Build the API as an ASGI application. It has no lifespan: whoever serves it owns the parts.

    Args:
        database: where the webhooks are.
        token_store: who may call.
        vault: seals the webhooks' secrets.
        cors_origins: origins of the dashboards that may call from a browser.
        proxies: that are believed whom they have a request from.
        requests: how often each token may ask; None: without limit.
        access_log: whether each request is logged.
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
    api.state.database = Share(database, REST_CONNECTIONS)
    api.state.tokens = token_store
    api.state.requests = requests
    api.state.proxies = proxies
    api.state.vault = vault
    api.state.ready = ready
    api.state.url_refusal = url_refusal
    api.state.send_trial = send_trial
    api.state.exposition = exposition
    api.state.trials = trio.Semaphore(TRIALS)
    for room in (health, tickets, webhooks, deliveries, tokens, audit):
        for router in room.ROUTERS:
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
    if access_log:
        api.add_middleware(AccessLog)
    return api


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
