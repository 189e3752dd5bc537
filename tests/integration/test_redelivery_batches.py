"""Redelivery of a range in batches: the first at once, the others by running bridges."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest
import trio

from bridge.database.pool import open_database
from bridge.delivery.redelivery import continue_redeliveries
from tests.integration.delivering import Bot, delivering
from tests.integration.psql import KEPT_DAYS, LONG_AGO, Psql, Session, refused
from tests.receiver import receiving
from tests.waiting import until_true
from tests.webhook_rows import add_failures, add_webhook

#: Deliveries that one transaction moves at most.
BATCH = 1000
#: A rate at which no batch waits for its time.
FAST = 100_000


@pytest.fixture
def psql_url(bridge_url: str) -> str:
    """A database of the test's own: bridges continue every redelivery of a database."""
    return bridge_url


def redeliver(psql: Psql, webhook: int, per_second: float = FAST) -> int:
    return int(
        psql.value(
            "select bridge.redeliver_failed(%s, '-infinity', null, false, %s)", webhook, per_second
        )
    )


def go_on(session: Session) -> list[tuple[Any, ...]]:
    """Move the next batch, as every bridge does; return (webhook, requeued, state)."""
    return session.execute(
        "select webhook_id, requeued, state from bridge.continue_redelivery()"
    ).fetchall()


def try_all(psql: Psql) -> None:
    """Note an attempt of everything that was requeued, as settle does."""
    psql.run(
        "update bridge.delivery_queue set attempt_number = attempt_number + 1"
        " where attempt_number = attempts_before"
    )


def queued(psql: Psql) -> int:
    return int(psql.value("select count(*) from bridge.delivery_queue"))


def rows_read(psql: Psql) -> int:
    """Return how many rows of the logs this transaction has read."""
    return int(
        psql.value(
            "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables"
            " where relname ~ '^(delivery_log|events)'"
        )
    )


def test_first_batch_moves_at_once_and_the_rest_in_turn(psql: Psql) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, 2 * BATCH + 5)
    assert redeliver(psql, webhook) == 2 * BATCH + 5
    seen = [(queued(psql), "running")]
    while seen[-1][1] == "running":
        try_all(psql)
        [(_, requeued, state)] = go_on(psql.session)
        assert requeued == queued(psql)
        seen.append((requeued, state))
        psql.assert_counts_are_exact()
    assert seen == [(BATCH, "running"), (2 * BATCH, "running"), (2 * BATCH + 5, "finished")]
    assert go_on(psql.session) == []


def test_small_redelivery_needs_no_bridge(psql: Psql) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, 5)
    assert redeliver(psql, webhook) == queued(psql) == 5
    job = psql.row("select state, matched, requeued from bridge.redeliveries")
    assert job == {"state": "finished", "matched": 5, "requeued": 5}


def test_batches_keep_the_order_and_the_rate(psql: Psql) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, 2 * BATCH + 5)
    redeliver(psql, webhook, 1000)
    for _ in range(2):
        try_all(psql)
        go_on(psql.session)
    due = [
        at for (at,) in psql.rows("select next_attempt_at from bridge.delivery_queue order by id")
    ]
    assert len(due) == 2 * BATCH + 5
    assert min(later - sooner for sooner, later in pairwise(due)) >= timedelta(milliseconds=0.999)


def test_next_batch_waits_for_its_time(psql: Psql) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, BATCH + 1)
    redeliver(psql, webhook, 20)  # the next is due in 50 seconds
    try_all(psql)
    assert go_on(psql.session) == []
    psql.run("update bridge.redeliveries set next_due_at = now() + interval '9 seconds'")
    assert go_on(psql.session) == [(webhook, BATCH + 1, "finished")]


@pytest.mark.parametrize(
    "held_back", ["paused_at = now()", "is_active = false", "probe_at = now() + interval '1 hour'"]
)
def test_queue_has_at_most_two_untried_batches(psql: Psql, held_back: str) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, 4 * BATCH)
    psql.run(f"update bridge.webhooks set {held_back}")
    redeliver(psql, webhook)
    assert go_on(psql.session) == []
    # The first of the batch is in flight, the others wait.
    lease = "leased_until = now() + interval '1 minute', lease_token = gen_random_uuid()"
    psql.run(
        f"update bridge.delivery_queue set {lease}"
        " where id = (select min(id) from bridge.delivery_queue)"
    )
    assert go_on(psql.session) == [(webhook, 2 * BATCH, "running")]
    assert go_on(psql.session) == []
    assert psql.value("select state from bridge.redeliveries") == "running"


