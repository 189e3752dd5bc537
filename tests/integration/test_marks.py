"""Couriers do not scan below their watermarks, and still find what appears there."""

import re
from datetime import datetime

import psycopg

from bridge.assets import query
from tests.integration.delivering import Bot, delivering, enqueue
from tests.receiver import receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook


async def test_delivery_below_the_watermark_is_found(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        webhook = add_webhook(bot, receiver.url())
        with psycopg.connect(bridge_url) as late:
            # Enqueued first, but not visible yet.
            committed_late = enqueue(late, webhook)
            expired, given_back = enqueue(bot, webhook, count=2)
            bot.execute(
                "update bridge.delivery_queue"
                " set leased_until = now() + interval '1 day', lease_token = gen_random_uuid()"
            )
            late.execute(
                "update bridge.delivery_queue set next_attempt_at = now() - interval '1 day'"
                " where id = any (%s)",
                (committed_late,),
            )
            enqueue(bot, webhook, count=20)
            await until_true(bot, "success_count = 20 from bridge.webhooks")
            bot.execute(
                "update bridge.delivery_queue set next_attempt_at = now() - interval '1 day',"
                " leased_until = case when id = %s then now() end,"
                " lease_token = case when id = %s then lease_token end",
                (expired, expired),
            )
            late.commit()
            await until_true(bot, "success_count = 23 from bridge.webhooks")
    assert len(receiver.requests) == 23
    assert bot.execute(
        "select count(*) from bridge.delivery_log where id = any (%s)",
        ([*committed_late, expired, given_back],),
    ).fetchone() == (3,)


def pages_of_a_claim(bot: Bot, webhook: int, due_since: datetime | None) -> int:
    """Return how many pages a claim with these watermarks reads."""
    sql = re.sub(r"\$(\d+)", r"%(p\1)s", query("claim").replace("%", "%%"))
    values = [webhook], [0], [due_since], due_since, 64, 32, list[int]()
    row = bot.execute(
        f"explain (analyze, buffers, format json) {sql}".encode(),
        {f"p{number}": value for number, value in enumerate(values, 1)},
    ).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_claim_does_not_read_below_its_watermark(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/")
    with psycopg.connect(bridge_url) as reader:
        reader.execute("set transaction isolation level repeatable read")
        # While this is open, vacuum removes nothing, neither from tables nor from indexes.
        reader.execute("select count(*) from bridge.delivery_queue")
        enqueue(bot, webhook, count=20_000)
        bot.execute("delete from bridge.delivery_queue")
        row = bot.execute("select clock_timestamp()").fetchone()
        assert row is not None
        enqueue(bot, webhook)
        everything = pages_of_a_claim(bot, webhook, None)
        enqueue(bot, webhook)
        above_the_mark = pages_of_a_claim(bot, webhook, row[0])
    assert above_the_mark * 5 < everything
