"""A receiver that behaves as the test wants and records its requests."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import trio


@dataclass(frozen=True)
class Request:
    """A request that arrived."""

    target: str
    headers: dict[str, str]
    body: bytes


#: Gets the request and the connection. Returning closes the connection.
Behaviour = Callable[[Request, trio.SocketStream], Awaitable[None]]


def answer(status: str = "200 OK", body: bytes = b"ok", headers: tuple[str, ...] = ()) -> Behaviour:
    """Respond at once."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]

    async def behave(_request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all("\r\n".join([*head, "", ""]).encode() + body)

    return behave


async def hang(_request: Request, _stream: trio.SocketStream) -> None:
    """Never respond."""
    await trio.sleep_forever()


def hang_until(released: trio.Event) -> Behaviour:
    """Respond once the event is set."""

    async def behave(request: Request, stream: trio.SocketStream) -> None:
        await released.wait()
        await answer()(request, stream)

    return behave


@dataclass
class Receiver:
    """A running receiver. ``behaviours`` maps paths to behaviours; other paths respond with 200."""

    port: int
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def at(self, path: str) -> list[Request]:
        """Return the requests to a path."""
        return [request for request in self.requests if request.target == path]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is checked after every request."""
        while not holds():
            await self.changed.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                request = await _read(stream)
                self.requests.append(request)
                self.changed.set()
                self.changed = trio.Event()
                await self.behaviours.get(request.target, answer())(request, stream)
            except (trio.BrokenResourceError, h11.RemoteProtocolError, _HungUpError):
                pass  # the test checks what the sender makes of this


class _HungUpError(Exception):
    """The sender closed the connection during its request."""


async def _read(stream: trio.SocketStream) -> Request:
    connection = h11.Connection(h11.SERVER)
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            received = bytes(await stream.receive_some())
            if not received:
                raise _HungUpError
            connection.receive_data(received)
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif head is None or isinstance(event, h11.ConnectionClosed):
            raise _HungUpError
        else:
            headers = {name.decode(): value.decode() for name, value in head.headers}
            return Request(head.target.decode(), headers, body)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run a receiver on a free port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    receiver = Receiver(listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, receiver.serve, listeners)
        yield receiver
        nursery.cancel_scope.cancel()
