"""Serves the port for a test without a database."""

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import trio
from fastapi import FastAPI
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, Request, TextMessage

from bridge import events
from bridge.access.authenticator import Authenticator
from bridge.access.scopes import EVENTS_READ, WEBHOOKS_READ
from bridge.access.tokens import Grant, TokenKey
from bridge.database.clock import ServerClock
from bridge.live.connection import StreamLimits
from bridge.live.history import RECENT_BYTES, History, LogPage
from bridge.live.hub import Hub
from bridge.live.stream import LiveStream
from bridge.telemetry import metrics
from bridge.web.http.front import Front
from tests.waiting import PATIENCE_SECONDS, until

#: A history that keeps nothing in memory, so that every past event comes from the log.
FORGETFUL = 0
LIMITS = StreamLimits(handshake_seconds=5.0)


class Tokens(Authenticator):
    """An in-memory stand-in for the authenticator."""

    def __init__(self) -> None:
        self.known = {
            "right": Grant(1, "right", frozenset([EVENTS_READ])),
            "other": Grant(2, "other", frozenset([EVENTS_READ])),
            "blind": Grant(3, "blind", frozenset([WEBHOOKS_READ])),
            "tickets": Grant(4, "tickets", frozenset(["events:read:ticket.*"])),
        }
        #: Tickets and the token that each was issued for.
        self.tickets: dict[str, str] = {}
        #: Addresses of clients that presented a token or ticket.
        self.addresses: list[str] = []

    async def authenticate(self, token: str, address: str = "") -> Grant | None:
        self.addresses.append(address)
        return self.known.get(token)

    async def use_ticket(self, ticket: str, address: str = "") -> Grant | None:
        self.addresses.append(address)
        return self.known.get(self.tickets.pop(ticket, ""))

    async def grants(self, keys: Iterable[TokenKey]) -> list[Grant]:
        wanted = set(keys)
        return [grant for grant in self.known.values() if grant.key in wanted]


class Log:
    """An in-memory stand-in for the event log."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self.newest_id = 0
        self.reads = 0
        #: Raised by the next read.
        self.failure: Exception | None = None
        #: Awaited before each read with the id it starts after.
        self.before_read: Callable[[int], Awaitable[None]] | None = None

    def append(self, more: Sequence[events.Event]) -> None:
        self.events += more
        self.newest_id = self.events[-1].id

    async def read(self, after: int, through: int, most: int, most_bytes: int) -> LogPage:
        await trio.lowlevel.checkpoint()
        if self.before_read is not None:
            await self.before_read(after)
        self.reads += 1
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        found = [each for each in self.events if after < each.id <= through]
        page: list[events.Event] = []
        size = 0
        for each in found[:most]:
            if page and size + len(each.payload) > most_bytes:
                break
            page.append(each)
            size += len(each.payload)
        available_from = self.events[0].id if self.events else self.newest_id + 1
        return LogPage(page, len(page) == len(found), available_from, self.newest_id)


@dataclass
class Serving:
    """A running front with its port, hub and stream."""

    port: int
    hub: Hub
    live: LiveStream
    log: Log
    tokens: Tokens
    nursery: trio.Nursery
    next_id: int = 1
    streams: list[trio.SocketStream] = field(default_factory=list)

    def publish(self, payload: str = "{}", count: int = 1, event_type: str = "test.event") -> None:
        """Log and publish events with consecutive ids."""
        now = datetime.now(UTC)
        ids = range(self.next_id, self.next_id + count)
        self.next_id += count
        batch = [events.Event(each, event_type, payload, now) for each in ids]
        self.log.append(batch)
        self.hub.publish(batch)

    async def connect(
        self, query: str = "?token=right", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> WebSocketConnection:
        """Connect a well-behaved client."""
        return await wrap_client_stream(
            self.nursery,
            await self.raw(),
            "127.0.0.1",
            f"/ws{query}",
            extra_headers=list(headers),
            message_queue_size=100,
        )

    async def welcomed(self, query: str = "?token=right") -> WebSocketConnection:
        """Connect a well-behaved client and receive the welcome."""
        client = await self.connect(query)
        assert (await message(client))["type"] == "connection"
        return client

    @property
    def followers(self) -> int:
        """The number of clients that follow the live stream."""
        return sum(map(len, self.hub._followers.values()))

    async def until_clients(self, count: int) -> None:
        """Wait until this many clients are connected."""
        await until(lambda: self.live.clients == count)

    async def raw(self) -> trio.SocketStream:
        """Connect without sending anything."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.streams.append(stream)
        return stream


async def never(_after: int) -> None:
    """Block a read of the log forever."""
    await trio.sleep_forever()


def hold_back(log: Log) -> tuple[trio.Event, trio.Event]:
    """Block reads of the log; return an event set by the first and one that releases them."""
    waiting, go_on = trio.Event(), trio.Event()

    async def wait(_after: int) -> None:
        waiting.set()
        with trio.CancelScope(shield=True):  # like a database statement
            await go_on.wait()

    log.before_read = wait
    return waiting, go_on


async def message(client: WebSocketConnection) -> dict[str, Any]:
    """Return the next message, parsed."""
    parsed: dict[str, Any] = json.loads(await client.get_message())
    return parsed


