"""Plan the migrations that bring schema ``bridge`` to this version."""

import hashlib
from dataclasses import dataclass

from bridge import assets
from bridge.database.quoting import literal
from bridge.database.sessions import Connection, fetch, is_utf8


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


def plan_migrations(connection: Connection) -> list[Step]:
    """Return the steps that bring the schema to this version; none if it is up to date.

    Raises:
        InstallError: the database is newer than this pgbridge, a migration has changed since it
            was applied, or schema bridge is not pgbridge's.
    """
    steps: list[Step] = []
    applied: dict[int, str] = {}
    if is_installed(connection):
        rows = connection.execute("select version, checksum from bridge.migrations").fetchall()
        applied = dict(rows)
    else:
        steps.append(Step("create schema bridge", assets.query("bootstrap")))
    if applied and max(applied) > assets.schema_version():
        raise InstallError("; ".join(assets.schema_mismatch(max(applied)) or ()))
    for file_name, sql in assets.migrations():
        digits, _, words = file_name.removesuffix(".sql").partition("_")
        version, name = int(digits), words.replace("_", " ")
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        if version not in applied:
            steps.append(
                Step(
                    f"migration {version:04}: {name}",
                    # First: if two installers race, the second waits here and then fails.
                    "insert into bridge.migrations (version, name, checksum)\n"
                    f"values ({version}, {literal(name)}, {literal(checksum)});\n"
                    f"{_sql_for(connection, sql)}",
                )
            )
        elif applied[version] != checksum:
            raise InstallError(
                f"migration {version:04} ({name}) differs from the one that was applied; "
                "a released migration must not be edited"
            )
    return steps


def _sql_for(connection: Connection, sql: str) -> str:
    """Return a migration in characters that the database's encoding has."""
    if is_utf8(connection):
        return sql
    # Beyond ASCII, our SQL has only this character, in comments.
    return sql.replace("\N{HORIZONTAL ELLIPSIS}", "...")


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
