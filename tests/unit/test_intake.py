"""A client's input is read at a limited rate and a few frames at a time."""

import json
import socket
import struct

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from bridge.live.connection import StreamLimits
from bridge.live.intake import (
    FRAMES_AT_ONCE,
    FRAMES_PER_SECOND,
    UNADMITTED_BYTES,
    FrameCounter,
    Intake,
)
from tests.unit.serving import BINARY, CONTINUATION, PONG, TEXT, RawClient, frame, serving

SIZES = st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536]) | st.integers(0, 2000)


def unmasked(payload: bytes) -> bytes:
    """Return a frame without a mask, which is invalid but must be counted."""
    return bytes([0x82, len(payload)]) + payload if len(payload) < 126 else frame(BINARY, payload)


@given(st.lists(SIZES, max_size=6), st.booleans(), st.integers(1, 4), st.data())
def test_frames_are_counted_however_they_are_split(
    sizes: list[int], masked: bool, most: int, data: st.DataObject
) -> None:
    made = [frame(BINARY, bytes(size)) if masked else unmasked(bytes(size)) for size in sizes]
    sent = b"".join(made)
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=8).map(sorted))
    frames, begun, taken_in_all = FrameCounter(), 0, 0
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        piece = sent[start:end]
        while piece:
            taken, count = frames.take(piece, most)
            assert 0 < taken <= len(piece)
            assert count <= most
            piece = piece[taken:]
            taken_in_all += taken
            begun += count
            # It stops only at the end of a frame, or of the piece.
            assert not piece or taken_in_all == sum(map(len, made[:begun]))
    assert (taken_in_all, begun) == (len(sent), len(made))


HANDSHAKE = b"GET /ws HTTP/1.1\r\n\r\n"
PING_MESSAGE = frame(TEXT, b'{"type":"ping"}')


async def intake_of(
    sent: bytes, *, admitted: bool = True
) -> tuple[Intake, trio.testing.MemorySendStream]:
    """Return an intake after the handshake, and the client's end of its stream."""
    sending, receiving = trio.testing.memory_stream_one_way_pair()
    intake = Intake(receiving, lambda: None, HANDSHAKE, sent)  # type: ignore[arg-type]
    intake.answered()
    assert await intake.receive_some() == HANDSHAKE
    if admitted:
        intake.admitted()
    return intake, sending


async def test_client_without_a_token_is_read_as_far_as_a_token_needs() -> None:
    intake, sending = await intake_of(b"", admitted=False)
    sent = frame(TEXT, bytes(30_000))
    await sending.send_all(sent)
    received = bytearray()

    async def receive() -> None:
        while len(received) < len(sent):
            received.extend(await intake.receive_some(4096))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        assert len(received) == UNADMITTED_BYTES
        intake.admitted()
    assert received == sent


@pytest.mark.parametrize(
    "tiny",
    [
        pytest.param(frame(PONG, b""), id="unsolicited pongs"),
        pytest.param(frame(CONTINUATION, b"", fin=False), id="empty fragments"),
    ],
)
async def test_tiny_frames_are_read_a_few_at_a_time(
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


async def test_large_message_is_read_as_it_arrives() -> None:
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
async def test_input_above_the_rate_limit_waits_and_is_not_lost(
    mock_clock: trio.testing.MockClock, drips: bool
) -> None:
    intake, sending = await intake_of(b"")
    sent = PING_MESSAGE * (
        2 * FRAMES_AT_ONCE if not drips else 2 * FRAMES_AT_ONCE // len(PING_MESSAGE)
    )
    received = bytearray()
    mock_clock.jump(1000.0)  # an unused allowance does not accumulate

    async def receive() -> None:
        while len(received) < len(sent):
            received.extend(await intake.receive_some(1 if drips else 4096))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await sending.send_all(sent)
        await trio.testing.wait_all_tasks_blocked()
        # About half of it fits into the burst.
        assert 0.4 < len(received) / len(sent) < 0.6
        at_once = len(received)
        for _ in range(3):
            mock_clock.jump(FRAMES_AT_ONCE / FRAMES_PER_SECOND / 4)
            await trio.testing.wait_all_tasks_blocked()
        assert at_once < len(received) < len(sent)
        mock_clock.jump(FRAMES_AT_ONCE / FRAMES_PER_SECOND)
    assert received == sent


async def test_burst_is_allowed_again_after_a_pause(
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


async def test_flood_is_answered_late_and_other_clients_at_once(
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
async def test_gone_client_is_dropped_before_its_backlog_is_read(
    mock_clock: trio.testing.MockClock, is_reset: bool
) -> None:
    async with serving(limits=StreamLimits(ping_seconds=1.0)) as server:
        stream = await server.raw()
        await RawClient(stream).open()
        await server.until_clients(1)
        # Reading this takes minutes at the rate limit.
        pongs = frame(PONG, b"") * 20_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, pongs)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        if is_reset:
            linger = struct.pack("ii", 1, 0)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        stream.socket.close()
        for _ in range(2):
            mock_clock.jump(1.0)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.live.clients == 0
