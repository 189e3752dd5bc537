"""Deliveries that are too many for the drain are queued later, completely and in order."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

import psycopg
import pytest
from structlog.testing import capture_logs

from bridge.database import limits
from bridge.relay import deferral, drain
from tests.integration.relaying import Bot, relaying, sign_up
from tests.waiting import until_true
from tests.webhook_rows import add_webhook

#: Makes every filter with the word slow take this many seconds.
SLOW_FILTER = """
    alter function bridge.passes(jsonpath, jsonb) rename to passes_quickly;
    create function bridge.passes(p_filter jsonpath, p_payload jsonb) returns boolean
    language plpgsql as $$ begin
        if p_filter::text ~ 'slow' then perform pg_sleep({}); end if;
        return bridge.passes_quickly(p_filter, p_payload);
    end $$;
"""
NONE_DEFERRED = "not exists (select from bridge.deferred_events)"


def sign_up_together(bot: Bot, names: Sequence[str]) -> None:
    """Add users in one commit."""
    with bot.transaction():
        for name in names:
            sign_up(bot, name)


@contextmanager
def nothing_queued_later(url: str) -> Iterator[None]:
    """Keep the deferred deliveries of the first deferred event, and so all others, waiting."""
    with psycopg.connect(url) as locker:
        locker.execute("select from bridge.deferred_events order by event_id limit 1 for update")
        yield


def queued(bot: Bot) -> dict[int, list[str]]:
    """Return the usernames that are queued for each webhook, in order of the queue."""
    rows = bot.execute(
        "select webhook_id, array_agg(e.payload ->> 'username' order by q.id)"
        " from bridge.delivery_queue q join bridge.events e on e.id = q.event_id group by 1"
    ).fetchall()
    return {int(str(webhook_id)): list(names) for webhook_id, names in rows}  # type: ignore[call-overload]


async def test_newer_webhooks_wait_and_lose_nothing(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "DRAIN_DELIVERIES", 12)
    oldest, *newer = [add_webhook(bot, ordered=number == 2) for number in range(4)]
    first, later = [f"a{number}" for number in range(10)], ["b", "c"]
    async with relaying(bridge_url) as relayed:
        sign_up(bot, "few enough")
        await relayed.until_count(1)
        assert bot.execute(f"select {NONE_DEFERRED}".encode()).fetchone() == (True,)
        bot.execute("insert into bridge.deferred_events values (0, now(), 'x', now(), now(), 1)")
        with nothing_queued_later(bridge_url):
            sign_up_together(bot, first)
            await relayed.until_count(11)
            for name in later:
                sign_up(bot, name)
            await relayed.until_count(13)
            assert queued(bot) == {
                oldest: ["few enough", *first, *later],
                **{webhook_id: ["few enough"] for webhook_id in newer},
            }
        await until_true(bot, NONE_DEFERRED)
        sign_up(bot, "as before")
        await relayed.until_count(14)
        await until_true(bot, NONE_DEFERRED)
    names = ["few enough", *first, *later, "as before"]
    assert queued(bot) == dict.fromkeys((oldest, *newer), names)


async def test_next_bridge_continues_in_order(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "DRAIN_DELIVERIES", 6)
    webhook_ids = [add_webhook(bot) for _ in range(3)]
    first = [f"a{number}" for number in range(5)]
    bot.execute("insert into bridge.deferred_events values (0, now(), 'x', now(), now(), 1)")
    with nothing_queued_later(bridge_url):
        async with relaying(bridge_url) as relayed:
            sign_up_together(bot, first)
            await relayed.until_count(5)
        async with relaying(bridge_url) as relayed:
            await relayed.until_count(5)
            sign_up(bot, "one is few enough")
            await relayed.until_count(6)
            assert all("one is few enough" not in names for names in queued(bot).values())
    async with relaying(bridge_url):
        await until_true(bot, NONE_DEFERRED)
    names = [*first, "one is few enough"]
    assert queued(bot) == dict.fromkeys(webhook_ids, names)


@pytest.mark.parametrize(
    ("deliveries", "milliseconds"), [(1, 500), (2000, 0), (3, 500)], ids=["one", "0 ms", "three"]
)
async def test_every_matching_webhook_gets_every_event_once(
    bridge_url: str,
    bot: Bot,
    monkeypatch: pytest.MonkeyPatch,
    deliveries: int,
    milliseconds: int,
) -> None:
    monkeypatch.setattr(drain, "DRAIN_DELIVERIES", 20)
    monkeypatch.setattr(deferral, "BATCH", deliveries)
    monkeypatch.setattr(deferral, "BATCH_MILLISECONDS", milliseconds)
    random = Random(7)
    filters = [None, None, '$.username starts with "a"', '$.username == "b1"', "$.nothing == 1"]
    for _ in range(12):
        add_webhook(
            bot,
            event_type=random.choice(["*", "user.*", "user.created", "ticket.*"]),
            filter=random.choice(filters),
        )
    gone = add_webhook(bot)
    async with relaying(bridge_url) as relayed:
        sign_up_together(bot, [f"a{number}" for number in range(8)])
        bot.execute("delete from bridge.webhooks where id = %s", [gone])
        sign_up_together(bot, [f"b{number}" for number in range(8)])
        sign_up(bot, "a later one")
        await relayed.until_count(17)
        await until_true(bot, NONE_DEFERRED)
    wrong = bot.execute(
        """
        select w.id, e.id, count(q.id)
        from bridge.webhooks w
        cross join bridge.events e
        left join bridge.delivery_queue q on q.webhook_id = w.id and q.event_id = e.id
            and q.event_recorded_at = e.recorded_at and q.event_type = e.event_type
            and q.captured_at = e.occurred_at and q.committed_at is not null
        group by w.id, e.id, e.recorded_at
        having count(q.id) <> (w.event_type = any (bridge.patterns_matching(e.event_type))
                               and bridge.passes(w.filter, e.payload))::integer
        """
    ).fetchall()
    assert wrong == []
    assert bot.execute(
        "select bool_and(event_id > before) from (select event_id,"
        " lag(event_id, 1, 0::bigint) over (partition by webhook_id order by id) as before"
        " from bridge.delivery_queue) as ordered"
    ).fetchone() == (True,)


async def test_filters_of_large_payloads_are_deferred(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "DRAIN_DELIVERIES", 100)
    plain = add_webhook(bot)
    filtered = add_webhook(bot, filter="$.number == 1")
    bot.execute("insert into bridge.deferred_events values (0, now(), 'x', now(), now(), 99)")
    async with relaying(bridge_url) as relayed:
        with nothing_queued_later(bridge_url):
            for number, size in enumerate((10, 200_000), start=1):
                bot.execute(
                    "insert into bridge.outbox (event_type, payload)"
                    " values ('big', jsonb_build_object('number', 1, 'text', %s::text))",
                    ["".join(Random(1).choices("0123456789abcdef", k=size))],
                )
                await relayed.until_count(number)
            both = "select webhook_id, count(*) from bridge.delivery_queue group by 1 order by 1"
            assert bot.execute(both).fetchall() == [(plain, 2), (filtered, 1)]
        await until_true(bot, NONE_DEFERRED)
    assert bot.execute(both).fetchall() == [(plain, 2), (filtered, 2)]


def limit_statements(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """End every statement of the relay and of the pool after this time."""
    for name in ("RELAY", "POOL"):
        short = {"statement_timeout": f"{seconds}s", "lock_timeout": "500ms"}
        monkeypatch.setattr(limits, name, {**getattr(limits, name), **short})


async def test_slow_filters_delay_no_stream(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_statements(monkeypatch, 2)
    bot.execute(SLOW_FILTER.format(0.4).encode())
    slow = [add_webhook(bot, filter='$.username == "slow"') for _ in range(6)]
    plain = add_webhook(bot)
    async with relaying(bridge_url) as relayed:
        sign_up(bot, "slow")
        sign_up(bot, "a")
        await relayed.until_count(2)
        # The filters of an event take longer than a statement may.
        await until_true(bot, NONE_DEFERRED)
    expected = {webhook_id: ["slow"] for webhook_id in slow} | {plain: ["slow", "a"]}
    assert queued(bot) == expected
    assert bot.execute("select bool_and(is_active) from bridge.webhooks").fetchone() == (True,)


async def test_filter_that_never_ends_is_disabled(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_statements(monkeypatch, 1)
    bot.execute(SLOW_FILTER.format(60).encode())
    quick = [add_webhook(bot, event_type="user.created")]
    for _ in range(40):
        add_webhook(bot, event_type="user.created", filter='$.username == "nobody"')
    slow = [add_webhook(bot, filter='$.username == "slow"') for _ in range(2)]
    quick += [add_webhook(bot, event_type="user.created", filter='$.username == "a"')]
    with capture_logs() as logs:
        async with relaying(bridge_url) as relayed:
            sign_up_together(bot, ["a", "b"])
            await relayed.until_count(4)
            await until_true(bot, NONE_DEFERRED)
    first = min(event.id for event in relayed.events)
    assert bot.execute(
        "select id, disabled_reason from bridge.webhooks where not is_active order by id"
    ).fetchall() == [
        (each, f"its filter took too long for event {first} of type user.created") for each in slow
    ]
    assert queued(bot) == {quick[0]: ["a", "b"], quick[1]: ["a"]}
    assert [e["webhook_id"] for e in logs if e["event"] == "slow_filter_disabled"] == slow
    disabled = [json.loads(e.payload) for e in relayed.events if e.event_type != "user.created"]
    assert [each["webhook_id"] for each in disabled] == slow


async def test_only_one_session_queues(bridge_url: str, bot: Bot) -> None:
    add_webhook(bot)
    bot.execute("insert into bridge.deferred_events values (7, now(), 'x', now(), now(), 1)")
    call = "select deliveries, is_empty from bridge.queue_deferred(10, 100)"
    with nothing_queued_later(bridge_url):
        assert bot.execute(call).fetchone() == (None, False)
    assert bot.execute(call).fetchone() == (1, True)
    assert bot.execute(call).fetchone() == (0, True)
