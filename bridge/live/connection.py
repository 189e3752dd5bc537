"""One WebSocket connection, from the first byte to the last, whatever the client does.

trio-websocket's own server lets a client take it down: an oversize text and a ping in one segment,
a ping while closing, an exception in a handler. Here each connection has a nursery of its own, and
nothing that happens below it gets out.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
import trio
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)
from wsproto.utilities import LocalProtocolError

from bridge.access.proxies import Network, client_address
from bridge.access.tokens import Grant
from bridge.live.frames import close_frame
from bridge.live.handshake import read_opening
from bridge.live.intake import FRAMES_PER_SECOND, Intake
from bridge.live.outlet import Outlet
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

#: How long a client may take for its half of a close before the connection is cut.
CLOSE_SECONDS = 2.0
#: How long a client that was cut off may take to read what it has coming, and why.
FAREWELL_SECONDS = 10.0
#: A message may come in so many fragments, or, if it may be long, in fragments of so many bytes on
#: average. Empty ones take memory, too, and count as nothing for the size of the message.
MOST_FRAGMENTS = 1000
FRAGMENT_BYTES = 8

#: Reasons for which all clients are dropped, which a line of its own tells; theirs are for debug.
_ALL_AT_ONCE: Final = ("log_went_back", "stopping")
#: What is for the stream by its path, and asks for nothing but a page, lacks this.
_UPGRADE = re.compile(rb"^upgrade:.*websocket", re.IGNORECASE | re.MULTILINE)
_NUMBERS: Final = itertools.count(1)
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may take.

    Attributes:
        message_bytes: the largest message that a client may send.
        buffer_bytes: what it may leave unread.
        handshake_seconds: how long it may take for the handshake.
        frames_per_second: how fast it is read what the client sends.
        proxies: that are believed whom they have a connection from.
    """

    message_bytes: int = 64 * 1024
    buffer_bytes: int = 1024 * 1024
    handshake_seconds: float = 10.0
    frames_per_second: float = FRAMES_PER_SECOND
    proxies: Sequence[Network] = ()


