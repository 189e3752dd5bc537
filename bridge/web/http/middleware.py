"""ASGI middleware for every request and response."""

import re
import traceback
from collections.abc import MutableMapping
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.database.errors import DatabaseError
from bridge.telemetry import metrics

log = structlog.get_logger()

#: Default headers of every response. Responses are read by programs: browsers must not frame them,
#: guess their type, store them, or run anything in them.
SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # Concerns only embedding without CORS. Dashboards use CORS and can still read responses.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# Its value is base64url: a session, or the secret of a form.
_OWN_COOKIE = re.compile(rb"(?:^|;) *(pgbridge_[a-z_]+=[A-Za-z0-9_-]*)(?= *(?:;|$))")

#: Set in the scope if the path had a trailing slash: relative links of the page then start one
#: level further down.
SLASHED: Final = "pgbridge.slashed"


class SecurityHeaders:
    """Adds the security headers to every response, including errors and CORS preflights."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.count_request(message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, secured)


class OwnCookies:
    """Removes other applications' cookies, and values that are not ours, before they are parsed.

    Starlette's parser removes quotes; before Python 3.12.6, this takes quadratic time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        headers = [
            (name, b"; ".join(_OWN_COOKIE.findall(value)) if name == b"cookie" else value)
            for name, value in scope["headers"]
        ]
        await self._app({**scope, "headers": headers}, receive, send)


class TrailingSlashes:
    """Serves a path with a trailing slash like the path without it.

    A redirect would have to be built from the Host header, which the client controls.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        path = scope.get("path", "/")
        if path.endswith("\n"):
            # The routes' regular expressions would match in spite of the newline, which neither
            # a proxy that protects a path nor a reader of the log expects.
            scope = _at(scope, path + "/")
        elif path.endswith("/") and path != "/":
            scope = {**_at(scope, path[:-1]), SLASHED: True}
        await self._app(scope, receive, send)


class HeadRequests:
    """Answers HEAD like GET, without the body, as many monitoring tools need."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, without_body)


class UnhandledErrors:
    """Turns unhandled errors into a 500 response, and logs them once.

    Starlette's own handler runs outside CORS, so pages could not read its response; and it raises
    the error again, so the server would log it a second time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            log_failure(scope, error)
            # If the response has begun, the server cuts it off.
            if not started:
                answer = JSONResponse({"detail": "Internal Server Error"}, 500)
                await answer(scope, receive, send)


def log_failure(scope: Scope, error: Exception) -> None:
    """Log an error and where it happened, but nothing the client sent.

    The text of an error may quote the request: PostgreSQL's detail contains the failing row, with
    its secret. PostgreSQL's primary message contains only names.
    """
    refusal = {}
    if isinstance(error, DatabaseError):
        refusal = {"sqlstate": error.sqlstate, "reason": error.message}
    log.error(
        "request_failed",
        method=scope["method"],
        path=scope["path"],
        error=type(error).__name__,
        **refusal,
        stack="".join(traceback.format_tb(error.__traceback__)),
    )


def _at(scope: Scope, path: str) -> MutableMapping[str, object]:
    return {**scope, "path": path, "raw_path": path.encode("utf-8", "surrogatepass")}
