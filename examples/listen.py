"""Prints every event of a pgbridge once, in order, whatever becomes of the connection.

BRIDGE_TOKEN=… python examples/listen.py ws://127.0.0.1:8080/ws
"""

import json
import os
import sys

import trio
from trio_websocket import ConnectionClosed, HandshakeError, open_websocket_url

PING_SECONDS = 20


async def listen(url: str, token: str) -> None:
    since: int | None = None  # the last id that is known
    while True:
        # A connection that was lost is made anew, and the bridge sends what came meanwhile.
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
                    if text is None:  # nothing new, or the bridge has vanished: ask
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
                    elif message["type"] == "gap":  # gone from the log; say so, and go on
                        print("missed events after", message["since"], file=sys.stderr, flush=True)
                        since = message["available_from"] - 1
        except ConnectionClosed as closed:
            if closed.reason is not None and closed.reason.code == 1008:
                sys.exit(f"refused: {closed.reason.reason}")  # connecting again would be no help
        except (HandshakeError, trio.TooSlowError):
            pass
        await trio.sleep(1)


if __name__ == "__main__":
    trio.run(listen, sys.argv[1], os.environ["BRIDGE_TOKEN"])
