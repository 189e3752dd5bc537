"""Signing in with a token, and signing out."""

import hmac
import re
import secrets
from typing import Annotated, Final

from fastapi import HTTPException, Query, Request
from fastapi.responses import RedirectResponse, Response

from bridge.access.authenticator import (
    Authenticator,
    TooManyFailuresError,
    UnreadableTokensError,
)
from bridge.web.console.forms import read_form
from bridge.web.console.guard import (
    COOKIE,
    CSRF_FIELD,
    csrf_token,
    open_router,
    page_router,
    refuse_foreign,
    set_cookie,
)
from bridge.web.console.rendering import base_of, page
from bridge.web.http.client import address_of
from bridge.web.http.middleware import SLASHED

#: Cookie of the sign-in form. It stops other sites from signing a browser in with their token.
SIGN_IN_COOKIE: Final = "pgbridge_sign_in"

# The format of secrets.token_urlsafe(32).
_ASKED = re.compile(r"[A-Za-z0-9_-]{43}")
# A path within the console and its query; it cannot lead outside.
_NEXT = re.compile(r"(?!.*\.\.)(?:[a-z-]+(?:/[a-z0-9-]+)*)?(?:\?[A-Za-z0-9_.~%=&*+:-]*)?")

outside = open_router()
inside = page_router(None)
ROUTERS = (outside, inside)


@outside.get("/console/sign-in")
async def sign_in_page(
    request: Request, wanted: Annotated[str, Query(alias="next")] = ""
) -> Response:
    """The page that asks for a token."""
    return _ask(request, wanted)


@outside.post("/console/sign-in")
async def sign_in(request: Request) -> Response:
    """Sign in with a token and continue to the requested page."""
    refuse_foreign(request)
    form = await read_form(request)
    wanted = form.text("next")
    asked = request.cookies.get(SIGN_IN_COOKIE, "")
    if not asked or not hmac.compare_digest(
        form.text(CSRF_FIELD).encode(), csrf_token(asked).encode()
    ):
        # Cookies are disabled, or the page was open for longer than the cookie lasts.
        return _ask(request, wanted, problem="again", status=403)
    form.refuse_unknown(CSRF_FIELD, "next", "username", "token")
    tokens: Authenticator = request.app.state.tokens
    try:
        grant = await tokens.authenticate(form.text("token"), address_of(request.scope))
    except TooManyFailuresError as error:
        seconds = max(1, round(error.retry_seconds))
        return _ask(
            request, wanted, problem="held", status=429, headers={"Retry-After": str(seconds)}
        )
    except UnreadableTokensError:
        return _ask(request, wanted, problem="unreadable", status=503)
    if grant is None:
        return _ask(request, wanted, problem="unknown", status=401)
    request.state.grant = grant  # for the access log
    session = await tokens.create_session(grant)
    response = RedirectResponse(_target(request, wanted), 303)
    set_cookie(request, response, COOKIE, session)
    return response


@inside.post("/console/sign-out")
async def sign_out(request: Request) -> Response:
    """Sign out and revoke the session, also for any copy of the cookie."""
    tokens: Authenticator = request.app.state.tokens
    await tokens.end_session(request.state.session)
    response = RedirectResponse("sign-in", 303)
    response.set_cookie(COOKIE, "", max_age=0, path=None, httponly=True, samesite="lax")
    return response


def _ask(
    request: Request,
    wanted: str,
    *,
    problem: str = "",
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    if request.scope.get(SLASHED):
        raise HTTPException(404)  # cookies set here would not reach the other pages
    # A restarted browser may open this page in several tabs; each must work.
    asked = request.cookies.get(SIGN_IN_COOKIE, "")
    if not _ASKED.fullmatch(asked):
        asked = secrets.token_urlsafe(32)
    request.state.csrf = csrf_token(asked)
    response = page(
        request, "sign_in", status=status, headers=headers, problem=problem, wanted=wanted
    )
    set_cookie(request, response, SIGN_IN_COOKIE, asked)
    return response


def _target(request: Request, wanted: str) -> str:
    """Return the redirect target: a page of the console, whatever the address contains."""
    base = base_of(request) or "./"
    if wanted and _NEXT.fullmatch(wanted) and not wanted.startswith("?"):
        return f"{base}{wanted}"
    return f"{base}../console"
