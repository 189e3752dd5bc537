"""No client can crash the server or delay another client."""

import json
from collections.abc import Awaitable, Callable

import pytest
import structlog
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from bridge.live.connection import StreamLimits
from bridge.live.session import Session
from tests.unit.serving import (
    CLOSE,
    LIMITS,
    PING,
    PONG,
    TEXT,
    RawClient,
    frame,
    message,
    serving,
)

OVERSIZE = b"x" * (LIMITS.message_bytes + 1)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(frame(TEXT, OVERSIZE) + frame(PING, b""), id="oversize text and a ping"),
        pytest.param(frame(TEXT, OVERSIZE) * 2, id="two oversize texts"),
        pytest.param(frame(CLOSE, b"\x03\xe8") + frame(PING, b"late"), id="ping while closing"),
        pytest.param(frame(CLOSE, b"\x03\xe8") * 2, id="two closes"),
        pytest.param(frame(3, b""), id="a reserved opcode"),
        pytest.param(frame(PONG, b"unsolicited") * 100, id="unsolicited pongs"),
        pytest.param(frame(PING, b"p") * 5000, id="a flood of pings"),
        pytest.param(b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", id="a frame of 9 exabytes"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n" * 50, id="HTTP inside the WebSocket"),
    ],
)
async def test_invalid_frames_affect_only_their_sender(frames: bytes) -> None:
    async with serving() as server:
        witness = await server.welcomed()
        attacker = RawClient(await server.raw())
        await attacker.open()
        await attacker.stream.send_all(frames)
        server.publish()
        assert (await message(witness))["id"] == 1
        await trio.testing.wait_all_tasks_blocked(0.02)
        await attacker.stream.aclose()
        server.publish()
        assert (await message(witness))["id"] == 2
        await server.welcomed()


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
async def test_invalid_handshakes_affect_no_other_client(
    mock_clock: trio.testing.MockClock, attack: Callable[[trio.SocketStream], Awaitable[None]]
) -> None:
    async with serving() as server:
        witness = await server.welcomed()
        stream = await server.raw()
        try:
            await attack(stream)
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(LIMITS.handshake_seconds)
            while await stream.receive_some():
                pass  # the server must hang up
        except trio.BrokenResourceError:
            pass
        server.publish()
        assert (await message(witness))["id"] == 1


async def test_exception_in_a_session_ends_only_that_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = Session._answer

    def fragile(session: Session, message: str | bytes) -> bytes | None:
        if message == "crash":
            raise RuntimeError("a bug")
        return answer(session, message)

    monkeypatch.setattr(Session, "_answer", fragile)
    async with serving() as server:
        witness = await server.welcomed()
        victim = await server.welcomed()
        with structlog.testing.capture_logs() as logs:
            await victim.send_message("crash")
            with pytest.raises(ConnectionClosed):
                await victim.get_message()
        assert [entry["event"] for entry in logs] == ["session_crashed"]
        server.publish()
        assert (await message(witness))["id"] == 1


async def test_client_that_never_reads_is_dropped_without_delays() -> None:
    small = StreamLimits(buffer_bytes=100_000)
    async with serving(limits=small) as server:
        witness = await server.welcomed()
        lazy = RawClient(await server.raw())
        lazy.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await lazy.open()
        # Much more than the socket's buffers hold; the other client sees every event at once.
        payload = json.dumps("x" * 50_000)
        with structlog.testing.capture_logs() as logs:
            for number in range(1, 301):
                server.publish(payload)
                assert (await message(witness))["id"] == number
        assert [(each["event"], each["reason"]) for each in logs] == [("client_dropped", "slow")]
        # Its last frame asks it to connect again.
        assert await lazy.close_code() == 1013
