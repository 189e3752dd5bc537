"""One client's receiving side: the handshake, and apart from it what comes behind, at its pace."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf

import trio

#: Where the head of a request ends; h11 takes bare line feeds, too.
_END_OF_HEAD = re.compile(rb"\n\r?\n")
#: h11 refuses a longer head.
_MOST_HEAD_BYTES = 16 * 1024
_READ_BYTES = 4096

#: What one client sends is read at so many frames a second in the long run, and so many at once
#: after a pause; a frame counts one more for each KiB that it has. What is too much waits in the
#: socket, so nothing is lost. Clients say a few words when they connect and a ping now and then.
#: Without this a handful that send tiny frames as fast as they can delay everybody by a second.
FRAMES_PER_SECOND = 100.0
FRAMES_AT_ONCE = 300
_FRAME_BYTES = 1024
#: trio-websocket looks at all the frames that it gets at once before anybody else's turn comes, and
#: of those that need no answer, pongs and fragments, a read has nearly 700: so many milliseconds.
_FRAMES_A_TURN = 16


class Frames:
    """Tells where frames begin in what a client sends, in whatever pieces it comes.

    It only counts; what is wrong with a frame (RFC 6455, section 5.2) is for wsproto to say.
    """

    __slots__ = ("_head", "_payload_left")

    def __init__(self) -> None:
        # Of a frame whose head has not come whole.
        self._head = b""
        self._payload_left = 0

    def take(self, data: bytes, most: int) -> tuple[int, int]:
        """Take bytes up to where too many frames would have begun.

        Args:
            data: what follows what was taken before.
            most: how many frames may begin, at least 1.

        Returns:
            How many bytes were taken, and how many frames begin in them.
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


#: Two bytes, the eight of a long length, and the four of the mask.
_LONGEST_HEAD = 14
#: How many bytes a length takes that does not fit into the second byte, by what that says instead.
_LENGTH_BYTES = {126: 2, 127: 8}


def _head_size(head: bytes) -> int:
    """Return how long the head of a frame is, as far as its beginning tells."""
    if len(head) < 2:
        return 2
    return 2 + _LENGTH_BYTES.get(head[1] & 0x7F, 0) + (4 if head[1] & 0x80 else 0)


def _payload_size(head: bytes) -> int:
    short = head[1] & 0x7F
    length_bytes = _LENGTH_BYTES.get(short, 0)
    return int.from_bytes(head[2 : 2 + length_bytes], "big") if length_bytes else short


class Intake(trio.abc.ReceiveStream):
    """A connection's receiving side, as trio-websocket sees it.

    What a client sends right behind its handshake, perhaps in the same segment, wsproto would take
    for a part of the handshake and throw away. So it waits here until the handshake is answered.

    Args:
        stream: the accepted connection. Whoever accepted it also closes it.
        heard: called whenever the client has sent something, before it is looked at.
        received: what was read from the stream already, from its first byte on.
        frames_per_second: how fast it reads what comes behind the handshake.
    """

    __slots__ = (
        "_answered",
        "_behind",
        "_frames",
        "_head",
        "_heard",
        "_second_per_frame",
        "_stream",
        "_used_until",
        "heard_at",
    )

    def __init__(
        self,
        stream: trio.SocketStream,
        heard: Callable[[], None],
        received: bytes = b"",
        *,
        frames_per_second: float = FRAMES_PER_SECOND,
    ) -> None:
        self._stream = stream
        self._heard = heard
        self._frames = Frames()
        self._second_per_frame = 1 / frames_per_second
        # When the client would have used up what it may send, had it sent at just that rate.
        self._used_until = -inf
        self._head: bytes | None = None
        # Until the head is read, all there is; later, what was read and is still to be returned.
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
        if not self._behind:
            self._behind = bytes(await self._stream.receive_some(max_bytes))
        self.heard_at = trio.current_time()
        self._heard()
        taken, frames = self._frames.take(self._behind, _FRAMES_A_TURN)
        # Whoever sends its frames octet by octet makes us read as often.
        await self._pause(max(frames, 1) + taken / _FRAME_BYTES)
        data, self._behind = self._behind[:taken], self._behind[taken:]
        return data

    async def _pause(self, frames: float) -> None:
        """Wait until the client may have sent so many frames more."""
        used_until = max(self._used_until, trio.current_time())
        self._used_until = used_until + frames * self._second_per_frame
        await trio.sleep_until(self._used_until - FRAMES_AT_ONCE * self._second_per_frame)

    async def aclose(self) -> None:
        """Do nothing: whoever ends the connection reads what still comes."""
        await trio.lowlevel.checkpoint()
