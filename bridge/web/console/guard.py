"""Protects console pages: sessions, scopes and cross-site request forgery.

A signed-in browser sends a cookie that scripts cannot read and that other sites cannot make it send
with a form. Requests that change something also need a CSRF token from a page of the session.
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException

from bridge.access.authenticator import SESSION_SECONDS, Authenticator
from bridge.access.proxies import is_proxy
from bridge.database import shares
from bridge.web.api.auth import take_turn
from bridge.web.api.refusals import answer_of
from bridge.web.console.forms import Form, read_form
from bridge.web.console.rendering import base_of, error_page
from bridge.web.http.bodies import AUTHENTICATED, body_of
from bridge.web.http.client import address_of
from bridge.web.http.middleware import log_failure

#: The session cookie. It has no path and no domain, so browsers return it to the same host and to
#: pages beside the one that set it, whatever the proxy's prefix.
COOKIE: Final = "pgbridge_session"
#: The form field, or the header of a script's request, with the CSRF token.
CSRF_FIELD: Final = "csrf"
CSRF_HEADER: Final = "X-CSRF-Token"
#: Header that our scripts send. Browsers send Sec-Fetch-Mode only over TLS or to localhost.
SCRIPT_HEADER: Final = "X-Requested-With"

_SAFE_METHODS = ("GET", "HEAD")


def page_router(scope: str | None) -> APIRouter:
    """Return a router for pages that need a session.

    Handlers find ``grant``, ``session`` (the cookie) and, except for GET, ``form`` in
    ``request.state``.

    Args:
        scope: required scope; None if any token will do.
    """

    async def enter(request: Request) -> Response | None:
        if not await _is_signed_in(request):
            return _to_sign_in(request)
        if scope is not None and not request.state.grant.allows(scope):
            raise HTTPException(403, f"This token does not have the scope {scope}")
        if request.method not in _SAFE_METHODS:
            await _read_own_form(request)
        return None

    return _router(enter)


def open_router() -> APIRouter:
    """Return a router for pages that need no session."""
    return _router(None)


def _router(enter: Callable[[Request], Awaitable[Response | None]] | None) -> APIRouter:
    """Return a router that authenticates first and turns errors into pages.

    Args:
        enter: returns the response for a request that may not proceed, else None.
    """

    class Page(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    refusal = await enter(request) if enter else None
                    return refusal or await handle(request)
                except Exception as error:
                    return _error_page(request, error)

            return answer

    return APIRouter(route_class=Page, include_in_schema=False)


def set_cookie(request: Request, response: Response, name: str, value: str) -> None:
    """Set a cookie for the lifetime of a session, out of reach of scripts and other sites."""
    response.set_cookie(
        name,
        value,
        # Sent when a reader follows a link from an alert or a chat, which only shows a page; not
        # sent with forms or subresources of other sites.
        max_age=int(SESSION_SECONDS),
        path=None,
        httponly=True,
        samesite="lax",
        secure=is_secure(request),
    )


def is_secure(request: Request) -> bool:
    """Return whether the browser uses TLS, according to a trusted proxy."""
    peer = request.client.host if request.client else ""
    by_tls = request.headers.get("X-Forwarded-Proto", "").lower() == "https"
    return by_tls and is_proxy(peer, request.app.state.proxies)


def csrf_token(session: str) -> str:
    """Return the CSRF token of a session, derived from its cookie."""
    digest = hmac.digest(session.encode(), b"form of the console", hashlib.sha256)
    return urlsafe_b64encode(digest).decode().rstrip("=")


def refuse_foreign(request: Request) -> None:
    """Reject a request that the browser reports as sent by another site.

    Browsers too old to report it still honour the cookie's SameSite.

    Raises:
        HTTPException: 403, it was.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "The request comes from another site")


def form_of(request: Request, *fields: str) -> Form:
    """Return the form of a request.

    Args:
        fields: the names that it may have.

    Raises:
        HTTPException: 422, it has another.
    """
    form: Form = request.state.form
    form.refuse_unknown(CSRF_FIELD, *fields)
    return form


async def _is_signed_in(request: Request) -> bool:
    """Authenticate the session; return False if there is no valid one.

    Raises:
        HTTPException: 429, too many requests.
        TooManyFailuresError, DatabaseUnavailable: the session cannot be looked up now.
    """
    session = request.cookies.get(COOKIE, "")
    if not session:
        return False
    tokens: Authenticator = request.app.state.tokens
    grant = await tokens.use_session(session, address_of(request.scope))
    if grant is None:
        return False
    request.state.grant, request.state.session = grant, session
    shares.caller.set(grant.key)
    request.state.via, request.state.csrf = "console", csrf_token(session)
    take_turn(request)
    return True


async def _read_own_form(request: Request) -> None:
    """Read the form of a request that may proceed.

    Raises:
        HTTPException: 403, it is not from a page of the session; and as for :func:`read_form`.
    """
    refuse_foreign(request)
    body_of(request).limits = AUTHENTICATED
    form = await read_form(request)
    sent = form.text(CSRF_FIELD) or request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(sent.encode(), request.state.csrf.encode()):
        raise HTTPException(403, "The form does not belong to this session")
    request.state.form = form


def _to_sign_in(request: Request) -> Response:
    if (
        SCRIPT_HEADER in request.headers
        or request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"
    ):
        # A script on a page whose session has ended.
        return error_page(request, 401)
    wanted = ""
    if request.method in _SAFE_METHODS:
        wanted = request.url.path.rstrip("/").removeprefix("/console").lstrip("/")
        if request.url.query:
            wanted += f"?{request.url.query}"
    query = f"?next={quote(wanted, safe='/')}" if wanted else ""
    return RedirectResponse(f"{base_of(request)}sign-in{query}", 303)


def _error_page(request: Request, error: Exception) -> Response:
    """Return the page for an error; log unexpected ones."""
    if isinstance(error, RequestValidationError):
        return error_page(request, 404)
    answer = error if isinstance(error, StarletteHTTPException) else answer_of(error)
    if answer is None:
        log_failure(request.scope, error)
        return error_page(request, 500)
    detail: object = answer.detail
    if isinstance(detail, list):  # of a 422
        detail = "; ".join(each["msg"] for each in detail)
    return error_page(request, answer.status_code, str(detail), answer.headers)
