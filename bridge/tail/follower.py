"""Follow the stream of a bridge and reconnect when the connection is lost.

Events are passed on in ID order, each once. After a reconnect the bridge sends the missed events; a
range that the log no longer has is passed on as a gap.
"""

import os
import random
import socket
import ssl
from collections.abc import Iterable
from typing import Final

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import ProtocolError

from bridge.tail.address import Address
from bridge.tail.messages import Gap, Message, Notice, StreamEvent, parse_message
from bridge.tasks import first_error, ungrouped

#: Timeout for connecting, and then for the handshake including the welcome.
CONNECT_SECONDS: Final = 10.0
#: Pause between connection attempts: from the first value, doubling, up to the second.
RETRY_SECONDS: Final = (0.2, 5.0)
#: A bridge pings every 20 s; after this long without data the connection is considered dead.
SILENCE_SECONDS: Final = 60.0
#: How often to send a ping: a bridge may close idle connections.
SPEAK_SECONDS: Final = 30.0
#: The largest event accepted; bounds the memory that a slow reader costs.
MESSAGE_BYTES: Final = 64 * 1024 * 1024
RECEIVE_BYTES: Final = 64 * 1024

_LOSSES = (
    ConnectionClosed,
    HandshakeError,
    ProtocolError,
    trio.BrokenResourceError,
    trio.TooSlowError,
    OSError,
)


class TailError(Exception):
    """The stream cannot be followed. The message says why and what to do."""


