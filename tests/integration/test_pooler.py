"""The bridge's connection pool behind a PgBouncer with transaction pooling."""

from typing import Any

import psycopg
import pytest
import trio

from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import open_database
from bridge.database.sessions import (
    SessionError,
    is_pooled,
    is_shared,
    open_connection,
    open_session,
)
from tests.integration.delivering import claim_values
from tests.pgbouncer import pgbouncer
from tests.waiting import PATIENCE_SECONDS

CREATE = (
    *("create_webhook", "n", "http://127.0.0.1:1/", "*", None, None, True, 15, 4),
    *(None, None, False, None, 10_000),
)


async def test_many_tasks_share_few_server_sessions(bridge_url: str, pooled_url: str) -> None:
    names: list[str] = []

    async def work() -> None:
        for _ in range(20):
            [created] = await database.fetch(*CREATE)
            [shown] = await database.fetch("list_webhooks", created["id"], None, None, 1, 0)
            assert shown["id"] == created["id"]
            await database.fetch("create_partitions", 3)
            await database.fetch("claim", *claim_values(10, in_flight={shown["id"]: 1}))
            names.append(shown["name"])

    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            open_database(pooled_url, listen_url=bridge_url, pool_size=16) as database,
            trio.open_nursery() as nursery,
        ):
            for _ in range(16):
                nursery.start_soon(work)
    assert len(names) == 16 * 20


async def test_shared_session_keeps_the_settings_of_others(
    bridge_url: str,
) -> None:
    with pgbouncer(bridge_url, pool_size=1) as narrow, psycopg.connect(narrow) as bot:
        bot.execute("set work_mem = '5MB'")
        bot.commit()
        async with open_database(narrow, listen_url=bridge_url) as database:
            await database.fetch(*CREATE)
        assert bot.execute("show work_mem").fetchone() == ("5MB",)


async def test_locks_and_notifications_bypass_the_pooler(
    bridge_url: str, pooled_url: str, bot: psycopg.Connection[Any]
) -> None:
    rung = trio.Event()
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            open_database(pooled_url, listen_url=bridge_url) as database,
            database.connect() as connection,
        ):
            await connection.listen("bridge_outbox", rung.set)
            [row] = await connection.fetch("lead")
            assert row["leading"]
            bot.execute("notify bridge_outbox")
            await rung.wait()


async def test_pooler_without_a_listen_url_is_refused(pooled_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="set BRIDGE_LISTEN_URL to PostgreSQL's own"):
        async with open_database(pooled_url):
            pass


async def test_unreachable_listen_url_is_refused_at_the_start(bridge_url: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with open_database(bridge_url, listen_url="postgresql://u@127.0.0.1:1/d"):
            pass


# --- as the commands see it


def test_pooling_modes_are_distinguished(bridge_url: str, pooled_url: str) -> None:
    with pgbouncer(bridge_url, mode="session") as kept_url:
        for url, pooled, shared in [
            (bridge_url, False, False),
            (kept_url, True, False),
            (pooled_url, True, True),
        ]:
            with open_connection(url, "pgbridge-test") as connection:
                assert is_pooled(connection) == pooled
                assert is_shared(connection, url) == shared


def test_install_refuses_transaction_pooling(pooled_url: str) -> None:
    with (
        pytest.raises(SessionError, match="BRIDGE_LISTEN_URL"),
        open_session(pooled_url),
    ):
        pass
