"""The views for operators, and what the statistics cost."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bridge.assets import query
from tests.integration.psql import LONG_AGO, Psql, Session


def test_backlog_counts_each_kind_of_pending_delivery(psql: Psql) -> None:
    webhook, idle = psql.webhook(), psql.webhook()
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    token = "00000000-0000-0000-0000-000000000001"
    psql.pending(webhook, created_at=now - 2 * hour)
    psql.pending(webhook, leased_until=now + hour, lease_token=token)
    psql.pending(webhook, leased_until=now - hour, lease_token=token)
    psql.pending(webhook, next_attempt_at=now + hour, attempt_number=1)
    psql.pending(webhook, next_attempt_at=now + hour, is_redelivery=True, created_at=LONG_AGO)
    row = psql.row("select * from bridge.backlog where webhook_id = %s", webhook)
    counts = ("pending", "in_flight", "due", "waiting_for_retry", "redeliveries")
    assert [row[name] for name in counts] == [5, 1, 2, 1, 1]
    assert row["oldest_created_at"] == now - 2 * hour
    assert row["oldest_seconds"] == pytest.approx(7200, abs=30)
    row = psql.row("select * from bridge.backlog where webhook_id = %s", idle)
    assert [row[name] for name in counts] == [0] * 5
    assert row["oldest_seconds"] is row["next_attempt_at"] is None


def test_health_of_an_hour_and_of_a_day_is_exact(psql: Psql) -> None:
    webhook, idle = psql.webhook(), psql.webhook()
    psql.make_day(datetime.now(UTC) - timedelta(days=2))

    def attempts(minutes_ago: int, error: str | None, *seconds: float) -> None:
        psql.run(
            """insert into bridge.delivery_attempts
                   (delivery_id, webhook_id, attempt_number, started_at, finished_at, error_message)
               select 0, %s, 1, at - make_interval(secs => s), at, %s
               from unnest(%s::float8[]) as s,
                    (select now() - make_interval(mins => %s)) as t(at)""",
            webhook,
            error,
            list(seconds),
            minutes_ago,
        )

    def acknowledged(minutes_ago: int, *seconds: float) -> None:
        psql.run(
            """insert into bridge.delivery_log
                   (id, webhook_id, event_id, event_recorded_at, event_type, status,
                    attempt_number, created_at, committed_at, acknowledged_at, finished_at)
               select nextval('bridge.event_id') + 1000000, %s, 0, now(), 't', 'success', 1, now(),
                      at - make_interval(secs => s), at, at
               from unnest(%s::float8[]) as s,
                    (select now() - make_interval(mins => %s)) as t(at)""",
            webhook,
            list(seconds),
            minutes_ago,
        )
        psql.run(
            "update bridge.webhooks set delivered_count = delivered_count + %s where id = %s",
            len(seconds),
            webhook,
        )

    attempts(5, None, 1, 2, 3)
    attempts(50, "HTTP 500", 4, 5)
    attempts(90, None, 6, 7, 8)
    attempts(25 * 60, "HTTP 500", 1000)
    acknowledged(5, 10, 20)
    acknowledged(50, 30)
    acknowledged(90, 40, 50)
    acknowledged(25 * 60, 9999)

    row = psql.row("select * from bridge.webhook_health where webhook_id = %s", webhook)
    assert row["state"] == "delivering"
    assert (row["attempts_hour"], row["attempts_day"]) == (5, 8)
    assert (float(row["success_rate_hour"]), float(row["success_rate_day"])) == (60.0, 75.0)
    figures = {
        "answer_p50_hour": 3,
        "answer_p95_hour": 4.8,
        "answer_p50_day": 4.5,
        "answer_p95_day": 7.65,
        "commit_to_acknowledged_p50_hour": 20,
        "commit_to_acknowledged_p95_hour": 29,
        "commit_to_acknowledged_p50_day": 30,
        "commit_to_acknowledged_p95_day": 48,
    }
    assert {name: row[name] for name in figures} == pytest.approx(figures)

    row = psql.row("select * from bridge.webhook_health where webhook_id = %s", idle)
    assert (row["attempts_hour"], row["attempts_day"], row["pending"]) == (0, 0, 0)
    assert {row[name] for name in (*figures, "success_rate_hour", "success_rate_day")} == {None}


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({}, "delivering"),
        ({"failure_share": 1}, "delivering"),
        ({"probe_at": LONG_AGO}, "failing"),
        ({"probe_at": LONG_AGO, "paused_at": LONG_AGO}, "paused"),
        ({"is_active": False}, "off"),
        ({"is_active": False, "paused_at": LONG_AGO}, "off"),
        ({"is_active": False, "disabled_reason": "gone"}, "disabled"),
    ],
)
def test_webhook_has_one_state(psql: Psql, columns: dict[str, object], state: str) -> None:
    webhook = psql.webhook(**columns)
    assert (
        psql.value("select state from bridge.webhook_health where webhook_id = %s", webhook)
        == state
    )


# --- cost


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the plan nodes that read a partition of the delivery log."""
    if str(plan.get("Relation Name", "")).startswith("delivery_log"):
        yield plan
    for below in plan.get("Plans", ()):
        yield from scans(below)


def explained(session: Session, sql: str) -> list[dict[str, Any]]:
    row = session.execute(f"explain (analyze, format json) {sql}".encode()).fetchone()
    assert row is not None
    return list(scans(row[0][0]["Plan"]))


def fill_log(session: Session, webhook_id: int, count: int) -> None:
    """Log deliveries of a webhook and as many of others, half of them successes, over two days."""
    session.execute(
        """
        insert into bridge.delivery_log
            (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
             created_at, finished_at)
        select 1000000 + n, case mod(n, 2) when 0 then %s else 0 end, 0, now(), 't',
               case mod(n / 2, 2) when 0 then 'success' else 'failed' end, 1, now(),
               now() - mod(n / 4, 2) * interval '1 day'
        from generate_series(1, %s) as n""",
        [webhook_id, 2 * count],
    )
    session.execute("analyze bridge.delivery_log")


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
def test_counts_do_not_scan_the_log(psql: Psql, connect: Callable[[], Session], plans: str) -> None:
    webhook = psql.webhook()
    session = connect()
    fill_log(session, webhook, 8000)
    session.execute(f"set local plan_cache_mode = {plans}".encode())
    assert explained(session, query("webhook_stats")) == []
    for number, (name, types) in enumerate(
        {
            "list_webhooks": "bigint, text, boolean, bigint, bigint",
            "list_deliveries": "bigint, text, bigint, bigint, bigint, bigint, bigint",
        }.items()
    ):
        session.execute(f"prepare q{number}({types}) as {query(name)}".encode())
    assert explained(session, "execute q0(null, null, null, 50, 0)") == []
    for status in "null", "'success'", "'failed'":
        for before in "null", "1008000":
            page = explained(session, f"execute q1({webhook}, {status}, 11, 0, 10, {before}, 1000)")
            assert page
            for scan in page:
                read = scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)
                assert read * scan["Actual Loops"] <= 22, scan
