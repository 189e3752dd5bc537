"""Events that are missing in the middle of the log are reported, whoever dropped them."""

import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import trio

from bridge.database.pool import open_database
from bridge.live.history import LogPage, read_log
from tests.integration.calling import calling
from tests.integration.relaying import DRAIN
from tests.integration.test_live import bridging
from tests.waiting import PATIENCE_SECONDS
from tests.webhook_rows import add_webhook

Bot = psycopg.Connection[tuple[object, ...]]
KEPT_DAYS = 3


def log(bot: Bot, *ids: int, days_ago: int = 0) -> None:
    """Log events with these ids on a day, and advance the sequence to the last one."""
    bot.execute("select bridge.create_partitions(%s::date, 1)", [_day(days_ago)])
    bot.execute(
        "insert into bridge.events (id, event_type, payload, occurred_at, recorded_at)"
        " select unnest(%s::bigint[]), 'test.event', '{}', now(), %s",
        (list(ids), _day(days_ago) + timedelta(hours=12)),
    )
    bot.execute(
        "select setval('bridge.event_id', greatest(last_value, %s)) from bridge.event_id",
        [max(ids)],
    )


def expire(bot: Bot) -> None:
    """Run retention."""
    while bot.execute(
        "select bridge.drop_expired_partition('events', %s)", [KEPT_DAYS]
    ).fetchone() != (None,):
        pass


def keep(bot: Bot, event_id: int) -> None:
    """Queue a delivery of an event, and leave it pending."""
    bot.execute(
        "insert into bridge.delivery_queue"
        " (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)"
        " select %s, id, recorded_at, event_type, occurred_at, occurred_at from bridge.events"
        " where id = %s",
        (add_webhook(bot, paused_at=datetime.now(UTC)), event_id),
    )


def _day(days_ago: int) -> datetime:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=days_ago)


def partition(days_ago: int) -> str:
    return f"bridge.events_p{_day(days_ago):%Y%m%d}"


async def read(url: str, since: int) -> LogPage:
    async with open_database(url) as database:
        return await read_log(database, since, 2**62, 1000, 1_000_000)


def make_hole(bot: Bot, how: str) -> None:
    """Make a log of the events 1 and 2, then 7 and 8; 3 to 6 are gone."""
    log(bot, 1, 2, days_ago=9)
    log(bot, 3, 4, days_ago=8)
    log(bot, 5, 6, days_ago=5)
    log(bot, 7, 8)
    keep(bot, 1)
    if how == "expired":
        expire(bot)
        return
    for days_ago in (8, 5):
        if how == "detached":
            bot.execute(
                f"alter table bridge.events detach partition {partition(days_ago)}".encode()
            )
        else:
            bot.execute(f"drop table {partition(days_ago)}".encode())
    if how == "dropped and created again":
        bot.execute("select bridge.create_partitions(%s::date, 10)", [_day(9)])


HOLES = pytest.mark.parametrize(
    "how", ["expired", "dropped", "detached", "dropped and created again"]
)


@HOLES
async def test_stream_reports_a_hole_as_a_gap(bridge_url: str, bot: Bot, how: str) -> None:
    make_hole(bot, how)
    with trio.fail_after(PATIENCE_SECONDS):
        async with bridging(bridge_url) as bridge:
            for since in (0, 2, 4):
                async with bridge.connected(f"&since={since}") as client:
                    gap, *events, resumed = [
                        json.loads(await client.get_message()) for _ in range(4)
                    ]
                    assert gap == {"type": "gap", "since": since, "available_from": 7}
                    assert [event["id"] for event in events] == [7, 8]
                    assert resumed["type"] == "resumed"
            async with bridge.connected("&since=6") as client:
                assert json.loads(await client.get_message())["id"] == 7


@HOLES
async def test_pages_begin_after_a_hole(bridge_url: str, bot: Bot, how: str) -> None:
    make_hole(bot, how)
    async with calling(bridge_url) as client:
        for since in (0, 2, 4, 6):
            page = (await client.get("/events", params={"since": since})).json()
            assert [event["id"] for event in page["items"]] == [7, 8]
            assert (page["available_from"], page["last_event_id"]) == (7, 8)


async def test_event_of_a_kept_day_is_still_delivered(bridge_url: str, bot: Bot) -> None:
    make_hole(bot, "expired")
    assert bot.execute(
        "select bridge.payload_text(event_id, event_recorded_at) from bridge.delivery_queue"
    ).fetchall() == [("{}",)]


