"""How missed events are sent: page by page, without delaying other clients."""

import json

import pytest
import structlog
import trio
import trio.testing

from bridge.database.errors import DatabaseUnavailable
from bridge.live import history
from tests.unit.serving import (
    FORGETFUL,
    RawClient,
    ask,
    closing,
    hold_back,
    ids_until_resumed,
    message,
    never,
    serving,
)
from tests.waiting import PATIENCE_SECONDS


async def test_many_waiting_clients_retry_like_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RETRY_SECONDS", (3600.0, 3600.0))
    tries = 0

    async def away(_after: int) -> None:
        nonlocal tries
        tries += 1
        raise DatabaseUnavailable("gone")

    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=20)
        server.log.before_read = away
        with structlog.testing.capture_logs() as logs:
            for since in range(20):
                await server.welcomed(f"?token=right&since={since}")
            await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(logs) == tries == history.CONCURRENT_READS


async def test_unreadable_page_delays_only_its_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "RETRY_SECONDS", (0.0, 0.001))
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=20)

        async def damaged(after: int) -> None:
            if after < history.CONCURRENT_READS + 1:
                raise DatabaseUnavailable("a damaged page")

        server.log.before_read = damaged
        for since in range(history.CONCURRENT_READS + 1):
            await server.welcomed(f"?token=right&since={since}")
        client = await server.welcomed("?token=right&since=10")
        assert (await ids_until_resumed(client))[0] == list(range(11, 21))


@pytest.mark.usefixtures("small_pages")
async def test_messages_are_answered_during_replay() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=9)
        reading, go_on = trio.Event(), trio.Event()

        async def wait_in_between(after: int) -> None:
            if after == 3:
                reading.set()
                await go_on.wait()

        server.log.before_read = wait_in_between
        client = await server.welcomed("?token=right&since=0")
        other = await server.welcomed()
        await reading.wait()
        assert [(await message(client))["id"] for _ in range(3)] == [1, 2, 3]
        assert await ask(client, type="ping") == {"type": "pong"}
        assert (await ask(client, type="resume", since=1))["code"] == "resume_in_progress"
        server.publish()
        assert (await message(other))["id"] == 10, "other clients do not wait for it"
        narrowed = await ask(client, type="subscribe", events=["other.*"])
        assert narrowed["events"] == ["other.*"]
        server.publish(event_type="other.event")
        go_on.set()
        assert await ids_until_resumed(client) == ([11], {"type": "resumed", "from": 0, "to": 11})
        server.publish(event_type="test.event")
        server.publish(event_type="other.event")
        assert (await message(client))["id"] == 13


@pytest.mark.usefixtures("small_pages")
async def test_types_subscribed_during_replay_are_replayed_too() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        for _ in range(4):
            server.publish(event_type="a")
            server.publish(event_type="b")
        client = await server.welcomed("?token=right&events=a")
        for _ in range(4):
            server.publish(event_type="a")
            server.publish(event_type="b")
        assert [(await message(client))["id"] for _ in range(4)] == [9, 11, 13, 15]
        _, go_on = hold_back(server.log)
        await client.send_message('{"type":"resume","since":0}')
        assert (await ask(client, type="subscribe", events=["b"]))["events"] == ["a", "b"]
        go_on.set()
        ids, resumed = await ids_until_resumed(client)
        assert ids == [*range(1, 9), 10, 12, 14, 16]
        assert resumed == {"type": "resumed", "from": 0, "to": 16}


async def test_replay_waits_for_an_unavailable_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RETRY_SECONDS", (0.0, 0.0))
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=3)
        server.log.failure = DatabaseUnavailable("gone")
        client = await server.welcomed("?token=right&since=0")
        assert (await ids_until_resumed(client))[0] == [1, 2, 3]
        assert server.log.reads == 2


