"""Leases and results survive lost databases, rejected rows and other couriers."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import trio
from asyncpg import DiskFullError
from structlog.testing import capture_logs

from bridge.assets import query
from bridge.database.errors import DatabaseUnavailable, DeadlockError
from bridge.database.pool import Database, Row, open_database
from bridge.delivery import courier as courier_module
from bridge.delivery.settling import Settler
from tests.integration.delivering import (
    SETTLED,
    Bot,
    claim,
    claim_values,
    delivering,
    delivery,
    enqueue,
    settle,
)
from tests.receiver import Request, answer, hang, receiving
from tests.waiting import until, until_true
from tests.webhook_rows import add_webhook


async def test_two_couriers_never_send_the_same_delivery(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver:
        webhook = add_webhook(bot, receiver.url(), max_concurrency=8)
        async with delivering(bridge_url), delivering(bridge_url):
            enqueue(bot, webhook, count=300)
            await until_true(bot, SETTLED)
    sent = [request.headers["webhook-id"] for request in receiver.requests]
    assert len(sent) == len(set(sent)) == 300
    assert bot.execute("select success_count from bridge.webhooks").fetchone() == (300,)


def test_claim_locks_only_what_it_takes(bridge_url: str, bot: Bot) -> None:
    for number in range(10):
        enqueue(bot, add_webhook(bot, "http://192.0.2.1/", ordered=number % 2 == 0), count=3)
    with psycopg.connect(bridge_url) as claimer, psycopg.RawCursor(claimer) as cursor:
        claimed = cursor.execute(query("claim").encode(), claim_values(4)).fetchall()
        assert len(claimed) == 4
        assert (
            len(bot.execute("select from bridge.delivery_queue for update skip locked").fetchall())
            == 30 - 4
        )


async def test_old_failure_is_forgotten(bridge_url: str, bot: Bot) -> None:
    # As after a failure and a thousand successes: a smaller share cannot be stored.
    enqueue(bot, add_webhook(bot, failure_share=1e-44, max_concurrency=30), count=30)
    async with open_database(bridge_url) as database:
        await settle(database, await claim(database))
    assert bot.execute("select failure_share from bridge.webhooks").fetchone() == (0,)


async def test_holder_of_an_expired_lease_changes_nothing(bridge_url: str, bot: Bot) -> None:
    release = trio.Event()

    async def slow_first(request: Request, stream: trio.SocketStream) -> None:
        if len(receiver.requests) == 1:
            await release.wait()
            await answer("500 Oops")(request, stream)
        else:
            await answer()(request, stream)

    async with receiving() as receiver:
        receiver.behaviours["/"] = slow_first
        async with delivering(bridge_url):
            [number] = enqueue(bot, add_webhook(bot, receiver.url(), timeout_seconds=20))
            await receiver.until(lambda: len(receiver.requests) == 1)
            bot.execute("update bridge.delivery_queue set leased_until = now() - interval '1 s'")
            async with delivering(bridge_url):
                await until_true(bot, "count(*) = 1 from bridge.delivery_log")
                release.set()
                await until_true(bot, "count(*) = 2 from bridge.delivery_attempts")
    assert [request.headers["webhook-id"] for request in receiver.requests] == [
        receiver.requests[0].headers["webhook-id"]
    ] * 2
    assert delivery(bot, number)["status"] == "success"
    assert bot.execute("select count(*) from bridge.delivery_queue").fetchone() == (0,)


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        # As after minutes without the database: its holder does not send it again.
        ("leased_until = now() - interval '1 s'", 1),
        # The server lost the lease: the courier cannot know, and must survive it.
        ("leased_until = null, lease_token = null", 2),
    ],
    ids=["expired", "lost"],
)
async def test_courier_survives_a_lost_lease(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch, change: str, sent: int
) -> None:
    settle, ended, can_settle = Settler._settle, trio.Event(), trio.Event()

    async def settle_late(settler: Settler, batch: Sequence[Any]) -> None:
        ended.set()
        await can_settle.wait()
        await settle(settler, batch)

    monkeypatch.setattr(Settler, "_settle", settle_late)
    async with receiving() as receiver, delivering(bridge_url):
        [number] = enqueue(bot, add_webhook(bot, receiver.url()))
        await ended.wait()
        bot.execute(f"update bridge.delivery_queue set {change}".encode())
        enqueue(bot, add_webhook(bot, receiver.url("/other")))
        await receiver.until(lambda: len(receiver.at("/other")) == 1)
        can_settle.set()
        await until_true(bot, "count(*) = 2 from bridge.delivery_log")
    assert len(receiver.at("/")) == sent
    assert delivery(bot, number)["status"] == "success"


async def test_stop_finishes_attempts_and_releases_the_rest(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "STOP_SECONDS", 0.5)
    asked = trio.Event()

    async def ends_in_time(request: Request, stream: trio.SocketStream) -> None:
        await asked.wait()
        await answer()(request, stream)

    async with receiving() as receiver:
        receiver.behaviours["/in-time"] = ends_in_time
        receiver.behaviours["/never"] = hang
        async with delivering(bridge_url) as courier:
            [in_time] = enqueue(bot, add_webhook(bot, receiver.url("/in-time")))
            [never] = enqueue(bot, add_webhook(bot, receiver.url("/never"), timeout_seconds=60))
            await receiver.until(lambda: len(receiver.requests) == 2)
            courier.stop()
            asked.set()
        assert delivery(bot, in_time)["status"] == "success"
        assert bot.execute(
            "select id, leased_until, lease_token, attempt_number from bridge.delivery_queue"
        ).fetchall() == [(never, None, None, 0)]


async def test_losing_the_database_loses_no_result(bridge_url: str, bot: Bot) -> None:
    async def cut(request: Request, stream: trio.SocketStream) -> None:
        bot.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'pgbridge'"
        )
        await answer()(request, stream)

    async with receiving() as receiver:
        receiver.behaviours["/"] = cut
        async with delivering(bridge_url):
            enqueue(bot, add_webhook(bot, receiver.url()), count=5)
            await until_true(bot, "count(*) = 5 from bridge.delivery_log")
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 5


async def test_missing_partition_is_created_on_settling(bridge_url: str, bot: Bot) -> None:
    partitions = bot.execute(
        "select inhrelid::regclass::text from pg_inherits"
        " where inhparent = 'bridge.delivery_log_success'::regclass"
    ).fetchall()
    for (partition,) in partitions:
        bot.execute(f"drop table {partition}".encode())
    async with receiving() as receiver, delivering(bridge_url):
        [number] = enqueue(bot, add_webhook(bot, receiver.url()))
        await until_true(bot, SETTLED)
    assert delivery(bot, number)["status"] == "success"
    assert len(receiver.requests) == 1


async def test_temporary_database_error_loses_no_result(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, refusals = Settler._settle, 4

    async def refused_at_first(settler: Settler, batch: Sequence[Any]) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise DiskFullError("no space left on device")
        await settle(settler, batch)

    monkeypatch.setattr(Settler, "_settle", refused_at_first)
    async with receiving() as receiver, delivering(bridge_url):
        enqueue(bot, add_webhook(bot, receiver.url()), count=3)
        await until_true(bot, "count(*) = 3 from bridge.delivery_log")
    assert len(receiver.requests) == 3


async def test_result_without_possible_partition_blocks_no_other(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Settler._settle

    async def first_long_ago(settler: Settler, batch: Sequence[Any]) -> None:
        await settle(
            settler,
            [
                replace(each, finished_at=datetime(1999, 1, 1, tzinfo=UTC))
                if each.delivery.id == poison
                else each
                for each in batch
            ],
        )

    monkeypatch.setattr(Settler, "_settle", first_long_ago)
    async with receiving() as receiver, delivering(bridge_url):
        webhook = add_webhook(bot, receiver.url())
        poison, fine = enqueue(bot, webhook, count=2)
        await until_true(bot, "count(*) = 2 from bridge.delivery_log")
    assert {delivery(bot, number)["status"] for number in (poison, fine)} == {"success"}


async def test_settling_is_retried_after_a_deadlock(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_way = 0
    fetch = Database.fetch

    async def first_settle_gives_way(self: Database, name: str, *values: object) -> list[Row]:
        nonlocal given_way
        if name == "settle" and not given_way:
            given_way += 1
            raise DeadlockError("deadlock detected")
        return await fetch(self, name, *values)

    monkeypatch.setattr(Database, "fetch", first_settle_gives_way)
    async with receiving() as receiver, delivering(bridge_url):
        enqueue(bot, add_webhook(bot, receiver.url()), count=5)
        await until_true(bot, "count(*) = 5 from bridge.delivery_log")
    assert given_way == 1
    assert len(receiver.requests) == 5


def refuse_attempts_of(bot: Bot, number: int) -> None:
    """Make the database reject every result of a delivery."""
    bot.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise 'refused'; end $$"
    )
    bot.execute(
        "create trigger refuse before insert on bridge.delivery_attempts"
        f" for each row when (new.delivery_id = {number}) execute function refuse()".encode()
    )


@pytest.mark.parametrize(
    ("table", "condition", "path", "ends"),
    [
        ("delivery_attempts", "new.delivery_id = 3", "/", ("success", None)),
        ("delivery_attempts", "new.delivery_id = 3", "/oops", ("pending", "500")),
        (
            "delivery_queue",
            "new.id = 3 and new.attempt_number > 0",
            "/oops",
            ("failed", "cannot queue"),
        ),
        ("delivery_log", "new.id = 3 and new.status = 'success'", "/", ("failed", "cannot log")),
        ("delivery_log", "new.id = 3", "/", None),
        (
            "webhooks",
            "new.success_count > old.success_count and new.id = 1",
            "/",
            ("success", None),
        ),
    ],
    ids=["attempt", "attempt to be retried", "retry", "success", "every log row", "counters"],
)
async def test_rejected_result_blocks_no_other(
    bridge_url: str,
    bot: Bot,
    table: str,
    condition: str,
    path: str,
    ends: tuple[str, str | None] | None,
) -> None:
    # As a trigger of someone else.
    on = "insert" if table in ("delivery_attempts", "delivery_log") else "update"
    bot.execute(
        f"""
        create function refuse() returns trigger language plpgsql as
        $$ begin if {condition} then raise 'refused'; end if; return new; end $$;
        create trigger refuse before {on} on bridge.{table}
            for each row execute function refuse();
        """.encode()
    )
    with capture_logs() as logs:
        async with receiving() as receiver, delivering(bridge_url, schedule=(0, 3600)):
            receiver.behaviours["/oops"] = answer("500 Oops")
            bad = add_webhook(bot, receiver.url(path))
            fine = add_webhook(bot, receiver.url())
            numbers = [enqueue(bot, webhook)[0] for webhook in (fine, fine, bad, fine)]
            await until_true(bot, "count(*) >= 3 from bridge.delivery_log")
            await until(lambda: "result_rejected" in {entry["event"] for entry in logs})
    assert numbers[2] == 3
    assert {delivery(bot, number)["status"] for number in (1, 2, 4)} == {"success"}
    letters = bot.execute("select webhook_id, reason from bridge.dead_letters").fetchall()
    if ends is None:
        assert letters == [(bad, "refused")]
        assert bot.execute("select from bridge.delivery_queue").fetchall() == []
    else:
        status, error = ends
        row = delivery(bot, 3)
        assert row["status"] == status
        assert (error or "") in (row["error_message"] or "")
        assert letters == []
    assert len(receiver.requests) == 4
    [rejected] = [entry for entry in logs if entry["event"] == "result_rejected"]
    assert rejected["delivery_id"] == 3


async def test_results_settled_in_parts_are_not_repeated(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_attempts_of(bot, 3)
    sizes: list[int] = []
    is_lost: list[bool] = []
    fetch = Database.fetch

    async def lost_at_the_first_alone(self: Database, name: str, *values: Any) -> list[Row]:
        if name == "settle":
            size = len(values[0])
            if size < 5 and not sizes:
                # Wait until all five are in one batch.
                await trio.sleep(0.01)
                raise DeadlockError("deadlock detected")
            sizes.append(size)
            if len(sizes) > 1 and not is_lost and size == 1:
                is_lost.append(True)
                raise DatabaseUnavailable("gone")
        return await fetch(self, name, *values)

    monkeypatch.setattr(Database, "fetch", lost_at_the_first_alone)
    async with receiving() as receiver, delivering(bridge_url):
        enqueue(bot, add_webhook(bot, receiver.url(), max_concurrency=5), count=5)
        await until_true(bot, "count(*) = 5 from bridge.delivery_log")
    assert sizes[:2] == [5, 3]
    assert len(receiver.requests) == 5
    assert bot.execute("select success_count from bridge.webhooks").fetchone() == (4,)


async def test_rejected_counts_stop_nothing(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver:
        # Its successes are counted later, however long this test takes.
        later = datetime.now(UTC) + timedelta(hours=1)
        webhook = add_webhook(bot, receiver.url(), last_triggered_at=later)
        bot.execute(
            f"""
            create function refuse() returns trigger language plpgsql as
            $$ begin raise 'refused'; end $$;
            create trigger refuse before update on bridge.webhooks
                for each row when (new.id = {webhook}) execute function refuse();
            """.encode()
        )
        with capture_logs() as logs:
            async with delivering(bridge_url):
                enqueue(bot, webhook, count=2)
                await until_true(bot, "count(*) = 2 from bridge.delivery_log")
                await until(lambda: "counts_rejected" in {entry["event"] for entry in logs})
    assert "database_task_failed" not in {entry["event"] for entry in logs}
    assert bot.execute("select sum(attempts[1]) from bridge.uncounted_successes").fetchone() == (2,)
