"""``/readyz`` reports real damage to the bridge's surroundings."""

from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import BOT_TABLES, init
from tests.integration.installing import RULES
from tests.pgbouncer import pgbouncer
from tests.system.processes import Bridge, as_role, as_service, running
from tests.waiting import PATIENCE_SECONDS, until_true

Bot = psycopg.Connection[tuple[Any, ...]]


async def readyz(bridge: Bridge) -> dict[str, Any]:
    """Return the answer of ``/readyz``."""
    # Without TLS; loading its certificates would take longer than many requests.
    async with httpx.AsyncClient(verify=False) as client:
        answer = await client.get(f"{bridge.rest_url}/readyz", timeout=PATIENCE_SECONDS)
    body: dict[str, Any] = answer.json()
    assert answer.status_code == (200 if body["status"] == "ready" else 503)
    assert set(body["reasons"]) == {name for name, passes in body["checks"].items() if not passes}
    return body


async def until_ready(bridge: Bridge) -> None:
    while (await readyz(bridge))["status"] != "ready":  # noqa: ASYNC110 - polled
        await trio.sleep(0.05)


async def until_trouble(bridge: Bridge, check: str, says: str = "") -> dict[str, str]:
    """Wait until a check fails with a reason that contains this; return all reasons."""
    while True:
        reasons: dict[str, str] = (await readyz(bridge))["reasons"]
        if check in reasons and says in reasons[check]:
            return reasons
        await trio.sleep(0.05)


def sign_up(bot: Bot) -> None:
    bot.execute("insert into public.users (auth_type) values ('telegram')")


async def test_healthy_bridge_passes_every_check(bridge_url: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url) as bridge:
            await until_ready(bridge)
            assert set((await readyz(bridge))["checks"]) == {
                "relay",
                "listen",
                "claim",
                "settle",
                "outbox",
                "database",
                "capture",
            }


async def test_bridge_of_a_restored_database_is_not_ready(bridge_url: str, bot: Bot) -> None:
    """As after a restore of a backup from before pgbridge."""
    bot.execute("drop schema public cascade; create schema public")
    bot.execute(BOT_TABLES.read_bytes())
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url) as bridge:
            reasons = await until_trouble(bridge, "capture")
            assert "its trigger was dropped; run: pgbridge doctor" in reasons["capture"]
            assert [list(line["rules"]) for line in bridge.logged("capture_lost")] == [
                sorted(RULES)
            ]


async def test_bridge_of_the_owner_repairs_a_restored_database(
    own_server: EmbeddedPostgres,
) -> None:
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        admin.execute("create role bot login")
        admin.execute("create database bot owner bot")
    url = as_role(own_server.url("bot"), "bot")
    with psycopg.connect(url, autocommit=True) as bot:
        bot.execute(BOT_TABLES.read_bytes())
        init(url)
        bot.execute("drop schema public cascade; create schema public")
        bot.execute(BOT_TABLES.read_bytes())
        with trio.fail_after(PATIENCE_SECONDS):
            async with running(url, repair_triggers="on") as bridge:
                while not bridge.logged("capture_regained"):  # noqa: ASYNC110 - polled
                    await trio.sleep(0.05)
                assert len(bridge.logged("triggers_repaired")) == 1
                sign_up(bot)
                await until_true(bot, "exists (select from bridge.events)")


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        ("revoke usage on schema bridge from bridge_service", "database"),
        ("alter table bridge.outbox enable row level security", "database"),
        ("revoke insert on bridge.events from bridge_service", "relay"),
        ("alter table bridge.events enable row level security", "relay"),
        ("alter table bridge.delivery_queue enable row level security", "claim"),
    ],
)
async def test_bridge_whose_statements_are_refused_is_not_ready(
    bridge_url: str, bot: Bot, damage: str, check: str
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url) as bridge:
            await until_ready(bridge)
            bot.execute(damage.encode())
            sign_up(bot)
            await until_trouble(bridge, check)
            assert bridge.logged("database_task_failed")


async def test_drainer_that_cannot_be_replaced_makes_a_bridge_unready(
    bridge_url: str, bot: Bot
) -> None:
    """The session of a frozen bridge keeps the lead if others may not end it."""
    with (
        trio.fail_after(PATIENCE_SECONDS),
        psycopg.connect(bridge_url, autocommit=True) as drainer,
    ):
        drainer.execute(
            "insert into bridge.drainer (bridge, mode, is_quiet) values ('box:7', 'notify', false)"
        )
        assert drainer.execute("select bridge.lead()").fetchone() == (True,)
        async with running(bridge_url) as other:
            await until_ready(other)
            sign_up(bot)
            reasons = await until_trouble(other, "outbox")
            assert list(reasons) == ["outbox"]
            assert reasons["outbox"].startswith("row 1, the oldest in bridge.outbox")
            assert "the drainer is box:7" in reasons["outbox"]
            assert len(other.logged("takeover_obstructed")) == 1
            drainer.close()
            await until_ready(other)
            lines = other.logged("readiness_lost")
            [line] = [line for line in lines if "outbox" in line["reasons"]]
            assert line["reasons"]["outbox"].startswith("row 1, the oldest in bridge.outbox")
            while not other.logged("readiness_regained"):  # noqa: ASYNC110 - polled
                await trio.sleep(0.05)


async def test_stopped_database_fails_the_check_until_it_is_back(
    own_server: EmbeddedPostgres, own_url: str
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(own_url) as bridge:
            await until_ready(bridge)
            await trio.to_thread.run_sync(own_server.stop)
            reasons = await until_trouble(bridge, "database")
            assert reasons["database"].startswith("the database is unavailable")
            await trio.to_thread.run_sync(own_server.start)
            await until_ready(bridge)


async def test_lost_listen_connection_fails_the_check_until_it_is_back(
    bridge_url: str, bot: Bot
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url) as bridge:
            await until_ready(bridge)
            # Existing connections stay, and new ones are rejected.
            bot.execute(f"alter database {bot.info.dbname} with connection limit 1".encode())
            bot.execute("select pg_terminate_backend(bridge.leader_pid())")
            reasons = await until_trouble(bridge, "listen")
            assert reasons["listen"].startswith("the LISTEN connection is down")
            reasons = await until_trouble(bridge, "relay")
            assert reasons["relay"].startswith("this bridge has not polled for events")
            bot.execute(f"alter database {bot.info.dbname} with connection limit -1".encode())
            await until_ready(bridge)


async def test_listen_url_of_a_pooler_fails_with_a_hint(
    bridge_url: str,
) -> None:
    with (
        trio.fail_after(PATIENCE_SECONDS),
        pgbouncer(as_service(bridge_url), ignore_settings=True) as pooled,
    ):
        async with running(bridge_url, listen_url=pooled) as bridge:
            reasons = await until_trouble(bridge, "listen", "BRIDGE_LISTEN_URL")
            assert "set BRIDGE_LISTEN_URL to PostgreSQL's own address" in reasons["listen"]


def _pid_of_server(directory: str) -> int:
    return int(Path(directory, "postmaster.pid").read_text().split()[0])


async def test_frozen_database_fails_the_check(own_server: EmbeddedPostgres, own_url: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS), psycopg.connect(own_url) as connection:
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
