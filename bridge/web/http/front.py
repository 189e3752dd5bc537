"""The one port: WebSocket handshakes go to the live stream, all other requests to REST.

Clients are not authenticated yet. Until the head of a request has arrived, each costs one small
task, and is disconnected if it takes too long.
"""

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio
from starlette.types import ASGIApp

from bridge.access.heads import END_OF_HEAD, head_problem
from bridge.web.http.exchange import Refused, Rest, refuse

log = structlog.get_logger()

#: Largest head of a request. A client that exceeds this, the next, or MOST_HEADERS gets 431. They
#: are checked before the head is parsed.
MOST_HEAD_BYTES: Final = 16 * 1024
#: Most separators in a head: of parameters, cookies, and the items of lists. Each costs about as
#: much as a hundred bytes do. Browsers keep at most 180 cookies per site.
MOST_SEPARATORS: Final = 1_000
#: Connections that wait for a request, the idle ones included. Each has a task and at most
#: MOST_HEAD_BYTES, so this queue holds at most 16 MiB. When it is full, the one that has waited
#: longest is closed: honest clients send their request at once, so a flood of idle connections
#: does not keep them out.
MOST_WAITING: Final = 1_000
#: Requests on one connection.
MOST_REQUESTS: Final = 1_000
#: How long a connection may be idle between requests. nginx closes it after 60 s and Caddy after
#: 120 s: the proxy should go first, since it knows that it is not about to send a request.
IDLE_SECONDS: Final = 150.0
#: Clients can cause some log events at will. Each of these is logged at most once in this time.
TELL_SECONDS: Final = 60.0

_READ_BYTES = 4096
#: A request for the stream: the path ends with the query or the version of HTTP.
_FOR_STREAM = re.compile(rb"GET /ws[ ?]")
#: A method, or the beginning of one.
_MAY_BE_REQUEST = re.compile(rb"[A-Z][A-Z_-]{0,31}(?: |\Z)")
#: The first bytes of TLS: a handshake record, of any version.
_TLS = b"\x16\x03"
#: Pause after a client could not be accepted.
_ACCEPT_AGAIN_SECONDS = 0.01


class _GoneError(Exception):
    """The client is gone, or gets no response."""


