"""The dashboard: a WebSocket client that stays connected."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, open_websocket_url

_CONNECT_SECONDS = 10
_PAUSE_SECONDS = 0.5


class NoStreamError(Exception):
    """The bridge does not stream: the message says what it did instead."""


class Dashboard:
    """Watches the stream; ``on_event`` gets each message that carries an event."""

    def __init__(self, url: str, on_event: Callable[[dict[str, Any]], None]) -> None:
        #: How often the connection was lost and made anew.
        self.reconnections = 0
        self._url = url
        self._on_event = on_event
        self._last_event_id: int | None = None

    async def watch(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Watch until cancelled; started once connected. After a loss, resume where it broke off.

        Raises:
            NoStreamError: the first connection failed.
        """
        while True:
            url = self._url
            if self._last_event_id is not None:
                url += f"&since={self._last_event_id}"
            try:
                async with open_websocket_url(
                    url, connect_timeout=_CONNECT_SECONDS, disconnect_timeout=1
                ) as socket:
                    await self._greet(socket)
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    while True:
                        self._read(json.loads(await socket.get_message()))
            except (ConnectionClosed, HandshakeError, OSError) as error:
                if self._last_event_id is None:
                    raise NoStreamError(
                        f"the bridge refused the WebSocket client: {error}"
                    ) from None
            self.reconnections += 1
            await trio.sleep(_PAUSE_SECONDS)

    async def _greet(self, socket: WebSocketConnection) -> None:
        """Read the first message, which says where the stream begins."""
        with trio.move_on_after(_CONNECT_SECONDS):
            greeting = json.loads(await socket.get_message())
            if greeting.get("type") != "connection":
                raise NoStreamError(f"the stream began with {greeting.get('type')!r}")
            if self._last_event_id is None:
                self._last_event_id = int(greeting.get("last_event_id", 0))
            return
        raise NoStreamError("the bridge accepted the WebSocket client and then said nothing")

    def _read(self, message: dict[str, Any]) -> None:
        if "payload" not in message:
            return
        self._last_event_id = max(self._last_event_id or 0, int(message["id"]))
        self._on_event(message)
