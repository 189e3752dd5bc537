"""One WebSocket connection, from the handshake to the close, whatever the client does.

A client can crash trio-websocket's own server, for instance with an oversize text and a ping in
one segment, or a ping while closing. Here each connection has its own nursery, and no exception
leaves it.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
import trio
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import LocalProtocolError

from bridge.access.proxies import Network, client_address
from bridge.access.tokens import Grant
from bridge.live.framing import close_frame, message_frame
from bridge.live.handshake import Opening, asks_for_websocket, is_valid, read_opening
from bridge.live.intake import FRAMES_PER_SECOND, Intake
from bridge.live.outlet import Outlet
from bridge.tasks import hang_up
from bridge.telemetry import logs, metrics

log = structlog.get_logger()

# Close codes (RFC 6455, section 7.4.1, and the IANA registry).
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
INVALID_DATA: Final = 1007
POLICY_VIOLATION: Final = 1008
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
TRY_AGAIN_LATER: Final = 1013

#: How long a client may take to answer a close frame before the connection is cut.
CLOSE_SECONDS = 2.0
#: How long a slow client may take to read its last frames.
FAREWELL_SECONDS = 10.0
#: A message may have this many fragments, or one per this many bytes of the size limit. Even empty
#: fragments take memory, and they do not count towards the size of a message.
MOST_FRAGMENTS = 1000
FRAGMENT_BYTES = 8

#: Reasons that drop all clients at once. Another line reports them; each client's is at debug.
_ALL_AT_ONCE: Final = ("event_log_rewound", "stopping")
_NUMBERS: Final = itertools.count(1)
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """The limits of the stream.

    Attributes:
        message_bytes: largest message that a client may send.
        buffer_bytes: how much a client may leave unread.
        handshake_seconds: how long the handshake may take.
        frames_per_second: rate limit of a client's frames.
        proxies: trusted proxies.
        clients: most clients. As many again may be connected without a token so far.
        clients_per_token: most clients with one token.
        ping_seconds: interval between two pings.
        idle_seconds: how long a client may send no message; None for any time.
        origins: lower-case origins of pages that may connect; empty for any.
    """

    message_bytes: int = 64 * 1024
    buffer_bytes: int = 1024 * 1024
    handshake_seconds: float = 10.0
    frames_per_second: float = FRAMES_PER_SECOND
    proxies: Sequence[Network] = ()
    clients: int = 10_000
    clients_per_token: int = 10_000
    ping_seconds: float = 20.0
    idle_seconds: float | None = None
    origins: Sequence[str] = ()


class Connection:
    """An accepted connection.

    Args:
        head: the head of the request.
        behind: the bytes already received behind the head.
    """

    __slots__ = (
        "_accepted",
        "_closing_seconds",
        "_limits",
        "_most_fragments",
        "_scope",
        "_stream",
        "address",
        "grant",
        "intake",
        "message_at",
        "number",
        "nursery",
        "outlet",
        "ping_at",
        "websocket",
    )

    websocket: WebSocketConnection

    def __init__(
        self,
        stream: trio.SocketStream,
        nursery: trio.Nursery,
        limits: StreamLimits,
        head: bytes,
        behind: bytes,
    ) -> None:
        self._stream = stream
        #: Runs tasks until the connection ends.
        self.nursery = nursery
        self._limits = limits
        self._most_fragments = max(MOST_FRAGMENTS, limits.message_bytes // FRAGMENT_BYTES)
        self._scope = trio.CancelScope()
        self._accepted = False
        self._closing_seconds = CLOSE_SECONDS
        #: Identifies the client in the log.
        self.number = next(_NUMBERS)
        #: The client's address, behind trusted proxies; empty if it is gone.
        self.address = _peer(stream)
        #: What the client's token allows; None until it is let in.
        self.grant: Grant | None = None
        #: When to ping the client next, and when it last sent a message, by trio's clock.
        self.ping_at = self.message_at = trio.current_time()
        self.intake = Intake(
            stream, self._on_input, head, behind, frames_per_second=limits.frames_per_second
        )
        self.outlet = Outlet(
            stream,
            nursery,
            buffer_bytes=limits.buffer_bytes,
            overflowed=self._too_slow,
            closed=self._closed,
            lost=self.drop,
        )

    async def run(
        self, head: bytes, converse: Callable[[Connection, Opening], Awaitable[None]]
    ) -> None:
        """Complete the handshake, run ``converse``, and explain the end to the client."""
        with self._scope:
            opening = None
            with trio.move_on_after(self._limits.handshake_seconds):
                opening = await self._open(head)
            if opening is not None:
                try:
                    await converse(self, opening)
                except ConnectionClosed as closed:
                    if closed.reason is None:
                        # The reader crashed. Cancelling it now would hide its exception.
                        await trio.sleep(CLOSE_SECONDS)
                    else:
                        self._explain(closed.reason)
                finally:
                    self._count_too_big()

    async def _open(self, head: bytes) -> Opening | None:
        """Answer the handshake; return its parameters if it is valid."""
        if not asks_for_websocket(head):
            # wsproto's own answer does not say that the connection ends, so a client or proxy
            # would send its next request over it.
            self._refuse_handshake()
            self.outlet.end(_BAD_REQUEST)
            return None
        request = await wrap_server_stream(
            self.nursery,
            trio.StapledStream(self.outlet, self.intake),
            # Without a queue, the reader waits until a message is taken. Otherwise it would answer
            # a close before the message in front of it, and nothing may be sent after a close.
            message_queue_size=0,
            max_message_size=self._limits.message_bytes,
        )
        if not is_valid(head, request.headers):
            self._refuse_handshake()
            await request.reject(400, extra_headers=[(b"Connection", b"close")])
            return None
        self.websocket = await request.accept()
        self._accepted = True
        self.intake.answered()
        opening = read_opening(request.path, request.headers)
        self.address = client_address(self.address, opening.forwarded_for, self._limits.proxies)
        return opening

    def _explain(self, reason: CloseReason) -> None:
        """Send the close frame for a violation of the protocol, which trio-websocket does not."""
        if reason.code in (PROTOCOL_ERROR, INVALID_DATA):
            text = reason.reason or ""
            # If the code came from the client, its close was answered and nothing more is sent.
            if self.outlet.end(close_frame(reason.code, text)):
                self._count_dropped("protocol", error=text)

    def _count_too_big(self) -> None:
        """Count a client that trio-websocket closed because of an oversize message.

        The exception depends on what followed that message, so look at the close frame instead.
        Its text differs from the answer to a client that itself closes with this code.
        """
        text = f"Exceeded maximum message size: {self._limits.message_bytes} bytes"
        if self.outlet.close_sent == close_frame(TOO_BIG, text):
            self._count_dropped("too_big")

    def _refuse_handshake(self) -> None:
        log.info("handshake_rejected", **self.about())

    def about(self) -> dict[str, object]:
        """Return the log fields that identify the client."""
        token = None if self.grant is None else str(self.grant)
        return {"client": self.number, "address": self.address or None, "token": token}

    def _count_dropped(self, reason: str, **facts: object) -> None:
        metrics.clients_dropped.labels(reason).inc()
        if reason not in _ALL_AT_ONCE or logs.logs_items():
            log.info("client_dropped", **self.about(), reason=reason, **facts)

    @property
    def is_closing(self) -> bool:
        """Whether the client was closed or dropped already."""
        return self._scope.cancel_called

    def close(self, code: int, text: str, dropped: str | None = None) -> None:
        """Close the connection with a code and a text.

        Nothing is sent after this, even before the conversation notices its cancellation.

        Args:
            dropped: the reason to count and log, see :meth:`drop`.
        """
        self.outlet.end(close_frame(code, text))
        self.drop(dropped)

    def drop(self, dropped: str | None = None, **facts: object) -> None:
        """End the connection without a close frame.

        Args:
            dropped: the reason to count and log, one of ``metrics.DROPPED``, unless the connection
                is closing already; None if the bridge does not drop the client.
            facts: further fields of the log line.
        """
        if dropped is not None and not self.is_closing:
            self._count_dropped(dropped, **facts)
        self._scope.cancel()

    def crashed(self, crash: ExceptionGroup[Exception]) -> None:
        """Log an unexpected exception and tell the client."""
        if not self._accepted and crash.subgroup(UnicodeError) is not None:
            # wsproto decodes some headers without checking them.
            self._refuse_handshake()
            self.outlet.end(_BAD_REQUEST)
            return
        log.error("session_crashed", **self.about(), exc_info=crash)
        if self._accepted:
            metrics.clients_dropped.labels("crashed").inc()
            self.outlet.end(close_frame(INTERNAL_ERROR, "internal error"))

    async def finish(self) -> bool:
        """Send the buffer; return whether the client read it in time."""
        self.outlet.end(b"")
        with trio.move_on_after(self._closing_seconds) as scope:
            await self.outlet.flush()
        return not scope.cancelled_caught

    def _too_slow(self) -> None:
        self._closing_seconds = FAREWELL_SECONDS
        sent_through = self.outlet.cut_off()
        self.outlet.end(_farewell(sent_through))
        self.drop("slow", last_event_id=sent_through)

    def _closed(self) -> None:
        if not self._accepted:
            # wsproto refused the handshake. Tell the client at once that the connection ends: it
            # may want to send another request over it.
            with suppress(OSError):
                self._stream.socket.shutdown(trio.socket.SHUT_WR)
            self.drop()

    def _on_input(self) -> None:
        # A private attribute; without it, fragments are not limited.
        fragments = getattr(self.websocket, "_message_parts", ())
        if len(fragments) > self._most_fragments:
            self.close(TOO_BIG, "a message in too many fragments", "too_big")


async def serve_connection(
    stream: trio.SocketStream,
    received: bytes,
    head_bytes: int,
    converse: Callable[[Connection, Opening], Awaitable[None]],
    *,
    limits: StreamLimits,
) -> None:
    """Serve one accepted connection until it ends. No error of the client is raised.

    Args:
        received: the bytes read from the stream so far.
        head_bytes: how many of them are the head of the request.
        converse: talks to the client; may raise ``trio_websocket.ConnectionClosed``.
    """
    head, behind = received[:head_bytes], received[head_bytes:]
    try:
        async with trio.open_nursery() as nursery:
            connection = Connection(stream, nursery, limits, head, behind)
            await connection.run(head, converse)
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # The client is gone.
    except* LocalProtocolError:
        # After its close frame for an oversize message, trio-websocket processes the rest of the
        # segment and fails at the next ping. The client gets the close frame all the same.
        pass
    except* Exception as crash:
        connection.crashed(crash)
    # The reader has ended, so nothing is sent after a close frame.
    if await connection.finish():
        await hang_up(stream, CLOSE_SECONDS)


def _farewell(sent_through: int | None) -> bytes:
    """Return the final frames of a slow client.

    Args:
        sent_through: id up to which it was sent its events; None if it was not let in yet.
    """
    message: dict[str, object] = {
        "type": "error",
        "code": "too_slow",
        "message": "reading too slowly: connect again and resume",
    }
    reason = "too slow"
    if sent_through is not None:
        message["since"] = sent_through
        reason += f": resume with since={sent_through}"
    return message_frame(message) + close_frame(TRY_AGAIN_LATER, reason)


def _peer(stream: trio.SocketStream) -> str:
    """Return the address of the other end; empty if it is gone."""
    try:
        return str(stream.socket.getpeername()[0])
    except (OSError, IndexError, TypeError):
        return ""
