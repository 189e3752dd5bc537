"""Plan the migrations that bring schema ``bridge`` to this version."""

import hashlib
from dataclasses import dataclass

from bridge import assets
from bridge.database.quoting import literal
from bridge.database.sessions import Connection, fetch


class InstallError(Exception):
    """The database cannot be changed as requested. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """SQL that runs in one transaction, with a short title."""

    title: str
    sql: str
    #: The application's table that it locks, if any.
    locked_table: str | None = None
    #: Whether that lock conflicts with readers as well as with writers.
    blocks_readers: bool = False


@dataclass(frozen=True, slots=True)
class _Migration:
    version: int
    name: str
    checksum: str
    sql: str


def plan_migrations(connection: Connection) -> list[Step]:
    """Return the steps that bring the schema to this version; none if it is up to date.

    Raises:
        InstallError: the database is newer than this pgbridge, a migration has changed since it
            was applied, or schema bridge is not pgbridge's.
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
        raise InstallError("; ".join(assets.schema_mismatch(max(applied)) or ()))
    for migration in known:
        if migration.version not in applied:
            steps.append(_step(migration))
        elif applied[migration.version] != migration.checksum:
            raise InstallError(
                f"migration {migration.version:04} ({migration.name}) differs from the one "
                "that was applied; a released migration must not be edited"
            )
    return steps


def is_installed(connection: Connection) -> bool:
    """Return whether schema bridge exists.

    Raises:
        InstallError: the schema is not pgbridge's.
    """
    [found] = fetch(connection, "is_installed")
    if found["has_schema"] and not found["is_ours"]:
        raise InstallError(
            "the database has a schema called bridge that is not pgbridge's; rename it first"
        )
    return bool(found["has_schema"])


def _read(file_name: str, sql: str) -> _Migration:
    version, _, words = file_name.removesuffix(".sql").partition("_")
    checksum = hashlib.sha256(sql.encode()).hexdigest()
    return _Migration(int(version), words.replace("_", " "), checksum, sql)


def _step(migration: _Migration) -> Step:
    # The version goes in first: if two installers race, the second waits here and then fails.
    return Step(
        f"migration {migration.version:04}: {migration.name}",
        "insert into bridge.migrations (version, name, checksum)\n"
        f"values ({migration.version}, {literal(migration.name)}, {literal(migration.checksum)});\n"
        f"{migration.sql}",
    )
