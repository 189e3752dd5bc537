"""Brings schema ``bridge`` to this version: which migrations are missing, as steps to run."""

import hashlib
from dataclasses import dataclass

import psycopg

from bridge import assets
from bridge.database.quoting import literal


class MigrationError(Exception):
    """The schema cannot be brought to this version. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """SQL that runs as one transaction, and what it is for in a few words."""

    title: str
    sql: str
    #: The application's table it locks, if any.
    locks: str | None = None
    #: Whether that lock waits for readers, too, and not for writers alone.
    locks_out_readers: bool = False


@dataclass(frozen=True, slots=True)
class _Migration:
    version: int
    name: str
    checksum: str
    sql: str


def plan_migrations(connection: psycopg.Connection[tuple[object, ...]]) -> list[Step]:
    """Return the steps that bring the schema to this version: none, if it is there.

    Raises:
        MigrationError: the database is newer than this pgbridge, a released migration was edited,
            or somebody else's schema has our name.
    """
    known = [_read(file_name, sql) for file_name, sql in assets.migrations()]
    steps = []
    if not is_installed(connection):
        steps.append(Step("create schema bridge", assets.query("bootstrap")))
        applied = {}
    else:
        rows = connection.execute("select version, checksum from bridge.migrations").fetchall()
        applied = {int(str(version)): str(checksum) for version, checksum in rows}
    if applied and max(applied) > known[-1].version:
        raise MigrationError("; ".join(assets.schema_mismatch(max(applied)) or ()))
    for migration in known:
        if migration.version not in applied:
            steps.append(_step(migration))
        elif applied[migration.version] != migration.checksum:
            raise MigrationError(
                f"migration {migration.version:04} ({migration.name}) was applied with another "
                "content; a released migration must not be edited"
            )
    return steps


def is_installed(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Return whether the database has pgbridge's schema.

    Raises:
        MigrationError: it has a schema called bridge that is not pgbridge's.
    """
    found = connection.execute(
        "select array(select attname::text from pg_attribute"
        "             where attrelid = to_regclass('bridge.migrations') and attnum > 0)"
        "       @> array['version', 'name', 'checksum', 'applied_at']"
        " from pg_namespace where nspname = 'bridge'"
    ).fetchone()
    if found == (False,):
        raise MigrationError("the database has a schema called bridge that is not pgbridge's")
    return found is not None


def _read(file_name: str, sql: str) -> _Migration:
    version, _, words = file_name.removesuffix(".sql").partition("_")
    checksum = hashlib.sha256(sql.encode()).hexdigest()
    return _Migration(int(version), words.replace("_", " "), checksum, sql)


def _step(migration: _Migration) -> Step:
    # The version goes in first: of two installers that race, one waits here and then fails.
    return Step(
        f"migration {migration.version:04}: {migration.name}",
        "insert into bridge.migrations (version, name, checksum)\n"
        f"values ({migration.version}, {literal(migration.name)}, {literal(migration.checksum)});\n"
        f"{migration.sql}",
    )
