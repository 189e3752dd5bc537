"""The overview is built from rows."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bridge.operations.overview import Counted, Delay, Overview, overview
from bridge.telemetry.histogram import BUCKETS

Row = dict[str, Any]
NOW = datetime(2026, 1, 15, 10, 30, 15, tzinfo=UTC)

#: The row of overview.sql for a new database.
NOTHING: Row = {
    "at": NOW,
    "outbox_count": 0,
    "outbox_oldest_seconds": None,
    "deferred_count": 0,
    "deferred_oldest_seconds": None,
    "dead_letters_count": 0,
    "dead_letters_oldest_seconds": None,
    "due_count": 0,
    "scheduled_count": 0,
    "held_count": 0,
    "oldest_due_seconds": None,
    "webhooks_delivering": 0,
    "webhooks_failing": 0,
    "webhooks_paused": 0,
    "webhooks_disabled": 0,
    "webhooks_off": 0,
    "drainer_pid": None,
    "drainer": None,
    "leading_seconds": None,
    "doorbell_mode": None,
    "rings": False,
    "switches": None,
    "switched_seconds": None,
    "last_event_id": None,
    "last_event_occurred_at": None,
}


def counts(**of_bucket: int) -> list[int]:
    """Return bucket counts: ``counts(b9=3)`` has three in the bucket from 0.05 to 0.1 s."""
    filled = [0] * BUCKETS
    for name, count in of_bucket.items():
        filled[int(name[1:])] = count
    return filled


def bridge(name: str, **columns: Any) -> Row:
    """Return a row of running_bridges.sql."""
    return {
        "bridge": name,
        "version": "1.0",
        "clients": 0,
        "in_flight": 0,
        "reported_seconds": 3.5,
        "covered_seconds": 60.0,
        "events_drained": 0.0,
        "events_streamed": 0.0,
        "delivered": 0.0,
        "attempts": 0.0,
    } | columns


def point(minute: int, **columns: Any) -> Row:
    """Return a row of activity.sql."""
    return {
        "at": NOW.replace(second=0) + timedelta(minutes=minute),
        "bridges": 1,
        "clients": 0,
        "clients_dropped": 0,
        "events": 0,
        "streamed": 0,
        "delivered": 0,
        "retried": 0,
        "failed": 0,
        "commit_to_client": [],
        "commit_to_acknowledged": [],
    } | columns


def built(
    *points: Row, bridges: tuple[Row, ...] = (), blind: tuple[Row, ...] = (), **state: Any
) -> Overview:
    return overview(NOTHING | state, bridges, blind, points)


def test_new_database_has_no_figures() -> None:
    empty = built()
    assert (empty.success_rate.deliveries, empty.success_rate.attempts) == (None, None)
    assert empty.commit_to_client == empty.commit_to_acknowledged == Delay(None, None)
    assert empty.rates.events_per_second == empty.rates.attempts_per_second == 0
    assert (empty.last_event, empty.point_seconds, list(empty.points)) == (None, None, [])
    assert not empty.drainer.alive


def test_rates_add_up_over_running_bridges() -> None:
    rates = built(
        bridges=(
            bridge("a:1", events_drained=600.0, events_streamed=6000.0),
            # It started ten seconds ago.
            bridge(
                "b:2", covered_seconds=10.0, events_streamed=50.0, delivered=20.0, attempts=30.0
            ),
        )
    ).rates
    assert rates.events_per_second == 10
    assert rates.streamed_per_second == 105
    assert (rates.deliveries_per_second, rates.attempts_per_second) == (2, 3)


def test_current_numbers_are_those_of_running_bridges() -> None:
    overviewed = built(
        # The chart still shows the clients of a bridge that died in this minute.
        point(0, bridges=2, clients=15),
        bridges=(bridge("a:1", clients=10, in_flight=7),),
    )
    assert [(each.bridge, each.clients) for each in overviewed.bridges] == [("a:1", 10)]
    assert overviewed.delivery_queue.in_flight == Counted(7, more=False)
    assert overviewed.points[0].clients == 15


@pytest.mark.parametrize(
    ("delivered", "retried", "failed", "deliveries", "attempts"),
    [
        (0, 0, 0, None, None),
        (3, 0, 0, 1.0, 1.0),
        (0, 0, 2, 0.0, 0.0),
        # Attempts have failed, but no delivery has finished.
        (0, 5, 0, None, 0.0),
        (6, 2, 2, 0.75, 0.6),
    ],
)
def test_success_rates_of_deliveries_and_attempts(
    delivered: int,
    retried: int,
    failed: int,
    deliveries: float | None,
    attempts: float | None,
) -> None:
    rate = built(
        point(0, delivered=delivered, retried=retried), point(1, failed=failed)
    ).success_rate
    assert (rate.deliveries, rate.attempts) == (deliveries, attempts)


def test_latencies_are_given_by_point_and_overall() -> None:
    overviewed = built(
        point(0, commit_to_client=counts(b8=50)),
        point(1),
        point(2, commit_to_client=counts(b9=50), commit_to_acknowledged=counts(b20=1)),
    )
    assert overviewed.commit_to_client.p50_seconds == pytest.approx(0.05)
    assert overviewed.commit_to_client.p95_seconds == pytest.approx(0.095)
    # Above the last bound, the exact value is unknown.
    assert overviewed.commit_to_acknowledged == Delay(3600, 3600)
    assert [each.commit_to_client.p50_seconds for each in overviewed.points] == [
        pytest.approx(0.04),
        None,
        pytest.approx(0.075),
    ]


@pytest.mark.parametrize(
    ("found", "counted"),
    [(0, Counted(0, False)), (10_000, Counted(10_000, False)), (10_001, Counted(10_000, True))],
    ids=["none", "all", "more"],
)
def test_queue_sizes_are_bounded(found: int, counted: Counted) -> None:
    queue = built(due_count=found, scheduled_count=found, held_count=found).delivery_queue
    assert queue.due == queue.scheduled == queue.held == counted
    outbox = built(outbox_count=found, outbox_oldest_seconds=1.5).outbox
    assert (Counted(outbox.count, outbox.more), outbox.oldest_seconds) == (counted, 1.5)


def test_json_has_the_documented_names() -> None:
    overviewed = built(
        point(0, bridges=0),
        point(1, clients=2, events=3, streamed=6, delivered=1),
        bridges=(bridge("a:1", clients=2, events_drained=30.0),),
        blind=({"name": "a.b", "table_name": "t", "reason": "trigger_missing", "active_count": 2},),
        drainer_pid=42,
        drainer="a:1",
        leading_seconds=9.0,
        doorbell_mode="adaptive",
        rings=True,
        switches=3,
        switched_seconds=1.0,
        last_event_id=7,
        last_event_occurred_at=NOW,
        webhooks_failing=1,
        oldest_due_seconds=0.25,
    )
    none = {"count": 0, "more": False}
    unknown = {"p50_seconds": None, "p95_seconds": None}
    later = {
        "at": "2026-01-15T10:31:00+00:00",
        "bridges": 1,
        "clients": 2,
        "clients_dropped": 0,
        "events": 3,
        "streamed": 6,
        "delivered": 1,
        "retried": 0,
        "failed": 0,
        "commit_to_client": unknown,
        "commit_to_acknowledged": unknown,
    }
    zero = {"bridges": 0, "clients": 0, "events": 0, "streamed": 0, "delivered": 0}
    assert json.loads(json.dumps(overviewed.to_json())) == {
        "at": "2026-01-15T10:30:15+00:00",
        "rates": {
            "events_per_second": 0.5,
            "streamed_per_second": 0.0,
            "deliveries_per_second": 0.0,
            "attempts_per_second": 0.0,
        },
        "success_rate": {"deliveries": 1.0, "attempts": 1.0},
        "commit_to_client": unknown,
        "commit_to_acknowledged": unknown,
        "outbox": {"count": 0, "more": False, "oldest_seconds": None},
        "deferred": {"count": 0, "more": False, "oldest_seconds": None},
        "dead_letters": {"count": 0, "more": False, "oldest_seconds": None},
        "delivery_queue": {
            "due": none,
            "scheduled": none,
            "in_flight": none,
            "held": none,
            "oldest_due_seconds": 0.25,
        },
        "webhooks": {"delivering": 0, "failing": 1, "paused": 0, "disabled": 0, "off": 0},
        "drainer": {"alive": True, "pid": 42, "bridge": "a:1", "leading_seconds": 9.0},
        "doorbell": {"mode": "adaptive", "rings": True, "switches": 3, "switched_seconds": 1.0},
        "bridges": [
            {
                "bridge": "a:1",
                "version": "1.0",
                "clients": 2,
                "in_flight": 0,
                "reported_seconds": 3.5,
            }
        ],
        "blind_rules": [{"name": "a.b", "table_name": "t", "reason": "trigger_missing"}],
        "last_event": {"id": 7, "occurred_at": "2026-01-15T10:30:15+00:00"},
        "point_seconds": 60.0,
        "points": [later | zero | {"at": "2026-01-15T10:30:00+00:00"}, later],
    }
