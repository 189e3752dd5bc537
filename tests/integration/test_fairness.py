"""Webhooks do not delay each other, and none exceeds its limits."""

from collections import Counter
from datetime import timedelta

import psycopg
import pytest
import trio
import trio.lowlevel

from bridge.database.pool import Row, open_database
from bridge.delivery import claiming
from tests.integration.delivering import (
    SETTLED,
    Bot,
    claim,
    delivering,
    delivery,
    enqueue,
    settle,
)
from tests.receiver import Request, answer, hang_until, receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook


def by_webhook(rows: list[Row]) -> Counter[int]:
    return Counter(row["webhook_id"] for row in rows)


async def test_dead_receiver_delays_no_other_webhook(bridge_url: str, bot: Bot) -> None:
    released = trio.Event()
    async with receiving() as receiver, delivering(bridge_url) as courier:
        receiver.behaviours["/dead"] = hang_until(released)
        dead = add_webhook(bot, receiver.url("/dead"), max_concurrency=4, timeout_seconds=60)
        enqueue(bot, dead, count=10_000)
        await receiver.until(lambda: len(receiver.at("/dead")) == 4)
        alive = add_webhook(bot, receiver.url("/alive"))
        enqueue(bot, alive, count=200)
        await until_true(bot, f"success_count = 200 from bridge.webhooks where id = {alive}")
        courier.stop()
        released.set()
    assert len(receiver.at("/alive")) == 200
    assert len(receiver.at("/dead")) == 4


