"""The schema is what schema.sql says, and explains itself.

``make schema`` writes schema.sql anew.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from bridge import assets
from bridge.capture.apply import apply_steps
from bridge.database.migrate import plan_migrations
from bridge.database.sessions import open_session
from bridge.demo.postgres import EmbeddedPostgres, embedded_postgres

SNAPSHOT = Path(__file__).with_name("schema.sql")
HEADER = "-- Schema bridge after every migration, as pg_dump writes it. Written by make schema.\n\n"


def migrated_schema(server: EmbeddedPostgres, url: str) -> str:
    """Migrate an empty database, without rules and partitions, and return what it has then."""
    with open_session(url) as connection:
        steps = plan_migrations(connection)
        apply_steps(connection, steps, lock_timeout_seconds=1.0, report=lambda _: None)
    command = [str(server.bin / "pg_dump"), "--schema-only", "--schema=bridge", "--no-owner", url]
    dumped = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # The preamble of settings, the versions and pg_dump's own headings are no part of the schema.
    noise = ("--", "SET ", "SELECT pg_catalog.set_config", "\\restrict", "\\unrestrict")
    text = "\n".join(line for line in dumped.splitlines() if not line.startswith(noise))
    return HEADER + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


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


def test_the_migrated_schema_is_the_committed_snapshot(
    server: EmbeddedPostgres, empty_url: str
) -> None:
    assert migrated_schema(server, empty_url) == SNAPSHOT.read_text("utf-8"), "run make schema"


def test_everything_in_the_schema_says_what_it_is_for(
    catalog: list[tuple[str, str, str | None]],
) -> None:
    assert {kind for kind, _, _ in catalog} == {"relation", "index", "function", "schema"}
    assert [(kind, name) for kind, name, comment in catalog if not comment] == []


def test_every_constraint_has_a_name_of_our_own_making(
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


def test_times_are_timestamptz_and_so_named(server: EmbeddedPostgres, bridge_template: str) -> None:
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
        SNAPSHOT.write_text(migrated_schema(running, running.url()), "utf-8")
