"""The clock of the database's server is set back or forward under running bridges.

A clock that is set back is a clock that runs on, and stored times that lie ahead. So the tests move
the stored times.
"""

from datetime import timedelta
from typing import Any

import pytest
import trio
from cryptography.fernet import Fernet
from psycopg.conninfo import conninfo_to_dict
from structlog.testing import capture_logs

from bridge.access.vault import Vault
from bridge.database.pool import Database, open_database
from bridge.relay.clock_watch import ClockWatch
from bridge.relay.upkeep import Upkeep
from tests.integration.delivering import Bot, claim, delivering, enqueue
from tests.receiver import receiving
from tests.waiting import PATIENCE_SECONDS, until_true
from tests.webhook_rows import add_failures, add_webhook

HOUR = timedelta(hours=1)
#: Longest time that a test may take between two statements.
SLACK = timedelta(seconds=60)

#: What waits or expires, and where it is stored.
EXPIRIES = {
    "retry": "select next_attempt_at from bridge.delivery_queue where attempt_number = 1",
    "lease": "select leased_until from bridge.delivery_queue where leased_until is not null",
    "secret": "select previous_secret_expires_at from bridge.webhooks where secret is not null",
    "redelivery": "select next_due_at from bridge.redeliveries",
    "ticket": "select expires_at from bridge.ws_tickets",
    "session": "select expires_at from bridge.console_sessions",
}


def step(bot: Bot, by: timedelta) -> None:
    """Make the clock look as if it had been set forward by this much, or back."""
    columns = bot.execute(
        "select c.oid::regclass::text, quote_ident(a.attname)"
        " from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where c.relnamespace = 'bridge'::regnamespace and c.relkind = 'r'"
        " and not c.relispartition and a.attnum > 0 and a.atttypid = 'timestamptz'::regtype"
        # The partition of an event is found by this one.
        " and a.attname <> 'event_recorded_at'"
    ).fetchall()
    for table, column in columns:
        bot.execute(f"update {table} set {column} = {column} - %s".encode(), [by])


def add_expiries(bot: Bot) -> None:
    """Add one of everything that waits or expires."""
    webhook = add_webhook(bot, secret="s", previous_secret="p", previous_secret_expires_at="now")
    bot.execute("update bridge.webhooks set previous_secret_expires_at = now() + interval '3 h'")
    retried, leased = enqueue(bot, webhook, count=2)
    bot.execute(
        "update bridge.delivery_queue set attempt_number = 1,"
        " next_attempt_at = now() + interval '3 h' where id = %s",
        [retried],
    )
    bot.execute(
        "update bridge.delivery_queue set claimed_at = now(),"
        " leased_until = now() + interval '2 min', lease_token = gen_random_uuid() where id = %s",
        [leased],
    )
    add_failures(bot, webhook, 2)
    bot.execute("select bridge.redeliver_failed(%s, '-infinity', p_per_second => 1)", [webhook])
    bot.execute("delete from bridge.delivery_queue where is_redelivery")
    bot.execute("update bridge.redeliveries set next_due_at = now() + interval '3 h'")
    for table, key in (("ws_tickets", "ticket_hash"), ("console_sessions", "session_hash")):
        bot.execute(
            f"insert into bridge.{table} ({key}, token_source, expires_at)"
            " values ('x', 'setting', now() + interval '3 h')".encode()
        )


def left(bot: Bot) -> dict[str, timedelta]:
    """Return how much time is left for everything that waits or expires."""
    return {
        name: bot.execute(f"select at - now() from ({sql}) as stored(at)".encode()).fetchall()[0][0]
        for name, sql in EXPIRIES.items()
    }


def is_close(one: timedelta, other: timedelta) -> bool:
    return abs(one - other) < SLACK


async def looked(database: Database) -> ClockWatch:
    """Return a watch that has looked at the clock."""
    watch = ClockWatch(database)
    await watch.look()
    return watch


async def test_unchanged_clock_changes_nothing(bridge_url: str, bot: Bot) -> None:
    add_expiries(bot)
    before = bot.execute("select * from bridge.delivery_queue order by id").fetchall()
    async with open_database(bridge_url) as database:
        with capture_logs() as logged:
            first, second = await looked(database), await looked(database)
            for watch in (first, second, first):
                assert await watch.look()
    assert logged == []
    assert bot.execute("select * from bridge.delivery_queue order by id").fetchall() == before


@pytest.mark.parametrize(
    "by", [timedelta(minutes=2), HOUR, timedelta(days=180), timedelta(days=400)]
)
async def test_clock_set_back_leaves_everything_its_time(
    bridge_url: str, bot: Bot, by: timedelta
) -> None:
    name = conninfo_to_dict(bridge_url)["dbname"]
    bot.execute(f"alter database {name} set timezone = 'America/New_York'".encode())
    async with open_database(bridge_url) as database:
        first, second = await looked(database), await looked(database)
        add_expiries(bot)
        before = left(bot)
        step(bot, -by)
        with capture_logs() as logged:
            await first.look()
            await second.look()
            assert await ClockWatch(database).look()
        after = left(bot)
    assert [line["event"] for line in logged] == ["database_clock_changed"]
    assert is_close(timedelta(seconds=logged[0]["step_seconds"]), -by)
    assert {name for name in before if not is_close(before[name], after[name])} == set()


