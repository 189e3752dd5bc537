"""Who may call what, and how often: a token in a header, and the scope that it has to have."""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

import trio
from fastapi import APIRouter, HTTPException, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import Scope

from bridge.access.authenticator import Authenticator, TooManyFailuresError
from bridge.access.proxies import client_address
from bridge.access.throttle import Throttle
from bridge.access.tokens import Grant, token_of_headers
from bridge.web.api.refusals import GUARDED
from bridge.web.http.body import BoundedRequest

# For the OpenAPI document; the tokens are read by authorize.
_SCHEMES = (
    HTTPBearer(
        scheme_name="Bearer", description="A token of `pgbridge token create`.", auto_error=False
    ),
    APIKeyHeader(
        name="X-API-Key", scheme_name="ApiKey", description="The same token.", auto_error=False
    ),
)


def guarded_router(scope: str) -> APIRouter:
    """Return a router whose routes need a token with this scope.

    The application that includes it has in its state ``tokens``, its ``Authenticator``;
    ``requests``, how often each token may ask, or None; and ``proxies``, those that are believed.
    The routes find whose token it was in ``request.state.grant``.
    """

    class GuardedRoute(APIRoute):
        """Asks for the token before the body is read, which FastAPI's dependencies come after."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                await authorize(request, scope)
                return await handle(BoundedRequest(request.scope, request.receive))

            return guarded

    return APIRouter(
        route_class=GuardedRoute,
        dependencies=[Security(scheme) for scheme in _SCHEMES],
        responses=GUARDED,
    )


async def authorize(request: Request, scope: str) -> None:
    """Let a request pass whose token has the scope; ``request.state.grant`` is what it allows.

    Raises:
        HTTPException: 401 without a valid token, 403 without the scope, 429 too often.
        DatabaseUnavailable: the token cannot be looked up now.
    """
    headers = request.headers
    token = token_of_headers(headers.get("X-API-Key", ""), headers.get("Authorization", ""))
    if token is None:
        raise _unauthorized("Missing API key")
    tokens: Authenticator = request.app.state.tokens
    try:
        grant = await tokens.authenticate(token, address_of(request))
    except TooManyFailuresError as error:
        raise too_often("Too many failed attempts", error.retry_seconds) from None
    if grant is None:
        raise _unauthorized("Invalid or expired API key")
    # Whose it was is known, whether it may or not.
    request.state.grant = grant
    take_turn(request)
    if not grant.allows(scope):
        raise HTTPException(403, f"This API key does not have the scope {scope}")


def take_turn(request: Request) -> None:
    """Count a request to the token that it was sent with, ``request.state.grant``.

    Raises:
        HTTPException: 429, too many were.
    """
    requests: Throttle | None = request.app.state.requests
    key = request.state.grant.key
    if requests is not None and (wait := requests.take(key, trio.current_time())):
        raise too_often("Too many requests with this API key", wait)


def address_of(request: Request) -> str:
    """Return the address of whoever sent a request, as far as proxies are believed."""
    return address_of_scope(request.scope)


def address_of_scope(scope: Scope) -> str:
    """Like :func:`address_of`, of an ASGI scope."""
    peer = scope["client"][0] if scope.get("client") else ""
    forwarded_for = Headers(scope=scope).getlist("X-Forwarded-For")
    return client_address(peer, forwarded_for, scope["app"].state.proxies)


def actor_of(request: Request) -> str:
    """Return who sent a guarded request, as the audit log takes it."""
    grant: Grant = request.state.grant
    via = getattr(request.state, "via", "api")
    return json.dumps({"via": via, "actor": str(grant), "address": address_of(request)})


def _unauthorized(detail: str) -> HTTPException:
    return HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})


def too_often(detail: str, wait_seconds: float) -> HTTPException:
    """Return the 429 that says when to come again."""
    return HTTPException(429, detail, headers={"Retry-After": str(math.ceil(wait_seconds))})
