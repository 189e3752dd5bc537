"""The circuit breaker pauses failing webhooks, probes them, and disables them in the end."""

import json
import math
from datetime import UTC, timedelta
from email.utils import format_datetime

import pytest
import trio

from bridge.database.pool import Row, open_database
from tests.integration.delivering import (
    SETTLED,
    Bot,
    claim,
    delivering,
    enqueue,
    settle,
)
from tests.integration.relaying import relaying
from tests.receiver import Request, answer, hang_until, receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook


def open_breaker(bot: Bot, webhook: int, failing: str = "1 minute") -> None:
    """Make a webhook look as if it had failed for this long and were due for a probe."""
    bot.execute(
        "update bridge.webhooks set probe_at = now(), failure_share = 0.9,"
        " failing_since = now() - %s::interval where id = %s",
        (failing, webhook),
    )


def column(bot: Bot, expression: str) -> object:
    """Return an expression over the only webhook."""
    row = bot.execute(f"select {expression} from bridge.webhooks".encode()).fetchone()
    assert row is not None
    return row[0]


def outbox(bot: Bot) -> list[str]:
    return [row[0] for row in bot.execute("select event_type from bridge.outbox order by id")]


async def test_breaker_opens_at_80_percent_failures(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", max_concurrency=100)
    enqueue(bot, webhook, count=100)
    async with open_database(bridge_url) as database:
        await settle(database, await claim(database, 10), failure="dns")
        assert column(bot, "failure_share between 0.6 and 0.7 and probe_at is null")
        await settle(database, await claim(database, 6), failure="dns")
        assert column(bot, "failure_share > 0.8")
        assert column(bot, "probe_at between now() + interval '7 s' and now() + interval '12 s'")
        assert await claim(database) == []


@pytest.mark.parametrize(
    ("failing", "shortest", "longest"),
    [("1 s", 8, 12), ("2 minutes", 24, 37), ("1 hour", 480, 720), ("4 days", 480, 720)],
)
async def test_probe_interval_grows_with_the_outage(
    bridge_url: str, bot: Bot, failing: str, shortest: int, longest: int
) -> None:
    webhook = add_webhook(bot, "http://x/")
    enqueue(bot, webhook, count=2)
    open_breaker(bot, webhook, failing)
    async with open_database(bridge_url) as database:
        await settle(database, await claim(database), failure="dns")
        # The retry is one hour after the time of the statement.
        row = bot.execute(
            "select extract(epoch from w.probe_at - max(q.next_attempt_at)) + 3600"
            " from bridge.webhooks w join bridge.delivery_queue q on q.webhook_id = w.id"
            " group by w.id"
        ).fetchone()
    assert row is not None
    assert shortest <= float(str(row[0])) <= longest


async def test_probes_of_many_webhooks_are_jittered(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.webhooks"
        " (name, url, event_type, failure_share, failing_since, probe_at)"
        " select 'x', 'http://x/', '*', 0.9, now() - interval '1 hour', now()"
        " from generate_series(1, 2000)"
    )
    bot.execute("select bridge.emit('test.event')")
    bot.execute(
        "insert into bridge.delivery_queue (webhook_id, event_id, event_recorded_at, event_type)"
        " select id, 1, now(), 'test' from bridge.webhooks"
    )
    async with open_database(bridge_url) as database:
        rows = await claim(database, 2000)
        assert len(rows) == 2000
        for start in range(0, 2000, 500):
            await settle(database, rows[start : start + 500], failure="dns")
    spread = bot.execute(
        "select max(probe_at) - min(probe_at), count(distinct date_trunc('second', probe_at))"
        " from bridge.webhooks"
    ).fetchone()
    assert spread is not None
    assert spread[0] > timedelta(minutes=3)
    assert spread[1] > 150


async def test_open_breaker_allows_one_probe_over_all_bridges(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", max_concurrency=10)
    enqueue(bot, webhook, count=20)
    open_breaker(bot, webhook)
    claimed: list[Row] = []
    async with open_database(bridge_url) as database, trio.open_nursery() as nursery:

        async def take() -> None:
            for _ in range(10):
                claimed.extend(await claim(database))

        for _ in range(3):
            nursery.start_soon(take)
    [probe] = claimed
    assert probe["is_probe"]


async def test_two_couriers_send_one_probe(bridge_url: str, bot: Bot) -> None:
    released = trio.Event()
    async with receiving() as receiver:
        receiver.behaviours["/probed"] = hang_until(released)
        webhook = add_webhook(bot, receiver.url("/probed"), max_concurrency=8, timeout_seconds=60)
        enqueue(bot, webhook, count=20)
        open_breaker(bot, webhook)
        async with delivering(bridge_url), delivering(bridge_url):
            enqueue(bot, add_webhook(bot, receiver.url("/other")), count=100)
            await receiver.until(lambda: len(receiver.at("/probed")) > 0)
            await receiver.until(lambda: len(receiver.at("/other")) == 100)
            assert len(receiver.at("/probed")) == 1
            bot.execute("delete from bridge.delivery_queue where leased_until is null")
            released.set()


async def test_lost_probe_is_replaced_when_its_lease_expires(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/")
    enqueue(bot, webhook, count=5)
    open_breaker(bot, webhook)
    async with open_database(bridge_url) as database:
        [lost] = await claim(database)
        row = bot.execute(
            "select q.leased_until = w.probe_at"
            " from bridge.webhooks w join bridge.delivery_queue q on q.id = %s",
            (lost["id"],),
        ).fetchone()
        assert row == (True,)
        assert await claim(database) == []
        bot.execute("update bridge.webhooks set probe_at = now()")
        assert len(await claim(database)) == 1


async def test_successful_probe_closes_the_breaker_once(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/")
    enqueue(bot, webhook, count=9)
    open_breaker(bot, webhook)
    async with open_database(bridge_url) as database:
        await settle(database, await claim(database))
        assert column(bot, "probe_at is null and failing_since is null")
        await settle(database, await claim(database))
    assert outbox(bot) == ["webhook.recovered"]
    row = bot.execute(
        "select payload ->> 'name', (payload ->> 'failing_since')::timestamptz < now()"
        " from bridge.outbox"
    ).fetchone()
    assert row == ("test", True)


@pytest.mark.parametrize("share", [0.125, 0.375, 0.625, 0.75, 0.875])
async def test_concurrency_falls_as_failures_rise(bridge_url: str, bot: Bot, share: float) -> None:
    enqueue(bot, add_webhook(bot, "http://x/", max_concurrency=10, failure_share=share), count=20)
    async with open_database(bridge_url) as database:
        assert len(await claim(database)) == math.ceil(10 * (1 - share))


async def test_only_the_probe_decides_while_in_flight(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/", max_concurrency=2)
    enqueue(bot, webhook, count=5)
    async with open_database(bridge_url) as database:
        [before] = await claim(database, 1)
        open_breaker(bot, webhook)
        [probe] = await claim(database)
        lease = column(bot, "probe_at")
        await settle(database, [before], failure="dns")
        assert column(bot, "probe_at") == lease
        await settle(database, [probe], failure="dns")
        assert column(bot, "probe_at < now() + interval '30 s'")


async def test_long_failure_disables_and_resume_sends_the_backlog(
    bridge_url: str, bot: Bot
) -> None:
    async with receiving() as receiver:
        receiver.behaviours["/"] = answer("500 Oops")
        webhook = add_webhook(bot, receiver.url())
        enqueue(bot, webhook, count=10)
        open_breaker(bot, webhook, "6 days")
        async with delivering(bridge_url, schedule=(0, 0, 0, 0)):
            await until_true(bot, "not is_active from bridge.webhooks")
            reason = str(column(bot, "disabled_reason"))
            assert reason.startswith("nothing but failures since 2")
            assert outbox(bot) == ["webhook.disabled"]
            assert bot.execute("select count(*) from bridge.delivery_queue").fetchone() == (10,)
            del receiver.behaviours["/"]
            bot.execute("select bridge.resume_webhook(id) from bridge.webhooks")
            await until_true(bot, "count(*) = 10 from bridge.delivery_log where status = 'success'")
    assert len(receiver.requests) == 11


async def test_two_failures_five_days_apart_do_not_disable(bridge_url: str, bot: Bot) -> None:
    enqueue(bot, add_webhook(bot, "http://x/"), count=2)
    async with open_database(bridge_url) as database:
        first, second = await claim(database)
        await settle(database, [first], failure="dns")
        bot.execute("update bridge.webhooks set failing_since = now() - interval '6 days'")
        await settle(database, [second], failure="dns")
    assert column(bot, "is_active and probe_at is null")
    assert outbox(bot) == []


@pytest.mark.parametrize(
    "failed", [("10 days", "10 days"), ("9 days", "6 days"), ("300 days", "298 days")]
)
async def test_pause_between_attempts_is_no_failure_of_the_receiver(
    bridge_url: str, bot: Bot, failed: tuple[str, str]
) -> None:
    """The bridge was down, the webhook was paused, or the database was restored from a backup."""
    webhook = add_webhook(bot, "http://x/")
    enqueue(bot, webhook, count=2)
    open_breaker(bot, webhook, failed[0])
    bot.execute("update bridge.webhooks set last_triggered_at = now() - %s::interval", (failed[1],))
    async with open_database(bridge_url) as database:
        await settle(database, await claim(database), failure="connect")
        assert column(bot, "is_active")
        counted = f"interval '{failed[0]}' - interval '{failed[1]}' + interval '12 hours'"
        assert column(
            bot, f"now() - failing_since between {counted} and {counted} + interval '1 minute'"
        )
        # The next pause counts as well, so a receiver that stays down is disabled.
        for _ in range(10):
            bot.execute(
                "update bridge.webhooks set probe_at = now(),"
                " failing_since = failing_since - interval '20 hours',"
                " last_triggered_at = last_triggered_at - interval '20 hours'"
            )
            bot.execute("update bridge.delivery_queue set next_attempt_at = now()")
            for row in await claim(database):
                await settle(database, [row], failure="connect")
    assert column(bot, "disabled_reason like 'nothing but failures since %'")


async def test_disabled_and_recovered_reach_the_live_stream(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, relaying(bridge_url) as relayed:
        receiver.behaviours["/gone"] = answer("410 Gone")
        gone = add_webhook(bot, receiver.url("/gone"), event_type="x")
        back = add_webhook(bot, receiver.url("/back"), event_type="x")
        open_breaker(bot, back)
        enqueue(bot, gone)
        enqueue(bot, back)
        told: dict[str, dict[str, object]] = {}

        def both_are_told() -> bool:
            told.update({event.event_type: json.loads(event.payload) for event in relayed.events})
            return {"webhook.disabled", "webhook.recovered"} <= told.keys()

        async with delivering(bridge_url):
            await relayed.until(both_are_told)
    assert told["webhook.disabled"]["webhook_id"] == gone
    assert told["webhook.disabled"]["reason"] == "the receiver answered 410 Gone"
    assert told["webhook.recovered"]["webhook_id"] == back


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_pauses_the_whole_webhook(
    bridge_url: str, bot: Bot, status: str, form: str
) -> None:
    row = bot.execute("select clock_timestamp() + interval '5 minutes'").fetchone()
    assert row is not None
    header = "300" if form == "seconds" else format_datetime(row[0].astimezone(UTC), usegmt=True)
    async with receiving() as receiver, delivering(bridge_url, schedule=(0, 1)):
        receiver.behaviours["/"] = answer(status, headers=(f"Retry-After: {header}",))
        enqueue(bot, add_webhook(bot, receiver.url(), max_concurrency=1), count=5)
        await until_true(bot, "probe_at is not null from bridge.webhooks")
    assert len(receiver.requests) == 1
    held = bot.execute(
        "select extract(epoch from w.probe_at - now()),"
        " extract(epoch from q.next_attempt_at - now())"
        " from bridge.webhooks w join bridge.delivery_queue q on q.attempt_number = 1"
    ).fetchone()
    assert held is not None
    webhook, delivery = map(float, map(str, held))
    assert 250 < delivery <= 300
    assert delivery - 1 <= webhook <= 1.2 * 300


async def test_retry_after_is_bounded(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/"] = answer("429 Slow", headers=("Retry-After: 999999999",))
        enqueue(bot, add_webhook(bot, receiver.url()))
        await until_true(bot, SETTLED)
    assert column(bot, "probe_at between now() + interval '9 min' and now() + interval '12 min'")
    assert bot.execute(
        "select next_attempt_at between now() + interval '23 h' and now() + interval '24 h'"
        " from bridge.delivery_queue"
    ).fetchone() == (True,)


@pytest.mark.parametrize("together", [True, False])
async def test_earlier_success_does_not_cancel_retry_after(
    bridge_url: str, bot: Bot, together: bool
) -> None:
    async def second_is_too_many(request: Request, stream: trio.SocketStream) -> None:
        if request is not receiver.requests[0]:
            await answer("429 Slow", headers=("Retry-After: 300",))(request, stream)
            return
        await (both if together else held).wait()
        await answer()(request, stream)

    held, both = trio.Event(), trio.Event()
    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/"] = second_is_too_many
        enqueue(bot, add_webhook(bot, receiver.url(), max_concurrency=2), count=2)
        await receiver.until(lambda: len(receiver.requests) == 2)
        both.set()
        if not together:
            await until_true(bot, "probe_at is not null from bridge.webhooks")
            held.set()
        await until_true(bot, "success_count = 1 and failure_count = 1 from bridge.webhooks")
    assert column(bot, "probe_at > now() + interval '4 min'")


async def test_any_answer_after_retry_after_closes_the_breaker(bridge_url: str, bot: Bot) -> None:
    enqueue(bot, add_webhook(bot, "http://x/", max_concurrency=2), count=5)
    async with open_database(bridge_url) as database:
        await settle(database, await claim(database, 1), failure="http_4xx", pause_seconds=60)
        assert await claim(database) == []
        bot.execute("update bridge.webhooks set probe_at = now()")
        await settle(database, await claim(database), failure="http_5xx")
        assert column(bot, "probe_at is null")
        assert len(await claim(database)) == 2
    assert outbox(bot) == []
