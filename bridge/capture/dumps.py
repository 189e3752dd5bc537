"""Describe logins whose dumps of the database would fail because of schema bridge."""

from collections.abc import Mapping, Sequence
from typing import Any

#: Roles listed in one message.
LISTED = 3


def dump_problem(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str, str] | None:
    """Describe the rows of ``dump_roles.sql``.

    Returns:
        What was found, what it leads to and what to do, one line each; None if nothing was found.
    """
    if not rows:
        return None
    roles = [row["role"] for row in rows]
    named = ", ".join(roles[:LISTED])
    if len(roles) > LISTED:
        named += f" and {len(roles) - LISTED} more"
    return (
        f"role {named} can read every table except those of schema bridge"
        if len(roles) == 1
        else f"roles {named} can read every table except those of schema bridge",
        "pg_dump of this database fails with permission denied when such a role runs it",
        "dump as the owner of schema bridge, or with --exclude-schema=bridge; or run: grant "
        f"pg_read_all_data to {roles[0]}",
    )