async def test_restarted_bridge_notices_that_the_clock_was_set_back(
    bridge_url: str, bot: Bot
) -> None:
    async with open_database(bridge_url) as database:
        enqueue(bot, add_webhook(bot))
        await looked(database)
        step(bot, -HOUR)
        assert await claim(database) == []
        await looked(database)
        assert len(await claim(database)) == 1


async def test_clock_set_back_stops_no_webhook(bridge_url: str, bot: Bot) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"ordered": True},
        {"rate_per_second": 1, "paced_until": "now"},
        {"failure_share": 0.9, "probe_at": "now"},
    ]
    async with receiving() as receiver:
        for kind in kinds:
            enqueue(bot, add_webhook(bot, receiver.url(), **kind))
        async with open_database(bridge_url) as database:
            await looked(database)
            step(bot, -HOUR)
            await looked(database)
        async with delivering(bridge_url):
            await until_true(
                bot, f"count(*) = {len(kinds)} from bridge.delivery_log where status = 'success'"
            )


async def test_lease_that_was_taken_after_the_step_is_kept(bridge_url: str, bot: Bot) -> None:
    async with open_database(bridge_url) as database:
        watch = await looked(database)
        enqueue(bot, add_webhook(bot, timeout_seconds=20))
        step(bot, -HOUR)
        bot.execute("update bridge.delivery_queue set next_attempt_at = now()")
        assert len(await claim(database)) == 1
        await watch.look()
        assert await claim(database) == []


async def test_rate_and_probe_from_before_the_step_are_ignored(bridge_url: str, bot: Bot) -> None:
    """Also before a bridge has noticed the step."""
    paced = add_webhook(bot, rate_per_second=2)
    probed = add_webhook(bot, failure_share=0.9)
    for webhook in (paced, probed):
        enqueue(bot, webhook, count=10)
    bot.execute(
        "update bridge.webhooks set paced_until = now() + interval '1 h',"
        " probe_at = case when failure_share > 0 then now() + interval '1 h' end"
    )
    async with open_database(bridge_url) as database:
        rows = await claim(database)
    assert [row["webhook_id"] for row in rows] == [paced, paced, probed]
    assert bot.execute(
        "select count(*) from bridge.webhooks"
        " where paced_until > now() + interval '1 min' and rate_per_second is not null"
        " or probe_at > now() + interval '15 min'"
    ).fetchone() == (0,)


@pytest.mark.parametrize("by", [HOUR, timedelta(days=40)])
async def test_clock_set_forward_keeps_rotated_secrets(
    bridge_url: str, bot: Bot, by: timedelta
) -> None:
    async with open_database(bridge_url) as database:
        first, second = await looked(database), await looked(database)
        add_expiries(bot)
        before = left(bot)
        step(bot, by)
        with capture_logs() as logged:
            is_deleting = [await watch.look() for watch in (first, second, ClockWatch(database))]
    assert is_close(before["secret"], left(bot)["secret"])
    assert [line["event"] for line in logged] == ["database_clock_changed"]
    assert is_close(timedelta(seconds=logged[0]["step_seconds"]), by)
    assert is_deleting == 3 * [by == HOUR]


async def test_wait_ends_a_day_after_the_clock_was_set_back(bridge_url: str, bot: Bot) -> None:
    async with open_database(bridge_url) as database:
        watch = await looked(database)
        step(bot, timedelta(days=40))
        assert not await watch.look()
        step(bot, timedelta(days=-40))
        await watch.look()
        assert not await watch.look()
        step(bot, timedelta(days=1))
        assert await ClockWatch(database).look()


async def test_nothing_is_deleted_for_a_day_after_the_bridge_was_away(
    bridge_url: str, bot: Bot
) -> None:
    async with open_database(bridge_url) as database:
        await looked(database)
        add_expiries(bot)
        before = left(bot)
        step(bot, timedelta(days=2))
        with capture_logs() as logged:
            assert not await ClockWatch(database).look()
            assert not await ClockWatch(database).look()
        assert logged == []
        assert is_close(before["secret"] - timedelta(days=2), left(bot)["secret"])
        # A bridge that runs once a week deletes at its next run.
        step(bot, timedelta(days=7))
        assert await ClockWatch(database).look()


async def test_upkeep_drops_nothing_while_the_time_may_be_wrong(bridge_url: str, bot: Bot) -> None:
    async def upkeep(until: str) -> None:
        async with open_database(bridge_url) as database, trio.open_nursery() as nursery:
            nursery.start_soon(Upkeep(database, {"events": 35}, Vault(keys)).run)
            with trio.fail_after(PATIENCE_SECONDS):
                await until_true(bot, until)
            nursery.cancel_scope.cancel()

    keys = [Fernet.generate_key().decode()]
    bot.execute("select bridge.create_partitions(current_date - 50, 1)")
    [(partition,)] = bot.execute(
        "select format('bridge.events_p%s', to_char(current_date - 50, 'YYYYMMDD'))"
    ).fetchall()
    async with open_database(bridge_url) as database:
        await looked(database)
    step(bot, timedelta(days=40))
    webhook = add_webhook(bot, secret="s3cret")
    # It does this after deleting.
    await upkeep(until=f"secret <> 's3cret' from bridge.webhooks where id = {webhook}")
    assert bot.execute("select to_regclass(%s) is not null", [partition]).fetchone() == (True,)
    bot.execute("update bridge.clock set kept_until = now()")
    await upkeep(until=f"to_regclass('{partition}') is null")
