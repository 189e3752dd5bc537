"""The one port, until the head of a request is complete: accepting, waiting, routing."""

import errno
import os
import socket

import pytest
import structlog
import trio
import trio.testing

from bridge.access.heads import MOST_HEADERS
from bridge.web.http.front import (
    IDLE_SECONDS,
    MOST_HEAD_BYTES,
    MOST_SEPARATORS,
    TELL_SECONDS,
)
from tests.unit.fronting import HELLO, everything, fronting, next_answer, only_answer

HEADS = [
    pytest.param(HELLO, id="REST"),
    pytest.param(b"GET /ws?token=x HTTP/1.1\r\nHost: x\r\n\r\n", id="stream"),
]


@pytest.mark.parametrize("head", HEADS)
async def test_a_head_may_arrive_in_single_bytes(head: bytes) -> None:
    async with fronting() as server:
        client = await server.connect()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(head)):
            await client.send_all(head[place : place + 1])
            await trio.testing.wait_all_tasks_blocked()
        assert await client.receive_some()
        assert server.for_stream == ([head] if head.startswith(b"GET /ws") else [])


@pytest.mark.parametrize("head", HEADS)
async def test_a_dripping_head_is_answered_408_at_the_deadline(
    head: bytes, mock_clock: trio.testing.MockClock
) -> None:
    async with fronting(handshake_seconds=10.0) as server:
        client = await server.connect(head[:1])
        for place in range(1, 10):
            await server.until_waiting(1)
            mock_clock.jump(1.0)
            await client.send_all(head[place : place + 1])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.front.waiting == 1, "the deadline has not come yet"
        mock_clock.jump(1.0)
        got = only_answer(await everything(client))
        assert (got.status, got.json) == (408, {"detail": "Request Timeout"})
        assert server.for_stream == []


