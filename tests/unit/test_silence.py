"""Silent clients are dropped and idle ones closed."""

import json

import pytest
import structlog
import trio
import trio.testing

from bridge.access.tokens import Grant
from bridge.live import stream
from bridge.live.connection import StreamLimits
from tests.unit.serving import RawClient, Serving, Tokens, ask, closing, dropping, serving

#: More than ``serving`` waits by the clock that the tests advance would be too much.
LIMITS = StreamLimits(ping_seconds=1.0)


async def advance(clock: trio.testing.MockClock, seconds: float) -> None:
    """Advance the clock in steps shorter than a ping interval, and let the server act."""
    for _ in range(round(seconds / 0.5)):
        clock.jump(0.5)
        await trio.testing.wait_all_tasks_blocked(0.005)


async def connected(server: Serving) -> RawClient:
    """Connect a client that answers no pings."""
    client = RawClient(await server.raw())
    client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 32768)
    await client.open()
    return client


async def test_client_that_answers_no_pings_is_dropped(mock_clock: trio.testing.MockClock) -> None:
    with dropping(silent=1):
        async with serving(limits=LIMITS) as server:
            client = await connected(server)
            await advance(mock_clock, stream.SILENT_INTERVALS + 1)
            assert server.live.clients == 0
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await client.close_code()


async def test_client_that_answers_pings_stays(mock_clock: trio.testing.MockClock) -> None:
    async with serving(limits=LIMITS) as server:
        client = await connected(server)
        for _ in range(5):
            await advance(mock_clock, 1.0)
            await client.answer_pings(1)
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert server.live.clients == 1


async def test_slow_reader_is_not_silent(mock_clock: trio.testing.MockClock) -> None:
    async with serving(limits=LIMITS, send_buffer_bytes=4096) as server:
        slow = await connected(server)
        server.publish(json.dumps("x" * 1_500_000))
        for _ in range(8):
            # It does not get as far as the pings.
            slow.protocol.receive_data(await slow.stream.receive_some(100_000))
            await advance(mock_clock, 1.0)
        [client] = server.live._clients
        assert not client.outlet.is_drained
        assert json.loads(await slow.text())["type"] == "connection"
        assert json.loads(await slow.text())["id"] == 1


async def test_client_that_stops_reading_is_dropped(mock_clock: trio.testing.MockClock) -> None:
    async with serving(limits=LIMITS, send_buffer_bytes=4096) as server:
        await connected(server)
        server.publish(json.dumps("x" * 1_500_000))
        await advance(mock_clock, stream.SILENT_INTERVALS + 1)
        for _ in range(1000):
            # For the final flush, which begins when the kernel has reported its last one.
            await advance(mock_clock, 1.0)
            if not server.live.clients:
                break
        assert server.live.clients == 0


async def test_silent_client_is_logged_once(mock_clock: trio.testing.MockClock) -> None:
    answers = trio.Event()

    class SlowTokens(Tokens):
        async def authenticate(self, token: str, address: str = "") -> Grant | None:
            with trio.CancelScope(shield=True):  # like a database statement
                await answers.wait()
            return await super().authenticate(token, address)

    async with serving(limits=LIMITS, tokens=SlowTokens()) as server:
        with structlog.testing.capture_logs() as logs:
            await connected(server)
            await advance(mock_clock, stream.SILENT_INTERVALS + 2)
            answers.set()
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert server.live.clients == 0
        assert [(each["event"], each["reason"]) for each in logs] == [("client_dropped", "silent")]


def test_vanished_peer_is_noticed_within_a_minute() -> None:
    limits = StreamLimits()
    assert 2 * limits.ping_seconds < stream.SILENT_INTERVALS * limits.ping_seconds + 1.0 <= 60


async def test_idle_client_is_closed(mock_clock: trio.testing.MockClock) -> None:
    limits = StreamLimits(ping_seconds=1.0, idle_seconds=1.2)
    with dropping(idle=1):
        async with serving(limits=limits) as server:
            talks, idle = await server.welcomed(), await server.welcomed()
            await advance(mock_clock, 1.0)
            assert await ask(talks, type="ping") == {"type": "pong"}
            await advance(mock_clock, 0.5)
            assert await closing(idle) == (1001, "Idle: no message for 1.2 s")
            assert await ask(talks, type="ping") == {"type": "pong"}
