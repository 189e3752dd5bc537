"""The access log of REST: who asked for what, and what came of it."""

import re
from typing import Any, Final

import structlog
import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.web.api.auth import address_of_scope

log = structlog.get_logger()

#: Characters of a path that are logged.
LONGEST_PATH: Final = 200
# No part of a path of ours is so long; somebody may have put a token there.
_SUSPICIOUS: Final = re.compile(r"[^/]{20,}")


class AccessLog:
    """Logs every request once it is answered: never its query, which may hold a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log it."""
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
                status=status or None,  # None: it ended before there was an answer
                duration_ms=round(1000 * (trio.current_time() - started), 1),
                address=address_of_scope(scope),
                token=None if grant is None else str(grant),
            )


def _path(scope: Scope) -> str:
    # As it was sent: percent-encoded, so that nothing in it breaks a line.
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
    path = raw.partition(b"?")[0].decode("ascii", "backslashreplace")
    return _SUSPICIOUS.sub("…", path)[:LONGEST_PATH]
