"""Ordered webhooks get one delivery at a time, in event order."""

import trio
import trio.lowlevel

from bridge.database.pool import open_database
from tests.integration.delivering import (
    Bot,
    claim,
    delivering,
    enqueue,
    settle,
)
from tests.receiver import Receiver, Request, answer, receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook


def event_ids(receiver: Receiver) -> list[int]:
    """Return the numbers of the payloads that arrived, in order."""
    return [int(request.body) for request in receiver.requests]


def enqueue_numbered(bot: Bot, webhook: int, count: int) -> list[int]:
    """Enqueue deliveries with their position as the payload."""
    return [enqueue(bot, webhook, str(number))[0] for number in range(count)]


async def test_ordered_events_arrive_one_at_a_time_over_two_couriers(
    bridge_url: str, bot: Bot
) -> None:
    in_flight, most = 0, 0

    async def counting(request: Request, stream: trio.SocketStream) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await trio.lowlevel.checkpoint()
        in_flight -= 1
        await answer()(request, stream)

    async with receiving() as receiver:
        receiver.behaviours["/"] = counting
        webhook = add_webhook(bot, receiver.url(), ordered=True)
        enqueue_numbered(bot, webhook, 40)
        async with delivering(bridge_url), delivering(bridge_url):
            await until_true(bot, "success_count = 40 from bridge.webhooks")
    assert event_ids(receiver) == list(range(40))
    assert most == 1


async def test_failing_head_blocks_until_it_is_given_up(bridge_url: str, bot: Bot) -> None:
    async def second_fails(request: Request, stream: trio.SocketStream) -> None:
        await answer("500 Oops" if request.body == b"1" else "200 OK")(request, stream)

    async with receiving() as receiver:
        receiver.behaviours["/"] = second_fails
        webhook = add_webhook(bot, receiver.url(), ordered=True)
        enqueue_numbered(bot, webhook, 4)
        thrice = (0, 0, 0)
        async with delivering(bridge_url, schedule=thrice), delivering(bridge_url, schedule=thrice):
            await until_true(bot, "count(*) = 4 from bridge.delivery_log")
    assert event_ids(receiver) == [0, 1, 1, 1, 2, 3]


async def test_nothing_overtakes_a_head_waiting_for_its_retry(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", ordered=True)
    first, second = enqueue(bot, webhook, count=2)
    async with open_database(bridge_url) as database:
        rows = await claim(database)
        assert [row["id"] for row in rows] == [first]
        assert await claim(database) == []
        await settle(database, rows, failure="dns")
        assert await claim(database) == []
        bot.execute("update bridge.delivery_queue set next_attempt_at = now()")
        rows = await claim(database)
        assert [row["id"] for row in rows] == [first]
        await settle(database, rows, failure="dns", gives_up=True)
        assert [row["id"] for row in await claim(database)] == [second]


async def test_ordered_redelivery_goes_first_and_alone(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", ordered=True)
    first, second, third = enqueue(bot, webhook, count=3)
    async with open_database(bridge_url) as database:
        await settle(database, await claim(database))
        in_flight = await claim(database)
        assert [row["id"] for row in in_flight] == [second]
        bot.execute("select bridge.redeliver(%s)", (first,))
        # Another bridge learns from the queue what is in flight here.
        assert await claim(database) == []
        await settle(database, in_flight)
        for expected in (first, third):
            rows = await claim(database)
            assert [row["id"] for row in rows] == [expected]
            await settle(database, rows)