async def test_slots_are_held_until_a_delivery_is_settled(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver:
        limited = add_webhook(bot, receiver.url("/limited"), max_concurrency=3)
        other = add_webhook(bot, receiver.url("/other"))
        # While this row is locked, no delivery of the webhook is settled.
        with psycopg.connect(bridge_url) as locking:
            locking.execute(
                "select from bridge.webhooks where id = %s for no key update", (limited,)
            )
            async with delivering(bridge_url, concurrency=8):
                enqueue(bot, limited, count=20)
                await receiver.until(lambda: len(receiver.at("/limited")) == 3)
                enqueue(bot, other, count=20)
                # The other webhook gets the remaining slots, and nothing more is claimed.
                await receiver.until(lambda: len(receiver.at("/other")) >= 1)
                assert len(receiver.at("/limited")) == 3
                locking.rollback()
                await until_true(bot, SETTLED)
    assert len(receiver.requests) == 40


async def test_requests_never_exceed_max_concurrency(bridge_url: str, bot: Bot) -> None:
    now, most = Counter[str](), Counter[str]()

    async def counting(request: Request, stream: trio.SocketStream) -> None:
        now[request.target] += 1
        most[request.target] = max(most[request.target], now[request.target])
        await trio.lowlevel.checkpoint()
        now[request.target] -= 1
        await answer()(request, stream)

    async with receiving() as receiver, delivering(bridge_url, concurrency=64):
        for limit in (1, 3, 10):
            receiver.behaviours[f"/{limit}"] = counting
            webhook = add_webhook(bot, receiver.url(f"/{limit}"), max_concurrency=limit)
            enqueue(bot, webhook, count=60)
        await until_true(bot, SETTLED)
    assert len(receiver.requests) == 180
    assert all(most[f"/{limit}"] <= limit for limit in (1, 3, 10)), most


async def test_failing_webhooks_get_at_most_half_the_slots(bridge_url: str, bot: Bot) -> None:
    failing = {add_webhook(bot, "http://failing/", failure_share=0.7) for _ in range(40)}
    healthy = {add_webhook(bot, "http://healthy/") for _ in range(60)}
    # The failing webhooks have waited longest.
    for webhook in sorted(failing) + sorted(healthy):
        enqueue(bot, webhook, count=4)
    async with open_database(bridge_url) as database:
        rows = await claim(database, 64, failing=32)
        assert by_webhook(rows).keys() >= healthy
        assert len(rows) == 64
        bot.execute("update bridge.delivery_queue set leased_until = null, lease_token = null")
        rows = await claim(database, 500, failing=32)
    assert sum(row["webhook_id"] in healthy for row in rows) == 240
    assert sum(row["is_failing"] for row in rows) == 32
    assert all(count == 1 for webhook, count in by_webhook(rows).items() if webhook in failing)


async def test_failing_webhooks_never_hold_more_than_half_a_courier(
    bridge_url: str, bot: Bot
) -> None:
    released = trio.Event()
    async with receiving() as receiver, delivering(bridge_url, concurrency=10) as courier:
        receiver.behaviours["/failing"] = hang_until(released)
        for _ in range(20):
            failing = add_webhook(
                bot, receiver.url("/failing"), failure_share=0.7, timeout_seconds=60
            )
            enqueue(bot, failing, count=3)
        await receiver.until(lambda: len(receiver.at("/failing")) == 5)
        healthy = add_webhook(bot, receiver.url("/healthy"))
        enqueue(bot, healthy, count=100)
        await until_true(bot, f"success_count = 100 from bridge.webhooks where id = {healthy}")
        assert len(receiver.at("/failing")) == 5
        courier.stop()
        released.set()


async def test_courier_with_one_slot_still_tries_failing_webhooks(
    bridge_url: str, bot: Bot
) -> None:
    async with receiving() as receiver, delivering(bridge_url, concurrency=1):
        enqueue(bot, add_webhook(bot, receiver.url(), failure_share=0.7))
        await until_true(bot, SETTLED)
    assert len(receiver.requests) == 1


async def test_each_webhook_gets_one_before_any_gets_two(bridge_url: str, bot: Bot) -> None:
    webhooks = [add_webhook(bot, "http://x/") for _ in range(10)]
    for webhook in webhooks:
        enqueue(bot, webhook, count=10)
    async with open_database(bridge_url) as database:
        assert set(by_webhook(await claim(database, 10)).values()) == {1}
        rows = await claim(database, 15, in_flight=dict.fromkeys(webhooks, 1))
        assert sorted(by_webhook(rows).values()) == [1] * 5 + [2] * 5


async def test_more_webhooks_than_slots_need_no_second_sweep(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "SWEEP_SECONDS", 1e9)
    async with receiving() as receiver:
        for _ in range(20):
            enqueue(bot, add_webhook(bot, receiver.url()), count=2)
        # As after an outage: everything is older than the watermarks allow.
        bot.execute("update bridge.delivery_queue set next_attempt_at = now() - interval '1 hour'")
        async with delivering(bridge_url, concurrency=4):
            await until_true(bot, SETTLED)
    assert len(receiver.requests) == 40


async def test_rate_allows_a_burst_of_one_second(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", rate_per_second=10, max_concurrency=100)
    enqueue(bot, webhook, count=100)
    async with open_database(bridge_url) as database:
        bot.execute("update bridge.webhooks set paced_until = now() - interval '1 hour'")
        assert len(await claim(database, 100)) == 10
        bot.execute("update bridge.webhooks set paced_until = now() + interval '30 s'")
        assert await claim(database, 100) == []


async def test_rate_is_shared_by_all_bridges(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", rate_per_second=100, max_concurrency=1000)
    enqueue(bot, webhook, count=1000)
    claimed: list[Row] = []

    async with open_database(bridge_url) as database:

        async def take() -> None:
            for _ in range(20):
                rows = await claim(database, 1000)
                assert len(rows) <= 100
                claimed.extend(rows)

        bot.execute("update bridge.webhooks set paced_until = now() - interval '1 s'")
        [(start,)] = bot.execute("select paced_until from bridge.webhooks")
        async with trio.open_nursery() as nursery:
            # Each on its own connection.
            nursery.start_soon(take)
            nursery.start_soon(take)
    [(spent, now)] = bot.execute("select paced_until, clock_timestamp() from bridge.webhooks")
    assert len({row["id"] for row in claimed}) == len(claimed) >= 90
    assert start + timedelta(seconds=0.01) * len(claimed) <= spent <= now


async def test_rate_below_one_spaces_out_single_attempts(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", rate_per_second=0.01, max_concurrency=100)
    enqueue(bot, webhook, count=10)
    async with open_database(bridge_url) as database:
        assert len(await claim(database)) == 1
        assert await claim(database) == []
        bot.execute("update bridge.webhooks set paced_until = paced_until - interval '50 s'")
        assert await claim(database) == []
        bot.execute("update bridge.webhooks set paced_until = paced_until - interval '50 s'")
        assert len(await claim(database)) == 1


async def test_unlimited_webhook_keeps_no_pace(bridge_url: str, bot: Bot) -> None:
    enqueue(bot, add_webhook(bot, "http://x/", max_concurrency=100), count=100)
    async with open_database(bridge_url) as database:
        assert len(await claim(database, 100)) == 100
    assert bot.execute("select paced_until from bridge.webhooks").fetchone() == (None,)


async def test_redeliveries_follow_new_deliveries_at_their_rate(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", max_concurrency=3)
    old = enqueue(bot, webhook, count=5)
    async with open_database(bridge_url) as database:
        await settle(
            database, await claim(database, in_flight={webhook: -2}), failure="dns", gives_up=True
        )
        bot.execute("update bridge.webhooks set failure_share = 0, probe_at = null")
        bot.execute(
            "select bridge.redeliver_failed(%s, '-infinity', null, false, 0.01)", (webhook,)
        )
        new = enqueue(bot, webhook, count=2)
        rows = await claim(database)
        assert [row["id"] for row in rows] == [old[0], *new]
        await settle(database, rows)
        # The others follow one by one, after the deliveries that are new by then.
        assert await claim(database) == []
        bot.execute(
            "update bridge.delivery_queue set next_attempt_at = next_attempt_at - '200 s'::interval"
        )
        new = enqueue(bot, webhook, count=2)
        assert [row["id"] for row in await claim(database)] == [old[1], *new]


async def test_redelivery_restarts_the_schedule_but_not_the_count(
    bridge_url: str, bot: Bot
) -> None:
    async with receiving() as receiver, delivering(bridge_url, schedule=(0, 0, 0)):
        receiver.behaviours["/"] = answer("500 Oops")
        [number] = enqueue(bot, add_webhook(bot, receiver.url()))
        await until_true(bot, "count(*) = 1 from bridge.delivery_log")
        assert delivery(bot, number)["attempt_number"] == 3
        bot.execute("select bridge.redeliver(%s)", (number,))
        await until_true(bot, "count(*) = 1 from bridge.delivery_log where attempt_number = 6")
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert len(receiver.requests) == 6


async def test_own_retry_schedule_takes_precedence(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url, schedule=(0, 3600)):
        receiver.behaviours["/"] = answer("500 Oops")
        own = enqueue(bot, add_webhook(bot, receiver.url(), retry_schedule=[0, 0, 0, 0]))
        usual = enqueue(bot, add_webhook(bot, receiver.url()))
        await until_true(bot, "count(*) = 1 from bridge.delivery_log")
        await until_true(bot, SETTLED)
    assert [delivery(bot, number)["attempt_number"] for number in own + usual] == [4, 1]