@pytest.mark.usefixtures("small_pages")
async def test_replay_yields_between_pages_without_selected_events() -> None:
    async with serving() as server:
        server.publish(count=3000)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        client = await server.welcomed("?token=right&events=other.*")
        server.nursery.start_soon(count_turns)
        before = turns
        await ask(client, type="resume", since=1)
        assert turns - before >= 3000 / 3


async def test_log_is_not_read_ahead_of_a_client() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        for _ in range(40):
            server.publish(json.dumps("x" * 100_000), count=5)
        lazy = RawClient(await server.raw())
        lazy.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 65536)
        await lazy.open("/ws?token=right&since=0")
        witness = await server.welcomed()
        server.publish()
        assert (await message(witness))["id"] == 201
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert server.log.reads < 40, "20 MB in pages of 256 kB are about 100 reads"
        texts = [await lazy.text() for _ in range(202)]
        assert [json.loads(text)["id"] for text in texts[1:]] == list(range(1, 202))


async def test_reconnecting_clients_share_pages_of_the_log() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=2000)
        clients = [await server.welcomed(f"?token=right&since={each}") for each in range(20)]
        for since, client in enumerate(clients):
            assert (await ids_until_resumed(client))[0] == list(range(since + 1, 2001))
        assert server.log.reads <= 20 + 3, "the first page of each, then the same pages"


@pytest.mark.parametrize("events", ["*", "other.*"])
async def test_session_that_ends_during_replay_does_not_join(events: str) -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=3)
        waiting, go_on = hold_back(server.log)
        await server.welcomed(f"?token=right&since=0&events={events}")
        await waiting.wait()
        await server.streams[-1].aclose()
        await server.until_clients(0)
        go_on.set()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert server.followers == 0


@pytest.mark.parametrize("since", [0, 900])
async def test_nothing_is_sent_after_the_close_frame(since: int) -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=3)
        del server.log.events[:2]
        waiting, go_on = hold_back(server.log)
        client = RawClient(await server.raw())
        await client.open(f"/ws?token=right&since={since}")
        assert json.loads(await client.text())["type"] == "connection"
        await waiting.wait()
        server.nursery.start_soon(server.live.stop)
        assert await client.close_code() == 1001
        go_on.set()
        with trio.move_on_after(0.1):
            assert await client.stream.receive_some() == b""


@pytest.mark.usefixtures("small_pages")
async def test_nothing_is_replayed_after_the_log_went_back() -> None:
    async with serving() as server:
        server.publish(count=3000)
        clients = [RawClient(await server.raw()) for _ in range(3)]
        for client in clients:
            await client.open("/ws?token=right&since=0")
        server.live.start_over(10)
        for client in clients:
            texts, code, _ = await client.everything()
            messages = [json.loads(each) for each in texts]
            assert "resumed" not in {each["type"] for each in messages}, "still catching up"
            assert messages[-1] == {"type": "gap", "since": 3000, "available_from": 11}
            assert code == 1001


async def test_stop_closes_clients_that_catch_up() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=3)
        server.log.before_read = never
        client = await server.welcomed("?token=right&since=0")
        server.nursery.start_soon(server.live.stop)
        assert (await closing(client))[0] == 1001


async def test_replay_catches_up_while_events_are_published() -> None:
    """Events published while it waits for its turn do not send it to the end of the queue."""
    async with serving() as server:
        server.publish(count=20)
        turns = server.live._turns
        async with trio.open_nursery() as nursery:
            for _ in range(turns.value):
                await turns.acquire()
            client = await server.connect("?token=right&since=0")
            assert (await message(client))["type"] == "connection"

            async def publish_before_every_turn() -> None:
                while True:
                    server.publish()
                    turns.release()
                    await turns.acquire()

            nursery.start_soon(publish_before_every_turn)
            with trio.fail_after(PATIENCE_SECONDS):
                while (await message(client))["type"] != "resumed":
                    pass
            nursery.cancel_scope.cancel()
