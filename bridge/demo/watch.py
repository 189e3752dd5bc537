"""The dashboard: a WebSocket client that stays connected."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, HandshakeError, wrap_client_stream

from bridge.tasks import ungrouped

_CONNECT_SECONDS = 10
_PAUSE_SECONDS = 0.5
_LOSSES = (ConnectionClosed, HandshakeError, trio.BrokenResourceError, trio.TooSlowError, OSError)


class NoStreamError(Exception):
    """The bridge does not stream. The message says why."""


class Dashboard:
    """Follow the stream and call ``on_event`` for every event."""

    def __init__(self, url: str, on_event: Callable[[dict[str, Any]], None]) -> None:
        #: How often the client reconnected.
        self.reconnections = 0
        self._url = url
        self._on_event = on_event
        # None before the first connection.
        self._last_event_id: int | None = None

    async def watch(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Follow until cancelled; started once connected. Resume after a lost connection.

        Raises:
            NoStreamError: the first connection failed.
        """
        while True:
            try:
                with ungrouped():
                    await self._watch_once(task_status)
            except _LOSSES as loss:
                if self._last_event_id is None:
                    raise NoStreamError(
                        f"the bridge refused the WebSocket client: {loss}"
                    ) from None
            self.reconnections += 1
            await trio.sleep(_PAUSE_SECONDS)

    async def _watch_once(self, task_status: trio.TaskStatus[None]) -> None:
        """Follow over one connection until it is lost."""
        address = urlsplit(self._url)
        resource = f"{address.path}?{address.query}"
        if self._last_event_id is not None:
            resource += f"&since={self._last_event_id}"
        # On our own stream: the library's client never closes its socket when the server closes.
        stream = await trio.open_tcp_stream(str(address.hostname), address.port or 80)
        async with stream, trio.open_nursery() as nursery:
            with trio.fail_after(_CONNECT_SECONDS):
                socket = await wrap_client_stream(nursery, stream, address.netloc, resource)
                greeting = json.loads(await socket.get_message())
            if self._last_event_id is None:
                self._last_event_id = int(greeting["last_event_id"])
                task_status.started()
            while True:
                message = json.loads(await socket.get_message())
                if "payload" in message:
                    self._last_event_id = max(self._last_event_id, int(message["id"]))
                    self._on_event(message)
