"""Which events a client wants: a set of patterns of types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.events import PATTERN, patterns_matching

#: Patterns of one client, and characters of one pattern.
MOST_PATTERNS = 100
LONGEST_PATTERN = 255
# Types whose answer is remembered. There are a few, but anybody may emit an event of a new one.
_REMEMBERED_TYPES = 1000


class PatternError(ValueError):
    """What a client named is no list of patterns. The message says why."""


class Selection:
    """The events of some types; equal if the patterns are.

    Args:
        patterns: ``ticket.created``, ``ticket.*`` or ``*``.
    """

    __slots__ = ("_takes", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = frozenset(patterns)
        self._takes: dict[str, bool] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self.patterns == other.patterns

    def __hash__(self) -> int:
        return hash(self.patterns)

    def takes(self, event_type: str) -> bool:
        """Tell whether an event of this type is among them."""
        known = self._takes.get(event_type)
        if known is None:
            if len(self._takes) >= _REMEMBERED_TYPES:
                self._takes.clear()
            known = not self.patterns.isdisjoint(patterns_matching(event_type))
            self._takes[event_type] = known
        return known


#: What a client gets that names nothing.
EVERYTHING = Selection(["*"])


def checked_patterns(value: Any) -> frozenset[str]:
    """Return the patterns that a client named.

    Raises:
        PatternError: it is not a list of one to 100 patterns.
    """
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_PATTERNS:
        raise PatternError(f"events must be a list of 1 to {MOST_PATTERNS} patterns")
    for pattern in value:
        if (
            not isinstance(pattern, str)
            or len(pattern) > LONGEST_PATTERN
            or not PATTERN.fullmatch(pattern)
        ):
            shown = str(pattern)[:60]
            raise PatternError(f"{shown!r} is no pattern such as ticket.created, ticket.* or *")
    return frozenset(value)