def test_killed_batch_neither_skips_nor_repeats(psql: Psql, connect: Callable[[], Session]) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, 2 * BATCH)
    redeliver(psql, webhook)
    try_all(psql)
    bridge = connect()
    assert go_on(bridge) == [(webhook, 2 * BATCH, "running")]
    psql.run("select pg_terminate_backend(%s, 10000)", bridge.info.backend_pid)
    assert queued(psql) == psql.value("select requeued from bridge.redeliveries") == BATCH
    psql.assert_counts_are_exact()
    assert go_on(psql.session) == [(webhook, 2 * BATCH, "running")]
    assert queued(psql) == 2 * BATCH
    try_all(psql)
    assert go_on(psql.session) == [(webhook, 2 * BATCH, "finished")]
    psql.assert_counts_are_exact()


def test_two_bridges_take_turns_without_waiting(psql: Psql, connect: Callable[[], Session]) -> None:
    webhooks = [psql.webhook(), psql.webhook()]
    for webhook in webhooks:
        add_failures(psql.session, webhook, 2 * BATCH)
        redeliver(psql, webhook)
    try_all(psql)
    first, second, third = connect(), connect(), connect()
    # Each takes another webhook while the other's transaction is open.
    moved = [go_on(first), go_on(second), go_on(third)]
    assert sorted(row[0] for rows in moved for row in rows) == webhooks
    assert moved[2] == []
    for bridge in first, second:
        bridge.commit()
    assert queued(psql) == 4 * BATCH


def test_batch_skips_a_webhook_that_is_being_settled_or_deleted(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, BATCH + 1)
    redeliver(psql, webhook)
    try_all(psql)
    courier = connect()
    courier.execute("select from bridge.webhooks where id = %s for no key update", [webhook])
    assert go_on(psql.session) == []
    courier.rollback()
    assert go_on(psql.session) == [(webhook, BATCH + 1, "finished")]


def test_counting_waits_for_no_lock_and_takes_none(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, BATCH + 1)
    other = connect()
    other.execute("select from bridge.webhooks where id = %s for update", [webhook])
    counting = connect()
    [(count,)] = counting.execute(
        "select bridge.redeliver_failed(%s, '-infinity', p_dry_run => true)", [webhook]
    ).fetchall()
    assert count == BATCH + 1
    other.rollback()
    psql.run("delete from bridge.webhooks where id = %s", webhook)


def test_redelivery_is_cancelled(psql: Psql) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, 2 * BATCH)
    redeliver(psql, webhook)
    try_all(psql)
    assert psql.value("select bridge.cancel_redelivery(%s)", webhook) is True
    assert go_on(psql.session) == []
    assert queued(psql) == BATCH
    assert psql.value("select state from bridge.redeliveries") == "cancelled"
    assert psql.value("select bridge.cancel_redelivery(%s)", webhook) is False
    assert psql.rows(
        "select action, changes from bridge.audit_log"
        " where action like '%redeliver%' order by id desc limit 1"
    ) == [("webhook.redelivery_cancelled", {"requeued": BATCH, "count": 2 * BATCH})]
    said = refused(psql, psycopg.errors.NoDataFound, "select bridge.cancel_redelivery(0)")
    assert said == "there is no webhook 0"
    # The rest can be redelivered again.
    assert redeliver(psql, webhook) == BATCH


def test_webhook_has_one_redelivery_at_a_time(psql: Psql) -> None:
    webhook, other = psql.webhook(), psql.webhook()
    add_failures(psql.session, webhook, BATCH + 1)
    redeliver(psql, webhook)
    again = "select bridge.redeliver_failed(%s, '-infinity')"
    said = refused(psql, psycopg.errors.ObjectNotInPrerequisiteState, again, webhook)
    assert said == f"webhook {webhook} has a running redelivery"
    assert psql.value(f"{again[:-1]}, p_dry_run => true)", webhook) == 1
    assert psql.value(again, other) == 0
    assert psql.value("select count(*) from bridge.redeliveries") == 2


def test_delivery_that_fails_again_is_not_redelivered_twice(psql: Psql) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, BATCH + 1)
    # Into the future: what fails again is in the range as well.
    psql.run(
        "select bridge.redeliver_failed(%s, '-infinity', now() + interval '1 day', false, %s)",
        webhook,
        FAST,
    )
    for (delivery,) in psql.rows("select id from bridge.delivery_queue order by id limit 3"):
        psql.finish(delivery)
    try_all(psql)
    assert go_on(psql.session) == [(webhook, BATCH + 1, "finished")]
    assert queued(psql) == BATCH + 1 - 3


def test_deleted_webhook_ends_its_redelivery(psql: Psql) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, BATCH + 1)
    redeliver(psql, webhook)
    psql.run("delete from bridge.webhooks where id = %s", webhook)
    assert psql.rows("select from bridge.redeliveries") == []
    assert go_on(psql.session) == []


