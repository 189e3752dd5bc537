"""One REST request on one connection: from its head to the last byte of its answer.

hypercorn serves it, and does more than is wanted here: it would speak HTTP/2 to who asks for it and
WebSocket on any path, reads bodies without end, and waits for slow clients for ever. So it gets a
connection that begins with a clean head and ends in time.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import h11
import structlog
import trio
from fastapi import FastAPI, HTTPException
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

#: What a client that was answered may still send, and for how long, before it is cut off.
LINGER_BYTES: Final = 1024 * 1024
LINGER_SECONDS: Final = 2.0

#: Headers with which hypercorn would go over to another protocol.
_UPGRADING: Final = {b"upgrade", b"http2-settings"}

Message = Any  # as in ASGI: of a type for each of its kinds, by several names
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Refused(Exception):  # noqa: N818 - it is no error of ours
    """What a client sent is not served; it gets this status, and no more."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def refuse(stream: trio.SocketStream, status: int) -> None:
    """Answer a status, in the API's shape of an error, and hang up.

    Raises:
        trio.BrokenResourceError: the connection is gone.
    """
    with trio.move_on_after(LINGER_SECONDS):
        await stream.send_all(_refusal(status))
    await _hang_up(stream)


class Rest:
    """Serves requests of the REST API, one a connection.

    Args:
        api: the API.
        body_seconds: how long a client may take for the body of its request.
        total_seconds: how long all may take, until the answer has been read.
    """

    def __init__(self, api: FastAPI, *, body_seconds: float, total_seconds: float) -> None:
        self._api = api
        self._body_seconds = body_seconds
        self._total_seconds = total_seconds
        self._config = Config()
        self._config.errorlog = logging.getLogger("bridge.web")
        self._config.include_server_header = False
        # A connection is for REST or for the stream from its first byte. A proxy that keeps
        # connections would sooner or later send a handshake over one that was used for REST.
        self._config.keep_alive_max_requests = 0
        self._context = WorkerContext(None)

    async def serve(self, stream: trio.SocketStream, received: bytes, head_bytes: int) -> None:
        """Serve the request that begins so, and hang up. Whoever accepted the stream closes it.

        Args:
            received: what was read from the stream already, from its first byte on.
            head_bytes: how much of that is the head of the request.

        Raises:
            OSError, trio.BrokenResourceError, trio.ClosedResourceError: the connection is gone;
                perhaps in a group.
        """
        try:
            head = _plain_head(received[:head_bytes])
        except Refused as refused:
            await refuse(stream, refused.status)
            return
        # One connection, one request, one task, and what it starts: all their lines have this.
        structlog.contextvars.bind_contextvars(request_id=secrets.token_hex(4))
        received = head + received[head_bytes:]
        exchange = _Exchange(self._api, stream, received, body_seconds=self._body_seconds)
        with trio.move_on_after(self._total_seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_close_when_cancelled, stream)
                await TCPServer(
                    exchange,
                    self._config,
                    self._context,
                    ConnectionState(LifespanState()),
                    exchange,  # type: ignore[arg-type]
                )
                await _hang_up(stream)
                nursery.cancel_scope.cancel()


