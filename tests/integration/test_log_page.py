"""The event log is read in pages."""

import json

import psycopg

from bridge.assets import query
from bridge.database.pool import open_database
from bridge.live.history import read_log

Bot = psycopg.Connection[tuple[object, ...]]
MANY, LARGE = 100, 1_000_000


def log(bot: Bot, *ids: int, days_ago: int = 0, payload: object = None) -> None:
    """Log events with these ids like the drain, and advance the sequence to the last one."""
    for event_id in ids:
        bot.execute(
            "insert into bridge.events (id, event_type, payload, occurred_at, recorded_at)"
            " values (%s, 'test.event', %s, now(), now() - make_interval(days => %s))",
            (event_id, json.dumps(payload or {"n": event_id}), days_ago),
        )
        bot.execute("select setval('bridge.event_id', %s)", (event_id,))


async def test_page_is_in_order_over_all_partitions(bridge_url: str, bot: Bot) -> None:
    log(bot, 1, 2, days_ago=1)
    log(bot, 5, 6, 8)
    async with open_database(bridge_url) as database:
        page = await read_log(database, 1, 6, MANY, LARGE)
    assert [each.id for each in page.events] == [2, 5, 6]
    assert page.events[0].event_type == "test.event"
    assert json.loads(page.events[0].payload) == {"n": 2}
    assert page.complete
    assert (page.available_from, page.newest_id) == (1, 8)


async def test_page_is_limited_by_events(bridge_url: str, bot: Bot) -> None:
    log(bot, *range(1, 8))
    async with open_database(bridge_url) as database:
        page = await read_log(database, 0, 7, 3, LARGE)
        assert ([each.id for each in page.events], page.complete) == ([1, 2, 3], False)
        page = await read_log(database, 3, 7, 4, LARGE)
        assert [each.id for each in page.events] == [4, 5, 6, 7]
        assert not page.complete, "a full page may have a successor"


async def test_page_is_limited_by_bytes_but_has_an_event(bridge_url: str, bot: Bot) -> None:
    log(bot, 1, payload=list(range(500)))
    log(bot, 2, 3)
    async with open_database(bridge_url) as database:
        page = await read_log(database, 0, 3, MANY, 10)
        assert ([each.id for each in page.events], page.complete) == ([1], False)
        page = await read_log(database, 1, 3, MANY, LARGE)
        assert ([each.id for each in page.events], page.complete) == ([2, 3], True)


async def test_bytes_are_counted_uncompressed(bridge_url: str, bot: Bot) -> None:
    log(bot, *range(1, 21), payload="x" * 100_000)
    async with open_database(bridge_url) as database:
        page = await read_log(database, 0, 20, MANY, 250_000)
    assert ([each.id for each in page.events], page.complete) == ([1, 2, 3], False)


async def test_empty_log_has_its_next_id(bridge_url: str, bot: Bot) -> None:
    async with open_database(bridge_url) as database:
        page = await read_log(database, 0, 0, 1, 1)
        assert (page.events, page.complete) == ([], True)
        assert (page.available_from, page.newest_id) == (1, 0)
        log(bot, 7, days_ago=1)
        bot.execute("truncate bridge.events cascade")
        page = await read_log(database, 0, 7, MANY, LARGE)
        assert (page.events, page.complete) == ([], True)
        assert (page.available_from, page.newest_id) == (8, 7)


async def test_skipped_ids_are_not_the_newest(bridge_url: str, bot: Bot) -> None:
    """A crash of PostgreSQL skips up to 32 ids."""
    log(bot, 1, 2)
    bot.execute("select setval('bridge.event_id', 33)")
    async with open_database(bridge_url) as database:
        assert (await read_log(database, 0, 2, MANY, LARGE)).newest_id == 2


async def test_expired_events_are_unavailable(bridge_url: str, bot: Bot) -> None:
    log(bot, 1, 2, days_ago=1)
    log(bot, 3)
    bot.execute("select bridge.drop_expired_partition('events', 0)")
    async with open_database(bridge_url) as database:
        page = await read_log(database, 1, 3, MANY, LARGE)
    assert ([each.id for each in page.events], page.available_from) == ([3], 3)


async def test_last_id_outlives_the_expired_log(bridge_url: str, bot: Bot) -> None:
    async with open_database(bridge_url) as database:
        [row] = await database.fetch("newest_event")
        assert row["newest_id"] == 0
        log(bot, 41, days_ago=1)
        bot.execute("select bridge.drop_expired_partition('events', 0)")
        [row] = await database.fetch("newest_event")
        assert row["newest_id"] == 41


async def test_page_is_read_by_index(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.events (id, event_type, payload, occurred_at)"
        " select n, 'test.event', '{}', now() from generate_series(1, 20000) as n"
    )
    bot.execute("analyze bridge.events")

    text = query("log_page").rstrip().removesuffix(";")
    bot.execute(f"prepare page(bigint, bigint, bigint, bigint) as {text}".encode(), prepare=False)
    bot.execute("set plan_cache_mode = force_generic_plan")
    plan = "\n".join(
        str(row[0]) for row in bot.execute("explain execute page(15000, 15500, 500, 262144)")
    )
    assert "Seq Scan on events" not in plan, plan
