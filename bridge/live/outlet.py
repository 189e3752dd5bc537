"""One client's sending side: it blocks nobody who has something for it, and its buffer is bounded.

Everything that goes to a client goes through its outlet, event frames and trio-websocket's own
control frames alike, so frames never interleave. What the socket takes at once is written at once,
without a task switch; the rest waits in a bounded buffer that one task flushes. A client that
leaves the buffer to fill up is cut off.
"""

import os
from collections import deque
from collections.abc import Callable
from itertools import islice
from math import inf

import trio

from bridge.live.frames import CLOSE_HEAD

#: Writes that one system call joins; Linux takes 1024 at most.
_JOINED_WRITES = 64
#: What a write that waits takes in memory, beside its bytes, of which a pong has two.
_WRITE_BYTES = 100


# Shared by all who have nothing waiting; nothing is ever put into it.
_NO_MARKS: deque[int | None] = deque(maxlen=0)


class Outlet(trio.abc.SendStream):
    """A connection's sending side, as trio-websocket and the hub see it.

    Holds at most the write that the socket is busy with and ``buffer_bytes`` behind it; when that
    is not enough, ``overflowed`` is called, once, and from then on only ``cut_off`` can send.
    Nothing goes out behind a close frame.

    Args:
        stream: the accepted connection. Whoever accepted it also closes it.
        nursery: where the flushing task runs while there is something to flush.
        buffer_bytes: how much may wait.
        overflowed: told that the client does not keep up.
        closed: told that trio-websocket is done with the connection.
        lost: told that the client is gone, as a write has shown.
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
        "_waiting_bytes",
        "close_said",
        "sent_through",
        "took_at",
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
        # The writes that wait, and what sent_through is after each. Bytes and numbers, and nothing
        # that the garbage collector would look at: of slow clients there may be a million.
        # None while nothing waits, which is nearly always: thousands of clients are idle.
        self._waiting: deque[bytes] | None = None
        self._marks: deque[int | None] = _NO_MARKS
        self._waiting_bytes = 0
        self._sent_of_first = 0
        self._drained: trio.Event | None = None
        #: Whether frames are taken.
        self._open = True
        #: The close frame that trio-websocket has sent; None if it has not.
        self.close_said: bytes | None = None
        #: The client was sent all that it has coming up to the event with this id; None before it
        #: has anything coming.
        self.sent_through: int | None = None
        #: When the socket last took something that had waited, by trio's clock: a client that reads
        #: slowly answers no ping before it has read what lies in front of it.
        self.took_at = -inf

    def write_nowait(self, frames: bytes, through: int | None = None) -> None:
        """Send whole frames, or keep them to be sent; never waits, never raises.

        Args:
            through: what ``sent_through`` is once they are sent, if that changes with them.
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
            self._waiting_bytes -= sent
        elif self._behind_bytes(self._waiting) + len(frames) <= self._buffer_bytes:
            self._keep(frames, through)
        else:
            self._open = False
            self._overflowed()

    def mark(self, through: int) -> None:
        """Have ``sent_through`` be this id once all that was written before is sent."""
        if self._waiting is None:
            self.sent_through = through
        else:
            self._keep(b"", through)

    def cut_off(self, farewell: Callable[[int | None], bytes]) -> int | None:
        """Throw away what waits, but for the write that is half done, and send last frames.

        Args:
            farewell: makes them of what ``sent_through`` will be, which is returned, too.
        """
        through = self.sent_through
        if self._waiting:
            if self._marks[0] is not None:
                through = self._marks[0]
            # What was to follow may begin further back.
            dropped = [each for each in islice(self._marks, 1, None) if each is not None]
            if through is not None:
                through = min([through, *dropped])
            while len(self._waiting) > 1:
                self._waiting.pop()
                self._marks.pop()
        self._end(farewell(through))
        return through

    def end(self, frames: bytes) -> bool:
        """Send last frames, or keep them behind what waits; :meth:`flush` sends them then.

        Returns:
            Whether they were taken: nothing is after a close frame, or when the client is gone.
        """
        if not self._open:
            return False
        self._end(frames)
        return True

    def _end(self, frames: bytes) -> None:
        self._open = False
        sent = 0
        if self._waiting is None:
            # At once: who flushes comes when the connection's tasks have ended, and one of them may
            # be in a statement that takes its time.
            try:
                sent = os.write(self._descriptor, frames)
            except BlockingIOError:
                pass
            except OSError:
                return
            if sent == len(frames):
                return
            self._waiting, self._marks = deque(), deque()
            self._sent_of_first = sent
        self._waiting.append(frames)
        self._marks.append(None)

    @property
    def is_drained(self) -> bool:
        """Whether nothing waits to be sent."""
        return self._waiting is None

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait to be sent."""
        return self._waiting_bytes

    async def drained(self) -> None:
        """Wait until nothing waits to be sent, or nothing can be sent any more."""
        while self._waiting is not None:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    def _behind_bytes(self, waiting: deque[bytes]) -> int:
        """Return what is kept behind the write that the socket is busy with.

        That one does not count, so that one large event fits any buffer.
        """
        busy_with = len(waiting[0]) - self._sent_of_first
        return self._waiting_bytes - busy_with + (len(waiting) - 1) * _WRITE_BYTES

    def _keep(self, frames: bytes, through: int | None) -> None:
        if self._waiting is None:
            self._waiting, self._marks = deque(), deque()
            self._sent_of_first = 0
            self._nursery.start_soon(self.flush)
        self._waiting.append(frames)
        self._marks.append(through)
        self._waiting_bytes += len(frames)

    async def flush(self) -> None:
        """Send what waits, until nothing does or nothing can be sent any more.

        May be cancelled: then somebody else may go on with what is left.
        """
        waiting = self._waiting
        try:
            while waiting:
                await trio.lowlevel.wait_writable(self._descriptor)
                writes: list[bytes | memoryview] = [*islice(waiting, _JOINED_WRITES)]
                writes[0] = memoryview(writes[0])[self._sent_of_first :]
                try:
                    self._took(os.writev(self._descriptor, writes), waiting)
                except BlockingIOError:
                    continue
        except (OSError, trio.ClosedResourceError):
            self._broken()
        self._waiting, self._marks = None, _NO_MARKS
        self._waiting_bytes = 0
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def _broken(self) -> None:
        """Tell that the connection is gone. The reading side may be far from noticing: it reads at
        a pace, and what the client had sent before is still there.
        """
        self._open = False
        self._lost()

    def _took(self, sent: int, waiting: deque[bytes]) -> None:
        """Take from what waits that the socket took so many bytes."""
        self.took_at = trio.current_time()
        self._waiting_bytes -= sent
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
            trio.BrokenResourceError: the connection is gone, or the client was cut off.
        """
        await trio.lowlevel.checkpoint()
        self.write_nowait(bytes(data))
        if not self._open:
            raise trio.BrokenResourceError("the client is gone, was cut off or is being closed")
        if data[:1] == CLOSE_HEAD:
            self._open = False
            self.close_said = bytes(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Return: sending never blocks."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Tell that trio-websocket is done; who made the outlet ends it."""
        self._closed()
        await trio.lowlevel.checkpoint()