async def test_a_silent_client_is_closed_at_the_deadline(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with fronting(handshake_seconds=10.0) as server:
        client = await server.connect()
        await server.until_waiting(1)
        mock_clock.jump(10.0)
        assert await everything(client) == b""


async def test_an_idle_connection_is_closed_in_the_end(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with fronting(handshake_seconds=10.0) as server:
        client = await server.connect(HELLO)
        await next_answer(client)
        await server.until_waiting(1)
        mock_clock.jump(IDLE_SECONDS - 1)
        await client.send_all(HELLO)
        assert (await next_answer(client)).status == 200
        await server.until_waiting(1)
        mock_clock.jump(IDLE_SECONDS)
        assert await everything(client) == b""


async def test_the_longest_waiting_client_makes_room() -> None:
    async with fronting(most_waiting=3) as server:
        waiting = []
        for count in range(1, 4):
            waiting.append(await server.connect(b"GET"))
            await server.until_waiting(count)
        assert (await server.answer(HELLO)).status == 200
        assert await everything(waiting[0]) == b""
        for client in waiting[1:]:
            await client.send_all(HELLO[3:])
            assert (await next_answer(client)).status == 200


async def test_flood_of_idle_connections_keeps_no_client_out() -> None:
    async with fronting(most_waiting=10) as server:
        for _ in range(30):
            for _ in range(5):
                await server.connect()
            assert (await server.answer(HELLO)).status == 200
            assert server.front.waiting <= 10


async def test_a_stop_closes_clients_that_wait() -> None:
    async with fronting() as server:
        idle = await server.connect(HELLO)
        await next_answer(idle)
        dripping = await server.connect(b"GET /hel")
        await server.until_waiting(2)
        server.front.stop()
        assert await everything(idle) == await everything(dripping) == b""


@pytest.mark.parametrize("path", [b"/hello", b"/ws"])
async def test_a_head_has_at_most_16_kib(path: bytes) -> None:
    def head(size: int) -> bytes:
        start = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nX-Long: "
        return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"

    async with fronting() as server:
        client = await server.connect(head(MOST_HEAD_BYTES))
        assert b"431" not in await client.receive_some()
        endless = head(MOST_HEAD_BYTES * 10).rstrip()
        for too_long in (head(MOST_HEAD_BYTES + 1), endless):
            got = await server.last_answer(too_long)
            assert (got.status, got.json["detail"]) == (431, "Request Header Fields Too Large")
        assert len(server.for_stream) == (path == b"/ws")


@pytest.mark.parametrize("path", [b"/hello", b"/ws"])
@pytest.mark.parametrize(
    "line",
    [b"a:\r\n", b"x: y\n", b" folded\r\n"],
    ids=["empty", "bare", "folded"],
)
async def test_a_head_has_at_most_100_headers(path: bytes, line: bytes) -> None:
    start = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n"
    async with fronting() as server:
        got = await server.last_answer(start + line * MOST_HEADERS + b"\r\n")
        assert (got.status, got.json) == (431, {"detail": "More than 100 headers"})
        assert server.for_stream == []
        client = await server.connect(start + line * (MOST_HEADERS - 1) + b"\r\n")
        assert b"431" not in await client.receive_some()


@pytest.mark.parametrize("path", [b"/hello", b"/ws"])
@pytest.mark.parametrize("end", [b"x", b"\0", b"\x7f", b""])
async def test_spaces_in_front_of_a_header_are_not_parsed(path: bytes, end: bytes) -> None:
    start = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\na:"
    async with fronting() as server:
        for space in b" ", b"\t", b" \t":
            got = await server.last_answer(start + space * 5000 + end + b"\r\n\r\n")
            assert got.status == 431
            assert got.json == {"detail": "A header with 100 leading spaces"}
        client = await server.connect(start + b" " * 99 + b"x" + b" " * 9000 + b"x\r\n\r\n")
        assert b"431" not in await client.receive_some()


SEPARATED = {
    "parameters": b"GET /hello?%b HTTP/1.1\r\nHost: x\r\n\r\n",
    "parameters of the stream": b"GET /ws?%b HTTP/1.1\r\nHost: x\r\n\r\n",
    "cookies": b"GET /hello HTTP/1.1\r\nHost: x\r\nCookie: %b\r\n\r\n",
    "languages": b"GET /hello HTTP/1.1\r\nHost: x\r\nAccept-Language: %b\r\n\r\n",
    "addresses": b"GET /hello HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %b\r\n\r\n",
    "connection": b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: %b\r\n\r\n",
    "protocols": b"GET /ws HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: %b\r\n\r\n",
}


@pytest.mark.parametrize("separator", [b"&", b",", b";"])
@pytest.mark.parametrize("head", SEPARATED.values(), ids=SEPARATED)
async def test_a_head_has_at_most_1000_separators(head: bytes, separator: bytes) -> None:
    async with fronting() as server:
        got = await server.last_answer(head % ((b"a" + separator) * (MOST_SEPARATORS + 1)))
        assert got.status == 431
        assert got.json == {"detail": "More than 1000 of & , ; in the head"}
        client = await server.connect(head % ((b"a" + separator) * MOST_SEPARATORS))
        assert b"431" not in await client.receive_some()


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
async def test_garbage_is_answered_400_at_once(garbage: bytes) -> None:
    async with fronting() as server:
        got = await server.last_answer(garbage)
        assert (got.status, got.json) == (400, {"detail": "Bad Request"})


async def test_tls_is_closed_at_once_and_logged_once_a_minute(
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


async def test_a_kept_connection_may_open_the_stream() -> None:
    async with fronting() as server:
        client = await server.connect(HELLO)
        await next_answer(client)
        handshake = b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n"
        await client.send_all(handshake)
        assert await everything(client) == b"to the stream"
        assert server.for_stream == [handshake]


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_without_descriptors_the_longest_waiting_client_makes_room(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    accept, calls = trio.SocketListener.accept, 0

    async def failing(listener: trio.SocketListener) -> trio.SocketStream:
        nonlocal calls
        calls += 1
        if 4 <= calls < 4 + failures:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", failing)
    with structlog.testing.capture_logs() as logs:
        async with fronting() as server:
            idle = [await server.connect() for _ in range(3)]
            # An accept fails although no client has come, so none needs room. When one comes, there
            # may be room already.
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert server.front.waiting == 3
            client = await server.connect(HELLO)
            for closed in idle[: failures - 1]:
                assert await everything(closed) == b""
            assert (await next_answer(client)).status == 200
            client.socket.close()
            await server.until_waiting(4 - failures)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("accept_failed", "warning")
    ]
