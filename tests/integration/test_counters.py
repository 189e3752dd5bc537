"""Counters of busy webhooks are updated once a second, and lose nothing."""

import pytest

from bridge.database.pool import open_database
from tests.integration.delivering import Bot, claim, delivering, enqueue, settle
from tests.receiver import receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook

COUNTERS = "select success_count, failure_count, delivered_count, failed_count from bridge.webhooks"


async def test_batches_of_successes_leave_the_webhooks_row_alone(bridge_url: str, bot: Bot) -> None:
    webhooks = [add_webhook(bot, max_concurrency=100, last_triggered_at="now") for _ in range(2)]
    before = bot.execute("select ctid, xmin from bridge.webhooks").fetchall()
    async with open_database(bridge_url) as database:
        for _ in range(10):
            for webhook in webhooks:
                enqueue(bot, webhook, count=3)
            await settle(database, await claim(database), count_seconds=1e6)
        assert bot.execute("select ctid, xmin from bridge.webhooks").fetchall() == before
        ids = [row[0] for row in bot.execute("select id from bridge.uncounted_successes")]
        assert len(ids) == 10
        # Counting them twice, as after a lost answer, changes nothing.
        for _ in range(2):
            await database.fetch("count_successes", ids)
    assert bot.execute(COUNTERS).fetchall() == [(30, 0, 30, 0)] * 2


async def test_failure_and_first_success_are_counted_at_once(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, max_concurrency=10)
    async with open_database(bridge_url) as database:
        for failure in (None, None, "dns", None, None):
            enqueue(bot, webhook)
            await settle(database, await claim(database), failure=failure, count_seconds=1e6)
    # The first, the failure, and the success that ends the row of failures.
    assert bot.execute(COUNTERS).fetchone() == (2, 1, 2, 0)
    waiting = bot.execute("select attempts, delivered from bridge.uncounted_successes").fetchall()
    assert waiting[0] == ([1], [1])


async def test_successes_of_a_killed_bridge_are_counted_after_a_minute(
    bridge_url: str, bot: Bot
) -> None:
    webhook = add_webhook(bot, last_triggered_at="now")
    async with open_database(bridge_url) as database:
        for _ in range(2):
            enqueue(bot, webhook)
            await settle(database, await claim(database), count_seconds=1e6)
        bot.execute(
            "update bridge.uncounted_successes set recorded_at = now() - interval '2 min'"
            " where id = 1"
        )
        await database.fetch("count_successes", None)
    assert bot.execute(COUNTERS).fetchone() == (1, 0, 1, 0)
    assert bot.execute("select count(*) from bridge.uncounted_successes").fetchone() == (1,)


async def test_successes_of_a_deleted_webhook_are_counted(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot)
    async with open_database(bridge_url) as database:
        for _ in range(2):
            enqueue(bot, webhook)
            await settle(database, await claim(database), count_seconds=1e6)
        bot.execute("delete from bridge.webhooks")
        await database.fetch("count_successes", [1])
    assert bot.execute("select delivered_count from bridge.deleted_webhooks").fetchone() == (2,)


@pytest.mark.parametrize("count", [1, 40])
async def test_idle_courier_has_counted_everything(bridge_url: str, bot: Bot, count: int) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        webhook = add_webhook(bot, receiver.url())
        for number in range(1, 4):
            enqueue(bot, webhook, count=count)
            await until_true(bot, f"delivered_count = {number * count} from bridge.webhooks")
    assert bot.execute("select count(*) from bridge.uncounted_successes").fetchone() == (0,)
