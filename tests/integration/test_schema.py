"""The schema matches its committed dumps and documents itself.

``make schema`` writes ``schema.sql``: the schema after every migration.
``initial_schema.sql`` is the first version with its data, to test upgrades from. It must not change
once that version is released; until then, write it with
``python -m tests.integration.test_schema --initial``.
"""

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from bridge import assets
from bridge.database.migrate import plan_migrations
from bridge.database.sessions import open_session
from bridge.demo.postgres import EmbeddedPostgres, embedded_postgres
from tests.integration.installing import apply
from tests.postgres import newest_only

SNAPSHOT = Path(__file__).with_name("schema.sql")
INITIAL = Path(__file__).with_name("initial_schema.sql")
HEADER = "-- Schema bridge after every migration, as pg_dump writes it. Written by make schema.\n\n"
INITIAL_HEADER = (
    "-- The first version of schema bridge, with its data. Upgrades are tested from it.\n\n"
)


def dump(server: EmbeddedPostgres, url: str, *options: str) -> str:
    """Dump schema bridge without settings, versions and headings."""
    command = [str(server.bin / "pg_dump"), "--schema=bridge", "--no-owner", *options, url]
    dumped = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    noise = ("--", "SET ", "SELECT pg_catalog.set_config", "\\restrict", "\\unrestrict")
    text = "\n".join(line for line in dumped.splitlines() if not line.startswith(noise))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def migrate(url: str) -> None:
    """Run the missing migrations, without rules and partitions."""
    with open_session(url) as connection:
        steps = plan_migrations(connection)
    apply(url, steps)


@pytest.fixture(scope="module")
def catalog(server: EmbeddedPostgres, bridge_template: str) -> list[tuple[str, str, str | None]]:
    """(kind, name, comment) of everything in schema bridge but partitions and capture functions."""
    with psycopg.connect(server.url(bridge_template)) as connection:
        rows: list[tuple[str, str, str | None]] = connection.execute("""
            select case c.relkind when 'i' then 'index' when 'I' then 'index' else 'relation' end,
                   c.relname::text, obj_description(c.oid, 'pg_class')
            from pg_class c
            where c.relnamespace = 'bridge'::regnamespace
              and c.relkind in ('r', 'p', 'v', 'm', 'i', 'I')
              and not (c.relispartition and c.relname ~ '_p\\d{8}')
              and not exists (select from pg_constraint k where k.conindid = c.oid)
              and not exists (
                  select from pg_index x join pg_class t on t.oid = x.indrelid
                  where x.indexrelid = c.oid and t.relispartition)
            union all
            select 'function', p.proname::text, obj_description(p.oid, 'pg_proc')
            from pg_proc p
            where p.pronamespace = 'bridge'::regnamespace and p.proname !~ '^capture_'
            union all
            select 'schema', 'bridge', obj_description('bridge'::regnamespace, 'pg_namespace')
        """).fetchall()
    return rows


@newest_only("the snapshot's definitions")
def test_schema_matches_its_snapshot(server: EmbeddedPostgres, empty_url: str) -> None:
    migrate(empty_url)
    dumped = dump(server, empty_url, "--schema-only")
    assert HEADER + dumped == SNAPSHOT.read_text("utf-8"), "run make schema"


@newest_only("the snapshots' definitions")
def test_upgrade_from_the_first_version_gives_the_newest_schema(
    server: EmbeddedPostgres, empty_url: str
) -> None:
    with psycopg.connect(empty_url) as connection:
        # Functions are restored before the tables they read.
        connection.execute("set check_function_bodies = off")
        connection.execute(INITIAL.read_bytes())
    migrate(empty_url)
    # PostgreSQL nests the parentheses of a restored expression differently.
    without_parentheses = str.maketrans("", "", "()")
    dumped = HEADER + dump(server, empty_url, "--schema-only")
    newest = SNAPSHOT.read_text("utf-8")
    assert dumped.translate(without_parentheses) == newest.translate(without_parentheses)
    with psycopg.connect(empty_url) as connection:
        row = connection.execute("select max(version) from bridge.migrations").fetchone()
    assert row == (len(assets.migrations()),)


def test_everything_in_the_schema_has_a_comment(
    catalog: list[tuple[str, str, str | None]],
) -> None:
    assert {kind for kind, _, _ in catalog} == {"relation", "index", "function", "schema"}
    assert [(kind, name) for kind, name, comment in catalog if not comment] == []


def test_every_constraint_is_named_explicitly(
    server: EmbeddedPostgres, bridge_template: str
) -> None:
    written = assets.query("bootstrap") + "".join(sql for _, sql in assets.migrations())
    with psycopg.connect(server.url(bridge_template)) as connection:
        names = connection.execute("""
            select k.conname::text
            from pg_constraint k join pg_class c on c.oid = k.conrelid
            where k.connamespace = 'bridge'::regnamespace
              and k.contype <> 'n' and k.conparentid = 0 and not c.relispartition
        """).fetchall()
    assert len(names) > 5
    assert [name for (name,) in names if f"constraint {name}" not in written] == []


def test_times_are_timestamptz_and_named_as_times(
    server: EmbeddedPostgres, bridge_template: str
) -> None:
    with psycopg.connect(server.url(bridge_template)) as connection:
        columns = connection.execute("""
            select table_name::text, column_name::text, data_type::text
            from information_schema.columns
            where table_schema = 'bridge'
              and (data_type like 'timestamp%' or column_name like '%\\_at')
        """).fetchall()
    assert columns
    for table, column, kind in columns:
        assert kind == "timestamp with time zone", f"{table}.{column}"
        assert column.endswith(("_at", "_until", "_since")), f"{table}.{column}"


if __name__ == "__main__":
    with embedded_postgres() as running:
        migrate(running.url())
        if sys.argv[1:] == ["--initial"]:
            INITIAL.write_text(INITIAL_HEADER + dump(running, running.url(), "--inserts"), "utf-8")
        else:
            SNAPSHOT.write_text(HEADER + dump(running, running.url(), "--schema-only"), "utf-8")
