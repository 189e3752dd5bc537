"""Interpret the rows of ``sql/queries/rights.sql``: which privileges the roles have and lack.

Rows are mappings, so either driver can fetch them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SERVICE, READER = "bridge_service", "bridge_reader"
ROLES = (SERVICE, READER)
#: Privileges listed in one message.
LISTED = 5

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MissingRights:
    """Privileges that the session's role lacks to run a bridge, and how to grant them."""

    role: str
    #: Such as ``select on bridge.outbox``; never empty.
    rights: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        listed = ", ".join(self.rights[:LISTED])
        more = len(self.rights) - LISTED
        return f"role {self.role} lacks {listed}" + (f" and {more} more" if more > 0 else "")


def missing_rights(rows: Iterable[Row]) -> MissingRights | None:
    """Return what the session's role lacks to run a bridge, or None."""
    of_service = [row for row in rows if row["role"] == SERVICE]
    rights = tuple(
        f"{privilege} on {_describe(row)}" for row in of_service for privilege in row["lacking"]
    )
    if not rights:
        return None
    return MissingRights(of_service[0]["session_role"], rights, of_service[0]["remedy"])


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


def _describe(row: Row) -> str:
    return f"schema {row['object']}" if row["kind"] == "schema" else str(row["object"])
