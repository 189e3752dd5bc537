"""A delivery's times are in order and come from the database's clock."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from bridge.database.pool import Database, Row, open_database
from bridge.delivery import attempt as attempt_module
from bridge.delivery.courier import CLAIM_BATCH
from tests.integration.delivering import Bot, delivering, delivery, enqueue
from tests.integration.relaying import DRAIN
from tests.receiver import Request, answer, hang_until, receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook

STEPS = ("committed_at", "claimed_at", "sent_at", "acknowledged_at")


async def drained(url: str, bot: Bot) -> None:
    """Emit an event and drain it, as a relay does."""
    bot.execute("select bridge.emit('test.event')")
    async with open_database(url) as database, database.connect() as connection:
        await connection.fetch("drain", *DRAIN)


async def test_times_of_a_delivery_are_in_order(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver:
        add_webhook(bot, receiver.url())
        await drained(bridge_url, bot)
        async with delivering(bridge_url):
            await until_true(bot, "count(*) = 1 from bridge.delivery_log")
    row = delivery(bot, 1)
    assert row["captured_at"] <= row["committed_at"]
    assert [row[name] for name in STEPS] == sorted(row[name] for name in STEPS)


async def test_retried_delivery_has_its_last_attempts_times(bridge_url: str, bot: Bot) -> None:
    claimed: list[datetime] = []

    async def second_time(request: Request, stream: trio.SocketStream) -> None:
        claimed.append(delivery(bot, 1)["claimed_at"])
        status = "500 Oops" if len(receiver.requests) == 1 else "200 OK"
        await answer(status)(request, stream)

    async with receiving() as receiver:
        receiver.behaviours["/"] = second_time
        add_webhook(bot, receiver.url())
        await drained(bridge_url, bot)
        async with delivering(bridge_url, schedule=(0, 0)):
            await until_true(bot, "count(*) = 1 from bridge.delivery_log")
    row = delivery(bot, 1)
    assert [row[name] for name in STEPS] == sorted(row[name] for name in STEPS)
    [_, (last_began,)] = bot.execute(
        "select started_at from bridge.delivery_attempts order by attempt_number"
    ).fetchall()
    assert claimed == sorted(claimed)
    assert (row["claimed_at"], row["sent_at"]) == (claimed[1], last_began)


async def test_times_ignore_a_wrong_clock_of_the_bridge(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        attempt_module,
        "time",
        SimpleNamespace(time=lambda: time.time() + 3600, monotonic=time.monotonic),
    )
    busy = answer("503 Busy", headers=(f"Retry-After: {_date_in(bot, '10 minutes')}",))
    async with receiving() as receiver, delivering(bridge_url, schedule=(0, 0)):
        receiver.behaviours["/busy"] = busy
        [number] = enqueue(bot, add_webhook(bot, receiver.url()))
        [later] = enqueue(bot, add_webhook(bot, receiver.url("/busy")))
        await until_true(bot, "count(*) = 1 from bridge.delivery_log")
        await until_true(bot, f"attempt_number = 1 from bridge.delivery_queue where id = {later}")
    row = delivery(bot, number)
    assert row["created_at"] <= row["claimed_at"] <= row["sent_at"] <= row["acknowledged_at"]
    # The estimate of the database's clock is off by a fetch at most, and the bridge's by an hour.
    assert row["acknowledged_at"] < _now(bot) + timedelta(minutes=1)
    # A date in Retry-After is also compared with the database's clock.
    wait = delivery(bot, later)["next_retry_at"] - _now(bot)
    assert 500 < wait.total_seconds() <= 600


async def test_attempt_ends_after_it_starts_if_the_clock_estimate_improves(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = 0
    fetch = Database.fetch

    async def first_claim_is_late(self: Database, name: str, *values: Any) -> list[Row]:
        nonlocal claims
        if name == "claim" and not claims:
            # As with a busy pool, which makes the courier overestimate the database's clock.
            await trio.sleep(0.5)
        rows = await fetch(self, name, *values)
        claims += name == "claim"
        return rows

    monkeypatch.setattr(Database, "fetch", first_claim_is_late)
    released = trio.Event()
    async with receiving() as receiver:
        receiver.behaviours["/"] = hang_until(released)
        # Enough for the courier to claim again at once.
        count = CLAIM_BATCH + 1
        enqueue(bot, add_webhook(bot, receiver.url(), max_concurrency=count), count=count)
        async with delivering(bridge_url, concurrency=2 * count):
            await receiver.until(lambda: len(receiver.requests) == count)
            released.set()
            await until_true(bot, f"success_count = {count} from bridge.webhooks")
    assert claims >= 2
    assert bot.execute(
        "select count(*) from bridge.delivery_log where sent_at > acknowledged_at"
    ).fetchone() == (0,)


def _now(bot: Bot) -> datetime:
    row = bot.execute("select clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def _date_in(bot: Bot, interval: str) -> str:
    row = bot.execute("select clock_timestamp() + %s::interval", (interval,)).fetchone()
    assert row is not None
    return format_datetime(row[0].astimezone(UTC), usegmt=True)
