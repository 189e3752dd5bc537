"""One client's sending side: it blocks nobody who has something for it, and its buffer is bounded.

Everything that goes to a client goes through its outlet, event frames and trio-websocket's own
control frames alike, so frames never interleave. What the socket takes at once is written at once,
without a task switch; the rest waits in a bounded buffer that one task flushes. A client that
leaves the buffer to fill up is cut off.
"""

import os
from collections import deque
from collections.abc import Callable

import trio


class Outlet(trio.abc.Stream):
    """A connection's stream, as trio-websocket and the hub see it.

    Holds at most ``buffer_bytes`` and one write more; when that is not enough, ``overflowed`` is
    called, once, and what waits is thrown away: from then on only ``cut_off`` can send.

    Args:
        stream: the accepted connection.
        nursery: where the flushing task runs while there is something to flush.
        buffer_bytes: how much may wait.
        overflowed: told that the client does not keep up.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        nursery: trio.Nursery,
        *,
        buffer_bytes: int,
        overflowed: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._nursery = nursery
        self._fileno = stream.socket.fileno()
        self._buffer_bytes = buffer_bytes
        self._overflowed = overflowed
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._flushing = False
        self._cut_off = False
        self._closed = False
        #: Called when the connection is closed from this side.
        self.on_close: Callable[[], None] = lambda: None

    def write_nowait(self, frames: bytes) -> None:
        """Send whole frames, or keep them to be sent; never waits, never raises."""
        if self._closed or self._cut_off:
            return
        if not self._waiting:
            try:
                sent = os.write(self._fileno, frames)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The connection is gone; the reading side notices and ends the session.
                self._closed = True
                return
            if sent == len(frames):
                return
            self._keep(memoryview(frames)[sent:])
        elif self._waiting_bytes + len(frames) <= self._buffer_bytes:
            self._keep(memoryview(frames))
        else:
            self._cut_off = True
            self._overflowed()

    def cut_off(self, last_frame: bytes) -> None:
        """Throw away what waits, but for the frame that is half sent, and send one last frame."""
        self._cut_off = True
        while len(self._waiting) > 1:
            self._waiting_bytes -= len(self._waiting.pop())
        self._keep(memoryview(last_frame))

    def _keep(self, rest: memoryview) -> None:
        self._waiting.append(rest)
        self._waiting_bytes += len(rest)
        if not self._flushing:
            self._flushing = True
            self._nursery.start_soon(self._flush)

    async def _flush(self) -> None:
        while self._waiting and not self._closed:
            try:
                await trio.lowlevel.wait_writable(self._fileno)
                if self._closed:  # meanwhile; the descriptor may be another connection's by now
                    break
                first = self._waiting[0]
                sent = os.write(self._fileno, first)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                self._closed = True
                break
            self._waiting_bytes -= sent
            if sent == len(first):
                self._waiting.popleft()
            else:
                self._waiting[0] = first[sent:]
        self._flushing = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send trio-websocket's bytes: handshake, pongs, close frames.

        Raises:
            trio.BrokenResourceError: the connection is gone, or the client was cut off.
        """
        await trio.lowlevel.checkpoint()
        self.write_nowait(bytes(data))
        if self._closed or self._cut_off:
            raise trio.BrokenResourceError("the client is gone or was cut off")

    async def wait_send_all_might_not_block(self) -> None:
        """Return: sending never blocks."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return what the client sent."""
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close the connection; what waits is lost."""
        self._closed = True
        self.on_close()
        await self._stream.aclose()
