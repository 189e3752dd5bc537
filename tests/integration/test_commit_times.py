"""With track_commit_timestamp, events carry their exact commit time."""

import psycopg
import trio

from tests.conftest import BOT_TABLES, init
from tests.integration.relaying import relaying, sign_up
from tests.postgres import postgres


async def test_committed_at_is_the_commit_not_the_statement() -> None:
    with postgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("alter system set track_commit_timestamp = on")
            connection.execute("create database shop")
        server.stop()
        server.start()
        url = server.url("shop")
        with psycopg.connect(url) as connection:
            connection.execute(BOT_TABLES.read_bytes())
        init(url)
        with psycopg.connect(url, autocommit=True) as bot:
            bot.execute(
                "insert into bridge.webhooks (name, url, event_type) values ('x', 'http://a', '*')"
            )
            async with relaying(url) as relayed:
                with bot.transaction():
                    sign_up(bot, "early")
                    # A savepoint has its own transaction id but the same commit.
                    with bot.transaction():
                        sign_up(bot, "within")
                    await trio.sleep(0.05)
                    bot.execute("create table public.late as select clock_timestamp() as at")
                await relayed.until_count(2)
            rows = bot.execute(
                "select e.occurred_at < late.at, e.committed_at > late.at,"
                " e.committed_at <> e.recorded_at, q.committed_at = e.committed_at"
                " from bridge.events e join bridge.delivery_queue q on q.event_id = e.id, late"
            ).fetchall()
    assert rows == [(True, True, True, True)] * 2
