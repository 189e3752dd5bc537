"""Who may call what: a token in a header, and the scope that it has to have."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import APIRouter, HTTPException, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer

from bridge.tokens import WEBHOOKS_READ, WEBHOOKS_WRITE, Grant, TokenStore, token_of_headers
from bridge.web.body import BoundedRequest
from bridge.web.refusals import GUARDED

# A scope that includes another.
_IMPLIED_BY: Final = {WEBHOOKS_READ: WEBHOOKS_WRITE}

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

    The application that includes it keeps its ``TokenStore`` in ``state.tokens``.
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
    """Let a request pass whose token has the scope.

    Raises:
        HTTPException: 401 without a valid token, 403 without the scope.
        DatabaseUnavailable: the token cannot be looked up now.
    """
    headers = request.headers
    token = token_of_headers(headers.get("X-API-Key", ""), headers.get("Authorization", ""))
    if token is None:
        raise _unauthorized("Missing API key")
    tokens: TokenStore = request.app.state.tokens
    grant = await tokens.authenticate(token)
    if grant is None:
        raise _unauthorized("Invalid or expired API key")
    if not _allows(grant, scope):
        raise HTTPException(403, f"This API key does not have the scope {scope}")


def _allows(grant: Grant, scope: str) -> bool:
    return grant.allows(scope) or (scope in _IMPLIED_BY and grant.allows(_IMPLIED_BY[scope]))


def _unauthorized(detail: str) -> HTTPException:
    return HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})