async def ask(client: WebSocketConnection, **request: object) -> dict[str, Any]:
    """Send a message and return the next one received."""
    await client.send_message(json.dumps(request))
    return await message(client)


async def ids_until_resumed(client: WebSocketConnection) -> tuple[list[int], dict[str, Any]]:
    """Receive events until ``resumed``; return their ids and that message."""
    ids: list[int] = []
    while True:
        got = await message(client)
        if got["type"] == "resumed":
            return ids, got
        ids.append(got["id"])


async def closing(client: WebSocketConnection) -> tuple[int, str | None]:
    """Read until the server closes; return the code and reason."""
    reason = None
    while reason is None:
        try:
            await client.get_message()
        except ConnectionClosed as closed:
            reason = closed.reason
    return reason.code, reason.reason


@asynccontextmanager
async def serving(
    *,
    limits: StreamLimits = LIMITS,
    tokens: Tokens | None = None,
    log: Log | None = None,
    recent_bytes: int = RECENT_BYTES,
    send_buffer_bytes: int | None = None,
    access_log: bool = False,
) -> AsyncIterator[Serving]:
    """Serve the stream and a REST API with one page on a free port.

    Args:
        send_buffer_bytes: the kernel's send buffer of each connection.
    """
    api = FastAPI()

    @api.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    tokens, log = tokens or Tokens(), log or Log()
    clock = ServerClock()
    clock.answered(datetime.now(UTC), clock.asks())
    hub = Hub(History(log.newest_id, log.read, recent_bytes=recent_bytes), clock)
    live = LiveStream(hub, tokens, limits, access_log=access_log)
    front = Front(api, live.serve, handshake_seconds=limits.handshake_seconds)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    if send_buffer_bytes is not None:
        listeners[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.accept, listeners, nursery)
            nursery.start_soon(live.run)
            port = listeners[0].socket.getsockname()[1]
            server = Serving(port, hub, live, log, tokens, nursery, log.newest_id + 1)
            try:
                yield server
            finally:
                nursery.cancel_scope.cancel()
                for stream in server.streams:
                    stream.socket.close()


def clients_dropped() -> dict[str, float]:
    """Return the number of dropped clients by reason, without zeros."""
    [family] = metrics.clients_dropped.collect()
    return {
        sample.labels["reason"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


@contextmanager
def dropping(**reasons: int) -> Iterator[None]:
    """Check that exactly these numbers of clients are dropped, by reason."""
    before = clients_dropped()
    yield
    counted = {
        reason: count - before.get(reason, 0)
        for reason, count in clients_dropped().items()
        if count != before.get(reason, 0)
    }
    assert counted == reasons


class RawClient:
    """A client that can send arbitrary frames."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.CLIENT)

    async def open(self, target: str = "/ws?token=right") -> None:
        request = Request(host="127.0.0.1", target=target)
        await self.stream.send_all(self.protocol.send(request))
        assert isinstance(await self.next(), AcceptConnection)

    async def next(self) -> Event:
        """Return the next event from the server."""
        while True:
            for event in self.protocol.events():
                return event
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self.protocol.receive_data(data)

    async def close_code(self) -> int:
        """Read until the server closes; return its close code."""
        return (await self.everything())[1]

    async def everything(self) -> tuple[list[str], int, str | None]:
        """Read until the server closes; return its messages, close code and reason."""
        texts: list[str] = []
        while True:
            got = await self._text_or_close()
            if isinstance(got, CloseConnection):
                return texts, int(got.code), got.reason
            texts.append(got)

    async def text(self) -> str:
        """Return the next text message."""
        got = await self._text_or_close()
        assert isinstance(got, str)
        return got

    async def _text_or_close(self) -> str | CloseConnection:
        text = ""
        while True:
            event = await self.next()
            if isinstance(event, CloseConnection):
                return event
            if isinstance(event, TextMessage):
                text += event.data
                if event.message_finished:
                    return text

    async def answer_pings(self, count: int) -> None:
        """Answer this many pings."""
        while count:
            event = await self.next()
            if isinstance(event, Ping):
                await self.stream.send_all(self.protocol.send(event.response()))
                count -= 1


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Return a client's frame, masked with zeros, which leave the payload unchanged."""
    head = bytes([(0x80 if fin else 0) | opcode])
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return head + length + b"\0\0\0\0" + payload


CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Sent(NamedTuple):
    """A frame sent by the server."""

    opcode: int
    payload: bytes


def sent_by_server(data: bytes) -> tuple[list[Sent], bytes]:
    """Return the complete frames in a server's bytes, and the rest."""
    frames = []
    while len(data) >= 2:
        head, size, rest = data[0], data[1], data[2:]
        assert head & 0xF0 == 0x80, "the server sends no fragments and no reserved bits"
        if size >= 126:
            length_bytes = 2 if size == 126 else 8
            if len(rest) < length_bytes:
                break
            size, rest = int.from_bytes(rest[:length_bytes], "big"), rest[length_bytes:]
        if len(rest) < size:
            break
        frames.append(Sent(head & 0x0F, rest[:size]))
        data = rest[size:]
    return frames, data
