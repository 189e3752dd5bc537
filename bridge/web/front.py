"""The one port: a WebSocket handshake goes to the live stream, everything else to the REST API."""

import logging
from collections.abc import Awaitable, Callable
from enum import Enum, auto

import structlog
import trio
from fastapi import FastAPI
from h11 import LocalProtocolError
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

log = structlog.get_logger()

#: How a request for the stream begins; then follows the query or the protocol's version.
_STREAM_REQUEST = b"GET /ws"
#: Between two looks at what has come of it: at first, and at most.
_PEEK_SECONDS = (0.02, 1.0)


class _Wanted(Enum):
    """What a client is after; NOTHING if it hangs up or says too little in time."""

    STREAM = auto()
    REST = auto()
    NOTHING = auto()


class Front:
    """Accepts connections and hands each to whom it is for.

    Args:
        api: the REST API.
        live: serves one WebSocket connection.
        handshake_seconds: how long a client may take to say what it wants.
    """

    def __init__(
        self,
        api: FastAPI,
        live: Callable[[trio.SocketStream], Awaitable[None]],
        *,
        handshake_seconds: float,
    ) -> None:
        self._api = ASGIWrapper(api)  # type: ignore[arg-type]
        self._live = live
        self._handshake_seconds = handshake_seconds
        self._config = Config()
        self._config.errorlog = logging.getLogger("bridge.web")
        self._config.include_server_header = False
        # A connection is for REST or for the stream from its first byte. A proxy that keeps
        # connections would sooner or later send a handshake over one that was used for REST.
        self._config.keep_alive_max_requests = 0
        self._context = WorkerContext(None)

    async def accept(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
        """Accept for ever; connections run in their own nursery, and outlive this."""
        await trio.serve_listeners(self._connection, listeners, handler_nursery=connections)

    async def stop(self) -> None:
        """Have idle REST connections closed."""
        await self._context.terminated.set()

    async def _connection(self, stream: trio.SocketStream) -> None:
        try:
            wanted = await self._wanted(stream)
            if wanted is _Wanted.STREAM:
                await self._live(stream)
            elif wanted is _Wanted.REST:
                await TCPServer(
                    self._api,
                    self._config,
                    self._context,
                    ConnectionState(LifespanState()),
                    stream,  # type: ignore[arg-type]
                )
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The client is gone.
        except* (trio.BusyResourceError, LocalProtocolError):
            # hypercorn falls over garbage behind a request to upgrade.
            log.info("client_broke_protocol", reason="what follows its request")
        except* Exception:
            log.exception("connection_crashed")
        finally:
            await trio.aclose_forcefully(stream)

    async def _wanted(self, stream: trio.SocketStream) -> _Wanted:
        """Look at what the client sent, without taking it."""
        enough = len(_STREAM_REQUEST) + 1
        pause, longest = _PEEK_SECONDS
        with trio.move_on_after(self._handshake_seconds):
            while True:
                head = await stream.socket.recv(enough, trio.socket.MSG_PEEK)
                if len(head) == enough:
                    for_stream = head[:-1] == _STREAM_REQUEST and head[-1:] in b" ?"
                    return _Wanted.STREAM if for_stream else _Wanted.REST
                if not head:
                    return _Wanted.NOTHING
                if not _STREAM_REQUEST.startswith(head):
                    return _Wanted.REST
                await trio.sleep(pause)  # what is there stays readable
                pause = min(2 * pause, longest)
        return _Wanted.NOTHING
