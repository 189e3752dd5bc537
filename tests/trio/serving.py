"""The one port, served for a test without a database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio
from fastapi import FastAPI
from trio_websocket import WebSocketConnection, wrap_client_stream
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Request

from bridge import events
from bridge.live.hub import Hub
from bridge.live.session import Limits, LiveStream
from bridge.web.front import Front

LIMITS = Limits(
    message_bytes=64 * 1024, buffer_bytes=1024 * 1024, handshake_seconds=5.0, ping_seconds=20.0
)


async def right_token(token: str) -> bool:
    return token == "right"


@dataclass
class Serving:
    """A running front: its port, its hub and its stream."""

    port: int
    hub: Hub
    live: LiveStream
    nursery: trio.Nursery
    next_id: int = 1
    streams: list[trio.SocketStream] = field(default_factory=list)

    def publish(self, payload: str = "{}", count: int = 1) -> None:
        """Publish events with consecutive ids."""
        now = datetime.now(UTC)
        ids = range(self.next_id, self.next_id + count)
        self.next_id += count
        self.hub.publish([events.Event(each, "test.event", payload, now) for each in ids])

    async def connect(
        self, query: str = "?token=right", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> WebSocketConnection:
        """Connect a polite client."""
        return await wrap_client_stream(
            self.nursery,
            await self.raw(),
            "127.0.0.1",
            f"/ws{query}",
            extra_headers=list(headers),
            message_queue_size=100,
        )

    async def raw(self) -> trio.SocketStream:
        """Connect, and say nothing."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.streams.append(stream)
        return stream


@asynccontextmanager
async def serving(
    *, limits: Limits = LIMITS, may_listen: Callable[[str], Awaitable[bool]] = right_token
) -> AsyncIterator[Serving]:
    """Serve the stream, and a REST API with one page, on a free port."""
    api = FastAPI()

    @api.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    hub = Hub(0)
    live = LiveStream(hub, may_listen=may_listen, limits=limits)
    front = Front(api, live.serve, handshake_seconds=limits.handshake_seconds)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.accept, listeners, nursery)
            port = listeners[0].socket.getsockname()[1]
            server = Serving(port, hub, live, nursery)
            try:
                yield server
            finally:
                nursery.cancel_scope.cancel()
                for stream in server.streams:
                    stream.socket.close()


class RawClient:
    """A client that can send whatever it likes, frame by frame."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.CLIENT)

    async def open(self, target: str = "/ws?token=right") -> None:
        request = Request(host="127.0.0.1", target=target)
        await self.stream.send_all(self.protocol.send(request))
        assert isinstance(await self.next(), AcceptConnection)

    async def next(self) -> Event:
        """Return the next thing the server says."""
        while True:
            for event in self.protocol.events():
                return event
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self.protocol.receive_data(data)

    async def close_code(self) -> int:
        """Read on until the server closes, and return its close code."""
        while True:
            event = await self.next()
            if isinstance(event, CloseConnection):
                return int(event.code)


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Return a client's frame, masked with zeros, which leave the payload as it is."""
    head = bytes([(0x80 if fin else 0) | opcode])
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return head + length + b"\0\0\0\0" + payload


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
