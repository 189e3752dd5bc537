"""The web application: its routers, middleware and error handlers."""

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
from bridge.access.authenticator import (
    Authenticator,
    TooManyFailuresError,
    TooManyTicketsError,
)
from bridge.access.proxies import Network
from bridge.access.throttle import Throttle
from bridge.access.vault import Vault
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.shares import Share
from bridge.settings import MAX_TOKENS, MAX_WEBHOOKS
from bridge.telemetry.exposition import render_metrics
from bridge.web import console
from bridge.web.api import (
    audit,
    dead_letters,
    deliveries,
    docs,
    events,
    health,
    tickets,
    tokens,
    webhooks,
)
from bridge.web.api.refusals import answer_of
from bridge.web.api.webhooks import SendTrial, limited_trials
from bridge.web.console.overview import Overviews
from bridge.web.http.access_log import AccessLog
from bridge.web.http.bodies import Bodies
from bridge.web.http.middleware import (
    HeadRequests,
    OwnCookies,
    SecurityHeaders,
    TrailingSlashes,
    UnhandledErrors,
)
from bridge.webhooks.errors import WebhookError

log = structlog.get_logger()

#: Database connections that requests may use at once. The rest is for the stream and deliveries.
REST_CONNECTIONS = 3
#: Responses with a payload of megabytes that are sent at once.
LARGE_RESPONSES = 2
#: Test deliveries in progress at once. Each may take as long as an attempt.
TRIALS = 8
#: Errors that ``answer_of`` knows.
EXPECTED = (
    WebhookError,
    TooManyFailuresError,
    TooManyTicketsError,
    DatabaseUnavailable,
    DatabaseError,
)
#: Modules with routes, in the order of the OpenAPI document.
ROOMS = (
    webhooks,
    deliveries,
    dead_letters,
    events,
    tickets,
    tokens,
    audit,
    health,
    docs,
    console,
)

_DESCRIPTION = """\
All operations except those tagged *bridge* need a token from `pgbridge token create`, sent as
`Authorization: Bearer` or as `X-API-Key`. Bodies are uncompressed JSON in UTF-8. Unknown fields and
parameters get 422; the read-only fields of a webhook or token are ignored. Ambiguous requests get
422 too: duplicate keys in an object, repeated query parameters, NaN, nesting deeper than 32; so do
bodies with more than 1,000 lists and objects. Every error has a `detail`: a text or, for 422, a
list of problems and their places. A trailing slash in a path makes no difference. After a 429 or
503, the request may be sent again after `Retry-After` seconds.
"""
_TAGS = [
    {"name": "webhooks", "description": "Who receives which events."},
    {"name": "deliveries", "description": "What was sent, with what result; redelivery."},
    {"name": "dead letters", "description": "What the database could not process; retries."},
    {
        "name": "events",
        "description": "The event log, for clients that poll.",
    },
    {"name": "stream", "description": "Access to `/ws`, which pushes events in real time."},
    {"name": "tokens", "description": "API tokens and their scopes."},
    {"name": "audit", "description": "The audit log."},
    {"name": "bridge", "description": "Health and metrics, without a token."},
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
    max_webhooks: int = MAX_WEBHOOKS,
    max_tokens: int = MAX_TOKENS,
    troubles: Callable[[], Mapping[str, str | None]],
    url_refusal: Callable[[str], Awaitable[str | None]],
    send_trial: SendTrial,
    exposition: Callable[[], Awaitable[bytes]] = render_metrics,
) -> FastAPI:
    """Build the ASGI application. It has no lifespan: the caller owns its parts.

    Args:
        token_store: authenticates tokens.
        vault: encrypts the webhooks' secrets.
        cors_origins: origins whose pages may call the API from a browser.
        proxies: trusted proxies, whose X-Forwarded-For is used.
        requests: the rate limit per token; None: no limit.
        access_log: log every request.
        max_webhooks, max_tokens: how many may be created.
        troubles: returns the readiness checks by name, with what is wrong, or None.
        url_refusal: returns why deliveries may not go to a URL, or None if they may.
        send_trial: sends a test request to a webhook, a row of ``webhook_to_try``.
        exposition: returns the metrics in Prometheus' text format.
    """
    api = FastAPI(
        title="pgbridge",
        summary="Webhooks for the events of a PostgreSQL application.",
        description=_DESCRIPTION,
        version=assets.version(),
        openapi_tags=_TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
        generate_unique_id_function=_operation_id,
        docs_url=None,  # see docs.py
        redoc_url=None,
        redirect_slashes=False,  # TrailingSlashes serves both
        strict_content_type=False,  # body.py decides what may be JSON
        exception_handlers={
            RequestValidationError: _invalid,
            StarletteHTTPException: _http_exception,
            **dict.fromkeys(EXPECTED, _expected),
        },
    )
    api.state.database = Share(database, REST_CONNECTIONS)
    api.state.large = Share(database, LARGE_RESPONSES)
    api.state.tokens = token_store
    api.state.requests = requests
    api.state.proxies = proxies
    api.state.vault = vault
    api.state.max_webhooks, api.state.max_tokens = max_webhooks, max_tokens
    api.state.troubles = troubles
    api.state.url_refusal = url_refusal
    api.state.send_trial = limited_trials(send_trial, TRIALS)
    api.state.exposition = exposition
    api.state.overviews = Overviews(api.state.database)
    for room in ROOMS:
        for router in room.ROUTERS:
            api.include_router(router)
    _add_middleware(api, cors_origins, access_log=access_log)
    return api


def _add_middleware(api: FastAPI, cors_origins: Sequence[str], *, access_log: bool) -> None:
    # The last one added is the outermost.
    api.add_middleware(Bodies)
    api.add_middleware(OwnCookies)
    api.add_middleware(TrailingSlashes)
    api.add_middleware(HeadRequests)
    api.add_middleware(UnhandledErrors)
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
    api.add_middleware(SecurityHeaders)


def _operation_id(route: APIRoute) -> str:
    return route.name


async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """Answer 422 in FastAPI's shape, without the input.

    The input may be a secret, or something JSON cannot express, such as NaN or a lone surrogate.
    """
    detail = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": detail}, 422)


async def _http_exception(request: Request, error: StarletteHTTPException) -> Response:
    """Answer an HTTPException. A 405 lists the methods of all the routes with that path."""
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


async def _expected(request: Request, error: Exception) -> Response:
    """Answer an expected error, such as a deadlock; anything else PostgreSQL reports is a bug."""
    answer = answer_of(error)
    if answer is None:
        raise error
    if isinstance(error, DatabaseError):
        log.warning("request_conflicted", path=request.scope["path"], reason=error.message)
    return await http_exception_handler(request, answer)
