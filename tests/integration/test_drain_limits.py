"""No drain does unbounded work, and none that runs out of time stops the others."""

import json
import os
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from bridge.database import limits
from bridge.relay import drain, relay
from tests.integration.relaying import Bot, relaying, sign_up
from tests.waiting import until, until_true
from tests.webhook_rows import add_webhook

#: Instead of five seconds.
SECONDS = 1.0
#: Makes the filter $.username == "slow" take a minute.
SLOW_FILTER = """
    alter function bridge.passes(jsonpath, jsonb) rename to passes_quickly;
    create function bridge.passes(p_filter jsonpath, p_payload jsonb) returns boolean
    language plpgsql as $$ begin
        if p_filter::text ~ 'slow' then perform pg_sleep(60); end if;
        return bridge.passes_quickly(p_filter, p_payload);
    end $$;
"""


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"statement_timeout": f"{SECONDS}s", "lock_timeout": "500ms"}
    monkeypatch.setattr(limits, "RELAY", {**limits.RELAY, **seconds})


def emit(bot: Bot, count: int, *, size: int, random: bool) -> None:
    """Commit events with payloads of a size in bytes, all in one transaction."""
    texts = [os.urandom(size // 2).hex() if random else "x" * size for _ in range(count)]
    bot.execute(
        "insert into bridge.outbox (event_type, payload)"
        " select 'big', jsonb_build_object('number', number, 'text', text)"
        " from unnest(%s::text[]) with ordinality as big(text, number)",
        (texts,),
    )


def drains(bot: Bot) -> list[int]:
    """Return how many events each drain has logged."""
    rows = bot.execute(
        "select count(*) from bridge.events group by recorded_at order by recorded_at"
    ).fetchall()
    return [int(str(count)) for (count,) in rows]


async def test_one_event_may_exceed_every_limit(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "DRAIN_DELIVERIES", 1)
    monkeypatch.setattr(drain, "DRAIN_BYTES", 1)
    for _ in range(3):
        add_webhook(bot)
    emit(bot, 4, size=64, random=True)
    async with relaying(bridge_url) as relayed:
        await relayed.until_count(4)
    assert drains(bot) == [1, 1, 1, 1]


@pytest.mark.parametrize("random", [True, False], ids=["incompressible", "compressible"])
async def test_drain_is_bounded_in_bytes(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch, random: bool
) -> None:
    for module in (drain, relay):
        monkeypatch.setattr(module, "DRAIN_BYTES", 300_000)
    async with relaying(bridge_url) as leader, relaying(bridge_url) as follower:
        emit(bot, 30, size=100_000, random=random)
        await leader.until_count(30)
        await follower.until_count(30)
    text_bytes = [
        sum(len(event.payload) for event in events) for events in leader.batches + follower.batches
    ]
    # Compressed payloads count for a tenth of this text.
    assert max(text_bytes) <= (400_000 if random else 3_000_000)
    assert [json.loads(event.payload)["number"] for event in leader.events] == list(range(1, 31))
    assert [event.id for event in leader.events] == [event.id for event in follower.events]


@pytest.mark.usefixtures("short_limit")
async def test_drain_that_runs_out_of_time_is_repeated_with_fewer_events(
    bridge_url: str, bot: Bot
) -> None:
    bot.execute(
        """
        create function public.dawdle() returns trigger language plpgsql as $$ begin
            perform pg_sleep(0.02);
            return new;
        end $$;
        create trigger dawdle before insert on bridge.events
            for each row execute function public.dawdle();
        """
    )
    with bot.transaction():
        for number in range(100):
            sign_up(bot, str(number))
    with capture_logs() as logs:
        async with relaying(bridge_url) as relayed:
            await relayed.until_count(100)
    assert [event.id for event in relayed.events] == sorted({e.id for e in relayed.events})
    assert max(drains(bot)) < 100
    assert "drain_timed_out" in {entry["event"] for entry in logs}


@pytest.mark.parametrize("sqlstate", ["54000", "22P05", "23514", "P0001", "XX000"])
async def test_event_that_cannot_be_drained_is_set_aside(
    bridge_url: str, bot: Bot, sqlstate: str
) -> None:
    # As if PostgreSQL could not process these payloads.
    bot.execute(
        f"""
        create function public.refuse() returns trigger language plpgsql as $$ begin
            if new.payload ->> 'username' like 'bad%' then
                raise 'no way' using errcode = '{sqlstate}', constraint = 'foreign';
            end if;
            return new;
        end $$;
        create trigger refuse before insert on bridge.events
            for each row execute function public.refuse();
        """.encode()
    )
    with bot.transaction():
        for number in range(30):
            sign_up(bot, f"bad {number}" if number in (0, 7, 29) else str(number))
    with capture_logs() as logs:
        async with relaying(bridge_url) as relayed:
            await relayed.until_count(30)
            sign_up(bot, "later")
            await relayed.until_count(31)
    payloads = [json.loads(event.payload) for event in relayed.events]
    assert [payload.get("username", "bad") for payload in payloads] == [
        *("bad" if number in (0, 7, 29) else str(number) for number in range(30)),
        "later",
    ]
    assert [event.id for event in relayed.events] == sorted({e.id for e in relayed.events})
    kept = bot.execute(
        "select id, payload ->> 'username', reason from bridge.dead_letters order by 1"
    ).fetchall()
    assert [(name, reason) for _, name, reason in kept] == [
        (f"bad {number}", "no way") for number in (0, 7, 29)
    ]
    assert [payload["dead_letter"] for payload in payloads if "dead_letter" in payload] == [
        number for number, _, _ in kept
    ]
    assert [each["event"] for each in logs].count("event_set_aside") == 3


async def test_event_whose_replacement_fails_is_only_kept(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        """
        alter table bridge.events add constraint foreign_check check (payload ? 'username');
        alter table bridge.outbox add constraint foreign_check
            check (event_type <> 'mine' or payload ? 'b');
        """
    )
    with bot.transaction():
        bot.execute("select bridge.emit('theirs', '{\"a\": 1}'), bridge.emit('mine', '{\"b\": 1}')")
        sign_up(bot, "after")
    with capture_logs() as logs:
        async with relaying(bridge_url) as relayed:
            await relayed.until_count(1)
            await until_true(bot, "not exists (select from bridge.outbox)")
    assert [event.event_type for event in relayed.events] == ["user.created"]
    assert bot.execute("select event_type from bridge.dead_letters order by id").fetchall() == [
        ("theirs",),
        ("mine",),
    ]
    assert "database_task_failed" not in {entry["event"] for entry in logs}


async def test_times_beyond_those_of_clients_stop_nothing(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.outbox (event_type, payload, captured_at)"
        " select 'a', '{}', at::timestamptz"
        " from unnest('{infinity,-infinity,20000-01-01,0044-03-15 BC,2026-01-01}'::text[]) as at"
    )
    async with relaying(bridge_url) as leader, relaying(bridge_url) as follower:
        await leader.until_count(5)
        await follower.until_count(5)
    assert [event.occurred_at.year for event in leader.events] == [9999, 1, 9999, 1, 2026]
    assert [event.wire() for event in leader.events] == [e.wire() for e in follower.events]


@pytest.mark.usefixtures("short_limit")
async def test_locked_table_is_not_taken_for_slow_events(bridge_url: str, bot: Bot) -> None:
    add_webhook(bot, filter='$.username == "a"')
    with capture_logs() as logs:
        async with relaying(bridge_url, poll_seconds=0.2) as relayed:
            sign_up(bot, "prepares the statement, which also takes locks")
            await relayed.until_count(1)
            with psycopg.connect(bridge_url) as locker:
                locker.execute("lock table bridge.webhooks")
                sign_up(bot, "a")
                await until(lambda: "database_task_failed" in {each["event"] for each in logs})
            await relayed.until_count(2)
    assert "drain_timed_out" not in {entry["event"] for entry in logs}
    assert bot.execute("select is_active from bridge.webhooks").fetchall() == [(True,)]


async def test_bridge_that_is_gone_leaves_no_statement_behind(
    bridge_url: str, bot: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the check for a lost client can end it then.
    monkeypatch.setattr(limits, "RELAY", {**limits.RELAY, "statement_timeout": "0"})
    bot.execute(SLOW_FILTER)
    add_webhook(bot, filter='$.username == "slow"')
    running = "count(*) = {} from pg_stat_activity where application_name = 'pgbridge'"
    async with relaying(bridge_url) as relayed:
        await until(lambda: relayed.relay.leading)
        sign_up(bot, "a")
        await until_true(bot, running.format(1) + " and wait_event = 'PgSleep'")
    await until_true(bot, running.format(0))
    bot.execute("delete from bridge.webhooks")
    async with relaying(bridge_url) as relayed:
        await relayed.until_count(1)
