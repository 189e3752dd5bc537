"""An echo over WebSocket, through the very code that serves the stream.

For conformance suites, such as the fuzzing client of the Autobahn|Testsuite:
``python -m tests.system.ws_echo PORT`` serves on every path until SIGTERM or SIGINT.
"""

from __future__ import annotations

import signal
import sys
from math import inf

import trio
from wsproto.frame_protocol import FrameProtocol

from bridge.live.connection import Connection, ConnectionLimits, serve_connection
from bridge.live.frames import text_frame

#: Suites send messages of 16 MiB, and as fast as they can.
LIMITS = ConnectionLimits(
    message_bytes=64 * 1024 * 1024, buffer_bytes=256 * 1024 * 1024, frames_per_second=inf
)


async def serve_echo(stream: trio.SocketStream, limits: ConnectionLimits = LIMITS) -> None:
    """Serve one accepted connection: every message is sent back as what it is, text or binary."""
    try:
        await serve_connection(stream, _echo, limits=limits, farewell=lambda _: b"")
    finally:
        await trio.aclose_forcefully(stream)


async def _echo(connection: Connection) -> None:
    framing = FrameProtocol(client=False, extensions=[])
    while True:
        message = await connection.websocket.get_message()
        frame = text_frame(message) if isinstance(message, str) else framing.send_data(message)
        connection.outlet.write_nowait(bytes(frame))


async def _main(port: int) -> None:
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve_echo, listeners)
            host, bound_port = listeners[0].socket.getsockname()
            print(f"ws://{host}:{bound_port}/", flush=True)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, int(sys.argv[1]))
