"""Describe publications and logical slots that would replicate schema bridge."""

from collections.abc import Mapping, Sequence
from typing import Any

#: Findings listed in one message.
LISTED = 3


def publication_problem(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str, str] | None:
    """Describe the publications among the rows of ``replication.sql``.

    Returns:
        What was found, what it leads to and what to do, one line each; None if there are none.
    """
    publications = [row for row in rows if row["kind"] == "publication"]
    if not publications:
        return None
    found = [
        f"publication {row['name']} "
        + (
            "is for all tables, so it includes schema bridge"
            if row["is_for_all_tables"]
            else f"includes bridge.{', bridge.'.join(row['tables'][:LISTED])}"
        )
        for row in publications
    ]
    if len(found) > LISTED:
        found[LISTED:] = [f"and {len(found) - LISTED} more"]
    return (
        "; ".join(found),
        "a subscriber without these tables stops at their first row, and its slot then retains WAL "
        "until the disk is full",
        "publish the application's schemas or tables instead (docs/capture.md, Logical "
        "replication)",
    )


def slot_remark(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Describe the logical slots among the rows of ``replication.sql``, in one line; or None."""
    slots = [row["name"] for row in rows if row["kind"] == "slot"]
    if not slots:
        return None
    listed = ", ".join(slots[:LISTED]) + (" and others" if len(slots) > LISTED else "")
    return (
        f"logical replication slot{'s' if len(slots) > 1 else ''} {listed} will also receive "
        "changes of schema bridge; exclude that schema in the consumer"
    )
