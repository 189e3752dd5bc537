"""What holds for every request and answer, whatever room it is for: plain ASGI middleware."""

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

#: What every answer says to a browser, unless it says something else itself. They are read by
#: programs: no page may frame one, sniff another type in it, keep it, or run anything of it.
SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # Only for what a page embeds without CORS; a dashboard of CORS reads answers all the same.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


#: In the scope of a request whose path had a slash at its end: relative addresses of its page begin
#: one step further down.
SLASHED: Final = "pgbridge.slashed"


class SecureAnswers:
    """Adds the headers that protect to every answer, those of errors and of CORS included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.count_request(message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, secured)


class PlainPaths:
    """Serves a path with a slash at its end like the one without.

    Not by a redirect: its address would be built from the Host header, which is a stranger's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        path = scope.get("path", "/")
        if path.endswith("\n"):
            # To the routes' regular expressions, a line's end is the end, too. Neither a proxy
            # that guards a path nor a person who reads a log expects that.
            scope = _at(scope, path + "/")
        elif path.endswith("/") and path != "/":
            scope = {**_at(scope, path[:-1]), SLASHED: True}
        await self._app(scope, receive, send)


class Heads:
    """Answers HEAD of a path as its GET, without the body; so do many ask who only watch."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, without_body)


class Failures:
    """Answers what nobody has caught by 500, and logs it once.

    Starlette's own handler stands outside of CORS, so that a page could not read its answer, and
    it raises the error again, so that the server logs it, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            log_failure(scope, error)
            # An answer that has begun is cut off by the server.
            if not started:
                answer = JSONResponse({"detail": "Internal Server Error"}, 500)
                await answer(scope, receive, send)


def log_failure(scope: Scope, error: Exception) -> None:
    """Log what happened and where, but nothing of what was sent.

    An error's text may quote it: PostgreSQL's detail has the whole row that did not fit, a secret
    with it. PostgreSQL's own sentence has names only.
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
