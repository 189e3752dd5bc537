"""No client can take the server down, nor hold up another."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from bridge.live.connection import ConnectionLimits
from bridge.live.session import Session
from bridge.live.stream import StreamLimits
from tests.unit.serving import (
    BINARY,
    CLOSE,
    LIMITS,
    PING,
    PONG,
    TEXT,
    RawClient,
    Serving,
    frame,
    serving,
)

OVERSIZE = b"x" * (LIMITS.connection.message_bytes + 1)


async def next_id(client: WebSocketConnection) -> int:
    found: int = json.loads(await client.get_message())["id"]
    return found


async def honest(server: Serving) -> WebSocketConnection:
    client = await server.connect()
    assert json.loads(await client.get_message())["type"] == "connection"
    return client


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(frame(TEXT, OVERSIZE) + frame(PING, b""), id="oversize text and a ping"),
        pytest.param(frame(TEXT, OVERSIZE) * 2, id="two oversize texts"),
        pytest.param(frame(CLOSE, b"\x03\xe8") + frame(PING, b"late"), id="ping while closing"),
        pytest.param(frame(CLOSE, b"\x03\xe8") * 2, id="two closes"),
        pytest.param(frame(CLOSE, b"\x03"), id="a close of one byte"),
        pytest.param(frame(CLOSE, b"\x00\x00"), id="a close with no code"),
        pytest.param(frame(TEXT, b"\xff\xfe"), id="text that is not UTF-8"),
        pytest.param(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), id="a text within a text"),
        pytest.param(frame(PING, b"x" * 126), id="a ping too long"),
        pytest.param(frame(PING, b"", fin=False), id="a ping in pieces"),
        pytest.param(frame(3, b""), id="a reserved opcode"),
        pytest.param(b"\xf1\x80\0\0\0\0", id="reserved bits"),
        pytest.param(b"\x81\x02hi", id="a text without a mask"),
        pytest.param(frame(BINARY, OVERSIZE), id="oversize binary"),
        pytest.param(frame(PONG, b"nobody asked") * 100, id="pongs nobody asked for"),
        pytest.param(frame(PING, b"p") * 5000, id="a flood of pings"),
        pytest.param(b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", id="a frame of 9 exabytes"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n" * 50, id="HTTP inside the WebSocket"),
    ],
)
async def test_frames_that_are_wrong_harm_only_who_sends_them(frames: bytes) -> None:
    async with serving() as server:
        witness = await honest(server)
        attacker = RawClient(await server.raw())
        await attacker.open()
        await attacker.stream.send_all(frames)
        server.publish()
        assert await next_id(witness) == 1
        await trio.testing.wait_all_tasks_blocked(0.02)
        await attacker.stream.aclose()
        server.publish()
        assert await next_id(witness) == 2
        await honest(server)


async def test_an_oversize_message_is_answered_with_1009() -> None:
    async with serving() as server:
        client = RawClient(await server.raw())
        await client.open()
        await client.stream.send_all(frame(TEXT, OVERSIZE) + frame(TEXT, OVERSIZE))
        assert await client.close_code() == 1009


async def _garbage(stream: trio.SocketStream) -> None:
    await stream.send_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200))


async def _half_a_handshake(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET /ws?token=right HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n")


async def _not_a_handshake(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")


async def _endless_headers(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET /ws HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)


async def _nothing(stream: trio.SocketStream) -> None:
    await stream.send_eof()


@pytest.mark.parametrize(
    "attack", [_garbage, _half_a_handshake, _not_a_handshake, _endless_headers, _nothing]
)
async def test_handshakes_that_are_none_harm_nobody(
    attack: Callable[[trio.SocketStream], Awaitable[None]],
) -> None:
    quick = StreamLimits(ConnectionLimits(handshake_seconds=2.0))
    async with serving(limits=quick) as server:
        witness = await honest(server)
        stream = await server.raw()
        try:
            await attack(stream)
            while await stream.receive_some():
                pass  # until the server hangs up, which it must
        except trio.BrokenResourceError:
            pass
        server.publish()
        assert await next_id(witness) == 1


async def test_an_exception_in_a_session_ends_only_that_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = Session._answer

    def fragile(session: Session, message: str | bytes) -> bytes | None:
        if message == "crash":
            raise RuntimeError("a bug")
        return answer(session, message)

    monkeypatch.setattr(Session, "_answer", fragile)
    async with serving() as server:
        witness = await honest(server)
        victim = await honest(server)
        with structlog.testing.capture_logs() as logs:
            await victim.send_message("crash")
            with pytest.raises(ConnectionClosed):
                await victim.get_message()
        assert [entry["event"] for entry in logs] == ["session_crashed"]
        server.publish()
        assert await next_id(witness) == 1


async def test_a_client_that_never_reads_is_dropped_at_its_buffer_and_delays_nobody() -> None:
    small = StreamLimits(ConnectionLimits(buffer_bytes=100_000))
    async with serving(limits=small) as server:
        witness = await honest(server)
        lazy = RawClient(await server.raw())
        lazy.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await lazy.open()
        # Far more than the socket's own buffers can take, and every event is seen by the other
        # at once.
        payload = json.dumps("x" * 50_000)
        with structlog.testing.capture_logs() as logs:
            for number in range(1, 301):
                server.publish(payload)
                assert await next_id(witness) == number
        assert [(each["event"], each["reason"]) for each in logs] == [("client_dropped", "slow")]
        # What it had coming ends with a close that asks it to come back.
        assert await lazy.close_code() == 1013
