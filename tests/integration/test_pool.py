"""The daemon's database connections survive cancelled, refused and unanswered statements."""

import traceback
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from bridge.database import pool
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import open_database
from bridge.database.shares import Share
from tests.waiting import PATIENCE_SECONDS


async def test_pool_is_usable_after_cancelled_statements(
    bridge_url: str, bot: psycopg.Connection[Any]
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(bridge_url, pool_size=2) as database:
            for _ in range(5):
                async with trio.open_nursery() as nursery:
                    with bot.transaction():
                        bot.execute("lock table bridge.webhooks in access exclusive mode")
                        for _ in range(2):
                            nursery.start_soon(database.fetch, "webhook_to_try", 1)
                        while bot.execute(
                            "select count(*) from pg_locks where relation ="
                            " 'bridge.webhooks'::regclass and not granted"
                        ).fetchone() != (2,):
                            await trio.lowlevel.checkpoint()
                        nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(database.fetch, "webhook_to_try", 1)


async def test_connection_is_usable_after_a_cancelled_statement(
    bridge_url: str, bot: psycopg.Connection[Any]
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(bridge_url) as database, database.connect() as connection:
            with bot.transaction():
                bot.execute("lock table bridge.webhooks in access exclusive mode")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(connection.fetch, "webhook_to_try", 1)
                    while bot.execute(
                        "select count(*) from pg_locks where relation ="
                        " 'bridge.webhooks'::regclass and not granted"
                    ).fetchone() != (1,):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
                # The lock is still held, so the server itself ended the statement.
                for _ in range(2):
                    [row] = await connection.fetch("schema_version")
                    assert row["version"]


async def test_errors_do_not_show_the_values_of_the_row(
    bridge_url: str,
) -> None:
    form = ["n", "http://h/", "*", "s3cret", None, True, 15, 0, None, None, False, None, 1]
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(bridge_url) as database, database.connect() as connection:
            for ask in database.fetch, connection.fetch:
                with pytest.raises(DatabaseError) as refused:
                    await ask("create_webhook", *form)
                assert refused.value.constraint_name == "webhooks_max_concurrency_range"
                assert "s3cret" not in "".join(traceback.format_exception(refused.value))


async def test_share_leaves_the_other_connections_free(
    bridge_url: str, bot: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.database.shares.SHARE_SECONDS", 0.5)
    refused = 0

    async def ask() -> None:
        nonlocal refused
        try:
            await share.fetch("webhook_to_try", 1)
        except DatabaseUnavailable:
            refused += 1

    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(bridge_url, pool_size=3) as database:
            share = Share(database, 2)
            async with trio.open_nursery() as nursery:
                with bot.transaction():
                    bot.execute("lock table bridge.webhooks in access exclusive mode")
                    for _ in range(20):
                        nursery.start_soon(ask)
                    # Two callers wait for the lock, eighteen for the share; one connection is free.
                    while refused < 18:
                        await database.fetch("schema_version")
            assert refused == 18
            assert await share.fetch("webhook_to_try", 1) == []


async def test_missing_socket_is_named(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        with pytest.raises(DatabaseUnavailable, match="no PostgreSQL listens on its socket"):
            async with open_database(f"postgresql://u@/d?host={tmp_path}"):
                pass


async def test_silent_server_times_out() -> None:
    [silent] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with silent:
        port = silent.socket.getsockname()[1]
        with trio.fail_after(PATIENCE_SECONDS):
            with pytest.raises(DatabaseUnavailable, match="it does not answer in time"):
                async with open_database(f"postgresql://u@127.0.0.1:{port}/d?connect_timeout=1"):
                    pass


async def test_unanswered_statement_times_out(
    bridge_url: str, bot: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "STATEMENT_SECONDS", 0.1)
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(bridge_url) as database:
            with bot.transaction():
                bot.execute("lock table bridge.webhooks in access exclusive mode")
                with pytest.raises(DatabaseUnavailable, match="it does not answer in time"):
                    await database.fetch("webhook_to_try", 1)
