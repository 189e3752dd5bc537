"""Payloads are bounded by bytes: in a claim, and in flight."""

import json
import random
from collections import Counter

import pytest
import trio

from bridge.database.pool import Row, open_database
from bridge.delivery import claiming
from tests.integration.delivering import (
    SETTLED,
    Bot,
    claim_values,
    delivering,
    enqueue,
)
from tests.receiver import hang_until, receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook

MEGABYTE = 1_000_000
#: Texts of a megabyte, which take that much in the log, a hundredth of it, and a hundred bytes.
RANDOM = json.dumps(random.Random(1).randbytes(MEGABYTE // 2).hex())
UNIFORM = json.dumps("a" * MEGABYTE)
NUMBERS = json.dumps({"n": [1] * 8}).replace("1", "1e131000")


async def claims_until_empty(url: str, most_bytes: int) -> list[list[Row]]:
    """Return the rows of successive claims that continue each other, up to the first empty one."""
    claims: list[list[Row]] = []
    async with open_database(url) as database:
        left_off: Row | None = None
        while True:
            values = claim_values(
                left_off=left_off,
                others_since=None if left_off is None else left_off["now"],
                most_bytes=most_bytes,
            )
            rows = await database.fetch("claim", *values)
            if rows[0]["id"] is None:
                return claims
            left_off = rows[0]
            claims.append(rows)


@pytest.mark.parametrize(
    "payload", [RANDOM, UNIFORM, NUMBERS], ids=["random", "uniform", "numbers"]
)
async def test_claim_reads_a_bounded_number_of_bytes(
    bridge_url: str, bot: Bot, payload: str
) -> None:
    numbers = enqueue(bot, add_webhook(bot, max_concurrency=100), payload, count=8)
    claims = await claims_until_empty(bridge_url, 2 * MEGABYTE)
    assert [len(rows) for rows in claims] == [2, 2, 2, 2] or payload != RANDOM
    for rows in claims:
        sizes = [len(row["payload"]) for row in rows]
        assert sum(sizes[:-1]) < 2 * MEGABYTE <= sum(sizes) + MEGABYTE
    assert [row["id"] for rows in claims for row in rows] == numbers
    assert [rows[0]["is_cut"] for rows in claims] == [True] * (len(claims) - 1) + [False]


async def test_event_larger_than_the_limit_is_read_alone(bridge_url: str, bot: Bot) -> None:
    enqueue(bot, add_webhook(bot), RANDOM, count=3)
    assert [len(rows) for rows in await claims_until_empty(bridge_url, 1)] == [1, 1, 1]


async def test_event_of_many_webhooks_is_read_once(bridge_url: str, bot: Bot) -> None:
    for number in range(5):
        add_webhook(bot, ordered=number % 2 == 0)
    bot.execute(
        "with logged as (insert into bridge.events (event_type, payload, occurred_at)"
        " select 'test.event', %s::jsonb, now() from generate_series(1, 2) returning *)"
        " insert into bridge.delivery_queue"
        " (webhook_id, event_id, event_recorded_at, event_type)"
        " select w.id, l.id, l.recorded_at, l.event_type from logged l, bridge.webhooks w",
        (RANDOM,),
    )
    [rows] = await claims_until_empty(bridge_url, 2 * MEGABYTE)
    assert Counter(row["event_id"] for row in rows) == {1: 5, 2: 2}
    payloads = {row["event_id"]: row["payload"] for row in rows if row["payload"] is not None}
    assert payloads == {1: RANDOM, 2: RANDOM}
    assert sum(row["payload"] is not None for row in rows) == 2


async def test_payloads_in_flight_are_bounded(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "HELD_BYTES", 6 * MEGABYTE)
    monkeypatch.setattr(claiming, "CLAIM_BYTES", 2 * MEGABYTE)
    released = trio.Event()
    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/slow"] = hang_until(released)
        for _ in range(4):
            slow = add_webhook(bot, receiver.url("/slow"), timeout_seconds=60)
            enqueue(bot, slow, RANDOM, count=4)
        await receiver.until(lambda: len(receiver.at("/slow")) >= 3)
        quick = add_webhook(bot, receiver.url("/quick"))
        enqueue(bot, quick, count=50)
        assert len(receiver.at("/slow")) <= 4
        del receiver.behaviours["/slow"]
        released.set()
        await until_true(bot, SETTLED)
        await until_true(bot, "sum(success_count) >= 62 from bridge.webhooks")
    assert {request.body for request in receiver.at("/slow")} == {RANDOM.encode()}
