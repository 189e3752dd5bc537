"""An event, the JSON it travels as, and the patterns that choose events by type."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

#: What a webhook may name as its event type: ``ticket.created``, ``ticket.*`` or ``*``.
PATTERN = re.compile(r"\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?")

#: Deepest nesting of a payload that answers have as a value. pydantic writes 255 lists within each
#: other, and Python reads as many as the rest of its stack allows: fewer than a thousand.
MAX_NESTING = 100
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the log.

    ``payload`` is JSON text as PostgreSQL wrote it: it goes out as it is, without being parsed.
    """

    id: int
    event_type: str
    payload: str
    occurred_at: datetime

    def wire(self) -> str:
        """Return the text message that a WebSocket client gets."""
        return (
            f'{{"type":{json.dumps(self.event_type)},"payload":{self.payload},'
            f'"timestamp":"{timestamp(self.occurred_at)}","id":{self.id}}}'
        )


def parse_payload(payload: str) -> Any:
    """Return a payload's value; a number that Python cannot hold becomes a string of its digits."""
    return json.loads(payload, parse_int=_whole, parse_float=_finite)


def readable_payload(payload: str) -> Any:
    """Return a payload's value; its text, if that is nested more deeply than ``MAX_NESTING``.

    PostgreSQL takes thousands of lists within each other; one such event, which a user of the
    application may have written, is not to keep a page of a hundred others from being answered.
    """
    return payload if _is_deep(payload) else parse_payload(payload)


def _is_deep(payload: str) -> bool:
    if payload.count("[") + payload.count("{") <= MAX_NESTING:
        return False
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(payload):
        match payload[token.start()]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
        if depth > MAX_NESTING:
            return True
    return False


def _whole(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # Python refuses to convert thousands of digits
        return digits


def _finite(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def timestamp(moment: datetime) -> str:
    """Return an aware datetime as the stream writes it: UTC, microseconds, ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def patterns_matching(event_type: str) -> list[str]:
    """Return every pattern that chooses this event type, the most exact first.

    ``bridge.patterns_matching`` in SQL is the same function: who looks for takers of an event looks
    up these few strings, however many takers there are.
    """
    parts = event_type.split(".")
    prefixes = [".".join(parts[:length]) + ".*" for length in range(len(parts) - 1, 0, -1)]
    return [event_type, *prefixes, "*"]


def narrowed(patterns: Iterable[str], within: Iterable[str]) -> frozenset[str]:
    """Return patterns that choose just the events that both lists choose.

    Of two patterns that have an event in common, one covers the other. The lists are clients' and
    may be long: none is compared with each of the other.
    """
    chosen, bounds = frozenset(patterns), frozenset(within)
    return frozenset(
        [
            *(pattern for pattern in chosen if not bounds.isdisjoint(_covering(pattern))),
            *(bound for bound in bounds if not chosen.isdisjoint(_covering(bound))),
        ]
    )


def outside(patterns: Iterable[str], within: Iterable[str]) -> list[str]:
    """Return those patterns that have no event in common with the others, in order."""
    bounds = frozenset(within)
    above = {covering for bound in bounds for covering in _covering(bound)}
    return sorted(
        pattern for pattern in frozenset(patterns) - above if bounds.isdisjoint(_covering(pattern))
    )


def _covering(pattern: str) -> Iterator[str]:
    """Yield every pattern that chooses all events of this one, itself among them."""
    yield pattern
    yield "*"
    end = pattern.rfind(".")
    while end >= 0:
        yield f"{pattern[:end]}.*"
        end = pattern.rfind(".", 0, end)
