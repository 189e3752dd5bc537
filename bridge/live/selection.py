"""The set of event types a client receives."""

from dataclasses import dataclass, field
from typing import Any

from bridge.events import PATTERN, patterns_matching

MOST_PATTERNS = 100
LONGEST_PATTERN = 255
# Cached answers. Applications use few types, but the set of types is not bounded.
_CACHED_TYPES = 1000


class PatternError(ValueError):
    """A client sent an invalid list of patterns. The message says why."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The events whose type matches a set of patterns; equal if the patterns are equal.

    Attributes:
        patterns: ``ticket.created``, ``ticket.*`` or ``*``.
    """

    patterns: frozenset[str]
    _takes: dict[str, bool] = field(default_factory=dict, init=False, compare=False)

    def takes(self, event_type: str) -> bool:
        """Return whether events of this type are selected."""
        cached = self._takes.get(event_type)
        if cached is None:
            if len(self._takes) >= _CACHED_TYPES:
                self._takes.clear()
            cached = not self.patterns.isdisjoint(patterns_matching(event_type))
            self._takes[event_type] = cached
        return cached


#: The default of a client that names no patterns.
EVERYTHING = Selection(frozenset("*"))


def checked_patterns(value: Any) -> frozenset[str]:
    """Return a client's patterns after checking them.

    Raises:
        PatternError: the value is not a list of 1 to 100 valid patterns.
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
