"""The doctor checks schema ``bridge`` and the bridge that works on it."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.conftest import init
from tests.integration.doctor.conftest import Bot, become_drainer, diagnose
from tests.webhook_rows import add_webhook


def test_database_without_the_schema_needs_init(bot_url: str) -> None:
    found = diagnose(bot_url)
    assert list(found)[-1] == "schema_version"
    assert found["schema_version"].level == "error"
    assert found["schema_version"].hint == "run: pgbridge init"


def test_foreign_schema_of_that_name_is_an_error(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("create schema bridge")
    found = diagnose(empty_url)["schema_version"]
    assert found.level == "error"
    assert "not pgbridge's" in found.message


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ("delete from bridge.migrations where version > 1", "run: pgbridge init"),
        (
            "insert into bridge.migrations (version, name, checksum) values (9999, 'x', 'y')",
            "install the newer pgbridge",
        ),
    ],
)
def test_schema_of_another_version_is_an_error(
    healthy: str, bot: Bot, change: str, hint: str
) -> None:
    bot.execute(change.encode())
    found = diagnose(healthy)
    assert list(found)[-1] == "schema_version"
    assert (found["schema_version"].level, found["schema_version"].hint) == ("error", hint)


def test_undrained_outbox_is_first_a_warning_then_an_error(bridge_url: str, bot: Bot) -> None:
    assert diagnose(bridge_url)["outbox"].level == "warning"
    bot.execute(
        "insert into bridge.outbox (event_type, payload, captured_at)"
        " values ('a.b', '{}', now() - interval '5 minutes')"
    )
    found = diagnose(bridge_url)["outbox"]
    assert found.level == "error"
    assert found.message == "events in the outbox: 1, the oldest captured 5 min ago"
    assert found.detail == "no bridge drains the outbox"


def test_drainer_without_progress_is_named(healthy: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.drainer (bridge, mode, is_quiet) values ('shop:42', 'adaptive', true)"
    )
    bot.execute(
        "insert into bridge.outbox (event_type, payload, captured_at)"
        " select 'a.b', '{}', now() - interval '2 hours' from generate_series(1, 10002)"
    )
    found = diagnose(healthy)["outbox"]
    assert found.level == "error"
    assert found.message == "events in the outbox: more than 10000, the oldest captured 2 h ago"
    assert found.detail.startswith("shop:42 ")


def test_doorbell_without_a_listening_bridge_is_a_warning(bridge_url: str, bot: Bot) -> None:
    bot.execute("select setval('bridge.doorbell', 0)")
    assert diagnose(bridge_url)["doorbell"].level == "warning"
    become_drainer(bot)
    bot.execute(
        "insert into bridge.drainer (bridge, mode, is_quiet, switches)"
        " values ('shop:42', 'adaptive', false, 7)"
    )
    found = diagnose(bridge_url, doorbell="adaptive")["doorbell"]
    assert found.level == "ok"
    assert found.message.startswith(
        "the doorbell is ringing, mode adaptive, switched 7 times, set "
    )


def test_bridge_with_another_doorbell_mode_is_a_warning(healthy: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.drainer (bridge, mode, is_quiet) values ('host:1', 'poll', true)"
    )
    assert diagnose(healthy)["doorbell"].level == "ok"
    assert diagnose(healthy, doorbell="adaptive")["doorbell"].level == "warning"


@pytest.mark.parametrize(
    ("ahead", "level"), [(0, "error"), (1, "error"), (2, "warning"), (3, "warning"), (4, "ok")]
)
def test_missing_partition_is_named(healthy: str, bot: Bot, ahead: int, level: str) -> None:
    [(name,)] = bot.execute(
        "select 'events_p' || to_char((now() at time zone 'UTC')::date + %s, 'YYYYMMDD')", [ahead]
    ).fetchall()
    bot.execute(f"drop table bridge.{name}".encode())
    found = diagnose(healthy)["partitions"]
    assert found.level == level
    assert level == "ok" or found.message == f"the logs lack {name}"


@pytest.mark.parametrize(("minutes", "level"), [(0, "ok"), (2, "warning")])
def test_deferred_deliveries_that_fall_behind_are_a_warning(
    healthy: str, bot: Bot, minutes: int, level: str
) -> None:
    bot.execute(
        "insert into bridge.deferred_events values (1, now(), 'x', %(at)s, %(at)s, 7)",
        {"at": datetime.now(UTC) - timedelta(minutes=minutes)},
    )
    found = diagnose(healthy)["deferred"]
    assert found.level == level
    assert "events not queued for delivery yet: 1, the oldest" in found.message


def test_logs_before_the_first_run_are_a_warning(bot_url: str) -> None:
    init(bot_url)
    with psycopg.connect(bot_url, autocommit=True) as connection:
        for (partition,) in connection.execute(
            "select oid::regclass::text from pg_class where relname ~ '_p\\d{8}$' and relkind = 'r'"
        ).fetchall():
            connection.execute(f"drop table {partition}".encode())
    assert diagnose(bot_url)["partitions"].level == "warning"


def test_day_that_is_kept_for_a_delivery_names_the_webhook(healthy: str, bot: Bot) -> None:
    assert diagnose(healthy)["kept_days"].level == "ok"
    webhook = add_webhook(bot, paused_at=datetime.now(UTC))
    for days in (34, 40, 40, 50):
        bot.execute(
            "insert into bridge.delivery_queue"
            " (webhook_id, event_id, event_recorded_at, event_type, captured_at, committed_at)"
            " select %(id)s, 1, day, 'a.b', day, day from (select %(at)s::timestamptz) as at(day)",
            {"id": webhook, "at": datetime.now(UTC) - timedelta(days=days)},
        )
    found = diagnose(healthy)["kept_days"]
    assert found.level == "warning"
    oldest = (datetime.now(UTC) - timedelta(days=50)).date()
    assert found.message == (
        f"2 expired days of events are kept for pending deliveries, the oldest from {oldest}"
    )
    assert found.hint.endswith(f"with these ids: {webhook}")
