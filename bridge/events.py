"""Events, their JSON form, and the patterns that select them by type."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

#: An event-type pattern: ``ticket.created``, ``ticket.*`` or ``*``.
PATTERN = re.compile(r"\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?")

#: Deepest nesting of a payload that responses contain as JSON. pydantic serialises 255 nested
#: lists; Python parses fewer than a thousand, depending on its stack.
MAX_NESTING = 100
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the log.

    ``payload`` is JSON text from PostgreSQL, sent verbatim and never parsed on the way.
    """

    id: int
    event_type: str
    payload: str
    occurred_at: datetime

    def wire(self) -> str:
        """Return the text message for WebSocket clients."""
        return (
            f'{{"type":{json.dumps(self.event_type)},"payload":{self.payload},'
            f'"timestamp":"{timestamp(self.occurred_at)}","id":{self.id}}}'
        )


def events_of(rows: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Return the events of rows with columns named like the attributes of an event."""
    return [Event(row["id"], row["event_type"], row["payload"], row["occurred_at"]) for row in rows]


def parse_payload(payload: str) -> Any:
    """Parse a payload; a number that Python cannot represent becomes a string of its digits."""
    try:
        return json.loads(payload, parse_float=_finite)
    except (
        ValueError
    ):  # an integer of thousands of digits; to look at each takes three times as long
        return json.loads(payload, parse_int=_whole, parse_float=_finite)


def readable_payload(payload: str) -> Any:
    """Parse a payload; return its text if it is nested more deeply than ``MAX_NESTING``.

    PostgreSQL accepts thousands of nested lists. One such event, which a user of the application
    may have caused, must not break the page that lists it with a hundred others.
    """
    return payload if is_deep(payload, MAX_NESTING) else parse_payload(payload)


def is_deep(text: str, most: int) -> bool:
    """Return whether lists and objects of a JSON text are nested more than ``most`` levels deep."""
    if text.count("[") + text.count("{") <= most:
        return False
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        match text[token.start()]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
        if depth > most:
            return True
    return False


def _whole(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # Python rejects thousands of digits
        return digits


def _finite(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def timestamp(moment: datetime) -> str:
    """Format an aware datetime as the stream does: UTC, microseconds, ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def patterns_matching(event_type: str) -> list[str]:
    """Return every pattern that selects this event type, the most specific first.

    ``bridge.patterns_matching`` is the same function in SQL. To find the subscribers of an event,
    look up these few strings, however many subscribers there are.
    """
    parts = event_type.split(".")
    prefixes = [".".join(parts[:length]) + ".*" for length in range(len(parts) - 1, 0, -1)]
    return [event_type, *prefixes, "*"]


def narrowed(patterns: Iterable[str], within: Iterable[str]) -> frozenset[str]:
    """Return patterns that select exactly the events that both lists select.

    If two patterns share an event, one covers the other. Clients supply the lists, which may be
    long, so the cost is linear in their lengths.
    """
    chosen, bounds = frozenset(patterns), frozenset(within)
    return frozenset(
        [
            *(pattern for pattern in chosen if not bounds.isdisjoint(_covering(pattern))),
            *(bound for bound in bounds if not chosen.isdisjoint(_covering(bound))),
        ]
    )


def outside(patterns: Iterable[str], within: Iterable[str]) -> list[str]:
    """Return the patterns that share no event with ``within``, sorted."""
    bounds = frozenset(within)
    above = {covering for bound in bounds for covering in _covering(bound)}
    return sorted(
        pattern for pattern in frozenset(patterns) - above if bounds.isdisjoint(_covering(pattern))
    )


def _covering(pattern: str) -> Iterator[str]:
    """Yield every pattern that covers this one, itself included."""
    yield pattern
    yield "*"
    end = pattern.rfind(".")
    while end >= 0:
        yield f"{pattern[:end]}.*"
        end = pattern.rfind(".", 0, end)
