"""The sending side of a connection: writes never block, and the buffer is bounded.

Event frames and trio-websocket's control frames all go through the outlet, so frames never
interleave. It writes what the socket accepts at once, without a task switch. The rest waits in a
bounded buffer that one task flushes. A client that lets the buffer fill up is cut off.
"""

import os
from collections import deque
from collections.abc import Callable
from itertools import islice
from math import inf

import trio

from bridge.live.framing import CLOSE_HEAD

#: Writes joined by one system call; Linux allows 1024.
_JOINED_WRITES = 64
#: Memory that a waiting write takes in addition to its bytes, which may be as few as two.
_WRITE_BYTES = 100


# Shared by all outlets that have nothing waiting; always empty.
_NO_MARKS: deque[int | None] = deque(maxlen=0)


class Outlet(trio.abc.SendStream):
    """The sending side of a connection, as trio-websocket and the hub see it.

    The outlet holds the write in progress and at most ``buffer_bytes`` behind it. If that is not
    enough, it calls ``overflowed``, and accepts nothing more before ``cut_off``. Nothing is sent
    after a close frame.

    Args:
        stream: the accepted connection; the caller closes it.
        nursery: runs the flushing task while anything waits.
        buffer_bytes: how much may wait.
        overflowed: called when the client reads too slowly.
        closed: called when trio-websocket has finished with the connection.
        lost: called when a write fails because the client is gone.
    """

    __slots__ = (
        "_buffer_bytes",
        "_closed",
        "_descriptor",
        "_drained",
        "_lost",
        "_marks",
        "_nursery",
        "_open",
        "_overflowed",
        "_sent_of_first",
        "_waiting",
        "close_sent",
        "flushed_at",
        "sent_through",
        "waiting_bytes",
    )

    def __init__(
        self,
        stream: trio.SocketStream,
        nursery: trio.Nursery,
        *,
        buffer_bytes: int,
        overflowed: Callable[[], None],
        closed: Callable[[], None],
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._nursery = nursery
        self._descriptor = stream.socket.fileno()
        self._buffer_bytes = buffer_bytes
        self._overflowed = overflowed
        self._closed = closed
        self._lost = lost
        # The waiting writes, and sent_through after each of them. The garbage collector does not
        # track bytes and numbers, of which slow clients may have a million.
        # None while nothing waits, to save memory on thousands of idle clients.
        self._waiting: deque[bytes] | None = None
        self._marks: deque[int | None] = _NO_MARKS
        #: The number of bytes that wait to be sent.
        self.waiting_bytes = 0
        self._sent_of_first = 0
        self._drained: trio.Event | None = None
        # Whether further frames are accepted.
        self._open = True
        #: The close frame that trio-websocket sent, if any.
        self.close_sent: bytes | None = None
        #: The client was sent all its events up to this id; None before it is let in.
        self.sent_through: int | None = None
        #: When the socket last accepted waiting bytes, by trio's clock. A slow reader answers no
        #: ping before it has read what is in front of it.
        self.flushed_at = -inf

    def write_nowait(self, frames: bytes, through: int | None = None) -> None:
        """Send whole frames now or buffer them; never block or raise.

        Args:
            through: the value of ``sent_through`` once they are sent; None to leave it.
        """
        if not self._open:
            return
        if self._waiting is None:
            try:
                sent = os.write(self._descriptor, frames)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._broken()
                return
            if sent == len(frames):
                if through is not None:
                    self.sent_through = through
                return
            self._keep(frames, through)
            self._sent_of_first = sent
            self.waiting_bytes -= sent
        elif self._behind_bytes(self._waiting) + len(frames) <= self._buffer_bytes:
            self._keep(frames, through)
        else:
            self._open = False
            self._overflowed()

    def mark(self, through: int) -> None:
        """Set ``sent_through`` to this id once all earlier writes are sent."""
        if self._waiting is None:
            self.sent_through = through
        else:
            self._keep(b"", through)

    def cut_off(self) -> int | None:
        """Discard all waiting writes except a partly sent one, and make room for final frames.

        Returns:
            The final ``sent_through``.
        """
        self._open = True
        through = self.sent_through
        if self._waiting:
            if self._marks[0] is not None:
                through = self._marks[0]
            # A resume may have moved the position back in a later write.
            dropped = [each for each in islice(self._marks, 1, None) if each is not None]
            if through is not None:
                through = min([through, *dropped])
            while len(self._waiting) > 1:
                self._waiting.pop()
                self._marks.pop()
        return through

    def end(self, frames: bytes) -> bool:
        """Send final frames now, or buffer them for :meth:`flush`.

        Returns:
            False if the connection is closing, or an earlier write found the client gone.
        """
        if not self._open:
            return False
        self._open = False
        if self._waiting is None:
            # Write now: the final flush waits for the connection's tasks, and one of them may be
            # in a slow statement.
            try:
                sent = os.write(self._descriptor, frames)
            except BlockingIOError:
                sent = 0
            except OSError:
                return True
            if sent == len(frames):
                return True
            self._waiting, self._marks = deque(), deque()
            self._sent_of_first = sent
        self._waiting.append(frames)
        self._marks.append(None)
        return True

    @property
    def is_drained(self) -> bool:
        """Whether nothing waits to be sent."""
        return self._waiting is None

    async def drained(self) -> None:
        """Wait until the buffer is empty or the client is gone."""
        while self._waiting is not None:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    def _behind_bytes(self, waiting: deque[bytes]) -> int:
        """Return the size of the buffer without the write in progress.

        That write does not count, so that one large event fits any buffer.
        """
        busy_with = len(waiting[0]) - self._sent_of_first
        return self.waiting_bytes - busy_with + (len(waiting) - 1) * _WRITE_BYTES

    def _keep(self, frames: bytes, through: int | None) -> None:
        if self._waiting is None:
            self._waiting, self._marks = deque(), deque()
            self._sent_of_first = 0
            self._nursery.start_soon(self.flush)
        self._waiting.append(frames)
        self._marks.append(through)
        self.waiting_bytes += len(frames)

    async def flush(self) -> None:
        """Send the buffer until it is empty or the client is gone.

        If this is cancelled, another call can continue.
        """
        waiting = self._waiting
        try:
            while waiting:
                await trio.lowlevel.wait_writable(self._descriptor)
                writes: list[bytes | memoryview] = [*islice(waiting, _JOINED_WRITES)]
                writes[0] = memoryview(writes[0])[self._sent_of_first :]
                try:
                    self._sent(os.writev(self._descriptor, writes), waiting)
                except BlockingIOError:
                    continue
        except (OSError, trio.ClosedResourceError):
            self._broken()
        self._waiting, self._marks = None, _NO_MARKS
        self.waiting_bytes = 0
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def _broken(self) -> None:
        """Report that the client is gone.

        The receiving side may notice much later: it reads at a limited rate what was sent before.
        """
        self._open = False
        self._lost()

    def _sent(self, sent: int, waiting: deque[bytes]) -> None:
        """Remove bytes that the socket accepted from the buffer."""
        self.flushed_at = trio.current_time()
        self.waiting_bytes -= sent
        while waiting:
            rest = len(waiting[0]) - self._sent_of_first
            if sent < rest:
                self._sent_of_first += sent
                return
            waiting.popleft()
            through = self._marks.popleft()
            self._sent_of_first = 0
            sent -= rest
            if through is not None:
                self.sent_through = through

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send trio-websocket's bytes: handshake, pongs, close frames.

        Raises:
            trio.BrokenResourceError: the client is gone or was cut off, or the connection closes.
        """
        await trio.lowlevel.checkpoint()
        self.write_nowait(bytes(data))
        if not self._open:
            raise trio.BrokenResourceError(
                "the client is gone or cut off, or the connection closes"
            )
        if data[:1] == CLOSE_HEAD:
            self._open = False
            self.close_sent = bytes(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: sending never blocks."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Report that trio-websocket has finished; the connection sends the rest."""
        self._closed()
        await trio.lowlevel.checkpoint()