@pytest.mark.parametrize("is_dropped", [False, True], ids=["expired", "dropped"])
async def test_hole_at_the_end_does_not_look_like_a_restore(
    bridge_url: str, bot: Bot, is_dropped: bool
) -> None:
    log(bot, 1, 2, days_ago=9)
    log(bot, 3, 4, days_ago=0 if is_dropped else 5)
    keep(bot, 1)
    if is_dropped:
        bot.execute(f"drop table {partition(0)}".encode())
    else:
        expire(bot)
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(bridge_url) as database:
            assert [dict(row) for row in await database.fetch("newest_event")] == [{"newest_id": 4}]
            [row] = await database.fetch("log_goes_on", 4, None)
            assert dict(row) == {"goes_on": True, "newest_id": 4}
        async with bridging(bridge_url) as bridge, bridge.connected("&since=2") as client:
            assert json.loads(await client.get_message())["type"] == "gap"
            assert json.loads(await client.get_message()) == {"type": "resumed", "from": 2, "to": 4}
            bot.execute("select bridge.emit('test.event')")
            assert json.loads(await client.get_message())["id"] > 4
        page = await read(bridge_url, 4)
    assert page.available_from > 4
    assert [each.id for each in page.events] == [page.available_from]


async def test_bridge_that_missed_dropped_events_reports_it(bridge_url: str, bot: Bot) -> None:
    make_hole(bot, "expired")
    async with open_database(bridge_url) as database:
        for published, goes_on in ((2, False), (5, False), (6, True), (8, True), (9, False)):
            [row] = await database.fetch("log_goes_on", published, None)
            assert dict(row) == {"goes_on": goes_on, "newest_id": 8}


async def test_days_without_a_bridge_are_no_hole(bridge_url: str, bot: Bot) -> None:
    log(bot, 1, 2, days_ago=20)
    log(bot, 3, days_ago=12)
    log(bot, 4)
    page = await read(bridge_url, 0)
    assert ([each.id for each in page.events], page.available_from) == ([1, 2, 3, 4], 1)


async def test_hole_above_days_without_a_bridge_is_found(bridge_url: str, bot: Bot) -> None:
    log(bot, 1, days_ago=20)
    log(bot, 2, days_ago=12)
    log(bot, 3, days_ago=11)
    log(bot, 4)
    bot.execute(f"drop table {partition(12)}".encode())
    assert (await read(bridge_url, 0)).available_from == 3


async def test_first_days_dropped_by_hand_are_unavailable(bridge_url: str, bot: Bot) -> None:
    log(bot, 1, 2, days_ago=5)
    log(bot, 3, days_ago=4)
    log(bot, 4)
    bot.execute(f"drop table {partition(5)}".encode())
    page = await read(bridge_url, 0)
    assert ([each.id for each in page.events], page.available_from) == ([3, 4], 3)


async def test_emptied_log_ends_with_the_last_assigned_id(bridge_url: str, bot: Bot) -> None:
    log(bot, 1, 2, days_ago=5)
    bot.execute(f"drop table {partition(5)}".encode())
    page = await read(bridge_url, 0)
    assert (page.events, page.available_from, page.newest_id) == ([], 3, 2)


async def test_hole_of_a_clock_that_was_set_back_is_reported(bridge_url: str, bot: Bot) -> None:
    log(bot, 1, 2, days_ago=KEPT_DAYS)
    log(bot, 3, 4, days_ago=KEPT_DAYS + 1)  # the clock was set back over midnight
    log(bot, 5)
    expire(bot)
    page = await read(bridge_url, 0)
    assert ([each.id for each in page.events], page.available_from) == ([5], 5)


def test_day_with_deferred_events_is_kept(bridge_url: str, bot: Bot) -> None:
    log(bot, 1, days_ago=5)
    bot.execute(
        "insert into bridge.deferred_events"
        " select id, recorded_at, event_type, occurred_at, occurred_at, 1 from bridge.events"
    )
    expire(bot)
    assert bot.execute("select id from bridge.events").fetchall() == [(1,)]


async def test_drain_after_the_drop_of_today_keeps_the_hole(bridge_url: str, bot: Bot) -> None:
    log(bot, 1, days_ago=1)
    log(bot, 2, 3)
    bot.execute(f"drop table {partition(0)}".encode())
    async with open_database(bridge_url) as database, database.connect() as connection:
        await database.fetch("create_partitions", 9)
        bot.execute("select bridge.emit('test.event')")
        [row] = await connection.fetch("drain", *DRAIN)
    page = await read(bridge_url, 0)
    assert ([each.id for each in page.events], page.available_from) == ([row["id"]], row["id"])
