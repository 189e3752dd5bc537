"""How fast it is read what a client sends, and how much of it at a time."""

from __future__ import annotations

import json
import socket
import struct

import pytest
import trio
import trio.testing

from bridge.live.connection import ConnectionLimits
from bridge.live.intake import FRAMES_AT_ONCE, FRAMES_PER_SECOND, Intake
from bridge.live.stream import StreamLimits
from tests.unit.serving import CONTINUATION, PONG, TEXT, RawClient, frame, serving

HANDSHAKE = b"GET /ws HTTP/1.1\r\n\r\n"
PING_MESSAGE = frame(TEXT, b'{"type":"ping"}')


async def intake_of(sent: bytes) -> tuple[Intake, trio.testing.MemorySendStream]:
    """Return what a client that has done its handshake is read with, and where it sends."""
    sending, receiving = trio.testing.memory_stream_one_way_pair()
    intake = Intake(receiving, lambda: None, HANDSHAKE, sent)  # type: ignore[arg-type]
    intake.answered()
    assert await intake.receive_some() == HANDSHAKE
    return intake, sending


@pytest.mark.parametrize(
    "tiny",
    [
        pytest.param(frame(PONG, b""), id="pongs that nobody asked for"),
        pytest.param(frame(CONTINUATION, b"", fin=False), id="empty fragments"),
    ],
)
async def test_of_tiny_frames_a_few_are_looked_at_before_it_is_everybody_elses_turn(
    tiny: bytes,
) -> None:
    count = FRAMES_AT_ONCE // 2
    intake, _ = await intake_of(tiny * count)
    pieces: list[bytes] = []
    while len(b"".join(pieces)) < len(tiny) * count:
        with trio.testing.assert_checkpoints():
            pieces.append(bytes(await intake.receive_some(4096)))
    assert b"".join(pieces) == tiny * count
    assert max(map(len, pieces)) <= 16 * len(tiny)


async def test_a_large_message_is_read_as_it_comes() -> None:
    sent = frame(TEXT, bytes(60_000))
    intake, sending = await intake_of(b"")
    await sending.send_all(sent)
    received = b""
    while len(received) < len(sent):
        piece = await intake.receive_some(4096)
        assert len(piece) == min(4096, len(sent) - len(received))
        received += piece
    assert received == sent


@pytest.mark.parametrize("drips", [False, True])
async def test_what_a_client_sends_too_fast_waits_and_nothing_of_it_is_lost(
    mock_clock: trio.testing.MockClock, drips: bool
) -> None:
    intake, sending = await intake_of(b"")
    sent = PING_MESSAGE * (
        2 * FRAMES_AT_ONCE if not drips else 2 * FRAMES_AT_ONCE // len(PING_MESSAGE)
    )
    received = bytearray()
    mock_clock.jump(1000.0)  # what it did not send meanwhile does not add up

    async def receive() -> None:
        while len(received) < len(sent):
            received.extend(await intake.receive_some(1 if drips else 4096))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await sending.send_all(sent)
        await trio.testing.wait_all_tasks_blocked()
        # About half of it is what may come at once.
        assert 0.4 < len(received) / len(sent) < 0.6
        at_once = len(received)
        for _ in range(3):
            mock_clock.jump(FRAMES_AT_ONCE / FRAMES_PER_SECOND / 4)
            await trio.testing.wait_all_tasks_blocked()
        assert at_once < len(received) < len(sent)
        mock_clock.jump(FRAMES_AT_ONCE / FRAMES_PER_SECOND)
    assert received == sent


async def test_who_was_read_slowly_may_send_at_once_again_after_a_pause(
    mock_clock: trio.testing.MockClock,
) -> None:
    intake, sending = await intake_of(b"")
    for _ in range(3):
        sent = PING_MESSAGE * (FRAMES_AT_ONCE * 9 // 10)
        await sending.send_all(sent)
        received = b""
        while len(received) < len(sent):
            received += await intake.receive_some(4096)
        mock_clock.jump(FRAMES_AT_ONCE / FRAMES_PER_SECOND)


async def test_a_client_that_floods_is_answered_in_the_end_and_others_at_once(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        flooding, honest = RawClient(await server.raw()), RawClient(await server.raw())
        for client in (flooding, honest):
            await client.open()
            assert json.loads(await client.text())["type"] == "connection"
        count = FRAMES_AT_ONCE + round(4 * FRAMES_PER_SECOND)
        answered = trio.Event()

        async def read_answers() -> None:
            for _ in range(count):
                assert await flooding.text() == '{"type": "pong"}'
            answered.set()

        began_at = trio.current_time()
        server.nursery.start_soon(read_answers)
        await flooding.stream.send_all(PING_MESSAGE * count)
        await honest.stream.send_all(PING_MESSAGE)
        assert await honest.text() == '{"type": "pong"}'
        assert trio.current_time() == began_at
        while not answered.is_set():
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(0.1)
        assert trio.current_time() - began_at > 3.5


@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "closed"])
async def test_whoever_is_gone_is_not_listened_to_until_all_is_read_that_he_had_sent(
    is_reset: bool,
) -> None:
    limits = StreamLimits(ConnectionLimits(handshake_seconds=5.0), ping_seconds=0.2)
    async with serving(limits=limits) as server:
        stream = await server.raw()
        await RawClient(stream).open()
        await server.until_clients(1)
        # At the pace at which it is read, that takes minutes.
        with trio.move_on_after(0.5):
            await stream.send_all(b"\x8a\x80\x00\x00\x00\x00" * 20_000)
        if is_reset:
            linger = struct.pack("ii", 1, 0)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        stream.socket.close()
        await server.until_clients(0)
