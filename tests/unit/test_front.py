"""The one port before any token is shown: what strangers send is answered, or cut off, in time."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Any

import h11
import pytest
import structlog
import trio
import trio.testing
from fastapi import Body, FastAPI, HTTPException, Response
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bridge.web.http.exchange import LINGER_BYTES, LINGER_SECONDS
from bridge.web.http.front import MOST_HEAD_BYTES, TELL_SECONDS, Front

#: A test that is not over by then has failed.
MOST_SECONDS = 60.0
LARGE_BYTES = 16 * 1024 * 1024
HELLO = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
JSON = b'{"some": "body"}'
ECHO = POST + b"Content-Length: %d\r\n\r\n" % len(JSON) + JSON
IN_CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"10\r\n" + JSON + b"\r\n0\r\n\r\n"


def api() -> FastAPI:
    api = FastAPI()

    @api.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    @api.post("/echo")
    async def echo(body: Annotated[Any, Body()]) -> Any:
        return body

    @api.post("/refusing")
    async def refusing() -> None:
        # As if the token were looked up: meanwhile the body comes, and fills what there is for it.
        await trio.testing.wait_all_tasks_blocked()
        raise HTTPException(401, "Missing API key")

    @api.get("/large")
    async def large() -> Response:
        return Response(bytes(LARGE_BYTES))

    return api


@dataclass
class Fronting:
    """A running front."""

    port: int
    front: Front
    #: Where its connections run.
    connections: trio.Nursery
    #: Requests for the stream: all that was read of each.
    for_stream: list[bytes] = field(default_factory=list)
    streams: list[trio.SocketStream] = field(default_factory=list)

    async def connect(self, sent: bytes = b"") -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.streams.append(stream)
        await stream.send_all(sent)
        return stream

    async def answer(self, sent: bytes) -> Answer:
        """Send a request, and return the answer; the server has to hang up."""
        return answer(await everything(await self.connect(sent)))

    async def until_idle(self) -> None:
        """Wait until every connection has ended by itself."""
        while self.connections.child_tasks:
            await trio.testing.wait_all_tasks_blocked(0.001)

    async def until_waiting(self, count: int) -> None:
        """Wait until so many connections have been accepted and said no request."""
        while self.front.waiting != count:
            await trio.testing.wait_all_tasks_blocked(0.001)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    #: What came behind the answer.
    behind: bytes = b""

    @property
    def json(self) -> Any:
        assert self.headers[b"content-type"] == b"application/json"
        return json.loads(self.body)


def answer(received: bytes) -> Answer:
    """Parse an answer, behind any number of 100 Continue."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(received)
    client.receive_data(b"")
    head, body = None, b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert isinstance(event, h11.InformationalResponse), received
    assert head is not None
    return Answer(head.status_code, dict(head.headers), body, client.trailing_data[0])


async def everything(stream: trio.SocketStream) -> bytes:
    """Read until the server hangs up."""
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


