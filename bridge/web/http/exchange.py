"""One HTTP request and its response: h11 on one side, an ASGI application on the other.

The front has received a whole head. h11 parses it here, and reads the body as the application asks
for it. Everything a client could make last forever has a deadline.
"""

import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import h11
import structlog
import trio
from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Scope

from bridge.access.heads import is_padded
from bridge.tasks import hang_up

#: What a client may still send after the last response, and for how long, before it is cut off.
LINGER_BYTES: Final = 1024 * 1024
LINGER_SECONDS: Final = 2.0

#: How much of a body to read at once. In chunks of one byte, h11 takes milliseconds for it.
_READ_BYTES = 4096
#: Largest head of a chunk, with its extensions; and largest trailers, beyond what one read holds.
_MOST_CHUNK_HEAD_BYTES = 1024


class Refused(Exception):  # noqa: N818 - the client's error, not ours
    """The request is not served; the client gets this status, and why."""

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.detail = detail or HTTPStatus(status).phrase


async def refuse(stream: trio.SocketStream, refused: Refused) -> None:
    """Send an error in the API's shape, and hang up.

    Raises:
        trio.BrokenResourceError: the connection is gone.
    """
    body = json.dumps({"detail": refused.detail})
    head = (
        f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    with trio.move_on_after(LINGER_SECONDS):
        await stream.send_all("\r\n".join([*head, "", body]).encode())
    await hang_up(stream, LINGER_SECONDS, LINGER_BYTES)


class Rest:
    """Serves requests of the REST API and the console.

    Args:
        api: the application.
        body_seconds: how long a client may take to send the body of a request.
        total_seconds: how long a request may take until its response has been sent.
    """

    def __init__(self, api: ASGIApp, *, body_seconds: float, total_seconds: float) -> None:
        self._api = api
        self._body_seconds = body_seconds
        self._total_seconds = total_seconds

    async def serve(
        self, stream: trio.SocketStream, received: bytes, *, may_keep: Callable[[], bool]
    ) -> bytes | None:
        """Serve one request.

        Args:
            received: the bytes received so far, which begin with a complete head.
            may_keep: tells whether another request may follow.

        Returns:
            The bytes received after the request, or None if the connection is done.

        Raises:
            Refused: this is not a request of HTTP/1.1 or 1.0.
            OSError, trio.BrokenResourceError: the connection is gone.
            Exception: the application failed; the client gets 500 if it has no response yet.
        """
        # The head has arrived, so this limits what is incomplete in a body.
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_CHUNK_HEAD_BYTES)
        request = _read_request(http, received)
        deadline = trio.current_time() + self._body_seconds
        exchange = _Exchange(stream, http, request, deadline, may_keep)
        with (
            structlog.contextvars.bound_contextvars(request_id=secrets.token_hex(4)),
            trio.move_on_after(self._total_seconds),
        ):
            try:
                await self._api(_scope(request, stream), exchange.receive, exchange.send)
            except Exception:
                if http.our_state is h11.SEND_RESPONSE:  # no response has been sent
                    with suppress(trio.BrokenResourceError):
                        await refuse(stream, Refused(500))
                raise
            is_done = http.our_state is http.their_state is h11.DONE
            # The response may have started before the stop, and ended after it.
            if is_done and may_keep() and not exchange.is_gone:
                return http.trailing_data[0]
            await hang_up(stream, LINGER_SECONDS, LINGER_BYTES)
        return None


class _Exchange:
    """The ASGI ends of one request: ``receive`` and ``send``."""

    def __init__(
        self,
        stream: trio.SocketStream,
        http: h11.Connection,
        request: h11.Request,
        body_deadline: float,
        may_keep: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._http = http
        self._method = request.method
        self._is_chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
        self._body_deadline = body_deadline
        self._may_keep = may_keep
        self._start: Message | None = None
        #: The client is gone; what the application still sends is discarded.
        self.is_gone = False

    async def receive(self) -> Message:
        """Return the next piece of the body; after the last one, wait for the client to leave.

        Raises:
            HTTPException: 408, the body took too long; 400, it is malformed or incomplete.
        """
        is_read = self._http.their_state is not h11.SEND_BODY
        deadline = float("inf") if is_read else self._body_deadline
        try:
            while (event := self._next_event()) is h11.NEED_DATA:
                with trio.move_on_at(deadline) as wait:
                    await self._receive_more()
                if wait.cancelled_caught:
                    raise HTTPException(408)
        except h11.RemoteProtocolError as error:
            raise HTTPException(error.error_status_hint) from None
        if isinstance(event, h11.Data):
            return {"type": "http.request", "body": bytes(event.data), "more_body": True}
        if isinstance(event, h11.ConnectionClosed):
            return {"type": "http.disconnect"}
        if not isinstance(event, h11.EndOfMessage):
            await trio.sleep_forever()  # another request is waiting
        return {"type": "http.request", "body": b"", "more_body": False}

    def _next_event(self) -> object:
        """Return h11's next event.

        Raises:
            h11.RemoteProtocolError: the request is malformed.
        """
        if self._is_chunked and is_padded(self._http.trailing_data[0]):
            raise h11.RemoteProtocolError("padded trailers")
        return self._http.next_event()

    async def _receive_more(self) -> None:
        if self._http.they_are_waiting_for_100_continue:
            go_ahead = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            await self._send_all(self._http.send(go_ahead) or b"")
        try:
            data = await self._stream.receive_some(_READ_BYTES)
        except trio.BrokenResourceError:
            data = b""
        self._http.receive_data(bytes(data))

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self._start = message  # sent together with the first piece of the body
            return
        events: list[h11.Event] = []
        if self._start is not None:
            events.append(self._head(self._start))
            self._start = None
        if self._method != b"HEAD" and message.get("body"):
            events.append(h11.Data(data=message["body"]))
        if not message.get("more_body", False):
            events.append(h11.EndOfMessage())
        await self._send_all(b"".join(self._http.send(event) or b"" for event in events))

    def _head(self, start: Message) -> h11.Response:
        headers = [*start["headers"], (b"date", formatdate(usegmt=True).encode())]
        if not (self._has_whole_request() and self._may_keep()):
            headers.append((b"connection", b"close"))
        status = HTTPStatus(start["status"])
        return h11.Response(
            status_code=status, headers=headers, reason=status.phrase.encode(), http_version=b"1.1"
        )

    def _has_whole_request(self) -> bool:
        """Tell whether the body has been read; applications do not read empty ones."""
        if self._http.their_state is h11.SEND_BODY:
            with suppress(h11.RemoteProtocolError):
                self._next_event()
        # Not after a request to upgrade: what follows may be in the other protocol.
        return self._http.their_state is h11.DONE

    async def _send_all(self, data: bytes) -> None:
        if not self.is_gone:
            try:
                await self._stream.send_all(data)
            except trio.BrokenResourceError:
                self.is_gone = True


def _read_request(http: h11.Connection, received: bytes) -> h11.Request:
    http.receive_data(received)
    try:
        request = http.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused(error.error_status_hint) from None
    if not isinstance(request, h11.Request):
        raise Refused(400)
    if request.http_version not in (b"1.1", b"1.0"):
        raise Refused(505)
    # A proxy in front might use the other one as the length of the body (RFC 9112, 6.3).
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
        raise Refused(400)
    return request


def _scope(request: h11.Request, stream: trio.SocketStream) -> Scope:
    path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode(),
        "scheme": "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": stream.socket.getpeername()[:2],
        "server": stream.socket.getsockname()[:2],
    }
