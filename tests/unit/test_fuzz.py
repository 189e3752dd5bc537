"""Arbitrary input affects no other client, and the outlet sends only whole frames."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trio_websocket import WebSocketConnection

from bridge.live import outlet as outlet_module
from bridge.live.connection import StreamLimits
from bridge.live.framing import close_frame, text_frame
from bridge.live.outlet import Outlet
from tests.unit.serving import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Sent,
    Serving,
    frame,
    message,
    sent_by_server,
    serving,
)

SETTINGS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# --- what an attacker sends

SMALL = StreamLimits(message_bytes=2000, handshake_seconds=5.0)
HANDSHAKE = (
    b"GET /ws?token=right HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

messages = st.sampled_from(
    [
        b'{"type": "ping"}',
        b'{"type": "resume", "since": 0}',
        b'{"type": "subscribe", "events": ["test.*"]}',
        b'{"type": "unsubscribe", "events": ["test.*"]}',
        b"[" * 1000,
        b"\xed\xa0\x80",
        b"x" * 2001,
    ]
)
payloads = messages | st.binary(max_size=200)
opcodes = st.sampled_from([0, TEXT, BINARY, CLOSE, PING, 10]) | st.integers(0, 15)
frames = st.builds(
    lambda opcode, payload, fin: frame(opcode, payload, fin=fin),
    opcodes,
    payloads,
    fin=st.booleans(),
)
closes = st.builds(
    lambda code, reason: frame(CLOSE, code.to_bytes(2, "big") + reason),
    st.sampled_from([1000, 1002, 1005, 1009, 4000]) | st.integers(0, 65535),
    st.binary(max_size=125),
)


@st.composite
def in_fragments(draw: st.DrawFn) -> bytes:
    """Draw a message in fragments with control frames between them."""
    parts = draw(st.lists(payloads, min_size=2, max_size=5))
    sent = frame(draw(st.sampled_from([TEXT, BINARY])), parts[0], fin=False)
    for number, part in enumerate(parts[1:], 2):
        sent += draw(st.just(b"") | st.builds(frame, st.sampled_from([8, 9, 10]), payloads))
        sent += frame(0, part, fin=number == len(parts))
    return sent


@st.composite
def with_a_wrong_length(draw: st.DrawFn) -> bytes:
    """Draw a frame with a wrong length, in any encoding of the length."""
    size = draw(st.integers(0, 2**64 - 1) | st.sampled_from([0, 125, 126, 65535, 65536, 2**63]))
    if draw(st.booleans()):
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    else:
        length = bytes([0x80 | 126]) + (size % 65536).to_bytes(2, "big")
    return bytes([draw(st.integers(0, 255))]) + length + draw(st.binary(max_size=50))


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Draw bytes with some bits flipped, perhaps truncated."""
    sent = bytearray(draw(valid))
    for place in draw(st.lists(st.integers(0, max(0, len(sent) * 8 - 1)), max_size=4)):
        if sent:
            sent[place // 8] ^= 1 << place % 8
    cut = draw(st.integers(0, 20))
    return (
        bytes(sent[: len(sent) - cut]) if cut < len(sent) and draw(st.booleans()) else bytes(sent)
    )


def joined(parts: list[bytes]) -> bytes:
    return b"".join(parts)


several = st.lists(frames | closes | in_fragments(), min_size=1, max_size=8).map(joined)
attacks = st.tuples(
    # The first bytes stay valid, because they route the connection to the stream.
    st.just(HANDSHAKE)
    | st.just(HANDSHAKE)
    | mutated(st.just(HANDSHAKE[8:])).map(lambda rest: HANDSHAKE[:8] + rest),
    several | mutated(several) | with_a_wrong_length() | st.binary(max_size=500),
    several | st.binary(max_size=50),
).map(lambda parts: b"".join(parts))
#: Offsets at which the attacker pauses.
pauses = st.lists(st.integers(1, 400), max_size=8).map(lambda sizes: list(accumulate(sizes)))


async def ids(client: WebSocketConnection, count: int) -> list[int]:
    return [(await message(client))["id"] for _ in range(count)]


async def attack(server: Serving, sent: bytes, pauses: list[int], hangs_up: bool) -> bytes:
    """Send the input in pieces while events are published; return the answer."""
    received = b""
    attacker = await server.raw()
    try:
        for start, end in zip([0, *pauses], [*pauses, len(sent)], strict=True):
            await attacker.send_all(sent[start:end])
            server.publish()
            await trio.testing.wait_all_tasks_blocked()
        if not hangs_up:
            await attacker.send_eof()
            while data := await attacker.receive_some():
                received += data
    except trio.BrokenResourceError:
        pass  # the server has closed the connection
    await attacker.aclose()
    return received


@settings(SETTINGS, max_examples=200)
@given(sent=attacks, pauses=pauses, hangs_up=st.booleans())
@example(sent=HANDSHAKE + frame(TEXT, b"x" * 2001) + frame(PING, b""), pauses=[], hangs_up=False)
@example(sent=HANDSHAKE + frame(TEXT, b"x" * 2001) * 2, pauses=[], hangs_up=False)
@example(sent=HANDSHAKE + frame(CLOSE, b"") + frame(PING, b""), pauses=[], hangs_up=False)
def test_arbitrary_input_never_affects_other_clients(
    sent: bytes, pauses: list[int], hangs_up: bool
) -> None:
    async def scene() -> None:
        async with serving(limits=SMALL) as server:
            clients = [await server.welcomed() for _ in range(2)]
            places = [each for each in pauses if each < len(sent)]
            received = await attack(server, sent, places, hangs_up)
            clients.append(await server.welcomed())
            server.publish()
            last = server.next_id - 1
            for client in clients[:2]:
                assert await ids(client, last) == list(range(1, last + 1))
            assert await ids(clients[2], 1) == [last]
            if received.startswith(b"HTTP/1.1 101 "):
                said, rest = sent_by_server(received.partition(b"\r\n\r\n")[2])
                assert rest == b"", "the client reads to the end, so it gets whole frames"
                assert CLOSE not in [each.opcode for each in said[:-1]], (
                    "nothing follows a close frame"
                )

    with structlog.testing.capture_logs() as logs:
        trio.run(scene)
    expected = {("handshake_rejected", None)} | {
        ("client_dropped", reason) for reason in ("protocol", "slow", "too_big")
    }
    assert {(entry["event"], entry.get("reason")) for entry in logs} <= expected


# --- the outlet on a socket that accepts arbitrary amounts

FAREWELL = close_frame(1013, "too slow")


class Socket:
    """A kernel socket with limited room."""

    def __init__(self) -> None:
        self.room = 0
        self.broken = False
        self.received = b""
        self._changed = trio.Event()

    def change(self, *, room: int = 0, broken: bool = False) -> None:
        self.room += room
        self.broken |= broken
        self._changed.set()
        self._changed = trio.Event()

    def write(self, _descriptor: int, data: bytes | memoryview) -> int:
        if self.broken:
            raise BrokenPipeError
        if not self.room:
            raise BlockingIOError
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.received += taken
        return len(taken)

    def writev(self, descriptor: int, buffers: list[memoryview]) -> int:
        return self.write(descriptor, b"".join(buffers))

    async def wait_writable(self, _descriptor: int) -> None:
        while not self.room and not self.broken:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    def fileno(self) -> int:
        return -1

    @property
    def socket(self) -> Socket:
        return self


steps = st.lists(
    st.one_of(
        # A number of events in one write and the size of their payloads.
        st.tuples(st.just("events"), st.integers(1, 3), st.integers(0, 60)),
        st.tuples(st.just("answer"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("control"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("room"), st.integers(1, 150), st.just(0)),
        st.tuples(st.just("room"), st.integers(1, 10), st.just(0)),
        st.tuples(st.just("run"), st.just(0), st.just(0)),
    ),
    max_size=60,
)
ends = st.sampled_from(["drained", "ended", "closed", "broken", "left"])


@settings(SETTINGS, max_examples=1000)
@given(steps=steps, end=ends, buffer_bytes=st.integers(50, 600))
def test_outlet_sends_whole_frames_and_reports_its_position(
    steps: list[tuple[str, int, int]], end: str, buffer_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patches:
        socket = Socket()
        patches.setattr(outlet_module, "os", socket)
        patches.setattr(trio.lowlevel, "wait_writable", socket.wait_writable)
        trio.run(_outlet_scene, socket, steps, end, buffer_bytes)


async def _outlet_scene(
    socket: Any, steps: list[tuple[str, int, int]], end: str, buffer_bytes: int
) -> None:
    given: list[bytes] = []
    resumes_from: list[int] = []

    def overflowed() -> None:
        given.pop()  # it did not fit
        sent_through = outlet.cut_off()
        assert sent_through is not None
        resumes_from.append(sent_through)
        outlet.end(FAREWELL)

    def check() -> list[Sent]:
        found, _ = sent_by_server(socket.received)
        events = _event_ids(found)
        assert events == sorted(set(events)), "in order and once"
        assert outlet.sent_through in (0, *events)
        whole = sent_by_server(b"".join(given))[0]
        without_farewell = [each for each in found if each.opcode != CLOSE]
        if not resumes_from:
            assert without_farewell == whole[: len(without_farewell)], "no frame is left out"
        return found

    def write(frames: bytes, through: int | None = None) -> None:
        given.append(frames)
        outlet.write_nowait(frames, through)

    async def control(frame: bytes) -> None:
        given.append(frame)
        try:
            await outlet.send_all(frame)
        except trio.BrokenResourceError:
            assert resumes_from

    async with trio.open_nursery() as nursery:
        outlet = Outlet(
            socket,
            nursery,
            buffer_bytes=buffer_bytes,
            overflowed=overflowed,
            closed=lambda: None,
        )
        outlet.mark(0)
        last_id = 0
        for kind, number, size in steps:
            if kind == "events":
                first, last_id = last_id + 1, last_id + number
                ids = range(first, last_id + 1)
                write(b"".join(_event(event_id, size) for event_id in ids), last_id)
            elif kind == "answer":
                write(text_frame("a" * number))
            elif kind == "control":
                await control(b"\x8a" + bytes([number]) + bytes(number))
            elif kind == "room":
                socket.change(room=number)
            else:
                await trio.testing.wait_all_tasks_blocked()
            check()
        if end == "broken":
            socket.change(broken=True)
            write(text_frame("lost"))
            await outlet.drained()
            check()
        elif end == "closed":
            await control(close_frame(1000, ""))
            write(text_frame("too late"))
            assert not outlet.end(close_frame(1001, ""))
        elif end == "ended":
            assert outlet.end(close_frame(1001, "")) is not bool(resumes_from)
        elif end == "drained":
            socket.change(room=1_000_000)
            await outlet.drained()
        nursery.cancel_scope.cancel()
    if end == "broken":
        return
    # A connection does this at its end, when none of its tasks runs any more.
    socket.change(room=1_000_000)
    await outlet.flush()
    found = check()
    assert sent_by_server(socket.received)[1] == b"", "no frame is cut"
    closes = [each for each in found if each.opcode == CLOSE]
    assert closes == found[len(found) - len(closes) :], "nothing follows a close frame"
    assert len(closes) == (bool(resumes_from) or end in ("ended", "closed"))
    if resumes_from:
        assert resumes_from == [max([0, *_event_ids(found)])]
    else:
        assert outlet.sent_through == last_id


def _event(event_id: int, size: int) -> bytes:
    return text_frame(json.dumps({"id": event_id, "payload": "x" * size}))


def _event_ids(found: list[Sent]) -> list[int]:
    return [json.loads(each.payload)["id"] for each in found if each.payload.startswith(b'{"id"')]
