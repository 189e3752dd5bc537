"""A slow client is cut off and learns where to resume."""

import json

import structlog
import trio
import trio.testing

from bridge.live.connection import StreamLimits
from bridge.live.framing import CHUNK_BYTES, text_frame
from bridge.live.replay import CONCURRENT_REPLAYS
from tests.unit.serving import TEXT, RawClient, Serving, frame, message, never, serving
from tests.waiting import until


async def overflow(slow: RawClient) -> None:
    """Overflow the buffer of a client that does not read, by long answers to its requests."""
    patterns = ["*", *(f"{number}{'x' * 200}" for number in range(99))]
    many, one = (
        json.dumps({"type": "subscribe", "events": each}).encode()
        for each in (patterns, patterns[:1])
    )
    with structlog.testing.capture_logs() as logs:
        await slow.stream.send_all(frame(TEXT, many) + frame(TEXT, one) * 100)
        await until(lambda: bool(logs))
    assert [(each["event"], each["reason"]) for each in logs] == [("client_dropped", "slow")]


async def slow_client(server: Serving, query: str = "?token=right") -> RawClient:
    """Connect a client with a small receive buffer."""
    client = RawClient(await server.raw())
    client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 32768)
    await client.open(f"/ws{query}")
    return client


BUFFER = 100_000
#: A binary message, which the client ignores.
FILLER = b"\x82" + text_frame("x" * 2000)[1:]


SMALL = StreamLimits(buffer_bytes=BUFFER)


LARGE_PAYLOAD = json.dumps("x" * 20_000)


async def test_slow_client_learns_where_to_resume() -> None:
    async with serving(limits=SMALL, send_buffer_bytes=BUFFER) as server:
        slow = await slow_client(server)
        with structlog.testing.capture_logs() as logs:
            while not logs:
                server.publish(LARGE_PAYLOAD)
                await trio.lowlevel.checkpoint()
        newest = server.log.newest_id
        texts, code, reason = await slow.everything()
        got = [json.loads(text) for text in texts]
        last_id = got[-2]["id"]
        assert [each["id"] for each in got[1:-1]] == list(range(1, last_id + 1))
        assert (got[-1]["code"], got[-1]["since"]) == ("too_slow", last_id)
        assert (code, reason) == (1013, f"too slow: resume with since={last_id}")
        back = await server.welcomed(f"?token=right&since={last_id}")
        rest = [(await message(back))["id"] for _ in range(newest - last_id)]
        assert rest == list(range(last_id + 1, newest + 1))


async def test_client_cut_off_before_its_token_gets_no_position() -> None:
    async with serving(limits=SMALL, send_buffer_bytes=BUFFER) as server:
        server.publish(count=3)
        waiting = RawClient(await server.raw())
        await waiting.open("/ws")
        [served] = server.live._clients
        while not served.is_closing:
            served.outlet.write_nowait(FILLER)
            await trio.lowlevel.checkpoint()
        texts, code, reason = await waiting.everything()
        assert "since" not in json.loads(texts[-1])
        assert (code, reason) == (1013, "too slow")


async def test_client_cut_off_during_replay_resumes_from_there() -> None:
    async with serving(limits=SMALL, send_buffer_bytes=BUFFER) as server:
        server.publish(LARGE_PAYLOAD, count=2000)
        slow = await slow_client(server, "?token=right&since=10")
        await overflow(slow)
        texts, code, _ = await slow.everything()
        got = [json.loads(text) for text in texts]
        ids = [each["id"] for each in got if "id" in each]
        assert ids == list(range(11, 11 + len(ids)))
        assert len(ids) < 1990
        assert (got[-1]["since"], code) == (10 + len(ids), 1013)


async def test_client_cut_off_before_replay_resumes_as_requested() -> None:
    async with serving(limits=SMALL, recent_bytes=0, send_buffer_bytes=BUFFER) as server:
        server.publish(count=20)
        server.log.before_read = never
        slow = await slow_client(server)
        server.publish(count=3)
        await slow.stream.send_all(frame(TEXT, b'{"type":"resume","since":7}'))
        await overflow(slow)
        texts, _, _ = await slow.everything()
        assert json.loads(texts[-1])["since"] == 7


async def test_answer_during_replay_does_not_overflow_the_buffer() -> None:
    limits = StreamLimits(buffer_bytes=CHUNK_BYTES // 2)
    async with serving(limits=limits, send_buffer_bytes=CHUNK_BYTES) as server:
        server.publish(LARGE_PAYLOAD, count=9)
        for _ in range(CONCURRENT_REPLAYS):
            await server.live._turns.acquire()
        client = RawClient(await server.raw())
        await client.open("/ws?token=right&since=0")
        await trio.testing.wait_all_tasks_blocked()
        [served] = server.live._clients
        while served.outlet.is_drained:
            served.outlet.write_nowait(FILLER)
        for _ in range(CONCURRENT_REPLAYS):
            server.live._turns.release()
        got = [json.loads(await client.text()) for _ in range(11)]
        assert [each["id"] for each in got[1:-1]] == list(range(1, 10))
        assert got[-1]["type"] == "resumed"


async def test_event_larger_than_the_buffer_is_delivered() -> None:
    limits = StreamLimits(buffer_bytes=10_000)
    async with serving(limits=limits) as server:
        client = await server.welcomed()
        server.publish(json.dumps("x" * 900_000))
        server.publish()
        assert (await message(client))["id"] == 1
        assert (await message(client))["id"] == 2
