"""Connections to receivers: HTTP by h11 on trio streams, kept for the next request."""

import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import h11
import trio

from bridge.access.heads import END_OF_HEAD, head_problem, is_padded
from bridge.delivery.url import Origin
from bridge.tasks import first_error

#: Maximum size of a response's status line and headers together. A response that exceeds this or
#: ``MOST_HEADERS`` is an invalid one.
RESPONSE_HEAD_BYTES = 64 * 1024
#: How much of a response to read at once. In chunks of one byte, h11 takes milliseconds for it.
#: A chunk's head or trailers that are longer are not read.
_READ_BYTES = 4096
#: How much of a request's body to send at once.
_PIECE_BYTES = 64 * 1024
CONNECT_SECONDS = 5.0
#: How long to keep an idle connection.
IDLE_SECONDS = 30.0

#: Returns the addresses of a host that may be connected to.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_ANY_REQUEST = h11.Request(
    method="POST", target="/", headers=[("Host", ""), ("Content-Length", "0")]
)
_END = h11.EndOfMessage()


class HungUpError(Exception):
    """The receiver closed the connection before the first byte of its response."""


class Connection:
    """A connection to a receiver, for one request at a time."""

    __slots__ = (
        "_is_chunked",
        "_is_plain",
        "_is_sent",
        "_protocol",
        "_socket",
        "_stream",
        "idle_since",
        "origin",
    )

    def __init__(
        self, origin: Origin, stream: trio.abc.Stream, socket: trio.socket.SocketType
    ) -> None:
        self.origin = origin
        self._stream = stream
        self._socket = socket
        self._is_plain = isinstance(stream, trio.SocketStream)
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=RESPONSE_HEAD_BYTES)
        self._is_chunked = False
        self._is_sent = False
        self.idle_since = 0.0

    async def send(self, head: bytes, body: bytes) -> int:
        """Send the beginning of a request.

        Returns:
            How much of the body was sent. If it is not all of it, ``send_rest`` continues.

        Raises:
            trio.BrokenResourceError: the connection is lost.
        """
        first = head + body[:_PIECE_BYTES]
        position = len(first) - len(head)
        # h11 only has to know that there was a request: what it would check is known to be valid.
        self._protocol.send(_ANY_REQUEST)
        self._protocol.send(_END)
        if self._is_plain:
            # A request usually fits into the socket's buffer: no need to wait for the event loop.
            try:
                sent = os.write(self._socket.fileno(), first)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise trio.BrokenResourceError from error
            if sent > len(head):
                position, first = sent - len(head), b""
            else:
                first = first[sent:]
        if first:
            await self._stream.send_all(first)
        self._is_sent = position == len(body)
        return position

    async def send_rest(self, body: bytes, position: int) -> None:
        """Send the body from ``position`` on, while another task reads the response.

        A receiver may respond to the request's head, and not read the rest or close the connection.
        So it does not matter if the connection is lost; the response may have arrived before.
        """
        with suppress(trio.BrokenResourceError):
            # All deliveries of an event share its body: copy a large one only piece by piece.
            for start in range(position, len(body), _PIECE_BYTES):
                await self._stream.send_all(body[start : start + _PIECE_BYTES])
            self._is_sent = True

    async def next_event(self) -> object:
        """Return h11's next event of the response; None if the rest of the body is too costly.

        Raises:
            HungUpError: the receiver closed the connection before the first byte.
            h11.RemoteProtocolError: the response is not valid HTTP, or has too many headers.
            trio.BrokenResourceError: the connection is lost.
        """
        protocol = self._protocol
        # Without input, h11 can only say so, and that takes a tenth of its time for a response.
        if protocol.their_state is h11.SEND_RESPONSE and not protocol.trailing_data[0]:
            if not (received := await self._receive()):
                raise HungUpError
            protocol.receive_data(received)
        while self._may_parse():
            event = protocol.next_event()
            if isinstance(event, h11.Response):
                self._is_chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
            if event is not h11.NEED_DATA:
                return event
            waiting = protocol.trailing_data[0]
            has_begun = protocol.their_state is not h11.SEND_RESPONSE or waiting
            if protocol.their_state is h11.SEND_BODY and len(waiting) > _READ_BYTES:
                break
            received = await self._receive()
            if not received and not has_begun:
                raise HungUpError
            protocol.receive_data(received)
        return None

    def _may_parse(self) -> bool:
        """Return whether h11 can parse what has been received at little cost.

        Raises:
            h11.RemoteProtocolError: the response has too many headers.
        """
        waiting = self._protocol.trailing_data[0]
        if self._protocol.their_state is h11.SEND_RESPONSE:
            end = END_OF_HEAD.search(waiting)
            if end is not None and (problem := head_problem(waiting[: end.end()])):
                raise h11.RemoteProtocolError(problem)
        return not (self._is_chunked and is_padded(waiting))

    async def _receive(self) -> bytes:
        if not self._is_plain:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        # Responses take a while: reading before waiting would be in vain.
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return os.read(self._socket.fileno(), _READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    def reuse(self) -> bool:
        """Prepare for another request; return False if that is impossible."""
        protocol = self._protocol
        is_done = protocol.our_state is protocol.their_state is h11.DONE
        # If the receiver sent more than one response, the next request would get the rest.
        if not self._is_sent or not is_done or protocol.trailing_data[0]:
            return False
        protocol.start_next_cycle()
        self._is_chunked = False
        return True

    @property
    def is_usable(self) -> bool:
        """Whether the receiver, as far as is known, still waits for a request."""
        # Unrequested input is the end of the stream, or something worse.
        return not self._socket.is_readable()

    def close(self) -> None:
        """Close the connection at once."""
        self._socket.close()


class IdleConnections:
    """The idle connections. The most recently used is reused first, so the others expire.

    Args:
        most: maximum number to keep; beyond it the one that has been idle longest is closed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_origin: dict[Origin, deque[Connection]] = {}
        self._count = 0

    def take(self, origin: Origin) -> Connection | None:
        """Remove and return a usable connection, or None."""
        connections = self._by_origin.get(origin)
        while connections:
            connection = connections.pop()
            self._count -= 1
            if connection.is_usable:
                return connection
            connection.close()
        return None

    def keep(self, connection: Connection) -> None:
        """Add a connection."""
        connection.idle_since = trio.current_time()
        self._by_origin.setdefault(connection.origin, deque()).append(connection)
        self._count += 1
        if self._count > self._most:
            oldest = min(
                (each for each in self._by_origin.values() if each),
                key=lambda each: each[0].idle_since,
            )
            oldest.popleft().close()
            self._count -= 1

    def close(self, older_than_seconds: float) -> None:
        """Close the connections that have been idle for this long."""
        before = trio.current_time() - older_than_seconds
        for origin, connections in list(self._by_origin.items()):
            while connections and connections[0].idle_since <= before:
                connections.popleft().close()
                self._count -= 1
            if not connections:
                del self._by_origin[origin]


async def open_stream(addresses: Sequence[str], port: int) -> trio.SocketStream:
    """Connect to the first address that answers; each gets a share of ``CONNECT_SECONDS``.

    Raises:
        OSError: none answers.
    """
    deadline = trio.current_time() + CONNECT_SECONDS
    failure: OSError = OSError("the host has no address")
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        share = (deadline - trio.current_time()) / left
        try:
            with trio.fail_after(share):
                return await trio.open_tcp_stream(address, port)
        except trio.TooSlowError:
            failure = TimeoutError(f"no response within {CONNECT_SECONDS:g} s")
        except OSError as error:
            # trio reports a group of errors, here for the one address.
            cause = first_error(error.__cause__ or error)
            failure = cause if isinstance(cause, OSError) else error
    raise failure
