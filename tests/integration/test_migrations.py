"""Migrations run in order, once, and each as a whole."""

import re
import threading

import psycopg
import pytest

from bridge import assets
from bridge.capture.apply import apply_steps
from bridge.database.migrate import InstallError
from bridge.database.sessions import open_session
from tests.conftest import init
from tests.integration.installing import (
    RULES,
    Dump,
    impatient,
    plan,
    uninstall,
)
from tests.waiting import PATIENCE_SECONDS


def add_migrations(monkeypatch: pytest.MonkeyPatch, *files: tuple[str, str]) -> None:
    released = assets.migrations()
    monkeypatch.setattr(assets, "migrations", lambda: [*released, *files])


def test_edited_migration_is_refused(bridge_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (name, text), *rest = assets.migrations()
    monkeypatch.setattr(assets, "migrations", lambda: [(name, text + "\n"), *rest])
    with pytest.raises(InstallError, match=r"migration 0001 .* must not be edited"):
        plan(bridge_url)


def test_newer_database_is_refused(bridge_url: str) -> None:
    with psycopg.connect(bridge_url) as connection:
        connection.execute("insert into bridge.migrations values (9999, 'from the future', 'x')")
    with pytest.raises(InstallError, match="the database is newer than this pgbridge"):
        plan(bridge_url)


def test_upgrade_runs_only_new_migrations_in_order(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_migrations(
        monkeypatch,
        ("9001_add_first.sql", "create table bridge.first ();"),
        ("9002_rename_first.sql", "alter table bridge.first rename to second;"),
    )
    assert [step.title for step in init(bridge_url).steps] == [
        "migration 9001: add first",
        "migration 9002: rename first",
        "disable row-level security in schema bridge",
        "grant what bridge_service and bridge_reader need",
    ]
    with psycopg.connect(bridge_url) as connection:
        assert connection.execute("table bridge.second").fetchall() == []


def test_failed_migration_is_rolled_back(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch, dump_schema: Dump
) -> None:
    before = dump_schema(bridge_url)
    add_migrations(
        monkeypatch,
        (
            "9001_fail_late.sql",
            "create table bridge.half (); select 1 / 0; create table bridge.x ();",
        ),
    )
    with pytest.raises(InstallError, match="migration 9001: fail late: division by zero"):
        init(bridge_url)
    assert dump_schema(bridge_url) == before
    with psycopg.connect(bridge_url) as connection:
        row = connection.execute("select max(version) < 9000 from bridge.migrations").fetchone()
    assert row == (True,)


def test_failed_first_init_can_be_repeated_or_undone(
    bot_url: str, monkeypatch: pytest.MonkeyPatch, dump_schema: Dump
) -> None:
    before = dump_schema(bot_url)
    released = assets.migrations()
    with monkeypatch.context() as broken:
        broken.setattr(assets, "migrations", lambda: [("0001_fail.sql", "select 1 / 0"), *released])
        with pytest.raises(InstallError, match="division by zero"):
            init(bot_url)
    uninstall(bot_url)
    assert dump_schema(bot_url) == before
    with monkeypatch.context() as broken:
        broken.setattr(assets, "migrations", lambda: [*released, ("9001_fail.sql", "select 1 / 0")])
        with pytest.raises(InstallError, match="division by zero"):
            init(bot_url)
    assert init(bot_url).new == RULES


@pytest.mark.parametrize(
    "table",
    ["precious (id int)", "migrations (id int)", "migrations (version int, name text)"],
)
def test_foreign_schema_named_bridge_is_left_alone(
    bot_url: str, dump_schema: Dump, table: str
) -> None:
    with psycopg.connect(bot_url) as connection:
        connection.execute(f"create schema bridge create table {table}".encode())
    before = dump_schema(bot_url)
    for refused in (init, uninstall):
        with pytest.raises(InstallError, match=r"called bridge that is not pgbridge's"):
            refused(bot_url)
    assert dump_schema(bot_url) == before


def test_migration_waits_for_our_own_tables_without_blocking_bridges(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_migrations(
        monkeypatch, ("9001_add_note.sql", "alter table bridge.api_tokens add column note text;")
    )
    steps = plan(bridge_url).steps
    said: list[str] = []
    stepped_back, over = threading.Event(), threading.Event()

    def report(message: str) -> None:
        said.append(message)
        if len(said) > 1:
            stepped_back.set()

    def run_init() -> None:
        try:
            with open_session(impatient(bridge_url)) as connection:
                apply_steps(connection, steps, lock_timeout_seconds=0.1, report=report)
        finally:
            over.set()

    thread = threading.Thread(target=run_init, daemon=True)
    # A backup can hold its locks for hours. Bridges look up tokens meanwhile.
    with psycopg.connect(bridge_url, application_name="pg_dump") as backup:
        backup.execute("select from bridge.api_tokens")
        thread.start()
        with psycopg.connect(impatient(bridge_url), autocommit=True) as a_bridge:
            while not stepped_back.is_set() and not over.is_set():
                a_bridge.execute("select from bridge.api_tokens")
        backup.rollback()
    thread.join(PATIENCE_SECONDS)
    assert over.is_set()
    # If the bridge is looking up a token at that moment, it is named beside the backup.
    bridge = r"pid \d+ \(postgres, no application_name, [a-z ]+, for \d+ s\)"
    assert re.search(
        rf"^migration 9001: add note: schema bridge is locked by (?:{bridge} and )?"
        r"pid \d+ \(postgres, pg_dump, idle in transaction, for \d+ s\)"
        rf"(?: and {bridge})?, waiting$",
        said[1],
    )
    assert plan(bridge_url).steps == []