@asynccontextmanager
async def fronting(send_buffer_bytes: int | None = None, **limits: Any) -> AsyncIterator[Fronting]:
    """Run a front on a free port; at the end nothing of any connection may be left."""

    async def live(stream: trio.SocketStream, received: bytes, _head_bytes: int) -> None:
        server.for_stream.append(received)
        await stream.send_all(b"to the stream")

    front = Front(api(), live, **{"handshake_seconds": 60.0, **limits})
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    if send_buffer_bytes is not None:
        listeners[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    descriptors = len(os.listdir("/proc/self/fd"))
    over = threading.Event()

    async def end_in_time() -> None:
        # By the machine's own clock: the tests' may stand still.
        if not await trio.to_thread.run_sync(over.wait, MOST_SECONDS, abandon_on_cancel=True):
            raise AssertionError("it takes too long")

    try:
        async with trio.open_nursery() as nursery, trio.open_nursery() as connections:
            nursery.start_soon(end_in_time)
            nursery.start_soon(front.accept, listeners, connections)
            server = Fronting(listeners[0].socket.getsockname()[1], front, connections)
            try:
                yield server
                for stream in server.streams:
                    stream.socket.close()
                await server.until_idle()
                assert len(os.listdir("/proc/self/fd")) == descriptors
            finally:
                nursery.cancel_scope.cancel()
                connections.cancel_scope.cancel()
                for stream in server.streams:
                    stream.socket.close()
    finally:
        over.set()


def reset(stream: trio.SocketStream) -> None:
    """Hang up so that the server gets a reset."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


# --- the head of the request

HEADS = [
    pytest.param(HELLO, id="REST"),
    pytest.param(b"GET /ws?token=x HTTP/1.1\r\nHost: x\r\n\r\n", id="stream"),
]


@pytest.mark.parametrize("head", HEADS)
async def test_a_head_in_single_bytes_is_taken(head: bytes) -> None:
    async with fronting() as server:
        client = await server.connect()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(head)):
            await client.send_all(head[place : place + 1])
            await trio.testing.wait_all_tasks_blocked()
        assert await everything(client)
        assert server.for_stream == ([head] if head.startswith(b"GET /ws") else [])


@pytest.mark.parametrize("head", HEADS)
async def test_a_head_that_drips_is_answered_408_at_the_deadline(
    head: bytes, mock_clock: trio.testing.MockClock
) -> None:
    async with fronting(handshake_seconds=10.0) as server:
        client = await server.connect(head[:1])
        for place in range(1, 10):
            await server.until_waiting(1)
            mock_clock.jump(1.0)
            await client.send_all(head[place : place + 1])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.front.waiting == 1, "the deadline is not there yet"
        mock_clock.jump(1.0)
        got = answer(await everything(client))
        assert (got.status, got.json) == (408, {"detail": "Request Timeout"})
        assert got.headers[b"connection"] == b"close"
        assert server.for_stream == []


async def test_who_says_nothing_is_closed_at_the_deadline_without_a_word(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with fronting(handshake_seconds=10.0) as server:
        client = await server.connect()
        await server.until_waiting(1)
        mock_clock.jump(10.0)
        assert await everything(client) == b""


async def test_of_too_many_that_wait_who_has_waited_longest_is_closed() -> None:
    async with fronting(most_waiting=3) as server:
        waiting = []
        for count in range(1, 4):
            waiting.append(await server.connect(b"GET"))
            await server.until_waiting(count)
        assert (await server.answer(HELLO)).status == 200
        assert await everything(waiting[0]) == b""
        await server.until_waiting(2)
        for client in waiting[1:]:
            await client.send_all(HELLO[3:])
            assert answer(await everything(client)).status == 200


async def test_a_flood_of_idle_connections_keeps_nobody_out() -> None:
    async with fronting(most_waiting=10) as server:
        for _ in range(30):
            for _ in range(5):
                await server.connect()
            assert (await server.answer(HELLO)).status == 200
            assert server.front.waiting <= 10


async def test_who_has_said_nothing_is_closed_when_the_bridge_stops() -> None:
    async with fronting() as server:
        client = await server.connect(b"GET /hel")
        await server.until_waiting(1)
        server.front.stop()
        assert await everything(client) == b""


@pytest.mark.parametrize("path", [b"/hello", b"/ws"])
async def test_a_head_may_have_16_kib_and_no_more(path: bytes) -> None:
    def head(size: int) -> bytes:
        start = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nX-Long: "
        return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"

    async with fronting() as server:
        client = await server.connect(head(MOST_HEAD_BYTES))
        assert b"431" not in await everything(client)
        endless = head(MOST_HEAD_BYTES * 10).rstrip()
        for too_long in (head(MOST_HEAD_BYTES + 1), endless):
            got = await server.answer(too_long)
            assert (got.status, got.json["detail"]) == (431, "Request Header Fields Too Large")
        assert len(server.for_stream) == (path == b"/ws")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00",
        b"\r\n\r\n",
        b"get / HTTP/1.1\r\n",
        b"GET\t/ HTTP/1.1\r\n",
        b"G" * 33,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x02",
        b"{}",
    ],
    ids=repr,
)
async def test_what_cannot_become_a_request_is_answered_400_at_once(garbage: bytes) -> None:
    async with fronting() as server:
        got = await server.answer(garbage)
        assert (got.status, got.json) == (400, {"detail": "Bad Request"})


async def test_tls_is_closed_at_once_and_told_of_once_a_minute(
    mock_clock: trio.testing.MockClock,
) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)

    async def knock() -> None:
        client = await server.connect(hello[:1])
        await server.until_waiting(1)
        await client.send_all(hello[1:])
        assert await everything(client) == b""

    with structlog.testing.capture_logs() as logs:
        async with fronting() as server:
            for _ in range(3):
                await knock()
            assert [entry["event"] for entry in logs] == ["tls_handshake_rejected"]
            mock_clock.jump(TELL_SECONDS)
            await knock()
    assert [entry["event"] for entry in logs] == ["tls_handshake_rejected"] * 2


# --- one protocol


@pytest.mark.parametrize(
    "sent",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"GET /hello HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /hello HTTP/0.9\r\nHost: x\r\n\r\n",
    ],
    ids=["preface", "2.0", "0.9"],
)
async def test_other_versions_of_http_are_refused(sent: bytes) -> None:
    async with fronting() as server:
        got = await server.answer(sent)
        assert (got.status, got.json) == (505, {"detail": "HTTP Version Not Supported"})


H2C = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
WEBSOCKET = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
FOLDED = b"upgrade:\r\n h2c\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize("wish", [H2C, WEBSOCKET, FOLDED], ids=["h2c", "websocket", "folded"])
@pytest.mark.parametrize(
    ("target", "status"),
    [(b"GET /hello", 200), (b"GET /ws/anything", 404), (b"POST /ws/tickets", 404)],
    ids=["hello", "ws/anything", "ws/tickets"],
)
async def test_the_wish_for_another_protocol_is_passed_over_on_rest(
    wish: bytes, target: bytes, status: int
) -> None:
    async with fronting() as server:
        # Garbage behind the request: nothing may take it for frames of the other protocol.
        got = await server.answer(target + b" HTTP/1.1\r\nHost: x\r\n" + wish + b"\r\n\x88\x80zzzz")
        assert got.status == status
        assert got.json == ({"hello": "world"} if status == 200 else {"detail": "Not Found"})
        assert server.for_stream == []


async def test_a_connection_has_one_request_whatever_is_sent_behind_it() -> None:
    async with fronting() as server:
        for sent in (
            HELLO * 3,
            HELLO + b"\x00garbage",
            ECHO + HELLO,
            HELLO.replace(b"1.1", b"1.0"),
        ):
            got = await server.answer(sent)
            assert (got.status, got.behind) == (200, b"")
            assert got.headers[b"connection"] == b"close"


# --- deadlines behind the head


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(POST + b"Content-Length: 16\r\n\r\n" + JSON[:5], id="with a length"),
        pytest.param(IN_CHUNKS[:-8], id="in chunks"),
        pytest.param(
            POST + b"Content-Length: 16\r\nExpect: 100-continue\r\n\r\n", id="to be asked for"
        ),
    ],
)
async def test_a_body_that_does_not_arrive_in_time_is_answered_408(
    sent: bytes, mock_clock: trio.testing.MockClock
) -> None:
    async with fronting(body_seconds=30.0) as server:
        client = await server.connect(sent)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(30.0)
        got = answer(await everything(client))
        assert (got.status, got.json) == (408, {"detail": "Request Timeout"})


async def test_a_client_that_does_not_read_its_answer_is_cut_when_all_its_time_is_up(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with fronting(send_buffer_bytes=65536, rest_seconds=180.0) as server:
        client = await server.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(179.0)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.connections.child_tasks
        mock_clock.jump(1.0)
        await server.until_idle()
        received = 0
        try:
            while data := await client.receive_some():
                received += len(data)
        except trio.BrokenResourceError:
            pass
        assert received < LARGE_BYTES


async def test_a_client_that_does_not_read_its_answer_does_not_keep_the_bridge_from_stopping() -> (
    None
):
    async with fronting(send_buffer_bytes=65536) as server:
        await server.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        server.connections.cancel_scope.cancel()
        await server.until_idle()


#: Of a body, as if it came through a slow line: each is read by itself.
PIECES = 30


async def test_who_is_refused_before_its_body_is_read_gets_the_answer_and_ends() -> None:
    async with fronting() as server:
        client = await server.connect(
            b"POST /refusing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            # More events at once than hypercorn has room for.
            + b"1\r\nx\r\n" * 1000
        )
        for _ in range(PIECES):
            await client.send_all(b"1\r\nx\r\n")
        await client.send_eof()
        got = answer(await everything(client))
        assert (got.status, got.json) == (401, {"detail": "Missing API key"})
        # Not only when its time is up.
        await server.until_idle()


async def test_who_goes_on_sending_behind_its_answer_is_cut() -> None:
    async with fronting(send_buffer_bytes=65536) as server:
        client = await server.connect(
            b"POST /refusing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        )
        sent = 0
        with suppress(trio.BrokenResourceError):
            while sent < 50 * LINGER_BYTES:
                await client.send_all(bytes(65536))
                sent += 65536
        assert sent < 50 * LINGER_BYTES
        await server.until_idle()


async def test_who_neither_sends_nor_hangs_up_behind_its_answer_is_cut(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with fronting() as server:
        await server.connect(HELLO)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.connections.child_tasks
        mock_clock.jump(LINGER_SECONDS)
        await server.until_idle()


# --- accepting


async def test_a_process_without_descriptors_closes_who_waits_longest_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept, calls = trio.SocketListener.accept, 0

    async def failing(listener: trio.SocketListener) -> trio.SocketStream:
        nonlocal calls
        calls += 1
        if calls in (4, 5):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", failing)
    with structlog.testing.capture_logs() as logs:
        async with fronting() as server:
            idle = [await server.connect() for _ in range(3)]
            for closed in idle[:2]:
                assert await everything(closed) == b""
            assert (await server.answer(HELLO)).status == 200
            assert server.front.waiting == 1
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("accept_failed", "warning")
    ]


# --- whatever is sent


class Records(logging.Handler):
    """What libraries log: tracebacks of hypercorn's, for example."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.all: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(self.format(record))


@contextmanager
def silence() -> Iterator[None]:
    """See that nothing is logged, but for what is told of TLS."""
    records = Records()
    logging.getLogger().addHandler(records)
    try:
        with structlog.testing.capture_logs() as logs:
            yield
    finally:
        logging.getLogger().removeHandler(records)
    assert [entry for entry in logs if entry["event"] != "tls_handshake_rejected"] == []
    assert records.all == []


def check(received: bytes) -> None:
    """See that an answer, if there is any, is whole, and of the API's shape if it is an error."""
    if not received or received == b"to the stream":
        return
    got = answer(received)
    assert got.behind == b""
    if got.status >= 400:
        assert "detail" in got.json


CUT = [
    pytest.param(ECHO, id="with a length"),
    pytest.param(IN_CHUNKS, id="in chunks"),
    pytest.param(HELLO.replace(b"\r\n\r\n", b"\r\n" + H2C + b"\r\n"), id="h2c"),
    pytest.param(b"GET /ws HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET + b"\r\n", id="stream"),
]


@pytest.mark.parametrize("request_bytes", CUT)
async def test_a_request_that_ends_anywhere_is_answered_or_dropped(request_bytes: bytes) -> None:
    with silence():
        async with fronting() as server:
            for size in range(len(request_bytes)):
                client = await server.connect(request_bytes[:size])
                await client.send_eof()
                received = await everything(client)
                check(received)
                assert bool(received) is bool(size), "who says nothing gets no answer"
                if received:
                    assert answer(received).status == 400
            check(received := await everything(await server.connect(request_bytes)))
            assert received


@pytest.mark.parametrize("request_bytes", CUT)
async def test_a_reset_anywhere_is_no_matter(request_bytes: bytes) -> None:
    with silence():
        async with fronting() as server:
            for size in range(len(request_bytes) + 1):
                client = await server.connect(request_bytes[:size])
                # Now and then before the server has looked, and now and then after it has.
                if size % 2:
                    await trio.testing.wait_all_tasks_blocked()
                reset(client)
            assert (await server.answer(HELLO)).status == 200


lines = st.lists(
    st.sampled_from(
        [
            b"Host: x",
            b"Content-Length: 16",
            b"Content-Length: 5",
            b"Content-Length: -1",
            b"Content-Length: 99999999999999999999",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: identity",
            b"Content-Type: application/json",
            b"Expect: 100-continue",
            b"Connection: close",
            b"Connection: keep-alive, Upgrade",
            b"Upgrade: h2c",
            b"Upgrade: websocket",
            b"HTTP2-Settings: AAMAAABkAAQAAP__",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Sec-WebSocket-Version: 13",
            b"X: a\x00b",
            b"X: a\rb",
            b"X : a",
            b" folded",
            b": nameless",
            b"X: \xff\xfe",
            b"X: " + b"x" * 20_000,
            b"no colon",
        ]
    ),
    max_size=6,
)
methods = st.sampled_from([b"GET", b"POST", b"OPTIONS", b"CONNECT", b"PRI", b"DELETE", b"TRACE"])
targets = st.sampled_from(
    [
        b"/hello",
        b"/echo",
        b"/refusing",
        b"/ws",
        b"/ws/tickets",
        b"*",
        b"http://elsewhere.test/hello",
        b"elsewhere.test:443",
        b"/%00/%ff/%",
        b"/../../etc/passwd",
        b"/hello?" + b"x=" * 4000,
        b"/" + b"x" * 20_000,
        b"/\x01",
        b"\xff",
        b"",
    ]
)
versions = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"HTTP/1.1 "])
ends_of_line = st.sampled_from([b"\r\n", b"\n", b"\r"])
bodies = st.sampled_from(
    [
        b"",
        JSON,
        b"10\r\n" + JSON + b"\r\n0\r\n\r\n",
        b"10;x=" + b"y" * 20_000,
        b"FFFFFFFFFFFFFFFFFFFFFFFF\r\n",
        b"-1\r\n",
        b"1\r\nxyz\r\n",
        b"0\r\nTrailer: x\r\n\r\n",
        b"1\r\nx\r\n" * 500,
        HELLO,
        b"\x88\x80zzzz",
    ]
) | st.binary(max_size=100)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Something like a request, with what is behind it."""
    line = b" ".join([draw(methods), draw(targets), draw(versions)])
    end = draw(st.just(b"\r\n") | ends_of_line)
    return end.join([line, b"Host: x", *draw(lines), b"", b""]) + draw(bodies)


@st.composite
def turned(draw: st.DrawFn, of: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with some bits turned."""
    sent = bytearray(draw(of))
    for place in draw(st.lists(st.integers(0, max(0, len(sent) * 8 - 1)), max_size=4)):
        if sent:
            sent[place // 8] ^= 1 << place % 8
    return bytes(sent)


valid = st.sampled_from([HELLO, ECHO, IN_CHUNKS])
attacks = st.one_of(
    requests(), turned(requests()), turned(valid), st.binary(max_size=300), st.binary(max_size=3)
)


@settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    sent=attacks,
    pauses=st.lists(st.integers(1, 400), max_size=4),
    end=st.sampled_from(["eof", "close", "reset"]),
)
@example(sent=HELLO * 3, pauses=[], end="eof")
@example(sent=HELLO.replace(b"1.1", b"1.0") * 2, pauses=[], end="eof")
@example(sent=IN_CHUNKS.replace(b"10\r\n", b"zz\r\n"), pauses=[100], end="eof")
@example(sent=IN_CHUNKS.replace(b"10\r\n", b"zz\r\n"), pauses=[100], end="reset")
@example(sent=POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", pauses=[], end="eof")
def test_whatever_is_sent_is_answered_as_the_api_answers_and_leaves_nothing_behind(
    sent: bytes, pauses: list[int], end: str
) -> None:
    async def scene() -> None:
        async with fronting() as server:
            client = await server.connect()
            places = [each for each in accumulate(pauses) if each < len(sent)]
            with suppress(trio.BrokenResourceError):  # it may have had enough
                for start, stop in zip([0, *places], [*places, len(sent)], strict=True):
                    await client.send_all(sent[start:stop])
                    await trio.testing.wait_all_tasks_blocked()
                if end == "eof":
                    await client.send_eof()
                    check(await everything(client))
            if end == "reset":
                reset(client)
            else:
                client.socket.close()
            assert (await server.answer(HELLO)).status == 200

    with silence():
        trio.run(scene)
