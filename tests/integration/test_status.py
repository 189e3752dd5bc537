"""The status is read from the database."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from bridge import assets
from bridge.database.sessions import open_session
from bridge.operations.formatting import format_seconds
from bridge.operations.status import Status, StatusError, read_status

Bot = psycopg.Connection[tuple[Any, ...]]


def status_of(url: str) -> Status:
    with open_session(url) as connection:
        return read_status(connection)


def test_status_of_a_new_database(bridge_url: str) -> None:
    status = status_of(bridge_url)
    assert dict(status.lines()) == {
        "schema version": str(len(assets.migrations())),
        "draining": "no bridge; start one: pgbridge run",
        "doorbell": "quiet",
        "outbox": "0",
        "delivery queue": "0",
        "last event": "none",
        "bridges": "0 running, with 0 clients",
        "events": "0.0 events/s",
        "deliveries": "0.0 deliveries/s",
    }
    printed = json.loads(json.dumps(status.to_json()))
    assert len(printed.pop("overview")["points"]) in (60, 61)
    assert printed == {
        "schema_version": len(assets.migrations()),
        "drainer": {"alive": False, "pid": None, "bridge": None, "leading_seconds": None},
        "doorbell": {"mode": None, "rings": False, "switches": None, "switched_seconds": None},
        "outbox": {"count": 0, "more": False, "oldest_seconds": None},
        "delivery_queue": {"count": 0, "more": False},
        "last_event": None,
        "blind_rules": [],
    }


def test_status_of_a_busy_bridge(bridge_url: str, bot: Bot) -> None:
    bot.execute(assets.query("lead").encode())
    bot.execute("select setval('bridge.doorbell', 0)")
    bot.execute(
        "insert into bridge.drainer"
        " (bridge, mode, is_quiet, switches, switched_at, leading_since)"
        " values ('shop:42', 'adaptive', false, 3, now() - interval '5 minutes',"
        " now() - interval '3 days')"
    )
    for age in range(0, 100, 10):
        bot.execute(
            "insert into bridge.activity (recorded_at, bridge, version, seconds, is_last, clients,"
            " in_flight, clients_dropped, events_drained, events_streamed, delivered, retried,"
            " failed, commit_to_client)"
            " values (now() - make_interval(secs => %s), 'shop:42', '1.0', 10, false, 3, 0, 0, 25,"
            " 75, 15, 2, 5, array_fill(0, array[8]) || 20 || array_fill(0, array[12]))",
            [age],
        )
    bot.execute(
        "insert into bridge.outbox (event_type, payload, captured_at)"
        " select 'a.b', '{}', now() - interval '5 minutes' from generate_series(1, 3)"
    )
    bot.execute(
        "insert into bridge.events (event_type, payload, occurred_at)"
        " values ('a.b', '{}', '2026-01-15 10:30:00+03')"
    )
    bot.execute("insert into bridge.webhooks (name, url, event_type) values ('n', 'u', '*')")
    bot.execute(
        "insert into bridge.delivery_queue (webhook_id, event_id, event_recorded_at, event_type)"
        " select 1, 1, now(), 'a.b' from generate_series(1, 10001)"
    )
    bot.execute(
        "insert into bridge.deferred_events"
        " values (1, now(), 'a.b', now() - interval '90 s', now() - interval '90 s', 1)"
    )
    status = status_of(bridge_url)
    pid = bot.info.backend_pid
    assert dict(status.lines()) == {
        "schema version": str(len(assets.migrations())),
        "draining": f"shop:42 (session with PID {pid}), for 3 days",
        "doorbell": "ringing, mode adaptive, switched 3 times, set 5 min ago",
        "outbox": "3, the oldest captured 5 min ago",
        "delivery queue": "more than 10000",
        "events not queued yet": "1, the oldest captured 90 s ago",
        "last event": "1, at 2026-01-15 07:30:00 UTC",
        "bridges": "1 running, with 3 clients",
        "events": "2.5 events/s; latency since commit: median 40.0 ms, p95 49.0 ms",
        "deliveries": "1.5 deliveries/s; 75.00% succeeded in the last hour",
    }
    printed = status.to_json()
    assert (printed["drainer"]["alive"], printed["drainer"]["pid"]) == (True, pid)
    assert printed["outbox"]["oldest_seconds"] >= 300
    assert printed["delivery_queue"] == {"count": 10000, "more": True}
    assert printed["last_event"] == {"id": 1, "occurred_at": "2026-01-15T07:30:00+00:00"}


def test_blind_rules_are_named(bridge_url: str, bot: Bot) -> None:
    bot.execute('drop trigger "#bridge_001_user_created" on public.users')
    status = status_of(bridge_url)
    words = dict(status.lines())["captures nothing"]
    assert words == "user.created: its trigger was dropped; run: pgbridge doctor"
    assert status.to_json()["blind_rules"] == [
        {"name": "user.created", "table_name": "public.users", "reason": "trigger_missing"}
    ]


def test_last_drainer_is_named(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.drainer (bridge, mode, is_quiet) values ('shop:42', 'poll', true)"
    )
    assert dict(status_of(bridge_url).lines())["draining"] == "no bridge; the last was shop:42"


def test_drainer_of_another_database_is_ignored(
    clone: Callable[[str], str], bridge_template: str, bridge_url: str
) -> None:
    with psycopg.connect(clone(bridge_template), autocommit=True) as elsewhere:
        assert elsewhere.execute(assets.query("lead").encode()).fetchone() == (True,)
        assert status_of(bridge_url).overview.drainer.pid is None


def test_schema_of_another_version_has_no_status(bridge_url: str, bot: Bot) -> None:
    bot.execute("delete from bridge.migrations where version > 1")
    with pytest.raises(StatusError, match="run: pgbridge init"):
        status_of(bridge_url)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 days")],
)
def test_durations_have_a_readable_unit(seconds: float, expected: str) -> None:
    assert format_seconds(seconds) == expected
