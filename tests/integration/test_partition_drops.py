"""Dropping expired partitions while others read, settle and redeliver."""

import re
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import psycopg
import pytest

from bridge.assets import query
from tests.integration.psql import KEPT_DAYS, LONG_AGO, Psql, Session, refused, together


def drop(session: Session, parent: str) -> str | None:
    row = session.execute(
        "select bridge.drop_expired_partition(%s, %s)", [parent, KEPT_DAYS]
    ).fetchone()
    return row[0] if row else None


def drop_all(psql: Psql) -> None:
    """Drop every expired day."""
    for parent in "delivery_log_failed", "delivery_log_success", "delivery_attempts", "events":
        while drop(psql.session, parent):
            pass


def name(parent: str, day: datetime) -> str:
    return f"{parent}_p{day:%Y%m%d}"


def test_dropped_day_is_subtracted_from_the_counts(psql: Psql) -> None:
    drop_all(psql)
    days = [LONG_AGO + timedelta(days=20 + n) for n in range(2)]
    one, other, deleted = (psql.webhook() for _ in range(3))
    for day in days:
        psql.make_day(day)
        for webhook in one, one, other, deleted:
            psql.finished(webhook, at=day)
        psql.finished(one, "success", at=day)
    psql.finished(one)
    psql.run("delete from bridge.webhooks where id = %s", deleted)
    counts = "select delivered_count, failed_count from bridge.webhooks where id = %s"
    assert psql.rows(counts, one) == [(2, 5)]
    assert drop(psql.session, "delivery_log_failed") == name("delivery_log_failed", days[0])
    assert psql.rows(counts, one) == [(2, 3)]
    assert psql.rows(counts, other) == [(0, 1)]
    psql.assert_counts_are_exact()
    assert drop(psql.session, "delivery_log_success") == name("delivery_log_success", days[0])
    assert psql.rows(counts, one) == [(1, 3)]
    kept = "select name, url, event_type, failed_count from bridge.deleted_webhooks where id = %s"
    assert psql.rows(kept, deleted) == [("n", "http://receiver", "t", 1)]
    assert drop(psql.session, "delivery_log_failed") == name("delivery_log_failed", days[1])
    assert psql.rows(kept, deleted) == []
    assert drop(psql.session, "delivery_log_failed") is None
    assert psql.rows(counts, one) == [(1, 1)]


def test_day_with_pending_events_is_kept(psql: Psql) -> None:
    drop_all(psql)
    days = [LONG_AGO + timedelta(days=30 + n) for n in range(2)]
    for day in days:
        psql.make_day(day)
    webhook = psql.webhook()
    pending = psql.pending(webhook, at=days[0])
    # A recent delivery of an old event is pending again after its redelivery.
    redelivered = psql.pending(webhook, at=days[1])
    psql.finish(redelivered)
    psql.run("select bridge.redeliver(%s)", redelivered)
    assert drop(psql.session, "events") is None
    psql.finish(pending)
    assert drop(psql.session, "events") == name("events", days[0])
    psql.finish(redelivered)
    assert drop(psql.session, "events") == name("events", days[1])


