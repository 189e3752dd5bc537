"""A WebSocket echo for tests, and a client that can send arbitrary bytes."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from bridge.live.connection import StreamLimits
from tests.system.ws_echo import LIMITS, echo_front
from tests.unit.serving import BINARY, CLOSE, CONTINUATION, TEXT, Sent, frame, sent_by_server
from tests.waiting import PATIENCE_SECONDS

#: The key of the sample handshake in RFC 6455, section 1.3.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: echo.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Client:
    """A client that sends arbitrary bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, data: bytes, piece_bytes: int | None = None) -> None:
        """Send bytes; if a piece size is given, the server reads piece by piece."""
        size = piece_bytes or len(data)
        for start in range(0, len(data), size):
            await self.stream.send_all(data[start : start + size])
            if piece_bytes is not None:
                await trio.testing.wait_all_tasks_blocked()

    async def _more(self) -> bool:
        data = await self.stream.receive_some()
        self._received += data
        return bool(data)

    async def head(self) -> bytes:
        """Receive the answer to the handshake."""
        while b"\r\n\r\n" not in self._received:
            assert await self._more(), f"hung up after {self._received!r}"
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        return head

    async def open(self, query: bytes = b"") -> None:
        await self.send(HANDSHAKE.replace(b"/ws", b"/ws" + query))
        assert (await self.head()).startswith(b"HTTP/1.1 101 ")

    async def frames(self) -> list[Sent]:
        """Receive frames to the end, which must not be a reset."""
        while await self._more():
            pass
        frames, rest = sent_by_server(self._received)
        assert rest == b"", "an incomplete frame"
        return frames


class Echo:
    """A running echo."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: list[trio.SocketStream] = []
        self.ended = trio.Event()

    async def client(self) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        # Each piece is one segment.
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._streams.append(stream)
        return Client(stream)

    async def opened(self) -> Client:
        """Connect and complete the handshake."""
        client = await self.client()
        await client.open()
        return client

    def close(self) -> None:
        for stream in self._streams:
            stream.socket.close()


@asynccontextmanager
async def echoing(limits: StreamLimits = LIMITS) -> AsyncIterator[Echo]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    echo = Echo(listeners[0].socket.getsockname()[1])
    front = echo_front(limits, ended=echo.ended)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.accept, listeners, nursery)
            try:
                yield echo
            finally:
                nursery.cancel_scope.cancel()
                echo.close()


def echoed(*messages: bytes | str) -> list[Sent]:
    """Return the frames that echo these messages."""
    return [
        Sent(TEXT, each.encode()) if isinstance(each, str) else Sent(BINARY, each)
        for each in messages
    ]


def close(code: int, reason: bytes = b"") -> bytes:
    """Return a client's close frame."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def closes_with(sent: Sent, code: int) -> bool:
    """Return whether a frame is a close frame with this code."""
    return sent.opcode == CLOSE and sent.payload[:2] == code.to_bytes(2, "big")


def in_fragments(opcode: int, *payloads: bytes) -> bytes:
    """Return a client's message in fragments."""
    last = len(payloads) - 1
    return b"".join(
        frame(CONTINUATION if number else opcode, payload, fin=number == last)
        for number, payload in enumerate(payloads)
    )
