"""A WebSocket echo server on the code path of the stream, from port to connection.

For conformance suites such as the fuzzing client of the Autobahn|Testsuite:
``python -m tests.system.ws_echo PORT`` serves ``/ws`` until SIGTERM or SIGINT.
"""

import signal
import sys
from math import inf

import trio
from fastapi import FastAPI
from wsproto.frame_protocol import FrameProtocol

from bridge.live.connection import Connection, StreamLimits, serve_connection
from bridge.live.framing import text_frame
from bridge.live.handshake import Opening
from bridge.web.http.front import Front

#: Suites send messages of 16 MiB at full speed.
LIMITS = StreamLimits(
    message_bytes=64 * 1024 * 1024, buffer_bytes=256 * 1024 * 1024, frames_per_second=inf
)


def echo_front(limits: StreamLimits = LIMITS, *, ended: trio.Event | None = None) -> Front:
    """Return a front that echoes every message, text as text and binary as binary.

    Args:
        ended: set when a connection has ended.
    """

    async def serve(stream: trio.SocketStream, received: bytes, head_bytes: int) -> None:
        await serve_connection(stream, received, head_bytes, _echo, limits=limits)
        if ended is not None:
            ended.set()

    return Front(FastAPI(), serve, handshake_seconds=limits.handshake_seconds)


async def _echo(connection: Connection, _opening: Opening) -> None:
    connection.intake.admitted()
    framing = FrameProtocol(client=False, extensions=[])
    while True:
        message = await connection.websocket.get_message()
        frame = text_frame(message) if isinstance(message, str) else framing.send_data(message)
        connection.outlet.write_nowait(bytes(frame))


async def _main(port: int) -> None:
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo_front().accept, listeners, nursery)
            host, bound_port = listeners[0].socket.getsockname()
            print(f"ws://{host}:{bound_port}/ws", flush=True)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, int(sys.argv[1]))
