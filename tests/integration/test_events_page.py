"""``GET /events``: the event log in pages."""

import json
from typing import Any

import httpx
import pytest

from bridge.assets import query
from bridge.events import Event
from bridge.web.api.events import MOST_LOOKED_AT, PAGE_BYTES
from tests.integration.calling import MAX_BIGINT, Bot, assert_refused, calling


def log(bot: Bot, event_id: int, event_type: str = "test.event", payload: object = None) -> None:
    """Add an event to the log, as the drain does, and advance the sequence to its id."""
    bot.execute(
        "insert into bridge.events (id, event_type, payload, occurred_at)"
        " values (%s, %s, %s, '2026-01-15 10:30:00.123456+00')",
        (event_id, event_type, json.dumps({"n": event_id} if payload is None else payload)),
    )
    bot.execute("select setval('bridge.event_id', %s)", (event_id,))


async def page(client: httpx.AsyncClient, **params: Any) -> dict[str, Any]:
    answer = await client.get("/events", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert set(found) == {"items", "last_event_id", "next_since", "available_from"}
    return found


def ids(found: dict[str, Any]) -> list[int]:
    return [item["id"] for item in found["items"]]


async def followed(client: httpx.AsyncClient, **params: Any) -> list[list[int]]:
    """Follow the log to its end; return the ids of each page."""
    pages = []
    since: int | None = params.pop("since", 0)
    while since is not None:
        found = await page(client, since=since, **params)
        pages.append(ids(found))
        assert found["next_since"] is None or found["next_since"] > since
        since = found["next_since"]
    return pages


async def test_empty_log(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        assert await page(client) == {
            "items": [],
            "last_event_id": 0,
            "next_since": None,
            "available_from": None,
        }


async def test_events_are_ordered_and_look_as_on_the_stream(bridge_url: str, bot: Bot) -> None:
    log(bot, 5, "user.created", {"name": "Ваня 🚀", "user_id": 7})
    log(bot, 3, "ticket.created", [None, 1.5])
    log(bot, 8, "user.created", "text")
    async with calling(bridge_url) as client:
        found = await page(client)
    assert ids(found) == [3, 5, 8]
    assert (found["last_event_id"], found["next_since"], found["available_from"]) == (8, None, 3)
    stored = bot.execute(
        "select id, event_type, payload::text, occurred_at from bridge.events order by id"
    ).fetchall()
    assert found["items"] == [json.loads(Event(*row).wire()) for row in stored]
    assert found["items"][1]["timestamp"] == "2026-01-15T10:30:00.123456Z"


async def test_following_pages_returns_each_event_once(bridge_url: str, bot: Bot) -> None:
    for event_id in (1, 2, 4, 7, 8):
        log(bot, event_id)
    async with calling(bridge_url) as client:
        assert await followed(client, limit=2) == [[1, 2], [4, 7], [8]]
        assert await followed(client, limit=1, since=4) == [[7], [8]]
        assert await followed(client, since=8) == [[]]
        # Later events follow the last page.
        log(bot, 9)
        assert await followed(client, since=8) == [[9]]


async def test_page_with_the_last_event_is_the_last(bridge_url: str, bot: Bot) -> None:
    for event_id in (1, 2, 3, 4):
        log(bot, event_id)
    async with calling(bridge_url) as client:
        assert await followed(client, limit=2) == [[1, 2], [3, 4]]
        assert await followed(client, limit=4) == [[1, 2, 3, 4]]
        assert await followed(client, limit=2, until=2) == [[1, 2]]


async def test_since_is_exclusive_and_until_inclusive(bridge_url: str, bot: Bot) -> None:
    for event_id in (1, 2, 3, 4):
        log(bot, event_id)
    async with calling(bridge_url) as client:
        found = await page(client, since=1, until=3)
        assert (ids(found), found["next_since"], found["last_event_id"]) == ([2, 3], None, 4)
        assert ids(await page(client, since=3, until=1)) == []
        assert ids(await page(client, since=0, until=0)) == []
        assert ids(await page(client, since=2**63 - 1)) == []
        assert ids(await page(client, until=2**63 - 1)) == [1, 2, 3, 4]


async def test_patterns_select_as_on_the_stream(bridge_url: str, bot: Bot) -> None:
    types = ["user.created", "ticket.created", "ticket.message.added", "ticketing", "user"]
    for event_id, event_type in enumerate(types, 1):
        log(bot, event_id, event_type)
    async with calling(bridge_url) as client:
        for patterns, expected in {
            "user.created": [1],
            "ticket.*": [2, 3],
            "ticket.message.*,user": [3, 5],
            "user.created, ticket.*": [1, 2, 3],
            "*": [1, 2, 3, 4, 5],
            "": [1, 2, 3, 4, 5],
            "nothing.like.it": [],
        }.items():
            assert ids(await page(client, event_type=patterns)) == expected, patterns
        assert await followed(client, event_type="user.*,user", limit=1) == [[1], [5]]


async def test_invalid_parameter_is_rejected(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for parameter, value in (
            ("since", "-1"),
            ("since", "many"),
            ("since", ""),
            ("since", str(2**63)),
            ("since", "9" * 5000),
            ("until", "-1"),
            ("until", "NaN"),
            ("limit", "0"),
            ("limit", "201"),
            ("event_type", "a*"),
            ("event_type", ","),
            ("event_type", "user.created,"),
            ("event_type", "user created"),
            ("event_type", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")),
        ):
            assert_refused(await client.get("/events", params={parameter: value}), parameter)


async def test_patterns_of_a_page_are_bounded(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for count, status in (100, 200), (101, 422):
            answer = await client.get("/events", params={"event_type": ",".join(["a"] * count)})
            assert answer.status_code == status
        assert_refused(answer, "event_type")


async def test_rare_matches_are_searched_in_bounded_steps(bridge_url: str, bot: Bot) -> None:
    last = 2 * MOST_LOOKED_AT + 10
    bot.execute(
        "insert into bridge.events (id, event_type, payload, occurred_at)"
        " select n, case when n = %s then 'rare' else 'common' end, 'null', now()"
        " from generate_series(1, %s) as n",
        (last, last),
    )
    bot.execute("select setval('bridge.event_id', %s)", (last,))
    async with calling(bridge_url) as client:
        first = await page(client, event_type="rare")
        assert (first["items"], first["next_since"]) == ([], MOST_LOOKED_AT)
        assert await followed(client, event_type="rare") == [[], [], [last]]
        assert await followed(client, event_type="nothing") == [[], [], []]
        # Events beyond the limit are not skipped.
        found = await page(client, event_type="common", limit=3, since=MOST_LOOKED_AT - 2)
        assert ids(found) == [MOST_LOOKED_AT - 1, MOST_LOOKED_AT, MOST_LOOKED_AT + 1]
        assert found["next_since"] == MOST_LOOKED_AT + 1


async def test_page_is_bounded_in_bytes_but_has_one_event(bridge_url: str, bot: Bot) -> None:
    for event_id in (1, 2, 3):
        log(bot, event_id, payload="x" * PAGE_BYTES)  # stored compressed
    log(bot, 4)
    async with calling(bridge_url) as client:
        assert await followed(client) == [[1], [2], [3], [4]]


async def test_huge_payload_is_shown_whole_and_unparsed(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(bot, 1, payload=["small"])
    log(bot, 2, payload=[[]] * PAGE_BYTES)
    parsed: list[str] = []
    monkeypatch.setattr("bridge.web.api.events.readable_payload", parsed.append)
    async with calling(bridge_url) as client:
        found = await page(client)
    assert parsed == ['["small"]']
    assert found["items"][1]["payload"] == [[]] * PAGE_BYTES
    assert (ids(found), found["last_event_id"]) == ([1, 2], 2)


async def test_payload_with_huge_numbers_is_shown(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.events (id, event_type, payload, occurred_at)"
        " values (1, 'test.event', %s, now())",
        (f'{{"int": {"9" * 5000}, "float": 1e400}}',),
    )
    async with calling(bridge_url) as client:
        (item,) = (await page(client))["items"]
    assert item["payload"] == {"int": "9" * 5000, "float": int("1" + "0" * 400)}


async def test_available_from_reveals_deleted_events(bridge_url: str, bot: Bot) -> None:
    for event_id in (41, 42):
        log(bot, event_id)
    async with calling(bridge_url) as client:
        found = await page(client, since=7)
        assert (ids(found), found["available_from"]) == ([41, 42], 41)
        bot.execute("delete from bridge.events")
        found = await page(client, since=7)
        assert found == {
            "items": [],
            "last_event_id": 42,
            "next_since": None,
            "available_from": None,
        }


def test_page_of_a_long_log_reads_few_rows(bot: Bot) -> None:
    # One transaction: between two, a session may report and reset its counters.
    with bot.transaction():
        bot.execute(
            "insert into bridge.events (id, event_type, payload, occurred_at)"
            " select n, 'common', 'null', now() from generate_series(1, 50000) as n"
        )
        bot.execute("analyze bridge.events")
        bot.execute(
            "prepare page (bigint, bigint, text[], bigint, bigint, bigint) as "
            + query("events_page").rstrip().rstrip(";")
        )
        for patterns in "null", "'{nothing}'", "'{common}'":
            before = rows_read(bot)
            bot.execute(
                f"execute page (20000, {MAX_BIGINT}, {patterns}, 50, {MOST_LOOKED_AT}, 1000000)"
            )
            # Rows examined, rows returned, and the ends of the log in each partition.
            read = rows_read(bot) - before
            assert MOST_LOOKED_AT <= read <= MOST_LOOKED_AT + 200, patterns


def rows_read(bot: Bot) -> int:
    """Return how many rows of the log this session has read in its transaction."""
    row = bot.execute(
        """select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint
           from pg_stat_xact_user_tables
           where relid in (select inhrelid from pg_inherits
                           where inhparent = 'bridge.events'::regclass)"""
    ).fetchone()
    assert row is not None
    return int(row[0])
