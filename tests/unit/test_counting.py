"""What happens to clients is counted, each once and under the reason that it had."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trio

from bridge.access.tokens import Grant
from bridge.events import Event
from bridge.live import stream
from bridge.live.connection import ConnectionLimits
from bridge.live.stream import StreamLimits
from bridge.telemetry import metrics
from tests.unit.serving import RawClient, closing, frame, message, serving
from tests.waiting import until

TEXT = 1


def dropped() -> dict[str, float]:
    """Return how many clients were dropped so far, by reason; only of those that were."""
    [family] = metrics.clients_dropped.collect()
    return {
        sample.labels["reason"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


@contextmanager
def dropping(**reasons: int) -> Iterator[None]:
    """Check that so many clients are dropped meanwhile, for these reasons and no others."""
    before = dropped()
    yield
    counted = {
        reason: count - before.get(reason, 0)
        for reason, count in dropped().items()
        if count != before.get(reason, 0)
    }
    assert counted == reasons


def test_every_reason_is_shown_before_it_has_happened() -> None:
    [family] = metrics.clients_dropped.collect()
    assert {sample.labels["reason"] for sample in family.samples} == set(metrics.DROPPED)


async def test_a_client_that_leaves_was_not_dropped() -> None:
    before = metrics._total(metrics.clients_connected)
    with dropping():
        async with serving() as server:
            client = await server.welcomed()
            assert metrics._total(metrics.clients_connected) == before + 1
            await client.aclose()
            await server.until_clients(0)
            assert (await closing(await server.connect("?token=wrong")))[0] == 1008
            assert metrics._total(metrics.clients_connected) == before + 1


async def test_a_client_that_answers_no_pings_is_silent() -> None:
    with dropping(silent=1):
        async with serving(limits=StreamLimits(ping_seconds=0.05)) as server:
            client = RawClient(await server.raw())
            await client.open()
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await client.close_code()
            await server.until_clients(0)


async def test_a_client_that_says_nothing_is_idle() -> None:
    with dropping(idle=1):
        async with serving(limits=StreamLimits(ping_seconds=1, idle_seconds=0.1)) as server:
            assert (await closing(await server.welcomed()))[0] == 1001
            await server.until_clients(0)


async def test_tokens_are_revoked_or_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TOKENS_SECONDS", 0.01)
    with dropping(revoked=2, changed=1):
        async with serving() as server:
            two = [await server.welcomed() for _ in range(2)]
            other = await server.welcomed("?token=other")
            del server.tokens.known["right"]
            for client in two:
                await closing(client)
            server.tokens.known["other"] = Grant(2, "other", frozenset(["events:read:a.*"]))
            await closing(other)
            await server.until_clients(0)


async def test_a_client_that_breaks_the_protocol_or_sends_too_much() -> None:
    limits = StreamLimits(ConnectionLimits(message_bytes=100))
    with dropping(protocol=1, too_big=1):
        async with serving(limits=limits) as server:
            for sent, code in ((b"\x81\x02hi", 1002), (frame(TEXT, b"x" * 101), 1009)):
                client = RawClient(await server.raw())
                await client.open()
                await client.stream.send_all(sent)
                assert await client.close_code() == code
            await server.until_clients(0)


async def test_a_client_that_does_not_read_is_slow_and_its_buffer_is_seen() -> None:
    limits = StreamLimits(ConnectionLimits(buffer_bytes=100_000))
    payload = json.dumps("x" * 20_000)
    with dropping(slow=1):
        async with serving(limits=limits, send_buffer_bytes=4096) as server:
            slow = RawClient(await server.raw())
            await slow.open()
            await until(lambda: server.hub.followers == 1)
            largest, before = 0, dropped().get("slow")
            while dropped().get("slow") == before:
                server.publish(payload)
                largest = max([largest, *server.live.buffered_bytes()])
                await trio.lowlevel.checkpoint()
            # Kept behind the write that the socket was busy with.
            assert 80_000 < largest <= 130_000


async def test_clients_are_sent_away_when_the_bridge_stops_or_its_log_has_gone_back() -> None:
    with dropping(log_went_back=1, stopping=1):
        async with serving() as server:
            first = await server.welcomed()
            server.live.start_over(0)
            await closing(first)
            await server.until_clients(0)
            await server.welcomed()
            await server.live.stop()


async def test_an_event_to_two_clients_is_streamed_twice_and_replayed_ones_count() -> None:
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
