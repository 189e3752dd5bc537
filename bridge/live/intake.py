"""One client's receiving side: the handshake, and apart from it what comes behind."""

from __future__ import annotations

import re
from collections.abc import Callable

import trio

#: Where the head of a request ends; h11 takes bare line feeds, too.
_END_OF_HEAD = re.compile(rb"\n\r?\n")
#: h11 refuses a longer head.
_MOST_HEAD_BYTES = 16 * 1024
_READ_BYTES = 4096


class Intake(trio.abc.ReceiveStream):
    """A connection's receiving side, as trio-websocket sees it.

    What a client sends right behind its handshake, perhaps in the same segment, wsproto would take
    for a part of the handshake and throw away. So it waits here until the handshake is answered.

    Args:
        stream: the accepted connection. Whoever accepted it also closes it.
        heard: called whenever the client has sent something, before it is looked at.
        received: what was read from the stream already, from its first byte on.
    """

    __slots__ = ("_answered", "_behind", "_head", "_heard", "_stream", "heard_at")

    def __init__(
        self, stream: trio.SocketStream, heard: Callable[[], None], received: bytes = b""
    ) -> None:
        self._stream = stream
        self._heard = heard
        self._head: bytes | None = None
        # Until the head is read, all there is.
        self._behind = received
        # None from when the handshake is answered: thousands of clients are past it.
        self._answered: trio.Event | None = trio.Event()
        #: When the client last sent anything, by trio's clock.
        self.heard_at = trio.current_time()

    async def read_head(self) -> bytes:
        """Return the head of the request; less than that if the client hangs up, or if it is
        longer than anybody takes.

        Raises:
            trio.BrokenResourceError: the connection is gone.
        """
        received = bytearray(self._behind)
        end = _END_OF_HEAD.search(received)
        while end is None and len(received) <= _MOST_HEAD_BYTES:
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                break
            searched = max(0, len(received) - 2)
            received += data
            end = _END_OF_HEAD.search(received, searched)
        size = len(received) if end is None else end.end()
        self._head, self._behind = bytes(received[:size]), bytes(received[size:])
        return self._head

    def answered(self) -> None:
        """Let through what comes behind the handshake."""
        if self._answered is not None:
            self._answered.set()
            self._answered = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return what the client sent."""
        if self._head:
            await trio.lowlevel.checkpoint()
            head, self._head = self._head, None
            return head
        if self._answered is not None:
            await self._answered.wait()
        if self._behind:
            await trio.lowlevel.checkpoint()
            data, self._behind = self._behind, b""
            return data
        data = await self._stream.receive_some(max_bytes)
        self.heard_at = trio.current_time()
        self._heard()
        return data

    async def aclose(self) -> None:
        """Do nothing: whoever ends the connection reads what still comes."""
        await trio.lowlevel.checkpoint()
