"""Couriers do not search where they have searched before, and still find what appears there."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import psycopg
import pytest

from bridge.assets import query
from bridge.database.clock import ServerClock
from bridge.database.pool import Database, Row, open_database
from bridge.delivery import claiming
from bridge.delivery.claiming import Claimer
from tests.integration.delivering import (
    NOTHING_LEFT,
    Bot,
    claim,
    claim_values,
    delivering,
    enqueue,
    settle,
)
from tests.receiver import receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook

BACKLOG = 20_000


@pytest.fixture
def no_second_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first claim of each courier the only sweep."""
    monkeypatch.setattr(claiming, "SWEEP_SECONDS", 1e9)


@contextmanager
def vacuum_held_back(url: str) -> Iterator[None]:
    """Keep vacuum from removing anything, from tables as well as from indexes."""
    with psycopg.connect(url) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select pg_current_xact_id()")
        yield


def pages_of_a_claim(bot: Bot, values: Sequence[object]) -> int:
    """Return how many pages a claim with these parameters reads; leave everything as it is."""
    sql = re.sub(r"\$(\d+)", r"%(p\1)s", query("claim").replace("%", "%%"))
    with bot.transaction(force_rollback=True):
        row = bot.execute(
            f"explain (analyze, buffers, format json) {sql}".encode(),
            {f"p{number}": value for number, value in enumerate(values, 1)},
        ).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


class _Recording:
    """A database that remembers the parameters of the last statement."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.values: Sequence[object] = ()

    async def fetch(self, name: str, *values: object) -> list[Row]:
        self.values = values
        return await self._database.fetch(name, *values)


def claimer_of(database: Database | _Recording) -> Claimer:
    return Claimer(
        cast("Database", database), ServerClock(), most_failing=1000, schedule=(0.0,), owner=1
    )


def settle_by_hand(bot: Bot) -> None:
    """Remove what is leased, as settling does."""
    bot.execute("delete from bridge.delivery_queue where leased_until is not null")


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


def test_claim_does_not_read_what_was_settled_before(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "http://x/")
    with vacuum_held_back(bridge_url):
        enqueue(bot, webhook, count=BACKLOG)
        bot.execute("delete from bridge.delivery_queue")
        row = bot.execute("select clock_timestamp()").fetchone()
        assert row is not None
        enqueue(bot, webhook)
        everything = pages_of_a_claim(bot, claim_values())
        continued = claim_values(left_off=NOTHING_LEFT, others_since=row[0])
        assert pages_of_a_claim(bot, continued) * 5 < everything


@pytest.mark.parametrize(
    ("webhook", "delivery"),
    [
        ({"max_concurrency": 1000}, "is_redelivery = false"),
        ({"max_concurrency": 1000}, "is_redelivery = true"),
        ({"ordered": True}, "is_redelivery = false"),
        ({"rate_per_second": 1000}, "is_redelivery = false"),
    ],
    ids=["new", "redeliveries", "ordered", "paced"],
)
@pytest.mark.usefixtures("no_second_sweep")
async def test_claims_of_a_backlog_do_not_read_what_was_settled(
    bridge_url: str, bot: Bot, webhook: dict[str, Any], delivery: str
) -> None:
    async with open_database(bridge_url) as database:
        recording = _Recording(database)
        claimer = claimer_of(recording)
        # One commit: all of them are due at the same instant.
        enqueue(bot, add_webhook(bot, **webhook), count=BACKLOG)
        bot.execute(f"update bridge.delivery_queue set {delivery}".encode())
        bot.execute("vacuum bridge.delivery_queue")
        with vacuum_held_back(bridge_url):
            await claimer.claim(100, [])
            settle_by_hand(bot)
            # Another bridge delivers the first half.
            bot.execute("delete from bridge.delivery_queue where id <= %s", (BACKLOG // 2,))
            bot.execute("update bridge.webhooks set paced_until = now() - interval '1 min'")
            [first, *_] = await claimer.claim(100, [])
            assert first.id == BACKLOG // 2 + 1
            settle_by_hand(bot)
            everything = pages_of_a_claim(bot, claim_values(1))
            assert await claimer.claim(1, [])
            assert pages_of_a_claim(bot, recording.values) * 5 < everything


@pytest.mark.usefixtures("no_second_sweep")
async def test_delivery_that_appears_late_needs_no_sweep(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot)
    async with open_database(bridge_url) as database:
        claimer = claimer_of(database)
        with psycopg.connect(bridge_url) as drain:
            [late] = enqueue(drain, webhook)
            [on_time] = enqueue(bot, webhook)
            assert [each.id for each in await claimer.claim(10, [])] == [on_time]
            drain.commit()
        assert [each.id for each in await claimer.claim(10, [])] == [late]


@pytest.mark.usefixtures("no_second_sweep")
async def test_deliveries_that_found_no_slot_need_no_sweep(bridge_url: str, bot: Bot) -> None:
    paced = add_webhook(
        bot, rate_per_second=100, paced_until=datetime.now(UTC) + timedelta(seconds=30)
    )
    failing = add_webhook(bot, failure_share=0.7)
    probed = add_webhook(bot, failure_share=0.9, probe_at="2000-01-01")
    crowded = add_webhook(bot, max_concurrency=1)
    numbers = {each: enqueue(bot, each, count=3) for each in (paced, failing, probed, crowded)}
    # Longer ago than a claim looks back.
    bot.execute("update bridge.delivery_queue set next_attempt_at = now() - interval '1 hour'")
    async with open_database(bridge_url) as database:
        claimer = Claimer(database, ServerClock(), most_failing=1, schedule=(0.0,), owner=1)
        held = await claimer.claim(10, [])
        assert [each.id for each in held] == [numbers[failing][0], numbers[crowded][0]]
        bot.execute(
            "update bridge.webhooks set probe_at = now() + interval '10 minutes'"
            " where probe_at is not null"
        )
        assert await claimer.claim(10, held) == []
        bot.execute(
            "update bridge.webhooks"
            " set paced_until = '2000-01-01', failure_share = 0, probe_at = null"
        )
        settle_by_hand(bot)
        rest = [each.id for each in await claimer.claim(64, [])]
    assert rest == [*numbers[paced], *numbers[failing][1:], *numbers[probed], numbers[crowded][1]]


@pytest.mark.usefixtures("no_second_sweep")
async def test_redelivery_of_an_ordered_webhook_moves_the_mark_back(
    bridge_url: str, bot: Bot
) -> None:
    webhook = add_webhook(bot, ordered=True)
    first, *later = enqueue(bot, webhook, count=3)
    async with open_database(bridge_url) as database:
        await settle(database, await claim(database))
        claimer = claimer_of(database)
        held = await claimer.claim(10, [])
        assert [each.id for each in held] == later[:1]
        bot.execute("select bridge.redeliver(%s)", (first,))
        # The notification that it sends makes the courier do this.
        claimer.sweep_next()
        assert await claimer.claim(10, held) == []
        settle_by_hand(bot)
        assert [each.id for each in await claimer.claim(10, [])] == [first]


def test_claim_prunes_no_partitions_itself(bridge_url: str, bot: Bot) -> None:
    """PostgreSQL 18 can crash if a statement that rechecks locked rows also does that."""
    enqueue(bot, add_webhook(bot, "http://x/"))
    sql = re.sub(r"\$(\d+)", "null", query("claim"))
    plan = bot.execute(f"explain (format json) {sql}".encode()).fetchall()
    assert "delivery_queue" in str(plan)
    assert "events_p" not in str(plan)