class Follower:
    """Follow one stream.

    Args:
        token: sent in a header.
        patterns: patterns of event types; all events if empty.
        since: the ID of the last known event; None follows only new events.
        silence_seconds: see ``SILENCE_SECONDS``.
    """

    def __init__(
        self,
        address: Address,
        token: str,
        *,
        patterns: Iterable[str] = (),
        since: int | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._address = address
        self._token = token
        self._patterns = tuple(patterns)
        self._since = since
        self._silence_seconds = silence_seconds
        self._connections = 0

    async def run(self, messages: trio.MemorySendChannel[Message]) -> None:
        """Follow until cancelled.

        Args:
            messages: receives the messages. Nothing is read from the connection while the
                channel is full.

        Raises:
            TailError: the first connection failed, or the bridge refused to continue.
        """
        pause = RETRY_SECONDS[0]
        while True:
            connections = self._connections
            try:
                with ungrouped():
                    await self._converse(messages)
            except _LOSSES as loss:
                self._refuse(loss)
                if self._connections > connections:
                    pause = RETRY_SECONDS[0]
                    notice = Notice(f"connection lost ({_describe(loss)}); reconnecting")
                    await messages.send(notice)
            await trio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311
            pause = min(2 * pause, RETRY_SECONDS[1])

    def _refuse(self, loss: Exception) -> None:
        """Raise an error if connecting again would not help."""
        if isinstance(loss, ConnectionClosed) and loss.reason is not None:
            if loss.reason.code == CloseReason.POLICY_VIOLATION:
                raise TailError(f"{self._address} refuses: {loss.reason.reason}")
            if loss.reason.code == CloseReason.MESSAGE_TOO_BIG:
                raise TailError(
                    f"an event after {self._since} is larger than {MESSAGE_BYTES >> 20} MiB; "
                    "skip it with --since"
                )
        if self._connections == 0:
            hint = (
                "; is the bridge running there? Start it with `pgbridge run`, or set "
                "BRIDGE_HOST and BRIDGE_PORT, or --url"
            )
            if isinstance(loss, ConnectionClosed | ConnectionRejected):
                hint = ""  # a server answered
            raise TailError(f"cannot follow {self._address}: {_describe(loss)}{hint}")

    async def _converse(self, messages: trio.MemorySendChannel[Message]) -> None:
        with trio.fail_after(CONNECT_SECONDS):
            stream = await self._open()
        # On our own stream: trio-websocket's client leaves its socket open when cancelled.
        async with stream, trio.open_nursery() as nursery:
            with trio.fail_after(CONNECT_SECONDS):
                websocket = await self._handshake(nursery, stream)
                welcome = await websocket.get_message()
            await messages.send(self._welcomed(welcome))
            nursery.start_soon(_speak, websocket)
            while True:
                await self._take(await websocket.get_message(), messages)

    async def _open(self) -> trio.abc.Stream:
        address = self._address
        if not address.tls:
            return await trio.open_tcp_stream(address.host, address.port)
        stream = await trio.open_ssl_over_tcp_stream(
            address.host,
            address.port,
            ssl_context=ssl.create_default_context(),
            https_compatible=True,
        )
        try:
            # Here, because the WebSocket handshake would hide certificate errors.
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def _handshake(
        self, nursery: trio.Nursery, stream: trio.abc.Stream
    ) -> WebSocketConnection:
        target = self._address.path
        query = [f"events={','.join(self._patterns)}"] if self._patterns else []
        query += [f"since={self._since}"] if self._since is not None else []
        if query:
            target += "?" + "&".join(query)
        websocket: WebSocketConnection | None = None
        # trio-websocket waits forever for a response if the server hangs up.
        with trio.CancelScope() as waiting:
            watched = _WatchedStream(stream, self._silence_seconds, waiting)
            websocket = await wrap_client_stream(
                nursery,
                trio.StapledStream(stream, watched),  # type: ignore[arg-type]
                self._address.netloc,
                target,
                extra_headers=[(b"Authorization", f"Bearer {self._token}".encode("ascii"))],
                max_message_size=MESSAGE_BYTES,
                receive_buffer_size=RECEIVE_BYTES,
            )
        if websocket is None:
            raise trio.BrokenResourceError("the server hung up")
        return websocket

    def _welcomed(self, text: str | bytes) -> Notice:
        match parse_message(text):
            case {"type": "connection", "last_event_id": int(last_event_id)}:
                self._connections += 1
            case _:
                raise TailError(f"{self._address} is not the stream of a pgbridge")
        if self._since is None:
            self._since = last_event_id
        if self._connections > 1:
            return Notice(f"reconnected; following after event {self._since}")
        return Notice(f"following {self._address} after event {self._since}")

    async def _take(self, text: str | bytes, messages: trio.MemorySendChannel[Message]) -> None:
        since = self._since or 0
        match parse_message(text):
            # First: an event type may be any word, and only events have a payload.
            case {
                "payload": payload,
                "type": str(event_type),
                "timestamp": str(timestamp),
                "id": int(event_id),
            }:
                if event_id > since:
                    event = StreamEvent(event_id, event_type, timestamp, payload, str(text))
                    await messages.send(event)
                    self._since = event_id
            case {"type": "resumed", "to": int(through)}:
                self._since = max(since, through)
            case {"type": "gap", "since": int(gap_since), "available_from": int(available_from)}:
                await messages.send(Gap(gap_since, available_from, str(text)))
                # May go backwards: a restored database assigns the same IDs again.
                self._since = available_from - 1
            case {"type": "error", "code": str(code), "message": str(reason)}:
                # A slow client is disconnected, then resumes where it stopped.
                if code != "too_slow":
                    raise TailError(f"{self._address} refuses: {reason}")


class _WatchedStream(trio.abc.ReceiveStream):
    """A connection that ends when a read returns nothing for ``silence_seconds``.

    Args:
        waiting: cancelled at the end.
    """

    def __init__(
        self, stream: trio.abc.ReceiveStream, silence_seconds: float, waiting: trio.CancelScope
    ) -> None:
        self._stream = stream
        self._silence_seconds = silence_seconds
        self._waiting = waiting

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        try:
            with trio.move_on_after(self._silence_seconds):
                data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:
                self._waiting.cancel()
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _speak(websocket: WebSocketConnection) -> None:
    while True:
        await trio.sleep(SPEAK_SECONDS)
        try:
            await websocket.send_message('{"type": "ping"}')
        except ConnectionClosed:
            return  # the reader sees the reason


def _describe(error: BaseException) -> str:
    """Return in a few words why a connection was lost or not established."""
    if isinstance(error, ConnectionClosed):
        return (error.reason and error.reason.reason) or "the bridge is gone"
    if isinstance(error, ConnectionRejected):
        return f"HTTP status {error.status_code}"
    if isinstance(error, trio.TooSlowError):
        return f"no response within {CONNECT_SECONDS:g} s"
    while error.__cause__ is not None:
        error = first_error(error.__cause__)
    if isinstance(error, OSError) and error.errno is not None:
        # trio's text repeats the address, but only it describes name and certificate errors.
        if not isinstance(error, socket.gaierror | ssl.SSLError):
            return os.strerror(error.errno)
        return str(error.strerror)
    return str(error)