class Front:
    """Accepts connections and passes each request to the stream or to the API.

    Args:
        api: the REST API and the console, an ASGI application.
        live: serves one WebSocket connection, given the bytes received and the size of the head;
            None: there is no stream, and /ws is a path of the API.
        handshake_seconds: how long a client may take to send the head of its first request.
        most_waiting: how many connections may wait for a request at once.
        body_seconds: how long a client may take to send the body of a request.
        rest_seconds: how long a request may take until its response has been sent.
        most_requests: how many requests a connection may have.
    """

    def __init__(
        self,
        api: ASGIApp,
        live: Callable[[trio.SocketStream, bytes, int], Awaitable[None]] | None = None,
        *,
        handshake_seconds: float,
        most_waiting: int = MOST_WAITING,
        body_seconds: float = 30.0,
        rest_seconds: float = 180.0,  # a test delivery may take 120
        most_requests: int = MOST_REQUESTS,
    ) -> None:
        self._rest = Rest(api, body_seconds=body_seconds, total_seconds=rest_seconds)
        self._live = live
        self._handshake_seconds = handshake_seconds
        self._most_waiting = most_waiting
        self._most_requests = most_requests
        # Connections that wait for a request, longest first.
        self._waiting: OrderedDict[trio.CancelScope, None] = OrderedDict()
        self._is_stopping = False
        self._told_at: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """How many connections wait for a request."""
        return len(self._waiting)

    async def accept(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
        """Accept forever. Connections run in a nursery of their own, and may outlive this task."""
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._accept_from, listener, connections)

    def stop(self) -> None:
        """Close the connections that wait for a request, and the others after their response."""
        self._is_stopping = True
        while self._waiting:
            self._close_longest_waiting()

    async def _accept_from(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        async with listener:
            someone_waits = False
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    # Usually too many open files. That error also comes when no client waits, so
                    # wait for one and try again before closing another: there may be room by then.
                    # (trio's own loop would log ten tracebacks a second.)
                    self._tell(log.warning, "accept_failed", error=error.strerror)
                    if someone_waits:
                        if self._waiting:
                            self._close_longest_waiting()
                        await trio.sleep(_ACCEPT_AGAIN_SECONDS)
                    await trio.lowlevel.wait_readable(listener.socket)
                    someone_waits = True
                else:
                    someone_waits = False
                    connections.start_soon(self._connection, stream)

    async def _connection(self, stream: trio.SocketStream) -> None:
        try:
            await self._serve(stream)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, _GoneError):
            pass
        except* Exception:
            log.exception("connection_crashed")
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        received: bytes | None = b""
        served, seconds = 0, self._handshake_seconds

        def may_keep() -> bool:
            return served < self._most_requests and not self._is_stopping

        try:
            while received is not None:
                received, head_bytes = await self._receive_in_time(stream, received, seconds)
                if self._live is not None and _FOR_STREAM.match(received):
                    await self._live(stream, received, head_bytes)
                    return
                served, seconds = served + 1, IDLE_SECONDS
                received = await self._rest.serve(stream, received, may_keep=may_keep)
        except Refused as refused:
            await refuse(stream, refused)

    async def _receive_in_time(
        self, stream: trio.SocketStream, received: bytes, seconds: float
    ) -> tuple[bytes, int]:
        """Receive until the head of a request is complete; return all bytes, and the head's size.

        Raises:
            Refused: none arrives, and the client gets a response.
            _GoneError: none arrives, and the client gets no response.
            trio.BrokenResourceError: the connection is gone.
        """
        buffer = bytearray(received)
        if len(self._waiting) >= self._most_waiting:
            self._close_longest_waiting()
        with trio.move_on_after(seconds) as wait:
            self._waiting[wait] = None
            try:
                head_bytes = await self._receive_head(stream, buffer)
            finally:
                self._waiting.pop(wait, None)
            return bytes(buffer), head_bytes
        if buffer and trio.current_time() >= wait.deadline:
            raise Refused(408)
        raise _GoneError

    async def _receive_head(self, stream: trio.SocketStream, received: bytearray) -> int:
        searched_bytes = 0
        while True:
            if received and (size := self._head_bytes(received, searched_bytes)) is not None:
                return size
            searched_bytes = max(0, len(received) - 2)
            data = await stream.receive_some(_READ_BYTES)
            if not data:
                if received:
                    raise Refused(400)  # it has ended its side, and may still read
                raise _GoneError
            received += data

    def _head_bytes(self, received: bytearray, searched_bytes: int) -> int | None:
        """Return the size of the head, or None if it is incomplete.

        Raises:
            Refused: it cannot become one, or is too large.
            _GoneError: this is TLS.
        """
        if received.startswith(_TLS):
            hint = "terminate TLS at a proxy in front of the bridge"
            self._tell(log.info, "tls_handshake_rejected", hint=hint)
            raise _GoneError
        if not _MAY_BE_REQUEST.match(received) and received != _TLS[:1]:
            raise Refused(400)
        end = END_OF_HEAD.search(received, searched_bytes)
        size = len(received) if end is None else end.end()
        if size > MOST_HEAD_BYTES:
            raise Refused(431)
        if end is None:
            return None
        head = bytes(received[:size])
        if problem := head_problem(head):
            raise Refused(431, problem.capitalize())
        if sum(map(head.count, (b"&", b",", b";"))) > MOST_SEPARATORS:
            raise Refused(431, f"More than {MOST_SEPARATORS} of & , ; in the head")
        return size

    def _close_longest_waiting(self) -> None:
        wait, _ = self._waiting.popitem(last=False)
        wait.cancel()

    def _tell(self, write: Callable[..., object], event: str, **facts: object) -> None:
        """Log an event that clients can cause at will, but only once in a while."""
        now = trio.current_time()
        if now - self._told_at.get(event, -TELL_SECONDS) >= TELL_SECONDS:
            self._told_at[event] = now
            write(event, **facts)
