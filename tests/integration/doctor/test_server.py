"""The doctor checks the server and the connection to it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import trio

from bridge.demo.postgres import EmbeddedPostgres
from bridge.operations.doctor import framework, schema, server
from bridge.operations.doctor.examine import CHECKS
from bridge.operations.doctor.framework import Finding
from tests.conftest import BOT_TABLES, init
from tests.integration.doctor.conftest import Bot, diagnose
from tests.pgbouncer import pgbouncer
from tests.postgres import MAJOR, postgres, since
from tests.waiting import until_true


@pytest.fixture(scope="module")
def lenient_server() -> Iterator[EmbeddedPostgres]:
    """A server with prepared transactions and a small notification queue."""
    with postgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("alter system set max_prepared_transactions = 5")
            if MAJOR >= 17:
                connection.execute("alter system set max_notify_queue_pages = 64")
            connection.execute(BOT_TABLES.read_bytes())
        server.stop()
        server.start()
        init(server.url())
        yield server


@pytest.fixture
def prepared(lenient_server: EmbeddedPostgres) -> Iterator[str]:
    """A database in which the transaction ``forgotten`` is prepared."""
    url = lenient_server.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("begin")
        connection.execute("create table forgotten ()")
        connection.execute("prepare transaction 'forgotten'")
        yield url
        connection.execute("rollback prepared 'forgotten'")


def test_every_check_of_a_healthy_database_is_ok(healthy: str) -> None:
    found = diagnose(healthy)
    assert [finding for finding in found.values() if finding.level != "ok"] == []
    assert list(found) == ["connection", *(check.__name__ for check in CHECKS)]


@pytest.mark.parametrize("setting", ["BRIDGE_DATABASE_URL", "BRIDGE_LISTEN_URL"])
def test_unreachable_server_is_the_only_finding(bridge_url: str, setting: str) -> None:
    nowhere = "postgresql://u:hunter2@127.0.0.1:1/d"
    urls = (nowhere, None) if setting == "BRIDGE_DATABASE_URL" else (bridge_url, nowhere)
    found = diagnose(*urls)
    assert list(found) == ["connection"]
    assert found["connection"].level == "error"
    assert setting in found["connection"].hint
    assert "hunter2" not in str(found)


def test_lost_connection_is_the_last_finding(healthy: str, bot: Bot) -> None:
    def disconnect() -> datetime:
        bot.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and application_name = %s",
            [framework.APPLICATION_NAME],
        )
        return datetime.now(UTC)

    found = diagnose(healthy, clock=disconnect)
    assert list(found)[-1] == "clock"
    assert found["clock"].level == "error"


def test_locked_table_fails_its_check_and_no_other(
    healthy: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framework, "STATEMENT_SECONDS", 1)
    with bot.transaction():
        bot.execute("lock table bridge.outbox in access exclusive mode")
        found = diagnose(healthy)
    assert found["outbox"].level == "error"
    assert "statement timeout" in found["outbox"].message
    assert found["partitions"].level == "ok"


def test_old_server_is_an_error(healthy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "OLDEST_SERVER", 99)
    found = diagnose(healthy)
    assert list(found) == ["connection", "server_version"]
    assert found["server_version"].level == "error"


def test_standby_is_an_error(own_server: EmbeddedPostgres) -> None:
    [directory] = parse_qs(urlsplit(own_server.url()).query)["host"]
    Path(directory, "standby.signal").touch()
    own_server.stop()
    own_server.start()
    found = diagnose(own_server.url())
    assert list(found) == ["connection", "server_version", "standby"]
    assert found["standby"].level == "error"


def test_read_only_database_is_an_error_with_its_source(healthy: str, bot: Bot) -> None:
    bot.execute(f"alter database {bot.info.dbname} set default_transaction_read_only = on".encode())
    found = diagnose(healthy)["read_only"]
    assert found.level == "error"
    assert "set by: database" in found.message


def test_pooler_in_transaction_mode_needs_a_listen_url(healthy: str, pooled_url: str) -> None:
    found = diagnose(pooled_url)["listen"]
    assert found.level == "error"
    assert found.message == (
        "BRIDGE_DATABASE_URL goes through a pooler in transaction mode (PgBouncer)"
    )
    assert "BRIDGE_LISTEN_URL" in found.hint
    found = diagnose(pooled_url, listen_url=healthy)["listen"]
    assert found.level == "ok"
    assert found.message.endswith("bypassing the pooler of BRIDGE_DATABASE_URL")
    found = diagnose(healthy, listen_url=pooled_url)["listen"]
    assert found.level == "error"
    assert found.message.startswith("BRIDGE_LISTEN_URL goes through a pooler")


def test_all_other_checks_work_through_such_a_pooler(healthy: str) -> None:
    with pgbouncer(healthy, pool_size=1) as narrow:
        found = diagnose(narrow)
    assert [name for name, finding in found.items() if finding.level == "error"] == ["listen"]
    assert list(found)[-1] == CHECKS[-1].__name__


def test_pooler_in_session_mode_is_ok(healthy: str) -> None:
    with pgbouncer(healthy, mode="session") as url:
        found = diagnose(url)["listen"]
    assert found.level == "ok"
    assert "a pooler in session mode" in found.message


def test_urls_of_different_databases_are_an_error(
    healthy: str, bot_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LISTEN_SECONDS", 0.2)
    found = diagnose(bot_url, listen_url=healthy)["listen"]
    assert found.level == "error"
    assert "different databases" in found.detail


@since(17, "a limit of the notification queue")
def test_full_notification_queue_is_an_error_with_its_cause(
    lenient_server: EmbeddedPostgres,
) -> None:
    url = lenient_server.url()
    with psycopg.connect(url) as listener, psycopg.connect(url, autocommit=True) as notifier:
        listener.execute("listen stalled")
        listener.commit()
        listener.execute("select")

        def fill(share: float) -> Finding:
            while notifier.execute(
                "select pg_notification_queue_usage() < %s", [share]
            ).fetchone() == (True,):
                notifier.execute("select pg_notify('stalled', repeat('x', 7900))")
            return diagnose(url)["notification_queue"]

        assert fill(0.0).level == "ok"
        assert fill(server.QUEUE_WARNING).level == "warning"
        found = fill(server.QUEUE_ERROR)
        assert found.level == "error"
        assert str(listener.info.backend_pid) in found.hint


def test_forgotten_prepared_transaction_is_named(
    prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = diagnose(prepared, doorbell="adaptive")["prepared_transactions"]
    assert found.level == "warning"
    assert "BRIDGE_DOORBELL=poll" in found.hint
    monkeypatch.setattr(server, "PREPARED_SECONDS", 0)
    found = diagnose(prepared)["prepared_transactions"]
    assert found.level == "error"
    assert "'forgotten'" in found.message


def leave_dead_rows(url: str) -> None:
    """Insert and delete a thousand events, and wait until the statistics have them."""
    # The end of a session sends its statistics.
    with psycopg.connect(url, autocommit=True) as application:
        application.execute(
            "insert into bridge.outbox (event_type, payload)"
            " select 'a.b', '{}' from generate_series(1, 1000)"
        )
        application.execute("delete from bridge.outbox")
    with psycopg.connect(url, autocommit=True) as connection:
        trio.run(
            until_true, connection, "pg_stat_get_dead_tuples('bridge.outbox'::regclass) >= 1000"
        )


def test_session_that_holds_back_vacuum_is_named(
    healthy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "DEAD_ROWS", 999)
    monkeypatch.setattr(schema, "HOLDER_SECONDS", 0)
    assert diagnose(healthy)["vacuum"].level == "ok"
    with psycopg.connect(healthy) as report:
        report.execute("set transaction isolation level repeatable read")
        report.execute("select")
        leave_dead_rows(healthy)
        found = diagnose(healthy)["vacuum"]
        assert found.level == "error"
        assert "1000 in bridge.outbox" in found.message
        assert f"the session with PID {report.info.backend_pid} of postgres" in found.detail
        assert f"select pg_terminate_backend({report.info.backend_pid})" in found.hint
    found = diagnose(healthy)["vacuum"]
    assert found.level == "error"
    assert "autovacuum" in found.hint


def test_prepared_transaction_that_holds_back_vacuum_is_named(
    prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "DEAD_ROWS", 999)
    monkeypatch.setattr(schema, "HOLDER_SECONDS", 0)
    leave_dead_rows(prepared)
    found = diagnose(prepared)["vacuum"]
    assert found.level == "error"
    assert "the prepared transaction 'forgotten' of postgres" in found.detail


@pytest.mark.parametrize(("minutes", "word"), [(5, "ahead of"), (-5, "behind")])
def test_clock_that_differs_is_an_error(healthy: str, minutes: int, word: str) -> None:
    found = diagnose(healthy, clock=lambda: datetime.now(UTC) + timedelta(minutes=minutes))["clock"]
    assert found.level == "error"
    assert found.message == f"this machine's clock is 5 min {word} the database's"
