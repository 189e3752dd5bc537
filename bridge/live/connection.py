"""One WebSocket connection, from the first byte to the last, whatever the client does.

trio-websocket's own server lets a client take it down: an oversize text and a ping in one segment,
a ping while closing, an exception in a handler. Here each connection has a nursery of its own, and
nothing that happens below it gets out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog
import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)

from bridge.live.outlet import Outlet

log = structlog.get_logger()

#: How long a client may take for its half of a close before the connection is cut.
CLOSE_SECONDS = 2.0
#: How long a client that was cut off may take to read what it has coming, and why.
FAREWELL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may take."""

    message_bytes: int = 64 * 1024
    buffer_bytes: int = 1024 * 1024
    handshake_seconds: float = 10.0


class Connection:
    """An accepted connection; whoever converses on it gets it with the handshake done.

    Args:
        farewell: makes the last frames for a client that was too slow, of the id of the last event
            that it gets.
    """

    __slots__ = (
        "_accepted",
        "_closing_seconds",
        "_farewell",
        "_limits",
        "_nursery",
        "_refusal",
        "_scope",
        "outlet",
        "request",
        "websocket",
    )

    request: WebSocketRequest
    websocket: WebSocketConnection

    def __init__(
        self,
        stream: trio.SocketStream,
        nursery: trio.Nursery,
        limits: ConnectionLimits,
        farewell: Callable[[int], bytes],
    ) -> None:
        self._nursery = nursery
        self._limits = limits
        self._farewell = farewell
        self._scope = trio.CancelScope()
        self._accepted = False
        self._refusal: tuple[int, str] | None = None
        self._closing_seconds = CLOSE_SECONDS
        self.outlet = Outlet(
            stream,
            nursery,
            buffer_bytes=limits.buffer_bytes,
            overflowed=self._too_slow,
            closed=self._closed,
        )

    async def run(self, converse: Callable[[Connection], Awaitable[None]]) -> None:
        """Do the handshake, have ``converse`` do the rest, and close.

        Raises:
            trio_websocket.ConnectionClosed: by the client, or for what it sent.
        """
        with self._scope:
            with trio.move_on_after(self._limits.handshake_seconds):
                self.request = await wrap_server_stream(
                    self._nursery, self.outlet, max_message_size=self._limits.message_bytes
                )
                self.websocket = await self.request.accept()
                self._accepted = True
            if self._accepted:
                await converse(self)
        if self._refusal is not None:
            with trio.move_on_after(CLOSE_SECONDS):
                await self.websocket.aclose(*self._refusal)

    def start_soon(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run something beside the conversation, until the connection ends."""
        self._nursery.start_soon(work, *args)

    def send_away(self, code: int, reason: str) -> None:
        """End what goes on with the client, and close the connection with a code and a reason."""
        self._refusal = (code, reason)
        self._scope.cancel()

    def drop(self) -> None:
        """End what goes on with a client that is gone, without another word."""
        self._refusal = None
        self._scope.cancel()

    async def finish(self) -> None:
        """Send what still waits, as far as the client takes it in time."""
        with trio.move_on_after(self._closing_seconds):
            await self.outlet.drained()

    def _too_slow(self) -> None:
        log.info("client_too_slow", sent_through=self.outlet.sent_through)
        self._closing_seconds = FAREWELL_SECONDS
        self.outlet.cut_off(self._farewell)
        self.drop()

    def _closed(self) -> None:
        if not self._accepted:
            self.drop()  # It was no handshake, and nobody else tells who waits for one.


async def serve_connection(
    stream: trio.SocketStream,
    converse: Callable[[Connection], Awaitable[None]],
    *,
    limits: ConnectionLimits,
    farewell: Callable[[int], bytes],
) -> None:
    """Serve one accepted connection until it ends. Nothing that the client does gets out.

    Args:
        converse: speaks with the client; ``trio_websocket.ConnectionClosed`` may come out of it.
        farewell: see :class:`Connection`.
    """
    try:
        async with trio.open_nursery() as nursery:
            connection = Connection(stream, nursery, limits, farewell)
            with suppress(ConnectionClosed):
                await connection.run(converse)
            await connection.finish()
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # It is gone; that is all there is to know.
    except* Exception:
        # trio-websocket can be crashed by what a client sends; it takes only its own session.
        log.warning("session_crashed", exc_info=True)
    await _hang_up(stream)


async def _hang_up(stream: trio.SocketStream) -> None:
    """End our side and read on for a moment.

    Closing with unread input would reset the connection, and a client that sent too much might
    never see the frame that says so.
    """
    with (
        trio.move_on_after(CLOSE_SECONDS),
        suppress(trio.BrokenResourceError, trio.ClosedResourceError),
    ):
        await stream.send_eof()
        while await stream.receive_some(65536):
            pass
