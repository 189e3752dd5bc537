"""Bridges record their activity, and the overview summarizes it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import trio
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from bridge.database.identity import bridge_name
from bridge.database.pool import Database, Row, open_database
from bridge.database.sessions import open_session
from bridge.operations import gauges
from bridge.operations.activity import Activity
from bridge.operations.overview import Overview, overview
from bridge.operations.status import read_status
from bridge.telemetry import metrics
from bridge.telemetry.histogram import BOUNDS, BUCKETS
from tests.integration.delivering import delivering
from tests.integration.delivering import enqueue as enqueue_deliveries
from tests.integration.relaying import relaying
from tests.receiver import answer, receiving
from tests.system.processes import as_service
from tests.waiting import PATIENCE_SECONDS, until
from tests.webhook_rows import add_webhook

Bot = psycopg.Connection[tuple[Any, ...]]

ONE_FAST = [1] + [0] * (BUCKETS - 1)


def report(bot: Bot, bridge: str, seconds_ago: float, **columns: object) -> None:
    """Insert a report of a bridge."""
    row: dict[str, object] = {
        "bridge": bridge,
        "version": "1.0",
        "seconds": 10.0,
        "is_last": False,
        "clients": 0,
        "in_flight": 0,
        "clients_dropped": 0,
        "events_drained": 0,
        "events_streamed": 0,
        "delivered": 0,
        "retried": 0,
        "failed": 0,
    } | columns
    bot.execute(
        f"insert into bridge.activity (recorded_at, {', '.join(row)})"
        f" values (now() - make_interval(secs => %s), {', '.join(['%s'] * len(row))})".encode(),
        (seconds_ago, *row.values()),
    )


def look(url: str, minutes: int = 60, point_seconds: int = 60) -> Overview:
    with open_session(url) as connection:
        return read_status(connection, minutes=minutes, point_seconds=point_seconds).overview


def running(url: str) -> list[str]:
    return [each.bridge for each in look(url).bridges]


def test_bridge_runs_while_its_latest_report_is_recent(bridge_url: str, bot: Bot) -> None:
    report(bot, "young:1", 20)
    report(bot, "died:2", 40)
    report(bot, "stopped:3", 12)
    report(bot, "stopped:3", 2, is_last=True)
    report(bot, "restarted:4", 12, is_last=True)
    report(bot, "restarted:4", 2)
    assert running(bridge_url) == ["restarted:4", "young:1"]


def test_clock_that_was_set_back_hides_no_bridge(bridge_url: str, bot: Bot) -> None:
    for bridge in ("runs:1", "died:2"):
        report(bot, bridge, -3600, events_drained=1_000_000)
    report(bot, "runs:1", 5, events_drained=100)
    report(bot, "died:2", 40)
    assert running(bridge_url) == ["runs:1"]
    assert look(bridge_url).rates.events_per_second == pytest.approx(10)


def test_rates_cover_the_last_minute_of_running_bridges(bridge_url: str, bot: Bot) -> None:
    with bot.transaction():  # all have the same now()
        for age in range(5, 85, 10):
            counts = {"events_drained": 100, "events_streamed": 300, "delivered": 20, "retried": 10}
            report(bot, "a:1", age, **counts)
    report(bot, "b:2", 3, events_streamed=70)
    report(bot, "died:3", 45, events_streamed=10_000)
    rates = look(bridge_url).rates
    assert rates.events_per_second == pytest.approx(10)
    # The report of bridge b covers ten seconds.
    assert rates.streamed_per_second == pytest.approx(37)
    assert rates.deliveries_per_second == pytest.approx(2)
    assert rates.attempts_per_second == pytest.approx(3)


def test_report_that_starts_before_the_minute_counts_in_part(bridge_url: str, bot: Bot) -> None:
    with bot.transaction():
        report(bot, "a:1", 55, seconds=300, events_drained=30_000)
        report(bot, "a:1", 5, seconds=50, events_drained=0)
    # Ten of its three hundred seconds are within the minute.
    assert look(bridge_url).rates.events_per_second == pytest.approx(1000 / 60)


def test_points_add_up_all_bridges_and_have_no_gaps(bridge_url: str, bot: Bot) -> None:
    # In one transaction, so that all reports share one now().
    with bot.transaction():
        for bridge, clients in (("a:1", 10), ("b:2", 5)):
            report(bot, bridge, 121, clients=99, events_drained=1, commit_to_client=ONE_FAST)
            report(
                bot,
                bridge,
                120,
                clients=clients,
                clients_dropped=1,
                events_drained=2,
                events_streamed=3,
                delivered=4,
                retried=5,
                failed=6,
                commit_to_acknowledged=ONE_FAST,
            )
    report(bot, "old:3", 3600 * 3, events_drained=1000)
    overviewed = look(bridge_url, minutes=60, point_seconds=3600)
    points = overviewed.points
    # An hour may begin between the two reports: they are in one point or in two.
    assert [each.events for each in points if each.bridges] in ([6], [2, 4])
    assert points[-1].at <= overviewed.at < points[-1].at + timedelta(hours=1)

    points = look(bridge_url, minutes=5, point_seconds=1).points
    assert 300 <= len(points) <= 301
    [earlier, newest] = [each for each in points if each.bridges]
    assert (newest.at - earlier.at) == timedelta(seconds=1)
    assert (earlier.bridges, earlier.clients, earlier.events) == (2, 198, 2)
    assert earlier.commit_to_client.p50_seconds == BOUNDS[0] / 2
    assert earlier.commit_to_acknowledged.p50_seconds is None
    assert (newest.bridges, newest.clients, newest.clients_dropped) == (2, 15, 2)
    assert (newest.events, newest.streamed) == (4, 6)
    assert (newest.delivered, newest.retried, newest.failed) == (8, 10, 12)
    assert newest.commit_to_acknowledged.p95_seconds == pytest.approx(BOUNDS[0] * 0.95)
    assert all(each.events == 0 for each in points if not each.bridges)


def webhook(bot: Bot, name: str, columns: str = "is_active", value: str = "true") -> int:
    found = bot.execute(
        f"insert into bridge.webhooks (name, url, event_type, {columns})"
        f" values (%s, 'http://127.0.0.1', '*', {value}) returning id".encode(),
        (name,),
    ).fetchone()
    assert found is not None
    return int(found[0])


def enqueue(bot: Bot, webhook_id: int, count: int, due: str, leased: str = "null") -> None:
    token = "null" if leased == "null" else "gen_random_uuid()"
    bot.execute(
        "insert into bridge.delivery_queue (webhook_id, event_id, event_recorded_at, event_type,"
        " next_attempt_at, leased_until, lease_token, is_redelivery)"
        f" select %s, n, now(), 'a.b', {due}, {leased}, {token}, n %% 2 = 0"
        " from generate_series(1, %s) as n".encode(),
        (webhook_id, count),
    )


def test_every_delivery_is_in_one_state(bridge_url: str, bot: Bot) -> None:
    fine = webhook(bot, "fine")
    enqueue(bot, fine, 3, "now() - interval '90 seconds'")
    enqueue(bot, fine, 2, "now() + interval '1 hour'")
    enqueue(bot, fine, 4, "now() - interval '1 hour'", "now() + interval '1 minute'")
    held = [
        webhook(bot, "paused", "paused_at", "now()"),
        webhook(bot, "off", "is_active", "false"),
        webhook(bot, "disabled", "is_active, disabled_reason", "false, 'gone'"),
        webhook(bot, "failing", "probe_at", "now()"),
    ]
    for each in held:
        enqueue(bot, each, 10, "now() - interval '1 day'")
    # Bridges report the deliveries that they have leased.
    report(bot, "a:1", 1, in_flight=4)
    overviewed = look(bridge_url)
    queue = overviewed.delivery_queue
    assert (queue.due.count, queue.scheduled.count, queue.in_flight.count, queue.held.count) == (
        3,
        2,
        4,
        40,
    )
    assert queue.oldest_due_seconds is not None
    assert 90 <= queue.oldest_due_seconds < 3600
    assert overviewed.webhooks == {
        "delivering": 1,
        "failing": 1,
        "paused": 1,
        "disabled": 1,
        "off": 1,
    }


def test_delivery_with_an_expired_lease_is_due(bridge_url: str, bot: Bot) -> None:
    enqueue(bot, webhook(bot, "n"), 1, "now()", "now() - interval '1 second'")
    assert look(bridge_url).delivery_queue.due.count == 1


def test_long_queue_of_one_webhook_hides_no_other(bridge_url: str, bot: Bot) -> None:
    enqueue(bot, webhook(bot, "paused", "paused_at", "now()"), 10_100, "now()")
    enqueue(bot, webhook(bot, "later"), 10_100, "now() + interval '1 hour'")
    enqueue(bot, webhook(bot, "due"), 2, "now() - interval '1 second'")
    queue = look(bridge_url).delivery_queue
    assert (queue.held.more, queue.scheduled.more, queue.due.count) == (True, True, 2)


def test_overview_has_outbox_drainer_and_doorbell(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.outbox (event_type, payload, captured_at)"
        " select 'a.b', '{}', now() - interval '90 seconds' from generate_series(1, 3)"
    )
    bot.execute(
        "insert into bridge.drainer (bridge, mode, is_quiet, switches)"
        " values ('a:1', 'poll', true, 2)"
    )
    overviewed = look(bridge_url)
    assert (overviewed.outbox.count, overviewed.outbox.more) == (3, False)
    assert overviewed.outbox.oldest_seconds is not None
    assert overviewed.outbox.oldest_seconds >= 90
    assert (overviewed.drainer.alive, overviewed.drainer.bridge) == (False, "a:1")
    assert (overviewed.doorbell.mode, overviewed.doorbell.rings) == ("poll", False)
    assert overviewed.doorbell.switches == 2


async def _look_as_daemon(
    database: Database,
) -> tuple[Row, Sequence[Row], Sequence[Row], Sequence[Row]]:
    [state] = await database.fetch("overview")
    return (
        state,
        await database.fetch("running_bridges"),
        await database.fetch("blind_rules"),
        await database.fetch("activity", 60, 60),
    )


async def test_both_drivers_tell_the_same(bridge_url: str, bot: Bot) -> None:
    report(bot, "a:1", 5, events_drained=7, commit_to_client=ONE_FAST)
    async with open_database(bridge_url) as database:
        daemons = overview(*await _look_as_daemon(database))
    commands = look(bridge_url)
    assert daemons.commit_to_client == commands.commit_to_client
    assert sum(each.events for each in daemons.points) == 7
    assert set(daemons.to_json()) == set(commands.to_json())


async def test_activity_is_kept_for_25_hours(bridge_url: str, bot: Bot) -> None:
    report(bot, "old:1", 25 * 3600 + 1)
    report(bot, "old:2", 25 * 3600 - 60)
    async with open_database(bridge_url) as database:
        await database.fetch("forget_activity")
    assert bot.execute("select bridge from bridge.activity").fetchall() == [("old:2",)]


def test_rows_are_small_and_a_day_is_readable(bridge_url: str, bot: Bot) -> None:
    full = "array(select 1000000 + n from generate_series(1, 21) as n)::bigint[]"
    bot.execute(
        "insert into bridge.activity select now() - make_interval(secs => 10 * n), 'a-host:12345',"
        f" '1.0', 10, false, 1, 2, 3, 4, 5, 6, 7, 8, {full}, {full}"
        " from generate_series(0, 8999) as n".encode()
    )
    [size] = bot.execute("select pg_total_relation_size('bridge.activity')").fetchone() or [0]
    assert size / 9000 < 650
    points = look(bridge_url, minutes=24 * 60, point_seconds=300).points
    assert len(points) in (288, 289)
    # A complete point has 30 rows.
    assert points[5].events == 30 * 4


# --- what a bridge writes


def written(bot: Bot) -> list[tuple[Any, ...]]:
    return bot.execute(
        "select is_last, clients, in_flight, events_drained, clients_dropped, delivered, retried,"
        " failed, seconds > 0, commit_to_client[3], commit_to_acknowledged"
        " from bridge.activity order by recorded_at"
    ).fetchall()


@asynccontextmanager
async def writing(database: Database) -> AsyncIterator[Activity]:
    """Record activity many times a second, with 3 clients and 2 deliveries in flight."""
    with pytest.MonkeyPatch.context() as patch:
        for pause in ("FIRST_SECONDS", "ACTIVITY_SECONDS"):
            patch.setattr(f"bridge.operations.activity.{pause}", 0.05)
        async with trio.open_nursery() as nursery:
            activity = Activity(database, clients=lambda: 3, in_flight=lambda: 2)
            nursery.start_soon(activity.run)
            yield activity
            nursery.cancel_scope.cancel()


async def test_bridge_records_its_activity_and_its_stop(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.operations.activity.LAST_ROW_SECONDS", 60.0)
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(as_service(bridge_url)) as database:
            async with writing(database) as activity:
                await until(lambda: written(bot))
                assert written(bot)[0][:4] == (False, 3, 2, 0)
                metrics.events_drained.inc(5)
                metrics.clients_dropped.labels("slow").inc()
                metrics.clients_dropped.labels("idle").inc()
                metrics.delivery_succeeded.inc(4)
                metrics.delivery_retried.labels("timeout").inc(3)
                metrics.delivery_failed.labels("dns").inc(2)
                metrics.commit_to_client.observe_all([0.0025, 0.0026])
                await until(lambda: sum(row[3] for row in written(bot)) == 5)
                assert running(bridge_url) == [bridge_name()]
                await activity.stop()
            rows = written(bot)
    [busy] = [row for row in rows if row[3]]
    # All counts were increased between two rows, so they are in one row.
    assert busy == (False, 3, 2, 5, 2, 4, 3, 2, True, 2, None)
    assert [row[0] for row in rows] == [False] * (len(rows) - 1) + [True]
    assert rows[-1][:4] == (True, 0, 0, 0)
    assert all(row[8] for row in rows)
    assert running(bridge_url) == []


async def test_failed_row_is_part_of_the_next_one(bridge_url: str, bot: Bot) -> None:
    with trio.fail_after(PATIENCE_SECONDS), capture_logs() as logged:
        async with open_database(as_service(bridge_url)) as database, writing(database):
            await until(lambda: written(bot))
            bot.execute("revoke insert on bridge.activity from bridge_service")
            metrics.events_drained.inc(7)
            await until(lambda: any(line["event"] == "activity_write_failed" for line in logged))
            count = len(written(bot))
            metrics.events_drained.inc(1)
            bot.execute("grant insert on bridge.activity to bridge_service")
            await until(lambda: sum(row[3] for row in written(bot)) == 8)
    # The last failing statement may arrive after the grant.
    assert next(row[3] for row in written(bot)[count:]) in (7, 8)
    # Repeated failures are logged once.
    assert [line["event"] for line in logged].count("activity_write_failed") == 1


# --- counts of events and deliveries


async def test_drain_latency_is_measured_from_capture(bridge_url: str, bot: Bot) -> None:
    before = list(metrics.commit_to_drained.counts)
    async with relaying(bridge_url) as relayed:
        bot.execute(
            "insert into bridge.outbox (event_type, payload, captured_at) values"
            " ('a.b', '{}', now() - interval '30 seconds'),"
            " ('a.b', '{}', now() - interval '2 hours')"
        )
        await relayed.until_count(2)
    drained = [
        after - count for after, count in zip(metrics.commit_to_drained.counts, before, strict=True)
    ]
    # Wide buckets, because the machine may pause: 15 s to a minute, and over an hour.
    assert (drained[16], drained[20]) == (1, 1)


async def test_deliveries_are_counted_by_outcome(bridge_url: str, bot: Bot) -> None:
    before, attempts = metrics.totals(), sum(metrics.delivery_attempt_seconds.counts)
    async with receiving() as receiver:
        receiver.behaviours["/gone"] = answer("400 Bad Request")
        fine = add_webhook(bot, receiver.url("/fine"), event_type="a.b")
        enqueue_deliveries(bot, fine)
        bot.execute("update bridge.delivery_queue set committed_at = now() - interval '20 seconds'")
        bot.execute("update bridge.delivery_queue set is_redelivery = true")
        enqueue_deliveries(bot, fine, count=2)
        bot.execute(
            "update bridge.delivery_queue set committed_at = now() - interval '20 seconds'"
            " where not is_redelivery"
        )
        gone = add_webhook(bot, receiver.url("/gone"), event_type="a.c")
        enqueue_deliveries(bot, gone)
        async with delivering(bridge_url, schedule=[0, 0.01]) as courier:
            await until(
                lambda: (
                    metrics.totals().failed == before.failed + 1
                    and metrics.totals().delivered == before.delivered + 3
                )
            )
            assert courier.in_flight == 0
    after = metrics.totals()
    assert after.retried - before.retried == 1
    acknowledged = [
        now - count
        for now, count in zip(
            after.commit_to_acknowledged, before.commit_to_acknowledged, strict=True
        )
    ]
    # Redeliveries do not count, because their events may be old.
    assert (acknowledged[16], sum(acknowledged)) == (2, 2)
    assert sum(metrics.delivery_attempt_seconds.counts) - attempts == 5


async def test_database_metrics_are_hidden_when_outdated(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(gauges, "STALE_SECONDS", 1.0)
    enqueue(bot, webhook(bot, "n"), 3, "now()")
    bot.execute("insert into bridge.outbox (event_type, payload) values ('a.b', '{}')")
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            open_database(as_service(bridge_url)) as database,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(gauges.update_gauges, database)
            await until(lambda: b"pgbridge_outbox_events 1.0" in generate_latest())
            shown = generate_latest()
            assert b'pgbridge_delivery_queue{state="due"} 3.0' in shown
            assert b'pgbridge_webhooks{state="delivering"} 1.0' in shown
            assert b"pgbridge_events_captured_total 1.0" in shown
            with bot.transaction():
                bot.execute("lock table bridge.outbox")  # an update hangs
                await until(lambda: b"pgbridge_outbox_events 1.0" not in generate_latest())
            await until(lambda: b"pgbridge_outbox_events 1.0" in generate_latest())
            nursery.cancel_scope.cancel()