class _Exchange:
    """Stands between the connection, hypercorn and the API, and has all of it end.

    To hypercorn it is the connection, and the application as well.
    """

    def __init__(
        self, api: FastAPI, stream: trio.SocketStream, received: bytes, *, body_seconds: float
    ) -> None:
        self.socket = stream.socket
        self._api = api
        self._stream = stream
        self._received = received
        self._body_deadline = trio.current_time() + body_seconds
        #: The head of the answer was sent.
        self._has_begun = False
        #: The API has answered: nothing more is read.
        self._is_answered = False
        self._reading = trio.CancelScope()
        self._closed = trio.Event()

    # The connection, to hypercorn.

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return what the client sent; nothing more once it is answered."""
        if self._received:
            await trio.lowlevel.checkpoint()
            received, self._received = self._received, b""
            return received
        if not self._is_answered:
            with trio.CancelScope() as self._reading:
                return await self._stream.receive_some(max_bytes)
        await self._closed.wait()
        raise trio.ClosedResourceError

    async def send_all(self, data: bytes) -> None:
        """Send to the client. What hypercorn refuses by itself has no body, and gets one."""
        if not self._has_begun:
            status = int(data[9:12])  # HTTP/1.1 200 …
            self._has_begun = status >= 200  # not with 100 Continue
            if status >= 400 and b"\r\ncontent-type:" not in data.lower():
                data = _refusal(status)
        await self._stream.send_all(data)

    # hypercorn hangs up as soon as it reads what it cannot, perhaps while the API still answers,
    # and would trip over that. And an answer is to be read. So it does not hang up itself.

    async def send_eof(self) -> None:
        """Do nothing: whoever serves the exchange ends our side."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Let hypercorn's reading end; whoever accepted the connection closes it."""
        self._closed.set()
        await trio.lowlevel.checkpoint()

    # The application, to hypercorn.

    async def __call__(
        self, scope: Any, receive: Receive, send: Send, sync_spawn: object, call_soon: object
    ) -> None:
        """Have the API answer one request."""
        is_body_read = False

        async def receive_in_time() -> Message:
            nonlocal is_body_read
            if is_body_read:
                return await receive()  # that the client has hung up, whenever it does
            with trio.move_on_at(self._body_deadline):
                message = await receive()
                is_body_read = not message.get("more_body", False)
                return message
            raise HTTPException(408, HTTPStatus(408).phrase)

        async def send_and_end(message: Message) -> None:
            if message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            self._is_answered = True
            self._reading.cancel()
            async with trio.open_nursery() as nursery:
                # hypercorn puts what it reads into a queue of ten, and behind the answer that the
                # client has gone. If nobody takes the body from there, it would wait for ever.
                nursery.start_soon(_take_all, receive)
                await send(message)
                nursery.cancel_scope.cancel()

        await self._api(scope, receive_in_time, send_and_end)


async def _take_all(receive: Receive) -> None:
    while True:
        await receive()


async def _close_when_cancelled(stream: trio.SocketStream) -> None:
    """Close the connection as soon as it is over: hypercorn shields what it sends, however slowly
    it is read, and nothing else ends that.
    """
    try:
        await trio.sleep_forever()
    finally:
        stream.socket.close()


def _plain_head(head: bytes) -> bytes:
    """Return the head of a request without what asks for another protocol.

    Raises:
        Refused: it is no request of HTTP/1.1 or 1.0.
    """
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    try:
        request = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused(error.error_status_hint) from None
    if not isinstance(request, h11.Request):
        raise Refused(400)
    if request.http_version not in (b"1.1", b"1.0"):
        raise Refused(505)
    lines = [b"%b %b HTTP/%b" % (request.method, request.target, request.http_version)]
    lines += [
        b"%b: %b" % (name, value)
        for name, value in request.headers.raw_items()
        if name.lower() not in _UPGRADING
    ]
    return b"\r\n".join([*lines, b"", b""])


def _refusal(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase
    body = json.dumps({"detail": phrase})
    head = (
        f"HTTP/1.1 {status} {phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join([*head, "", body]).encode()


async def _hang_up(stream: trio.SocketStream) -> None:
    """End our side and read on for a moment.

    Closing with unread input would reset the connection, and a client that is still sending a body
    that nobody wants might never see the answer that says so.
    """
    unread_bytes = LINGER_BYTES
    with (
        trio.move_on_after(LINGER_SECONDS),
        suppress(trio.BrokenResourceError, trio.ClosedResourceError),
    ):
        await stream.send_eof()
        while unread_bytes > 0 and (data := await stream.receive_some(65536)):
            unread_bytes -= len(data)