class Connection:
    """An accepted connection; whoever converses on it gets it with the handshake done.

    Args:
        farewell: makes the last frames for a client that was too slow, of the id up to which it
            gets what it has coming; None if it was not let in yet.
        received: what was read from the stream already.
    """

    __slots__ = (
        "_accepted",
        "_closing_seconds",
        "_farewell",
        "_limits",
        "_most_fragments",
        "_nursery",
        "_scope",
        "_stream",
        "grant",
        "intake",
        "number",
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
        farewell: Callable[[int | None], bytes],
        received: bytes,
    ) -> None:
        self._stream = stream
        self._nursery = nursery
        self._limits = limits
        self._most_fragments = max(MOST_FRAGMENTS, limits.message_bytes // FRAGMENT_BYTES)
        self._farewell = farewell
        self._scope = trio.CancelScope()
        self._accepted = False
        self._closing_seconds = CLOSE_SECONDS
        #: Tells its lines of the log from those of others.
        self.number = next(_NUMBERS)
        #: What its token allows; None until it is let in.
        self.grant: Grant | None = None
        self.intake = Intake(
            stream, self._heard, received, frames_per_second=limits.frames_per_second
        )
        self.outlet = Outlet(
            stream,
            nursery,
            buffer_bytes=limits.buffer_bytes,
            overflowed=self._too_slow,
            closed=self._closed,
            lost=self.drop,
        )

    async def run(self, converse: Callable[[Connection], Awaitable[None]]) -> None:
        """Do the handshake, have ``converse`` do the rest, and say why it is over."""
        with self._scope:
            with trio.move_on_after(self._limits.handshake_seconds):
                await self._open()
            if self._accepted:
                try:
                    await converse(self)
                except ConnectionClosed as closed:
                    if closed.reason is None:
                        # The reader has crashed; to cancel it now would hide its exception.
                        await trio.sleep(CLOSE_SECONDS)
                    else:
                        self._explain(closed.reason)
                finally:
                    self._note_too_big()

    async def _open(self) -> None:
        head = await self.intake.read_head()
        if not head:
            return
        if not _UPGRADE.search(head):
            # wsproto's own answer does not say that the connection ends, and a client or proxy
            # would send its next request over it.
            self._refuse_handshake()
            self.outlet.end(_BAD_REQUEST)
            return
        self.request = await wrap_server_stream(
            self._nursery,
            trio.StapledStream(self.outlet, self.intake),
            # The reader waits until a message is taken: else it would answer a close that comes
            # next before the message is answered, and nothing may go out behind that.
            message_queue_size=0,
            max_message_size=self._limits.message_bytes,
        )
        if _is_handshake(head, self.request):
            self.websocket = await self.request.accept()
            self._accepted = True
            self.intake.answered()
        else:
            self._refuse_handshake()
            await self.request.reject(400, extra_headers=[(b"Connection", b"close")])

    def _explain(self, reason: CloseReason) -> None:
        """Send the close frame that trio-websocket does not: for what breaks the protocol."""
        if reason.code in (PROTOCOL_ERROR, INVALID_DATA):
            text = reason.reason or ""
            # Not if the code is the client's own, which was answered.
            if self.outlet.end(close_frame(reason.code, text)):
                self._dropped("protocol", error=text)

    def _note_too_big(self) -> None:
        """Count a client that trio-websocket has told that its message is too big.

        Why the conversation is over depends on what came behind that message; what was said does
        not. The text tells it from the answer to a client that closes with this code itself.
        """
        text = f"Exceeded maximum message size: {self._limits.message_bytes} bytes"
        if self.outlet.close_said == close_frame(TOO_BIG, text):
            self._dropped("too_big")

    def _refuse_handshake(self) -> None:
        log.info("handshake_refused", **self.about())

    def about(self) -> dict[str, object]:
        """Return what every line of the log says of the client."""
        token = None if self.grant is None else str(self.grant)
        return {"client": self.number, "address": self.address or None, "token": token}

    def count_dropped(self, reason: str, **facts: object) -> None:
        """Count and log a client that is about to be sent away, unless it is on its way already.

        Args:
            reason: one of ``metrics.DROPPED``.
            facts: further fields of the line.
        """
        if not self.is_ending:
            self._dropped(reason, **facts)

    def _dropped(self, reason: str, **facts: object) -> None:
        metrics.clients_dropped.labels(reason).inc()
        if reason not in _ALL_AT_ONCE or logs.items_told():
            log.info("client_dropped", **self.about(), reason=reason, **facts)

    def start_soon(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run something beside the conversation, until the connection ends."""
        self._nursery.start_soon(work, *args)

    @property
    def peer(self) -> str:
        """The address of the other end; empty if it is gone."""
        try:
            return str(self._stream.socket.getpeername()[0])
        except (OSError, IndexError, TypeError):
            return ""

    @property
    def address(self) -> str:
        """The client's address, behind proxies that are known; empty if it is gone."""
        # Looked up anew, and kept by nobody: of idle clients there are many.
        if not self._accepted:
            return self.peer
        opening = read_opening(self.request.path, self.request.headers)
        return client_address(self.peer, opening.forwarded_for, self._limits.proxies)

    @property
    def is_ending(self) -> bool:
        """Whether the client was sent away or dropped already."""
        return self._scope.cancel_called

    def send_away(self, code: int, reason: str) -> None:
        """End what goes on with the client, and close the connection with a code and a reason.

        At once: what still goes on until it notices sends nothing more.
        """
        self.outlet.end(close_frame(code, reason))
        self._scope.cancel()

    def drop(self) -> None:
        """End what goes on with a client that is gone, without another word."""
        self._scope.cancel()

    def crashed(self, crash: ExceptionGroup[Exception]) -> None:
        """Log what went wrong, and tell the client."""
        if not self._accepted and crash.subgroup(UnicodeError) is not None:
            # wsproto decodes some headers, come what may.
            self._refuse_handshake()
            self.outlet.end(_BAD_REQUEST)
            return
        log.error("session_crashed", **self.about(), exc_info=crash)
        if self._accepted:
            metrics.clients_dropped.labels("crashed").inc()
            self.outlet.end(close_frame(INTERNAL_ERROR, "internal error"))

    async def finish(self) -> bool:
        """Send what still waits, and nothing more; return whether the client took it in time."""
        self.outlet.end(b"")
        with trio.move_on_after(self._closing_seconds) as scope:
            await self.outlet.flush()
        return not scope.cancelled_caught

    def _too_slow(self) -> None:
        self._closing_seconds = FAREWELL_SECONDS
        self._dropped("slow", sent_through=self.outlet.cut_off(self._farewell))
        self.drop()

    def _closed(self) -> None:
        if not self._accepted:
            # It was no handshake, and nobody else tells who waits for one. The client may keep the
            # connection: what comes next over it, such as another request, is not ours to answer,
            # and it should know at once.
            with suppress(OSError):
                self._stream.socket.shutdown(trio.socket.SHUT_WR)
            self.drop()

    def _heard(self) -> None:
        # Not public; without it such a client is only not noticed.
        fragments = getattr(self.websocket, "_message_parts", ())
        if len(fragments) > self._most_fragments and not self.is_ending:
            self._dropped("too_big")
            self.send_away(TOO_BIG, "a message in too many fragments")


async def serve_connection(
    stream: trio.SocketStream,
    converse: Callable[[Connection], Awaitable[None]],
    *,
    limits: ConnectionLimits,
    farewell: Callable[[int | None], bytes],
    received: bytes = b"",
) -> None:
    """Serve one accepted connection until it ends. Nothing that the client does gets out.

    Args:
        converse: speaks with the client; ``trio_websocket.ConnectionClosed`` may come out of it.
        farewell: see :class:`Connection`.
        received: what whoever accepted it has read from the stream already.
    """
    try:
        async with trio.open_nursery() as nursery:
            connection = Connection(stream, nursery, limits, farewell, received)
            await connection.run(converse)
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # It is gone; that is all there is to know.
    except* LocalProtocolError:
        # After its close frame for a message too big, trio-websocket goes on with what came in the
        # same segment, and falls over the next ping. The client gets the close frame anyhow.
        pass
    except* Exception as crash:
        connection.crashed(crash)
    # Not before the reader has ended: nothing may go out behind a close frame.
    if await connection.finish():
        await _hang_up(stream)


def _is_handshake(head: bytes, request: WebSocketRequest) -> bool:
    """Check what wsproto lets pass (RFC 6455, section 4.2.1)."""
    request_line, _, _ = head.partition(b"\n")
    keys = [value for name, value in request.headers if name == b"sec-websocket-key"]
    try:
        [key] = (base64.b64decode(each, validate=True) for each in keys)
    except ValueError:
        return False
    return len(key) == 16 and request_line.rstrip().endswith(b"HTTP/1.1")


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
