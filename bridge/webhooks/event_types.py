"""Tells whether a webhook's event type can ever match, since a misspelt one gets nothing."""

from dataclasses import dataclass
from typing import Final

from bridge.capture.rules import MOST_RULES
from bridge.database.queries import Queries
from bridge.events import patterns_matching
from bridge.terminal.suggestion import nearest

#: Types of the bridge's own events.
BRIDGE_TYPES: Final = ("webhook.disabled",)
#: Newest events to search for a type that no rule captures.
LOOKED_AT: Final = 1_000


@dataclass(frozen=True, slots=True)
class UnmatchedType:
    """An event type or pattern that no rule captures and that no recent event has.

    That is no error: ``bridge.emit()`` may make such events later.
    """

    pattern: str
    #: What was probably meant; None if no rule's type is similar.
    meant: str | None

    def __str__(self) -> str:
        """Return the warning."""
        nothing = f'no rule captures "{self.pattern}", and no recent event has this type'
        if self.meant is not None:
            return f'{nothing}; did you mean "{self.meant}"?'
        return f"{nothing}; events come only if bridge.emit() makes them"


async def unmatched_type(queries: Queries, pattern: str) -> UnmatchedType | None:
    """Return what is wrong with a webhook's event type; None if events may match.

    They may match any type if no rule is applied.
    """
    rows = await queries.fetch("event_types", MOST_RULES) if pattern != "*" else []
    if not rows:
        return None
    captured = {each for row in rows for each in patterns_matching(row["event_type"])}
    bridges = {each for own in BRIDGE_TYPES for each in patterns_matching(own)}
    if pattern in captured | bridges:
        return None
    (row,) = await queries.fetch("has_event_of_type", pattern, LOOKED_AT)
    if row["is_logged"]:
        return None
    is_group = pattern.endswith(".*")
    alike = sorted(each for each in captured if each.endswith(".*") or not is_group)
    return UnmatchedType(pattern, nearest(pattern, alike))
