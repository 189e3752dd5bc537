"""Metrics of the stream: dropped clients, streamed events and delays."""

import json
from datetime import UTC, datetime, timedelta

import trio

from bridge.events import Event
from bridge.live.connection import StreamLimits
from bridge.telemetry import metrics
from tests.unit.serving import RawClient, clients_dropped, closing, dropping, message, serving
from tests.waiting import until


def test_every_drop_reason_is_exported_from_the_start() -> None:
    [family] = metrics.clients_dropped.collect()
    assert {sample.labels["reason"] for sample in family.samples} == set(metrics.DROPPED)


async def test_client_that_leaves_is_not_counted_as_dropped() -> None:
    before = metrics._total(metrics.clients_connected)
    with dropping():
        async with serving() as server:
            client = await server.welcomed()
            assert metrics._total(metrics.clients_connected) == before + 1
            await client.aclose()
            await server.until_clients(0)
            assert (await closing(await server.connect("?token=wrong")))[0] == 1008
            assert metrics._total(metrics.clients_connected) == before + 1


async def test_slow_client_is_counted_and_its_buffer_measured() -> None:
    limits = StreamLimits(buffer_bytes=100_000)
    payload = json.dumps("x" * 20_000)
    with dropping(slow=1):
        async with serving(limits=limits, send_buffer_bytes=4096) as server:
            slow = RawClient(await server.raw())
            await slow.open()
            await until(lambda: server.followers == 1)
            largest, before = 0, clients_dropped().get("slow")
            while clients_dropped().get("slow") == before:
                server.publish(payload)
                largest = max([largest, *server.live.buffered_bytes()])
                await trio.lowlevel.checkpoint()
            # The buffer and the write in progress.
            assert 80_000 < largest <= 130_000


async def test_event_counts_as_streamed_once_per_client() -> None:
    def streamed() -> int:
        return metrics.totals().events_streamed

    before = streamed()
    async with serving() as server:
        clients = [await server.welcomed() for _ in range(2)]
        chooses = await server.welcomed("?token=right&events=other.*")
        server.publish(count=3)
        for client in clients:
            for _ in range(3):
                await message(client)
        assert streamed() == before + 6
        server.hub.publish(server.log.events[-1:])
        assert streamed() == before + 8
        late = await server.welcomed("?token=right&since=1")
        assert [(await message(late))["id"] for _ in range(2)] == [2, 3]
        await until(lambda: streamed() >= before + 10)
        await chooses.aclose()


async def test_events_sent_to_a_client_are_timed_from_their_capture() -> None:
    before = list(metrics.commit_to_client.counts)
    now = datetime.now(UTC)
    captured = [("a.b", now - timedelta(seconds=30)), ("a.c", now - timedelta(hours=2))]
    async with serving() as server:
        client = await server.welcomed("?token=right&events=a.b")
        server.hub.publish(
            [Event(number, kind, "{}", at) for number, (kind, at) in enumerate(captured, 1)]
        )
        assert (await message(client))["id"] == 1
    streamed = [
        after - count for after, count in zip(metrics.commit_to_client.counts, before, strict=True)
    ]
    # One between 15 s and a minute; no client was sent the other type.
    assert (streamed[16], sum(streamed)) == (1, 1)
