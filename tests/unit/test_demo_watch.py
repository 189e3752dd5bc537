"""The demo's dashboard follows the stream across lost connections."""

import json
from typing import Any

import pytest
import trio
from trio_websocket import WebSocketRequest, serve_websocket

from bridge.demo.watch import Dashboard, NoStreamError
from tests.waiting import PATIENCE_SECONDS


async def test_dashboard_resumes_after_the_last_event(nursery: trio.Nursery) -> None:
    paths = []

    async def serve_two_and_close(request: WebSocketRequest) -> None:
        paths.append(request.path)
        socket = await request.accept()
        await socket.send_message(json.dumps({"type": "connection", "last_event_id": 5}))
        first = 6 if len(paths) == 1 else 8
        for event_id in (first, first + 1):
            await socket.send_message(
                json.dumps({"type": "user.created", "payload": {}, "id": event_id})
            )
        await socket.send_message(json.dumps({"type": "pong"}))
        if len(paths) > 1:
            await trio.sleep_forever()
        await socket.aclose()

    server = await nursery.start(serve_websocket, serve_two_and_close, "127.0.0.1", 0, None)
    seen: list[int] = []
    enough = trio.Event()

    def on_event(message: dict[str, Any]) -> None:
        seen.append(message["id"])
        if len(seen) == 4:
            enough.set()

    dashboard = Dashboard(f"ws://127.0.0.1:{server.port}/ws?token=t", on_event)
    await nursery.start(dashboard.watch)
    with trio.fail_after(PATIENCE_SECONDS):
        await enough.wait()
    assert seen == [6, 7, 8, 9]
    assert paths == ["/ws?token=t", "/ws?token=t&since=7"]
    assert dashboard.reconnections == 1
    nursery.cancel_scope.cancel()


async def test_rejected_first_connection_is_an_error(nursery: trio.Nursery) -> None:
    async def refuse(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await socket.aclose(1008, "Invalid or expired API token")

    server = await nursery.start(serve_websocket, refuse, "127.0.0.1", 0, None)
    dashboard = Dashboard(f"ws://127.0.0.1:{server.port}/ws?token=t", print)
    with pytest.raises(NoStreamError, match="1008"):
        await nursery.start(dashboard.watch)
    nursery.cancel_scope.cancel()
