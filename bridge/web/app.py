"""The REST API as a whole: its rooms put together, and what is answered when one of them raises."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
from fastapi import FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware

from bridge import assets
from bridge.access.authenticator import Authenticator
from bridge.access.proxies import Network
from bridge.access.throttle import Throttle
from bridge.access.vault import Vault
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.shares import Share
from bridge.telemetry import metrics
from bridge.web import console
from bridge.web.api import audit, deliveries, docs, events, health, tickets, tokens, webhooks
from bridge.web.api.refusals import RETRY_SECONDS, answer_of, passes
from bridge.web.api.webhooks import SendTrial, limited_trials
from bridge.web.console.overview import Overviews
from bridge.web.http.access_log import AccessLog
from bridge.web.http.middleware import Failures, Heads, PlainPaths, SecureAnswers
from bridge.webhooks.errors import WebhookError

log = structlog.get_logger()

#: Connections of the pool for requests; the others are left to the stream and to delivery.
REST_CONNECTIONS = 3
#: Tests of webhooks under way at once; each may hold its request for as long as an attempt.
TRIALS = 8
#: The rooms, in the order of the document.
ROOMS = (webhooks, deliveries, events, tickets, tokens, audit, health, docs, console)

_DESCRIPTION = """\
All but what is tagged *bridge* needs a token of `pgbridge token create`, as `Authorization: Bearer`
or as `X-API-Key`. Bodies are JSON in UTF-8, without compression; fields and parameters that are not
known are ignored. What may be read in two ways is refused with 422: a key that comes twice in an
object, a parameter that comes twice in a query, NaN, nesting deeper than 32. Every error has a
`detail`: a text or, for 422, a list of what is wrong where. A path with a slash at its end is the
one without. What is answered by 429 or 503 may be tried again after `Retry-After` seconds.
"""
_TAGS = [
    {"name": "webhooks", "description": "Who is told of which events, and how that goes."},
    {"name": "deliveries", "description": "What was sent, what came of it, sending it again."},
    {"name": "events", "description": "The log, for who polls instead of listening on `/ws`."},
    {"name": "stream", "description": "The way to `/ws`, which pushes events as they come."},
    {"name": "tokens", "description": "Who may do what."},
    {"name": "audit", "description": "Who changed what."},
    {"name": "bridge", "description": "How the bridge is, for who watches it, without a token."},
]


def build_api(
    database: Database,
    token_store: Authenticator,
    *,
    vault: Vault,
    cors_origins: Sequence[str] = (),
    proxies: Sequence[Network] = (),
    requests: Throttle | None = None,
    access_log: bool = False,
    troubles: Callable[[], Mapping[str, str | None]],
    url_refusal: Callable[[str], Awaitable[str | None]],
    send_trial: SendTrial,
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
        troubles: the checks of whether the bridge makes progress by name, and what is wrong by
            each; None if nothing is.
        send_trial: sends a test request to a webhook, a row of ``webhook_to_try``.
        url_refusal: says why no delivery may go to a webhook's URL, or None if one may.
        exposition: gives what is counted, in Prometheus' text format.
    """
    api = FastAPI(
        title="pgbridge",
        summary="Webhooks for the events of a PostgreSQL application.",
        description=_DESCRIPTION,
        version=assets.version(),
        openapi_tags=_TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
        generate_unique_id_function=_operation_id,
        docs_url=None,  # a room of its own
        redoc_url=None,
        redirect_slashes=False,  # PlainPaths serves both
        strict_content_type=False,  # body.py decides what may be JSON
    )
    api.state.database = Share(database, REST_CONNECTIONS)
    api.state.tokens = token_store
    api.state.requests = requests
    api.state.proxies = proxies
    api.state.vault = vault
    api.state.troubles = troubles
    api.state.url_refusal = url_refusal
    api.state.send_trial = limited_trials(send_trial, TRIALS)
    api.state.exposition = exposition
    api.state.overviews = Overviews(api.state.database)
    for room in ROOMS:
        for router in room.ROUTERS:
            api.include_router(router)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(StarletteHTTPException, _refused)
    api.add_exception_handler(WebhookError, _webhook_error)
    api.add_exception_handler(DatabaseUnavailable, _database_unavailable)
    api.add_exception_handler(DatabaseError, _database_refuses)
    # The last one added stands outermost.
    api.add_middleware(PlainPaths)
    api.add_middleware(Heads)
    api.add_middleware(Failures)
    if cors_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["*"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type"],
            expose_headers=["Allow", "Location", "Retry-After", "WWW-Authenticate"],
        )
    if access_log:
        api.add_middleware(AccessLog)
    api.add_middleware(SecureAnswers)
    return api


def _operation_id(route: APIRoute) -> str:
    return route.name


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Answer 422 in FastAPI's shape, without the input.

    The input may be a secret, and may be what JSON cannot say: NaN, half of a surrogate pair.
    """
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    detail = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": detail}, 422)


async def _refused(request: Request, error: Exception) -> Response:
    """Answer an HTTPException; a 405 with all methods that the path has, over all its routes."""
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - what it is registered for
    if error.status_code == 405:
        allowed = {
            method
            for room in ROOMS
            for router in room.ROUTERS
            for route in router.routes
            if isinstance(route, APIRoute) and route.path_regex.match(request.scope["path"])
            for method in route.methods or ()
        }
        if allowed:
            allow = {"Allow": ", ".join(sorted(allowed))}
            error = HTTPException(405, error.detail, headers=allow)
    return await http_exception_handler(request, error)


async def _webhook_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, WebhookError)  # noqa: S101 - what it is registered for
    return await http_exception_handler(request, answer_of(error))


async def _database_unavailable(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse(
        {"detail": "Database unavailable"}, 503, headers={"Retry-After": str(RETRY_SECONDS)}
    )


async def _database_refuses(request: Request, error: Exception) -> JSONResponse:
    """Answer what passes, such as a deadlock, like a database that is away; the rest is ours."""
    assert isinstance(error, DatabaseError)  # noqa: S101 - what it is registered for
    if not passes(error):
        raise error
    log.warning("request_conflicted", path=request.scope["path"], reason=error.message)
    return await _database_unavailable(request, error)
