"""Print every event once and in order, across reconnects.

BRIDGE_TOKEN=… python examples/listen.py ws://127.0.0.1:8080/ws
"""

import json
import os
import sys

import trio
from trio_websocket import ConnectionClosed, HandshakeError, open_websocket_url

PING_SECONDS = 20


async def listen(url: str, token: str) -> None:
    since: int | None = None  # the last known id
    while True:
        # After a disconnect, reconnect; the bridge then sends what was missed.
        target = url if since is None else f"{url}?since={since}"
        headers = [(b"Authorization", f"Bearer {token}".encode())]
        try:
            async with open_websocket_url(
                target,
                extra_headers=headers,
                max_message_size=64 * 1024 * 1024,
                connect_timeout=10,
                disconnect_timeout=1,
            ) as websocket:
                while True:
                    text = None
                    with trio.move_on_after(PING_SECONDS):
                        text = await websocket.get_message()
                    if text is None:  # no events, or the bridge is gone: ping it
                        await websocket.send_message('{"type": "ping"}')
                        with trio.fail_after(PING_SECONDS):
                            text = await websocket.get_message()
                    message = json.loads(text)
                    if "payload" in message:
                        if message["id"] > (since or 0):
                            payload = json.dumps(message["payload"])
                            print(message["id"], message["type"], payload, flush=True)
                            since = message["id"]
                    elif message["type"] == "connection" and since is None:
                        since = message["last_event_id"]
                        print("listening", file=sys.stderr, flush=True)
                    elif message["type"] == "resumed":
                        since = max(since or 0, message["to"])
                    elif message["type"] == "gap":  # events have expired
                        print("missed events after", message["since"], file=sys.stderr, flush=True)
                        since = message["available_from"] - 1
        except ConnectionClosed as closed:
            if closed.reason is not None and closed.reason.code == 1008:
                sys.exit(f"refused: {closed.reason.reason}")  # a retry would fail again
        except (HandshakeError, trio.TooSlowError):
            pass
        await trio.sleep(1)


if __name__ == "__main__":
    trio.run(listen, sys.argv[1], os.environ["BRIDGE_TOKEN"])
