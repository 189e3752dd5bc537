"""Rules that capture nothing, and why, in the words that log, status, console and doctor share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: Each reason of ``sql/queries/blind_rules.sql`` in words.
BLIND_REASONS: Final[Mapping[str, str]] = {
    "table_missing": "its table no longer exists",
    "trigger_missing": "its trigger was dropped",
    "trigger_disabled": "its trigger is disabled",
    "function_replaced": "its function was replaced",
    "turned_off": "a setting of the database turns triggers or capture off",
}


@dataclass(frozen=True, slots=True)
class BlindRule:
    """A rule that is not paused and captures nothing.

    Attributes:
        reason: a key of ``BLIND_REASONS``.
    """

    name: str
    table_name: str
    reason: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "BlindRule":
        """Take it from a row of ``blind_rules.sql``."""
        return cls(row["name"], row["table_name"], row["reason"])

    @property
    def words(self) -> str:
        """The reason in words."""
        return BLIND_REASONS[self.reason]
