"""A gap in the log is reported to the client."""

import pytest
import trio.testing

from bridge.live import history
from tests.unit.serving import FORGETFUL, Log, ask, ids_until_resumed, message, serving


async def test_resume_before_the_log_is_a_gap() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=9)
        del server.log.events[:6]
        client = await server.welcomed("?token=right&since=2")
        assert await message(client) == {"type": "gap", "since": 2, "available_from": 7}
        assert await ids_until_resumed(client) == (
            [7, 8, 9],
            {"type": "resumed", "from": 2, "to": 9},
        )


async def test_resume_right_before_the_log_is_no_gap() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=9)
        del server.log.events[:6]
        client = await server.welcomed("?token=right&since=6")
        assert (await ids_until_resumed(client))[0] == [7, 8, 9]


async def test_expired_log_is_a_gap() -> None:
    log = Log()
    log.newest_id = 50
    async with serving(log=log) as server:
        client = await server.welcomed("?token=right&since=20")
        assert await message(client) == {"type": "gap", "since": 20, "available_from": 51}
        assert (await message(client))["type"] == "resumed"
        server.publish()
        assert (await message(client))["id"] == 51


@pytest.mark.usefixtures("small_pages")
async def test_events_that_expire_during_replay_are_a_gap() -> None:
    async with serving(recent_bytes=FORGETFUL) as server:
        server.publish(count=12)

        async def expire_in_between(after: int) -> None:
            if after == 3:
                del server.log.events[:9]

        server.log.before_read = expire_in_between
        client = await server.welcomed("?token=right&since=0")
        assert [(await message(client))["id"] for _ in range(3)] == [1, 2, 3]
        assert await message(client) == {"type": "gap", "since": 3, "available_from": 10}
        assert (await ids_until_resumed(client))[0] == [10, 11, 12]


async def test_unknown_id_is_a_gap() -> None:
    """A database restored from a backup gives out ids a second time."""
    async with serving() as server:
        server.publish(count=3)
        client = await server.welcomed("?token=right&since=900")
        assert await message(client) == {"type": "gap", "since": 900, "available_from": 4}
        assert await message(client) == {"type": "resumed", "from": 900, "to": 3}
        server.publish()
        assert (await message(client))["id"] == 4


async def test_id_published_by_another_bridge_is_awaited() -> None:
    async with serving() as server:
        server.publish(count=3)
        server.log.newest_id = 5
        client = await server.welcomed("?token=right&since=5")
        assert await ask(client, type="ping") == {"type": "pong"}
        server.publish(count=3)
        assert await ids_until_resumed(client) == ([6], {"type": "resumed", "from": 5, "to": 6})


async def test_few_clients_at_once_look_up_unknown_ids() -> None:
    async with serving() as server:
        now = most = 0

        async def count(_after: int) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await trio.testing.wait_all_tasks_blocked()
            now -= 1

        server.log.before_read = count
        clients = [await server.welcomed("?token=right&since=900") for _ in range(10)]
        for client in clients:
            assert (await message(client))["type"] == "gap"
        assert most <= history.CONCURRENT_READS


async def test_events_before_an_awaited_id_can_be_replayed() -> None:
    async with serving() as server:
        server.publish(count=3)
        server.log.newest_id = 5
        client = await server.welcomed("?token=right&since=5")
        assert await ask(client, type="ping") == {"type": "pong"}
        server.publish(count=3)
        assert (await ids_until_resumed(client))[0] == [6]
        await client.send_message('{"type":"resume","since":1}')
        assert (await ids_until_resumed(client))[0] == [2, 3, 4, 5]
