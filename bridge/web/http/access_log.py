"""The access log: one line per request."""

import re
from typing import Any, Final

import structlog
import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.web.http.client import address_of

log = structlog.get_logger()

#: Characters of a path that are logged; the rest is cut off.
LONGEST_PATH: Final = 200
# No segment of the API's paths is this long: it may be a token in the wrong place.
_SUSPICIOUS: Final = re.compile(r"[^/]{20,}")


class AccessLog:
    """Logs every request after its response, without the query, which may contain a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        started, status = trio.current_time(), 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            grant = state.get("grant")
            log.info(
                "request_completed",
                method=scope["method"],
                path=_path(scope),
                status=status or None,  # None: no response was sent
                duration_ms=round(1000 * (trio.current_time() - started), 1),
                address=address_of(scope),
                token=None if grant is None else str(grant),
            )


def _path(scope: Scope) -> str:
    # Still percent-encoded, so that it cannot break a line.
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
    path = raw.partition(b"?")[0].decode("ascii", "backslashreplace")
    return _SUSPICIOUS.sub("…", path)[:LONGEST_PATH]
