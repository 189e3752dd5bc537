"""Interpret the rows of ``sql/queries/rights.sql``: which privileges the roles have and lack.

Also those of ``sql/queries/bot_tokens_trouble.sql``, about the bot's table of tokens. Rows are
mappings, so either driver can fetch them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SERVICE, READER = "bridge_service", "bridge_reader"
ROLES = (SERVICE, READER)
#: Privileges listed in one message.
LISTED = 5

Row = Mapping[str, Any]


def missing_rights(rows: Iterable[Row]) -> tuple[str, str] | None:
    """Return what the session's role lacks to run a bridge and how to fix that, or None."""
    of_service = [row for row in rows if row["role"] == SERVICE]
    lacking = [
        f"{privilege} on {'schema ' if row['kind'] == 'schema' else ''}{row['object']}"
        for row in of_service
        for privilege in row["lacking"]
    ]
    if not lacking:
        return None
    listed = ", ".join(lacking[:LISTED])
    if len(lacking) > LISTED:
        listed += f" and {len(lacking) - LISTED} more"
    return f"role {of_service[0]['session_role']} lacks {listed}", of_service[0]["remedy"]


def existing_roles(rows: Iterable[Row]) -> list[str]:
    """Return which of the two roles exist on the server."""
    existing = {row["role"] for row in rows if row["role_exists"]}
    return [role for role in ROLES if role in existing]


def grants(rows: Iterable[Row], roles: Sequence[str], *, only_missing: bool = True) -> list[str]:
    """Return the statements that grant these roles what they lack, or everything they need."""
    return [
        row["grant_sql"]
        for row in rows
        if row["role"] in roles and (row["missing"] or not only_missing)
    ]


def bot_tokens_trouble(rows: Sequence[Row]) -> tuple[str, str] | None:
    """Return why the bot's tokens cannot be read and what helps, or None.

    Args:
        rows: of ``bot_tokens_trouble``.
    """
    if not rows:
        return None
    statements = [row["statement"] for row in rows if row["statement"]]
    remedy = (
        f"as their owner, run: {'; '.join(statements)}"
        if statements
        else "restore the table, or set BRIDGE_BOT_TOKENS=off"
    )
    return "; ".join(row["reason"] for row in rows), remedy
