"""Authenticates requests by token, checks scopes, and limits request rates."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

import trio
from fastapi import APIRouter, HTTPException, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer

from bridge.access.authenticator import Authenticator
from bridge.access.throttle import Throttle
from bridge.access.tokens import Grant, token_of_headers
from bridge.database import shares
from bridge.web.api.refusals import GUARDED, later
from bridge.web.http.bodies import AUTHENTICATED, body_of
from bridge.web.http.body import StrictRequest
from bridge.web.http.client import address_of

# For the OpenAPI document only: `authorize` reads the tokens.
_SCHEMES = (
    HTTPBearer(
        scheme_name="Bearer", description="A token from `pgbridge token create`.", auto_error=False
    ),
    APIKeyHeader(
        name="X-API-Key", scheme_name="ApiKey", description="The same token.", auto_error=False
    ),
)


def guarded_router(scope: str, tag: str) -> APIRouter:
    """Return a router whose routes need a token with this scope and share a tag.

    The application's state has ``tokens``, the ``Authenticator``; ``requests``, the rate limit per
    token, or None; and ``proxies``, the trusted proxies. Routes find the token's grant in
    ``request.state.grant``.
    """

    class GuardedRoute(APIRoute):
        """Checks the token before the body is read. FastAPI's dependencies run after that."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                await authorize(request, scope)
                strict = StrictRequest(request.scope, request.receive)
                if self.body_field is None and request.method != "GET":
                    await strict.refuse_body()
                return await handle(strict)

            return guarded

    return APIRouter(
        tags=[tag],
        route_class=GuardedRoute,
        dependencies=[Security(scheme) for scheme in _SCHEMES],
        responses=GUARDED,
    )


async def authorize(request: Request, scope: str) -> None:
    """Check that the request's token has the scope, and set ``request.state.grant``.

    Only then may the body be as large as those of authenticated clients.

    Raises:
        HTTPException: 401, no valid token; 403, the scope is missing; 429, too many requests.
        TooManyFailuresError, DatabaseUnavailable: the token cannot be looked up now.
    """
    headers = request.headers
    token = token_of_headers(headers.get("X-API-Key", ""), headers.get("Authorization", ""))
    if token is None:
        raise _unauthorized("Missing API key")
    tokens: Authenticator = request.app.state.tokens
    grant = await tokens.authenticate(token, address_of(request.scope))
    if grant is None:
        raise _unauthorized("Invalid or expired API key")
    # Also for the access log, even if the request is rejected below.
    request.state.grant = grant
    shares.caller.set(grant.key)
    take_turn(request)
    if not grant.allows(scope):
        raise HTTPException(403, f"This API key does not have the scope {scope}")
    body_of(request).limits = AUTHENTICATED


def take_turn(request: Request) -> None:
    """Count a request against the rate limit of its token, ``request.state.grant``.

    Raises:
        HTTPException: 429, the limit is exceeded.
    """
    requests: Throttle | None = request.app.state.requests
    key = request.state.grant.key
    if requests is not None and (wait := requests.take(key, trio.current_time())):
        raise later(429, "Too many requests with this API key", wait)


def actor_of(request: Request) -> str:
    """Return who sent a request, as JSON for the audit log."""
    grant: Grant = request.state.grant
    via = getattr(request.state, "via", "api")
    return json.dumps({"via": via, "actor": str(grant), "address": address_of(request.scope)})


def _unauthorized(detail: str) -> HTTPException:
    return HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})
