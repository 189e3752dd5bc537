"""Who may see a page: whoever is signed in, and only by forms of our own pages.

A browser that is signed in brings a cookie, which scripts cannot read and other sites cannot have
it send. What changes something also brings a text that only a page of the session has.
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

from bridge.access.authenticator import SESSION_SECONDS, Authenticator, TooManyFailuresError
from bridge.access.proxies import is_proxy
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.web.api.auth import address_of, take_turn, too_often
from bridge.web.api.refusals import RETRY_SECONDS, answer_of, passes
from bridge.web.console.forms import Form, read_form
from bridge.web.console.rendering import base_of, error_page
from bridge.web.http.middleware import log_failure
from bridge.webhooks.errors import WebhookError

#: The cookie of a session. It has no path and no domain: a browser sends it back to the host it is
#: from, and to the pages beside the one that set it, whatever a proxy's prefix is.
COOKIE: Final = "pgbridge_session"
#: The field of a form, or else the header of a script's request, that other sites cannot know.
CSRF_FIELD: Final = "csrf"
CSRF_HEADER: Final = "X-CSRF-Token"
#: What a script's request brings. Browsers tell by themselves what a request is for, but not to a
#: bridge that they reach over plain HTTP on another machine.
SCRIPT_HEADER: Final = "X-Requested-With"

_SAFE_METHODS = ("GET", "HEAD")


def page_router(scope: str | None) -> APIRouter:
    """Return a router for pages of whoever is signed in.

    Their handlers find in ``request.state`` the ``grant``; ``session``, the cookie; and ``form``,
    what was sent, but for GET.

    Args:
        scope: that the token must have; None: any will do.
    """

    async def enter(request: Request) -> Response | None:
        if not await _is_signed_in(request):
            return _to_sign_in(request)
        if scope is not None and not request.state.grant.allows(scope):
            raise HTTPException(403, f"This token does not have the scope {scope}")
        return None

    return _router(enter)


def open_router() -> APIRouter:
    """Return a router for the pages of whoever is not signed in yet."""

    async def enter(_request: Request) -> None:
        return None

    return _router(enter)


def _router(enter: Callable[[Request], Awaitable[Response | None]]) -> APIRouter:
    """Return a router that asks who it is before anything else, and answers errors with a page.

    Args:
        enter: returns what to answer instead, if somebody may not enter.
    """

    class Page(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    return await enter(request) or await handle(request)
                except Exception as error:
                    return _error_page(request, error)

            return answer

    return APIRouter(route_class=Page, include_in_schema=False)


def set_cookie(request: Request, response: Response, name: str, value: str) -> None:
    """Give a browser a cookie, for a session's time, that no script and no other site can use."""
    response.set_cookie(
        name,
        value,
        # It comes along when somebody follows a link, from an alert or a chat, which only shows a
        # page; with no form of another site, and with nothing that its pages load.
        max_age=int(SESSION_SECONDS),
        path=None,
        httponly=True,
        samesite="lax",
        secure=is_secure(request),
    )


def forget_cookie(response: Response, name: str) -> None:
    """Have a browser forget a cookie."""
    response.set_cookie(name, "", max_age=0, path=None, httponly=True, samesite="lax")


def is_secure(request: Request) -> bool:
    """Tell whether the browser speaks TLS, as far as a proxy is believed."""
    peer = request.client.host if request.client else ""
    by_tls = request.headers.get("X-Forwarded-Proto", "").lower() == "https"
    return by_tls and is_proxy(peer, request.app.state.proxies)


def csrf_token(session: str) -> str:
    """Return what the forms of a session bring: made of the cookie, which only its browser has."""
    digest = hmac.digest(session.encode(), b"form of the console", hashlib.sha256)
    return urlsafe_b64encode(digest).decode().rstrip("=")


def refuse_foreign(request: Request) -> None:
    """Refuse what a browser says that another site's page has sent.

    Raises:
        HTTPException: 403, it was. A browser too old to say it has the cookie's SameSite.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "The request comes from another site")


def form_of(request: Request) -> Form:
    """Return the form that a request to a page has brought."""
    form: Form = request.state.form
    return form


async def _is_signed_in(request: Request) -> bool:
    """Find out who it is, and read the form. False: nobody is signed in.

    Raises:
        HTTPException: it is somebody, but the request is not from a page of the session.
        TooManyFailuresError, DatabaseUnavailable: it cannot be found out now.
    """
    session = request.cookies.get(COOKIE, "")
    if not session:
        return False
    tokens: Authenticator = request.app.state.tokens
    grant = await tokens.use_session(session, address_of(request))
    if grant is None:
        return False
    request.state.grant, request.state.session = grant, session
    request.state.via, request.state.csrf = "console", csrf_token(session)
    take_turn(request)
    if request.method not in _SAFE_METHODS:
        refuse_foreign(request)
        form = await read_form(request)
        brought = form.text(CSRF_FIELD) or request.headers.get(CSRF_HEADER, "")
        if not hmac.compare_digest(brought.encode(), request.state.csrf.encode()):
            raise HTTPException(403, "The form is not of this session")
        request.state.form = form
    return True


def _to_sign_in(request: Request) -> Response:
    if (
        SCRIPT_HEADER in request.headers
        or request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"
    ):
        # A script of a page that was open when its session ended.
        return error_page(request, 401)
    wanted = ""
    if request.method in _SAFE_METHODS:
        wanted = request.url.path.rstrip("/").removeprefix("/console").lstrip("/")
        if request.url.query:
            wanted += f"?{request.url.query}"
    query = f"?next={quote(wanted, safe='/')}" if wanted else ""
    return RedirectResponse(f"{base_of(request)}sign-in{query}", 303)


def _error_page(request: Request, error: Exception) -> Response:
    """Answer what went wrong with a page; what nobody has thought of is logged."""
    match error:
        case TooManyFailuresError():
            return _error_page(request, too_often("", error.retry_seconds))
        case WebhookError():
            return _error_page(request, answer_of(error))
        case StarletteHTTPException():
            return error_page(request, error.status_code, str(error.detail), error.headers)
        case RequestValidationError():
            return error_page(request, 404)
        case DatabaseUnavailable():
            return error_page(request, 503, headers={"Retry-After": str(RETRY_SECONDS)})
        case DatabaseError() if passes(error):
            return error_page(request, 503, headers={"Retry-After": str(RETRY_SECONDS)})
    log_failure(request.scope, error)
    return error_page(request, 500)
