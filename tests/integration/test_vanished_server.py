"""A server that vanishes without a word is noticed, on every connection."""

import psycopg
import pytest
import trio

from bridge.database import limits, pool
from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import Database, open_database
from bridge.database.sessions import Connection, open_connection
from tests.blackhole import blackhole
from tests.integration.relaying import Bot, relaying, sign_up
from tests.waiting import PATIENCE_SECONDS, until, until_true


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the limits for results, so that only TCP can notice."""
    monkeypatch.setattr(pool, "STATEMENT_SECONDS", 10 * PATIENCE_SECONDS)


@pytest.mark.usefixtures("endless")
async def test_swallowed_packets_are_noticed(bridge_url: str, bot: Bot) -> None:
    async def fails_in_the_pool(database: Database) -> None:
        with pytest.raises(DatabaseUnavailable):
            await database.fetch("clock")

    async def fails(connection: Connection, sql: str) -> None:
        with pytest.raises(psycopg.OperationalError):
            await trio.to_thread.run_sync(connection.execute, sql)

    lost = trio.Event()
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            blackhole(bridge_url) as proxy,
            open_database(proxy.url) as database,
            database.connect() as idle,
            trio.open_nursery() as nursery,
        ):
            idle.on_loss(lost.set)
            await database.fetch("clock")
            waiting, asking = [
                await trio.to_thread.run_sync(open_connection, proxy.url, "pgbridge-test")
                for _ in range(2)
            ]
            # This one has nothing to send any more, the others ask a server that has vanished.
            nursery.start_soon(fails, waiting, "select pg_sleep(6000)")
            await until_true(
                bot, "exists (select from pg_stat_activity where wait_event = 'PgSleep')"
            )
            await proxy.swallow()
            nursery.start_soon(fails, asking, "select 1")
            nursery.start_soon(fails_in_the_pool, database)
            await lost.wait()
    bot.execute("select pg_terminate_backend(pid) from pg_stat_activity where wait_event='PgSleep'")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the relay wait for results for a moment only."""
    monkeypatch.setattr(limits, "RELAY_SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
async def test_relay_gives_up_a_server_that_does_not_answer(bridge_url: str, bot: Bot) -> None:
    """TCP cannot tell: the packets are acknowledged."""
    async with blackhole(bridge_url) as proxy, relaying(proxy.url) as relayed:
        await until(lambda: relayed.relay.leading)
        proxy.stall()
        await until(lambda: not relayed.relay.leading)
        proxy.heal()
        sign_up(bot, "a")
        await relayed.until_count(1)
