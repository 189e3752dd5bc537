"""Leases of dead couriers are taken over, those of living ones are not."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import trio

from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import Database, Row, open_database
from bridge.database.restart import keep_running
from bridge.delivery import owners
from tests.integration.delivering import (
    SETTLED,
    Bot,
    claim_values,
    delivering,
    delivery,
    enqueue,
)
from tests.receiver import hang_until, receiving
from tests.system.processes import as_service
from tests.waiting import until, until_true
from tests.webhook_rows import add_webhook

DEAD, LIVING = 4242, 4243
HELD = """
select count(*) from pg_locks
where locktype = 'advisory' and mode = 'ShareLock' and granted and objsubid = 1
  and classid::bigint << 32 | objid::bigint = {}
"""


@pytest.fixture
def living(bridge_url: str, bot: Bot) -> Iterator[Bot]:
    """A session of the courier LIVING; the courier DEAD has none."""
    bot.execute("insert into bridge.couriers values (%s, 'box:1'), (%s, 'box:2')", [DEAD, LIVING])
    with psycopg.connect(bridge_url, autocommit=True) as session:
        session.execute("select pg_advisory_lock_shared(%s)", [LIVING])
        yield session


def lease(bot: Bot, owner: int | None, *deliveries: int) -> None:
    """Lease deliveries for an hour, as a courier did that claimed them."""
    bot.execute(
        "update bridge.delivery_queue set lease_owner = %s, lease_token = gen_random_uuid(),"
        " claimed_at = now(), leased_until = now() + interval '1 hour' where id = any (%s)",
        [owner, list(deliveries)],
    )


@pytest.mark.usefixtures("living")
async def test_only_leases_of_the_dead_are_taken_over(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver:
        webhook = add_webhook(bot, receiver.url())
        of_dead, of_living, of_unknown = (enqueue(bot, webhook, count=20) for _ in range(3))
        lease(bot, DEAD, *of_dead)
        lease(bot, LIVING, *of_living)
        lease(bot, None, *of_unknown)  # of a bridge of an older version
        rows = (
            "select id, lease_token, leased_until from bridge.delivery_queue where id = any (%s)"
            " order by id"
        )
        before = bot.execute(rows, [of_living + of_unknown]).fetchall()
        async with delivering(bridge_url), delivering(bridge_url):
            await until_true(bot, "count(*) = 20 from bridge.delivery_log")
    assert bot.execute(rows, [of_living + of_unknown]).fetchall() == before
    assert {delivery(bot, each)["status"] for each in of_dead} == {"success"}
    sent = [request.headers["webhook-id"] for request in receiver.requests]
    assert len(sent) == len(set(sent)) == 20, "by one of the two couriers"


@pytest.mark.usefixtures("living")
async def test_ordered_webhooks_do_not_wait_for_the_dead(bridge_url: str, bot: Bot) -> None:
    """Neither for their first delivery, nor a redelivery for a later one."""
    async with receiving() as receiver:
        first, *later = enqueue(bot, add_webhook(bot, receiver.url(), ordered=True), count=3)
        redelivered, newer = enqueue(bot, add_webhook(bot, receiver.url(), ordered=True), count=2)
        waits, living = enqueue(bot, add_webhook(bot, receiver.url(), ordered=True), count=2)
        bot.execute(
            "update bridge.delivery_queue set is_redelivery = true where id = any (%s)",
            [[redelivered, waits]],
        )
        lease(bot, DEAD, first, newer)
        lease(bot, LIVING, living)
        async with delivering(bridge_url):
            await until_true(bot, "count(*) = 5 from bridge.delivery_log")
    assert [delivery(bot, each)["status"] for each in (first, *later, redelivered, newer)] == [
        "success"
    ] * 5
    assert [delivery(bot, each)["status"] for each in (waits, living)] == ["pending"] * 2


async def test_claim_whose_answer_was_lost_is_repeated(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Database.fetch
    lost: list[Row] = []

    async def lose_the_first_answer(self: Database, name: str, *values: Any) -> list[Row]:
        rows = await fetch(self, name, *values)
        if name == "claim" and not lost and rows[0]["id"] is not None:
            lost.extend(rows)
            raise DatabaseUnavailable("the connection was lost")
        return rows

    monkeypatch.setattr(Database, "fetch", lose_the_first_answer)
    async with receiving() as receiver, delivering(bridge_url):
        enqueue(bot, add_webhook(bot, receiver.url(), max_concurrency=8), count=20)
        await until(lambda: lost)
        expiry = "select min(leased_until) from bridge.delivery_queue"
        [(leased_until,)] = bot.execute(expiry).fetchall()
        await until_true(bot, SETTLED)
    [(finished_at,)] = bot.execute("select max(finished_at) from bridge.delivery_log").fetchall()
    assert finished_at < leased_until
    assert len(receiver.requests) == 20


async def test_courier_keeps_its_leases_when_it_loses_its_sessions(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that a busy machine does not make the return late.
    monkeypatch.setattr(owners, "GRACE_SECONDS", 20.0)
    released = trio.Event()
    end = "select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = %s"
    async with receiving() as receiver, delivering(as_service(bridge_url)):
        receiver.behaviours["/"] = hang_until(released)
        enqueue(bot, add_webhook(bot, receiver.url()))
        await receiver.until(lambda: len(receiver.requests) == 1)
        [(owner,)] = bot.execute("select lease_owner from bridge.delivery_queue").fetchall()
        async with delivering(bridge_url):
            await until_true(bot, "count(*) = 2 from bridge.couriers")
            for _ in range(3):
                assert bot.execute(end, ["bridge_login"]).fetchall()
                await until(lambda: bot.execute(HELD.format(owner).encode()).fetchone() != (0,))
            released.set()
            await until_true(bot, SETTLED)
    assert len(receiver.requests) == 1


async def test_every_session_of_a_process_shows_that_it_lives(bridge_url: str, bot: Bot) -> None:
    async with open_database(bridge_url) as database, database.connect():
        held = HELD.format(database.key).encode()
        assert bot.execute(held).fetchone() == (2,)
        listening = (
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where pid in (select pid from pg_locks where locktype = 'advisory')"
            " order by backend_start desc limit 1"
        )
        assert bot.execute(listening).fetchone() == (True,)
        assert bot.execute(held).fetchone() == (1,)
        await database.fetch("note_courier", database.key, "box:1")
        [row] = await database.fetch("couriers", 0)
        assert row["is_alive"]


async def test_bridge_behind_a_pooler_shows_that_it_lives(
    bridge_url: str, pooled_url: str, bot: Bot
) -> None:
    async with (
        open_database(pooled_url, listen_url=bridge_url) as database,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(keep_running, "presence", database.hold_key)
        held = HELD.format(database.key).encode()
        for _ in range(2):
            await until(lambda: bot.execute(held).fetchone() == (1,))
            assert bot.execute(
                "select pg_terminate_backend(pid, 10000) from pg_locks where locktype = 'advisory'"
            ).fetchone() == (True,)
        await until(lambda: bot.execute(held).fetchone() == (1,))
        nursery.cancel_scope.cancel()


async def test_bridge_does_not_wait_for_whoever_wants_its_lock(bridge_url: str, bot: Bot) -> None:
    """Any role may see the key and queue for it."""
    async with open_database(bridge_url) as database:
        with psycopg.connect(bridge_url, autocommit=True) as stranger:
            stranger.pgconn.send_query(f"select pg_advisory_lock({database.key})".encode())
            await until_true(
                bot, "exists (select from pg_locks where locktype = 'advisory' and not granted)"
            )
            async with database.connect() as connection:
                assert await connection.fetch("clock")
            stranger.pgconn.finish()


async def test_stopped_courier_signs_off(bridge_url: str, bot: Bot) -> None:
    async with delivering(bridge_url):
        await until_true(bot, "count(*) = 1 from bridge.couriers")
    assert bot.execute("select from bridge.couriers").fetchall() == []


async def test_lease_names_its_owner_until_it_ends(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot)
    [number] = enqueue(bot, webhook)
    owner = "select lease_owner from bridge.delivery_queue where id = %s"
    async with open_database(bridge_url) as database:
        [row] = await database.fetch("claim", *claim_values(owner=7))
        assert bot.execute(owner, [number]).fetchone() == (7,)
        await database.fetch("release", [number], [row["lease_token"]])
        assert bot.execute(owner, [number]).fetchone() == (None,)
