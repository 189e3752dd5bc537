"""A frozen or unreachable leader is replaced, and changes nothing when it is back."""

import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress

import psycopg
import pytest
import trio
from trio_websocket import WebSocketConnection

from tests.blackhole import blackhole
from tests.receiver import receiving
from tests.system.processes import as_service, listening, running
from tests.waiting import PATIENCE_SECONDS, until, until_true
from tests.webhook_rows import add_webhook

Bot = psycopg.Connection[tuple[object, ...]]

#: A poll interval that is longer than what makes a leader count as frozen, and no notifications.
SLOW: Mapping[str, object] = {"poll_seconds": 30}
POLLING: Mapping[str, object] = {"doorbell": "poll", "poll_seconds": 0.2}


def sign_up(bot: Bot, *names: str) -> None:
    for name in names:
        bot.execute(
            "insert into public.users (auth_type, username) values ('telegram', %s)", [name]
        )


def leader(bot: Bot) -> tuple[object, int]:
    """Return the process id of the leader's session and of its bridge."""
    [(session, process)] = bot.execute(
        "select bridge.leader_pid(), (select split_part(bridge, ':', 2)::integer"
        " from bridge.drainer)"
    ).fetchall()
    assert isinstance(process, int)
    return session, process


async def names_of(client: WebSocketConnection, count: int) -> list[str]:
    """Read this many events from the stream."""
    return [json.loads(await client.get_message())["payload"]["username"] for _ in range(count)]


async def is_replaced(bot: Bot, before: object) -> None:
    await until_true(
        bot, f"bridge.leader_pid() <> {before} and not exists (select from bridge.outbox)"
    )


@pytest.mark.parametrize("settings", [SLOW, POLLING], ids=["slow", "polling"])
async def test_frozen_leader_is_replaced_and_follows_when_it_thaws(
    bridge_url: str, bot: Bot, settings: Mapping[str, object]
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url, **settings) as first:
            await until(lambda: first.logged("leadership_acquired"))
            async with running(bridge_url, **settings) as second, listening(first) as client:
                sign_up(bot, "before")
                assert await names_of(client, 1) == ["before"]
                session, _ = leader(bot)
                first.process.send_signal(signal.SIGSTOP)
                sign_up(bot, "a", "b")
                await is_replaced(bot, session)
                first.process.send_signal(signal.SIGCONT)
                sign_up(bot, "c")
                # It publishes what the other one drained, each event once and in order.
                assert await names_of(client, 3) == ["a", "b", "c"]
                await until(lambda: first.logged("database_task_failed"))
                [fenced] = second.logged("leader_fenced")
                assert fenced["bridge"].endswith(f":{first.process.pid}")
                assert len(first.logged("leadership_acquired")) == 1
                await second.kill()
                sign_up(bot, "d")
                assert await names_of(client, 1) == ["d"]
                assert len(first.logged("leadership_acquired")) == 2


async def test_frozen_worker_is_replaced_by_another(bridge_url: str, bot: Bot) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url, "--workers", "2", poll_seconds=0.2) as bridge:
            await until_true(bot, "count(distinct bridge) = 2 from bridge.activity")
            await until_true(bot, "bridge.leader_pid() is not null")
            session, process = leader(bot)
            os.kill(process, signal.SIGSTOP)
            try:
                sign_up(bot, "a")
                await is_replaced(bot, session)
            finally:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)
            assert len(bridge.logged("leader_fenced")) == 1


async def test_leader_that_lost_its_network_is_replaced(bridge_url: str, bot: Bot) -> None:
    """The packets of the first bridge vanish, without the end of a connection."""
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            blackhole(as_service(bridge_url)) as proxy,
            running(proxy.url, poll_seconds=0.2) as first,
            receiving() as receiver,
        ):
            await until(lambda: first.logged("leadership_acquired"))
            add_webhook(bot, receiver.url("/hook"))
            async with running(bridge_url, poll_seconds=0.2) as second, listening(first) as client:
                session, _ = leader(bot)
                await proxy.swallow()
                sign_up(bot, "a")
                await is_replaced(bot, session)
                await receiver.until(lambda: len(receiver.requests) == 1)
                await until(lambda: first.logged("database_task_failed"))
                proxy.heal()
                assert await names_of(client, 1) == ["a"]
                assert len(second.logged("leader_fenced")) == 1
