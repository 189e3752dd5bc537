"""Requests of REST on the one port: bodies, deadlines, other protocols, kept connections."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from starlette.types import Receive, Scope, Send

from bridge.web.http import exchange
from bridge.web.http.exchange import LINGER_BYTES, LINGER_SECONDS, Rest
from tests.asgi import serving_app
from tests.unit.fronting import (
    ECHO,
    H2C,
    HELLO,
    IN_CHUNKS,
    JSON,
    LARGE_BYTES,
    LAST_HELLO,
    POST,
    WEBSOCKET,
    all_answers,
    everything,
    fronting,
    next_answer,
    only_answer,
)
from tests.waiting import until

#: Pieces of a body that arrives over a slow line.
PIECES = 30
EXPECTING = POST + b"Content-Length: 16\r\nExpect: 100-continue\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"


class Steps(trio.abc.Instrument):
    """Counts what a task does before it lets others run."""

    count = most = 0

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.count = 0

    def add(self) -> None:
        self.count += 1
        self.most = max(self.most, self.count)


@contextmanager
def steps_of(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> Iterator[Steps]:
    """Count the calls of a function."""
    steps, function = Steps(), getattr(owner, name)

    def counted(*arguments: Any) -> Any:
        steps.add()
        return function(*arguments)

    monkeypatch.setattr(owner, name, counted)
    trio.lowlevel.add_instrument(steps)
    yield steps
    trio.lowlevel.remove_instrument(steps)


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
        got = await server.last_answer(sent)
        assert (got.status, got.json) == (505, {"detail": "HTTP Version Not Supported"})


FOLDED = b"upgrade:\r\n h2c\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize("wish", [H2C, WEBSOCKET, FOLDED], ids=["h2c", "websocket", "folded"])
@pytest.mark.parametrize(
    ("target", "status"),
    [(b"GET /hello", 200), (b"GET /ws/anything", 404), (b"POST /ws/tickets", 404)],
    ids=["hello", "ws/anything", "ws/tickets"],
)
async def test_rest_ignores_upgrades(wish: bytes, target: bytes, status: int) -> None:
    async with fronting() as server:
        # What follows may be frames of the other protocol: it must not become a request.
        sent = target + b" HTTP/1.1\r\nHost: x\r\n" + wish + b"\r\n\x88\x80zzzz"
        got = await server.last_answer(sent)
        assert got.status == status
        assert got.json == ({"hello": "world"} if status == 200 else {"detail": "Not Found"})
        assert server.for_stream == []


async def test_a_body_has_only_one_length() -> None:
    ambiguous = IN_CHUNKS.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n", 1)
    differing = ECHO.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n", 1)
    async with fronting() as server:
        for sent in (ambiguous, differing):
            got = await server.last_answer(sent + HELLO)
            assert (got.status, got.json) == (400, {"detail": "Bad Request"})


# --- kept connections


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with fronting() as server:
        client = await server.connect()
        for sent in (HELLO, ECHO, IN_CHUNKS, HELLO):
            await client.send_all(sent)
            got = await next_answer(client)
            assert (got.status, got.is_last) == (200, False)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with fronting() as server:
        client = await server.connect(HELLO + ECHO + HELLO + ECHO + LAST_HELLO)
        got = all_answers(await everything(client))
        hello, echo = {"hello": "world"}, {"some": "body"}
        assert [each.json for each in got] == [hello, echo, hello, echo, hello]
        assert [each.is_last for each in got] == [False] * 4 + [True]


async def test_pipelined_requests_take_turns_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fronting() as server:
        client = await server.connect()
        with steps_of(monkeypatch, exchange, "_read_request") as steps:
            await client.send_all(HELLO * 50 + LAST_HELLO)
            assert len(all_answers(await everything(client))) == 51
    assert steps.most == 1


async def test_garbage_behind_a_request_is_no_request() -> None:
    async with fronting() as server:
        first, second = all_answers(await everything(await server.connect(ECHO + b"\x00garbage")))
        assert (first.status, second.status) == (200, 400)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(LAST_HELLO, id="asked to close"),
        pytest.param(HELLO.replace(b"1.1", b"1.0"), id="HTTP/1.0"),
        pytest.param(
            POST.replace(b"echo", b"refusing") + b"Content-Length: 9\r\n\r\n", id="unread"
        ),
    ],
)
async def test_a_last_response_says_that_the_connection_closes(sent: bytes) -> None:
    async with fronting() as server:
        # What follows is not served.
        [got] = all_answers(await everything(await server.connect(sent + HELLO)))
        assert got.is_last


async def test_a_connection_has_so_many_requests_and_no_more() -> None:
    async with fronting(most_requests=3) as server:
        got = all_answers(await everything(await server.connect(HELLO * 5)))
        assert [each.is_last for each in got] == [False, False, True]


async def test_a_request_under_way_at_a_stop_is_the_last() -> None:
    async with fronting() as server:
        client = await server.connect(ECHO[:-1])
        await trio.testing.wait_all_tasks_blocked(0.01)
        server.front.stop()
        await client.send_all(ECHO[-1:])
        assert only_answer(await everything(client)).status == 200


async def test_response_that_outlasts_a_stop_is_the_last() -> None:
    async with fronting(send_buffer_bytes=65536) as server:
        client = await server.connect(LARGE)
        await trio.testing.wait_all_tasks_blocked(0.01)
        server.front.stop()
        [got] = all_answers(await everything(client))
        assert len(got.body) == LARGE_BYTES


async def test_head_is_answered_without_a_body() -> None:
    async with fronting() as server:
        client = await server.connect(HELLO.replace(b"GET", b"HEAD") + LAST_HELLO)
        head, _, rest = (await everything(client)).partition(b"\r\n\r\n")
        assert b"content-length: 17" in head
        assert only_answer(rest).json == {"hello": "world"}


# --- errors of the application


@pytest.mark.parametrize("has_body", [False, True])
async def test_failed_application_is_answered_500_before_its_response(has_body: bool) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if has_body:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise RuntimeError("a bug")

    with structlog.testing.capture_logs() as logged:
        async with serving_app(app) as url:
            client = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
            await client.send_all(HELLO)
            received = await everything(client)
            await client.aclose()
            await until(lambda: bool(logged))
    assert [line["event"] for line in logged] == ["connection_crashed"]
    if has_body:
        assert received.endswith(b"\r\n\r\n1\r\nx\r\n")
    else:
        got = only_answer(received)
        assert (got.status, got.json) == (500, {"detail": "Internal Server Error"})


# --- bodies and deadlines


async def test_a_body_is_asked_for_when_it_is_wanted() -> None:
    async with fronting() as server:
        client = await server.connect(EXPECTING)
        assert await client.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send_all(JSON)
        assert (await next_answer(client)).json == {"some": "body"}
        refused = await server.last_answer(EXPECTING.replace(b"echo", b"refusing"))
        assert refused.status == 401


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(POST + b"Content-Length: 16\r\n\r\n" + JSON[:5], id="with a length"),
        pytest.param(IN_CHUNKS[:-8], id="in chunks"),
        pytest.param(EXPECTING, id="to be asked for"),
    ],
)
async def test_a_late_body_is_answered_408(sent: bytes, mock_clock: trio.testing.MockClock) -> None:
    async with fronting(body_seconds=30.0) as server:
        client = await server.connect(sent)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(30.0)
        got = only_answer(await everything(client))
        assert (got.status, got.json) == (408, {"detail": "Request Timeout"})


async def test_receive_after_the_body_reports_disconnect(
    mock_clock: trio.testing.MockClock,
) -> None:
    received: list[str] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        while "http.disconnect" not in received:
            received.append((await receive())["type"])

    ours, theirs = socket.socketpair()
    client, server = (
        trio.SocketStream(trio.socket.from_stdlib_socket(ours)),
        trio.SocketStream(trio.socket.from_stdlib_socket(theirs)),
    )
    rest = Rest(app, body_seconds=30.0, total_seconds=180.0)
    async with client, server, trio.open_nursery() as nursery:
        nursery.start_soon(partial(rest.serve, server, HELLO, may_keep=lambda: True))
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(31.0)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert received == ["http.request"]
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert received == ["http.request", "http.disconnect"]


async def test_a_malformed_body_is_answered_400() -> None:
    async with fronting() as server:
        got = await server.last_answer(IN_CHUNKS.replace(b"10\r\n", b"zz\r\n"))
        assert (got.status, got.json) == (400, {"detail": "Bad Request"})


TRAILERS = {
    "padded": (b"a:" + b" " * 100 + b"b\r\n", 400),
    "padded and invalid": (b"a:" + b"\t" * 3000 + b"\0\r\n", 400),
    "long": (b"a:\r\n" * 2000, 431),
    "short": (b"a: b\r\n" * 10, 200),
}


@pytest.mark.parametrize(("trailers", "status"), TRAILERS.values(), ids=TRAILERS)
async def test_costly_trailers_are_not_parsed(trailers: bytes, status: int) -> None:
    async with fronting() as server:
        # In one piece with the head or behind it; and on a route that does not read it.
        sent = IN_CHUNKS[:-2] + trailers + b"\r\n"
        assert (await server.answer(sent)).status == status
        client = await server.connect(sent[:-20])
        await trio.testing.wait_all_tasks_blocked(0.01)
        with suppress(trio.BrokenResourceError):
            await client.send_all(sent[-20:])
        assert (await next_answer(client)).status == status
        unread = HELLO[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + trailers + b"\r\n"
        got = await server.answer(unread)
        assert (got.status, got.is_last) == (200, status != 200)


async def test_chunk_extensions_are_bounded() -> None:
    async with fronting() as server:
        for size, status in (500, 200), (10_000, 431):
            sent = IN_CHUNKS.replace(b"10\r\n", b"10;" + b"x" * size + b"\r\n")
            assert (await server.answer(sent)).status == status


async def test_spaces_in_a_body_with_a_length_are_read() -> None:
    body = b'{"some":' + b" " * 1000 + b'"body"}'
    async with fronting() as server:
        got = await server.answer(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert (got.status, got.json) == (200, {"some": "body"})


async def test_tiny_chunks_do_not_hold_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    body = JSON.ljust(10_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    async with fronting() as server:
        with steps_of(monkeypatch, exchange._Exchange, "_next_event") as steps:
            got = await server.answer(
                POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
            )
    assert (got.status, got.json) == (200, {"some": "body"})
    assert 100 < steps.most < 1000


async def test_a_client_that_does_not_read_is_cut_when_its_time_is_up(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with fronting(send_buffer_bytes=65536, rest_seconds=180.0) as server:
        client = await server.connect(LARGE)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(179.0)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.connections.child_tasks
        mock_clock.jump(1.0)
        await server.until_idle()
        received = 0
        with suppress(trio.BrokenResourceError):
            while data := await client.receive_some():
                received += len(data)
        assert received < LARGE_BYTES


async def test_a_client_that_does_not_read_does_not_delay_the_stop() -> None:
    async with fronting(send_buffer_bytes=65536) as server:
        await server.connect(LARGE)
        await trio.testing.wait_all_tasks_blocked(0.01)
        server.connections.cancel_scope.cancel()
        await server.until_idle()


async def test_a_client_refused_before_its_body_gets_the_response() -> None:
    async with fronting() as server:
        client = await server.connect(
            b"POST /refusing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1\r\nx\r\n" * 1000
        )
        for _ in range(PIECES):
            await client.send_all(b"1\r\nx\r\n")
        await client.send_eof()
        got = only_answer(await everything(client))
        assert (got.status, got.json) == (401, {"detail": "Missing API key"})
        # Not only when its time is up.
        await server.until_idle()


async def test_a_client_that_keeps_sending_after_its_response_is_cut() -> None:
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


async def test_a_client_that_stays_after_the_last_response_is_cut(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with fronting() as server:
        await server.connect(LAST_HELLO)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.connections.child_tasks
        mock_clock.jump(LINGER_SECONDS)
        await server.until_idle()
