"""What an operator does to a webhook in psql acts at once, on whatever bridge."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from bridge.database.clock import ServerClock
from bridge.database.pool import open_database
from bridge.database.restart import keep_running
from bridge.database.sessions import fetch
from bridge.delivery import claiming
from bridge.delivery.addresses import AddressPolicy
from bridge.delivery.courier import Courier
from bridge.relay.relay import Relay
from tests.integration.delivering import (
    SETTLED,
    Bot,
    claim,
    delivering,
    delivery,
    enqueue,
)
from tests.integration.relaying import DRAIN
from tests.receiver import answer, receiving
from tests.waiting import PATIENCE_SECONDS, until_true
from tests.webhook_rows import add_webhook


async def test_paused_webhook_queues_deliveries(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", event_type="test.event")
    enqueue(bot, webhook, count=2)
    async with open_database(bridge_url) as database, database.connect() as connection:
        bot.execute("select bridge.pause_webhook(%s)", (webhook,))
        assert await claim(database) == []
        bot.execute("select bridge.emit('test.event')")
        await connection.fetch("drain", *DRAIN)
        assert await claim(database) == []
        bot.execute("select bridge.resume_webhook(%s)", (webhook,))
        assert len(await claim(database)) == 3


async def test_inactive_webhook_keeps_its_queue(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", event_type="test.event")
    enqueue(bot, webhook, count=2)
    async with open_database(bridge_url) as database, database.connect() as connection:
        bot.execute("update bridge.webhooks set is_active = false")
        bot.execute("select bridge.emit('test.event')")
        await connection.fetch("drain", *DRAIN)
        assert await claim(database) == []
        bot.execute("update bridge.webhooks set is_active = true")
        assert len(await claim(database)) == 2


async def test_webhook_inserted_by_sql_is_delivered_to(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        row = bot.execute(
            "insert into bridge.webhooks (name, url, event_type)"
            " values ('x', %s, '*') returning id",
            (receiver.url(),),
        ).fetchone()
        assert row is not None
        [number] = enqueue(bot, int(row[0]))
        await until_true(bot, SETTLED)
    assert delivery(bot, number)["status"] == "success"


async def test_forbidden_address_is_not_connected_to(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url, policy=AddressPolicy([])):
        [number] = enqueue(bot, add_webhook(bot, receiver.url()))
        await until_true(bot, SETTLED)
    assert receiver.requests == []
    assert delivery(bot, number)["status"] == "pending"
    assert bot.execute("select failure from bridge.delivery_attempts").fetchone() == ("blocked",)


@asynccontextmanager
async def woken(url: str, courier: Courier) -> AsyncIterator[None]:
    """Wake a courier by the notifications that a relay receives, as in a bridge."""
    async with open_database(url) as database, trio.open_nursery() as nursery:
        relay = Relay(
            database,
            ServerClock(),
            last_event_id=0,
            went_back=lambda _: None,
            publish=lambda _: None,
            enqueued=courier.deliveries_due,
            woken=courier.look_everywhere,
            poll_seconds=60,
            batch=100,
        )
        nursery.start_soon(keep_running, "relay", relay.run)
        with trio.fail_after(PATIENCE_SECONDS):
            while not relay.leading:  # noqa: ASYNC110 - there is no event for it
                await trio.sleep(0.01)
        yield
        nursery.cancel_scope.cancel()


async def test_operations_wake_an_idle_courier(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "SWEEP_SECONDS", 1e6)
    async with receiving() as receiver:
        receiver.behaviours["/gone"] = answer("500 Oops")
        paused = add_webhook(bot, receiver.url("/paused"), paused_at="now")
        gone = add_webhook(bot, receiver.url("/gone"))
        inactive = add_webhook(bot, receiver.url("/inactive"), is_active=False)
        held, waiting = enqueue(bot, paused), enqueue(bot, inactive)
        failed = enqueue(bot, gone)
        bot.execute("update bridge.delivery_queue set next_attempt_at = now() - interval '1 day'")
        async with (
            delivering(bridge_url, schedule=(0,), poll_seconds=1e6) as courier,
            woken(bridge_url, courier),
        ):
            await until_true(bot, "failed_count = 1 from bridge.webhooks where failed_count > 0")
            bot.execute("select bridge.resume_webhook(%s)", (paused,))
            await until_true(bot, f"count(*) = 1 from bridge.delivery_log where id = {held[0]}")
            del receiver.behaviours["/gone"]
            bot.execute("select bridge.redeliver(%s)", failed)
            await until_true(bot, f"success_count = 1 from bridge.webhooks where id = {gone}")
            changes = json.dumps({"is_active": True})
            fetch(bot, "update_webhook", inactive, changes, None)
            await until_true(bot, f"count(*) = 1 from bridge.delivery_log where id = {waiting[0]}")