@pytest.mark.parametrize("lost", ["event", "failure"])
def test_redelivery_ends_without_what_has_expired_meanwhile(psql: Psql, lost: str) -> None:
    webhook = psql.webhook()
    day = LONG_AGO + timedelta(days=40 if lost == "event" else 41)
    psql.make_day(day)
    add_failures(psql.session, webhook, BATCH)
    add_failures(psql.session, webhook, 2, at=day)
    add_failures(psql.session, webhook, 3)
    assert redeliver(psql, webhook) == BATCH + 5
    if lost == "event":
        psql.run("delete from bridge.events where recorded_at = %s", day)
    else:
        psql.value("select bridge.drop_expired_partition('delivery_log_failed', %s)", KEPT_DAYS)
    try_all(psql)
    assert go_on(psql.session) == [(webhook, BATCH + 3, "finished")]
    assert psql.value("select matched from bridge.redeliveries") == BATCH + 5
    psql.assert_counts_are_exact()


def test_batch_reads_a_bounded_number_of_deliveries(psql: Psql) -> None:
    webhook = psql.webhook()
    now = datetime.now(UTC)
    earlier, since = now.replace(hour=0, minute=0), now.replace(hour=0, minute=0, second=59)
    add_failures(psql.session, webhook, 10 * BATCH + 1, at=earlier.replace(second=0, microsecond=0))
    add_failures(psql.session, webhook, 2, at=since)
    assert psql.value("select bridge.redeliver_failed(%s, %s)", webhook, since) == 2
    # The batch has read ten thousand deliveries that are too old, and moved none.
    assert psql.rows("select requeued, state from bridge.redeliveries") == [(0, "running")]
    assert go_on(psql.session) == [(webhook, 2, "finished")]


def test_successes_of_a_range_are_redelivered_too(psql: Psql) -> None:
    webhook = psql.webhook()
    add_failures(psql.session, webhook, 2)
    psql.finished(webhook, "success")
    range_ = "select bridge.redeliver_finished(%s, '-infinity', p_status => %s, p_dry_run => %s)"
    assert psql.value(range_, webhook, "success", True) == 1
    assert psql.value(range_, webhook, None, False) == queued(psql) == 3
    psql.assert_counts_are_exact()
    said = refused(psql, psycopg.errors.InvalidParameterValue, range_, webhook, "pending", True)
    assert said == "p_status must be success, failed or null"


def test_requeue_takes_a_bounded_number_of_ids(psql: Psql) -> None:
    said = refused(
        psql,
        psycopg.errors.InvalidParameterValue,
        "select bridge.requeue(1, array(select * from generate_series(1::bigint, 10001)), 20)",
    )
    assert said == "cannot requeue 10001 deliveries at once: at most 10000"


@pytest.mark.parametrize("statistics", ["select", "analyze"])
def test_thirty_thousand_failures_move_a_thousand_at_a_time(psql: Psql, statistics: str) -> None:
    webhook, other = psql.webhook(), psql.webhook()
    for each in webhook, other, webhook:
        add_failures(psql.session, each, 15 * BATCH)
    psql.run(statistics)
    assert redeliver(psql, webhook) == 30 * BATCH
    sizes, read = [queued(psql)], []
    state = "running"
    while state == "running":
        try_all(psql)
        with psql.session.transaction():
            before = rows_read(psql)
            [(_, requeued, state)] = go_on(psql.session)
            read.append(rows_read(psql) - before)
        sizes.append(requeued - sum(sizes))
    assert sizes == [BATCH] * 30 + [0]
    # Of each delivery: to choose it, to move it, and its event.
    assert max(read) <= 3 * BATCH


async def test_running_bridges_deliver_all_of_it_once(bridge_url: str, bot: Bot) -> None:
    async with (
        receiving() as receiver,
        delivering(bridge_url),
        open_database(bridge_url) as database,
    ):
        webhook = add_webhook(bot, receiver.url("/"), max_concurrency=16)
        add_failures(bot, webhook, BATCH + 20)
        bot.execute(
            "select bridge.redeliver_failed(%s, '-infinity', null, false, %s)", (webhook, FAST)
        )
        async with trio.open_nursery() as bridges:
            for _ in range(2):
                bridges.start_soon(continue_redeliveries, database)
            await until_true(bot, "(select state = 'finished' from bridge.redeliveries)")
            await until_true(bot, "not exists (select from bridge.delivery_queue)")
            bridges.cancel_scope.cancel()
    assert len(receiver.requests) == BATCH + 20
