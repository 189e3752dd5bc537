"""The one port with a small API and a stub of the stream, for tests of what any client can send."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import h11
import trio
import trio.testing
from fastapi import Body, FastAPI, HTTPException, Response

from bridge.web.http.front import Front

#: A test that takes longer has failed.
MOST_SECONDS = 60.0
LARGE_BYTES = 16 * 1024 * 1024
HELLO = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
LAST_HELLO = HELLO[:-2] + b"Connection: close\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
JSON = b'{"some": "body"}'
ECHO = POST + b"Content-Length: %d\r\n\r\n" % len(JSON) + JSON
IN_CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"10\r\n" + JSON + b"\r\n0\r\n\r\n"
H2C = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
WEBSOCKET = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def api() -> FastAPI:
    api = FastAPI()

    @api.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    @api.head("/hello")
    async def hello_head() -> dict[str, str]:
        return {"hello": "world"}

    @api.post("/echo")
    async def echo(body: Annotated[Any, Body()]) -> Any:
        return body

    @api.post("/refusing")
    async def refusing() -> None:
        # As if the token were looked up; meanwhile the body arrives.
        await trio.testing.wait_all_tasks_blocked()
        raise HTTPException(401, "Missing API key")

    @api.get("/large")
    async def large() -> Response:
        return Response(bytes(LARGE_BYTES))

    return api


@dataclass
class Fronting:
    """A running front."""

    port: int
    front: Front
    #: Where its connections run.
    connections: trio.Nursery
    #: What was received of each request for the stream.
    for_stream: list[bytes] = field(default_factory=list)
    streams: list[trio.SocketStream] = field(default_factory=list)

    async def connect(self, sent: bytes = b"") -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.streams.append(stream)
        await stream.send_all(sent)
        return stream

    async def answer(self, sent: bytes) -> Answer:
        """Send a request on a new connection, and return the response."""
        return await next_answer(await self.connect(sent))

    async def last_answer(self, sent: bytes) -> Answer:
        """Send a request, and return the response; the server has to hang up behind it."""
        return only_answer(await everything(await self.connect(sent)))

    async def until_idle(self) -> None:
        """Wait until every connection has ended by itself."""
        while self.connections.child_tasks:
            await trio.testing.wait_all_tasks_blocked(0.001)

    async def until_waiting(self, count: int) -> None:
        """Wait until so many connections wait for a request."""
        while self.front.waiting != count:
            await trio.testing.wait_all_tasks_blocked(0.001)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers[b"content-type"] == b"application/json"
        return json.loads(self.body)

    @property
    def is_last(self) -> bool:
        return self.headers.get(b"connection") == b"close"


def parse(received: bytes, method: str = "GET") -> tuple[Answer, bytes] | None:
    """Parse one response, behind any number of 100 Continue; return it and what follows it."""
    if not received:  # to h11, the end of the connection
        return None
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(received)
    head, body = None, b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            return None
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert isinstance(event, h11.InformationalResponse), received
    assert head is not None
    return Answer(head.status_code, dict(head.headers), body), client.trailing_data[0]


def all_answers(received: bytes) -> list[Answer]:
    """Parse whole responses, one behind the other."""
    answers = []
    while received:
        parsed = parse(received)
        assert parsed is not None, received
        answers.append(parsed[0])
        received = parsed[1]
    return answers


def only_answer(received: bytes) -> Answer:
    """Parse the only response of a connection."""
    [answer] = all_answers(received)
    assert answer.is_last
    return answer


async def next_answer(stream: trio.SocketStream, method: str = "GET") -> Answer:
    """Read one response; the server may keep the connection."""
    received = b""
    while (parsed := parse(received, method)) is None:
        data = await stream.receive_some()
        assert data, received
        received += data
    assert parsed[1] == b""
    return parsed[0]


async def everything(stream: trio.SocketStream) -> bytes:
    """Read until the server hangs up."""
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


@asynccontextmanager
async def fronting(send_buffer_bytes: int | None = None, **limits: Any) -> AsyncIterator[Fronting]:
    """Run a front on a free port; at the end nothing of any connection may be left."""

    async def live(stream: trio.SocketStream, received: bytes, _head_bytes: int) -> None:
        server.for_stream.append(received)
        await stream.send_all(b"to the stream")

    front = Front(api(), live, **{"handshake_seconds": 60.0, **limits})
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    if send_buffer_bytes is not None:
        listeners[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    descriptors = len(os.listdir("/proc/self/fd"))
    over = threading.Event()

    async def end_in_time() -> None:
        # By the machine's clock: the test's may stand still.
        if not await trio.to_thread.run_sync(over.wait, MOST_SECONDS, abandon_on_cancel=True):
            raise AssertionError("the test takes too long")

    try:
        async with trio.open_nursery() as nursery, trio.open_nursery() as connections:
            nursery.start_soon(end_in_time)
            nursery.start_soon(front.accept, listeners, connections)
            server = Fronting(listeners[0].socket.getsockname()[1], front, connections)
            try:
                yield server
                for stream in server.streams:
                    stream.socket.close()
                await server.until_idle()
                assert len(os.listdir("/proc/self/fd")) == descriptors
            finally:
                nursery.cancel_scope.cancel()
                connections.cancel_scope.cancel()
                for stream in server.streams:
                    stream.socket.close()
    finally:
        over.set()


def reset(stream: trio.SocketStream) -> None:
    """Hang up so that the server gets a reset."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()
