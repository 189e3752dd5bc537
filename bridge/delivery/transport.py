"""Sends one request to a receiver and reads the beginning of its response.

Connections are reused. Redirects, cookies, proxies and environment variables are ignored. h11 on
trio streams is used directly: an HTTP client's pool and layers cost several times the request.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import h11
import structlog
import trio

from bridge.delivery.connection import (
    IDLE_SECONDS,
    Connection,
    HungUpError,
    IdleConnections,
    Resolve,
    open_stream,
)
from bridge.delivery.failures import describe_error, timeout_text
from bridge.delivery.retry import Answer, Failure
from bridge.delivery.url import Origin, Target, parse_url
from bridge.tasks import ungrouped

log = structlog.get_logger()

#: How much of a response's body to read and store.
RESPONSE_BYTES = 16 * 1024
#: Maximum number of interim responses (1xx): each costs CPU, and none is used.
INTERIM_RESPONSES = 32
#: Maximum number of pieces of a response's body, such as chunks: each costs CPU. The rest is not
#: read.
RESPONSE_PIECES = 100
#: How long to keep sending a large body to a receiver that has responded.
LATE_BODY_SECONDS = 1.0

_NOTHING: Mapping[str, object] = {}


@dataclass(slots=True)
class _Progress:
    """How far an attempt has come when it is cut off."""

    phase: Failure = Failure.TIMEOUT_DNS
    status: int | None = None
    retry_after: str | None = None
    body: bytearray = field(default_factory=bytearray)

    def answer(self, failure: Failure | None = None, error: str | None = None) -> Answer:
        text = _text(self.body) if self.status is not None else None
        return Answer(self.status, text, failure, error, self.retry_after)


class Transport:
    """Posts to receivers. Leaving its context closes the idle connections.

    Args:
        resolve: finds and checks the addresses of a host. Connections go nowhere else.
        max_idle: maximum number of idle connections to keep.
    """

    def __init__(
        self, resolve: Resolve, *, max_idle: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self._resolve = resolve
        self._tls = tls or ssl.create_default_context()
        self._idle = IdleConnections(max_idle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_idle(older_than_seconds=0)

    async def post(
        self,
        url: str,
        *,
        headers: bytes,
        body: bytes,
        deadline_seconds: float,
        about: Mapping[str, object] = _NOTHING,
    ) -> Answer:
        """Post the body and return the response. Never raises for what a receiver does.

        Args:
            headers: whole lines, each with its CRLF.
            deadline_seconds: for the whole attempt; a timeout between two bytes would not stop a
                receiver that sends a byte now and then.
            about: fields that identify the delivery in the log if there is a bug here.
        """
        progress = _Progress()
        with trio.move_on_after(deadline_seconds) as attempt:
            try:
                await self._post(parse_url(url), headers, body, progress)
                return progress.answer()
            except Exception as error:
                has_status = progress.status is not None
                kind, text = describe_error(error, progress.phase, has_status=has_status)
                if kind is Failure.INTERNAL:
                    log.exception("attempt_crashed", **about)
                return progress.answer(kind, text)
        assert attempt.cancelled_caught  # noqa: S101
        return progress.answer(progress.phase, timeout_text(progress.phase, deadline_seconds))

    def close_idle(self, *, older_than_seconds: float = IDLE_SECONDS) -> None:
        """Close the connections that have been idle for this long. Call it now and then."""
        self._idle.close(older_than_seconds)

    async def _post(self, target: Target, headers: bytes, body: bytes, progress: _Progress) -> None:
        request = b"%bContent-Length: %d\r\n%b\r\n" % (target.head, len(body), headers), body
        connection = self._idle.take(target.origin)
        if connection is not None:
            try:
                await self._exchange(connection, request, progress)
                return
            except (HungUpError, trio.BrokenResourceError):
                # The idle connection was closed as we wrote, which is normal. If the receiver got
                # the request anyway, it recognises the repeat by its webhook-id.
                if progress.status is not None:
                    raise
        connection = await self._connect(target.origin, progress)
        await self._exchange(connection, request, progress)

    async def _exchange(
        self, connection: Connection, request: tuple[bytes, bytes], progress: _Progress
    ) -> None:
        is_kept = False
        _, body = request
        try:
            progress.phase = Failure.TIMEOUT_SEND
            position = await connection.send(*request)
            if position == len(body):
                progress.phase = Failure.TIMEOUT_ANSWER
                is_complete = await _read(connection, progress)
            else:
                with ungrouped():
                    is_complete = await self._send_and_read(connection, body, position, progress)
            is_kept = is_complete and connection.reuse()
        finally:
            if is_kept:
                self._idle.keep(connection)
            else:
                connection.close()

    async def _send_and_read(
        self, connection: Connection, body: bytes, position: int, progress: _Progress
    ) -> bool:
        """Send the rest of a large body, but stop if the receiver responds and reads no further."""

        async def send() -> None:
            await connection.send_rest(body, position)
            if progress.phase is Failure.TIMEOUT_SEND:
                progress.phase = Failure.TIMEOUT_ANSWER

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            is_complete = await _read(connection, progress)
            nursery.cancel_scope.deadline = trio.current_time() + LATE_BODY_SECONDS
        return is_complete

    async def _connect(self, origin: Origin, progress: _Progress) -> Connection:
        progress.phase = Failure.TIMEOUT_DNS
        addresses = await self._resolve(origin.host, origin.port)
        progress.phase = Failure.TIMEOUT_CONNECT
        stream = await open_stream(addresses, origin.port)
        if not origin.is_tls:
            return Connection(origin, stream, stream.socket)
        progress.phase = Failure.TIMEOUT_TLS
        try:
            encrypted = trio.SSLStream(
                stream,
                self._tls,
                # Certificates and SNI omit the trailing dot of a name.
                server_hostname=origin.host.removesuffix("."),
                https_compatible=True,
            )
            await encrypted.do_handshake()
        except BaseException:
            stream.socket.close()
            raise
        return Connection(origin, encrypted, stream.socket)


async def _read(connection: Connection, progress: _Progress) -> bool:
    """Read a response; return whether all of it was read."""
    interim_responses = pieces = 0
    while True:
        event = await connection.next_event()
        if isinstance(event, h11.Data):
            progress.body += event.data
            pieces += 1
            if len(progress.body) > RESPONSE_BYTES or pieces > RESPONSE_PIECES:
                return False  # reusing the connection would require reading the rest
        elif event is None:
            return False
        elif isinstance(event, h11.EndOfMessage):
            return True
        elif isinstance(event, h11.Response):
            progress.phase = Failure.TIMEOUT_BODY
            progress.status = event.status_code
            progress.retry_after = _retry_after(event)
        elif isinstance(event, h11.ConnectionClosed):
            raise HungUpError
        elif isinstance(event, h11.InformationalResponse):
            interim_responses += 1
            if interim_responses > INTERIM_RESPONSES:
                raise h11.RemoteProtocolError(f"more than {INTERIM_RESPONSES} interim responses")


def _retry_after(response: h11.Response) -> str | None:
    if response.status_code not in (429, 503):
        return None
    for name, value in response.headers:
        if name == b"retry-after":
            return value.decode("latin-1")
    return None


def _text(received: bytearray) -> str:
    """Return the body as text that PostgreSQL can store."""
    return bytes(received[:RESPONSE_BYTES]).decode("utf-8", "replace").replace("\0", "\ufffd")
