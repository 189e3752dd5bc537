"""What ``/readyz`` says of a bridge while real damage is done to what it stands on."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import psycopg
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.pgbouncer import pgbouncer
from tests.system.processes import Bridge, as_service, running
from tests.system.test_faults import own_server, own_url

__all__ = ["own_server", "own_url"]  # fixtures

Bot = psycopg.Connection[tuple[Any, ...]]


async def readyz(bridge: Bridge) -> dict[str, Any]:
    """Return what it answers, which comes from memory."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{bridge.rest_url}/readyz", timeout=20)
    told: dict[str, Any] = answer.json()
    assert answer.status_code == (200 if told["status"] == "ready" else 503)
    assert set(told["reasons"]) == {name for name, well in told["checks"].items() if not well}
    return told


async def until_ready(bridge: Bridge) -> None:
    while (await readyz(bridge))["status"] != "ready":  # noqa: ASYNC110 - nobody announces it
        await trio.sleep(0.05)


async def until_trouble(bridge: Bridge, check: str, says: str = "") -> dict[str, str]:
    """Wait until a check finds something that says this; return all reasons."""
    while True:
        reasons: dict[str, str] = (await readyz(bridge))["reasons"]
        if says in reasons.get(check, ""):
            return reasons if check in reasons else await until_trouble(bridge, check, says)
        await trio.sleep(0.05)


def sign_up(bot: Bot) -> None:
    bot.execute("insert into public.users (auth_type) values ('telegram')")


async def test_all_is_checked_and_well(bridge_url: str) -> None:
    with trio.fail_after(60):
        async with running(bridge_url) as bridge:
            await until_ready(bridge)
            assert set((await readyz(bridge))["checks"]) == {
                "relay",
                "listen",
                "claim",
                "settle",
                "outbox",
                "database",
            }


async def test_a_frozen_drainer_makes_the_bridge_beside_it_unready(
    bridge_url: str, bot: Bot
) -> None:
    """By a signal that no process sees: its session goes on holding the drainer's lock."""
    with trio.fail_after(120):
        async with running(bridge_url) as drainer:
            await until_ready(drainer)
            async with running(bridge_url) as other:
                await until_ready(other)
                drainer.process.send_signal(signal.SIGSTOP)
                try:
                    sign_up(bot)
                    reasons = await until_trouble(other, "outbox")
                    assert list(reasons) == ["outbox"]
                    assert reasons["outbox"].startswith("row 1 of bridge.outbox")
                    assert f"the drainer is {_name(bot)}" in reasons["outbox"]
                finally:
                    drainer.process.send_signal(signal.SIGCONT)
                await until_ready(other)
                lines = other.logged("readiness_lost")
                [line] = [line for line in lines if "outbox" in line["reasons"]]
                assert line["reasons"]["outbox"].startswith("row 1 of bridge.outbox")
                while not other.logged("readiness_regained"):  # noqa: ASYNC110 - polled
                    await trio.sleep(0.05)


def _name(bot: Bot) -> str:
    [(name,)] = bot.execute("select bridge from bridge.drainer").fetchall()
    return str(name)


async def test_a_database_that_has_stopped_is_told_at_once_and_for_as_long(
    own_server: EmbeddedPostgres, own_url: str
) -> None:
    with trio.fail_after(120):
        async with running(own_url) as bridge:
            await until_ready(bridge)
            await trio.to_thread.run_sync(own_server.stop)
            reasons = await until_trouble(bridge, "database")
            assert reasons["database"].startswith("the database is away or refuses")
            await trio.to_thread.run_sync(own_server.start)
            await until_ready(bridge)


async def test_a_connection_that_listens_and_cannot_come_back_is_told(
    bridge_url: str, bot: Bot
) -> None:
    with trio.fail_after(120):
        async with running(bridge_url) as bridge:
            await until_ready(bridge)
            # What is there stays; who comes back is refused.
            bot.execute(f"alter database {bot.info.dbname} with connection limit 1".encode())
            bot.execute("select pg_terminate_backend(bridge.leader_pid())")
            reasons = await until_trouble(bridge, "listen")
            assert reasons["listen"].startswith("there is no connection that listens")
            assert reasons["relay"].startswith("this bridge has not polled for events")
            bot.execute(f"alter database {bot.info.dbname} with connection limit -1".encode())
            await until_ready(bridge)


async def test_a_listen_url_that_leads_through_a_pooler_is_told_with_what_to_set(
    bridge_url: str,
) -> None:
    with trio.fail_after(120), pgbouncer(as_service(bridge_url), ignore_settings=True) as pooled:
        async with running(bridge_url, listen_url=pooled) as bridge:
            reasons = await until_trouble(bridge, "listen", "BRIDGE_LISTEN_URL")
            assert "set BRIDGE_LISTEN_URL to PostgreSQL's own address" in reasons["listen"]


def _pid_of_server(directory: str) -> int:
    return int(Path(directory, "postmaster.pid").read_text().split()[0])


async def test_a_frozen_database_is_told_from_memory_at_once(
    own_server: EmbeddedPostgres, own_url: str
) -> None:
    with trio.fail_after(120), psycopg.connect(own_url) as connection:
        [(directory,)] = connection.execute("show data_directory").fetchall()
        postmaster = psutil.Process(_pid_of_server(directory))
        async with running(own_url) as bridge:
            await until_ready(bridge)
            frozen = [*postmaster.children(), postmaster]
            for process in frozen:
                process.suspend()
            try:
                reasons = await until_trouble(bridge, "database", "has not answered for")
                assert reasons["relay"].startswith("this bridge has not polled for events")
            finally:
                for process in frozen:
                    process.resume()
            await until_ready(bridge)
