"""Which rights the roles have and lack: what the rows of ``sql/queries/rights.sql`` come to.

Rows are mappings, as either driver returns them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SERVICE, READER = "bridge_service", "bridge_reader"
ROLES = (SERVICE, READER)
#: Rights named in one line.
NAMED = 5

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lack:
    """What the role of a session cannot do that a bridge has to, and what to do about it."""

    role: str
    #: Such as ``select on bridge.outbox``; never empty.
    rights: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        shown = ", ".join(self.rights[:NAMED])
        more = len(self.rights) - NAMED
        return f"role {self.role} lacks {shown}" + (f" and {more} more" if more > 0 else "")


def lack(rows: Iterable[Row]) -> Lack | None:
    """Return what the role of the session lacks to run a bridge, or None."""
    of_service = [row for row in rows if row["role"] == SERVICE]
    rights = tuple(
        f"{privilege} on {_spell(row)}" for row in of_service for privilege in row["lacking"]
    )
    if not rights:
        return None
    return Lack(of_service[0]["session_role"], rights, of_service[0]["remedy"])


def absent_roles(rows: Iterable[Row]) -> list[str]:
    """Return which of the two roles there are not."""
    absent = {row["role"] for row in rows if not row["role_exists"]}
    return [role for role in ROLES if role in absent]


def grants(rows: Iterable[Row], roles: Sequence[str], *, only_missing: bool = True) -> list[str]:
    """Return the statements that give these roles what they lack, or all that they are to have."""
    return [
        row["grant_sql"]
        for row in rows
        if row["role"] in roles and (row["missing"] or not only_missing)
    ]


def _spell(row: Row) -> str:
    """Return an object as PostgreSQL's own messages name it, more or less."""
    return f"schema {row['object']}" if row["kind"] == "schema" else str(row["object"])
