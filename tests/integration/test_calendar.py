"""Days are UTC days: at midnights, month ends and leap days, and in every session's time zone."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from bridge.database.pool import open_database
from tests.integration.delivering import claim, enqueue, settle
from tests.webhook_rows import add_webhook

Bot = psycopg.Connection[tuple[Any, ...]]

#: Both sides of midnight, at the end of a year, of a month, of a leap day, and of DST in Egypt.
MOMENTS = [
    f"{day} {time}+00"
    for day in ("2027-12-31", "2028-02-28", "2028-02-29", "2028-04-27")
    for time in ("00:00:00", "23:59:59.999999")
]
#: UTC; a change of DST at midnight; the first and the last zones of a day.
ZONES = ["UTC", "Africa/Cairo", "Pacific/Kiritimati", "Pacific/Midway"]
KEPT_DAYS = 2


@pytest.fixture
def at(bot: Bot) -> Callable[[str], datetime]:
    """Return a function that stops the clock of the functions that work by day."""
    definitions = bot.execute(
        "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'bridge'::regnamespace"
        " and proname in ('create_partitions', 'drop_expired_partition', 'log_bounds')"
    ).fetchall()
    assert len(definitions) == 3
    # The other logs would only take time.
    bot.execute("delete from bridge.partitioned_logs where parent <> 'events'")

    def stop(moment: str) -> datetime:
        for (definition,) in definitions:
            assert "now()" in str(definition)
            stopped = str(definition).replace("now()", f"timestamptz '{moment}'")
            bot.execute(stopped.encode())
        return datetime.fromisoformat(moment.replace(".999999", "")).astimezone(UTC)

    return stop


def partitions(bot: Bot) -> set[str]:
    """Return the days of the event log, as in the names of its partitions."""
    return {
        str(day)
        for (day,) in bot.execute(
            "select right(inhrelid::regclass::text, 8) from pg_inherits"
            " where inhparent = 'bridge.events'::regclass"
        )
    }


def named(days: list[datetime]) -> set[str]:
    return {f"{day:%Y%m%d}" for day in days}


@pytest.mark.parametrize("zone", ZONES)
def test_partitions_are_utc_days(
    bridge_url: str, bot: Bot, at: Callable[[str], datetime], zone: str
) -> None:
    bot.execute("select set_config('timezone', %s, false)", [zone])
    for moment in MOMENTS:
        now = at(moment)
        today = now.replace(hour=0, minute=0, second=0)
        days = [today + timedelta(days=n) for n in range(-1, 8)]
        with bot.transaction(force_rollback=True):
            bot.execute("select bridge.create_partitions(%s::date, 9)", [days[0].date()])
            assert named(days) <= partitions(bot)
            for number, day in enumerate(days):
                # The first and the last moment of the day.
                for second, recorded_at in enumerate(
                    (day, day + timedelta(days=1) - timedelta(microseconds=1))
                ):
                    bot.execute(
                        "insert into bridge.events"
                        " (id, event_type, payload, occurred_at, recorded_at)"
                        " values (%s, 't', '{}', now(), %s)",
                        (2 * number + second + 1, recorded_at),
                    )
            rows = bot.execute(
                "select right(tableoid::regclass::text, 8), count(*) from bridge.events group by 1"
            ).fetchall()
            assert {day for day, _ in rows} == named(days)
            assert {count for _, count in rows} == {2}


@pytest.mark.parametrize("zone", ZONES)
def test_retention_drops_whole_utc_days(
    bridge_url: str, bot: Bot, at: Callable[[str], datetime], zone: str
) -> None:
    bot.execute("select set_config('timezone', %s, false)", [zone])
    for moment in MOMENTS:
        today = at(moment).replace(hour=0, minute=0, second=0)
        days = [today - timedelta(days=n) for n in range(KEPT_DAYS + 3)]
        with bot.transaction(force_rollback=True):
            for day in partitions(bot):
                bot.execute(f"drop table bridge.events_p{day}".encode())
            bot.execute(
                "select bridge.create_partitions(%s::date, %s)", [days[-1].date(), len(days)]
            )
            bot.execute(
                "insert into bridge.events (id, event_type, payload, occurred_at, recorded_at)"
                " select row_number() over (order by day), 't', '{}', now(), day"
                " from unnest(%s::timestamptz[]) as day",
                [days],
            )
            bot.execute("select setval('bridge.event_id', %s)", [len(days)])
            while bot.execute(
                "select bridge.drop_expired_partition('events', %s)", [KEPT_DAYS]
            ).fetchone() != (None,):
                pass
            assert partitions(bot) == named(days[: KEPT_DAYS + 1])
            # The third day from the end is the oldest that is left.
            assert bot.execute("select * from bridge.log_bounds()").fetchone() == (2, len(days))


def test_every_day_gets_a_partition_where_days_lack_a_midnight(
    bridge_url: str, bot: Bot, at: Callable[[str], datetime]
) -> None:
    bot.execute("set timezone = 'Africa/Cairo'")  # 2028-04-28 begins at one o'clock
    at("2028-04-26 12:00:00+00")
    bot.execute("select bridge.create_partitions('2028-04-27', 2)")
    assert {"20280427", "20280428"} <= partitions(bot)


async def test_pause_is_measured_in_hours_across_a_change_of_dst(bridge_url: str, bot: Bot) -> None:
    name = conninfo_to_dict(bridge_url)["dbname"]
    bot.execute(f"alter database {name} set timezone = 'America/New_York'".encode())
    webhook = add_webhook(bot, "http://x/", failure_share=0.9, probe_at="now")
    enqueue(bot, webhook)
    bot.execute(
        "update bridge.webhooks set failing_since = now() - interval '4320 h',"
        " last_triggered_at = now() - interval '4320 h'"
    )
    async with open_database(bridge_url) as database:
        await settle(database, await claim(database), failure="connect")
    [(failing,)] = bot.execute("select now() - failing_since from bridge.webhooks").fetchall()
    assert timedelta(hours=12) <= failing < timedelta(hours=12, minutes=30)
