"""The outlet keeps order, limits its buffer and never blocks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from bridge.live.outlet import Outlet
from tests.waiting import PATIENCE_SECONDS


@asynccontextmanager
async def _pair(buffer_bytes: int) -> AsyncIterator[tuple[Outlet, trio.SocketStream, list[str]]]:
    """Yield an outlet with a small socket buffer, its client, and a list of overflows."""
    overflows: list[str] = []
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        server = await listener.accept()
        server.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 8192)
        async with client, server:
            with trio.fail_after(PATIENCE_SECONDS):
                yield (
                    Outlet(
                        server,
                        nursery,
                        buffer_bytes=buffer_bytes,
                        overflowed=lambda: overflows.append("over"),
                        closed=lambda: None,
                    ),
                    client,
                    overflows,
                )
            nursery.cancel_scope.cancel()


async def _read(client: trio.SocketStream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += await client.receive_some(65536)
    return received


async def test_writes_arrive_in_order() -> None:
    async with _pair(50_000_000) as (outlet, client, overflows):
        chunks = [bytes([number % 251]) * 20_000 for number in range(100)]
        for chunk in chunks:
            outlet.write_nowait(chunk)
        await outlet.send_all(b"control")
        expected = b"".join(chunks) + b"control"
        assert await _read(client, len(expected)) == expected
        assert overflows == []


async def test_overflow_is_reported_once_and_the_farewell_arrives() -> None:
    async with _pair(100_000) as (outlet, client, overflows):
        for _ in range(2000):
            outlet.write_nowait(b"x" * 10_000)
        assert overflows == ["over"]
        outlet.cut_off()
        outlet.end(b"END")
        outlet.write_nowait(b"after the end")
        received = b""
        while not received.endswith(b"END"):
            received += await client.receive_some(65536)
        # Whole writes and then the end.
        assert len(received.removesuffix(b"END")) % 10_000 == 0


async def test_tiny_writes_count_with_their_overhead() -> None:
    async with _pair(100_000) as (outlet, _, overflows):
        while not overflows:
            outlet.write_nowait(b"xx")
        assert outlet._waiting is not None
        assert len(outlet._waiting) <= 100_000 / 100 + 2, "each write is an object"


async def test_write_to_a_gone_client_raises_nothing() -> None:
    async with _pair(1000) as (outlet, client, overflows):
        await client.aclose()
        for _ in range(100):
            outlet.write_nowait(b"x" * 1000)
            await trio.lowlevel.checkpoint()
        await outlet.aclose()
        outlet.write_nowait(b"x")
        assert overflows in ([], ["over"])