def test_drop_ignores_tables_that_are_no_partitions(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    drop_all(psql)
    day = LONG_AGO + timedelta(days=35)
    psql.make_day(day)
    upkeep = connect()
    upkeep.execute("set enable_nestloop = off")
    upkeep.execute("set enable_indexscan = off")
    upkeep.execute("set enable_bitmapscan = off")
    for parent in "events", "delivery_attempts", "delivery_log_success", "delivery_log_failed":
        assert drop(upkeep, parent) == name(parent, day)
    upkeep.commit()


def test_drop_and_redelivery_exclude_each_other(psql: Psql, connect: Callable[[], Session]) -> None:
    drop_all(psql)
    day = LONG_AGO + timedelta(days=40)
    psql.make_day(day)
    webhook = psql.webhook()
    delivery = psql.finished(webhook, at=day)
    operator, upkeep = connect(), connect()
    operator.execute("select bridge.redeliver(%s)", [delivery])
    for parent in "events", "delivery_log_failed":
        with pytest.raises(psycopg.errors.LockNotAvailable):
            drop(upkeep, parent)
        upkeep.rollback()
    operator.commit()
    # The event is pending now, so its day is kept.
    assert drop(psql.session, "events") is None
    # The other way round: the redelivery waits for the drop and then succeeds.
    psql.finish(delivery)
    assert drop(upkeep, "delivery_log_failed") == name("delivery_log_failed", day)
    [refusal, _] = together(
        lambda: psql_error(connect(), "select bridge.redeliver(%s)", delivery),
        lambda: commit_when(psql.waiting, upkeep),
    )
    assert refusal is None
    assert psql.queued(delivery)["is_redelivery"]
    psql.finish(delivery)


def psql_error(session: Session, sql: str, *values: object) -> str | None:
    try:
        session.execute(sql.encode(), values)
        session.commit()
    except psycopg.Error as error:
        return str(error.diag.message_primary)
    return None


def commit_when(holds: Callable[[], bool], session: Session) -> None:
    """Commit as soon as a condition holds."""
    while not holds():
        pass
    session.commit()


def settle_one(session: Session, webhook_id: int, delivery: int, token: str) -> None:
    """Settle a success with the courier's query."""
    sql = re.sub(r"\$(\d+)", r"%(p\1)s", query("settle").replace("%", "%%"))
    values: Sequence[object] = (
        [delivery], [token], [webhook_id], [1], ["now"], ["now"], ["success"], [0.0], [200],
        [None], [None], [None], [None], [0.0], [False], 432_000.0, 0.0,
    )  # fmt: skip
    session.execute(sql.encode(), {f"p{n}": value for n, value in enumerate(values, 1)})


def test_long_reader_defeats_the_drop_but_blocks_no_settle(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    drop_all(psql)
    day = LONG_AGO + timedelta(days=50)
    psql.make_day(day)
    webhook = psql.webhook()
    psql.finished(webhook, "success", at=day)
    counts = "select delivered_count, failed_count from bridge.webhooks where id = %s"
    reader, courier = connect(), connect()
    reader.execute("select count(*) from bridge.delivery_log")
    reader.execute("select 1")
    tokens = {
        psql.pending(webhook, lease_token=token, leased_until=LONG_AGO): token
        for token in (f"00000000-0000-0000-0000-{n:012}" for n in range(20))
    }
    # If the drop blocked a settle for its whole duration, this timeout would fail the settle.
    courier.execute("set lock_timeout = '200ms'")
    courier.commit()
    settled = 0
    given_up = threading.Event()

    def give_up() -> str | None:
        session = connect()
        try:
            return psql_error(
                session, "select bridge.drop_expired_partition('delivery_log_success', 30)"
            )
        finally:
            given_up.set()

    def settle_meanwhile() -> int:
        nonlocal settled
        for delivery, token in tokens.items():
            settle_one(courier, webhook, delivery, token)
            courier.commit()
            settled += 1
            if given_up.wait(0.01):
                break
        return settled

    said, meanwhile = together(give_up, settle_meanwhile)
    assert said == "canceling statement due to lock timeout"
    assert meanwhile == settled > 1
    assert psql.rows(counts, webhook) == [(1 + settled, 0)]
    psql.assert_counts_are_exact()
    reader.rollback()
    assert drop(psql.session, "delivery_log_success") == name("delivery_log_success", day)
    assert psql.rows(counts, webhook) == [(settled, 0)]


def test_drop_gives_up_on_a_locked_webhook(psql: Psql, connect: Callable[[], Session]) -> None:
    drop_all(psql)
    day = LONG_AGO + timedelta(days=60)
    psql.make_day(day)
    webhook = psql.webhook()
    psql.finished(webhook, at=day)
    operator = connect()
    operator.execute("select bridge.pause_webhook(%s)", [webhook])
    refused(
        psql,
        psycopg.errors.LockNotAvailable,
        "select bridge.drop_expired_partition('delivery_log_failed', 30)",
    )
    psql.assert_counts_are_exact()
    operator.rollback()
    drop_all(psql)
    assert psql.value("show lock_timeout") == "0"


def test_settle_and_drop_do_not_deadlock(psql: Psql, connect: Callable[[], Session]) -> None:
    drop_all(psql)
    day = LONG_AGO + timedelta(days=70)
    psql.make_day(day)
    webhook = psql.webhook()
    psql.finished(webhook, "success", at=day)
    token = "00000000-0000-0000-0000-000000000099"
    delivery = psql.pending(webhook, lease_token=token, leased_until=LONG_AGO)
    courier = connect()
    # The courier holds its locks and is about to commit.
    settle_one(courier, webhook, delivery, token)

    dropping = connect()
    dropped, _ = together(
        lambda: drop(dropping, "delivery_log_success"),
        lambda: commit_when(psql.waiting, courier),
    )
    dropping.commit()
    assert dropped == name("delivery_log_success", day)
