"""The receiving side of a connection: the handshake first, then frames at a limited rate."""

from collections.abc import Callable
from math import inf

import trio

#: The rate limit of one client, and the burst it may send after a pause; a frame counts one more
#: for each KiB. Excess input stays in the socket, so nothing is lost. Honest clients send a few
#: messages when they connect and an occasional ping. Without the limit, a handful of clients that
#: send tiny frames at full speed delay all others by a second.
FRAMES_PER_SECOND = 100.0
FRAMES_AT_ONCE = 300
_FRAME_BYTES = 1024
#: What a client may send between its handshake and its admission, which takes a token in a message.
#: The rest waits in the socket: thousands of clients without a token may be connected.
UNADMITTED_BYTES = 8 * 1024
#: trio-websocket processes all frames of one read without yielding. A read can hold nearly 700
#: pongs or fragments, which take as many milliseconds.
_FRAMES_PER_READ = 16


class FrameCounter:
    """Finds where frames begin in a client's bytes, however they are split.

    It only counts; wsproto rejects invalid frames (RFC 6455, section 5.2).
    """

    __slots__ = ("_head", "_payload_left")

    def __init__(self) -> None:
        # The incomplete head of a frame.
        self._head = b""
        self._payload_left = 0

    def take(self, data: bytes, most: int) -> tuple[int, int]:
        """Take bytes until too many frames would begin.

        Args:
            data: the bytes that follow those taken before.
            most: how many frames may begin, at least 1.

        Returns:
            The number of bytes taken and the number of frames that begin in them.
        """
        taken = frames = 0
        while taken < len(data):
            if self._payload_left:
                step = min(self._payload_left, len(data) - taken)
                self._payload_left -= step
                taken += step
                continue
            if frames == most:
                break
            known = len(self._head)
            head = self._head + data[taken : taken + _LONGEST_HEAD - known]
            size = _head_size(head)
            taken += min(size, len(head)) - known
            if len(head) < size:
                self._head = head
            else:
                self._head = b""
                self._payload_left = _payload_size(head)
                frames += 1
        return taken, frames


#: Two bytes, eight of a long length, four of the mask.
_LONGEST_HEAD = 14
#: The bytes of an extended length, by the value of the short length.
_LENGTH_BYTES = {126: 2, 127: 8}


def _head_size(head: bytes) -> int:
    """Return the size of a frame's head, as far as its first bytes show."""
    if len(head) < 2:
        return 2
    return 2 + _LENGTH_BYTES.get(head[1] & 0x7F, 0) + (4 if head[1] & 0x80 else 0)


def _payload_size(head: bytes) -> int:
    short = head[1] & 0x7F
    length_bytes = _LENGTH_BYTES.get(short, 0)
    return int.from_bytes(head[2 : 2 + length_bytes], "big") if length_bytes else short


class Intake(trio.abc.ReceiveStream):
    """The receiving side of a connection, as trio-websocket sees it.

    wsproto would treat bytes right behind the handshake as part of it and discard them. They wait
    here until the handshake is answered.

    Args:
        stream: the accepted connection; the caller closes it.
        on_input: called whenever the client has sent something, before it is processed.
        head: the head of the request.
        behind: the bytes already received behind the head.
        frames_per_second: the rate limit of frames.
    """

    __slots__ = (
        "_admitted",
        "_answered",
        "_behind",
        "_frames",
        "_head",
        "_on_input",
        "_second_per_frame",
        "_stream",
        "_unadmitted_bytes",
        "_used_until",
        "received_at",
    )

    def __init__(
        self,
        stream: trio.SocketStream,
        on_input: Callable[[], None],
        head: bytes,
        behind: bytes = b"",
        *,
        frames_per_second: float = FRAMES_PER_SECOND,
    ) -> None:
        self._stream = stream
        self._on_input = on_input
        self._frames = FrameCounter()
        self._second_per_frame = 1 / frames_per_second
        # The time at which a client that sends at exactly the limit would have sent this much.
        self._used_until = -inf
        self._head: bytes | None = head
        self._behind = behind
        # None once that has happened, to save memory on thousands of open connections.
        self._answered: trio.Event | None = trio.Event()
        self._admitted: trio.Event | None = trio.Event()
        self._unadmitted_bytes = 0
        #: When the client last sent anything, by trio's clock.
        self.received_at = trio.current_time()

    def answered(self) -> None:
        """Let the bytes behind the handshake through."""
        if self._answered is not None:
            self._answered.set()
            self._answered = None

    def admitted(self) -> None:
        """Let everything through that the client sends: its token is valid."""
        if self._admitted is not None:
            self._admitted.set()
            self._admitted = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the head first, then what the client sends."""
        if self._head:
            await trio.lowlevel.checkpoint()
            head, self._head = self._head, None
            return head
        if self._answered is not None:
            await self._answered.wait()
        if self._admitted is not None and self._unadmitted_bytes >= UNADMITTED_BYTES:
            await self._admitted.wait()
        if not self._behind:
            self._behind = bytes(await self._stream.receive_some(max_bytes))
        self.received_at = trio.current_time()
        self._on_input()
        taken, frames = self._frames.take(self._behind, _FRAMES_PER_READ)
        # Each read counts as a frame, because a client may send its frames byte by byte.
        await self._pause(max(frames, 1) + taken / _FRAME_BYTES)
        data, self._behind = self._behind[:taken], self._behind[taken:]
        self._unadmitted_bytes += taken
        return data

    async def _pause(self, frames: float) -> None:
        """Wait until the rate limit allows this many more frames."""
        used_until = max(self._used_until, trio.current_time())
        self._used_until = used_until + frames * self._second_per_frame
        await trio.sleep_until(self._used_until - FRAMES_AT_ONCE * self._second_per_frame)

    async def aclose(self) -> None:
        """Do nothing: the connection reads the remaining input when it ends."""
        await trio.lowlevel.checkpoint()
