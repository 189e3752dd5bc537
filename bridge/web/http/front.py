"""The one port: a WebSocket handshake goes to the live stream, everything else to the REST API.

Nobody has shown a token yet. So a client costs one small task until its request is there, and is
closed when that takes too long; only a whole head of a request is handed on.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio
from fastapi import FastAPI

from bridge.web.http.exchange import Refused, Rest, refuse

log = structlog.get_logger()

#: Longest head of a request; h11, which hypercorn and wsproto read it with, takes no longer one.
MOST_HEAD_BYTES: Final = 16 * 1024
#: Connections whose request is not there yet. Each has a task and at most MOST_HEAD_BYTES, so this
#: queue holds 16 MiB at worst. When it is full, whoever has waited longest is closed for the next:
#: an honest client says its request at once, and a flood of idle ones keeps nobody out.
MOST_WAITING: Final = 1_000
#: How often at most a line of the log tells of what a flood of clients would fill it with.
TELL_SECONDS: Final = 60.0

_READ_BYTES = 4096
#: A request for the stream: behind the path come the query or the protocol's version.
_FOR_STREAM = re.compile(rb"GET /ws[ ?]")
#: What may become a request: its method, or the beginning of one.
_MAY_BE_REQUEST = re.compile(rb"[A-Z][A-Z_-]{0,31}(?: |\Z)")
#: Where the head of a request ends; h11 takes bare line feeds, too.
_END_OF_HEAD = re.compile(rb"\n\r?\n")
#: How TLS begins: a record of a handshake, of any version there is.
_TLS = b"\x16\x03"
#: When the next client cannot be accepted, it is tried again so much later.
_ACCEPT_AGAIN_SECONDS = 0.01


class _GoneError(Exception):
    """There is nobody, or nothing, to answer."""


class Front:
    """Accepts connections and hands each to whom it is for.

    Args:
        api: the REST API.
        live: serves one WebSocket connection, given the bytes received and the size of the head.
        handshake_seconds: how long a client may take for the head of its request.
        most_waiting: how many connections may be about to say their request at once.
        body_seconds: how long a client of REST may take for the body of its request.
        rest_seconds: how long a request of REST may take in all, until its answer has been read.
    """

    def __init__(
        self,
        api: FastAPI,
        live: Callable[[trio.SocketStream, bytes, int], Awaitable[None]],
        *,
        handshake_seconds: float,
        most_waiting: int = MOST_WAITING,
        body_seconds: float = 30.0,
        rest_seconds: float = 180.0,  # a test of a webhook may take 120
    ) -> None:
        self._rest = Rest(api, body_seconds=body_seconds, total_seconds=rest_seconds)
        self._live = live
        self._handshake_seconds = handshake_seconds
        self._most_waiting = most_waiting
        # Who waits to be heard, longest first.
        self._waiting: OrderedDict[trio.CancelScope, None] = OrderedDict()
        self._told_at: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """How many connections have not said their request yet."""
        return len(self._waiting)

    async def accept(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
        """Accept for ever; connections run in their own nursery, and outlive this."""
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._accept_from, listener, connections)

    def stop(self) -> None:
        """Close the connections that have not said their request yet."""
        while self._waiting:
            self._close_longest_waiting()

    async def _accept_from(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    # Too many open files, as a rule. trio's own loop would log a traceback ten
                    # times a second; and the next client waits already, so somebody has to go.
                    self._tell(log.warning, "accept_failed", error=error.strerror)
                    if self._waiting:
                        self._close_longest_waiting()
                    await trio.sleep(_ACCEPT_AGAIN_SECONDS)
                else:
                    connections.start_soon(self._connection, stream)

    async def _connection(self, stream: trio.SocketStream) -> None:
        try:
            await self._serve(stream)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, _GoneError):
            pass  # The client is gone, or was not worth an answer.
        except* Exception:
            log.exception("connection_crashed")
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            received, head_bytes = await self._receive_in_time(stream)
        except Refused as refused:
            await refuse(stream, refused.status)
            return
        if _FOR_STREAM.match(received):
            await self._live(stream, received, head_bytes)
        else:
            await self._rest.serve(stream, received, head_bytes)

    async def _receive_in_time(self, stream: trio.SocketStream) -> tuple[bytes, int]:
        """Return what came until the head of the request was there, and the size of the head.

        Raises:
            Refused: there is none, and the client is to be told.
            _GoneError: there is none, and it is not.
            trio.BrokenResourceError: the connection is gone.
        """
        received = bytearray()
        if len(self._waiting) >= self._most_waiting:
            self._close_longest_waiting()
        with trio.move_on_after(self._handshake_seconds) as wait:
            self._waiting[wait] = None
            try:
                head_bytes = await self._receive_head(stream, received)
            finally:
                self._waiting.pop(wait, None)
            return bytes(received), head_bytes
        if received and trio.current_time() >= wait.deadline:
            raise Refused(408)
        raise _GoneError

    async def _receive_head(self, stream: trio.SocketStream, received: bytearray) -> int:
        """Receive until the head is there, and return its size."""
        while True:
            data = await stream.receive_some(_READ_BYTES)
            if not data:
                if received:
                    raise Refused(400)  # it has ended its side, and may still read
                raise _GoneError
            searched_bytes = max(0, len(received) - 2)
            received += data
            if received.startswith(_TLS):
                hint = "terminate TLS at a proxy in front of the bridge"
                self._tell(log.info, "tls_handshake_rejected", hint=hint)
                raise _GoneError
            if not _MAY_BE_REQUEST.match(received) and received != _TLS[:1]:
                raise Refused(400)
            end = _END_OF_HEAD.search(received, searched_bytes)
            size = len(received) if end is None else end.end()
            if size > MOST_HEAD_BYTES:
                raise Refused(431)
            if end is not None:
                return size

    def _close_longest_waiting(self) -> None:
        wait, _ = self._waiting.popitem(last=False)
        wait.cancel()

    def _tell(self, write: Callable[..., object], event: str, **facts: object) -> None:
        """Log what any number of clients may cause, but now and then only."""
        now = trio.current_time()
        if now - self._told_at.get(event, -TELL_SECONDS) >= TELL_SECONDS:
            self._told_at[event] = now
            write(event, **facts)
