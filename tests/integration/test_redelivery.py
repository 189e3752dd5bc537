"""Redelivery by the functions of schema bridge."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from bridge.delivery.signing import message_id
from tests.integration.psql import LONG_AGO, Psql, Session, refused, together
from tests.waiting import notifications


@pytest.mark.parametrize("outcome", ["success", "failed"])
def test_redelivery_keeps_the_id_and_the_attempt_count(psql: Psql, outcome: str) -> None:
    webhook = psql.webhook()
    delivery = psql.pending(webhook, captured_at=LONG_AGO, committed_at=LONG_AGO)
    before = psql.queued(delivery)
    psql.finish(delivery, outcome)
    psql.run("listen bridge_deliveries")
    assert psql.value("select bridge.redeliver(%s)", delivery) is True
    after = psql.queued(delivery)
    kept = ["webhook_id", "event_id", "event_recorded_at", "event_type", "created_at"]
    kept += ["captured_at", "committed_at"]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert message_id(after["event_id"], webhook) == message_id(before["event_id"], webhook)
    assert (after["attempt_number"], after["attempts_before"]) == (3, 3)
    assert (after["is_redelivery"], after["error_message"]) == (True, "HTTP 500")
    assert psql.value(
        "select next_attempt_at <= now() from bridge.delivery_queue where id = %s", delivery
    )
    assert psql.rows("select id from bridge.delivery_log where id = %s", delivery) == []
    assert notifications(psql.session)
    psql.assert_counts_are_exact()
    psql.finish(delivery, "success")
    assert psql.value("select attempt_number from bridge.delivery_log where id = %s", delivery) == 6


def test_redelivering_a_pending_delivery_sends_it_now(psql: Psql) -> None:
    later = datetime.now(UTC) + timedelta(hours=5)
    retrying = psql.pending(psql.webhook(), next_attempt_at=later, attempt_number=2)
    assert psql.value("select bridge.redeliver(%s)", retrying) is False
    row = psql.queued(retrying)
    assert row["next_attempt_at"] <= datetime.now(UTC)
    assert (row["attempt_number"], row["attempts_before"], row["is_redelivery"]) == (2, 0, False)
    # An overdue delivery keeps its place.
    overdue = psql.pending(psql.webhook(), next_attempt_at=LONG_AGO)
    psql.run("select bridge.redeliver(%s)", overdue)
    assert psql.queued(overdue)["next_attempt_at"] == LONG_AGO


def test_impossible_redelivery_says_why(psql: Psql) -> None:
    said = refused(psql, psycopg.errors.NoDataFound, "select bridge.redeliver(0)")
    assert said == "there is no delivery 0"
    webhook = psql.webhook()
    delivery = psql.finished(webhook)
    psql.run("delete from bridge.webhooks where id = %s", webhook)
    impossible = psycopg.errors.ObjectNotInPrerequisiteState
    said = refused(psql, impossible, "select bridge.redeliver(%s)", delivery)
    assert said == f"the webhook of delivery {delivery} is deleted"
    delivery = psql.finished(psql.webhook())
    psql.run(
        "delete from bridge.events where id ="
        " (select event_id from bridge.delivery_log where id = %s)",
        delivery,
    )
    said = refused(psql, impossible, "select bridge.redeliver(%s)", delivery)
    assert said == f"the event of delivery {delivery} is no longer in the log"


def test_redeliver_works_inside_a_query(psql: Psql) -> None:
    webhook = psql.webhook()
    deliveries = [psql.finished(webhook) for _ in range(5)]
    redelivered = psql.rows(
        "select id, bridge.redeliver(id) from bridge.webhook_deliveries"
        " where webhook_id = %s and status = 'failed'",
        webhook,
    )
    assert sorted(redelivered) == [(delivery, True) for delivery in deliveries]


def test_redeliver_failed_requeues_exactly_the_range(psql: Psql) -> None:
    webhook, other = psql.webhook(), psql.webhook()
    days = [LONG_AGO + timedelta(days=10 + n) for n in range(4)]
    for day in days:
        psql.make_day(day)
    failed = [psql.finished(webhook, at=day) for day in days]
    psql.finished(webhook, "success", at=days[1])
    psql.finished(other, at=days[1])
    lost = psql.finished(webhook, at=days[1])
    psql.run(
        "delete from bridge.events where id ="
        " (select event_id from bridge.delivery_log where id = %s)",
        lost,
    )
    redeliver = "select bridge.redeliver_failed(%s, %s, %s, %s)"
    for dry_run in True, None, False:
        assert psql.value(redeliver, webhook, days[1], days[3], dry_run) == 2
        queued = psql.rows(
            "select id from bridge.delivery_queue where webhook_id in (%s, %s) order by id",
            webhook,
            other,
        )
        assert queued == ([] if dry_run is not False else [(failed[1],), (failed[2],)])
        psql.assert_counts_are_exact()
    # p_until is exclusive. Without it, the rest is found.
    assert psql.value(redeliver, webhook, days[0], None, True) == 2


def test_redelivery_is_spaced_out_in_order(psql: Psql) -> None:
    webhook = psql.webhook()
    deliveries = [psql.finished(webhook) for _ in range(5)]
    assert (
        psql.value(
            "select bridge.redeliver_failed(%s, now() - interval '1 hour', p_per_second => 0.5)",
            webhook,
        )
        == 5
    )
    due = [psql.queued(delivery)["next_attempt_at"] for delivery in deliveries]
    waits = [(later - sooner).total_seconds() for sooner, later in pairwise(due)]
    assert waits == pytest.approx([2, 2, 2, 2], abs=0.1)
    assert due[0] <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("0, now()", "there is no webhook 0"),
        ("{webhook}, null", "p_since must not be null"),
        ("{webhook}, now(), p_per_second => 0", "p_per_second must be between 0.001 and 100000"),
        ("{webhook}, now(), p_per_second => 'NaN'", "p_per_second must be between"),
        ("{webhook}, now(), p_per_second => null", "p_per_second must be between"),
    ],
)
def test_redeliver_failed_rejects_invalid_arguments(psql: Psql, arguments: str, said: str) -> None:
    arguments = arguments.format(webhook=psql.webhook())
    with pytest.raises(psycopg.Error, match=re.escape(said)):
        psql.run(f"select bridge.redeliver_failed({arguments})")


def test_concurrent_redelivery_moves_a_delivery_once(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    webhook = psql.webhook()
    delivery = psql.finished(webhook)
    # All sessions find it finished and wait for the webhook.
    holder = connect()
    holder.execute("select from bridge.webhooks where id = %s for update", [webhook])
    sessions = [connect() for _ in range(4)]

    def redeliver(session: Session) -> object:
        row = session.execute("select bridge.redeliver(%s)", [delivery]).fetchone()
        session.commit()
        return row

    def release() -> None:
        while psql.value("select count(*) from pg_locks where not granted") < len(sessions):
            pass
        holder.rollback()

    *moved, _ = together(*(lambda s=s: redeliver(s) for s in sessions), release)
    assert sorted(map(repr, moved)) == ["(False,)"] * 3 + ["(True,)"]
    assert psql.queued(delivery)["attempt_number"] == 3


def test_concurrent_range_redelivery_moves_each_once(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    webhook = psql.webhook()
    for _ in range(20):
        psql.finished(webhook)

    def redeliver() -> Any:
        session = connect()
        row = session.execute(
            "select bridge.redeliver_failed(%s, now() - interval '1 hour')", [webhook]
        ).fetchone()
        session.commit()
        return row[0] if row else None

    moved = together(*[redeliver] * 4)
    assert sum(moved) == 20  # type: ignore[arg-type]
