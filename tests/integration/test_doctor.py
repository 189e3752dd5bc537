"""The doctor finds what is wrong with a database, once the damage is done for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from cryptography.fernet import Fernet

from bridge import assets
from bridge.access.vault import Vault
from bridge.capture.apply import pause
from bridge.capture.rules import Rule, load_preset, parse_rules
from bridge.database.sessions import open_session
from bridge.demo.postgres import EmbeddedPostgres, embedded_postgres
from bridge.operations import doctor
from bridge.operations.doctor import Finding, examine
from bridge.settings import load_settings
from tests.conftest import BOT_TABLES, init
from tests.pgbouncer import pgbouncer

Bot = psycopg.Connection[tuple[Any, ...]]
ROLE = "weakling"


def diagnose(
    url: str,
    listen_url: str | None = None,
    clock: Callable[[], datetime] | None = None,
    *,
    rules: Sequence[Rule] | None = None,
    doorbell: str = "poll",
    keys: str | None = None,
) -> dict[str, Finding]:
    """Return the findings by the names of their checks."""
    settings = load_settings(
        database_url=url, listen_url=listen_url, doorbell=doorbell, secret_key=keys
    )
    rules = load_preset("telegram-shop") if rules is None else rules
    found = examine(settings, rules) if clock is None else examine(settings, rules, clock=clock)
    assert len({finding.check for finding in found}) == len(found)
    for finding in found:
        texts = (finding.what, finding.why, finding.fix)
        assert not any("\n" in text for text in texts)
        assert [bool(text) for text in texts] == [True] + 2 * [finding.level != "ok"]
    return {finding.check: finding for finding in found}


def become_drainer(connection: Bot) -> None:
    """Hold the lock of the bridge that drains."""
    assert connection.execute(assets.query("lead").encode()).fetchone() == (True,)


@pytest.fixture
def healthy(bridge_url: str, bot: Bot) -> Iterator[str]:
    """A database whose bridge keeps up."""
    bot.execute("select bridge.create_partitions((now() at time zone 'UTC')::date, 9)")
    with psycopg.connect(bridge_url, autocommit=True) as bridge:
        become_drainer(bridge)
        yield bridge_url


@pytest.fixture
def weakling(healthy: str, bot: Bot) -> Iterator[str]:
    """``healthy`` for a role that may only connect."""
    bot.execute(f"create role {ROLE} login".encode())
    yield healthy.replace("postgres:@", f"{ROLE}:@")
    bot.execute(
        f"reassign owned by {ROLE} to postgres; drop owned by {ROLE}; drop role {ROLE}".encode()
    )


@pytest.fixture(scope="module")
def lenient_server() -> Iterator[EmbeddedPostgres]:
    """A server of its own, with prepared transactions and a small queue of notifications."""
    with embedded_postgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("alter system set max_prepared_transactions = 5")
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


def test_where_nothing_is_wrong_every_check_says_so(healthy: str) -> None:
    found = diagnose(healthy)
    assert [finding for finding in found.values() if finding.level != "ok"] == []
    assert list(found) == ["connection", *(check.__name__ for check in doctor.CHECKS)]


# --- the way there


@pytest.mark.parametrize("setting", ["BRIDGE_DATABASE_URL", "BRIDGE_LISTEN_URL"])
def test_a_server_that_is_not_there_is_all_that_is_found(bridge_url: str, setting: str) -> None:
    nowhere = "postgresql://u:hunter2@127.0.0.1:1/d"
    urls = (nowhere, None) if setting == "BRIDGE_DATABASE_URL" else (bridge_url, nowhere)
    found = diagnose(*urls)
    assert list(found) == ["connection"]
    assert found["connection"].level == "wrong"
    assert setting in found["connection"].fix
    assert "hunter2" not in str(found)


def test_a_connection_that_ends_midway_is_the_last_that_is_found(healthy: str, bot: Bot) -> None:
    def end_it() -> datetime:
        bot.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and application_name = %s",
            [doctor.APPLICATION_NAME],
        )
        return datetime.now(UTC)

    found = diagnose(healthy, clock=end_it)
    assert list(found)[-1] == "clock"
    assert found["clock"].level == "wrong"


def test_an_old_server_is_refused(healthy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OLDEST_SERVER", 99)
    found = diagnose(healthy)
    assert list(found) == ["connection", "server_version"]
    assert found["server_version"].level == "wrong"


def test_a_standby_is_all_that_is_found_of_it() -> None:
    with embedded_postgres() as server:
        [directory] = parse_qs(urlsplit(server.url()).query)["host"]
        Path(directory, "standby.signal").touch()
        server.stop()
        server.start()
        found = diagnose(server.url())
    assert list(found) == ["connection", "server_version", "standby"]
    assert found["standby"].level == "wrong"


def test_a_database_that_only_reads_is_found_with_who_made_it_so(healthy: str, bot: Bot) -> None:
    bot.execute(f"alter database {bot.info.dbname} set default_transaction_read_only = on".encode())
    found = diagnose(healthy)["read_only"]
    assert found.level == "wrong"
    assert "set by: database" in found.what


def test_places_where_triggers_do_not_fire_are_named(healthy: str, weakling: str, bot: Bot) -> None:
    name = bot.info.dbname
    for place in (
        f"database {name}",
        f"role {ROLE}",
        f"role {ROLE} in database {name}",
    ):
        bot.execute(f"alter {place} set session_replication_role = replica".encode())
        found = diagnose(healthy)["triggers_fire"]
        assert found.level == "wrong"
        assert found.what == f"session_replication_role is replica for {place}"
        assert found.fix == f"alter {place} reset session_replication_role"
        bot.execute(found.fix.encode())
        assert diagnose(healthy)["triggers_fire"].level == "ok"


# --- notifications


def test_a_pooler_that_hands_sessions_around_is_found_until_there_is_a_way_past_it(
    healthy: str, pooled_url: str
) -> None:
    found = diagnose(pooled_url)["listen"]
    assert found.level == "wrong"
    assert found.what == (
        "BRIDGE_DATABASE_URL goes through a pooler in transaction mode (PgBouncer)"
    )
    assert "BRIDGE_LISTEN_URL" in found.fix
    found = diagnose(pooled_url, listen_url=healthy)["listen"]
    assert found.level == "ok"
    assert found.what.endswith("past the pooler of BRIDGE_DATABASE_URL")
    found = diagnose(healthy, listen_url=pooled_url)["listen"]
    assert found.level == "wrong"
    assert found.what.startswith("BRIDGE_LISTEN_URL goes through a pooler")


def test_everything_else_is_looked_at_through_such_a_pooler_too(healthy: str) -> None:
    with pgbouncer(healthy, pool_size=1) as narrow:
        found = diagnose(narrow)
    assert [name for name, finding in found.items() if finding.level == "wrong"] == ["listen"]
    assert list(found)[-1] == doctor.CHECKS[-1].__name__


def test_a_pooler_that_keeps_sessions_will_do(healthy: str) -> None:
    with pgbouncer(healthy, mode="session") as url:
        found = diagnose(url)["listen"]
    assert found.level == "ok"
    assert "a pooler that keeps sessions" in found.what


def test_two_urls_of_different_databases_are_found(
    healthy: str, bot_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LISTEN_SECONDS", 0.2)
    found = diagnose(bot_url, listen_url=healthy)["listen"]
    assert found.level == "wrong"
    assert "different databases" in found.why


def test_a_queue_of_notifications_that_fills_is_found_with_who_keeps_it(
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
        assert fill(doctor.QUEUE_FILLING).level == "note"
        found = fill(doctor.QUEUE_FULL)
        assert found.level == "wrong"
        assert str(listener.info.backend_pid) in found.fix


# --- transactions and time


def test_a_transaction_that_stays_prepared_is_found_by_its_name(
    prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = diagnose(prepared, doorbell="adaptive")["prepared_transactions"]
    assert found.level == "note"
    assert "BRIDGE_DOORBELL=poll" in found.fix
    monkeypatch.setattr(doctor, "PREPARED_SECONDS", 0)
    found = diagnose(prepared)["prepared_transactions"]
    assert found.level == "wrong"
    assert "'forgotten'" in found.what


@pytest.mark.parametrize(("minutes", "word"), [(5, "ahead of"), (-5, "behind")])
def test_clocks_that_differ_are_found(healthy: str, minutes: int, word: str) -> None:
    found = diagnose(healthy, clock=lambda: datetime.now(UTC) + timedelta(minutes=minutes))["clock"]
    assert found.level == "wrong"
    assert found.what == f"this machine's clock is 5 min {word} the database's"


# --- rights and the schema


def test_rights_that_are_missing_are_named_and_granted_by_the_fix(weakling: str, bot: Bot) -> None:
    found = diagnose(weakling)
    assert found["rights"].level == "wrong"
    assert "usage on schema bridge" in found["rights"].what
    assert "more" in found["rights"].what
    assert found["schema_version"].level == "wrong"
    assert found["rights"].fix == f"grant bridge_service to {ROLE}"
    bot.execute(found["rights"].fix.encode())
    found = diagnose(weakling)
    assert found["rights"].what == f"role {ROLE} may do what the bridge does"
    # Nor does any other check ask for more than the service may.
    assert {check: each for check, each in found.items() if each.level == "wrong"} == {}


def test_a_right_on_one_table_that_is_missing_is_named(weakling: str, bot: Bot) -> None:
    bot.execute(f"grant bridge_service to {ROLE}".encode())
    bot.execute("revoke delete on bridge.outbox from bridge_service")
    found = diagnose(weakling)["rights"]
    assert found.level == "wrong"
    assert found.what == f"role {ROLE} lacks delete on bridge.outbox"
    assert found.fix == "run: pgbridge init"


def test_the_owner_is_told_of_rights_that_init_granted_and_that_are_gone(
    healthy: str, bot: Bot
) -> None:
    bot.execute("revoke select on bridge.events from bridge_reader")
    found = diagnose(healthy)["rights"]
    assert found.level == "note"
    assert found.fix == "run: pgbridge init"
    init(healthy)
    assert diagnose(healthy)["rights"].level == "ok"


def test_a_member_that_does_not_inherit_is_told_how_to(weakling: str, bot: Bot) -> None:
    bot.execute(f"alter role {ROLE} noinherit; grant bridge_service to {ROLE}".encode())
    found = diagnose(weakling)["rights"]
    assert found.level == "wrong"
    bot.execute(found.fix.encode())
    assert diagnose(weakling)["rights"].level == "ok"


def test_a_role_that_cannot_make_the_schema_is_told_so(
    bot_url: str, weakling: str, bot: Bot
) -> None:
    found = diagnose(bot_url.replace("postgres:@", f"{ROLE}:@"))
    assert found["rights"].level == "wrong"
    assert f"create on database {urlsplit(bot_url).path[1:]}" in found["rights"].what


def test_a_database_without_our_schema_is_sent_to_init(bot_url: str) -> None:
    found = diagnose(bot_url)
    assert list(found)[-1] == "schema_version"
    assert (found["schema_version"].level, found["schema_version"].fix) == (
        "wrong",
        "run: pgbridge init",
    )


def test_somebody_elses_schema_of_our_name_is_found(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("create schema bridge")
    found = diagnose(empty_url)["schema_version"]
    assert (found.level, "not pgbridge's" in found.what) == ("wrong", True)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("delete from bridge.migrations where version > 1", "run: pgbridge init"),
        (
            "insert into bridge.migrations (version, name, checksum) values (9999, 'x', 'y')",
            "install the newer pgbridge",
        ),
    ],
)
def test_a_schema_of_another_version_is_found(
    healthy: str, bot: Bot, change: str, remedy: str
) -> None:
    bot.execute(change.encode())
    found = diagnose(healthy)
    assert list(found)[-1] == "schema_version"
    assert (found["schema_version"].level, found["schema_version"].fix) == ("wrong", remedy)


# --- the bridge at work


def test_an_outbox_that_nobody_drains_is_noted_and_later_wrong(bridge_url: str, bot: Bot) -> None:
    assert diagnose(bridge_url)["outbox"].level == "note"
    bot.execute(
        "insert into bridge.outbox (event_type, payload, captured_at)"
        " values ('a.b', '{}', now() - interval '5 minutes')"
    )
    found = diagnose(bridge_url)["outbox"]
    assert found.level == "wrong"
    assert found.what == "events in the outbox: 1, the oldest captured 5 min ago"
    assert found.why == "no bridge drains"


def test_a_bridge_that_drains_and_does_not_get_on_is_named(healthy: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.drainer (bridge, mode, is_quiet) values ('shop:42', 'adaptive', true)"
    )
    bot.execute(
        "insert into bridge.outbox (event_type, payload, captured_at)"
        " select 'a.b', '{}', now() - interval '2 hours' from generate_series(1, 10002)"
    )
    found = diagnose(healthy)["outbox"]
    assert found.level == "wrong"
    assert found.what == "events in the outbox: more than 10000, the oldest captured 2 h ago"
    assert found.why.startswith("shop:42 ")


def test_a_doorbell_that_rings_for_nobody_is_noted(bridge_url: str, bot: Bot) -> None:
    bot.execute("select setval('bridge.doorbell', 0)")
    assert diagnose(bridge_url)["doorbell"].level == "note"
    become_drainer(bot)
    bot.execute(
        "insert into bridge.drainer (bridge, mode, is_quiet, switches)"
        " values ('shop:42', 'adaptive', false, 7)"
    )
    found = diagnose(bridge_url, doorbell="adaptive")["doorbell"]
    assert found.level == "ok"
    assert found.what.startswith("the doorbell is ringing, mode adaptive, switched 7 times, set ")


def leave_dead_rows(connection: Bot) -> None:
    """Insert and delete a thousand events, and have the statistics know."""
    connection.execute(
        "insert into bridge.outbox (event_type, payload)"
        " select 'a.b', '{}' from generate_series(1, 1000)"
    )
    connection.execute("delete from bridge.outbox")
    connection.execute("select pg_stat_force_next_flush()")


def test_dead_rows_are_found_with_the_session_that_keeps_them(
    healthy: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DEAD_ROWS", 999)
    monkeypatch.setattr(doctor, "HOLDER_SECONDS", 0)
    assert diagnose(healthy)["vacuum"].level == "ok"
    with psycopg.connect(healthy) as report:
        report.execute("set transaction isolation level repeatable read")
        report.execute("select")
        leave_dead_rows(bot)
        found = diagnose(healthy)["vacuum"]
        assert found.level == "wrong"
        assert "1000 in bridge.outbox" in found.what
        assert f"the session with PID {report.info.backend_pid} of postgres" in found.why
        assert f"select pg_terminate_backend({report.info.backend_pid})" in found.fix
    found = diagnose(healthy)["vacuum"]
    assert found.level == "wrong"
    assert "autovacuum" in found.fix


def test_dead_rows_are_found_with_the_prepared_transaction_that_keeps_them(
    prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DEAD_ROWS", 999)
    monkeypatch.setattr(doctor, "HOLDER_SECONDS", 0)
    with psycopg.connect(prepared, autocommit=True) as connection:
        leave_dead_rows(connection)
    found = diagnose(prepared)["vacuum"]
    assert found.level == "wrong"
    assert "the prepared transaction 'forgotten' of postgres" in found.why


@pytest.mark.parametrize(
    ("ahead", "level"), [(0, "wrong"), (1, "wrong"), (2, "note"), (3, "note"), (4, "ok")]
)
def test_a_partition_that_is_missing_is_named(
    healthy: str, bot: Bot, ahead: int, level: str
) -> None:
    [(name,)] = bot.execute(
        "select 'events_p' || to_char((now() at time zone 'UTC')::date + %s, 'YYYYMMDD')", [ahead]
    ).fetchall()
    bot.execute(f"drop table bridge.{name}".encode())
    found = diagnose(healthy)["partitions"]
    assert found.level == level
    assert level == "ok" or found.what == f"the logs lack {name}"


def test_partitions_that_were_never_made_are_the_first_runs_to_make(bot_url: str) -> None:
    init(bot_url)
    with psycopg.connect(bot_url, autocommit=True) as connection:
        for (partition,) in connection.execute(
            "select oid::regclass::text from pg_class where relname ~ '_p\\d{8}$' and relkind = 'r'"
        ).fetchall():
            connection.execute(f"drop table {partition}".encode())
    assert diagnose(bot_url)["partitions"].level == "note"


# --- a check that cannot look


def test_a_table_that_somebody_has_locked_is_not_waited_for(
    healthy: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "STATEMENT_SECONDS", 0.2)
    with bot.transaction():
        bot.execute("lock table bridge.outbox in access exclusive mode")
        found = diagnose(healthy)
    assert found["outbox"].level == "wrong"
    assert "statement timeout" in found["outbox"].what
    assert found["partitions"].level == "ok"


# --- rules


def test_rules_that_init_has_not_applied_are_named(healthy: str) -> None:
    changed = [rule for rule in load_preset("telegram-shop") if rule.name != "user.created"]
    changed += parse_rules(
        "[[capture]]\nevent = 'user.left'\ntable = 'public.users'\non = 'delete'\npayload = ['id']"
    )
    finding = diagnose(healthy, rules=changed)["rules"]
    assert finding.level == "wrong"
    assert "not applied: user.left" in finding.what
    assert "no longer wanted: user.created" in finding.what


def test_a_rule_that_names_a_column_that_is_gone_is_named_with_it(healthy: str, bot: Bot) -> None:
    bot.execute("alter table public.users drop column referral_code")
    bot.execute("insert into public.users (auth_type) values ('telegram')")
    drain(bot)
    found = diagnose(healthy)
    assert found["rules"].level == "wrong"
    assert found["rules"].what.startswith("[[capture]] user.created: payload.referral_code: ")
    assert found["capture_errors"].level == "wrong"
    assert "user.created: 1 times" in found["capture_errors"].what
    assert 'record "new" has no field "referral_code"' in found["capture_errors"].what


def test_capture_errors_are_over_once_the_rule_is_applied_anew(healthy: str, bot: Bot) -> None:
    bot.execute("alter table public.users drop column referral_code")
    bot.execute("insert into public.users (auth_type) values ('telegram')")
    drain(bot)
    mended = [
        rule.model_copy(update={"payload": {"id": "id"}}) if rule.name == "user.created" else rule
        for rule in load_preset("telegram-shop")
    ]
    assert diagnose(healthy, rules=mended)["rules"].level == "wrong"
    init(healthy, mended)
    found = diagnose(healthy, rules=mended)
    assert {found[check].level for check in ("rules", "triggers", "capture_errors")} == {"ok"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("drop trigger bridge_001_user_created on public.users", "its trigger was dropped"),
        ("alter table public.users disable trigger all", "its trigger is disabled"),
        (
            "create or replace trigger bridge_001_user_created after delete on public.users"
            " for each row execute function bridge.capture_user_created()",
            "its trigger was replaced",
        ),
        (
            "create or replace function bridge.capture_user_created() returns trigger"
            " language plpgsql as 'begin return null; end'",
            "its function was replaced",
        ),
        ("alter table public.users rename to customers", "table public.users no longer exists"),
    ],
)
def test_what_somebody_did_to_a_trigger_is_told_with_its_rule(
    healthy: str, bot: Bot, damage: str, said: str
) -> None:
    bot.execute(damage.encode())
    finding = diagnose(healthy)["triggers"]
    assert finding.level == "wrong"
    assert f"user.created: {said}" in finding.what


def test_a_paused_rule_is_noted_and_not_wrong(healthy: str) -> None:
    with open_session(healthy) as connection:
        pause(connection, "user.created")
    found = diagnose(healthy)
    assert (found["paused_rules"].level, found["paused_rules"].what) == (
        "note",
        "paused: user.created",
    )
    assert found["triggers"].level == "ok"
    assert found["rules"].level == "ok"


def test_a_bridge_with_another_doorbell_than_ours_is_noted(healthy: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.drainer (bridge, mode, is_quiet) values ('host:1', 'poll', true)"
    )
    assert diagnose(healthy)["doorbell"].level == "ok"
    assert diagnose(healthy, doorbell="adaptive")["doorbell"].level == "note"


# --- secrets


OLD_KEY, NEW_KEY = (Fernet.generate_key().decode() for _ in range(2))


def add_webhooks(connection: Bot, *secrets: str | None) -> list[int]:
    """Add a webhook for each secret as it is stored; return their ids."""
    rows = [
        connection.execute(
            "insert into bridge.webhooks (name, url, event_type, secret)"
            " values ('w', 'http://localhost/', 'a.b', %s) returning id",
            [secret],
        ).fetchone()
        for secret in secrets
    ]
    return [int(row[0]) for row in rows if row]


def test_secrets_in_the_clear_are_noted_where_there_is_no_key(healthy: str, bot: Bot) -> None:
    add_webhooks(bot, None)
    assert diagnose(healthy)["webhook_secrets"].what == "no webhook has a secret"
    add_webhooks(bot, "s3cret", "s3cret")
    found = diagnose(healthy)["webhook_secrets"]
    assert found.level == "note"
    assert found.what == "webhooks whose secrets are stored in the clear: 2"
    assert "BRIDGE_SECRET_KEY" in found.fix


def test_secrets_that_no_bridge_has_encrypted_with_the_key_yet_are_noted(
    healthy: str, bot: Bot
) -> None:
    by_old = Vault([OLD_KEY]).seal("s3cret")
    old, clear, rotated = add_webhooks(bot, by_old, "s3cret", Vault([NEW_KEY]).seal("s3cret"))
    found = diagnose(healthy, keys=f"{NEW_KEY},{OLD_KEY}")["webhook_secrets"]
    assert (found.level, found.what) == (
        "note",
        f"BRIDGE_SECRET_KEY is set, and secrets are stored in the clear: of webhooks {clear}",
    )
    bot.execute("update bridge.webhooks set secret = %s where id = %s", [by_old, clear])
    bot.execute(
        "update bridge.webhooks set previous_secret = %s,"
        " previous_secret_expires_at = now() + interval '1 hour' where id = %s",
        [by_old, rotated],
    )
    found = diagnose(healthy, keys=f"{NEW_KEY},{OLD_KEY}")["webhook_secrets"]
    assert (found.level, found.what) == (
        "note",
        "secrets are encrypted with a key that is not the first: "
        f"of webhooks {old}, {clear}, {rotated}",
    )
    found = diagnose(healthy, keys=OLD_KEY)["webhook_secrets"]
    assert (found.level, found.what) == (
        "wrong",
        f"no key in BRIDGE_SECRET_KEY opens the secrets of 1 webhooks: {rotated}",
    )


def test_secrets_that_the_keys_do_not_open_are_found_with_their_webhooks(
    healthy: str, bot: Bot
) -> None:
    by_old = Vault([OLD_KEY]).seal("s3cret")
    _, first, second = add_webhooks(bot, "s3cret", by_old, "fernet:garbage")
    found = diagnose(healthy, keys=NEW_KEY)["webhook_secrets"]
    assert found.level == "wrong"
    assert found.what == (
        f"no key in BRIDGE_SECRET_KEY opens the secrets of 2 webhooks: {first}, {second}"
    )
    found = diagnose(healthy)["webhook_secrets"]
    assert found.level == "wrong"
    assert found.what == (
        "BRIDGE_SECRET_KEY is not set, and encrypted are the secrets of 2 webhooks: "
        f"{first}, {second}"
    )
    for text in (found.what, found.why, found.fix):
        assert "s3cret" not in text
        assert by_old not in text


def test_encrypted_secrets_that_can_be_opened_are_well(healthy: str, bot: Bot) -> None:
    add_webhooks(bot, Vault([NEW_KEY]).seal("s3cret"), None)
    found = diagnose(healthy, keys=f"{NEW_KEY},{OLD_KEY}")["webhook_secrets"]
    assert (found.level, found.what) == (
        "ok",
        "the secrets of 1 webhooks are encrypted, and can be opened",
    )


def test_an_old_secret_whose_time_is_over_is_not_looked_at(healthy: str, bot: Bot) -> None:
    add_webhooks(bot, Vault([NEW_KEY]).seal("s3cret"))
    bot.execute(
        "update bridge.webhooks set previous_secret = 'clear', previous_secret_expires_at = now()"
    )
    assert diagnose(healthy, keys=NEW_KEY)["webhook_secrets"].level == "ok"


def drain(connection: Bot) -> None:
    """Move what is in the outbox to the log, as the relay does."""
    statement = assets.query("drain")
    for number, value in enumerate(("0", "'{}'::bigint[]", "'{}'::bigint[]", "100"), start=1):
        statement = statement.replace(f"${number}", value)
    connection.execute(statement.encode())


# --- who is let in


def test_the_bots_tokens_that_cannot_be_read_are_told_where_they_are_to_be_valid(
    healthy: str, bot: Bot
) -> None:
    def found(**settings: object) -> Finding:
        given = load_settings(database_url=healthy, doorbell="poll", **settings)
        [finding] = [
            each
            for each in examine(given, load_preset("telegram-shop"))
            if each.check == "bot_tokens"
        ]
        return finding

    assert found().level == "ok"
    missing = found(bot_tokens="on")
    assert missing.level == "wrong"
    assert "web_api_tokens" in missing.what
    bot.execute(
        "create table public.web_api_tokens (id serial, name text, token_hash text,"
        " is_active boolean, expires_at timestamptz)"
    )
    assert found(bot_tokens="on").what == "the bot's own tokens can be read"
    # Who owns it may write what runs with the rights of whoever reads it.
    bot.execute(
        "alter table public.web_api_tokens rename to tokens;"
        "create view public.web_api_tokens as select * from public.tokens"
    )
    assert found(bot_tokens="on").level == "ok"  # as the owner of schema bridge may anyway
    bot.execute("alter view public.web_api_tokens owner to bridge_reader")
    trap = found(bot_tokens="on")
    assert trap.level == "wrong"
    assert trap.what == "public.web_api_tokens is not read: it is no plain table"
    bot.execute("drop view public.web_api_tokens; drop table public.tokens")
