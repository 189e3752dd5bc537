"""The protocol of ``/ws``: one client from its handshake to its close."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import structlog
import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)

from bridge.db import DatabaseUnavailable
from bridge.live.frames import close_frame, text_frame
from bridge.live.hub import Hub
from bridge.live.outlet import Outlet
from bridge.tokens import token_of_headers

log = structlog.get_logger()

# Close codes (RFC 6455, section 7.4.1, and the IANA registry).
GOING_AWAY = 1001
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013

#: How long a client may take for its half of a close before the connection is cut.
CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask of us."""

    message_bytes: int
    buffer_bytes: int
    handshake_seconds: float
    ping_seconds: float


class LiveStream:
    """Serves WebSocket clients.

    Args:
        hub: where events come from.
        may_listen: tells whether a token may read events.
        limits: of each client.
    """

    def __init__(
        self, hub: Hub, *, may_listen: Callable[[str], Awaitable[bool]], limits: Limits
    ) -> None:
        self._hub = hub
        self._may_listen = may_listen
        self._limits = limits
        # The conversations that are going on; to cancel one is to send its client away.
        self._conversations: set[trio.CancelScope] = set()
        self._last_left = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one accepted connection until it ends. Nothing that the client does gets out."""
        try:
            async with trio.open_nursery() as nursery:
                await self._session(stream, nursery)
                nursery.cancel_scope.cancel()
            await _hang_up(stream)
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # It is gone; that is all there is to know.
        except* Exception:
            # trio-websocket can be crashed by what a client sends; it takes only its own session.
            log.warning("session_crashed", exc_info=True)

    async def stop(self) -> None:
        """Send every client away, and wait a moment for them to go."""
        for conversation in self._conversations:
            conversation.cancel()
        if self._conversations:
            with trio.move_on_after(CLOSE_SECONDS):
                await self._last_left.wait()

    async def _session(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        def too_slow() -> None:
            log.info("client_too_slow", last_event_id=self._hub.last_event_id)
            self._hub.leave(outlet)
            outlet.cut_off(close_frame(TRY_AGAIN_LATER, "too slow: connect again"))
            nursery.cancel_scope.deadline = trio.current_time() + CLOSE_SECONDS

        outlet = Outlet(
            stream, nursery, buffer_bytes=self._limits.buffer_bytes, overflowed=too_slow
        )
        with trio.move_on_after(self._limits.handshake_seconds) as handshake:
            outlet.on_close = handshake.cancel  # a handshake that is none
            request = await wrap_server_stream(
                nursery, outlet, max_message_size=self._limits.message_bytes
            )
            websocket = await request.accept()
        if handshake.cancelled_caught:
            return
        refusal = await self._refusal(request)
        if refusal is not None:
            await _close(websocket, *refusal)
            return
        self._conversations.add(conversation := trio.CancelScope())
        try:
            with conversation:
                # Nothing can happen between the two: what the welcome names as the last event is
                # followed by the next.
                outlet.write_nowait(text_frame(_welcome(self._hub.last_event_id)))
                self._hub.join(outlet)
                nursery.start_soon(self._keep_alive, websocket, nursery)
                await _converse(websocket, outlet)
            self._hub.leave(outlet)
            await _close(websocket, GOING_AWAY, "the bridge is shutting down")
        finally:
            self._hub.leave(outlet)
            self._conversations.discard(conversation)
            if not self._conversations:
                self._last_left.set()

    async def _refusal(self, request: WebSocketRequest) -> tuple[int, str] | None:
        """Return close code and reason for a client that may not listen, None for one that may."""
        token = _token(request)
        if token is None:
            return POLICY_VIOLATION, "Missing API token"
        try:
            if await self._may_listen(token):
                return None
        except DatabaseUnavailable:
            return TRY_AGAIN_LATER, "Database unavailable, connect again"
        return POLICY_VIOLATION, "Invalid or expired API token"

    async def _keep_alive(self, websocket: WebSocketConnection, nursery: trio.Nursery) -> None:
        """Ping now and then; a client that misses two pings is gone."""
        missed = 0
        while missed < 2:
            await trio.sleep(self._limits.ping_seconds)
            with trio.move_on_after(self._limits.ping_seconds) as answer:
                await websocket.ping()
            missed = missed + 1 if answer.cancelled_caught else 0
        nursery.cancel_scope.cancel()


async def _converse(websocket: WebSocketConnection, outlet: Outlet) -> None:
    while True:
        answer = _answer(await websocket.get_message())
        outlet.write_nowait(text_frame(json.dumps(answer)))


def _answer(message: str | bytes) -> dict[str, str]:
    try:
        parsed = json.loads(message)
    except (ValueError, RecursionError):
        return {"type": "error", "code": "bad_json", "message": "not JSON"}
    kind = parsed.get("type") if isinstance(parsed, dict) else None
    if kind == "ping":
        return {"type": "pong"}
    return {"type": "error", "code": "unknown_type", "message": "unknown message type"}


def _welcome(last_event_id: int) -> str:
    return json.dumps(
        {
            "type": "connection",
            "status": "connected",
            "message": "WebSocket connection established",
            "last_event_id": last_event_id,
        }
    )


def _token(request: WebSocketRequest) -> str | None:
    """Return the token of the query string, else of a header; None if there is none."""
    query = parse_qs(urlsplit(request.path).query)
    for name in ("token", "api_key"):
        if query.get(name):
            return query[name][0]
    headers = {name.lower(): value.decode("latin-1") for name, value in request.headers}
    return token_of_headers(headers.get(b"x-api-key", ""), headers.get(b"authorization", ""))


async def _close(websocket: WebSocketConnection, code: int, reason: str) -> None:
    """Close politely; a client that does not answer is not waited for."""
    with trio.move_on_after(CLOSE_SECONDS):
        await websocket.aclose(code, reason)


async def _hang_up(stream: trio.SocketStream) -> None:
    """End our side and read on for a moment.

    Closing with unread input would reset the connection, and a client that sent too much might
    never see the frame that says so.
    """
    with trio.move_on_after(CLOSE_SECONDS):
        await stream.send_eof()
        while await stream.receive_some(65536):
            pass
