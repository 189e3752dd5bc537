"""The limit of machine and Python: frames written to plain sockets without a bridge."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from bridge.events import Event
from bridge.live.framing import text_frame
from tests.bench.clients import Clients


class PlainSockets:
    """The accepted sides of connections from the clients' process."""

    def __init__(self, group: str, sockets: list[socket.socket]) -> None:
        self.group = group
        self._sockets = sockets

    def write(self, chunks: Iterable[bytes]) -> None:
        """Write the chunks, each to all clients before the next."""
        for chunk in chunks:
            for each in self._sockets:
                each.sendall(chunk)


@contextmanager
def plain_sockets(clients: Clients, count: int, kind: str) -> Iterator[PlainSockets]:
    """Connect clients without a bridge or a handshake."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=count))
        group = clients.begin_to_connect(count, listener.getsockname()[1], kind, path=None)
        sockets = [stack.enter_context(listener.accept()[0]) for _ in range(count)]
        for each in sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        clients.opened()
        yield PlainSockets(group, sockets)
        clients.close(group)


def frame(event_id: int, username: str, first_name: str = "") -> bytes:
    """Return an event of a benchmark as the bridge frames it."""
    payload = (
        f'{{"user_id": {event_id}, "username": "{username}", "last_name": null,'
        f' "first_name": "{first_name}", "telegram_id": null}}'
    )
    return text_frame(Event(event_id, "user.created", payload, datetime.now(UTC)).wire())
