"""Limits that the database sets for the application do not apply to pgbridge's sessions."""

import threading
import time
from typing import Any

import psycopg
import pytest
import trio
from structlog.testing import capture_logs

from bridge.database.pool import Database, open_database
from bridge.database.sessions import fetch, open_session
from tests.integration.relaying import relaying, sign_up
from tests.waiting import PATIENCE_SECONDS

#: The database's limits, which are too short for pgbridge, and how long its sessions wait or rest.
LIMIT = "200ms"
LONGER_SECONDS = 0.6
LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)


@pytest.fixture
def hurried(bridge_url: str, bot: psycopg.Connection[Any]) -> str:
    """The URL of a database that allows a fraction of a second for everything."""
    [(name,)] = bot.execute("select current_database()").fetchall()
    for (limit,) in bot.execute(
        "select name from pg_settings where name = any (%s)", (list(LIMITS),)
    ).fetchall():
        bot.execute(f"alter database {name} set {limit} = '{LIMIT}'".encode())
    return bridge_url


async def test_pool_waits_and_rests_longer(hurried: str, bot: psycopg.Connection[Any]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(hurried) as database:
            await _waits(database, bot)


async def test_pool_behind_a_pooler_waits_longer(
    hurried: str, pooled_url: str, bot: psycopg.Connection[Any]
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(pooled_url, listen_url=hurried) as database:
            await _waits(database, bot)
            # The limits ended with the transaction.
            with psycopg.connect(pooled_url) as other:
                assert other.execute("show lock_timeout").fetchone() == (LIMIT,)


async def _waits(database: Database, bot: psycopg.Connection[Any]) -> None:
    async with trio.open_nursery() as nursery:
        with bot.transaction():
            bot.execute("lock table bridge.webhooks")
            nursery.start_soon(database.fetch, "webhook_to_try", 1)
            nursery.start_soon(database.change, "{}", "delete_webhook", 1)
            await trio.sleep(LONGER_SECONDS)
    await trio.sleep(LONGER_SECONDS)
    assert await database.fetch("webhook_to_try", 1) == []


async def test_relay_waits_and_rests_longer(hurried: str, bot: psycopg.Connection[Any]) -> None:
    with capture_logs() as logs:
        async with relaying(hurried, poll_seconds=2 * LONGER_SECONDS) as relayed:
            sign_up(bot, "prepares the statement, which also takes locks")
            await relayed.until_count(1)
            await trio.sleep(LONGER_SECONDS)
            with psycopg.connect(hurried, autocommit=True) as shop, bot.transaction():
                bot.execute("lock table bridge.webhooks")
                sign_up(shop, "a")
                await trio.sleep(LONGER_SECONDS)
            await relayed.until_count(2)
    assert {entry["event"] for entry in logs} == {"leadership_acquired"}


def test_commands_wait_and_rest_longer(hurried: str, bot: psycopg.Connection[Any]) -> None:
    with open_session(hurried) as connection:
        time.sleep(LONGER_SECONDS)
        unlock = threading.Timer(LONGER_SECONDS, bot.execute, ["commit"])
        bot.execute("begin; lock table bridge.webhooks")
        unlock.start()
        assert fetch(connection, "webhook_to_try", 1) == []
        unlock.join()
        with connection.transaction():
            time.sleep(LONGER_SECONDS)
            assert fetch(connection, "webhook_to_try", 1) == []
