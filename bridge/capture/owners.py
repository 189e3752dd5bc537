"""Describe roles whose code could run with the rights of capture functions."""

from collections.abc import Mapping, Sequence
from typing import Any

#: Findings listed in one message.
LISTED = 3


def owner_problem(
    rows: Sequence[Mapping[str, Any]], *, is_installed: bool
) -> tuple[str, str, str] | None:
    """Describe the rows of ``untrusted_owners.sql``.

    Args:
        is_installed: whether schema bridge has an owner already.

    Returns:
        What was found, what it leads to and what to do, one line each; None if nothing was found.
    """
    # Fix owners first; only then is it known which roles may create functions.
    rows = [row for row in rows if not row["remedy"]] or rows
    if not rows:
        return None
    findings = "; ".join(row["finding"] for row in rows[:LISTED])
    if len(rows) > LISTED:
        findings += f"; and {len(rows) - LISTED} more"
    roles = sorted({row["role"] for row in rows if row["role"]})
    named = " and ".join(roles) or "any role"
    danger = f"so code of {named} could run with the rights of {rows[0]['owner']}"
    if rows[0]["remedy"]:
        return findings, danger, "; ".join(row["remedy"] for row in rows)
    common = f"a role whose rights {named} {'inherits' if len(roles) == 1 else 'inherit'}"
    if is_installed:
        return findings, danger, f"give schema bridge to {common} (docs/roles.md, section 5)"
    if len(roles) == 1 and rows[0]["is_captured"]:
        common = f"{named}, or as {common}"
    return findings, danger, f"run init as {common} (docs/roles.md, section 1)"
